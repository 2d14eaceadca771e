//! Cards whose money is held first: taken whole or in part, let go of, or lost in time.

use tillwire::identity::tokens::Bearer;
use tillwire_channels::{RegisterId, StaffId};

use super::cards::{GOOD, MIDTRANS_BASIC, card, fills_in, proves, token};
use super::refunds::time_passes;
use super::storms::leave_in_peace;
use super::*;
use crate::support::caller::bearer;

/// A payment whose money is held.
async fn held(market: &Market, shop: &Shop<'_>, sale: &Value, provider: &str) -> Value {
    let mut payment = card(market, provider, GOOD).await;
    payment["hold"] = json!(true);
    let payment = asks(shop, sale, payment).await.created();
    assert_eq!((&payment["state"], &payment["hold"]), (&json!("pending"), &json!(true)), "{payment}");
    proves(&payment).await;
    comes_to(shop, &payment, "authorized").await
}

fn of(payment: &Value, verb: &str) -> String {
    format!("/v1/payments/{}/{verb}", payment["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn money_that_is_held_is_taken_when_somebody_says_so() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        assert_eq!((&payment["capture_minor"], &sale_of(&shop, &sale).await["state"]), (&Value::Null, &json!("open")));
        // It is as good as paid: nobody asks for it a second time.
        asks(&shop, &sale, qris(provider)).await.refused(409, "nothing_due");
        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let taken = shop.post(&of(&payment, "capture"), json!({})).await.ok();
        assert_eq!((&taken["state"], &taken["capture_minor"]), (&json!("paid"), &json!(48_500)), "{taken}");
        let heard = screen.hears_next("payment.captured").await;
        assert_eq!((&heard.data()["payment"], &heard.data()["amount_minor"]), (&payment["id"], &json!(48_500)));
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], &sold["tenders"][0]["method"]), (&json!("completed"), &json!("card")));
        assert_eq!(market.asked(provider, "capture").await, 1);
        assert_eq!(shop.post(&of(&payment, "capture"), json!({})).await.ok()["state"], "paid", "it says nothing new");
        assert_eq!(market.asked(provider, "capture").await, 1);
        let other = json!({ "amount_minor": 1 });
        shop.post(&of(&payment, "capture"), other).await.refused(409, "payment_not_held");
        shop.post(&of(&payment, "cancel"), json!({})).await.ok();
        assert_eq!(comes_to(&shop, &payment, "paid").await["closing"], Value::Null, "what is paid is not called off");
    }
    assert!(tasks(&shop).await.is_empty());
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn a_part_of_what_is_held_pays_a_part_of_its_sale() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        let taken = shop.post(&of(&payment, "capture"), json!({ "amount_minor": 20_000 })).await.ok();
        let is = (&taken["state"], &taken["amount_minor"], &taken["capture_minor"]);
        assert_eq!(is, (&json!("paid"), &json!(48_500), &json!(20_000)), "{taken}");
        let part = sale_of(&shop, &sale).await;
        assert_eq!((&part["state"], &part["due_minor"]), (&json!("open"), &json!(28_500)));
        // What was not taken of it can be asked for in another way.
        let rest = asks(&shop, &sale, qris(provider)).await.created();
        assert_eq!(rest["amount_minor"], 28_500);
        market.pays(&rest).await;
        comes_to(&shop, &rest, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        // What its provider tells of it later, as when it is settled, fits.
        market.says("settle", json!({ "id": payment["id"] })).await;
        let asked = shop.get(&format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap())).await.ok();
        assert!(asked["state"] == "paid" || asked["state"] == "settled", "{asked}");
    }
    assert!(tasks(&shop).await.is_empty(), "{:?}", tasks(&shop).await);
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn of_a_part_that_was_taken_no_more_goes_back_than_was_taken() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        shop.post(&of(&payment, "capture"), json!({ "amount_minor": 20_000 })).await.ok();
        market.says("settle", json!({ "id": payment["id"] })).await;
        let refund =
            |amount: Option<i64>| json!({ "amount_minor": amount, "reason": "customer", "note": "Roti keras" });
        let too_much = shop.post(&of(&payment, "refunds"), refund(Some(20_001))).await;
        too_much.refused(409, "amount_exceeds_refundable");
        let all = shop.post(&of(&payment, "refunds"), refund(None)).await.created();
        assert_eq!(all["amount_minor"], 20_000, "{all}");
        time_passes(market).await;
        comes_to(&shop, &payment, "refunded").await;
        let open = sale_of(&shop, &sale).await;
        assert_eq!((&open["state"], &open["due_minor"]), (&json!("open"), &json!(48_500)), "{open}");
    }
    assert!(tasks(&shop).await.is_empty(), "{:?}", tasks(&shop).await);
}

