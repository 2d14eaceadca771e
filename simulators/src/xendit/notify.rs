//! Webhooks: an envelope around what a GET would show, and the account's token in a header.

use serde_json::{Value, json};

use super::request::{Api, fields};
use super::{Due, older};
use crate::account::Provider;
use crate::faults::Fault;
use crate::world::{self, Letter, World};

/// What is optional in `data`.
const OPTIONAL: [&str; 4] = ["payment_details", "metadata", "failure_code", "channel_properties"];

/// Tells of a payment as it is now.
pub fn payment(world: &mut World, id: &str, event: &str) {
    let Some(payment) = world.xendit.payments.get(id) else { return };
    let Some(request) = world.xendit.requests.get(&payment.request) else { return };
    let (data, request_id, names) = (payment.shown(request), request.id.clone(), request.names());
    let older = (request.api == Api::V2).then(|| older::told(request, payment)).flatten();
    if event == "payment.capture"
        && let Some(rule) = world.fault(Fault::LateFailure, Provider::Xendit, &names, event)
    {
        world.after(rule.after(), world::Due::Xendit(Due::TellFailure(id.to_owned())));
    }
    match older {
        Some((event, data)) => post(world, &request_id, event, data, Vec::new()),
        None => post(world, &request_id, event, data, Vec::new()),
    }
}

/// By `late_failure`: the payment had failed, it says, and has not.
pub fn a_failure_that_is_none(world: &mut World, id: &str) {
    let Some(payment) = world.xendit.payments.get(id) else { return };
    let Some(request) = world.xendit.requests.get(&payment.request) else { return };
    let mut data = payment.shown(request);
    data["status"] = "FAILED".into();
    data["failure_code"] = "TIMEOUT_ERROR".into();
    data["captures"] = json!([]);
    let request_id = request.id.clone();
    post(world, &request_id, "payment.failure", data, vec![Fault::LateFailure]);
}

/// Tells of a request as it is now.
pub fn request(world: &mut World, id: &str, event: &str) {
    let Some(request) = world.xendit.requests.get(id) else { return };
    let mut data = fields(request.shown(&world.xendit.base, None));
    data.remove("actions");
    post(world, id, event, Value::Object(data), Vec::new());
}

/// Tells of something that belongs to a request: a refund, a session.
pub fn of_a_request(world: &mut World, id: &str, event: &str, data: Value) {
    post(world, id, event, data, Vec::new());
}

/// Tells an account of something that belongs to no request.
pub fn of_an_account(world: &mut World, business_id: &str, names: Vec<String>, event: &str, body: &Value) {
    let Some(account) = world.xendit.account(business_id) else { return };
    world.post(Letter {
        provider: Provider::Xendit,
        names,
        event: event.into(),
        urls: account.webhook_urls.clone(),
        token: Some(account.callback_token.clone()),
        body: body.to_string(),
        faults: Vec::new(),
    });
}

/// Tells that a request was paid, whatever is true, with a token that is right: what somebody could send who knows it.
pub fn forge(world: &mut World, id: &str, status: &str, amount: Option<i64>) -> bool {
    let Some(request) = world.xendit.request_of(id) else { return false };
    let (request_id, now) = (request.id.clone(), world.now());
    let amount = amount.or(request.amount).unwrap_or(10_000);
    let known = request.latest_payment.as_deref().and_then(|id| world.xendit.payments.get(id));
    let mut data = match known {
        Some(payment) => payment.shown(request),
        None => {
            let mut data = request.shown(&world.xendit.base, None);
            data["payment_id"] = "py-00000000-0000-4000-8000-000000000000".into();
            data
        }
    };
    data["status"] = status.into();
    let is_paid = status == "SUCCEEDED";
    data["captures"] = match is_paid {
        true => json!([{
            "capture_timestamp": now,
            "capture_id": "cap-00000000-0000-4000-8000-000000000000",
            "capture_amount": amount,
        }]),
        false => json!([]),
    };
    let event = if is_paid { "payment.capture" } else { "payment.failure" };
    post(world, &request_id, event, data, vec![Fault::TamperedStatus]);
    true
}

fn post(world: &mut World, request_id: &str, event: &str, mut data: Value, mut faults: Vec<Fault>) {
    let Some(request) = world.xendit.requests.get(request_id) else { return };
    let (names, business_id) = (request.names(), request.business_id.clone());
    let is_older = request.api == Api::V2;
    let Some(account) = world.xendit.account(&request.account) else { return };
    let now = world.now();
    let mut take = |fault| {
        let rule = world.fault(fault, Provider::Xendit, &names, event);
        faults.extend(rule.iter().map(|rule| rule.fault));
        rule
    };
    let is_stranger = take(Fault::WrongToken).or_else(|| take(Fault::BadSignature)).is_some();
    let unknown = take(Fault::UnknownEvent).is_some();
    let mut said = event.to_owned();
    if let Some(rule) = take(Fault::TamperedStatus) {
        let (other_event, other) = match event {
            "payment.capture" => ("payment.failure", "FAILED"),
            _ => ("payment.capture", "SUCCEEDED"),
        };
        said = other_event.into();
        data["status"] = rule.status.as_deref().unwrap_or(other).into();
    }
    if take(Fault::ExtraFields).is_some() {
        data["transaction_grade"] = json!({ "level": 1, "of": ["a", null] });
    }
    if take(Fault::NullFields).is_some() {
        for name in OPTIONAL {
            data[name] = Value::Null;
        }
    }
    if take(Fault::CaseChange).is_some() {
        data["status"] = data["status"].as_str().unwrap_or_default().to_lowercase().into();
    }
    let envelope = |event: &str, data: &Value| {
        let mut all = json!({ "event": event, "business_id": business_id, "created": now, "data": data });
        if !is_older {
            all["api_version"] = "v3".into();
        }
        all.to_string()
    };
    let token = if is_stranger { "EXAMPLE-another-token" } else { &account.callback_token };
    let letter = |event: &str, body: String, faults: Vec<Fault>| Letter {
        provider: Provider::Xendit,
        names: names.clone(),
        event: event.to_owned(),
        urls: account.webhook_urls.clone(),
        token: Some(token.to_owned()),
        body,
        faults,
    };
    let other = json!({ "payment_token_id": "pt-00000000-0000-4000-8000-000000000000", "status": "ACTIVE" });
    let stranger =
        unknown.then(|| letter("unknown", envelope("payment_token.activation", &other), vec![Fault::UnknownEvent]));
    // Faults go by what has happened, whatever it says.
    let true_one = letter(event, envelope(&said, &data), faults);
    for letter in stranger.into_iter().chain([true_one]) {
        world.post(letter);
    }
}
