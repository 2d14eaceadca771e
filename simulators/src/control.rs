//! `/_sim`: what the world outside does, on either door. Customers pay and fail, clocks are set, things go wrong. Nobody is
//! asked who they are: it is for tests and demonstrations, and listens where they say.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::account::{Account, Provider};
use crate::call::BODY_BYTES_MAX;
use crate::clock::{ADVANCE_MAX, Moment, SPEED_MAX};
use crate::deliveries::Delivery;
use crate::faults::Rule;
use crate::sending::Shared;
use crate::world::World;
use crate::{bank, midtrans, qris, xendit};

/// How many open payments a bank's app shows of each provider.
const OPEN_MAX: usize = 50;
/// How many deliveries or requests are shown if nobody says, and at most.
const SHOWN: usize = 1_000;
const SHOWN_MAX: usize = 20_000;
/// How many deliveries are sent again at once.
const REDELIVERED_MAX: usize = 1_000;
/// The longest name of an app.
const ISSUER_BYTES_MAX: usize = 40;

/// How a customer pays.
#[derive(Clone, Default)]
pub struct Pay {
    pub issuer: Option<String>,
    pub amount: Option<i64>,
    /// Although it is over.
    pub late: bool,
}

/// What a customer could pay now.
#[derive(Serialize)]
pub struct Open {
    pub provider: Provider,
    pub id: String,
    pub reference: String,
    pub method: String,
    /// Of a virtual account or a bill.
    pub number: Option<String>,
    pub qr: Option<String>,
    /// Nothing where the customer says how much.
    pub amount: Option<i64>,
    pub merchant: String,
    pub created: Moment,
    pub expires: Option<Moment>,
}

/// Why something cannot be.
#[derive(Debug)]
pub enum Refusal {
    NotFound,
    Not(&'static str),
    Invalid(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, why) = match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "there is no such thing here".to_owned()),
            Self::Not(why) => (StatusCode::CONFLICT, why.to_owned()),
            Self::Invalid(why) => (StatusCode::BAD_REQUEST, why),
        };
        (status, Json(json!({ "error": why }))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// A body of JSON. A form of another site's page cannot be one.
struct Said<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Said<T> {
    type Rejection = Refusal;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Refusal> {
        let said: Result<Json<T>, JsonRejection> = Json::from_request(request, state).await;
        said.map(|Json(said)| Self(said)).map_err(|refused| Refusal::Invalid(refused.body_text()))
    }
}

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/_sim/pay", post(pay))
        .route("/_sim/fail", post(fail))
        .route("/_sim/expire_now", post(expire_now))
        .route("/_sim/settle", post(settle))
        .route("/_sim/chargeback", post(chargeback))
        .route("/_sim/forge", post(forge))
        .route("/_sim/clock", get(clock).post(set_clock))
        .route("/_sim/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/_sim/faults/{id}", delete(remove_fault))
        .route("/_sim/deliveries", get(deliveries))
        .route("/_sim/redeliver", post(redeliver))
        .route("/_sim/requests", get(requests).delete(clear_requests))
        .route("/_sim/accounts", post(put_account))
        .route("/_sim/open", get(open))
        .merge(bank::router())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// What is paid: a payment by whatever it is called, a QR code that was read, or the code that stands on a merchant's
/// counter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayOrder {
    id: Option<String>,
    qr: Option<String>,
    merchant: Option<String>,
    provider: Option<Provider>,
    issuer: Option<String>,
    amount: Option<i64>,
    #[serde(default)]
    late: bool,
}

