//! Payments that a provider carries, from the cashier's "QRIS, please" to LUNAS on the screen, with simulated providers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tillwire_channels::{OutletId, PaymentId, Role, SaleId};
use tillwire_simulators::{Options, Simulators};

use self::refunds::{late, settles, task_of};
use super::support::buses::until;
use super::support::hub::{Answer, Shop, request};
use super::support::invariants::adds_up;
use super::support::providers::{
    MIDTRANS_ID, MIDTRANS_KEY, Market, Stage, XENDIT_ID, XENDIT_KEY, XENDIT_TOKEN, comes_to,
};
use super::support::services::postgres::{let_go, locked_out};
use super::support::staged::Staged;
use super::support::vault;

mod believed;
mod cards;
mod cuts;
mod forced;
mod gone;
mod holds;
mod keys;
mod knobs;
mod nodes;
mod orders;
mod polling;
mod reconciliation;
mod refunds;
mod returns;
mod secrets;
mod silent;
mod storms;
mod tills;
mod turns;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sale of one loaf that is open.
async fn opens(shop: &Shop<'_>, variant: &str) -> Value {
    let sale = json!({ "register": shop.register, "open": true, "lines": [{ "variant": variant, "quantity": "1" }] });
    let opened = shop.post(&shop.sales(), sale).await.created();
    assert_eq!(opened["state"], "open", "{opened}");
    opened
}

async fn asks(shop: &Shop<'_>, sale: &Value, mut payment: Value) -> Answer {
    payment["mode"] = json!("test");
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().expect("an id")), payment).await
}

fn qris(provider: &str) -> Value {
    json!({ "method": "qris", "provider": provider })
}

async fn sale_of(shop: &Shop<'_>, sale: &Value) -> Value {
    shop.get(&format!("/v1/sales/{}", sale["id"].as_str().expect("an id"))).await.ok()
}

async fn tasks(shop: &Shop<'_>) -> Vec<Value> {
    let page = shop.get("/v1/payment-tasks").await.ok();
    page["items"].as_array().expect("tasks").clone()
}

fn kinds(tasks: &[Value]) -> Vec<&str> {
    tasks.iter().map(|task| task["kind"].as_str().expect("a kind")).collect()
}

/// What persons have to settle of a payment, each of which was told by an alert of its own.
async fn matters(shop: &Shop<'_>, payment: &Value) -> Vec<String> {
    let open = tasks(shop).await.into_iter().filter(|task| task["payment"] == payment["id"]);
    let mut open: Vec<String> = open.map(|task| task["kind"].as_str().expect("a kind").to_owned()).collect();
    open.sort();
    let alerts = shop.journal_of(&["alert.raised"]).await.into_iter().map(|(_, event)| event["data"].clone());
    let alerts = alerts.filter(|alert| alert["subject"] == payment["id"]);
    let mut alerts: Vec<String> = alerts.map(|alert| alert["alert"].as_str().expect("an alert").to_owned()).collect();
    alerts.sort();
    assert_eq!(alerts, open.iter().map(|kind| format!("payment_{kind}")).collect::<Vec<_>>());
    open
}

