//! Snapshots over the socket: the state of a channel, then exactly what follows it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tillwire::node::Faces;
use tillwire_channels::Role;

use super::support::buses::FACT_MAX;
use super::support::caller::Caller;
use super::support::hub::{Shop, TestHub};
use super::support::process::{TillwireProcess, environment};
use super::support::screen::{Heard, Screen};
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

const SCREENS_ONLY: Faces = Faces::GATEWAY;

fn seq(position: &str) -> u64 {
    position.split(['.', '-']).next().unwrap().parse().unwrap()
}

/// The parts of a snapshot as they came, which follow one another: its items, and where it is true.
async fn has_got_a_snapshot(screen: &mut Screen) -> (Vec<Value>, String) {
    let first = screen.hears_next("snapshot").await;
    rest_of_the_snapshot(screen, first).await
}

async fn rest_of_the_snapshot(screen: &mut Screen, first: Heard) -> (Vec<Value>, String) {
    let position = first.position.clone().expect("where it is true");
    let count = first.body["of"][1].as_u64().unwrap();
    let mut items = first.body["state"].as_array().unwrap().clone();
    for number in 2..=count {
        let part = screen.hears("snapshot").await;
        assert_eq!((&part.body["of"], part.position.as_ref()), (&json!([number, count]), Some(&position)));
        items.extend(part.body["state"].as_array().unwrap().iter().cloned());
    }
    (items, position)
}

async fn has_products(shop: &Shop<'_>, count: usize) {
    let product =
        |n| json!({ "name": format!("Barang {n}"), "variants": [{ "sku": format!("{n}"), "price_minor": 1_000 }] });
    let items: Vec<Value> = (0..count).map(product).collect();
    shop.post("/v1/products/import", json!({ "items": items })).await.ok();
}

/// What an event says of a level of stock, or an item of a snapshot.
fn level(item: &Value) -> (String, String) {
    (item["variant"].as_str().unwrap().to_owned(), item["on_hand"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_snapshot_comes_at_its_place_and_what_follows_it_makes_it_true_for_ever() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut variants = Vec::new();
    for name in ["roti", "kopi", "teh"] {
        variants.push(shop.stocked(name, 7_500, "1000").await);
    }
    let channel = format!("stock/{}", shop.outlet);
    let selling = async {
        for round in 0..60 {
            shop.sells(&variants[round % 3], 7_500).await;
        }
    };
    let looking = async {
        let mut states = Vec::new();
        for _ in 0..12 {
            let mut screen = shop.screen(&["sales"]).await;
            let joined = screen.asks("join", json!({ "channels": [channel], "snapshot": true })).await;
            assert_eq!(joined["ok"], true);
            let mut before = Vec::new();
            let first = loop {
                let heard = screen.next().await;
                if heard.name == "snapshot" {
                    break heard;
                }
                before.extend(heard.position);
            };
            let (items, position) = rest_of_the_snapshot(&mut screen, first).await;
            assert!(seq(&position) >= seq(joined["position"].as_str().unwrap()), "it is of now or later");
            assert!(before.iter().all(|before| seq(before) <= seq(&position)), "{before:?} came before {position}");
            states.push((screen, items.iter().map(level).collect::<BTreeMap<_, _>>(), position));
        }
        states
    };
    let ((), states) = tokio::join!(selling, looking);
    let last = shop.sells(&variants[0], 7_500).await;
    for (mut screen, mut levels, position) in states {
        loop {
            let heard = screen.hears_next("stock.changed").await;
            let at = heard.position.as_deref().unwrap();
            assert!(seq(at) > seq(&position), "what follows {position} follows it: {at}");
            levels.extend([level(heard.data())]);
            if seq(at) == seq(&last) {
                break;
            }
        }
        for variant in &variants {
            assert_eq!(levels[variant], shop.stock_of(variant).await);
        }
    }
}

#[tokio::test]
async fn every_topic_with_a_state_has_a_snapshot_that_is_what_rest_says() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    shop.sells(&bread, 7_500).await;
    let stock = format!("stock/{}", shop.outlet);
    let mut screen = shop.screen(&[]).await;
    for channel in ["sales", "payments", &stock, "catalog", "outlets"] {
        let joined = screen.asks("join", json!({ "channels": [channel], "snapshot": true })).await;
        assert_eq!(joined["ok"], true);
        let (items, position) = has_got_a_snapshot(&mut screen).await;
        let rest = shop.get(&format!("/v1/snapshot?channel={channel}")).await.ok();
        assert_eq!((json!(items), json!(position)), (rest["state"].clone(), rest["position"].clone()), "{channel}");
        screen.hears("caught_up").await;
    }
    // Stock everywhere is that of each outlet; a topic without a state is joined and nothing comes.
    screen.asks("leave", json!({ "channels": [stock] })).await;
    screen.asks("join", json!({ "channels": ["access", "stock"], "snapshot": true })).await;
    let (items, _) = has_got_a_snapshot(&mut screen).await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["outlet"], json!(shop.outlet));
    assert_eq!(screen.hears("caught_up").await.body["replayed"], 0);
    // Asked for again, it comes again.
    screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    assert_eq!(has_got_a_snapshot(&mut screen).await.0.len(), 1);
}

