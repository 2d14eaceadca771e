//! Money that goes back in its own time, and not as somebody thought.

use super::cards::{asks_for_card, proves};
use super::reconciliation::compares;
use super::refunds::{gives_back, late, path, refund_comes_to, settles, sold, task_of, time_passes};
use super::*;

/// After so many seconds of the providers' clock a bank takes its money back, if it does.
const REVERSED_AFTER: f64 = 120.0;

/// Its bank will take it back.
async fn reverses(market: &Market, payment: &Value) {
    let reversal = json!({ "fault": "reversal", "payment": payment["id"], "seconds": REVERSED_AFTER });
    market.says("faults", reversal).await;
}

/// A sale and its payment, by a card that Midtrans has not settled yet.
async fn paid_by_card(market: &Market, shop: &Shop<'_>, bread: &str) -> (Value, Value) {
    let sale = opens(shop, bread).await;
    let payment = asks_for_card(market, shop, &sale, "midtrans").await;
    proves(&payment).await;
    comes_to(shop, &payment, "paid").await;
    (sale, payment)
}

/// Whatever is to be done of one kind is to be done now.
async fn is_due(market: &Market, what: &str) {
    market.hub.database.psql(&format!("update {what} set next_at = now() where next_at is not null")).await;
}

#[tokio::test]
async fn a_card_of_the_same_day_goes_back_once_midtrans_has_settled_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (sale, payment) = paid_by_card(market, &shop, bread).await;
    let refund = gives_back(&shop, &payment, None).await.created();
    let rests = "select state || ' ' || calls || ' ' || (extract(epoch from next_at - now()) between 3300 and 3600)
                 from refunds where lease is null";
    let rests = async || market.hub.database.psql(rests).await.trim().to_owned();
    for asked in 1..=2 {
        // It has refused, which is no answer for ever: nothing is under way there, and it is asked again in an hour.
        until(async || (rests().await == "created 0 true").then_some(())).await;
        assert_eq!(market.asked("midtrans", "refund").await, asked);
        if asked == 1 {
            is_due(market, "refunds").await;
            until(async || (market.asked("midtrans", "refund").await == 2).then_some(())).await;
        }
    }
    assert_eq!(refund["state"], "created", "{refund}");
    gives_back(&shop, &payment, Some(1)).await.refused(409, "refund_under_way");

    market.says("settle", json!({ "id": payment["id"] })).await;
    comes_to(&shop, &payment, "settled").await;
    is_due(market, "refunds").await;
    refund_comes_to(&shop, &refund, "pending").await;
    time_passes(market).await;
    refund_comes_to(&shop, &refund, "succeeded").await;
    comes_to(&shop, &payment, "refunded").await;
    assert_eq!(market.asked("midtrans", "refund").await, 3);
    assert_eq!(sale_of(&shop, &sale).await["refunded_minor"], 48_500);
    assert!(tasks(&shop).await.is_empty(), "it was never refused");
    adds_up(&market.hub.database).await;
}

/// A refund waits for the settlement, and the customer's bank is faster.
#[tokio::test]
async fn what_its_bank_has_taken_back_is_not_given_back_as_well() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (_, payment) = paid_by_card(market, &shop, bread).await;
    let refund = gives_back(&shop, &payment, None).await.created();
    let waits = "select count(*) from refunds where state = 'created' and lease is null and next_at > now()";
    until(async || (market.hub.database.psql(waits).await.trim() == "1").then_some(())).await;
    market.says("settle", json!({ "id": payment["id"] })).await;
    market.says("chargeback", json!({ "id": payment["id"] })).await;
    comes_to(&shop, &payment, "charged_back").await;
    let asked = market.asked("midtrans", "refund").await;
    is_due(market, "refunds").await;
    assert_eq!(refund_comes_to(&shop, &refund, "failed").await["failure"], "money_gone");
    assert_eq!(market.asked("midtrans", "refund").await, asked, "nobody is asked for it any more");
    assert_eq!(kinds(&tasks(&shop).await), ["charged_back", "refund_failed"]);
    adds_up(&market.hub.database).await;
}

/// The customer pays what was called off, and then the bank has the money back before anybody has said what becomes of it.
#[tokio::test]
async fn late_money_that_its_bank_takes_back_is_no_money_to_decide_on() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, ends) in [("midtrans", "reversed"), ("midtrans", "charged_back"), ("xendit", "charged_back")] {
        let payment = if ends == "reversed" {
            let sale = opens(&shop, bread).await;
            let transfer = json!({ "method": "transfer", "provider": "midtrans", "bank": "permata" });
            let payment = asks(&shop, &sale, transfer).await.created();
            shop.post(&format!("{}/cancel", path(&payment)), json!({})).await.ok();
            comes_to(&shop, &payment, "canceled").await;
            reverses(market, &payment).await;
            market.says("pay", json!({ "id": payment["id"], "late": true })).await;
            comes_to(&shop, &payment, "paid_late").await;
            payment
        } else {
            late(market, &shop, bread, provider).await
        };
        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let mut owner = shop.screen(&[&format!("alerts/{}", shop.outlet)]).await;
        if ends == "reversed" {
            market.says("clock", json!({ "advance_s": REVERSED_AFTER })).await;
        } else {
            market.says("chargeback", json!({ "id": payment["id"], "provider": provider })).await;
        }
        if provider == "xendit" {
            // It tells of that by its list alone.
            compares(&shop, "xendit").await;
        }
        comes_to(&shop, &payment, ends).await;
        let told = screen.hears_next("payment.changed").await;
        assert_eq!((&told.data()["payment"], &told.data()["state"]), (&payment["id"], &json!(ends)));
        let alert = owner.hears_next("alert.raised").await;
        assert_eq!(alert.data()["alert"], format!("payment_{ends}"));
        task_of(&shop, &payment, ends).await;

        // What was to be decided of it cannot be any more, but for a word.
        let task = task_of(&shop, &payment, "paid_late").await;
        let sale = opens(&shop, bread).await;
        let accepted = json!({ "resolution": "accepted", "note": "Untuk roti lain", "sale": sale["id"] });
        settles(&shop, &task, accepted).await.refused(409, "payment_not_late");
        assert_eq!(sale_of(&shop, &sale).await["paid_minor"], 0);
        let refunded = json!({ "resolution": "refunded", "note": "Kembalikan" });
        settles(&shop, &task, refunded).await.refused(409, "nothing_to_refund");
        assert_eq!(market.asked(provider, "refund").await, 0);
        settles(&shop, &task, json!({ "resolution": "noted", "note": "Banknya lebih cepat" })).await.ok();
    }
    assert_eq!(kinds(&tasks(&shop).await), ["reversed", "charged_back", "charged_back"]);
    adds_up(&market.hub.database).await;
}

