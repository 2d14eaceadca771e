//! How an endpoint is doing, what is kept of how it was told, and a message that is passed over.

use super::*;

impl Owner<'_> {
    async fn health(&self, webhook: &str) -> Value {
        self.asks("GET", &format!("{webhook}/health"), Value::Null).await.ok()
    }
}

#[tokio::test]
async fn a_message_that_is_never_taken_is_skipped_by_whoever_names_it() {
    let stage = stage().await;
    let (owner, rival) = (stage.owner("Toko Roti").await, stage.owner("Saingan").await);
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    let skip = format!("{webhook}/skip");
    let never = || Reply::status(422).header("retry-after", "600");
    receiver.answers_next([never()]);
    for _ in 0..2 {
        owner.sells().await;
    }
    let at = owner.journal_after(start, &["sale.completed"]).await;
    let poison = receiver.next().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    let health = owner.health(&webhook).await;
    assert_eq!((&health["state"], &health["stuck_at"]), (&json!("failing"), &json!(poison.position())), "{health}");
    assert_eq!((&health["last_failure"]["status"], &health["last_success"]), (&json!(422), &Value::Null));
    assert_eq!(health["last_failure"]["message"], poison.id());

    let elsewhere = owner.asks("POST", &skip, json!({ "position": at[1] })).await.refused(409, "stuck_elsewhere");
    assert_eq!(elsewhere["errors"][0]["pointer"], "/position");
    assert!(elsewhere["detail"].as_str().unwrap().contains(&at[0]), "{elsewhere}");
    rival.asks("POST", &skip, json!({ "position": at[0] })).await.refused(404, "not_found");
    let skipped = owner.asks("POST", &skip, json!({ "position": at[0] })).await.ok();
    assert_eq!((&skipped["attempts"], &skipped["failing_since"]), (&json!(0), &Value::Null));
    assert_eq!(receiver.next().await.position(), at[1]);
    owner.stands_at(&webhook, start + 2).await;
    owner.asks("POST", &skip, json!({ "position": at[0] })).await.refused(409, "not_stuck");
    let log = owner.attempts(&webhook).await;
    let outcomes: Vec<&str> = log.iter().rev().map(|it| it["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["refused", "skipped", "delivered"]);
    assert_eq!((&log[1]["message"], &log[1]["response_status"]), (&json!(poison.id()), &Value::Null));

    // While it is tried once more: what that comes to moves nothing.
    receiver.answers_next([never(), never().after(Duration::from_secs(4))]);
    owner.sells().await;
    receiver.next().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    owner.later("1 hour").await;
    let again = receiver.next().await;
    owner.sells().await;
    owner.asks("POST", &skip, json!({ "position": again.position() })).await.ok();
    let at = owner.journal_after(start, &["sale.completed"]).await;
    assert_eq!(receiver.next().await.position(), at[3]);
    let then = owner.stands_at(&webhook, start + 4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(owner.looks(&webhook).await, then);
    receiver.is_silent(Duration::from_millis(100)).await;

    // One that is disabled for it is enabled behind it.
    receiver.answers_next([Reply::status(410)]);
    for _ in 0..2 {
        owner.sells().await;
    }
    let gone = receiver.next().await;
    owner.until(&webhook, |now| now["enabled"] == false).await;
    owner.asks("POST", &skip, json!({ "position": gone.position() })).await.ok();
    assert_eq!(owner.health(&webhook).await["state"], "disabled");
    let change = json!({ "url": receiver.url(), "events": ["sale.completed"], "enabled": true });
    owner.asks("PUT", &webhook, change).await.ok();
    let at = owner.journal_after(start, &["sale.completed"]).await;
    assert_eq!(receiver.next().await.position(), at[5]);
}

#[tokio::test]
async fn its_health_is_a_word_and_what_that_stands_on() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    let health = owner.health(&webhook).await;
    assert_eq!((&health["state"], &health["behind_entries"]), (&json!("healthy"), &json!(0)), "{health}");
    assert_eq!(
        (&health["last_24_hours"]["attempts"], &health["last_24_hours"]["success_rate"]),
        (&json!(0), &Value::Null)
    );

    for _ in 0..3 {
        owner.sells().await;
    }
    receiver.take(3).await;
    owner.stands_at(&webhook, start + 3).await;
    receiver.answers_next([Reply::status(500)]);
    owner.sells().await;
    receiver.next().await;
    owner.until(&webhook, |now| now["attempts"] == 1).await;
    owner.later("1 hour").await;
    receiver.next().await;
    owner.stands_at(&webhook, start + 4).await;
    // A test tells of nothing that happened.
    owner.asks("POST", &format!("{webhook}/test"), Value::Null).await.ok();
    let health = owner.health(&webhook).await;
    let recent = &health["last_24_hours"];
    assert_eq!(
        (&health["state"], &recent["attempts"], &recent["delivered"]),
        (&json!("healthy"), &json!(5), &json!(4))
    );
    assert_eq!(recent["success_rate"], 0.8);
    assert!(recent["took_ms_median"].as_f64() <= recent["took_ms_p95"].as_f64(), "{health}");
    assert_eq!((&health["last_success"]["status"], &health["last_failure"]["status"]), (&json!(204), &json!(500)));
    assert_eq!((&health["behind_since"], &health["stuck_at"]), (&Value::Null, &Value::Null));

    // It is being told, and takes its time: that is behind only when something has waited.
    receiver.answers(Reply::status(200).after(Duration::from_secs(15)));
    for _ in 0..2 {
        owner.sells().await;
    }
    receiver.next().await;
    let health = owner.health(&webhook).await;
    assert_eq!((&health["state"], &health["behind_entries"]), (&json!("healthy"), &json!(2)), "{health}");
    let long_ago = format!(
        "update journal_entries set recorded_at = recorded_at - interval '2 minutes'
         where merchant_id = '{}' and seq > {}",
        owner.shop.merchant,
        start + 4
    );
    stage.hub.database.psql(&long_ago).await;
    let health = owner.health(&webhook).await;
    assert!(health["state"] == "behind" && health["behind_since"].is_string(), "{health}");
    owner.asks("PUT", &webhook, json!({ "url": receiver.url(), "enabled": false })).await.ok();
    assert_eq!(owner.health(&webhook).await["state"], "disabled");
}

#[tokio::test]
async fn what_is_kept_of_an_answer_holds_no_secret() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &[]).await;
    let secret = owner.secret(&webhook).await;
    let body = json!({ "error": "no", "sent": { "authorization": "Bearer abcdef123456", "card": "4111 1111 1111 1111" },
                       "with": secret, "who": "ani@roti.example" });
    receiver.answers(Reply { body: body.to_string(), ..Reply::status(500) });
    let tested = owner.asks("POST", &format!("{webhook}/test"), Value::Null).await.ok();
    let kept: Value = serde_json::from_str(tested["response_body"].as_str().unwrap()).expect("JSON still");
    assert_eq!(kept["sent"], json!({ "authorization": "***", "card": "***" }));
    assert_eq!((&kept["error"], &kept["with"], &kept["who"]), (&json!("no"), &json!("whsec_***"), &json!("***")));
    let rows = stage.hub.database.psql("select response_body from webhook_attempts").await;
    assert!(rows.contains("whsec_***") && !rows.contains(&secret[6..20]), "{rows}");
}

