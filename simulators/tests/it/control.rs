//! The control API, and the page that plays the customer's bank.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tillwire_simulators::Options;

use crate::support::{BUSINESS, MERCHANT, SECRET_KEY, Stage, basic, qris, request, transfer};

#[tokio::test]
async fn the_bank_shows_what_can_be_paid_and_pays_what_it_reads() {
    let stage = Stage::start().await;
    let charged = stage.midtrans("POST /v2/charge", qris("M-1", 48_500)).await;
    stage.midtrans("POST /v2/charge", transfer("M-2", "bca", 312_000)).await;
    let id = stage.xendit_qris("X-1", 20_000).await;
    let open = stage.sim("GET open", Value::Null).await.body;
    let shown: Vec<_> = open["open"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["reference"].as_str().unwrap(), it["method"].as_str().unwrap()))
        .collect();
    assert_eq!(shown.len(), 3);
    for pair in [("M-1", "QRIS"), ("M-2", "VA BCA"), ("X-1", "QRIS")] {
        assert!(shown.contains(&pair), "{shown:?}");
    }
    let bill = open["open"].as_array().unwrap().iter().find(|it| it["reference"] == "M-1").unwrap();
    assert_eq!(
        (&bill["merchant"], &bill["amount"], &bill["qr"]),
        (&json!("Toko Melati Jaya"), &json!(48_500), &charged.body["qr_string"])
    );

    stage.told().await;
    let paid = stage.does("pay", json!({ "qr": charged.body["qr_string"], "issuer": "OVO" })).await;
    assert_eq!((&paid["provider"], &paid["status"]), (&json!("midtrans"), &json!("settlement")));
    assert_eq!(stage.told().await.remove(0).body["issuer"], "ovo");
    stage.does("fail", json!({ "id": id })).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment.failure");
    // In a payer's own app an attempt fails, and nobody is told.
    stage.does("fail", json!({ "id": "M-2" })).await;
    assert_eq!(stage.told().await.len(), 0);
    stage.does("fail", json!({ "id": "M-2", "deny": true })).await;
    assert_eq!(stage.told().await.remove(0).event(), "deny");
    assert_eq!(stage.sim("GET open", Value::Null).await.body["open"], json!([]));
    // The code on the counter.
    let code = open["counters"][0]["qr"].clone();
    assert_eq!(stage.sim("POST pay", json!({ "qr": code })).await.status, 409);
    stage.does("pay", json!({ "qr": code, "amount": 7_500 })).await;
    assert_eq!(stage.told().await.remove(0).body["merchant_id"], MERCHANT);
}

#[tokio::test]
async fn what_says_how_much_is_paid_by_what_it_says() {
    let stage = Stage::start().await;
    let captured = |body: &Value| body["data"]["captures"][0]["capture_amount"].clone();
    let code = stage.midtrans("POST /v2/charge", qris("M-1", 48_500)).await.body["qr_string"].clone();
    let va = stage.midtrans("POST /v2/charge", transfer("M-2", "bca", 312_000)).await.body["va_numbers"][0].clone();
    stage.told().await;
    for (order, asked) in [(json!({ "qr": code }), "48500.00"), (json!({ "id": va["va_number"] }), "312000.00")] {
        let mut order = order;
        order["amount"] = json!(999);
        stage.does("pay", order).await;
        assert_eq!(stage.told().await.remove(0).body["gross_amount"], asked);
    }
    for (channel, of) in [("QRIS", "qr"), ("BNI_VIRTUAL_ACCOUNT", "id")] {
        let made = stage.xendit("POST /v3/payment_requests", request(channel, channel, 20_000)).await;
        stage.does("pay", json!({ of: made.body["actions"][0]["value"], "amount": 999 })).await;
        assert_eq!(captured(&stage.told().await.remove(0).body), 20_000, "{channel}");
    }
    // By its id a test may pay another amount on purpose.
    stage.midtrans_qris("M-3", 48_500).await;
    stage.told().await;
    stage.does("pay", json!({ "id": "M-3", "amount": 999 })).await;
    assert_eq!(stage.told().await.remove(0).body["gross_amount"], "999.00");
    stage.xendit_qris("X-3", 48_500).await;
    stage.does("pay", json!({ "id": "X-3", "amount": 999 })).await;
    assert_eq!(captured(&stage.told().await.remove(0).body), 999);
}