#[tokio::test]
async fn what_is_held_and_looked_into_first_is_taken_when_that_is_over() {
    let market = Market::opens().await;
    let shop = market.shop("Toko Roti").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    for (verb, state) in [("approve", "authorized"), ("deny", "failed")] {
        let sale = opens(&shop, &bread).await;
        let mut payment = card(&market, "midtrans", GOOD).await;
        payment["hold"] = json!(true);
        let payment = asks(&shop, &sale, payment).await.created();
        market.says("faults", json!({ "fault": "challenge", "payment": payment["id"] })).await;
        proves(&payment).await;
        comes_to(&shop, &payment, "review").await;
        shop.post(&of(&payment, "capture"), json!({})).await.refused(409, "payment_not_held");
        let path = format!("/v2/{}/{verb}", payment["id"].as_str().unwrap());
        let headers = [("authorization", MIDTRANS_BASIC), ("accept", "application/json")];
        request(market.providers.midtrans, "POST", &path, &headers, vec![]).await.expect("an answer").ok();
        comes_to(&shop, &payment, state).await;
        if verb == "approve" {
            assert_eq!(shop.post(&of(&payment, "capture"), json!({})).await.ok()["state"], "paid");
            assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        }
    }
    assert!(tasks(&shop).await.is_empty(), "{:?}", tasks(&shop).await);
}

#[tokio::test]
async fn what_is_held_is_let_go_of_by_a_word_or_when_its_sale_is_paid_otherwise() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        shop.post(&format!("/v1/sales/{}/void", sale["id"].as_str().unwrap()), json!({ "reason": "no" }))
            .await
            .refused(409, "payment_under_way");
        assert_eq!(shop.post(&of(&payment, "cancel"), json!({})).await.ok()["state"], "canceled");
        shop.post(&of(&payment, "capture"), json!({})).await.refused(409, "payment_not_held");
        let other = held(market, &shop, &sale, provider).await;
        let cash = json!({ "method": "cash", "amount_minor": 48_500 });
        shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
        comes_to(&shop, &other, "canceled").await;
        assert_eq!(market.asked(provider, "capture").await, 0);
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn what_nobody_takes_goes_back_when_the_provider_says_so() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (one, two) = (opens(&shop, bread).await, opens(&shop, bread).await);
    let at_midtrans = held(market, &shop, &one, "midtrans").await;
    let at_xendit = held(market, &shop, &two, "xendit").await;
    // Its own time is over, and so is the sale's: the bank holds the money all the same. Whoever looks at payments has looked at
    // both, and whoever ends sales has ended one that nobody pays for.
    let nobodys = opens(&shop, bread).await;
    market.hub.database.psql("update payment_attempts set expires_at = now(), next_at = now()").await;
    market.hub.database.psql("update sales set expires_at = now()").await;
    let looked_at = "select count(*) from payment_attempts where next_at > now() and lease is null";
    until(async || (market.hub.database.psql(looked_at).await.trim() == "2").then_some(())).await;
    until(async || (sale_of(&shop, &nobodys).await["state"] == "expired").then_some(())).await;
    for (sale, payment) in [(&one, &at_midtrans), (&two, &at_xendit)] {
        assert_eq!(sale_of(&shop, sale).await["state"], "open");
        assert_eq!(comes_to(&shop, payment, "authorized").await["closing"], Value::Null);
    }
    market.says("clock", json!({ "advance_s": 7 * 24 * 3600 })).await;
    for (sale, payment) in [(&one, &at_midtrans), (&two, &at_xendit)] {
        comes_to(&shop, payment, "expired").await;
        shop.post(&of(payment, "capture"), json!({})).await.refused(409, "payment_not_held");
        until(async || (sale_of(&shop, sale).await["state"] == "expired").then_some(())).await;
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_held_or_taken_is_refused_with_its_field() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    for (body, code) in [
        (json!({ "method": "qris", "provider": "xendit", "mode": "test", "hold": true }), "hold_not_possible"),
        (json!({ "method": "card", "amount_minor": 48_500, "hold": true }), "provider_missing"),
    ] {
        assert_eq!(shop.post(&path, body).await.refused(422, code)["errors"][0]["pointer"], "/hold");
    }
    let pending = asks(&shop, &sale, qris("xendit")).await.created();
    shop.post(&of(&pending, "capture"), json!({})).await.refused(409, "payment_not_held");
    shop.post(&of(&pending, "cancel"), json!({})).await.ok();

    let payment = held(market, &shop, &sale, "xendit").await;
    let refused = async |body: Value, status: u16, code: &str| {
        let problem = shop.post(&of(&payment, "capture"), body).await.refused(status, code);
        assert_eq!(problem["errors"][0]["pointer"], "/amount_minor", "{problem}");
    };
    refused(json!({ "amount_minor": 48_501 }), 409, "amount_exceeds_held").await;
    refused(json!({ "amount_minor": 0 }), 422, "invalid").await;
    refused(json!({ "amount_minor": -1 }), 422, "invalid").await;
    shop.post(&path, json!({ "method": "cash", "amount_minor": 8_500 })).await.created();
    refused(json!({}), 409, "amount_exceeds_due").await;
    refused(json!({ "amount_minor": 40_001 }), 409, "amount_exceeds_due").await;
    shop.post(&of(&payment, "capture"), json!({ "all": true })).await.refused(422, "invalid_field");
    assert_eq!(market.asked("xendit", "capture").await, 0);
    assert_eq!(shop.post(&of(&payment, "capture"), json!({ "amount_minor": 40_000 })).await.ok()["state"], "paid");
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
}

