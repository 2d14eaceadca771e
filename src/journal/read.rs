//! Reading: heads, entries after a position, and the read-only transactions of a merchant.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::{PgConnection, PgExecutor, PgPool, Postgres, Transaction};
use tillwire_channels::wire::{SnapshotReason, SnapshotRequired};
use tillwire_channels::{MerchantId, Position, Tag};

use super::entry::{Entry, seq_of, tag_of};
use super::{Caller, pool, tx};
use crate::error::{Error, Result};

/// The last entry of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub tag: Tag,
}

impl Head {
    pub fn position(self) -> Position {
        Position::of_entry(self.seq, self.tag)
    }
}

/// The head of one journal; `None` if there is no such merchant.
pub async fn head(sql: impl PgExecutor<'_>, merchant: MerchantId) -> Result<Option<Head>> {
    let row = sqlx::query!("select seq, tag from journal_heads where merchant_id = $1", merchant.0)
        .fetch_optional(sql)
        .await?;
    row.map(|row| Ok(Head { seq: seq_of(row.seq)?, tag: tag_of(&row.tag)? })).transpose()
}

/// The heads of many journals in one read, as the feed's role.
pub async fn heads(sql: impl PgExecutor<'_>, merchants: &[MerchantId]) -> Result<Vec<(MerchantId, Head)>> {
    let ids: Vec<uuid::Uuid> = merchants.iter().map(|merchant| merchant.0).collect();
    let rows = sqlx::query!("select merchant_id, seq, tag from journal_heads where merchant_id = any($1)", &ids)
        .fetch_all(sql)
        .await?;
    rows.into_iter()
        .map(|row| Ok((MerchantId(row.merchant_id), Head { seq: seq_of(row.seq)?, tag: tag_of(&row.tag)? })))
        .collect()
}

/// Entries that follow one another without a hole.
#[derive(Debug, Default)]
pub struct Entries {
    pub entries: Vec<Arc<Entry>>,
    /// Whether there was more to read than fits.
    pub more: bool,
}

/// How much of a journal is read at once.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub entries_max: u32,
    pub bytes_max: usize,
}

impl Default for Slice {
    fn default() -> Self {
        Self { entries_max: 500, bytes_max: 2 * 1024 * 1024 }
    }
}

/// The entries that follow `after`, in order; with the rest of its own entry first if `after` is inside one.
///
/// INVARIANT: what is answered is contiguous and chained to `after`; anything else is an error, never a gap.
///
/// # Errors
/// [`Error::SnapshotRequired`] if the journal does not hold `after` (any more).
pub async fn after(sql: &mut PgConnection, merchant: MerchantId, after: Position, slice: Slice) -> Result<Entries> {
    let head = head(&mut *sql, merchant).await?.ok_or(Error::NotFound("merchant"))?;
    if after.seq > head.seq || (after.seq == head.seq && after.tag != head.tag.short()) {
        return Err(unserved(SnapshotReason::Diverged, &mut *sql, merchant).await?);
    }
    if after.seq == head.seq && after.event.is_none() {
        return Ok(Entries::default());
    }
    // A position inside an entry needs that entry again, for its rest.
    let from = if after.event.is_some() { after.seq } else { after.seq + 1 };
    let entries = range(&mut *sql, merchant, from, slice).await?;
    let Some(first) = entries.entries.first() else {
        return Err(unserved(SnapshotReason::Expired, &mut *sql, merchant).await?);
    };
    if first.seq != from {
        return Err(unserved(SnapshotReason::Expired, &mut *sql, merchant).await?);
    }
    let own = if after.event.is_some() { first.tag } else { first.prev };
    if own.short() != after.tag {
        return Err(unserved(SnapshotReason::Diverged, &mut *sql, merchant).await?);
    }
    Ok(entries)
}

/// How many entries before its place somebody begins again whose history is another: a fail-over loses the last few.
const AGAIN_ENTRIES: u64 = 1_000;

