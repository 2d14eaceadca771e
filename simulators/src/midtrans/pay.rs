//! The other side of a transaction: customers who pay, banks that settle, and clocks that run out.

use serde_json::{Value, json};

use super::charge::static_code;
use super::transaction::{Method, Paid, State, Transaction};
use super::{Due, cards, notify};
use crate::account::Provider;
use crate::control::{Open, Pay, Refusal};
use crate::faults::Fault;
use crate::world::{self, World};

/// Who pays, unless it is said.
const ISSUER: &str = "gopay";

/// Pays a transaction, as its customer. Answers where it stands.
pub fn pay(world: &mut World, id: &str, pay: &Pay) -> Result<Value, Refusal> {
    let transaction = world.midtrans.find(None, id).ok_or(Refusal::NotFound)?;
    let id = transaction.id.clone();
    match (&transaction.method, transaction.state) {
        (Method::Card(_), State::Pending) => {
            cards::ask_the_bank(world, &id);
            if world.midtrans.transactions[&id].state != State::Pending {
                notify::told(world, &id);
            }
        }
        (Method::Card(_), _) => return Err(Refusal::Not("it waits for no card")),
        (_, State::Pending) => settles(world, &id, pay),
        (_, State::Expire | State::Cancel) if pay.late => settles(world, &id, pay),
        (_, State::Expire | State::Cancel) => return Err(Refusal::Not("it is over: say late")),
        _ => return Err(Refusal::Not("it waits for no money")),
    }
    Ok(shown(world, &id))
}

/// What a number of a virtual account or of a bill stands for; nothing of any other name.
pub fn billed(world: &World, number: &str) -> Option<i64> {
    let transaction = world.midtrans.find(None, number)?;
    (transaction.method.number() == Some(number)).then_some(transaction.gross)
}

fn shown(world: &World, id: &str) -> Value {
    let transaction = &world.midtrans.transactions[id];
    let (id, order, status) = (&transaction.id, &transaction.order_id, transaction.state.as_str());
    json!({ "provider": "midtrans", "id": id, "reference": order, "status": status })
}

fn settles(world: &mut World, id: &str, pay: &Pay) {
    let names = world.midtrans.transactions[id].names();
    let mut take = |fault| world.fault(fault, Provider::Midtrans, &names, "pay");
    if take(Fault::StuckPending).is_some() {
        return;
    }
    let (amount, merchant, currency, reversal) =
        (take(Fault::AmountMismatch), take(Fault::WrongMerchant), take(Fault::Currency), take(Fault::Reversal));
    let (cross_reference, shopeepay_reference) = (world.ids.uuid(), world.ids.digits(12));
    let now = world.now();
    let Some(transaction) = world.midtrans.transactions.get_mut(id) else { return };
    let other = amount.map(|rule| rule.amount.unwrap_or(transaction.gross + 1));
    transaction.gross = other.or(pay.amount).unwrap_or(transaction.gross);
    if merchant.is_some() {
        transaction.shown_merchant = "G000000000".into();
    }
    if let Some(rule) = currency {
        transaction.currency = rule.currency.unwrap_or_else(|| "USD".into());
    }
    let issuer = pay.issuer.as_deref().unwrap_or(ISSUER).to_lowercase();
    transaction.paid = Some(Paid { issuer, at: now, cross_reference, shopeepay_reference });
    transaction.settled = Some(now);
    transaction.state = State::Settlement;
    notify::told(world, id);
    if let Some(rule) = reversal {
        world.after(rule.after(), world::Due::Midtrans(Due::Reverse(id.to_owned())));
    }
}

/// A payment to the code that stands on the counter: nobody charged it, and its order id is the provider's.
pub fn pay_static(world: &mut World, merchant_id: &str, amount: i64, pay: &Pay) -> Result<Value, Refusal> {
    let account = world.midtrans.account(merchant_id).ok_or(Refusal::NotFound)?;
    let id = world.ids.uuid();
    let order_id = format!("QRIS-{}", world.ids.digits(16));
    let qr_id = format!("A1{}{}ID", world.now().dense(), world.ids.letters(10));
    let method = Method::Qris { acquirer: "gopay" };
    let transaction = Transaction::new(id.clone(), order_id, &account.merchant_id, amount, method, world.now());
    world.midtrans.add(Transaction { qr: static_code(&account), qr_id, ..transaction });
    settles(world, &id, pay);
    Ok(shown(world, &id))
}

/// A payment fails. In the payer's app nobody is told of it; with `deny` the provider refuses it for good.
pub fn fail(world: &mut World, id: &str, is_denied: bool) -> Result<Value, Refusal> {
    let transaction = world.midtrans.find_mut(None, id).ok_or(Refusal::NotFound)?;
    if transaction.state != State::Pending {
        return Err(Refusal::Not("it waits for no money"));
    }
    let id = transaction.id.clone();
    let is_card = matches!(transaction.method, Method::Card(_));
    if is_denied || is_card {
        transaction.state = State::Deny;
        if let Method::Card(card) = &mut transaction.method {
            card.said = Some(("05", "Do not honour"));
        }
        notify::told(world, &id);
    }
    Ok(shown(world, &id))
}

/// Its time is over, whatever the clock says.
pub fn expire_now(world: &mut World, id: &str) -> Result<Value, Refusal> {
    let transaction = world.midtrans.find(None, id).ok_or(Refusal::NotFound)?;
    if transaction.state != State::Pending {
        return Err(Refusal::Not("it waits for no money"));
    }
    let id = transaction.id.clone();
    expires(world, &id);
    Ok(shown(world, &id))
}