#[tokio::test]
async fn a_long_snapshot_comes_in_parts_and_over_rest_in_pages_and_nothing_is_left_out() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    has_products(&shop, 700).await;
    let mut screen = shop.screen(&[]).await;
    screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    let (items, _) = has_got_a_snapshot(&mut screen).await;
    assert_eq!(items.len(), 700);
    let (mut read, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = shop.get(&format!("/v1/snapshot?channel=catalog&limit=1000{cursor}")).await.ok();
        read.extend(page["state"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(read, items);
}

#[tokio::test]
async fn a_screen_that_was_cut_before_its_snapshot_gets_it_again_on_another_node_and_only_then() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    let mut gateway = TillwireProcess::start(&["gateway"], &env).await;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screen = Screen::enters(gateway.public, auth).await;
    let offset = screen.hears_until("caught_up").await.pop().unwrap().position.unwrap();
    // The database is busy with its state for a while: whoever waits for it hears nothing else.
    let lock = hub.locks("products").await;
    let joined = screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    assert_eq!(joined["joined"], json!(["sales", "catalog"]));
    gateway.kill().await;
    lock.close().await.unwrap();

    shop.sells(&bread, 7_500).await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    let back = json!({ "token": shop.owner, "pid": screen.pid(), "offset": offset });
    let mut again = Screen::enters(other.address, back.clone()).await;
    assert_eq!(again.connected, screen.connected);
    let (items, position) = has_got_a_snapshot(&mut again).await;
    assert_eq!(items.len(), 1);
    assert!(seq(&position) > seq(&offset));
    again.hears("caught_up").await;
    // Once it has arrived, which the answer to a heartbeat says, it does not come again.
    shop.sells(&bread, 7_500).await;
    again.hears("sale.completed").await;
    let (wanted, started) = ("select count(*) from screens where joined like '%wants_state%'", Instant::now());
    while hub.database.psql(wanted).await.trim() != "0" {
        assert!(started.elapsed() < FACT_MAX, "it is never written off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut later = Screen::enters(hub.address, back).await;
    let heard = later.hears_until("caught_up").await;
    assert_eq!(heard[0].body["joined"], json!(["sales", "catalog"]));
    assert!(heard.iter().all(|heard| heard.name != "snapshot"), "{heard:?}");
}

#[tokio::test]
async fn a_snapshot_that_was_cut_half_way_comes_again_whatever_was_joined_meanwhile() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    has_products(&shop, 700).await;
    let mut screen = shop.screen(&["sales"]).await;
    assert_eq!(screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await["ok"], true);
    let first = screen.hears("snapshot").await;
    assert!(first.body["of"][1].as_u64() > Some(8), "there is much more to come: {}", first.body["of"]);
    // It takes in no more than that, and joins something else.
    screen.says("join", json!({ "channels": ["outlets"] })).await;
    let (joined, started) = ("select count(*) from screens where joined like '%outlets%'", Instant::now());
    while hub.database.psql(joined).await.trim() != "1" {
        assert!(started.elapsed() < FACT_MAX, "it is never joined");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = json!({ "token": shop.owner, "pid": screen.pid(), "offset": screen.position });
    drop(screen);

    let mut again = Screen::enters(hub.address, back).await;
    let ready = again.hears("ready").await.body;
    assert_eq!((&ready["recovered"], &ready["joined"]), (&json!(true), &json!(["sales", "catalog", "outlets"])));
    assert_eq!(has_got_a_snapshot(&mut again).await.0.len(), 700);
    again.hears("caught_up").await;
}

#[tokio::test]
async fn a_screen_that_leaves_a_channel_while_a_snapshot_arrives_hears_what_follows_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (staff, owner) = hub.token_of_someone(shop.merchant, Role::Owner);
    shop.product("roti", 7_500).await;
    // It leaves one, or its fresh token does not allow it.
    let clerk = hub.token_for(shop.merchant, staff, Role::Clerk);
    for (name, body) in [("leave", json!({ "channels": ["sales"] })), ("auth", json!({ "token": clerk }))] {
        let auth = json!({ "token": owner, "channels": ["sales", "outlets"] });
        let mut screen = Screen::enters(hub.address, auth).await;
        screen.hears_until("caught_up").await;
        let products = hub.locks("products").await;
        assert_eq!(screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await["ok"], true);
        let rolls = hub.locks("screens").await;
        screen.says(name, body).await;
        hub.someone_waits_for("screens").await;
        // Its state comes before that is stored.
        products.close().await.unwrap();
        has_got_a_snapshot(&mut screen).await;
        screen.hears("caught_up").await;
        rolls.close().await.unwrap();
        let joined = screen.is_answered().await["joined"].clone();
        assert!(!joined.as_array().unwrap().contains(&json!("sales")), "{name}: {joined}");
        shop.product(name, 20_000).await;
        assert_eq!(screen.hears("product.changed").await.data()["name"], name);
    }
}

#[tokio::test]
async fn a_state_that_is_too_large_for_a_socket_is_denied_and_rest_has_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.product("roti", 7_500).await;
    // As large as a catalogue of some fifty thousand products.
    hub.database.psql("update products set department = repeat('x', 17000000)").await;
    let mut screen = shop.screen(&[]).await;
    let joined = screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    assert_eq!((&joined["ok"], &joined["joined"]), (&json!(true), &json!(["catalog"])));
    let denied = screen.hears("snapshot_denied").await;
    assert_eq!((denied.body, denied.position), (json!({ "channel": "catalog", "code": "too_large" }), None));
    screen.hears("caught_up").await;
    assert_eq!(shop.get("/v1/snapshot?channel=catalog").await.ok()["state"][0]["name"], "roti");
    // What happens next is heard, and one that is small enough comes.
    shop.product("kopi", 20_000).await;
    screen.hears("product.changed").await;
    screen.asks("join", json!({ "channels": ["outlets"], "snapshot": true })).await;
    assert_eq!(has_got_a_snapshot(&mut screen).await.0.len(), 1);
}

#[tokio::test]
async fn many_screens_that_ask_at_once_cost_one_read() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.stocked("roti", 7_500, "100").await;
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    let gateway = TillwireProcess::start(&["gateway"], &env).await;
    let channel = format!("stock/{}", shop.outlet);
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screens = join_all((0..200).map(|_| Screen::enters(gateway.public, auth.clone()))).await;
    let asking = screens.iter_mut().map(async |screen| {
        screen.asks("join", json!({ "channels": [channel], "snapshot": true })).await;
        has_got_a_snapshot(screen).await
    });
    let states = join_all(asking).await;
    assert!(states.iter().all(|state| *state == states[0]));
    let reads = gateway.counts("tillwire_gateway_snapshots_read_total", &[]).await;
    assert!((1.0..=3.0).contains(&reads), "{reads} reads for 200 screens");
    assert_eq!(gateway.counts("tillwire_gateway_snapshots_sent_total", &[]).await, 200.0);
}

