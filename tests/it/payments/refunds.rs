//! Money that goes back, and money that a person decides on, with simulated providers.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tillwire_channels::RefundId;

use super::*;

pub(super) const BOTH: [&str; 2] = ["midtrans", "xendit"];
/// After so many seconds of the providers' clock every refund has ended that ever does.
const CONFIRMED: f64 = 61.0;

/// A sale that a customer has paid by QRIS.
pub(super) async fn sold(market: &Market, shop: &Shop<'_>, bread: &str, provider: &str) -> (Value, Value) {
    let sale = opens(shop, bread).await;
    let payment = asks(shop, &sale, qris(provider)).await.created();
    market.pays(&payment).await;
    (sale, comes_to(shop, &payment, "paid").await)
}

/// A payment that came when its sale was paid in cash.
pub(super) async fn late(market: &Market, shop: &Shop<'_>, bread: &str, provider: &str) -> Value {
    let sale = opens(shop, bread).await;
    let payment = asks(shop, &sale, qris(provider)).await.created();
    let canceled = shop.post(&format!("{}/cancel", path(&payment)), json!({})).await.ok();
    assert_eq!(canceled["state"], "canceled", "{canceled}");
    market.says("pay", json!({ "id": payment["id"], "late": true, "issuer": "DANA" })).await;
    comes_to(shop, &payment, "paid_late").await;
    let cash = json!({ "method": "cash", "amount_minor": 48_500 });
    shop.post(&format!("/v1/sales/{}/payments", sale["id"].as_str().unwrap()), cash).await.created();
    payment
}

pub(super) fn path(payment: &Value) -> String {
    format!("/v1/payments/{}", payment["id"].as_str().expect("an id"))
}

fn back(amount_minor: Option<i64>) -> Value {
    let mut body = json!({ "reason": "customer", "note": "Rotinya basi" });
    if let Some(amount_minor) = amount_minor {
        body["amount_minor"] = json!(amount_minor);
    }
    body
}

pub(super) async fn gives_back(shop: &Shop<'_>, payment: &Value, amount_minor: Option<i64>) -> Answer {
    shop.post(&format!("{}/refunds", path(payment)), back(amount_minor)).await
}

pub(super) async fn refund_of(shop: &Shop<'_>, refund: &Value) -> Value {
    shop.get(&format!("/v1/refunds/{}", refund["id"].as_str().expect("an id"))).await.ok()
}