#[tokio::test]
async fn a_customer_scans_and_the_cashiers_screen_says_that_it_is_paid() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, left) in [("midtrans", "9.000"), ("xendit", "8.000")] {
        let sale = opens(&shop, bread).await;
        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        assert_eq!((&payment["state"], &payment["amount_minor"]), (&json!("pending"), &json!(48_500)), "{payment}");
        let shown = screen.hears_next("payment.changed").await;
        assert_eq!((&shown.data()["state"], &shown.data()["shown"]), (&json!("pending"), &payment["shown"]));
        assert!(payment["shown"]["text"].as_str().expect("a code").starts_with("000201"), "{payment}");
        let image = |kind: &str| format!("/v1/payments/{}/qr.{kind}", payment["id"].as_str().unwrap());
        assert!(shop.get(&image("png")).await.body.starts_with(b"\x89PNG"));
        assert!(shop.get(&image("svg")).await.body.starts_with(b"<svg"));

        market.pays(&payment).await;
        let paid = screen.hears_next("payment.captured").await;
        assert_eq!((&paid.data()["payment"], &paid.data()["method"]), (&payment["id"], &json!("qris")));
        let paid = comes_to(&shop, &payment, "paid").await;
        assert!(paid["paid_at"].is_string() && paid["issuer"].is_string(), "{paid}");
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], &sold["tenders"][0]["payment"]), (&json!("completed"), &payment["id"]));
        let level = shop.get(&format!("/v1/outlets/{}/stock/{bread}", shop.outlet)).await.ok();
        assert_eq!((&level["on_hand"], &level["reserved"]), (&json!(left), &json!("0.000")));
        shop.get(&image("svg")).await.refused(404, "not_found");
    }
    assert!(tasks(&shop).await.is_empty());
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn transfers_show_a_number_or_a_bill() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, bank, kind) in [
        ("midtrans", "bni", "virtual_account"),
        ("midtrans", "permata", "virtual_account"),
        ("midtrans", "mandiri", "bill"),
        ("xendit", "bri", "virtual_account"),
    ] {
        let sale = opens(&shop, bread).await;
        let payment = json!({ "method": "transfer", "provider": provider, "bank": bank });
        let payment = asks(&shop, &sale, payment).await.created();
        assert_eq!((&payment["state"], &payment["shown"]["type"]), (&json!("pending"), &json!(kind)), "{payment}");
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
}

#[tokio::test]
async fn p3_a_charge_that_is_never_answered_is_made_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, charge) in [("midtrans", "charge"), ("xendit", "create")] {
        let id = PaymentId::new();
        let fault = json!({ "fault": "timeout_after_commit", "on": charge, "provider": provider, "seconds": 1 });
        market.says("faults", fault).await;
        let sale = opens(&shop, bread).await;
        let mut payment = qris(provider);
        payment["id"] = json!(id);
        let payment = asks(&shop, &sale, payment).await.created();
        assert_eq!(payment["state"], "unknown", "{payment}");
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(market.asked(provider, charge).await, 1);
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
}

#[tokio::test]
async fn p5_what_is_paid_after_its_end_is_for_a_person() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, ends) in
        [("midtrans", "canceled"), ("midtrans", "expired"), ("xendit", "canceled"), ("xendit", "expired")]
    {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        if ends == "canceled" {
            let cancel = format!("/v1/payments/{}/cancel", payment["id"].as_str().unwrap());
            let canceled = shop.post(&cancel, json!({})).await.ok();
            assert_eq!(canceled["state"], "canceled", "{canceled}");
        } else {
            market.says("expire_now", json!({ "id": payment["id"] })).await;
            comes_to(&shop, &payment, "expired").await;
        }
        market.says("pay", json!({ "id": payment["id"], "late": true })).await;
        comes_to(&shop, &payment, "paid_late").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "open", "nothing is completed by itself");
        // The customer pays in cash meanwhile.
        let cash = json!({ "method": "cash", "amount_minor": 48_500 });
        shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        assert_eq!(matters(&shop, &payment).await, ["paid_late"], "{provider} {ends}");
    }
}

#[tokio::test]
async fn whoever_calls_a_payment_off_hears_how_it_stands_then_whoever_is_at_it() {
    let stage = Stage::opens().await;
    let (_, shop, bread) = stage.cast();
    for _ in 0..10 {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris("xendit")).await.created();
        let path = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
        let (look, cancel) = (format!("{path}?ask=true"), format!("{path}/cancel"));
        let looks = futures_util::future::join_all([shop.get(&look), shop.get(&look), shop.get(&look)]);
        let (canceled, _) = tokio::join!(shop.post(&cancel, json!({})), looks);
        assert_eq!(canceled.ok()["state"], "canceled");
        let nothing = json!({ "reason": "nobody paid" });
        shop.post(&format!("/v1/sales/{}/void", sale["id"].as_str().unwrap()), nothing).await.ok();
    }
}

