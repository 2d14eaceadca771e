//! Midtrans: every endpoint's shape, codes and states.

use serde_json::{Value, json};
use tillwire_simulators::MidtransAccount;

use crate::support::{CLIENT_KEY, MERCHANT, SERVER_KEY, Stage, basic, qris, transfer};

#[tokio::test]
async fn a_qris_charge_is_answered_with_its_code_and_its_pictures() {
    let stage = Stage::start().await;
    let mut body = qris("POS01-260114-000123-a1", 48_500);
    body["item_details"] = json!([{ "id": "SKU-77", "name": "Kopi susu", "price": 24_250, "quantity": 2 }]);
    body["custom_expiry"] = json!({ "expiry_duration": 20, "unit": "minute" });
    body["metadata"] = json!({ "outlet": "SBY-02" });
    let charged = stage.midtrans("POST /v2/charge", body).await;
    assert_eq!(charged.code(), "201");
    let all = &charged.body;
    for (name, value) in [
        ("status_message", "QRIS transaction is created"),
        ("order_id", "POS01-260114-000123-a1"),
        ("merchant_id", MERCHANT),
        ("gross_amount", "48500.00"),
        ("currency", "IDR"),
        ("payment_type", "qris"),
        ("transaction_time", "2026-01-14 10:05:02"),
        ("expiry_time", "2026-01-14 10:25:02"),
        ("transaction_status", "pending"),
        ("fraud_status", "accept"),
        ("acquirer", "gopay"),
    ] {
        assert_eq!(all[name], value, "{name}");
    }
    let code = all["qr_string"].as_str().unwrap();
    assert!(
        code.starts_with("00020101021226620014COM.GO-JEK.WWW0119936009140") && code.contains("540848500.00"),
        "{code}"
    );
    assert!(code.contains("0215ID1029384756012") && code.contains("5916TOKO MELATI JAYA"), "{code}");
    let actions = all["actions"].as_array().unwrap();
    let named: Vec<_> =
        actions.iter().map(|it| (it["name"].as_str().unwrap(), it["method"].as_str().unwrap())).collect();
    assert_eq!(named, [("generate-qr-code", "GET"), ("generate-qr-code-v2", "GET")]);
    for action in actions {
        let picture = stage.send("GET", action["url"].as_str().unwrap(), &[], String::new()).await.unwrap();
        assert_eq!((picture.status, picture.headers["content-type"].to_str().unwrap()), (200, "image/png"));
        assert!(picture.bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    }

    let status = stage.midtrans("GET /v2/POS01-260114-000123-a1/status", Value::Null).await;
    assert_eq!(status.code(), "201");
    assert_eq!(status.body["transaction_id"], all["transaction_id"]);
    assert_eq!(status.body["metadata"], json!({ "outlet": "SBY-02" }));
    assert!(status.body["signature_key"].is_string());
    assert!(status.body.get("qr_string").is_none(), "no published sample of it has one");
}

#[tokio::test]
async fn shopees_acquirer_is_another() {
    let stage = Stage::start().await;
    let mut body = qris("S-1", 10_000);
    body["qris"]["acquirer"] = json!("airpay shopee");
    let charged = stage.midtrans("POST /v2/charge", body).await;
    assert!(charged.body["qr_string"].as_str().unwrap().contains("ID.CO.SHOPEE.WWW"));
    stage.told().await;
    stage.does("pay", json!({ "id": "S-1", "issuer": "ShopeePay" })).await;
    let told = stage.told().await.remove(0).body;
    assert_eq!((&told["transaction_type"], &told["issuer"]), (&json!("on-us"), &json!("shopeepay")));
    assert!(told["shopeepay_reference_number"].is_string() && told["reference_id"].is_string());
    // It refunds all or nothing, and nothing at night.
    let refund = |amount: i64| json!({ "refund_key": format!("R-{amount}"), "amount": amount });
    assert_eq!(stage.midtrans("POST /v2/S-1/refund", refund(5_000)).await.code(), "414");
    stage.advance(14.0 * 3600.0).await;
    assert_eq!(stage.midtrans("POST /v2/S-1/refund", refund(10_000)).await.code(), "412");
    stage.advance(6.0 * 3600.0).await;
    assert_eq!(stage.midtrans("POST /v2/S-1/refund", refund(10_000)).await.code(), "200");
}

#[tokio::test]
async fn every_bank_answers_in_its_own_shape() {
    let stage = Stage::start().await;
    for bank in ["bca", "bni", "bri", "cimb"] {
        let charged = stage.midtrans("POST /v2/charge", transfer(&format!("VA-{bank}"), bank, 312_000)).await;
        assert_eq!(charged.code(), "201");
        assert_eq!(charged.body["status_message"], "Success, Bank Transfer transaction is created");
        assert_eq!(charged.body["payment_type"], "bank_transfer");
        assert_eq!(charged.body["expiry_time"], "2026-01-15 10:05:02");
        let number = &charged.body["va_numbers"][0];
        assert_eq!(number["bank"], bank);
        assert!(number["va_number"].as_str().unwrap().bytes().all(|it| it.is_ascii_digit()));
        let status = stage.midtrans(&format!("GET /v2/VA-{bank}/status"), Value::Null).await;
        assert_eq!((status.code(), &status.body["va_numbers"]), ("201", &charged.body["va_numbers"]));
        stage.told().await;
        // A customer types the number. The merchant's calls know ids alone.
        let by_number = format!("GET /v2/{}/status", number["va_number"].as_str().unwrap());
        assert_eq!(stage.midtrans(&by_number, Value::Null).await.code(), "404");
        stage.does("pay", json!({ "id": number["va_number"] })).await;
        let told = stage.told().await.remove(0);
        let amounts = if bank == "bni" {
            json!([{ "paid_at": "2026-01-14 10:05:02", "amount": "312000.00" }])
        } else {
            json!([])
        };
        assert_eq!((told.event(), &told.body["payment_amounts"], told.is_signed()), ("settlement", &amounts, true));
    }
    let permata = json!({
        "payment_type": "permata",
        "transaction_details": { "order_id": "VA-permata", "gross_amount": 5_000 },
    });
    for body in [permata, transfer("VA-permata2", "permata", 5_000)] {
        let charged = stage.midtrans("POST /v2/charge", body).await;
        assert_eq!(charged.body["status_message"], "Success, PERMATA VA transaction is successful");
        assert_eq!(charged.body["payment_type"], "bank_transfer");
        assert!(charged.body["permata_va_number"].as_str().unwrap().starts_with("8500"));
        assert!(charged.body.get("va_numbers").is_none());
    }
    let mandiri = json!({
        "payment_type": "echannel",
        "echannel": { "bill_info1": "Pembayaran:", "bill_info2": "Toko Melati" },
        "transaction_details": { "order_id": "BILL-1", "gross_amount": 5_000 },
    });
    let charged = stage.midtrans("POST /v2/charge", mandiri).await;
    assert_eq!(charged.body["status_message"], "OK, Mandiri Bill transaction is successful");
    assert_eq!((&charged.body["payment_type"], &charged.body["biller_code"]), (&json!("echannel"), &json!("70012")));
    assert!(charged.body["bill_key"].as_str().unwrap().starts_with("9900"));
}

#[tokio::test]
async fn a_number_of_the_merchants_own_is_padded_and_trimmed() {
    let stage = Stage::start().await;
    for (order, bank, given, kept) in [
        ("N-1", "bca", "123", "000123"),
        ("N-2", "bni", "123456789012345", "123456789012"),
        ("N-3", "permata", "1", "000000000001"),
    ] {
        let mut body = transfer(order, bank, 20_000);
        body["bank_transfer"]["va_number"] = json!(given);
        let all = stage.midtrans("POST /v2/charge", body).await.body;
        let number =
            all["va_numbers"][0]["va_number"].as_str().or(all["permata_va_number"].as_str()).unwrap().to_owned();
        assert!(number.ends_with(kept), "{number}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_charge_is_said() {
    let stage = Stage::start().await;
    let refused = async |change: &dyn Fn(&mut Value), code: &str, part: &str| {
        let mut body = qris("BAD-1", 48_500);
        change(&mut body);
        let answer = stage.midtrans("POST /v2/charge", body).await;
        assert_eq!(answer.code(), code, "{part}: {}", answer.text());
        assert!(answer.body["id"].is_string());
        let said = format!("{}{}", answer.body["status_message"], answer.body["validation_messages"]);
        assert!(said.contains(part), "{said} does not say {part}");
    };
    let details = "transaction_details";
    refused(&|it| it[details]["gross_amount"] = json!(0), "400", "greater than 0").await;
    refused(&|it| it[details]["gross_amount"] = json!(-5), "400", "greater than 0").await;
    refused(&|it| it[details]["gross_amount"] = json!(100.5), "400", "decimals").await;
    refused(&|it| it[details]["gross_amount"] = json!("48500"), "408", "data type").await;
    refused(&|it| it[details]["gross_amount"] = Value::Null, "400", "gross_amount is required").await;
    refused(&|it| it[details]["gross_amount"] = json!(10_000_001), "400", "between 1 and 10000000").await;
    refused(&|it| it[details]["order_id"] = json!("A 1"), "400", "letters, digits").await;
    refused(&|it| it[details]["order_id"] = json!("A/1"), "400", "letters, digits").await;
    refused(&|it| it[details]["order_id"] = json!("a".repeat(51)), "400", "too long").await;
    refused(&|it| it[details]["order_id"] = Value::Null, "400", "order_id is required").await;
    refused(&|it| it["payment_type"] = json!("barter"), "400", "payment_type").await;
    refused(&|it| it["qris"]["acquirer"] = json!("nobody"), "400", "acquirer").await;
    refused(&|it| it["metadata"] = json!("text"), "400", "metadata").await;
    refused(&|it| it["custom_field1"] = json!("a".repeat(256)), "400", "custom_field1").await;
    refused(&|it| it["custom_expiry"] = json!({ "expiry_duration": 8, "unit": "day" }), "400", "custom_expiry").await;
    refused(&|it| it["custom_expiry"] = json!({ "expiry_duration": 1, "unit": "week" }), "400", "unit").await;
    refused(&|it| it["custom_expiry"] = json!({ "expiry_duration": 0 }), "400", "expiry_duration").await;
    let items = |price: i64| json!([{ "name": "Kopi", "price": 50_000, "quantity": 1 }, { "name": "Diskon", "price": price, "quantity": 1 }]);
    refused(&|it| it["item_details"] = items(-1_000), "400", "sum of item_details").await;
    refused(
        &|it| it["item_details"] = json!([{ "name": "", "price": 48_500, "quantity": 1 }]),
        "400",
        "item_details[0].name",
    )
    .await;
    refused(&|it| it["item_details"] = json!([{ "name": "a", "price": 48_500, "quantity": 0 }]), "400", "quantity")
        .await;
    // A discount is an item with a price below nothing.
    let mut good = qris("GOOD-1", 48_500);
    good["item_details"] = items(-1_500);
    assert_eq!(stage.midtrans("POST /v2/charge", good).await.code(), "201");
    for id in ["a-b_c~d.e", &"9".repeat(50)] {
        assert_eq!(stage.midtrans("POST /v2/charge", qris(id, 1)).await.code(), "201", "{id}");
    }
    let mut bca = transfer("BAD-2", "bca", 9_999);
    assert_eq!(stage.midtrans("POST /v2/charge", bca.clone()).await.code(), "400", "BCA begins at 10 000");
    bca["bank_transfer"]["bank"] = json!("nobank");
    assert_eq!(stage.midtrans("POST /v2/charge", bca).await.code(), "400");
    assert_eq!(stage.midtrans("POST /v2/charge", Value::Null).await.code(), "500");
    let url = format!("{}/v2/charge", stage.simulators.midtrans_url());
    let broken = stage.send("POST", &url, &[("authorization", &basic(SERVER_KEY))], "{".into()).await.unwrap();
    assert_eq!(broken.code(), "413");
    let large = stage.send("POST", &url, &[("authorization", &basic(SERVER_KEY))], "x".repeat(70_000)).await.unwrap();
    assert_eq!(large.body["status_code"], "413");
    assert_eq!(
        stage.told().await.iter().filter(|it| it.body["order_id"].as_str().unwrap().starts_with("BAD")).count(),
        0
    );
}

#[tokio::test]
async fn whoever_has_no_key_or_asks_for_nothing_known_is_told_so() {
    let stage = Stage::start().await;
    let url = |path: &str| format!("{}{path}", stage.simulators.midtrans_url());
    for key in [None, Some(basic("SB-Mid-server-another")), Some(format!("Basic {}x", basic(SERVER_KEY)))] {
        let headers: Vec<_> = key.iter().map(|key| ("authorization", key.as_str())).collect();
        let refused = stage.send("GET", &url("/v2/A/status"), &headers, String::new()).await.unwrap();
        assert_eq!((refused.status, &refused.body["status_code"]), (401, &json!("401")));
    }
    let vector = "Basic U0ItTWlkLXNlcnZlci1FWEFNUExFS0VZMTIzNDU2Nzg5MGFiOg==";
    assert_eq!(basic(SERVER_KEY), vector);
    let answer = stage.midtrans("GET /v2/nobody/status", Value::Null).await;
    assert_eq!(answer.code(), "404");
    assert!(answer.body["status_message"].as_str().unwrap().contains("exist"));
    let unknown = stage.midtrans("GET /v2/what/is/this", Value::Null).await;
    assert_eq!((unknown.status, &unknown.body["status_code"]), (404, &json!("404")));
    let wrong = stage.midtrans("GET /v2/charge", Value::Null).await;
    assert_eq!((wrong.status, &wrong.body["status_code"]), (405, &json!("405")));
    let headers = [("authorization", vector), ("accept", "text/xml")];
    let xml = stage.send("GET", &url("/v2/A/status"), &headers, String::new()).await.unwrap();
    assert_eq!(xml.code(), "403");
}

#[tokio::test]
async fn a_merchant_may_be_kept_from_a_payment_type_or_from_everything_and_sees_nothing_of_others() {
    let other = MidtransAccount {
        server_key: "SB-Mid-server-other".into(),
        client_key: "SB-Mid-client-other".into(),
        merchant_id: "G1".into(),
        without: vec!["qris".into()],
        ..MidtransAccount::default()
    };
    let gone = MidtransAccount {
        server_key: "SB-Mid-server-gone".into(),
        client_key: "SB-Mid-client-gone".into(),
        merchant_id: "G2".into(),
        is_deactivated: true,
        ..MidtransAccount::default()
    };
    let stage = Stage::with(|options| options.midtrans.extend([other, gone])).await;
    stage.midtrans_qris("A-1", 1_000).await;
    let url = |path: &str| format!("{}{path}", stage.simulators.midtrans_url());
    let call = async |key: &str, method: &str, path: &str, body: Value| {
        stage.send(method, &url(path), &[("authorization", &basic(key))], body.to_string()).await.unwrap()
    };
    assert_eq!(call("SB-Mid-server-other", "POST", "/v2/charge", qris("A-1", 1)).await.code(), "402");
    assert_eq!(call("SB-Mid-server-gone", "POST", "/v2/charge", qris("A-1", 1)).await.code(), "410");
    assert_eq!(call("SB-Mid-server-other", "GET", "/v2/A-1/status", Value::Null).await.code(), "404");
    // An order id is a merchant's own.
    assert_eq!(call("SB-Mid-server-other", "POST", "/v2/charge", transfer("A-1", "bni", 1)).await.code(), "201");
}

#[tokio::test]
async fn an_order_is_charged_once_and_again_after_it_is_over() {
    let stage = Stage::start().await;
    let id = stage.midtrans_qris("A-1", 48_500).await;
    assert_eq!(stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await.code(), "406");
    let cancelled = stage.midtrans("POST /v2/A-1/cancel", Value::Null).await;
    assert_eq!(cancelled.code(), "200");
    assert_eq!(cancelled.body["transaction_status"], "cancel");
    assert_eq!(cancelled.body["status_message"], "Success, transaction is canceled");
    assert_eq!(stage.midtrans("GET /v2/A-1/status", Value::Null).await.code(), "200");
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), ("cancel", &json!("202"), true));
    assert_eq!(stage.midtrans("POST /v2/A-1/cancel", Value::Null).await.code(), "412");

    let again = stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await;
    assert_eq!(again.code(), "201");
    // The order leads to the newer, the old id to the old.
    let status = async |id: &str| {
        stage.midtrans(&format!("GET /v2/{id}/status"), Value::Null).await.body["transaction_status"].clone()
    };
    assert_eq!((status("A-1").await, status(&id).await), (json!("pending"), json!("cancel")));
    let expired = stage.midtrans("POST /v2/A-1/expire", Value::Null).await;
    assert_eq!((expired.code(), &expired.body["transaction_status"]), ("407", &json!("expire")));
    assert_eq!(expired.body["status_message"], "Success, transaction has expired");
    assert_eq!(stage.midtrans("GET /v2/A-1/status", Value::Null).await.code(), "407");
    assert_eq!(stage.midtrans("POST /v2/A-1/expire", Value::Null).await.code(), "412");
    let b2b = stage.midtrans("GET /v2/A-1/status/b2b", Value::Null).await;
    assert_eq!((b2b.code(), &b2b.body["transactions"][0]["order_id"]), ("200", &json!("A-1")));
}

#[tokio::test]
async fn a_paid_order_is_told_and_cannot_be_cancelled() {
    let stage = Stage::start().await;
    let charged = stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await;
    let pending = stage.told().await.remove(0);
    assert_eq!((pending.event(), &pending.body["status_code"]), ("pending", &json!("201")));
    assert!(pending.is_signed() && pending.body.get("issuer").is_none());
    stage.advance(99.0).await;
    stage.does("pay", json!({ "id": charged.body["transaction_id"], "issuer": "DANA" })).await;
    let told = stage.told().await.remove(0);
    assert_eq!(told.path, "/midtrans");
    assert!(told.is_signed());
    for (name, value) in [
        ("transaction_type", "off-us"),
        ("transaction_status", "settlement"),
        ("status_message", "midtrans payment notification"),
        ("status_code", "200"),
        ("settlement_time", "2026-01-14 10:06:41"),
        ("transaction_time", "2026-01-14 10:05:02"),
        ("payment_type", "qris"),
        ("issuer", "dana"),
        ("gross_amount", "48500.00"),
        ("merchant_id", MERCHANT),
        ("acquirer", "gopay"),
    ] {
        assert_eq!(told.body[name], value, "{name}");
    }
    assert!(told.body["merchant_cross_reference_id"].is_string());
    let status = stage.midtrans("GET /v2/A-1/status", Value::Null).await;
    assert_eq!((status.code(), &status.body["transaction_status"]), ("200", &json!("settlement")));
    for call in ["cancel", "expire", "approve", "deny"] {
        let refused = stage.midtrans(&format!("POST /v2/A-1/{call}"), Value::Null).await;
        assert_eq!(refused.code(), "412", "{call}");
        assert_eq!(refused.body["status_message"], "Merchant cannot modify the status of the transaction");
    }
    assert_eq!(stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await.code(), "406");
    assert_eq!(stage.sim("POST pay", json!({ "id": "A-1" })).await.status, 409, "once is enough");
}

#[tokio::test]
async fn a_code_lives_a_quarter_of_an_hour() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 48_500).await;
    stage.advance(899.0).await;
    assert_eq!(stage.midtrans("GET /v2/A-1/status", Value::Null).await.code(), "201");
    stage.advance(1.0).await;
    assert_eq!(stage.midtrans("GET /v2/A-1/status", Value::Null).await.code(), "407");
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"]), ("expire", &json!("202")));
    assert!(told.body.get("settlement_time").is_none());
    // A picture of the code can still be paid.
    assert_eq!(stage.sim("POST pay", json!({ "id": "A-1" })).await.status, 409);
    stage.does("pay", json!({ "id": "A-1", "late": true })).await;
    assert_eq!(stage.told().await.remove(0).event(), "settlement");
}