pub(super) async fn refund_comes_to(shop: &Shop<'_>, refund: &Value, state: &str) -> Value {
    let started = Instant::now();
    loop {
        let found = refund_of(shop, refund).await;
        if found["state"] == state {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it does not come to {state}: {found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn refunds_of(shop: &Shop<'_>, payment: &Value) -> Vec<Value> {
    shop.get(&format!("{}/refunds", path(payment))).await.ok().as_array().expect("refunds").clone()
}

/// The providers' clock goes on until all refunds are decided there.
pub(super) async fn time_passes(market: &Market) {
    market.says("clock", json!({ "advance_s": CONFIRMED })).await;
}

pub(super) async fn task_of(shop: &Shop<'_>, payment: &Value, kind: &str) -> Value {
    let started = Instant::now();
    loop {
        let found = tasks(shop).await;
        if let Some(task) = found.iter().find(|task| task["payment"] == payment["id"] && task["kind"] == kind) {
            return task.clone();
        }
        assert!(started.elapsed() < PATIENCE, "nobody is told: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn settles(shop: &Shop<'_>, task: &Value, decision: Value) -> Answer {
    shop.post(&format!("/v1/payment-tasks/{}", task["id"].as_str().expect("an id")), decision).await
}

#[tokio::test]
async fn p12_parts_go_back_until_nothing_is_left() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, payment) = sold(market, &shop, bread, provider).await;
        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
        assert_eq!((&refund["state"], &refund["origin"]), (&json!("pending"), &json!("hub")), "{refund}");
        for state in ["created", "pending"] {
            let told = screen.hears_next("refund.changed").await;
            assert_eq!((&told.data()["refund"], &told.data()["state"]), (&refund["id"], &json!(state)));
        }
        // Midtrans calls the payment refunded by now. The bank has confirmed nothing.
        let asked = shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
        assert_eq!(asked["state"], "paid", "{asked}");
        gives_back(&shop, &payment, Some(1)).await.refused(409, "refund_under_way");
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        let told = screen.hears_next("refund.changed").await;
        assert_eq!(
            (&told.data()["state"], &told.data()["refunded_minor"]),
            (&json!("succeeded"), &json!(8_500)),
            "{told:?}"
        );
        assert_eq!(screen.hears_next("payment.changed").await.data()["state"], "partially_refunded");
        let shown = sale_of(&shop, &sale).await;
        assert_eq!((&shown["state"], &shown["refunded_minor"]), (&json!("completed"), &json!(8_500)));

        let refused = gives_back(&shop, &payment, Some(40_001)).await.refused(409, "amount_exceeds_refundable");
        assert_eq!(refused["errors"][0]["pointer"], "/amount_minor", "{refused}");
        let rest = gives_back(&shop, &payment, None).await.created();
        assert_eq!(rest["amount_minor"], 40_000, "{rest}");
        time_passes(market).await;
        refund_comes_to(&shop, &rest, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
        gives_back(&shop, &payment, Some(1)).await.refused(409, "amount_exceeds_refundable");
        gives_back(&shop, &payment, None).await.refused(409, "amount_exceeds_refundable");
        assert_eq!(market.asked(provider, "refund").await, 2, "what is too much is asked of nobody");
        assert_eq!(sale_of(&shop, &sale).await["refunded_minor"], 48_500);
        let listed = shop.get(&shop.sales()).await.ok();
        let listed = listed["items"].as_array().unwrap().iter().find(|it| it["id"] == sale["id"]).unwrap().clone();
        assert_eq!((&listed["paid_minor"], &listed["refunded_minor"]), (&json!(48_500), &json!(48_500)));
        let all = refunds_of(&shop, &payment).await;
        assert_eq!(all.iter().map(|it| it["amount_minor"].as_i64().unwrap()).collect::<Vec<_>>(), [8_500, 40_000]);
    }
    assert!(tasks(&shop).await.is_empty());
    let audit = shop.get("/v1/audit").await.ok();
    let asked = audit["items"].as_array().unwrap().iter().filter(|line| line["action"] == "refund.asked").count();
    assert_eq!(asked, 4);
    market.hub.ledgers_add_up().await;
}

#[tokio::test]
async fn p3_a_refund_that_is_never_answered_is_made_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        market.says("faults", json!({ "fault": "drop_webhook", "provider": provider, "times": null })).await;
        let fault = json!({ "fault": "timeout_after_commit", "on": "refund", "provider": provider, "seconds": 1 });
        market.says("faults", fault).await;
        let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
        // Unless the payment was asked about meanwhile, for another reason.
        assert!(["unknown", "pending"].contains(&refund["state"].as_str().unwrap()), "{refund}");
        // Nobody asks for another before it is known what became of this one.
        gives_back(&shop, &payment, Some(8_500)).await.refused(409, "refund_under_way");
        market.hub.database.psql("update refunds set next_at = now() where state = 'unknown'").await;
        refund_comes_to(&shop, &refund, "pending").await;
        time_passes(market).await;
        market.hub.database.psql("update refunds set next_at = now() where state = 'pending'").await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        comes_to(&shop, &payment, "partially_refunded").await;
        assert_eq!(market.asked(provider, "refund").await, 1);
    }
}

#[tokio::test]
async fn what_never_arrived_is_asked_for_once_more() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        market.says("faults", json!({ "fault": "reset", "on": "refund", "provider": provider })).await;
        let refund = gives_back(&shop, &payment, None).await.created();
        assert_eq!(refund["state"], "unknown", "{refund}");
        let looks = async || {
            market.hub.database.psql("update refunds set next_at = now() where state = 'unknown'").await;
        };
        looks().await;
        if provider == "xendit" {
            // It is not in the list. There what was sent may still arrive, and would be another one.
            let looked = "select looks from refunds where state = 'unknown'";
            until(async || (market.hub.database.psql(looked).await.trim() != "0").then_some(())).await;
            assert_eq!(market.asked(provider, "refund").await, 1);
            let long_ago = "update refunds set called_at = called_at - interval '11 minutes' where state = 'unknown'";
            market.hub.database.psql(long_ago).await;
            looks().await;
        }
        refund_comes_to(&shop, &refund, "pending").await;
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
        assert_eq!(market.asked(provider, "refund").await, 2, "once more, and no more");
    }
}