#[tokio::test]
async fn p6_forgeries_move_no_money() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let account = accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
        let path = account["webhook_path"].as_str().unwrap();
        // Signed with somebody else's key, or not at all.
        let body = json!({ "order_id": payment["id"], "status_code": "200", "gross_amount": "48500.00",
                           "transaction_status": "settlement", "signature_key": "0".repeat(128),
                           "event": "payment.capture", "data": { "reference_id": payment["id"], "status": "SUCCEEDED" } });
        for headers in [&[][..], &[("x-callback-token", "not-the-token")]] {
            assert_eq!(market.notifies(path, headers, &body.to_string()).await, 401);
        }
        // Rightly signed, and not true: another amount, and another state. To Midtrans' connector both are one notification, of
        // which the first counts.
        let paid = if provider == "midtrans" { "settlement" } else { "SUCCEEDED" };
        market.says("forge", json!({ "id": payment["id"], "status": paid, "amount": 1 })).await;
        let of_it = async || tasks(&shop).await.iter().any(|task| task["payment"] == payment["id"]);
        until(async || of_it().await.then_some(())).await;
        market.says("forge", json!({ "id": payment["id"], "status": paid })).await;
        // Another merchant's.
        if provider == "xendit" {
            let body = json!({ "event": "payment.capture", "business_id": "somebody-else", "api_version": "v3",
                               "data": { "reference_id": payment["id"], "status": "SUCCEEDED", "currency": "IDR",
                                         "payment_id": "py-1", "payment_request_id": "pr-1", "request_amount": 48_500 } });
            let token = [("x-callback-token", XENDIT_TOKEN)];
            assert_eq!(market.notifies(path, &token, &body.to_string()).await, 200);
        }
        let elsewhere = path.replace(&shop.merchant.to_string(), &tillwire_channels::MerchantId::new().to_string());
        assert_eq!(market.notifies(&elsewhere, &[("x-callback-token", XENDIT_TOKEN)], &body.to_string()).await, 404);
        let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
        assert_eq!(shop.get(&check).await.ok()["state"], "pending");
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
        // The truth is heard all the same.
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        let expected: &[&str] =
            if provider == "midtrans" { &["amount_differs"] } else { &["amount_differs", "merchant_differs"] };
        assert_eq!(matters(&shop, &payment).await, expected, "{provider}");
    }
    let forged = market.hub.database.psql("select count(*) from provider_inbox where outcome = 'forged'").await;
    assert_eq!(forged.trim(), "4");
}

#[tokio::test]
async fn p6_money_of_another_amount_is_never_taken_for_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        market.says("faults", json!({ "fault": "amount_mismatch", "payment": payment["id"], "amount": 1_000 })).await;
        market.pays(&payment).await;
        let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
        let began = Instant::now();
        while !tasks(&shop).await.iter().any(|task| task["payment"] == payment["id"]) {
            assert!(began.elapsed() < Duration::from_secs(30), "nobody is told");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let checked = shop.get(&check).await.ok();
        assert_eq!(checked["state"], "pending", "{checked}");
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
        assert_eq!(matters(&shop, &payment).await, ["amount_differs"], "{provider}");
    }
}

#[tokio::test]
async fn a_code_of_another_payment_is_shown_to_nobody() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, fault) in [("midtrans", "qr_wrong_amount"), ("xendit", "qr_bad_crc")] {
        let sale = opens(&shop, bread).await;
        market.says("faults", json!({ "fault": fault, "provider": provider })).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        assert_eq!(payment["shown"], Value::Null, "{payment}");
        comes_to(&shop, &payment, "canceled").await;
        // The next attempt is a good one.
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        assert_eq!(payment["state"], "pending", "{payment}");
    }
    assert_eq!(kinds(&tasks(&shop).await), ["code_differs", "code_differs"]);
}

