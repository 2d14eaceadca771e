//! Marks: which events a handler has handled. A set and no high-water mark, for events come in no order.

use sqlx::{PgConnection, PgPool};
use tillwire_channels::{MerchantId, Position};

use crate::error::Result;
use crate::journal::pool;

/// Which events of an entry are handled, by their numbers.
pub async fn of_entry(app: &PgPool, merchant: MerchantId, handler: &str, entry: Position) -> Result<Vec<u32>> {
    let mut sql = pool::begin_of(app, merchant).await?;
    let events = sqlx::query_scalar!(
        "select event from handled_events where merchant_id = $1 and handler = $2 and seq = $3 and tag = $4",
        merchant.0,
        handler,
        entry.seq.cast_signed(),
        entry.tag.as_slice(),
    )
    .fetch_all(&mut *sql)
    .await?;
    Ok(events.into_iter().map(i32::unsigned_abs).collect())
}

/// Marks an event as handled; false if it was already. In one transaction with rows that are written because of the event, they
/// are written once, however often it comes: who comes second waits here for the first.
pub async fn mark(sql: &mut PgConnection, merchant: MerchantId, handler: &str, event: Position) -> Result<bool> {
    let marked = sqlx::query!(
        "insert into handled_events (merchant_id, handler, seq, event, tag) values ($1, $2, $3, $4, $5) on conflict do nothing",
        merchant.0,
        handler,
        event.seq.cast_signed(),
        i32::try_from(event.event.unwrap_or_default())?,
        event.tag.as_slice(),
    )
    .execute(sql)
    .await?;
    Ok(marked.rows_affected() > 0)
}
