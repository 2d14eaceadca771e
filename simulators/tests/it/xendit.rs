//! Xendit: every endpoint's shape, errors and states.

use serde_json::{Value, json};
use tillwire_simulators::XenditAccount;

use crate::support::{BUSINESS, SECRET_KEY, Stage, TOKEN, basic, request};

#[tokio::test]
async fn a_qris_request_is_made_paid_and_told() {
    let stage = Stage::start().await;
    let mut body = request("POS01-260114-000123-a1", "QRIS", 48_500);
    body["description"] = json!("Toko Melati K01");
    body["metadata"] = json!({ "outlet": "SBY-02", "till": "K01" });
    let made = stage.xendit("POST /v3/payment_requests", body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let all = &made.body;
    for (name, value) in [
        ("business_id", json!(BUSINESS)),
        ("reference_id", json!("POS01-260114-000123-a1")),
        ("type", json!("PAY")),
        ("request_amount", json!(48_500)),
        ("capture_method", json!("AUTOMATIC")),
        ("channel_code", json!("QRIS")),
        ("channel_properties", json!({})),
        ("status", json!("REQUIRES_ACTION")),
        ("description", json!("Toko Melati K01")),
        ("metadata", json!({ "outlet": "SBY-02", "till": "K01" })),
        ("created", json!("2026-01-14T03:05:02.000Z")),
    ] {
        assert_eq!(all[name], value, "{name}");
    }
    let id = all["payment_request_id"].as_str().unwrap();
    assert!(id.starts_with("pr-") && id.len() == 39, "{id}");
    let action = &all["actions"][0];
    assert_eq!((&action["type"], &action["descriptor"]), (&json!("PRESENT_TO_CUSTOMER"), &json!("QR_STRING")));
    assert!(action["value"].as_str().unwrap().contains("540548500"));
    assert_eq!(stage.told().await.len(), 0, "nobody is told that it was made");

    stage.does("pay", json!({ "id": id, "issuer": "DANA" })).await;
    let told = stage.told().await.remove(0);
    assert_eq!(
        (told.path.as_str(), told.event(), told.header("x-callback-token")),
        ("/xendit", "payment.capture", TOKEN)
    );
    assert_eq!((&told.body["api_version"], &told.body["business_id"]), (&json!("v3"), &json!(BUSINESS)));
    let data = &told.body["data"];
    assert_eq!(
        (&data["status"], &data["payment_request_id"], &data["request_amount"]),
        (&json!("SUCCEEDED"), &json!(id), &json!(48_500))
    );
    assert_eq!(
        (&data["captures"][0]["capture_amount"], &data["payment_details"]["issuer_name"]),
        (&json!(48_500), &json!("DANA"))
    );
    assert_eq!(data["metadata"]["till"], "K01");
    let payment = data["payment_id"].as_str().unwrap();
    assert!(payment.starts_with("py-") && payment.len() == 39);
    // What the webhook says is what a GET says.
    assert_eq!(stage.xendit(&format!("GET /v3/payments/{payment}"), Value::Null).await.body, *data);
    let now = stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await;
    assert_eq!((&now.body["status"], &now.body["latest_payment_id"]), (&json!("SUCCEEDED"), &json!(payment)));
    assert_eq!(stage.sim("POST pay", json!({ "id": id })).await.status, 409);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let stage = Stage::start().await;
    let refused = async |change: &dyn Fn(&mut Value), status: u16, code: &str, part: &str| {
        let mut body = request("BAD-1", "QRIS", 48_500);
        change(&mut body);
        let answer = stage.xendit("POST /v3/payment_requests", body).await;
        assert_eq!(answer.error(), (status, code), "{part}: {}", answer.text());
        assert!(answer.body["message"].as_str().unwrap().contains(part), "{} does not say {part}", answer.text());
    };
    let invalid = "API_VALIDATION_ERROR";
    refused(&|it| it["reference_id"] = json!(""), 400, invalid, "reference_id").await;
    refused(&|it| it["reference_id"] = json!("a".repeat(256)), 400, invalid, "reference_id").await;
    refused(&|it| it["type"] = json!("GIVE"), 400, invalid, "type").await;
    refused(&|it| it["country"] = json!("PH"), 400, invalid, "country").await;
    refused(&|it| it["currency"] = json!("USD"), 400, invalid, "currency").await;
    refused(&|it| it["channel_code"] = json!("NOWHERE"), 400, "INVALID_VALUE_ERROR", "channel_code").await;
    refused(&|it| it["request_amount"] = json!(0), 400, invalid, "request_amount is below the channel minimum").await;
    refused(&|it| it["request_amount"] = json!(10_000_001), 400, invalid, "above").await;
    refused(&|it| it["request_amount"] = json!(1.5), 400, invalid, "whole").await;
    refused(&|it| it["request_amount"] = json!("48500"), 400, invalid, "number").await;
    refused(&|it| it["request_amount"] = Value::Null, 400, invalid, "number").await;
    refused(&|it| it["capture_method"] = json!("MANUAL"), 400, invalid, "capture_method").await;
    let expires = json!({ "expires_at": "2026-01-15T04:00:00Z" });
    refused(
        &|it| it["channel_properties"] = expires.clone(),
        400,
        invalid,
        "expires_at is not supported by channel 'QRIS'",
    )
    .await;
    refused(&|it| it["metadata"] = json!({ "k".repeat(41): "v" }), 400, invalid, "metadata").await;
    refused(&|it| it["description"] = json!(""), 400, invalid, "description").await;
    refused(&|it| (it["customer"], it["customer_id"]) = (json!({}), json!("c")), 400, invalid, "not both").await;
    let late = json!({ "expires_at": "2026-01-14T03:05:02Z" });
    refused(
        &|it| (it["channel_code"], it["channel_properties"]) = (json!("BNI_VIRTUAL_ACCOUNT"), late.clone()),
        400,
        invalid,
        "in the future",
    )
    .await;
    refused(
        &|it| (it["channel_code"], it["request_amount"]) = (json!("BCA_VIRTUAL_ACCOUNT"), json!(9_999)),
        400,
        invalid,
        "below",
    )
    .await;
    let url = format!("{}/v3/payment_requests", stage.simulators.xendit_url());
    let usual = [("authorization", &*basic(SECRET_KEY)), ("api-version", "2024-11-11")];
    let broken = stage.send("POST", &url, &usual, "{".into()).await.unwrap();
    assert_eq!(broken.error(), (400, invalid));
    let large = stage.send("POST", &url, &usual, "x".repeat(70_000)).await.unwrap();
    assert_eq!(large.error().0, 413);
    assert_eq!(stage.told().await.len(), 0);
}

#[tokio::test]
async fn whoever_has_no_key_or_no_version_or_asks_for_nothing_known_is_told_so() {
    let closed = XenditAccount {
        secret_key: "xnd_production_other".into(),
        business_id: "b-other".into(),
        without: vec!["QRIS".into()],
        sub_accounts: vec!["b-sub".into()],
        ..XenditAccount::default()
    };
    let stage = Stage::with(|options| options.xendit.push(closed)).await;
    let vector = "Basic eG5kX2RldmVsb3BtZW50X0VYQU1QTEVLRVkxMjM0NTY3ODkwOg==";
    assert_eq!(basic(SECRET_KEY), vector);
    let id = stage.xendit_qris("A-1", 1_000).await;
    let url = |path: &str| format!("{}{path}", stage.simulators.xendit_url());
    let get = async |path: &str, headers: &[(&str, &str)]| {
        stage.send("GET", &url(path), headers, String::new()).await.unwrap()
    };
    let path = format!("/v3/payment_requests/{id}");
    assert_eq!(get(&path, &[("api-version", "2024-11-11")]).await.error(), (401, "INVALID_API_KEY"));
    assert_eq!(get(&path, &[("authorization", vector)]).await.error(), (400, "API_VALIDATION_ERROR"));
    let other = basic("xnd_production_other");
    let theirs = [("authorization", other.as_str()), ("api-version", "2024-11-11")];
    assert_eq!(get(&path, &theirs).await.error(), (404, "DATA_NOT_FOUND"), "it is another's");
    assert_eq!(stage.xendit("GET /v3/nothing", Value::Null).await.error().0, 404);
    assert_eq!(stage.xendit("GET /v3/payment_requests/pr-nothing", Value::Null).await.error(), (404, "DATA_NOT_FOUND"));
    let make = async |more: &[(&str, &str)], body: Value| {
        stage.send("POST", &url("/v3/payment_requests"), &[&theirs, more].concat(), body.to_string()).await.unwrap()
    };
    assert_eq!(make(&[], request("A", "QRIS", 1)).await.error(), (403, "INVALID_MERCHANT_SETTINGS"));
    let for_another = make(&[("for-user-id", "b-else")], request("A", "BNI_VIRTUAL_ACCOUNT", 1)).await;
    assert_eq!(for_another.error(), (403, "REQUEST_FORBIDDEN_ERROR"));
    let made = make(&[("for-user-id", "b-sub")], request("A", "BNI_VIRTUAL_ACCOUNT", 1)).await;
    assert_eq!((made.status, &made.body["business_id"]), (201, &json!("b-sub")));
    // Live, nothing is simulated.
    let path = format!("/v3/payment_requests/{}/simulate", made.body["payment_request_id"].as_str().unwrap());
    let refused = stage.send("POST", &url(&path), &theirs, json!({ "amount": 1 }).to_string()).await.unwrap();
    assert_eq!(refused.error(), (403, "REQUEST_FORBIDDEN_ERROR"));
}

#[tokio::test]
async fn every_virtual_account_has_a_number_and_an_end_that_can_be_moved() {
    let stage = Stage::start().await;
    for bank in ["BCA", "BNI", "BRI", "MANDIRI", "BSI", "PERMATA"] {
        let channel = format!("{bank}_VIRTUAL_ACCOUNT");
        let mut body = request(&format!("VA-{bank}"), &channel, 312_000);
        body["channel_properties"] = json!({ "display_name": "Toko Melati", "expires_at": "2026-01-15T04:00:00Z" });
        let made = stage.xendit("POST /v3/payment_requests", body).await;
        let action = &made.body["actions"][0];
        assert_eq!((made.status, &action["descriptor"]), (201, &json!("VIRTUAL_ACCOUNT_NUMBER")));
        let number = action["value"].as_str().unwrap();
        assert!(number.len() == 16 && number.bytes().all(|it| it.is_ascii_digit()), "{number}");
        // A customer who types the number pays it.
        stage.does("pay", json!({ "id": number })).await;
        let told = stage.told().await.remove(0);
        assert_eq!((told.event(), &told.body["data"]["channel_code"]), ("payment.capture", &json!(channel)));
    }
    let made = stage.xendit("POST /v3/payment_requests", request("VA-1", "BNI_VIRTUAL_ACCOUNT", 1_000)).await;
    let path = format!("/v3/payment_requests/{}", made.body["payment_request_id"].as_str().unwrap());
    let patch = json!({ "request_amount": 2_000, "description": "b", "channel_properties": { "expires_at": "2026-01-14T04:00:00Z" } });
    let changed = stage.xendit(&format!("PATCH {path}"), patch).await;
    assert_eq!(
        (changed.status, &changed.body["request_amount"], &changed.body["description"]),
        (200, &json!(2_000), &json!("b"))
    );
    stage.advance(3_298.0).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment_request.expiry");
    let refused = stage.xendit(&format!("PATCH {path}"), json!({ "request_amount": 1 })).await;
    assert_eq!(refused.error(), (400, "INACTIVE_PAYMENT_REQUEST"));
    let qris = stage.xendit_qris("Q-1", 1_000).await;
    let refused = stage.xendit(&format!("PATCH /v3/payment_requests/{qris}"), json!({ "request_amount": 1 })).await;
    assert_eq!(refused.error(), (400, "API_VALIDATION_ERROR"));
    // An end that was put off comes later.
    let mut body = request("VA-2", "BNI_VIRTUAL_ACCOUNT", 1_000);
    let ends = |minutes: u32| json!({ "expires_at": format!("2026-01-14T05:{minutes:02}:00Z") });
    body["channel_properties"] = ends(0);
    let made = stage.xendit("POST /v3/payment_requests", body).await;
    let path = format!("/v3/payment_requests/{}", made.body["payment_request_id"].as_str().unwrap());
    stage.xendit(&format!("PATCH {path}"), json!({ "channel_properties": ends(30) })).await;
    let status = async || stage.xendit(&format!("GET {path}"), Value::Null).await.body["status"].clone();
    stage.advance(3_600.0).await;
    assert_eq!(status().await, "REQUIRES_ACTION");
    stage.advance(1_800.0).await;
    assert_eq!(status().await, "EXPIRED");
    // The merchant's own number, once at a time.
    let own = async |reference: &str| {
        let mut body = request(reference, "BRI_VIRTUAL_ACCOUNT", 1_000);
        body["channel_properties"] = json!({ "virtual_account_number": "77" });
        stage.xendit("POST /v3/payment_requests", body).await
    };
    assert!(own("O-1").await.body["actions"][0]["value"].as_str().unwrap().ends_with("0000077"));
    assert_eq!(own("O-2").await.error(), (409, "DUPLICATE_ERROR"));
}

#[tokio::test]
async fn a_request_is_cancelled_while_it_is_open() {
    let stage = Stage::start().await;
    let cancel = async |id: &str| stage.xendit(&format!("POST /v3/payment_requests/{id}/cancel"), Value::Null).await;
    let id = stage.xendit_qris("A-1", 1_000).await;
    let cancelled = cancel(&id).await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("CANCELED")));
    assert_eq!(cancel(&id).await.error(), (400, "INACTIVE_PAYMENT_REQUEST"));
    assert_eq!(cancel("pr-nothing").await.error(), (404, "DATA_NOT_FOUND"));
    let paid = stage.xendit_qris("A-2", 1_000).await;
    stage.does("pay", json!({ "id": paid })).await;
    assert_eq!(cancel(&paid).await.error(), (400, "INELIGIBLE_TRANSACTION_STATUS"));
    // A picture of the code can still be paid, and the request stays as it is.
    stage.told().await;
    assert_eq!(stage.sim("POST pay", json!({ "id": id })).await.status, 409);
    stage.does("pay", json!({ "id": id, "late": true })).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    let now = stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await;
    assert_eq!(now.body["status"], "CANCELED");
    assert!(now.body["latest_payment_id"].is_string());
    // And so can what was paid: that is a second payment.
    let first = stage.xendit(&format!("GET /v3/payment_requests/{paid}"), Value::Null).await.body;
    stage.does("pay", json!({ "id": paid, "late": true })).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    let second = stage.xendit(&format!("GET /v3/payment_requests/{paid}"), Value::Null).await.body;
    assert_eq!((&first["status"], &second["status"]), (&json!("SUCCEEDED"), &json!("SUCCEEDED")));
    assert_ne!(first["latest_payment_id"], second["latest_payment_id"]);
}

