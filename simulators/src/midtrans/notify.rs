//! Notifications: a transaction as it stands, signed, in the shape that faults leave it.

use serde_json::{Map, Value, json};

use super::Due;
use super::transaction::{State, Telling, rupiah, sign, urls};
use crate::account::Provider;
use crate::faults::Fault;
use crate::world::{self, Letter, World};

/// What is optional in a notification.
const OPTIONAL: [&str; 6] =
    ["settlement_time", "issuer", "acquirer", "merchant_cross_reference_id", "transaction_type", "expiry_time"];

/// Tells of a transaction as it is now.
pub fn told(world: &mut World, id: &str) {
    let Some(transaction) = world.midtrans.transactions.get(id) else { return };
    let names = transaction.names();
    let event = transaction.state.as_str();
    let told = transaction.told(Telling::Notification);
    if transaction.state.is_paid()
        && let Some(rule) = world.fault(Fault::LateFailure, Provider::Midtrans, &names, event)
    {
        world.after(rule.after(), world::Due::Midtrans(Due::TellFailure(id.to_owned())));
    }
    if let Some(rule) = world.fault(Fault::UnknownEvent, Provider::Midtrans, &names, event) {
        post(world, id, "unknown", a_subscription(), vec![rule.fault]);
    }
    post(world, id, event, told, Vec::new());
}

/// By `late_failure`: the payment had expired, it says, and has not.
pub fn a_failure_that_is_none(world: &mut World, id: &str) {
    let Some(transaction) = world.midtrans.transactions.get(id) else { return };
    let mut told = transaction.told(Telling::Notification);
    told.insert("transaction_status".into(), State::Expire.as_str().into());
    told.insert("status_code".into(), "202".into());
    for name in ["settlement_time", "issuer", "transaction_type"] {
        told.remove(name);
    }
    post(world, id, State::Expire.as_str(), told, vec![Fault::LateFailure]);
}

/// Tells that a transaction stands so, whatever is true, with a signature that is right: what somebody could send who has
/// seen a notification with this code.
pub fn forge(world: &mut World, id: &str, status: &str, amount: Option<i64>) -> bool {
    let Some(transaction) = world.midtrans.find(None, id) else { return false };
    let id = transaction.id.clone();
    let mut told = transaction.told(Telling::Notification);
    told.insert("transaction_status".into(), status.into());
    let code = match status {
        "pending" => "201",
        "deny" | "cancel" | "expire" => "202",
        _ => "200",
    };
    told.insert("status_code".into(), code.into());
    if let Some(amount) = amount {
        told.insert("gross_amount".into(), rupiah(amount).into());
    }
    post(world, &id, status, told, vec![Fault::TamperedStatus]);
    true
}

fn a_subscription() -> Map<String, Value> {
    super::transaction::fields(json!({
        "event_name": "subscription.charge",
        "subscription": { "id": "d98a63b8-97e4-4059-825f-0f62340407e9", "status": "active" },
    }))
}

fn post(world: &mut World, id: &str, event: &str, mut told: Map<String, Value>, mut faults: Vec<Fault>) {
    let transaction = &world.midtrans.transactions[id];
    let names = transaction.names();
    let Some(account) = world.midtrans.account(&transaction.merchant_id) else { return };
    let urls = urls(transaction, &account);
    let mut take = |fault| {
        let rule = world.fault(fault, Provider::Midtrans, &names, event);
        faults.extend(rule.iter().map(|rule| rule.fault));
        rule
    };
    let is_known = event != "unknown";
    let (forged, unsigned) = if is_known {
        (take(Fault::TamperedStatus), take(Fault::BadSignature).or_else(|| take(Fault::WrongToken)).is_some())
    } else {
        (None, false)
    };
    if is_known {
        let key = if unsigned { "another key" } else { &account.server_key };
        sign(&mut told, key);
    }
    if let Some(rule) = forged {
        // Only three fields are signed, and the status is none of them.
        let other = if event == State::Settlement.as_str() { State::Refund } else { State::Settlement };
        told.insert("transaction_status".into(), rule.status.as_deref().unwrap_or(other.as_str()).into());
    }
    if is_known && take(Fault::ExtraFields).is_some() {
        told.insert("transaction_grade".into(), json!({ "level": 1, "of": ["a", null] }));
        told.insert("".into(), true.into());
    }
    if is_known && take(Fault::NullFields).is_some() {
        for name in OPTIONAL {
            told.insert(name.into(), Value::Null);
        }
    }
    if is_known && take(Fault::CaseChange).is_some() {
        let other_case = told["transaction_status"].as_str().unwrap_or_default().to_ascii_uppercase();
        told.insert("transaction_status".into(), other_case.into());
    }
    let body = Value::Object(told).to_string();
    world.post(Letter { provider: Provider::Midtrans, names, event: event.into(), urls, token: None, body, faults });
}
