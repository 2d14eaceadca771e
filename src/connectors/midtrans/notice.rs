//! Midtrans' notifications. Their signature covers a payment's reference, code and amount, and nothing else: with a body that
//! was good once, anybody can claim another state of the same payment. So what is read here is a claim.

use secrecy::{ExposeSecret as _, SecretString};

use super::super::digest::{equal, of_parts, sha256, sha512};
use super::super::fields::{Fields, NotMoneyIn};
use super::super::report::{Kind, Notice, Report};
use super::super::{Forged, NOTICE_BYTES_MAX, Unreadable};
use super::say;
use crate::commerce::payments::state::State;

/// How payments by a printed code are called, which nobody has asked for.
const STICKER: &str = "QRIS-";

/// The signature is over texts that are joined without anything between. So the code has to look like one, and the amount like a
/// number: an order ending in a digit could otherwise lend it to another. Whether that is money is not asked here.
pub fn verify(key: &SecretString, body: &[u8]) -> Result<(), Forged> {
    if body.len() > NOTICE_BYTES_MAX {
        return Err(Forged);
    }
    let fields = Fields::parse(body).ok_or(Forged)?;
    let field = |name| fields.exact(name).ok_or(Forged);
    let (order, code, amount) = (field("order_id")?, field("status_code")?, field("gross_amount")?);
    let is_code =
        code.len() == 3 && code.bytes().all(|it| it.is_ascii_digit()) && (b'2'..=b'5').contains(&code.as_bytes()[0]);
    if order.is_empty() || !is_code || !is_number(&amount) {
        return Err(Forged);
    }
    let signed = SecretString::from(format!("{order}{code}{amount}{}", key.expose_secret()));
    let expected = sha512(signed.expose_secret().as_bytes());
    if equal(expected.as_bytes(), field("signature_key")?.as_bytes()) { Ok(()) } else { Err(Forged) }
}

/// Digits, and perhaps some more behind a point; with no zero in front that need not be there.
fn is_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    are_digits(whole) && are_digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

/// What a notification claims, whoever sent it.
///
/// # Errors
/// If it says nothing that could be believed.
pub fn read(body: &[u8]) -> Result<Notice, Unreadable> {
    if body.len() > NOTICE_BYTES_MAX {
        return Err(Unreadable::TooLong);
    }
    let fields = Fields::parse(body).ok_or(Unreadable::NotJson)?;
    let event = fields.word("event_name");
    let (claims, unread) = match say::report(&fields) {
        Ok(claims) => (claims, None),
        Err(NotMoneyIn(field)) => (say::names(&fields), Some(field)),
    };
    let is_payment = claims.reference.is_some() && fields.has("transaction_status");
    let is_refund = matches!(claims.state, Some(State::PartiallyRefunded | State::Refunded));
    let kind = match &event {
        Some(event) if event.starts_with("subscription") => Kind::Subscription,
        _ if !is_payment => Kind::Unknown,
        _ if is_refund => Kind::Refund,
        _ => Kind::Payment,
    };
    let event = event.or_else(|| claims.said.clone());
    match (kind, unread) {
        (Kind::Session | Kind::Subscription | Kind::Unknown, _) => {
            let claims = Report { merchant: claims.merchant, ..Report::default() };
            Ok(Notice { kind, event, dedupe: sha256(body), claims })
        }
        (Kind::Payment | Kind::Refund, None) => Ok(Notice { kind, event, dedupe: key(&fields), claims }),
        // Told again in words that can be read it is another.
        (Kind::Payment | Kind::Refund, Some(field)) => {
            Err(Unreadable::NotMoney(field, Box::new(Notice { kind, event, dedupe: sha256(body), claims })))
        }
    }
}

