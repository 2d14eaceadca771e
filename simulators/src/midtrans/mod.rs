//! Midtrans: Core API v2, as its documents and its official clients know it.
//!
//! INVARIANT: business answers are HTTP 200 with the truth in `status_code`. Only a wrong key is HTTP 401, an unknown path
//! 404 and a wrong method 405.

mod balance;
mod book;
mod cards;
mod challenge;
mod charge;
pub mod idempotency;
mod moves;
mod notify;
mod pay;
mod refund;
mod transaction;

use std::sync::Arc;

pub use book::Midtrans;
pub use charge::static_code;
pub use notify::forge;
pub use pay::{billed, chargeback, expire_now, fail, open, pay, pay_static, payable_late, settle};
use serde_json::{Value, json};
pub use transaction::signature;

use crate::account::MidtransAccount;
use crate::call::{Call, Reply};
use crate::world::World;

/// What happens by the clock, to the transaction of this id.
pub enum Due {
    Expire(String),
    /// A card's money is settled, or what nobody approved is cancelled.
    Settle(String),
    /// An authorisation that nobody captured lapses.
    Lapse(String),
    /// The bank confirms a refund: the transaction, and the refund's key.
    ConfirmRefund(String, String),
    /// By a fault: it is paid though it had expired.
    PayLate(String),
    /// By a fault: the payment is taken back.
    Reverse(String),
    /// By a fault: a failure is told that is none.
    TellFailure(String),
    /// A card that is looked at for a while is accepted.
    Accept(String),
}

pub fn happens(world: &mut World, due: Due) {
    match due {
        Due::Expire(id) => pay::expires(world, &id),
        Due::Settle(id) => pay::is_settled(world, &id),
        Due::Lapse(id) => pay::lapses(world, &id),
        Due::ConfirmRefund(id, key) => refund::is_confirmed(world, &id, &key),
        Due::PayLate(id) => pay::comes_late(world, &id),
        Due::Reverse(id) => pay::is_reversed(world, &id),
        Due::TellFailure(id) => notify::a_failure_that_is_none(world, &id),
        Due::Accept(id) => cards::is_accepted(world, &id),
    }
}

/// What a call asks for, as faults and the log name it.
pub fn operation(call: &Call) -> &'static str {
    match call.line() {
        ("POST", parts) => match parts[..] {
            ["v2", "charge"] => "charge",
            ["v2", "capture"] => "capture",
            ["v2", _, "cancel"] => "cancel",
            ["v2", _, "expire"] => "expire",
            ["v2", _, "approve"] => "approve",
            ["v2", _, "deny"] => "deny",
            ["v2", _, "refund"] | ["v2", _, "refund", "online", "direct"] => "refund",
            ["v2", "3ds", _] => "3ds",
            _ => "unknown",
        },
        ("GET", parts) => match parts[..] {
            ["v2", "token"] => "token",
            ["v2", _, "status"] | ["v2", _, "status", "b2b"] => "status",
            ["v2" | "v4", "qris", _, "qr-code"] => "qr_code",
            ["v1", "balance", "mutation"] => "balance",
            ["v2", "3ds", _] => "3ds",
            _ => "unknown",
        },
        _ => "unknown",
    }
}

/// What the payment is called that a call is about: its reference and its id, as far as they are known.
pub fn names(world: &World, call: &Call) -> Vec<String> {
    let body = call.json();
    let said = [&body["transaction_details"]["order_id"], &body["transaction_id"]];
    let id = match call.line().1[..] {
        ["v2", "3ds" | "qris", id, ..] | ["v2", id, ..] if !matches!(id, "charge" | "capture" | "token") => Some(id),
        _ => said.into_iter().find_map(Value::as_str),
    };
    let Some(id) = id else { return Vec::new() };
    world.midtrans.find(None, id).map_or_else(|| vec![id.to_owned()], transaction::Transaction::names)
}

pub fn handle(world: &mut World, call: &Call) -> Reply {
    let reply = answer(world, call);
    idempotency::leave(world, call);
    reply
}

