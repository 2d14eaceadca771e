//! Who is at an outlet: by the screens of every gateway that lives, over REST and as a channel.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tillwire::identity::tokens::Bearer;
use tillwire::node::Faces;
use tillwire_channels::{Moment, OutletId, RegisterId, Role, StaffId};
use time::format_description::well_known::Rfc3339;

use super::support::buses::FACT_MAX;
use super::support::caller::bearer;
use super::support::clients::{StockScreen, Transports};
use super::support::hub::{Shop, TestHub};
use super::support::process::{TillwireProcess, environment};
use super::support::screen::{Heard, Screen};
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

const SCREENS_ONLY: Faces = Faces::GATEWAY;
/// How long after a gateway's death presence may be wrong.
const RIGHT_WITHIN: Duration = Duration::from_secs(15);

/// A gateway that is a process of its own.
async fn gateway(hub: &TestHub) -> TillwireProcess {
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    // Whoever stands there only need not answer.
    env.insert("TILLWIRE_PING_SECONDS", "300".to_owned());
    TillwireProcess::start(&["gateway"], &env).await
}

/// A token for somebody who is bound to these outlets, and to a register.
fn token(shop: &Shop<'_>, staff: StaffId, role: Role, outlets: &[OutletId], register: Option<RegisterId>) -> String {
    let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, staff, role) };
    shop.hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
}

/// A new cashier's, at the shop's till.
fn cashier(shop: &Shop<'_>) -> String {
    token(shop, StaffId::new(), Role::Cashier, &[shop.outlet], Some(shop.register))
}

/// A screen that listens to nothing.
async fn comes(address: std::net::SocketAddr, token: &str) -> Screen {
    let mut screen = Screen::enters_at_last(address, json!({ "token": token })).await;
    screen.hears_until("caught_up").await;
    screen
}

async fn there(shop: &Shop<'_>) -> Vec<Value> {
    let answer = shop.get(&format!("/v1/outlets/{}/presence", shop.outlet)).await.ok();
    answer["present"].as_array().expect("people").clone()
}

/// How many screens there are in all.
fn screens(present: &[Value]) -> u64 {
    present.iter().map(|one| one["screens"].as_u64().expect("a number")).sum()
}

/// Waits until a fact holds of what REST says.
async fn until(shop: &Shop<'_>, what: &str, fact: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let present = there(shop).await;
        if fact(&present) {
            return present;
        }
        assert!(started.elapsed() < FACT_MAX, "not {what}: {present:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Listens until it is told of so many screens.
async fn hears_of(screen: &mut Screen, wanted: u64) -> Heard {
    loop {
        let heard = screen.hears_next("presence").await;
        if screens(heard.body["present"].as_array().expect("people")) == wanted {
            return heard;
        }
    }
}

fn channel(shop: &Shop<'_>) -> String {
    format!("presence/{}", shop.outlet)
}

#[tokio::test]
async fn a_till_says_who_stands_at_it_since_when_and_on_how_many_screens() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    let budi = shop.post("/v1/staff", json!({ "name": "Budi", "role": "cashier" })).await.created();
    let budi: StaffId = budi["id"].as_str().unwrap().parse().unwrap();
    let at_till = token(&shop, budi, Role::Cashier, &[shop.outlet], Some(shop.register));
    let mut owner = shop.screen(&[&channel(&shop)]).await;
    let nobody = owner.hears("presence").await;
    assert_eq!(nobody.body, json!({ "channel": channel(&shop), "present": [], "more": 0 }));
    assert_eq!(nobody.position, None, "the stock client takes a last string for its offset");

    let first = comes(hub.address, &at_till).await;
    let alone = hears_of(&mut owner, 1).await.body["present"][0].clone();
    assert_eq!(
        (&alone["staff"], &alone["staff_name"], &alone["role"]),
        (&json!(budi), &json!("Budi"), &json!("cashier"))
    );
    assert_eq!((&alone["register"], &alone["register_name"]), (&json!(shop.register), &json!("Kasir 1")));
    assert_eq!(alone["outlet"], json!(shop.outlet));
    // A second tab on the same node, and a third on another, are the same person.
    let (second, third) = (comes(hub.address, &at_till).await, comes(other.address, &at_till).await);
    let all = hears_of(&mut owner, 3).await.body["present"].clone();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["since"]), (1, &alone["since"]));
    assert_eq!(until(&shop, "the same", |present| screens(present) == 3).await, *all.as_array().unwrap());
    // Bound by the register alone, a machine at the same till is someone else.
    let machine = token(&shop, StaffId::new(), Role::Cashier, &[], Some(shop.register));
    let fourth = comes(other.address, &machine).await;
    let two = hears_of(&mut owner, 4).await.body["present"].clone();
    assert_eq!((two.as_array().unwrap().len(), &two[1]["staff_name"]), (2, &Value::Null));
    // The owner is bound to no outlet, and is nowhere.
    drop((first, second));
    hears_of(&mut owner, 2).await;
    drop((third, fourth));
    hears_of(&mut owner, 0).await;
    assert_eq!(there(&shop).await, [] as [Value; 0]);
}

