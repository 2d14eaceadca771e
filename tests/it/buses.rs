//! The buses between nodes: what is announced on one is heard on the other, whatever becomes of the brokers.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use tillwire::bus::{Brokers, CARRIED_BYTES_MAX, Carried};
use tillwire::identity::tokens::install_crypto;
use tillwire::journal::Entry;
use tillwire_channels::MerchantId;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::support::buses::{
    AGAIN, BUSES, Counts, FACT_MAX, Log, Node, Shop, TASKS, each_shared, each_through_a_proxy, rabbitmq, redis, until,
};
use crate::support::services::{RabbitMq, Redis, free_port};

#[tokio::test]
async fn an_entry_announced_on_one_node_is_heard_on_the_other() {
    for (bus, brokers) in each_shared().await {
        let mut shop = Shop::new();
        let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
        let seq = one.reaches(&mut other, &mut shop).await.seq;

        let sent = shop.records(r#"[{"total":  "these very bytes"}]"#);
        one.announce(&sent).await;
        let heard = loop {
            match other.hears().await {
                Carried::Entry(heard) if heard.seq == sent.seq => break heard,
                Carried::Entry(heard) => assert!(heard.seq > seq, "{bus}"),
                place => panic!("{bus}: {place:?}"),
            }
        };
        assert_eq!((heard.tag, heard.prev, &heard.text), (sent.tag, sent.prev, &sent.text), "{bus}");
        assert_eq!(heard.recorded_at, sent.recorded_at);
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn both_buses_at_once_carry_everything_twice() {
    let counts = Counts::begin();
    let [(_, redis), (_, rabbitmq)] = each_shared().await;
    let brokers = Brokers { amqp_url: rabbitmq.amqp_url, ..redis };
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    // Until the other has heard by each of them.
    while BUSES.iter().any(|bus| counts.of("tillwire_bus_heard_total", &[("bus", bus)]) == 0.0) {
        one.reaches(&mut other, &mut shop).await;
    }
    let sent = shop.sells();
    one.announce(&sent).await;
    let mut times = 0;
    while times < 2 {
        if matches!(other.hears().await, Carried::Entry(heard) if heard.seq == sent.seq) {
            times += 1;
        }
    }
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn only_merchants_of_interest_are_heard_and_interest_changes() {
    for (bus, brokers) in each_shared().await {
        let mut bakery = Shop::new();
        // The same bytes in another order: the same routing key at RabbitMQ.
        let mut bytes = *bakery.merchant.0.as_bytes();
        bytes.swap(14, 15);
        let mut neighbour = Shop::of(MerchantId(uuid::Uuid::from_bytes(bytes)));
        let mut stranger = Shop::new();

        let one = Node::on(&brokers);
        let mut other = Node::listening(&brokers, bakery.merchant);
        one.reaches(&mut other, &mut bakery).await;
        for _ in 0..10 {
            one.announce(&neighbour.sells()).await;
            one.announce(&stranger.sells()).await;
        }
        // What was announced before this has been passed over, since `reaches` accepts nobody else's.
        one.reaches(&mut other, &mut bakery).await;

        other.doors.gateway.interest.begin(stranger.merchant);
        other.doors.gateway.interest.end(bakery.merchant);
        // The bakery goes on selling, and is heard a few times more at most; then only the stranger is.
        let changed = async {
            loop {
                one.announce(&bakery.sells()).await;
                one.announce(&stranger.sells()).await;
                let mut heard = HashSet::new();
                while let Ok(Some(Carried::Entry(entry))) = timeout(AGAIN, other.doors.gateway.heard.recv()).await {
                    heard.insert(entry.merchant);
                }
                if heard == HashSet::from([stranger.merchant]) {
                    return;
                }
            }
        };
        timeout(FACT_MAX, changed).await.unwrap_or_else(|_| panic!("{bus} did not follow"));
        one.reaches(&mut other, &mut stranger).await;
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn a_redis_that_comes_late_and_dies_is_found_again() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let mut server = Redis::start_own().await;
    server.kill();
    let brokers = redis(&server.url(), "");
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    many_attempts(&counts, "redis").await;
    one.announce(&shop.sells()).await;
    server.start_again().await;
    one.reaches(&mut other, &mut shop).await;

    server.kill();
    dies_and_comes_back(&counts, "redis", &one, &mut other, &mut shop, server.start_again()).await;
    log.told_once("redis", 4);
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn a_rabbitmq_that_comes_late_and_dies_is_found_again() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let mut server = RabbitMq::start_own().await;
    let vhost = server.vhost().await;
    server.kill();
    let brokers = rabbitmq(&server.url(&vhost));
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    many_attempts(&counts, "rabbitmq").await;
    one.announce(&shop.sells()).await;
    server.start_again().await;
    one.reaches(&mut other, &mut shop).await;

    server.kill();
    dies_and_comes_back(&counts, "rabbitmq", &one, &mut other, &mut shop, server.start_again()).await;
    log.told_once("rabbitmq", 4);
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn a_rabbitmq_that_takes_nothing_counts_as_down_until_it_does() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let server = RabbitMq::start_own().await;
    let brokers = rabbitmq(&server.url(&server.vhost().await));
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    one.reaches(&mut other, &mut shop).await;

    let connects = |log: &Log| log.count("Connected to rabbitmq for publishing");
    until(async || (connects(&log) >= 2).then_some(())).await;
    server.alarm().await;
    let in_time = connects(&log);
    one.announce(&shop.sells()).await;
    let attempts = [("bus", "rabbitmq"), ("task", "publishing")];
    let reconnects = |counts: &Counts| counts.of("tillwire_bus_reconnects_total", &attempts);
    let before = reconnects(&counts);
    // It accepts every connection, and yet no attempt counts as a success.
    counts.until("several attempts", |counts| reconnects(counts) >= before + 6.0).await;
    assert_eq!(connects(&log), in_time, "{}", log.text());
    log.told_once("rabbitmq for publishing", 2);

    server.relax().await;
    while other.doors.gateway.heard.try_recv().is_ok() {}
    one.reaches(&mut other, &mut shop).await;
    tokio::join!(one.stops(), other.stops());
}

async fn many_attempts(counts: &Counts, bus: &str) {
    counts.until("many attempts", |counts| counts.of("tillwire_bus_reconnects_total", &[("bus", bus)]) > 12.0).await;
    assert!(TASKS.iter().all(|task| !counts.is_up(bus, task)));
}

/// Entries flow while the broker is dead and comes back. Then new ones are heard, and none that were announced before.
async fn dies_and_comes_back(
    counts: &Counts,
    bus: &str,
    one: &Node,
    other: &mut Node,
    shop: &mut Shop,
    starting: impl Future<Output = ()>,
) {
    counts.until("noticed", |counts| TASKS.iter().all(|task| !counts.is_up(bus, task))).await;
    let dropped = |counts: &Counts| counts.of("tillwire_bus_dropped_total", &[("bus", bus)]);
    let before = dropped(counts);
    for _ in 0..100 {
        one.announce(&shop.sells()).await;
    }
    counts.until("dropped", |counts| dropped(counts) >= before + 100.0).await;
    let last_away = shop.seq;
    while other.doors.gateway.heard.try_recv().is_ok() {}

    let mut starting = std::pin::pin!(starting);
    while timeout(AGAIN, &mut starting).await.is_err() {
        one.announce(&shop.sells()).await;
    }
    let heard = one.reaches(other, shop).await;
    assert!(heard.seq > last_away, "{bus} replayed {} of {last_away}", heard.seq);
    counts.until_up(bus).await;
}

#[tokio::test]
async fn a_connection_that_freezes_is_noticed_and_replaced() {
    let counts = Counts::begin();
    for (bus, proxy, brokers) in each_through_a_proxy().await {
        let mut shop = Shop::new();
        let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
        one.reaches(&mut other, &mut shop).await;

        // No reset and no goodbye: both ends look open.
        proxy.pause();
        one.announce(&shop.sells()).await;
        counts.until("noticed", |counts| TASKS.iter().all(|task| !counts.is_up(bus, task))).await;
        proxy.resume();
        one.reaches(&mut other, &mut shop).await;
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn a_reset_is_noticed_and_replaced() {
    let counts = Counts::begin();
    for (bus, proxy, brokers) in each_through_a_proxy().await {
        let mut shop = Shop::new();
        let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
        for _ in 0..3 {
            one.reaches(&mut other, &mut shop).await;
            let reconnects = |counts: &Counts| counts.of("tillwire_bus_reconnects_total", &[("bus", bus)]);
            let before = reconnects(&counts);
            proxy.cut();
            // At least the two that have just carried something.
            counts.until("noticed", |counts| reconnects(counts) >= before + 2.0).await;
            while other.doors.gateway.heard.try_recv().is_ok() {}
        }
        one.reaches(&mut other, &mut shop).await;
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn a_slow_broker_costs_bounded_memory_and_drops_are_counted() {
    /// The entries that wait for a bus, that are under way, and that are in a hand.
    const HELD_ENTRIES_MAX: usize = 1_024 + 256 + 2;
    let counts = Counts::begin();
    for (bus, proxy, brokers) in each_through_a_proxy().await {
        let mut shop = Shop::new();
        let mut one = Node::on(&brokers);
        one.doors.gateway.heard.close(); // A node without screens.
        counts.until_up(bus).await;

        proxy.throttle(Some(10_000));
        let big = json!([{ "sold": "x".repeat(10_000) }]).to_string();
        let mut sent: Vec<Weak<Entry>> = Vec::new();
        for _ in 0..3_000 {
            let entry = shop.records(&big);
            one.announce(&entry).await;
            sent.push(Arc::downgrade(&entry));
            tokio::task::yield_now().await;
        }
        counts.until("dropped", |counts| counts.dropped(bus, "queue_full") > 0.0).await;
        let held = || sent.iter().filter(|entry| entry.strong_count() > 0).count();
        let most = held();
        assert!(most <= HELD_ENTRIES_MAX, "{bus} holds {most} entries");
        // In the end nothing is held, and everything is accounted for.
        let total = |counts: &Counts| {
            counts.of("tillwire_bus_dropped_total", &[("bus", bus)])
                + counts.of("tillwire_bus_published_total", &[("bus", bus)])
        };
        proxy.throttle(None);
        counts.until("all accounted for", |counts| held() == 0 && total(counts) >= 3_000.0).await;
        assert_eq!(total(&counts), 3_000.0, "{bus}");
        one.stops().await;
    }
}

#[tokio::test]
async fn feeds_that_are_behind_lose_what_they_will_read_in_the_journal() {
    let counts = Counts::begin();
    for (bus, brokers) in each_shared().await {
        let mut shop = Shop::new();
        let (mut one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
        one.reaches(&mut other, &mut shop).await;
        one.doors.gateway.heard.close();
        let entry = shop.sells();
        // Nobody takes what the other hears.
        let announcing = async {
            while counts.dropped(bus, "feeds_behind") == 0.0 {
                for _ in 0..100 {
                    one.announce(&entry).await;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(FACT_MAX, announcing).await.unwrap_or_else(|_| panic!("{bus}:\n{}", counts.told()));
        while other.doors.gateway.heard.try_recv().is_ok() {}
        one.reaches(&mut other, &mut shop).await;
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn what_others_write_to_a_broker_is_ignored_and_counted() {
    let counts = Counts::begin();
    let garbage = ["x", "{}", "[1,2,3]", "null", &"z".repeat(200_000)];

    let server = Redis::shared().await;
    let prefix = server.prefix();
    let brokers = redis(&server.url(), &prefix);
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    one.reaches(&mut other, &mut shop).await;
    for junk in garbage.iter().filter(|junk| junk.len() < 1_000) {
        let heard_by = server.command(&format!("PUBLISH tillwire:{prefix}live:{} {junk}", shop.merchant)).await;
        assert_eq!(heard_by, ":1");
    }
    counts.until("counted", |counts| counts.dropped("redis", "undecodable") >= 4.0).await;
    one.reaches(&mut other, &mut shop).await;
    tokio::join!(one.stops(), other.stops());

    let server = RabbitMq::shared().await;
    let vhost = server.vhost().await;
    let brokers = rabbitmq(&server.url(&vhost));
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    one.reaches(&mut other, &mut shop).await;
    let key = format!("{:02x}", shop.merchant.0.as_bytes().iter().fold(0, |folded, byte| folded ^ byte));
    for junk in garbage {
        let message = json!({ "properties": {}, "routing_key": key, "payload": junk, "payload_encoding": "string" });
        let path = format!("/api/exchanges/{vhost}/tillwire.live/publish");
        let (status, body) = server.management("POST", &path, &message.to_string()).await.unwrap();
        assert_eq!((status, body.as_str()), (200, r#"{"routed":true}"#));
    }
    counts.until("counted", |counts| counts.dropped("rabbitmq", "undecodable") >= 5.0).await;
    one.reaches(&mut other, &mut shop).await;
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn an_entry_too_large_to_carry_travels_as_its_place() {
    for (bus, brokers) in each_shared().await {
        let mut shop = Shop::new();
        let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
        one.reaches(&mut other, &mut shop).await;
        let large = shop.records(&json!(["x".repeat(CARRIED_BYTES_MAX)]).to_string());
        one.announce(&large).await;
        loop {
            match other.hears().await {
                Carried::Place { merchant, seq, tag } => {
                    assert_eq!((merchant, seq, tag), (shop.merchant, large.seq, large.tag), "{bus}");
                    break;
                }
                Carried::Entry(entry) => assert!(entry.seq < large.seq, "{bus}"),
                claim @ Carried::Claim(_) => panic!("{bus}: {claim:?}"),
            }
        }
        tokio::join!(one.stops(), other.stops());
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_tried_again() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let (redis_server, rabbitmq_server) = tokio::join!(Redis::shared(), RabbitMq::shared());
    let (user, vhost) = (redis_server.prefix().replace(':', ""), rabbitmq_server.vhost().await);
    let mut brokers = redis(&format!("redis://{user}:geheim@127.0.0.1:{}", redis_server.port), &redis_server.prefix());
    let url = format!("amqp://{user}:geheim@127.0.0.1:{}/{vhost}", rabbitmq_server.port());
    brokers.amqp_url = Some(SecretString::from(url));
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    for bus in BUSES {
        many_attempts(&counts, bus).await;
        assert_eq!(log.count(&format!("Cannot reach {bus}")), 4, "{}", log.text());
    }
    assert!(!log.text().contains("geheim"), "{}", log.text());

    // Somebody opens the door, and nobody restarts the hub.
    assert_eq!(redis_server.command(&format!("ACL SETUSER {user} on >geheim ~* &* +@all")).await, "+OK");
    let body = json!({ "password": "geheim", "tags": "" }).to_string();
    assert_eq!(rabbitmq_server.management("PUT", &format!("/api/users/{user}"), &body).await.unwrap().0, 201);
    let body = json!({ "configure": "^tillwire[.]", "write": "^tillwire[.]", "read": "^tillwire[.]" }).to_string();
    let path = format!("/api/permissions/{vhost}/{user}");
    assert_eq!(rabbitmq_server.management("PUT", &path, &body).await.unwrap().0, 201);
    for bus in BUSES {
        counts.until_up(bus).await;
    }
    one.reaches(&mut other, &mut shop).await;
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn stopping_is_prompt_in_every_state() {
    let counts = Counts::begin();
    // Nobody there: between two attempts.
    let nobody = free_port();
    let mut away = redis(&format!("redis://127.0.0.1:{nobody}"), "");
    away.amqp_url = Some(SecretString::from(format!("amqp://127.0.0.1:{nobody}")));
    let node = Node::on(&away);
    for bus in BUSES {
        many_attempts(&counts, bus).await;
    }
    node.stops_promptly().await;

    // Somebody who accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut mute = redis(&format!("redis://127.0.0.1:{port}"), "");
    mute.amqp_url = Some(SecretString::from(format!("amqp://127.0.0.1:{port}")));
    let node = Node::on(&mute);
    let mut connections = Vec::new();
    while connections.len() < 4 {
        connections.push(timeout(FACT_MAX, silent.accept()).await.unwrap().unwrap());
    }
    node.stops_promptly().await;

    // Connected, with entries under way over a connection that has frozen.
    for (bus, proxy, brokers) in each_through_a_proxy().await {
        let mut shop = Shop::new();
        let node = Node::listening(&brokers, shop.merchant);
        counts.until_up(bus).await;
        proxy.pause();
        for _ in 0..500 {
            node.announce(&shop.sells()).await;
        }
        node.stops_promptly().await;
        assert!(TASKS.iter().all(|task| !counts.is_up(bus, task)));
    }
}

#[tokio::test]
async fn a_nodes_queue_at_rabbitmq_is_bounded_and_goes_with_it() {
    let server = RabbitMq::shared().await;
    let vhost = server.vhost().await;
    let brokers = rabbitmq(&server.url(&vhost));
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    one.reaches(&mut other, &mut shop).await;
    one.stops().await;

    let queues = until(async || {
        let queues = list(server, &format!("/api/queues/{vhost}")).await;
        (queues.len() == 1).then_some(queues)
    });
    let queue = queues.await.remove(0);
    let expected = json!({
        "x-queue-type": "classic",
        "x-max-length": 8_192,
        "x-max-length-bytes": 33_554_432,
        "x-overflow": "drop-head",
        "x-message-ttl": 5_000,
    });
    assert_eq!(queue["arguments"], expected);
    assert_eq!(
        (&queue["exclusive"], &queue["auto_delete"], &queue["durable"]),
        (&json!(true), &json!(true), &json!(false))
    );
    let exchange = list(server, &format!("/api/exchanges/{vhost}")).await;
    let exchange = exchange.iter().find(|exchange| exchange["name"] == "tillwire.live").unwrap();
    assert_eq!((&exchange["type"], &exchange["durable"]), (&json!("direct"), &json!(true)));

    // Thousands of merchants need no more than 256 keys.
    let merchants: Vec<MerchantId> = (0..3_000).map(|_| MerchantId::new()).collect();
    merchants.iter().for_each(|merchant| other.doors.gateway.interest.begin(*merchant));
    let path = format!("/api/exchanges/{vhost}/tillwire.live/bindings/source");
    until(async || (list(server, &path).await.len() >= 250).then_some(())).await;
    assert!(list(server, &path).await.len() <= 256);
    // And none that nobody needs.
    merchants.iter().for_each(|merchant| other.doors.gateway.interest.end(*merchant));
    until(async || (list(server, &path).await.len() == 1).then_some(())).await;
    one_hears_still(server, &vhost, &mut other, &mut shop).await;

    other.stops().await;
    until(async || list(server, &format!("/api/queues/{vhost}")).await.is_empty().then_some(())).await;
}

async fn one_hears_still(server: &RabbitMq, vhost: &str, other: &mut Node, shop: &mut Shop) {
    let one = Node::on(&rabbitmq(&server.url(vhost)));
    one.reaches(other, shop).await;
    one.stops().await;
}

async fn list(server: &RabbitMq, path: &str) -> Vec<Value> {
    let (status, body) = server.management("GET", path, "").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn redis_is_spoken_to_in_tls_when_asked() {
    install_crypto();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::on(&redis(&format!("rediss://127.0.0.1:{}", listener.local_addr().unwrap().port()), ""));
    let (mut stream, _) = timeout(FACT_MAX, listener.accept()).await.unwrap().unwrap();
    let mut hello = [0; 2];
    timeout(FACT_MAX, stream.read_exact(&mut hello)).await.unwrap().unwrap();
    assert_eq!(hello, [0x16, 0x03], "a handshake of TLS, and no password before it");
    node.stops().await;
}