fn answer(world: &mut World, call: &Call) -> Reply {
    // What a browser opens has no key.
    match call.line() {
        ("GET", parts) => match parts[..] {
            ["v2", "token"] => return cards::token(world, call),
            [version @ ("v2" | "v4"), "qris", id, "qr-code"] => return charge::qr_code(world, version, id),
            ["v2", "3ds", id] => return challenge::page(world, id),
            _ => {}
        },
        ("POST", parts) => {
            if let ["v2", "3ds", id] = parts[..] {
                return challenge::answer(world, id, call);
            }
        }
        _ => {}
    }
    let operation = operation(call);
    if operation == "unknown" {
        let known = |method| {
            let method = axum::http::Method::from_bytes(method).expect("a method");
            self::operation(&Call { method, parts: call.parts.clone(), ..empty() }) != "unknown"
        };
        return match known(b"GET") || known(b"POST") {
            true => Reply { status: 405, ..error(405, "Method not allowed") },
            false => Reply { status: 404, ..error(404, "The requested resource is not found") },
        };
    }
    let account = call.key().and_then(|key| world.midtrans.account_of_key(&key));
    let Some(account) = account else {
        let message = "Transaction cannot be authorized with the current client/server key.";
        return Reply { status: 401, ..refused(world, 401, message, &[]) };
    };
    let accepts = call.header("accept").unwrap_or("*/*");
    if !["*/*", "application/*", "application/json"].iter().any(|it| accepts.contains(it)) {
        return refused(world, 403, "The Accept header cannot be satisfied: ask for application/json", &[]);
    }
    if account.is_deactivated {
        return refused(world, 410, "Merchant account is deactivated", &[]);
    }
    if let Some(stored) = idempotency::stored(world, &account.merchant_id, call) {
        return stored;
    }
    let reply = dispatch(world, &account, call);
    idempotency::store(world, &account.merchant_id, call, &reply);
    reply
}

fn dispatch(world: &mut World, account: &Arc<MidtransAccount>, call: &Call) -> Reply {
    match call.line().1[..] {
        ["v2", "charge"] => charge::charge(world, account, call),
        ["v2", "capture"] => moves::capture(world, account, call),
        ["v2", id, "cancel"] => moves::cancel(world, account, id),
        ["v2", id, "expire"] => moves::expire(world, account, id),
        ["v2", id, "approve"] => moves::approve(world, account, id),
        ["v2", id, "deny"] => moves::deny(world, account, id),
        ["v2", id, "refund"] | ["v2", id, "refund", "online", "direct"] => refund::refund(world, account, id, call),
        ["v2", id, "status"] => moves::status(world, account, id),
        ["v2", id, "status", "b2b"] => moves::status_b2b(world, account, id),
        _ => balance::mutation(world, account, call),
    }
}

fn empty() -> Call {
    Call::new(axum::http::Method::GET, "", None, axum::http::HeaderMap::new(), Vec::new())
}

/// An error without an id of its own.
pub fn error(code: u16, message: &str) -> Reply {
    Reply::json(200, &json!({ "status_code": code.to_string(), "status_message": message }))
}

/// An error as the endpoints answer it: HTTP 200, with what is wrong in the payload, if that is what is wrong.
fn refused(world: &mut World, code: u16, message: &str, problems: &[String]) -> Reply {
    let id = world.ids.uuid();
    let mut body = json!({ "status_code": code.to_string(), "status_message": message, "id": id });
    if !problems.is_empty() {
        body["validation_messages"] = json!(problems);
    }
    Reply::json(200, &body)
}

fn invalid(world: &mut World, problems: &[String]) -> Reply {
    refused(world, 400, "One or more parameters in the payload is invalid.", problems)
}

fn not_found(world: &mut World) -> Reply {
    refused(world, 404, "Transaction doesn't exist.", &[])
}

fn illegal(world: &mut World) -> Reply {
    refused(world, 412, "Merchant cannot modify the status of the transaction", &[])
}

/// What a fault answers in place of everything.
pub fn broken(status: u16) -> Reply {
    let message = match status {
        429 => "Too many requests",
        503 => "The bank or partner cannot be reached now, try again later",
        _ => "Sorry, we encountered an internal server error. We will fix this soon.",
    };
    Reply { status, ..error(status, message) }
}
