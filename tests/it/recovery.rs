//! Connection-state recovery: a screen that was cut is taken up again on any node, with its channels and from its place.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tillwire::identity::tokens::Bearer;
use tillwire::node::Faces;
use tillwire::screens::joined::{self, Joined, Roll};
use tillwire_channels::{Channel, OutletId, Role, StaffId};

use super::support::buses::{FACT_MAX, each_shared};
use super::support::caller::bearer;
use super::support::clients::{StockScreen, Transports};
use super::support::hub::{Shop, TestHub};
use super::support::line::Line;
use super::support::process::{TillwireProcess, environment};
use super::support::screen::{End, Heard, Screen};
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

const SCREENS_ONLY: Faces = Faces::GATEWAY;
const KINDS: [&str; 2] = ["sale.completed", "stock.changed"];

fn places(heard: &[Heard]) -> Vec<String> {
    heard.iter().filter_map(|heard| heard.position.clone()).collect()
}

/// What a stock client sends when it comes back.
fn returning(token: &str, pid: &str, offset: Option<&str>) -> Value {
    let mut auth = json!({ "token": token, "pid": pid, "channels": ["catalog"] });
    if let Some(offset) = offset {
        auth["offset"] = offset.into();
    }
    auth
}

/// Comes back, and is recovered: the same ids, `ready` with what it had, replayed from its place.
async fn recovers(screen: &Screen, node: SocketAddr, token: &str, offset: Option<&str>) -> (Screen, Heard) {
    let mut back = Screen::enters(node, returning(token, screen.pid(), offset)).await;
    assert_eq!(back.connected, screen.connected, "the same private and public id");
    let ready = back.hears("ready").await;
    assert_eq!(ready.body["recovered"], true);
    (back, ready)
}

#[tokio::test]
async fn g2_a_stock_client_whose_gateway_is_killed_is_recovered_by_another_and_has_missed_nothing() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    for transports in [Transports::Websocket, Transports::Upgrade, Transports::Polling] {
        let [mut first, second] = [gateway(&hub).await, gateway(&hub).await];
        let way = Proxy::to(first.public.port()).await;
        let address = ([127, 0, 0, 1], way.port).into();
        let mut screen = StockScreen::recovering(address, &shop.owner, &["sales", "stock"], transports).await;
        let start = screen.hears("ready").await.position().expect("a position").to_owned();
        shop.sells(&bread, 7_500).await;
        screen.hears("stock.changed").await;

        first.kill().await;
        way.lead_to(second.public.port());
        way.cut();
        for _ in 0..3 {
            shop.sells(&bread, 7_500).await;
        }
        let connected = screen.happens("connect").await;
        assert_eq!(connected["recovered"], true, "{transports:?}: {connected}");
        let ready = screen.hears("ready").await;
        let (recovered, joined) = (&ready.body()["recovered"], &ready.body()["joined"]);
        assert_eq!((recovered, joined), (&json!(true), &json!(["sales", "stock"])));
        shop.sells(&bread, 7_500).await;
        has_heard_everything_after(&shop, &mut screen, &start).await;
    }
}

/// Everything of the journal since a position, in order, once.
async fn has_heard_everything_after(shop: &Shop<'_>, screen: &mut StockScreen, start: &str) {
    let journal = shop.journal_of(&KINDS).await;
    let seq = |position: &str| position.split(['.', '-']).next().unwrap().parse::<u64>().unwrap();
    let wanted: Vec<String> =
        journal.into_iter().map(|(place, _)| place).filter(|place| seq(place) > seq(start)).collect();
    while screen.positions().last() != wanted.last() {
        screen.next().await;
    }
    assert_eq!(screen.positions(), wanted);
}

/// A gateway that is a process of its own.
async fn gateway(hub: &TestHub) -> TillwireProcess {
    gateway_with(hub, &[]).await
}

