//! The relay: whatever is committed comes to RabbitMQ, whoever dies on the way.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::ExchangeKind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tillwire::node::Faces;
use tillwire::relay::message::{Told, decode};
use tokio::time::{Instant, timeout};

use super::support::buses::{FACT_MAX, until};
use super::support::hub::{Shop, TestHub, TestNode};
use super::support::process::{Env, TillwireProcess, environment, run};
use super::support::services::proxy::{Cut, Proxy};
use super::support::services::{Postgres, RabbitMq};
use super::support::tap::{Heard, Tap};

/// The positions of a merchant's entries, in order.
pub async fn positions(shop: &Shop<'_>) -> Vec<String> {
    let sql = format!(
        "select seq || '-' || encode(substr(tag, 1, 4), 'hex') from journal_entries
         where merchant_id = '{}' order by seq",
        shop.merchant
    );
    shop.hub.database.psql(&sql).await.lines().map(str::to_owned).collect()
}

/// How far the relay has come with a merchant.
async fn cursor(shop: &Shop<'_>) -> Option<String> {
    let sql =
        format!("select seq || '-' || encode(tag, 'hex') from relay_cursors where merchant_id = '{}'", shop.merchant);
    shop.hub.database.psql(&sql).await.lines().next().map(str::to_owned)
}

async fn until_relayed(shop: &Shop<'_>) {
    let last = positions(shop).await.pop();
    until(async || (cursor(shop).await == last).then_some(())).await;
}

/// The head of each journal, as rows of a query.
async fn heads(hub: &TestHub) -> String {
    let sql = "select string_agg(format('(%L::uuid, %s)', merchant_id, seq), ', ') from journal_heads";
    hub.database.psql(sql).await.trim().to_owned()
}

/// Waits until the relay has come that far.
async fn until_relayed_to(hub: &TestHub, heads: &str) {
    let behind = format!(
        "select count(*) from (values {heads}) head (merchant_id, seq) left join relay_cursors cursor using (merchant_id)
         where head.seq > coalesce(cursor.seq, 0)"
    );
    until(async || (hub.database.psql(&behind).await.trim() == "0").then_some(())).await;
}

/// How many shards each session leads.
async fn leaders(hub: &TestHub) -> BTreeMap<String, usize> {
    let sql = "select pid from pg_locks where locktype = 'advisory' and objsubid = 2 and objid > 0 and granted
                 and database = (select oid from pg_database where datname = current_database())";
    let mut leaders = BTreeMap::new();
    for pid in hub.database.psql(sql).await.lines() {
        *leaders.entry(pid.to_owned()).or_default() += 1;
    }
    leaders
}