/// Midtrans names no event; what it says is told apart by what is in it.
fn key(fields: &Fields<'_>) -> String {
    let field = |name| fields.exact(name);
    let is_sticker = field("order_id").is_some_and(|order| order.starts_with(STICKER));
    if is_sticker && fields.word("transaction_status").as_deref() == Some("settlement") {
        return of_parts(&("midtrans", "sticker", field("transaction_id")));
    }
    let mut refunds: Vec<_> = fields
        .objects("refunds")
        .iter()
        .map(|refund| ["refund_key", "refund_amount", "bank_confirmed_at"].map(|name| refund.exact(name)))
        .collect();
    refunds.sort();
    of_parts(&(
        "midtrans",
        field("transaction_id").or_else(|| field("order_id")),
        fields.word("transaction_status"),
        field("status_code"),
        fields.word("fraud_status"),
        refunds,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEY: &str = "SB-Mid-server-EXAMPLEKEY1234567890ab";
    const SIGNED: [(&str, &str); 3] = [
        (
            "200",
            "db2a6559d04b65919bd98da2578556121517604e552112949d56676428f15d8f3d400e97466853ea7836c4ee4f38ae5d285b5fc023ec1e6ec101f0805b710f5e",
        ),
        (
            "201",
            "b0fea39ef72db3d5c2882ee87789b1c65b44f809055a1c9d25d21ac675aeafdde23aebd91b1c018c2400b699bad8e5a0bb0f04bbf5cf953cb717de09fd4c1d56",
        ),
        (
            "202",
            "96638cf6d153e4485503191dc3b1fe143378eb4ae6fc271940d85ed4723ee0366470ed934dc8885a3c6249da647c8a287cb8e5fe4a429859fd4fc7b25cd0c376",
        ),
    ];

    fn body(code: &str, signature: &str) -> Value {
        json!({"order_id": "POS01-260114-000123-a1", "status_code": code, "gross_amount": "48500.00",
               "signature_key": signature, "transaction_status": "settlement", "transaction_id": "2f6d7a0e"})
    }

    fn verified(body: &Value) -> Result<(), Forged> {
        verify(&KEY.into(), body.to_string().as_bytes())
    }

    /// A stranger who knows the path names moments as well.
    #[test]
    fn moments_that_nobody_can_reckon_with_are_none() {
        for text in ["-9999-01-01 00:00:00", "0000-01-01 00:00:00", "9999-12-31 23:59:59"] {
            let mut body = body("200", SIGNED[0].1);
            (body["settlement_time"], body["expiry_time"]) = (json!(text), json!(text));
            let report = say::report(&Fields::parse(body.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!((report.paid_at, report.expires_at), (None, None), "{text}");
        }
    }

    #[test]
    fn p1_signatures_are_checked_as_they_are_made() {
        for (code, signature) in SIGNED {
            assert_eq!(verified(&body(code, signature)), Ok(()), "{code}");
        }
    }

    #[test]
    fn p1_over_the_text_as_it_was_received() {
        let (_, signature) = SIGNED[0];
        let text = body("200", signature).to_string();
        // The same texts, written in other ways.
        for same in [text.replace("POS01", "\\u0050OS01"), text.replace(":", " : "), text.replace(',', ",\n")] {
            assert_eq!(verify(&KEY.into(), same.as_bytes()), Ok(()), "{same}");
        }
        // The same amount, in another text.
        for amount in [json!("48500"), json!("48500.0"), json!(48500), json!(48500.0), json!("48500.00 "), json!(null)]
        {
            let mut other = body("200", signature);
            other["gross_amount"] = amount;
            assert_eq!(verified(&other), Err(Forged), "{other}");
        }
        // What is signed is its provider's, whether or not it is money.
        for (amount, verified) in [
            ("48500.50", Ok(())),
            ("0.50", Ok(())),
            ("9999999999999999", Ok(())),
            ("048500", Err(Forged)),
            ("48500.", Err(Forged)),
            (".50", Err(Forged)),
            ("-1", Err(Forged)),
            ("48,500", Err(Forged)),
            ("", Err(Forged)),
        ] {
            let mut other = body("200", &sha512(format!("POS01-260114-000123-a1200{amount}{KEY}").as_bytes()));
            other["gross_amount"] = amount.into();
            assert_eq!(self::verified(&other), verified, "{amount}");
        }
        // A number counts as it stands there.
        let number = sha512(format!("A1200{}{KEY}", "48500.00").as_bytes());
        let text =
            format!(r#"{{"order_id":"A1","status_code":200,"gross_amount":48500.00,"signature_key":"{number}"}}"#);
        assert_eq!(verify(&KEY.into(), text.as_bytes()), Ok(()));
    }

    #[test]
    fn what_is_not_signed_so_is_forged() {
        let (_, signature) = SIGNED[0];
        for (field, value) in [
            ("order_id", json!("POS01-260114-000123-a2")),
            ("status_code", json!("201")),
            ("gross_amount", json!("48501.00")),
            ("signature_key", json!(signature.to_uppercase())),
            ("signature_key", json!(signature[..127])),
            ("signature_key", json!(format!("{signature}0"))),
            ("signature_key", json!("")),
            ("signature_key", json!(null)),
            ("signature_key", json!([signature])),
            ("order_id", json!(null)),
            ("gross_amount", json!("4850e1")),
            // Joined, it is the same text.
            ("order_id+", json!(["POS01-260114-000123-a12", "004", "8500.00"])),
            ("order_id+", json!(["POS01-260114-000123-a", "120", "048500.00"])),
            ("order_id+", json!(["POS01-260114-000123-a1200", "485", "00.00"])),
        ] {
            let mut forged = body("200", signature);
            if field == "order_id+" {
                for (at, name) in ["order_id", "status_code", "gross_amount"].into_iter().enumerate() {
                    forged[name] = value[at].clone();
                }
            } else {
                forged[field] = value;
            }
            assert_eq!(verified(&forged), Err(Forged), "{forged}");
        }
        assert_eq!(verify(&"another".into(), body("200", signature).to_string().as_bytes()), Err(Forged));
        let twice = body("200", signature).to_string().replacen('{', r#"{"order_id":"x","#, 1);
        for bytes in [&b""[..], b"[]", b"\xff", twice.as_bytes(), &vec![b' '; NOTICE_BYTES_MAX + 1]] {
            assert_eq!(verify(&KEY.into(), bytes), Err(Forged));
        }
    }

    #[test]
    fn what_is_no_money_names_its_payment_all_the_same() {
        for (field, value) in [
            ("gross_amount", json!("48500.50")),
            ("refund_amount", json!([{"refund_key": "a", "refund_amount": "48.500"}])),
            ("amount", json!([{"amount": "312000.50"}])),
        ] {
            let mut other = body("200", "a");
            let list = match field {
                "refund_amount" => "refunds",
                "amount" => "payment_amounts",
                field => field,
            };
            other[list] = value;
            let Err(Unreadable::NotMoney(named, notice)) = read(other.to_string().as_bytes()) else {
                panic!("{other}")
            };
            let Notice { kind, claims, dedupe, .. } = *notice;
            assert_eq!((named, kind), (field, Kind::Payment));
            assert_eq!((claims.reference.as_deref(), claims.state), (Some("POS01-260114-000123-a1"), None));
            assert_eq!(claims.ids.payment.unwrap().as_str(), "2f6d7a0e");
            assert_ne!(dedupe, read(body("200", "a").to_string().as_bytes()).unwrap().dedupe);
        }
        // Where nothing of ours is told, no amount is read.
        let plan = json!({"event_name": "subscription.charge", "gross_amount": "1.5"});
        assert_eq!(read(plan.to_string().as_bytes()).unwrap().kind, Kind::Subscription);
    }

    #[test]
    fn a_repetition_has_the_same_key_and_nothing_else_has() {
        let key_of = |body: &Value| read(body.to_string().as_bytes()).unwrap().dedupe;
        let one = body("200", "a");
        let mut again = one.clone();
        again["signature_key"] = "b".into();
        again["issuer"] = "dana".into();
        again["transaction_status"] = "SETTLEMENT".into();
        assert_eq!(key_of(&one), key_of(&again));
        let mut keys = vec![key_of(&one)];
        let refund = |items: Value| {
            json!({"order_id": "A-1", "status_code": "200", "transaction_id": "t",
            "gross_amount": "48500.00", "transaction_status": "partial_refund", "refunds": items})
        };
        for (field, value) in [
            ("transaction_id", json!("other")),
            ("transaction_status", json!("capture")),
            ("status_code", json!("201")),
            ("fraud_status", json!("challenge")),
        ] {
            let mut other = one.clone();
            other[field] = value;
            keys.push(key_of(&other));
        }
        let (first, second) =
            (json!({"refund_key": "a", "refund_amount": "1.00"}), json!({"refund_key": "b", "refund_amount": "1.00"}));
        let confirmed = json!({"refund_key": "a", "refund_amount": "1.00", "bank_confirmed_at": "2026-01-14 10:05:02"});
        keys.extend(
            [json!([first]), json!([first, second]), json!([confirmed, second])].map(|items| key_of(&refund(items))),
        );
        assert_eq!(key_of(&refund(json!([second, first]))), key_of(&refund(json!([first, second]))));
        keys.sort();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }
}