async fn pay(State(shared): State<Arc<Shared>>, Said(order): Said<PayOrder>) -> Answer {
    if order.amount.is_some_and(|it| !(1..=crate::AMOUNT_MAX).contains(&it)) {
        return Err(Refusal::Invalid(format!("amount must be 1 to {}", crate::AMOUNT_MAX)));
    }
    if order.issuer.as_ref().is_some_and(|it| it.is_empty() || it.len() > ISSUER_BYTES_MAX) {
        return Err(Refusal::Invalid(format!("issuer must be 1 to {ISSUER_BYTES_MAX} bytes")));
    }
    let pay = Pay { issuer: order.issuer, amount: order.amount, late: order.late };
    let paid = shared.act(|world| match (&order.id, &order.qr, &order.merchant) {
        (Some(id), None, None) => pay_one(world, order.provider, id, &pay),
        (None, Some(qr), None) => pay_code(world, qr.trim(), &pay),
        (None, None, Some(merchant)) => pay_counter(world, order.provider, merchant, &pay),
        _ => Err(Refusal::Invalid("say one of id, qr and merchant".into())),
    });
    paid.map(Json)
}

fn pay_one(world: &mut World, provider: Option<Provider>, id: &str, pay: &Pay) -> Result<Value, Refusal> {
    let whose = whose(world, provider, id)?;
    // Whoever enters the number of a bill pays the bill. By an id it is a test that pays, which may want another amount.
    let billed = match whose {
        Provider::Midtrans => midtrans::billed(world, id),
        Provider::Xendit => xendit::billed(world, id),
    };
    let pay = &Pay { amount: billed.or(pay.amount), ..pay.clone() };
    match whose {
        Provider::Midtrans => midtrans::pay(world, id, pay),
        Provider::Xendit => xendit::pay(world, id, pay),
    }
}

/// As a bank's app does: what it cannot read it does not pay.
fn pay_code(world: &mut World, qr: &str, pay: &Pay) -> Result<Value, Refusal> {
    let read = qris::read(qr).ok_or(Refusal::Not("this is no QRIS code: its checksum or a field is wrong"))?;
    // What the code says is what is paid, whatever was asked for.
    let pay = &Pay { amount: read.amount.or(pay.amount), ..pay.clone() };
    if let Some(id) = world.xendit.codes.get(qr).cloned() {
        return xendit::pay(world, &id, pay);
    }
    let counter = world.midtrans.accounts().find(|it| midtrans::static_code(it) == qr).map(|it| it.merchant_id.clone());
    if let Some(merchant) = counter {
        return pay_counter(world, Some(Provider::Midtrans), &merchant, pay);
    }
    let found = world.midtrans.find(None, qr).map(|it| it.id.clone());
    midtrans::pay(world, &found.ok_or(Refusal::NotFound)?, pay)
}

fn pay_counter(world: &mut World, provider: Option<Provider>, merchant: &str, pay: &Pay) -> Result<Value, Refusal> {
    let amount = pay.amount.ok_or(Refusal::Not("amount is missing: the code has none"))?;
    match provider {
        Some(Provider::Midtrans) => midtrans::pay_static(world, merchant, amount, pay),
        Some(Provider::Xendit) => xendit::pay_static(world, merchant, amount, pay),
        None => Err(Refusal::Invalid("provider is missing".into())),
    }
}

