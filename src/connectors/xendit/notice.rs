//! Xendit's webhooks. They bring a token that is the same each time and signs nothing: whoever has seen one can claim
//! anything. So what is read here is a claim.

use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};

use super::super::digest::{equal, of_parts, sha256};
use super::super::fields::{Fields, NotMoneyIn};
use super::super::report::{Kind, Notice, Report};
use super::super::{Forged, NOTICE_BYTES_MAX, Unreadable};
use super::say;
use crate::commerce::payments::state::State;

const TOKEN: &str = "x-callback-token";

/// Each token is compared, whichever is the right one.
pub fn verify(tokens: &[SecretString], headers: &HeaderMap, body: &[u8]) -> Result<(), Forged> {
    let mut brought = headers.get_all(TOKEN).iter();
    let (Some(brought), None) = (brought.next(), brought.next()) else { return Err(Forged) };
    let is_one = tokens.iter().fold(false, |is_one, token| {
        let token = token.expose_secret().as_bytes();
        (equal(token, brought.as_bytes()) && !token.is_empty()) | is_one
    });
    if is_one && body.len() <= NOTICE_BYTES_MAX { Ok(()) } else { Err(Forged) }
}

/// What a webhook claims, whoever sent it.
///
/// # Errors
/// If it says nothing that could be believed.
pub fn read(body: &[u8]) -> Result<Notice, Unreadable> {
    if body.len() > NOTICE_BYTES_MAX {
        return Err(Unreadable::TooLong);
    }
    let fields = Fields::parse(body).ok_or(Unreadable::NotJson)?;
    let event = fields.word("event");
    let data = fields.object("data").unwrap_or_default();
    // Some are wrapped twice.
    let data = data.object("data").unwrap_or(data);
    let name = event.as_deref().unwrap_or_default();
    let (kind, read) = match name {
        "payment.capture"
        | "payment.authorization"
        | "payment.failure"
        | "payment.expiry"
        | "payment_request.expiry" => {
            let as_meant = |claims: Report| Report { state: claims.state.filter(|it| *it == meant(name)), ..claims };
            (Kind::Payment, say::report(&data).map(as_meant))
        }
        "refund.succeeded" | "refund.failed" => (Kind::Refund, say::of_refund(&data)),
        "payment_session.completed" | "payment_session.expired" => (Kind::Session, say::report(&data)),
        _ => (Kind::Unknown, Ok(Report::default())),
    };
    let (claims, unread) = match read {
        Ok(claims) => (claims, None),
        Err(NotMoneyIn(field)) if kind == Kind::Refund => (say::names_of_refund(&data), Some(field)),
        Err(NotMoneyIn(field)) => (Report { state: None, ..say::names(&data) }, Some(field)),
    };
    let names_something = claims.ids != Default::default() || claims.reference.is_some();
    let (kind, claims) = if names_something { (kind, claims) } else { (Kind::Unknown, Report::default()) };
    let merchant = claims.merchant.or_else(|| fields.text("business_id"));
    let claims = Report { merchant, ..claims };
    match unread.filter(|_| kind != Kind::Unknown) {
        // Told again in words that can be read it is another.
        Some(field) => Err(Unreadable::NotMoney(field, Box::new(Notice { kind, event, dedupe: sha256(body), claims }))),
        None => Ok(Notice { kind, dedupe: key(kind, name, &data).unwrap_or_else(|| sha256(body)), event, claims }),
    }
}

/// What an event's name says. A webhook that says something else beside it is not believed.
fn meant(event: &str) -> State {
    match event {
        "payment.capture" => State::Paid,
        "payment.authorization" => State::Authorized,
        "payment.failure" => State::Failed,
        _ => State::Expired,
    }
}

