//! A change of the vault key: every data key is sealed anew with the first that is given. Nothing else is touched, so it can be
//! done while nodes serve, be broken off at any moment, and be begun again.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use secrecy::ExposeSecret as _;
use sqlx::PgPool;
use tillwire_channels::MerchantId;
use tracing::{debug, error};
use uuid::Uuid;

use super::keys::VaultKeys;
use super::rows::{self, Row};
use crate::audit;
use crate::journal::pool;

/// How many merchants are asked for at once.
const BATCH: i32 = 100;

/// What a look at data keys came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that are as they should be: sealed anew, or opened.
    pub good: u64,
    /// Those that are not, by the vault key that they are sealed with.
    pub closed: BTreeMap<String, u64>,
}

impl Tally {
    pub fn counts(&mut self, of: Tally) {
        self.good += of.good;
        for (vault_key, count) in of.closed {
            *self.closed.entry(vault_key).or_default() += count;
        }
    }

    /// # Errors
    /// If there are data keys that could not be opened: with the vault keys that are needed.
    pub fn is_whole(&self) -> anyhow::Result<()> {
        let closed: Vec<String> = self.closed.iter().map(|(id, count)| format!("{count} of {id}")).collect();
        ensure!(closed.is_empty(), "data keys that these vault keys do not open: {}", closed.join(", "));
        Ok(())
    }
}

/// Seals every data key anew that is not sealed with the first of these keys: a transaction for each merchant, with a line in
/// its audit. `app` is the application's pool.
///
/// # Errors
/// If there is no key, or the database does not answer: what was done until then stays done, and the rest is done when it is
/// begun again.
pub async fn rotate(app: &PgPool, keys: &VaultKeys) -> anyhow::Result<Tally> {
    let first = keys.first().context("no vault key: name one with --vault-key-file")?;
    let (mut tally, mut behind) = (Tally::default(), Uuid::nil());
    while let Some(merchants) = next(app, &first.id, &mut behind).await? {
        for merchant in merchants {
            tally.counts(of_one(app, keys, merchant).await.with_context(|| format!("the data keys of {merchant}"))?);
        }
    }
    Ok(tally)
}

/// Merchants who have data keys: some of those behind one, by id, whom it moves on; none if there are no more.
///
/// # Errors
/// If the database does not answer.
pub async fn merchants(app: &PgPool, behind: &mut Uuid) -> anyhow::Result<Option<Vec<MerchantId>>> {
    // No vault key is called so.
    next(app, "", behind).await
}

/// Opens a merchant's data keys, and changes nothing.
///
/// # Errors
/// If the database does not answer.
pub async fn verify_one(app: &PgPool, keys: &VaultKeys, merchant: MerchantId) -> anyhow::Result<Tally> {
    let (mut tally, mut sql) = (Tally::default(), pool::begin_of(app, merchant).await?);
    for row in rows::all(&mut sql, merchant, super::OF_MERCHANT_MAX).await? {
        tally.counts(opened(keys, merchant, &row).map_or_else(|| closed(&row), |_| good()));
    }
    sql.commit().await?;
    Ok(tally)
}

async fn next(app: &PgPool, than: &str, behind: &mut Uuid) -> anyhow::Result<Option<Vec<MerchantId>>> {
    let mut sql = pool::begin_of_nobody(app).await?;
    let merchants = rows::merchants(&mut sql, than, *behind, BATCH).await?;
    sql.commit().await?;
    let Some(last) = merchants.last() else { return Ok(None) };
    *behind = *last;
    Ok(Some(merchants.into_iter().map(MerchantId).collect()))
}

async fn of_one(app: &PgPool, keys: &VaultKeys, merchant: MerchantId) -> anyhow::Result<Tally> {
    let first = keys.first().context("no vault key")?;
    let (mut tally, mut sql) = (Tally::default(), pool::begin_of(app, merchant).await?);
    for row in rows::of_others(&mut sql, merchant, &first.id).await? {
        let Some(bytes) = opened(keys, merchant, &row) else {
            tally.counts(closed(&row));
            continue;
        };
        let sealed = first.seal(merchant, row.key, bytes.expose_secret())?;
        rows::replace(&mut sql, merchant, &Row { key: row.key, vault_key: first.id.clone(), sealed }).await?;
        let detail = format!("from the vault key {} to {}", row.vault_key, first.id);
        audit::note(&mut sql, merchant, None, "data_key.rewrapped", &row.key.to_string(), &detail)
            .await
            .map_err(crate::error::Error::into_anyhow)?;
        tally.counts(good());
    }
    sql.commit().await?;
    debug!(%merchant, "Sealed {} data keys anew", tally.good);
    Ok(tally)
}

fn opened(keys: &VaultKeys, merchant: MerchantId, row: &Row) -> Option<super::keys::DataKeyBytes> {
    let vault_key = keys.find(&row.vault_key)?;
    vault_key
        .open(merchant, row.key, &row.sealed)
        .inspect_err(|error| error!(%merchant, "The data key {} is broken: {error:#}", row.key))
        .ok()
}

fn good() -> Tally {
    Tally { good: 1, ..Tally::default() }
}

fn closed(row: &Row) -> Tally {
    Tally { good: 0, closed: [(row.vault_key.clone(), 1)].into() }
}
