//! Alerts: an owner is told that an endpoint was disabled, by an event of the same commit.

use super::*;

impl Owner<'_> {
    async fn alerts(&self) -> Vec<(String, Value)> {
        self.shop.journal_of(&["alert.raised"]).await
    }
}

#[tokio::test]
async fn a_screen_and_another_webhook_hear_that_one_is_disabled() {
    let stage = stage().await;
    let owner = stage.owner("Toko Roti").await;
    let (mut gone, mut other) = (Receiver::start().await, Receiver::start().await);
    let url = format!("{}?key=s3cret", gone.url());
    let body = json!({ "url": url, "description": "Pembukuan", "events": ["sale.completed"] });
    let added = owner.asks("POST", "/v1/webhooks", body).await.created();
    let webhook = format!("/v1/webhooks/{}", added["id"].as_str().unwrap());
    owner.tells(&other, &["alert.raised"]).await;
    let mut screen = owner.shop.screen(&["alerts"]).await;
    gone.answers(Reply::status(410));
    owner.sells().await;
    gone.next().await;

    let heard = screen.hears("alert.raised").await;
    let data = heard.data();
    assert_eq!((&data["alert"], &data["severity"]), (&json!("webhook_disabled"), &json!("warning")));
    assert_eq!((&data["subject"], &data["outlet"], &data["register"]), (&added["id"], &Value::Null, &Value::Null));
    let detail = data["detail"].as_str().unwrap();
    assert!(detail.contains("\"Pembukuan\"") && detail.contains("410"), "{detail}");
    assert!(!data.to_string().contains("s3cret") && !data.to_string().contains("127.0.0.1"), "{data}");
    let told = other.next().await;
    assert_eq!((told.kind(), &told.json()["actor"]), ("alert.raised".to_owned(), &Value::Null));
    assert_eq!(&told.json()["data"], data);
    let alerts = owner.alerts().await;
    assert_eq!(alerts.iter().map(|(position, _)| position.clone()).collect::<Vec<_>>(), [told.position()]);
    assert_eq!(owner.looks(&webhook).await["disabled_why"], "gone");
    // Whoever disables it himself need not be told.
    owner.asks("PUT", &webhook, json!({ "url": url, "enabled": true })).await.ok();
    gone.answers(Reply::status(200));
    owner.asks("PUT", &webhook, json!({ "url": url, "enabled": false })).await.ok();
    owner.sells().await;
    other.is_silent(Duration::from_secs(2)).await;
    assert_eq!(owner.alerts().await.len(), 1);
    // It is for those who run the place.
    let cashier = stage.hub.token(owner.shop.merchant, Role::Cashier, &[owner.shop.outlet]);
    let auth = json!({ "token": cashier, "channels": ["alerts"] });
    let mut screen = super::super::support::screen::Screen::enters(stage.node.address, auth).await;
    let ready = screen.hears("ready").await;
    assert_eq!(ready.body["denied"], json!([{ "channel": "alerts", "code": "forbidden" }]));
}

#[tokio::test]
async fn g6_one_that_is_killed_around_it_loses_no_alert_and_doubles_none() {
    let hub = TestHub::start().await;
    let api = hub.node(Faces::API, &["--webhook-networks", "127.0.0.0/8"]).await;
    let owner = Owner::at(&hub, api.address, "Toko Roti").await;
    let env = worker_env(&hub);
    let mut receiver = Receiver::start().await;
    let webhook = owner.tells(&receiver, &["sale.completed"]).await;
    let expire = "update webhook_endpoints set leased_until = now() where lease is not null";

    // Killed before its word: another says it.
    let mut killed = TillwireProcess::start(&["worker"], &env[0]).await;
    receiver.answers_next([Reply::status(410).after(Duration::from_secs(15))]);
    receiver.answers(Reply::status(410));
    owner.shop.sells(&owner.bread, 7_500).await;
    receiver.next().await;
    killed.kill().await;
    assert_eq!(owner.looks(&webhook).await["enabled"], true);
    let mut second = TillwireProcess::start(&["worker"], &env[1]).await;
    hub.database.psql(expire).await;
    receiver.next().await;
    owner.until(&webhook, |now| now["enabled"] == false).await;
    // Killed after it: nobody says it again.
    second.kill().await;
    let _third = TillwireProcess::start(&["worker"], &env[2]).await;
    receiver.is_silent(Duration::from_secs(3)).await;
    assert_eq!(owner.alerts().await.len(), 1);

    // Late, when another has it: the late word is in the log, and moves and tells nothing.
    let _fourth = TillwireProcess::start(&["worker"], &worker_env(&hub)[0]).await;
    receiver.answers_next([Reply::status(410).after(Duration::from_secs(4))]);
    owner.asks("PUT", &webhook, json!({ "url": receiver.url(), "enabled": true })).await.ok();
    receiver.next().await;
    hub.database.psql(expire).await;
    receiver.next().await;
    owner.until(&webhook, |now| now["enabled"] == false).await;
    until(async || (owner.attempts(&webhook).await.len() == 3).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(owner.alerts().await.len(), 2);
}
