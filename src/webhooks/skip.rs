//! Skipping: a message that a receiver will never take is passed over by a person, who names it.

use std::time::Duration;

use sqlx::PgConnection;
use tillwire_channels::{EndpointId, MerchantId, Position};

use super::attempts::{self, Answer, Attempted};
use super::endpoints::{self, EndpointView, place};
use super::message::{self, Message};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;
use crate::journal::read::{self, Entries, Slice};

/// How far it is looked for what an endpoint is told next: one that fails stands right before it, but for a change of what it
/// hears.
const SLICE: Slice = Slice { entries_max: 64, bytes_max: 256 * 1024 };

/// Passes an endpoint over the one event that it is stuck at. Whoever is serving it has lost it.
pub async fn over(tx: &mut MerchantTx, id: EndpointId, position: Position) -> Result<EndpointView> {
    let (merchant, at) = (tx.merchant(), tx.now());
    let row = sqlx::query!(
        "select events, seq, event, tag, attempts from webhook_endpoints
         where merchant_id = $1 and endpoint_id = $2 for no key update",
        merchant.0,
        id.0,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(Error::NotFound("webhook"))?;
    let next = match row.attempts {
        0 => None,
        _ => next(tx.sql(), merchant, place(row.seq, row.event, &row.tag)?, &row.events).await?,
    };
    let Some((to, message)) = next else {
        return Err(Error::conflict("not_stuck", "Nothing that this webhook is told next has failed."));
    };
    if message.position != Some(position) {
        let stuck_at = message.position.map(|it| it.to_string()).unwrap_or_default();
        return Err(Error::conflict_at("stuck_elsewhere", "/position", format!("It is stuck at {stuck_at}.")));
    }
    let skipped = Attempted::new(at, Duration::ZERO, Answer::Skipped);
    attempts::keep(tx.sql(), merchant, id, &message, row.attempts, &skipped, None).await?;
    sqlx::query!(
        "update webhook_endpoints
         set seq = $3, event = $4, tag = $5, attempts = 0, failing_since = null, next_at = null,
             lease = null, leased_until = null
         where merchant_id = $1 and endpoint_id = $2",
        merchant.0,
        id.0,
        to.seq.cast_signed(),
        to.event.map(i32::try_from).transpose()?,
        to.tag.as_slice(),
    )
    .execute(tx.sql())
    .await?;
    endpoints::get(tx.sql(), merchant, id).await
}

/// What an endpoint that stands there is told next, with the place up to which all is told then. None also where the journal
/// does not go on from there.
pub(super) async fn next(
    sql: &mut PgConnection,
    merchant: MerchantId,
    at: Position,
    hears: &[String],
) -> Result<Option<(Position, Message)>> {
    match read::after(sql, merchant, at, SLICE).await {
        Ok(Entries { entries, .. }) => {
            Ok(entries.iter().find_map(|entry| message::untold(entry, at, None, hears).into_iter().next()))
        }
        Err(Error::SnapshotRequired(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