async fn until_led_by(hub: &TestHub, counts: &[usize]) {
    let started = Instant::now();
    loop {
        let mut found: Vec<usize> = leaders(hub).await.into_values().collect();
        found.sort_unstable();
        if found == counts {
            return;
        }
        assert!(started.elapsed() < FACT_MAX, "led by {found:?}, not {counts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A node that relays from this hub to a broker.
async fn worker(hub: &TestHub, amqp_url: &str) -> TestNode {
    let relay_url = hub.database.url("tillwire_relay");
    hub.node(Faces::WORKER, &["--amqp-url", amqp_url, "--relay-database-url", &relay_url]).await
}

/// The same as a process of its own.
fn worker_env(hub: &TestHub, amqp_url: &str) -> Env {
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.insert("TILLWIRE_RELAY_DATABASE_URL", hub.database.url("tillwire_relay"));
    env.insert("AMQP_URL", amqp_url.to_owned());
    env
}

/// Merchants in all sixteen shards, with something in stock.
async fn everywhere(hub: &TestHub) -> Vec<(Shop<'_>, String)> {
    let mut shops: BTreeMap<u8, Shop<'_>> = BTreeMap::new();
    while shops.len() < 16 {
        let shop = hub.merchant("Toko Roti").await;
        shops.entry(tillwire::relay::shards::shard_of(shop.merchant)).or_insert(shop);
    }
    let mut stocked = Vec::new();
    for shop in shops.into_values() {
        let bread = shop.stocked("roti", 7_500, "1000").await;
        stocked.push((shop, bread));
    }
    stocked
}

#[tokio::test]
async fn g6_every_entry_comes_to_the_exchange_in_order_and_says_what_it_is() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let _worker = worker(&hub, &url).await;
    let mut sales = tap.listens("tillwire.events", ExchangeKind::Topic, &["sale.completed", "stock.changed"]).await;
    for _ in 0..20 {
        shop.sells(&bread, 7_500).await;
    }
    // Larger than what a broker is given.
    let variants: Vec<Value> = (0..50).map(|n| json!({ "sku": format!("S{n}"), "price_minor": 1 })).collect();
    let mut lines = Vec::new();
    for product in 0..6 {
        let mut variants = variants.clone();
        variants.iter_mut().for_each(|it| it["sku"] = format!("{product}-{}", it["sku"].as_str().unwrap()).into());
        let product = shop.post("/v1/products", json!({ "name": "kaus", "variants": variants })).await.created();
        let variants = product["variants"].as_array().unwrap().iter();
        lines.extend(variants.map(|it| json!({ "variant": it["variant"], "quantity": "1" })));
    }
    let lorry = json!({ "reason": "received", "lines": lines });
    shop.post(&format!("/v1/outlets/{}/stock/moves", shop.outlet), lorry).await.created();
    rival.product("kopi", 20_000).await;

    for shop in [&shop, &rival] {
        tap.hears_all(&shop.merchant.to_string(), &positions(shop).await).await;
        assert_eq!(tap.first_of(&shop.merchant.to_string()), positions(shop).await, "in order");
        until_relayed(shop).await;
    }
    let (mut whole, mut large) = (BTreeSet::new(), BTreeSet::new());
    for heard in &tap.heard {
        assert!(heard.is_persistent);
        match decode(&heard.bytes).unwrap() {
            Told::Entry(entry) => {
                let kinds: Vec<String> = entry.events().unwrap().iter().map(|it| it.kind.to_string()).collect();
                assert!(kinds.iter().all(|kind| heard.keys.contains(kind)), "{kinds:?} by {:?}", heard.keys);
                assert_eq!(entry.position().to_string(), heard.position);
                whole.insert(heard.position.clone());
            }
            Told::Place { position, .. } => {
                assert_eq!(
                    (position.to_string(), &heard.keys),
                    (heard.position.clone(), &vec!["stock.changed".into()])
                );
                large.insert(heard.position.clone());
            }
        }
    }
    assert_eq!((whole.len(), large.len()), (positions(&shop).await.len() + positions(&rival).await.len() - 1, 1));
    // Once to a queue that is bound to two of its types.
    let sold = sales.by_ref().take(21).map(|it| Heard::of(it.unwrap())).collect::<Vec<_>>();
    let sold = timeout(FACT_MAX, sold).await.expect("sales");
    assert!(sold.windows(2).all(|two| two[0].position != two[1].position));
}

#[tokio::test]
async fn whoever_commits_says_which_journals_have_moved() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let tap = Tap::at(&url, "shop-7.").await;
    let mut words = tap.listens("tillwire.shop-7.moved", ExchangeKind::Fanout, &[""]).await;
    let api = hub.node(Faces::API, &["--amqp-url", &url, "--bus-prefix", "shop-7."]).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    // It may not have been connected when the first was sold.
    let named = async {
        loop {
            hub.sells_at(api.address, &shop, &bread, 7_500).await;
            if let Ok(Some(word)) = timeout(Duration::from_millis(500), words.next()).await {
                let merchants: Vec<String> = serde_json::from_slice(&word.unwrap().data).unwrap();
                if !merchants.is_empty() {
                    return merchants;
                }
            }
        }
    };
    assert_eq!(timeout(FACT_MAX, named).await.expect("a word"), [shop.merchant.to_string()]);
}

#[tokio::test]
async fn shards_are_shared_fairly_and_taken_over() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let first = worker(&hub, &url).await;
    until_led_by(&hub, &[16]).await;
    let second = worker(&hub, &url).await;
    until_led_by(&hub, &[8, 8]).await;
    let third = worker(&hub, &url).await;
    until_led_by(&hub, &[4, 6, 6]).await;
    second.stops().await;
    until_led_by(&hub, &[8, 8]).await;
    first.stops().await;
    until_led_by(&hub, &[16]).await;
    third.stops().await;
    until_led_by(&hub, &[]).await;
}

