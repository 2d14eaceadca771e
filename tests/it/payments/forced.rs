//! Payments that somebody takes for paid: the provider confirms it or does not, sooner or later, and the money is recorded once.

use tillwire::identity::tokens::Bearer;
use tillwire_channels::{RegisterId, StaffId};

use super::cards::{GOOD, card, proves};
use super::storms::{is_slow, leave_in_peace};
use super::*;
use crate::support::caller::bearer;

pub(super) fn of(payment: &Value, verb: &str) -> String {
    format!("/v1/payments/{}/{verb}", payment["id"].as_str().expect("an id"))
}

pub(super) fn reason() -> Value {
    json!({ "reason": "Layar nasabah menunjukkan berhasil" })
}

/// Somebody takes it for paid.
pub(super) async fn forces(shop: &Shop<'_>, payment: &Value) -> Value {
    shop.post(&of(payment, "force"), reason()).await.ok()
}

/// How often its money was recorded, and told.
pub(super) async fn recorded(market: &Market, shop: &Shop<'_>, payment: &Value) -> (String, usize) {
    let rows = format!("select count(*) from payments where payment_id = '{}'", payment["id"].as_str().unwrap());
    let told = shop.journal_of(&["payment.captured"]).await;
    let told = told.iter().filter(|(_, event)| event["data"]["payment"] == payment["id"]).count();
    (market.hub.database.psql(&rows).await.trim().to_owned(), told)
}

pub(super) async fn alerts(shop: &Shop<'_>) -> Vec<(String, String)> {
    let alerts = shop.journal_of(&["alert.raised"]).await;
    let word = |event: &Value, name: &str| event["data"][name].as_str().expect("a word").to_owned();
    alerts.iter().map(|(_, event)| (word(event, "alert"), word(event, "severity"))).collect()
}

fn is(alert: &str, severity: &str) -> (String, String) {
    (alert.to_owned(), severity.to_owned())
}

#[tokio::test]
async fn what_is_forced_pays_its_sale_and_its_provider_confirms_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    for (provider, left) in [("midtrans", "9.000"), ("xendit", "8.000")] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let forced = forces(&shop, &payment).await;
        assert_eq!(
            (&forced["state"], &forced["forced"]["reason"]),
            (&json!("pending"), &reason()["reason"]),
            "{forced}"
        );
        assert!(forced["forced"]["by"].is_string() && forced["forced"]["at"].is_string(), "{forced}");
        let heard = screen.hears_next("payment.captured").await;
        assert_eq!((&heard.data()["payment"], &heard.data()["amount_minor"]), (&payment["id"], &json!(48_500)));
        let heard = screen.hears_next("payment.changed").await;
        assert_eq!((&heard.data()["state"], &heard.data()["forced"]), (&json!("pending"), &forced["forced"]));
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], &sold["tenders"][0]["payment"]), (&json!("completed"), &payment["id"]));
        assert_eq!(shop.stock_of(bread).await, left);

        market.pays(&payment).await;
        let paid = comes_to(&shop, &payment, "paid").await;
        assert_eq!((&paid["forced"], paid["issuer"].is_string()), (&forced["forced"], true), "{paid}");
        let heard = screen.hears_next("payment.changed").await;
        assert_eq!(heard.data()["state"], "paid", "it was not told before");
        assert_eq!(recorded(market, &shop, &payment).await, ("1".to_owned(), 1));
        assert_eq!(shop.stock_of(bread).await, left);
    }
    assert!(tasks(&shop).await.is_empty());
    assert_eq!(alerts(&shop).await, vec![is("payment_forced", "warning"); 2]);
    let audit = shop.get("/v1/audit").await.ok();
    let lines: Vec<&Value> =
        audit["items"].as_array().unwrap().iter().filter(|it| it["action"] == "payment.forced").collect();
    assert_eq!((lines.len(), &lines[0]["detail"]), (2, &reason()["reason"]), "{audit}");
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn what_is_forced_and_not_paid_in_its_time_is_for_a_person_until_it_is_paid_after_all() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, ended) in [("midtrans", "expired"), ("xendit", "canceled")] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        forces(&shop, &payment).await;
        let id = payment["id"].as_str().unwrap();
        let over = format!("update payment_attempts set expires_at = now(), next_at = now() where payment_id = '{id}'");
        market.hub.database.psql(&over).await;
        comes_to(&shop, &payment, ended).await;
        let open = tasks(&shop).await;
        let task = open.iter().find(|task| task["payment"] == payment["id"]).expect("a task");
        assert_eq!(task["kind"], "forced_unpaid");
        assert!(task["detail"].as_str().unwrap().contains("Layar nasabah"), "{task}");
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed", "the goods are gone");
        // Somebody pays what they had scanned: it is what the sale was paid by, and not late for anything.
        market.says("pay", json!({ "id": payment["id"], "late": true })).await;
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(recorded(market, &shop, &payment).await, ("1".to_owned(), 1));
    }
    assert_eq!(kinds(&tasks(&shop).await), ["forced_unpaid", "forced_unpaid"]);
    let each =
        [is("payment_forced", "warning"), is("payment_forced_unpaid", "critical"), is("payment_forced_paid", "info")];
    assert_eq!(alerts(&shop).await, [&each[..], &each[..]].concat());
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn what_is_forced_and_fails_at_its_provider_is_for_a_person() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        forces(&shop, &payment).await;
        market.says("fail", json!({ "id": payment["id"], "deny": true })).await;
        comes_to(&shop, &payment, "failed").await;
    }
    // Or its provider has never heard of it, and is not asked for it anew.
    market.says("faults", json!({ "fault": "reset", "on": "charge", "provider": "midtrans" })).await;
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!(payment["state"], "unknown", "{payment}");
    forces(&shop, &payment).await;
    assert_eq!(comes_to(&shop, &payment, "failed").await["failure"], "never_arrived");
    assert_eq!(market.asked("midtrans", "charge").await, 2, "each once");
    assert_eq!(kinds(&tasks(&shop).await), ["forced_unpaid", "forced_unpaid", "forced_unpaid"]);
}