async fn gateway_with(hub: &TestHub, more: &[(&'static str, String)]) -> TillwireProcess {
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.extend(more.iter().cloned());
    TillwireProcess::start(&["gateway"], &env).await
}

#[tokio::test]
async fn a_stock_client_is_recovered_through_a_rolling_restart_again_and_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut old = gateway(&hub).await;
    let way = Proxy::to(old.public.port()).await;
    let address = ([127, 0, 0, 1], way.port).into();
    let mut screen = StockScreen::recovering(address, &shop.owner, &["sales", "stock"], Transports::Websocket).await;
    let start = screen.hears("ready").await.position().expect("a position").to_owned();
    for _ in 0..3 {
        let new = gateway(&hub).await;
        way.lead_to(new.public.port());
        old.terminate();
        let selling = async {
            for _ in 0..5 {
                shop.sells(&bread, 7_500).await;
            }
        };
        tokio::join!(selling, async {
            screen.happens("disconnect").await;
            assert_eq!(screen.happens("connect").await["recovered"], true);
        });
        old.ended().await;
        old = new;
    }
    has_heard_everything_after(&shop, &mut screen, &start).await;
}

#[tokio::test]
async fn a_screen_that_was_cut_before_it_heard_anything_goes_on_where_it_connected() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    // The reply to CONNECT arrived, and nothing after it.
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let screen = Screen::enters(hub.address, auth).await;
    let missed = shop.sells(&bread, 7_500).await;
    let (mut back, _) = recovers(&screen, other.address, &shop.owner, None).await;
    let replayed = back.catches_up().await;
    assert_eq!(replayed.len(), 1);
    assert!(replayed[0].position.as_ref().unwrap().starts_with(missed.split('-').next().unwrap()));
}

#[tokio::test]
async fn a_screen_that_was_cut_between_ready_and_caught_up_is_replayed_the_rest() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let start = shop.sells(&bread, 7_500).await;
    for _ in 0..4 {
        shop.sells(&bread, 7_500).await;
    }
    let channels = ["sales", "stock"];
    let all = places(&shop.screen_after(hub.address, &channels, &start).await.catches_up().await);
    assert_eq!(all.len(), 8);
    for heard in 0..all.len() {
        let mut screen = shop.screen_after(hub.address, &channels, &start).await;
        let mut offset = screen.hears("ready").await.position.unwrap();
        for _ in 0..heard {
            offset = screen.next().await.position.unwrap();
        }
        // Among these are cuts inside an entry, whose rest comes first.
        let (mut back, ready) = recovers(&screen, hub.address, &shop.owner, Some(&offset)).await;
        assert_eq!(ready.position.as_deref(), Some(offset.as_str()), "where replay starts");
        assert_eq!(places(&back.catches_up().await), all[heard..]);
    }
}

#[tokio::test]
async fn a_join_that_was_acknowledged_just_before_the_cut_is_known_to_every_node() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let [mut gateway, other] = [gateway(&hub).await, gateway(&hub).await];
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screen = Screen::enters(gateway.public, auth).await;
    let offset = screen.hears_until("caught_up").await.pop().unwrap().position.unwrap();
    // Of this it hears the sale alone; its offset is that of the sale.
    shop.sells(&bread, 7_500).await;
    let sale = screen.hears("sale.completed").await.position.unwrap();
    assert_ne!(sale, offset);
    let joined = screen.asks("join", json!({ "channels": ["stock"] })).await;
    assert_eq!(joined["joined"], json!(["sales", "stock"]));
    gateway.kill().await;

    shop.sells(&bread, 7_500).await;
    let (mut back, ready) = recovers(&screen, other.public, &shop.owner, Some(&sale)).await;
    assert_eq!(ready.body["joined"], json!(["sales", "stock"]));
    // Not the stock that had moved before it joined.
    assert_eq!(hears_of_business(&mut back, "stock.changed").await, ["sale.completed", "stock.changed"]);

    let offset = back.position.clone().unwrap();
    assert_eq!(back.asks("leave", json!({ "channels": ["sales"] })).await["joined"], json!(["stock"]));
    shop.sells(&bread, 7_500).await;
    let (mut back, ready) = recovers(&screen, other.public, &shop.owner, Some(&offset)).await;
    assert_eq!(ready.body["joined"], json!(["stock"]));
    assert_eq!(hears_of_business(&mut back, "stock.changed").await, ["stock.changed"]);
}

/// What happens to the merchant, up to and with the event of this name, replayed or live.
async fn hears_of_business(screen: &mut Screen, last: &str) -> Vec<String> {
    let heard = screen.hears_until(last).await;
    heard.into_iter().map(|heard| heard.name).filter(|name| name.contains('.')).collect()
}

