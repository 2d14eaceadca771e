//! `/v1/payments`: those that a provider carries, and who has seen what arrived.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tillwire_channels::event::PaymentShown;
use tillwire_channels::{OutletId, PaymentId, Position, SaleId, Topic};
use utoipa::{IntoParams, ToSchema};

use super::extract::{At, IdempotencyKey, Params};
use super::problem::Problem;
use super::reply::bounded;
use super::sales::may_sell;
use crate::accounts;
use crate::commerce::payments::attempts::Closing;
use crate::commerce::payments::{self, PaymentView, State as Standing};
use crate::commerce::{outlets, sales};
use crate::connectors::ability::{self, Ability};
use crate::connectors::credentials::{Mode, Provider};
use crate::connectors::qr::Qr;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
use crate::journal::{Once, Written, pool};
use crate::payments::asking::{self, Wanted};
use crate::payments::desk::Cause;
use crate::screens::seen::{self, SCREENS_MAX, SeenOn};

/// How many to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SeenParams {
    /// How many screens, at most.
    pub limit: Option<u32>,
}

/// On which screens a payment was seen.
#[derive(Debug, Serialize, ToSchema)]
pub struct PaymentSeen {
    pub payment: PaymentId,
    /// Where in the journal the payment stands; none if that is no longer kept.
    #[schema(value_type = Option<String>)]
    pub position: Option<Position>,
    /// The first ones first.
    pub screens: Vec<SeenOn>,
    /// Whether there are more.
    pub more: bool,
}

/// The screens on which a person has seen a payment, and when: those that were told it and said `seen` at it or later.
/// Kept for 31 days.
#[utoipa::path(get, path = "/v1/payments/{payment}/seen", tag = "payments",
    params(("payment" = PaymentId, Path), SeenParams),
    responses((status = 200, body = PaymentSeen), (status = "default", body = Problem)))]
pub async fn seen(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    Params(params): Params<SeenParams>,
) -> Result<Json<PaymentSeen>> {
    staff.may(Permission::ReadSales)?;
    let limit = bounded(params.limit, 200, SCREENS_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let found = sales::payment(tx.sql(), staff.merchant, payment).await?;
    // Whoever may hear of it may also know who has.
    if !staff.listener().may_join(Topic::Payments.at(found.outlet).by(found.register)) {
        return Err(Error::Denied(Permission::ReadSales));
    }
    let Some(position) = found.position(&mut tx).await? else {
        return Ok(Json(PaymentSeen { payment, position: None, screens: Vec::new(), more: false }));
    };
    let channels = seen::channels(found.outlet, found.register);
    let mut screens = seen::on(tx.sql(), staff.merchant, position, &channels, limit).await?;
    let more = screens.len() > limit as usize;
    screens.truncate(limit as usize);
    Ok(Json(PaymentSeen { payment, position: Some(position), screens, more }))
}

/// How long whoever asks for a payment waits for what the customer is shown. Whoever waits longer hears it on `payments`.
const SHOWN_MAX: Duration = Duration::from_secs(10);

/// Asks a provider for a payment: it is written down first, then asked for, and answered as it stands then.
pub(super) async fn ask(hub: &Hub, staff: Staff, once: Once, sale: SaleId, wanted: Wanted) -> Result<Written> {
    let (merchant, token) = (staff.merchant, wanted.card_token.clone());
    let (caller, vault, seller) = (staff.caller(), hub.desk.vault.clone(), staff.clone());
    let written = hub
        .journal
        .write(caller, Some(once), 201, move |tx| {
            let (staff, vault, wanted) = (seller.clone(), vault.clone(), wanted.clone());
            async move {
                let sale = sales::lock(tx, sale).await?;
                may_sell(&staff, &sale)?;
                Ok(PaymentView::from(asking::begin(tx, &vault, &sale, &wanted).await?))
            }
            .boxed()
        })
        .await?;
    // The stored answer is of when it was begun; what is answered is how it stands.
    let payment = serde_json::from_str::<PaymentView>(&written.reply)?.id;
    let (desk, mut cause) = (hub.desk.clone(), Cause::begun(token));
    cause.at_once = !written.replayed;
    let attending = hub.journal.tasks().spawn(async move { desk.attend_to_end(merchant, payment, cause).await });
    _ = tokio::time::timeout(SHOWN_MAX, attending).await;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let view = PaymentView::from(payments::get(tx.sql(), merchant, payment).await?);
    Ok(Written { reply: serde_json::to_string(&view)?, ..written })
}

/// How to look at a payment.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LookParams {
    /// Whether its provider is asked first: a few times at once, if need be, and then every ten seconds at most.
    #[serde(default)]
    pub ask: bool,
}

/// One payment that a provider carries, as it stands. A till that hears nothing asks for it every few seconds.
#[utoipa::path(get, path = "/v1/payments/{payment}", tag = "payments",
    params(("payment" = PaymentId, Path), LookParams),
    responses((status = 200, body = PaymentView), (status = "default", body = Problem)))]
pub async fn get(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    Params(params): Params<LookParams>,
) -> Result<Json<PaymentView>> {
    let view = found(&hub, &staff, payment).await?;
    if !params.ask {
        return Ok(Json(view));
    }
    let mut sql = pool::begin_of(&hub.journal.pools.app, staff.merchant).await?;
    payments::attempts::prompt(&mut sql, staff.merchant, payment).await?;
    sql.commit().await?;
    attended(&hub, &staff, payment).await.map(Json)
}