#[tokio::test]
async fn g6_a_relay_that_is_killed_frozen_or_cut_off_is_replaced_and_nothing_is_lost() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let shops = everywhere(&hub).await;
    let near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let mut killed = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    let frozen = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    let mut env = worker_env(&hub, &url);
    env.insert("TILLWIRE_RELAY_DATABASE_URL", hub.database.url_through(near.port, "tillwire_relay"));
    let cut_off = TillwireProcess::start(&["worker"], &env).await;
    until_led_by(&hub, &[4, 6, 6]).await;

    for fault in ["killed", "frozen", "cut off", "back"] {
        let selling = async {
            for _ in 0..6 {
                for (shop, bread) in &shops {
                    shop.sells(bread, 7_500).await;
                }
            }
        };
        // While it is sold, and some of it is under way.
        let breaking = async {
            for _ in 0..20 {
                tap.next().await;
            }
            match fault {
                "killed" => killed.kill().await,
                "frozen" => frozen.signal(Signal::SIGSTOP),
                // The database is there, and says nothing in either direction.
                "cut off" => {
                    frozen.signal(Signal::SIGCONT);
                    until_led_by(&hub, &[8, 8]).await;
                    near.silence();
                }
                _ => near.speak(),
            }
            // For the record; nothing here is timed.
            let (at, there) = (Instant::now(), heads(&hub).await);
            match fault {
                "killed" | "back" => until_led_by(&hub, &[8, 8]).await,
                _ => until_led_by(&hub, &[16]).await,
            }
            let led = at.elapsed();
            until_relayed_to(&hub, &there).await;
            eprintln!("{fault}: all shards led after {led:.1?}, all of before relayed after {:.1?}", at.elapsed());
        };
        tokio::join!(selling, breaking);
        for (shop, _) in &shops {
            tap.hears_all(&shop.merchant.to_string(), &positions(shop).await).await;
            until_relayed(shop).await;
        }
    }
    until_led_by(&hub, &[8, 8]).await;
    for (shop, _) in &shops {
        assert_eq!(tap.first_of(&shop.merchant.to_string()), positions(shop).await);
    }
    drop(cut_off);
}

#[tokio::test]
async fn g6_a_broker_or_a_relay_that_is_killed_in_mid_backlog_loses_nothing() {
    let (hub, mut rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "5000").await;
    let merchant = shop.merchant.to_string();
    let mut first = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    until_relayed(&shop).await;
    // It writes its tables down with a delay: queues of just now would be lost with it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    first.kill().await;
    for killed in ["broker", "relay", "broker"] {
        for _ in 0..400 {
            shop.sells(&bread, 7_500).await;
        }
        let mut relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
        for _ in 0..60 {
            tap.next().await;
        }
        match killed {
            "broker" => {
                rabbitmq.kill();
                rabbitmq.start_again().await;
            }
            _ => {
                relay.kill().await;
                relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
            }
        }
        tap.hears_all(&merchant, &positions(&shop).await).await;
        until_relayed(&shop).await;
        relay.kill().await;
    }
    assert_eq!(tap.first_of(&merchant), positions(&shop).await);
}

