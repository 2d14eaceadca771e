//! `/v1/outlets/{outlet}/presence`: who is there, by their screens.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tillwire_channels::OutletId;
use tillwire_channels::wire::Present;
use utoipa::ToSchema;

use super::extract::At;
use super::problem::Problem;
use crate::commerce::outlets;
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
use crate::screens::presence;

/// How many people are named.
const PRESENT_MAX: usize = 1_000;

/// Who is at an outlet.
#[derive(Debug, Serialize, ToSchema)]
pub struct PresenceView {
    /// The longest there first.
    pub present: Vec<Present>,
    /// How many more there are.
    pub more: u32,
}

/// Who is at an outlet now: everyone with a screen whose token is bound to it, once for each register. A gateway that died
/// no longer counts after 15 seconds at most.
#[utoipa::path(get, path = "/v1/outlets/{outlet}/presence", tag = "outlets", operation_id = "presence",
    params(("outlet" = OutletId, Path)),
    responses((status = 200, body = PresenceView), (status = "default", body = Problem)))]
pub async fn at(State(hub): State<Hub>, staff: Staff, At(outlet): At<OutletId>) -> Result<Json<PresenceView>> {
    staff.may_at(Permission::ReadPresence, outlet)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    outlets::get(tx.sql(), staff.merchant, outlet).await?;
    let said = presence::said(tx.sql(), staff.merchant, Some(outlet)).await?;
    let (present, more) = presence::named(tx.sql(), staff.merchant, &said, PRESENT_MAX).await?;
    Ok(Json(PresenceView { present, more }))
}
