//! Whose turn it is: what its provider has told of comes first, whoever waits longest comes before the others, and nobody who is
//! slow, or has failed, keeps a payment from being looked at soon.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::knobs::webhook;
use super::refunds::{BOTH, gives_back, sold};
use super::storms::{comes_true, leave_in_peace};
use super::*;
use crate::support::services::postgres::locked_out;

/// How soon its next turn is, in seconds, and how often it was looked at; once nobody is at it, and it has one.
async fn next_turn(market: &Market, row: &str) -> (i64, i32) {
    let asked = format!("select extract(epoch from next_at - now())::bigint, looks from {row} and lease is null");
    until(async || {
        let found = market.hub.database.psql(&asked).await;
        let (seconds, looks) = found.trim().split_once('|')?;
        Some((seconds.parse().ok()?, looks.parse().expect("looks")))
    })
    .await
}

fn row(payment: &Value) -> String {
    format!("payment_attempts where payment_id = '{}'", payment["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn whoever_waits_longest_comes_first_and_of_these_what_was_told() {
    let market = Market::opens().await;
    let mut payments = Vec::new();
    for name in ["Toko Lama", "Toko Baru", "Toko Terbaru"] {
        let shop = market.shop(name).await;
        let bread = shop.stocked("roti", 48_500, "10").await;
        payments.push(asks(&shop, &opens(&shop, &bread).await, qris("midtrans")).await.created());
    }
    leave_in_peace(&market).await;
    let id = |at: usize| payments[at]["id"].as_str().expect("an id").to_owned();
    let due = |at: usize, seconds: u32, prompted: bool| {
        format!(
            "update payment_attempts set next_at = now() - interval '{seconds} s', prompted = {prompted} where payment_id = '{}'",
            id(at)
        )
    };
    // The merchants' ids are as old as they are. All of it is undone before anybody else sees it.
    let sql = format!(
        "begin; {}; {}; {}; select payment from payments_due(8, 2); rollback",
        due(0, 1, false),
        due(1, 9, false),
        due(2, 2, true)
    );
    let found = market.hub.database.psql(&sql).await;
    let found: Vec<&str> = found.lines().filter(|line| line.contains('-')).collect();
    assert_eq!(found, [id(2), id(1)]);
}

#[tokio::test]
async fn what_is_told_again_while_it_is_looked_at_is_not_looked_at_again() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, paid, look) in [("midtrans", "settlement", "status"), ("xendit", "payment.capture", "get_payment")] {
        let sale = opens(&shop, bread).await;
        let payment = asks(&shop, &sale, qris(provider)).await.created();
        // That it is pending is told as well, and looked at.
        let is_told = async || market.deliveries(&payment).await.iter().all(|it| it["state"] == "delivered");
        until(async || is_told().await.then_some(())).await;
        leave_in_peace(market).await;
        let before = market.asked(provider, look).await;
        for fault in [
            json!({ "fault": "duplicate", "provider": provider, "on": paid, "n": 9, "concurrent": true }),
            json!({ "fault": "slow_s", "provider": provider, "on": look, "seconds": 2 }),
        ] {
            market.says("faults", fault).await;
        }
        market.pays(&payment).await;
        let told = format!(
            "select count(*) from provider_inbox where payment_id = '{}' and outcome in ('applied', 'duplicate')",
            payment["id"].as_str().unwrap()
        );
        until(async || (market.hub.database.psql(&told).await.trim().parse::<u32>().ok()? >= 10).then_some(())).await;
        comes_to(&shop, &payment, "paid").await;
        // Of what was told there is nothing to look for any more.
        let rests = format!("select count(*) from {} and next_at is null and not prompted", row(&payment));
        assert_eq!(market.hub.database.psql(&rests).await.trim(), "1", "{provider}");
        assert_eq!(market.asked(provider, look).await - before, 1, "{provider}");
    }
}