/// Whoever asked first is answered last, when another has long been given the money back under the same name: what it makes of
/// that is about a refund that was never begun, and not about this one.
#[tokio::test]
async fn a_refusal_that_is_older_than_what_is_known_of_a_refund_takes_nothing_back() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let database = &market.hub.database;
    for is_told in [false, true] {
        let (_, payment) = sold(market, &shop, bread, "xendit").await;
        if !is_told {
            let silence = json!({ "fault": "drop_webhook", "payment": payment["id"], "times": null });
            market.says("faults", silence).await;
        }
        let before = market.asked("xendit", "refund").await;
        let slow = json!({ "fault": "slow_s", "provider": "xendit", "on": "refund", "seconds": 8 });
        market.says("faults", slow).await;
        let another = async {
            until(async || (market.asked("xendit", "refund").await > before).then_some(())).await;
            // As if whoever asked had long been given up.
            let long_ago = "update refunds set leased_until = now(), next_at = now(),
                                   called_at = called_at - interval '11 minutes' where state = 'created'";
            database.psql(long_ago).await;
            until(async || (market.asked("xendit", "refund").await == before + 2).then_some(())).await;
            let pending = "select count(*) from refunds where state = 'pending'";
            until(async || (database.psql(pending).await.trim() == "1").then_some(())).await;
            time_passes(market).await;
            let known = if is_told { "succeeded" } else { "pending" };
            let newest = "select state from refunds order by created_at desc limit 1";
            until(async || (database.psql(newest).await.trim() == known).then_some(())).await;
            // Nobody looks meanwhile.
            database.psql("update refunds set next_at = now() + interval '1 hour' where next_at is not null").await;
        };
        let (refund, ()) = tokio::join!(gives_back(&shop, &payment, None), another);
        let refund = refund.created();
        let asked = market.requests("xendit").await;
        let answers: Vec<&Value> =
            asked.iter().filter(|it| it["operation"] == "refund").skip(before).map(|it| &it["status"]).collect();
        assert_eq!(answers, [&json!(400), &json!(200)], "the first was refused, after the second was done");
        assert_eq!(refund["state"], if is_told { "succeeded" } else { "pending" }, "{refund}");
        assert!(tasks(&shop).await.is_empty(), "{:?}", tasks(&shop).await);
        is_due(market, "refunds").await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
    }
    assert!(tasks(&shop).await.is_empty());
    adds_up(database).await;
}

#[tokio::test]
async fn a_sale_that_was_kept_open_for_its_money_expires_once_that_went_back() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let database = &market.hub.database;
    for (place, way) in ["refund at midtrans", "refund at xendit", "reversal"].into_iter().enumerate() {
        let sale = opens(&shop, bread).await;
        let id = sale["id"].as_str().unwrap();
        let mut part = match way {
            "reversal" => json!({ "method": "transfer", "provider": "midtrans", "bank": "permata" }),
            way => qris(way.rsplit(' ').next().unwrap()),
        };
        part["amount_minor"] = json!(20_000);
        let part = asks(&shop, &sale, part).await.created();
        if way == "reversal" {
            reverses(market, &part).await;
        }
        market.pays(&part).await;
        comes_to(&shop, &part, "paid").await;
        // Nobody takes the rest.
        database.psql(&format!("update sales set expires_at = now() where sale_id = '{id}'")).await;
        let stalled = format!("select count(*) from sales where sale_id = '{id}' and stalled_at is not null");
        until(async || (database.psql(&stalled).await.trim() == "1").then_some(())).await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "open", "money does not vanish");
        if way == "reversal" {
            market.says("clock", json!({ "advance_s": REVERSED_AFTER })).await;
            comes_to(&shop, &part, "reversed").await;
        } else {
            let refund = gives_back(&shop, &part, None).await.created();
            time_passes(market).await;
            refund_comes_to(&shop, &refund, "succeeded").await;
        }
        until(async || (sale_of(&shop, &sale).await["state"] == "expired").then_some(())).await;
        let level = shop.get(&format!("/v1/outlets/{}/stock/{bread}", shop.outlet)).await.ok();
        assert_eq!((&level["on_hand"], &level["reserved"]), (&json!("10.000"), &json!("0.000")), "{way}");
        let told = shop.journal_of(&["alert.raised"]).await;
        let told = told.iter().filter(|(_, event)| event["data"]["alert"] == "sale_not_paid").count();
        assert_eq!(told, place + 1, "each once");
    }
    adds_up(database).await;
}
