//! Chooses a role and runs it.

use std::process::ExitCode;

use clap::Parser;
use tillwire::config::{Config, Role};
use tillwire::node::Faces;
use tillwire::{identity, roles, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    match run(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tillwire: {error:#}"); // The whole chain in a line.
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    identity::tokens::install_crypto();
    telemetry::log(config.log(), config.log_json)?;
    match config.role {
        Role::Serve(node) => roles::serve::run(node, Faces::ALL).await,
        Role::Api(node) => roles::serve::run(node, Faces::API).await,
        Role::Gateway(node) => roles::serve::run(node, Faces::GATEWAY).await,
        Role::Worker(node) => roles::serve::run(node, Faces::WORKER).await,
        Role::Demo(demo) => roles::demo::run(demo).await,
        Role::Migrate(migrate) => roles::migrate::run(migrate).await,
        Role::Doctor(doctor) => roles::doctor::run(doctor).await,
        Role::Tail(tail) => roles::tail::run(tail).await,
        Role::Token(token) => roles::token::run(token),
        Role::Vault(vault) => roles::vault::run(vault).await,
        Role::Jobs(jobs) => roles::jobs::run(jobs).await,
        Role::Journal(journal) => roles::journal::run(journal).await,
        Role::Queues(queues) => roles::queues::run(queues).await,
    }
}
