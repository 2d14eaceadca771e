//! Xendit: Payments API v3, with the little of v2 that its official client for Node.js speaks.
//!
//! INVARIANT: a webhook is not signed; whoever knows the token can say anything. What is true only a GET says.

mod book;
mod challenge;
mod channel;
mod create;
mod moves;
mod notify;
mod older;
mod pay;
mod payments;
mod rate;
mod refunds;
mod reports;
mod request;
mod sessions;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

pub use book::Xendit;
pub use notify::forge;
pub use pay::{billed, chargeback, expire_now, fail, open, pay, pay_static, payable_late, settle};
use serde_json::json;

use crate::account::XenditAccount;
use crate::call::{Call, Reply};
use crate::world::World;

/// The version that v3 is asked for by.
const VERSION: &str = "2024-11-11";

/// What happens by the clock, to what has this id.
pub enum Due {
    /// A request's time is over.
    Expire(String),
    /// An authorisation that nobody captured lapses: a payment.
    Lapse(String),
    EndRefund(String),
    /// `…/simulate`: a request, and what is paid.
    Simulated(String, Option<i64>),
    ExpireSession(String),
    FinishReport(String),
    /// By a fault: a request is paid though it is over.
    PayLate(String),
    /// By a fault: a payment is taken back.
    Reverse(String),
    /// By a fault: a failure of a payment is told that is none.
    TellFailure(String),
}

pub fn happens(world: &mut World, due: Due) {
    match due {
        Due::Expire(id) => pay::expires(world, &id),
        Due::Lapse(id) => payments::lapses(world, &id),
        Due::EndRefund(id) => refunds::ends(world, &id),
        Due::Simulated(id, amount) => pay::is_simulated(world, &id, amount),
        Due::ExpireSession(id) => sessions::expires(world, &id),
        Due::FinishReport(id) => reports::is_finished(world, &id),
        Due::PayLate(id) => pay::comes_late(world, &id),
        Due::Reverse(id) => pay::is_reversed(world, &id),
        Due::TellFailure(id) => notify::a_failure_that_is_none(world, &id),
    }
}

/// What a call asks for, as faults, limits and the log name it.
pub fn operation(call: &Call) -> &'static str {
    match (call.method.as_str(), call.line().1.as_slice()) {
        ("POST", ["v3", "payment_requests"] | ["payment_requests"]) => "create",
        ("GET", ["v3", "payment_requests"] | ["payment_requests"]) => "list",
        ("GET", ["v3", "payment_requests", _] | ["payment_requests", _]) => "get",
        ("PATCH", ["v3", "payment_requests", _]) => "update",
        ("POST", ["v3", "payment_requests", _, "cancel"]) => "cancel",
        ("POST", ["v3", "payment_requests", _, "simulate"] | ["payment_requests", _, "payments", "simulate"]) => {
            "simulate"
        }
        ("GET", ["v3", "payments", _]) => "get_payment",
        ("POST", ["v3", "payments", _, "capture"]) => "capture",
        ("POST", ["v3", "payments", _, "cancel"]) => "cancel_payment",
        ("POST", ["refunds"]) => "refund",
        ("GET", ["refunds"]) => "list_refunds",
        ("GET", ["refunds", _]) => "get_refund",
        ("POST", ["refunds", _, "cancel"]) => "cancel_refund",
        ("POST", ["sessions"]) => "session",
        ("GET", ["sessions", _]) => "get_session",
        ("POST", ["sessions", _, "cancel"]) => "cancel_session",
        ("GET", ["transactions"]) => "list_transactions",
        ("GET", ["transactions", _]) => "get_transaction",
        ("POST", ["reports"]) => "report",
        ("GET", ["reports", _]) => "get_report",
        ("GET" | "POST", ["3ds" | "pay", _]) | ("GET", ["files", _]) => "page",
        _ => "unknown",
    }
}

/// What the payment is called that a call is about: its reference and its id, as far as they are known.
pub fn names(world: &World, call: &Call) -> Vec<String> {
    let body = call.json();
    let said = [&body["payment_request_id"], &body["reference_id"]].into_iter().find_map(|it| it.as_str());
    let id = match call.line().1[..] {
        ["v3", _, id, ..] | ["payment_requests" | "refunds" | "sessions" | "3ds" | "pay", id, ..] => Some(id),
        _ => said,
    };
    let Some(id) = id else { return Vec::new() };
    let request = world.xendit.request_of(id);
    request.map_or_else(|| vec![id.to_owned()], request::Request::names)
}

