//! Payments that a provider carries, from the cashier's "QRIS, please" to LUNAS on the screen, with simulated providers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire_channels::{OutletId, PaymentId, Role, SaleId};
use tillwire_simulators::{Options, Simulators};

use super::open_sales::{adds_up, let_go, locked_out};
use super::support::buses::until;
use super::support::hub::{Answer, Shop, request};
use super::support::process::{TillwireProcess, environment};
use super::support::providers::{
    MIDTRANS_ID, MIDTRANS_KEY, Market, Stage, XENDIT_ID, XENDIT_KEY, XENDIT_TOKEN, comes_to,
};
use super::support::services::postgres::{Database, Postgres};
use super::support::till::Till;
use super::support::vault;

mod believed;
mod cards;
mod cuts;
mod forced;
mod holds;
mod keys;
mod knobs;
mod nodes;
mod orders;
mod polling;
mod reconciliation;
mod refunds;
mod secrets;
mod storms;

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
async fn p4_what_no_notification_brings_is_asked_for() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    assert_eq!(market.hub.database.psql("select count(*) from provider_inbox").await.trim(), "0");
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
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        let cancel = format!("/v1/payments/{}/cancel", payment["id"].as_str().unwrap());
        let canceled = shop.post(&cancel, json!({})).await.ok();
        assert_eq!(canceled["state"], "canceled", "{canceled}");
        market.says("pay", json!({ "id": payment["id"], "late": true })).await;
        comes_to(&shop, &payment, "paid_late").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "open", "nothing is completed by itself");
        // The customer pays in cash meanwhile.
        let cash = json!({ "method": "cash", "amount_minor": 48_500 });
        shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    assert_eq!(kinds(&tasks(&shop).await), ["paid_late", "paid_late"]);
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
        // Rightly signed, and not true: another state, another amount.
        let paid = if provider == "midtrans" { "settlement" } else { "SUCCEEDED" };
        market.says("forge", json!({ "id": payment["id"], "status": paid, "amount": 1 })).await;
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
    }
    let kinds_of = tasks(&shop).await;
    assert!(
        kinds(&kinds_of).contains(&"amount_differs") && kinds(&kinds_of).contains(&"merchant_differs"),
        "{kinds_of:?}"
    );
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
    }
    assert_eq!(kinds(&tasks(&shop).await), ["amount_differs", "amount_differs"]);
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
    // Nor does it expire meanwhile.
    market.hub.database.psql("update sales set expires_at = now()").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
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
    let refused = async |body: Value, code: &str, pointer: &str| {
        let problem = asks(&shop, &sale, body).await;
        let status = problem.status;
        let problem = problem.refused(status, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    };
    refused(qris("midtrans"), "amount_too_large", "/amount_minor").await;
    refused(
        json!({ "method": "qris", "provider": "xendit", "amount_minor": 30_000_000 }),
        "amount_too_large",
        "/amount_minor",
    )
    .await;
    refused(json!({ "method": "transfer", "provider": "midtrans" }), "bank_missing", "/bank").await;
    refused(json!({ "method": "transfer", "provider": "midtrans", "bank": "bsi" }), "unsupported_bank", "/bank").await;
    refused(json!({ "method": "cash", "provider": "midtrans" }), "unsupported_method", "/method").await;
    refused(json!({ "method": "card", "provider": "midtrans" }), "card_token_required", "/card_token").await;
    refused(json!({ "method": "cash", "amount_minor": 1 }), "provider_missing", "/mode").await;
    // Of what is due, what is being paid already is asked for nowhere else.
    asks(&shop, &sale, json!({ "method": "qris", "provider": "xendit", "amount_minor": 9_000_000 })).await.created();
    refused(
        json!({ "method": "transfer", "provider": "xendit", "bank": "bri", "amount_minor": 11_000_001 }),
        "amount_exceeds_due",
        "/amount_minor",
    )
    .await;
    assert_eq!(market.asked("midtrans", "charge").await, 0);
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
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let bread = shop.stocked("roti", 48_500, "20").await;
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
            let sale = opens(&shop, &bread).await;
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
    market.says("faults", json!({ "fault": "reversal", "payment": payment["id"], "seconds": 6 })).await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    comes_to(&shop, &payment, "reversed").await;
    assert_eq!(kinds(&tasks(&shop).await), ["reversed"]);
    let alerts = shop.journal_of(&["alert.raised"]).await;
    assert_eq!((alerts.len(), &alerts[0].1["data"]["alert"]), (1, &json!("payment_reversed")));
}

