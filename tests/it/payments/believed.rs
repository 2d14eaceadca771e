//! Accounts that believe a notification at once: what it says is so for whoever waits, and is asked for all the same.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tillwire_simulators::midtrans_signature;

use super::cards::{GOOD, card, proves};
use super::storms::{is_slow, leave_in_peace};
use super::*;
use crate::support::services::proxy::Proxy;

/// A market whose shop believes what Midtrans signs, with the webhook's path.
async fn believing(stage: Stage) -> (Stage, String) {
    let (_, shop, _) = stage.cast();
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    let mut path = String::new();
    for account in accounts["items"].as_array().unwrap() {
        let settings = json!({ "confirm": "fast", "enabled": true, "label": "" });
        let one = format!("/v1/provider-accounts/{}", account["id"].as_str().unwrap());
        puts(&shop, &one, settings).await;
        if account["provider"] == "midtrans" {
            path = account["webhook_path"].as_str().unwrap().to_owned();
        }
    }
    (stage, path)
}

async fn puts(shop: &Shop<'_>, path: &str, body: Value) {
    let key = uuid::Uuid::new_v4().to_string();
    let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
    shop.owner().send("PUT", path, &headers, body.to_string().into_bytes()).await.expect("an answer").ok();
}

/// A notification of Midtrans' that is signed: whoever has seen one that says 200 can say this.
fn signed(payment: &Value, status: &str) -> String {
    let id = payment["id"].as_str().unwrap();
    let signature = midtrans_signature(id, "200", "48500.00", &format!("SB-Mid-server-{MIDTRANS_KEY}"));
    json!({ "order_id": id, "status_code": "200", "gross_amount": "48500.00", "transaction_status": status,
            "fraud_status": "accept", "currency": "IDR", "merchant_id": MIDTRANS_ID, "payment_type": "qris",
            "signature_key": signature })
    .to_string()
}

/// Nobody is at it any more, nor is to be, and nothing waits that was told of it.
pub(super) async fn is_left(market: &Market, payment: &Value) {
    let left = format!(
        "select (select count(*) from payment_attempts where payment_id = '{}' and next_at is null and lease is null)
                - (select count(*) from provider_inbox where outcome is null)",
        payment["id"].as_str().unwrap()
    );
    until(async || (market.hub.database.psql(&left).await.trim() == "1").then_some(())).await;
}

#[tokio::test]
async fn what_is_signed_is_believed_at_once_and_confirmed_when_its_provider_can_be_asked() {
    let (stage, _) = believing(Stage::opens().await).await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    // Nobody can be asked.
    market.says("faults", json!({ "fault": "http_500", "on": "status", "times": 2 })).await;
    let began = Instant::now();
    market.pays(&payment).await;
    let captured = screen.hears_next("payment.captured").await;
    println!("believed: on the screen after {:?}", began.elapsed());
    assert_eq!(captured.data()["payment"], payment["id"]);
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    // It is asked for until there is an answer.
    let answered =
        async || market.requests("midtrans").await.iter().any(|it| it["operation"] == "status" && it["status"] == 200);
    until(async || answered().await.then_some(())).await;
    assert_eq!(comes_to(&shop, &payment, "paid").await["state"], "paid");
    assert!(tasks(&shop).await.is_empty());
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 1);

    // Xendit signs nothing: there it is asked first.
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    market.says("forge", json!({ "id": payment["id"], "status": "SUCCEEDED" })).await;
    until(async || (market.deliveries(&payment).await.iter().any(|it| it["state"] == "delivered")).then_some(())).await;
    let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    assert_eq!(shop.get(&check).await.ok()["state"], "pending");
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn what_was_believed_and_is_not_so_is_for_a_person() {
    let (stage, path) = believing(Stage::opens().await).await;
    let (market, shop, bread) = stage.cast();
    for (place, ended) in [None, Some("expire")].into_iter().enumerate() {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris("midtrans")).await.created();
        if ended.is_some() {
            // Until it is over nobody can be asked.
            market.says("faults", json!({ "fault": "http_500", "on": "status", "times": 1 })).await;
        }
        assert_eq!(market.notifies(&path, &[], &signed(&payment, "settlement")).await, 200);
        comes_to(&shop, &payment, "paid").await;
        if ended.is_some() {
            market.says("expire_now", json!({ "id": payment["id"] })).await;
        }
        until(async || (tasks(&shop).await.len() > place).then_some(())).await;
        let found = tasks(&shop).await;
        assert_eq!(
            (&found[place]["kind"], &found[place]["payment"]),
            (&json!("conflict"), &payment["id"]),
            "{found:?}"
        );
        // The goods may be gone: what becomes of it a person says.
        assert_eq!(comes_to(&shop, &payment, "paid").await["state"], "paid");
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    }
    let alerts = shop.journal_of(&["alert.raised"]).await;
    assert_eq!((alerts.len(), &alerts[0].1["data"]["alert"]), (2, &json!("payment_conflict")));
}

