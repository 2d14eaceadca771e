//! `POST /v2/charge`: what is asked for is checked, a transaction made and told of.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::transaction::{Card, Method, State, Transaction, fields, life, limits, rupiah};
use super::{Due, cards, invalid, notify, refused};
use crate::account::{MidtransAccount, Provider, is_url};
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::faults::Fault;
use crate::qris::{self, Bill};
use crate::world::{self, World};
use crate::{account, picture};

/// How many URLs the two headers may name.
const URLS_MAX: usize = 3;
/// How many items a charge may have.
const ITEMS_MAX: usize = 500;
const ORDER_ID_BYTES_MAX: usize = 50;
const CUSTOM_FIELD_CHARS_MAX: usize = 255;
/// The shortest life of a bank transfer.
const VA_LIFE_MIN: Duration = Duration::from_secs(20);

pub fn charge(world: &mut World, account: &Arc<MidtransAccount>, call: &Call) -> Reply {
    if call.body.is_empty() {
        return refused(world, 500, "An unexpected error occurred: the request has no body", &[]);
    }
    let Ok(body) = serde_json::from_slice::<Value>(&call.body) else {
        return refused(world, 413, "The request cannot be processed due to malformed syntax in the request body", &[]);
    };
    let gross = &body["transaction_details"]["gross_amount"];
    if gross.is_string() || gross.is_boolean() || body["transaction_details"]["order_id"].is_number() {
        return refused(world, 408, "The request has the wrong data type", &[]);
    }
    let payment_type = body["payment_type"].as_str().unwrap_or_default();
    if account.without.iter().any(|it| it == payment_type) {
        return refused(world, 402, "Merchant doesn't have access for this payment type", &[]);
    }
    let details = match Details::of(&body) {
        Ok(details) => details,
        Err(problems) => return invalid(world, &problems),
    };
    let method = match method(world, account, payment_type, &body) {
        Ok(method) => method,
        Err(Refusal::Invalid(problem)) => return invalid(world, &[problem]),
        Err(Refusal::Token) => {
            let problems = ["One of credit_card.token_id or credit_card.saved_token_id must be valid".into()];
            return refused(
                world,
                411,
                "Credit card token is no longer available. Please create a new one.",
                &problems,
            );
        }
    };
    let (least, most) = limits(&method);
    if !(least..=most).contains(&details.gross) {
        let problem =
            format!("transaction_details.gross_amount must be between {least} and {most} for this payment type");
        return invalid(world, &[problem]);
    }
    let expires = match expiry(world.now(), &method, &body["custom_expiry"]) {
        Ok(expires) => expires,
        Err(problem) => return invalid(world, &[problem]),
    };
    let (instead, besides) =
        match (addresses(call, "x-override-notification"), addresses(call, "x-append-notification")) {
            (Ok(instead), Ok(besides)) => (instead, besides.unwrap_or_default()),
            (Err(problem), _) | (_, Err(problem)) => return invalid(world, &[problem]),
        };
    let twin = world.midtrans.find(Some(&account.merchant_id), &details.order_id);
    if twin.is_some_and(|it| it.order_id == details.order_id && it.state.holds_the_order()) {
        let message = "The request could not be completed due to a conflict with the current state of the target resource, \
                       please try again: order_id has been taken";
        return refused(world, 406, message, &[]);
    }
    let id = world.ids.uuid();
    let names = [details.order_id.clone(), id.clone()];
    let expiry_name = match world.fault(Fault::ExpireTime, Provider::Midtrans, &names, "charge") {
        Some(_) => "expire_time",
        None => "expiry_time",
    };
    let (qr, qr_id) = match &method {
        Method::Qris { acquirer } => code(world, account, acquirer, &details, &id, &names),
        _ => Default::default(),
    };
    let now = world.now();
    let transaction = Transaction::new(id.clone(), details.order_id, &account.merchant_id, details.gross, method, now);
    world.midtrans.add(Transaction {
        expires: Some(expires),
        expiry_name,
        urls_instead: instead,
        urls_besides: besides,
        qr,
        qr_id,
        echoed: details.echoed,
        ..transaction
    });
    cards::begin(world, &id);
    notify::told(world, &id);
    world.at(expires, world::Due::Midtrans(Due::Expire(id.clone())));
    answer(world, &id)
}