#[tokio::test]
async fn what_is_over_can_be_paid_late_once_and_what_was_paid_cannot() {
    let stage = Stage::start().await;
    let mut ids = Vec::new();
    for reference in ["M-1", "M-2", "M-3"] {
        let charged = stage.midtrans("POST /v2/charge", qris(reference, 48_500)).await;
        ids.push(charged.body["transaction_id"].as_str().expect("an id").to_owned());
    }
    for reference in ["X-1", "X-2", "X-3"] {
        ids.push(stage.xendit_qris(reference, 20_000).await);
    }
    let late = async || {
        let open = stage.sim("GET open", Value::Null).await.body;
        let late: Vec<String> = serde_json::from_value(open["late"].clone()).expect("ids");
        late
    };
    assert!(late().await.is_empty(), "they are open");
    // Of each three one is paid in time, one fails, and one runs out.
    for of_one in ids.chunks(3) {
        stage.does("pay", json!({ "id": of_one[0] })).await;
        stage.does("fail", json!({ "id": of_one[1], "deny": true })).await;
        stage.does("expire_now", json!({ "id": of_one[2] })).await;
    }
    assert_eq!(late().await, [ids[2].clone(), ids[5].clone()]);
    for id in late().await {
        stage.does("pay", json!({ "id": id, "late": true })).await;
    }
    assert!(late().await.is_empty(), "they are paid");
}

#[tokio::test]
async fn the_page_is_all_its_own() {
    let stage = Stage::start().await;
    let url = |path: &str| format!("{}{path}", stage.simulators.xendit_url());
    let page = stage.send("GET", &url("/_sim/bank"), &[], String::new()).await.unwrap();
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for directive in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|it| it == directive), "{policy}");
    }
    let text = page.text();
    assert!(text.contains("<html lang=\"id\">") && text.contains("lang=\"en\""));
    let files: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|mark| text.split(mark).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert_eq!(files, ["/_sim/bank.js", "/_sim/bank.css"]);
    for file in files {
        let answer = stage.send("GET", &url(file), &[], String::new()).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains("http://") && !answer.text().contains("https://"), "{file}");
    }
}

#[tokio::test]
async fn nonsense_is_refused_with_the_reason() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 1_000).await;
    for (line, body, status) in [
        ("POST pay", json!({ "id": "nobody" }), 404),
        ("POST pay", json!({}), 400),
        ("POST pay", json!({ "id": "A-1", "qr": "x" }), 400),
        ("POST pay", json!({ "id": "A-1", "amount": 0 }), 400),
        ("POST pay", json!({ "id": "A-1", "isuer": "DANA" }), 400),
        ("POST pay", json!({ "id": "A-1", "issuer": "" }), 400),
        ("POST pay", json!({ "qr": "nothing" }), 409),
        ("POST pay", json!({ "merchant": MERCHANT, "amount": 1 }), 400),
        ("POST clock", json!({ "speed": -1 }), 400),
        ("POST clock", json!({ "advance_s": 1e12 }), 400),
        ("POST faults", json!({ "fault": "nothing" }), 400),
        ("POST faults", json!({ "fault": "reset", "times": 0 }), 400),
        ("DELETE faults/99", Value::Null, 404),
        ("POST chargeback", json!({ "id": "A-1" }), 409),
        ("POST expire_now", json!({ "id": "nobody" }), 404),
        ("POST settle", json!({ "id": "nobody" }), 404),
        ("POST redeliver", json!({}), 400),
        ("POST accounts", json!({ "provider": "midtrans", "webhook_urls": ["ftp://a"] }), 400),
        ("POST accounts", json!({ "provider": "xendit", "secret": "a" }), 400),
        ("POST accounts", json!({ "provider": "midtrans", "merchant_id": "G9" }), 400),
    ] {
        let answer = stage.sim(line, body.clone()).await;
        assert_eq!(answer.status, status, "{line} {body}: {}", answer.text());
        assert!(answer.body["error"].as_str().is_some_and(|it| !it.is_empty()), "{line} {body}: {}", answer.text());
    }
    // A form of a page elsewhere cannot do any of it.
    let url = format!("{}/_sim/pay", stage.simulators.midtrans_url());
    let form =
        stage.send("POST", &url, &[("content-type", "text/plain")], json!({ "id": "A-1" }).to_string()).await.unwrap();
    assert_eq!(form.status, 400);
    assert_eq!(stage.midtrans("GET /v2/A-1/status", Value::Null).await.code(), "201");
}

