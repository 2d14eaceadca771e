//! P14: who asks for a payment with a key asks for one. P15: what became of payments goes out by webhooks, in order.

use futures_util::future::join;
use tillwire::node::Faces;

use super::*;
use crate::support::receiver::Receiver;

#[tokio::test]
async fn p14_while_a_payment_is_being_begun_its_key_begins_no_other() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    let body = json!({ "method": "qris", "provider": "xendit", "mode": "test" });
    // Its row is being written: whoever asks with the same key is told so, and does not wait.
    let writers = "lock table payment_attempts in share row exclusive mode";
    let holder = market.hub.database.held(writers).await;
    let twin = async {
        until(async || (market.hub.waiting_for("payment_attempts").await >= 1).then_some(())).await;
        let twin = shop.post_once("one", &path, body.clone()).await;
        let_go(holder).await;
        twin
    };
    let (first, twin) = join(shop.post_once("one", &path, body.clone()), twin).await;
    let refused = twin.refused(409, "request_in_flight");
    assert!(first.created()["shown"]["text"].is_string(), "{refused}");
    assert_eq!(market.asked("xendit", "create").await, 1);
    market.pays(&first.created()).await;
    comes_to(&shop, &first.created(), "paid").await;

    // Its provider is being asked: both hear how it stands then.
    market.says("faults", json!({ "fault": "slow_s", "on": "create", "seconds": 2 })).await;
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    let twin = async {
        until(async || (market.asked("xendit", "create").await == 2).then_some(())).await;
        shop.post_once("two", &path, body.clone()).await
    };
    let (first, twin) = join(shop.post_once("two", &path, body.clone()), twin).await;
    assert_eq!(first.created()["id"], twin.created()["id"]);
    assert_eq!((&first.created()["shown"], &twin.created()["state"]), (&twin.created()["shown"], &json!("pending")));
    assert_eq!(twin.headers["idempotent-replayed"], "true");
    assert_eq!(market.asked("xendit", "create").await, 2);
}

#[tokio::test]
async fn p14_a_key_whose_life_is_over_asks_anew_and_for_nothing_twice() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let path = format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap());
    let body = json!({ "method": "qris", "provider": "midtrans", "mode": "test" });
    let first = shop.post_once("one", &path, body.clone()).await.created();
    let ages = async |days: u32| {
        let age = format!("update idempotency_keys set created_at = now() - interval '{days} days'");
        market.hub.database.psql(&format!("{age}; select idempotency_keys_expire(1000)")).await;
    };
    ages(7).await;
    assert_eq!(shop.post_once("one", &path, body.clone()).await.created()["id"], first["id"], "within its life");
    ages(9).await;
    // All that is due is asked for already: nothing is asked for twice, whoever has forgotten what.
    shop.post_once("one", &path, body.clone()).await.refused(409, "nothing_due");
    let cancel = format!("/v1/payments/{}/cancel", first["id"].as_str().unwrap());
    assert_eq!(shop.post(&cancel, json!({})).await.ok()["state"], "canceled");
    let second = shop.post_once("one", &path, body.clone()).await;
    assert!(second.headers.get("idempotent-replayed").is_none());
    assert_ne!(second.created()["id"], first["id"]);
    // With an id of the till's own it is the same payment for ever, and no second one.
    let mut named = body.clone();
    named["id"] = first["id"].clone();
    let refused = shop.post_once("three", &path, named).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(market.asked("midtrans", "charge").await, 2);
}

#[tokio::test]
async fn p15_what_becomes_of_payments_goes_out_by_webhooks_in_order() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let relay = market.hub.database.url("tillwire_relay");
    let flags = [
        "--relay-database-url",
        &relay,
        "--webhook-networks",
        "127.0.0.0/8",
        "--vault-key-file",
        &market.vault_keys,
        "--midtrans-test-url",
        &market.providers.midtrans_url(),
        "--xendit-test-url",
        &market.providers.xendit_url(),
    ];
    let worker = market.hub.node(Faces::ALL, &flags).await;
    let mut receiver = Receiver::start().await;
    let wanted = ["payment.changed", "payment.captured"];
    let webhook = json!({ "url": receiver.url(), "events": wanted });
    shop.post_at(worker.address, "webhook", "/v1/webhooks", &webhook).await.created();
    for provider in ["midtrans", "xendit"] {
        let sale = opens(&shop, bread).await;
        let called_off = asks(&shop, &sale, qris(provider)).await.created();
        let cancel = format!("/v1/payments/{}/cancel", called_off["id"].as_str().unwrap());
        shop.post(&cancel, json!({})).await.ok();
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
    }
    let told = shop.journal_of(&wanted).await;
    let states: Vec<&str> = told.iter().map(|(_, it)| it["data"]["state"].as_str().unwrap_or("paid")).collect();
    assert_eq!(states, ["pending", "canceled", "pending", "paid"].repeat(2));
    let posts = receiver.take(told.len()).await;
    for (post, (position, event)) in posts.iter().zip(&told) {
        assert_eq!((&post.position(), &post.json()["data"]), (position, &event["data"]));
    }
}
