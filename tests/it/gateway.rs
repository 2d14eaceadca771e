//! The gateway: what screens are sent, in which order, and what happens when they were away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tillwire::journal::chain;
use tillwire_channels::{Event, OutletId, Role};

use super::support::hub::{BOTH_FACES, Shop, TestHub};
use super::support::process::{TillwireProcess, environment};
use super::support::screen::{End, Heard, Screen};
use super::support::services::proxy::Proxy;
use super::support::watcher::Watcher;

fn as_sent(heard: &[Heard]) -> Vec<(String, Value)> {
    heard.iter().map(|heard| (heard.position.clone().expect("a position"), heard.body.clone())).collect()
}

#[tokio::test]
async fn a_sale_at_the_till_reaches_the_screens_that_listen() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (here, elsewhere) = (format!("sales/{}", shop.outlet), format!("sales/{}", OutletId::new()));
    let stock = format!("stock/{}", shop.outlet);
    let mut all = shop.screen(&["sales", &here, &stock]).await;
    let mut outlet = shop.screen(&[&here]).await;
    let mut other = shop.screen(&[&elsewhere, "catalog"]).await;
    let position = shop.sells(&bread, 7_500).await;

    let sale = all.hears("sale.completed").await;
    assert_eq!(sale.data()["total_minor"], 7_500);
    assert_eq!(sale.data()["lines"][0]["quantity"], "1.000");
    let level = all.hears("stock.changed").await;
    assert_eq!(level.data()["on_hand"], "9.000");
    let (seq, tag) = position.split_once('-').unwrap();
    assert_eq!(sale.position.as_deref(), Some(format!("{seq}.1-{tag}").as_str()), "the event's own place");
    assert_eq!(outlet.hears("sale.completed").await.position, sale.position);
    // Who listens elsewhere hears nothing of it: the next thing it hears is of the catalogue.
    shop.product("kopi", 20_000).await;
    assert_eq!(other.next().await.name, "product.changed");
}

#[tokio::test]
async fn g2_a_screen_that_was_away_hears_exactly_what_it_missed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    let mut screen = shop.screen(&["sales", "stock"]).await;
    shop.sells(&bread, 7_500).await;
    let mut heard = vec![screen.next().await, screen.next().await];
    let after = screen.leaves();
    for _ in 0..20 {
        shop.sells(&bread, 7_500).await;
    }
    let mut screen = shop.screen_after(hub.address, &["sales", "stock"], &after).await;
    heard.extend(screen.catches_up().await);
    shop.sells(&bread, 7_500).await;
    heard.extend([screen.next().await, screen.next().await]);
    let journal = shop.journal_of(&["sale.completed", "stock.changed"]).await;
    assert_eq!(as_sent(&heard), journal[1..], "all but the stock that was bought in before");
}

#[tokio::test]
async fn g4_after_a_cut_inside_an_entry_its_rest_comes_first() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    let mut screen = shop.screen(&["sales", "stock"]).await;
    shop.sells(&bread, 7_500).await;
    let first = screen.hears("sale.completed").await;
    drop(screen);
    shop.sells(&bread, 7_500).await;
    let mut screen = shop.screen_after(hub.address, &["sales", "stock"], &first.position.unwrap()).await;
    let rest: Vec<String> = screen.catches_up().await.into_iter().map(|heard| heard.name).collect();
    assert_eq!(rest, ["stock.changed", "sale.completed", "stock.changed"]);
}