/// What is in progress there may be this very one, of which nobody heard: it is looked for, and not asked for again and again.
#[tokio::test]
async fn what_may_be_in_progress_is_looked_for() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let database = &market.hub.database;
    let (_, payment) = sold(market, &shop, bread, "xendit").await;
    market.says("clock", json!({ "speed": 0 })).await;
    market.says("faults", json!({ "fault": "reset", "on": "refund", "provider": "xendit" })).await;
    let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
    assert_eq!(refund["state"], "unknown", "{refund}");
    refunds_there(market, "xendit", &payment, 1_000).await;
    let before = market.asked("xendit", "refund").await;
    let long_ago =
        "update refunds set called_at = called_at - interval '11 minutes', next_at = now() where origin = 'hub'";
    database.psql(long_ago).await;
    until(async || (market.asked("xendit", "refund").await == before + 1).then_some(())).await;
    let rests = "select count(*) from refunds where origin = 'hub' and state = 'unknown' and lease is null";
    until(async || (database.psql(rests).await.trim() == "1").then_some(())).await;
    for _ in 0..3 {
        let looked = market.requests("xendit").await.len();
        database.psql("update refunds set next_at = now() where origin = 'hub'").await;
        until(async || (market.requests("xendit").await.len() > looked).then_some(())).await;
    }
    assert_eq!(market.asked("xendit", "refund").await, before + 1, "it was asked for again");
    database.psql(long_ago).await;
    assert_eq!(refund_comes_to(&shop, &refund, "failed").await["failure"], "never_arrived");
}

#[tokio::test]
async fn of_two_at_once_one_wins() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        let all = [Some(48_500), Some(48_500), None, Some(1)].map(|amount| gives_back(&shop, &payment, amount));
        let answers = futures_util::future::join_all(all).await;
        let made: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
        assert_eq!(made.len(), 1, "{answers:?}");
        for lost in answers.iter().filter(|answer| answer.status != 201) {
            lost.refused(409, "refund_under_way");
        }
        time_passes(market).await;
        refund_comes_to(&shop, &made[0].created(), "succeeded").await;
        assert_eq!(market.asked(provider, "refund").await, 1);
    }
}

#[tokio::test]
async fn the_same_key_gives_back_once() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let (_, payment) = sold(market, &shop, bread, "xendit").await;
    let refunds = format!("{}/refunds", path(&payment));
    let mut body = back(Some(1_000));
    body["id"] = json!(RefundId::new());
    let first = shop.post_once("one", &refunds, body.clone()).await;
    assert_eq!(first.created()["id"], body["id"]);
    time_passes(market).await;
    refund_comes_to(&shop, &first.created(), "succeeded").await;
    let again = shop.post_once("one", &refunds, body.clone()).await;
    assert_eq!((&again.created()["id"], &again.created()["state"]), (&body["id"], &json!("succeeded")));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    shop.post_once("one", &refunds, back(Some(2_000))).await.refused(422, "idempotency_key_reused");
    let taken = shop.post_once("two", &refunds, body).await.refused(409, "refund_exists");
    assert_eq!(taken["errors"][0]["pointer"], "/id");
    assert_eq!(market.asked("xendit", "refund").await, 1);
}

#[tokio::test]
async fn refunds_are_a_managers_and_the_merchants_alone() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let rival = market.hub.merchant("Saingan").await;
    let (_, payment) = sold(market, &shop, bread, "midtrans").await;
    let refunds = format!("{}/refunds", path(&payment));
    let bytes = || back(Some(1_000)).to_string().into_bytes();
    rival.post(&refunds, back(Some(1_000))).await.refused(404, "not_found");
    for role in [Role::Display, Role::Auditor, Role::Clerk, Role::Cashier, Role::Accountant] {
        let token = market.hub.token(shop.merchant, role, &[]);
        assert_eq!(shop.post_as(&token, "key", &refunds, bytes()).await.status, 403, "{role:?}");
    }
    let elsewhere = market.hub.token(shop.merchant, Role::Manager, &[OutletId::new()]);
    assert_eq!(shop.post_as(&elsewhere, "key", &refunds, bytes()).await.status, 403);
    assert_eq!(market.asked("midtrans", "refund").await, 0);

    let manager = market.hub.token(shop.merchant, Role::Manager, &[shop.outlet]);
    let refund = shop.post_as(&manager, "key", &refunds, bytes()).await.created();
    let one = format!("/v1/refunds/{}", refund["id"].as_str().unwrap());
    for path in [&one, &refunds] {
        assert_eq!(shop.get(path).await.status, 200);
        rival.get(path).await.refused(404, "not_found");
        assert_eq!(shop.get_as(&elsewhere, path).await.status, 403);
        let wall = market.hub.token(shop.merchant, Role::Display, &[]);
        assert_eq!(shop.get_as(&wall, path).await.status, 403);
        let cashier = market.hub.token(shop.merchant, Role::Cashier, &[shop.outlet]);
        assert_eq!(shop.get_as(&cashier, path).await.status, 200);
    }
}