#[tokio::test]
async fn what_nobody_finds_in_a_week_is_for_a_person() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let mut unknown = Vec::new();
    for _ in 0..2 {
        market.says("faults", json!({ "fault": "reset", "on": "create", "provider": "xendit" })).await;
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris("xendit")).await.created();
        assert_eq!(payment["state"], "unknown", "{payment}");
        unknown.push(payment);
    }
    forces(&shop, &unknown[0]).await;
    // Nor does it matter that the provider is not there when the time has come.
    market.says("faults", json!({ "fault": "http_503", "provider": "xendit", "times": null })).await;
    market
        .hub
        .database
        .psql(
            "update payment_attempts set created_at = now() - interval '8 days', expires_at = now() - interval '8 days',
                    unanswered_since = now() - interval '8 days', next_at = now()",
        )
        .await;
    let asked_again = "select count(*) from payment_attempts where next_at is not null";
    until(async || (market.hub.database.psql(asked_again).await.trim() == "0").then_some(())).await;
    let mut found: Vec<(String, String)> = Vec::new();
    for task in tasks(&shop).await {
        found.push((task["kind"].as_str().unwrap().to_owned(), task["payment"].as_str().unwrap().to_owned()));
    }
    found.sort();
    let id = |payment: &Value| payment["id"].as_str().unwrap().to_owned();
    assert_eq!(found, [("forced_unpaid".to_owned(), id(&unknown[0])), ("given_up".to_owned(), id(&unknown[1]))]);
    for (payment, closing) in [(&unknown[0], json!("expired")), (&unknown[1], Value::Null)] {
        assert_eq!(comes_to(&shop, payment, "unknown").await["closing"], closing);
    }
    assert!(alerts(&shop).await.contains(&is("payment_given_up", "warning")));
    // Who asks after that is answered, and opens no second task.
    let path = format!("/v1/payments/{}?ask=true", id(&unknown[1]));
    assert_eq!(shop.get(&path).await.ok()["state"], "unknown");
    assert_eq!(tasks(&shop).await.len(), 2);
}

