//! `/v3/payments/{id}`: what became of the money, and what a merchant may do with an authorisation.

use super::request::{Capture, Payment};
use super::{Caller, error, invalid, not_found, notify, transactions};
use crate::call::{Call, Reply};
use crate::world::World;

/// A payment of the caller's.
fn of_the_caller<'a>(world: &'a World, caller: &Caller, id: &str) -> Option<&'a Payment> {
    let payment = world.xendit.payments.get(id)?;
    let request = world.xendit.requests.get(&payment.request)?;
    (request.account == caller.account.business_id).then_some(payment)
}

fn shown(world: &World, id: &str) -> Reply {
    let payment = world.xendit.payments.get(id);
    let request = payment.and_then(|it| world.xendit.requests.get(&it.request));
    payment.zip(request).map_or_else(not_found, |(payment, request)| Reply::json(200, &payment.shown(request)))
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    of_the_caller(world, caller, id).map_or_else(not_found, |it| shown(world, &it.id))
}

/// One capture, of no more than was authorised.
pub fn capture(world: &mut World, caller: &Caller, id: &str, call: &Call) -> Reply {
    let Some(payment) = of_the_caller(world, caller, id) else { return not_found() };
    if payment.status != "AUTHORIZED" {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The payment is not authorized");
    }
    let body = call.json();
    let Some(amount) = body["capture_amount"].as_i64().filter(|it| *it > 0) else {
        return invalid("capture_amount must be a number of whole rupiah");
    };
    if amount > payment.amount {
        return error(400, "CAPTURE_AMOUNT_EXCEEDED", "capture_amount is more than was authorized");
    }
    let (now, capture_id) = (world.now(), format!("cptr-{}", world.ids.uuid()));
    let Some(payment) = world.xendit.payments.get_mut(id) else { return not_found() };
    payment.captures.push(Capture { id: capture_id, amount, at: now });
    (payment.status, payment.updated) = ("SUCCEEDED", now);
    transactions::paid(world, id);
    notify::payment(world, id, "payment.capture");
    shown(world, id)
}

/// An authorisation is let go. Its request stays what it was.
pub fn cancel(world: &mut World, caller: &Caller, id: &str) -> Reply {
    let Some(payment) = of_the_caller(world, caller, id) else { return not_found() };
    if payment.status != "AUTHORIZED" {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The payment is not authorized");
    }
    let now = world.now();
    let Some(payment) = world.xendit.payments.get_mut(id) else { return not_found() };
    (payment.status, payment.updated) = ("CANCELED", now);
    shown(world, id)
}

/// An authorisation that nobody captured.
pub fn lapses(world: &mut World, id: &str) {
    let now = world.now();
    let payment = world.xendit.payments.get_mut(id).filter(|it| it.status == "AUTHORIZED");
    if let Some(payment) = payment {
        (payment.status, payment.updated) = ("EXPIRED", now);
        notify::payment(world, id, "payment.expiry");
    }
}
