//! Redeliveries: an endpoint is told a part of the journal once more, beside its own cursor, which does not notice.

pub mod leases;

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::wire::SnapshotReason;
use tillwire_channels::{EndpointId, MerchantId, Moment, Position};
use utoipa::ToSchema;
use uuid::Uuid;

use super::endpoints;
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, read};

/// The most redeliveries of one endpoint that run at once.
pub const RUNNING_MAX: i64 = 5;
/// The most entries that one may reach over.
pub const ENTRIES_MAX: u64 = 100_000;
/// The most redeliveries that are listed at once.
pub const PAGE_MAX: u32 = 50;

/// A redelivery, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RedeliveryView {
    pub id: Uuid,
    /// The first position that is told again.
    pub from: String,
    /// And the last.
    pub to: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed: `failing` (it was tried for as long as anything is), `gone` (the receiver answered 410) or `cut` (the
    /// journal does not hold the rest any more).
    pub failed_why: Option<String>,
    /// What has been told again: everything up to here.
    #[schema(value_type = String)]
    pub position: Position,
    /// How many events that were.
    pub delivered: i64,
    /// How often the next event has been tried in vain.
    pub attempts: i32,
    /// When it is tried next, if not at once.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Moment>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Moment>,
}

/// A part of a journal: from the first position to the last, both included. A position of an entry is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: Position,
    pub last: Position,
}

impl Range {
    /// # Errors
    /// If it runs backwards, or reaches over too much.
    pub fn of(first: Position, last: Position) -> Result<Self> {
        let from = (first.seq, first.event.unwrap_or(1));
        if (last.seq, last.event.unwrap_or(u32::MAX)) < from {
            return Err(Error::invalid("range_reversed", "/to", "The last position comes before the first."));
        }
        if last.seq - first.seq >= ENTRIES_MAX {
            let detail = format!("A redelivery reaches over {ENTRIES_MAX} entries at most: ask for several.");
            return Err(Error::invalid("range_too_long", "/to", detail));
        }
        Ok(Self { first, last })
    }
}

/// Has an endpoint told a part of the journal once more.
pub async fn add(tx: &mut MerchantTx, endpoint: EndpointId, id: Uuid, range: Range) -> Result<RedeliveryView> {
    let merchant = tx.merchant();
    tx.take_turn(&format!("redeliveries of {endpoint}")).await?;
    endpoints::get(tx.sql(), merchant, endpoint).await?;
    let running = sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_redeliveries
           where merchant_id = $1 and endpoint_id = $2 and state = 'running'"#,
        merchant.0,
        endpoint.0,
    )
    .fetch_one(tx.sql())
    .await?;
    if running >= RUNNING_MAX {
        let detail = format!("{RUNNING_MAX} redeliveries of a webhook run at once: wait for one, or cancel one.");
        return Err(Error::conflict("too_many_redeliveries", detail));
    }
    let start = start_of(tx.sql(), merchant, range).await?;
    sqlx::query!(
        "insert into webhook_redeliveries (merchant_id, endpoint_id, redelivery_id, first, last, seq, event, tag)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        merchant.0,
        endpoint.0,
        id,
        range.first.to_string(),
        range.last.to_string(),
        start.seq.cast_signed(),
        start.event.map(i32::try_from).transpose()?,
        start.tag.as_slice(),
    )
    .execute(tx.sql())
    .await?;
    get(tx.sql(), merchant, endpoint, id).await
}

/// The place right before a part of the journal, which has to hold both ends of it.
async fn start_of(sql: &mut PgConnection, merchant: MerchantId, range: Range) -> Result<Position> {
    let ends = read::holds(&mut *sql, merchant, &[range.first, range.last]).await?;
    for (end, pointer) in ends.into_iter().zip(["/from", "/to"]) {
        end.map_err(|reason| match reason {
            SnapshotReason::Expired => {
                Error::invalid("position_expired", pointer, "The journal does not hold this position any more.")
            }
            SnapshotReason::Diverged => Error::invalid(
                "unknown_position",
                pointer,
                "The journal has no such position: it is of another history.",
            ),
        })?;
    }
    let before = read::before(sql, merchant, range.first).await?;
    before.ok_or_else(|| Error::invalid("unknown_position", "/from", "Nothing happened at this position."))
}

