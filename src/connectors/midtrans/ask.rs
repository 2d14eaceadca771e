//! What Midtrans is asked.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::super::Unable;
use super::super::credentials::MidtransKeys;
use super::super::digest::sha256;
use super::super::payment::{Bank, Charge, Id, Known, Method, Reason, Refund};
use super::super::request::{Asked, Request};

/// One call about one payment.
#[derive(Clone, Copy)]
pub struct Call {
    verb: &'static str,
    endpoint: &'static str,
}

pub const STATUS: Call = Call { verb: "status", endpoint: "/v2/{id}/status" };
pub const CANCEL: Call = Call { verb: "cancel", endpoint: "/v2/{id}/cancel" };
pub const EXPIRE: Call = Call { verb: "expire", endpoint: "/v2/{id}/expire" };
const REFUND: Call = Call { verb: "refund", endpoint: "/v2/{id}/refund" };

/// How many characters of the shop's name go on Mandiri's bill. Midtrans would cut them.
const BILL_INFO_CHARS_MAX: usize = 30;
/// How many characters of a refund's reason are sent.
const REASON_CHARS_MAX: usize = 200;
/// How much of a hash names an operation. Midtrans ignores a key of more than 46 bytes in silence.
const KEY_HASH_CHARS: usize = 32;

pub fn charge(keys: &MidtransKeys, charge: &Charge) -> Result<Request, Unable> {
    let mut body = json!({
        "transaction_details": { "order_id": charge.reference, "gross_amount": charge.amount_minor },
    });
    let own = match charge.method {
        Method::Qris => json!({ "payment_type": "qris", "qris": { "acquirer": "gopay" } }),
        Method::BankTransfer(Bank::Mandiri) => json!({
            "payment_type": "echannel",
            "echannel": { "bill_info1": "Pembayaran", "bill_info2": first(&charge.shop, BILL_INFO_CHARS_MAX) },
        }),
        Method::BankTransfer(Bank::Bsi) => return Err(Unable::NotOffered),
        Method::BankTransfer(bank) => {
            json!({ "payment_type": "bank_transfer", "bank_transfer": { "bank": bank.as_str() } })
        }
        Method::Card => {
            let card = charge.card.clone().unwrap_or_default();
            let token = card.token.ok_or(Unable::NotOffered)?;
            let mut card_body = json!({ "token_id": token.expose_secret(), "authentication": true });
            if card.hold {
                card_body["type"] = "authorize".into();
            }
            json!({ "payment_type": "credit_card", "credit_card": card_body })
        }
    };
    merge(&mut body, own);
    // Not for cards, which have ten minutes.
    if let Some(expires_in) = charge.expires_in.filter(|_| charge.method != Method::Card) {
        merge(&mut body, json!({ "custom_expiry": expiry(expires_in) }));
    }
    if !charge.labels.is_empty() {
        merge(&mut body, json!({ "metadata": charge.labels }));
    }
    let request = Request::post(Asked::Charge, "/v2/charge", "/v2/charge".to_owned(), &keys.server_key, Some(body));
    Ok(request
        .with("idempotency-key", Some(&idempotency_key("charge", &[&charge.reference])))
        .with("x-override-notification", charge.notify_url.as_deref()))
}

/// A call that says no more than which payment it is about.
pub fn about(keys: &MidtransKeys, asked: Asked, payment: &Known, call: Call) -> Request {
    let path = path(payment, call);
    if call.endpoint == STATUS.endpoint {
        Request::get(asked, call.endpoint, path, &keys.server_key)
    } else {
        Request::post(asked, call.endpoint, path, &keys.server_key, None)
    }
}

pub fn capture(keys: &MidtransKeys, payment: &Known, amount_minor: i64) -> Result<Request, Unable> {
    const PATH: &str = "/v2/capture";
    let transaction = payment.ids.payment.as_ref().ok_or(Unable::NoId)?;
    let body = json!({ "transaction_id": transaction, "gross_amount": amount_minor });
    let request = Request::post(Asked::Capture, PATH, PATH.to_owned(), &keys.server_key, Some(body));
    Ok(request.with("idempotency-key", Some(&idempotency_key("capture", &[&payment.reference]))))
}

pub fn refund(keys: &MidtransKeys, refund: &Refund) -> Request {
    let asked = Asked::Refund { key: refund.key.clone() };
    let words = match refund.reason {
        Reason::Customer => "requested by the customer",
        Reason::Duplicate => "paid twice",
        Reason::Canceled => "the sale was called off",
        Reason::Fraud => "fraud",
        Reason::Other => "other",
    };
    let reason = if refund.note.trim().is_empty() { words } else { refund.note.trim() };
    let body = json!({
        // Without it Midtrans makes one up, and the same refund asked for twice is two.
        "refund_key": refund.key,
        "amount": refund.amount_minor,
        "reason": first(reason, REASON_CHARS_MAX),
    });
    let path = path(&refund.payment, REFUND);
    let request = Request::post(asked, REFUND.endpoint, path, &keys.server_key, Some(body));
    let key = idempotency_key("refund", &[&refund.payment.reference, &refund.key]);
    request.with("idempotency-key", Some(&key))
}

/// Midtrans takes its own id of a payment or ours. Its own also names one whose reference is not ours: a sticker's.
fn path(payment: &Known, Call { verb, .. }: Call) -> String {
    format!("/v2/{}/{verb}", payment.ids.payment.as_ref().unwrap_or(&payment.reference))
}

/// What names an operation for five minutes, over all calls, whatever is in their bodies. So the operation is in it.
fn idempotency_key(operation: &str, of: &[&Id]) -> String {
    let names: Vec<&str> = of.iter().map(|id| id.as_str()).collect();
    format!("{}-{operation}", &sha256(names.join("/").as_bytes())[..KEY_HASH_CHARS])
}

fn expiry(expires_in: Duration) -> Value {
    let seconds = expires_in.as_secs();
    if seconds.is_multiple_of(60) {
        json!({ "expiry_duration": seconds / 60, "unit": "minute" })
    } else {
        json!({ "expiry_duration": seconds, "unit": "second" })
    }
}

fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

fn first(text: &str, chars_max: usize) -> String {
    text.chars().filter(|it| !it.is_control()).take(chars_max).collect()
}
