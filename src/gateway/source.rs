//! Where feeds read: the journal, on the primary, each read with a deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tillwire_channels::wire::{Present, SnapshotReason};
use tillwire_channels::{Channel, MerchantId, Moment, OutletId, Position, RegisterId, StaffId};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::identity::staff;
use crate::identity::tokens::TTL_MAX;
use crate::journal::Pools;
use crate::journal::read::{self, Entries, Head, ReadTx, Slice};
use crate::screens::joined::{self, Roll};
use crate::screens::keys::{self, Key};
use crate::screens::presence::{self, Change, Node, Said};
use crate::screens::seen::{self, Seen};

/// How long a read may take. A database that is half-open would let it wait for ever.
const READ_MAX: Duration = Duration::from_secs(5);
/// How many reads of each kind run at once; others wait their turn here, and not for a connection. With the look at the
/// heads they need [`crate::journal::pool::FEED_CONNECTIONS_MIN`] connections.
const READS_MAX: usize = 2;

#[derive(Clone)]
pub struct Source {
    pools: Pools,
    /// Apart, for a feed that misses something delays everybody, and thousands of screens may come back at once.
    heals: Arc<Semaphore>,
    replays: Arc<Semaphore>,
}

impl Source {
    pub fn new(pools: Pools) -> Self {
        let turns = || Arc::new(Semaphore::new(READS_MAX));
        Self { pools, heals: turns(), replays: turns() }
    }

    /// What a feed misses after its head, see [`read::after`].
    pub async fn heal(&self, merchant: MerchantId, after: Position) -> Result<Entries> {
        let _turn = self.heals.acquire().await?;
        self.after(merchant, after, Slice::default()).await
    }

    /// What a screen missed after its position, see [`read::after`].
    pub async fn replay(&self, merchant: MerchantId, after: Position, slice: Slice) -> Result<Entries> {
        let _turn = self.replays.acquire().await?;
        self.after(merchant, after, slice).await
    }

    async fn after(&self, merchant: MerchantId, after: Position, slice: Slice) -> Result<Entries> {
        metrics::counter!("tillwire_gateway_journal_reads_total").increment(1);
        let mut sql = self.pools.feed.acquire().await?;
        match tokio::time::timeout(READ_MAX, read::after(&mut sql, merchant, after, slice)).await {
            Ok(answer) => answer,
            Err(late) => {
                drop(sql.detach()); // It may be half-open: nobody shall have it again.
                Err(late.into())
            }
        }
    }

    /// The heads of these journals.
    pub async fn heads(&self, merchants: &[MerchantId]) -> Result<Vec<(MerchantId, Head)>> {
        let mut sql = self.pools.feed.acquire().await?;
        match tokio::time::timeout(READ_MAX, read::heads(&mut *sql, merchants)).await {
            Ok(answer) => answer,
            Err(late) => {
                drop(sql.detach());
                Err(late.into())
            }
        }
    }

    /// The keys that gateways seal with.
    pub async fn keys(&self) -> Result<Vec<Key>> {
        tokio::time::timeout(READ_MAX, keys::all(&self.pools)).await?
    }

    /// Stores what screens have joined, see [`joined::store`].
    pub async fn store(&self, merchant: MerchantId, rolls: Vec<Roll>) -> Result<Vec<String>> {
        tokio::time::timeout(READ_MAX, joined::store(&self.pools, merchant, &rolls)).await?
    }

    /// What these screens have joined, see [`joined::find`].
    pub async fn find(&self, merchant: MerchantId, screens: &[String]) -> Result<Vec<Roll>> {
        tokio::time::timeout(READ_MAX, joined::find(&self.pools, merchant, screens)).await?
    }

    /// Keeps what people have seen, see [`seen::keep`].
    pub async fn keep_seen(&self, merchant: MerchantId, words: &[Seen]) -> Result<Vec<Result<(), SnapshotReason>>> {
        tokio::time::timeout(READ_MAX, seen::keep(&self.pools, merchant, words)).await?
    }

    /// Says that this gateway lives, see [`presence::beat`].
    pub async fn beat(&self, node: Uuid) -> Result<(bool, Moment)> {
        tokio::time::timeout(READ_MAX, presence::beat(&self.pools, node)).await?
    }

    /// Takes this gateway away, see [`presence::retire`].
    pub async fn retire(&self, node: Uuid) -> Result<()> {
        tokio::time::timeout(READ_MAX, presence::retire(&self.pools, node)).await?
    }

    /// The gateways that live.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        tokio::time::timeout(READ_MAX, presence::nodes(&self.pools)).await?
    }

    /// Writes who is where by this gateway's screens, see [`presence::write`].
    pub async fn write_presence(&self, merchant: MerchantId, node: Uuid, changes: &[Change]) -> Result<()> {
        tokio::time::timeout(READ_MAX, presence::write(&self.pools, merchant, node, changes)).await?
    }

    /// The outlets of registers, see [`presence::outlets_of`].
    pub async fn outlets_of(
        &self,
        merchant: MerchantId,
        registers: &[RegisterId],
    ) -> Result<Vec<(RegisterId, OutletId)>> {
        tokio::time::timeout(READ_MAX, presence::outlets_of(&self.pools, merchant, registers)).await?
    }

    /// Who is on each of these channels that is not as it was said before: the new saying, the people, how many more.
    pub async fn presence(
        &self,
        merchant: MerchantId,
        channels: &[(Channel, Option<Said>)],
        max: usize,
    ) -> Result<Vec<(Channel, Said, Vec<Present>, u32)>> {
        let read = async {
            let (mut tx, mut news) = (ReadTx::of(&self.pools.app, merchant).await?, Vec::new());
            for (channel, before) in channels {
                let said = presence::said(tx.sql(), merchant, channel.outlet).await?;
                if before.as_ref() != Some(&said) {
                    let (present, more) = presence::named(tx.sql(), merchant, &said, max).await?;
                    news.push((*channel, said, present, more));
                }
            }
            Ok(news)
        };
        tokio::time::timeout(READ_MAX, read).await?
    }

    /// A journal's head and whose tokens are dead, as of the same moment.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such merchant.
    pub async fn begin(&self, merchant: MerchantId) -> Result<(Head, HashMap<StaffId, Moment>)> {
        let begin = async {
            let mut tx = ReadTx::of(&self.pools.app, merchant).await?;
            let head = read::head(tx.sql(), merchant).await?.ok_or(Error::NotFound("merchant"))?;
            // Older ones are of tokens that have expired by now.
            let revoked = staff::revoked_since(tx.sql(), merchant, Moment::now_utc() - TTL_MAX).await?;
            Ok((head, revoked.into_iter().collect()))
        };
        tokio::time::timeout(READ_MAX, begin).await?
    }
}