/// Ends a redelivery that runs. What is under way to the receiver just then may still arrive.
pub async fn cancel(tx: &mut MerchantTx, endpoint: EndpointId, id: Uuid) -> Result<RedeliveryView> {
    let merchant = tx.merchant();
    let cancelled = sqlx::query!(
        "update webhook_redeliveries
         set state = 'cancelled', ended_at = now(), next_at = null, lease = null, leased_until = null
         where merchant_id = $1 and endpoint_id = $2 and redelivery_id = $3 and state = 'running'",
        merchant.0,
        endpoint.0,
        id,
    )
    .execute(tx.sql())
    .await?;
    let view = get(tx.sql(), merchant, endpoint, id).await?;
    match cancelled.rows_affected() {
        0 => Err(Error::conflict("redelivery_ended", format!("This redelivery has ended: it is {}.", view.state))),
        _ => Ok(view),
    }
}

/// Takes an endpoint's redeliveries from whoever serves them, for the endpoint is another now. With `anew` what failed is
/// forgotten, and each is tried at once.
pub(super) async fn interrupt(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    anew: bool,
) -> Result<()> {
    sqlx::query!(
        "update webhook_redeliveries
         set lease = null, leased_until = null, attempts = case when $3 then 0 else attempts end,
             next_at = case when $3 then null else next_at end
         where merchant_id = $1 and endpoint_id = $2 and state = 'running'",
        merchant.0,
        endpoint.0,
        anew,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// One redelivery.
pub async fn get(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    id: Uuid,
) -> Result<RedeliveryView> {
    let found = select(sql, merchant, endpoint, Some(id), None, 1).await?;
    found.into_iter().next().ok_or(Error::NotFound("redelivery"))
}

/// Redeliveries to an endpoint, the newest first; those before an id.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<RedeliveryView>> {
    select(sql, merchant, endpoint, None, before, limit.min(PAGE_MAX) + 1).await
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    only: Option<Uuid>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<RedeliveryView>> {
    let rows = sqlx::query!(
        "select redelivery_id, first, last, state, failed_why, seq, event, tag, delivered, attempts, next_at, created_at, ended_at
         from webhook_redeliveries
         where merchant_id = $1 and endpoint_id = $2 and ($3::uuid is null or redelivery_id = $3)
           and ($4::uuid is null or redelivery_id < $4)
         order by redelivery_id desc limit $5",
        merchant.0,
        endpoint.0,
        only,
        before,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(RedeliveryView {
                id: row.redelivery_id,
                from: row.first,
                to: row.last,
                state: row.state,
                failed_why: row.failed_why,
                position: endpoints::place(row.seq, row.event, &row.tag)?,
                delivered: row.delivered,
                attempts: row.attempts,
                next_at: row.next_at,
                created_at: row.created_at,
                ended_at: row.ended_at,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_runs_forwards_and_not_too_far() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        for (first, last) in [
            ("5-00000000", "5-00000000"),
            ("5.2-00000000", "5.2-00000000"),
            ("5.2-00000000", "5-00000000"),
            ("5-00000000", "5.1-00000000"),
            ("5.9-00000000", "6.1-00000000"),
        ] {
            assert!(Range::of(at(first), at(last)).is_ok(), "{first} to {last}");
        }
        let code = |first: &str, last: &str| match Range::of(at(first), at(last)) {
            Err(Error::Invalid { code, pointer, .. }) => (code, pointer),
            other => panic!("{other:?}"),
        };
        for (first, last) in [("5.2-00000000", "5.1-00000000"), ("6-00000000", "5.9-00000000")] {
            assert_eq!(code(first, last), ("range_reversed", "/to".to_owned()));
        }
        assert_eq!(code("1-00000000", "100001-00000000"), ("range_too_long", "/to".to_owned()));
        assert!(Range::of(at("1-00000000"), at("100000-00000000")).is_ok());
    }
}
