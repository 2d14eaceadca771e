//! Handlers: an effect for each event, once inside the database and at least once outside, whoever dies on the way.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::relay::positions;
use super::support::buses::until;
use super::support::hub::{Answer, Shop, TestHub};
use super::support::ledger::{self, Working, lines, order};
use super::support::process::{Env, run};
use super::support::services::proxy::Proxy;
use super::support::services::{Postgres, RabbitMq, RabbitMqCluster};
use super::support::tap::Tap;
use tillwire_channels::Role;

const SALE: &str = "sale.completed";
const PAYMENT: &str = "payment.captured";

/// A hub, a broker's URL, and no handler yet.
async fn stage() -> (TestHub, String) {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::shared().await);
    ledger::prepare(&hub).await;
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    (hub, url)
}

/// Waits until each of so many sales has had its effects: inside once, and outside at least once.
async fn until_handled(shop: &Shop<'_>, sales: usize) {
    until(async || (lines(shop, PAYMENT).await.1 == sales && lines(shop, SALE).await.1 == sales).then_some(())).await;
    assert_eq!(lines(shop, SALE).await, (sales, sales), "inside, each once");
}

async fn letters(shop: &Shop<'_>) -> Vec<Value> {
    shop.get("/v1/dead-letters").await.ok()["items"].as_array().expect("items").clone()
}