#[tokio::test]
async fn a_refund_has_two_steps_and_an_end() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 48_500).await;
    let refund = async |key: &str, amount: i64| {
        let body = json!({ "refund_key": key, "amount": amount, "reason": "barang rusak" });
        stage.midtrans("POST /v2/A-1/refund", body).await
    };
    assert_eq!(refund("RF-1", 8_500).await.code(), "412", "it is pending");
    stage.does("pay", json!({ "id": "A-1" })).await;
    stage.told().await;
    assert_eq!(refund("RF 1", 8_500).await.code(), "400");
    assert_eq!(refund("RF-1", 48_501).await.code(), "414");
    assert_eq!(refund("RF-1", 0).await.code(), "414");
    let first = refund("RF-1", 8_500).await;
    assert_eq!(first.code(), "200");
    for (name, value) in [
        ("status_message", json!("Success, refund request is approved")),
        ("transaction_status", json!("partial_refund")),
        ("gross_amount", json!("48500.00")),
        ("refund_amount", json!("8500.00")),
        ("refund_key", json!("RF-1")),
        ("refund_chargeback_id", json!(1)),
    ] {
        assert_eq!(first.body[name], value, "{name}");
    }
    assert_eq!(refund("RF-1", 8_500).await.code(), "406");
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), ("partial_refund", &json!("200"), true));
    assert_eq!(told.body["refunds"][0]["refund_amount"], "8500.00");
    assert!(told.body["refunds"][0].get("bank_confirmed_at").is_none());
    stage.advance(60.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!(told.body["refunds"][0]["bank_confirmed_at"], "2026-01-14 10:06:02");

    assert_eq!(refund("RF-2", 40_001).await.code(), "414");
    let rest = stage.midtrans("POST /v2/A-1/refund/online/direct", json!({ "refund_key": "RF-2" })).await;
    assert_eq!((&rest.body["transaction_status"], &rest.body["refund_amount"]), (&json!("refund"), &json!("40000.00")));
    let status = stage.midtrans("GET /v2/A-1/status", Value::Null).await.body;
    assert_eq!((&status["status_code"], &status["refund_amount"]), (&json!("200"), &json!("48500.00")));
    assert_eq!(status["refunds"].as_array().unwrap().len(), 2);
    assert_eq!(refund("RF-3", 1).await.code(), "412");
}

