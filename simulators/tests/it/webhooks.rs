//! Webhooks: what they come with, and when each provider tries again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Post, Reply, Stage, TOKEN};

/// The moments of the attempts of a payment's last delivery, in seconds after the first.
async fn attempts(stage: &Stage, payment: &str) -> Vec<f64> {
    let last = stage.deliveries(payment).await.pop().expect("a delivery");
    let at = |it: &Value| {
        time::OffsetDateTime::parse(it["at"].as_str().unwrap(), &time::format_description::well_known::Rfc3339).unwrap()
    };
    let all: Vec<_> = last["attempts"].as_array().unwrap().iter().map(at).collect();
    all.iter().map(|it| (*it - all[0]).as_seconds_f64()).collect()
}

#[tokio::test]
async fn each_provider_has_its_own_headers() {
    let stage = Stage::start().await;
    stage.midtrans_qris("M-1", 1_000).await;
    stage.does("pay", json!({ "id": "M-1" })).await;
    let told = stage.told().await.remove(0);
    assert_eq!(
        (told.header("user-agent"), told.header("accept"), told.header("content-type")),
        ("Veritrans", "application/json", "application/json")
    );
    assert!(told.headers.get("authorization").is_none() && told.headers.get("x-callback-token").is_none());
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.does("pay", json!({ "id": id })).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.header("x-callback-token"), told.header("content-type")), (TOKEN, "application/json"));
    assert!(told.body.get("signature_key").is_none());
}

#[tokio::test]
async fn midtrans_tries_again_by_what_it_was_answered() {
    let stage = Stage::start().await;
    for (status, retries) in
        [(200, 0), (204, 0), (500, 1), (503, 4), (400, 2), (404, 2), (301, 0), (302, 0), (303, 0), (401, 5), (502, 5)]
    {
        let order = format!("M-{status}");
        stage.midtrans_qris(&order, 1_000).await;
        stage.hub.always_answers(Some(Reply::status(status)));
        stage.does("pay", json!({ "id": order })).await;
        stage.advance(8.0 * 3600.0).await;
        let attempts = attempts(&stage, &order).await;
        assert_eq!(attempts.len(), retries + 1, "{status}: {attempts:?}");
        let mut before = 0.0;
        for (at, documented) in attempts[1..].iter().zip([120.0, 600.0, 1_800.0, 5_400.0, 12_600.0]) {
            let pause: f64 = at - before;
            assert!((pause - documented).abs() <= 87.5, "{status}: {pause} s for {documented} s");
            before = *at;
        }
        let last = stage.deliveries(&order).await.pop().unwrap();
        let state = if (200..300).contains(&status) { "delivered" } else { "given_up" };
        assert_eq!(
            (&last["state"], last["attempts"][0]["outcome"]["answered"].as_u64()),
            (&json!(state), Some(u64::from(status)))
        );
        stage.hub.always_answers(None);
    }
}

#[tokio::test]
async fn midtrans_follows_307_and_308_and_no_others() {
    let stage = Stage::start().await;
    let elsewhere = |status, path: &str| Reply { location: Some(path.to_owned()), ..Reply::status(status) };
    stage.midtrans_qris("M-1", 1_000).await;
    stage.hub.answers([elsewhere(307, "/a"), elsewhere(308, "/b")]);
    stage.does("pay", json!({ "id": "M-1" })).await;
    let told = stage.told().await;
    assert_eq!(told.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["/midtrans", "/a", "/b"]);
    assert!(told.iter().all(|it| it.text == told[0].text), "the same body");
    stage.midtrans_qris("M-2", 1_000).await;
    stage.hub.always_answers(Some(elsewhere(307, "/round")));
    stage.does("pay", json!({ "id": "M-2" })).await;
    assert_eq!(stage.told().await.len(), 6, "five times elsewhere");
    stage.hub.always_answers(Some(elsewhere(302, "/c")));
    stage.midtrans_qris("M-3", 1_000).await;
    stage.does("pay", json!({ "id": "M-3" })).await;
    assert_eq!(stage.told().await.len(), 1);
}