/// Nor does it wait for whoever is at it, who may be writing that down: in a storm all connections would.
#[tokio::test]
async fn what_is_told_again_waits_for_nobody_who_looks_at_it() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, paid, look) in [("midtrans", "settlement", "status"), ("xendit", "payment.capture", "get_payment")] {
        loop {
            let payment = asks(&shop, &opens(&shop, bread).await, qris(provider)).await.created();
            leave_in_peace(market).await;
            market.says("faults", json!({ "fault": "slow_s", "provider": provider, "on": look, "seconds": 5 })).await;
            market.pays(&payment).await;
            let held = format!("select count(*) from {} and leased_until > now()", row(&payment));
            let is_held = async || market.hub.database.psql(&held).await.trim() == "1";
            until(async || is_held().await.then_some(())).await;
            let told = market.deliveries(&payment).await;
            let body = &told.iter().find(|it| it["event"] == paid).expect("what was told")["body"];
            let holder = market.hub.database.held(&format!("select from {} for no key update", row(&payment))).await;
            let path = webhook(&shop, provider).await;
            let body = body.as_str().expect("a body");
            assert_eq!(market.notifies(&path, &[("x-callback-token", XENDIT_TOKEN)], body).await, 200, "{provider}");
            let was_held = is_held().await;
            let_go(holder).await;
            comes_to(&shop, &payment, "paid").await;
            // On a busy machine the look may have been over before.
            if was_held {
                break;
            }
        }
    }
}

/// Told while it was unpaid, and written down once the look has found money: there is nothing to look for any more.
#[tokio::test]
async fn what_is_told_again_while_money_is_found_is_not_looked_at_again() {
    let stage = Stage::with(Market::opens().await, "50").await;
    let (market, shop, bread) = stage.cast();
    let database = &market.hub.database;
    for (provider, paid) in [("midtrans", "settlement"), ("xendit", "payment.capture")] {
        let path = webhook(&shop, provider).await;
        loop {
            let sale = opens(&shop, bread).await;
            let payment = asks(&shop, &sale, qris(provider)).await.created();
            leave_in_peace(market).await;
            // Nor does what could not be written down in time, when it was played before.
            comes_true(database, "select count(*) from provider_inbox where outcome is null", "0").await;
            let rests = format!("select count(*) from {} and next_at is null and not prompted", row(&payment));

            // The look that finds the money stands still before it says so.
            let sale =
                format!("select from sales where sale_id = '{}' for no key update", sale["id"].as_str().unwrap());
            let sale = database.held(&sale).await;
            market.pays(&payment).await;
            locked_out(database, 1).await;
            // And what is told again has read the payment, which is unpaid, and stands still before it is written down.
            let told = market.deliveries(&payment).await;
            let body = &told.iter().find(|it| it["event"] == paid).expect("what was told")["body"];
            let notices = market.hub.locks("provider_notices").await;
            let headers = [("x-callback-token", XENDIT_TOKEN)];
            let (answered, ()) =
                tokio::join!(market.notifies(&path, &headers, body.as_str().expect("a body")), async {
                    market.hub.someone_waits_for("provider_notices").await;
                    let_go(sale).await;
                    comes_to(&shop, &payment, "paid").await;
                    comes_true(database, &rests, "1").await;
                    let_go(notices).await;
                });
            // On a busy machine it may have waited for the lock for too long.
            if answered == 200 {
                assert_eq!(database.psql(&rests).await.trim(), "1", "{provider}: it is to be looked at again");
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_was_told_and_is_not_there_yet_is_looked_for_soon() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, paid) in [("midtrans", "settlement"), ("xendit", "SUCCEEDED")] {
        let payment = asks(&shop, &opens(&shop, bread).await, qris(provider)).await.created();
        leave_in_peace(market).await;
        let often = format!("update {} returning 1", row(&payment).replace(" where", " set looks = 30 where"));
        market.hub.database.psql(&often).await;
        // The provider itself says pending.
        market.says("forge", json!({ "id": payment["id"], "status": paid })).await;
        until(async || (next_turn(market, &row(&payment)).await.0 < 3_000).then_some(())).await;
        let (seconds, looks) = next_turn(market, &row(&payment)).await;
        assert!(seconds <= 10 && looks <= 1, "{provider}: in {seconds} s, after {looks} looks");
    }
}

#[tokio::test]
async fn what_was_told_after_the_end_and_is_not_there_yet_is_looked_for_once_more() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for (provider, ended, news) in
        [("midtrans", "expired", "settlement"), ("midtrans", "paid", "chargeback"), ("xendit", "expired", "SUCCEEDED")]
    {
        let payment = asks(&shop, &opens(&shop, bread).await, qris(provider)).await.created();
        if ended == "paid" {
            market.pays(&payment).await;
        } else {
            market.says("expire_now", json!({ "id": payment["id"] })).await;
        }
        comes_to(&shop, &payment, ended).await;
        leave_in_peace(market).await;
        // So long ago that nobody would look again by themselves.
        let over = "set changed_at = changed_at - interval '40 minutes', next_at = null";
        market.hub.database.psql(&format!("update {}", row(&payment).replace("where", &format!("{over} where")))).await;
        let before = market.requests(provider).await.len();
        market.says("forge", json!({ "id": payment["id"], "status": news })).await;
        let (seconds, _) = next_turn(market, &row(&payment)).await;
        assert!(seconds <= 10, "{provider}, {ended}: in {seconds} s");
        // Then it rests again.
        let rests = format!("select count(*) from {} and next_at is null and lease is null", row(&payment));
        until(async || (market.hub.database.psql(&rests).await.trim() == "1").then_some(())).await;
        let after = market.requests(provider).await.len();
        assert!(after >= before + 2, "{provider}, {ended}: {before} and {after}");
    }
}

#[tokio::test]
async fn a_refund_of_what_was_told_is_looked_at_soon() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (_, payment) = sold(market, &shop, bread, "midtrans").await;
    let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
    let refund = format!("refunds where refund_id = '{}'", refund["id"].as_str().unwrap());
    next_turn(market, &refund).await;
    let late = refund.replace(" where", " set looks = 30, next_at = now() + interval '30 minutes' where");
    market.hub.database.psql(&format!("update {late}")).await;
    // Something of the payment is told that was not told before.
    market.says("forge", json!({ "id": payment["id"], "status": "chargeback" })).await;
    until(async || (next_turn(market, &refund).await.0 < 1_000).then_some(())).await;
    let (seconds, looks) = next_turn(market, &refund).await;
    assert!(seconds <= 10 && looks <= 1, "in {seconds} s, after {looks} looks");
}

