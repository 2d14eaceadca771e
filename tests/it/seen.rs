//! Which screens have seen a payment, and when: what people looked at, said by their screens and asked for over REST.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::identity::tokens::Bearer;
use tillwire::node::Faces;
use tillwire_channels::{OutletId, RegisterId, Role, StaffId};
use uuid::Uuid;

use super::support::buses::FACT_MAX;
use super::support::caller::bearer;
use super::support::clients::{StockScreen, Transports};
use super::support::hub::{Answer, Shop, TestHub};
use super::support::screen::Screen;
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

const SCREENS_ONLY: Faces = Faces::GATEWAY;

/// Sells one piece. Answers the payment's id.
async fn is_paid(shop: &Shop<'_>, variant: &str) -> String {
    let sale = shop.post(&shop.sales(), shop.sale(variant, "1", 7_500)).await.created();
    sale["tenders"][0]["payment"].as_str().expect("a payment").to_owned()
}

async fn asked_as(shop: &Shop<'_>, token: &str, payment: &str) -> Answer {
    shop.get_as(token, &format!("/v1/payments/{payment}/seen")).await
}

/// The screens on which the payment was seen, the first ones first.
async fn seen_on(shop: &Shop<'_>, payment: &str) -> Vec<Value> {
    let answer = asked_as(shop, &shop.owner, payment).await.ok();
    assert_eq!(answer["more"], false);
    answer["screens"].as_array().expect("screens").clone()
}

/// A token for somebody at a till.
fn at_the_till(shop: &Shop<'_>, staff: StaffId, role: Role, register: Option<RegisterId>) -> String {
    let bearer = Bearer { outlets: vec![shop.outlet], register, ..bearer(shop.merchant, staff, role) };
    shop.hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
}

/// A screen that listens to payments of the whole merchant, live.
async fn watching(shop: &Shop<'_>) -> Screen {
    shop.screen(&["payments"]).await
}

fn id(screen: &Screen) -> &str {
    screen.connected["sid"].as_str().expect("a public id")
}

async fn says_seen(screen: &mut Screen, position: &str) -> Value {
    screen.asks("seen", json!({ "position": position })).await
}

/// What is said within one second is one row.
async fn another_second() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn it_is_known_which_cashier_screens_have_seen_a_payment_and_when() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let budi = shop.post("/v1/staff", json!({ "name": "Budi", "role": "cashier" })).await.created();
    let budi: StaffId = budi["id"].as_str().unwrap().parse().unwrap();
    let token = at_the_till(&shop, budi, Role::Cashier, Some(shop.register));
    let till = format!("payments/{}/{}", shop.outlet, shop.register);
    // A stock client at the till, and the owner at home.
    let mut screen = StockScreen::javascript(hub.address, &token, &[&till], Transports::Upgrade).await;
    screen.hears("caught_up").await;
    let mut owner = watching(&shop).await;

    let [first, second] = [is_paid(&shop, &bread).await, is_paid(&shop, &bread).await];
    screen.hears("payment.captured").await;
    let heard = screen.hears("payment.captured").await;
    assert_eq!(heard.body()["data"]["payment"], second.as_str());
    let position = heard.position().unwrap().to_owned();
    assert_eq!(seen_on(&shop, &first).await, [] as [Value; 0], "nobody has said so");

    screen.tell(json!({ "do": "seen", "position": position })).await;
    assert_eq!(screen.happens("ack").await["answer"], json!({ "ok": true }));
    let own = owner.hears("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut owner, &own).await, json!({ "ok": true }));

    // Both have seen the first payment, and the till the second as well.
    let answer = asked_as(&shop, &shop.owner, &first).await.ok();
    assert_eq!(answer["position"], own);
    let screens = answer["screens"].as_array().unwrap();
    assert_eq!(screens.len(), 2, "{answer}");
    let (at_till, at_home) = (&screens[0], &screens[1]);
    assert_eq!((&at_till["staff"], &at_till["staff_name"]), (&json!(budi), &json!("Budi")));
    assert_eq!((&at_till["register"], &at_till["register_name"]), (&json!(shop.register), &json!("Kasir 1")));
    assert_eq!((&at_till["outlet"], &at_till["position"]), (&json!(shop.outlet), &json!(position)));
    assert_eq!((&at_home["register"], &at_home["outlet"]), (&Value::Null, &Value::Null));
    assert_eq!(at_home["screen"], id(&owner));
    assert!(at_till["seen_at"].as_str() <= at_home["seen_at"].as_str(), "{answer}");
    let seen = seen_on(&shop, &second).await;
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["screen"], at_till["screen"]);

    let one = shop.get(&format!("/v1/payments/{first}/seen?limit=1")).await.ok();
    assert_eq!((one["screens"].as_array().unwrap().len(), &one["more"]), (1, &json!(true)));
}

