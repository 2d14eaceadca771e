//! `tillwire-loadtest`: simulated tills and screens, and the servers that Tillwire is compared with.
//!
//! One driver starts a subject as its own processes, then client processes that hold the screens, and tells the subject
//! what to send. All subjects meet the same clients. What each server process costs is read from `/proc`.

mod client;
mod faults;
mod numbered;
mod report;
mod run;
mod sample;
mod scenario;
mod stamps;
mod subject;
mod websocket;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use scenario::{Options, Scenario};

/// Measures Tillwire and its peers with the same clients: `tillwire-loadtest fanout --json fanout.json`.
#[derive(Debug, Parser)]
#[command(name = "tillwire-loadtest", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,

    /// What is measured.
    #[arg(value_enum, required = true)]
    scenario: Option<Scenario>,

    #[command(flatten)]
    options: Options,
}

/// What else it does, and what it starts itself as.
#[derive(Debug, Subcommand)]
enum Part {
    /// Breaks a hub and everything under it for a while, and proves that nobody lost anything: `faults --seed 7`.
    Faults(faults::Options),
    /// Holds screens.
    #[command(hide = true)]
    Client,
    /// Is a floor.
    #[command(hide = true)]
    Bare {
        #[arg(long)]
        coalesce: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.part {
        Some(Part::Client) => client::run(),
        Some(Part::Bare { coalesce }) => subject::bare::run(coalesce),
        Some(Part::Faults(options)) => until_interrupted(faults::run(&options)),
        None => measure(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tillwire-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: Arguments) -> Result<()> {
    let scenario = arguments.scenario.context("a scenario")?;
    until_interrupted(scenario::run(scenario, &arguments.options))
}

fn until_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}
