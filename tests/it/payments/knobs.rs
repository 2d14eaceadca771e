//! What the simulators' other knobs do to a payment: whose money it is and of what, who is late, who is away, and what nobody can
//! read.

use futures_util::future::join_all;

use super::storms::leave_in_peace;
use super::*;

/// An answer to a question that is asked now.
async fn asked_now(shop: &Shop<'_>, payment: &Value) -> Value {
    shop.get(&format!("/v1/payments/{}?ask=true", payment["id"].as_str().expect("an id"))).await.ok()
}

/// A payment that is shown to a customer, and its sale.
async fn begun(shop: &Shop<'_>, bread: &str, provider: &str) -> (Value, Value) {
    let sale = opens(shop, bread).await;
    let payment = asks(shop, &sale, qris(provider)).await.created();
    assert_eq!((&payment["state"], &payment["shown"]["type"]), (&json!("pending"), &json!("qr")), "{payment}");
    (sale, payment)
}

async fn task_of(shop: &Shop<'_>, payment: &Value, kind: &str) -> Value {
    until(async || tasks(shop).await.into_iter().find(|it| it["payment"] == payment["id"] && it["kind"] == kind)).await
}

async fn alerts(shop: &Shop<'_>) -> Vec<String> {
    let raised = shop.journal_of(&["alert.raised"]).await;
    raised.iter().map(|(_, event)| event["data"]["alert"].as_str().expect("an alert").to_owned()).collect()
}

/// Where a provider's notifications come.
pub(super) async fn webhook(shop: &Shop<'_>, provider: &str) -> String {
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    let account = accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
    account["webhook_path"].as_str().unwrap().to_owned()
}

/// How often each thing was told, and how: of one payment.
async fn attempts(market: &Market, payment: &Value, event: &str) -> Vec<Value> {
    let told = market.deliveries(payment).await;
    let told = told.iter().find(|it| it["event"] == event).unwrap_or_else(|| panic!("nobody tells {event}: {told:?}"));
    told["attempts"].as_array().expect("attempts").iter().map(|it| it["outcome"].clone()).collect()
}

const PAID: [(&str, &str); 2] = [("midtrans", "settlement"), ("xendit", "payment.capture")];

#[tokio::test]
async fn p6_money_of_another_merchant_or_currency_pays_nothing_whoever_tells_of_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (fault, kind) in [("wrong_merchant", "merchant_differs"), ("currency", "currency_differs")] {
        for provider in ["midtrans", "xendit"] {
            for is_told in [true, false] {
                let (sale, payment) = begun(&shop, bread, provider).await;
                market.says("faults", json!({ "fault": fault, "payment": payment["id"] })).await;
                if !is_told {
                    market
                        .says("faults", json!({ "fault": "drop_webhook", "payment": payment["id"], "times": null }))
                        .await;
                }
                market.pays(&payment).await;
                if !is_told {
                    asked_now(&shop, &payment).await;
                }
                task_of(&shop, &payment, kind).await;
                // By whatever is asked since.
                let now = asked_now(&shop, &payment).await;
                assert_eq!((&now["state"], &now["paid_at"]), (&json!("pending"), &Value::Null), "{fault} {now}");
                assert_eq!(sale_of(&shop, &sale).await["state"], "open", "{fault} at {provider}");
            }
        }
    }
    assert!(shop.journal_of(&["payment.captured"]).await.is_empty());
    assert_eq!(kinds(&tasks(&shop).await), [["merchant_differs"; 4], ["currency_differs"; 4]].concat(), "each once");
    assert_eq!(alerts(&shop).await.len(), 8);
}

/// Credentials with the right key and a name that is none of its merchant's, and that key.
fn mistyped() -> [(&'static str, &'static str, Value); 2] {
    [
        ("midtrans", MIDTRANS_KEY, vault::midtrans("G552010978", MIDTRANS_KEY)),
        ("xendit", XENDIT_KEY, vault::xendit("64f0c1d2e3a4b5c6d7e8f910", XENDIT_KEY, &[XENDIT_TOKEN])),
    ]
}

