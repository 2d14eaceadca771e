//! Money that is gone: what was taken for paid and is not, what had gone back before it was heard of, and what goes back that
//! pays another sale.

use super::cards::{MIDTRANS_BASIC, asks_for_card, proves};
use super::forced::{alerts, forces, recorded};
use super::refunds::{BOTH, gives_back, late, refund_comes_to, refunds_there, settles, task_of, time_passes};
use super::*;

/// A sale of which a part was taken for paid.
async fn forced_in_part(shop: &Shop<'_>, bread: &str, provider: &str) -> (Value, Value) {
    let sale = opens(shop, bread).await;
    let part = json!({ "method": "qris", "provider": provider, "amount_minor": 20_000 });
    let part = asks(shop, &sale, part).await.created();
    forces(shop, &part).await;
    (sale, part)
}

/// Its time is over, and nobody has paid.
async fn ends(market: &Market, shop: &Shop<'_>, payment: &Value) {
    let id = payment["id"].as_str().unwrap();
    let over = format!("update payment_attempts set expires_at = now(), next_at = now() where payment_id = '{id}'");
    market.hub.database.psql(&over).await;
    let ended = if payment["provider"] == "midtrans" { "expired" } else { "canceled" };
    comes_to(shop, payment, ended).await;
    task_of(shop, payment, "forced_unpaid").await;
}

async fn is_paid_late(market: &Market, payment: &Value) {
    market.says("pay", json!({ "id": payment["id"], "late": true, "issuer": "DANA" })).await;
}

async fn pays_cash(shop: &Shop<'_>, sale: &Value, amount: i64) {
    let cash = json!({ "method": "cash", "amount_minor": amount });
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
}

async fn void(shop: &Shop<'_>, sale: &Value) -> Answer {
    shop.post(&format!("/v1/sales/{}/void", sale["id"].as_str().unwrap()), json!({ "reason": "Batal" })).await
}

/// What was paid of a sale, what of that is gone, and what is due.
async fn money_of(shop: &Shop<'_>, sale: &Value) -> [i64; 3] {
    let sale = sale_of(shop, sale).await;
    ["paid_minor", "refunded_minor", "due_minor"].map(|name| sale[name].as_i64().expect("an amount"))
}

#[tokio::test]
async fn a_part_that_was_forced_and_is_not_paid_is_due_again_and_its_sale_can_be_voided() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, part) = forced_in_part(&shop, bread, provider).await;
        void(&shop, &sale).await.refused(409, "sale_has_payments");
        ends(market, &shop, &part).await;
        assert_eq!(money_of(&shop, &sale).await, [20_000, 20_000, 48_500]);
        assert_eq!(void(&shop, &sale).await.ok()["state"], "voided");
        // Should it be paid after all, it is money that fits no sale.
        is_paid_late(market, &part).await;
        comes_to(&shop, &part, "paid_late").await;
        let task = task_of(&shop, &part, "paid_late").await;
        let other = opens(&shop, bread).await;
        let accepted = json!({ "resolution": "accepted", "note": "Untuk yang ini", "sale": other["id"] });
        settles(&shop, &task, accepted).await.refused(409, "payment_forced");
        settles(&shop, &task, json!({ "resolution": "noted", "note": "x" }))
            .await
            .refused(409, "resolution_not_possible");
        settles(&shop, &task, json!({ "resolution": "refunded", "note": "Sudah batal" })).await.ok();
        until(async || (market.asked(provider, "refund").await > 0).then_some(())).await;
        time_passes(market).await;
        comes_to(&shop, &part, "refunded").await;
        assert_eq!(recorded(market, &shop, &part).await, ("1".to_owned(), 1));
        assert_eq!(void(&shop, &other).await.ok()["state"], "voided");
    }
    let level = shop.get(&format!("/v1/outlets/{}/stock/{bread}", shop.outlet)).await.ok();
    assert_eq!((&level["on_hand"], &level["reserved"]), (&json!("10.000"), &json!("0.000")));
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn a_sale_that_is_paid_anew_has_no_use_for_what_was_forced() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, part) = forced_in_part(&shop, bread, provider).await;
        ends(market, &shop, &part).await;
        pays_cash(&shop, &sale, 48_500).await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        assert_eq!(money_of(&shop, &sale).await, [68_500, 20_000, 0]);
        is_paid_late(market, &part).await;
        comes_to(&shop, &part, "paid_late").await;
        let task = task_of(&shop, &part, "paid_too_much").await;
        let settled = settles(&shop, &task, json!({ "resolution": "refunded", "note": "Sudah tunai" })).await.ok();
        let refund = json!({ "id": settled["refund"] });
        refund_comes_to(&shop, &refund, "pending").await;
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        comes_to(&shop, &part, "refunded").await;
        assert_eq!(money_of(&shop, &sale).await, [68_500, 20_000, 0]);
    }
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn what_was_forced_and_comes_after_all_completes_the_sale_that_waits_for_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, part) = forced_in_part(&shop, bread, provider).await;
        ends(market, &shop, &part).await;
        pays_cash(&shop, &sale, 28_500).await;
        assert_eq!(money_of(&shop, &sale).await, [48_500, 20_000, 20_000]);
        void(&shop, &sale).await.refused(409, "sale_has_payments");
        let other = asks(&shop, &sale, qris(provider)).await.created();
        is_paid_late(market, &part).await;
        comes_to(&shop, &part, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        assert_eq!(money_of(&shop, &sale).await, [48_500, 0, 0]);
        comes_to(&shop, &other, "canceled").await;
        assert_eq!(recorded(market, &shop, &part).await, ("1".to_owned(), 1));
    }
    assert_eq!(kinds(&tasks(&shop).await), ["forced_unpaid", "forced_unpaid"]);
    assert!(alerts(&shop).await.contains(&("payment_forced_paid".to_owned(), "info".to_owned())));
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn a_sale_that_was_kept_open_for_what_was_forced_expires_when_that_is_not_paid() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, part) = forced_in_part(&shop, bread, provider).await;
        is_kept_open(market, &sale).await;
        ends(market, &shop, &part).await;
        expires(&shop, &sale).await;
    }
    adds_up(&market.hub.database).await;
}