#[tokio::test]
async fn a_snapshot_whose_read_breaks_off_is_read_again() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.product("roti", 7_500).await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &[]).await;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screen = Screen::enters(node.address, auth).await;
    screen.hears_until("caught_up").await;
    let lock = hub.locks("products").await;
    let joined = screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    assert_eq!(joined["ok"], true);
    proxy.cut();
    lock.close().await.unwrap();
    assert_eq!(has_got_a_snapshot(&mut screen).await.0.len(), 1);
}

#[tokio::test]
async fn a_snapshot_is_of_its_merchant_alone() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    shop.product("roti", 7_500).await;
    rival.product("kue", 9_000).await;
    for (own, name) in [(&shop, "roti"), (&rival, "kue")] {
        assert_eq!(names(own).await, [name]);
    }
}

async fn names(shop: &Shop<'_>) -> Vec<String> {
    let mut screen = shop.screen(&[]).await;
    screen.asks("join", json!({ "channels": ["catalog"], "snapshot": true })).await;
    let (items, _) = has_got_a_snapshot(&mut screen).await;
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn many_readers_over_rest_cost_one_read_and_a_revoked_one_gets_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    shop.product("roti", 7_500).await;
    let (someone, revoked) = hub.token_of_someone(shop.merchant, Role::Owner);
    shop.post(&format!("/v1/staff/{someone}/revocations"), json!({})).await.created();
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    let api = TillwireProcess::start(&["api"], &env).await;
    let path = "/v1/snapshot?channel=catalog";
    // They meet while the table cannot be read.
    let lock = hub.locks("products").await;
    let reading = join_all((0..100).map(|at| {
        let token = if at % 10 == 7 { &revoked } else { &shop.owner };
        Caller { address: api.public, token }.get(path)
    }));
    let letting = async {
        hub.someone_is_locked_out().await;
        lock.close().await.unwrap();
    };
    let (answers, ()) = tokio::join!(reading, letting);
    for (at, answer) in answers.into_iter().enumerate() {
        let answer = answer.expect("an answer");
        if at % 10 == 7 {
            answer.refused(401, "token_revoked");
        } else {
            assert_eq!(answer.ok()["state"][0]["name"], "roti");
        }
    }
    let reads = api.counts("tillwire_snapshot_pages_read_total", &[]).await;
    // Those who came when the first could read already share another.
    assert!((1.0..=10.0).contains(&reads), "{reads} reads for 100 readers");
}

#[tokio::test]
async fn a_snapshot_asked_for_in_a_history_that_is_another_comes_after_the_word_that_it_is() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    shop.sells(&bread, 7_500).await;
    // As after a restore: the same number with another tag, or one entry less.
    for (channel, change) in [
        (
            "catalog",
            "update journal_entries set tag = '\\x0102030405060708' where seq = (select max(seq) from journal_entries);
         update journal_heads set tag = '\\x0102030405060708'",
        ),
        (
            "outlets",
            "delete from journal_entries where seq = (select max(seq) from journal_entries);
         update journal_heads set seq = seq - 1, tag = prev",
        ),
    ] {
        let mut screen = shop.screen(&["sales"]).await;
        hub.database.psql(change).await;
        assert_eq!(screen.asks("join", json!({ "channels": [channel], "snapshot": true })).await["ok"], true);
        let heard = screen.hears_until("caught_up").await;
        let names: Vec<&str> = heard.iter().map(|heard| heard.name.as_str()).collect();
        assert_eq!(names, ["snapshot_required", "snapshot", "caught_up"], "{change}");
    }
}
