//! `/v1/dead-letters`: what a handler could not do, and what becomes of it.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, Params};
use super::problem::Problem;
use super::reply::{Page, bounded, cursor};
use crate::error::Result;
use crate::handled::letters::{self, LetterView};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Which dead letters, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LettersParams {
    /// Only what this one could not do: `push`.
    pub handler: Option<String>,
    /// How many items, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// What could not be done however often it was tried, the newest first.
#[utoipa::path(get, path = "/v1/dead-letters", tag = "dead letters", params(LettersParams),
    responses((status = 200, body = Page<LetterView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<LettersParams>,
) -> Result<Json<Page<LetterView>>> {
    staff.may_everywhere(Permission::ManageDeadLetters)?;
    let (limit, cursor) = (bounded(params.limit, 50, letters::PAGE_MAX)?, cursor(params.cursor.as_deref())?);
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = letters::list(tx.sql(), staff.merchant, params.handler.as_deref(), cursor, limit).await?;
    Ok(Json(Page::cut(list, limit, |letter| letter.id)))
}

/// Has a dead letter tried again, as if it never was. The audit has a line of it.
#[utoipa::path(post, path = "/v1/dead-letters/{letter}/replay", tag = "dead letters",
    params(("letter" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = LetterView), (status = "default", body = Problem)))]
pub async fn replay(
    State(hub): State<Hub>,
    staff: Staff,
    At(letter): At<Uuid>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageDeadLetters)?;
    let once = key.once("POST /v1/dead-letters/{letter}/replay", &[]);
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| letters::replay(tx, letter).boxed()).await
}

/// Drops a dead letter: what it asked for will not be done. The audit has a line of it.
#[utoipa::path(delete, path = "/v1/dead-letters/{letter}", tag = "dead letters",
    params(("letter" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = LetterView), (status = "default", body = Problem)))]
pub async fn discard(
    State(hub): State<Hub>,
    staff: Staff,
    At(letter): At<Uuid>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageDeadLetters)?;
    let once = key.once("DELETE /v1/dead-letters/{letter}", &[]);
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| letters::discard(tx, letter).boxed()).await
}
