//! `tillwire vault`: makes vault keys, seals data keys anew with another, and looks whether they can be opened.

use anyhow::ensure;
use secrecy::ExposeSecret;
use sqlx::PgConnection;
use tillwire_channels::MerchantId;
use uuid::Uuid;

use crate::accounts;
use crate::config::{self, VaultCommand, VaultKeeper};
use crate::error::{Error, Result};
use crate::journal::pool;
use crate::push::devices;
use crate::vault::keys::{self, Source, VaultKeys};
use crate::vault::rotation::{self, Tally};
use crate::vault::{Found, Vault};
use crate::webhooks::secrets;

pub async fn run(config: config::Vault) -> anyhow::Result<()> {
    match config.what {
        VaultCommand::NewKey { path } => {
            keys::write_new_key(&path, false)?;
            let source = Source { files: vec![path], keys: Vec::new() };
            VaultKeys::open(&source)?.ids().for_each(|id| println!("{id}"));
            Ok(())
        }
        VaultCommand::Rotate(VaultKeeper { database_url, vault }) => {
            let keys = VaultKeys::open(&vault.into())?;
            let app = pool::open(database_url.expose_secret(), 1)?;
            let tally = rotation::rotate(&app, &keys).await?;
            println!("Sealed {} data keys anew.", tally.good);
            tally.is_whole()
        }
        VaultCommand::Verify(keeper) => verify(keeper).await,
    }
}

/// Opens all that there is, and shows nothing of it.
async fn verify(VaultKeeper { database_url, vault }: VaultKeeper) -> anyhow::Result<()> {
    let vault = Vault::open(&vault.into())?;
    let app = pool::open(database_url.expose_secret(), 1)?;
    let (mut keys, mut behind) = (Tally::default(), Uuid::nil());
    let (mut good, mut bad) = (0_u64, 0_u64);
    while let Some(merchants) = rotation::merchants(&app, &mut behind).await? {
        for merchant in merchants {
            keys.counts(rotation::verify_one(&app, vault.keys(), merchant).await?);
            let mut sql = pool::begin_of(&app, merchant).await?;
            for found in sealed(&mut sql, merchant).await.map_err(Error::into_anyhow)? {
                match vault.unseal(&mut sql, merchant, found.place(), &found.sealed).await {
                    Ok(_) => good += 1,
                    Err(_) => {
                        // The log does not name each.
                        eprintln!(
                            "{} of {}, row {:?} of {merchant}, does not open",
                            found.column, found.table, found.row
                        );
                        bad += 1;
                    }
                }
            }
            sql.commit().await?;
        }
    }
    println!("{} data keys and {good} secrets open.", keys.good);
    keys.is_whole()?;
    ensure!(bad == 0, "{bad} secrets do not open");
    Ok(())
}

async fn sealed(sql: &mut PgConnection, merchant: MerchantId) -> Result<Vec<Found>> {
    let mut all = secrets::sealed(sql, merchant).await?;
    all.extend(devices::sealed(sql, merchant).await?);
    all.extend(accounts::sealed(sql, merchant).await?);
    Ok(all)
}
