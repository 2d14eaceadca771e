//! `POST /v3/payment_requests`: what is asked for is checked, and a request made.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::channel::{Channel, Kind, VA_DIGITS, failure_of};
use super::pay;
use super::request::{Api, Request, Status, fields};
use super::{Caller, Due, error, invalid};
use crate::account::Provider;
use crate::call::{Call, Reply};
use crate::clock::Moment;
use crate::faults::Fault;
use crate::qris::{self, Bill, is_luhn};
use crate::world::{self, World};

const REFERENCE_CHARS_MAX: usize = 255;
const DESCRIPTION_CHARS_MAX: usize = 1_000;
const METADATA_KEYS_MAX: usize = 50;
const METADATA_KEY_CHARS_MAX: usize = 40;
const METADATA_VALUE_CHARS_MAX: usize = 500;

/// What a request is made of, however it came.
pub struct Ask {
    pub reference: String,
    pub kind: &'static str,
    pub amount: Option<i64>,
    pub is_manual: bool,
    pub channel: &'static Channel,
    pub properties: Value,
    pub expires: Option<Moment>,
    /// The merchant's own number of a virtual account.
    pub number: Option<String>,
    /// Whether a card's customer has to be asked.
    pub is_challenged: bool,
    pub echoed: Map<String, Value>,
    pub api: Api,
}

pub fn create(world: &mut World, caller: &Caller, call: &Call) -> Reply {
    let ask = match ask(world, caller, call) {
        Ok(ask) => ask,
        Err(refused) => return refused,
    };
    let id = make(world, caller, ask);
    let request = world.xendit.requests.get(&id).expect("just made");
    let latest = request.latest_payment.as_deref().and_then(|id| world.xendit.payments.get(id));
    Reply::json(201, &request.shown(&world.xendit.base, latest))
}

/// Makes a request, and answers its id.
pub fn make(world: &mut World, caller: &Caller, ask: Ask) -> String {
    let now = world.now();
    let id = format!("pr-{}", world.ids.uuid());
    let names = [ask.reference.clone(), id.clone()];
    let code = match ask.channel.kind {
        Kind::Qr => code(world, caller, &ask, &names),
        Kind::Va => ask.number.clone().unwrap_or_else(|| {
            let prefix = ask.channel.prefix;
            format!("{prefix}{}", world.ids.digits(VA_DIGITS - prefix.len()))
        }),
        Kind::Card => String::new(),
    };
    let expires = ask.expires.unwrap_or_else(|| now.plus(ask.channel.life()));
    let is_card_at_once = ask.channel.kind == Kind::Card && !ask.is_challenged;
    world.xendit.add_request(Request {
        id: id.clone(),
        account: caller.account.business_id.clone(),
        business_id: caller.business_id.clone(),
        reference: ask.reference,
        kind: ask.kind,
        amount: ask.amount,
        currency: "IDR".into(),
        is_manual: ask.is_manual,
        channel: ask.channel,
        properties: ask.properties,
        code,
        is_challenged: ask.is_challenged,
        status: if ask.kind == "REUSABLE_PAYMENT_CODE" { Status::AcceptingPayments } else { Status::RequiresAction },
        failure: None,
        latest_payment: None,
        created: now,
        updated: now,
        expires,
        echoed: ask.echoed,
        api: ask.api,
    });
    world.at(expires, world::Due::Xendit(Due::Expire(id.clone())));
    if is_card_at_once {
        pay::card_is_asked(world, &id);
    }
    id
}

/// The text of the QR code.
fn code(world: &mut World, caller: &Caller, ask: &Ask, names: &[String]) -> String {
    let number = world.ids.digits(10);
    let label = world.ids.digits(13);
    let acquirer_id = format!("X{}", &number[1..]);
    let shop = caller.account.shop.qris(&acquirer_id, &number);
    let more = [("05", label.as_str()), ("07", "A01")];
    let mut qr = qris::text(qris::XENDIT, &shop, "UMI", &Bill { amount: ask.amount, more: &more });
    if let (Some(rule), Some(amount)) =
        (world.fault(Fault::QrWrongAmount, Provider::Xendit, names, "charge"), ask.amount)
    {
        qr = qris::with_amount(&qr, rule.amount.unwrap_or(amount + 1)).unwrap_or(qr);
    }
    if world.fault(Fault::QrBadCrc, Provider::Xendit, names, "charge").is_some() {
        qr = qris::with_bad_checksum(&qr);
    }
    qr
}

