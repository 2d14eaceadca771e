//! Finding an event whose place nobody wrote down.

use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, Position, Stored};
use uuid::Uuid;

use super::entry::{Entry, seq_of, tag_of};
use crate::error::Result;

/// How many entries may lie between an event and the moment from which it is looked for: what one merchant commits while a
/// transaction that runs as long as it may is under way.
const ENTRIES_MAX: i64 = 40_000;

/// Where an event stands that was recorded after a moment, not long after it: the first that mentions an id and is the one.
/// `None` if the journal does not hold it (any more).
///
/// Rows do not say in which entry they were committed: it gets its number in the last statement. But a transaction's
/// own time is before its entry's, and those never run backwards: so the journal is halved until the first entry from
/// then on is found, and read from there.
pub async fn event(
    sql: &mut PgConnection,
    merchant: MerchantId,
    from: Moment,
    mentions: Uuid,
    is: impl Fn(&Stored) -> bool,
) -> Result<Option<Position>> {
    let Some(first) = first_from(&mut *sql, merchant, from).await? else { return Ok(None) };
    let mut next = first;
    loop {
        let found = sqlx::query!(
            "select seq, prev, tag, recorded_at, events from journal_entries
             where merchant_id = $1 and seq >= $2 and seq < $3 and position($4 in events) > 0 order by seq limit 1",
            merchant.0,
            next,
            first.saturating_add(ENTRIES_MAX),
            mentions.to_string(),
        )
        .fetch_optional(&mut *sql)
        .await?;
        let Some(row) = found else { return Ok(None) };
        let (seq, prev, tag) = (seq_of(row.seq)?, tag_of(&row.prev)?, tag_of(&row.tag)?);
        let entry = Entry::new(merchant, seq, prev, tag, row.recorded_at, row.events.into());
        if let Some((number, _)) = (1..).zip(entry.events()?).find(|(_, event)| is(event)) {
            return Ok(Some(Position::of_event(seq, number, tag)));
        }
        next = row.seq + 1;
    }
}

/// The number of the first entry that was recorded at a moment or later; the next one's, if there is none yet.
async fn first_from(sql: &mut PgConnection, merchant: MerchantId, from: Moment) -> Result<Option<i64>> {
    let first = sqlx::query_scalar!(
        "with recursive halved (early, late) as (
             -- Up to `early` all was recorded before, or is no longer kept; from `late` on nothing was.
             select coalesce((select entry.seq - 1 from journal_entries entry
                              where entry.merchant_id = $1 order by entry.seq limit 1), head.seq),
                    head.seq + 1
             from journal_heads head where head.merchant_id = $1
           union all
             select case when is_early then middle else early end, case when is_early then late else middle end
             from halved,
                  lateral (select (early + late) / 2 as middle) halfway,
                  lateral (select coalesce((select recorded_at < $2 from journal_entries
                                            where merchant_id = $1 and seq = middle), false) as is_early) looked
             where late - early > 1
         )
         select min(late) from halved",
        merchant.0,
        from,
    )
    .fetch_one(sql)
    .await?;
    Ok(first)
}
