//! Refunds, in two steps: approved at once, and confirmed by the bank later.

use std::time::Duration;

use serde_json::{Value, json};

use super::transaction::{Method, State, Transaction, fields, rupiah};
use super::{Due, illegal, invalid, not_found, notify, refused};
use crate::account::{MidtransAccount, Provider};
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::faults::Fault;
use crate::world::{self, World};

/// How long the bank takes to confirm one.
pub const CONFIRMED_AFTER: Duration = Duration::from_secs(60);
/// How many refunds one transaction may have.
const REFUNDS_MAX: usize = 100;
/// ShopeePay refunds nothing from this minute of the day to the other, in Jakarta.
const SHOPEEPAY_SLEEPS: (u16, u16) = (23 * 60 + 55, 6 * 60);

pub struct Refund {
    pub key: String,
    pub amount: i64,
    pub reason: String,
    pub created: Moment,
    pub confirmed: Option<Moment>,
    number: u64,
    uuid: String,
}

impl Refund {
    /// As an item of `refunds`.
    pub fn told(&self) -> Value {
        let mut told = json!({
            "refund_chargeback_id": self.number,
            "refund_chargeback_uuid": self.uuid,
            "refund_amount": rupiah(self.amount),
            "created_at": self.created.jakarta(),
            "reason": self.reason,
            "refund_key": self.key,
            "refund_method": "online",
        });
        if let Some(confirmed) = self.confirmed {
            told["bank_confirmed_at"] = confirmed.jakarta().into();
        }
        told
    }
}

/// How long a payment can be refunded. Bank transfers cannot.
fn window(transaction: &Transaction) -> Option<Duration> {
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
    match (&transaction.method, &transaction.paid) {
        (Method::Qris { acquirer: "gopay" }, Some(paid)) if paid.issuer == "gopay" => days(45),
        (Method::Qris { acquirer: "airpay shopee" }, Some(paid)) if paid.issuer == "shopeepay" => days(365),
        (Method::Qris { .. }, _) => days(7),
        (Method::Card(_), _) => days(365),
        _ => None,
    }
}

/// `POST /v2/{id}/refund`, and the older `…/refund/online/direct`.
pub fn refund(world: &mut World, account: &MidtransAccount, id: &str, call: &Call) -> Reply {
    let now = world.now();
    let Some(transaction) = world.midtrans.find(Some(&account.merchant_id), id) else { return not_found(world) };
    let body = call.json();
    let key = match &body["refund_key"] {
        Value::Null => None,
        Value::String(key) if is_key(key) => Some(key.clone()),
        _ => return invalid(world, &["refund_key may hold letters, digits, - and _ alone, at most 50".into()]),
    };
    if key.as_ref().is_some_and(|key| transaction.refunds.iter().any(|it| it.key == *key)) {
        return refused(world, 406, "Refund was rejected due to duplicate refund key", &[]);
    }
    let left = transaction.gross - transaction.refunded();
    let is_late = |window| transaction.settled.is_none_or(|settled| now.since(settled) > window);
    let is_refundable = matches!(transaction.state, State::Settlement | State::PartialRefund)
        && window(transaction).is_some_and(|window| !is_late(window))
        && transaction.refunds.len() < REFUNDS_MAX;
    if !is_refundable || is_asleep(transaction, now) {
        return illegal(world);
    }
    let amount = match (&body["amount"], body["amount"].as_i64()) {
        (Value::Null, _) => left,
        (_, Some(amount)) => amount,
        _ => return invalid(world, &["amount must be a whole number".into()]),
    };
    let is_whole = amount == transaction.gross;
    let is_shopeepay = matches!(transaction.method, Method::Qris { acquirer: "airpay shopee" });
    if !(1..=left).contains(&amount) || (is_shopeepay && !is_whole) {
        return refused(world, 414, "Refund was rejected due to invalid amount", &[]);
    }
    let (id, names) = (transaction.id.clone(), transaction.names());
    if world.fault(Fault::RefundRejected202, Provider::Midtrans, &names, "refund").is_some() {
        let mut answer = world.midtrans.transactions[&id].common("202", "Refund was rejected by the bank");
        answer.append(&mut fields(json!({ "refund_amount": "0.00", "refund_key": key })));
        return Reply::json(200, &Value::Object(answer));
    }
    let is_never_confirmed = world.fault(Fault::RefundPendingForever, Provider::Midtrans, &names, "refund").is_some();
    let uuid = world.ids.uuid();
    let key = key.unwrap_or_else(|| world.ids.uuid());
    world.midtrans.refunds += 1;
    let number = world.midtrans.refunds;
    let reason = body["reason"].as_str().unwrap_or_default().chars().take(255).collect();
    let Some(transaction) = world.midtrans.transactions.get_mut(&id) else { return not_found(world) };
    let refund = Refund { key: key.clone(), amount, reason, created: now, confirmed: None, number, uuid };
    transaction.refunds.push(refund);
    let is_all = transaction.refunded() == transaction.gross;
    transaction.state = if is_all { State::Refund } else { State::PartialRefund };
    let mut answer = transaction.common("200", "Success, refund request is approved");
    answer.append(&mut fields(json!({
        "refund_chargeback_id": number,
        "refund_amount": rupiah(amount),
        "refund_key": key,
    })));
    notify::told(world, &id);
    if !is_never_confirmed {
        world.after(CONFIRMED_AFTER, world::Due::Midtrans(Due::ConfirmRefund(id, key)));
    }
    Reply::json(200, &Value::Object(answer))
}

/// The bank has given the money back.
pub fn is_confirmed(world: &mut World, id: &str, key: &str) {
    let now = world.now();
    let refunds = world.midtrans.transactions.get_mut(id).map(|it| &mut it.refunds);
    if let Some(refund) = refunds.and_then(|it| it.iter_mut().find(|it| it.key == key)) {
        refund.confirmed = Some(now);
        notify::told(world, id);
    }
}

fn is_key(key: &str) -> bool {
    (1..=50).contains(&key.len()) && key.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
}

fn is_asleep(transaction: &Transaction, now: Moment) -> bool {
    let (from, to) = SHOPEEPAY_SLEEPS;
    let minute = now.minute_of_the_day();
    matches!(transaction.method, Method::Qris { acquirer: "airpay shopee" }) && (minute >= from || minute < to)
}
