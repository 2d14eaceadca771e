//! What Xendit is asked.

use std::time::Duration;

use serde_json::{Value, json};
use tillwire_channels::Moment;
use time::UtcOffset;
use time::format_description::well_known::Rfc3339;
use url::form_urlencoded;

use super::super::Unable;
use super::super::ability::CURRENCY;
use super::super::credentials::XenditKeys;
use super::super::payment::{Bank, Charge, Known, KnownRefund, Listing, Method, Reason, Refund};
use super::super::request::{Asked, Request};
use crate::commerce::payments::state::State;

/// The version of the API that all this is of.
const API_VERSION: &str = "2024-11-11";
/// Where the account is.
const COUNTRY: &str = "ID";
/// How long a transfer is waited for where nothing else is said: without a word Xendit waits for decades.
const TRANSFER_LIVES: Duration = Duration::from_secs(24 * 3600);
/// How many characters of the shop's name are sent.
const SHOP_CHARS_MAX: usize = 50;
/// How many rows a page has. Xendit gives no more.
const PAGE_ROWS: usize = 50;

pub fn charge(keys: &XenditKeys, charge: &Charge) -> Result<Request, Unable> {
    let shop: String = charge.shop.chars().filter(|it| !it.is_control()).take(SHOP_CHARS_MAX).collect();
    match charge.method {
        Method::Card => Ok(session(keys, charge, &shop)),
        Method::Qris => Ok(payment_request(keys, charge, &shop, "QRIS", None)),
        Method::BankTransfer(bank) => {
            let channel = transfer_channel(bank).ok_or(Unable::NotOffered)?;
            let expires_at = rfc3339(charge.at + charge.expires_in.unwrap_or(TRANSFER_LIVES))?;
            let own = json!({ "display_name": shop, "expires_at": expires_at });
            Ok(payment_request(keys, charge, &shop, channel, Some(own)))
        }
    }
}

pub fn transfer_channel(bank: Bank) -> Option<&'static str> {
    match bank {
        Bank::Bca => Some("BCA_VIRTUAL_ACCOUNT"),
        Bank::Bni => Some("BNI_VIRTUAL_ACCOUNT"),
        Bank::Bri => Some("BRI_VIRTUAL_ACCOUNT"),
        Bank::Bsi => Some("BSI_VIRTUAL_ACCOUNT"),
        Bank::Mandiri => Some("MANDIRI_VIRTUAL_ACCOUNT"),
        Bank::Permata => Some("PERMATA_VIRTUAL_ACCOUNT"),
        Bank::Cimb => None,
    }
}

fn payment_request(keys: &XenditKeys, charge: &Charge, shop: &str, channel: &str, own: Option<Value>) -> Request {
    const PATH: &str = "/v3/payment_requests";
    let mut body = json!({
        "reference_id": charge.reference,
        "type": "PAY",
        "country": COUNTRY,
        "currency": charge.currency,
        "request_amount": charge.amount_minor,
        "channel_code": channel,
        "description": shop,
    });
    if let Some(own) = own {
        body["channel_properties"] = own;
    }
    if !charge.labels.is_empty() {
        body["metadata"] = json!(charge.labels);
    }
    versioned(Request::post(Asked::Charge, PATH, PATH.to_owned(), &keys.secret_key, Some(body)))
}

/// A page of Xendit's, on which the card is entered.
fn session(keys: &XenditKeys, charge: &Charge, shop: &str) -> Request {
    const PATH: &str = "/sessions";
    let card = charge.card.clone().unwrap_or_default();
    let customer: String = charge.reference.as_str().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut body = json!({
        "reference_id": charge.reference,
        "session_type": "PAY",
        "mode": "PAYMENT_LINK",
        "amount": charge.amount_minor,
        "currency": charge.currency,
        "country": COUNTRY,
        "capture_method": if card.hold { "MANUAL" } else { "AUTOMATIC" },
        "allowed_payment_channels": ["CARDS"],
        "description": shop,
        // Xendit wants to know of somebody, and a till does not.
        "customer": {
            "reference_id": customer,
            "type": "INDIVIDUAL",
            "individual_detail": { "given_names": "Pelanggan" },
        },
    });
    if let Some(expires_at) = charge.expires_in.and_then(|it| rfc3339(charge.at + it).ok()) {
        body["expires_at"] = expires_at.into();
    }
    if let Some(url) = &card.return_url {
        body["success_return_url"] = json!(url);
        body["cancel_return_url"] = json!(url);
    }
    if !charge.labels.is_empty() {
        body["metadata"] = json!(charge.labels);
    }
    Request::post(Asked::Charge, PATH, PATH.to_owned(), &keys.secret_key, Some(body))
}

