//! Upkeep of the journal: partitions ahead of time, and old ones out where retention is asked for.

use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{PgExecutor, PgPool};
use tillwire_channels::Moment;

/// How many months of partitions are made ahead.
const MONTHS_AHEAD: i32 = 3;
/// How many of those who are behind are named.
const BEHIND_MAX: i64 = 20;
/// How often it is tried to drop a partition.
const DROP_TRIES_MAX: u32 = 3;
/// How long those who waited behind a try have before the next.
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// Makes the journal's partitions of this month and the coming ones.
pub async fn make_partitions(sql: impl PgExecutor<'_>) -> anyhow::Result<i32> {
    let made = sqlx::query_scalar!("select journal_partitions_ahead($1)", MONTHS_AHEAD).fetch_one(sql).await?;
    Ok(made.unwrap_or(0))
}

/// Drops the partitions that hold nothing younger than `before`, and names each as it is gone: those before one that cannot
/// be dropped are. `pool` is the owner's: the application may not forget history.
///
/// # Errors
/// If somebody who follows a journal by a cursor has not come past a partition, and it is not to be dropped all the same; or
/// if journals are being read all the while.
pub async fn prune(pool: &PgPool, before: Moment, force: bool, mut is_gone: impl FnMut(&str)) -> anyhow::Result<()> {
    let partitions = sqlx::query!(
        r#"select child.relname::text as "name!",
                  (to_date(right(child.relname, 7), 'YYYY_MM') + interval '1 month') at time zone 'utc' as "until!"
           from pg_inherits join pg_class child on child.oid = inhrelid
           where inhparent = 'journal_entries'::regclass
             and child.relname < 'journal_entries_' || to_char($1::timestamptz at time zone 'utc', 'YYYY_MM')
           order by child.relname"#,
        before
    )
    .fetch_all(pool)
    .await?;
    for partition in partitions {
        if !force {
            let behind = behind(pool, partition.until).await?;
            ensure!(behind.is_empty(), "{} is still needed: {}", partition.name, behind.join("; "));
        }
        drop_partition(pool, &partition.name).await.with_context(|| format!("dropping {}", partition.name))?;
        is_gone(&partition.name);
    }
    Ok(())
}

/// Who has still to be told an entry from before a moment, in words: the first of them.
async fn behind(pool: &PgPool, until: Moment) -> anyhow::Result<Vec<String>> {
    let mut sql = super::pool::begin(pool).await?;
    sqlx::query!("select set_config('tillwire.pruning', 'on', true)").fetch_one(&mut *sql).await?;
    let rows = sqlx::query!(
        r#"select merchant_id as "merchant_id!", reader as "reader!", next_seq as "next_seq!"
           from journal_readers
           where exists (select from journal_entries entry
                         where entry.merchant_id = journal_readers.merchant_id and entry.seq >= next_seq
                           and entry.recorded_at < $1)
           order by merchant_id, reader limit $2"#,
        until,
        BEHIND_MAX,
    )
    .fetch_all(&mut *sql)
    .await?;
    sql.rollback().await?;
    let words = |(merchant, reader, next)| format!("merchant {merchant}, {reader}, is before entry {next}");
    Ok(rows.into_iter().map(|row| words((row.merchant_id, row.reader, row.next_seq))).collect())
}

async fn drop_partition(pool: &PgPool, name: &str) -> anyhow::Result<()> {
    let mut tried = 1;
    loop {
        match try_to_drop(pool, name).await {
            Ok(()) => return Ok(()),
            Err(error) if !is_locked_out(&error) => return Err(error.into()),
            Err(error) if tried == DROP_TRIES_MAX => return Err(error).context("journals are being read; try later"),
            Err(_) => tokio::time::sleep(DROP_PAUSE).await,
        }
        tried += 1;
    }
}

async fn try_to_drop(pool: &PgPool, name: &str) -> sqlx::Result<()> {
    let mut sql = super::pool::begin(pool).await?;
    // It waits for all who read journals, and all who write to one wait behind it.
    sqlx::raw_sql("set local lock_timeout = '1s'").execute(&mut *sql).await?;
    // A name from the catalogue, which only `journal_partitions_ahead` gives: letters, digits and underscores.
    let drop = sqlx::AssertSqlSafe(format!("drop table \"{name}\""));
    sqlx::query(drop).execute(&mut *sql).await?;
    sql.commit().await
}

/// Whether somebody else's lock was waited for in vain.
fn is_locked_out(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|refusal| refusal.code().as_deref() == Some("55P03"))
}