pub fn expires(world: &mut World, id: &str) {
    let transaction = world.midtrans.transactions.get_mut(id).filter(|it| it.state == State::Pending);
    if let Some(transaction) = transaction {
        transaction.state = State::Expire;
        notify::told(world, id);
        may_come_late(world, id, "expire");
    }
}

/// An authorisation that nobody captured is released.
pub fn lapses(world: &mut World, id: &str) {
    let transaction = world.midtrans.transactions.get_mut(id).filter(|it| it.state == State::Authorize);
    if let Some(transaction) = transaction {
        transaction.state = State::Expire;
        notify::told(world, id);
    }
}

/// By `pay_after_expire`: the customer has kept a picture of the code.
pub fn may_come_late(world: &mut World, id: &str, on: &str) {
    let names = world.midtrans.transactions[id].names();
    if let Some(rule) = world.fault(Fault::PayAfterExpire, Provider::Midtrans, &names, on) {
        world.after(rule.after(), world::Due::Midtrans(Due::PayLate(id.to_owned())));
    }
}

pub fn comes_late(world: &mut World, id: &str) {
    let is_over = |it: &Transaction| matches!(it.state, State::Expire | State::Cancel);
    if world.midtrans.transactions.get(id).is_some_and(is_over) {
        settles(world, id, &Pay::default());
    }
}

pub fn is_reversed(world: &mut World, id: &str) {
    let transaction = world.midtrans.transactions.get_mut(id).filter(|it| it.state == State::Settlement);
    if let Some(transaction) = transaction {
        transaction.state = State::Deny;
        notify::told(world, id);
    }
}

/// A card's money, a day after: what nobody approved is cancelled then.
pub fn is_settled(world: &mut World, id: &str) {
    let now = world.now();
    let transaction = world.midtrans.transactions.get_mut(id).filter(|it| it.state == State::Capture);
    if let Some(transaction) = transaction {
        if transaction.fraud == "challenge" {
            transaction.state = State::Cancel;
        } else {
            transaction.state = State::Settlement;
            transaction.settled = Some(now);
        }
        notify::told(world, id);
    }
}

/// Money is ours to use: of one transaction, or of all. A card that was captured is settled by it. Answers how many.
pub fn settle(world: &mut World, id: Option<&str>) -> Result<usize, Refusal> {
    let now = world.now();
    let ids: Vec<String> = match id {
        Some(id) => vec![world.midtrans.find(None, id).ok_or(Refusal::NotFound)?.id.clone()],
        None => world.midtrans.all().map(|it| it.id.clone()).collect(),
    };
    let mut settled = 0;
    for id in ids {
        if world.midtrans.transactions[&id].state == State::Capture {
            is_settled(world, &id);
        }
        let transaction = world.midtrans.transactions.get_mut(&id);
        if let Some(transaction) = transaction.filter(|it| it.settled.is_some() && it.available.is_none()) {
            transaction.available = Some(now);
            settled += 1;
        }
    }
    Ok(settled)
}

/// The customer's bank takes money back.
pub fn chargeback(world: &mut World, id: &str, amount: Option<i64>) -> Result<Value, Refusal> {
    let transaction = world.midtrans.find_mut(None, id).ok_or(Refusal::NotFound)?;
    if !matches!(transaction.state, State::Settlement | State::PartialChargeback) {
        return Err(Refusal::Not("it is not settled"));
    }
    let left = transaction.gross - transaction.charged_back;
    let amount = amount.unwrap_or(left);
    if !(1..=left).contains(&amount) {
        return Err(Refusal::Not("amount is more than there is"));
    }
    transaction.charged_back += amount;
    transaction.state = if amount == left { State::Chargeback } else { State::PartialChargeback };
    let id = transaction.id.clone();
    notify::told(world, &id);
    Ok(shown(world, &id))
}

/// What a customer could pay now: newest first, at most so many.
pub fn open(world: &World, most: usize) -> Vec<Open> {
    let payable = world.midtrans.pending().filter(|it| !matches!(it.method, Method::Card(_)));
    let open = payable.take(most).map(|it| Open {
        provider: Provider::Midtrans,
        id: it.id.clone(),
        reference: it.order_id.clone(),
        method: match &it.method {
            Method::Va { bank, .. } => format!("VA {}", bank.to_uppercase()),
            Method::Permata { .. } => "VA PERMATA".into(),
            Method::Echannel { .. } => "MANDIRI BILL".into(),
            _ => "QRIS".into(),
        },
        number: it.method.number().map(str::to_owned),
        qr: (!it.qr.is_empty()).then(|| it.qr.clone()),
        amount: Some(it.gross),
        merchant: world.midtrans.account(&it.merchant_id).map(|it| it.shop.name.clone()).unwrap_or_default(),
        created: it.created,
        expires: it.expires,
    });
    open.collect()
}

/// Ids of what is over and can be paid all the same, with `late`: newest first, so many at most.
pub fn payable_late(world: &World, most: usize) -> Vec<String> {
    let is_late =
        |it: &&Transaction| matches!(it.state, State::Expire | State::Cancel) && !matches!(it.method, Method::Card(_));
    world.midtrans.all().rev().filter(is_late).take(most).map(|it| it.id.clone()).collect()
}