/// Credentials of the right name.
fn right(provider: &str, key: &str) -> Value {
    match provider {
        "midtrans" => vault::midtrans(MIDTRANS_ID, key),
        _ => vault::xendit(XENDIT_ID, key, &[XENDIT_TOKEN]),
    }
}

async fn changes_keys(shop: &Shop<'_>, account: &Value, credentials: Value) -> Answer {
    let path = format!("/v1/provider-accounts/{}/credentials", account["id"].as_str().expect("an id"));
    let body = json!({ "credentials": credentials }).to_string().into_bytes();
    let once = SaleId::new().to_string();
    let headers = [("idempotency-key", once.as_str()), ("content-type", "application/json")];
    shop.owner().send("PUT", &path, &headers, body).await.expect("an answer")
}

/// Somebody has mistyped who they are there: customers are shown what they need, and their money is somebody's matter.
#[tokio::test]
async fn a_merchant_whose_name_is_another_there_is_told_so_when_money_comes() {
    let market = Market::opens().await;
    let shop = market.hub.merchant("Toko Salah").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    for (provider, _, credentials) in mistyped() {
        let account = json!({ "credentials": credentials, "mode": "test" });
        shop.post("/v1/provider-accounts", account).await.created();
        let (_, payment) = begun(&shop, &bread, provider).await;
        assert_eq!(asked_now(&shop, &payment).await["state"], "pending");
        assert!(tasks(&shop).await.iter().all(|it| it["payment"] != payment["id"]));
        market.pays(&payment).await;
        asked_now(&shop, &payment).await;
        let task = task_of(&shop, &payment, "merchant_differs").await;
        let real = if provider == "midtrans" { MIDTRANS_ID } else { XENDIT_ID };
        assert!(task["detail"].as_str().unwrap().contains(real), "{task}");
    }
}

/// The name is mended with the same key, and what was paid meanwhile pays its sale: also what nobody asks about any more.
#[tokio::test]
async fn what_was_paid_to_a_mistyped_name_is_paid_once_that_is_mended() {
    let market = Market::opens().await;
    let shop = market.hub.merchant("Toko Salah").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    for (provider, key, wrong) in mistyped() {
        let account = json!({ "credentials": wrong.clone(), "mode": "test" });
        let account = shop.post("/v1/provider-accounts", account).await.created();
        let (sale, payment) = begun(&shop, &bread, provider).await;
        market.pays(&payment).await;
        asked_now(&shop, &payment).await;
        task_of(&shop, &payment, "merchant_differs").await;
        assert_eq!(asked_now(&shop, &payment).await["state"], "pending");
        let rests = format!(
            "update payment_attempts set next_at = null where payment_id = '{}' and lease is null returning 'rests'",
            payment["id"].as_str().unwrap()
        );
        until(async || market.hub.database.psql(&rests).await.contains("rests").then_some(())).await;

        let puts = async |credentials: Value| changes_keys(&shop, &account, credentials).await;
        puts(right(provider, "somebody-elses-1234567890")).await.refused(422, "another_account");
        let renamed = puts(right(provider, key)).await.ok();
        assert_eq!(renamed["version"], 2, "{renamed}");
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        // A name by which money has come is right, and another would be mistyped.
        puts(wrong).await.refused(409, "account_proven");
    }
    // That somebody was told is theirs to settle.
    assert_eq!(kinds(&tasks(&shop).await), ["merchant_differs"; 2]);
}