/// Its deadline passes, and it stays open for money that was taken for it.
async fn is_kept_open(market: &Market, sale: &Value) {
    let of_it = format!("where sale_id = '{}'", sale["id"].as_str().unwrap());
    let past = format!("update sales set expires_at = now(), held_until = null {of_it}");
    market.hub.database.psql(&past).await;
    let stalled = format!("select count(stalled_at) from sales {of_it}");
    until(async || (market.hub.database.psql(&stalled).await.trim() == "1").then_some(())).await;
}

async fn expires(shop: &Shop<'_>, sale: &Value) {
    until(async || (sale_of(shop, sale).await["state"] == "expired").then_some(())).await;
}

#[tokio::test]
async fn a_card_that_was_forced_and_is_voided_at_its_provider_is_due_again() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let mut part = super::cards::card(market, "midtrans", super::cards::GOOD).await;
    part["amount_minor"] = json!(20_000);
    let part = asks(&shop, &sale, part).await.created();
    forces(&shop, &part).await;
    proves(&part).await;
    comes_to(&shop, &part, "paid").await;
    assert_eq!(money_of(&shop, &sale).await, [20_000, 0, 28_500]);
    let headers = [("authorization", MIDTRANS_BASIC), ("accept", "application/json")];
    let cancel = format!("/v2/{}/cancel", part["id"].as_str().unwrap());
    request(market.providers.midtrans, "POST", &cancel, &headers, vec![]).await.expect("an answer").ok();
    comes_to(&shop, &part, "canceled").await;
    task_of(&shop, &part, "reversed").await;
    assert_eq!(money_of(&shop, &sale).await, [20_000, 20_000, 48_500]);
    assert_eq!(void(&shop, &sale).await.ok()["state"], "voided");
}

/// The customer has paid, nobody was told, and the money is on its way back or gone by the time that anybody asks.
#[tokio::test]
async fn what_had_gone_before_it_was_heard_of_pays_nothing_and_is_told_to_nobody() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    for (how, state, matters) in [
        ("confirmed", "refunded", &["paid_late", "refund_elsewhere"][..]),
        ("on its way", "paid_late", &["paid_late", "refund_elsewhere"]),
        ("charged back", "charged_back", &["charged_back"]),
    ] {
        let sale = opens(&shop, bread).await;
        let payment = if how == "charged back" {
            let card = asks_for_card(market, &shop, &sale, "midtrans").await;
            not_yet(market).await;
            proves(&card).await;
            market.says("settle", json!({ "id": card["id"] })).await;
            market.says("chargeback", json!({ "id": card["id"] })).await;
            card
        } else {
            let payment = asks(&shop, &sale, qris("midtrans")).await.created();
            not_yet(market).await;
            market.pays(&payment).await;
            refunds_there(market, "midtrans", &payment, 48_500).await;
            if how == "confirmed" {
                time_passes(market).await;
            }
            payment
        };
        let ask = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
        let asked = shop.get(&ask).await.ok();
        assert_eq!((&asked["state"], asked["paid_at"].is_string()), (&json!(state), true), "{how}: {asked}");
        let found = tasks(&shop).await;
        let of_it: Vec<Value> = found.into_iter().filter(|task| task["payment"] == payment["id"]).collect();
        assert_eq!(kinds(&of_it), matters, "{how}");
        if how == "on its way" {
            let task = task_of(&shop, &payment, "paid_late").await;
            let accepted = json!({ "resolution": "accepted", "note": "x", "sale": sale["id"] });
            settles(&shop, &task, accepted).await.refused(409, "payment_not_late");
            time_passes(market).await;
            market.hub.database.psql("update refunds set next_at = now() where state = 'pending'").await;
            comes_to(&shop, &payment, "refunded").await;
        }
        assert_eq!(money_of(&shop, &sale).await, [0, 0, 48_500], "{how}");
        assert_eq!(void(&shop, &sale).await.ok()["state"], "voided", "{how}");
    }
    assert!(shop.journal_of(&["payment.captured", "sale.completed"]).await.is_empty());
    assert_eq!(shop.stock_of(bread).await, "10.000");
    adds_up(&market.hub.database).await;
}

