//! The relay: whatever is committed comes to RabbitMQ, whoever dies on the way.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::ExchangeKind;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tillwire::node::Faces;
use tillwire::relay::message::{Told, decode};
use tokio::time::{Instant, timeout};

use super::support::buses::{FACT_MAX, until};
use super::support::hub::{Shop, TestHub, TestNode};
use super::support::process::{Env, TillwireProcess, environment, run};
use super::support::services::proxy::Proxy;
use super::support::services::{Postgres, RabbitMq};
use super::support::tap::{Heard, Tap};

/// The positions of a merchant's entries, in order.
async fn positions(shop: &Shop<'_>) -> Vec<String> {
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
        assert_eq!(tap.of(&shop.merchant.to_string()), positions(shop).await, "in order, once");
        until_relayed(shop).await;
    }
    let (mut whole, mut large) = (0, 0);
    for heard in &tap.heard {
        assert!(heard.is_persistent);
        match decode(&heard.bytes).unwrap() {
            Told::Entry(entry) => {
                let kinds: Vec<String> = entry.events().unwrap().iter().map(|it| it.kind.to_string()).collect();
                assert!(kinds.iter().all(|kind| heard.keys.contains(kind)), "{kinds:?} by {:?}", heard.keys);
                assert_eq!(entry.position().to_string(), heard.position);
                whole += 1;
            }
            Told::Place { position, .. } => {
                assert_eq!(
                    (position.to_string(), &heard.keys),
                    (heard.position.clone(), &vec!["stock.changed".into()])
                );
                large += 1;
            }
        }
    }
    assert_eq!((whole, large), (tap.heard.len() - 1, 1));
    // Once to a queue that is bound to two of its types.
    let sold: Vec<Heard> = sales.by_ref().take(21).map(|it| Heard::of(it.unwrap())).collect().await;
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
        for (shop, bread) in &shops {
            shop.sells(bread, 7_500).await;
        }
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
async fn g6_a_broker_that_was_killed_is_given_what_it_missed() {
    let (hub, mut rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    until_relayed(&shop).await;
    // It writes its tables down with a delay: a queue of just now would be lost with it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for round in 0..3 {
        let selling = async {
            for _ in 0..30 {
                shop.sells(&bread, 7_500).await;
            }
        };
        let dying = async {
            tokio::time::sleep(Duration::from_millis(30 * round)).await;
            rabbitmq.kill();
        };
        tokio::join!(selling, dying);
        if round == 1 {
            // It is down when the relay starts, too.
            relay.kill().await;
            relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
        }
        assert_ne!(cursor(&shop).await, positions(&shop).await.pop(), "somebody confirmed what nobody has");
        rabbitmq.start_again().await;
        tap.hears_all(&shop.merchant.to_string(), &positions(&shop).await).await;
        until_relayed(&shop).await;
    }
    assert_eq!(tap.first_of(&shop.merchant.to_string()), positions(&shop).await);
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

#[tokio::test]
async fn g6_an_entry_that_no_queue_takes_is_published_again_when_one_does() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let vhost = rabbitmq.vhost().await;
    let url = rabbitmq.url(&vhost);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let _worker = worker(&hub, &url).await;
    until_relayed(&shop).await;
    let queue = format!("/api/queues/{vhost}/tillwire.wake");
    for _ in 0..3 {
        let (status, body) = rabbitmq.management("DELETE", &queue, "").await.unwrap();
        assert_eq!(status, 204, "{body}");
        shop.sells(&bread, 7_500).await;
        until_relayed(&shop).await;
        // It is there again, or else the entry would have gone to nobody; and so it has the entry.
        let get = r#"{"count":5,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
        let (status, body) = rabbitmq.management("POST", &format!("{queue}/get"), get).await.unwrap();
        assert_eq!(status, 200, "{body}");
        let last = positions(&shop).await.pop().unwrap();
        assert!(body.contains(&format!("\"message_id\":\"{last}\"")), "{body}");
    }
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
async fn a_journal_that_was_cut_or_is_another_is_relayed_from_its_oldest_entry_and_said_aloud() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let mut tap = Tap::at(&url, "").await;
    let (pruned, another) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    for shop in [&pruned, &another] {
        shop.stocked("roti", 7_500, "1000").await;
    }
    let forget = format!("delete from journal_entries where merchant_id = '{}' and seq <= 2", pruned.merchant);
    hub.database.psql(&forget).await;
    let elsewhere = format!("insert into relay_cursors values ('{}', 1000, '\\x01020304')", another.merchant);
    hub.database.psql(&elsewhere).await;
    let relay = TillwireProcess::start(&["worker"], &worker_env(&hub, &url)).await;
    for (shop, reason) in [(&pruned, "expired"), (&another, "diverged")] {
        let left = positions(shop).await;
        tap.hears_all(&shop.merchant.to_string(), &left).await;
        until_relayed(shop).await;
        assert_eq!(tap.of(&shop.merchant.to_string()), left);
        assert_eq!(relay.counts("tillwire_relay_cuts_total", &[("reason", reason)]).await, 1.0);
    }
    assert_eq!(relay.log().matches("The journal does not have").count(), 2, "{}", relay.log());
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
    assert_eq!(tap.of(&shop.merchant.to_string()), all);
    let told: Vec<Told> = tap.heard.iter().map(|it| decode(&it.bytes).unwrap()).collect();
    assert!(matches!(told[1], Told::Place { position, .. } if position.seq == 2));
}

#[tokio::test]
async fn a_worker_needs_a_broker_and_a_way_to_the_database() {
    let hub = TestHub::start().await;
    let env = worker_env(&hub, "amqp://127.0.0.1:1");
    for (variable, value) in [("AMQP_URL", None), ("TILLWIRE_RELAY_DATABASE_URL", None), ("AMQP_URL", Some("geheim"))] {
        let mut env = env.clone();
        match value {
            Some(value) => _ = env.insert(variable, value.to_owned()),
            None => _ = env.remove(variable),
        }
        let refused = run(&["worker"], &env).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("amqp") && !refused.err.contains("geheim"), "{}", refused.err);
    }
}
