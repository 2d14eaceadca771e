//! `/transactions`: what moved, and whether it is the merchant's to use.

use serde_json::{Value, json};

use super::moves::limit;
use super::request::Payment;
use super::{Caller, not_found};
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::world::World;

pub struct Row {
    pub id: String,
    account: String,
    business_id: String,
    /// A payment, or a refund.
    product: String,
    pub kind: &'static str,
    pub status: &'static str,
    category: &'static str,
    channel: &'static str,
    pub reference: String,
    pub amount: i64,
    pub net: i64,
    fee: i64,
    tax: i64,
    settlement: Option<&'static str>,
    settles: Moment,
    product_data: Value,
    pub created: Moment,
    updated: Moment,
}

impl Row {
    fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "product_id": self.product,
            "type": self.kind,
            "status": self.status,
            "channel_category": self.category,
            "channel_code": self.channel,
            "account_identifier": null,
            "reference_id": self.reference,
            "currency": "IDR",
            "amount": self.amount,
            "net_amount": self.net,
            "cashflow": if self.kind == "PAYMENT" { "MONEY_IN" } else { "MONEY_OUT" },
            "settlement_status": self.settlement,
            "estimated_settlement_time": self.settles,
            "business_id": self.business_id,
            "fee": {
                "xendit_fee": self.fee,
                "value_added_tax": self.tax,
                "xendit_withholding_tax": 0,
                "third_party_withholding_tax": 0,
                "status": "COMPLETED",
            },
            "product_data": self.product_data,
            "created": self.created,
            "updated": self.updated,
        })
    }

    /// A line of a report.
    pub fn line(&self) -> String {
        let Self { id, kind, status, channel, reference, amount, fee, tax, net, .. } = self;
        let (settlement, created) = (self.settlement.unwrap_or_default(), self.created.utc());
        let reference = if reference.contains([',', '"', '\n']) {
            format!("\"{}\"", reference.replace('"', "\"\""))
        } else {
            reference.clone()
        };
        format!("{id},{kind},{status},{channel},{reference},IDR,{amount},{fee},{tax},{net},{settlement},{created}\n")
    }

    pub fn is_of(&self, account: &str) -> bool {
        self.account == account
    }
}

/// What stands above the lines of a report.
pub const HEADER: &str =
    "id,type,status,channel_code,reference_id,currency,amount,fee,vat,net_amount,settlement_status,created\n";

fn add(world: &mut World, payment_id: &str, product: &str, kind: &'static str, amount: i64) {
    let (now, id) = (world.now(), format!("txn_{}", world.ids.uuid()));
    let Some(payment) = world.xendit.payments.get(payment_id) else { return };
    let Some(request) = world.xendit.requests.get(&payment.request) else { return };
    let is_payment = kind == "PAYMENT";
    let (fee, tax) = if is_payment { request.channel.fee(amount) } else { (0, 0) };
    let settles = now.plus(request.channel.settled_after());
    let row = Row {
        id: id.clone(),
        account: request.account.clone(),
        business_id: request.business_id.clone(),
        product: product.to_owned(),
        kind,
        status: "SUCCESS",
        category: request.channel.category(),
        channel: request.channel.code,
        reference: request.reference.clone(),
        amount,
        net: if is_payment { amount - fee - tax } else { amount },
        fee,
        tax,
        settlement: is_payment.then_some(if settles == now { "SETTLED" } else { "PENDING" }),
        settles,
        product_data: json!({
            "capture_id": payment.captures.last().map(|it| &it.id),
            "payment_request_id": request.id,
        }),
        created: now,
        updated: now,
    };
    world.xendit.rows.add(id, row);
}

/// A payment was captured.
pub fn paid(world: &mut World, payment_id: &str) {
    let captured = world.xendit.payments.get(payment_id).map_or(0, Payment::captured);
    add(world, payment_id, payment_id, "PAYMENT", captured);
}

pub fn refunded(world: &mut World, refund_id: &str) {
    let Some(refund) = world.xendit.refunds.get(refund_id) else { return };
    let (payment, amount) = (refund.payment.clone(), refund.amount);
    add(world, &payment, refund_id, "REFUND", amount);
}

pub fn charged_back(world: &mut World, payment_id: &str, amount: i64) {
    add(world, payment_id, payment_id, "CHARGEBACK", amount);
}

/// A payment's row, to change.
fn row<'a>(world: &'a mut World, payment_id: &str) -> Option<&'a mut Row> {
    let is_it = |it: &&Row| it.product == payment_id && it.kind == "PAYMENT";
    let id = world.xendit.rows.iter().rev().find(is_it)?.id.clone();
    world.xendit.rows.get_mut(&id)
}

pub fn reversed(world: &mut World, payment_id: &str) {
    let now = world.now();
    if let Some(row) = row(world, payment_id) {
        (row.status, row.updated) = ("REVERSED", now);
    }
}

pub fn settled(world: &mut World, payment_id: &str) {
    let now = world.now();
    if let Some(row) = row(world, payment_id) {
        (row.settlement, row.updated) = (Some("SETTLED"), now);
    }
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    let row = world.xendit.rows.get(id).filter(|it| it.account == caller.account.business_id);
    row.map_or_else(not_found, |row| Reply::json(200, &row.shown()))
}

/// Newest first, through all the documented filters.
pub fn list(world: &World, caller: &Caller, call: &Call) -> Reply {
    let limit = match limit(call) {
        Ok(limit) => limit,
        Err(refused) => return refused,
    };
    let is_among = |name: &str, value: &str| {
        let wanted = call.parameters(name);
        wanted.is_empty() || wanted.contains(&value)
    };
    let is_given = |name: &str, value: &str| call.parameter(name).is_none_or(|it| it == value);
    let moment = |name: &str| match call.parameter(name) {
        Some(text) => Moment::parse(text).map(Some).ok_or_else(|| super::invalid(&format!("{name} must be ISO 8601"))),
        None => Ok(None),
    };
    let (from, to) = match (moment("created[gte]"), moment("created[lte]")) {
        (Ok(from), Ok(to)) => (from, to),
        (Err(refused), _) | (_, Err(refused)) => return refused,
    };
    let all = world.xendit.rows.iter().rev().filter(|it| {
        it.account == caller.account.business_id
            && is_among("types", it.kind)
            && is_among("statuses", it.status)
            && is_among("channel_categories", it.category)
            && is_given("reference_id", &it.reference)
            && is_given("product_id", &it.product)
            && from.is_none_or(|from| it.created >= from)
            && to.is_none_or(|to| it.created <= to)
    });
    let after = call.parameter("after_id");
    let rest = all.skip_while(|it| after.is_some_and(|after| it.id != after)).skip(usize::from(after.is_some()));
    let mut found: Vec<&Row> = rest.take(limit + 1).collect();
    let has_more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().map(|it| it.id.clone()).filter(|_| has_more);
    let next = last.map(
        |id| json!({ "href": format!("/transactions?limit={limit}&after_id={id}"), "rel": "next", "method": "GET" }),
    );
    let data: Vec<Value> = found.into_iter().map(Row::shown).collect();
    let links: Vec<Value> = next.into_iter().collect();
    Reply::json(200, &json!({ "has_more": has_more, "data": data, "links": links }))
}