#[tokio::test]
async fn what_cannot_go_back_is_refused_before_anybody_is_asked() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let transfer = json!({ "method": "transfer", "provider": "xendit", "bank": "bri" });
    let transfer = asks(&shop, &sale, transfer).await.created();
    gives_back(&shop, &transfer, None).await.refused(409, "nothing_to_refund");
    market.pays(&transfer).await;
    comes_to(&shop, &transfer, "paid").await;
    gives_back(&shop, &transfer, None).await.refused(409, "not_refundable");

    let (_, payment) = sold(market, &shop, bread, "midtrans").await;
    let too_much = gives_back(&shop, &payment, Some(48_501)).await.refused(409, "amount_exceeds_refundable");
    assert_eq!(too_much["errors"][0]["pointer"], "/amount_minor");
    let refunds = format!("{}/refunds", path(&payment));
    for (field, value) in [
        ("amount_minor", json!(0)),
        ("note", json!("")),
        ("note", json!("x".repeat(201))),
        ("reason", json!("because")),
    ] {
        let mut body = back(None);
        body[field] = value;
        let refused = shop.post(&refunds, body).await;
        assert_eq!(refused.status, 422, "{refused:?}");
        let refused = refused.json();
        assert_eq!(refused["errors"][0]["pointer"], format!("/{field}"), "{refused}");
    }
    market.hub.database.psql("update payment_attempts set paid_at = paid_at - interval '8 days'").await;
    gives_back(&shop, &payment, None).await.refused(409, "refund_window_over");
    gives_back(&shop, &json!({ "id": PaymentId::new() }), None).await.refused(404, "not_found");
    assert_eq!(market.asked("midtrans", "refund").await + market.asked("xendit", "refund").await, 0);
}