#[tokio::test]
async fn g6_a_broker_that_is_down_at_start_and_for_a_while_is_waited_for() {
    let (hub, mut rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    rabbitmq.kill();
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    shop.sells(&bread, 7_500).await;
    // Nobody leads without a broker, and how much waits is told all the same.
    assert!(leaders(&hub).await.is_empty());
    until(async || (relay.counts("tillwire_relay_lag_entries", &[]).await >= 4.0).then_some(())).await;
    assert_eq!(cursor(&shop).await, None);
    rabbitmq.start_again().await;
    until_relayed(&shop).await;
    until(async || (relay.counts("tillwire_relay_lag_entries", &[]).await == 0.0).then_some(())).await;
}

#[tokio::test]
async fn g6_whoever_does_not_reach_the_broker_gives_way_to_whoever_does() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let mut tap = Tap::at(&rabbitmq.url(&vhost), "").await;
    let near = Proxy::to(rabbitmq.port()).await;
    let shops = everywhere(&hub).await;
    let _cut_off = worker(&hub, &rabbitmq.url_through(near.port, &vhost)).await;
    let _well = worker(&hub, &rabbitmq.url(&vhost)).await;
    until_led_by(&hub, &[8, 8]).await;
    near.silence();
    for (shop, bread) in &shops {
        shop.sells(bread, 7_500).await;
    }
    until_led_by(&hub, &[16]).await;
    for (shop, _) in &shops {
        tap.hears_all(&shop.merchant.to_string(), &positions(shop).await).await;
        until_relayed(shop).await;
    }
    near.speak();
    near.cut();
    until_led_by(&hub, &[8, 8]).await;
}

#[tokio::test]
async fn g6_a_broker_that_takes_nothing_is_waited_for() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let _worker = worker(&hub, &url).await;
    until_relayed(&shop).await;
    rabbitmq.alarm().await;
    shop.sells(&bread, 7_500).await;
    let before = cursor(&shop).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(cursor(&shop).await, before, "nothing is confirmed");
    rabbitmq.relax().await;
    until_relayed(&shop).await;
}

/// How many messages have been routed to the hub's queue for everything since it was declared.
async fn routed(rabbitmq: &RabbitMq, vhost: &str) -> u64 {
    let queue = format!("/api/queues/{vhost}/tillwire.wakes");
    let (status, body) = rabbitmq.management("GET", &queue, "").await.expect("management");
    if status != 200 {
        return 0; // Not yet.
    }
    let queue: Value = serde_json::from_str(&body).expect("JSON");
    queue["message_stats"]["publish"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn g6_entries_that_no_queue_takes_are_published_again_and_no_others_are_taken_for_them() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let url = rabbitmq.url(&vhost);
    let shops = everywhere(&hub).await;
    let tap = Tap::at(&url, "").await;
    let _sales = tap.listens("tillwire.events", ExchangeKind::Topic, &["sale.completed"]).await;
    let (status, _) = rabbitmq.management("DELETE", &format!("/api/queues/{vhost}/tap"), "").await.unwrap();
    assert_eq!(status, 204);
    let _worker = worker(&hub, &url).await;
    for (shop, _) in &shops {
        until_relayed(shop).await;
    }
    for round in 0..2 {
        let (status, body) =
            rabbitmq.management("DELETE", &format!("/api/queues/{vhost}/tillwire.wakes"), "").await.unwrap();
        assert_eq!(status, 204, "{body}");
        // Sales go to somebody, products to nobody, all at once.
        futures_util::future::join_all(shops.iter().map(async |(shop, bread)| {
            shop.product(&format!("kopi {round}"), 20_000).await;
            shop.sells(bread, 7_500).await;
        }))
        .await;
        for (shop, _) in &shops {
            until_relayed(shop).await;
        }
        // It is there again, and has every product: nobody else would.
        let products = shops.len() as u64;
        until(async || (routed(rabbitmq, &vhost).await >= products).then_some(())).await;
    }
}

#[tokio::test]
async fn g6_a_queue_that_refuses_holds_up_its_own_entries_and_no_other_journal() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let url = rabbitmq.url(&vhost);
    let mut tap = Tap::at(&url, "").await;
    let full = r#"{"durable":true,"arguments":{"x-max-length":0,"x-overflow":"reject-publish"}}"#;
    let (status, body) = rabbitmq.management("PUT", &format!("/api/queues/{vhost}/full"), full).await.unwrap();
    assert_eq!(status, 201, "{body}");
    let binding = format!("/api/bindings/{vhost}/e/tillwire.events/q/full");
    let key = r#"{"routing_key":"sale.completed"}"#;
    let (status, body) = rabbitmq.management("POST", &binding, key).await.unwrap();
    assert_eq!(status, 201, "{body}");
    let (selling, other) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = selling.stocked("roti", 7_500, "1000").await;
    selling.sells(&bread, 7_500).await;
    let relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    for n in 0..5 {
        other.product(&format!("kopi {n}"), 20_000).await;
    }
    until_relayed(&other).await;
    until(async || (relay.counts("tillwire_relay_rests_total", &[("reason", "refused")]).await > 0.0).then_some(()))
        .await;
    let all = positions(&selling).await;
    // As far as it was taken, which it writes down when it has come to rest.
    until(async || (cursor(&selling).await.as_ref() == all.get(all.len() - 2)).then_some(())).await;
    let (status, _) = rabbitmq.management("DELETE", &format!("/api/queues/{vhost}/full"), "").await.unwrap();
    assert_eq!(status, 204);
    until_relayed(&selling).await;
    tap.hears_all(&selling.merchant.to_string(), &all).await;
    assert!(!relay.log().contains("Lost rabbitmq"), "{}", relay.log());
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let mut near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let relay_url = hub.database.url_through(near.port, "tillwire_relay");
    near.refuse().await;
    // Down at start, and later.
    let flags = ["--amqp-url", &url, "--relay-database-url", &relay_url];
    let _worker = hub.node(Faces::WORKER, &flags).await;
    for _ in 0..2 {
        shop.sells(&bread, 7_500).await;
        near.accept().await;
        tap.hears_all(&shop.merchant.to_string(), &positions(&shop).await).await;
        until_relayed(&shop).await;
        near.refuse().await;
        near.cut();
    }
    assert_eq!(tap.first_of(&shop.merchant.to_string()), positions(&shop).await);
}