#[tokio::test]
async fn whoever_sells_there_takes_what_is_held_and_nobody_else() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let rival = market.hub.merchant("Saingan").await;
    let sale = opens(&shop, bread).await;
    let payment = held(market, &shop, &sale, "midtrans").await;
    let path = of(&payment, "capture");
    rival.post(&path, json!({})).await.refused(404, "not_found");
    let other = shop.till().await;
    let bound = |role, outlets: &[OutletId], register: Option<RegisterId>| {
        let bearer = Bearer { outlets: outlets.to_vec(), register, ..bearer(shop.merchant, StaffId::new(), role) };
        market.hub.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
    };
    for token in [
        bound(Role::Manager, &[OutletId::new()], None),
        bound(Role::Cashier, &[shop.outlet], Some(other)),
        bound(Role::Clerk, &[], None),
        bound(Role::Accountant, &[], None),
        bound(Role::Display, &[], None),
    ] {
        shop.post_as(&token, "key", &path, b"{}".to_vec()).await.refused(403, "denied");
    }
    assert_eq!(market.asked("midtrans", "capture").await, 0);
    let cashier = bound(Role::Cashier, &[shop.outlet], Some(shop.register));
    assert_eq!(shop.post_as(&cashier, "key", &path, b"{}".to_vec()).await.ok()["state"], "paid");
}

