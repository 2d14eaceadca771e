//! Everything that goes wrong on purpose.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Post, Stage, TOKEN, qris, request, transfer};

/// Pays an order and answers what the hub was told.
async fn paid(stage: &Stage, id: &str) -> Vec<Post> {
    stage.does("pay", json!({ "id": id })).await;
    stage.told().await
}

async fn midtrans_state(stage: &Stage, id: &str) -> Value {
    stage.midtrans(&format!("GET /v2/{id}/status"), Value::Null).await.body["transaction_status"].clone()
}

async fn xendit_state(stage: &Stage, id: &str) -> Value {
    stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await.body["status"].clone()
}

#[tokio::test]
async fn a_webhook_comes_more_than_once() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "duplicate", "n": 3, "concurrent": true })).await;
    assert_eq!(paid(&stage, "M-1").await.len(), 4);
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "duplicate", "n": 2 })).await;
    assert_eq!(paid(&stage, &id).await.len(), 1, "the others are a second apart");
    stage.advance(2.0).await;
    assert_eq!(stage.told().await.len(), 2);
}

#[tokio::test]
async fn the_settlement_comes_before_the_pending() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "reorder", "on": "pending", "payment": "M-1" })).await;
    stage.midtrans("POST /v2/charge", qris("M-1", 1_000)).await;
    assert_eq!(stage.told().await.len(), 0);
    assert_eq!(stage.deliveries("M-1").await[0]["state"], "held");
    let told = paid(&stage, "M-1").await;
    assert_eq!(told.iter().map(Post::event).collect::<Vec<_>>(), ["settlement", "pending"]);
    assert!(told.iter().all(Post::is_signed));
}

#[tokio::test]
async fn a_failure_is_told_that_is_none() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "late_failure", "times": 2 })).await;
    stage.midtrans_qris("M-1", 1_000).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.does("pay", json!({ "id": "M-1" })).await;
    stage.does("pay", json!({ "id": id })).await;
    stage.told().await;
    stage.advance(1.0).await;
    let events: BTreeSet<_> = stage.told().await.iter().map(|it| it.event().to_owned()).collect();
    assert_eq!(events.into_iter().collect::<Vec<_>>(), ["expire", "payment.failure"]);
    assert_eq!(
        (midtrans_state(&stage, "M-1").await, xendit_state(&stage, &id).await),
        (json!("settlement"), json!("SUCCEEDED"))
    );
}

#[tokio::test]
async fn a_webhook_never_comes_or_comes_late() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "drop_webhook", "times": null, "payment": "M-1" })).await;
    assert_eq!(paid(&stage, "M-1").await.len(), 0);
    stage.advance(24.0 * 3600.0).await;
    assert_eq!(stage.told().await.len(), 0);
    assert_eq!(midtrans_state(&stage, "M-1").await, "settlement", "a poll finds it");
    // By hand it can still be sent.
    stage.does("redeliver", json!({ "payment": "M-1" })).await;
    assert_eq!(stage.told().await.len(), 2, "the pending one, too");
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "delay_s", "seconds": 30 })).await;
    assert_eq!(paid(&stage, &id).await.len(), 0);
    stage.advance(29.0).await;
    assert_eq!(stage.told().await.len(), 0);
    stage.advance(1.0).await;
    assert_eq!(stage.told().await.len(), 1);
}

#[tokio::test]
async fn a_customer_pays_after_the_end() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "pay_after_expire", "times": 4, "seconds": 60 })).await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage.midtrans("POST /v2/M-1/expire", Value::Null).await;
    stage.midtrans("POST /v2/charge", transfer("M-2", "bri", 1_000)).await;
    stage.midtrans("POST /v2/M-2/cancel", Value::Null).await;
    let (cancelled, expired) = (stage.xendit_qris("X-1", 1_000).await, stage.xendit_qris("X-2", 1_000).await);
    stage.xendit(&format!("POST /v3/payment_requests/{cancelled}/cancel"), Value::Null).await;
    stage.does("expire_now", json!({ "id": expired })).await;
    stage.told().await;
    stage.advance(60.0).await;
    let events: Vec<_> = stage.told().await.iter().map(|it| it.event().to_owned()).collect();
    assert_eq!(events.iter().filter(|it| *it == "settlement").count(), 2);
    assert_eq!(events.iter().filter(|it| *it == "payment.capture").count(), 2);
    assert_eq!(
        (midtrans_state(&stage, "M-1").await, xendit_state(&stage, &expired).await),
        (json!("settlement"), json!("EXPIRED"))
    );
}

