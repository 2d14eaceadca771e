//! Carrying: what follows a cursor is read, published in order, and confirmed, before the cursor moves.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::StreamExt;
use futures_util::stream;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation, PublisherConfirm};
use sqlx::PgPool;
use tillwire_channels::wire::SnapshotReason;
use tillwire_channels::{MerchantId, Position};
use tracing::error;

use super::cursors::{self, Due};
use super::message;
use crate::error::Error;
use crate::journal::Entry;
use crate::journal::read::{self, Entries, Slice};
use crate::queues::topology::Topology;

/// How many journals are carried at the same time.
pub const ABREAST_MAX: usize = 8;
/// How much of a journal is under way at once: with [`ABREAST_MAX`] it bounds what is held, and what a broker has not
/// confirmed.
pub const SLICE_ENTRIES_MAX: u32 = 256;
const SLICE_BYTES_MAX: usize = 1024 * 1024;
/// How long the broker may take to confirm a slice. It writes to the disks of most of its nodes first; a broker that is
/// short of memory or disk confirms nothing.
const CONFIRM_MAX: Duration = Duration::from_secs(10);
/// How long the journal may take.
const READ_MAX: Duration = Duration::from_secs(5);

/// What entries are carried over.
pub struct Road<'a> {
    pub pool: &'a PgPool,
    pub channel: &'a Channel,
    pub topology: &'a Topology,
    /// How many entries of a journal are under way at most: fewer, where a broker was too slow for more.
    pub slice_entries: u32,
    /// Journals of which one entry is under way: a queue refused one, and all that came behind it came to the others in vain.
    pub refused: &'a HashMap<MerchantId, u32>,
}

/// What came of carrying some journals.
#[derive(Default)]
pub struct Carried {
    /// How far each is confirmed, if further than before.
    pub moved: Vec<(MerchantId, Position)>,
    /// Those that have more.
    pub more: Vec<MerchantId>,
    /// Those that could not be carried now, for reasons of their own, which tell how long they are left alone.
    pub resting: Vec<(MerchantId, Rest)>,
    /// Whether the database does not answer.
    pub journal: Option<anyhow::Error>,
    /// Why nobody can rely on the broker, or the way there, any more.
    pub broker: Option<anyhow::Error>,
}

/// Why a journal is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// A queue did not take its entry.
    Refused,
    /// It cannot be read.
    Unreadable,
}

/// Why one journal was not carried to the end.
enum Fault {
    Journal(anyhow::Error),
    Broker(anyhow::Error),
    Own(Rest),
}

impl Road<'_> {
    /// Carries a slice of each of these journals.
    ///
    /// Where the broker gives an entry back that no queue takes, nothing of all this counts: it says so with the wrong one's
    /// confirmation, if many are under way.
    pub async fn carry(&self, due: Vec<Due>) -> Carried {
        let outcomes: Vec<_> =
            stream::iter(due).map(|due| self.carry_one(due)).buffer_unordered(ABREAST_MAX).collect().await;
        let mut carried = Carried::default();
        for (merchant, to, outcome) in outcomes {
            carried.moved.extend(to.map(|to| (merchant, to)));
            match outcome {
                Ok(true) => carried.more.push(merchant),
                Ok(false) => {}
                Err(Fault::Own(rest)) => carried.resting.push((merchant, rest)),
                Err(Fault::Journal(error)) => carried.journal = Some(error),
                Err(Fault::Broker(error)) => carried.broker = Some(error),
            }
        }
        if carried.broker.is_some() {
            carried.moved.clear();
        }
        carried
    }

    /// How far a journal was confirmed, and whether it has more.
    async fn carry_one(&self, due: Due) -> (MerchantId, Option<Position>, Result<bool, Fault>) {
        let mut to = None;
        let outcome = self.carry_slice(due, &mut to).await;
        (due.merchant, to, outcome)
    }

    async fn carry_slice(&self, due: Due, to: &mut Option<Position>) -> Result<bool, Fault> {
        let Some(Entries { entries, more }) = self.read(due).await? else { return Ok(true) };
        let confirming = async {
            let mut confirms = Vec::with_capacity(entries.len());
            for entry in &entries {
                confirms.push(self.publish(entry).await.map_err(Fault::Broker)?);
            }
            let mut refused = false;
            // Each is waited for, also behind one that was refused: what comes back is told with any of them.
            for (entry, confirm) in entries.iter().zip(confirms) {
                let confirmation = confirm.await.map_err(|error| Fault::Broker(error.into()))?;
                refused |= !is_taken(confirmation).map_err(Fault::Broker)?;
                if !refused {
                    *to = Some(entry.position());
                    metrics::counter!("tillwire_relay_entries_total").increment(1);
                }
            }
            if refused { Err(Fault::Own(Rest::Refused)) } else { Ok(()) }
        };
        match tokio::time::timeout(CONFIRM_MAX, confirming).await {
            Ok(outcome) => outcome.map(|()| more),
            Err(_) => Err(Fault::Broker(anyhow!("it confirms nothing within {CONFIRM_MAX:?}"))),
        }
    }

    async fn publish(&self, entry: &Entry) -> anyhow::Result<PublisherConfirm> {
        let message = message::encode(entry)?;
        // To nobody would be a loss that nobody notices: at least one queue is bound to everything.
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let exchange = self.topology.events.clone();
        Ok(self.channel.basic_publish(exchange, message.key, options, &message.body, message.properties).await?)
    }

    /// What follows the cursor; `None` if it was put elsewhere.
    async fn read(&self, due: Due) -> Result<Option<Entries>, Fault> {
        let entries_max = if self.refused.contains_key(&due.merchant) { 1 } else { self.slice_entries };
        let slice = Slice { entries_max, bytes_max: SLICE_BYTES_MAX };
        let reading = async {
            let mut sql = self.pool.acquire().await?;
            let why = match read::after(&mut sql, due.merchant, due.after, slice).await {
                Err(Error::SnapshotRequired(why)) => why,
                read => return read.map(Some),
            };
            let to = read::beyond(&mut sql, due.merchant, due.after).await?;
            let reason = match why.reason {
                SnapshotReason::Expired => "expired",
                SnapshotReason::Diverged => "diverged",
            };
            metrics::counter!("tillwire_relay_cuts_total", "reason" => reason).increment(1);
            error!(
                merchant = %due.merchant,
                "The journal does not go on from {}, up to which it was relayed ({reason}): the relay goes on after {to}",
                due.after
            );
            cursors::put(&mut sql, due, to).await?;
            Ok(None)
        };
        let read = tokio::time::timeout(READ_MAX, reading).await.map_err(|late| Fault::Journal(late.into()))?;
        read.map_err(|error| {
            if let Error::Busy { .. } = error {
                return Fault::Journal(anyhow!("no connection was free, or a lock"));
            }
            let error = error.into_anyhow();
            match error.downcast_ref::<sqlx::Error>() {
                Some(_) => Fault::Journal(error),
                None => {
                    error!(merchant = %due.merchant, "A journal cannot be relayed: {error:#}");
                    Fault::Own(Rest::Unreadable)
                }
            }
        })
    }
}

/// Whether an entry was taken by every queue that it is for. False if it was refused.
///
/// # Errors
/// If none is bound to the exchange, or nothing is confirmed.
fn is_taken(confirmation: Confirmation) -> anyhow::Result<bool> {
    match confirmation {
        Confirmation::Ack(None) => Ok(true),
        Confirmation::Nack(None) => Ok(false),
        // Acknowledged, and thrown away.
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => bail!("no queue is bound to the exchange"),
        Confirmation::NotRequested => bail!("the broker confirms nothing"),
    }
}