#[tokio::test]
async fn g4_the_events_of_an_entry_come_with_nothing_between_them() {
    const KINDS: [&str; 4] = ["sale.completed", "payment.captured", "stock.changed", "product.changed"];
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    let node = hub.node(BOTH_FACES, &["--ping-seconds", "1", "--messages-per-second", "0"]).await;
    let channels = ["sales", "payments", "stock", "catalog"];
    let mut screen = shop.screen_after(node.address, &channels, "0-00000000").await;
    let mut other = shop.screen_after(node.address, &channels, "0-00000000").await;
    let over = AtomicBool::new(false);
    let happening = async {
        for round in 0..60 {
            hub.sells_at(node.address, &shop, &bread, 7_500).await;
            if round % 10 == 0 {
                // A hundred events in an entry, from a node that this one has no bus to.
                let item = |item| json!({ "name": "teh", "variants": [{ "sku": format!("{round}-{item}"), "price_minor": 1 }] });
                let items: Vec<Value> = (0..100).map(item).collect();
                shop.post("/v1/products/import", json!({ "items": items })).await.ok();
            }
        }
        over.store(true, Ordering::Relaxed);
    };
    // Screens ask all the while, on the very connections on which the events come. Nobody is revoked meanwhile.
    let asking = async |screen: &mut Screen| {
        while !over.load(Ordering::Relaxed) {
            for name in ["join", "leave"] {
                screen.asks(name, json!({ "channels": ["access"] })).await;
            }
        }
    };
    tokio::join!(happening, asking(&mut screen), asking(&mut other));
    let journal = shop.journal_of(&KINDS).await;
    for mut screen in [screen, other] {
        while screen.next().await.position.as_ref() != journal.last().map(|(position, _)| position) {}
        let (mut follows, mut events, mut answers_between, mut since_ping) = (None, 0, 0, 0);
        for packet in &screen.packets {
            if packet == "2" {
                // A heartbeat is no packet of ours. It comes inside an entry only where that would be too long without one.
                assert!(follows.is_none() || since_ping > 15 * 1024, "a ping after {since_ping} bytes");
                since_ping = 0;
                continue;
            }
            since_ping += packet.len();
            let event = packet.strip_prefix("42").map(|event| serde_json::from_str::<Value>(event).unwrap()[1].take());
            let event = event.filter(|event| event["of"].is_array());
            let place =
                |event: &Value| [&event["seq"], &event["of"][0], &event["of"][1]].map(|it| it.as_u64().unwrap());
            if let Some(follows) = follows.take() {
                assert_eq!(event.as_ref().map(place), Some(follows), "{packet}");
            }
            if let Some([seq, number, of]) = event.as_ref().map(place) {
                follows = (number < of).then_some([seq, number + 1, of]);
                events += 1;
            } else if packet.starts_with("43") && (1..journal.len()).contains(&events) {
                answers_between += 1;
            }
        }
        assert_eq!((follows, events), (None, journal.len()));
        assert!(answers_between > 10, "it was answered between entries: {answers_between}");
    }
}

#[tokio::test]
async fn a_replay_longer_than_the_ring_comes_from_the_journal_and_another_node_serves_it_too() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    for _ in 0..60 {
        shop.sells(&bread, 7_500).await;
    }
    // A fresh node has no ring at all.
    let node = hub.node(BOTH_FACES, &[]).await;
    let mut screen = shop.screen_after(node.address, &["sales", "catalog", "outlets", "stock"], "0-00000000").await;
    let heard = screen.catches_up().await;
    let kinds = ["sale.completed", "stock.changed", "product.changed", "outlet.opened", "register.enrolled"];
    assert_eq!(as_sent(&heard), shop.journal_of(&kinds).await);
    // It has no bus to the first node: what is sold there is found by looking at the heads.
    shop.sells(&bread, 7_500).await;
    assert_eq!(screen.hears("sale.completed").await.data()["total_minor"], 7_500);
}

#[tokio::test]
async fn g3_a_position_that_cannot_be_served_is_answered_and_the_screen_goes_on_live() {
    let hub = TestHub::start().await;
    let (shop, other) = (hub.merchant("Toko Roti").await, hub.merchant("Toko Kopi").await);
    let bread = shop.stocked("roti", 7_500, "10").await;
    let foreign = other
        .post(
            "/v1/outlets",
            json!({ "id": OutletId::new(), "code": "BDG", "name": "Bandung", "time_zone": "Asia/Jakarta" }),
        )
        .await
        .position();
    for after in [foreign.as_str(), "999999-deadbeef", "2-deadbeef", "2.1-deadbeef"] {
        let mut screen = shop.screen_after(hub.address, &["sales"], after).await;
        assert_eq!(screen.hears("ready").await.position.as_deref(), Some(after));
        let answer = screen.hears("snapshot_required").await;
        assert_eq!((&answer.body["reason"], answer.position), (&json!("diverged"), None), "{after}");
        let caught_up = screen.hears("caught_up").await;
        assert_eq!(caught_up.body["replayed"], 0);
        let sold = shop.sells(&bread, 7_500).await;
        let heard = screen.hears("sale.completed").await;
        assert_eq!(heard.seq().to_string(), sold.split('-').next().unwrap());
    }
    // What no journal could hold is refused.
    let auth = json!({ "token": shop.owner, "after": "yesterday" });
    let End::Refused(data) = Screen::is_refused(hub.address, auth).await else { panic!("no refusal") };
    assert_eq!(data["code"], "invalid_after");
}