#[tokio::test]
async fn a_payment_that_nobody_makes_is_called_off_in_its_time() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let id = payment["id"].as_str().unwrap();
        let over = format!("update payment_attempts set expires_at = now(), next_at = now() where payment_id = '{id}'");
        market.hub.database.psql(&over).await;
        let ended = comes_to(&shop, &payment, if provider == "midtrans" { "expired" } else { "canceled" }).await;
        assert_eq!(ended["closing"], Value::Null, "nobody asked for it: its time was over");
        assert_eq!(sale_of(&shop, &sale).await["state"], "open", "the customer may pay in another way");
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_sale_is_voided_when_nobody_can_pay_for_it_any_more() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let void = format!("/v1/sales/{}/void", sale["id"].as_str().unwrap());
    let reason = json!({ "reason": "Berubah pikiran" });
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    shop.post(&void, reason.clone()).await.refused(409, "payment_under_way");
    // Nor does it expire meanwhile, when one does that nobody pays for.
    let nobodys = opens(&shop, bread).await;
    market.hub.database.psql("update sales set expires_at = now()").await;
    until(async || (sale_of(&shop, &nobodys).await["state"] == "expired").then_some(())).await;
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    market.hub.database.psql("update sales set expires_at = now() + interval '1 hour'").await;
    let cancel = format!("/v1/payments/{}/cancel", payment["id"].as_str().unwrap());
    assert_eq!(shop.post(&cancel, json!({})).await.ok()["state"], "canceled");
    assert_eq!(shop.post(&void, reason).await.ok()["state"], "voided");
    // Who scanned before is heard all the same.
    market.says("pay", json!({ "id": payment["id"], "late": true })).await;
    comes_to(&shop, &payment, "paid_late").await;
    assert_eq!(kinds(&tasks(&shop).await), ["paid_late"]);
}

#[tokio::test]
async fn a_sale_that_is_paid_leaves_no_code_to_be_paid_by() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let part = json!({ "method": "qris", "provider": provider, "amount_minor": 20_000 });
        let (part, rest) =
            (asks(&shop, &sale, part).await.created(), asks(&shop, &sale, qris(provider)).await.created());
        assert_eq!(rest["amount_minor"], 28_500);
        market.pays(&part).await;
        comes_to(&shop, &part, "paid").await;
        let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
        let cash = |id: &Value| json!({ "id": id, "method": "cash", "amount_minor": 28_500 });
        shop.post(&path, cash(&rest["id"])).await.refused(409, "payment_exists");
        shop.post(&path, cash(&json!(PaymentId::new()))).await.created();
        comes_to(&shop, &rest, "canceled").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn what_a_provider_cannot_do_is_refused_before_it_is_asked() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let gold = shop.stocked("emas", 20_000_000, "10").await;
    let sale = opens(&shop, &gold).await;
    let refused = async |body: Value, status: u16, code: &str, pointer: &str| {
        let problem = asks(&shop, &sale, body).await.refused(status, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    };
    let qris_of = |amount: i64| json!({ "method": "qris", "provider": "xendit", "amount_minor": amount });
    let transfer = |bank: Option<&str>| json!({ "method": "transfer", "provider": "midtrans", "bank": bank });
    refused(qris("midtrans"), 422, "amount_too_large", "/amount_minor").await;
    refused(qris_of(30_000_000), 422, "amount_too_large", "/amount_minor").await;
    refused(transfer(None), 422, "bank_missing", "/bank").await;
    refused(transfer(Some("bsi")), 422, "unsupported_bank", "/bank").await;
    refused(json!({ "method": "cash", "provider": "midtrans" }), 422, "unsupported_method", "/method").await;
    refused(json!({ "method": "card", "provider": "midtrans" }), 422, "card_token_required", "/card_token").await;
    refused(json!({ "method": "cash", "amount_minor": 1 }), 422, "provider_missing", "/mode").await;
    // Of what is due, what is being paid already is asked for nowhere else.
    asks(&shop, &sale, qris_of(9_000_000)).await.created();
    let too_much = json!({ "method": "transfer", "provider": "xendit", "bank": "bri", "amount_minor": 11_000_001 });
    refused(too_much, 409, "amount_exceeds_due", "/amount_minor").await;
    let asked = (market.asked("midtrans", "charge").await, market.asked("xendit", "create").await);
    assert_eq!(asked, (0, 1), "for the one that was not refused");
    let ways = shop.get(&format!("/v1/outlets/{}/payment-methods", shop.outlet)).await.ok();
    let ways = ways.as_array().unwrap();
    assert!(
        ways.iter()
            .any(|way| way["provider"] == "midtrans" && way["method"] == "bank_transfer" && way["bank"] == "mandiri"),
        "{ways:?}"
    );
}