#[tokio::test]
async fn a_signature_or_a_token_is_not_the_providers() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "bad_signature", "on": "settlement" })).await;
    stage.midtrans_qris("M-1", 1_000).await;
    let told = paid(&stage, "M-1").await.remove(0);
    assert!(!told.is_signed() && told.body["signature_key"].as_str().unwrap().len() == 128);
    stage.goes_wrong(json!({ "fault": "wrong_token" })).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    let told = paid(&stage, &id).await.remove(0);
    assert!(!told.header("x-callback-token").is_empty() && told.header("x-callback-token") != TOKEN);
}

#[tokio::test]
async fn a_status_is_changed_under_a_signature_that_is_right() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "tampered_status", "on": "pending" })).await;
    stage.midtrans("POST /v2/charge", qris("M-1", 1_000)).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), ("settlement", &json!("201"), true));
    assert_eq!(midtrans_state(&stage, "M-1").await, "pending");
    // And whenever somebody likes, with a code that fits.
    stage.does("forge", json!({ "id": "M-1", "status": "settlement", "amount": 5 })).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), ("settlement", &json!("200"), true));
    assert_eq!(told.body["gross_amount"], "5.00");
    assert_eq!(midtrans_state(&stage, "M-1").await, "pending");
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.does("forge", json!({ "id": id, "status": "SUCCEEDED" })).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), told.header("x-callback-token")), ("payment.capture", TOKEN));
    assert_eq!(xendit_state(&stage, &id).await, "REQUIRES_ACTION");
    stage.goes_wrong(json!({ "fault": "tampered_status", "provider": "xendit" })).await;
    stage.does("expire_now", json!({ "id": id })).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["data"]["status"]), ("payment.capture", &json!("SUCCEEDED")));
}

#[tokio::test]
async fn another_amount_merchant_or_currency_is_shown_everywhere() {
    let stage = Stage::start().await;
    for (fault, field, shown) in [
        (json!({ "fault": "amount_mismatch", "amount": 900 }), "gross_amount", "900.00"),
        (json!({ "fault": "amount_mismatch" }), "gross_amount", "1001.00"),
        (json!({ "fault": "wrong_merchant" }), "merchant_id", "G000000000"),
        (json!({ "fault": "currency" }), "currency", "USD"),
    ] {
        let order = format!("M-{}", shown.replace('.', "-"));
        stage.midtrans_qris(&order, 1_000).await;
        stage.goes_wrong(fault).await;
        let told = paid(&stage, &order).await.remove(0);
        assert!(told.is_signed());
        let status = stage.midtrans(&format!("GET /v2/{order}/status"), Value::Null).await;
        assert_eq!((&told.body[field], &status.body[field]), (&json!(shown), &json!(shown)));
    }
    let told = async |reference: &str, fault: Value| {
        let id = stage.xendit_qris(reference, 1_000).await;
        stage.goes_wrong(fault).await;
        paid(&stage, &id).await.remove(0).body
    };
    let body = told("X-1", json!({ "fault": "amount_mismatch", "amount": 900 })).await;
    assert_eq!(
        (&body["data"]["captures"][0]["capture_amount"], &body["data"]["request_amount"]),
        (&json!(900), &json!(1_000))
    );
    let body = told("X-2", json!({ "fault": "wrong_merchant" })).await;
    assert_eq!(body["business_id"], body["data"]["business_id"]);
    assert_ne!(body["business_id"], crate::support::BUSINESS);
    assert_eq!(told("X-3", json!({ "fault": "currency", "currency": "SGD" })).await["data"]["currency"], "SGD");
}

#[tokio::test]
async fn money_is_taken_back() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "reversal", "times": 2 })).await;
    stage.midtrans("POST /v2/charge", transfer("M-1", "permata", 1_000)).await;
    stage.told().await;
    assert_eq!(paid(&stage, "M-1").await.remove(0).event(), "settlement");
    let id = stage.xendit_qris("X-1", 1_000).await;
    paid(&stage, &id).await;
    stage.advance(180.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), ("deny", &json!("202"), true));
    assert_eq!(midtrans_state(&stage, "M-1").await, "deny");
    let rows = stage.xendit("GET /transactions?reference_id=X-1", Value::Null).await;
    assert_eq!(rows.body["data"][0]["status"], "REVERSED");
}