#[tokio::test]
async fn of_a_merchants_tests_one_is_under_way_at_a_time() {
    let stage = stage().await;
    let (owner, other) = (stage.owner("Toko Roti").await, stage.owner("Saingan").await);
    let (mut slow, well) = (Receiver::start().await, Receiver::start().await);
    slow.answers(Reply::status(200).after(Duration::from_secs(3)));
    let (to_slow, to_well) = (owner.tells(&slow, &[]).await, owner.tells(&well, &[]).await);
    let of_other = other.tells(&well, &[]).await;
    let test = |webhook: &str| format!("{webhook}/test");
    let slowly = test(&to_slow);
    let (first, ()) = tokio::join!(owner.asks("POST", &slowly, Value::Null), async {
        slow.next().await;
        let refused = owner.asks("POST", &test(&to_well), Value::Null).await;
        refused.refused(503, "busy");
        assert_eq!(refused.headers["retry-after"], "20");
        assert_eq!(other.asks("POST", &test(&of_other), Value::Null).await.ok()["outcome"], "delivered");
    });
    assert_eq!(first.ok()["outcome"], "delivered");
    assert_eq!(owner.asks("POST", &test(&to_well), Value::Null).await.ok()["outcome"], "delivered");
}

#[tokio::test]
async fn one_test_that_two_nodes_are_asked_for_at_once_is_made_known_once() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let other = stage.hub.node(Faces::API, &["--webhook-networks", "127.0.0.0/8"]).await;
    let mut slow = Receiver::start().await;
    slow.answers(Reply::status(200).after(Duration::from_secs(3)));
    let webhook = owner.tells(&slow, &[]).await;
    let path = format!("{webhook}/test");
    let asks = async |address| {
        let headers = [("idempotency-key", "the-same"), ("content-type", "application/json")];
        Caller { address, token: &owner.shop.owner }.send("POST", &path, &headers, vec![]).await.expect("an answer")
    };
    let answers = tokio::join!(asks(stage.node.address), asks(other.address));
    let (made, refused) = if answers.0.status == 200 { answers } else { (answers.1, answers.0) };
    refused.refused(409, "request_in_flight");
    assert_eq!(asks(other.address).await.ok(), made.ok(), "and it is the one that there was");
    assert_eq!(slow.next().await.id(), slow.next().await.id());
    assert_eq!(owner.attempts(&webhook).await.len(), 1);
}