#[tokio::test]
async fn joining_and_leaving_take_effect_at_the_position_they_answer() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut screen = Screen::enters(hub.address, json!({ "token": shop.owner })).await;
    assert_eq!(screen.hears("ready").await.body["joined"], json!([]));
    screen.hears("caught_up").await;
    let before = shop.sells(&bread, 7_500).await;
    let answer = screen.asks("join", json!({ "channels": ["sales", "nothing/at/all", "sales"] })).await;
    assert_eq!(answer["joined"], json!(["sales"]));
    assert_eq!(answer["denied"], json!([{ "channel": "nothing/at/all", "code": "unknown_channel" }]));
    assert_eq!((&answer["ok"], &answer["position"]), (&json!(false), &json!(before)), "the connection lives");
    shop.sells(&bread, 7_500).await;
    screen.hears("sale.completed").await;
    let answer = screen.asks("leave", json!({ "channels": ["sales", "stock"] })).await;
    assert_eq!((&answer["ok"], &answer["joined"]), (&json!(true), &json!([])));
    shop.sells(&bread, 7_500).await;
    screen.asks("join", json!({ "channels": ["catalog"] })).await;
    shop.product("kopi", 20_000).await;
    screen.hears("product.changed").await;
    assert_eq!(screen.asks("join", json!(["sales"])).await, json!({ "ok": false, "code": "malformed" }));
    assert_eq!(screen.asks("sell", json!({})).await, json!({ "ok": false, "code": "unknown_event" }));
}

#[tokio::test]
async fn g7_nobody_hears_another_merchant_or_more_than_the_role_may() {
    let hub = TestHub::start().await;
    let (shop, other) = (hub.merchant("Toko Roti").await, hub.merchant("Toko Kopi").await);
    let (bread, coffee) = (shop.stocked("roti", 7_500, "10").await, other.stocked("kopi", 20_000, "10").await);
    // Another merchant's outlet can be named, but nothing is ever heard there.
    let mut spy = other.screen(&["sales", "stock", "payments", &format!("sales/{}", shop.outlet)]).await;
    let wall = hub.token(shop.merchant, Role::Display, &[]);
    let mut board =
        Screen::enters(hub.address, json!({ "token": wall, "channels": ["sales", "payments", "access"] })).await;
    let ready = board.hears("ready").await;
    assert_eq!(ready.body["joined"], json!(["sales"]));
    let denied = json!([{ "channel": "payments", "code": "forbidden" }, { "channel": "access", "code": "forbidden" }]);
    assert_eq!(ready.body["denied"], denied);
    board.hears("caught_up").await;
    shop.sells(&bread, 7_500).await;
    let seen = board.hears("sale.completed").await;
    assert_eq!((&seen.body["actor"], &seen.data()["tenders"]), (&Value::Null, &Value::Null), "no people, no tenders");
    other.sells(&coffee, 20_000).await;
    assert_eq!(spy.hears("sale.completed").await.data()["total_minor"], 20_000);

    let bound = hub.token(shop.merchant, Role::Cashier, &[shop.outlet]);
    let asked = ["sales".to_owned(), format!("sales/{}", shop.outlet), format!("sales/{}", other.outlet)];
    let mut till = Screen::enters(hub.address, json!({ "token": bound, "channels": asked })).await;
    assert_eq!(till.hears("ready").await.body["joined"], json!([asked[1]]));
}