fn ask(world: &World, caller: &Caller, call: &Call) -> Result<Ask, Reply> {
    let body: Value = serde_json::from_slice(&call.body).map_err(|_| invalid("The body must be JSON"))?;
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    let reference = text("reference_id");
    if !(1..=REFERENCE_CHARS_MAX).contains(&reference.chars().count()) {
        return Err(invalid(&format!("reference_id must have 1 to {REFERENCE_CHARS_MAX} characters")));
    }
    let kind = match text("type") {
        "PAY" => "PAY",
        "PAY_AND_SAVE" => "PAY_AND_SAVE",
        "REUSABLE_PAYMENT_CODE" => "REUSABLE_PAYMENT_CODE",
        _ => return Err(invalid("type must be PAY, PAY_AND_SAVE or REUSABLE_PAYMENT_CODE")),
    };
    if (text("country"), text("currency")) != ("ID", "IDR") {
        return Err(invalid("country must be ID, and currency IDR"));
    }
    let channel = Channel::of(text("channel_code"));
    let channel = channel.ok_or_else(|| error(400, "INVALID_VALUE_ERROR", "channel_code is not supported"))?;
    if caller.account.without.iter().any(|it| it == channel.code) {
        return Err(error(403, "INVALID_MERCHANT_SETTINGS", "The channel is not activated for this account"));
    }
    let amount = amount(&body["request_amount"], kind, channel)?;
    let is_manual = match (text("capture_method"), channel.kind) {
        ("" | "AUTOMATIC", _) => false,
        ("MANUAL", Kind::Card) => true,
        _ => return Err(invalid("capture_method must be AUTOMATIC, or MANUAL for CARDS")),
    };
    if kind == "REUSABLE_PAYMENT_CODE" && channel.kind == Kind::Card {
        return Err(invalid("type REUSABLE_PAYMENT_CODE is not supported by channel 'CARDS'"));
    }
    let properties = match &body["channel_properties"] {
        Value::Null => json!({}),
        properties @ Value::Object(_) => properties.clone(),
        _ => return Err(invalid("channel_properties must be an object")),
    };
    let expires = expiry(world.now(), channel, &properties)?;
    let number = match (&properties["virtual_account_number"], channel.kind) {
        (Value::Null, _) => None,
        (Value::String(number), Kind::Va) if is_suffix(number) => {
            Some(format!("{}{number:0>width$}", channel.prefix, width = VA_DIGITS - channel.prefix.len()))
        }
        _ => return Err(invalid("channel_properties.virtual_account_number must have 1 to 10 digits")),
    };
    if number.as_ref().is_some_and(|number| world.xendit.request_of(number).is_some_and(|it| it.status.is_open())) {
        return Err(error(409, "DUPLICATE_ERROR", "The virtual account number is in use"));
    }
    let (properties, is_challenged) = match channel.kind {
        Kind::Card => card(world, caller, reference, &properties)?,
        _ => (properties, false),
    };
    Ok(Ask {
        reference: reference.into(),
        kind,
        amount,
        is_manual,
        channel,
        properties,
        expires,
        number,
        is_challenged,
        echoed: echoed(&body)?,
        api: Api::V3,
    })
}

fn is_suffix(number: &str) -> bool {
    (1..=10).contains(&number.len()) && number.bytes().all(|it| it.is_ascii_digit())
}

/// In whole rupiah, within what the channel takes.
fn amount(said: &Value, kind: &str, channel: &Channel) -> Result<Option<i64>, Reply> {
    if said.is_null() && kind == "REUSABLE_PAYMENT_CODE" {
        return Ok(None);
    }
    whole(said, "request_amount", channel).map(Some)
}

/// A number of whole rupiah.
pub fn whole(said: &Value, name: &str, channel: &Channel) -> Result<i64, Reply> {
    // 48500.0 is whole, too. What a float cannot hold exactly is far above any limit.
    let exact =
        said.as_i64().or_else(|| said.as_f64().filter(|it| it.fract() == 0.0 && it.abs() < 1e15).map(|it| it as i64));
    let Some(amount) = exact else { return Err(invalid(&format!("{name} must be a number of whole rupiah"))) };
    if amount < channel.least {
        return Err(invalid(&format!("{name} is below the channel minimum")));
    }
    if amount > channel.most {
        return Err(invalid(&format!("{name} is above the channel maximum")));
    }
    Ok(amount)
}

/// When it ends, if the merchant may and does say so.
pub fn expiry(now: Moment, channel: &Channel, properties: &Value) -> Result<Option<Moment>, Reply> {
    let said = &properties["expires_at"];
    if said.is_null() {
        return Ok(None);
    }
    if channel.kind != Kind::Va {
        return Err(invalid(&format!("expires_at is not supported by channel '{}'", channel.code)));
    }
    let moment = said.as_str().and_then(Moment::parse).filter(|it| *it > now && *it <= now.plus(channel.life()));
    moment.map(Some).ok_or_else(|| invalid("channel_properties.expires_at must be ISO 8601, and in the future"))
}