/// By the most that is known: a payment may have come when what was asked for was over, and only it says so.
pub fn status(keys: &XenditKeys, payment: &Known) -> Request {
    let asked = Asked::Status { reference: payment.reference.clone() };
    let ids = &payment.ids;
    let (endpoint, path) = if let Some(id) = &ids.payment {
        ("/v3/payments/{id}", format!("/v3/payments/{id}"))
    } else if let Some(id) = &ids.request {
        ("/v3/payment_requests/{id}", format!("/v3/payment_requests/{id}"))
    } else if let Some(id) = &ids.session {
        ("/sessions/{id}", format!("/sessions/{id}"))
    } else {
        // Pages are in no list; what was paid on one is.
        ("/v3/payment_requests", format!("/v3/payment_requests?reference_id={}", payment.reference))
    };
    versioned(Request::get(asked, endpoint, path, &keys.secret_key))
}

pub fn cancel(keys: &XenditKeys, asked: Asked, payment: &Known) -> Result<Request, Unable> {
    let ids = &payment.ids;
    let (endpoint, path) = match (&ids.payment, &ids.request, &ids.session) {
        (Some(id), ..) if payment.state == State::Authorized => {
            ("/v3/payments/{id}/cancel", format!("/v3/payments/{id}/cancel"))
        }
        (_, Some(id), _) => ("/v3/payment_requests/{id}/cancel", format!("/v3/payment_requests/{id}/cancel")),
        (_, _, Some(id)) => ("/sessions/{id}/cancel", format!("/sessions/{id}/cancel")),
        _ => return Err(Unable::NoId),
    };
    Ok(versioned(Request::post(asked, endpoint, path, &keys.secret_key, None)))
}

pub fn capture(keys: &XenditKeys, payment: &Known, amount_minor: i64) -> Result<Request, Unable> {
    let id = payment.ids.payment.as_ref().ok_or(Unable::NoId)?;
    let body = json!({ "capture_amount": amount_minor });
    let path = format!("/v3/payments/{id}/capture");
    Ok(versioned(Request::post(Asked::Capture, "/v3/payments/{id}/capture", path, &keys.secret_key, Some(body))))
}

pub fn refund(keys: &XenditKeys, refund: &Refund) -> Result<Request, Unable> {
    const PATH: &str = "/refunds";
    let request = refund.payment.ids.request.as_ref().ok_or(Unable::NoId)?;
    let reason = match refund.reason {
        Reason::Customer => "REQUESTED_BY_CUSTOMER",
        Reason::Duplicate => "DUPLICATE",
        Reason::Canceled => "CANCELLATION",
        Reason::Fraud => "FRAUDULENT",
        Reason::Other => "OTHERS",
    };
    let body = json!({
        "payment_request_id": request,
        "reference_id": refund.key,
        "currency": refund.currency,
        "amount": refund.amount_minor,
        "reason": reason,
    });
    let asked = Asked::Refund { key: refund.key.clone() };
    let request = Request::post(asked, PATH, PATH.to_owned(), &keys.secret_key, Some(body));
    // An older version knew it. It is no promise.
    Ok(versioned(request).with("idempotency-key", Some(refund.key.as_str())))
}

pub fn refund_status(keys: &XenditKeys, refund: &KnownRefund) -> Result<Request, Unable> {
    let asked = Asked::RefundStatus { key: refund.key.clone() };
    let (endpoint, path) = match (&refund.id, &refund.payment.ids.request) {
        (Some(id), _) => ("/refunds/{id}", format!("/refunds/{id}")),
        (None, Some(request)) => ("/refunds", format!("/refunds?payment_request_id={request}&limit={PAGE_ROWS}")),
        (None, None) => return Err(Unable::NoId),
    };
    Ok(versioned(Request::get(asked, endpoint, path, &keys.secret_key)))
}

pub fn settlements(keys: &XenditKeys, listing: &Listing) -> Result<Request, Unable> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("currency", CURRENCY)
        .append_pair("created[gte]", &rfc3339(listing.from)?)
        .append_pair("created[lte]", &rfc3339(listing.until)?)
        .append_pair("limit", &PAGE_ROWS.to_string());
    if let Some(after) = &listing.after {
        query.append_pair("after_id", after.as_str());
    }
    let path = format!("/transactions?{}", query.finish());
    Ok(Request::get(Asked::Settlements, "/transactions", path, &keys.secret_key))
}

/// What is not of the payments API has no version.
fn versioned(request: Request) -> Request {
    let version = request.endpoint.starts_with("/v3/").then_some(API_VERSION);
    request.with("api-version", version)
}

/// None of what is asked lies in a year that has no four digits.
fn rfc3339(at: Moment) -> Result<String, Unable> {
    let at = at.to_offset(UtcOffset::UTC).replace_nanosecond(0).unwrap_or(at);
    at.format(&Rfc3339).map_err(|_| Unable::NotOffered)
}