#[tokio::test]
async fn refunds_have_windows_and_transfers_have_none() {
    let stage = Stage::start().await;
    let day = 24.0 * 3600.0;
    for (order, issuer, days) in [("OFF", "dana", 7.0), ("ON", "gopay", 45.0)] {
        stage.midtrans_qris(order, 10_000).await;
        stage.does("pay", json!({ "id": order, "issuer": issuer })).await;
        stage.advance(days * day - 60.0).await;
        let refund = async |key: &str| {
            stage.midtrans(&format!("POST /v2/{order}/refund"), json!({ "refund_key": key, "amount": 1 })).await
        };
        assert_eq!(refund("a").await.code(), "200", "{order}");
        stage.advance(120.0).await;
        assert_eq!(refund("b").await.code(), "412", "{order}");
    }
    stage.midtrans("POST /v2/charge", transfer("VA", "bri", 10_000)).await;
    stage.does("pay", json!({ "id": "VA" })).await;
    assert_eq!(stage.midtrans("POST /v2/VA/refund", json!({})).await.code(), "412");
}

#[tokio::test]
async fn a_key_brings_the_first_answer_for_five_minutes_whatever_the_body_says() {
    let stage = Stage::start().await;
    let charge = async |order: &str, key: &str| {
        stage.try_midtrans("POST /v2/charge", &[("idempotency-key", key)], &qris(order, 1_000)).await.unwrap()
    };
    let first = charge("A-1", "k-charge").await;
    assert_eq!(first.code(), "201");
    assert_eq!(charge("A-1", "k-charge").await.bytes, first.bytes);
    assert_eq!(charge("A-2", "k-charge").await.bytes, first.bytes, "the body is not looked at");
    assert_eq!(stage.midtrans("GET /v2/A-2/status", Value::Null).await.code(), "404");
    // One space for all endpoints.
    let cancel =
        stage.try_midtrans("POST /v2/A-1/cancel", &[("idempotency-key", "k-charge")], &Value::Null).await.unwrap();
    assert_eq!(cancel.bytes, first.bytes);
    // Failures are not kept.
    assert_eq!(charge("A 3", "k-bad").await.code(), "400");
    assert_eq!(charge("A-3", "k-bad").await.code(), "201");
    // Too long is as if it were not there, and so is Permata.
    let long = "k".repeat(47);
    charge("A-4", &long).await;
    assert_eq!(charge("A-4", &long).await.code(), "406");
    let permata = async || {
        stage
            .try_midtrans("POST /v2/charge", &[("idempotency-key", "k-p")], &transfer("A-5", "permata", 5_000))
            .await
            .unwrap()
    };
    permata().await;
    assert_eq!(permata().await.code(), "406");
    stage.advance(300.0).await;
    assert_eq!(charge("A-1", "k-charge").await.code(), "406", "after five minutes it is a new call");
}

