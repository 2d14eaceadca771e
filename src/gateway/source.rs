//! Where feeds read: the journal, on the primary, each read with a deadline.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tillwire_channels::{MerchantId, Moment, Position, StaffId};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::identity::staff;
use crate::identity::tokens::TTL_MAX;
use crate::journal::Pools;
use crate::journal::read::{self, Entries, Head, ReadTx, Slice};

/// How long a read may take. A database that is half-open would let it wait for ever.
const READ_MAX: Duration = Duration::from_secs(5);
/// How many reads run at once; others wait their turn here, and not for a connection.
const READS_MAX: usize = 2;

#[derive(Clone)]
pub struct Source {
    pools: Pools,
    turns: Arc<Semaphore>,
}

impl Source {
    pub fn new(pools: Pools) -> Self {
        Self { pools, turns: Arc::new(Semaphore::new(READS_MAX)) }
    }

    /// What follows a position, see [`read::after`].
    pub async fn after(&self, merchant: MerchantId, after: Position, slice: Slice) -> Result<Entries> {
        let _turn = self.turns.acquire().await?;
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
