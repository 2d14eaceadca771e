//! `/refunds`: pending at first, and decided by a webhook.

use std::time::Duration;

use serde_json::{Value, json};

use super::channel::{Kind, is_refundable};
use super::moves::{limit, of_the_caller};
use super::request::{Payment, Request};
use super::{Caller, Due, error, invalid, not_found, notify, transactions};
use crate::account::Provider;
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::faults::Fault;
use crate::world::{self, World};

/// How long a refund is pending.
pub const ENDS_AFTER: Duration = Duration::from_secs(10);
/// How long CIMB Niaga has to be waited for before all can go back.
const CIMB_FULL_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How many refunds one payment may have.
const REFUNDS_MAX: usize = 20;
const REASONS: [&str; 5] = ["FRAUDULENT", "DUPLICATE", "REQUESTED_BY_CUSTOMER", "CANCELLATION", "OTHERS"];

pub struct Refund {
    pub id: String,
    pub request: String,
    pub payment: String,
    reference: Option<String>,
    pub amount: i64,
    reason: String,
    pub status: &'static str,
    failure: Option<&'static str>,
    metadata: Value,
    is_rejected: bool,
    pub created: Moment,
    updated: Moment,
}

impl Refund {
    pub fn shown(&self, request: &Request) -> Value {
        json!({
            "id": self.id,
            "payment_request_id": self.request,
            "payment_id": self.payment,
            "invoice_id": null,
            "payment_method_type": request.channel.category(),
            "reference_id": self.reference,
            "channel_code": request.channel.code,
            "country": "ID",
            "currency": "IDR",
            "amount": self.amount,
            "reason": self.reason,
            "status": self.status,
            "failure_code": self.failure,
            "refund_fee_amount": null,
            "metadata": self.metadata,
            "created": self.created,
            "updated": self.updated,
        })
    }
}

/// `POST /refunds`. An idempotency key is not looked at: v3 documents none.
pub fn create(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    let body: Value = match serde_json::from_slice(&call.body) {
        Ok(body) => body,
        Err(_) => return invalid("The body must be JSON"),
    };
    let now = world.now();
    let request = body["payment_request_id"].as_str().and_then(|id| of_the_caller(world, caller, id));
    let Some(request) = request else { return not_found() };
    let reason = body["reason"].as_str().unwrap_or_default();
    if !REASONS.contains(&reason) {
        return invalid(&format!("reason must be one of {}", REASONS.join(", ")));
    }
    if !matches!(body["currency"].as_str(), None | Some("IDR")) {
        return invalid("currency must be IDR");
    }
    let reference = match &body["reference_id"] {
        Value::Null => None,
        Value::String(text) if (1..=255).contains(&text.len()) => Some(text.clone()),
        _ => return invalid("reference_id must have 1 to 255 characters"),
    };
    let Some(window) = request.channel.refunded_within() else {
        return error(403, "REFUND_NOT_SUPPORTED", "The channel does not support refunds");
    };
    let payment = request.latest_payment.as_deref().and_then(|id| world.xendit.payments.get(id));
    let Some(payment) = payment.filter(|it| it.status == "SUCCEEDED") else {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The payment request has no payment that succeeded");
    };
    if now.since(payment.created) > window {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The payment is too old to be refunded");
    }
    if request.channel.kind == Kind::Qr && !is_refundable(&payment.issuer) {
        return error(403, "REFUND_NOT_SUPPORTED", "The payer's app does not support refunds");
    }
    let refunds: Vec<&Refund> = world.xendit.refunds.iter().filter(|it| it.payment == payment.id).collect();
    if refunds.iter().any(|it| it.status == "PENDING") {
        return error(400, "REFUND_IN_PROGRESS", "Another refund of this payment is in progress");
    }
    if refunds.len() >= REFUNDS_MAX {
        return error(400, "PARTIAL_REFUND_COUNTS_EXCEEDED", "The payment has been refunded too often");
    }
    let gone: i64 = refunds.iter().filter(|it| it.status == "SUCCEEDED").map(|it| it.amount).sum();
    let left = payment.captured() - gone;
    let amount = match (&body["amount"], body["amount"].as_i64()) {
        (Value::Null, _) => left,
        (_, Some(amount)) if amount > 0 => amount,
        _ => return invalid("amount must be a number of whole rupiah"),
    };
    if amount > left || left == 0 {
        return error(400, "REFUND_AMOUNT_EXCEEDED", "amount is more than is left of the payment");
    }
    if is_cimbs(payment) && amount == payment.captured() && now.since(payment.created) < CIMB_FULL_AFTER {
        return error(400, "TEMPORARILY_UNAVAILABLE", "All of it can be refunded 24 hours after the payment");
    }
    let names = request.names();
    let (request, payment) = (request.id.clone(), payment.id.clone());
    let is_rejected = world.fault(Fault::RefundRejected202, Provider::Xendit, &names, "refund").is_some();
    let is_forever = world.fault(Fault::RefundPendingForever, Provider::Xendit, &names, "refund").is_some();
    let id = format!("rfd-{}", world.ids.uuid());
    let refund = Refund {
        id: id.clone(),
        request,
        payment,
        reference,
        amount,
        reason: reason.to_owned(),
        status: "PENDING",
        failure: None,
        metadata: body["metadata"].clone(),
        is_rejected,
        created: now,
        updated: now,
    };
    world.xendit.refunds.add(id.clone(), refund);
    if !is_forever {
        world.after(ENDS_AFTER, world::Due::Xendit(Due::EndRefund(id.clone())));
    }
    Reply::json(200, &shown(world, &id))
}

