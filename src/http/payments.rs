//! `/v1/payments`: who has seen what arrived.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tillwire_channels::{PaymentId, Position, Topic};
use utoipa::{IntoParams, ToSchema};

use super::extract::{At, Params};
use super::problem::Problem;
use super::reply::bounded;
use crate::commerce::sales;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
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
