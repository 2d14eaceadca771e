//! Writing: a command is run in a transaction, again if the database asks for it, and announced when it is committed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tillwire_channels::{MerchantId, Position};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, debug};

use super::entry::{Committed, Entry};
use super::once::Once;
use super::tx::{By, MerchantTx};
use super::{Caller, Pools, pool};
use crate::error::{Error, Result};

/// How often a command is tried when it deadlocks or fails to serialise.
const TRIES_MAX: u32 = 3;
/// How long one try may take. The database has bounds of its own; this one is for a database that says nothing at all,
/// and would else keep the connection for ever.
const ATTEMPT_MAX: Duration = Duration::from_secs(25);

/// The journal, as the one way to write.
#[derive(Clone)]
pub struct Journal {
    pub pools: Pools,
    announce: mpsc::Sender<Committed>,
    tasks: TaskTracker,
}

/// A committed write: what to answer, and where in the journal it stands.
#[derive(Clone, Debug)]
pub struct Written {
    /// Always 2xx.
    pub status: u16,
    /// The answer's body, JSON.
    pub reply: String,
    /// The entry it was committed with, if anyone will hear of it.
    pub position: Option<Position>,
    /// Whether this is the stored answer of an earlier request with the same key.
    pub replayed: bool,
}

impl Journal {
    /// `announce` takes what was committed; `tasks` owns the writes that are running.
    pub fn new(pools: Pools, announce: mpsc::Sender<Committed>, tasks: TaskTracker) -> Self {
        // What first appears when it happens has not risen, says Prometheus.
        metrics::counter!("tillwire_announcements_dropped_total").increment(0);
        metrics::counter!("tillwire_write_retries_total").increment(0);
        Self { pools, announce, tasks }
    }

    /// What owns whatever is begun here and must not be cut off.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The same journal, written over connections of one's own.
    pub fn over(&self, pools: Pools) -> Self {
        Self { pools, ..self.clone() }
    }

    /// The same, over so many connections of one's own to write by.
    ///
    /// # Errors
    /// If the URL, which is the application's, makes no sense.
    pub fn apart(&self, app_url: &SecretString, connections_max: u32) -> anyhow::Result<Self> {
        let app = pool::open(app_url.expose_secret(), connections_max)?;
        Ok(self.over(Pools { app, feed: self.pools.feed.clone() }))
    }

    /// Runs `command` and commits its rows with one entry of the events it appended, and with `once`'s answer.
    ///
    /// It runs in a task of its own: a caller who hangs up cancels nothing half-way, and what was committed is
    /// announced in any case. The command may run up to three times, so it must not keep anything from a failed run.
    ///
    /// # Errors
    /// What the command answers; [`Error::InFlight`] if a twin is running, [`Error::KeyReused`] if the key was used for
    /// another request. After [`Error::Internal`] the outcome is unknown, and the same key gives the one there was.
    pub async fn write<T, F>(&self, caller: Caller, once: Option<Once>, status: u16, command: F) -> Result<Written>
    where
        T: Serialize + Send + 'static,
        F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        self.spawn(By::Caller(caller), once, status, command).await
    }

    /// Runs a command of the hub's own, on nobody's behalf: as [`Journal::write`], but nobody is told an answer that would
    /// be kept, and what it appends has no actor.
    ///
    /// # Errors
    /// What the command answers. After [`Error::Internal`] the outcome is unknown: the command has to see for itself whether
    /// it was done.
    pub async fn act<T, F>(&self, merchant: MerchantId, command: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        let written = self.spawn(By::Hub(merchant), None, 200, command).await?;
        Ok(serde_json::from_str(&written.reply)?)
    }

    async fn spawn<T, F>(&self, by: By, once: Option<Once>, status: u16, command: F) -> Result<Written>
    where
        T: Serialize + Send + 'static,
        F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        let journal = self.clone();
        let work = async move {
            let mut tried = 0;
            loop {
                tried += 1;
                let attempt = journal.attempt(by, once.as_ref(), status, &command);
                let outcome = match tokio::time::timeout(ATTEMPT_MAX, attempt).await {
                    Ok(outcome) => outcome,
                    // It may have committed: the same key will tell.
                    Err(_) => Err(anyhow::anyhow!("the database did not answer within {ATTEMPT_MAX:?}").into()),
                };
                match outcome {
                    Err(error) if tried < TRIES_MAX && wants_another_try(&error) => {
                        metrics::counter!("tillwire_write_retries_total").increment(1);
                        debug!(merchant = %by.merchant(), tried, "A write met a deadlock and is tried again");
                        // Unequal pauses, so that the two do not meet again.
                        let jitter = u64::from(uuid::Uuid::new_v4().as_bytes()[0] % 16);
                        tokio::time::sleep(Duration::from_millis(u64::from(tried) * 5 + jitter)).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        self.tasks.spawn(work.instrument(Span::current())).await?
    }

    async fn attempt<T, F>(&self, by: By, once: Option<&Once>, status: u16, command: &F) -> Result<Written>
    where
        T: Serialize + Send + 'static,
        F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
    {
        let mut tx = MerchantTx::begin(&self.pools.app, by, once).await?;
        let (written, entry) = match run(&mut tx, once, status, command).await {
            Ok((written, entry)) if !written.replayed => {
                tx.commit().await?;
                (written, entry)
            }
            over => {
                // Now: dropped, it would hold the key's lock until its connection is back in the pool, and whoever asks
                // again at once would be told that the request is still running.
                tx.rollback().await;
                return over.map(|(written, _)| written);
            }
        };
        if let Some(entry) = entry {
            let committed = Committed::now(Arc::new(entry));
            metrics::counter!("tillwire_journal_entries_total").increment(1);
            // A full queue is a slow bus. Feeds find the entry in the journal; the writer does not wait.
            if self.announce.try_send(committed).is_err() {
                metrics::counter!("tillwire_announcements_dropped_total").increment(1);
            }
        }
        Ok(written)
    }
}

/// Runs a command up to the commit, unless the same request was answered before. Gives the answer, and the entry that it is
/// to be committed with, if anyone will hear of it.
async fn run<T, F>(
    tx: &mut MerchantTx,
    once: Option<&Once>,
    status: u16,
    command: &F,
) -> Result<(Written, Option<Entry>)>
where
    T: Serialize + Send + 'static,
    F: for<'t> Fn(&'t mut MerchantTx) -> BoxFuture<'t, Result<T>> + Send + Sync + 'static,
{
    if let Some(written) = tx.admit(once).await? {
        return Ok((written, None));
    }
    let reply = serde_json::to_string(&command(tx).await?)?;
    let entry = tx.finish(once, status, &reply).await?;
    let position = entry.as_ref().map(Entry::position);
    Ok((Written { status, reply, position, replayed: false }, entry))
}

/// Whether the database chose this transaction as the one to give way.
fn wants_another_try(error: &Error) -> bool {
    let Error::Internal(cause) = error else { return false };
    let Some(sqlx::Error::Database(refusal)) = cause.downcast_ref::<sqlx::Error>() else { return false };
    matches!(refusal.code().as_deref(), Some("40P01" | "40001"))
}