#[tokio::test]
async fn a_journal_that_does_not_go_on_is_relayed_behind_the_break_and_said_aloud() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let mut shops = Vec::new();
    for (what, harm) in [
        ("pruned", "delete from journal_entries where merchant_id = 'M' and seq <= 2"),
        ("holed", "delete from journal_entries where merchant_id = 'M' and seq = 2"),
        (
            "changed",
            "update journal_entries set tag = decode('0102030405060708', 'hex') where merchant_id = 'M' and seq = 2",
        ),
        ("another", "insert into relay_cursors values ('M', 1000, decode('01020304', 'hex'))"),
        ("emptied", "delete from journal_entries where merchant_id = 'M'"),
    ] {
        let shop = hub.merchant(what).await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        shop.sells(&bread, 7_500).await;
        hub.database.psql(&harm.replace('M', &shop.merchant.to_string())).await;
        shops.push((what, shop, bread));
    }
    let relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    for (what, shop, bread) in &shops {
        if *what != "emptied" {
            until_relayed(shop).await;
        }
        shop.sells(bread, 7_500).await;
        until_relayed(shop).await;
        let left = positions(shop).await;
        tap.hears_all(&shop.merchant.to_string(), &left).await;
        assert_eq!(tap.first_of(&shop.merchant.to_string()), left, "{what}");
    }
    let said = relay.log().matches("The journal does not go on").count();
    assert!((5..=7).contains(&said), "once for each break: {}", relay.log());
    assert_eq!(relay.counts("tillwire_relay_cuts_total", &[]).await, said as f64);
}

