//! Chooses a role and runs it.

use clap::Parser;
use tillwire::config::{Config, Role};
use tillwire::{identity, roles, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    identity::tokens::install_crypto();
    telemetry::log(&config.log, config.log_json)?;
    match config.role {
        Role::Serve(node) => roles::serve::run(node).await,
        Role::Migrate(migrate) => roles::migrate::run(migrate).await,
        Role::Token(token) => roles::token::run(token),
        Role::Journal(journal) => roles::journal::run(journal).await,
    }
}