#[tokio::test]
async fn what_was_said_before_changes_nothing_however_often_it_is_said() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = watching(&shop).await;
    let payment = is_paid(&shop, &bread).await;
    let first = screen.hears("payment.captured").await.position.unwrap();
    is_paid(&shop, &bread).await;
    let second = screen.hears("payment.captured").await.position.unwrap();

    assert_eq!(says_seen(&mut screen, &first).await["ok"], true);
    let seen = seen_on(&shop, &payment).await;
    another_second().await;
    for _ in 0..25 {
        assert_eq!(says_seen(&mut screen, &second).await["ok"], true);
        assert_eq!(says_seen(&mut screen, &first).await["ok"], true);
    }
    assert_eq!(says_seen(&mut screen, "0-00000000").await["ok"], true, "before everything");
    assert_eq!(seen_on(&shop, &payment).await, seen, "it was seen when it was first said");
    assert_eq!(hub.database.psql("select count(*) from payments_seen").await.trim(), "2");
}

#[tokio::test]
async fn whoever_says_it_all_the_time_gets_a_row_a_second_and_claims_nothing_more_by_it() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = shop.screen(&["payments", &format!("payments/{}", shop.outlet)]).await;
    let mut paid = Vec::new();
    for _ in 0..40 {
        paid.push((is_paid(&shop, &bread).await, screen.hears("payment.captured").await.position.unwrap()));
    }
    let started = Instant::now();
    let (_, last) = paid.pop().unwrap();
    for (_, position) in &paid {
        assert_eq!(says_seen(&mut screen, position).await["ok"], true);
    }
    // On each of its two channels, in each second that was touched.
    let rows_max = 2 * (started.elapsed().as_secs() + 2);
    let rows = async || hub.database.psql("select count(*) from payments_seen").await.trim().parse::<u64>().unwrap();
    let before = rows().await;
    assert!((2..=rows_max).contains(&before), "{before} rows, and not {rows_max} at most");
    for (payment, _) in [&paid[0], paid.last().unwrap()] {
        assert_eq!(seen_on(&shop, payment).await.len(), 1);
    }
    let early = seen_on(&shop, &paid[0].0).await;
    another_second().await;
    assert_eq!(says_seen(&mut screen, &last).await["ok"], true);
    assert_eq!((seen_on(&shop, &paid[0].0).await, rows().await), (early, before + 2), "another second is another row");
}