#[tokio::test]
async fn a_refund_that_is_refused_leaves_the_payment_paid() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (sale, payment) = sold(market, &shop, bread, provider).await;
        market.says("faults", json!({ "fault": "refund_rejected_202", "provider": provider })).await;
        let refund = gives_back(&shop, &payment, None).await.created();
        assert_eq!(refund["state"], if provider == "midtrans" { "failed" } else { "pending" }, "{refund}");
        time_passes(market).await;
        let refund = refund_comes_to(&shop, &refund, "failed").await;
        assert!(refund["failure"].is_string(), "{refund}");
        let asked = shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
        assert_eq!(asked["state"], "paid");
        assert_eq!(sale_of(&shop, &sale).await["refunded_minor"], 0);
        let task = task_of(&shop, &payment, "refund_failed").await;
        settles(&shop, &task, json!({ "resolution": "refunded", "note": "x" }))
            .await
            .refused(409, "resolution_not_possible");
        let noted = settles(&shop, &task, json!({ "resolution": "noted", "note": "Dicoba lagi" })).await.ok();
        assert_eq!((&noted["resolution"], &noted["note"]), (&json!("noted"), &json!("Dicoba lagi")), "{noted}");
        // What it held is free again.
        let again = gives_back(&shop, &payment, None).await.created();
        time_passes(market).await;
        refund_comes_to(&shop, &again, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn a_refund_that_nobody_confirms_is_a_persons_matter_after_a_day() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        market.says("faults", json!({ "fault": "refund_pending_forever", "provider": provider })).await;
        let refund = gives_back(&shop, &payment, Some(8_500)).await.created();
        time_passes(market).await;
        assert_eq!(refund_of(&shop, &refund).await["state"], "pending");
        assert!(tasks(&shop).await.is_empty());
        gives_back(&shop, &payment, None).await.refused(409, "refund_under_way");
        let a_day_later = format!(
            "update refunds set created_at = created_at - interval '25 hours', next_at = now() where refund_id = '{}'",
            refund["id"].as_str().unwrap()
        );
        market.hub.database.psql(&a_day_later).await;
        let task = task_of(&shop, &payment, "refund_stuck").await;
        settles(&shop, &task, json!({ "resolution": "noted", "note": "Midtrans ditelepon" })).await.ok();
        // It is told once, and looked at all the same.
        let of_it = format!("refunds where refund_id = '{}'", refund["id"].as_str().unwrap());
        let looks = async || market.hub.database.psql(&format!("select looks from {of_it}")).await.trim().to_owned();
        let before = looks().await;
        market.hub.database.psql(&of_it.replace("refunds", "update refunds set next_at = now()")).await;
        until(async || (looks().await != before).then_some(())).await;
        assert!(tasks(&shop).await.is_empty());
        assert_eq!(comes_to(&shop, &payment, "paid").await["state"], "paid");
        // It holds up no other, but for what it takes.
        gives_back(&shop, &payment, Some(40_001)).await.refused(409, "amount_exceeds_refundable");
        let rest = gives_back(&shop, &payment, None).await.created();
        assert_eq!(rest["amount_minor"], 40_000, "{rest}");
        gives_back(&shop, &payment, None).await.refused(409, "refund_under_way");
        if provider == "midtrans" {
            time_passes(market).await;
            refund_comes_to(&shop, &rest, "succeeded").await;
            comes_to(&shop, &payment, "partially_refunded").await;
        } else {
            // Xendit takes one at a time, and has not ended the first.
            assert_eq!((&rest["state"], &rest["failure"]), (&json!("created"), &Value::Null), "{rest}");
        }
    }
}

/// As somebody does it at the provider's own dashboard.
pub(super) async fn refunds_there(market: &Market, provider: &str, payment: &Value, amount: i64) {
    let (address, key) = match provider {
        "midtrans" => (market.providers.midtrans, format!("SB-Mid-server-{MIDTRANS_KEY}")),
        _ => (market.providers.xendit, format!("xnd_development_{XENDIT_KEY}")),
    };
    let there = "select request_there from payment_attempts where payment_id = ";
    let there = market.hub.database.psql(&format!("{there}'{}'", payment["id"].as_str().unwrap())).await;
    let (path, body) = match provider {
        "midtrans" => (
            format!("/v2/{}/refund", payment["id"].as_str().unwrap()),
            json!({ "refund_key": "dashboard-1", "amount": amount, "reason": "from the dashboard" }),
        ),
        _ => (
            "/refunds".to_owned(),
            json!({ "payment_request_id": there.trim(), "amount": amount, "currency": "IDR", "reason": "OTHERS" }),
        ),
    };
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("{key}:")));
    let headers =
        [("authorization", basic.as_str()), ("content-type", "application/json"), ("accept", "application/json")];
    let answer = request(address, "POST", &path, &headers, body.to_string().into_bytes()).await.expect("an answer");
    let made = answer.ok();
    assert!(made["status_code"] == "200" || made["status"] == "PENDING", "{made}");
}

#[tokio::test]
async fn what_somebody_refunds_at_the_provider_is_taken_over() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    for provider in BOTH {
        let (_, payment) = sold(market, &shop, bread, provider).await;
        refunds_there(market, provider, &payment, 8_500).await;
        // Xendit tells of it when it is decided; whoever asks hears of it before.
        shop.get(&format!("{}?ask=true", path(&payment))).await.ok();
        until(async || (!refunds_of(&shop, &payment).await.is_empty()).then_some(())).await;
        gives_back(&shop, &payment, Some(1)).await.refused(409, "refund_under_way");
        // One that nobody confirms holds up no other for ever, but for what it takes.
        market.hub.database.psql("update refunds set stuck_at = now() where origin = 'provider'").await;
        gives_back(&shop, &payment, Some(40_001)).await.refused(409, "amount_exceeds_refundable");
        time_passes(market).await;
        comes_to(&shop, &payment, "partially_refunded").await;
        let found = refunds_of(&shop, &payment).await;
        assert_eq!(found.len(), 1, "each once: {found:?}");
        let one = &found[0];
        assert_eq!(
            (&one["origin"], &one["state"], &one["amount_minor"], &one["actor"]),
            (&json!("provider"), &json!("succeeded"), &json!(8_500), &Value::Null),
            "{one}"
        );
        task_of(&shop, &payment, "refund_elsewhere").await;
        gives_back(&shop, &payment, Some(40_001)).await.refused(409, "amount_exceeds_refundable");
        let rest = gives_back(&shop, &payment, None).await.created();
        assert_eq!(rest["amount_minor"], 40_000);
        time_passes(market).await;
        refund_comes_to(&shop, &rest, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
        assert_eq!(refunds_of(&shop, &payment).await.len(), 2);
    }
}