/// The first answer, which alone has the QR code.
fn answer(world: &World, id: &str) -> Reply {
    let transaction = &world.midtrans.transactions[id];
    let (code, message) = match (&transaction.method, transaction.state) {
        (_, State::Deny) => ("202", "Deny by Bank [MANDIRI] with code [05] and message [Do not honour]"),
        (Method::Card(_), State::Pending) => ("201", "Success, Credit Card transaction is successful"),
        (Method::Card(_), _) if transaction.fraud == "challenge" => ("201", "Success, transaction is challenged"),
        (Method::Card(_), _) => ("200", "Success, Credit Card transaction is successful"),
        (Method::Qris { .. }, _) => ("201", "QRIS transaction is created"),
        (Method::Va { .. }, _) => ("201", "Success, Bank Transfer transaction is created"),
        (Method::Permata { .. }, _) => ("201", "Success, PERMATA VA transaction is successful"),
        (Method::Echannel { .. }, _) => ("201", "OK, Mandiri Bill transaction is successful"),
    };
    let mut body = transaction.common(code, message);
    match &transaction.method {
        Method::Qris { .. } => {
            let url = |version, id| format!("{}/{version}/qris/{id}/qr-code", world.midtrans.base);
            body.append(&mut fields(json!({
                "actions": [
                    { "name": "generate-qr-code", "method": "GET", "url": url("v2", &transaction.id) },
                    { "name": "generate-qr-code-v2", "method": "GET", "url": url("v4", &transaction.qr_id) },
                ],
                "qr_string": transaction.qr,
            })));
        }
        Method::Card(card) if card.is_3ds && transaction.state == State::Pending => body.append(&mut fields(json!({
            "redirect_url": format!("{}/v2/3ds/{id}", world.midtrans.base),
            "three_ds_version": "2",
            "challenge_completion": true,
            "on_us": false,
        }))),
        Method::Card(card) => {
            let (code, words) = card.said.unwrap_or_default();
            body.append(&mut fields(json!({ "channel_response_code": code, "channel_response_message": words })));
        }
        _ => {}
    }
    Reply::json(200, &Value::Object(body))
}

/// The picture of a code: by transaction id, or by the code's own with a frame.
pub fn qr_code(world: &World, version: &str, id: &str) -> Reply {
    let found = match version {
        "v2" => world.midtrans.transactions.get(id),
        _ => world.midtrans.all().rev().find(|it| it.qr_id == id),
    };
    let picture = found.filter(|it| !it.qr.is_empty()).and_then(|it| picture::png(&it.qr, version == "v4"));
    picture.map_or_else(
        || Reply { status: 404, ..super::error(404, "Transaction doesn't exist.") },
        |png| Reply::file("image/png", png),
    )
}

/// What every charge says.
struct Details {
    order_id: String,
    gross: i64,
    echoed: Map<String, Value>,
}

impl Details {
    fn of(body: &Value) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let details = &body["transaction_details"];
        let order_id = details["order_id"].as_str().unwrap_or_default();
        let is_known = |it: u8| it.is_ascii_alphanumeric() || b"-_~.".contains(&it);
        if order_id.is_empty() {
            problems.push("transaction_details.order_id is required".into());
        } else if order_id.len() > ORDER_ID_BYTES_MAX {
            problems
                .push(format!("transaction_details.order_id is too long, its maximum length is {ORDER_ID_BYTES_MAX}"));
        } else if !order_id.bytes().all(is_known) {
            problems.push("transaction_details.order_id may hold letters, digits, and - _ ~ . alone".into());
        }
        let gross = &details["gross_amount"];
        match (gross, gross.as_i64()) {
            (Value::Null, _) => problems.push("transaction_details.gross_amount is required".into()),
            (_, None) => problems.push("transaction_details.gross_amount must not have decimals".into()),
            (_, Some(..=0)) => problems.push("transaction_details.gross_amount must be greater than 0".into()),
            _ => {}
        }
        let gross = gross.as_i64().unwrap_or_default();
        if let Some(items) = body["item_details"].as_array() {
            match sum(items) {
                Err(problem) => problems.push(problem),
                Ok(sum) if sum != i128::from(gross) => {
                    problems.push("transaction_details.gross_amount is not equal to the sum of item_details".into());
                }
                Ok(_) => {}
            }
        }
        let mut echoed = Map::new();
        for name in ["custom_field1", "custom_field2", "custom_field3"] {
            match &body[name] {
                Value::Null => {}
                Value::String(text) if text.chars().count() <= CUSTOM_FIELD_CHARS_MAX => {
                    echoed.insert(name.into(), text.as_str().into());
                }
                _ => problems.push(format!("{name} must be a text of at most {CUSTOM_FIELD_CHARS_MAX} characters")),
            }
        }
        match &body["metadata"] {
            Value::Null => {}
            metadata @ Value::Object(_) => {
                echoed.insert("metadata".into(), metadata.clone());
            }
            _ => problems.push("metadata must be an object".into()),
        }
        if problems.is_empty() { Ok(Self { order_id: order_id.into(), gross, echoed }) } else { Err(problems) }
    }
}

