//! Leading: which shards this node relays, by advisory locks of a session of its own.
//!
//! A lock is gone with its session. The session of a process that was killed ends with it; that of one that is frozen, or
//! that nobody reaches any more, is ended by PostgreSQL itself after [`SILENCE_MAX`]. The locks save work and are no
//! fence: whoever wakes up and still believes to lead publishes again what another has published, and nobody minds.

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
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long the database may take to answer, else somebody else leads.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// The first key of our locks. The second is 0 for whoever takes part, and from 1 on a shard.
const LOCK_CLASS: i32 = 0x7469_6c77;

/// Takes part in leading until `stop`, and says which shards this node leads. `url` is `tillwire_relay`'s, and goes to
/// PostgreSQL itself: a pooler would lend the session to others.
pub async fn take_part(url: &str, leads: &watch::Sender<Shards>, stop: &CancellationToken) {
    let mut is_away = false;
    loop {
        let outcome = stop.run_until_cancelled(hold(url, leads, &mut is_away)).await;
        leads.send_replace(Shards::NONE);
        show(Shards::NONE);
        let Some(Err(error)) = outcome else { return };
        if std::mem::replace(&mut is_away, true) {
            debug!("Still cannot take part in relaying: {error:#}");
        } else {
            warn!("Cannot take part in relaying, and goes on trying: {error:#}");
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

async fn hold(url: &str, leads: &watch::Sender<Shards>, is_away: &mut bool) -> anyhow::Result<Infallible> {
    let connecting = pool::connect_for_locks(url, SILENCE_MAX);
    let mut sql = tokio::time::timeout(CONNECT_MAX, connecting).await??;
    let mut own = Shards::NONE;
    answered(sqlx::query!("select pg_advisory_lock_shared($1, 0)", LOCK_CLASS).fetch_one(&mut sql)).await?;
    *is_away = false;
    loop {
        let before = own;
        answered(look(&mut sql, &mut own)).await?;
        if own != before {
            info!("Relays the journals of {} of {SHARDS} shards: {own}", own.len());
            leads.send_replace(own);
            show(own);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes what is free up to our share, and gives back what is more than that.
async fn look(sql: &mut PgConnection, own: &mut Shards) -> sqlx::Result<()> {
    let share = fair_share(nodes(sql).await?);
    let mut shards: Vec<u8> = (0..SHARDS).collect();
    fastrand::shuffle(&mut shards); // Else all would ask for the same ones.
    for shard in shards {
        let key = i32::from(shard) + 1;
        if own.contains(shard) && own.len() > share {
            sqlx::query!("select pg_advisory_unlock($1, $2)", LOCK_CLASS, key).fetch_one(&mut *sql).await?;
            *own = own.without(shard);
        } else if !own.contains(shard) && own.len() < share {
            let asked = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1, $2) as "is_ours!""#, LOCK_CLASS, key);
            if asked.fetch_one(&mut *sql).await? {
                *own = own.with(shard);
            }
        }
    }
    Ok(())
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

fn show(own: Shards) {
    metrics::gauge!("tillwire_relay_shards").set(own.len() as f64);
}