#[tokio::test]
async fn what_the_page_shows_is_done() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let page = include_str!("../../docs/payments.md");
    let shown: Vec<&str> =
        page.split("```json\n").skip(1).map(|rest| rest.split("```").next().expect("its end")).collect();
    assert_eq!(shown.len(), 2);
    for body in shown {
        let sale = opens(&shop, bread).await;
        let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
        let payment = shop.post(&path, serde_json::from_str(body).expect("JSON")).await.created();
        assert_eq!(payment["state"], "pending", "{payment}");
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
    }
    let word = |state: tillwire::commerce::payments::State| format!("`{}`", state.as_str());
    for state in tillwire::commerce::payments::State::ALL {
        assert!(page.contains(&word(state)), "the page does not know {state}");
    }
}

#[tokio::test]
async fn what_is_told_twice_at_once_and_out_of_order_is_done_once() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    for (provider, paid) in [("midtrans", "settlement"), ("xendit", "payment.capture")] {
        for fault in [
            json!({ "fault": "duplicate", "n": 5, "concurrent": true, "on": paid }),
            json!({ "fault": "reorder", "provider": provider }),
            json!({ "fault": "late_failure", "provider": provider }),
            json!({ "fault": "case_change", "provider": provider }),
            json!({ "fault": "extra_fields", "provider": provider }),
            json!({ "fault": "null_fields", "provider": provider }),
            json!({ "fault": "unknown_event", "provider": provider }),
            json!({ "fault": "hub_503", "provider": provider }),
        ] {
            market.says("faults", fault.clone()).await;
            let sale = opens(&shop, bread).await;
            let payment = asks(&shop, &sale, qris(provider)).await.created();
            market.pays(&payment).await;
            comes_to(&shop, &payment, "paid").await;
            let sold = sale_of(&shop, &sale).await;
            assert_eq!(
                (&sold["state"], sold["tenders"].as_array().map(Vec::len)),
                (&json!("completed"), Some(1)),
                "{fault}"
            );
        }
    }
    let captured = shop.journal_of(&["payment.captured"]).await;
    assert_eq!(captured.len(), 16, "each once");
    assert!(tasks(&shop).await.is_empty());
    // What is about nothing of ours is heard out: at Midtrans nobody signs it.
    let heard = "select string_agg(outcome, ' ' order by outcome) from provider_inbox
                 where outcome not in ('applied', 'duplicate')";
    until(async || (market.hub.database.psql(heard).await.trim() == "ignored unknown").then_some(())).await;
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn p11_what_the_bank_takes_back_is_said_aloud() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let transfer = json!({ "method": "transfer", "provider": "midtrans", "bank": "permata" });
    let payment = asks(&shop, &sale, transfer).await.created();
    market.says("faults", json!({ "fault": "reversal", "payment": payment["id"], "seconds": 120 })).await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    let mut till = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
    let mut owner = shop.screen(&[&format!("alerts/{}", shop.outlet)]).await;
    market.says("clock", json!({ "advance_s": 120 })).await;
    let told = till.hears_next("payment.changed").await;
    assert_eq!((&told.data()["payment"], &told.data()["state"]), (&payment["id"], &json!("reversed")));
    let alert = owner.hears_next("alert.raised").await;
    assert_eq!((&alert.data()["alert"], &alert.data()["subject"]), (&json!("payment_reversed"), &payment["id"]));
    comes_to(&shop, &payment, "reversed").await;
    assert_eq!(matters(&shop, &payment).await, ["reversed"], "and once");
}

