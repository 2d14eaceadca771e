//! Upkeep: partitions ahead of time; old idempotency keys, screens, what was seen on them, attempts at webhooks and their
//! redeliveries, marks of handlers, what providers told, comparisons and gateways that are gone out.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Job, Run, Schedule};
use crate::journal::upkeep;

/// How often upkeep is done.
const HOURLY: Schedule = Schedule::Every(Duration::from_secs(3600));
/// How many rows are forgotten in one statement.
const BATCH: i32 = 5_000;
/// How long after a failure the first partitions are tried to be made again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// All of it.
pub fn jobs() -> Vec<Job> {
    vec![
        Job::new("partitions", HOURLY, partitions),
        forgets("idempotency_keys", |sql| {
            Box::pin(sqlx::query_scalar!("select idempotency_keys_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("screens", |sql| Box::pin(sqlx::query_scalar!("select screens_expire($1)", BATCH).fetch_one(sql))),
        forgets("payments_seen", |sql| {
            Box::pin(sqlx::query_scalar!("select payments_seen_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("webhook_attempts", |sql| {
            Box::pin(sqlx::query_scalar!("select webhook_attempts_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("webhook_redeliveries", |sql| {
            Box::pin(sqlx::query_scalar!("select webhook_redeliveries_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("handled_events", |sql| {
            Box::pin(sqlx::query_scalar!("select handled_events_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("push_devices", |sql| {
            Box::pin(sqlx::query_scalar!("select push_devices_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("push_told", |sql| Box::pin(sqlx::query_scalar!("select push_told_expire($1)", BATCH).fetch_one(sql))),
        forgets("provider_inbox", |sql| {
            Box::pin(sqlx::query_scalar!("select provider_inbox_expire($1)", BATCH).fetch_one(sql))
        }),
        forgets("old_reconciliations", |sql| {
            Box::pin(sqlx::query_scalar!("select reconciliations_expire($1)", BATCH).fetch_one(sql))
        }),
        Job::new("gateways", HOURLY, gateways),
    ]
}

/// Makes the partitions that are missing, before anything is due: a till waits for none. `pool` is the application's.
pub async fn at_start(pool: PgPool, stop: CancellationToken) {
    let mut is_away = false;
    while let Some(Err(error)) = stop.run_until_cancelled(upkeep::make_partitions(&pool)).await {
        if std::mem::replace(&mut is_away, true) {
            debug!("Still cannot make the journal's partitions: {error:#}");
        } else {
            warn!("Cannot make the journal's partitions, and goes on trying: {error:#}");
        }
        stop.run_until_cancelled(tokio::time::sleep(AGAIN_AFTER)).await;
    }
}

async fn partitions(run: Run) -> anyhow::Result<()> {
    let mut sql = run.begin().await?;
    let made = upkeep::make_partitions(&mut *sql).await?;
    run.commit(sql).await?;
    if made > 0 {
        info!(made, "Made {made} partitions of the journal");
    }
    Ok(())
}

/// Forgets a batch of what is old, and answers how much.
type Expire = for<'a> fn(&'a mut PgConnection) -> BoxFuture<'a, sqlx::Result<Option<i32>>>;

/// Forgets what is old, batch by batch, until a batch is not full.
fn forgets(name: &'static str, expire: Expire) -> Job {
    Job::new(name, HOURLY, move |run: Run| async move {
        loop {
            let mut sql = run.begin().await?;
            let gone = expire(&mut sql).await?;
            run.commit(sql).await?;
            if gone < Some(BATCH) {
                return Ok(());
            }
        }
    })
}

/// What they had written of presence goes with them. One that was only frozen finds it as it was.
async fn gateways(run: Run) -> anyhow::Result<()> {
    let mut sql = run.begin().await?;
    sqlx::query!("delete from gateway_nodes where beat_at < now() - interval '1 hour'").execute(&mut *sql).await?;
    run.commit(sql).await
}