/// An entry with one event of a type that this version does not know, as a newer one would commit it.
async fn a_newer_version_commits(shop: &Shop<'_>, kind: &str, channel: &str) {
    assert!(!Event::KINDS.contains(&kind));
    let event = json!({
        "type": kind, "channels": [channel], "view": "till", "outlet": shop.outlet,
        "occurred_at": "2026-11-29T00:00:00Z", "data": { "code": "HEMAT10" },
    });
    let commit = format!(
        "with head as (
             update journal_heads
             set seq = seq + 1, prev = tag, recorded_at = clock_timestamp(),
                 tag = substring(sha256(tag || uuid_send(merchant_id) || int8send(seq + 1)
                                        || convert_to('[{event}]', 'UTF8')) from 1 for 8)
             where merchant_id = '{}'
             returning *
         )
         insert into journal_entries (merchant_id, seq, recorded_at, prev, tag, events)
         select merchant_id, seq, recorded_at, prev, tag, '[{event}]' from head",
        shop.merchant
    );
    shop.hub.database.psql(&commit).await;
    chain::verify(&shop.hub.pools.feed, shop.merchant).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_event_that_this_version_does_not_know_goes_where_its_entry_says() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let here = format!("sales/{}", shop.outlet);
    let cashier = hub.token(shop.merchant, Role::Cashier, &[shop.outlet]);
    let display = hub.token(shop.merchant, Role::Display, &[]);
    let mut owner = shop.screen(&[&here]).await;
    let before = owner.position.clone().unwrap();
    let mut others = Vec::new();
    for (token, channel) in [(&cashier, here.as_str()), (&display, here.as_str()), (&shop.owner, "stock")] {
        let auth = json!({ "token": token, "channels": [channel] });
        let mut screen = Screen::enters(hub.address, auth).await;
        screen.hears("ready").await;
        screen.hears("caught_up").await;
        others.push(screen);
    }
    a_newer_version_commits(&shop, "voucher.redeemed", &here).await;
    shop.sells(&bread, 7_500).await;

    // Live, on its channel; and of its content what the view is known to show: all to the office, nothing to a till.
    let live = [owner.hears("voucher.redeemed").await, owner.hears("sale.completed").await];
    assert_eq!(live[0].data(), &json!({ "code": "HEMAT10" }));
    let at_the_till = others[0].hears("voucher.redeemed").await;
    assert_eq!((at_the_till.data(), &at_the_till.position), (&json!({}), &live[0].position));
    // The least view that may see it is a till's; and this is not of stock.
    others[1].hears("sale.completed").await;
    others[2].hears("stock.changed").await;

    // And to whoever comes back, on a node that has never heard of the merchant, and over REST.
    let node = hub.node(BOTH_FACES, &[]).await;
    let mut back = shop.screen_after(node.address, &[&here], &before).await;
    assert_eq!(as_sent(&back.catches_up().await), as_sent(&live));
    let auth = json!({ "token": display, "channels": [here], "after": before });
    let mut back = Screen::enters(node.address, auth).await;
    let names: Vec<String> = back.catches_up().await.into_iter().map(|heard| heard.name).collect();
    assert_eq!(names, ["sale.completed"]);
    assert_eq!(shop.journal_of(&["voucher.redeemed", "sale.completed"]).await, as_sent(&live));
}

#[tokio::test]
async fn whoever_may_not_come_in_is_told_why() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let stranger = hub.token(tillwire_channels::MerchantId::new(), Role::Owner, &[]);
    let (claims, signature) = (shop.owner.rsplit_once('.').unwrap().0, stranger.rsplit_once('.').unwrap().1);
    let forged = format!("{claims}.{signature}");
    for (auth, code) in [
        (json!({}), "invalid_auth"),
        (json!({ "token": 1 }), "invalid_auth"),
        (json!({ "token": "x" }), "token_malformed"),
        (json!({ "token": forged }), "token_signature"),
        (json!({ "token": stranger }), "unknown_merchant"),
    ] {
        let End::Refused(data) = Screen::is_refused(hub.address, auth).await else { panic!("no refusal") };
        assert_eq!(data, json!({ "code": code, "retry": false }));
    }
}

#[tokio::test]
async fn a_revoked_token_is_signed_out_on_every_node_and_not_let_in_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let node = hub.node(BOTH_FACES, &[]).await;
    let (staff, token) = hub.token_of_someone(shop.merchant, Role::Cashier);
    let auth = json!({ "token": token, "channels": ["sales"] });
    let (here, there) =
        (Screen::enters(hub.address, auth.clone()).await, Screen::enters(node.address, auth.clone()).await);
    let mut owner = shop.screen(&["access"]).await;
    shop.post(&format!("/v1/staff/{staff}/revocations"), json!({})).await.created();
    for mut screen in [here, there] {
        let told = screen.hears_next("signed_out").await;
        assert_eq!((&told.body["reason"], told.position), (&json!("revoked"), None));
        assert_eq!(screen.ends().await, End::SignedOff);
    }
    assert_eq!(owner.hears("access.revoked").await.data()["staff"], json!(staff));
    let End::Refused(data) = Screen::is_refused(hub.address, auth.clone()).await else { panic!("no refusal") };
    assert_eq!(data["code"], "token_revoked");
    let End::Refused(data) = Screen::is_refused(node.address, auth).await else { panic!("no refusal") };
    assert_eq!(data["code"], "token_revoked");
}