#[tokio::test]
async fn p5_money_that_came_late_pays_another_sale() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let cake = shop.stocked("kue", 10_000, "10").await;
    for provider in BOTH {
        let payment = late(market, &shop, bread, provider).await;
        let task = task_of(&shop, &payment, "paid_late").await;
        let accepted = |sale: &Value| json!({ "resolution": "accepted", "note": "Untuk roti hari ini", "sale": sale });
        // What cannot be.
        let small = opens(&shop, &cake).await;
        let refused = settles(&shop, &task, accepted(&small["id"])).await.refused(409, "amount_exceeds_due");
        assert_eq!(refused["errors"][0]["pointer"], "/sale");
        settles(&shop, &task, accepted(&json!(SaleId::new()))).await.refused(404, "not_found");
        settles(&shop, &task, accepted(&Value::Null)).await.refused(422, "sale_missing");
        settles(&shop, &task, accepted(&task["sale"])).await.refused(409, "sale_not_open");
        for (decision, status, code) in [
            (json!({ "resolution": "noted", "note": "x" }), 409, "resolution_not_possible"),
            (json!({ "resolution": "refunded", "note": "x", "sale": small["id"] }), 422, "sale_unexpected"),
            (json!({ "resolution": "accepted", "note": "", "sale": small["id"] }), 422, "invalid"),
        ] {
            settles(&shop, &task, decision).await.refused(status, code);
        }
        let cashier = market.hub.token(shop.merchant, Role::Cashier, &[]);
        let sale = opens(&shop, bread).await;
        let settle = format!("/v1/payment-tasks/{}", task["id"].as_str().unwrap());
        let body = accepted(&sale["id"]);
        let denied = shop.post_as(&cashier, "key", &settle, body.to_string().into_bytes()).await;
        assert_eq!(denied.status, 403);
        assert_eq!(comes_to(&shop, &payment, "paid_late").await["state"], "paid_late", "nothing has moved");

        let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
        let answer = shop.post_once(&settle, &settle, body.clone()).await;
        assert_eq!((&answer.ok()["accepted_for"], &answer.ok()["resolution"]), (&sale["id"], &json!("accepted")));
        let told = screen.hears_next("payment.captured").await;
        assert_eq!((&told.data()["payment"], &told.data()["sale"]), (&payment["id"], &sale["id"]));
        comes_to(&shop, &payment, "paid").await;
        let sold = sale_of(&shop, &sale).await;
        assert_eq!((&sold["state"], &sold["tenders"][0]["payment"]), (&json!("completed"), &payment["id"]));
        assert_eq!(shop.post_once(&settle, &settle, body.clone()).await.headers["idempotent-replayed"], "true");
        shop.post(&settle, body).await.refused(409, "task_closed");
        // And what it pays goes back like any other money.
        let refund = gives_back(&shop, &payment, Some(500)).await.created();
        assert_eq!(refund["sale"], sale["id"], "{refund}");
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        assert_eq!(sale_of(&shop, &sale).await["refunded_minor"], 500);
    }
    assert!(tasks(&shop).await.is_empty());
    let closed = shop.get("/v1/payment-tasks?state=closed").await.ok();
    let closed = closed["items"].as_array().unwrap();
    assert_eq!(closed.len(), 2, "{closed:?}");
    for task in closed {
        assert!(task["closed_at"].is_string() && task["closed_by"].is_string(), "{task}");
        assert_eq!(task["note"], "Untuk roti hari ini");
    }
    let audit = shop.get("/v1/audit").await.ok().to_string();
    assert_eq!(audit.matches("payment_task.settled").count(), 2);
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn p5_money_that_came_late_goes_back() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    let rival = market.hub.merchant("Saingan").await;
    for provider in BOTH {
        let payment = late(market, &shop, bread, provider).await;
        let task = task_of(&shop, &payment, "paid_late").await;
        let decision = json!({ "resolution": "refunded", "note": "Sudah dibayar tunai" });
        settles(&rival, &task, decision.clone()).await.refused(404, "not_found");
        let part = gives_back(&shop, &payment, Some(1_000)).await.refused(409, "full_refund_only");
        assert_eq!(part["errors"][0]["pointer"], "/amount_minor");
        // At first the bank refuses, and the money is somebody's matter again.
        market.says("faults", json!({ "fault": "refund_rejected_202", "provider": provider })).await;
        settles(&shop, &task, decision.clone()).await.ok();
        time_passes(market).await;
        until(async || (refunds_of(&shop, &payment).await[0]["state"] == "failed").then_some(())).await;
        let again = task_of(&shop, &payment, "paid_late").await;
        assert_ne!(again["id"], task["id"]);
        let settled = settles(&shop, &again, decision).await.ok();
        let refund = json!({ "id": settled["refund"] });
        let refund = refund_comes_to(&shop, &refund, "pending").await;
        assert_eq!(refund["amount_minor"], 48_500);
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        comes_to(&shop, &payment, "refunded").await;
    }
    assert!(tasks(&shop).await.is_empty());
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn a_sale_whose_payments_went_back_is_voided_or_paid_anew() {
    let stage = Stage::with(Market::opens().await, "20").await;
    let (market, shop, bread) = stage.cast();
    for (provider, voids) in [("midtrans", true), ("xendit", false)] {
        let sale = opens(&shop, bread).await;
        let part = json!({ "method": "qris", "provider": provider, "amount_minor": 20_000 });
        let part = asks(&shop, &sale, part).await.created();
        market.pays(&part).await;
        comes_to(&shop, &part, "paid").await;
        let id = sale["id"].as_str().unwrap();
        let void = async || shop.post(&format!("/v1/sales/{id}/void"), json!({ "reason": "Berubah pikiran" })).await;
        void().await.refused(409, "sale_has_payments");
        let refund = gives_back(&shop, &part, None).await.created();
        // Until it has gone back it is there.
        void().await.refused(409, "sale_has_payments");
        time_passes(market).await;
        refund_comes_to(&shop, &refund, "succeeded").await;
        let open = sale_of(&shop, &sale).await;
        assert_eq!(
            (&open["paid_minor"], &open["refunded_minor"], &open["due_minor"]),
            (&json!(20_000), &json!(20_000), &json!(48_500))
        );
        if voids {
            assert_eq!(void().await.ok()["state"], "voided");
        } else {
            let cash = |amount: i64| json!({ "method": "cash", "amount_minor": amount });
            let pay = format!("/v1/sales/{id}/payments");
            shop.post(&pay, cash(48_501)).await.refused(409, "amount_exceeds_due");
            shop.post(&pay, cash(48_500)).await.created();
            assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
        }
    }
    adds_up(&market.hub.database).await;
}