#[tokio::test]
async fn a_code_lives_two_days() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("A-1", 1_000).await;
    stage.advance(48.0 * 3600.0 - 1.0).await;
    assert_eq!(stage.told().await.len(), 0);
    stage.advance(1.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["data"]["status"]), ("payment_request.expiry", &json!("EXPIRED")));
    assert_eq!(
        (&told.body["data"]["payment_request_id"], &told.body["data"]["request_amount"]),
        (&json!(id), &json!(1_000))
    );
}

#[tokio::test]
async fn what_is_simulated_is_pending_until_a_webhook_says_otherwise() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("A-1", 48_500).await;
    let simulated =
        stage.xendit(&format!("POST /v3/payment_requests/{id}/simulate"), json!({ "amount": 48_500 })).await;
    assert_eq!((simulated.status, &simulated.body["status"]), (200, &json!("PENDING")));
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    let again = stage.xendit(&format!("POST /v3/payment_requests/{id}/simulate"), json!({ "amount": 48_500 })).await;
    assert_eq!(again.error(), (400, "INACTIVE_PAYMENT_REQUEST"));
}

#[tokio::test]
async fn a_code_that_is_used_again_brings_many_payments() {
    let stage = Stage::start().await;
    let body = json!({ "reference_id": "S-1", "type": "REUSABLE_PAYMENT_CODE", "country": "ID", "currency": "IDR", "channel_code": "QRIS" });
    let made = stage.xendit("POST /v3/payment_requests", body).await;
    assert_eq!((made.status, &made.body["status"]), (201, &json!("ACCEPTING_PAYMENTS")));
    let code = made.body["actions"][0]["value"].clone();
    assert!(code.as_str().unwrap().starts_with("000201010211"), "static");
    assert_eq!(stage.sim("POST pay", json!({ "qr": code })).await.status, 409, "how much?");
    for amount in [7_500, 9_000] {
        stage.does("pay", json!({ "qr": code, "amount": amount })).await;
        let told = stage.told().await.remove(0);
        assert_eq!(told.body["data"]["captures"][0]["capture_amount"], amount);
    }
    let id = made.body["payment_request_id"].as_str().unwrap();
    assert_eq!(
        stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await.body["status"],
        "ACCEPTING_PAYMENTS"
    );
    assert_eq!(
        stage.xendit(&format!("POST /v3/payment_requests/{id}/cancel"), Value::Null).await.body["status"],
        "CANCELED"
    );
}