fn is_cimbs(payment: &Payment) -> bool {
    payment.issuer.to_lowercase().contains("cimb")
}

fn shown(world: &World, id: &str) -> Value {
    let refund = world.xendit.refunds.get(id);
    let request = refund.and_then(|it| world.xendit.requests.get(&it.request));
    refund.zip(request).map(|(refund, request)| refund.shown(request)).unwrap_or_default()
}

/// Whether it is the caller's.
fn is_theirs(world: &World, caller: &Caller, refund: &Refund) -> bool {
    of_the_caller(world, caller, &refund.request).is_some()
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    match world.xendit.refunds.get(id).filter(|it| is_theirs(world, caller, it)) {
        Some(refund) => Reply::json(200, &shown(world, &refund.id)),
        None => not_found(),
    }
}

/// Newest first.
pub fn list(world: &World, caller: &Caller, call: &Call) -> Reply {
    let limit = match limit(call) {
        Ok(limit) => limit,
        Err(refused) => return refused,
    };
    let requests = call.parameters("payment_request_id");
    let all =
        world.xendit.refunds.iter().rev().filter(|it| {
            is_theirs(world, caller, it) && (requests.is_empty() || requests.contains(&it.request.as_str()))
        });
    let after = call.parameter("after_id");
    let rest = all.skip_while(|it| after.is_some_and(|after| it.id != after)).skip(usize::from(after.is_some()));
    let mut found: Vec<Value> = rest.take(limit + 1).map(|it| shown(world, &it.id)).collect();
    let has_more = found.len() > limit;
    found.truncate(limit);
    Reply::json(200, &json!({ "data": found, "has_more": has_more }))
}

pub fn cancel(world: &mut World, caller: &Caller, id: &str) -> Reply {
    let Some(refund) = world.xendit.refunds.get(id).filter(|it| is_theirs(world, caller, it)) else {
        return not_found();
    };
    if refund.status != "PENDING" {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The refund is not pending");
    }
    let now = world.now();
    let Some(refund) = world.xendit.refunds.get_mut(id) else { return not_found() };
    (refund.status, refund.updated) = ("CANCELLED", now);
    Reply::json(200, &shown(world, id))
}

/// It has succeeded, or has not.
pub fn ends(world: &mut World, id: &str) {
    let now = world.now();
    let Some(refund) = world.xendit.refunds.get_mut(id).filter(|it| it.status == "PENDING") else { return };
    refund.updated = now;
    let event = if refund.is_rejected {
        (refund.status, refund.failure) = ("FAILED", Some("REFUND_FAILED"));
        "refund.failed"
    } else {
        refund.status = "SUCCEEDED";
        "refund.succeeded"
    };
    let request = refund.request.clone();
    if event == "refund.succeeded" {
        transactions::refunded(world, id);
    }
    let data = shown(world, id);
    notify::of_a_request(world, &request, event, data);
}
