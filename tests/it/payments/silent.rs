//! A provider that stays silent: somebody is told in the end, and nobody is asked for ever.

use super::cards::{asks_for_card, proves};
use super::forced::forces;
use super::refunds::{BOTH, gives_back, path, refund_of, sold, task_of};
use super::*;

/// It answers nothing, or once more.
async fn is_silent(market: &Market) {
    market.says("faults", json!({ "fault": "http_503", "times": null })).await;
}

async fn speaks_again(market: &Market) {
    market.says_delete("faults").await;
}

/// Somebody wants to know, and was not answered.
async fn asks_in_vain(market: &Market, shop: &Shop<'_>, payment: &Value) {
    shop.get(&format!("{}?ask=true", path(payment))).await.ok();
    let asked = format!(
        "select count(unanswered_since) from payment_attempts where payment_id = '{}' and lease is null",
        payment["id"].as_str().unwrap()
    );
    until(async || (market.hub.database.psql(&asked).await.trim() == "1").then_some(())).await;
}

/// So many days go by, for a payment that somebody has asked about; and it is due.
async fn days_pass(market: &Market, payment: &Value, days: u32) {
    let passed = format!(
        "update payment_attempts
         set created_at = created_at - interval '{days} days', expires_at = expires_at - interval '{days} days',
             changed_at = changed_at - interval '{days} days', unanswered_since = unanswered_since - interval '{days} days', next_at = now()
         where payment_id = '{}'",
        payment["id"].as_str().unwrap()
    );
    market.hub.database.psql(&passed).await;
}

/// Nobody attends to it any more.
async fn rests(market: &Market, payment: &Value) {
    let of_it = format!("payment_id = '{}'", payment["id"].as_str().unwrap());
    let rests = format!("select count(*) from payment_attempts where {of_it} and next_at is null and lease is null");
    until(async || (market.hub.database.psql(&rests).await.trim() == "1").then_some(())).await;
}

#[tokio::test]
async fn whoever_was_asked_about_and_is_never_heard_of_is_given_up() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, other) = (opens(&shop, bread).await, opens(&shop, bread).await);
        let forced = asks(&shop, &sale, qris(provider)).await.created();
        let payment = asks(&shop, &other, qris(provider)).await.created();
        is_silent(market).await;
        forces(&shop, &forced).await;
        for (payment, kind) in [(&forced, "forced_unpaid"), (&payment, "given_up")] {
            asks_in_vain(market, &shop, payment).await;
            // Within a week it is asked about, whatever is in the way.
            days_pass(market, payment, 6).await;
            asks_in_vain(market, &shop, payment).await;
            assert!(tasks(&shop).await.iter().all(|task| task["payment"] != payment["id"]));
            days_pass(market, payment, 2).await;
            task_of(&shop, payment, kind).await;
            rests(market, payment).await;
        }
        speaks_again(market).await;
    }
    assert_eq!(tasks(&shop).await.len(), 4);
}

#[tokio::test]
async fn what_is_over_is_asked_about_for_a_day_and_once_more_when_there_is_something_new() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        shop.post(&format!("{}/cancel", path(&payment)), json!({})).await.ok();
        comes_to(&shop, &payment, "canceled").await;
        is_silent(market).await;
        asks_in_vain(market, &shop, &payment).await;
        days_pass(market, &payment, 2).await;
        rests(market, &payment).await;
        // Whoever has something new is heard as long as anybody.
        asks_in_vain(market, &shop, &payment).await;
        let due = format!(
            "select count(next_at) from payment_attempts where payment_id = '{}' and next_at < now() + interval '10 minutes'",
            payment["id"].as_str().unwrap()
        );
        assert_eq!(market.hub.database.psql(&due).await.trim(), "1");
        days_pass(market, &payment, 2).await;
        rests(market, &payment).await;
        assert_eq!(comes_to(&shop, &payment, "canceled").await["state"], "canceled");
        speaks_again(market).await;
        // The money is heard of all the same.
        market.says("pay", json!({ "id": payment["id"], "late": true })).await;
        comes_to(&shop, &payment, "paid_late").await;
    }
    // That nobody answered to what somebody had said is a person's matter, once.
    let tasks = tasks(&shop).await;
    let mut kinds = kinds(&tasks);
    kinds.sort_unstable();
    assert_eq!(kinds, ["given_up", "given_up", "paid_late", "paid_late"]);
}