#[tokio::test]
async fn a_history_that_is_another_signs_out_whom_it_has_revoked() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (staff, token) = hub.token_of_someone(shop.merchant, Role::Cashier);
    let mut cashier = Screen::enters(hub.address, json!({ "token": token, "channels": ["sales"] })).await;
    let mut owner = shop.screen(&["sales"]).await;
    cashier.hears("ready").await;
    // As after a restore: the same number with another tag, and a revocation that no entry will ever tell of.
    let other_tag =
        "update journal_entries set tag = '\\x0102030405060708' where seq = (select max(seq) from journal_entries);
        update journal_heads set tag = '\\x0102030405060708';
        insert into revocations select merchant_id, '{staff}', now() from journal_heads";
    hub.database.psql(&other_tag.replace("{staff}", &staff.to_string())).await;
    assert_eq!(owner.hears("snapshot_required").await.body["reason"], "diverged");
    owner.hears("caught_up").await;
    assert_eq!(cashier.hears_next("signed_out").await.body["reason"], "revoked");
    assert_eq!(cashier.ends().await, End::SignedOff);
}

#[tokio::test]
async fn a_merchant_that_is_gone_is_not_listened_to_any_more() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let screen = shop.screen(&["sales"]).await;
    // As after the restore of a backup from before the merchant opened.
    hub.database.psql("delete from journal_heads").await;
    assert_eq!(screen.ends().await, End::Closed(1013));
    let End::Refused(data) = Screen::is_refused(hub.address, json!({ "token": shop.owner })).await else {
        panic!("no refusal")
    };
    assert_eq!(data["code"], "unknown_merchant");
}

#[tokio::test]
async fn joining_and_leaving_in_the_middle_of_a_replay_takes_effect_where_it_says() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    for _ in 0..150 {
        shop.sells(&bread, 7_500).await;
    }
    let auth = json!({ "token": shop.owner, "channels": ["sales"], "after": "0-00000000" });
    let mut screen = Screen::enters_narrow(hub.address, auth).await;
    screen.hears("ready").await;
    let mut heard: Vec<Heard> = Vec::new();
    for _ in 0..5 {
        heard.push(screen.hears("sale.completed").await);
    }
    let joined = screen.asks("join", json!({ "channels": ["stock"] })).await;
    let left = screen.asks("leave", json!({ "channels": ["sales"] })).await;
    heard.extend(screen.hears_until("caught_up").await);
    heard.pop();
    let seq =
        |answer: &Value| -> u64 { answer["position"].as_str().unwrap().split('-').next().unwrap().parse().unwrap() };
    let (join, leave) = (seq(&joined), seq(&left));
    let expected: Vec<(String, Value)> = shop
        .journal_of(&["sale.completed", "stock.changed"])
        .await
        .into_iter()
        .filter(|(_, event)| match event["type"].as_str().unwrap() {
            "sale.completed" => event["seq"].as_u64().unwrap() <= leave,
            _ => event["seq"].as_u64().unwrap() > join,
        })
        .collect();
    assert!(expected.iter().any(|(_, event)| event["type"] == "stock.changed"), "it joined in the middle");
    assert_eq!(as_sent(&heard), expected);
}

#[tokio::test]
async fn a_token_expires_on_the_open_socket_unless_it_is_refreshed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let (staff, short) = hub.short_token(shop.merchant, Role::Owner, 3);
    let auth = json!({ "token": short, "channels": ["sales"] });
    let (mut expires, mut renews) =
        (Screen::enters(hub.address, auth.clone()).await, Screen::enters(hub.address, auth).await);
    let told = expires.hears_next("token_expiring").await;
    assert!(told.body["seconds"].as_u64().is_some_and(|left| left <= 3));
    let someone_else = renews.asks("auth", json!({ "token": shop.owner })).await;
    assert_eq!(someone_else, json!({ "ok": false, "code": "token_of_another" }));
    let answer = renews.asks("auth", json!({ "token": hub.token_for(shop.merchant, staff, Role::Clerk) })).await;
    // A clerk may not hear of sales; the screen learns that it has left.
    assert_eq!((&answer["joined"], &answer["denied"][0]["channel"]), (&json!([]), &json!("sales")));
    let answer = renews.asks("auth", json!({ "token": hub.token_for(shop.merchant, staff, Role::Owner) })).await;
    assert_eq!((&answer["ok"], &answer["joined"]), (&json!(true), &json!([])));
    assert_eq!(renews.asks("join", json!({ "channels": ["sales"] })).await["joined"], json!(["sales"]));
    assert_eq!(expires.hears_next("signed_out").await.body["reason"], "expired");
    assert_eq!(expires.ends().await, End::Closed(4001));
    shop.sells(&bread, 7_500).await;
    renews.hears_next("sale.completed").await;
}

