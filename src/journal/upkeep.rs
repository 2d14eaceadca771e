//! Upkeep: partitions ahead of time, old idempotency keys, screens and what was seen on them out, old entries out where retention is asked for.

use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;
use tillwire_channels::Moment;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How many months of partitions are made ahead.
const MONTHS_AHEAD: i32 = 3;
/// How often upkeep is done.
const EVERY: Duration = Duration::from_secs(3600);
/// How many rows are forgotten in one statement.
const BATCH: i32 = 5_000;
/// How often it is tried to drop a partition.
const DROP_TRIES_MAX: u32 = 3;
/// How long those who waited behind a try have before the next.
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// Does the upkeep now and then every hour, until the node stops. `pool` is the application's.
pub async fn run(pool: PgPool, stop: CancellationToken) {
    while stop.run_until_cancelled(once(&pool)).await.is_some() {
        if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

async fn once(pool: &PgPool) {
    match make_partitions(pool).await {
        Ok(0) => {}
        Ok(made) => info!(made, "Made {made} partitions of the journal"),
        Err(error) => warn!(error = format!("{error:#}"), "Could not make the journal's partitions"),
    }
    let keys = || sqlx::query_scalar!("select idempotency_keys_expire($1)", BATCH).fetch_one(pool);
    forget("idempotency keys", keys).await;
    let screens = || sqlx::query_scalar!("select screens_expire($1)", BATCH).fetch_one(pool);
    forget("screens", screens).await;
    let seen = || sqlx::query_scalar!("select payments_seen_expire($1)", BATCH).fetch_one(pool);
    forget("words on what was seen", seen).await;
    let attempts = || sqlx::query_scalar!("select webhook_attempts_expire($1)", BATCH).fetch_one(pool);
    forget("attempts at webhooks", attempts).await;
    let redeliveries = || sqlx::query_scalar!("select webhook_redeliveries_expire($1)", BATCH).fetch_one(pool);
    forget("redeliveries of webhooks", redeliveries).await;
    // What they had written of presence goes with them. One that was only frozen finds it as it was.
    let gateways = sqlx::query!("delete from gateway_nodes where beat_at < now() - interval '1 hour'").execute(pool);
    if let Err(error) = gateways.await {
        warn!(error = format!("{error:#}"), "Could not forget gateways that are gone");
    }
}

/// Forgets what is old, batch by batch, until a batch is not full.
async fn forget<F: Future<Output = sqlx::Result<Option<i32>>>>(what: &str, expire: impl Fn() -> F) {
    loop {
        match expire().await {
            Ok(Some(BATCH..)) => {}
            Ok(_) => return,
            Err(error) => return warn!(error = format!("{error:#}"), "Could not forget old {what}"),
        }
    }
}

/// Makes the journal's partitions of this month and the coming ones.
pub async fn make_partitions(pool: &PgPool) -> anyhow::Result<i32> {
    let made = sqlx::query_scalar!("select journal_partitions_ahead($1)", MONTHS_AHEAD).fetch_one(pool).await?;
    Ok(made.unwrap_or(0))
}

/// Drops the partitions that hold nothing younger than `before`, and names each as it is gone: those before one that cannot
/// be dropped are. `pool` is the owner's: the application may not forget history.
pub async fn prune(pool: &PgPool, before: Moment, mut is_gone: impl FnMut(&str)) -> anyhow::Result<()> {
    let partitions = sqlx::query!(
        r#"select child.relname::text as "name!"
           from pg_inherits join pg_class child on child.oid = inhrelid
           where inhparent = 'journal_entries'::regclass
             and child.relname < 'journal_entries_' || to_char($1::timestamptz at time zone 'utc', 'YYYY_MM')
           order by child.relname"#,
        before
    )
    .fetch_all(pool)
    .await?;
    for partition in partitions {
        drop_partition(pool, &partition.name).await.with_context(|| format!("dropping {}", partition.name))?;
        is_gone(&partition.name);
    }
    Ok(())
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