#[tokio::test]
async fn presence_is_right_within_15_seconds_of_the_death_of_a_gateway() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let [mut one, other] = [gateway(&hub).await, gateway(&hub).await];
    let auth = json!({ "token": shop.owner, "channels": [channel(&shop)] });
    let mut owner = Screen::enters_at_last(other.public, auth).await;
    let (stays, goes) = (cashier(&shop), cashier(&shop));
    let (_stays, _goes) = (comes(other.public, &stays).await, comes(one.public, &goes).await);
    hears_of(&mut owner, 2).await;

    one.kill().await;
    let died = Instant::now();
    let told = hears_of(&mut owner, 1);
    let (heard, ()) = tokio::join!(tokio::time::timeout(RIGHT_WITHIN, told), async {
        until(&shop, "one left", |present| present.len() == 1).await;
        assert!(died.elapsed() < RIGHT_WITHIN, "REST after {:?}", died.elapsed());
    });
    assert!(heard.is_ok(), "the channel was not told within {RIGHT_WITHIN:?}");

    // It starts again, and whoever comes is there at once; what it was before does not count.
    let again = gateway(&hub).await;
    let _back = comes(again.public, &goes).await;
    hears_of(&mut owner, 2).await;
    // One that is told to go takes with it who was there by it, and does not wait for that to be found out.
    again.terminate();
    hears_of(&mut owner, 1).await;
}

#[tokio::test]
async fn a_gateway_that_was_frozen_counts_again_when_it_goes_on() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let gateway = gateway(&hub).await;
    let _screen = comes(gateway.public, &cashier(&shop)).await;
    let before = until(&shop, "there", |present| present.len() == 1).await;
    gateway.signal(Signal::SIGSTOP);
    until(&shop, "gone", <[Value]>::is_empty).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(there(&shop).await, [] as [Value; 0], "it is still frozen");
    gateway.signal(Signal::SIGCONT);
    assert_eq!(until(&shop, "there again", |present| present.len() == 1).await, before);

    // As long as it may be forgotten.
    gateway.signal(Signal::SIGSTOP);
    hub.database.psql("delete from gateway_nodes").await;
    gateway.signal(Signal::SIGCONT);
    until(&shop, "there once more", |present| present == before).await;
}

#[tokio::test]
async fn while_the_database_is_away_nothing_wrong_is_said() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    // The whole fleet loses it: both gateways are behind the same line.
    let flags = ["--vouch-seconds", "60", "--ping-seconds", "300"];
    let one = hub.node_through(proxy.port, SCREENS_ONLY, &flags).await;
    let other = hub.node_through(proxy.port, SCREENS_ONLY, &flags).await;
    let mut owner =
        Screen::enters_at_last(one.address, json!({ "token": shop.owner, "channels": [channel(&shop)] })).await;
    let (_first, second) = (comes(one.address, &cashier(&shop)).await, comes(other.address, &cashier(&shop)).await);
    hears_of(&mut owner, 2).await;

    proxy.pause();
    tokio::time::sleep(Duration::from_secs(14)).await;
    until(&shop, "gone by their silence", <[Value]>::is_empty).await;
    let answer = owner.asks("join", json!({ "channels": [channel(&shop)] })).await;
    assert_eq!(answer["ok"], true, "it had joined it before");
    assert_eq!(screens(owner.hears("presence").await.body["present"].as_array().unwrap()), 2, "the last that is known");
    proxy.resume();
    until(&shop, "back", |present| present.len() == 2).await;
    drop(second);
    assert_eq!(screens(owner.hears("presence").await.body["present"].as_array().unwrap()), 1, "and nothing in between");
}