#[tokio::test]
async fn xendit_tries_six_times_again_within_a_day() {
    let stage = Stage::start().await;
    for status in [500, 302, 404] {
        let id = stage.xendit_qris(&format!("X-{status}"), 1_000).await;
        stage.hub.always_answers(Some(Reply { location: Some("/elsewhere".into()), ..Reply::status(status) }));
        stage.does("pay", json!({ "id": id })).await;
        stage.advance(25.0 * 3600.0).await;
        let minutes: Vec<f64> = attempts(&stage, &id).await.iter().map(|it| it / 60.0).collect();
        assert_eq!(minutes, [0.0, 15.0, 60.0, 180.0, 360.0, 720.0, 1_440.0], "{status}");
        assert!(stage.told().await.iter().all(|it| it.path == "/xendit"));
        stage.hub.always_answers(None);
    }
}

#[tokio::test]
async fn a_hub_that_is_back_hears_what_it_missed() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.hub.answers([Reply::status(503), Reply::status(503)]);
    stage.does("pay", json!({ "id": id })).await;
    stage.advance(3_600.0).await;
    assert_eq!(stage.told().await.len(), 3);
    let delivery = stage.deliveries(&id).await.remove(0);
    assert_eq!(delivery["state"], "delivered");
    // And again by hand.
    stage.does("redeliver", json!({ "delivery": delivery["id"] })).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    stage.does("redeliver", json!({ "payment": "X-1" })).await;
    assert_eq!(stage.told().await.len(), 1);
    assert_eq!(stage.sim("POST redeliver", json!({ "delivery": 999 })).await.status, 404);
    // Its pauses begin anew, then.
    stage.hub.always_answers(Some(Reply::status(503)));
    stage.does("redeliver", json!({ "payment": "X-1" })).await;
    stage.advance(25.0 * 3600.0).await;
    assert_eq!(stage.told().await.len(), 7);
    assert_eq!(stage.deliveries(&id).await[0]["state"], "given_up");
}

#[tokio::test]
async fn what_is_just_being_sent_is_sent_again_after_that() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.hub.answers([Reply { after: Duration::from_secs(1), ..Reply::status(200) }]);
    stage.does("pay", json!({ "id": id })).await;
    let listed = stage.sim(&format!("GET deliveries?payment={id}"), Value::Null).await;
    assert_eq!(listed.body["deliveries"][0]["state"], "sending");
    for _ in 0..2 {
        assert_eq!(stage.does("redeliver", json!({ "payment": "X-1" })).await["redelivered"], 1);
    }
    let told = stage.told().await;
    assert_eq!(told.iter().map(Post::event).collect::<Vec<_>>(), ["payment.capture"; 2]);
    let delivery = stage.deliveries(&id).await.remove(0);
    assert_eq!((&delivery["state"], delivery["attempts"].as_array().unwrap().len()), (&json!("delivered"), 2));
}

#[tokio::test]
async fn whoever_takes_too_long_is_tried_again() {
    // Fifteen seconds of a clock that runs ten times as fast are two here, the least.
    let stage = Stage::with(|options| options.speed = 10.0).await;
    stage.hub.answers([Reply::status(200), Reply { after: Duration::from_secs(4), ..Reply::status(200) }]);
    stage.midtrans("POST /v2/charge", crate::support::qris("M-1", 1_000)).await;
    stage.advance(0.0).await;
    stage.does("pay", json!({ "id": "M-1" })).await;
    stage.advance(0.0).await;
    let last = stage.deliveries("M-1").await.pop().unwrap();
    assert_eq!((&last["attempts"][0]["outcome"], &last["state"]), (&json!("timed_out"), &json!("waiting")));
    stage.advance(240.0).await;
    assert_eq!(stage.deliveries("M-1").await.pop().unwrap()["state"], "delivered");
}

#[tokio::test]
async fn nobody_listening_is_an_attempt_as_well() {
    let stage = Stage::with(|options| options.xendit[0].webhook_urls = vec!["http://127.0.0.1:9/x".into()]).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.does("pay", json!({ "id": id })).await;
    let delivery = stage.deliveries(&id).await.remove(0);
    assert_eq!(
        (&delivery["attempts"][0]["outcome"], &delivery["next"]),
        (&json!("unreachable"), &json!("2026-01-14T03:20:02.000Z"))
    );
}

#[tokio::test]
async fn five_hundred_at_once_all_come() {
    let stage = Stage::with(|options| options.speed = 1.0).await;
    for at in 0..250 {
        stage.midtrans("POST /v2/charge", crate::support::qris(&format!("M-{at}"), 1_000)).await;
        stage.does("pay", json!({ "id": format!("M-{at}") })).await;
    }
    let told = stage.told().await;
    assert_eq!(told.len(), 500);
    assert!(told.iter().all(|it| it.is_signed()));
}
