//! Serving a redelivery: as an endpoint's own cursor is served, under a fenced lease of its own, and to its end.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tillwire_channels::{EndpointId, MerchantId, Position};
use uuid::Uuid;

use crate::error::Result;
use crate::journal::pool;
use crate::vault::Vault;
use crate::webhooks::attempts::{self, Attempted};
use crate::webhooks::endpoints::place;
use crate::webhooks::leases::{LEASE, Target, target};
use crate::webhooks::message::Message;

/// A redelivery that has something to be told, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    pub merchant: MerchantId,
    pub endpoint: EndpointId,
    pub redelivery: Uuid,
}

/// Redeliveries that run, whose turn it is, that nobody serves, and whose endpoint is enabled: as [`crate::webhooks::leases::due`]
/// does for endpoints.
pub async fn due(
    pool: &PgPool,
    of: Option<&[MerchantId]>,
    busy: &[MerchantId],
    of_one_max: usize,
    redeliveries_max: usize,
) -> Result<Vec<Due>> {
    let ids = |merchants: &[MerchantId]| merchants.iter().map(|merchant| merchant.0).collect::<Vec<Uuid>>();
    let (of, busy) = (of.map(ids), ids(busy));
    let rows = sqlx::query!(
        r#"select merchant_id as "merchant_id!", endpoint_id as "endpoint_id!", redelivery_id as "redelivery_id!"
           from (select redelivery.merchant_id, redelivery.endpoint_id, redelivery_id, free_at,
                        row_number() over (partition by redelivery.merchant_id order by free_at) as place
                 from webhook_redeliveries redelivery join webhook_endpoints endpoint using (merchant_id, endpoint_id)
                 cross join lateral (
                     select greatest('-infinity', redelivery.next_at,
                                     case when redelivery.leased_until <= now() + 2 * make_interval(secs => $5)
                                          then redelivery.leased_until end)
                            as free_at) free
                 where redelivery.state = 'running' and endpoint.state = 'enabled' and free_at <= now()
                   and ($1::uuid[] is null or redelivery.merchant_id = any($1))
                   and redelivery.merchant_id <> all($2)) due
           where place <= $3 order by free_at limit $4"#,
        of.as_deref(),
        &busy,
        i64::try_from(of_one_max)?,
        i64::try_from(redeliveries_max)?,
        LEASE.as_secs_f64(),
    )
    .fetch_all(pool)
    .await?;
    let due = |(merchant, endpoint, redelivery)| Due {
        merchant: MerchantId(merchant),
        endpoint: EndpointId(endpoint),
        redelivery,
    };
    Ok(rows.into_iter().map(|row| due((row.merchant_id, row.endpoint_id, row.redelivery_id))).collect())
}

/// A redelivery that is ours to serve.
#[derive(Debug)]
pub struct Held {
    pub due: Due,
    lease: Uuid,
    /// As it was when the lease was taken. Whoever changes it takes the lease away.
    pub target: Target,
    /// The last position that is told again.
    pub last: Position,
    /// What has been told again.
    pub position: Position,
    /// How often the next event has been tried.
    pub attempts: i32,
}

impl Held {
    /// Whether whoever stands there has been told everything.
    pub fn ends_at(&self, place: Position) -> bool {
        !match self.last.event {
            Some(event) => place.is_before(self.last.seq, event),
            // All of the last entry: the end of it is behind each of its events.
            None => place.seq < self.last.seq || (place.seq == self.last.seq && place.event.is_some()),
        }
    }
}

/// Takes a redelivery, unless somebody else has it, or there is nothing to do.
pub async fn take(app: &PgPool, vault: &Vault, due: Due) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, due.merchant).await?;
    let row = sqlx::query!(
        "update webhook_redeliveries set lease = $4, leased_until = now() + make_interval(secs => $5)
         where merchant_id = $1 and endpoint_id = $2 and redelivery_id = $3 and state = 'running'
           and coalesce(next_at, '-infinity') <= now()
           and (leased_until > now() and leased_until <= now() + 2 * make_interval(secs => $5)) is not true
         returning last, seq, event, tag, attempts",
        due.merchant.0,
        due.endpoint.0,
        due.redelivery,
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(row) = row else { return Ok(None) };
    // Behind the lease: whoever changes the endpoint after this takes the lease away, and what was before is seen here.
    let Some(target) = target(&mut sql, vault, due.merchant, due.endpoint).await? else { return Ok(None) };
    let position = place(row.seq, row.event, &row.tag)?;
    let held = Held { due, lease, target, last: row.last.parse()?, position, attempts: row.attempts };
    sql.commit().await?;
    Ok(Some(held))
}

/// A redelivery's cursor comes to a place, and what else becomes of it.
///
/// INVARIANT: nothing but this moves the cursor of a redelivery, and only while the lease is ours.
macro_rules! moves {
    ($what:literal, $held:expr, $to:expr $(, $value:expr)*) => {
        sqlx::query!(
            "update webhook_redeliveries set seq = $5, event = $6, tag = $7, " + $what +
            " where merchant_id = $1 and endpoint_id = $2 and redelivery_id = $3 and lease = $4 and state = 'running'",
            $held.due.merchant.0,
            $held.due.endpoint.0,
            $held.due.redelivery,
            $held.lease,
            $to.seq.cast_signed(),
            $to.event.map(i32::try_from).transpose()?,
            $to.tag.as_slice(),
            $($value),*
        )
    };
}