#[tokio::test]
async fn a_merchant_whose_people_can_be_neither_read_nor_written_keeps_no_other_waiting() {
    let hub = TestHub::start().await;
    let (shop, troubled) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let mut owner = shop.screen(&[&channel(&shop)]).await;
    assert_eq!(owner.hears("presence").await.body["present"], json!([]));
    let trouble = format!(
        "create function trouble() returns boolean language plpgsql stable as $$
         begin
             if current_merchant() = '{}' then raise exception 'trouble'; end if;
             return true;
         end $$;
         create policy trouble on presence as restrictive to tillwire_app using (trouble()) with check (trouble())",
        troubled.merchant
    );
    hub.database.psql(&trouble).await;
    let mut waits = troubled.screen(&[&channel(&troubled)]).await;
    let _unseen = comes(hub.address, &cashier(&troubled)).await;
    // More than once, whichever of the two is tried first.
    for _ in 0..2 {
        let visitor = comes(hub.address, &cashier(&shop)).await;
        hears_of(&mut owner, 1).await;
        drop(visitor);
        hears_of(&mut owner, 0).await;
    }
    hub.database.psql("drop policy trouble on presence").await;
    hears_of(&mut waits, 1).await;
}

#[tokio::test]
async fn who_is_there_is_told_to_those_who_may_know() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let _cashier = comes(hub.address, &cashier(&shop)).await;
    until(&shop, "there", |present| present.len() == 1).await;
    let path = format!("/v1/outlets/{}/presence", shop.outlet);
    let (here, elsewhere) = ([shop.outlet], [OutletId::new()]);
    for (role, outlets, register, may) in [
        (Role::Manager, &here[..], None, true),
        (Role::Cashier, &here, Some(shop.register), true),
        (Role::Clerk, &here, None, true),
        (Role::Auditor, &[], None, true),
        (Role::Manager, &elsewhere, None, false),
        (Role::Accountant, &[], None, false),
        (Role::Display, &here, None, false),
    ] {
        let token = token(&shop, StaffId::new(), role, outlets, register);
        let answer = shop.get_as(&token, &path).await;
        let mut screen = Screen::enters(hub.address, json!({ "token": token, "channels": [channel(&shop)] })).await;
        let ready = screen.hears("ready").await;
        if may {
            answer.ok();
            screen.hears_next("presence").await;
        } else {
            answer.refused(403, "denied");
            assert_eq!(ready.body["denied"][0]["code"], "forbidden", "{role:?}");
        }
    }
    // Another merchant's outlet is none, and nobody is there.
    rival.get(&path).await.refused(404, "not_found");
    let mut screen = rival.screen(&[&channel(&shop), "presence"]).await;
    for _ in 0..2 {
        assert_eq!(screen.hears("presence").await.body["present"], json!([]));
    }
    // And there is no state of it to ask a snapshot of.
    shop.get(&format!("/v1/snapshot?channel={}", channel(&shop))).await.refused(422, "no_snapshot");
}