#[tokio::test]
async fn while_the_first_call_runs_its_twin_is_told_to_wait() {
    let stage = Stage::start().await;
    stage.goes_wrong(json!({ "fault": "slow_s", "on": "charge", "seconds": 3 })).await;
    let body = qris("A-1", 1_000);
    let charge = || stage.try_midtrans("POST /v2/charge", &[("idempotency-key", "k-1")], &body);
    let twin = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        charge().await.unwrap()
    };
    let (first, twin) = tokio::join!(charge(), twin);
    assert_eq!((first.unwrap().code(), twin.status), ("201", 202));
    assert_eq!(charge().await.unwrap().code(), "201");
}

/// A token for a card, as a browser gets it.
async fn token(stage: &Stage, number: &str) -> String {
    let url = format!(
        "{}/v2/token?client_key={CLIENT_KEY}&card_number={number}&card_cvv=123&card_exp_month=02&card_exp_year=2030",
        stage.simulators.midtrans_url(),
    );
    let made = stage.send("GET", &url, &[], String::new()).await.unwrap();
    assert_eq!(
        (made.code(), &made.body["status_message"]),
        ("200", &json!("Credit card token is created as Token ID."))
    );
    made.body["token_id"].as_str().unwrap().to_owned()
}

fn card(order: &str, token: &str, is_3ds: bool) -> Value {
    json!({
        "payment_type": "credit_card",
        "transaction_details": { "order_id": order, "gross_amount": 125_000 },
        "credit_card": { "token_id": token, "authentication": is_3ds },
    })
}