#[tokio::test]
async fn what_the_page_shows_is_done() {
    let stage = Stage::opens().await;
    let (_, shop, bread) = stage.cast();
    let page = include_str!("../../../docs/payments.md");
    let (_, rest) = page.split_once("POST /v1/payments/{payment}/force\n").expect("an example");
    let body: Value = serde_json::from_str(rest.split("\n```").next().expect("its end")).expect("JSON");
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    let forced = shop.post(&of(&payment, "force"), body.clone()).await.ok();
    assert_eq!(forced["forced"]["reason"], body["reason"]);
    for word in
        ["forced_unpaid", "given_up", "payment_forced", "payment_forced_paid", "force_payments", "capture_minor"]
    {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

#[tokio::test]
async fn what_could_not_be_paid_or_is_known_already_is_not_forced() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    let path = of(&payment, "force");
    for body in [json!({ "reason": "" }), json!({ "reason": "a".repeat(201) }), json!({ "reason": "a\nb" })] {
        assert_eq!(shop.post(&path, body).await.refused(422, "invalid")["errors"][0]["pointer"], "/reason");
    }
    shop.post(&path, json!({})).await.refused(422, "invalid_field");
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");

    // Twice with one key is once; with another it is too late.
    let (first, again) = (shop.post_once("one", &path, reason()).await, shop.post_once("one", &path, reason()).await);
    assert_eq!((first.ok(), &again.headers["idempotent-replayed"]), (again.ok(), &"true".parse().unwrap()));
    shop.post(&path, reason()).await.refused(409, "not_forcible");
    // Its provider has the last word, and nobody pays for the same sale once more.
    shop.post(&of(&payment, "cancel"), json!({})).await.refused(409, "payment_forced");
    asks(&shop, &sale, qris("midtrans")).await.refused(409, "sale_not_open");
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    shop.post(&path, reason()).await.refused(409, "not_forcible");

    // What is paid, what has ended, what was never asked for, and what is held.
    let sale = opens(&shop, bread).await;
    let canceled = asks(&shop, &sale, qris("xendit")).await.created();
    shop.post(&of(&canceled, "cancel"), json!({})).await.ok();
    shop.post(&of(&canceled, "force"), reason()).await.refused(409, "not_forcible");
    market.says("faults", json!({ "fault": "http_429", "provider": "midtrans", "on": "charge", "times": null })).await;
    let never_asked = asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!(never_asked["state"], "created", "{never_asked}");
    shop.post(&of(&never_asked, "force"), reason()).await.refused(409, "not_forcible");
    shop.post(&of(&never_asked, "cancel"), json!({})).await.ok();
    comes_to(&shop, &never_asked, "canceled").await;
    let mut held = card(market, "xendit", GOOD).await;
    held["hold"] = json!(true);
    let held = asks(&shop, &sale, held).await.created();
    proves(&held).await;
    comes_to(&shop, &held, "authorized").await;
    shop.post(&of(&held, "force"), reason()).await.refused(409, "not_forcible");
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn only_whoever_runs_the_outlet_forces_there() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let rival = market.hub.merchant("Saingan").await;
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    let path = of(&payment, "force");
    let body = || reason().to_string().into_bytes();
    rival.post(&path, reason()).await.refused(404, "not_found");
    let other = shop.till().await;
    let bound = |role, outlets: &[OutletId], register: Option<RegisterId>| {
        let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, StaffId::new(), role) };
        market.hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
    };
    for token in [
        bound(Role::Cashier, &[shop.outlet], Some(shop.register)),
        bound(Role::Manager, &[OutletId::new()], None),
        bound(Role::Manager, &[shop.outlet], Some(other)),
        bound(Role::Clerk, &[], None),
        bound(Role::Accountant, &[], None),
        bound(Role::Auditor, &[], None),
        bound(Role::Display, &[], None),
    ] {
        shop.post_as(&token, "key", &path, body()).await.refused(403, "denied");
    }
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    let manager = bound(Role::Manager, &[shop.outlet], None);
    let forced = shop.post_as(&manager, "key", &path, body()).await.ok();
    assert_eq!(forced["forced"]["reason"], reason()["reason"]);
}