/// Whoever is looking at a payment just then goes by the old name: it is looked at again, and not when it would be by itself.
#[tokio::test]
async fn a_name_that_is_mended_while_a_payment_is_looked_at_is_good_for_that_as_well() {
    let market = Market::opens().await;
    let shop = market.hub.merchant("Toko Salah").await;
    let bread = shop.stocked("roti", 48_500, "10").await;
    for ((provider, key, wrong), look) in mistyped().into_iter().zip(["status", "get_payment"]) {
        let account = json!({ "credentials": wrong, "mode": "test" });
        let account = shop.post("/v1/provider-accounts", account).await.created();
        let (_, payment) = begun(&shop, &bread, provider).await;
        market.says("faults", json!({ "fault": "drop_webhook", "payment": payment["id"], "times": null })).await;
        leave_in_peace(&market).await;
        market.says("faults", json!({ "fault": "slow_s", "provider": provider, "on": look, "seconds": 3 })).await;
        let before = market.asked(provider, look).await;
        market.pays(&payment).await;
        // It is looked at now, and by itself not again for a minute.
        let row = format!("payment_attempts where payment_id = '{}'", payment["id"].as_str().unwrap());
        let due = row.replace(" where", " set looks = 30, next_at = now() where");
        market.hub.database.psql(&format!("update {due}")).await;
        // Its account is open by the time that its provider is asked.
        until(async || (market.asked(provider, look).await > before).then_some(())).await;
        changes_keys(&shop, &account, right(provider, key)).await.ok();
        comes_to(&shop, &payment, "paid").await;
    }
    assert_eq!(kinds(&tasks(&shop).await), ["merchant_differs"; 2], "it was looked at by the old name first");
}

#[tokio::test]
async fn what_is_told_late_is_found_before_and_told_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let mut late = Vec::new();
    for (provider, event) in PAID {
        let (sale, payment) = begun(&shop, bread, provider).await;
        let fault = json!({ "fault": "delay_s", "payment": payment["id"], "on": event, "seconds": 30 });
        market.says("faults", fault).await;
        market.pays(&payment).await;
        late.push((sale, payment, event));
    }
    for (_, payment, event) in &late {
        comes_to(&shop, payment, "paid").await;
        assert!(attempts(market, payment, event).await.is_empty(), "it was asked for, and not told");
    }
    for (sale, payment, event) in late {
        until(async || (!attempts(market, &payment, event).await.is_empty()).then_some(())).await;
        assert_eq!(attempts(market, &payment, event).await, [json!({ "answered": 200 })]);
        assert_eq!(comes_to(&shop, &payment, "paid").await["state"], "paid");
        assert_eq!(sale_of(&shop, &sale).await["tenders"].as_array().map(Vec::len), Some(1));
    }
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 2);
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_hub_that_nobody_reaches_is_told_again_and_has_it_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, event) in PAID {
        let (sale, payment) = begun(&shop, bread, provider).await;
        market.says("faults", json!({ "fault": "hub_down", "payment": payment["id"], "on": event })).await;
        market.pays(&payment).await;
        until(async || (!attempts(market, &payment, event).await.is_empty()).then_some(())).await;
        assert_eq!(attempts(market, &payment, event).await, [json!("unreachable")]);
        // The longest first pause is a quarter of an hour.
        market.says("clock", json!({ "advance_s": 16 * 60 })).await;
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(attempts(market, &payment, event).await, [json!("unreachable"), json!({ "answered": 200 })]);
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 2);
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn p5_who_pays_an_old_picture_is_late_and_nothing_is_completed_by_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let (sale, payment) = begun(&shop, bread, provider).await;
        let fault = json!({ "fault": "pay_after_expire", "payment": payment["id"], "on": "expire", "seconds": 600 });
        market.says("faults", fault).await;
        market.says("expire_now", json!({ "id": payment["id"] })).await;
        comes_to(&shop, &payment, "expired").await;
        market.says("clock", json!({ "advance_s": 600 })).await;
        comes_to(&shop, &payment, "paid_late").await;
        task_of(&shop, &payment, "paid_late").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    }
    assert_eq!(alerts(&shop).await, ["payment_paid_late"; 2]);
}

#[tokio::test]
async fn what_a_provider_keeps_calling_pending_is_pending_and_shows_for_how_long() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in ["midtrans", "xendit"] {
        let (sale, payment) = begun(&shop, bread, provider).await;
        market.says("faults", json!({ "fault": "stuck_pending", "payment": payment["id"] })).await;
        market.pays(&payment).await;
        let now = asked_now(&shop, &payment).await;
        assert_eq!((&now["state"], &now["created_at"]), (&json!("pending"), &payment["created_at"]), "{now}");
        assert!(now["created_at"].is_string() && now["expires_at"].is_string());
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    }
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    for account in accounts["items"].as_array().unwrap() {
        let health = format!("/v1/provider-accounts/{}/health", account["id"].as_str().unwrap());
        assert_eq!(shop.get(&health).await.ok()["open_payments"], 1, "{account}");
    }
    assert!(tasks(&shop).await.is_empty() && shop.journal_of(&["payment.captured"]).await.is_empty());
}

