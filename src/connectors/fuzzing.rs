//! What holds for any bytes of a stranger: each function panics where it does not. They run in `cargo test` with bytes that
//! are nearly right, and under libFuzzer (`fuzz/`) with any.

use super::fields::Fields;
use super::report::{Kind, Notice, Report};
use super::{Unreadable, midtrans, qris, xendit};
use crate::commerce::money::AMOUNT_MAX_MINOR;

/// A notification is read or refused, the same each time, and no amount in it was rounded or made up.
pub fn notice(body: &[u8]) {
    for read in [midtrans::notice, xendit::notice] {
        let notice = read(body);
        assert_eq!(notice, read(body));
        match notice {
            Ok(notice) => says_what_stands_there(body, &notice),
            Err(Unreadable::NotJson) => assert!(Fields::parse(body).is_none()),
            Err(Unreadable::NotMoney(_, notice)) => {
                let Report { state, amount_minor, captured_minor, refunds, .. } = &notice.claims;
                assert!(state.is_none() && amount_minor.or(*captured_minor).is_none() && refunds.is_empty());
                says_what_stands_there(body, &notice);
            }
            Err(Unreadable::TooLong) => {}
        }
    }
}

fn says_what_stands_there(body: &[u8], Notice { kind, dedupe, claims, .. }: &Notice) {
    assert_eq!(dedupe.len(), 64);
    let text = String::from_utf8_lossy(body);
    let Report { amount_minor, captured_minor, refunds, ids, .. } = claims;
    let refunded = refunds.iter().filter_map(|refund| refund.amount_minor);
    for amount in amount_minor.iter().copied().chain(refunded) {
        assert!((0..=AMOUNT_MAX_MINOR).contains(&amount));
        // Its digits stand there, one after the other, unless somebody wrote them as `\u0034`.
        assert!(text.contains(&amount.to_string()) || text.contains("\\u"), "{amount} in {text}");
    }
    assert!(captured_minor.is_none_or(|it| it >= 0));
    if matches!(kind, Kind::Unknown | Kind::Subscription) {
        assert!(claims.state.is_none() && refunds.is_empty() && amount_minor.is_none());
    }
    for id in [&ids.request, &ids.payment, &ids.session].into_iter().flatten() {
        assert!(!id.as_str().contains(['/', '?', '#', '%', '\\']) && !id.as_str().starts_with('.'), "{id}");
    }
}

/// A code is refused, or is all of what stands there, with a checksum and an amount that are.
pub fn qris(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(code) = qris::Qris::parse(text) else { return };
    let written: String =
        code.parts().iter().map(|(tag, value)| format!("{tag:02}{:02}{value}", value.len())).collect();
    assert_eq!(written, text);
    if let Ok(Some(amount)) = code.amount_minor() {
        assert!((0..=AMOUNT_MAX_MINOR).contains(&amount));
        let shown = qris::check(text, amount);
        assert!(shown.is_ok() || matches!(shown, Err(qris::Refused::Amount | qris::Refused::Reusable)));
        assert_eq!(qris::check(text, amount + 1), Err(qris::Refused::Amount));
    }
    for (template, value) in code.parts() {
        for inner in (0..100).filter_map(|tag| code.within(*template, tag)) {
            assert!(value.contains(inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    /// What might stand in a field, right or wrong.
    fn a_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..1_000_000_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[0-9]{1,16}(\\.[0-9]{1,4})?".prop_map(Value::from),
            "[-+]?[0-9]{1,6}[eE][0-9]{1,2}".prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            prop::sample::select(vec![
                "settlement",
                "capture",
                "pending",
                "partial_refund",
                "refund",
                "deny",
                "200",
                "201",
                "accept",
                "SUCCEEDED",
                "EXPIRED",
                "payment.capture",
                "payment_request.expiry",
                "refund.succeeded",
                "payment_session.completed",
                "qris",
                "credit_card",
                "../../x",
                "pr-1",
                "QRIS-1",
                "2026-01-14 10:05:02",
                "2026-01-14T03:05:02Z",
                "-9999-01-01 00:00:00",
                "9999-12-31T23:59:59-01:00",
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((a_name(), inner), 0..8).prop_map(|fields| Value::Object(Map::from_iter(fields))),
            ]
        })
    }

    fn a_name() -> impl Strategy<Value = String> {
        let names = vec![
            "event",
            "data",
            "status",
            "payment_id",
            "payment_request_id",
            "reference_id",
            "request_amount",
            "captures",
            "capture_amount",
            "capture_id",
            "currency",
            "order_id",
            "transaction_id",
            "transaction_status",
            "status_code",
            "gross_amount",
            "fraud_status",
            "refunds",
            "refund_key",
            "refund_amount",
            "payment_type",
            "payment_amounts",
            "amount",
            "id",
            "event_name",
            "payment_session_id",
            "actions",
            "descriptor",
            "value",
            "latest_payment",
        ];
        prop::sample::select(names).prop_map(str::to_owned)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_024) })]

        #[test]
        fn any_notification_is_read_or_refused(
            fields in prop::collection::vec((a_name(), a_value()), 0..16), cut in any::<prop::sample::Index>(), bytes in any::<Vec<u8>>(),
        ) {
            let body = Value::Object(Map::from_iter(fields)).to_string();
            notice(body.as_bytes());
            notice(&body.as_bytes()[..cut.index(body.len() + 1)]);
            notice(&bytes);
            notice(json!({"event": "payment.capture", "data": {"data": serde_json::from_str::<Value>(&body).unwrap()}}).to_string().as_bytes());
        }

        #[test]
        fn no_amount_that_is_not_whole_is_read(whole in 0..1_000_000_i64, fraction in 1..100_u8, exponent in 0..4_u8) {
            for amount in [
                format!("{whole}.{fraction:02}"), format!("\"{whole}.{fraction:02}\""), format!("{whole}e{exponent}"),
                format!("\"{whole}E{exponent}\""), format!("-{}", whole + 1), format!("\"+{whole}\""),
            ] {
                let body = format!(r#"{{"order_id":"A-1","transaction_status":"settlement","gross_amount":{amount}}}"#);
                let read = midtrans::notice(body.as_bytes());
                prop_assert!(matches!(read, Err(Unreadable::NotMoney("gross_amount", _))), "{:?}", read);
                let body = format!(r#"{{"event":"payment.capture","data":{{"payment_id":"py-1","request_amount":{amount}}}}}"#);
                let read = xendit::notice(body.as_bytes());
                prop_assert!(matches!(read, Err(Unreadable::NotMoney("request_amount", _))), "{:?}", read);
            }
        }

        #[test]
        fn any_code_is_refused_or_whole(
            text in "0002010102(11|12)(5[0-9]0[0-9].{0,9}|5303360|5802ID|5405[0-9]{5}|26080004ABCD){0,6}(6304[0-9A-F]{4})?", bytes in any::<Vec<u8>>(),
        ) {
            qris(text.as_bytes());
            qris(&bytes);
            // With a checksum that is right.
            let summed = super::qris::tests::summed(text.split("6304").next().unwrap());
            qris(summed.as_bytes());
        }
    }
}
