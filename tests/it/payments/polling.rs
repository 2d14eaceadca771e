//! P4 and P17: what providers do not tell is asked for in time, and never more often than they allow.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::storms::leave_in_peace;
use super::*;

/// In what time a screen says that a payment is paid of which no notification came.
const PAID_MAX: Duration = Duration::from_secs(15);
/// How many payments are open at each provider at once.
const OPEN: usize = 5;
/// How often each endpoint of Xendit's may be asked in a minute, in test mode.
const XENDIT_TEST_MAX: usize = 60;
/// How long Midtrans wants to be left alone before it is asked for a payment again.
const MIDTRANS_PAUSE: f64 = 10.0;

/// When each request for one kind of thing came, in seconds of the provider's clock.
fn moments<'a>(requests: &'a [Value], by: impl Fn(&'a Value) -> String) -> BTreeMap<String, Vec<f64>> {
    let mut moments: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for request in requests {
        let at = OffsetDateTime::parse(request["at"].as_str().expect("a time"), &Rfc3339).expect("a time");
        moments.entry(by(request)).or_default().push(at.unix_timestamp_nanos() as f64 / 1e9);
    }
    moments
}

/// The most of these that lie within one minute.
fn in_a_minute(moments: &[f64]) -> usize {
    moments.iter().map(|from| moments.iter().filter(|it| (*from..from + 60.0).contains(it)).count()).max().unwrap_or(0)
}

#[tokio::test]
async fn p4_with_no_notification_at_all_screens_say_paid_within_fifteen_seconds() {
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    market.says("faults", json!({ "fault": "drop_webhook", "times": null })).await;
    let mut screen = shop.screen(&[&format!("payments/{}/{}", shop.outlet, shop.register)]).await;
    let (mut open, mut sales) = (Vec::new(), Vec::new());
    for provider in ["midtrans", "xendit"].repeat(OPEN) {
        let sale = opens(&shop, bread).await;
        open.push(asks(&shop, &sale, qris(provider)).await.created());
        sales.push(sale);
    }
    // Customers take their time, each another.
    let customers = open.iter().enumerate().map(|(place, payment)| async move {
        tokio::time::sleep(Duration::from_millis(2_300) * u32::try_from(place).unwrap()).await;
        market.pays(payment).await;
        (payment["id"].as_str().unwrap().to_owned(), Instant::now())
    });
    let watching = async {
        let mut heard = BTreeMap::new();
        while heard.len() < open.len() {
            let captured = screen.hears_next("payment.captured").await;
            let payment = captured.data()["payment"].as_str().unwrap().to_owned();
            assert!(heard.insert(payment, Instant::now()).is_none(), "twice: {captured:?}");
        }
        heard
    };
    let (paid, heard) = tokio::join!(join_all(customers), watching);
    let paid: BTreeMap<String, Instant> = paid.into_iter().collect();
    for provider in ["midtrans", "xendit"] {
        let of = open.iter().filter(|it| it["provider"] == provider).map(|it| it["id"].as_str().unwrap());
        let mut took: Vec<f64> = of.map(|it| (heard[it] - paid[it]).as_secs_f64()).collect();
        took.sort_by(f64::total_cmp);
        println!("{provider}: paid to screen without a notification, in seconds: {took:.1?}");
        assert!(took.iter().all(|it| *it <= PAID_MAX.as_secs_f64()), "{provider}: {took:?}");
    }
    assert_eq!(market.hub.database.psql("select count(*) from provider_inbox").await.trim(), "0");

    for sale in &sales {
        assert_eq!(sale_of(&shop, sale).await["state"], "completed");
    }
    let xendit = market.requests("xendit").await;
    assert!(xendit.iter().all(|it| it["status"] != 429), "it never had to say that it is too much");
    for (operation, moments) in moments(&xendit, |it| it["operation"].as_str().unwrap().to_owned()) {
        let most = in_a_minute(&moments);
        println!("xendit: {operation} is asked {most} times in a minute at most");
        assert!(most <= XENDIT_TEST_MAX / 2, "{operation}: {most} a minute");
    }
    let midtrans: Vec<Value> = market.requests("midtrans").await;
    let status: Vec<Value> = midtrans.into_iter().filter(|it| it["operation"] == "status").collect();
    for (path, moments) in moments(&status, |it| it["path"].as_str().unwrap().to_owned()) {
        let pauses: Vec<f64> = moments.windows(2).map(|two| two[1] - two[0]).collect();
        // Its clock has read the request a moment after ours had sent it, on a busy machine a long one.
        assert!(pauses.iter().all(|it| *it > MIDTRANS_PAUSE - 2.0), "{path}: {pauses:?}");
    }
    assert!(tasks(&shop).await.is_empty());
}