#[tokio::test]
async fn a_word_that_another_node_writes_at_the_same_moment_is_kept_once() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = shop.screen(&["payments"]).await;
    is_paid(&shop, &bread).await;
    let first = screen.hears("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut screen, &first).await["ok"], true);
    let payment = is_paid(&shop, &bread).await;
    let second = screen.hears("payment.captured").await.position.unwrap();
    let (seq, event) = second.split('-').next().unwrap().split_once('.').unwrap();
    // The word of an earlier connection, which is not committed yet; and one before it in this very second.
    hub.database.psql("update payments_seen set seen_at = now()").await;
    let word = format!(
        "begin;
         insert into payments_seen (merchant_id, screen_id, channel, seq, event, tag, since, staff_id, register_id)
         select merchant_id, screen_id, channel, {seq}, {event},
                (select substring(tag for 4) from journal_entries where seq = {seq}), since, staff_id, register_id
         from payments_seen"
    );
    let mut other = PgConnection::connect(&hub.database.url("postgres")).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(word)).execute(&mut other).await.unwrap();
    let commits = async {
        hub.someone_is_locked_out().await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    };
    let (said, ()) = tokio::join!(says_seen(&mut screen, &second), commits);
    assert_eq!(said["ok"], true, "{said}");
    assert_eq!(hub.database.psql("select count(*) from payments_seen").await.trim(), "2");
    assert_eq!(seen_on(&shop, &payment).await.len(), 1);
}

#[tokio::test]
async fn what_a_screen_was_told_to_fetch_it_was_not_told_also_not_when_it_comes_back() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let missed = is_paid(&shop, &bread).await;
    let mut screen = shop.screen_after(hub.address, &["payments"], "2-deadbeef").await;
    let told = screen.hears_until("caught_up").await;
    assert_eq!(told[1].name, "snapshot_required");
    // Every node knows before it is told anything more: it may be cut at any moment.
    let skipped = "select count(*) from screens where joined like '%skipped%'";
    assert_eq!(hub.database.psql(skipped).await.trim(), "1");
    let first = is_paid(&shop, &bread).await;
    screen.hears("payment.captured").await;
    let auth = json!({ "token": shop.owner, "pid": screen.pid(), "offset": screen.position });
    let mut back = Screen::enters(hub.address, auth).await;
    assert_eq!(back.hears("ready").await.body["recovered"], true);
    let second = is_paid(&shop, &bread).await;
    let position = back.hears_next("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut back, &position).await["ok"], true);
    for payment in [&first, &second] {
        assert_eq!(seen_on(&shop, payment).await.len(), 1);
    }
    assert_eq!(seen_on(&shop, &missed).await, [] as [Value; 0]);
}

#[tokio::test]
async fn a_position_that_is_not_of_this_journal_is_refused() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let (bread, other) = (shop.stocked("roti", 7_500, "100").await, rival.stocked("roti", 7_500, "100").await);
    is_paid(&shop, &bread).await;
    is_paid(&rival, &other).await;
    let foreign = rival.journal().await.pop().unwrap()["position"].as_str().unwrap().to_owned();
    let seq = |position: &str| position.split(['.', '-']).next().unwrap().to_owned();
    let own = shop.journal().await.pop().unwrap();
    let (own, events) = (own["position"].as_str().unwrap().to_owned(), own["event"]["of"][1].as_u64().unwrap());
    let inside = |number: u64| format!("{}.{number}-{}", seq(&own), own.split('-').next_back().unwrap());
    let mut screen = watching(&shop).await;
    for (position, code) in [
        (foreign.clone(), "diverged"),
        (inside(events + 1), "diverged"),
        (inside(u64::from(u32::MAX)), "diverged"),
        (format!("{}-00000000", seq(&foreign)), "diverged"),
        ("1000000-00000000".to_owned(), "diverged"),
        ("0-00000001".to_owned(), "diverged"),
        ("yesterday".to_owned(), "malformed"),
        (String::new(), "malformed"),
    ] {
        assert_eq!(says_seen(&mut screen, &position).await, json!({ "ok": false, "code": code }), "{position:?}");
    }
    assert_eq!(screen.asks("seen", json!({})).await["code"], "malformed");
    assert_eq!(screen.asks("seen", json!("now")).await["code"], "malformed");
    assert_eq!(hub.database.psql("select count(*) from payments_seen").await.trim(), "0");
    // The last event that there is, and the whole of it.
    for position in [inside(events), inside(events).replace(&format!(".{events}-"), "-")] {
        assert_eq!(says_seen(&mut screen, &position).await["ok"], true, "{position}");
    }

    // One that was good, until retention took it.
    let old = shop.journal().await.remove(0)["position"].as_str().unwrap().to_owned();
    hub.database
        .psql(&format!("delete from journal_entries where merchant_id = '{}' and seq = 1", shop.merchant))
        .await;
    assert_eq!(says_seen(&mut screen, &old).await["code"], "expired");
}