async fn found(hub: &Hub, staff: &Staff, payment: PaymentId) -> Result<PaymentView> {
    staff.may(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let view = PaymentView::from(payments::get(tx.sql(), staff.merchant, payment).await?);
    staff.may_at(Permission::ReadSales, view.outlet)?;
    Ok(view)
}

/// Payments of a sale that a provider carries or was to carry, the first first.
#[utoipa::path(get, path = "/v1/sales/{sale}/payments", tag = "payments", params(("sale" = SaleId, Path)),
    responses((status = 200, body = Vec<PaymentView>), (status = "default", body = Problem)))]
pub async fn of_sale(State(hub): State<Hub>, staff: Staff, At(sale): At<SaleId>) -> Result<Json<Vec<PaymentView>>> {
    staff.may(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let outlet = sales::get(tx.sql(), staff.merchant, sale).await?.outlet;
    staff.may_at(Permission::ReadSales, outlet)?;
    let attempts = payments::of_sale(tx.sql(), staff.merchant, sale).await?;
    Ok(Json(attempts.into_iter().map(PaymentView::from).collect()))
}

/// The QR code of a payment, as SVG: only while it can be paid.
#[utoipa::path(get, path = "/v1/payments/{payment}/qr.svg", tag = "payments", params(("payment" = PaymentId, Path)),
    responses((status = 200, content_type = "image/svg+xml", body = String), (status = "default", body = Problem)))]
pub async fn svg(State(hub): State<Hub>, staff: Staff, At(payment): At<PaymentId>) -> Result<Response> {
    let qr = code(&found(&hub, &staff, payment).await?)?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "no-store")], qr.svg()).into_response())
}

/// The QR code of a payment, as PNG: only while it can be paid.
#[utoipa::path(get, path = "/v1/payments/{payment}/qr.png", tag = "payments", params(("payment" = PaymentId, Path)),
    responses((status = 200, content_type = "image/png", body = Vec<u8>), (status = "default", body = Problem)))]
pub async fn png(State(hub): State<Hub>, staff: Staff, At(payment): At<PaymentId>) -> Result<Response> {
    let qr = code(&found(&hub, &staff, payment).await?)?;
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")], qr.png()?).into_response())
}

fn code(view: &PaymentView) -> Result<Qr> {
    match &view.shown {
        Some(PaymentShown::Qr { text }) if view.state == Standing::Pending => Ok(Qr::of(text)?),
        _ => Err(Error::NotFound("QR code")),
    }
}

/// Calls a payment off. Its provider is told and has the last word: it may have been paid meanwhile. The answer is how it stands
/// then, or soon after.
#[utoipa::path(post, path = "/v1/payments/{payment}/cancel", tag = "payments",
    params(("payment" = PaymentId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = PaymentView), (status = "default", body = Problem)))]
pub async fn cancel(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may(Permission::Sell)?;
    let once = key.once("POST /v1/payments/{payment}/cancel", b"");
    let seller = staff.clone();
    let written = hub
        .journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let staff = seller.clone();
            async move {
                let merchant = tx.merchant();
                let sale = payments::get(tx.sql(), merchant, payment).await?.sale;
                let sale = sales::lock(tx, sale).await?;
                may_sell(&staff, &sale)?;
                Ok(PaymentView::from(payments::close(tx, payment, Closing::Canceled).await?))
            }
            .boxed()
        })
        .await?;
    let view = attended(&hub, &staff, payment).await?;
    Ok(Written { reply: serde_json::to_string(&view)?, ..written })
}

/// Attends to a payment now, and gives it as it stands then.
pub(super) async fn attended(hub: &Hub, staff: &Staff, payment: PaymentId) -> Result<PaymentView> {
    let (desk, merchant) = (hub.desk.clone(), staff.merchant);
    let attending =
        hub.journal.tasks().spawn(async move { desk.attend_to_end(merchant, payment, Cause::default()).await });
    _ = tokio::time::timeout(SHOWN_MAX, attending).await;
    found(hub, staff, payment).await
}

/// A way to pay at an outlet.
#[derive(Debug, Serialize, ToSchema)]
pub struct WayView {
    pub provider: Provider,
    pub mode: Mode,
    #[serde(flatten)]
    pub ability: Ability,
}

/// The ways to pay at an outlet, by the accounts that it has: bounds of amounts, expiries and refunds, for a screen to offer no
/// more than works.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/payment-methods", tag = "payments", params(("outlet" = OutletId, Path)),
    responses((status = 200, body = Vec<WayView>), (status = "default", body = Problem)))]
pub async fn ways(State(hub): State<Hub>, staff: Staff, At(outlet): At<OutletId>) -> Result<Json<Vec<WayView>>> {
    staff.may_at(Permission::ReadSales, outlet)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    outlets::get(tx.sql(), staff.merchant, outlet).await?;
    let accounts = accounts::kept::of_outlet(tx.sql(), staff.merchant, outlet).await?;
    let ways = accounts.into_iter().flat_map(|(provider, mode)| {
        ability::abilities(provider).iter().map(move |ability| WayView { provider, mode, ability: *ability })
    });
    Ok(Json(ways.collect()))
}
