//! The other side of a request: customers who pay, cards that are asked, and clocks that run out.

use serde_json::{Value, json};

use super::channel::Kind;
use super::create::{AUTHORIZED_FOR, magic};
use super::request::{Capture, Payment, Request, Status};
use super::{Due, notify, sessions, transactions};
use crate::account::Provider;
use crate::control::{Open, Pay, Refusal};
use crate::faults::Fault;
use crate::world::{self, World};

/// Who pays by QRIS, unless it is said.
const ISSUER: &str = "DANA";

/// Pays a request, as its customer. Answers where it stands.
pub fn pay(world: &mut World, id: &str, pay: &Pay) -> Result<Value, Refusal> {
    if world.xendit.sessions.get(id).is_some_and(|it| it.status == "ACTIVE") {
        sessions::pay(world, id).map_err(Refusal::Not)?;
        let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?.id.clone();
        return Ok(shown(world, &request));
    }
    let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?;
    let (id, status, is_card) = (request.id.clone(), request.status, request.channel.kind == Kind::Card);
    match status {
        Status::RequiresAction if is_card => card_is_asked(world, &id),
        Status::RequiresAction | Status::AcceptingPayments => succeeds(world, &id, pay)?,
        Status::Expired | Status::Canceled | Status::Succeeded if pay.late && !is_card => succeeds(world, &id, pay)?,
        Status::Expired | Status::Canceled => return Err(Refusal::Not("it is over: say late")),
        _ => return Err(Refusal::Not("it waits for no money")),
    }
    Ok(shown(world, &id))
}

/// What a number of a virtual account stands for, if it says how much; nothing of any other name.
pub fn billed(world: &World, number: &str) -> Option<i64> {
    let request = world.xendit.request_of(number)?;
    request.amount.filter(|_| request.channel.kind == Kind::Va && request.code == number)
}

/// A payment to the newest code of a business that can be paid again and again.
pub fn pay_static(world: &mut World, business_id: &str, amount: i64, pay: &Pay) -> Result<Value, Refusal> {
    let is_it = |it: &&Request| it.business_id == business_id && it.status == Status::AcceptingPayments;
    let id = world.xendit.requests.iter().rev().find(is_it).ok_or(Refusal::NotFound)?.id.clone();
    succeeds(world, &id, &Pay { amount: Some(amount), ..pay.clone() })?;
    Ok(shown(world, &id))
}

fn shown(world: &World, id: &str) -> Value {
    let Some(it) = world.xendit.requests.get(id) else { return Value::Null };
    json!({
        "provider": "xendit",
        "id": it.id,
        "reference": it.reference,
        "status": it.status.as_str(),
        "payment": it.latest_payment,
    })
}

/// Money comes: a payment is captured, and the request has succeeded if it still could.
fn succeeds(world: &mut World, id: &str, pay: &Pay) -> Result<(), Refusal> {
    let Some(request) = world.xendit.requests.get(id) else { return Err(Refusal::NotFound) };
    let asked = request.amount.or(pay.amount);
    let names = request.names();
    let mut take = |fault| world.fault(fault, Provider::Xendit, &names, "pay");
    if take(Fault::StuckPending).is_some() {
        return Ok(());
    }
    let (amount, merchant, currency, reversal) =
        (take(Fault::AmountMismatch), take(Fault::WrongMerchant), take(Fault::Currency), take(Fault::Reversal));
    let asked = asked.ok_or(Refusal::Not("amount is missing: the code has none"))?;
    let other = amount.map(|rule| rule.amount.unwrap_or(asked + 1));
    let paid = other.or(pay.amount).unwrap_or(asked);
    let now = world.now();
    let (payment_id, receipt) = (format!("py-{}", world.ids.uuid()), world.ids.digits(12));
    let capture = Capture { id: format!("cap-{}", world.ids.uuid()), amount: paid, at: now };
    let request = world.xendit.requests.get_mut(id).expect("it was there");
    if merchant.is_some() {
        request.business_id = "000000000000000000000000".into();
    }
    if let Some(rule) = currency {
        request.currency = rule.currency.unwrap_or_else(|| "USD".into());
    }
    let issuer = match request.channel.kind {
        Kind::Va => request.channel.code.trim_end_matches("_VIRTUAL_ACCOUNT").to_owned(),
        _ => pay.issuer.clone().unwrap_or_else(|| ISSUER.into()),
    };
    let details = match request.channel.kind {
        Kind::Card => card_details(),
        _ => json!({ "issuer_name": issuer, "receipt_id": receipt, "payer_name": "BUDI S" }),
    };
    if request.status == Status::RequiresAction {
        request.status = Status::Succeeded;
    }
    request.latest_payment = Some(payment_id.clone());
    request.updated = now;
    let payment = Payment {
        id: payment_id.clone(),
        request: id.to_owned(),
        amount: paid,
        status: "SUCCEEDED",
        captures: vec![capture],
        failure: None,
        issuer,
        details,
        created: now,
        updated: now,
        settled: None,
    };
    world.xendit.payments.add(payment_id.clone(), payment);
    transactions::paid(world, &payment_id);
    notify::payment(world, &payment_id, "payment.capture");
    if let Some(rule) = reversal {
        world.after(rule.after(), world::Due::Xendit(Due::Reverse(payment_id)));
    }
    Ok(())
}

