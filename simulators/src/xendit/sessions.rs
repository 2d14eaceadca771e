//! `/sessions`: a small page of Xendit's on which a card is charged, so that its number comes near nobody else.

use std::time::Duration;

use serde_json::{Value, json};

use super::channel::Channel;
use super::create::{Ask, make};
use super::pay::card_is_asked;
use super::request::{Api, Status};
use super::{Caller, Due, error, invalid, not_found, notify};
use crate::call::{Call, Reply, escaped};
use crate::clock::Moment;
use crate::qris::is_luhn;
use crate::world::{self, World};

const LIFE: Duration = Duration::from_secs(30 * 60);
const LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
const REFERENCE_CHARS_MAX: usize = 64;
const ORIGINS_MAX: usize = 10;

pub struct Session {
    pub id: String,
    account: String,
    business_id: String,
    reference: String,
    is_components: bool,
    amount: i64,
    is_manual: bool,
    pub status: &'static str,
    pub request: Option<String>,
    sdk_key: String,
    said: Value,
    created: Moment,
    updated: Moment,
    expires: Moment,
}

impl Session {
    fn shown(&self, base: &str) -> Value {
        let mut all = json!({
            "payment_session_id": self.id,
            "business_id": self.business_id,
            "reference_id": self.reference,
            "session_type": "PAY",
            "mode": if self.is_components { "COMPONENTS" } else { "PAYMENT_LINK" },
            "status": self.status,
            "amount": self.amount,
            "currency": "IDR",
            "country": "ID",
            "capture_method": if self.is_manual { "MANUAL" } else { "AUTOMATIC" },
            "payment_request_id": self.request,
            "created": self.created,
            "updated": self.updated,
            "expires_at": self.expires,
        });
        if self.is_components {
            all["components_sdk_key"] = self.sdk_key.as_str().into();
        } else {
            all["payment_link_url"] = format!("{base}/pay/{}", self.id).into();
        }
        for name in ["customer", "items", "metadata", "description", "allowed_payment_channels"] {
            if !self.said[name].is_null() {
                all[name] = self.said[name].clone();
            }
        }
        all
    }
}

pub fn create(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    let body: Value = match serde_json::from_slice(&call.body) {
        Ok(body) => body,
        Err(_) => return invalid("The body must be JSON"),
    };
    let now = world.now();
    let made = check(&body, now).map(|(amount, expires)| Session {
        id: format!("ps-{}", world.ids.hex(24)),
        account: caller.account.business_id.clone(),
        business_id: caller.business_id.clone(),
        reference: body["reference_id"].as_str().unwrap_or_default().to_owned(),
        is_components: body["mode"] == "COMPONENTS",
        amount,
        is_manual: body["capture_method"] == "MANUAL",
        status: "ACTIVE",
        request: None,
        sdk_key: format!("session-{}", world.ids.letters(40)),
        said: body.clone(),
        created: now,
        updated: now,
        expires,
    });
    let session = match made {
        Ok(session) => session,
        Err(refused) => return refused,
    };
    let (id, expires, shown) = (session.id.clone(), session.expires, session.shown(&world.xendit.base));
    world.xendit.sessions.add(id.clone(), session);
    world.at(expires, world::Due::Xendit(Due::ExpireSession(id)));
    Reply::json(201, &shown)
}

/// The amount, and when it ends.
fn check(body: &Value, now: Moment) -> Result<(i64, Moment), Reply> {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let reference = text("reference_id").chars().count();
    if !(1..=REFERENCE_CHARS_MAX).contains(&reference) {
        return Err(invalid(&format!("reference_id must have 1 to {REFERENCE_CHARS_MAX} characters")));
    }
    if text("session_type") != "PAY" {
        return Err(invalid("session_type must be PAY"));
    }
    if (text("country"), text("currency")) != ("ID", "IDR") {
        return Err(invalid("country must be ID, and currency IDR"));
    }
    if !matches!(text("capture_method"), "" | "AUTOMATIC" | "MANUAL") {
        return Err(invalid("capture_method must be AUTOMATIC or MANUAL"));
    }
    match text("mode") {
        "PAYMENT_LINK" => {}
        "COMPONENTS" => {
            let origins = body["components_configuration"]["origins"].as_array();
            let is_good = |all: &Vec<Value>| {
                (1..=ORIGINS_MAX).contains(&all.len())
                    && all.iter().all(|it| it.as_str().is_some_and(|it| it.starts_with("https://")))
            };
            if !origins.is_some_and(is_good) {
                return Err(invalid("components_configuration.origins must be HTTPS origins"));
            }
        }
        _ => return Err(invalid("mode must be PAYMENT_LINK or COMPONENTS")),
    }
    for name in ["success_return_url", "cancel_return_url"] {
        if !body[name].is_null() && !text(name).starts_with("https://") {
            return Err(invalid(&format!("{name} must be HTTPS")));
        }
    }
    let customer = &body["customer"];
    if !customer.is_null() {
        let id = customer["reference_id"].as_str().unwrap_or_default();
        let is_plain = !id.is_empty() && id.bytes().all(|it| it.is_ascii_alphanumeric());
        if !is_plain || customer["type"].as_str().is_none() || !customer["individual_detail"].is_object() {
            let message = "customer needs type, individual_detail, and a reference_id of letters and digits alone";
            return Err(invalid(message));
        }
    }
    let channels = body["allowed_payment_channels"].as_array();
    if channels.is_some_and(|all| !all.iter().all(|it| it.as_str().and_then(Channel::of).is_some())) {
        return Err(invalid("allowed_payment_channels must be channels"));
    }
    let cards = Channel::of("CARDS").expect("a channel");
    let amount = super::create::whole(&body["amount"], "amount", cards)?;
    let expires = match &body["expires_at"] {
        Value::Null => now.plus(LIFE),
        said => {
            let moment = said.as_str().and_then(Moment::parse);
            let moment = moment.filter(|it| *it > now && *it <= now.plus(LIFE_MAX));
            moment.ok_or_else(|| invalid("expires_at must be ISO 8601, and in the future"))?
        }
    };
    Ok((amount, expires))
}

