//! `/v1/webhooks/{webhook}/redeliveries`: a part of the journal once more.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{EndpointId, Position};
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, Params, Valid};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;
use crate::webhooks::endpoints;
use crate::webhooks::redeliveries::{self, Range, RedeliveryView};

/// What is to be told once more.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redeliver {
    /// The first position: an event's, such as `1041.2-9f3ac2d1`, or an entry's, `1041-9f3ac2d1`, for all of its events.
    #[garde(skip)]
    #[schema(value_type = String)]
    pub from: Position,
    /// The last one, included as well; the same as the first if it is left out.
    #[garde(skip)]
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub to: Option<Position>,
}

/// Redeliveries to a webhook, the newest first.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/redeliveries", tag = "webhooks",
    params(("webhook" = EndpointId, Path), PageParams),
    responses((status = 200, body = Page<RedeliveryView>), (status = "default", body = Problem)))]
pub async fn redeliveries(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<RedeliveryView>>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (limit, cursor) = params.read(50, redeliveries::PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    endpoints::get(tx.sql(), staff.merchant, id).await?;
    let list = redeliveries::list(tx.sql(), staff.merchant, id, cursor, limit).await?;
    Ok(Json(Page::cut(list, limit, |redelivery| redelivery.id)))
}

/// Tells a webhook one event, or all of its types from one position to another, once more: in order, under the same ids, and
/// beside what it is told anyway. One that is disabled is told when it is enabled again.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/redeliveries", tag = "webhooks", request_body = Redeliver,
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = RedeliveryView), (status = "default", body = Problem)))]
pub async fn redeliver(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<Redeliver>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let once = key.once("POST /v1/webhooks/{webhook}/redeliveries", &bytes);
    let range = Range::of(body.from, body.to.unwrap_or(body.from))?;
    let redelivery = Uuid::now_v7();
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| redeliveries::add(tx, id, redelivery, range).boxed())
        .await
}

/// One redelivery, and how far it has come.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/redeliveries/{redelivery}", tag = "webhooks",
    params(("webhook" = EndpointId, Path), ("redelivery" = Uuid, Path)),
    responses((status = 200, body = RedeliveryView), (status = "default", body = Problem)))]
pub async fn redelivery(
    State(hub): State<Hub>,
    staff: Staff,
    At((id, redelivery)): At<(EndpointId, Uuid)>,
) -> Result<Json<RedeliveryView>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(redeliveries::get(tx.sql(), staff.merchant, id, redelivery).await?))
}

/// Ends a redelivery that runs.
#[utoipa::path(delete, path = "/v1/webhooks/{webhook}/redeliveries/{redelivery}", tag = "webhooks",
    params(("webhook" = EndpointId, Path), ("redelivery" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = RedeliveryView), (status = "default", body = Problem)))]
pub async fn cancel_redelivery(
    State(hub): State<Hub>,
    staff: Staff,
    At((id, redelivery)): At<(EndpointId, Uuid)>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let once = key.once("DELETE /v1/webhooks/{webhook}/redeliveries/{redelivery}", &[]);
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| redeliveries::cancel(tx, id, redelivery).boxed()).await
}