/// Which provider knows this payment.
fn whose(world: &World, said: Option<Provider>, id: &str) -> Result<Provider, Refusal> {
    let midtrans = world.midtrans.find(None, id).is_some();
    let xendit = world.xendit.request_of(id).is_some() || world.xendit.sessions.get(id).is_some();
    match (said, midtrans, xendit) {
        (None, true, true) => Err(Refusal::Not("both providers have one that is called so: say provider")),
        (None | Some(Provider::Midtrans), true, _) => Ok(Provider::Midtrans),
        (None | Some(Provider::Xendit), _, true) => Ok(Provider::Xendit),
        _ => Err(Refusal::NotFound),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailOrder {
    id: String,
    provider: Option<Provider>,
    /// Midtrans: refused for good, instead of in the payer's app alone.
    #[serde(default)]
    deny: bool,
    /// Xendit: its `failure_code`.
    code: Option<String>,
}

async fn fail(State(shared): State<Arc<Shared>>, Said(order): Said<FailOrder>) -> Answer {
    let failed = shared.act(|world| match whose(world, order.provider, &order.id)? {
        Provider::Midtrans => midtrans::fail(world, &order.id, order.deny),
        Provider::Xendit => xendit::fail(world, &order.id, order.code.as_deref()),
    });
    failed.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: String,
    provider: Option<Provider>,
}

async fn expire_now(State(shared): State<Arc<Shared>>, Said(which): Said<Which>) -> Answer {
    let expired = shared.act(|world| match whose(world, which.provider, &which.id)? {
        Provider::Midtrans => midtrans::expire_now(world, &which.id),
        Provider::Xendit => xendit::expire_now(world, &which.id),
    });
    expired.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    id: Option<String>,
    provider: Option<Provider>,
}

async fn settle(State(shared): State<Arc<Shared>>, Said(which): Said<Settle>) -> Answer {
    let settled = shared.act(|world| {
        let of = |provider| which.provider.is_none_or(|it| it == provider);
        match &which.id {
            Some(id) => match whose(world, which.provider, id)? {
                Provider::Midtrans => midtrans::settle(world, Some(id)),
                Provider::Xendit => xendit::settle(world, Some(id)),
            },
            None => {
                let midtrans = if of(Provider::Midtrans) { midtrans::settle(world, None)? } else { 0 };
                let xendit = if of(Provider::Xendit) { xendit::settle(world, None)? } else { 0 };
                Ok(midtrans + xendit)
            }
        }
    });
    settled.map(|settled| Json(json!({ "settled": settled })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chargeback {
    id: String,
    provider: Option<Provider>,
    amount: Option<i64>,
}

async fn chargeback(State(shared): State<Arc<Shared>>, Said(order): Said<Chargeback>) -> Answer {
    let done = shared.act(|world| match whose(world, order.provider, &order.id)? {
        Provider::Midtrans => midtrans::chargeback(world, &order.id, order.amount),
        Provider::Xendit => xendit::chargeback(world, &order.id, order.amount),
    });
    done.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgery {
    id: String,
    provider: Option<Provider>,
    status: String,
    amount: Option<i64>,
}

async fn forge(State(shared): State<Arc<Shared>>, Said(order): Said<Forgery>) -> Answer {
    let Forgery { id, status, amount, .. } = &order;
    let sent = shared.act(|world| {
        Ok(match whose(world, order.provider, id)? {
            Provider::Midtrans => midtrans::forge(world, id, status, *amount),
            Provider::Xendit => xendit::forge(world, id, status, *amount),
        })
    })?;
    if sent { Ok(Json(json!({ "status": status }))) } else { Err(Refusal::NotFound) }
}

async fn clock(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.act(|world| json!({ "now": world.now(), "speed": world.clock.speed() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetClock {
    advance_s: Option<f64>,
    speed: Option<f64>,
}

async fn set_clock(State(shared): State<Arc<Shared>>, Said(order): Said<SetClock>) -> Answer {
    if order.speed.is_some_and(|it| !(0.0..=SPEED_MAX).contains(&it)) {
        return Err(Refusal::Invalid(format!("speed must be 0 to {SPEED_MAX}")));
    }
    let most = ADVANCE_MAX.as_secs_f64();
    if order.advance_s.is_some_and(|it| !(0.0..=most).contains(&it)) {
        return Err(Refusal::Invalid(format!("advance_s must be 0 to {most}")));
    }
    if let Some(speed) = order.speed {
        shared.act(|world| world.clock.set_speed(speed));
    }
    if let Some(seconds) = order.advance_s {
        shared.advance(Duration::from_secs_f64(seconds)).await;
    }
    Ok(clock(State(shared)).await)
}

async fn faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.act(|world| json!({ "faults": world.faults.all() })))
}

async fn add_fault(State(shared): State<Arc<Shared>>, Said(rule): Said<Rule>) -> Answer {
    let id = shared.act(|world| world.faults.add(rule, world.clock.now())).map_err(Refusal::Invalid)?;
    Ok(Json(json!({ "id": id })))
}

async fn remove_fault(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Answer {
    if shared.act(|world| world.faults.remove(id)) { Ok(Json(json!({}))) } else { Err(Refusal::NotFound) }
}

async fn clear_faults(State(shared): State<Arc<Shared>>) -> Json<Value> {
    shared.act(|world| world.faults.clear());
    Json(json!({}))
}

#[derive(Deserialize)]
struct Wanted {
    payment: Option<String>,
    provider: Option<Provider>,
    limit: Option<usize>,
}

impl Wanted {
    fn is(&self, provider: Provider, names: &[String]) -> bool {
        self.provider.is_none_or(|it| it == provider) && self.payment.as_ref().is_none_or(|it| names.contains(it))
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(SHOWN).min(SHOWN_MAX)
    }
}

/// Oldest first; the newest, if not all can be shown.
async fn deliveries(State(shared): State<Arc<Shared>>, Query(wanted): Query<Wanted>) -> Json<Value> {
    Json(shared.act(|world| {
        let meant = world.deliveries.all().rev().filter(|it| wanted.is(it.provider, &it.names));
        let mut shown: Vec<&Delivery> = meant.take(wanted.limit()).collect();
        shown.reverse();
        json!({ "deliveries": shown })
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redeliver {
    delivery: Option<u64>,
    payment: Option<String>,
}

async fn redeliver(State(shared): State<Arc<Shared>>, Said(which): Said<Redeliver>) -> Answer {
    let sent = shared.act(|world| {
        let ids: Vec<u64> = match (which.delivery, &which.payment) {
            (Some(id), None) => vec![id],
            (None, Some(payment)) => {
                let meant = world.deliveries.all().filter(|it| it.names.contains(payment));
                meant.take(REDELIVERED_MAX).map(|it| it.id).collect()
            }
            _ => return Err(Refusal::Invalid("say one of delivery and payment".into())),
        };
        Ok(ids.into_iter().filter(|id| world.redeliver(*id)).count())
    })?;
    if sent == 0 { Err(Refusal::NotFound) } else { Ok(Json(json!({ "redelivered": sent }))) }
}

async fn requests(State(shared): State<Arc<Shared>>, Query(wanted): Query<HashMap<String, String>>) -> Json<Value> {
    let is = |name: &str, value: &str| wanted.get(name).is_none_or(|it| it == value);
    Json(shared.act(|world| {
        let all = world.requests.all();
        let shown: Vec<_> =
            all.filter(|it| is("provider", &it.provider.to_string()) && is("operation", it.operation)).collect();
        json!({ "requests": shown })
    }))
}

async fn clear_requests(State(shared): State<Arc<Shared>>) -> Json<Value> {
    shared.act(|world| world.requests.clear());
    Json(json!({}))
}

async fn put_account(State(shared): State<Arc<Shared>>, Said(account): Said<Account>) -> Answer {
    account.check().map_err(Refusal::Invalid)?;
    let put = shared.act(|world| match account {
        Account::Midtrans(account) => world.midtrans.put(account),
        Account::Xendit(account) => world.xendit.put(account),
    });
    put.map(|()| Json(json!({}))).map_err(Refusal::Invalid)
}

/// What a customer could pay now, newest first, and the codes that stand on counters.
async fn open(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.act(|world| {
        let mut open = midtrans::open(world, OPEN_MAX);
        open.extend(xendit::open(world, OPEN_MAX));
        open.sort_by_key(|it| std::cmp::Reverse(it.created));
        let mut late = midtrans::payable_late(world, OPEN_MAX);
        late.extend(xendit::payable_late(world, OPEN_MAX));
        let counters = world.midtrans.accounts().take(OPEN_MAX);
        let counters: Vec<Value> =
            counters.map(|it| json!({ "merchant": it.shop.name, "qr": midtrans::static_code(it) })).collect();
        json!({ "now": world.now(), "open": open, "late": late, "counters": counters })
    }))
}