#[tokio::test]
async fn a_name_that_both_know_needs_a_provider() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 1_000).await;
    stage.xendit_qris("A-1", 1_000).await;
    assert_eq!(stage.sim("POST pay", json!({ "id": "A-1" })).await.status, 409);
    assert_eq!(stage.does("pay", json!({ "id": "A-1", "provider": "xendit" })).await["status"], "SUCCEEDED");
    assert_eq!(stage.does("pay", json!({ "id": "A-1", "provider": "midtrans" })).await["status"], "settlement");
}

#[tokio::test]
async fn accounts_come_and_change_while_it_runs() {
    let stage = Stage::start().await;
    let url = stage.hub.url("/elsewhere");
    let account = json!({ "provider": "xendit", "secret_key": SECRET_KEY, "business_id": BUSINESS, "callback_token": "new-token", "webhook_urls": [url] });
    stage.does("accounts", account).await;
    let id = stage.xendit_qris("X-1", 1_000).await;
    stage.does("pay", json!({ "id": id })).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.path.as_str(), told.header("x-callback-token")), ("/elsewhere", "new-token"));
    let account = json!({
        "provider": "midtrans", "server_key": "SB-Mid-server-new", "client_key": "SB-Mid-client-new", "merchant_id": "G77",
        "webhook_urls": [url], "shop": { "name": "Kopi Senja", "city": "Malang", "postcode": "65111", "nmid": "ID1234567890123" },
    });
    stage.does("accounts", account).await;
    let charge = format!("{}/v2/charge", stage.simulators.midtrans_url());
    let headers = [("authorization", &*basic("SB-Mid-server-new"))];
    let charged = stage.send("POST", &charge, &headers, qris("N-1", 1_000).to_string()).await.unwrap();
    assert_eq!((charged.code(), &charged.body["merchant_id"]), ("201", &json!("G77")));
    assert!(charged.body["qr_string"].as_str().unwrap().contains("5910KOPI SENJA6006MALANG"));
}

