//! P16: keys and tokens of providers are nowhere but in the vault and on their way to their provider.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use super::nodes::Pair;
use super::*;

/// What both keys have in common, the callback token, and a key that is wrong.
const SECRETS: [&str; 3] = [XENDIT_KEY, XENDIT_TOKEN, "WRONGKEY0987654321zyxw"];

/// A secret as it may be written: as it is, in hexadecimal, and in the middle of base64, which has three ways.
fn written(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let base64 = (0..3).map(|before| {
        let shifted = [&vec![b'x'; before][..], secret.as_bytes()].concat();
        let text = BASE64_STANDARD_NO_PAD.encode(shifted);
        // What is before it, and what is after it, share a letter with it.
        text[(before * 8).div_ceil(6)..text.len() - 1].to_owned()
    });
    [secret.to_owned(), hex].into_iter().chain(base64).collect()
}

/// Where a secret is found, with what is around it.
fn found(place: &str, text: &str) -> Vec<String> {
    let text_lower = text.to_lowercase();
    let mut found = Vec::new();
    for secret in SECRETS {
        for form in written(secret) {
            if let Some(at) = text.find(&form).or_else(|| text_lower.find(&form.to_lowercase())) {
                let around: String =
                    text.chars().skip(text[..at].chars().count().saturating_sub(120)).take(300).collect();
                found.push(format!("{place}: {around}"));
            }
        }
    }
    found
}

#[test]
fn what_is_written_in_another_way_is_found() {
    for text in [
        format!("Basic {}", BASE64_STANDARD_NO_PAD.encode(format!("SB-Mid-server-{MIDTRANS_KEY}:"))),
        format!("Basic {}", BASE64_STANDARD_NO_PAD.encode(format!("xnd_development_{XENDIT_KEY}:"))),
        format!("{{\"a\":\"{XENDIT_TOKEN}\"}}"),
        XENDIT_TOKEN.bytes().map(|byte| format!("{byte:02X}")).collect(),
    ] {
        assert!(!found("text", &text).is_empty(), "{text}");
    }
    assert!(found("text", "nothing of it").is_empty());
}

#[tokio::test]
async fn p16_secrets_are_in_no_log_no_metric_no_answer_and_no_row() {
    // Everything that there is to log.
    let pair = Pair::starts_as(&[0, 1], "trace").await;
    let mut answers = String::new();
    let mut hears = |answer: anyhow::Result<Answer>| {
        let answer = answer.expect("an answer");
        answers.push_str(&format!("{:?} {}\n", answer.headers, String::from_utf8_lossy(&answer.body)));
        answer
    };
    let accounts = hears(Ok(pair.till.get("/v1/provider-accounts").await)).ok();
    for (provider, faults) in [
        (
            "midtrans",
            [
                json!(null),
                json!("http_500"),
                json!("http_429"),
                json!("reset"),
                json!("bad_signature"),
                json!("tampered_status"),
            ],
        ),
        (
            "xendit",
            [
                json!(null),
                json!("http_500"),
                json!("http_429"),
                json!("reset"),
                json!("wrong_token"),
                json!("unknown_event"),
            ],
        ),
    ] {
        for fault in faults {
            // At whatever comes next: the charge, a question, a notification.
            if fault.is_string() {
                pair.says("faults", json!({ "fault": fault, "provider": provider, "times": 2, "seconds": 1 })).await;
            }
            let (sale, payment) = (pair.opens_sale("1").await, PaymentId::new());
            let body = json!({ "id": payment, "method": "qris", "provider": provider, "mode": "test" });
            let path = format!("/v1/sales/{sale}/payments");
            hears(pair.till.post(&payment.to_string(), &path, &body).await);
            let pay = json!({ "id": payment }).to_string().into_bytes();
            let headers = [("content-type", "application/json")];
            // If it is known there.
            _ = request(pair.providers.midtrans, "POST", "/_sim/pay", &headers, pay).await;
            hears(Ok(pair.till.get(&format!("/v1/payments/{payment}?ask=true")).await));
            let cancel = format!("/v1/payments/{payment}/cancel");
            hears(pair.till.post(&format!("cancel-{payment}"), &cancel, &json!({})).await);
        }
        request(pair.providers.midtrans, "DELETE", "/_sim/faults", &[], vec![]).await.expect("an answer").ok();
        // A key that is its provider's no more, and one that is none.
        let account = accounts["items"].as_array().unwrap().iter().find(|it| it["provider"] == provider).unwrap();
        let wrong = if provider == "midtrans" {
            vault::midtrans(MIDTRANS_ID, SECRETS[2])
        } else {
            vault::xendit(XENDIT_ID, SECRETS[2], &[XENDIT_TOKEN, "another-token-than-that-one"])
        };
        let path = format!("/v1/provider-accounts/{}/credentials", account["id"].as_str().unwrap());
        let headers = [("idempotency-key", provider), ("content-type", "application/json")];
        let mut cut = wrong.clone();
        cut["provider"] = json!(SECRETS[2]);
        for (body, status) in [(json!({ "credentials": cut }), 422), (json!({ "credentials": wrong }), 200)] {
            let changed = pair.till.owner().send("PUT", &path, &headers, body.to_string().into_bytes()).await;
            assert_eq!(hears(changed).status, status);
        }
        let (sale, payment) = (pair.opens_sale("1").await, PaymentId::new());
        pair.asks(sale, payment, provider).await;
        // As soon as the provider may be asked anything again.
        pair.comes_to(payment, "failed").await;
        hears(Ok(pair.till.get("/v1/payment-tasks").await));
        hears(Ok(pair.till.get("/v1/audit").await));
        // Whoever has no business here brings a token of somebody else's.
        let path = account["webhook_path"].as_str().unwrap();
        let headers = [("x-callback-token", SECRETS[2]), ("content-type", "application/json")];
        assert_eq!(hears(request(pair.till.address, "POST", path, &headers, b"{}".to_vec()).await).status, 401);
    }
    let mut leaks = found("an answer", &answers);
    leaks.extend(found("the journal", &json!(pair.till.journal().await).to_string()));
    // Which of them asks is a matter of chance.
    assert!(pair.nodes.iter().any(|node| node.log().contains("Called a provider")), "they have logged little");
    for node in &pair.nodes {
        let log = node.log();
        assert!(log.contains("TRACE"), "it has logged little");
        leaks.extend(found("a log", &log));
        leaks.extend(found("what is printed", &node.printed()));
        leaks.extend(found("metrics", &node.metrics().await));
    }
    let tables = pair.database.psql("select tablename from pg_tables where schemaname = 'public'").await;
    for table in tables.split_whitespace() {
        leaks.extend(found(table, &pair.database.psql(&format!("select it::text from {table} it")).await));
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    assert_ne!(pair.database.psql("select count(*) from provider_inbox where outcome = 'forged'").await.trim(), "0");
}