#[tokio::test]
async fn only_who_hears_payments_can_have_seen_them() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let payment = is_paid(&shop, &bread).await;
    let position = shop.journal().await.pop().unwrap()["position"].as_str().unwrap().to_owned();
    let display = at_the_till(&shop, StaffId::new(), Role::Display, None);
    let (sales, payments) = (format!("sales/{}", shop.outlet), format!("payments/{}", shop.outlet));
    let mut wall = Screen::enters(hub.address, json!({ "token": display, "channels": [sales, payments] })).await;
    let mut deaf = shop.screen(&["sales"]).await;
    for screen in [&mut wall, &mut deaf] {
        assert_eq!(says_seen(screen, &position).await, json!({ "ok": false, "code": "not_listening" }));
    }
    // What was before it joined is none of its business either.
    assert_eq!(deaf.asks("join", json!({ "channels": ["payments"] })).await["ok"], true);
    assert_eq!(says_seen(&mut deaf, &position).await["ok"], true);
    assert_eq!(seen_on(&shop, &payment).await, [] as [Value; 0]);
    let later = is_paid(&shop, &bread).await;
    let position = deaf.hears_next("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut deaf, &position).await["ok"], true);
    assert_eq!(seen_on(&shop, &later).await.len(), 1);
}

#[tokio::test]
async fn who_may_hear_of_a_payment_may_ask_who_has_seen_it_and_nobody_else() {
    let hub = TestHub::start().await;
    let (shop, rival) = (hub.merchant("Toko Roti").await, hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 7_500, "100").await;
    let payment = is_paid(&shop, &bread).await;
    let at = |role, outlets: &[OutletId], register| {
        let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, StaffId::new(), role) };
        hub.signer.mint(&bearer, Duration::from_secs(600)).unwrap()
    };
    let (here, elsewhere, other_till) = ([shop.outlet], [OutletId::new()], shop.till().await);
    for (role, outlets, register) in [
        (Role::Manager, &here[..], None),
        (Role::Cashier, &here, Some(shop.register)),
        (Role::Accountant, &[], None),
        (Role::Auditor, &[], None),
    ] {
        asked_as(&shop, &at(role, outlets, register), &payment).await.ok();
    }
    for (role, outlets, register) in [
        (Role::Display, &here[..], None),
        (Role::Clerk, &here, None),
        (Role::Manager, &elsewhere, None),
        (Role::Cashier, &here, Some(other_till)),
    ] {
        asked_as(&shop, &at(role, outlets, register), &payment).await.refused(403, "denied");
    }
    asked_as(&rival, &rival.owner, &payment).await.refused(404, "not_found");
    asked_as(&shop, &shop.owner, &Uuid::new_v4().to_string()).await.refused(404, "not_found");
    asked_as(&shop, "none", &payment).await.refused(401, "token_malformed");
}