#[tokio::test]
async fn what_was_asked_is_remembered_without_keys() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "http_503", "on": "charge" })).await;
    stage.midtrans("POST /v2/charge", qris("M-1", 1_000)).await;
    stage.xendit("POST /v3/payment_requests", request("X-1", "QRIS", 1_000)).await;
    let log = stage.sim("GET requests", Value::Null).await;
    assert!(!log.text().contains(SECRET_KEY) && !log.text().contains(&basic(SECRET_KEY)));
    let all = log.body["requests"].as_array().unwrap();
    let lines: Vec<_> = all
        .iter()
        .map(|it| (it["provider"].as_str().unwrap(), it["operation"].as_str().unwrap(), it["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(lines, [("midtrans", "charge", 503), ("xendit", "create", 201)]);
    assert_eq!(all[0]["faults"], json!(["http_503"]));
    assert_eq!(all[1]["body"]["reference_id"], "X-1");
    let charges = stage.sim("GET requests?operation=charge", Value::Null).await.body;
    assert_eq!(charges["requests"].as_array().unwrap().len(), 1);
    stage.sim("DELETE requests", Value::Null).await;
    assert_eq!(stage.sim("GET requests", Value::Null).await.body["requests"], json!([]));
}

#[tokio::test]
async fn the_clock_runs_at_a_speed() {
    let stage = Stage::start().await;
    assert_eq!(
        stage.sim("GET clock", Value::Null).await.body,
        json!({ "now": "2026-01-14T03:05:02.000Z", "speed": 0.0 })
    );
    assert_eq!(stage.advance(61.5).await["now"], "2026-01-14T03:06:03.500Z");
    stage.midtrans_qris("A-1", 1_000).await;
    // A quarter of an hour in half a second: nobody has to advance it.
    stage.does("clock", json!({ "speed": 2_000 })).await;
    for _ in 0..100 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        if stage.hub.take().iter().any(|it| it.event() == "expire") {
            return;
        }
    }
    panic!("it never expired");
}

#[tokio::test]
async fn a_chargeback_is_told_by_midtrans() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 10_000).await;
    stage.does("pay", json!({ "id": "A-1" })).await;
    stage.told().await;
    stage.does("chargeback", json!({ "id": "A-1", "amount": 4_000 })).await;
    assert_eq!(stage.told().await.remove(0).event(), "partial_chargeback");
    stage.does("chargeback", json!({ "id": "A-1" })).await;
    assert_eq!(stage.told().await.remove(0).event(), "chargeback");
}

#[tokio::test]
async fn it_does_not_start_with_an_account_that_makes_no_sense() {
    let mut options = Options::default();
    options.midtrans[0].server_key.clear();
    let refused = tillwire_simulators::Simulators::start(options).await.err().expect("a refusal");
    assert!(refused.to_string().contains("server_key"), "{refused}");
    let mut options = Options::default();
    options.xendit[0].shop.nmid = "12".into();
    assert!(tillwire_simulators::Simulators::start(options).await.is_err());
}

#[tokio::test]
async fn of_many_who_come_at_once_each_is_served_as_if_alone() {
    let stage = &Stage::start().await;
    let charges: Vec<_> =
        at_once(8, |_| async { stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await.code().to_owned() }).await;
    assert_eq!(count(&charges, "201"), 1, "{charges:?}");
    assert_eq!(count(&charges, "406"), 7, "{charges:?}");
    stage.told().await;
    let pays = at_once(8, |_| async { stage.sim("POST pay", json!({ "id": "A-1" })).await.status.to_string() }).await;
    assert_eq!((count(&pays, "200"), count(&pays, "409"), stage.told().await.len()), (1, 7, 1));
    let refund = |at: usize| async move {
        let body = json!({ "refund_key": format!("R-{at}"), "amount": 10_000 });
        stage.midtrans("POST /v2/A-1/refund", body).await.code().to_owned()
    };
    let refunds = at_once(8, refund).await;
    assert_eq!((count(&refunds, "200"), count(&refunds, "414")), (4, 4), "{refunds:?}");
    let id = &stage.xendit_qris("X-1", 1_000).await;
    stage.does("pay", json!({ "id": id })).await;
    let refund = |_| async move {
        let body = json!({ "payment_request_id": id, "amount": 100, "reason": "OTHERS" });
        stage.xendit("POST /refunds", body).await.status.to_string()
    };
    let refunds = at_once(8, refund).await;
    assert_eq!((count(&refunds, "200"), count(&refunds, "400")), (1, 7), "{refunds:?}");
}

/// Does something so many times at once.
async fn at_once<F: Future<Output = String>>(times: usize, what: impl Fn(usize) -> F) -> Vec<String> {
    join_all((0..times).map(what)).await
}

fn count(all: &[String], one: &str) -> usize {
    all.iter().filter(|it| *it == one).count()
}
