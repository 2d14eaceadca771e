//! `/v1/outlets`: outlets and their registers.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{OutletId, RegisterId};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::commerce::outlets::{self, NewOutlet, NewRegister, OutletView, PAGE_MAX, RegisterView};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Opens an outlet.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenOutlet {
    /// A UUID of your own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<OutletId>,
    /// Stands on receipts: capital letters, digits and hyphens.
    #[garde(pattern(r"^[A-Z0-9-]{1,16}$"))]
    pub code: String,
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub name: String,
    /// An IANA name such as `Asia/Jakarta`.
    #[garde(length(bytes, min = 1, max = 64), custom(printable))]
    pub time_zone: String,
}

/// Enrols a register.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolRegister {
    /// A UUID of your own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<RegisterId>,
    /// Stands on receipts: capital letters, digits and hyphens.
    #[garde(pattern(r"^[A-Z0-9-]{1,16}$"))]
    pub code: String,
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub name: String,
}

/// Outlets with their registers: those that the token is bound to.
#[utoipa::path(get, path = "/v1/outlets", tag = "outlets", params(PageParams),
    responses((status = 200, body = Page<OutletView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<OutletView>>> {
    staff.may(Permission::ReadOutlets)?;
    let (limit, cursor) = params.read(50, PAGE_MAX)?;
    let only = (!staff.outlets.is_empty()).then_some(&staff.outlets[..]);
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let outlets = outlets::list(tx.sql(), staff.merchant, only, cursor.map(OutletId), limit).await?;
    Ok(Json(Page::cut(outlets, limit, |outlet| outlet.id.0)))
}

/// One outlet with its registers.
#[utoipa::path(get, path = "/v1/outlets/{outlet}", tag = "outlets", params(("outlet" = OutletId, Path)),
    responses((status = 200, body = OutletView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(outlet): At<OutletId>) -> Result<Json<OutletView>> {
    staff.may_at(Permission::ReadOutlets, outlet)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(outlets::get(tx.sql(), staff.merchant, outlet).await?))
}

/// Opens an outlet.
#[utoipa::path(post, path = "/v1/outlets", tag = "outlets", request_body = OpenOutlet,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = OutletView), (status = "default", body = Problem)))]
pub async fn open(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<OpenOutlet>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageOutlets)?;
    let once = key.once("POST /v1/outlets", &bytes);
    let new = NewOutlet {
        id: body.id.unwrap_or_else(OutletId::new),
        code: body.code,
        name: body.name,
        time_zone: body.time_zone,
    };
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| outlets::open(tx, new.clone()).boxed()).await
}

/// Enrols a register at an outlet.
#[utoipa::path(post, path = "/v1/outlets/{outlet}/registers", tag = "outlets", request_body = EnrolRegister,
    params(("outlet" = OutletId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = RegisterView), (status = "default", body = Problem)))]
pub async fn enrol(
    State(hub): State<Hub>,
    staff: Staff,
    At(outlet): At<OutletId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<EnrolRegister>,
) -> Result<Written> {
    staff.may_at(Permission::ManageOutlets, outlet)?;
    let once = key.once("POST /v1/outlets/{outlet}/registers", &bytes);
    let new = NewRegister { id: body.id.unwrap_or_else(RegisterId::new), outlet, code: body.code, name: body.name };
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| outlets::enrol(tx, new.clone()).boxed()).await
}