#[tokio::test]
async fn a_cards_number_becomes_a_token_that_is_used_once() {
    let stage = Stage::start().await;
    let made = token(&stage, "4811111111111114").await;
    assert!(made.starts_with("48111111-1114-") && made.len() == 8 + 1 + 4 + 1 + 36, "{made}");
    let charged = stage.midtrans("POST /v2/charge", card("C-1", &made, false)).await;
    assert_eq!((charged.code(), &charged.body["transaction_status"]), ("200", &json!("capture")));
    assert_eq!(
        (&charged.body["masked_card"], &charged.body["channel_response_code"]),
        (&json!("48111111-1114"), &json!("00"))
    );
    assert_eq!(stage.midtrans("POST /v2/charge", card("C-2", &made, false)).await.code(), "411");
    assert_eq!(stage.midtrans("POST /v2/charge", card("C-2", "nothing", false)).await.code(), "411");
    let url = |more: &str| format!("{}/v2/token?{more}", stage.simulators.midtrans_url());
    let ask = async |more: String| stage.send("GET", &url(&more), &[], String::new()).await.unwrap();
    assert_eq!(ask("client_key=wrong".into()).await.status, 401);
    for wrong in [
        "card_number=4811111111111115&card_cvv=123&card_exp_month=02&card_exp_year=2030",
        "card_number=4811111111111114&card_cvv=12&card_exp_month=02&card_exp_year=2030",
        "card_number=4811111111111114&card_cvv=123&card_exp_month=13&card_exp_year=2030",
        "card_number=4811111111111114&card_cvv=123&card_exp_month=12&card_exp_year=2025",
    ] {
        let refused = ask(format!("client_key={CLIENT_KEY}&{wrong}")).await;
        assert_eq!(refused.code(), "400", "{wrong}");
        assert!(refused.body["validation_messages"][0].is_string());
    }
    // A day later it is settled.
    stage.told().await;
    stage.advance(24.0 * 3600.0).await;
    let told = stage.told().await.remove(0);
    assert_eq!((told.event(), &told.body["settlement_time"]), ("settlement", &json!("2026-01-15 10:05:02")));
}

