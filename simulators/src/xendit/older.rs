//! Payments v2, as far as the official client for Node.js asks: a request with its payment method, for QRIS and virtual
//! accounts. It is the same request underneath; only its shape is older.

use serde_json::{Map, Value, json};

use super::channel::{Channel, Kind};
use super::create::{Ask, expiry, make, whole};
use super::moves::{of_the_caller, page};
use super::request::{Api, Payment, Request, Status};
use super::{Caller, Due, error, invalid, not_found};
use crate::call::{Call, Reply};
use crate::world::{self, World};

pub fn create(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    let made = ask(world, call).map(|ask| make(world, caller, ask));
    match made {
        Ok(id) => Reply::json(201, &shown(world.xendit.requests.get(&id).expect("just made"))),
        Err(refused) => refused,
    }
}

fn ask(world: &World, call: &Call) -> Result<Ask, Reply> {
    let body: Value = serde_json::from_slice(&call.body).map_err(|_| invalid("The body must be JSON"))?;
    let method = &body["payment_method"];
    let is_reusable = match method["reusability"].as_str() {
        Some("ONE_TIME_USE") => false,
        Some("MULTIPLE_USE") => true,
        _ => return Err(invalid("payment_method.reusability must be ONE_TIME_USE or MULTIPLE_USE")),
    };
    let (channel, said) = match method["type"].as_str() {
        Some("QR_CODE") => ("QRIS".to_owned(), &method["qr_code"]),
        Some("VIRTUAL_ACCOUNT") => {
            let account = &method["virtual_account"];
            (format!("{}_VIRTUAL_ACCOUNT", account["channel_code"].as_str().unwrap_or_default()), account)
        }
        _ => return Err(invalid("payment_method.type must be QR_CODE or VIRTUAL_ACCOUNT here")),
    };
    let channel = Channel::of(&channel).ok_or_else(|| invalid("payment_method.channel_code is not supported"))?;
    if body["currency"] != "IDR" {
        return Err(invalid("currency must be IDR"));
    }
    let amount = match &body["amount"] {
        Value::Null if is_reusable => None,
        said => Some(whole(said, "amount", channel)?),
    };
    let properties = &said["channel_properties"];
    // What v3 refuses for a QR code, v2 took.
    let expires = match channel.kind {
        Kind::Qr => None,
        _ => expiry(world.now(), channel, properties)?,
    };
    let mut echoed = Map::new();
    for name in ["metadata", "description", "customer_id"] {
        if !body[name].is_null() {
            echoed.insert(name.into(), body[name].clone());
        }
    }
    Ok(Ask {
        reference: body["reference_id"].as_str().unwrap_or("v2").to_owned(),
        kind: if is_reusable { "REUSABLE_PAYMENT_CODE" } else { "PAY" },
        amount,
        is_manual: false,
        channel,
        properties: if properties.is_object() { properties.clone() } else { json!({}) },
        expires,
        number: None,
        is_challenged: false,
        echoed,
        api: Api::V2,
    })
}

fn status(request: &Request) -> &'static str {
    match request.status {
        Status::RequiresAction | Status::AcceptingPayments => "PENDING",
        status => status.as_str(),
    }
}

fn method(request: &Request) -> Value {
    let mut properties = request.properties.clone();
    let (kind, name, channel) = match request.channel.kind {
        Kind::Qr => {
            properties["qr_string"] = request.code.as_str().into();
            ("QR_CODE", "qr_code", "QRIS")
        }
        _ => {
            properties["virtual_account_number"] = request.code.as_str().into();
            ("VIRTUAL_ACCOUNT", "virtual_account", request.channel.code.trim_end_matches("_VIRTUAL_ACCOUNT"))
        }
    };
    properties["expires_at"] = request.expires.utc().into();
    let mut method = json!({
        "id": format!("pm-{}", &request.id[3..]),
        "type": kind,
        "reference_id": request.reference,
        "reusability": if request.is_reusable() { "MULTIPLE_USE" } else { "ONE_TIME_USE" },
        "status": if request.status.is_open() { "ACTIVE" } else { "EXPIRED" },
        "created": request.created,
        "updated": request.updated,
    });
    method[name] = json!({
        "amount": request.amount,
        "currency": "IDR",
        "channel_code": channel,
        "channel_properties": properties,
    });
    method
}

fn shown(request: &Request) -> Value {
    let mut all = json!({
        "id": request.id,
        "created": request.created,
        "updated": request.updated,
        "reference_id": request.reference,
        "business_id": request.business_id,
        "amount": request.amount,
        "country": "ID",
        "currency": request.currency,
        "payment_method": method(request),
        "capture_method": "AUTOMATIC",
        "failure_code": request.failure,
        "status": status(request),
        "actions": [],
    });
    for (name, value) in &request.echoed {
        all[name] = value.clone();
    }
    all
}

/// What its webhook is called and says; nothing for what v2 did not tell in another way.
pub fn told(request: &Request, payment: &Payment) -> Option<(&'static str, Value)> {
    let event = match payment.status {
        "SUCCEEDED" => "payment.succeeded",
        "FAILED" => "payment.failed",
        _ => return None,
    };
    let data = json!({
        "id": payment.id,
        "payment_request_id": request.id,
        "reference_id": request.reference,
        "currency": request.currency,
        "amount": payment.amount,
        "country": "ID",
        "status": payment.status,
        "payment_method": method(request),
        "payment_detail": payment.details,
        "failure_code": payment.failure,
        "created": payment.created,
        "updated": payment.updated,
        "metadata": request.echoed.get("metadata"),
    });
    Some((event, data))
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    of_the_caller(world, caller, id).map_or_else(not_found, |it| Reply::json(200, &shown(it)))
}

pub fn list(world: &World, caller: &Caller, call: &Call) -> Reply {
    match page(world, caller, call) {
        Ok((ids, has_more)) => {
            let data: Vec<Value> = ids.iter().filter_map(|id| world.xendit.requests.get(id)).map(shown).collect();
            Reply::json(200, &json!({ "data": data, "has_more": has_more }))
        }
        Err(refused) => refused,
    }
}

pub fn simulate(world: &mut World, caller: &Caller, id: &str) -> Reply {
    if !caller.account.is_test() {
        return error(403, "REQUEST_FORBIDDEN_ERROR", "Payments are simulated in test mode only");
    }
    let Some(request) = of_the_caller(world, caller, id) else { return not_found() };
    if !request.status.is_open() {
        return error(400, "INACTIVE_PAYMENT_REQUEST", "The payment request is not active");
    }
    let id = request.id.clone();
    world.at(world.now(), world::Due::Xendit(Due::Simulated(id, None)));
    let message = "A simulated payment request is being processed";
    Reply::json(200, &json!({ "status": "PENDING", "message": message }))
}
