//! Redeliveries: a part of the journal once more, beside what an endpoint is told anyway.

use super::*;

impl Owner<'_> {
    /// Has it told from one position to another once more. Answers the redelivery's path.
    async fn redelivers(&self, webhook: &str, from: &str, to: &str) -> String {
        let path = format!("{webhook}/redeliveries");
        let added = self.asks("POST", &path, json!({ "from": from, "to": to })).await.created();
        assert_eq!((&added["state"], &added["delivered"]), (&json!("running"), &json!(0)), "{added}");
        format!("{path}/{}", added["id"].as_str().unwrap())
    }

    /// Its redeliveries are tried now.
    async fn retries(&self) {
        let sql = "update webhook_redeliveries set next_at = now() where state = 'running' and next_at is not null";
        self.shop.hub.database.psql(sql).await;
    }
}

/// The whole of the entry that an event is in.
fn entry(position: &str) -> String {
    let (place, tag) = position.split_once('-').unwrap();
    format!("{}-{tag}", place.split('.').next().unwrap())
}

fn ids(posts: &[Post]) -> Vec<String> {
    posts.iter().map(|post| post.id().to_owned()).collect()
}

const KINDS: [&str; 2] = ["sale.completed", "payment.captured"];

#[tokio::test]
async fn one_event_an_entry_or_a_range_is_told_again_under_the_same_ids_and_the_cursor_stays() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &KINDS).await;
    let start = seq(&owner.looks(&webhook).await);
    for _ in 0..4 {
        owner.sells().await;
    }
    let told = receiver.take(8).await;
    let at = positions(&told);
    let done = owner.stands_at(&webhook, start + 4).await;

    // One event, one entry, from within an entry to within another, and from end to end.
    for (from, to, expected) in [
        (at[3].clone(), at[3].clone(), 3..4),
        (entry(&at[2]), entry(&at[2]), 2..4),
        (at[1].clone(), at[4].clone(), 1..5),
        (entry(&at[0]), entry(&at[7]), 0..8),
    ] {
        let redelivery = owner.redelivers(&webhook, &from, &to).await;
        let again = receiver.take(expected.len()).await;
        assert_eq!(ids(&again), ids(&told[expected.clone()]), "{from} to {to}");
        assert!(again.iter().zip(&told[expected.clone()]).all(|(again, first)| again.bytes == first.bytes));
        let ended = owner.until(&redelivery, |now| now["state"] == "done").await;
        assert_eq!((&ended["delivered"], &ended["failed_why"]), (&json!(expected.len()), &Value::Null));
        assert!(ended["ended_at"].is_string() && ended["from"] == from && ended["to"] == to, "{ended}");
        let log = owner.attempts(&webhook).await;
        let of_this = log.iter().filter(|it| Some(ended["id"].as_str()) == Some(it["redelivery"].as_str())).count();
        assert_eq!(of_this, expected.len());
    }
    // Alone, `from` is one.
    let one = json!({ "from": at[5] });
    owner.asks("POST", &format!("{webhook}/redeliveries"), one).await.created();
    assert_eq!(ids(&[receiver.next().await]), ids(&told[5..6]));
    receiver.is_silent(Duration::from_secs(1)).await;
    assert_eq!(owner.looks(&webhook).await, done, "its own cursor did not notice");
    let page = owner.asks("GET", &format!("{webhook}/redeliveries"), Value::Null).await.ok();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(5));
    assert_eq!(page["items"][0]["from"], at[5], "the newest first");
}

#[tokio::test]
async fn what_an_endpoint_does_not_hear_is_passed_over_to_the_end() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["payment.captured"]).await;
    let start = seq(&owner.looks(&webhook).await);
    owner.sells().await;
    let told = receiver.next().await;
    let all = owner.journal_after(start, &["sale.completed", "payment.captured", "stock.changed"]).await;
    let redelivery = owner.redelivers(&webhook, &all[0], &all[0]).await;
    let ended = owner.until(&redelivery, |now| now["state"] == "done").await;
    assert_eq!(ended["delivered"], u8::from(all[0] == told.position()), "{ended}");
    let redelivery = owner.redelivers(&webhook, &all[0], &entry(&all[0])).await;
    let ended = owner.until(&redelivery, |now| now["state"] == "done").await;
    assert_eq!(ended["delivered"], 1, "{ended}");
}