/// What it tells proves that it lives: whoever waits for that money waits no longer than if it had failed for the first time.
#[tokio::test]
async fn a_provider_that_was_left_alone_is_asked_once_it_tells_of_something() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    for (provider, charge) in [("midtrans", "charge"), ("xendit", "create")] {
        let account = accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
        let health = format!("/v1/provider-accounts/{}/health", account["id"].as_str().unwrap());
        let (_, payment) = begun(&shop, bread, provider).await;
        leave_in_peace(market).await;
        market.says("faults", json!({ "fault": "http_500", "provider": provider, "on": charge, "times": 7 })).await;
        let sale = opens(&shop, bread).await;
        let asks_for_a_part =
            || asks(&shop, &sale, json!({ "method": "qris", "provider": provider, "amount_minor": 5_000 }));
        let breaker = async || shop.get(&health).await.ok()["breaker"].take();
        join_all((0..5).map(|_| asks_for_a_part())).await.into_iter().for_each(|it| _ = it.created());
        // Left alone for longer each time that it is tried: for five, ten and twenty seconds.
        for _ in 0..2 {
            leave_in_peace(market).await;
            until(async || (breaker().await["state"] == "trying").then_some(())).await;
            asks_for_a_part().await.created();
        }
        let breaker = breaker().await;
        assert!(breaker["state"] == "open" && breaker["seconds"].as_f64() > Some(12.0), "{breaker}");
        let began = Instant::now();
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
        assert!(
            began.elapsed().as_secs_f64() < breaker["seconds"].as_f64().unwrap(),
            "{breaker} {:?}",
            began.elapsed()
        );
        assert_eq!(shop.get(&health).await.ok()["breaker"]["state"], "closed");
    }
}

#[tokio::test]
async fn a_charge_is_read_by_either_name_of_its_expiry() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "expire_time", "provider": "midtrans" })).await;
    let (_, payment) = begun(&shop, bread, "midtrans").await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
}

#[tokio::test]
async fn p6_what_does_not_prove_to_be_its_providers_moves_no_money() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, fault, status) in
        [("midtrans", "bad_signature", "settlement"), ("xendit", "wrong_token", "SUCCEEDED")]
    {
        let (sale, payment) = begun(&shop, bread, provider).await;
        market.says("faults", json!({ "fault": fault, "payment": payment["id"] })).await;
        market.says("forge", json!({ "id": payment["id"], "status": status })).await;
        let event = if provider == "midtrans" { "settlement" } else { "payment.capture" };
        until(async || (!attempts(market, &payment, event).await.is_empty()).then_some(())).await;
        assert_eq!(attempts(market, &payment, event).await, [json!({ "answered": 401 })]);
        assert_eq!(asked_now(&shop, &payment).await["state"], "pending");
        assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    }
    let outcomes = "select string_agg(outcome, ' ') from provider_inbox where outcome <> 'applied'";
    assert_eq!(market.hub.database.psql(outcomes).await.trim(), "forged forged");
    assert!(tasks(&shop).await.is_empty() && shop.journal_of(&["payment.captured"]).await.is_empty());
}