#[tokio::test]
async fn an_entry_that_was_tampered_with_holds_up_nobody() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let shop = hub.merchant("Toko Roti").await;
    shop.stocked("roti", 7_500, "1000").await;
    let tamper =
        format!("update journal_entries set events = 'gone' where merchant_id = '{}' and seq = 2", shop.merchant);
    hub.database.psql(&tamper).await;
    let _worker = worker(&hub, &url).await;
    let all = positions(&shop).await;
    tap.hears_all(&shop.merchant.to_string(), &all).await;
    assert_eq!(tap.first_of(&shop.merchant.to_string()), all);
    let second = tap.heard.iter().find(|it| it.position == all[1]).expect("the second");
    assert!(matches!(decode(&second.bytes).unwrap(), Told::Place { position, .. } if position.seq == 2));
}

#[tokio::test]
async fn what_was_sold_before_there_was_a_relay_is_not_relayed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    // As it was before that migration, which then runs as the owner.
    let migration = include_str!("../../migrations/0008_relay.sql");
    hub.database.psql("drop table relay_cursors cascade").await;
    let mut owner = PgConnection::connect(&hub.database.url("tillwire_migrate")).await.expect("the owner");
    sqlx::raw_sql(migration).execute(&mut owner).await.expect("a migration that runs");
    assert_eq!(cursor(&shop).await, positions(&shop).await.pop());
    let policies = "select count(*) from pg_policies where policyname = 'moving'";
    assert_eq!(hub.database.psql(policies).await.trim(), "0");

    let rabbitmq = RabbitMq::shared().await;
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let _worker = worker(&hub, &url).await;
    shop.sells(&bread, 7_500).await;
    until_relayed(&shop).await;
    assert_eq!(tap.next().await.position, positions(&shop).await.pop().unwrap());
}

#[tokio::test]
async fn a_cursor_never_moves_back() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let (mut late, _other) =
        (TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await, worker(&hub, &url).await);
    until_relayed(&shop).await;
    // One is frozen somewhere in the middle of it, again and again, and goes on when the other has done all of it.
    for _ in 0..5 {
        for _ in 0..20 {
            shop.sells(&bread, 7_500).await;
        }
        late.signal(Signal::SIGSTOP);
        until_relayed(&shop).await;
        late.signal(Signal::SIGCONT);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(cursor(&shop).await, positions(&shop).await.pop());
    }
    late.kill().await;
}

#[tokio::test]
async fn what_is_confirmed_and_not_written_down_outlives_the_connection() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let mut tap = Tap::at(&rabbitmq.url(&vhost), "").await;
    let near = Proxy::to(rabbitmq.port()).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut relay =
        TillwireProcess::start(&["worker"], &worker_env(&hub, &rabbitmq.url_through(near.port, &vhost))).await;
    until_relayed(&shop).await;

    // Cursors can be read, and not be moved.
    let mut lock = PgConnection::connect(&hub.database.url("postgres")).await.expect("a superuser");
    sqlx::raw_sql("begin; lock table relay_cursors in share mode").execute(&mut lock).await.expect("a lock");
    for _ in 0..3 {
        shop.sells(&bread, 7_500).await;
    }
    let sold = positions(&shop).await.len() as f64;
    relay.until("confirmed", async |it| it.counts("tillwire_relay_entries_total", &[]).await >= sold).await;
    // What was confirmed in the first of perhaps several rounds was not written down, so nothing more was carried.
    hub.someone_waits_for("relay_cursors").await;
    near.cut();
    relay.says("Connected to rabbitmq for relaying again").await;
    sqlx::raw_sql("rollback").execute(&mut lock).await.expect("no lock any more");
    until_relayed(&shop).await;
    shop.sells(&bread, 7_500).await;
    until_relayed(&shop).await;
    tap.hears_all(&shop.merchant.to_string(), &positions(&shop).await).await;
    assert_eq!(tap.of(&shop.merchant.to_string()), positions(&shop).await, "each once");
}