#[tokio::test]
async fn a_token_expires_in_time_also_while_the_database_is_frozen() {
    let postgres = super::support::services::Postgres::shared().await;
    let proxy = Proxy::to(postgres.tcp_port().expect("a cluster with TCP")).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let node = hub.node_through(proxy.port, BOTH_FACES, &["--vouch-seconds", "60"]).await;
    // Once it lets one in, it has seen the database.
    Screen::enters_at_last(node.address, json!({ "token": shop.owner })).await;
    let (_, short) = hub.short_token(shop.merchant, Role::Owner, 3);
    let mut screen = Screen::enters(node.address, json!({ "token": short, "channels": ["sales"] })).await;
    screen.hears_until("caught_up").await;
    proxy.pause();
    let frozen = Instant::now();
    assert_eq!(screen.hears_next("signed_out").await.body["reason"], "expired");
    // A look at the heads takes longer than that to be given up.
    assert!(frozen.elapsed() < Duration::from_millis(4_500), "after {:?}", frozen.elapsed());
    assert_eq!(screen.ends().await, End::Closed(4001));
}

#[tokio::test]
async fn g2_a_screen_that_does_not_read_loses_nothing_and_delays_nobody() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut fast = shop.screen(&["catalog"]).await;
    let auth = json!({ "token": shop.owner, "channels": ["catalog"] });
    let mut slow = Screen::enters_narrow(hub.address, auth).await;
    slow.hears("ready").await;
    // Far more than its queue and the kernel hold together: it falls behind while it does not read.
    let mut told = 0;
    for chunk in 0..24 {
        let items: Vec<Value> = (0..100)
            .map(|item| {
                let name = format!("barang {chunk} {item} {}", "x".repeat(150));
                json!({ "name": name, "variants": [{ "sku": format!("{chunk}-{item}"), "price_minor": 1_000 }] })
            })
            .collect();
        told += items.len();
        shop.post("/v1/products/import", json!({ "items": items })).await.ok();
    }
    let mut fast_heard = Vec::new();
    while fast_heard.len() < told {
        fast_heard.push(fast.hears("product.changed").await);
    }
    let (mut slow_heard, mut replayed) = (Vec::new(), 0);
    slow.hears("caught_up").await;
    while slow_heard.len() < told || replayed == 0 {
        let heard = slow.next().await;
        match heard.name.as_str() {
            "product.changed" => slow_heard.push(heard),
            "caught_up" => replayed += heard.body["replayed"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert_eq!(as_sent(&slow_heard), as_sent(&fast_heard), "in order, once each");
}

#[tokio::test]
async fn a_quiet_screen_is_told_where_the_journal_is() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let node = hub.node(BOTH_FACES, &["--ping-seconds", "1"]).await;
    let mut screen = Screen::enters(node.address, json!({ "token": shop.owner, "channels": ["sales"] })).await;
    screen.hears("ready").await;
    screen.hears("caught_up").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let bought = shop.journal().await.last().unwrap()["position"].as_str().unwrap().replace(".1-", "-");
    // Nothing for this screen has happened, and yet it may come back without a replay.
    while screen.position.as_ref() != Some(&bought) {
        assert_eq!(screen.hears("position").await.body, json!({}));
    }
    let sold = shop.sells(&bread, 7_500).await;
    assert_eq!(screen.hears("sale.completed").await.position.unwrap(), sold.replace('-', ".1-"));
}

#[tokio::test]
async fn streams_pause_while_the_database_is_away_and_go_on_when_it_is_back() {
    let postgres = super::support::services::Postgres::shared().await;
    let proxy = Proxy::to(postgres.tcp_port().expect("a cluster with TCP")).await;
    let hub = TestHub::start_through(Some(proxy.port)).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let writer = hub.node(BOTH_FACES, &[]).await; // Another node, which is not cut off.
    let beside = hub.node(BOTH_FACES, &[]).await; // One more, which has no bus to it.
    let mut screen = shop.screen(&["sales"]).await;
    let mut other = shop.screen_after(beside.address, &["sales"], "0-00000000").await;
    other.catches_up().await;
    let before = screen.position.clone();
    proxy.pause();
    let sold = hub.sells_at(writer.address, &shop, &bread, 7_500).await;
    // Whoever asks the database for the heads has found it by now; our node stands where it stood, and answers.
    other.hears("sale.completed").await;
    // What it has joined already changes nothing, and needs no database.
    let answer = screen.asks("join", json!({ "channels": ["sales"] })).await;
    assert_eq!((answer["position"].as_str(), &screen.position), (before.as_deref(), &before), "nothing was heard");
    proxy.resume();
    assert_eq!(screen.hears("sale.completed").await.seq().to_string(), sold.split('-').next().unwrap());
}

#[tokio::test]
async fn a_node_that_cannot_vouch_for_its_screens_sends_them_away_until_it_can() {
    let postgres = super::support::services::Postgres::shared().await;
    let proxy = Proxy::to(postgres.tcp_port().expect("a cluster with TCP")).await;
    let hub = TestHub::start().await;
    let (shop, unknown_here) = (hub.merchant("Toko Roti").await, hub.merchant("Toko Kopi").await);
    let bread = shop.stocked("roti", 7_500, "10").await;
    let node = hub.node_through(proxy.port, BOTH_FACES, &["--vouch-seconds", "2"]).await;
    let mut screen = shop.screen_after(node.address, &["sales"], "0-00000000").await;
    screen.catches_up().await;

    proxy.pause();
    let told = screen.hears("signed_out").await;
    assert_eq!((told.body, told.position), (json!({ "reason": "unverifiable" }), None));
    assert_eq!(screen.ends().await, End::Closed(1013));
    // Whoever comes now is closed, and not refused: a stock client would not come back from that by itself.
    for token in [&shop.owner, &unknown_here.owner] {
        let end = match Screen::tries(node.address, json!({ "token": token, "channels": ["sales"] })).await {
            Ok(screen) => screen.ends().await,
            Err(end) => end,
        };
        assert!(matches!(end, End::Closed(_)), "{end:?}");
    }
    let returns = Watcher::begins(&[node.address], &shop.owner, &["sales"]);
    proxy.resume();
    shop.sells(&bread, 7_500).await;
    returns.heard_the_journal_of(&shop, &["sale.completed"]).await;
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_tells_its_screens_and_closes_them() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let node = hub.node(BOTH_FACES, &[]).await;
    let mut screen = shop.screen_after(node.address, &["sales"], "0-00000000").await;
    screen.catches_up().await;
    let stopping = tokio::spawn(node.stops());
    screen.hears("draining").await;
    let after = screen.position.clone().unwrap();
    assert_eq!(screen.ends().await, End::Closed(1012));
    stopping.await.unwrap();
    shop.sells(&bread, 7_500).await;
    let mut screen = shop.screen_after(hub.address, &["sales"], &after).await;
    assert_eq!(screen.catches_up().await.len(), 1);
}

#[tokio::test]
async fn many_screens_that_come_back_to_a_fresh_node_cost_few_reads_of_the_journal() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    let mut left = Vec::new();
    for _ in 0..5 {
        left.push(shop.sells(&bread, 7_500).await);
    }
    for _ in 0..50 {
        shop.sells(&bread, 7_500).await;
    }
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    let gateway = TillwireProcess::start(&["gateway"], &env).await;
    let journal = shop.journal_of(&["sale.completed"]).await;
    let coming = (0..200).map(async |at| {
        let after = &left[at % left.len()];
        let mut screen = shop.screen_after(gateway.public, &["sales"], after).await;
        (at % left.len(), as_sent(&screen.catches_up().await))
    });
    for (from, heard) in join_all(coming).await {
        assert_eq!(heard, journal[from + 1..]);
    }
    let reads = gateway.counts("tillwire_gateway_journal_reads_total", &[]).await;
    assert!((1.0..=6.0).contains(&reads), "{reads} reads for 200 screens");
}