#[tokio::test]
async fn a_valid_offset_beats_a_stale_after() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let stale = shop.sells(&bread, 7_500).await;
    let mut screen = shop.screen(&["sales"]).await;
    shop.sells(&bread, 7_500).await;
    let offset = screen.hears("sale.completed").await.position.unwrap();
    shop.sells(&bread, 7_500).await;
    let last = screen.hears("sale.completed").await.position;

    let mut auth = returning(&shop.owner, screen.pid(), Some(&offset));
    auth["after"] = stale.into();
    let mut back = Screen::enters(hub.address, auth).await;
    let replayed = back.catches_up().await;
    assert_eq!(replayed.len(), 1);
    assert_eq!(replayed[0].position, last);
}

#[tokio::test]
async fn an_offset_that_is_no_position_recovers_nothing_and_after_is_taken_instead() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let screen = shop.screen(&["sales"]).await;
    let after = shop.sells(&bread, 7_500).await;
    shop.sells(&bread, 7_500).await;
    // Some other server's event ended in a string, which the stock client took for its offset.
    let auth = json!({
        "token": shop.owner, "channels": ["sales"], "after": after, "pid": screen.pid(), "offset": "hello"
    });
    let mut back = Screen::enters(hub.address, auth).await;
    assert_ne!(back.pid(), screen.pid());
    assert_eq!(back.hears("ready").await.body["recovered"], false);
    assert_eq!(back.catches_up().await.len(), 1);
}

#[tokio::test]
async fn another_persons_private_id_is_simply_not_recovered() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    let staff = StaffId::new();
    let token = |merchant, staff, register| {
        let bearer = Bearer { register, ..bearer(merchant, staff, Role::Owner) };
        hub.signer.mint(&bearer, Duration::from_secs(600)).unwrap()
    };
    let own = token(shop.merchant, staff, None);
    let mut screen = Screen::enters(hub.address, json!({ "token": own, "channels": ["sales"] })).await;
    let offset = screen.hears("ready").await.position.unwrap();
    shop.sells(&bread, 7_500).await;

    let mut changed = screen.pid().to_owned();
    changed.replace_range(40..41, if &changed[40..41] == "A" { "B" } else { "A" });
    for (who, token, pid) in [
        ("a colleague", &shop.owner, screen.pid()),
        ("another merchant", &token(rival.merchant, staff, None), screen.pid()),
        ("another till", &token(shop.merchant, staff, Some(shop.register)), screen.pid()),
        ("a made-up id", &own, changed.as_str()),
        ("an empty id", &own, ""),
    ] {
        let mut back = Screen::enters(hub.address, returning(token, pid, Some(&offset))).await;
        assert_ne!(back.connected["sid"], screen.connected["sid"], "{who}");
        assert_ne!(back.pid(), pid, "{who}");
        let ready = back.hears("ready").await;
        assert_eq!((&ready.body["recovered"], &ready.body["joined"]), (&json!(false), &json!(["catalog"])), "{who}");
        assert_eq!(back.catches_up().await.len(), 0, "{who}: the offset is ignored");
    }
    // And the one whose it is still may.
    recovers(&screen, hub.address, &own, Some(&offset)).await;
}

#[tokio::test]
async fn a_storm_of_private_ids_of_an_unknown_key_costs_one_look_at_the_keys() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let screen = shop.screen(&["sales"]).await;
    // It begins with the key's number.
    assert!(screen.pid().starts_with("AA"));
    let unknown = format!("B{}", &screen.pid()[1..]);
    // The keys were read just now, and for a while nobody looks again.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let keys = hub.locks("gateway_keys").await;
    let coming = join_all((0..20).map(async |_| {
        let mut screen = Screen::enters(hub.address, returning(&shop.owner, &unknown, None)).await;
        screen.hears("ready").await.body["recovered"].clone()
    }));
    let looking = async {
        hub.someone_waits_for("gateway_keys").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let looking = hub.waiting_for("gateway_keys").await;
        keys.close().await.unwrap();
        looking
    };
    let (recovered, looking) = tokio::join!(coming, looking);
    assert_eq!(looking, 1, "one looks for all");
    assert_eq!(recovered, vec![json!(false); 20]);
    // Whoever has one that is known is recovered all the same.
    recovers(&screen, hub.address, &shop.owner, screen.position.as_deref()).await;
}