/// Xendit names no event either. What does not name its payment has no key but its own text.
fn key(kind: Kind, event: &str, data: &Fields<'_>) -> Option<String> {
    let field = |name| data.exact(name);
    let status = data.word("status");
    match kind {
        Kind::Payment if event != "payment_request.expiry" => {
            let mut captures: Vec<_> = data.objects("captures").iter().map(|it| it.exact("capture_id")).collect();
            captures.sort();
            Some(of_parts(&("xendit", event, field("payment_id")?, status, captures)))
        }
        Kind::Payment => Some(of_parts(&("xendit", event, field("payment_request_id")?, status))),
        Kind::Session => Some(of_parts(&("xendit", event, field("payment_session_id")?, status))),
        Kind::Refund => Some(of_parts(&("xendit", event, field("id")?, status))),
        Kind::Subscription | Kind::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn brings(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TOKEN, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_webhook_brings_one_token_and_that_is_one_of_ours() {
        let tokens = ["new-token".into(), "old-token".into()];
        for value in ["new-token", "old-token"] {
            assert_eq!(verify(&tokens, &brings(&[value]), b"{}"), Ok(()));
        }
        for values in [
            &[][..],
            &[""],
            &["other"],
            &["new-tokem"],
            &["New-Token"],
            &["new-toke"],
            &["new-token "],
            &["new-token", "new-token"],
            &["new-token", "x"],
        ] {
            assert_eq!(verify(&tokens, &brings(values), b"{}"), Err(Forged), "{values:?}");
        }
        assert_eq!(verify(&[], &brings(&["new-token"]), b"{}"), Err(Forged));
        assert_eq!(verify(&["".into()], &brings(&[""]), b"{}"), Err(Forged));
        assert_eq!(verify(&tokens, &brings(&["new-token"]), &vec![b' '; NOTICE_BYTES_MAX + 1]), Err(Forged));
    }

    fn capture() -> Value {
        json!({"event": "payment.capture", "business_id": "b", "data": {"payment_id": "py-1", "payment_request_id": "pr-1",
            "reference_id": "A-1", "request_amount": 48_500, "currency": "IDR", "status": "SUCCEEDED",
            "captures": [{"capture_id": "cap-1", "capture_amount": 48_000}, {"capture_id": "cap-2", "capture_amount": 500}]}})
    }

    fn read_of(body: &Value) -> Notice {
        read(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_repetition_has_the_same_key_and_nothing_else_has() {
        let one = capture();
        let mut again = one.clone();
        again["created"] = "2026-01-14T03:06:42.501Z".into();
        again["data"]["captures"] = json!([one["data"]["captures"][1], one["data"]["captures"][0]]);
        assert_eq!(read_of(&one).dedupe, read_of(&again).dedupe);
        let mut keys = vec![read_of(&one).dedupe];
        for (field, value) in [
            ("payment_id", json!("py-2")),
            ("status", json!("PENDING")),
            ("captures", json!([])),
            ("captures", json!([{"capture_id": "cap-1"}])),
        ] {
            let mut other = one.clone();
            other["data"][field] = value;
            keys.push(read_of(&other).dedupe);
        }
        let mut other = one.clone();
        other["event"] = "payment.authorization".into();
        keys.push(read_of(&other).dedupe);
        keys.sort();
        let all = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn what_is_no_money_names_its_payment_all_the_same() {
        let refund = json!({"event": "refund.succeeded", "data": {"id": "rfd-1", "payment_request_id": "pr-1", "payment_id": "py-1",
            "reference_id": "RF-1", "status": "SUCCEEDED", "amount": 8500.5}});
        let (mut asked, mut taken) = (capture(), capture());
        asked["data"]["request_amount"] = json!(48_500.5);
        taken["data"]["captures"][0]["capture_amount"] = json!("48.500");
        for (body, field, kind, reference) in [
            (asked, "request_amount", Kind::Payment, Some("A-1")),
            (taken, "capture_amount", Kind::Payment, Some("A-1")),
            (refund, "amount", Kind::Refund, None),
        ] {
            let Err(Unreadable::NotMoney(named, notice)) = read(body.to_string().as_bytes()) else { panic!("{body}") };
            let Notice { kind: said, claims, dedupe, .. } = *notice;
            assert_eq!((named, said, claims.reference.as_deref(), claims.state), (field, kind, reference, None));
            assert_eq!(claims.ids.request.unwrap().as_str(), "pr-1");
            assert_eq!(claims.ids.payment.unwrap().as_str(), "py-1");
            assert_ne!(dedupe, read_of(&capture()).dedupe);
        }
    }

    #[test]
    fn a_webhook_that_contradicts_itself_claims_no_state() {
        assert_eq!(read_of(&capture()).claims.state, Some(State::Paid));
        for (event, status) in
            [("payment.capture", "FAILED"), ("payment.failure", "SUCCEEDED"), ("payment.capture", "")]
        {
            let mut body = capture();
            body["event"] = event.into();
            body["data"]["status"] = status.into();
            let notice = read_of(&body);
            assert_eq!((notice.kind, notice.claims.state), (Kind::Payment, None), "{event} {status}");
        }
    }
}