#[tokio::test]
async fn requests_are_listed_page_by_page() {
    let stage = Stage::start().await;
    let mut ids = Vec::new();
    for at in 0..3 {
        ids.push(stage.xendit_qris(&format!("A-{at}"), 1_000).await);
    }
    let page = async |more: &str| {
        let answer = stage.xendit(&format!("GET /v3/payment_requests?{more}"), Value::Null).await;
        let data = answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["payment_request_id"].as_str().unwrap().to_owned());
        (data.collect::<Vec<_>>(), answer.body["has_more"] == true)
    };
    assert_eq!(page("limit=2").await, (vec![ids[2].clone(), ids[1].clone()], true));
    assert_eq!(page(&format!("limit=2&after_id={}", ids[1])).await, (vec![ids[0].clone()], false));
    assert_eq!(page("reference_id=A-1").await, (vec![ids[1].clone()], false));
    assert_eq!(stage.xendit("GET /v3/payment_requests?limit=0", Value::Null).await.error().0, 400);
}

fn card(reference: &str, number: &str, amount: i64) -> Value {
    let mut body = request(reference, "CARDS", amount);
    body["channel_properties"] = json!({
        "card_details": {
            "card_number": number, "cvn": "123", "expiry_month": "12", "expiry_year": "2030",
            "cardholder_first_name": "Budi", "cardholder_last_name": "S", "cardholder_email": "budi@example.id",
        },
        "skip_three_ds": false,
    });
    body
}

