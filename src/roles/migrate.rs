//! `tillwire migrate`: brings the database's schema up to date.

use secrecy::ExposeSecret;
use tracing::info;

use crate::config::Migrate;
use crate::schema;

pub async fn run(config: Migrate) -> anyhow::Result<()> {
    schema::up(config.migrate_database_url.expose_secret()).await?;
    info!("The schema is up to date");
    Ok(())
}