#[tokio::test]
async fn each_test_card_has_its_fate_behind_3ds() {
    let stage = Stage::start().await;
    for (at, (number, state, fraud, code)) in [
        ("4811111111111114", "capture", "accept", "200"),
        ("5211111111111117", "capture", "accept", "200"),
        ("4911111111111113", "deny", "accept", "202"),
        ("5111111111111118", "deny", "accept", "202"),
        ("4611111111111116", "deny", "deny", "202"),
        ("4472429869996670", "deny", "accept", "202"),
        ("4024007176265022", "pending", "accept", "201"),
    ]
    .into_iter()
    .enumerate()
    {
        let order = format!("C-{at}");
        let token = token(&stage, number).await;
        let charged = stage.midtrans("POST /v2/charge", card(&order, &token, true)).await;
        assert_eq!((charged.code(), &charged.body["transaction_status"]), ("201", &json!("pending")), "{number}");
        assert_eq!(charged.body["three_ds_version"], "2");
        stage.told().await;
        let page = charged.body["redirect_url"].as_str().unwrap();
        assert!(stage.send("GET", page, &[], String::new()).await.unwrap().text().contains("112233"));
        stage.send("POST", page, &[], "otp=112233".into()).await.unwrap();
        let status = stage.midtrans(&format!("GET /v2/{order}/status"), Value::Null).await;
        assert_eq!(
            (status.code(), &status.body["transaction_status"], &status.body["fraud_status"]),
            (code, &json!(state), &json!(fraud))
        );
        if state == "pending" {
            assert_eq!(stage.told().await.len(), 0);
            stage.advance(60.0).await;
            assert_eq!(stage.told().await.remove(0).event(), "capture");
        } else {
            let told = stage.told().await.remove(0);
            assert_eq!((told.event(), &told.body["status_code"], told.is_signed()), (state, &json!(code), true));
        }
    }
    let token = token(&stage, "4811111111111114").await;
    let charged = stage.midtrans("POST /v2/charge", card("C-otp", &token, true)).await;
    let page = charged.body["redirect_url"].as_str().unwrap();
    stage.send("POST", page, &[], "otp=999999".into()).await.unwrap();
    assert_eq!(stage.midtrans("GET /v2/C-otp/status", Value::Null).await.code(), "202");
}