#[tokio::test]
async fn an_account_that_cannot_be_read_for_a_moment_does_not_put_its_payments_off_for_long() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let payment = asks(&shop, &opens(&shop, bread).await, qris(provider)).await.created();
        leave_in_peace(market).await;
        let held = market.hub.locks("provider_accounts").await;
        market
            .hub
            .database
            .psql(&format!("update {}", row(&payment).replace(" where", " set next_at = now() where")))
            .await;
        locked_out(&market.hub.database, 1).await;
        let (seconds, _) = until(async || Some(next_turn(market, &row(&payment)).await).filter(|it| it.0 >= 0)).await;
        drop(held);
        assert!(seconds <= 5, "{provider}: {seconds}");
        market.pays(&payment).await;
        comes_to(&shop, &payment, "paid").await;
    }
}

#[tokio::test]
async fn whoever_sends_slowly_holds_up_no_other_notification() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let accounts = shop.get("/v1/provider-accounts").await.ok();
    let path = accounts["items"][0]["webhook_path"].as_str().expect("a path").to_owned();
    for provider in BOTH {
        loop {
            let payment = asks(&shop, &opens(&shop, bread).await, qris(provider)).await.created();
            leave_in_peace(market).await;
            let (mut strangers, began) = (Vec::new(), Instant::now());
            for _ in 0..200 {
                let mut stranger = TcpStream::connect(market.hub.address).await.expect("a connection");
                let head = format!(
                    "POST {path} HTTP/1.1\r\nhost: hub\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{"
                );
                stranger.write_all(head.as_bytes()).await.expect("sent");
                strangers.push(stranger);
            }
            market.pays(&payment).await;
            comes_to(&shop, &payment, "paid").await;
            let deliveries = market.deliveries(&payment).await;
            let attempts: Vec<&Value> =
                deliveries.iter().flat_map(|it| it["attempts"].as_array().expect("attempts")).collect();
            assert!(!attempts.is_empty() && attempts.iter().all(|it| it["outcome"]["answered"] == 200), "{attempts:?}");
            // After two seconds the strangers are sent away: on a busy machine they may have gone before.
            if began.elapsed() < Duration::from_secs(2) {
                break;
            }
        }
    }
}