#[tokio::test]
async fn a_database_that_is_cut_off_when_a_cursor_is_to_be_moved_has_nothing_published_twice() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    shop.sells(&bread, 7_500).await;
    let moves = |bytes: &[u8]| bytes.windows(24).any(|it| it == b"insert into relay_cursor");
    let cut = near.cut_when(moves, Cut::Before);
    let relay_url = hub.database.url_through(near.port, "tillwire_relay");
    let _worker = hub.node(Faces::WORKER, &["--amqp-url", &url, "--relay-database-url", &relay_url]).await;
    timeout(FACT_MAX, cut).await.expect("in time").expect("a cut");
    until_relayed(&shop).await;
    shop.sells(&bread, 7_500).await;
    until_relayed(&shop).await;
    tap.hears_all(&shop.merchant.to_string(), &positions(&shop).await).await;
    assert_eq!(tap.of(&shop.merchant.to_string()), positions(&shop).await, "each once");
}

#[tokio::test]
async fn a_relay_whose_connections_are_all_taken_waits_for_the_database_and_leaves_the_broker_alone() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let shops = everywhere(&hub).await;
    // Journals cannot be read: each of those who try holds a connection for as long as it waits.
    let lock = hub.locks("journal_entries").await;
    let mut relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    relay.says("The relay waits for the database: no connection was free, or a lock").await;
    lock.close().await.expect("an end of the lock");
    for (shop, _) in &shops {
        until_relayed(shop).await;
        tap.hears_all(&shop.merchant.to_string(), &positions(shop).await).await;
    }
    assert!(!relay.log().contains("Lost rabbitmq"), "{}", relay.log());
}

#[tokio::test]
async fn many_journals_all_have_their_turn_while_one_is_written_to_without_pause() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let busy = hub.merchant("Toko Besar").await;
    let bread = busy.stocked("roti", 7_500, "100000").await;
    // More than are carried in one go, and each with something to carry.
    let mut others = Vec::new();
    for _ in 0..40 {
        others.push(hub.merchant("Toko Roti").await);
    }
    let _worker = worker(&hub, &url).await;
    let is_over = Cell::new(false);
    let selling = async {
        while !is_over.get() {
            busy.sells(&bread, 7_500).await;
        }
    };
    let relaying = async {
        for round in 0..2 {
            for shop in &others {
                until_relayed(shop).await;
            }
            if round == 0 {
                for shop in &others {
                    shop.product("kopi", 20_000).await;
                }
            }
        }
        is_over.set(true);
    };
    tokio::join!(selling, relaying);
    until_relayed(&busy).await;
}

#[tokio::test]
async fn a_relay_hears_which_journals_have_moved() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let url = rabbitmq.url(&vhost);
    let _worker = worker(&hub, &url).await;
    let api = hub.node(Faces::API, &["--amqp-url", &url]).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    // Words are taken off its queue by somebody who listens, and none waits there: so the broker's statistics say, which lag.
    until(async || {
        hub.sells_at(api.address, &shop, &bread, 7_500).await;
        let (status, body) = rabbitmq.management("GET", &format!("/api/queues/{vhost}"), "").await.expect("queues");
        assert_eq!(status, 200, "{body}");
        let queues: Vec<Value> = serde_json::from_str(&body).expect("JSON");
        let own =
            queues.iter().find(|it| it["name"].as_str().is_some_and(|name| name.starts_with("tillwire.moved.")))?;
        let taken = own["message_stats"]["deliver_no_ack"].as_u64().unwrap_or_default();
        (own["consumers"] == 1 && own["messages"] == 0 && taken > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_needs_a_way_to_the_database() {
    let hub = TestHub::start().await;
    let env = worker_env(&hub, "amqp://127.0.0.1:1");
    for (variable, value) in [("TILLWIRE_RELAY_DATABASE_URL", None), ("AMQP_URL", Some("geheim"))] {
        let mut env = env.clone();
        match value {
            Some(value) => _ = env.insert(variable, value.to_owned()),
            None => _ = env.remove(variable),
        }
        let refused = run(&["worker"], &env).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let is_said = refused.err.contains("--relay-database-url") || refused.err.contains("amqp://");
        assert!(is_said && !refused.err.contains("geheim"), "{}", refused.err);
    }
}