#[tokio::test]
async fn an_authorisation_is_captured_in_part_or_lapses() {
    let stage = Stage::start().await;
    let authorized = async |order: &str| {
        let mut body = card(order, &token(&stage, "4811111111111114").await, false);
        body["credit_card"]["type"] = json!("authorize");
        let charged = stage.midtrans("POST /v2/charge", body).await;
        assert_eq!((charged.code(), &charged.body["transaction_status"]), ("200", &json!("authorize")));
        charged.body["transaction_id"].clone()
    };
    let id = authorized("C-1").await;
    let capture = async |amount: Value| {
        stage.midtrans("POST /v2/capture", json!({ "transaction_id": id, "gross_amount": amount })).await
    };
    assert_eq!(capture(json!(125_001)).await.code(), "400");
    let captured = capture(json!(120_000)).await;
    assert_eq!((captured.code(), &captured.body["transaction_status"]), ("200", &json!("capture")));
    assert_eq!(captured.body["gross_amount"], "120000.00");
    assert_eq!(capture(Value::Null).await.code(), "412");
    // Before it is settled it is cancelled, not refunded.
    assert_eq!(stage.midtrans("POST /v2/C-1/refund", json!({})).await.code(), "412");
    assert_eq!(stage.midtrans("POST /v2/C-1/cancel", Value::Null).await.code(), "200");
    authorized("C-2").await;
    stage.told().await;
    stage.advance(7.0 * 24.0 * 3600.0).await;
    assert_eq!(stage.told().await.pop().unwrap().event(), "expire");
    assert_eq!(stage.midtrans("POST /v2/capture", json!({ "transaction_id": "nobody" })).await.code(), "404");
}