#[tokio::test]
async fn what_the_page_shows_of_refunds_is_done() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let page = include_str!("../../../docs/payments.md");
    let shown = |what: &str| -> Vec<Value> {
        let fence = format!("```json {what}\n");
        let blocks = page.split(&fence).skip(1);
        blocks.map(|rest| serde_json::from_str(rest.split("```").next().unwrap()).expect("JSON")).collect()
    };
    let refunds = shown("refund");
    assert_eq!(refunds.len(), 1);
    for body in refunds {
        let (_, payment) = sold(market, &shop, bread, "midtrans").await;
        shop.post(&format!("{}/refunds", path(&payment)), body).await.created();
    }
    let decisions = shown("decision");
    assert_eq!(decisions.len(), 1);
    for body in decisions {
        let payment = late(market, &shop, bread, "midtrans").await;
        settles(&shop, &task_of(&shop, &payment, "paid_late").await, body).await.ok();
    }
    for state in tillwire::commerce::payments::refunds::State::ALL {
        assert!(page.contains(&format!("`{state}`")), "the page does not know {state}");
    }
}

/// Every step of a refund takes a lock that somebody else holds in turn, or the provider's time; there the hub is killed. The
/// money goes back once.
#[tokio::test]
async fn p7_a_hub_that_is_killed_at_any_step_gives_each_back_once() {
    let (staged, mut hub) = Staged::starts().await;
    let asked = async || staged.requests("refund").await.len();
    let steps = [
        // Before it is written down; while it is done there; when it is answered; when it is told of, twice.
        ("refunds", "midtrans"),
        ("call", "midtrans"),
        ("call", "xendit"),
        ("answer", "midtrans"),
        ("answer", "xendit"),
        ("provider_inbox", "midtrans"),
        ("journal_heads", "xendit"),
    ];
    for (at, (step, provider)) in steps.into_iter().enumerate() {
        let (sale, payment, refund) = (staged.opens_sale("1").await, PaymentId::new(), RefundId::new());
        let body = json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" });
        staged.at_last(&format!("ask-{at}"), &format!("/v1/sales/{sale}/payments"), &body).await;
        staged.says("pay", json!({ "id": payment, "issuer": "DANA" })).await;
        staged.comes_to(payment, "paid").await;

        let (key, path) = (format!("refund-{at}"), format!("/v1/payments/{payment}/refunds"));
        let body = json!({ "id": refund, "reason": "customer", "note": "Rotinya basi" });
        let before = asked().await;
        // Again if it takes too long, until nobody is there.
        let asking = async { while staged.till.post(&key, &path, &body).await.is_ok() {} };
        match step {
            "refunds" => {
                let holder = staged.database.locks(step).await;
                let killing = async {
                    locked_out(&staged.database, 2).await; // One is whoever looks what is due.
                    hub.kill().await;
                    let_go(holder).await;
                };
                tokio::join!(asking, killing);
                assert_eq!(asked().await, before, "nobody was asked for what is not written down");
            }
            "call" | "answer" => {
                let fault = if step == "call" { "timeout_after_commit" } else { "slow_s" };
                let seconds = if step == "call" { 20 } else { 6 };
                staged.says("faults", json!({ "fault": fault, "on": "refund", "seconds": seconds })).await;
                let killing = async {
                    until(async || (asked().await > before).then_some(())).await;
                    if step == "answer" {
                        let holder = staged.database.locks("payment_attempts").await;
                        let last = async || staged.requests("refund").await.pop().expect("a request");
                        until(async || last().await["status"].is_number().then_some(())).await;
                        // Whoever has the answer, and whoever looks what is due.
                        locked_out(&staged.database, 2).await;
                        hub.kill().await;
                        let_go(holder).await;
                    } else {
                        hub.kill().await;
                    }
                };
                tokio::join!(asking, killing);
            }
            _ => {
                staged.at_last(&key, &path, &body).await;
                let holder = staged.database.locks(step).await;
                // The clock goes on when everybody was told, or has refused to listen.
                let passing = staged.says("clock", json!({ "advance_s": CONFIRMED }));
                let killing = async {
                    locked_out(&staged.database, if step == "provider_inbox" { 2 } else { 1 }).await;
                    hub.kill().await;
                    let_go(holder).await;
                };
                tokio::join!(passing, killing);
            }
        }
        hub = staged.restarts().await;
        staged.at_last(&key, &path, &body).await;
        let stands =
            |state: &str| format!("select count(*) from refunds where refund_id = '{refund}' and state = '{state}'");
        if !matches!(step, "provider_inbox" | "journal_heads") {
            staged.comes_true(&stands("pending"), "1").await;
            staged.says("clock", json!({ "advance_s": CONFIRMED })).await;
        }
        staged.comes_true(&stands("succeeded"), "1").await;
        staged.comes_to(payment, "refunded").await;
        assert_eq!(asked().await, before + 1, "{step}: it is asked for once");
        adds_up(&staged.database).await;
    }
    let refunds = "select count(*) || ' ' || count(distinct payment_id) from refunds where state = 'succeeded'";
    assert_eq!(staged.database.psql(refunds).await.trim(), "7 7");
    assert_eq!(staged.database.psql("select count(*) from payment_tasks").await.trim(), "0");
    hub.kill().await;
}