#[tokio::test]
async fn a_card_is_asked_for_when_it_has_to_be_and_its_number_is_never_shown() {
    let stage = Stage::start().await;
    for (number, is_asked) in [
        ("4000000000002503", true),
        ("5200000000002151", true),
        ("4000000000001000", false),
        ("5200000000001005", false),
    ] {
        let made = stage.xendit("POST /v3/payment_requests", card(number, number, 125_000)).await;
        assert_eq!(made.status, 201, "{made:?}");
        // The reference is the number here, so look where a card would be.
        assert!(!made.body["channel_properties"].to_string().contains(number));
        let details = &made.body["channel_properties"]["card_details"];
        assert!(
            details["masked_card_number"].as_str().unwrap().contains("XXXXXX") && details["fingerprint"].is_string()
        );
        if is_asked {
            assert_eq!(made.body["status"], "REQUIRES_ACTION");
            let action = &made.body["actions"][0];
            assert_eq!((&action["type"], &action["descriptor"]), (&json!("REDIRECT_CUSTOMER"), &json!("WEB_URL")));
            let page = action["value"].as_str().unwrap();
            assert!(stage.send("GET", page, &[], String::new()).await.unwrap().text().contains("3-D Secure"));
            stage.send("POST", page, &[], "answer=yes".into()).await.unwrap();
        }
        let id = made.body["payment_request_id"].as_str().unwrap();
        let now = stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await;
        assert_eq!(
            (&now.body["status"], &now.body["latest_payment"]["status"]),
            (&json!("SUCCEEDED"), &json!("SUCCEEDED"))
        );
        assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    }
    let log = stage.sim("GET requests?operation=create", Value::Null).await.body;
    assert!(
        log["requests"]
            .as_array()
            .unwrap()
            .iter()
            .all(|it| it["body"]["channel_properties"]["card_details"].get("card_number").is_none())
    );
    let again = stage.xendit("POST /v3/payment_requests", card("4000000000001000", "4000000000001000", 125_000)).await;
    assert_eq!(again.status, 409, "a reference is used once for cards");
    let refused = async |change: &dyn Fn(&mut Value)| {
        let mut body = card("C-x", "4000000000001000", 125_000);
        change(&mut body);
        let answer = stage.xendit("POST /v3/payment_requests", body).await;
        (answer.status, answer.body["error_code"].as_str().unwrap_or_default().to_owned())
    };
    let details =
        |it: &mut Value, name: &str, value: &str| it["channel_properties"]["card_details"][name] = json!(value);
    assert_eq!(
        refused(&|it| details(it, "card_number", "4000000000001001")).await,
        (400, "INVALID_PAYMENT_DETAILS".into())
    );
    assert_eq!(refused(&|it| details(it, "expiry_year", "2025")).await, (400, "CARD_EXPIRED".into()));
    assert_eq!(refused(&|it| details(it, "cvn", "1")).await, (400, "INVALID_PAYMENT_DETAILS".into()));
    let skip = |it: &mut Value| it["channel_properties"]["skip_three_ds"] = json!(true);
    assert_eq!(refused(&skip).await, (403, "SKIP_3DS_FORBIDDEN".into()));
    assert_eq!(refused(&|it| it["request_amount"] = json!(4_999)).await, (400, "API_VALIDATION_ERROR".into()));
}