/// What its provider has signed and nobody can read is a person's matter, and makes the provider be asked.
#[tokio::test]
async fn an_amount_that_is_none_is_said_aloud_and_asked_for() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    for (provider, event) in PAID {
        let (sale, payment) = begun(&shop, bread, provider).await;
        // Nobody looks by themselves.
        let later = format!(
            "update payment_attempts set next_at = now() + interval '1 hour' where payment_id = '{}'",
            payment["id"].as_str().unwrap()
        );
        market.hub.database.psql(&later).await;
        market.pays(&payment).await;
        let kept = market.deliveries(&payment).await;
        let kept = kept.iter().find(|it| it["event"] == event).expect("what was kept back")["body"].as_str().unwrap();
        let mut body: Value = serde_json::from_str(kept).expect("JSON");
        let (path, token) = (webhook(&shop, provider).await, [("x-callback-token", XENDIT_TOKEN)]);
        let signed = |body: &mut Value| {
            if provider == "midtrans" {
                body["gross_amount"] = json!("48500.50");
                let (order, key) = (body["order_id"].as_str().unwrap(), format!("SB-Mid-server-{MIDTRANS_KEY}"));
                body["signature_key"] = json!(tillwire_simulators::midtrans_signature(order, "200", "48500.50", &key));
            } else {
                body["data"]["request_amount"] = json!(48_500.5);
            }
            body.to_string()
        };
        for _ in 0..2 {
            assert_eq!(market.notifies(&path, &token, &signed(&mut body)).await, 200);
        }
        let task = task_of(&shop, &payment, "amount_differs").await;
        assert!(task["detail"].as_str().unwrap().contains("no amount in whole rupiah"), "{task}");
        comes_to(&shop, &payment, "paid").await;
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        // Of nothing of ours it is only counted.
        let (other, request) = (PaymentId::new().to_string(), "pr-00000000-0000-4000-8000-000000000000");
        body["order_id"] = json!(other);
        body["transaction_id"] = json!(other);
        if provider == "xendit" {
            body["data"]["reference_id"] = json!(other);
            body["data"]["payment_request_id"] = json!(request);
            body["data"]["payment_id"] = json!("py-00000000-0000-4000-8000-000000000000");
        }
        assert_eq!(market.notifies(&path, &token, &signed(&mut body)).await, 200);
    }
    assert_eq!(kinds(&tasks(&shop).await), ["amount_differs"; 2]);
    assert_eq!(alerts(&shop).await, ["payment_amount_differs"; 2]);
    let outcomes = "select string_agg(outcome, ' ' order by outcome) from provider_inbox";
    assert_eq!(
        market.hub.database.psql(outcomes).await.trim(),
        "duplicate duplicate parked parked unreadable unreadable"
    );
}

/// A code of Xendit's is paid twice by its customer: what pays the sale stays what it was, and somebody is told at once.
#[tokio::test]
async fn a_second_payment_of_the_same_one_is_for_a_person() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (sale, payment) = begun(&shop, bread, "xendit").await;
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    let id = payment["id"].as_str().unwrap();
    let named = format!("select payment_there from payment_attempts where payment_id = '{id}'");
    let first = market.hub.database.psql(&named).await;
    let again = market.says("pay", json!({ "id": payment["id"], "late": true, "issuer": "OVO" })).await;
    let task = task_of(&shop, &payment, "paid_too_much").await;
    assert!(task["detail"].as_str().unwrap().contains(again["payment"].as_str().unwrap()), "{task}");
    let now = asked_now(&shop, &payment).await;
    assert_eq!((&now["state"], &now["issuer"]), (&json!("paid"), &json!("DANA")), "{now}");
    assert_eq!(market.hub.database.psql(&named).await, first);
    assert_eq!(sale_of(&shop, &sale).await["tenders"].as_array().map(Vec::len), Some(1));
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 1);
    assert_eq!(alerts(&shop).await, ["payment_paid_too_much"]);
    // What pays the sale is not given back for it.
    let settle = format!("/v1/payment-tasks/{}", task["id"].as_str().unwrap());
    for resolution in ["refunded", "accepted"] {
        let mut decision = json!({ "resolution": resolution, "note": "She paid twice" });
        if resolution == "accepted" {
            decision["sale"] = opens(&shop, bread).await["id"].clone();
        }
        shop.post(&settle, decision).await.refused(409, "payment_not_late");
    }
    let noted = json!({ "resolution": "noted", "note": "Given back at the dashboard" });
    assert_eq!(shop.post(&settle, noted).await.ok()["resolution"], "noted");
}
