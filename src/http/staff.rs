//! `/v1/staff`: the people who act for the merchant.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{Role, StaffId};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::staff::{self, NewStaff, PAGE_MAX, RevocationView, StaffView};
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Adds a member of staff.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddStaff {
    /// A UUID of your own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<StaffId>,
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub name: String,
    #[garde(skip)]
    pub role: Role,
}

/// Members of staff.
#[utoipa::path(get, path = "/v1/staff", tag = "staff", params(PageParams),
    responses((status = 200, body = Page<StaffView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<StaffView>>> {
    staff.may_everywhere(Permission::ManageStaff)?;
    let (limit, cursor) = params.read(50, PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = staff::list(tx.sql(), staff.merchant, cursor.map(StaffId), limit).await?;
    Ok(Json(Page::cut(list, limit, |staff| staff.id.0)))
}

/// Adds a member of staff.
#[utoipa::path(post, path = "/v1/staff", tag = "staff", request_body = AddStaff,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = StaffView), (status = "default", body = Problem)))]
pub async fn add(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<AddStaff>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageStaff)?;
    let once = key.once("POST /v1/staff", &bytes);
    let new = NewStaff { id: body.id.unwrap_or_else(StaffId::new), name: body.name, role: body.role };
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| staff::add(tx, new.clone()).boxed()).await
}

/// Kills every token that this member of staff, or this machine, has been issued until now. Open screens are signed
/// out; requests are refused at once.
#[utoipa::path(post, path = "/v1/staff/{staff}/revocations", tag = "staff", params(("staff" = StaffId, Path),
    ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = RevocationView), (status = "default", body = Problem)))]
pub async fn revoke(
    State(hub): State<Hub>,
    staff: Staff,
    At(whom): At<StaffId>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageStaff)?;
    let once = key.once("POST /v1/staff/{staff}/revocations", &[]);
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| staff::revoke(tx, whom).boxed()).await
}