#[tokio::test]
async fn magic_amounts_are_refused_each_in_its_way() {
    let stage = Stage::start().await;
    for (amount, code) in [
        (10_051, "EXPIRED_CARD"),
        (10_052, "SUSPECTED_FRAUDULENT"),
        (10_053, "DECLINED_BY_PROCESSOR"),
        (10_054, "INSUFFICIENT_BALANCE"),
        (10_055, "STOLEN_CARD"),
        (10_056, "INACTIVE_OR_UNAUTHORIZED_CARD"),
        (10_057, "PROCESSOR_ERROR"),
        (10_058, "INVALID_CVV"),
        (10_059, "DECLINED_BY_ISSUER"),
    ] {
        let made = stage.xendit("POST /v3/payment_requests", card(code, "4000000000001000", amount)).await;
        assert_eq!((&made.body["status"], &made.body["failure_code"]), (&json!("FAILED"), &json!(code)));
        let told = stage.told().await.remove(0);
        assert_eq!((told.event(), &told.body["data"]["failure_code"]), ("payment.failure", &json!(code)));
    }
    let qris = stage.xendit_qris("Q-1", 10_051).await;
    stage.does("pay", json!({ "id": qris })).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture", "for cards alone");
    // A customer who is not the card's.
    let made = stage.xendit("POST /v3/payment_requests", card("C-no", "4000000000002503", 125_000)).await;
    stage.send("POST", made.body["actions"][0]["value"].as_str().unwrap(), &[], "answer=no".into()).await.unwrap();
    assert_eq!(stage.told().await.remove(0).body["data"]["failure_code"], "AUTHENTICATION_FAILED");
}

#[tokio::test]
async fn an_authorisation_is_captured_once_in_part_or_cancelled_or_lapses() {
    let stage = Stage::start().await;
    let authorized = async |reference: &str| {
        let mut body = card(reference, "4000000000001000", 125_000);
        body["capture_method"] = json!("MANUAL");
        let made = stage.xendit("POST /v3/payment_requests", body).await;
        assert_eq!(made.body["status"], "AUTHORIZED");
        assert_eq!(stage.told().await.remove(0).event(), "payment.authorization");
        made.body["latest_payment_id"].as_str().unwrap().to_owned()
    };
    let payment = authorized("C-1").await;
    let capture = async |amount: i64| {
        stage.xendit(&format!("POST /v3/payments/{payment}/capture"), json!({ "capture_amount": amount })).await
    };
    assert_eq!(capture(125_001).await.error(), (400, "CAPTURE_AMOUNT_EXCEEDED"));
    assert_eq!(capture(0).await.error(), (400, "API_VALIDATION_ERROR"));
    let captured = capture(120_000).await;
    assert_eq!((captured.status, &captured.body["status"]), (200, &json!("SUCCEEDED")));
    assert_eq!(captured.body["captures"][0]["capture_amount"], 120_000);
    assert_eq!(stage.told().await.remove(0).event(), "payment.capture");
    assert_eq!(capture(1).await.error(), (400, "INELIGIBLE_TRANSACTION_STATUS"));

    let payment = authorized("C-2").await;
    let cancel = async || stage.xendit(&format!("POST /v3/payments/{payment}/cancel"), Value::Null).await;
    let cancelled = cancel().await.body;
    assert_eq!(cancelled["status"], "CANCELED");
    let path = format!("GET /v3/payment_requests/{}", cancelled["payment_request_id"].as_str().unwrap());
    assert_eq!(
        stage.xendit(&path, Value::Null).await.body["status"],
        "AUTHORIZED",
        "what became of it is the payment's"
    );
    assert_eq!(cancel().await.error(), (400, "INELIGIBLE_TRANSACTION_STATUS"));
    assert_eq!(stage.xendit("POST /v3/payments/py-x/cancel", Value::Null).await.error(), (404, "DATA_NOT_FOUND"));

    authorized("C-3").await;
    stage.advance(7.0 * 24.0 * 3600.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["data"]["status"]), ("payment.expiry", &json!("EXPIRED")));
}