#[tokio::test]
async fn the_customer_has_paid_and_nobody_says_so() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "stuck_pending", "times": 2 })).await;
    stage.midtrans_qris("M-1", 1_000).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    assert_eq!(paid(&stage, "M-1").await.len() + paid(&stage, &id).await.len(), 0);
    assert_eq!(
        (midtrans_state(&stage, "M-1").await, xendit_state(&stage, &id).await),
        (json!("pending"), json!("REQUIRES_ACTION"))
    );
}

#[tokio::test]
async fn what_is_done_is_not_answered() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "timeout_after_commit", "on": "charge", "seconds": 0.2 })).await;
    let key = [("idempotency-key", "k-1")];
    let began = Instant::now();
    assert!(stage.try_midtrans("POST /v2/charge", &key, &qris("M-1", 1_000)).await.is_err());
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(midtrans_state(&stage, "M-1").await, "pending", "it is done");
    let again = stage.try_midtrans("POST /v2/charge", &key, &qris("M-1", 1_000)).await.unwrap();
    assert_eq!(again.code(), "201", "the key brings the answer that was lost");
    stage.goes_wrong(json!({ "fault": "timeout_after_commit", "on": "create", "seconds": 0 })).await;
    assert!(stage.try_xendit("POST /v3/payment_requests", &[], &request("X-1", "QRIS", 1_000)).await.is_err());
    let found = stage.xendit("GET /v3/payment_requests?reference_id=X-1", Value::Null).await;
    let id = found.body["data"][0]["payment_request_id"].clone();
    paid(&stage, id.as_str().unwrap()).await;
    stage.goes_wrong(json!({ "fault": "timeout_after_commit", "on": "refund", "seconds": 0 })).await;
    let body = json!({ "payment_request_id": id, "reason": "OTHERS" });
    assert!(stage.try_xendit("POST /refunds", &[], &body).await.is_err());
    let path = format!("GET /refunds?payment_request_id={}", id.as_str().unwrap());
    assert_eq!(stage.xendit(&path, Value::Null).await.body["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_provider_is_broken_busy_slow_or_hangs_up() {
    let stage = Stage::start().await;
    for (fault, status, code) in [
        ("http_500", 500, "SERVER_ERROR"),
        ("http_503", 503, "CHANNEL_UNAVAILABLE"),
        ("http_429", 429, "RATE_LIMIT_EXCEEDED"),
    ] {
        stage.goes_wrong(json!({ "fault": fault, "times": 2 })).await;
        let answer = stage.midtrans("POST /v2/charge", qris("M-1", 1_000)).await;
        assert_eq!((answer.status, &answer.body["status_code"]), (status, &json!(status.to_string())));
        let answer = stage.xendit("POST /v3/payment_requests", request("X-1", "QRIS", 1_000)).await;
        assert_eq!(answer.error(), (status, code));
        if status == 429 {
            assert_eq!(answer.headers["rate-limit-reset"], "30.000");
        }
    }
    stage.goes_wrong(json!({ "fault": "reset", "times": 2 })).await;
    assert!(stage.try_midtrans("POST /v2/charge", &[], &qris("M-1", 1_000)).await.is_err());
    assert!(stage.try_xendit("POST /v3/payment_requests", &[], &request("X-1", "QRIS", 1_000)).await.is_err());
    assert_eq!(stage.midtrans("GET /v2/M-1/status", Value::Null).await.code(), "404", "nothing of it was done");
    assert_eq!(stage.xendit("GET /v3/payment_requests?reference_id=X-1", Value::Null).await.body["data"], json!([]));
    stage.goes_wrong(json!({ "fault": "slow_s", "on": "status", "seconds": 0.3 })).await;
    let began = Instant::now();
    stage.midtrans("GET /v2/M-1/status", Value::Null).await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    // One who hangs up meanwhile has charged all the same.
    stage.goes_wrong(json!({ "fault": "slow_s", "on": "charge", "seconds": 0.3 })).await;
    let body = qris("M-1", 1_000);
    let impatient = stage.try_midtrans("POST /v2/charge", &[], &body);
    assert!(tokio::time::timeout(Duration::from_millis(100), impatient).await.is_err());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(midtrans_state(&stage, "M-1").await, "pending");
}

#[tokio::test]
async fn a_fault_is_for_one_provider_one_payment_or_one_operation() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage
        .goes_wrong(
            json!({ "fault": "http_503", "provider": "midtrans", "payment": "M-1", "on": "cancel", "times": null }),
        )
        .await;
    assert_eq!(stage.midtrans("GET /v2/M-1/status", Value::Null).await.status, 200);
    assert_eq!(stage.midtrans("POST /v2/M-2/cancel", Value::Null).await.code(), "404");
    let id =
        stage.midtrans("GET /v2/M-1/status", Value::Null).await.body["transaction_id"].as_str().unwrap().to_owned();
    for name in ["M-1", &id] {
        assert_eq!(stage.midtrans(&format!("POST /v2/{name}/cancel"), Value::Null).await.status, 503, "{name}");
    }
    // Before there is a payment its reference is enough.
    stage.goes_wrong(json!({ "fault": "reset", "payment": "X-9" })).await;
    assert_eq!(stage.xendit("POST /v3/payment_requests", request("X-8", "QRIS", 1)).await.status, 201);
    assert!(stage.try_xendit("POST /v3/payment_requests", &[], &request("X-9", "QRIS", 1)).await.is_err());
    assert_eq!(stage.sim("GET faults", Value::Null).await.body["faults"].as_array().unwrap().len(), 1);
    let rule = stage.sim("GET faults", Value::Null).await.body["faults"][0]["id"].clone();
    assert_eq!(stage.sim(&format!("DELETE faults/{rule}"), Value::Null).await.status, 200);
    assert_eq!(stage.midtrans("POST /v2/M-1/cancel", Value::Null).await.code(), "200");
    stage.goes_wrong(json!({ "fault": "reset" })).await;
    stage.sim("DELETE faults", Value::Null).await;
    assert_eq!(stage.midtrans("GET /v2/M-1/status", Value::Null).await.status, 200);
}