#[tokio::test]
async fn what_the_token_no_longer_allows_is_not_taken_up_again() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let (staff, elsewhere) = (StaffId::new(), OutletId::new());
    let token = |outlets: &[OutletId]| {
        let bearer = Bearer { outlets: outlets.to_vec(), ..bearer(shop.merchant, staff, Role::Cashier) };
        hub.signer.mint(&bearer, Duration::from_secs(600)).unwrap()
    };
    let (here, there) = (format!("sales/{}", shop.outlet), format!("sales/{elsewhere}"));
    let channels = json!([here, there]);
    let auth = json!({ "token": token(&[shop.outlet, elsewhere]), "channels": channels });
    let mut screen = Screen::enters(hub.address, auth).await;
    let offset = screen.hears("ready").await.position;
    let (_, ready) = recovers(&screen, hub.address, &token(&[shop.outlet]), offset.as_deref()).await;
    assert_eq!(ready.body["joined"], json!([here]));
    assert_eq!(ready.body["denied"], json!([{ "channel": there, "code": "forbidden" }]));
    // A revoked one is not let in at all.
    let token = token(&[]);
    shop.post(&format!("/v1/staff/{staff}/revocations"), json!({})).await.created();
    let refused = Screen::is_refused(hub.address, returning(&token, screen.pid(), None)).await;
    assert!(matches!(refused, End::Refused(why) if why["code"] == "token_revoked"));
}

#[tokio::test]
async fn the_newer_connection_of_a_private_id_wins_on_the_same_node() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let older = shop.screen(&["sales"]).await;
    let (mut newer, _) = recovers(&older, hub.address, &shop.owner, older.position.as_deref()).await;
    assert!(matches!(older.ends().await, End::Closed(_)));
    newer.catches_up().await;
    // What is done for the older one on its way out is not done to the newer one.
    for _ in 0..3 {
        shop.sells(&bread, 7_500).await;
        newer.hears("sale.completed").await;
    }
    assert_eq!(newer.asks("join", json!({ "channels": ["stock"] })).await["ok"], true);
}

#[tokio::test]
async fn the_newer_connection_of_a_private_id_wins_over_one_on_another_node() {
    for (bus, brokers) in each_shared().await {
        let hub = TestHub::start().await;
        let shop = hub.merchant("Toko Roti").await;
        let (flag, url) = match (&brokers.redis_url, &brokers.amqp_url) {
            (Some(url), _) => ("--redis-url", url),
            (_, Some(url)) => ("--amqp-url", url),
            _ => unreachable!("a broker"),
        };
        let flags = [flag, url.expose_secret(), "--bus-prefix", &brokers.prefix];
        let [one, other] = [hub.node(SCREENS_ONLY, &flags).await, hub.node(SCREENS_ONLY, &flags).await];
        let auth = json!({ "token": shop.owner, "channels": ["sales"] });
        // A bus may lose a claim, above all before both nodes listen; a later one is heard.
        let (mut won, started) = (0, Instant::now());
        while won < 2 {
            assert!(started.elapsed() < FACT_MAX, "{bus}: nobody gives way");
            let mut older = Screen::enters(one.address, auth.clone()).await;
            let offset = older.hears("ready").await.position.unwrap();
            let _newer = recovers(&older, other.address, &shop.owner, Some(&offset)).await;
            if let Ok(ended) = tokio::time::timeout(Duration::from_secs(2), older.ends()).await {
                assert!(matches!(ended, End::Closed(_)), "{bus}: {ended:?}");
                won += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_position_that_cannot_be_served_is_not_called_recovered() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let screen = shop.screen(&["sales"]).await;
    shop.sells(&bread, 7_500).await;
    let mut back = Screen::enters(hub.address, returning(&shop.owner, screen.pid(), Some("1-00000000"))).await;
    assert_ne!(back.pid(), screen.pid());
    assert_eq!(back.hears("ready").await.body["recovered"], false);
    assert_eq!(back.hears("snapshot_required").await.body["reason"], "diverged");
    back.hears("caught_up").await;
}

#[tokio::test]
async fn a_change_that_cannot_be_stored_is_not_made() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &[]).await;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screen = Screen::enters(node.address, auth).await;
    screen.hears_until("caught_up").await;
    proxy.pause();
    let answer = screen.asks("join", json!({ "channels": ["stock"] })).await;
    assert_eq!(answer, json!({ "ok": false, "code": "unavailable" }));
    proxy.resume();
    shop.sells(&bread, 7_500).await;
    screen.hears("sale.completed").await;
    assert_eq!(screen.asks("join", json!({ "channels": ["stock"] })).await["joined"], json!(["sales", "stock"]));
}

#[tokio::test]
async fn a_screen_that_comes_back_while_the_database_is_away_is_recovered_when_it_answers() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &[]).await;
    let screen = shop.screen(&["sales"]).await;
    shop.sells(&bread, 7_500).await;
    // Once it makes sessions, it has seen the database.
    Line::polling(node.address).await.expect("a session");
    proxy.pause();
    let coming = recovers(&screen, node.address, &shop.owner, screen.position.as_deref());
    let (back, ()) = tokio::join!(coming, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.resume();
    });
    assert_eq!(back.0.connected, screen.connected);
}