/// The hub does not look by itself.
async fn not_yet(market: &Market) {
    market.hub.database.psql("update payment_attempts set next_at = now() + interval '1 hour'").await;
}

/// Xendit's word on a payment stays that it is paid: of refunds it is asked besides, where there was time for one.
#[tokio::test]
async fn what_xendit_gave_back_long_before_it_was_heard_of_pays_nothing() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    let (gone, there) = (opens(&shop, bread).await, opens(&shop, bread).await);
    let of_gone = asks(&shop, &gone, qris("xendit")).await.created();
    let of_there = asks(&shop, &there, qris("xendit")).await.created();
    not_yet(market).await;
    market.pays(&of_gone).await;
    market.pays(&of_there).await;
    refunds_there(market, "xendit", &of_gone, 48_500).await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    time_passes(market).await;
    // Nor does it matter to the other that the list cannot be had.
    let ask = |payment: &Value| format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    assert_eq!(shop.get(&ask(&of_gone)).await.ok()["state"], "refunded");
    market.says("faults", json!({ "fault": "http_503", "on": "list_refunds", "times": null })).await;
    assert_eq!(shop.get(&ask(&of_there)).await.ok()["state"], "paid");
    assert_eq!(money_of(&shop, &gone).await, [0, 0, 48_500]);
    assert_eq!(kinds(&tasks(&shop).await), ["paid_late", "refund_elsewhere"]);
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 1);
    market.says_delete("faults").await;
}

#[tokio::test]
async fn of_money_that_pays_another_sale_that_one_is_let_go_when_it_goes_back() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let cake = shop.stocked("kue", 60_000, "10").await;
    for provider in BOTH {
        let payment = late(market, &shop, bread, provider).await;
        let other = opens(&shop, &cake).await;
        let task = task_of(&shop, &payment, "paid_late").await;
        let accepted = json!({ "resolution": "accepted", "note": "Untuk kue", "sale": other["id"] });
        settles(&shop, &task, accepted).await.ok();
        // Whoever looks at the sale that it was for sees that it is not paid by it.
        let one = shop.get(&format!("/v1/payments/{}", payment["id"].as_str().unwrap())).await.ok();
        assert_eq!((&one["state"], &one["sale"]), (&json!("paid"), &payment["sale"]), "{one}");
        assert_eq!(one["accepted_for"], other["id"], "{one}");
        let changes = shop.journal_of(&["payment.changed"]).await;
        let last = &changes.iter().rfind(|(_, event)| event["data"]["payment"] == payment["id"]).unwrap().1;
        assert_eq!((&last["data"]["state"], &last["data"]["accepted_for"]), (&json!("paid"), &other["id"]));
        is_kept_open(market, &other).await;
        let refund = gives_back(&shop, &payment, None).await.created();
        // Somebody is at that sale, and is waited for by nobody who holds what they want.
        let database = &market.hub.database;
        let sale = other["id"].as_str().unwrap();
        let holder = database.held(&format!("select from sales where sale_id = '{sale}' for update")).await;
        time_passes(market).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let_go(holder).await;
        database.psql("update refunds set next_at = now() where state = 'pending'").await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        expires(&shop, &other).await;
        comes_to(&shop, &payment, "refunded").await;
    }
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn whoever_repeats_a_decision_asks_the_provider_for_nothing() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let payment = late(market, &shop, bread, "xendit").await;
    let task = task_of(&shop, &payment, "paid_late").await;
    let path = format!("/v1/payment-tasks/{}", task["id"].as_str().unwrap());
    let decision = json!({ "resolution": "refunded", "note": "Sudah tunai" });
    // It is under way until somebody lets time pass there.
    market.says("clock", json!({ "speed": 0 })).await;
    let settled = shop.post_once("one", &path, decision.clone()).await.ok();
    refund_comes_to(&shop, &json!({ "id": settled["refund"] }), "pending").await;
    market.hub.database.psql("update refunds set next_at = now() + interval '1 hour'").await;
    let before = market.requests("xendit").await.len();
    for _ in 0..3 {
        let again = shop.post_once("one", &path, decision.clone()).await;
        assert_eq!(
            (&again.ok()["refund"], &again.headers["idempotent-replayed"]),
            (&settled["refund"], &"true".parse().unwrap())
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(market.requests("xendit").await.len(), before);
}