#[tokio::test]
async fn a_part_that_its_bank_takes_back_is_due_again() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let transfer = json!({ "method": "transfer", "provider": "midtrans", "bank": "permata", "amount_minor": 20_000 });
    let payment = asks(&shop, &sale, transfer).await.created();
    market.says("faults", json!({ "fault": "reversal", "payment": payment["id"], "seconds": 120 })).await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    assert_eq!(sale_of(&shop, &sale).await["due_minor"], 28_500);
    market.says("clock", json!({ "advance_s": 120 })).await;
    comes_to(&shop, &payment, "reversed").await;
    let open = sale_of(&shop, &sale).await;
    let is = (&open["state"], &open["paid_minor"], &open["refunded_minor"], &open["due_minor"]);
    assert_eq!(is, (&json!("open"), &json!(20_000), &json!(20_000), &json!(48_500)), "{open}");
    let void = format!("/v1/sales/{}/void", sale["id"].as_str().unwrap());
    assert_eq!(shop.post(&void, json!({ "reason": "no" })).await.ok()["state"], "voided");
}

#[tokio::test]
async fn the_same_key_asks_once_and_another_body_is_refused() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    let body = json!({ "method": "qris", "provider": "xendit", "mode": "test" });
    let first = shop.post_once("one", &path, body.clone()).await;
    let again = shop.post_once("one", &path, body.clone()).await;
    assert_eq!(
        (&first.created()["id"], &first.created()["shown"]),
        (&again.created()["id"], &again.created()["shown"])
    );
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let mut other = body.clone();
    other["amount_minor"] = json!(1);
    shop.post_once("one", &path, other).await.refused(422, "idempotency_key_reused");
    shop.post_once("two", &path, body.clone()).await.refused(409, "nothing_due");
    assert_eq!(market.asked("xendit", "create").await, 1);
    // It is answered as it stands by now.
    market.pays(&first.created()).await;
    comes_to(&shop, &first.created(), "paid").await;
    assert_eq!(shop.post_once("one", &path, body).await.created()["state"], "paid");
}

#[tokio::test]
async fn payments_are_the_registers_own_and_the_merchants_alone() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let rival = market.hub.merchant("Saingan").await;
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    let id = payment["id"].as_str().unwrap();
    let (one, of_sale) = (format!("/v1/payments/{id}"), format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()));
    for path in
        [one.clone(), format!("{one}?ask=true"), format!("{one}/qr.svg"), format!("{one}/qr.png"), of_sale.clone()]
    {
        assert_eq!(shop.get(&path).await.status, 200, "{path}");
        rival.get(&path).await.refused(404, "not_found");
    }
    rival.post(&format!("{one}/cancel"), json!({})).await.refused(404, "not_found");
    rival
        .post(&of_sale, json!({ "method": "qris", "provider": "midtrans", "mode": "test" }))
        .await
        .refused(404, "not_found");
    // Who looks at walls asks for no payment and calls none off.
    for role in [Role::Display, Role::Auditor, Role::Clerk] {
        let token = market.hub.token(shop.merchant, role, &[]);
        let body = json!({ "method": "qris", "provider": "midtrans", "mode": "test" }).to_string().into_bytes();
        assert_eq!(shop.post_as(&token, "key", &of_sale, body).await.status, 403, "{role:?}");
        assert_eq!(shop.post_as(&token, "key", &format!("{one}/cancel"), b"{}".to_vec()).await.status, 403, "{role:?}");
    }
    // Nor does a cashier of another outlet.
    let elsewhere = market.hub.token(shop.merchant, Role::Cashier, &[OutletId::new()]);
    assert_eq!(shop.post_as(&elsewhere, "key", &format!("{one}/cancel"), b"{}".to_vec()).await.status, 403);
    assert_eq!(shop.get_as(&elsewhere, &one).await.status, 403);
    assert_eq!(shop.get_as(&elsewhere, "/v1/payment-tasks").await.status, 403);
    assert_eq!(shop.get(&one).await.ok()["state"], "pending");
}