fn card_details() -> Value {
    json!({
        "authorization_data": { "authorization_code": "831000", "network_response_code": "00" },
        "authentication_data": { "flow": "CHALLENGE", "a_res": { "eci": "05" } },
        "issuer_name": "BANK SIMULASI",
        "network": "VISA",
        "fund_source": "CREDIT",
    })
}

/// What becomes of a card whose customer has proved who it is, or did not have to.
pub fn card_is_asked(world: &mut World, id: &str) {
    let Some(request) = world.xendit.requests.get(id).filter(|it| it.status == Status::RequiresAction) else { return };
    let (said, is_manual, names) = (magic(request), request.is_manual, request.names());
    let refused = world.fault(Fault::CardRefused, Provider::Xendit, &names, "pay").map(|_| "DECLINED_BY_ISSUER");
    if let Some(code) = said.or(refused) {
        return fails_with(world, id, code);
    }
    if !is_manual {
        // A card has its amount, so it cannot be missing.
        let _ = succeeds(world, id, &Pay::default());
        return;
    }
    let (now, payment_id) = (world.now(), format!("py-{}", world.ids.uuid()));
    let amount = world.xendit.requests.get(id).and_then(|it| it.amount).unwrap_or_default();
    let payment = Payment {
        id: payment_id.clone(),
        request: id.to_owned(),
        amount,
        status: "AUTHORIZED",
        captures: Vec::new(),
        failure: None,
        issuer: "BANK SIMULASI".into(),
        details: card_details(),
        created: now,
        updated: now,
        settled: None,
    };
    let request = world.xendit.requests.get_mut(id).expect("it was there");
    (request.status, request.updated) = (Status::Authorized, now);
    request.latest_payment = Some(payment_id.clone());
    world.xendit.payments.add(payment_id.clone(), payment);
    world.after(AUTHORIZED_FOR, world::Due::Xendit(Due::Lapse(payment_id.clone())));
    notify::payment(world, &payment_id, "payment.authorization");
}

/// A payment fails, and the request with it.
pub fn fails_with(world: &mut World, id: &str, code: &str) {
    let now = world.now();
    let payment_id = format!("py-{}", world.ids.uuid());
    let Some(request) = world.xendit.requests.get_mut(id) else { return };
    if !request.is_reusable() {
        request.status = Status::Failed;
    }
    request.failure = Some(code.to_owned());
    request.latest_payment = Some(payment_id.clone());
    request.updated = now;
    let payment = Payment {
        id: payment_id.clone(),
        request: id.to_owned(),
        amount: request.amount.unwrap_or_default(),
        status: "FAILED",
        captures: Vec::new(),
        failure: Some(code.to_owned()),
        issuer: String::new(),
        details: Value::Null,
        created: now,
        updated: now,
        settled: None,
    };
    world.xendit.payments.add(payment_id.clone(), payment);
    notify::payment(world, &payment_id, "payment.failure");
}

/// A customer's attempt fails.
pub fn fail(world: &mut World, id: &str, code: Option<&str>) -> Result<Value, Refusal> {
    let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?;
    if !request.status.is_open() {
        return Err(Refusal::Not("it waits for no money"));
    }
    let id = request.id.clone();
    fails_with(world, &id, code.unwrap_or("USER_DECLINED_PAYMENT"));
    Ok(shown(world, &id))
}

/// Its time is over, whatever the clock says: of a request, or of a session.
pub fn expire_now(world: &mut World, id: &str) -> Result<Value, Refusal> {
    if world.xendit.sessions.get(id).is_some() {
        sessions::expires(world, id);
        return Ok(json!({ "provider": "xendit", "id": id }));
    }
    let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?;
    if !request.status.is_open() {
        return Err(Refusal::Not("it waits for no money"));
    }
    let id = request.id.clone();
    is_over(world, &id);
    Ok(shown(world, &id))
}

/// The clock has come to where a request ends, unless that was put off meanwhile.
pub fn expires(world: &mut World, id: &str) {
    let now = world.now();
    let is_due = |it: &Request| it.status.is_open() && it.expires <= now;
    if world.xendit.requests.get(id).is_some_and(is_due) {
        is_over(world, id);
    }
}

