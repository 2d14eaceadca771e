//! Pages that are read once for all who ask for the same at once: a shop's screens come back together.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::PgPool;
use tillwire_channels::{Channel, MerchantId, OutletId};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::batches::Batches;
use crate::error::{Error, Result};
use crate::identity::staff;
use crate::journal::Caller;
use crate::journal::read::ReadTx;

/// What was asked for. Whoever asks for the same gets the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    merchant: MerchantId,
    channel: Channel,
    outlets: Vec<OutletId>,
    cursor: Option<Uuid>,
    limit: u32,
}

/// What one who asked is answered.
#[derive(Clone)]
enum Answer {
    /// A [`super::SnapshotView`] as JSON.
    Page(Bytes),
    /// Their token is dead.
    Revoked,
    NotFound(&'static str),
}

pub struct Shared {
    pool: PgPool,
    reads: Arc<Batches<Asked, Caller, Answer>>,
}

impl Shared {
    /// `pool` is the application's; `tasks` owns the reading.
    pub fn new(pool: PgPool, tasks: TaskTracker) -> Self {
        Self { pool, reads: Batches::new(usize::MAX, tasks) }
    }

    /// A page as [`super::read`] reads it, as JSON: read after it was asked for, so it shows what the caller wrote before.
    ///
    /// # Errors
    /// As [`super::check`]; [`Error::Unauthenticated`] if the caller's token was revoked.
    pub async fn read(
        &self,
        caller: Caller,
        channel: Channel,
        outlets: &[OutletId],
        cursor: Option<Uuid>,
        limit: u32,
    ) -> Result<Bytes> {
        super::check(channel)?;
        let asked = Asked { merchant: caller.merchant, channel, outlets: outlets.to_vec(), cursor, limit };
        let answer = {
            let (pool, asked) = (self.pool.clone(), asked.clone());
            move |callers| answer(pool.clone(), asked.clone(), callers)
        };
        match self.reads.ask(asked, caller, answer).await? {
            Answer::Page(json) => Ok(json),
            Answer::Revoked => Err(Error::Unauthenticated("token_revoked")),
            Answer::NotFound(what) => Err(Error::NotFound(what)),
        }
    }
}

async fn answer(pool: PgPool, asked: Asked, callers: Vec<Caller>) -> Result<Vec<Answer>> {
    metrics::counter!("tillwire_snapshot_pages_read_total").increment(1);
    let mut tx = ReadTx::of(&pool, asked.merchant).await?;
    let dead = staff::revoked_among(tx.sql(), asked.merchant, &callers).await?;
    let Asked { channel, outlets, cursor, limit, .. } = &asked;
    let page = match super::read(&mut tx, *channel, outlets, *cursor, *limit).await {
        Ok(page) => Answer::Page(serde_json::to_vec(&page)?.into()),
        Err(Error::NotFound(what)) => Answer::NotFound(what),
        Err(error) => return Err(error),
    };
    Ok(dead.into_iter().map(|is_dead| if is_dead { Answer::Revoked } else { page.clone() }).collect())
}