fn session(reference: &str) -> Value {
    json!({
        "reference_id": reference, "session_type": "PAY", "mode": "PAYMENT_LINK", "amount": 125_000, "currency": "IDR",
        "country": "ID", "capture_method": "AUTOMATIC", "allowed_payment_channels": ["CARDS"],
        "customer": { "reference_id": "cust778", "type": "INDIVIDUAL", "individual_detail": { "given_names": "Budi" } },
    })
}

#[tokio::test]
async fn a_session_is_paid_on_its_page() {
    let stage = Stage::start().await;
    let made = stage.xendit("POST /sessions", session("CC-1")).await;
    assert_eq!((made.status, &made.body["status"], &made.body["amount"]), (201, &json!("ACTIVE"), &json!(125_000)));
    let id = made.body["payment_session_id"].as_str().unwrap();
    assert!(id.starts_with("ps-") && id.len() == 27);
    assert_eq!(made.body["expires_at"], "2026-01-14T03:35:02.000Z");
    let page = made.body["payment_link_url"].as_str().unwrap();
    assert!(stage.send("GET", page, &[], String::new()).await.unwrap().text().contains("CC-1"));
    let post = async |card: &str| stage.send("POST", page, &[], format!("card={card}")).await.unwrap().text();
    assert!(post("4000000000001001").await.contains("no card number"));
    assert!(post("4000000000001000").await.contains("SUCCEEDED"));
    let told = stage.told().await;
    let events: std::collections::BTreeSet<_> = told.iter().map(|it| it.event()).collect();
    assert_eq!(events.into_iter().collect::<Vec<_>>(), ["payment.capture", "payment_session.completed"]);
    let data = &told.iter().find(|it| it.event() == "payment_session.completed").unwrap().body["data"];
    assert_eq!((&data["payment_session_id"], &data["status"]), (&json!(id), &json!("COMPLETED")));
    assert!(data["payment_id"].as_str().unwrap().starts_with("py-") && data["payment_request_id"].is_string());
    assert_eq!(stage.xendit(&format!("GET /sessions/{id}"), Value::Null).await.body["status"], "COMPLETED");
    assert!(post("4000000000001000").await.contains("over"));
}

#[tokio::test]
async fn a_session_ends_is_cancelled_and_is_looked_at_closely() {
    let stage = Stage::start().await;
    let id = async |body: Value| {
        stage.xendit("POST /sessions", body).await.body["payment_session_id"].as_str().unwrap().to_owned()
    };
    let first = id(session("S-1")).await;
    let cancelled = stage.xendit(&format!("POST /sessions/{first}/cancel"), Value::Null).await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("CANCELED")));
    let mut components = session("S-2");
    components["mode"] = json!("COMPONENTS");
    assert_eq!(stage.xendit("POST /sessions", components.clone()).await.error().0, 400);
    components["components_configuration"] = json!({ "origins": ["https://kasir.example.id"] });
    let made = stage.xendit("POST /sessions", components).await;
    assert!(made.body["components_sdk_key"].is_string() && made.body.get("payment_link_url").is_none());
    stage.advance(1_800.0).await;
    assert_eq!(stage.told().await.remove(0).event(), "payment_session.expired");
    let refused = async |name: &str, value: Value| {
        let mut body = session("S-3");
        body[name] = value;
        let answer = stage.xendit("POST /sessions", body).await;
        assert_eq!(answer.error(), (400, "API_VALIDATION_ERROR"), "{name}");
    };
    refused("reference_id", json!("a".repeat(65))).await;
    refused("amount", json!(1)).await;
    refused("success_return_url", json!("http://kasir.example.id")).await;
    refused("customer", json!({ "reference_id": "cust-778", "type": "INDIVIDUAL", "individual_detail": {} })).await;
    refused("mode", json!("LETTER")).await;
    refused("expires_at", json!("2020-01-01T00:00:00Z")).await;
}