#[tokio::test]
async fn a_part_that_is_forced_counts_once_and_is_not_called_off_with_the_rest() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let part = json!({ "method": "qris", "provider": "xendit", "amount_minor": 20_000 });
    let part = asks(&shop, &sale, part).await.created();
    forces(&shop, &part).await;
    let left = sale_of(&shop, &sale).await;
    assert_eq!((&left["state"], &left["due_minor"]), (&json!("open"), &json!(28_500)));
    let too_much = json!({ "method": "qris", "provider": "midtrans", "amount_minor": 28_501 });
    asks(&shop, &sale, too_much).await.refused(409, "amount_exceeds_due");
    let rest = asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!(rest["amount_minor"], 28_500);
    let cash = json!({ "method": "cash", "amount_minor": 28_500 });
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
    comes_to(&shop, &rest, "canceled").await;
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    let open = comes_to(&shop, &part, "pending").await;
    assert_eq!(open["closing"], Value::Null, "{open}");
    market.pays(&part).await;
    comes_to(&shop, &part, "paid").await;
    assert_eq!(recorded(market, &shop, &part).await, ("1".to_owned(), 1));
    assert!(tasks(&shop).await.is_empty());
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn force_and_a_notification_at_once_record_the_money_once() {
    let stage = Stage::with(Market::opens().await, "30").await;
    let (market, shop, bread) = stage.cast();
    let database = &market.hub.database;
    let mut forced = 0;
    for round in 0..16_u64 {
        let provider = if round % 2 == 0 { "midtrans" } else { "xendit" };
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let path = of(&payment, "force");
        let forcing = shop.post(&path, reason());
        let answer = if round < 8 {
            // Both wait for the sale, now the one and now the other first, and each gets it in its turn.
            let is_forced_first = round / 2 % 2 == 0;
            if !is_forced_first {
                // Its provider has told, and is being asked.
                market.says("faults", json!({ "fault": "slow_s", "payment": payment["id"], "seconds": 4 })).await;
                market.pays(&payment).await;
                is_slow(market, provider).await;
            }
            if is_forced_first && provider == "midtrans" {
                // That it can be paid was looked at, and the pace allows the next look.
                leave_in_peace(market).await;
                tokio::time::sleep(Duration::from_millis(1_100)).await;
            }
            let lock = format!("select from sales where sale_id = '{}' for update", sale["id"].as_str().unwrap());
            let holder = database.held(&lock).await;
            let letting_go = async || {
                locked_out(database, 2).await;
                let_go(holder).await;
            };
            let answer = if is_forced_first {
                let paying = async {
                    locked_out(database, 1).await;
                    market.pays(&payment).await;
                    letting_go().await;
                };
                tokio::join!(forcing, paying).0
            } else {
                locked_out(database, 1).await;
                tokio::join!(forcing, letting_go()).0
            };
            assert_eq!(answer.status, if is_forced_first { 200 } else { 409 }, "{answer:?}");
            answer
        } else {
            // Or as it happens.
            let answer = async {
                tokio::time::sleep(Duration::from_millis((round - 8) * 8)).await;
                forcing.await
            };
            tokio::join!(market.pays(&payment), answer).1
        };
        match answer.status {
            200 => forced += 1,
            _ => _ = answer.refused(409, "not_forcible"),
        }
        comes_to(&shop, &payment, "paid").await;
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], sold["tenders"].as_array().map(Vec::len)), (&json!("completed"), Some(1)));
        assert_eq!(recorded(market, &shop, &payment).await, ("1".to_owned(), 1));
    }
    assert!(tasks(&shop).await.is_empty());
    assert_eq!(alerts(&shop).await, vec![is("payment_forced", "warning"); forced]);
    assert_eq!(shop.stock_of(bread).await, "14.000");
    market.hub.ledgers_add_up().await;
}