fn is_over(world: &mut World, id: &str) {
    let now = world.now();
    let Some(request) = world.xendit.requests.get_mut(id) else { return };
    (request.status, request.updated) = (Status::Expired, now);
    notify::request(world, id, "payment_request.expiry");
    may_come_late(world, id, "expire");
}

/// By `pay_after_expire`: the customer has kept a picture of the code.
pub fn may_come_late(world: &mut World, id: &str, on: &str) {
    let names = world.xendit.requests.get(id).map(Request::names).unwrap_or_default();
    if let Some(rule) = world.fault(Fault::PayAfterExpire, Provider::Xendit, &names, on) {
        world.after(rule.after(), world::Due::Xendit(Due::PayLate(id.to_owned())));
    }
}

pub fn comes_late(world: &mut World, id: &str) {
    let is_over = |it: &Request| matches!(it.status, Status::Expired | Status::Canceled);
    if world.xendit.requests.get(id).is_some_and(is_over) {
        let amount = world.xendit.requests.get(id).and_then(|it| it.amount).unwrap_or(10_000);
        let _ = succeeds(world, id, &Pay { amount: Some(amount), ..Pay::default() });
    }
}

/// `…/simulate`: what is true by then only a webhook tells.
pub fn is_simulated(world: &mut World, id: &str, amount: Option<i64>) {
    let _ = pay(world, id, &Pay { amount, ..Pay::default() });
}

/// The money is taken back. No webhook tells of it: the list of transactions does.
pub fn is_reversed(world: &mut World, payment_id: &str) {
    let now = world.now();
    let Some(payment) = world.xendit.payments.get_mut(payment_id) else { return };
    payment.updated = now;
    transactions::reversed(world, payment_id);
}

/// Money is ours to use: of one payment, or of all. Answers how many.
pub fn settle(world: &mut World, id: Option<&str>) -> Result<usize, Refusal> {
    let now = world.now();
    let ids: Vec<String> = match id {
        Some(id) if world.xendit.payments.get(id).is_some() => vec![id.to_owned()],
        Some(id) => {
            let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?.id.clone();
            world.xendit.payments.iter().filter(|it| it.request == request).map(|it| it.id.clone()).collect()
        }
        None => world.xendit.payments.iter().map(|it| it.id.clone()).collect(),
    };
    let mut settled = 0;
    for id in ids {
        let payment = world.xendit.payments.get_mut(&id);
        if let Some(payment) = payment.filter(|it| it.status == "SUCCEEDED" && it.settled.is_none()) {
            payment.settled = Some(now);
            transactions::settled(world, &id);
            settled += 1;
        }
    }
    Ok(settled)
}

/// The customer's bank takes money back.
pub fn chargeback(world: &mut World, id: &str, amount: Option<i64>) -> Result<Value, Refusal> {
    let request = world.xendit.request_of(id).ok_or(Refusal::NotFound)?;
    let payment = match world.xendit.payments.get(id) {
        Some(payment) => payment,
        None => {
            request.latest_payment.as_deref().and_then(|it| world.xendit.payments.get(it)).ok_or(Refusal::NotFound)?
        }
    };
    let (id, request, most) = (payment.id.clone(), request.id.clone(), payment.captured());
    let amount = amount.unwrap_or(most);
    if !(1..=most).contains(&amount) {
        return Err(Refusal::Not("amount is more than there is"));
    }
    transactions::charged_back(world, &id, amount);
    Ok(shown(world, &request))
}

/// What a customer could pay now: newest first, at most so many.
pub fn open(world: &World, most: usize) -> Vec<Open> {
    let is_payable = |it: &&Request| it.status.is_open() && it.channel.kind != Kind::Card;
    let open = world.xendit.requests.iter().rev().filter(is_payable).take(most).map(|it| Open {
        provider: Provider::Xendit,
        id: it.id.clone(),
        reference: it.reference.clone(),
        method: match it.channel.kind {
            Kind::Va => format!("VA {}", it.channel.code.trim_end_matches("_VIRTUAL_ACCOUNT")),
            _ => "QRIS".into(),
        },
        number: (it.channel.kind == Kind::Va).then(|| it.code.clone()),
        qr: (it.channel.kind == Kind::Qr).then(|| it.code.clone()),
        amount: it.amount,
        merchant: world.xendit.account(&it.account).map(|it| it.shop.name.clone()).unwrap_or_default(),
        created: it.created,
        expires: Some(it.expires),
    });
    open.collect()
}

/// Ids of what is over, of which no money came, and which can be paid all the same, with `late`: newest first, so many at most.
pub fn payable_late(world: &World, most: usize) -> Vec<String> {
    let is_late = |it: &&Request| {
        matches!(it.status, Status::Expired | Status::Canceled)
            && it.channel.kind != Kind::Card
            && it.latest_payment.is_none()
    };
    world.xendit.requests.iter().rev().filter(is_late).take(most).map(|it| it.id.clone()).collect()
}