/// Where somebody goes on who cannot be served from `after`, and must not stand still: behind what is missing, or, where the
/// history is another, [`AGAIN_ENTRIES`] before the same number in that. Always elsewhere than `after`, as long as there is
/// anything that follows it.
pub async fn beyond(sql: &mut PgConnection, merchant: MerchantId, after: Position) -> Result<Position> {
    let head = head(&mut *sql, merchant).await?.ok_or(Error::NotFound("merchant"))?;
    let own = sqlx::query_scalar!(
        "select tag from journal_entries where merchant_id = $1 and seq = $2",
        merchant.0,
        after.seq.cast_signed()
    )
    .fetch_optional(&mut *sql)
    .await?;
    let is_another = match own {
        Some(tag) => tag_of(&tag)?.short() != after.tag,
        None => after.seq > head.seq,
    };
    let from = if is_another { after.seq.min(head.seq).saturating_sub(AGAIN_ENTRIES) } else { after.seq };
    let next = sqlx::query!(
        "select seq, prev from journal_entries where merchant_id = $1 and seq > $2 order by seq limit 1",
        merchant.0,
        from.cast_signed()
    )
    .fetch_optional(&mut *sql)
    .await?;
    match next {
        Some(row) => Ok(Position::of_entry(seq_of(row.seq)?.saturating_sub(1), tag_of(&row.prev)?)),
        None => Ok(head.position()),
    }
}

/// The place right before what a position names; `None` if the journal does not hold its entry.
pub async fn before(sql: &mut PgConnection, merchant: MerchantId, position: Position) -> Result<Option<Position>> {
    if let Some(event @ 2..) = position.event {
        return Ok(Some(Position { event: Some(event - 1), ..position }));
    }
    let prev = sqlx::query_scalar!(
        "select prev from journal_entries where merchant_id = $1 and seq = $2",
        merchant.0,
        position.seq.cast_signed()
    )
    .fetch_optional(sql)
    .await?;
    prev.map(|prev| Ok(Position::of_entry(position.seq.saturating_sub(1), tag_of(&prev)?))).transpose()
}

/// Whether the journal holds each of these positions, the event included if it names one; and if not, why.
pub async fn holds(
    sql: &mut PgConnection,
    merchant: MerchantId,
    positions: &[Position],
) -> Result<Vec<Result<(), SnapshotReason>>> {
    let seqs: Vec<i64> = positions.iter().map(|position| position.seq.cast_signed()).collect();
    let inside = positions.iter().filter(|position| position.event.is_some());
    let inside: Vec<i64> = inside.map(|position| position.seq.cast_signed()).collect();
    // Events are counted only where one is named: the text has to be read for that.
    let rows = sqlx::query!(
        r#"select seq, tag,
                  case when seq = any($3) and left(events, 1) = '[' then json_array_length(events::json) end as "events?"
           from journal_entries where merchant_id = $1 and seq = any($2)"#,
        merchant.0,
        &seqs,
        &inside,
    )
    .fetch_all(&mut *sql)
    .await?;
    let mut entries = HashMap::with_capacity(rows.len());
    for row in rows {
        let events = row.events.unwrap_or_default().unsigned_abs();
        entries.insert(seq_of(row.seq)?, (tag_of(&row.tag)?, events));
    }
    let held = |position: &Position| match entries.get(&position.seq) {
        Some((tag, events)) => Some(tag.short() == position.tag && position.event.is_none_or(|event| event <= *events)),
        None if *position == Position::START => Some(true),
        None => None,
    };
    let oldest = match positions.iter().all(|position| held(position).is_some()) {
        true => None,
        false => sqlx::query_scalar!(
            "select seq from journal_entries where merchant_id = $1 order by seq limit 1",
            merchant.0
        )
        .fetch_optional(sql)
        .await?
        .map(seq_of)
        .transpose()?,
    };
    let verdict = |position: &Position| match held(position) {
        Some(true) => Ok(()),
        None if oldest.is_some_and(|oldest| (1..oldest).contains(&position.seq)) => Err(SnapshotReason::Expired),
        _ => Err(SnapshotReason::Diverged),
    };
    Ok(positions.iter().map(verdict).collect())
}

