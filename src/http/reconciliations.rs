//! `/v1/reconciliations` and `/v1/payment-differences`: what we have of payments, held against what providers tell and pay out.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::Moment;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, bounded, cursor};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;
use crate::reconciliation::differences::{self, DifferenceView, Which};
use crate::reconciliation::file::{self, FILE_BYTES_MAX};
use crate::reconciliation::lines::{self, Imported};
use crate::reconciliation::runs::{self, RunView};

/// The span that is to be compared.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Span {
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub from: Moment,
    /// Not in the future; 31 days later at most.
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: Moment,
}

/// Why a difference is closed.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseDifference {
    /// What it was, and what was done about it.
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub reason: String,
}

/// Which runs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RunParams {
    pub account: Option<Uuid>,
    /// How many, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Which differences.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DifferenceParams {
    /// Those that are open, if this is left out.
    pub state: Option<DifferenceState>,
    pub account: Option<Uuid>,
    /// Those that this run has found.
    pub found_by: Option<Uuid>,
    /// How many, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceState {
    Open,
    Closed,
    All,
}

/// Begins to compare the payments of an account over a span with what its provider tells. It goes on by itself; one over the same
/// span that is under way is answered in its place.
#[utoipa::path(post, path = "/v1/provider-accounts/{account}/reconciliations", tag = "reconciliation", request_body = Span,
    params(("account" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = RunView), (status = "default", body = Problem)))]
pub async fn begin(
    State(hub): State<Hub>,
    staff: Staff,
    At(account): At<Uuid>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<Span>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once("POST /v1/provider-accounts/{account}/reconciliations", &bytes);
    let Span { from, until } = body;
    hub.journal.write(staff.caller(), Some(once), 201, move |tx| runs::begin(tx, account, from, until).boxed()).await
}

/// Runs, the newest first.
#[utoipa::path(get, path = "/v1/reconciliations", tag = "reconciliation", params(RunParams),
    responses((status = 200, body = Page<RunView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<RunParams>,
) -> Result<Json<Page<RunView>>> {
    staff.may_everywhere(Permission::ReadSales)?;
    let limit = bounded(params.limit, 50, runs::PAGE_MAX)?;
    let before = cursor(params.cursor.as_deref())?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = runs::list(tx.sql(), staff.merchant, params.account, before, limit).await?;
    Ok(Json(Page::cut(list, limit, |run| run.id)))
}

/// One run, as far as it has come.
#[utoipa::path(get, path = "/v1/reconciliations/{reconciliation}", tag = "reconciliation",
    params(("reconciliation" = Uuid, Path)),
    responses((status = 200, body = RunView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(run): At<Uuid>) -> Result<Json<RunView>> {
    staff.may_everywhere(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(runs::get(tx.sql(), staff.merchant, run).await?))
}

/// What differs, in the order in which it was first found.
#[utoipa::path(get, path = "/v1/payment-differences", tag = "reconciliation", params(DifferenceParams),
    responses((status = 200, body = Page<DifferenceView>), (status = "default", body = Problem)))]
pub async fn list_differences(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<DifferenceParams>,
) -> Result<Json<Page<DifferenceView>>> {
    staff.may_everywhere(Permission::ReadSales)?;
    let limit = bounded(params.limit, 50, differences::PAGE_MAX)?;
    let after = cursor(params.cursor.as_deref())?;
    let open = match params.state.unwrap_or(DifferenceState::Open) {
        DifferenceState::Open => Some(true),
        DifferenceState::Closed => Some(false),
        DifferenceState::All => None,
    };
    let which = Which { account: params.account, run: params.found_by, open };
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = differences::list(tx.sql(), staff.merchant, which, after, limit).await?;
    Ok(Json(Page::cut(list, limit, |difference| difference.id)))
}

/// Closes a difference, with a reason. It comes back if its amounts become others.
#[utoipa::path(post, path = "/v1/payment-differences/{difference}/close", tag = "reconciliation",
    request_body = CloseDifference,
    params(("difference" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = DifferenceView), (status = "default", body = Problem)))]
pub async fn close_difference(
    State(hub): State<Hub>,
    staff: Staff,
    At(difference): At<Uuid>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<CloseDifference>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once("POST /v1/payment-differences/{difference}/close", &bytes);
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let reason = body.reason.clone();
            async move { differences::close(tx, difference, &reason).await }.boxed()
        })
        .await
}

/// A body of CSV.
pub struct Csv(Bytes);

impl<S: Send + Sync> FromRequest<S> for Csv {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/csv")) {
            return Err(Error::invalid("unsupported_media_type", "Content-Type", "The body must be text/csv."));
        }
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection.status().as_u16() {
            413 => Error::TooLarge { limit_bytes: FILE_BYTES_MAX },
            _ => Error::invalid("no_csv", "", "The body could not be read."),
        })
    }
}

/// Brings a settlement file of a provider's, as CSV: what it has paid out, and what it has kept of it. Its first line names the
/// columns, in any order. A line that was brought before is not brought again, and a file with a line that cannot be read is not
/// brought at all. The next run compares it.
#[utoipa::path(post, path = "/v1/provider-accounts/{account}/settlements", tag = "reconciliation",
    request_body(content = String, content_type = "text/csv", description = "Columns: docs/reconciliation.md."),
    params(("account" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = Imported), (status = "default", body = Problem)))]
pub async fn import(
    State(hub): State<Hub>,
    staff: Staff,
    At(account): At<Uuid>,
    key: IdempotencyKey,
    Csv(bytes): Csv,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once("POST /v1/provider-accounts/{account}/settlements", &bytes);
    let read = tokio::task::spawn_blocking(move || file::read(&bytes)).await??;
    let read: std::sync::Arc<[file::Line]> = read.into();
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let read = read.clone();
            async move { lines::import(tx, account, &read).await }.boxed()
        })
        .await
}