#[tokio::test]
async fn p3_a_capture_that_is_never_answered_is_made_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        for is_told in [true, false] {
            let sale = opens(&shop, bread).await;
            let payment = held(market, &shop, &sale, provider).await;
            let before = market.asked(provider, "capture").await;
            let fault =
                json!({ "fault": "timeout_after_commit", "on": "capture", "payment": payment["id"], "seconds": 1 });
            market.says("faults", fault).await;
            if !is_told {
                let silence = json!({ "fault": "drop_webhook", "payment": payment["id"], "times": null });
                market.says("faults", silence).await;
            }
            let body = json!({ "amount_minor": 30_000 });
            let answered =
                shop.post_once(&format!("{provider}-{is_told}"), &of(&payment, "capture"), body.clone()).await;
            let answered = answered.ok();
            assert_eq!(answered["capture_minor"], 30_000, "{answered}");
            if !is_told {
                assert_eq!(answered["state"], "authorized", "nobody knows: {answered}");
            }
            // Whoever says it again, with another key, says nothing new.
            shop.post(&of(&payment, "capture"), body.clone()).await.ok();
            comes_to(&shop, &payment, "paid").await;
            let again = shop.post_once(&format!("{provider}-{is_told}"), &of(&payment, "capture"), body).await;
            assert_eq!(
                (&again.ok()["state"], &again.headers["idempotent-replayed"]),
                (&json!("paid"), &"true".parse().unwrap())
            );
            assert_eq!(market.asked(provider, "capture").await, before + 1);
            assert_eq!(sale_of(&shop, &sale).await["due_minor"], 18_500);
        }
    }
    let twice = "select count(*) from payments group by payment_id having count(*) <> 1";
    assert_eq!(market.hub.database.psql(twice).await.trim(), "");
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn what_is_just_being_taken_is_neither_let_go_of_nor_taken_otherwise() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        // Whoever takes it waits for no look, and its answer comes well within the time that they wait for it.
        leave_in_peace(market).await;
        market.says("faults", json!({ "fault": "slow_s", "on": "capture", "provider": provider, "seconds": 5 })).await;
        let path = of(&payment, "capture");
        let (taken, ()) = tokio::join!(shop.post(&path, json!({})), async {
            let asked =
                "select count(*) from payment_attempts where capture_called_at is not null and state = 'authorized'";
            until(async || (market.hub.database.psql(asked).await.trim() == "1").then_some(())).await;
            shop.post(&of(&payment, "cancel"), json!({})).await.refused(409, "capture_under_way");
            shop.post(&path, json!({ "amount_minor": 1 })).await.refused(409, "capture_under_way");
            shop.post(&of(&payment, "force"), json!({ "reason": "no" })).await.refused(409, "not_forcible");
        });
        assert_eq!(taken.ok()["state"], "paid");
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        assert_eq!(market.asked(provider, "capture").await, 1);
    }
}

#[tokio::test]
async fn a_capture_that_was_not_done_is_asked_for_once_more() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, fault) in
        [("midtrans", "http_500"), ("midtrans", "reset"), ("xendit", "http_500"), ("xendit", "reset")]
    {
        let sale = opens(&shop, bread).await;
        let payment = held(market, &shop, &sale, provider).await;
        let before = market.asked(provider, "capture").await;
        market.says("faults", json!({ "fault": fault, "on": "capture", "provider": provider })).await;
        let answered = shop.post(&of(&payment, "capture"), json!({})).await.ok();
        assert_eq!(
            (&answered["state"], &answered["capture_minor"]),
            (&json!("authorized"), &json!(48_500)),
            "{answered}"
        );
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(market.asked(provider, "capture").await, before + 2, "{provider} {fault}");
        assert_eq!(sale_of(&shop, &sale).await["tenders"].as_array().map(Vec::len), Some(1));
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_capture_that_the_provider_refuses_leaves_the_money_held() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let key_of = async |secret: &str| {
        let key = format!("SB-Mid-server-{secret}");
        market.says("accounts", json!({ "provider": "midtrans", "merchant_id": MIDTRANS_ID, "server_key": key })).await;
    };
    let sale = opens(&shop, bread).await;
    let payment = held(market, &shop, &sale, "midtrans").await;
    let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
    key_of("another").await;
    let refused = shop.post(&of(&payment, "capture"), json!({})).await.ok();
    let is = (&refused["state"], &refused["capture_minor"], &refused["failure"]);
    assert_eq!(is, (&json!("authorized"), &Value::Null, &json!("wrong_keys")), "{refused}");
    let heard = screen.hears_next("payment.changed").await;
    assert_eq!((&heard.data()["state"], &heard.data()["failure"]), (&json!("authorized"), &json!("wrong_keys")));
    key_of(MIDTRANS_KEY).await;
    let taken = shop.post(&of(&payment, "capture"), json!({ "amount_minor": 48_000 })).await.ok();
    assert_eq!((&taken["state"], &taken["failure"]), (&json!("paid"), &Value::Null), "{taken}");
    assert_eq!(sale_of(&shop, &sale).await["due_minor"], 500);
}

