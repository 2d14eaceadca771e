//! `/v1/audit`: who did what, beside the sales.

use axum::Json;
use axum::extract::State;

use super::extract::Params;
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::audit::{self, LineView};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;

/// The audit's lines, the newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(PageParams),
    responses((status = 200, body = Page<LineView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<LineView>>> {
    staff.may_everywhere(Permission::ReadAudit)?;
    let (limit, cursor) = params.read(50, audit::PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = audit::list(tx.sql(), staff.merchant, cursor, limit).await?;
    Ok(Json(Page::cut(list, limit, |line| line.id)))
}