#[tokio::test]
async fn a_refund_is_pending_and_then_decided() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("A-1", 48_500).await;
    let refund = async |reference: &str, amount: Value| {
        let body = json!({ "payment_request_id": id, "reference_id": reference, "currency": "IDR", "amount": amount, "reason": "REQUESTED_BY_CUSTOMER" });
        stage.xendit("POST /refunds", body).await
    };
    assert_eq!(refund("RF-1", json!(1)).await.error(), (400, "INELIGIBLE_TRANSACTION_STATUS"));
    stage.does("pay", json!({ "id": id, "issuer": "DANA" })).await;
    stage.told().await;
    assert_eq!(refund("RF-1", json!(48_501)).await.error(), (400, "REFUND_AMOUNT_EXCEEDED"));
    let first = refund("RF-1", json!(8_500)).await;
    assert_eq!(
        (first.status, &first.body["status"], &first.body["failure_code"]),
        (200, &json!("PENDING"), &Value::Null)
    );
    let refund_id = first.body["id"].as_str().unwrap();
    assert!(refund_id.starts_with("rfd-"));
    assert_eq!(refund("RF-2", json!(1)).await.error(), (400, "REFUND_IN_PROGRESS"));
    assert_eq!(stage.told().await.len(), 0);
    stage.advance(10.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!(
        (told.event(), &told.body["data"]["status"], &told.body["data"]["amount"]),
        ("refund.succeeded", &json!("SUCCEEDED"), &json!(8_500))
    );
    assert_eq!(stage.xendit(&format!("GET /refunds/{refund_id}"), Value::Null).await.body["status"], "SUCCEEDED");
    assert_eq!(stage.xendit(&format!("POST /refunds/{refund_id}/cancel"), Value::Null).await.error().0, 400);
    // A key brings nothing back: there is none in v3.
    let body = json!({ "payment_request_id": id, "reference_id": "RF-3", "amount": 1_000, "reason": "OTHERS" });
    let key = [("idempotency-key", "k-1")];
    let second = stage.try_xendit("POST /refunds", &key, &body).await.unwrap();
    let cancelled =
        stage.xendit(&format!("POST /refunds/{}/cancel", second.body["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(cancelled.body["status"], "CANCELLED");
    let third = stage.try_xendit("POST /refunds", &key, &body).await.unwrap();
    assert_ne!(third.body["id"], second.body["id"]);
    stage.advance(10.0).await;
    let rest = refund("RF-4", Value::Null).await;
    assert_eq!(rest.body["amount"], 39_000);
    stage.advance(10.0).await;
    assert_eq!(refund("RF-5", json!(1)).await.error(), (400, "REFUND_AMOUNT_EXCEEDED"));
    let list = stage.xendit(&format!("GET /refunds?payment_request_id={id}&limit=2"), Value::Null).await;
    assert_eq!((list.body["data"].as_array().unwrap().len(), &list.body["has_more"]), (2, &json!(true)));
    let body = json!({ "payment_request_id": id, "reason": "BECAUSE" });
    assert_eq!(stage.xendit("POST /refunds", body).await.error(), (400, "API_VALIDATION_ERROR"));
    let body = json!({ "payment_request_id": "pr-x", "reason": "OTHERS" });
    assert_eq!(stage.xendit("POST /refunds", body).await.error(), (404, "DATA_NOT_FOUND"));
}

#[tokio::test]
async fn not_everything_can_be_refunded() {
    let stage = Stage::start().await;
    let refund = async |id: &str, amount: Value| {
        let body = json!({ "payment_request_id": id, "amount": amount, "reason": "OTHERS" });
        let answer = stage.xendit("POST /refunds", body).await;
        (answer.status, answer.body["error_code"].as_str().unwrap_or_default().to_owned())
    };
    let paid = async |reference: &str, channel: &str, issuer: &str| {
        let made = stage.xendit("POST /v3/payment_requests", request(reference, channel, 10_000)).await;
        let id = made.body["payment_request_id"].as_str().unwrap().to_owned();
        stage.does("pay", json!({ "id": id, "issuer": issuer })).await;
        id
    };
    let va = paid("VA", "BNI_VIRTUAL_ACCOUNT", "BNI").await;
    assert_eq!(refund(&va, Value::Null).await, (403, "REFUND_NOT_SUPPORTED".into()));
    let bca = paid("Q-bca", "QRIS", "BCA").await;
    assert_eq!(refund(&bca, Value::Null).await, (403, "REFUND_NOT_SUPPORTED".into()));
    let cimb = paid("Q-cimb", "QRIS", "CIMB").await;
    assert_eq!(refund(&cimb, Value::Null).await, (400, "TEMPORARILY_UNAVAILABLE".into()));
    assert_eq!(refund(&cimb, json!(5_000)).await.0, 200);
    stage.advance(25.0 * 3600.0).await;
    assert_eq!(refund(&cimb, Value::Null).await.0, 200);
    let old = paid("Q-old", "QRIS", "OVO").await;
    stage.advance(7.0 * 24.0 * 3600.0 + 1.0).await;
    assert_eq!(refund(&old, Value::Null).await, (400, "INELIGIBLE_TRANSACTION_STATUS".into()));
}

#[tokio::test]
async fn what_moved_is_listed_and_reported() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("A-1", 48_500).await;
    stage.does("pay", json!({ "id": id, "issuer": "OVO" })).await;
    let va = stage.xendit("POST /v3/payment_requests", request("A-2", "BNI_VIRTUAL_ACCOUNT", 20_000)).await;
    stage.does("pay", json!({ "id": va.body["payment_request_id"] })).await;
    stage.xendit("POST /refunds", json!({ "payment_request_id": id, "amount": 500, "reason": "OTHERS" })).await;
    stage.advance(10.0).await;
    stage.does("chargeback", json!({ "id": va.body["payment_request_id"], "amount": 1_000 })).await;
    let list = async |more: &str| stage.xendit(&format!("GET /transactions?{more}"), Value::Null).await.body;
    let kinds = |list: &Value| {
        list["data"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = list("").await;
    assert_eq!(kinds(&all), ["CHARGEBACK", "REFUND", "PAYMENT", "PAYMENT"]);
    assert_eq!(kinds(&list("types=PAYMENT&channel_categories=QR_CODE").await), ["PAYMENT"]);
    assert_eq!(kinds(&list("types=REFUND,CHARGEBACK").await), ["CHARGEBACK", "REFUND"]);
    assert_eq!(kinds(&list("created[gte]=2026-01-14T03:05:03Z").await), ["CHARGEBACK", "REFUND"]);
    let row = &list("reference_id=A-1&types=PAYMENT").await["data"][0];
    assert_eq!(
        (&row["amount"], &row["settlement_status"], &row["channel_code"]),
        (&json!(48_500), &json!("PENDING"), &json!("QRIS"))
    );
    let fee = row["fee"]["xendit_fee"].as_i64().unwrap() + row["fee"]["value_added_tax"].as_i64().unwrap();
    assert_eq!(row["net_amount"].as_i64().unwrap(), 48_500 - fee);
    assert!(row["product_id"].as_str().unwrap().starts_with("py-") && row["product_data"]["capture_id"].is_string());
    let first = list("limit=3").await;
    assert_eq!(first["has_more"], true);
    let next = first["links"][0]["href"].as_str().unwrap().to_owned();
    assert_eq!(kinds(&stage.xendit(&format!("GET {next}"), Value::Null).await.body), ["PAYMENT"]);
    stage.does("settle", json!({ "id": id })).await;
    let path = format!("GET /transactions/{}", row["id"].as_str().unwrap());
    assert_eq!(stage.xendit(&path, Value::Null).await.body["settlement_status"], "SETTLED");

    let body = json!({ "type": "TRANSACTIONS", "filter": { "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z" }, "format": "CSV", "currency": "IDR" });
    let report = stage.xendit("POST /reports", body.clone()).await;
    assert_eq!((report.status, &report.body["status"]), (200, &json!("PENDING")));
    stage.told().await;
    stage.advance(5.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!((&told.body["id"], &told.body["status"]), (&report.body["id"], &json!("COMPLETED")));
    let file = stage.send("GET", told.body["url"].as_str().unwrap(), &[], String::new()).await.unwrap();
    assert_eq!((file.text().lines().count(), file.status), (5, 200));
    assert!(file.text().contains(",PAYMENT,SUCCESS,QRIS,A-1,IDR,48500,"));
    let path = format!("GET /reports/{}", report.body["id"].as_str().unwrap());
    assert_eq!(stage.xendit(&path, Value::Null).await.body["url"], told.body["url"]);
    let mut long = body;
    long["filter"]["to"] = json!("2026-04-03T00:00:00Z");
    assert_eq!(stage.xendit("POST /reports", long).await.error().0, 400);
}

#[tokio::test]
async fn sixty_calls_a_minute_are_answered_at_each_endpoint() {
    let stage = Stage::start().await;
    let id = stage.xendit_qris("A-1", 1_000).await;
    let get = async || stage.xendit(&format!("GET /v3/payment_requests/{id}"), Value::Null).await;
    let first = get().await;
    let header = |name: &str, answer: &crate::support::Answer| answer.headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("rate-limit-limit", &first), header("rate-limit-remaining", &first)),
        ("60".into(), "59".into())
    );
    stage.advance(20.0).await;
    for _ in 1..60 {
        assert_eq!(get().await.status, 200);
    }
    let full = get().await;
    assert_eq!(full.error(), (429, "RATE_LIMIT_EXCEEDED"));
    assert_eq!(
        (header("rate-limit-remaining", &full), header("rate-limit-reset", &full)),
        ("0".into(), "40.000".into())
    );
    assert_eq!(stage.xendit("GET /v3/payment_requests", Value::Null).await.status, 200, "another endpoint");
    // The window slides: one call is past, the others are not.
    stage.advance(40.0).await;
    assert_eq!((get().await.status, get().await.status), (200, 429));
    let live = XenditAccount { secret_key: "xnd_production_a".into(), ..XenditAccount::default() };
    let stage = Stage::with(|options| options.xendit = vec![live]).await;
    let url = format!("{}/refunds", stage.simulators.xendit_url());
    let answer =
        stage.send("GET", &url, &[("authorization", &basic("xnd_production_a"))], String::new()).await.unwrap();
    assert_eq!(header("rate-limit-limit", &answer), "600");
}
