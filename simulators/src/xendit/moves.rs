//! What a merchant may do to a request, and what it is told of one.

use serde_json::{Value, json};

use super::channel::Kind;
use super::create::{expiry, whole};
use super::request::{Request, Status};
use super::{Caller, Due, error, invalid, not_found, pay};
use crate::call::{Call, Reply};
use crate::world::{self, World};

/// How many rows a page has if nobody says, and at most.
pub const PAGE: usize = 10;
pub const PAGE_MAX: usize = 50;

/// A request of the caller's.
pub fn of_the_caller<'a>(world: &'a World, caller: &Caller, id: &str) -> Option<&'a Request> {
    world.xendit.requests.get(id).filter(|it| it.account == caller.account.business_id)
}

fn shown(world: &World, id: &str) -> Value {
    let Some(request) = world.xendit.requests.get(id) else { return Value::Null };
    let latest = request.latest_payment.as_deref().and_then(|id| world.xendit.payments.get(id));
    request.shown(&world.xendit.base, latest)
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    of_the_caller(world, caller, id).map_or_else(not_found, |it| Reply::json(200, &shown(world, &it.id)))
}

/// Newest first. The filters are not published: `reference_id` is what v2 had.
pub fn list(world: &World, caller: &Caller, call: &Call) -> Reply {
    let page = page(world, caller, call);
    page.map_or_else(
        |refused| refused,
        |(ids, has_more)| {
            let data: Vec<Value> = ids.iter().map(|id| shown(world, id)).collect();
            Reply::json(200, &json!({ "data": data, "has_more": has_more }))
        },
    )
}

/// The ids of the requests that a list asks for, and whether there are more.
pub fn page(world: &World, caller: &Caller, call: &Call) -> Result<(Vec<String>, bool), Reply> {
    let limit = limit(call)?;
    let references = call.parameters("reference_id");
    let ids = call.parameters("id");
    let all = world.xendit.requests.iter().rev().filter(|it| {
        it.account == caller.account.business_id
            && (references.is_empty() || references.contains(&it.reference.as_str()))
            && (ids.is_empty() || ids.contains(&it.id.as_str()))
    });
    let after = call.parameter("after_id");
    let rest = all.skip_while(|it| after.is_some_and(|after| it.id != after)).skip(usize::from(after.is_some()));
    let mut found: Vec<String> = rest.take(limit + 1).map(|it| it.id.clone()).collect();
    let has_more = found.len() > limit;
    found.truncate(limit);
    Ok((found, has_more))
}

pub fn limit(call: &Call) -> Result<usize, Reply> {
    match call.parameter("limit").map(str::parse) {
        None => Ok(PAGE),
        Some(Ok(limit @ 1..=PAGE_MAX)) => Ok(limit),
        Some(_) => Err(invalid(&format!("limit must be 1 to {PAGE_MAX}"))),
    }
}

pub fn cancel(world: &mut World, caller: &Caller, id: &str) -> Reply {
    let Some(request) = of_the_caller(world, caller, id) else { return not_found() };
    match request.status {
        Status::RequiresAction | Status::AcceptingPayments => {}
        Status::Succeeded | Status::Authorized => {
            return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The payment request was paid");
        }
        _ => return error(400, "INACTIVE_PAYMENT_REQUEST", "The payment request is not active"),
    }
    let now = world.now();
    let Some(request) = world.xendit.requests.get_mut(id) else { return not_found() };
    (request.status, request.updated) = (Status::Canceled, now);
    pay::may_come_late(world, id, "cancel");
    Reply::json(200, &shown(world, id))
}

/// Test mode only. Always pending: the result comes by webhook.
pub fn simulate(world: &mut World, caller: &Caller, id: &str, call: &Call) -> Reply {
    if !caller.account.is_test() {
        return error(403, "REQUEST_FORBIDDEN_ERROR", "Payments are simulated in test mode only");
    }
    let Some(request) = of_the_caller(world, caller, id) else { return not_found() };
    if !request.status.is_open() {
        return error(400, "INACTIVE_PAYMENT_REQUEST", "The payment request is not active");
    }
    let body = call.json();
    let amount = match &body["amount"] {
        Value::Null => None,
        said => match whole(said, "amount", request.channel) {
            Ok(amount) => Some(amount),
            Err(refused) => return refused,
        },
    };
    world.at(world.now(), world::Due::Xendit(Due::Simulated(id.to_owned(), amount)));
    let message = "A simulated payment request is being processed";
    Reply::json(200, &json!({ "status": "PENDING", "message": message }))
}

/// Of virtual accounts alone.
pub fn update(world: &mut World, caller: &Caller, id: &str, call: &Call) -> Reply {
    let Some(request) = of_the_caller(world, caller, id) else { return not_found() };
    if request.channel.kind != Kind::Va {
        return invalid(&format!("update is not supported by channel '{}'", request.channel.code));
    }
    if !request.status.is_open() {
        return error(400, "INACTIVE_PAYMENT_REQUEST", "The payment request is not active");
    }
    let body = call.json();
    let amount = match &body["request_amount"] {
        Value::Null => request.amount,
        said => match whole(said, "request_amount", request.channel) {
            Ok(amount) => Some(amount),
            Err(refused) => return refused,
        },
    };
    let expires = match expiry(world.now(), request.channel, &body["channel_properties"]) {
        Ok(expires) => expires.unwrap_or(request.expires),
        Err(refused) => return refused,
    };
    let now = world.now();
    let Some(request) = world.xendit.requests.get_mut(id) else { return not_found() };
    request.amount = amount;
    if request.expires != expires {
        request.expires = expires;
        request.properties["expires_at"] = expires.utc().into();
        world.at(expires, world::Due::Xendit(Due::Expire(id.to_owned())));
    }
    let Some(request) = world.xendit.requests.get_mut(id) else { return not_found() };
    if let Some(description) = body["description"].as_str() {
        request.echoed.insert("description".into(), description.into());
    }
    request.updated = now;
    Reply::json(200, &shown(world, id))
}
