//! Where a handler is in each journal, where no broker gives it what it is to handle: it follows the journals itself.
//!
//! Whoever holds a cursor's lease moves it, and nobody else; a lease is fenced, as those of webhooks are. One that is of a clock
//! far ahead is nobody's.

use std::time::Duration;

use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};
use uuid::Uuid;

use crate::error::Result;
use crate::journal::pool;

/// For how long a cursor is held without a word: longer than an entry may take.
const LEASE: Duration = Duration::from_secs(60);

/// A journal that a handler has not followed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    pub merchant: MerchantId,
    /// How far it has come.
    pub after: Position,
}

/// Journals that are not where a handler is, of these merchants or of all, and that nobody follows for it just now. What was
/// once given to a broker is not followed again: it is in the handler's queue there. `pool` is the relay's.
pub async fn due(
    pool: &PgPool,
    handler: &str,
    of: Option<&[MerchantId]>,
    not: &[MerchantId],
    journals_max: usize,
) -> Result<Vec<Due>> {
    let ids = |merchants: &[MerchantId]| merchants.iter().map(|merchant| merchant.0).collect::<Vec<Uuid>>();
    let (of, not) = (of.map(ids), ids(not));
    let rows = sqlx::query!(
        r#"select head.merchant_id as "merchant_id!", place.seq as "seq?", place.tag as "tag?"
           from journal_heads head
           left join handler_cursors cursor on cursor.merchant_id = head.merchant_id and cursor.handler = $1
           left join lateral (
               select seq, tag from (values (cursor.seq, cursor.tag)) own (seq, tag) where seq is not null
               union all select seq, tag from relay_cursors relayed where relayed.merchant_id = head.merchant_id
               order by seq desc limit 1) place on true
           where head.seq <> coalesce(place.seq, 0) and (coalesce(cursor.leased_until, '-infinity') <= now() or cursor.leased_until > now() + interval '2 minutes')
             and ($2::uuid[] is null or head.merchant_id = any($2)) and head.merchant_id <> all($3)
           order by cursor.leased_until nulls first limit $4"#,
        handler,
        of.as_deref(),
        &not,
        i64::try_from(journals_max)?,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let after = match (row.seq, row.tag) {
                (Some(seq), Some(tag)) => {
                    Position { seq: u64::try_from(seq)?, event: None, tag: tag.as_slice().try_into()? }
                }
                _ => Position::START,
            };
            Ok(Due { merchant: MerchantId(row.merchant_id), after })
        })
        .collect()
}

/// A cursor that is ours to move.
#[derive(Debug)]
pub struct Held {
    pub merchant: MerchantId,
    pub position: Position,
    /// How many before us, in a row, never gave it back.
    pub lost: i32,
    lease: Uuid,
}

/// Takes a cursor, unless somebody else has it.
pub async fn take(app: &PgPool, handler: &str, due: Due) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, due.merchant).await?;
    let row = sqlx::query!(
        "insert into handler_cursors (merchant_id, handler, seq, tag, lease, leased_until)
         values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         on conflict (merchant_id, handler) do update
         set lease = excluded.lease, leased_until = excluded.leased_until,
             lost = case when handler_cursors.lease is null then 0 else handler_cursors.lost + 1 end,
             seq = greatest(handler_cursors.seq, excluded.seq),
             tag = case when handler_cursors.seq >= excluded.seq then handler_cursors.tag else excluded.tag end
         where coalesce(handler_cursors.leased_until, '-infinity') <= now()
            or handler_cursors.leased_until > now() + interval '2 minutes'
         returning seq, tag, lost",
        due.merchant.0,
        handler,
        due.after.seq.cast_signed(),
        due.after.tag.as_slice(),
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(row) = row else { return Ok(None) };
    sql.commit().await?;
    let position = Position { seq: u64::try_from(row.seq)?, event: None, tag: row.tag.as_slice().try_into()? };
    Ok(Some(Held { merchant: due.merchant, position, lost: row.lost, lease }))
}

/// Moves a cursor. False if it is not ours any more.
pub async fn advance(app: &PgPool, handler: &str, held: &Held, to: Position) -> Result<bool> {
    put(app, handler, held, to, Some(LEASE)).await
}

/// Moves a cursor and lets go of it.
pub async fn let_go(app: &PgPool, handler: &str, held: &Held, to: Position) -> Result<()> {
    put(app, handler, held, to, None).await.map(|_| ())
}

async fn put(app: &PgPool, handler: &str, held: &Held, to: Position, keep: Option<Duration>) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.merchant).await?;
    let moved = sqlx::query!(
        "update handler_cursors
         set seq = $4, tag = $5, lease = case when $6::float8 is null then null else lease end,
             leased_until = now() + make_interval(secs => coalesce($6, 0))
         where merchant_id = $1 and handler = $2 and lease = $3",
        held.merchant.0,
        handler,
        held.lease,
        to.seq.cast_signed(),
        to.tag.as_slice(),
        keep.map(|keep| keep.as_secs_f64()),
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(moved.rows_affected() > 0)
}

/// How far a handler that follows journals itself is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// Entries that it has not come past, also those that it does not hear.
    pub entries: i64,
    /// How old the oldest of them is.
    pub seconds: f64,
}

/// How far a handler is behind all journals. `pool` is the relay's.
pub async fn lag(pool: &PgPool, handler: &str) -> Result<Lag> {
    let lag = sqlx::query_as!(
        Lag,
        r#"select coalesce(sum(head.seq - place.seq), 0)::bigint as "entries!",
                  greatest(coalesce(extract(epoch from now() - min(oldest.recorded_at)), 0), 0)::float8 as "seconds!"
           from journal_heads head
           left join handler_cursors cursor on cursor.merchant_id = head.merchant_id and cursor.handler = $1
           left join relay_cursors relayed on relayed.merchant_id = head.merchant_id
           cross join lateral (
               select greatest(coalesce(cursor.seq, 0), coalesce(relayed.seq, 0)) as seq) place
           left join lateral (
               select recorded_at from journal_entries entry
               where entry.merchant_id = head.merchant_id and entry.seq > place.seq
               order by entry.seq limit 1) oldest on true
           where head.seq > place.seq"#,
        handler,
    )
    .fetch_one(pool)
    .await?;
    Ok(lag)
}