#[tokio::test]
async fn a_hub_is_said_to_be_away_though_it_is_not() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "hub_503", "times": 2, "on": "settlement" })).await;
    assert_eq!(paid(&stage, "M-1").await.len(), 0);
    stage.advance(1_200.0).await;
    assert_eq!(stage.told().await.len(), 1);
    let attempts = stage.deliveries("M-1").await.pop().unwrap()["attempts"].clone();
    assert_eq!(attempts[0]["outcome"]["answered"], 503);
    assert_eq!(attempts.as_array().unwrap().len(), 3);
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.goes_wrong(json!({ "fault": "hub_down" })).await;
    assert_eq!(paid(&stage, &id).await.len(), 0);
    stage.advance(900.0).await;
    assert_eq!(stage.told().await.len(), 1);
    // Down for an hour: all that is tried meanwhile counts.
    stage.goes_wrong(json!({ "fault": "hub_down", "seconds": 3_600 })).await;
    let id = stage.xendit_qris("X-2", 1_000).await;
    stage.midtrans("POST /v2/charge", transfer("M-2", "bni", 1_000)).await;
    assert_eq!(paid(&stage, &id).await.len(), 0);
    stage.advance(3_599.0).await;
    assert_eq!(stage.told().await.len(), 0);
    stage.advance(7_200.0).await;
    assert_eq!(stage.told().await.len(), 2);
    assert_eq!(stage.deliveries(&id).await[0]["attempts"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_code_is_spoiled() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "qr_bad_crc", "times": 2 })).await;
    let bad = stage.midtrans("POST /v2/charge", qris("M-1", 48_500)).await.body["qr_string"].clone();
    assert_eq!(stage.sim("POST pay", json!({ "qr": bad })).await.status, 409, "no app reads it");
    let bad =
        stage.xendit("POST /v3/payment_requests", request("X-1", "QRIS", 48_500)).await.body["actions"][0]["value"]
            .clone();
    assert_eq!(stage.sim("POST pay", json!({ "qr": bad })).await.status, 409);
    stage.goes_wrong(json!({ "fault": "qr_wrong_amount", "times": 2, "amount": 48_501 })).await;
    let wrong = stage.midtrans("POST /v2/charge", qris("M-2", 48_500)).await.body["qr_string"].clone();
    assert!(wrong.as_str().unwrap().contains("540848501.00"));
    stage.told().await;
    stage.does("pay", json!({ "qr": wrong })).await;
    assert_eq!(stage.told().await.remove(0).body["gross_amount"], "48501.00");
    let wrong =
        stage.xendit("POST /v3/payment_requests", request("X-2", "QRIS", 48_500)).await.body["actions"][0]["value"]
            .clone();
    assert!(wrong.as_str().unwrap().contains("540548501"));
}

