//! The pools of database connections, and the only way to begin a transaction.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, PgPool, Postgres, Row, Transaction};
use tillwire_channels::MerchantId;
use tracing::debug;

/// How long a request waits for a free connection before it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the database may take to show that it is there.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The fewest connections that a feed gets by with: two heals, two replays, one look at the heads.
pub const FEED_CONNECTIONS_MIN: u32 = 5;
/// How long a transaction may take to begin, once there is a connection.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to come back. One that is half-open would else keep its place in the pool until the
/// kernel gives it up, a quarter of an hour later.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// A pool for each database role that a node uses.
#[derive(Clone)]
pub struct Pools {
    /// `tillwire_app`: requests, walled off by merchant.
    pub app: PgPool,
    /// `tillwire_feed`: reads the journals of all merchants.
    pub feed: PgPool,
}

impl Pools {
    /// Opens both pools without connecting: a database that is down at start is waited for by whoever needs it.
    pub fn open(app_url: &str, feed_url: &str, connections_max: u32) -> anyhow::Result<Self> {
        Ok(Self {
            app: open(app_url, connections_max).context("the database URL of the application (--database-url)")?,
            // The feed reads in few, large steps.
            feed: open(feed_url, (connections_max / 4).max(FEED_CONNECTIONS_MIN))
                .context("the database URL of the feed (--feed-database-url)")?,
        })
    }

    /// Whether the database answers a request.
    pub async fn answer(&self) -> bool {
        let asked = sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(&self.app);
        tokio::time::timeout(ANSWER_MAX, asked).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Closes every connection once it is free.
    pub async fn close(&self) {
        self.app.close().await;
        self.feed.close().await;
    }
}

/// Opens a pool. The only constructor, for its hook closes a hole of sqlx 0.9.0: see [`begin`].
pub fn open(url: &str, connections_max: u32) -> anyhow::Result<PgPool> {
    let options = within_bounds(url)?;
    debug!(role = options.get_username(), connections_max, "Opened a pool");
    Ok(PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A connection inside a transaction must never be lent again. In a fresh transaction, and only there, `now()`
        // is the statement's own time; anywhere else the connection is closed.
        .after_release(|connection, _| {
            Box::pin(async move {
                let asked = connection.fetch_one("select now() = statement_timestamp()");
                match tokio::time::timeout(RELEASE_MAX, asked).await {
                    Ok(row) => row?.try_get(0),
                    Err(_) => Ok(false),
                }
            })
        })
        .connect_lazy_with(options))
}

/// How every connection of a node is made.
fn within_bounds(url: &str) -> anyhow::Result<PgConnectOptions> {
    Ok(options(url)?
        // Bounds for whatever is asked outside of a transaction; one of a merchant sets its own, which also hold where a
        // pooler drops these.
        .options([("statement_timeout", "10s"), ("lock_timeout", "3s"), ("idle_in_transaction_session_timeout", "2s")])
        .log_slow_statements(tracing::log::LevelFilter::Off, Duration::ZERO))
}

fn options(url: &str) -> anyhow::Result<PgConnectOptions> {
    // The library takes whatever follows the scheme for PostgreSQL's, whatever scheme that is.
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    // The URL holds a password: the error must not repeat it.
    let parsed = PgConnectOptions::from_str(url).ok().filter(|_| known);
    Ok(parsed.context("not a postgres:// URL")?.application_name("tillwire"))
}

/// The host and port that a URL names; none if the database is behind a socket of this machine.
pub fn place_of(url: &str) -> Option<(String, u16)> {
    let options = options(url).ok()?;
    let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    (!is_socket).then(|| (options.get_host().to_owned(), options.get_port()))
}

/// One connection as a pool of [`open`] would make it, for whoever wants to know why there is none: a pool only says that
/// it took too long.
pub async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    Ok(PgConnection::connect_with(&within_bounds(url)?).await?)
}

/// One connection that holds locks of its session. PostgreSQL ends it, and the locks with it, when it has said nothing for
/// so many seconds.
///
/// # Errors
/// If there is none, or if it leads to a pooler, which would lend the session to others.
pub async fn connect_for_locks(url: &str, silence_seconds_max: u8) -> anyhow::Result<PgConnection> {
    let silence = format!("{silence_seconds_max}s");
    let options = within_bounds(url)?.options([("idle_session_timeout", &silence)]);
    let mut sql = PgConnection::connect_with(&options).await?;
    debug!(role = options.get_username(), connections_max = 1, "Opened a connection for locks");
    let held: String = sqlx::query_scalar("show idle_session_timeout").fetch_one(&mut sql).await?;
    anyhow::ensure!(held == silence, "a pooler is in between: this way has to lead to PostgreSQL itself");
    Ok(sql)
}

/// Opens a pool for a command that takes its time: migrations, verification. No time-outs, few connections.
pub fn open_for_owner(url: &str) -> anyhow::Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(2).connect_lazy_with(options(url)?))
}

/// Begins a transaction that cannot be cancelled half-way.
///
/// A cancelled `begin` of sqlx 0.9.0 leaves the connection inside a transaction that the pool knows nothing of, and the
/// writes of its next user vanish (transact-rs/sqlx#4385). In a task of its own it ends by itself: if nobody waits any
/// more, the transaction is dropped there and rolled back. One that the database does not answer is given up, and the
/// pool, which looks at what comes back, closes its connection.
pub async fn begin(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    #[allow(clippy::disallowed_methods)] // The one place where it is sound.
    let task = tokio::spawn(async move { tokio::time::timeout(BEGIN_MAX, pool.begin()).await });
    let late = |error: tokio::time::error::Elapsed| sqlx::Error::Io(error.into());
    task.await.map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?.map_err(late)?
}

/// Begins a transaction for what is a merchant's and not the journal's: no event can come of it. `pool` is the
/// application's.
pub async fn begin_of(pool: &PgPool, merchant: MerchantId) -> sqlx::Result<Transaction<'static, Postgres>> {
    begin_as(pool, &merchant.to_string()).await
}

/// The same for what is no merchant's.
pub async fn begin_of_nobody(pool: &PgPool) -> sqlx::Result<Transaction<'static, Postgres>> {
    begin_as(pool, "").await
}

async fn begin_as(pool: &PgPool, merchant: &str) -> sqlx::Result<Transaction<'static, Postgres>> {
    let mut sql = begin(pool).await?;
    sqlx::query!(
        "select set_config('tillwire.merchant', $1, true) as merchant,
                set_config('statement_timeout', '10s', true) as statement_timeout,
                set_config('lock_timeout', '3s', true) as lock_timeout,
                set_config('idle_in_transaction_session_timeout', '2s', true) as idle_timeout",
        merchant,
    )
    .fetch_one(&mut *sql)
    .await?;
    Ok(sql)
}