#[tokio::test]
async fn a_refund_is_asked_about_for_ninety_days_also_if_nobody_answers() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
        is_silent(market).await;
        let of_it = format!("refund_id = '{}'", refund["id"].as_str().unwrap());
        for (days, ended) in [(89, "0"), (91, "1")] {
            let passed = format!(
                "update refunds set created_at = now() - interval '{days} days', next_at = now() - interval '1 s' where {of_it}"
            );
            market.hub.database.psql(&passed).await;
            let rests = format!(
                "select count(*) filter (where next_at is null) from refunds
                 where {of_it} and lease is null and (next_at is null or next_at > now())"
            );
            let looked = async || {
                let count = format!(
                    "select count(*) from refunds where {of_it} and lease is null
                                     and (next_at is null or next_at > now())"
                );
                (market.hub.database.psql(&count).await.trim() == "1").then_some(())
            };
            until(looked).await;
            assert_eq!(market.hub.database.psql(&rests).await.trim(), ended, "{days} days");
        }
        assert_eq!(refund_of(&shop, &refund).await["state"], "pending");
        task_of(&shop, &payment, "refund_stuck").await;
        speaks_again(market).await;
    }
}

#[tokio::test]
async fn a_card_page_that_cannot_be_asked_about_is_not_taken_for_over() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let payment = asks_for_card(market, &shop, &sale, "xendit").await;
    let fault = json!({ "fault": "http_500", "on": "get_session", "provider": "xendit", "times": null });
    market.says("faults", fault).await;
    market.says("faults", json!({ "fault": "card_refused", "payment": payment["id"] })).await;
    assert!(proves(&payment).await.contains("FAILED"));
    let asked = async || market.asked("xendit", "get_session").await;
    let before = asked().await;
    until(async || (asked().await > before).then_some(())).await;
    for _ in 0..3 {
        let found = shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
        assert_eq!(found["state"], "pending", "{found}");
    }
    speaks_again(market).await;
    assert!(proves(&payment).await.contains("SUCCEEDED"));
    comes_to(&shop, &payment, "paid").await;
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_look_that_took_long_asks_nothing_more() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (_, payment) = sold(market, &shop, bread, "xendit").await;
    shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
    let lists = async || market.asked("xendit", "list_refunds").await;
    let before = lists().await;
    assert!(before > 0, "it is asked about its refunds");
    let fault = json!({ "fault": "slow_s", "provider": "xendit", "on": "get_payment", "seconds": 9 });
    market.says("faults", fault.clone()).await;
    market.says("faults", json!({ "fault": "slow_s", "provider": "xendit", "on": "get", "seconds": 9 })).await;
    shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
    let put_off = format!(
        "select count(*) from payment_attempts where payment_id = '{}' and lease is null and next_at > now()",
        payment["id"].as_str().unwrap()
    );
    until(async || (market.hub.database.psql(&put_off).await.trim() == "1").then_some(())).await;
    assert_eq!(lists().await, before, "another question would outlast the lease");
    // It is asked once more, and answered.
    speaks_again(market).await;
    until(async || (lists().await > before).then_some(())).await;
}

#[tokio::test]
async fn that_a_refund_is_not_answered_is_known_of_its_account() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        let account = accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
        let health = format!("/v1/provider-accounts/{}/health", account["id"].as_str().unwrap());
        assert_eq!(shop.get(&health).await.ok()["failed_calls"], 0);
        market.says("faults", json!({ "fault": "http_503", "provider": provider, "on": "refund" })).await;
        gives_back(&shop, &payment, None).await.created();
        until(async || (shop.get(&health).await.ok()["failed_calls"] == 1).then_some(())).await;
    }
}

#[tokio::test]
async fn a_part_that_was_forced_and_given_up_is_due_again() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, voids) in [("midtrans", true), ("xendit", false)] {
        let sale = opens(&shop, bread).await;
        let part = json!({ "method": "qris", "provider": provider, "amount_minor": 20_000 });
        let part = asks(&shop, &sale, part).await.created();
        forces(&shop, &part).await;
        is_silent(market).await;
        asks_in_vain(market, &shop, &part).await;
        days_pass(market, &part, 8).await;
        task_of(&shop, &part, "forced_unpaid").await;
        assert_eq!(sale_of(&shop, &sale).await["due_minor"], 48_500);
        if voids {
            // As nobody could find out, nobody waits for it any more.
            market.hub.database.psql("update sales set held_until = now() - interval '1 s'").await;
            let void = format!("/v1/sales/{}/void", sale["id"].as_str().unwrap());
            assert_eq!(shop.post(&void, json!({ "reason": "Batal" })).await.ok()["state"], "voided");
        }
        speaks_again(market).await;
        market.pays(&part).await;
        let found = comes_to(&shop, &part, if voids { "paid_late" } else { "paid" }).await;
        assert!(found["paid_at"].is_string(), "{found}");
        let due = if voids { 0 } else { 28_500 };
        assert_eq!(sale_of(&shop, &sale).await["due_minor"], due, "it pays what it was taken for");
    }
    let open = tasks(&shop).await;
    assert_eq!(kinds(&open), ["forced_unpaid", "paid_late", "forced_unpaid"]);
    adds_up(&market.hub.database).await;
}