/// An event was delivered again, and with it all up to a place. False if the redelivery is not ours any more.
pub async fn delivered(
    app: &PgPool,
    held: &Held,
    message: &Message,
    attempted: &Attempted,
    to: Position,
) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    let is_ours = if keep(&mut sql, held, message, attempted).await? {
        moved(&mut sql, held, to, true).await?
    } else {
        is_left(&mut sql, held, if held.ends_at(to) { "done" } else { "running" }, Some(held.lease)).await?
    };
    sql.commit().await?;
    Ok(is_ours)
}

/// A redelivery is passed on over what its endpoint does not hear. False if it is not ours any more.
pub async fn passed(app: &PgPool, held: &Held) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    let is_ours = moved(&mut sql, held, held.position, false).await?;
    sql.commit().await?;
    Ok(is_ours)
}

/// Moves the cursor, and renews the lease or, at the end, ends.
async fn moved(sql: &mut PgConnection, held: &Held, to: Position, is_delivered: bool) -> Result<bool> {
    let moved = moves!(
        "leased_until = now() + make_interval(secs => $8), delivered = delivered + case when $9 then 1 else 0 end,
         attempts = case when $9 then 0 else attempts end, next_at = case when $9 then null else next_at end,
         state = case when $10 then 'done' else state end, ended_at = case when $10 then now() end",
        held,
        to,
        LEASE.as_secs_f64(),
        is_delivered,
        held.ends_at(to)
    )
    .execute(sql)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// An attempt was in vain: the redelivery is let go of, until its next. False if it was not ours any more.
pub async fn later(
    app: &PgPool,
    held: &Held,
    message: &Message,
    attempted: &Attempted,
    pause: Duration,
) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    if !keep(&mut sql, held, message, attempted).await? {
        return is_left(&mut sql, held, "running", None).await;
    }
    let changed = moves!(
        "attempts = attempts + 1, next_at = now() + make_interval(secs => $8), lease = null, leased_until = null",
        held,
        held.position,
        pause.as_secs_f64()
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(changed.rows_affected() > 0)
}

/// A redelivery ends before its end, after a last attempt if there was one. False if it was not ours any more.
pub async fn failed(app: &PgPool, held: &Held, last: Option<(&Message, &Attempted)>, why: &str) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    if let Some((message, attempted)) = last
        && !keep(&mut sql, held, message, attempted).await?
    {
        return is_left(&mut sql, held, "failed", None).await;
    }
    let changed = moves!(
        "state = 'failed', failed_why = $8, ended_at = now(), attempts = attempts + case when $9 then 1 else 0 end,
         next_at = null, lease = null, leased_until = null",
        held,
        held.position,
        why,
        last.is_some()
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(changed.rows_affected() > 0)
}

/// Lets go of a redelivery, which has been told everything up to its place.
pub async fn let_go(app: &PgPool, held: Held) -> Result<()> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    moves!("lease = null, leased_until = now()", held, held.position).execute(&mut *sql).await?;
    sql.commit().await?;
    Ok(())
}

/// Takes an attempt down. False if it was already.
async fn keep(sql: &mut PgConnection, held: &Held, message: &Message, attempted: &Attempted) -> Result<bool> {
    let Due { merchant, endpoint, redelivery } = held.due;
    let attempt = held.attempts + 1;
    let kept = attempts::keep(sql, merchant, endpoint, message, attempt, attempted, Some(redelivery)).await?;
    Ok(kept.is_some())
}

/// Whether a redelivery is still as a write has left it whose answer was lost: done again, it would count twice.
async fn is_left(sql: &mut PgConnection, held: &Held, state: &str, lease: Option<Uuid>) -> Result<bool> {
    let is_left = sqlx::query_scalar!(
        r#"select exists (select from webhook_redeliveries
                          where merchant_id = $1 and endpoint_id = $2 and redelivery_id = $3 and state = $4
                            and lease is not distinct from $5) as "is_left!""#,
        held.due.merchant.0,
        held.due.endpoint.0,
        held.due.redelivery,
        state,
        lease,
    )
    .fetch_one(sql)
    .await?;
    Ok(is_left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_behind_the_last_position_that_is_asked_for() {
        let at = |text: &str| text.parse::<Position>().unwrap();
        let (merchant, endpoint) = (MerchantId::new(), EndpointId::new());
        let held = |last: &str| Held {
            due: Due { merchant, endpoint, redelivery: Uuid::nil() },
            lease: Uuid::nil(),
            target: Target { url: String::new(), events: Vec::new(), secrets: Vec::new() },
            last: at(last),
            position: Position::START,
            attempts: 0,
        };
        for (last, place, ends) in [
            ("5-00000000", "4-00000000", false),
            ("5-00000000", "5.9-00000000", false),
            ("5-00000000", "5-00000000", true),
            ("5.2-00000000", "5.1-00000000", false),
            ("5.2-00000000", "5.2-00000000", true),
            ("5.2-00000000", "5-00000000", true),
            ("5.2-00000000", "6.1-00000000", true),
        ] {
            assert_eq!(held(last).ends_at(at(place)), ends, "{place} of {last}");
        }
    }
}