#[tokio::test]
async fn g6_a_worker_that_is_killed_in_the_middle_is_replaced_and_the_rest_comes_in_order() {
    let hub = TestHub::start().await;
    let api = hub.node(Faces::API, &["--webhook-networks", "127.0.0.0/8"]).await;
    let owner = Owner::at(&hub, api.address, "Toko Roti").await;
    let env = worker_env(&hub);
    let mut killed = TillwireProcess::start(&["worker"], &env[0]).await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    for _ in 0..20 {
        owner.shop.sells(&owner.bread, 7_500).await;
    }
    let told = ids(&receiver.take(20).await);
    let at = owner.journal_after(0, &["sale.completed"]).await;
    let (quick, slow) = (Reply::status(200), Reply::status(200).after(Duration::from_secs(15)));
    receiver.answers_next([vec![quick; 7], vec![slow]].concat());
    let redelivery = owner.redelivers(&webhook, &at[0], &at[19]).await;
    assert_eq!(ids(&receiver.take(8).await), told[..8]);
    killed.kill().await;
    let _second = TillwireProcess::start(&["worker"], &env[1]).await;
    receiver.is_silent(Duration::from_secs(2)).await;
    hub.database.psql("update webhook_redeliveries set leased_until = now()").await;
    // Nobody knows whether the eighth was told.
    assert_eq!(ids(&receiver.take(13).await), told[7..]);
    let ended = owner.until(&redelivery, |now| now["state"] == "done").await;
    assert_eq!(ended["delivered"], 20);
    receiver.is_silent(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn its_failures_are_its_own_and_the_cursors_are_the_cursors() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    for _ in 0..2 {
        owner.sells().await;
    }
    let told = receiver.take(2).await;
    let at = positions(&told);
    owner.stands_at(&webhook, start + 2).await;

    // The cursor fails; a redelivery does not wait for it, and does not help it on.
    receiver.answers_next([Reply::status(503).header("retry-after", "600")]);
    owner.sells().await;
    let third = receiver.next().await;
    let failing = owner.until(&webhook, |now| now["attempts"] == 1).await;
    let redelivery = owner.redelivers(&webhook, &at[0], &at[1]).await;
    assert_eq!(ids(&receiver.take(2).await), ids(&told));
    owner.until(&redelivery, |now| now["state"] == "done").await;
    assert_eq!(owner.looks(&webhook).await, failing);
    owner.later("1 hour").await;
    assert_eq!(receiver.next().await.id(), third.id());
    owner.until(&webhook, |now| now["attempts"] == 0).await;

    // A redelivery fails; the cursor goes on.
    receiver.answers_next([Reply::status(500).header("retry-after", "600")]);
    let redelivery = owner.redelivers(&webhook, &at[0], &at[1]).await;
    receiver.next().await;
    let waiting = owner.until(&redelivery, |now| now["attempts"] == 1).await;
    assert!(waiting["next_at"].is_string() && waiting["state"] == "running", "{waiting}");
    let fourth = owner.sells().await;
    assert_eq!(entry(&receiver.next().await.position()), fourth);
    owner.stands_at(&webhook, start + 4).await;
    assert_eq!(owner.looks(&redelivery).await, waiting);
    owner.retries().await;
    assert_eq!(ids(&receiver.take(2).await), ids(&told));
    owner.until(&redelivery, |now| now["state"] == "done").await;

    // It ends when there is no attempt left, and says so. The endpoint is as it was.
    receiver.answers(Reply::status(500));
    let redelivery = owner.redelivers(&webhook, &at[0], &at[1]).await;
    for attempts in 1..10 {
        receiver.next().await;
        owner.until(&redelivery, |now| now["attempts"] == attempts).await;
        owner.retries().await;
    }
    receiver.next().await;
    let ended = owner.until(&redelivery, |now| now["state"] == "failed").await;
    assert_eq!(
        (&ended["failed_why"], &ended["attempts"], &ended["delivered"]),
        (&json!("failing"), &json!(10), &json!(0))
    );
    receiver.answers(Reply::status(410));
    let redelivery = owner.redelivers(&webhook, &at[0], &at[1]).await;
    receiver.next().await;
    let ended = owner.until(&redelivery, |now| now["state"] == "failed").await;
    assert_eq!(ended["failed_why"], "gone");
    let now = owner.looks(&webhook).await;
    assert_eq!((&now["enabled"], &now["attempts"], seq(&now)), (&json!(true), &json!(0), start + 4));
    receiver.is_silent(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn one_that_is_disabled_is_told_nothing_until_it_is_enabled() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    owner.sells().await;
    let told = receiver.next().await;
    owner.stands_at(&webhook, start + 1).await;
    let becomes = async |enabled: bool| {
        let change = json!({ "url": receiver.url(), "events": ["sale.completed"], "enabled": enabled });
        owner.asks("PUT", &webhook, change).await.ok();
    };
    becomes(false).await;
    let redelivery = owner.redelivers(&webhook, &told.position(), &told.position()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(owner.looks(&redelivery).await["state"], "running");
    assert_eq!(owner.attempts(&webhook).await.len(), 1, "nothing was sent");
    becomes(true).await;
    assert_eq!(receiver.next().await.id(), told.id());
    owner.until(&redelivery, |now| now["state"] == "done").await;
}

#[tokio::test]
async fn g6_a_change_of_the_endpoint_takes_a_redelivery_from_whoever_serves_what_was() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let (mut old, mut new) = (Receiver::start().await, Receiver::start().await);
    let webhook = owner.tells(&old, &["sale.completed"]).await;
    let start = seq(&owner.looks(&webhook).await);
    for _ in 0..3 {
        owner.sells().await;
    }
    let told = old.take(3).await;
    owner.stands_at(&webhook, start + 3).await;
    for old_answer in [200, 410, 500] {
        owner
            .asks("PUT", &webhook, json!({ "url": old.url(), "enabled": true, "events": ["sale.completed"] }))
            .await
            .ok();
        old.answers(Reply::status(old_answer).after(Duration::from_secs(3)));
        let redelivery = owner.redelivers(&webhook, &told[0].position(), &told[2].position()).await;
        old.next().await;
        owner
            .asks("PUT", &webhook, json!({ "url": new.url(), "enabled": true, "events": ["sale.completed"] }))
            .await
            .ok();
        assert_eq!(ids(&new.take(3).await), ids(&told), "{old_answer}");
        owner.until(&redelivery, |now| now["state"] == "done").await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let ended = owner.looks(&redelivery).await;
        assert_eq!((&ended["state"], &ended["delivered"]), (&json!("done"), &json!(3)), "{old_answer}");
        old.is_silent(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn one_that_is_cancelled_ends_and_what_was_under_way_moves_nothing() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    for _ in 0..3 {
        owner.sells().await;
    }
    let told = receiver.take(3).await;
    receiver.answers(Reply::status(200).after(Duration::from_secs(2)));
    let redelivery = owner.redelivers(&webhook, &told[0].position(), &told[2].position()).await;
    receiver.next().await;
    let cancelled = owner.asks("DELETE", &redelivery, Value::Null).await.ok();
    assert_eq!((&cancelled["state"], &cancelled["delivered"]), (&json!("cancelled"), &json!(0)));
    receiver.is_silent(Duration::from_secs(4)).await;
    assert_eq!(owner.looks(&redelivery).await, cancelled);
    owner.asks("DELETE", &redelivery, Value::Null).await.refused(409, "redelivery_ended");
}

#[tokio::test]
async fn what_cannot_be_told_again_is_refused_with_the_field_and_the_reason() {
    let hub = TestHub::start().await;
    // Nobody serves: what is added stays.
    let node = hub.node(Faces::API, &[]).await;
    let (owner, rival) =
        (Owner::at(&hub, node.address, "Toko Roti").await, Owner::at(&hub, node.address, "Saingan").await);
    let added = owner.asks("POST", "/v1/webhooks", json!({ "url": "https://hooks.example/" })).await.created();
    let webhook = format!("/v1/webhooks/{}", added["id"].as_str().unwrap());
    for _ in 0..3 {
        owner.sells().await;
        rival.sells().await;
    }
    let at = owner.journal_after(0, &["sale.completed"]).await;
    let foreign = rival.journal_after(0, &["sale.completed"]).await;
    let path = format!("{webhook}/redeliveries");
    let beyond = entry(&at[2]).replacen(|it: char| it.is_ascii_digit(), "99", 1);
    let no_event = at[2].replace('.', ".9");
    for (from, to, code, pointer) in [
        (&at[0], &foreign[2], "unknown_position", "/to"),
        (&foreign[0], &at[2], "unknown_position", "/from"),
        (&at[0], &beyond, "unknown_position", "/to"),
        (&at[0], &no_event, "unknown_position", "/to"),
        (&at[2], &at[0], "range_reversed", "/to"),
        (&"0-00000000".to_owned(), &at[0], "unknown_position", "/from"),
        (&"sale".to_owned(), &at[0], "invalid_field", "/from"),
    ] {
        let refused = owner.asks("POST", &path, json!({ "from": from, "to": to })).await.refused(422, code);
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{from} to {to}: {refused}");
    }
    let first: u64 = entry(&at[0]).split('-').next().unwrap().parse().unwrap();
    let forget =
        format!("delete from journal_entries where merchant_id = '{}' and seq <= {first}", owner.shop.merchant);
    hub.database.psql(&forget).await;
    let expired = owner.asks("POST", &path, json!({ "from": at[0], "to": at[2] })).await;
    assert_eq!(expired.refused(422, "position_expired")["errors"][0]["pointer"], "/from");

    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(owner.redelivers(&webhook, &at[1], &at[2]).await);
    }
    owner.asks("POST", &path, json!({ "from": at[1] })).await.refused(409, "too_many_redeliveries");
    // They are nobody else's.
    let calls = [
        ("GET", path.clone(), Value::Null),
        ("POST", path.clone(), json!({ "from": foreign[1] })),
        ("GET", running[0].clone(), Value::Null),
        ("DELETE", running[0].clone(), Value::Null),
    ];
    for (method, path, body) in &calls {
        rival.asks(method, path, body.clone()).await.refused(404, "not_found");
        let manager = hub.token(owner.shop.merchant, Role::Manager, &[]);
        owner.asks_as(&manager, method, path, body.clone()).await.refused(403, "denied");
    }
    assert_eq!(owner.asks("DELETE", &running[0], Value::Null).await.ok()["state"], "cancelled");
    owner.redelivers(&webhook, &at[1], &at[2]).await;
    // With the webhook its redeliveries go.
    owner.asks("DELETE", &webhook, Value::Null).await.ok();
    assert_eq!(hub.database.psql("select count(*) from webhook_redeliveries").await.trim(), "0");
}

#[tokio::test]
async fn one_whose_journal_is_cut_meanwhile_ends_and_says_so() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    for _ in 0..3 {
        owner.sells().await;
    }
    let told = receiver.take(3).await;
    receiver.answers_next([Reply::status(500)]);
    let redelivery = owner.redelivers(&webhook, &told[0].position(), &told[2].position()).await;
    receiver.next().await;
    owner.until(&redelivery, |now| now["attempts"] == 1).await;
    let second: u64 = told[1].position().split('.').next().unwrap().parse().unwrap();
    let forget =
        format!("delete from journal_entries where merchant_id = '{}' and seq <= {second}", owner.shop.merchant);
    stage.hub.database.psql(&forget).await;
    owner.retries().await;
    let ended = owner.until(&redelivery, |now| now["state"] == "failed").await;
    assert_eq!((&ended["failed_why"], &ended["delivered"]), (&json!("cut"), &json!(0)));
    receiver.is_silent(Duration::from_secs(1)).await;
}