#[tokio::test]
async fn a_part_that_its_bank_takes_back_is_due_again() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let transfer = json!({ "method": "transfer", "provider": "midtrans", "bank": "permata", "amount_minor": 20_000 });
    let payment = asks(&shop, &sale, transfer).await.created();
    market.says("faults", json!({ "fault": "reversal", "payment": payment["id"], "seconds": 6 })).await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    assert_eq!(sale_of(&shop, &sale).await["due_minor"], 28_500);
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
    let market = Market::opens().await;
    let (shop, rival) = (market.shop("Toko Roti").await, market.hub.merchant("Saingan").await);
    let bread = shop.stocked("roti", 48_500, "10").await;
    let sale = opens(&shop, &bread).await;
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
    asks(&shop, &sale, qris("midtrans")).await.created();
    assert_eq!(market.asked("xendit", "create").await, 0);
}

/// Every step of a payment takes a lock that somebody else holds in turn; there the hub is killed. What its provider has been
/// asked for by then, or has told, is neither lost nor done twice.
#[tokio::test]
async fn p7_a_hub_that_is_killed_at_any_step_takes_each_payment_once() {
    let market = Simulators::start(Options::default()).await.expect("providers");
    let says = async |what: &str, order: Value| {
        let headers = [("content-type", "application/json")];
        let body = order.to_string().into_bytes();
        request(market.midtrans, "POST", &format!("/_sim/{what}"), &headers, body).await.expect("an answer").ok()
    };
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    env.insert("TILLWIRE_VAULT_KEY_FILE", vault::key().display().to_string());
    env.insert("TILLWIRE_MIDTRANS_TEST_URL", market.midtrans_url());
    env.insert("TILLWIRE_XENDIT_TEST_URL", market.xendit_url());
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 100).await;
    for (provider, name, there, credentials) in [
        ("midtrans", "merchant_id", MIDTRANS_ID, vault::midtrans(MIDTRANS_ID, MIDTRANS_KEY)),
        ("xendit", "business_id", XENDIT_ID, vault::xendit(XENDIT_ID, XENDIT_KEY, &[XENDIT_TOKEN])),
    ] {
        let account = json!({ "credentials": credentials, "mode": "test" });
        let account = till.post(provider, "/v1/provider-accounts", &account).await.expect("an answer").created();
        let url = format!("http://{}{}", hub.public, account["webhook_path"].as_str().expect("a path"));
        says("accounts", json!({ "provider": provider, name: there, "webhook_urls": [url] })).await;
    }
    let at_last = async |key: &str, path: &str, body: &Value| {
        let started = Instant::now();
        loop {
            match till.post(key, path, body).await {
                Ok(answer) if answer.status < 300 => return answer.json(),
                Ok(answer) => assert!(answer.status == 409 || answer.status >= 500, "{answer:?}"),
                Err(_) => {}
            }
            assert!(started.elapsed() < PATIENCE, "{key} is not done");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let comes_to = async |payment: &PaymentId, state: &str| {
        let query = format!("select state from payment_attempts where payment_id = '{payment}'");
        let started = Instant::now();
        while database.psql(&query).await.trim() != state {
            assert!(started.elapsed() < PATIENCE, "it does not come to {state}, but {}", database.psql(&query).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Whoever held it is dead, and its lease is over in half a minute.
    let leases_end = async || {
        database.psql("update payment_attempts set leased_until = now() where leased_until is not null").await;
    };
    let steps =
        ["payment_attempts", "call", "provider_inbox", "provider_notices", "payments", "stock_levels", "journal_heads"];
    for (at, step) in steps.into_iter().enumerate() {
        let provider = if at % 2 == 0 { "midtrans" } else { "xendit" };
        let (sale, payment) = (SaleId::new(), PaymentId::new());
        let open = json!({ "id": sale, "register": till.register, "open": true,
                           "lines": [{ "variant": till.variant, "quantity": "1" }] });
        at_last(&format!("open-{step}"), &till.sales(), &open).await;
        let path = format!("/v1/sales/{sale}/payments");
        let (key, body) =
            (format!("ask-{step}"), json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" }));
        if step == "call" {
            // It is done there, and nobody lives to hear it.
            says("faults", json!({ "fault": "timeout_after_commit", "on": "create", "seconds": 20 })).await;
            let asked = async { drop(till.post(&key, &path, &body).await) };
            let killing = async {
                let open = async || {
                    let open =
                        request(market.midtrans, "GET", "/_sim/open", &[], vec![]).await.expect("an answer").ok();
                    open.to_string().contains(&payment.to_string()).then_some(())
                };
                until(open).await;
                hub.kill().await;
            };
            tokio::join!(asked, killing);
            hub = TillwireProcess::start(&["serve"], &env).await;
            leases_end().await;
            at_last(&key, &path, &body).await;
        } else if step == "payment_attempts" {
            let holder = lock(&database, step).await;
            let asked = async { drop(till.post(&key, &path, &body).await) };
            let killing = async {
                locked_out(&database, 2).await; // One is whoever looks what is due.
                hub.kill().await;
                let_go(holder).await;
            };
            tokio::join!(asked, killing);
            hub = TillwireProcess::start(&["serve"], &env).await;
            leases_end().await;
            at_last(&key, &path, &body).await;
        } else {
            at_last(&key, &path, &body).await;
            let holder = lock(&database, step).await;
            says("pay", json!({ "id": payment })).await;
            locked_out(&database, if step == "provider_inbox" { 2 } else { 1 }).await;
            hub.kill().await;
            let_go(holder).await;
            hub = TillwireProcess::start(&["serve"], &env).await;
            leases_end().await;
        }
        if step == "payment_attempts" || step == "call" {
            let started = Instant::now();
            // Once it is known there.
            while request(
                market.midtrans,
                "POST",
                "/_sim/pay",
                &[("content-type", "application/json")],
                json!({ "id": payment }).to_string().into_bytes(),
            )
            .await
            .expect("an answer")
            .status
                != 200
            {
                assert!(started.elapsed() < PATIENCE, "{provider} never heard of it");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        comes_to(&payment, "paid").await;
        let state = database.psql(&format!("select state from sales where sale_id = '{sale}'")).await;
        assert_eq!(state.trim(), "completed", "{step}");
        adds_up(&database).await;
    }
    let twice = "select count(*) from (select 1 from payments group by sale_id having count(*) <> 1) twice";
    assert_eq!(database.psql(twice).await.trim(), "0");
    assert_eq!(database.psql("select count(*) from payment_tasks").await.trim(), "0");
    let operations =
        request(market.midtrans, "GET", "/_sim/requests?operation=create", &[], vec![]).await.expect("an answer");
    let asked = String::from_utf8_lossy(&operations.body).matches("\"create\"").count();
    assert_eq!(asked, 3, "each once");
    hub.kill().await;
}

/// Nobody else comes to a table until the session that is answered lets go.
async fn lock(database: &Database, table: &str) -> PgConnection {
    let mut holder = PgConnection::connect(&database.url("postgres")).await.expect("a superuser");
    let lock = AssertSqlSafe(format!("begin; lock table {table} in access exclusive mode"));
    sqlx::raw_sql(lock).execute(&mut holder).await.expect("a lock");
    holder
}