/// Entries from number `from` on, as far as they are contiguous and chained.
async fn range(sql: &mut PgConnection, merchant: MerchantId, from: u64, slice: Slice) -> Result<Entries> {
    // The sum over the sizes stops the read early, so that few large entries do not fill the memory.
    let rows = sqlx::query!(
        r#"select seq as "seq!", prev as "prev!", tag as "tag!", recorded_at as "recorded_at!", events as "events!",
                  trace, head as "head!"
           from (select seq, prev, tag, recorded_at, events, trace,
                        sum(octet_length(events)) over (order by seq) - octet_length(events) as before,
                        (select seq from journal_heads where merchant_id = $1) as head
                 from (select * from journal_entries where merchant_id = $1 and seq >= $2 order by seq limit $3) page
                ) sized
           where before < $4 order by seq"#,
        merchant.0,
        from.cast_signed(),
        i64::from(slice.entries_max),
        i64::try_from(slice.bytes_max)?,
    )
    .fetch_all(sql)
    .await?;
    let mut entries: Vec<Arc<Entry>> = Vec::with_capacity(rows.len());
    let mut more = false;
    for row in rows {
        let seq = seq_of(row.seq)?;
        let entry =
            Entry::new(merchant, seq, tag_of(&row.prev)?, tag_of(&row.tag)?, row.recorded_at, row.events.into())
                .traced(row.trace);
        if let Some(last) = entries.last()
            && (entry.seq != last.seq + 1 || entry.prev != last.tag)
        {
            // A hole: what was read so far is good, and the next read begins with it and says `expired` or `diverged`.
            return Ok(Entries { entries, more: true });
        }
        more = seq < seq_of(row.head)?;
        entries.push(Arc::new(entry));
    }
    Ok(Entries { entries, more })
}

/// The answer for a position that cannot be served, with the oldest that could.
async fn unserved(reason: SnapshotReason, sql: &mut PgConnection, merchant: MerchantId) -> Result<Error> {
    let oldest =
        sqlx::query!("select seq, prev from journal_entries where merchant_id = $1 order by seq limit 1", merchant.0)
            .fetch_optional(sql)
            .await?
            .map(|row| anyhow::Ok(Position::of_entry(seq_of(row.seq)?.saturating_sub(1), tag_of(&row.prev)?)))
            .transpose()?;
    Ok(Error::SnapshotRequired(SnapshotRequired { reason, oldest }))
}

/// A read-only transaction of one merchant, on one snapshot of the database: everything it reads was true at the same
/// moment, the head of the journal included.
pub struct ReadTx {
    sql: Transaction<'static, Postgres>,
    merchant: MerchantId,
}

impl ReadTx {
    /// Begins, and refuses a token that was revoked. `pool` is the application's.
    pub async fn begin(pool: &PgPool, caller: Caller) -> Result<Self> {
        let mut tx = Self::of(pool, caller.merchant).await?;
        tx::refuse_revoked(&mut tx.sql, caller).await?;
        Ok(tx)
    }

    /// Begins for the hub itself, on nobody's behalf. `pool` is the application's.
    pub async fn of(pool: &PgPool, merchant: MerchantId) -> Result<Self> {
        let mut sql = pool::begin(pool).await?;
        sqlx::raw_sql("set transaction isolation level repeatable read, read only").execute(&mut *sql).await?;
        sqlx::query!(
            "select set_config('tillwire.merchant', $1, true) as merchant,
                    set_config('statement_timeout', '10s', true) as statement_timeout,
                    set_config('idle_in_transaction_session_timeout', '2s', true) as idle_timeout",
            merchant.to_string(),
        )
        .fetch_one(&mut *sql)
        .await?;
        Ok(Self { sql, merchant })
    }

    /// The connection. Each statement names the merchant.
    pub fn sql(&mut self) -> &mut PgConnection {
        &mut self.sql
    }

    pub fn merchant(&self) -> MerchantId {
        self.merchant
    }

    /// The position at which everything that this transaction reads is true.
    pub async fn position(&mut self) -> Result<Position> {
        let head = head(&mut *self.sql, self.merchant).await?.ok_or(Error::NotFound("merchant"))?;
        Ok(head.position())
    }
}