fn sum(items: &[Value]) -> Result<i128, String> {
    if items.len() > ITEMS_MAX {
        return Err(format!("item_details may hold at most {ITEMS_MAX} items"));
    }
    let mut sum = 0;
    for (at, item) in items.iter().enumerate() {
        if item["name"].as_str().is_none_or(str::is_empty) {
            return Err(format!("item_details[{at}].name is required"));
        }
        let price = item["price"].as_i64().ok_or(format!("item_details[{at}].price must be a whole number"))?;
        let quantity = item["quantity"].as_i64().filter(|it| *it > 0);
        let quantity = quantity.ok_or(format!("item_details[{at}].quantity must be a whole number greater than 0"))?;
        sum += i128::from(price) * i128::from(quantity);
    }
    Ok(sum)
}

enum Refusal {
    Invalid(String),
    /// Of a card: unknown, or used.
    Token,
}

fn method(world: &mut World, account: &MidtransAccount, payment_type: &str, body: &Value) -> Result<Method, Refusal> {
    let bank = body["bank_transfer"]["bank"].as_str().unwrap_or_default();
    Ok(match (payment_type, bank) {
        ("qris", _) => match body["qris"]["acquirer"].as_str() {
            None | Some("gopay") => Method::Qris { acquirer: "gopay" },
            Some("airpay shopee") => Method::Qris { acquirer: "airpay shopee" },
            Some(_) => return Err(Refusal::Invalid("qris.acquirer must be gopay or airpay shopee".into())),
        },
        ("permata", _) | ("bank_transfer", "permata") => {
            Method::Permata { number: number(world, &body["bank_transfer"], "8500", 16, 12, 12)? }
        }
        ("bank_transfer", "bca") => {
            let inquiry = body["bank_transfer"]["free_text"]["inquiry"].as_array().map_or(0, Vec::len);
            if inquiry > 10 {
                return Err(Refusal::Invalid("bank_transfer.free_text.inquiry may hold at most 10 texts".into()));
            }
            Method::Va { bank: "bca", number: number(world, &body["bank_transfer"], "81278", 11, 6, 18)? }
        }
        ("bank_transfer", "bni") => {
            Method::Va { bank: "bni", number: number(world, &body["bank_transfer"], "9888", 16, 8, 12)? }
        }
        ("bank_transfer", "bri") => {
            Method::Va { bank: "bri", number: number(world, &body["bank_transfer"], "12082", 18, 18, 18)? }
        }
        ("bank_transfer", "cimb") => {
            Method::Va { bank: "cimb", number: number(world, &body["bank_transfer"], "5179", 16, 12, 12)? }
        }
        ("bank_transfer", _) => {
            let problem = "bank_transfer.bank must be bca, bni, bri, cimb or permata";
            return Err(Refusal::Invalid(problem.into()));
        }
        ("echannel", _) => {
            for name in ["bill_info1", "bill_info2"] {
                if body["echannel"][name].as_str().is_none_or(str::is_empty) {
                    return Err(Refusal::Invalid(format!("echannel.{name} is required")));
                }
            }
            let given = body["echannel"]["bill_key"].as_str();
            let is_good = |it: &str| (6..=12).contains(&it.len()) && it.bytes().all(|it| it.is_ascii_digit());
            let bill_key = match given {
                Some(given) if is_good(given) => given.to_owned(),
                Some(_) => return Err(Refusal::Invalid("echannel.bill_key must have 6 to 12 digits".into())),
                None => format!("9900{}", world.ids.digits(8)),
            };
            Method::Echannel { bill_key }
        }
        ("credit_card", _) => Method::Card(Box::new(card(world, account, &body["credit_card"])?)),
        _ => return Err(Refusal::Invalid("payment_type is not recognized".into())),
    })
}

/// A number of so many digits that begins in a way: one of ours, or the merchant's own, padded and trimmed.
fn number(
    world: &mut World,
    transfer: &Value,
    prefix: &str,
    length: usize,
    least: usize,
    most: usize,
) -> Result<String, Refusal> {
    let Some(given) = transfer["va_number"].as_str() else {
        return Ok(format!("{prefix}{}", world.ids.digits(length - prefix.len())));
    };
    if given.is_empty() || !given.bytes().all(|it| it.is_ascii_digit()) {
        return Err(Refusal::Invalid("bank_transfer.va_number must be digits".into()));
    }
    let given = &given[..given.len().min(most)];
    Ok(format!("{prefix}{given:0>least$}"))
}