/// What a card's properties are shown as, and whether its customer has to be asked.
fn card(world: &World, caller: &Caller, reference: &str, properties: &Value) -> Result<(Value, bool), Reply> {
    let twin = world.xendit.of_reference(reference);
    if twin.is_some_and(|it| it.account == caller.account.business_id && it.channel.kind == Kind::Card) {
        return Err(error(409, "DUPLICATE_ERROR", "reference_id was used before"));
    }
    let details = &properties["card_details"];
    let text = |name: &str| details[name].as_str().unwrap_or_default();
    let number = text("card_number");
    let is_number = (13..=19).contains(&number.len()) && is_luhn(number);
    let cvn = text("cvn");
    if !is_number || !(cvn.is_empty() || (3..=4).contains(&cvn.len())) {
        return Err(error(400, "INVALID_PAYMENT_DETAILS", "card_details.card_number or cvn is not valid"));
    }
    let (month, year) = (text("expiry_month").parse::<u8>(), text("expiry_year").parse::<i32>());
    match (month, year) {
        (Ok(month @ 1..=12), Ok(year @ 2000..2100)) if (year, month) >= world.now().month() => {}
        (Ok(1..=12), Ok(2000..2100)) => return Err(error(400, "CARD_EXPIRED", "The card has expired")),
        _ => {
            return Err(error(400, "INVALID_PAYMENT_DETAILS", "card_details.expiry_month or expiry_year is not valid"));
        }
    }
    let skips = properties["skip_three_ds"] == true;
    if skips && !caller.account.may_skip_3ds {
        return Err(error(403, "SKIP_3DS_FORBIDDEN", "The account may not charge a card without 3DS"));
    }
    let mut shown = fields(properties.clone());
    let mut card = fields(shown.remove("card_details").unwrap_or_default());
    card.retain(|name, _| !matches!(name.as_str(), "card_number" | "cvn"));
    card.append(&mut fields(json!({
        "masked_card_number": format!("{}XXXXXX{}", &number[..6], &number[number.len() - 4..]),
        "type": "CREDIT",
        "network": if number.starts_with('5') { "MASTERCARD" } else { "VISA" },
        "issuer": "BANK SIMULASI",
        "fingerprint": format!("{:016x}", number.bytes().fold(7_u64, |all, it| all.wrapping_mul(131) + u64::from(it))),
    })));
    shown.insert("card_details".into(), Value::Object(card));
    let is_frictionless = matches!(number, "4000000000001000" | "5200000000001005");
    Ok((Value::Object(shown), !(skips || is_frictionless)))
}

/// What is said again in answers, checked as far as it is documented.
fn echoed(body: &Value) -> Result<Map<String, Value>, Reply> {
    let mut all = Map::new();
    match &body["description"] {
        Value::Null => {}
        Value::String(text) if (1..=DESCRIPTION_CHARS_MAX).contains(&text.chars().count()) => {
            all.insert("description".into(), text.as_str().into());
        }
        _ => return Err(invalid(&format!("description must have 1 to {DESCRIPTION_CHARS_MAX} characters"))),
    }
    if !body["customer"].is_null() && !body["customer_id"].is_null() {
        return Err(invalid("Say customer or customer_id, not both"));
    }
    let metadata = &body["metadata"];
    let is_short = |(key, value): (&String, &Value)| {
        key.chars().count() <= METADATA_KEY_CHARS_MAX
            && value.as_str().map_or(0, |it| it.chars().count()) <= METADATA_VALUE_CHARS_MAX
    };
    let is_good = match metadata {
        Value::Null => true,
        Value::Object(all) => all.len() <= METADATA_KEYS_MAX && all.iter().all(is_short),
        _ => false,
    };
    if !is_good {
        let limits = format!(
            "{METADATA_KEYS_MAX} keys of {METADATA_KEY_CHARS_MAX} characters and values of {METADATA_VALUE_CHARS_MAX}"
        );
        return Err(invalid(&format!("metadata must be an object of at most {limits}")));
    }
    for name in ["metadata", "customer", "customer_id", "items", "shipping_information"] {
        if !body[name].is_null() {
            all.insert(name.into(), body[name].clone());
        }
    }
    Ok(all)
}

/// Whether a card's payment of this amount fails, and how.
pub fn magic(request: &Request) -> Option<&'static str> {
    request.amount.filter(|_| request.channel.kind == Kind::Card).and_then(failure_of)
}

/// A card's authorisation is good for so long.
pub const AUTHORIZED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