#[tokio::test]
async fn a_screen_is_told_anew_whenever_it_connects_or_joins_and_no_more_when_it_has_left() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let way = Proxy::to(hub.address.port()).await;
    let address = ([127, 0, 0, 1], way.port).into();
    let mut stock = StockScreen::recovering(address, &shop.owner, &["sales"], Transports::Websocket).await;
    stock.hears("caught_up").await;
    assert_eq!(stock.join(&["presence"]).await["joined"], json!(["sales", "presence"]));
    stock.hears("presence").await;
    // Its offset is still a position: it is recovered, and told who is there all the same.
    shop.sells(&bread, 7_500).await;
    stock.hears("sale.completed").await;
    let _cashier = comes(hub.address, &cashier(&shop)).await;
    stock.hears("presence").await;
    way.cut();
    assert_eq!(stock.happens("connect").await["recovered"], true);
    assert_eq!(stock.hears("presence").await.body()["present"][0]["screens"], 1);

    let mut screen = shop.screen(&["sales"]).await;
    let presence = channel(&shop);
    let join = json!({ "channels": [presence], "snapshot": true });
    for _ in 0..2 {
        assert_eq!(screen.asks("join", join.clone()).await["ok"], true, "its state comes anyway");
        assert_eq!(screen.hears("presence").await.body["channel"], presence);
    }
    assert_eq!(screen.asks("leave", json!({ "channels": [presence] })).await["joined"], json!(["sales"]));
    let _another = comes(hub.address, &cashier(&shop)).await;
    while stock.hears("presence").await.body()["present"].as_array().unwrap().len() < 2 {}
    shop.sells(&bread, 7_500).await;
    screen.hears("sale.completed").await;
}

#[tokio::test]
async fn whoever_is_moved_or_signed_out_is_no_longer_there() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let elsewhere = OutletId::new();
    let body = json!({ "id": elsewhere, "code": "BDG", "name": "Bandung", "time_zone": "Asia/Jakarta" });
    shop.post("/v1/outlets", body).await.created();
    let staff = StaffId::new();
    let mut screen = comes(hub.address, &token(&shop, staff, Role::Cashier, &[shop.outlet], None)).await;
    let before = until(&shop, "there", |present| present.len() == 1).await;
    let moved = token(&shop, staff, Role::Cashier, &[elsewhere], None);
    assert_eq!(screen.asks("auth", json!({ "token": moved })).await["ok"], true);
    until(&shop, "elsewhere", <[Value]>::is_empty).await;
    let there = shop.get(&format!("/v1/outlets/{elsewhere}/presence")).await.ok();
    assert_eq!((&there["present"][0]["staff"], &there["present"][0]["since"]), (&json!(staff), &before[0]["since"]));

    let mut owner = shop.screen(&["presence"]).await;
    hears_of(&mut owner, 1).await;
    shop.post(&format!("/v1/staff/{staff}/revocations"), json!({})).await.created();
    hears_of(&mut owner, 0).await;
}

#[tokio::test]
async fn a_crowd_is_a_list_of_the_longest_there_and_a_number() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut owner = shop.screen(&[&channel(&shop)]).await;
    let mut crowd = Vec::new();
    for _ in 0..105 {
        crowd.push(comes(hub.address, &cashier(&shop)).await);
    }
    let all = until(&shop, "everybody", |present| present.len() == crowd.len()).await;
    assert!(all.is_sorted_by_key(|one| one["since"].as_str()));
    let told = loop {
        let told = owner.hears("presence").await;
        if told.body["more"] == 5 {
            break told;
        }
    };
    assert_eq!(told.body["present"].as_array().unwrap()[..], all[..100]);
    assert_eq!(owner.position, crowd[0].position, "no packet of these moved it");
}

#[tokio::test]
async fn who_comes_back_elsewhere_is_there_since_they_first_came() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let token = cashier(&shop);
    let screen = comes(hub.address, &token).await;
    until(&shop, "there", |present| present.len() == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    let auth = json!({ "token": token, "pid": screen.pid(), "offset": screen.position });
    drop(screen);
    until(&shop, "away", <[Value]>::is_empty).await;
    let returned_at = Moment::now_utc();
    let mut back = Screen::enters_at_last(other.address, auth).await;
    assert_eq!(back.hears("ready").await.body["recovered"], true);
    let present = until(&shop, "back", |present| present.len() == 1).await;
    let since = Moment::parse(present[0]["since"].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(returned_at - since > Duration::from_secs(3), "since {since}, and it was {returned_at} when it returned");
}