fn of_the_caller<'a>(world: &'a World, caller: &Caller, id: &str) -> Option<&'a Session> {
    world.xendit.sessions.get(id).filter(|it| it.account == caller.account.business_id)
}

pub fn get(world: &World, caller: &Caller, id: &str) -> Reply {
    of_the_caller(world, caller, id).map_or_else(not_found, |it| Reply::json(200, &it.shown(&world.xendit.base)))
}

pub fn cancel(world: &mut World, caller: &Caller, id: &str) -> Reply {
    let Some(session) = of_the_caller(world, caller, id) else { return not_found() };
    if session.status != "ACTIVE" {
        return error(400, "INELIGIBLE_TRANSACTION_STATUS", "The session is not active");
    }
    let (now, base) = (world.now(), world.xendit.base.clone());
    let Some(session) = world.xendit.sessions.get_mut(id) else { return not_found() };
    (session.status, session.updated) = ("CANCELED", now);
    Reply::json(200, &session.shown(&base))
}

pub fn expires(world: &mut World, id: &str) {
    let now = world.now();
    let Some(session) = world.xendit.sessions.get_mut(id).filter(|it| it.status == "ACTIVE") else { return };
    (session.status, session.updated) = ("EXPIRED", now);
    tell(world, id, "payment_session.expired");
}

fn tell(world: &mut World, id: &str, event: &str) {
    let Some(session) = world.xendit.sessions.get(id) else { return };
    let request = session.request.as_deref().and_then(|id| world.xendit.requests.get(id));
    let mut data = session.shown(&world.xendit.base);
    data["payment_id"] = request.and_then(|it| it.latest_payment.clone()).into();
    let (names, account) = (vec![session.reference.clone(), session.id.clone()], session.account.clone());
    let body = json!({
        "event": event,
        "business_id": session.business_id,
        "created": world.now(),
        "api_version": "v3",
        "data": data,
    });
    notify::of_an_account(world, &account, names, event, &body);
}

/// The customer pays on the page, by a card that has been proved to be the customer's.
///
/// # Errors
/// If the session is over.
pub fn pay(world: &mut World, id: &str) -> Result<(), &'static str> {
    let Some(session) = world.xendit.sessions.get(id).filter(|it| it.status == "ACTIVE") else {
        return Err("the session is over");
    };
    let account = world.xendit.account(&session.account).ok_or("there is no such account")?;
    let caller = Caller { account, business_id: session.business_id.clone() };
    let mut echoed = serde_json::Map::new();
    for name in ["metadata", "customer", "items", "description"] {
        if !session.said[name].is_null() {
            echoed.insert(name.into(), session.said[name].clone());
        }
    }
    let ask = Ask {
        reference: session.reference.clone(),
        kind: "PAY",
        amount: Some(session.amount),
        is_manual: session.is_manual,
        channel: Channel::of("CARDS").expect("a channel"),
        properties: json!({}),
        expires: None,
        number: None,
        // Its page has asked the customer, and goes on from there.
        is_challenged: true,
        echoed,
        api: Api::V3,
    };
    let request = make(world, &caller, ask);
    card_is_asked(world, &request);
    let now = world.now();
    let is_good = |status| matches!(status, Status::Succeeded | Status::Authorized);
    let is_paid = world.xendit.requests.get(&request).is_some_and(|it| is_good(it.status));
    let Some(session) = world.xendit.sessions.get_mut(id) else { return Ok(()) };
    // A card that was refused leaves the page open for another.
    session.request = Some(request);
    session.updated = now;
    if is_paid {
        session.status = "COMPLETED";
        tell(world, id, "payment_session.completed");
    }
    Ok(())
}

/// `GET /pay/{session}`: the page.
pub fn page(world: &World, id: &str) -> Reply {
    let Some(session) = world.xendit.sessions.get(id) else { return not_found() };
    let form = "<form method=post><p><label>Card number <input name=card inputmode=numeric value=4000000000001000 required></label>\
                <p><button autofocus>Pay</button></form><p>Any test card will do. The amount decides whether it is refused.";
    let rest = if session.status == "ACTIVE" { form } else { "<p>This page is over." };
    let reference = escaped(&session.reference);
    let body = format!("<h1>Payment</h1><p>{reference}: <b>Rp{}</b>{rest}", session.amount);
    Reply::html(200, document("Payment", &body))
}

/// `POST /pay/{session}`
pub fn paid_by_hand(world: &mut World, id: &str, call: &Call) -> Reply {
    if world.xendit.sessions.get(id).is_none() {
        return not_found();
    }
    let card: String = call.field("card").unwrap_or_default().chars().filter(|it| !it.is_whitespace()).collect();
    let message = if !(13..=19).contains(&card.len()) || !is_luhn(&card) {
        "This is no card number.".to_owned()
    } else {
        match pay(world, id) {
            Err(why) => escaped(why),
            Ok(()) => {
                let request = world.xendit.request_of(id);
                let status = request.map_or("", |it| it.status.as_str());
                format!("Done: <b id=state>{status}</b>. You can go back to the shop.")
            }
        }
    };
    Reply::html(200, document("Payment", &format!("<h1>Payment</h1><p>{message}")))
}

pub fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:2rem auto;padding:0 1rem}}\
         </style><body>{body}</body></html>"
    )
}
