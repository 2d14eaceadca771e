//! Carrying: what follows a cursor is read, published in order, and confirmed, before the cursor moves.

use std::time::Duration;

use anyhow::bail;
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
use super::topology::Topology;
use crate::brokers::link;
use crate::error::Error;
use crate::journal::Entry;
use crate::journal::read::{self, Entries, Slice};

/// How much of a journal is under way at once: with [`ABREAST_MAX`] it bounds what is held, and what a broker has not
/// confirmed.
const SLICE: Slice = Slice { entries_max: 256, bytes_max: 1024 * 1024 };
/// How many journals are carried at the same time.
const ABREAST_MAX: usize = 8;
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
}

/// Who did not do their part.
pub enum Fault {
    /// The database.
    Journal(anyhow::Error),
    /// The broker, or the way there: what it has not confirmed may be lost.
    Broker(anyhow::Error),
}

/// How one journal was carried.
struct Carried {
    merchant: MerchantId,
    /// How far it is confirmed, if further than before.
    to: Option<Position>,
    /// Whether there was more than a slice of it.
    more: bool,
    outcome: Result<(), Fault>,
}

impl Road<'_> {
    /// Carries a slice of each of these journals and moves their cursors. Answers those that have more.
    ///
    /// # Errors
    /// If a journal could not be read, or the broker did not confirm: cursors are as far as it did.
    pub async fn carry(&self, due: Vec<Due>) -> Result<Vec<MerchantId>, Fault> {
        let carried: Vec<Carried> =
            stream::iter(due).map(|due| self.carry_one(due)).buffer_unordered(ABREAST_MAX).collect().await;
        let moved: Vec<(MerchantId, Position)> = carried.iter().filter_map(|it| Some((it.merchant, it.to?))).collect();
        if !moved.is_empty() {
            link::answered(cursors::advance(self.pool, &moved)).await.map_err(Fault::Journal)?;
        }
        let mut more = Vec::new();
        for it in carried {
            it.outcome?;
            more.extend(it.more.then_some(it.merchant));
        }
        Ok(more)
    }

    async fn carry_one(&self, due: Due) -> Carried {
        let mut carried = Carried { merchant: due.merchant, to: None, more: false, outcome: Ok(()) };
        let outcome = self.carry_slice(due, &mut carried).await;
        Carried { outcome, ..carried }
    }

    async fn carry_slice(&self, due: Due, carried: &mut Carried) -> Result<(), Fault> {
        let Some(Entries { entries, more }) = self.read(due).await.map_err(Fault::Journal)? else {
            carried.more = true; // From elsewhere.
            return Ok(());
        };
        carried.more = more;
        let confirming = async {
            let mut confirms = Vec::with_capacity(entries.len());
            for entry in &entries {
                confirms.push(self.publish(entry).await?);
            }
            for (entry, confirm) in entries.iter().zip(confirms) {
                is_confirmed(confirm.await?)?;
                carried.to = Some(entry.position());
                metrics::counter!("tillwire_relay_entries_total").increment(1);
            }
            anyhow::Ok(())
        };
        link::within(CONFIRM_MAX, confirming).await.map_err(Fault::Broker)
    }

    async fn publish(&self, entry: &Entry) -> anyhow::Result<PublisherConfirm> {
        let message = message::encode(entry)?;
        // To nobody would be a loss that nobody notices: at least one queue is bound to everything.
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let exchange = self.topology.events.clone();
        Ok(self.channel.basic_publish(exchange, message.key, options, &message.body, message.properties).await?)
    }

    /// What follows the cursor; `None` if it was put elsewhere.
    async fn read(&self, due: Due) -> anyhow::Result<Option<Entries>> {
        let reading = async {
            let mut sql = self.pool.acquire().await?;
            read::after(&mut sql, due.merchant, due.after, SLICE).await
        };
        let why = match tokio::time::timeout(READ_MAX, reading).await? {
            Ok(entries) => return Ok(Some(entries)),
            Err(Error::SnapshotRequired(why)) => why,
            Err(error) => return Err(error.into_anyhow().context("reading a journal")),
        };
        // Never in the ordinary course: cursors are in the database of the journals, and retention is longer than a lag.
        let to = why.oldest.unwrap_or(Position::START);
        let reason = match why.reason {
            SnapshotReason::Expired => "expired",
            SnapshotReason::Diverged => "diverged",
        };
        metrics::counter!("tillwire_relay_cuts_total", "reason" => reason).increment(1);
        error!(merchant = %due.merchant, "The journal does not have {}, up to which it was relayed ({reason}): the relay goes on after {to}", due.after);
        cursors::put(self.pool, due, to).await?;
        Ok(None)
    }
}

fn is_confirmed(confirmation: Confirmation) -> anyhow::Result<()> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        // Acknowledged, and thrown away.
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => bail!("no queue is bound to the exchange"),
        Confirmation::Nack(None) => bail!("the broker refused an entry"),
        Confirmation::NotRequested => bail!("the broker confirms nothing"),
    }
}