#[tokio::test]
async fn where_money_moves_nobody_pays_with_play_money() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let mut live = vault::xendit("live-business", "x", &["token"]);
    live["secret_key"] = json!("xnd_production_a-key-that-is-long-enough");
    shop.post("/v1/provider-accounts", json!({ "credentials": live, "mode": "live" })).await.created();
    let sale = opens(&shop, bread).await;
    let refused = asks(&shop, &sale, qris("xendit")).await.refused(409, "live_account");
    assert_eq!(refused["errors"][0]["pointer"], "/mode");
    // Nor at another provider: of what it pays nobody can tell that it is none.
    asks(&shop, &sale, qris("midtrans")).await.refused(409, "live_account");
    assert_eq!(market.asked("xendit", "create").await + market.asked("midtrans", "charge").await, 0);
    // Where no real money moves it is a rehearsal.
    let (other, cake) = (market.shop("Toko Kue").await, "kue");
    let cake = other.stocked(cake, 48_500, "10").await;
    let sale = opens(&other, &cake).await;
    asks(&other, &sale, qris("midtrans")).await.created();
}

#[tokio::test]
async fn play_money_that_was_late_pays_nothing_where_money_moves() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let payment = late(market, &shop, bread, "midtrans").await;
    let mut live = vault::xendit("live-business", "x", &["token"]);
    live["secret_key"] = json!("xnd_production_a-key-that-is-long-enough");
    shop.post("/v1/provider-accounts", json!({ "credentials": live, "mode": "live" })).await.created();
    let sale = opens(&shop, bread).await;
    let task = task_of(&shop, &payment, "paid_late").await;
    let accepted = json!({ "resolution": "accepted", "note": "Untuk roti hari ini", "sale": sale["id"] });
    let refused = settles(&shop, &task, accepted).await.refused(409, "live_account");
    assert_eq!(refused["errors"][0]["pointer"], "/resolution");
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    settles(&shop, &task, json!({ "resolution": "refunded", "note": "Uang mainan" })).await.ok();
}

#[tokio::test]
async fn the_last_payment_that_a_sale_has_room_for_pays_all_of_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    for _ in 0..17 {
        shop.post(&path, json!({ "method": "cash", "amount_minor": 100 })).await.created();
    }
    let part = |amount: i64| json!({ "method": "qris", "provider": "xendit", "amount_minor": amount });
    // What is asked for counts as if it were paid.
    let first = asks(&shop, &sale, part(1_000)).await.created();
    asks(&shop, &sale, part(1_000)).await.created();
    let refused = asks(&shop, &sale, part(1_000)).await.refused(409, "too_many_payments");
    assert_eq!(refused["errors"][0]["pointer"], "/amount_minor", "{refused}");
    let cash = json!({ "method": "cash", "amount_minor": 100 });
    shop.post(&path, cash).await.refused(409, "too_many_payments");
    let last = asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!(last["amount_minor"], 48_500 - 1_700 - 2_000, "{last}");
    for payment in [&first, &last] {
        market.pays(payment).await;
        comes_to(&shop, payment, "paid").await;
    }
    assert_eq!(sale_of(&shop, &sale).await["state"], "open", "the one before the last may fail");
}