/// Every step of a capture is where the hub is killed once. What its provider was asked to take by then is neither lost nor taken
/// twice.
#[tokio::test]
async fn p7_a_hub_that_is_killed_at_any_step_of_a_capture_takes_the_money_once() {
    let (staged, mut hub) = Staged::starts().await;
    let captures = async || staged.requests("capture").await;
    for (at, step) in ["wish", "asked", "begun", "payments", "journal_heads"].into_iter().enumerate() {
        let provider = if at % 2 == 0 { "midtrans" } else { "xendit" };
        let (sale, payment) = (staged.opens_sale("2").await, PaymentId::new());
        let mut body = json!({ "id": payment, "method": "card", "provider": provider, "mode": "test", "hold": true });
        if provider == "midtrans" {
            body["card_token"] = json!(token(staged.providers.midtrans, GOOD).await);
        }
        let asked = staged.till.post(&format!("ask-{step}"), &format!("/v1/sales/{sale}/payments"), &body).await;
        let asked = asked.expect("an answer").created();
        fills_in(&asked, if provider == "midtrans" { "otp=112233" } else { "card=4000000000001000" }).await;
        staged.comes_to(payment, "authorized").await;
        let before = captures().await.len();
        let (path, key, body) = (format!("/v1/payments/{payment}/capture"), format!("take-{step}"), json!({}));
        // Again if it takes too long, until nobody is there.
        let taking = async { while staged.till.post(&key, &path, &body).await.is_ok() {} };
        match step {
            // Nothing was written down by then.
            "wish" => {
                let holder = staged.database.locks("payment_attempts").await;
                tokio::join!(taking, async {
                    locked_out(&staged.database, 2).await; // One is whoever looks what is due.
                    hub.kill().await;
                    let_go(holder).await;
                });
            }
            // It is done there and nobody lives to hear it; or it is done when nobody expects it any more.
            "asked" | "begun" => {
                let fault = if step == "asked" { "timeout_after_commit" } else { "slow_s" };
                staged.says("faults", json!({ "fault": fault, "on": "capture", "seconds": 8 })).await;
                tokio::join!(taking, async {
                    until(async || (captures().await.len() > before).then_some(())).await;
                    hub.kill().await;
                });
            }
            // The answer is there and is not written down.
            table => {
                staged.says("faults", json!({ "fault": "slow_s", "on": "capture", "seconds": 8 })).await;
                tokio::join!(taking, async {
                    until(async || (captures().await.len() > before).then_some(())).await;
                    let holder = staged.database.locks(table).await;
                    // Not only whoever has the answer comes to the lock: so does whoever looks at what was told of the step before.
                    let last = async || staged.requests("capture").await.pop().expect("a request");
                    until(async || last().await["status"].is_number().then_some(())).await;
                    locked_out(&staged.database, 1).await;
                    hub.kill().await;
                    let_go(holder).await;
                });
            }
        }
        hub = staged.restarts().await;
        if step == "wish" {
            let wished = format!(
                "select count(*) from payment_attempts where payment_id = '{payment}' and capture_minor is not null"
            );
            assert_eq!(staged.database.psql(&wished).await.trim(), "0");
            staged.at_last(&key, &path, &body).await;
        }
        staged.comes_to(payment, "paid").await;
        assert_eq!(staged.sale_is(sale).await, "completed", "{step}");
        adds_up(&staged.database).await;
        // Only whom nobody knew to have done it was asked again, after it had said that it had not.
        let taken = captures().await.len() - before;
        assert!(taken == 1 || (step == "begun" && taken == 2), "{step}: {taken}");
    }
    let twice = "select count(*) from (select 1 from payments group by sale_id having count(*) <> 1) twice";
    assert_eq!(staged.database.psql(twice).await.trim(), "0");
    assert_eq!(staged.database.psql("select count(*) from payment_tasks").await.trim(), "0");
    hub.kill().await;
}