fn card(world: &mut World, account: &MidtransAccount, said: &Value) -> Result<Card, Refusal> {
    let token = said["token_id"].as_str().and_then(|id| world.midtrans.take_token(id));
    let token = token.filter(|token| token.merchant_id == account.merchant_id).ok_or(Refusal::Token)?;
    Ok(Card {
        masked: token.masked,
        outcome: token.outcome,
        is_authorize: said["type"] == "authorize",
        is_3ds: said["authentication"] == true,
        said: None,
        approval_code: world.ids.digits(13),
    })
}

fn expiry(now: Moment, method: &Method, custom: &Value) -> Result<Moment, String> {
    let (usual, most) = life(method);
    if custom.is_null() || matches!(method, Method::Card(_)) {
        return Ok(now.plus(usual));
    }
    let duration = custom["expiry_duration"].as_u64().filter(|it| (1..=u64::from(u32::MAX)).contains(it));
    let duration = duration.ok_or("custom_expiry.expiry_duration must be a whole number greater than 0")?;
    let unit = match custom["unit"].as_str().unwrap_or("minute") {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return Err("custom_expiry.unit must be second, minute, hour or day".into()),
    };
    let from = match custom["order_time"].as_str() {
        Some(text) => Moment::parse_order_time(text)
            .ok_or("custom_expiry.order_time must be written as 2026-01-14 10:05:00 +0700")?,
        None => now,
    };
    let expires = from.plus(Duration::from_secs(duration * unit));
    if expires <= now {
        return Err("custom_expiry must lie in the future".into());
    }
    if expires > now.plus(most) {
        return Err(format!("custom_expiry must be at most {} seconds for this payment type", most.as_secs()));
    }
    let is_transfer = !matches!(method, Method::Qris { .. });
    if is_transfer && expires < now.plus(VA_LIFE_MIN) {
        return Err(format!("custom_expiry must be at least {} seconds for this payment type", VA_LIFE_MIN.as_secs()));
    }
    Ok(expires)
}

/// The URLs of a header, if it is there.
fn addresses(call: &Call, header: &str) -> Result<Option<Vec<String>>, String> {
    let Some(text) = call.header(header) else { return Ok(None) };
    let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
    if urls.len() <= URLS_MAX && urls.iter().all(|url| is_url(url)) {
        return Ok(Some(urls));
    }
    Err(format!("{header} must be at most {URLS_MAX} URLs with commas between them"))
}

/// The text of the QR code, and the id of its picture.
fn code(
    world: &mut World,
    account: &MidtransAccount,
    acquirer: &str,
    details: &Details,
    id: &str,
    names: &[String],
) -> (String, String) {
    let qr_id = format!("A1{}{}ID", world.now().dense(), world.ids.letters(10));
    let whose = if acquirer == "gopay" { qris::GOPAY } else { qris::SHOPEEPAY };
    let more = [("50", id), ("07", "A01")];
    let shop = shop(account);
    let bill = Bill { amount: Some(details.gross), more: &more };
    let mut qr = qris::text(whose, &shop.seen_by_banks(account), "UMI", &bill);
    if let Some(rule) = world.fault(Fault::QrWrongAmount, Provider::Midtrans, names, "charge") {
        qr = qris::with_amount(&qr, rule.amount.unwrap_or(details.gross + 1)).unwrap_or(qr);
    }
    if world.fault(Fault::QrBadCrc, Provider::Midtrans, names, "charge").is_some() {
        qr = qris::with_bad_checksum(&qr);
    }
    (qr, qr_id)
}

/// What acquirers call the merchant, made of what Midtrans calls it.
pub struct AtTheAcquirer {
    id: String,
    number: String,
}

pub fn shop(account: &MidtransAccount) -> AtTheAcquirer {
    let digits: String = account.merchant_id.chars().filter(char::is_ascii_digit).take(9).collect();
    AtTheAcquirer { id: format!("G{digits:0>9}"), number: format!("0{digits:0>9}") }
}

impl AtTheAcquirer {
    pub fn seen_by_banks<'a>(&'a self, account: &'a account::MidtransAccount) -> qris::Shop<'a> {
        account.shop.qris(&self.id, &self.number)
    }
}

/// Used by the static code, which nobody charges for.
pub fn static_code(account: &MidtransAccount) -> String {
    qris::text(qris::GOPAY, &shop(account).seen_by_banks(account), "UMI", &Bill::default())
}

/// `Rp48500.00`, for pages.
pub fn shown(amount: i64) -> String {
    format!("Rp{}", rupiah(amount))
}