#[tokio::test]
async fn what_is_left_is_asked_for_if_its_provider_carries_that_much() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Emas").await;
    let gold = shop.stocked("emas", 20_000_000, "10").await;
    let sale = opens(&shop, &gold).await;
    // All of it is more than a code may be of.
    asks(&shop, &sale, qris("midtrans")).await.refused(422, "amount_too_large");
    let transfer = json!({ "method": "transfer", "provider": "xendit", "bank": "bri", "amount_minor": 15_000_000 });
    asks(&shop, &sale, transfer).await.created();
    let rest = asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!((&rest["state"], &rest["amount_minor"]), (&json!("pending"), &json!(5_000_000)), "{rest}");
}

#[tokio::test]
async fn what_is_due_still_is_told_with_each_payment() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
    let part = json!({ "method": "qris", "provider": "xendit", "amount_minor": 20_000 });
    let part = asks(&shop, &sale, part).await.created();
    market.pays(&part).await;
    assert_eq!(screen.hears_next("payment.captured").await.data()["due_minor"], 28_500);
    let cash = json!({ "method": "cash", "amount_minor": 28_500 });
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
    assert_eq!(screen.hears_next("payment.captured").await.data()["due_minor"], 0);
    // A sale that is paid as it is rung up.
    shop.sells(bread, 48_500).await;
    assert_eq!(screen.hears_next("payment.captured").await.data()["due_minor"], 0);
}

/// Every step of a payment takes a lock that somebody else holds in turn; there the hub is killed. What its provider has been
/// asked for by then, or has told, is neither lost nor done twice.
#[tokio::test]
async fn p7_a_hub_that_is_killed_at_any_step_takes_each_payment_once() {
    let (staged, mut hub) = Staged::starts().await;
    let steps =
        ["payment_attempts", "call", "provider_inbox", "provider_notices", "payments", "stock_levels", "journal_heads"];
    for (at, step) in steps.into_iter().enumerate() {
        let provider = if at % 2 == 0 { "midtrans" } else { "xendit" };
        let (sale, payment) = (staged.opens_sale("1").await, PaymentId::new());
        let path = format!("/v1/sales/{sale}/payments");
        let (key, body) =
            (format!("ask-{step}"), json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" }));
        let is_known = async || staged.shows("open").await.to_string().contains(&payment.to_string());
        // Again if it takes too long, until nobody is there.
        let asking = async { while staged.till.post(&key, &path, &body).await.is_ok() {} };
        if step == "call" {
            // It is done there, and nobody lives to hear it.
            staged.says("faults", json!({ "fault": "timeout_after_commit", "on": "create", "seconds": 20 })).await;
            let killing = async {
                until(async || is_known().await.then_some(())).await;
                hub.kill().await;
            };
            tokio::join!(asking, killing);
        } else if step == "payment_attempts" {
            let holder = staged.database.locks(step).await;
            let killing = async {
                locked_out(&staged.database, 2).await; // One is whoever looks what is due.
                hub.kill().await;
                let_go(holder).await;
            };
            tokio::join!(asking, killing);
        } else {
            staged.at_last(&key, &path, &body).await;
            let holder = staged.database.locks(step).await;
            staged.says("pay", json!({ "id": payment })).await;
            locked_out(&staged.database, if step == "provider_inbox" { 2 } else { 1 }).await;
            hub.kill().await;
            let_go(holder).await;
        }
        hub = staged.restarts().await;
        if step == "payment_attempts" || step == "call" {
            staged.at_last(&key, &path, &body).await;
            until(async || is_known().await.then_some(())).await;
            staged.says("pay", json!({ "id": payment })).await;
        }
        staged.comes_to(payment, "paid").await;
        assert_eq!(staged.sale_is(sale).await, "completed", "{step}");
        adds_up(&staged.database).await;
    }
    let twice = "select count(*) from (select 1 from payments group by sale_id having count(*) <> 1) twice";
    assert_eq!(staged.database.psql(twice).await.trim(), "0");
    assert_eq!(staged.database.psql("select count(*) from payment_tasks").await.trim(), "0");
    assert_eq!((staged.requests("charge").await.len(), staged.requests("create").await.len()), (4, 3), "each once");
    hub.kill().await;
}