#[tokio::test]
async fn p17_a_provider_that_wants_to_be_left_alone_is_and_notifications_are_heard_meanwhile() {
    const PAUSE: Duration = Duration::from_secs(25);
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    // As often as a person may press a button, and nodes look.
    let storm =
        json!({ "fault": "http_429", "provider": "xendit", "on": "get", "seconds": PAUSE.as_secs(), "times": null });
    market.says("faults", storm).await;
    let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(shop.get(&check).await.ok()["state"], "pending");
    }
    assert_eq!(market.asked("xendit", "get").await, 1, "it has said how long it wants to be left alone");
    // The notification names the payment, and where payments are asked for nobody has complained.
    market.pays(&payment).await;
    comes_to(&shop, &payment, "paid").await;
    assert!(began.elapsed() < PAUSE, "only when it was over: {:?}", began.elapsed());
    assert_eq!(sale_of(&shop, &sale).await["state"], "completed");
    assert_eq!(market.asked("xendit", "get").await, 1);

    // A payment that may not even be asked for is begun all the same, and asked for as soon as it may be.
    clear(market).await;
    let storm = json!({ "fault": "http_429", "provider": "xendit", "on": "create", "seconds": 4 });
    market.says("faults", storm).await;
    let sale = opens(&shop, bread).await;
    let began = Instant::now();
    let before = market.asked("xendit", "create").await;
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    assert_eq!(payment["state"], "created", "{payment}");
    comes_to(&shop, &payment, "pending").await;
    assert!(began.elapsed() >= Duration::from_secs(4), "too soon: {:?}", began.elapsed());
    assert_eq!(market.asked("xendit", "create").await, before + 2);
}

#[tokio::test]
async fn p17_what_was_told_while_nothing_could_be_asked_is_asked_for_when_it_can() {
    const PAUSE: Duration = Duration::from_secs(5);
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("xendit")).await.created();
    for on in ["get", "get_payment"] {
        let storm =
            json!({ "fault": "http_429", "provider": "xendit", "on": on, "seconds": PAUSE.as_secs(), "times": 1 });
        market.says("faults", storm).await;
    }
    let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    shop.get(&check).await.ok();
    market.pays(&payment).await;
    let began = Instant::now();
    comes_to(&shop, &payment, "paid").await;
    assert!(began.elapsed() < PAUSE + Duration::from_secs(10), "long after it could: {:?}", began.elapsed());
    // Where it has said so it was not asked in between.
    let asked = moments(&market.requests("xendit").await, |it| it["operation"].as_str().unwrap().to_owned());
    for operation in ["get", "get_payment"] {
        let [first, second, ..] = asked[operation][..] else { panic!("{operation}: {asked:?}") };
        assert!(second - first > PAUSE.as_secs_f64() - 0.2, "{operation}: {asked:?}");
    }
}

/// Midtrans does not say how long it wants to be left alone.
#[tokio::test]
async fn p17_midtrans_is_left_alone_longer_each_time_and_nobody_else_is() {
    /// How often it says that it is too much.
    const TIMES: usize = 3;
    let stage = Stage::opens().await;
    let (market, shop, bread) = stage.cast();
    let sale = opens(&shop, bread).await;
    let payment = asks(&shop, &sale, qris("midtrans")).await.created();
    // That it is pending is told as well, and may have been looked at.
    leave_in_peace(market).await;
    market.says_delete("requests").await;
    let storm = json!({ "fault": "http_429", "provider": "midtrans", "on": "status", "times": TIMES });
    market.says("faults", storm).await;
    market.pays(&payment).await;
    // Somebody presses a button all the time.
    let check = format!("/v1/payments/{}?ask=true", payment["id"].as_str().unwrap());
    let pressing = async {
        while shop.get(&check).await.ok()["state"] != "paid" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let selling = async {
        until(async || (market.asked("midtrans", "status").await > 0).then_some(())).await;
        // What is new is begun when Midtrans may be asked for something again, and at Xendit at once.
        let (new, other) = (opens(&shop, bread).await, opens(&shop, bread).await);
        let began = Instant::now();
        let other = asks(&shop, &other, qris("xendit")).await.created();
        assert_eq!(other["state"], "pending", "{other}");
        market.pays(&other).await;
        comes_to(&shop, &other, "paid").await;
        println!("beside it a payment at xendit took {:?}", began.elapsed());
        let new = asks(&shop, &new, qris("midtrans")).await.created();
        comes_to(&shop, &new, "pending").await;
    };
    tokio::join!(pressing, selling);
    let requests = market.requests("midtrans").await;
    let asked = moments(&requests, |it| it["operation"].as_str().unwrap().to_owned());
    let pauses: Vec<f64> = asked["status"].windows(2).take(TIMES).map(|two| two[1] - two[0]).collect();
    println!("midtrans said that it is too much {TIMES} times, and was left alone for {pauses:.2?} s");
    let status: Vec<&Value> =
        requests.iter().filter(|it| it["operation"] == "status").map(|it| &it["status"]).collect();
    assert_eq!(status[..=TIMES], [429, 429, 429, 200], "not once more than it takes");
    for (pause, least) in pauses.iter().zip([1.0, 2.0, 4.0]) {
        assert!(*pause > least - 0.2, "{pauses:?}");
    }
    // Nor was it asked for anything else meanwhile.
    let is_left_alone = |at: f64| {
        asked["status"]
            .iter()
            .take(TIMES)
            .zip([1.0, 2.0, 4.0])
            .all(|(from, least)| !(*from..from + least - 0.2).contains(&at))
    };
    assert_eq!(asked["charge"].len(), 1);
    assert!(asked["charge"].iter().all(|at| is_left_alone(*at)), "{asked:?}");
    assert!(tasks(&shop).await.is_empty());
}

/// Nothing goes wrong from now on.
async fn clear(market: &Market) {
    request(market.providers.midtrans, "DELETE", "/_sim/faults", &[], vec![]).await.expect("an answer").ok();
}