#[tokio::test]
async fn a_refund_is_never_confirmed_or_is_refused() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 10_000).await;
    let id = stage.xendit_qris("X-1", 10_000).await;
    for id in ["M-1", &id] {
        paid(&stage, id).await;
    }
    let midtrans =
        async |key: &str| stage.midtrans("POST /v2/M-1/refund", json!({ "refund_key": key, "amount": 1_000 })).await;
    let xendit = async || {
        stage.xendit("POST /refunds", json!({ "payment_request_id": id, "amount": 1_000, "reason": "OTHERS" })).await
    };
    stage.goes_wrong(json!({ "fault": "refund_rejected_202", "times": 2 })).await;
    let refused = midtrans("R-1").await;
    assert_eq!(
        (refused.code(), &refused.body["transaction_status"], &refused.body["refund_amount"]),
        ("202", &json!("settlement"), &json!("0.00"))
    );
    assert_eq!(xendit().await.body["status"], "PENDING");
    stage.advance(10.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!(
        (told.event(), &told.body["data"]["status"], &told.body["data"]["failure_code"]),
        ("refund.failed", &json!("FAILED"), &json!("REFUND_FAILED"))
    );
    // The same key is tried again: nothing came of it.
    stage.goes_wrong(json!({ "fault": "refund_pending_forever", "times": 2 })).await;
    assert_eq!(midtrans("R-1").await.code(), "200");
    let pending = xendit().await.body["id"].as_str().unwrap().to_owned();
    assert_eq!(stage.told().await.len(), 1);
    stage.advance(6.0 * 24.0 * 3600.0).await;
    assert_eq!(stage.told().await.len(), 0);
    assert_eq!(stage.xendit(&format!("GET /refunds/{pending}"), Value::Null).await.body["status"], "PENDING");
    let status = stage.midtrans("GET /v2/M-1/status", Value::Null).await;
    assert!(status.body["refunds"][0].get("bank_confirmed_at").is_none());
}

#[tokio::test]
async fn a_webhook_is_of_another_shape() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    for fault in ["unknown_event", "extra_fields", "null_fields", "case_change"] {
        stage.goes_wrong(json!({ "fault": fault, "times": 2 })).await;
    }
    let told = paid(&stage, "M-1").await;
    let (unknown, real): (Vec<_>, Vec<_>) = told.iter().partition(|it| it.body.get("event_name").is_some());
    assert_eq!((unknown.len(), real.len()), (1, 1));
    assert!(unknown[0].body.get("order_id").is_none());
    assert_eq!(
        (real[0].event(), real[0].is_signed(), &real[0].body["settlement_time"]),
        ("SETTLEMENT", true, &Value::Null)
    );
    assert!(real[0].body["transaction_grade"].is_object());
    let told = paid(&stage, &id).await;
    let (unknown, real): (Vec<_>, Vec<_>) = told.iter().partition(|it| it.event() == "payment_token.activation");
    assert_eq!((unknown.len(), real.len()), (1, 1));
    assert_eq!((real[0].event(), &real[0].body["data"]["status"]), ("payment.capture", &json!("succeeded")));
    assert!(real[0].body["data"]["payment_details"].is_null() && real[0].body["data"]["transaction_grade"].is_object());
}

#[tokio::test]
async fn the_end_stands_under_another_name() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "expire_time" })).await;
    let charged = stage.midtrans("POST /v2/charge", qris("M-1", 1_000)).await;
    assert!(charged.body["expire_time"].is_string() && charged.body.get("expiry_time").is_none());
    let charged = stage.midtrans("POST /v2/charge", qris("M-2", 1_000)).await;
    assert!(charged.body["expiry_time"].is_string() && charged.body.get("expire_time").is_none());
}