pub fn handle(world: &mut World, call: &Call) -> Reply {
    let operation = operation(call);
    match (call.method.as_str(), call.line().1.as_slice()) {
        // What a browser opens has no key.
        ("GET", ["3ds", id]) => return challenge::page(world, id),
        ("POST", ["3ds", id]) => return challenge::answer(world, id, call),
        ("GET", ["pay", id]) => return sessions::page(world, id),
        ("POST", ["pay", id]) => return sessions::paid_by_hand(world, id, call),
        ("GET", ["files", id]) => return reports::file(world, id),
        _ => {}
    }
    if operation == "unknown" {
        return error(404, "NOT_FOUND", "The requested resource was not found");
    }
    let account = call.key().and_then(|key| world.xendit.account_of_key(&key));
    let Some(account) = account else {
        return error(401, "INVALID_API_KEY", "API key is not authorized for this API service");
    };
    let is_v3 = call.parts.first().is_some_and(|it| it == "v3");
    if is_v3 && call.header("api-version") != Some(VERSION) {
        return error(400, "API_VALIDATION_ERROR", &format!("header 'api-version' must be {VERSION}"));
    }
    let caller = match call.header("for-user-id") {
        None => Caller { business_id: account.business_id.clone(), account },
        Some(id) if id == account.business_id || account.sub_accounts.iter().any(|it| it == id) => {
            Caller { business_id: id.to_owned(), account }
        }
        Some(_) => return error(403, "REQUEST_FORBIDDEN_ERROR", "for-user-id is no sub-account of yours"),
    };
    let room = rate::room(world, &caller.account, operation);
    let reply = match room.is_full {
        true => error(429, "RATE_LIMIT_EXCEEDED", "The rate limit of this endpoint is exceeded"),
        false => dispatch(world, &caller, call),
    };
    room.told(reply)
}

/// Who calls, and for whom.
pub struct Caller {
    pub account: Arc<XenditAccount>,
    pub business_id: String,
}

fn dispatch(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    match (call.method.as_str(), call.line().1.as_slice()) {
        ("POST", ["v3", "payment_requests"]) => create::create(world, caller, call),
        ("GET", ["v3", "payment_requests"]) => moves::list(world, caller, call),
        ("GET", ["v3", "payment_requests", id]) => moves::get(world, caller, id),
        ("PATCH", ["v3", "payment_requests", id]) => moves::update(world, caller, id, call),
        ("POST", ["v3", "payment_requests", id, "cancel"]) => moves::cancel(world, caller, id),
        ("POST", ["v3", "payment_requests", id, "simulate"]) => moves::simulate(world, caller, id, call),
        ("GET", ["v3", "payments", id]) => payments::get(world, caller, id),
        ("POST", ["v3", "payments", id, "capture"]) => payments::capture(world, caller, id, call),
        ("POST", ["v3", "payments", id, "cancel"]) => payments::cancel(world, caller, id),
        ("POST", ["refunds"]) => refunds::create(world, caller, call),
        ("GET", ["refunds"]) => refunds::list(world, caller, call),
        ("GET", ["refunds", id]) => refunds::get(world, caller, id),
        ("POST", ["refunds", id, "cancel"]) => refunds::cancel(world, caller, id),
        ("POST", ["sessions"]) => sessions::create(world, caller, call),
        ("GET", ["sessions", id]) => sessions::get(world, caller, id),
        ("POST", ["sessions", id, "cancel"]) => sessions::cancel(world, caller, id),
        ("GET", ["transactions"]) => transactions::list(world, caller, call),
        ("GET", ["transactions", id]) => transactions::get(world, caller, id),
        ("POST", ["reports"]) => reports::create(world, caller, call),
        ("GET", ["reports", id]) => reports::get(world, caller, id),
        ("POST", ["payment_requests"]) => older::create(world, caller, call),
        ("GET", ["payment_requests"]) => older::list(world, caller, call),
        ("GET", ["payment_requests", id]) => older::get(world, caller, id),
        ("POST", ["payment_requests", id, "payments", "simulate"]) => older::simulate(world, caller, id),
        _ => error(404, "NOT_FOUND", "The requested resource was not found"),
    }
}

pub fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "error_code": code, "message": message }))
}

fn invalid(message: &str) -> Reply {
    error(400, "API_VALIDATION_ERROR", message)
}

fn not_found() -> Reply {
    error(404, "DATA_NOT_FOUND", "The requested data was not found")
}

/// What a fault answers in place of everything.
pub fn broken(status: u16) -> Reply {
    match status {
        503 => error(503, "CHANNEL_UNAVAILABLE", "The channel is currently experiencing unexpected issues"),
        _ => error(500, "SERVER_ERROR", "Error connecting to our server"),
    }
}

/// What a fault answers as if the caller had asked too often.
pub fn too_many(until: Duration) -> Reply {
    let reply = error(429, "RATE_LIMIT_EXCEEDED", "The rate limit of this endpoint is exceeded");
    rate::Room::full(until).told(reply)
}