async fn until_letters(shop: &Shop<'_>, count: usize) -> Vec<Value> {
    until(async || {
        let letters = letters(shop).await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

async fn delete(shop: &Shop<'_>, path: &str) -> Answer {
    let key = Uuid::new_v4().to_string();
    shop.owner().send("DELETE", path, &[("idempotency-key", &key)], Vec::new()).await.expect("an answer")
}

/// As if a handler's time to wait were over.
async fn time_passes(hub: &TestHub) {
    hub.database.psql("update parked_entries set next_at = now() where state = 'waiting'").await;
}

/// A process that runs [`ledger::process`]'s part.
#[tokio::test]
#[ignore = "it is run by other tests"]
async fn a_ledger_of_its_own() {
    ledger::run_as_told().await;
}

#[tokio::test]
async fn g6_every_event_has_its_effect_with_a_broker_and_without_one() {
    let (hub, url) = stage().await;
    for amqp_url in [None, Some(url.as_str())] {
        let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
        let bread = shop.stocked("roti", 7_500, "1000").await;
        let coffee = rival.stocked("kopi", 20_000, "1000").await;
        shop.sells(&bread, 7_500).await;
        let working = Working::of(&hub, amqp_url);
        for _ in 0..30 {
            shop.sells(&bread, 7_500).await;
            rival.sells(&coffee, 20_000).await;
        }
        until_handled(&shop, 31).await;
        until_handled(&rival, 30).await;
        assert_eq!(lines(&shop, PAYMENT).await, (31, 31), "nobody died: outside once, too");
        working.stops().await;
    }
}

#[tokio::test]
async fn the_trace_of_a_request_goes_on_where_its_entry_is_handled() {
    let (hub, url) = stage().await;
    for amqp_url in [None, Some(url.as_str())] {
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        let _working = Working::of(&hub, amqp_url);
        let trace = Uuid::new_v4();
        let parent = format!("00-{}-00f067aa0ba902b7-01", trace.simple());
        let headers = [("idempotency-key", "one"), ("content-type", "application/json"), ("traceparent", &parent)];
        let sale = shop.sale(&bread, "1", 7_500).to_string().into_bytes();
        shop.owner().send("POST", &shop.sales(), &headers, sale).await.expect("an answer").created();
        until_handled(&shop, 1).await;
        let traces = format!("select distinct trace from ledger_lines where merchant_id = '{}'", shop.merchant);
        assert_eq!(hub.database.psql(&traces).await.trim(), trace.to_string());
    }
}

#[tokio::test]
async fn what_fails_is_tried_again_and_holds_up_nobody() {
    let (hub, url) = stage().await;
    for amqp_url in [Some(url.as_str()), None] {
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        let _working = Working::of(&hub, amqp_url);
        order(&shop, 2, "later", 1_000).await;
        order(&shop, 3, "panic", 1_000).await;
        for _ in 0..6 {
            shop.sells(&bread, 7_500).await;
        }
        until(async || (lines(&shop, PAYMENT).await.1 >= 4).then_some(())).await;
        assert_eq!(lines(&shop, PAYMENT).await, (4, 4), "the others are done, and these are not");
        hub.database.psql("update ledger_orders set times = 0").await;
        until_handled(&shop, 6).await;
        assert_eq!(lines(&shop, PAYMENT).await, (6, 6), "what was done is not done again");
        assert!(letters(&shop).await.is_empty());
    }
}

#[tokio::test]
async fn what_is_poison_is_a_dead_letter_and_what_comes_after_it_goes_through() {
    let (hub, url) = stage().await;
    for amqp_url in [Some(url.as_str()), None] {
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        let _working = Working::of(&hub, amqp_url);
        let poison = order(&shop, 2, "never", 1_000).await;
        for _ in 0..5 {
            shop.sells(&bread, 7_500).await;
        }
        until_handled(&shop, 4).await;
        let letter = until_letters(&shop, 1).await.remove(0);
        assert_eq!((&letter["handler"], &letter["attempts"]), (&json!("ledger"), &json!(1)));
        let position = letter["position"].as_str().unwrap();
        assert!(position.starts_with(&format!("{poison}-")), "{letter}");
        let reason = letter["reason"].as_str().unwrap();
        assert!(reason.contains("sale.completed at") && reason.contains("not in a thousand years"), "{reason}");

        // Tried again while it is still poison, it comes back; when it is none any more, it is gone.
        let replay = format!("/v1/dead-letters/{}/replay", letter["id"].as_str().unwrap());
        let key = Uuid::new_v4().to_string();
        assert_eq!(shop.post_once(&key, &replay, json!({})).await.ok()["position"], position);
        assert_eq!(shop.post_once(&key, &replay, json!({})).await.ok()["position"], position, "the stored answer");
        until_letters(&shop, 1).await;
        hub.database.psql("update ledger_orders set times = 0").await;
        shop.post(&replay, json!({})).await.ok();
        until_handled(&shop, 5).await;
        until_letters(&shop, 0).await;
        shop.post(&replay, json!({})).await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn what_was_tried_for_hours_is_a_dead_letter() {
    let (hub, url) = stage().await;
    // Without a broker, as the hours pass.
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let working = Working::of(&hub, None);
    order(&shop, 1, "later", 1_000).await;
    shop.sells(&bread, 7_500).await;
    let dead = until(async || {
        time_passes(&hub).await;
        letters(&shop).await.pop()
    })
    .await;
    assert_eq!(dead["attempts"], 6);
    assert!(dead["reason"].as_str().unwrap().contains("come back later"), "{dead}");
    working.stops().await;

    // With one, whose clock nobody turns: one that says that it was tried five times already.
    let mut tap = Tap::at(&url, "").await;
    let working = Working::of(&hub, Some(&url));
    let other = hub.merchant("Saingan").await;
    let coffee = other.stocked("kopi", 20_000, "1000").await;
    order(&other, 1, "later", 1_000).await;
    other.sells(&coffee, 20_000).await;
    let body = loop {
        let heard = tap.next().await;
        if heard.merchant == other.merchant.to_string() && heard.keys.iter().any(|key| key == SALE) {
            break heard.bytes.clone();
        }
    };
    let mut headers = FieldTable::default();
    headers.insert("tillwire-attempts".into(), AMQPValue::LongUInt(5));
    publish(&url, "", "tillwire.handler.ledger", &body, headers).await;
    let dead = until_letters(&other, 1).await.remove(0);
    assert_eq!(dead["attempts"], 6);
    working.stops().await;
}

/// Publishes a message as anyone could.
async fn publish(url: &str, exchange: &str, key: &str, body: &[u8], headers: FieldTable) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.expect("sent");
    assert!(matches!(confirm.await.expect("an answer"), lapin::Confirmation::Ack(None)), "taken");
}

#[tokio::test]
async fn g6_a_zombie_relay_repeats_and_reorders_and_nothing_happens_twice() {
    let (hub, url) = stage().await;
    let mut tap = Tap::at(&url, "").await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let working = Working::of(&hub, Some(&url));
    for _ in 0..20 {
        shop.sells(&bread, 7_500).await;
    }
    until_handled(&shop, 20).await;
    while tap.heard.iter().filter(|heard| heard.keys.iter().any(|key| key == SALE)).count() < 20 {
        tap.next().await;
    }
    let sales: Vec<_> = tap.heard.iter().filter(|heard| heard.keys.iter().any(|key| key == SALE)).collect();
    for _ in 0..2 {
        for sale in sales.iter().rev() {
            let others = sale.keys[1..].iter().map(|key| AMQPValue::LongString(LongString::from(key.as_str())));
            let mut headers = FieldTable::default();
            headers.insert("CC".into(), AMQPValue::FieldArray(others.collect::<Vec<_>>().into()));
            publish(&url, "tillwire.events", &sale.keys[0], &sale.bytes, headers).await;
        }
    }
    // What no hub wrote is thrown away.
    publish(&url, "", "tillwire.handler.ledger", b"{}", FieldTable::default()).await;
    shop.sells(&bread, 7_500).await;
    until_handled(&shop, 21).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((lines(&shop, SALE).await, lines(&shop, PAYMENT).await), ((21, 21), (21, 21)));
    working.stops().await;
}

#[tokio::test]
async fn g6_workers_and_brokers_that_are_killed_under_load_lose_nothing() {
    let (hub, mut rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    ledger::prepare(&hub).await;
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "5000").await;
    let mut worker = ledger::process(&hub, Some(&url));
    shop.sells(&bread, 7_500).await;
    until_handled(&shop, 1).await;
    // It writes its tables down with a delay: a queue of just now would be lost with it.
    sleep(Duration::from_secs(5)).await;
    let mut sold = 1;
    for killed in ["worker", "broker", "both", "worker"] {
        for _ in 0..100 {
            shop.sells(&bread, 7_500).await;
        }
        sold += 100;
        until(async || (lines(&shop, SALE).await.1 > sold - 90).then_some(())).await;
        if killed != "broker" {
            worker.kill().await.expect("killed");
        }
        if killed != "worker" {
            rabbitmq.kill();
            shop.sells(&bread, 7_500).await;
            sold += 1;
            rabbitmq.start_again().await;
        }
        if killed != "broker" {
            worker = ledger::process(&hub, Some(&url));
        }
    }
    until_handled(&shop, sold).await;
    let (all, different) = lines(&shop, PAYMENT).await;
    assert!(different == sold && all < sold + 200, "{all} calls for {different} payments");
    assert!(letters(&shop).await.is_empty());
}

#[tokio::test]
async fn what_kills_whoever_takes_it_is_a_dead_letter_in_the_end_and_nothing_else_is() {
    let (hub, url) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let killer = order(&shop, 2, "die", 1_000).await;
    for _ in 0..8 {
        shop.sells(&bread, 7_500).await;
    }
    let dying = async {
        loop {
            let mut worker = ledger::process(&hub, Some(&url));
            worker.wait().await.expect("an end");
        }
    };
    let known = async {
        while letters(&shop).await.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    // Each of those that die has to start first.
    tokio::select! {
        known = timeout(Duration::from_secs(300), known) => known.expect("a dead letter"),
        () = dying => unreachable!("it goes on for ever"),
    }
    let dead = until_letters(&shop, 1).await;
    assert!(dead[0]["position"].as_str().unwrap().starts_with(&format!("{killer}-")), "{dead:?}");
    assert!(dead[0]["reason"].as_str().unwrap().contains("may die of it"), "{dead:?}");
    let _worker = ledger::process(&hub, Some(&url));
    until_handled(&shop, 7).await;
    until_letters(&shop, 1).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let (hub, url) = stage().await;
    let mut near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let through =
        ["tillwire_app", "tillwire_feed", "tillwire_relay"].map(|role| hub.database.url_through(near.port, role));
    for amqp_url in [Some(url.as_str()), None] {
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        near.refuse().await;
        let working = Working::begin(&through, amqp_url);
        shop.sells(&bread, 7_500).await;
        sleep(Duration::from_secs(1)).await;
        near.accept().await;
        until_handled(&shop, 1).await;
        near.refuse().await;
        near.cut();
        for _ in 0..5 {
            shop.sells(&bread, 7_500).await;
        }
        sleep(Duration::from_secs(1)).await;
        near.accept().await;
        // What was held when it went away is nobody's after a minute.
        hub.database.psql("update handler_cursors set leased_until = now()").await;
        until_handled(&shop, 6).await;
        assert!(letters(&shop).await.is_empty());
        working.stops().await;
    }
}

#[tokio::test]
async fn whoever_takes_too_long_is_broken_off_and_tried_again() {
    let (hub, _) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let _working = Working::of(&hub, None);
    // Its sale's part hangs, and its payment's does not.
    order(&shop, 1, "hang", 1).await;
    shop.sells(&bread, 7_500).await;
    let parked = "select reason from parked_entries where state = 'waiting' and attempts = 1";
    let reason = until(async || {
        let reason = hub.database.psql(parked).await;
        (!reason.trim().is_empty()).then_some(reason)
    })
    .await;
    assert!(reason.contains("sale.completed at") && reason.contains("longer than 20s"), "{reason}");
    time_passes(&hub).await;
    until_handled(&shop, 1).await;
    assert_eq!(lines(&shop, PAYMENT).await, (1, 1));
}

#[tokio::test]
async fn g6_without_a_broker_whoever_is_killed_is_followed_by_another_too() {
    let (hub, _) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "5000").await;
    for round in 1..=3 {
        let mut worker = ledger::process(&hub, None);
        for _ in 0..60 {
            shop.sells(&bread, 7_500).await;
        }
        until(async || (lines(&shop, SALE).await.1 > round * 60 - 50).then_some(())).await;
        worker.kill().await.expect("killed");
        hub.database.psql("update handler_cursors set leased_until = now()").await;
    }
    let _worker = ledger::process(&hub, None);
    until_handled(&shop, 180).await;
    let (all, different) = lines(&shop, PAYMENT).await;
    assert!(different == 180 && all < 280, "{all} calls for {different} payments");
    assert!(letters(&shop).await.is_empty());
}

#[tokio::test]
async fn without_a_broker_what_kills_is_a_dead_letter_in_the_end_too_and_nothing_else_is() {
    let (hub, _) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let killer = order(&shop, 3, "die", 1_000).await;
    for _ in 0..12 {
        shop.sells(&bread, 7_500).await;
    }
    let dying = async {
        loop {
            let mut worker = ledger::process(&hub, None);
            tokio::select! {
                _ = worker.wait() => {}
                _ = until_letters(&shop, 1) => return,
            }
            // Each dead one's leases are over after a minute.
            hub.database.psql("update handler_cursors set leased_until = now() where lease is not null").await;
            hub.database.psql("update parked_entries set leased_until = now() where lease is not null").await;
        }
    };
    timeout(Duration::from_secs(300), dying).await.expect("an end");
    let dead = until_letters(&shop, 1).await;
    assert!(dead[0]["position"].as_str().unwrap().starts_with(&format!("{killer}-")), "{dead:?}");
    assert!(dead[0]["reason"].as_str().unwrap().contains("may die of it"), "{dead:?}");
    let _worker = ledger::process(&hub, None);
    until_handled(&shop, 11).await;
    until_letters(&shop, 1).await;
}

#[tokio::test]
async fn who_puts_aside_waits_for_a_broker_that_takes_nothing() {
    let (hub, rabbitmq) = (TestHub::start().await, RabbitMq::start_own().await);
    ledger::prepare(&hub).await;
    let url = rabbitmq.url(&rabbitmq.vhost().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let working = Working::of(&hub, Some(&url));
    order(&shop, 1, "slow, then later", 1).await;
    shop.sells(&bread, 7_500).await;
    until(async || (hub.database.psql("select times from ledger_orders").await.trim() == "0").then_some(())).await;
    rabbitmq.alarm().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(lines(&shop, SALE).await, (0, 0), "its other event alone is done");
    rabbitmq.relax().await;
    until_handled(&shop, 1).await;
    assert_eq!(lines(&shop, PAYMENT).await, (1, 1));
    assert!(letters(&shop).await.is_empty());
    working.stops().await;
}

#[tokio::test]
async fn what_was_dropped_does_not_come_back_when_its_entry_does() {
    let (hub, url) = stage().await;
    let mut tap = Tap::at(&url, "").await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let working = Working::of(&hub, Some(&url));
    order(&shop, 1, "never", 1_000).await;
    shop.sells(&bread, 7_500).await;
    let letter = until_letters(&shop, 1).await.remove(0);
    delete(&shop, &format!("/v1/dead-letters/{}", letter["id"].as_str().unwrap())).await.ok();
    while !tap.heard.last().is_some_and(|heard| heard.keys.iter().any(|key| key == SALE)) {
        tap.next().await;
    }
    let body = tap.heard.last().unwrap().bytes.clone();
    publish(&url, "", "tillwire.handler.ledger", &body, FieldTable::default()).await;
    // What comes after it goes the same way.
    order(&shop, 1, "never", 1_000).await;
    shop.sells(&bread, 7_500).await;
    let letters = until_letters(&shop, 1).await;
    assert_ne!(letters[0]["position"], letter["position"]);
    working.stops().await;
}

#[tokio::test]
async fn what_is_under_way_when_a_worker_stops_comes_to_its_end() {
    let (hub, url) = stage().await;
    for amqp_url in [Some(url.as_str()), None] {
        let shop = hub.merchant("Toko Roti").await;
        let bread = shop.stocked("roti", 7_500, "1000").await;
        let working = Working::of(&hub, amqp_url);
        order(&shop, 1, "slow", 1).await;
        shop.sells(&bread, 7_500).await;
        let begun = "select count(*) from ledger_orders where times = 0";
        until(async || {
            let sql = format!("{begun} and merchant_id = '{}'", shop.merchant);
            (hub.database.psql(&sql).await.trim() == "1").then_some(())
        })
        .await;
        working.stops().await;
        assert_eq!((lines(&shop, SALE).await, lines(&shop, PAYMENT).await), ((1, 1), (1, 1)));
        // And it is over for whoever comes next.
        let working = Working::of(&hub, amqp_url);
        shop.sells(&bread, 7_500).await;
        until_handled(&shop, 2).await;
        assert_eq!(lines(&shop, PAYMENT).await, (2, 2));
        working.stops().await;
    }
}

#[tokio::test]
async fn whoever_follows_a_journal_and_dies_is_followed_by_another() {
    let (hub, _) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    // Somebody holds it who is no more.
    let held = format!(
        "insert into handler_cursors values ('{}', 'ledger', 0, '\\x00000000', gen_random_uuid(), now() + interval '1 minute')",
        shop.merchant
    );
    hub.database.psql(&held).await;
    let (_one, _other) = (Working::of(&hub, None), Working::of(&hub, None));
    shop.sells(&bread, 7_500).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lines(&shop, SALE).await, (0, 0), "it may still be there");
    hub.database.psql("update handler_cursors set leased_until = now()").await;
    for _ in 0..20 {
        shop.sells(&bread, 7_500).await;
    }
    until_handled(&shop, 21).await;
    assert_eq!(lines(&shop, PAYMENT).await, (21, 21), "two of them do it once");
}

#[tokio::test]
async fn dead_letters_are_their_merchants_and_whoever_touches_them_is_in_the_audit() {
    let (hub, _) = stage().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let _working = Working::of(&hub, None);
    for next in [1, 2] {
        order(&shop, next, "never", 1_000).await;
    }
    for _ in 0..2 {
        shop.sells(&bread, 7_500).await;
    }
    let found = until_letters(&shop, 2).await;
    let [newer, older] = [0, 1].map(|at| found[at]["id"].as_str().unwrap().to_owned());
    let page = shop.get("/v1/dead-letters?limit=1").await.ok();
    assert_eq!(page["items"][0]["id"], newer);
    let next = format!("/v1/dead-letters?limit=1&cursor={}", page["next_cursor"].as_str().unwrap());
    assert_eq!(shop.get(&next).await.ok()["items"][0]["id"], older);
    assert!(shop.get("/v1/dead-letters?handler=push").await.ok()["items"].as_array().unwrap().is_empty());
    shop.get("/v1/dead-letters?limit=0").await.refused(400, "invalid_parameter");

    assert!(letters(&rival).await.is_empty());
    rival.post(&format!("/v1/dead-letters/{newer}/replay"), json!({})).await.refused(404, "not_found");
    delete(&rival, &format!("/v1/dead-letters/{newer}")).await.refused(404, "not_found");
    for role in [Role::Manager, Role::Cashier, Role::Auditor] {
        let token = hub.token(shop.merchant, role, &[]);
        shop.get_as(&token, "/v1/dead-letters").await.refused(403, "denied");
    }
    delete(&shop, &format!("/v1/dead-letters/{newer}")).await.ok();
    delete(&shop, &format!("/v1/dead-letters/{newer}")).await.refused(404, "not_found");
    assert_eq!(until_letters(&shop, 1).await[0]["id"], older);

    let auditor = hub.token(shop.merchant, Role::Auditor, &[]);
    let lines = shop.get_as(&auditor, "/v1/audit").await.ok();
    let [line] = lines["items"].as_array().unwrap().as_slice() else { panic!("{lines}") };
    assert_eq!(line["action"], "dead_letter.dropped");
    assert_eq!(line["subject"], format!("ledger {}", found[0]["position"].as_str().unwrap()));
    assert!(line["staff"].is_string() && line["detail"].as_str().unwrap().contains("thousand years"), "{line}");
    assert!(rival.get("/v1/audit").await.ok()["items"].as_array().unwrap().is_empty());
    let cashier = hub.token(shop.merchant, Role::Cashier, &[]);
    shop.get_as(&cashier, "/v1/audit").await.refused(403, "denied");
}

#[tokio::test]
async fn an_operator_sees_queues_and_dead_letters_and_decides_about_them() {
    let (hub, url) = stage().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let working = Working::of(&hub, Some(&url));
    for next in 1..=3 {
        order(&shop, next, "never", 1_000).await;
    }
    for _ in 0..3 {
        shop.sells(&bread, 7_500).await;
    }
    until_letters(&shop, 3).await;
    let env: Env = [
        ("TILLWIRE_RELAY_DATABASE_URL", hub.database.url("tillwire_relay")),
        ("TILLWIRE_DATABASE_URL", hub.database.url("tillwire_app")),
        ("AMQP_URL", url.clone()),
    ]
    .into_iter()
    .collect();
    let told = async |args: &[&str]| {
        let outcome = run(args, &env).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.out
    };
    let overview = told(&["queues"]).await;
    assert!(overview.contains("ledger") && overview.contains("3 dead letters"), "{overview}");
    let listed = told(&["queues", "dead", "--json", "--handler", "ledger"]).await;
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 3);
    let ids: Vec<&str> = listed.iter().map(|letter| letter["id"].as_str().unwrap()).collect();

    // Nothing is done to all of them by mistake.
    let refused = run(&["queues", "drop"], &env).await;
    assert!(refused.code == Some(1) && refused.err.contains("--all"), "{refused:?}");
    let unknown = run(&["queues", "drop", &Uuid::new_v4().to_string()], &env).await;
    assert!(unknown.code == Some(1) && unknown.err.contains("1 of these are no dead letters"), "{unknown:?}");
    assert_eq!(letters(&shop).await.len(), 3);

    assert!(told(&["queues", "drop", ids[0]]).await.contains(ids[0]));
    until_letters(&shop, 2).await;
    hub.database.psql("update ledger_orders set times = 0").await;
    told(&["queues", "replay", "--merchant", &shop.merchant.to_string()]).await;
    until_handled(&shop, 2).await;
    until_letters(&shop, 0).await;
    let lines = shop.get("/v1/audit").await.ok();
    let lines = lines["items"].as_array().unwrap();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["staff"].is_null()), "the operator's: {lines:?}");
    working.stops().await;
}

#[tokio::test]
async fn g6_nodes_of_a_cluster_of_brokers_that_die_in_turn_lose_nothing() {
    let hub = TestHub::start().await;
    ledger::prepare(&hub).await;
    let mut cluster = RabbitMqCluster::shared().await;
    let urls = cluster.urls(&cluster.vhost().await);
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut tap = Tap::at(&urls, "").await;
    let working = Working::of(&hub, Some(&urls));
    shop.sells(&bread, 7_500).await;
    until_handled(&shop, 1).await;
    // Queues of just now may be lost with a node that is killed.
    sleep(Duration::from_secs(5)).await;
    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].kill();
        for _ in 0..5 {
            shop.sells(&bread, 7_500).await;
        }
        let sold = 1 + 5 * (node + 1);
        until_handled(&shop, sold).await;
        tap.hears_all(&shop.merchant.to_string(), &positions(&shop).await).await;
        cluster.mended().await;
    }
    working.stops().await;
}