/// Whoever has seen that a card's money is held has a signature over a 200 of its amount.
#[tokio::test]
async fn money_that_is_held_is_not_taken_by_what_was_signed_for_the_hold() {
    let (stage, path) = believing(Stage::opens().await).await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let mut payment = card(market, "midtrans", GOOD).await;
    payment["hold"] = json!(true);
    let payment = asks(&shop, &sale, payment).await.created();
    proves(&payment).await;
    comes_to(&shop, &payment, "authorized").await;
    for status in ["capture", "settlement"] {
        assert_eq!(market.notifies(&path, &[], &signed(&payment, status)).await, 200);
        let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
        assert_eq!(shop.get(&check).await.ok()["state"], "authorized", "{status}");
    }
    assert_eq!(sale_of(&shop, &sale).await["state"], "open");
    assert!(shop.journal_of(&["payment.captured"]).await.is_empty() && tasks(&shop).await.is_empty());
    // Somebody takes it, and then it is.
    let capture = format!("/v1/payments/{}/capture", payment["id"].as_str().unwrap());
    assert_eq!(shop.post(&capture, json!({})).await.ok()["state"], "paid");
}

/// The provider's answers come late, its notifications at once.
#[tokio::test]
async fn an_answer_that_is_older_than_what_was_believed_contradicts_nobody() {
    let providers = Simulators::start(Options::default()).await.expect("providers");
    let line = Proxy::to(providers.midtrans.port()).await;
    let xendit = providers.xendit_url();
    let market = Market::of(providers, &format!("http://127.0.0.1:{}", line.port), &xendit).await;
    let (stage, _) = believing(Stage::with(market, "10").await).await;
    let (market, shop, bread) = stage.cast();
    for ended in [None, Some("cancel")] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris("midtrans")).await.created();
        let one = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
        let operation = ended.unwrap_or("status");
        let answered = async || {
            let requests = market.requests("midtrans").await;
            requests.iter().filter(|it| it["operation"] == operation && it["status"] == 200).count()
        };
        let before = answered().await;
        leave_in_peace(market).await;
        market
            .says("faults", json!({ "fault": "slow_s", "provider": "midtrans", "on": operation, "seconds": 4 }))
            .await;
        let asking = async {
            match ended {
                None => shop.get(&format!("{one}?ask=true")).await.ok(),
                Some(_) => shop.post(&format!("{one}/cancel"), json!({})).await.ok(),
            }
        };
        let paying = async {
            is_slow(market, "midtrans").await;
            line.pause();
            // It has answered, and its answer is on its way.
            until(async || (answered().await > before).then_some(())).await;
            market.says("pay", json!({ "id": payment["id"], "late": true })).await;
            comes_to(&shop, &payment, "paid").await;
            line.resume();
        };
        let (found, ()) = tokio::join!(asking, paying);
        assert_eq!(found["state"], "paid", "{found}");
        assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        // It is asked once more, and says so too.
        is_left(market, &payment).await;
        comes_to(&shop, &payment, "paid").await;
        assert!(tasks(&shop).await.is_empty(), "{:?}", tasks(&shop).await);
    }
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 2);
}

/// The customer pays and the cashier takes cash, at once; by the time that anybody looks the provider has given the money back.
#[tokio::test]
async fn what_is_found_refunded_after_its_sale_had_ended_stays_with_a_person() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    market.pays(&payment).await;
    let order = json!({ "refund_key": "by-the-dashboard", "amount": 48_500, "reason": "Salah" }).to_string();
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("SB-Mid-server-{MIDTRANS_KEY}:")));
    let headers =
        [("authorization", basic.as_str()), ("content-type", "application/json"), ("accept", "application/json")];
    let path = format!("/v2/{}/refund", payment["id"].as_str().unwrap());
    let refunded = request(market.providers.midtrans, "POST", &path, &headers, order.into_bytes()).await.unwrap().ok();
    assert_eq!(refunded["status_code"], "200", "{refunded}");
    let cash = json!({ "method": "cash", "amount_minor": 48_500 });
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
    comes_to(&shop, &payment, "paid_late").await;
    assert_eq!(kinds(&tasks(&shop).await), ["paid_late", "refund_elsewhere"]);
    assert_eq!(sale_of(&shop, &sale).await["tenders"].as_array().map(Vec::len), Some(1), "it is paid by cash alone");
    adds_up(&market.hub.database).await;
}

/// Whoever asks waits for the sale, and then a notification does; neither has what the other wants.
#[tokio::test]
async fn what_is_believed_while_it_is_asked_for_locks_in_the_order_of_everybody() {
    let (stage, path) = believing(Stage::opens().await).await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    market.pays(&payment).await;
    let database = &market.hub.database;
    let lock = format!("select from sales where sale_id = '{}' for update", sale["id"].as_str().unwrap());
    let holder = database.held(&lock).await;
    let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    let body = signed(&payment, "settlement");
    let telling = async {
        locked_out(database, 1).await;
        let letting_go = async {
            locked_out(database, 2).await;
            let_go(holder).await;
        };
        tokio::join!(market.notifies(&path, &[], &body), letting_go).0
    };
    let (asked, told) = tokio::join!(shop.get(&check), telling);
    assert_eq!((&asked.ok()["state"], told), (&json!("paid"), 200));
    is_left(market, &payment).await;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(database.psql(deadlocks).await.trim(), "0");
    assert_eq!(shop.journal_of(&["payment.captured"]).await.len(), 1);
}