#[tokio::test]
async fn a_screen_that_comes_back_takes_its_own_place_however_often_the_database_has_to_be_asked() {
    let mut proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &["--sockets-per-token", "1"]).await;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut screen = Screen::enters_at_last(node.address, auth).await;
    screen.hears_until("caught_up").await;
    proxy.refuse().await;
    proxy.cut();
    let coming = recovers(&screen, node.address, &shop.owner, screen.position.as_deref());
    tokio::join!(coming, async {
        // A connection to the database is waited for for 2 s; then all of it is tried again.
        tokio::time::sleep(Duration::from_millis(2_600)).await;
        proxy.accept().await;
    });
}

#[tokio::test]
async fn what_was_joined_further_on_than_a_node_has_heard_is_looked_for_and_heard() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    // No bus is between the two: this one hears of a sale when it next looks at the heads, up to half a second later.
    let node = hub.node(SCREENS_ONLY, &[]).await;
    let auth = json!({ "token": shop.owner, "channels": ["sales"] });
    let mut witness = Screen::enters_at_last(node.address, auth.clone()).await;
    witness.hears_until("caught_up").await;
    for _ in 0..6 {
        let mut screen = Screen::enters(hub.address, auth.clone()).await;
        let offset = screen.hears("ready").await.position;
        screen.hears("caught_up").await;
        shop.sells(&bread, 7_500).await;
        assert_eq!(screen.asks("join", json!({ "channels": ["stock"] })).await["ok"], true);
        let (mut back, ready) = recovers(&screen, node.address, &shop.owner, offset.as_deref()).await;
        assert_eq!(ready.body["joined"], json!(["sales", "stock"]));
        assert_eq!(hears_of_business(&mut back, "caught_up").await, ["sale.completed"], "stock was joined behind it");
        shop.sells(&bread, 7_500).await;
        assert_eq!(hears_of_business(&mut back, "stock.changed").await, ["sale.completed", "stock.changed"]);
        witness.hears("sale.completed").await;
        witness.hears("sale.completed").await;
    }
}

#[tokio::test]
async fn the_late_word_of_an_older_connection_is_refused_and_nobody_reads_another_merchants() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let screen = "x".repeat(22);
    let roll = |epoch, since| Roll {
        screen: screen.clone(),
        epoch,
        joined: vec![Joined { since, ..Joined::from("sales".parse::<Channel>().unwrap()) }],
    };
    let store = async |epoch, since| joined::store(&hub.pools, shop.merchant, &[roll(epoch, since)]).await.unwrap();
    assert!(store(2, 20).await.is_empty());
    assert_eq!(store(1, 10).await, std::slice::from_ref(&screen), "refused");
    assert!(store(2, 21).await.is_empty(), "its own next word");
    let found = async |merchant| joined::find(&hub.pools, merchant, std::slice::from_ref(&screen)).await.unwrap();
    assert_eq!(found(shop.merchant).await[0].joined, roll(2, 21).joined);
    assert!(found(rival.merchant).await.is_empty());
}

#[tokio::test]
async fn screens_that_cannot_come_back_any_more_are_forgotten() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    for (screen, days) in [("young", 7), ("old", 9)] {
        let insert = format!(
            "insert into screens values ('{}', '{screen:x<22}', 1, '[]', now() - interval '{days} days')",
            shop.merchant
        );
        hub.database.psql(&insert).await;
    }
    hub.has_done("screens").await;
    let started = Instant::now();
    while hub.database.psql("select screen_id from screens").await.trim() != format!("{:x<22}", "young") {
        assert!(started.elapsed() < FACT_MAX, "the old one is still there, or the young one is not");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
