//! `tillwire migrate`: brings the database's schema up to date.

use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::migrate::Migrator;
use tracing::info;

use crate::config::Migrate;
use crate::journal::pool;

/// The files of `migrations/`, as they were when this binary was built.
pub static MIGRATOR: Migrator = sqlx::migrate!();

pub async fn run(config: Migrate) -> anyhow::Result<()> {
    up(config.migrate_database_url.expose_secret()).await?;
    info!("The schema is up to date");
    Ok(())
}

/// Applies what is missing, as the owner. Two that do it at the same time take turns.
pub async fn up(owner_url: &str) -> anyhow::Result<()> {
    let pool = pool::open_for_owner(owner_url)?;
    let outcome = MIGRATOR.run(&pool).await.context("migrating the database");
    pool.close().await;
    outcome
}
