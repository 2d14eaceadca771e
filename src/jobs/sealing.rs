//! Sealing what is in clear: secrets from before the hub had a vault key, or that a node without one has kept.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sqlx::PgPool;
use tillwire_channels::MerchantId;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Job, Lost, Run, Schedule};
use crate::error::Error;
use crate::push::devices;
use crate::vault::{self, Vault};
use crate::webhooks::secrets;

/// How often it is looked for.
const HOURLY: Schedule = Schedule::Every(Duration::from_secs(3600));
/// How many merchants are asked for at once.
const MERCHANTS: i32 = 100;
/// How many secrets of a kind are sealed in one transaction.
const BATCH: i64 = 200;

/// `app` is the pool of whoever does jobs.
pub fn job(vault: Arc<Vault>, app: PgPool) -> Job {
    Job::new("seal_secrets", HOURLY, move |run: Run| seal(run, vault.clone(), app.clone()))
}

async fn seal(run: Run, vault: Arc<Vault>, app: PgPool) -> anyhow::Result<()> {
    let (mut behind, mut count, mut in_vain) = (Uuid::nil(), 0, 0);
    loop {
        let mut sql = run.begin().await?;
        let merchants = vault::merchants_in_clear(&mut sql, behind, MERCHANTS).await?;
        run.commit(sql).await?;
        let Some(last) = merchants.last() else { break };
        behind = *last;
        for merchant in merchants.into_iter().map(MerchantId) {
            match of_one(&run, &vault, &app, merchant).await {
                Ok(sealed) => count += sealed,
                Err(error) if error.is::<Lost>() => return Err(error),
                // The others are not left in clear for it.
                Err(error) => {
                    warn!(%merchant, "A merchant's secrets stay in clear: {error:#}");
                    in_vain += 1;
                }
            }
        }
    }
    if count > 0 {
        info!(count, "Sealed {count} secrets that were in clear");
    }
    ensure!(in_vain == 0, "the secrets of {in_vain} merchants could not be sealed");
    Ok(())
}

async fn of_one(run: &Run, vault: &Vault, app: &PgPool, merchant: MerchantId) -> anyhow::Result<usize> {
    let ring = vault.sealer(app, merchant).await.map_err(Error::into_anyhow)?.context("no vault key")?;
    let mut count = 0;
    loop {
        let mut sql = run.begin().await?;
        sqlx::query!("select set_config('tillwire.merchant', $1, true)", merchant.to_string())
            .fetch_one(&mut *sql)
            .await?;
        let of_webhooks = secrets::seal_some(&mut sql, merchant, &ring, BATCH).await.map_err(Error::into_anyhow)?;
        let of_devices = devices::seal_some(&mut sql, merchant, &ring, BATCH).await.map_err(Error::into_anyhow)?;
        run.commit(sql).await?;
        count += of_webhooks + of_devices;
        if of_webhooks.max(of_devices) < usize::try_from(BATCH)? {
            return Ok(count);
        }
    }
}