#[tokio::test]
async fn a_screen_that_comes_back_to_another_node_is_the_same_device_and_a_new_one_speaks_of_what_it_was_told() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    let mut screen = watching(&shop).await;
    let [first, second] = [is_paid(&shop, &bread).await, is_paid(&shop, &bread).await];
    let early = screen.hears("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut screen, &early).await["ok"], true);
    let offset = screen.hears("payment.captured").await.position.unwrap();
    let at_first = seen_on(&shop, &first).await;
    another_second().await;

    // It was told the second one before the cut, and the person looks at it after.
    let auth = json!({ "token": shop.owner, "pid": screen.pid(), "offset": offset });
    let mut back = Screen::enters_at_last(other.address, auth).await;
    assert_eq!(back.hears("ready").await.body["recovered"], true);
    let third = is_paid(&shop, &bread).await;
    let last = back.hears_next("payment.captured").await.position.unwrap();
    assert_eq!(says_seen(&mut back, &last).await["ok"], true);
    assert_eq!(seen_on(&shop, &first).await, at_first);
    for payment in [&second, &third] {
        let seen = seen_on(&shop, payment).await;
        assert_eq!((seen.len(), &seen[0]["screen"]), (1, &json!(id(&screen))));
    }

    // One that begins now was told none of them; one that comes with a position was told what followed it.
    let mut fresh = watching(&shop).await;
    assert_eq!(says_seen(&mut fresh, &last).await["ok"], true);
    let (seq, tag) = (early.split('.').next().unwrap(), early.split('-').next_back().unwrap());
    let mut away = shop.screen_after(other.address, &["payments"], &format!("{seq}-{tag}")).await;
    assert_eq!(away.catches_up().await.len(), 2);
    assert_eq!(says_seen(&mut away, &last).await["ok"], true);
    assert_eq!(seen_on(&shop, &first).await, at_first);
    for payment in [&second, &third] {
        let seen: Vec<Value> = seen_on(&shop, payment).await.into_iter().map(|seen| seen["screen"].clone()).collect();
        assert_eq!(seen, [id(&screen), id(&away)]);
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_acknowledged_and_is_kept_when_it_is_said_again() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &[]).await;
    let auth = json!({ "token": shop.owner, "channels": ["payments"] });
    let mut screen = Screen::enters_at_last(node.address, auth).await;
    screen.hears_until("caught_up").await;
    let payment = is_paid(&shop, &bread).await;
    let position = screen.hears("payment.captured").await.position.unwrap();
    proxy.pause();
    assert_eq!(says_seen(&mut screen, &position).await, json!({ "ok": false, "code": "unavailable" }));
    proxy.resume();
    let started = Instant::now();
    while says_seen(&mut screen, &position).await["ok"] != true {
        assert!(started.elapsed() < FACT_MAX, "the database is there again");
    }
    assert_eq!(seen_on(&shop, &payment).await.len(), 1);
}

#[tokio::test]
async fn a_payment_is_found_in_a_journal_of_many_entries_and_what_is_old_is_forgotten() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let mut screen = watching(&shop).await;
    let mut paid = Vec::new();
    for _ in 0..33 {
        paid.push((is_paid(&shop, &bread).await, screen.hears("payment.captured").await.position.unwrap()));
    }
    let found = async |payment: &str| asked_as(&shop, &shop.owner, payment).await.ok()["position"].clone();
    for (payment, position) in &paid {
        assert_eq!(found(payment).await, position.as_str());
    }
    let (_, last) = paid.last().unwrap();
    assert_eq!(says_seen(&mut screen, last).await["ok"], true);
    assert_eq!(seen_on(&shop, &paid[0].0).await.len(), 1);

    // Upkeep forgets what is older than 31 days.
    let age = "update payments_seen set seen_at = now() - interval '32 days' where seq = (select max(seq) from payments_seen)";
    hub.database.psql(age).await;
    hub.has_done("payments_seen").await;
    let started = Instant::now();
    while !seen_on(&shop, &paid[0].0).await.is_empty() {
        assert!(started.elapsed() < FACT_MAX, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // What retention took from the journal has no place any more, and the rest is still found.
    let seq = paid[16].1.split(['.', '-']).next().unwrap();
    let prune = format!("delete from journal_entries where merchant_id = '{}' and seq <= {seq}", shop.merchant);
    hub.database.psql(&prune).await;
    assert_eq!(found(&paid[16].0).await, Value::Null);
    assert_eq!(found(&paid[17].0).await, paid[17].1.as_str());
}