#[tokio::test]
async fn a_challenge_is_approved_or_denied_or_cancelled_at_settlement() {
    let stage = Stage::start().await;
    for (order, call) in [("C-1", "approve"), ("C-2", "deny"), ("C-3", "")] {
        stage.goes_wrong(json!({ "fault": "challenge" })).await;
        let charged =
            stage.midtrans("POST /v2/charge", card(order, &token(&stage, "4811111111111114").await, false)).await;
        assert_eq!((charged.code(), &charged.body["fraud_status"]), ("201", &json!("challenge")));
        let told = stage.told().await.remove(0);
        assert_eq!((told.event(), &told.body["status_code"]), ("capture", &json!("201")));
        let (event, code, fraud) = match call {
            "" => {
                stage.advance(24.0 * 3600.0).await;
                ("cancel", "202", "challenge")
            }
            call => {
                assert_eq!(stage.midtrans(&format!("POST /v2/{order}/{call}"), Value::Null).await.code(), "200");
                if call == "approve" { ("capture", "200", "accept") } else { ("deny", "202", "deny") }
            }
        };
        let told = stage.told().await.into_iter().find(|it| it.body["order_id"] == order).unwrap();
        assert_eq!(
            (told.event(), &told.body["status_code"], &told.body["fraud_status"]),
            (event, &json!(code), &json!(fraud))
        );
    }
}

#[tokio::test]
async fn the_balance_tells_what_came_in_and_what_of_it_can_be_used() {
    let stage = Stage::start().await;
    stage.midtrans_qris("A-1", 100_000).await;
    stage.does("pay", json!({ "id": "A-1" })).await;
    let ask = async |more: &str| stage.midtrans(&format!("GET /v1/balance/mutation?{more}"), Value::Null).await;
    let times = "start_time=2026-01-14T00%3A00%3A00%2B07%3A00&end_time=2026-01-16T00%3A00%3A00%2B07%3A00";
    let balance = ask(&format!("currency=IDR&{times}")).await;
    assert_eq!(balance.status, 200);
    assert_eq!(
        (&balance.body["opening_balance_overall"], &balance.body["closing_balance_pending"]),
        (&json!(0), &json!(99_300))
    );
    assert_eq!(balance.body["start_time"], "2026-01-14T00:00:00+07:00");
    assert_eq!(balance.body["wallets"][0]["source"], "payin");
    assert_eq!(stage.does("settle", json!({})).await["settled"], 1);
    let balance = ask(&format!("currency=IDR&{times}")).await;
    assert_eq!(
        (&balance.body["closing_balance_effective"], &balance.body["closing_balance_pending"]),
        (&json!(99_300), &json!(0))
    );
    let wrong = ask(times).await;
    assert_eq!((wrong.status, &wrong.body), (400, &json!({ "error_messages": ["currency must not be empty"] })));
}

#[tokio::test]
async fn the_code_on_the_counter_brings_orders_that_nobody_made() {
    let stage = Stage::start().await;
    stage.does("pay", json!({ "merchant": MERCHANT, "provider": "midtrans", "amount": 7_500 })).await;
    let told = stage.told().await.remove(0);
    assert!(told.body["order_id"].as_str().unwrap().starts_with("QRIS-"), "{told:?}");
    assert_eq!((told.event(), &told.body["gross_amount"], told.is_signed()), ("settlement", &json!("7500.00"), true));
    let id = told.body["transaction_id"].as_str().unwrap();
    assert_eq!(stage.midtrans(&format!("POST /v2/{id}/refund"), json!({ "refund_key": "a" })).await.code(), "200");
}

#[tokio::test]
async fn a_charge_may_say_where_its_notifications_go() {
    let stage = Stage::start().await;
    let (other, more) = (stage.hub.url("/other"), stage.hub.url("/more"));
    let charge = async |order: &str, header: &str, urls: &str| {
        stage.try_midtrans("POST /v2/charge", &[(header, urls)], &qris(order, 1_000)).await.unwrap()
    };
    assert_eq!(charge("A-1", "x-override-notification", &format!("{other}, {more}")).await.code(), "201");
    let paths = async || stage.told().await.into_iter().map(|it| it.path).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(paths().await.into_iter().collect::<Vec<_>>(), ["/more", "/other"]);
    assert_eq!(charge("A-2", "x-append-notification", &other).await.code(), "201");
    assert_eq!(paths().await.into_iter().collect::<Vec<_>>(), ["/midtrans", "/other"]);
    assert_eq!(charge("A-3", "x-override-notification", "nowhere").await.code(), "400");
    let four = [other.as_str(); 4].join(",");
    assert_eq!(charge("A-3", "x-append-notification", &four).await.code(), "400");
}

#[tokio::test]
async fn the_same_seed_and_the_same_calls_bring_the_same_answers() {
    let all = async || {
        let stage = Stage::start().await;
        let charged = stage.midtrans("POST /v2/charge", qris("A-1", 48_500)).await.body;
        let made = stage
            .xendit("POST /v3/payment_requests", crate::support::request("A-1", "BNI_VIRTUAL_ACCOUNT", 48_500))
            .await;
        (charged["transaction_id"].clone(), charged["qr_string"].clone(), made.body)
    };
    assert_eq!(all().await, all().await);
}
