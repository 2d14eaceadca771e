//! The schema of the database: the migrations that this binary was built with.

use anyhow::Context;
use sqlx::migrate::Migrator;

use crate::journal::pool;

/// The files of `migrations/`, as they were when this binary was built.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// Applies what is missing, as the owner. Two that do it at the same time take turns.
pub async fn up(owner_url: &str) -> anyhow::Result<()> {
    let pool = pool::open_for_owner(owner_url)?;
    let outcome = MIGRATOR.run(&pool).await.context("migrating the database");
    pool.close().await;
    outcome
}
