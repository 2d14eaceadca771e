//! How far each journal has been moved, and which of them have more.

use sqlx::{PgConnection, PgPool};
use tillwire_channels::{MerchantId, Position};

use super::shards::Shards;

/// A journal that is not where its cursor is.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub merchant: MerchantId,
    /// How far it has been moved.
    pub after: Position,
}

/// So many of the due journals of these shards, but for those that are left alone: those whose cursors have stood still for
/// longest.
pub async fn due(pool: &PgPool, shards: Shards, resting: &[MerchantId], journals_max: i64) -> anyhow::Result<Vec<Due>> {
    let resting: Vec<uuid::Uuid> = resting.iter().map(|merchant| merchant.0).collect();
    let rows = sqlx::query!(
        r#"select head.merchant_id, cursor.seq as "seq?", cursor.tag as "tag?"
           from journal_heads head left join relay_cursors cursor using (merchant_id)
           where (head.seq <> coalesce(cursor.seq, 0) or substr(head.tag, 1, 4) <> coalesce(cursor.tag, '\x00000000'))
             and get_byte(uuid_send(head.merchant_id), 15) & 15 = any($1) and head.merchant_id <> all($2)
           order by cursor.moved_at nulls first limit $3"#,
        &shards.to_sql(),
        &resting,
        journals_max,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(|row| due_of_row(row.merchant_id, row.seq, row.tag)).collect()
}

/// Which of these journals are due.
pub async fn due_among(pool: &PgPool, merchants: &[MerchantId]) -> anyhow::Result<Vec<Due>> {
    let ids: Vec<uuid::Uuid> = merchants.iter().map(|merchant| merchant.0).collect();
    let rows = sqlx::query!(
        r#"select head.merchant_id, cursor.seq as "seq?", cursor.tag as "tag?"
           from journal_heads head left join relay_cursors cursor using (merchant_id)
           where head.merchant_id = any($1)
             and (head.seq <> coalesce(cursor.seq, 0) or substr(head.tag, 1, 4) <> coalesce(cursor.tag, '\x00000000'))"#,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(|row| due_of_row(row.merchant_id, row.seq, row.tag)).collect()
}

fn due_of_row(merchant: uuid::Uuid, seq: Option<i64>, tag: Option<Vec<u8>>) -> anyhow::Result<Due> {
    let after = match (seq, tag) {
        (Some(seq), Some(tag)) => Position { seq: u64::try_from(seq)?, event: None, tag: tag.as_slice().try_into()? },
        _ => Position::START,
    };
    Ok(Due { merchant: MerchantId(merchant), after })
}

/// Moves cursors, all in one statement, and none of them backwards.
pub async fn advance(pool: &PgPool, moved: &[(MerchantId, Position)]) -> sqlx::Result<()> {
    let merchants: Vec<uuid::Uuid> = moved.iter().map(|(merchant, _)| merchant.0).collect();
    let seqs: Vec<i64> = moved.iter().map(|(_, to)| to.seq.cast_signed()).collect();
    let tags: Vec<Vec<u8>> = moved.iter().map(|(_, to)| to.tag.to_vec()).collect();
    sqlx::query!(
        "insert into relay_cursors (merchant_id, seq, tag)
         -- In one order, so that two relays do not wait for each other in a ring.
         select * from unnest($1::uuid[], $2::bigint[], $3::bytea[]) moved (merchant_id, seq, tag) order by merchant_id
         on conflict (merchant_id) do update set seq = excluded.seq, tag = excluded.tag, moved_at = now()
         where relay_cursors.seq < excluded.seq",
        &merchants,
        &seqs,
        &tags,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Puts the cursor of one journal elsewhere, back too: its history is another, or cut. Only if it still is where it was.
pub async fn put(sql: &mut PgConnection, due: Due, to: Position) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into relay_cursors (merchant_id, seq, tag) values ($1, $3, $4)
         on conflict (merchant_id) do update set seq = excluded.seq, tag = excluded.tag, moved_at = now()
         where relay_cursors.seq = $2",
        due.merchant.0,
        due.after.seq.cast_signed(),
        to.seq.cast_signed(),
        to.tag.as_slice(),
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// What waits in one shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lag {
    /// Entries that were not moved yet.
    pub entries: f64,
    /// How old the oldest of them is.
    pub seconds: f64,
}

/// What waits, by shard. Those where nothing does are left out.
pub async fn lag(sql: &mut PgConnection) -> anyhow::Result<Vec<(u8, Lag)>> {
    let rows = sqlx::query!(
        r#"select get_byte(uuid_send(head.merchant_id), 15) & 15 as "shard!",
                  sum(greatest(head.seq - coalesce(cursor.seq, 0), 0))::float8 as "entries!",
                  coalesce(extract(epoch from now() - min(oldest.recorded_at)), 0)::float8 as "seconds!"
           from journal_heads head left join relay_cursors cursor using (merchant_id)
           left join lateral (
               select recorded_at from journal_entries entry
               where entry.merchant_id = head.merchant_id and entry.seq > coalesce(cursor.seq, 0)
               order by entry.seq limit 1) oldest on true
           where head.seq <> coalesce(cursor.seq, 0)
           group by 1"#
    )
    .fetch_all(sql)
    .await?;
    let lag_of = |entries, seconds: f64| Lag { entries, seconds: seconds.max(0.0) };
    rows.into_iter().map(|row| Ok((u8::try_from(row.shard)?, lag_of(row.entries, row.seconds)))).collect()
}
