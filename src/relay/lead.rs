//! Leading: which shards this node relays, by advisory locks of a session of its own.
//!
//! A lock is gone with its session. The session of a process that was killed ends with it. That of one that is frozen is
//! alive as far as any kernel knows, so PostgreSQL itself ends it after [`SILENCE_SECONDS_MAX`], as it does when nobody is reached any
//! more. The locks save work and are no fence: whoever wakes up and still believes to lead publishes again what another has
//! published, and nobody minds.
//!
//! Only a node whose broker answers takes part: shards go to somebody who can carry them.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::shards::{SHARDS, Shards, fair_share};
use crate::journal::pool;

/// How often a leader says that it is there, and whoever is not looks whether it has become one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After how long a silence PostgreSQL ends a session. With the looks of the others it bounds how long a shard is without a
/// leader: 7 seconds.
const SILENCE_SECONDS_MAX: u8 = 5;
/// How long a broker may be away before others have its node's shards.
const WITHOUT_BROKER_MAX: Duration = Duration::from_secs(5);
/// How long the database may take to answer, else somebody else leads.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// The first key of our locks. The second is 0 for whoever takes part, and from 1 on a shard.
const LOCK_CLASS: i32 = 0x7469_6c77;

/// Takes part in leading until `stop`, and says which shards this node leads. `url` is `tillwire_relay`'s, and goes to
/// PostgreSQL itself: a pooler would lend the session to others. `is_up` says whether our broker answers.
pub async fn take_part(
    url: &str,
    leads: &watch::Sender<Shards>,
    mut is_up: watch::Receiver<bool>,
    stop: &CancellationToken,
) {
    let mut is_away = false;
    loop {
        let holding = async {
            is_up.wait_for(|up| *up).await?;
            let mut broker = is_up.clone();
            tokio::select! {
                outcome = hold(url, leads, &mut is_away) => outcome.map(|never| match never {}),
                outcome = is_down_for_long(&mut broker) => outcome,
            }
        };
        let outcome = stop.run_until_cancelled(holding).await;
        leads.send_replace(Shards::NONE);
        show(Shards::NONE);
        match outcome {
            None => return,
            Some(Ok(())) => info!("Gives its shards away: its broker does not answer"),
            Some(Err(error)) if std::mem::replace(&mut is_away, true) => {
                debug!("Still cannot take part in relaying: {error:#}");
            }
            Some(Err(error)) => warn!("Cannot take part in relaying, and goes on trying: {error:#}"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

async fn is_down_for_long(is_up: &mut watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        is_up.wait_for(|up| !*up).await?;
        match tokio::time::timeout(WITHOUT_BROKER_MAX, is_up.wait_for(|up| *up)).await {
            Ok(back) => _ = back?,
            Err(_) => return Ok(()),
        }
    }
}

async fn hold(url: &str, leads: &watch::Sender<Shards>, is_away: &mut bool) -> anyhow::Result<Infallible> {
    let connecting = pool::connect_for_locks(url, SILENCE_SECONDS_MAX);
    let mut sql = tokio::time::timeout(CONNECT_MAX, connecting).await??;
    answered(sqlx::query!("select pg_advisory_lock_shared($1, 0)", LOCK_CLASS).fetch_one(&mut sql)).await?;
    *is_away = false;
    let (mut held, mut led) = (Shards::NONE, Shards::NONE);
    loop {
        // What is not led any more since the last look is let go of: most of what was under way then has ended.
        let before = led;
        (held, led) = answered(look(&mut sql, held, led)).await?;
        if led != before {
            info!("Relays the journals of {} of {SHARDS} shards: {led}", led.len());
            leads.send_replace(led);
            show(led);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lets go of what is held and not led, takes what is free up to our share, and leads no more than that.
async fn look(sql: &mut PgConnection, held: Shards, led: Shards) -> sqlx::Result<(Shards, Shards)> {
    let mut held = held;
    let unled: Vec<i32> = held.iter().filter(|shard| !led.contains(*shard)).map(|shard| i32::from(shard) + 1).collect();
    if !unled.is_empty() {
        sqlx::query!("select pg_advisory_unlock($1, key) from unnest($2::int[]) key", LOCK_CLASS, &unled)
            .fetch_all(&mut *sql)
            .await?;
        held = led;
    }
    let share = fair_share(nodes(sql).await?);
    if held.len() < share {
        let missing: Vec<i32> =
            (0..SHARDS).filter(|shard| !held.contains(*shard)).map(|shard| i32::from(shard) + 1).collect();
        let taken = sqlx::query_scalar!(
            r#"select key as "key!" from unnest($2::int[]) key where pg_try_advisory_lock($1, key)"#,
            LOCK_CLASS,
            &missing
        )
        .fetch_all(&mut *sql)
        .await?;
        held = taken.into_iter().filter_map(|key| u8::try_from(key - 1).ok()).fold(held, Shards::with);
    }
    // By chance, so that it is not always the same ones that move.
    let mut led: Vec<u8> = held.iter().collect();
    fastrand::shuffle(&mut led);
    Ok((held, led.into_iter().take(share).fold(Shards::NONE, Shards::with)))
}

/// How many nodes take part.
async fn nodes(sql: &mut PgConnection) -> sqlx::Result<usize> {
    let nodes = sqlx::query_scalar!(
        r#"select count(*) as "nodes!" from pg_locks
           where locktype = 'advisory' and classid::bigint = $1 and objid = 0 and objsubid = 2 and granted
             and database = (select oid from pg_database where datname = current_database())"#,
        i64::from(LOCK_CLASS),
    );
    Ok(usize::try_from(nodes.fetch_one(sql).await?).unwrap_or(1))
}

async fn answered<T>(question: impl Future<Output = sqlx::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(ANSWER_MAX, question).await??)
}

fn show(led: Shards) {
    metrics::gauge!("tillwire_relay_shards").set(led.len() as f64);
}
