//! Scenarios: what screens and tills do, and what is taken down of it.

mod churn;
mod fanout;
mod idle;
mod probe;
mod relay;
mod resume_storm;
mod sale_to_screen;
mod sales;
pub mod shop;
mod slow_readers;
mod webhook_to_screen;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;

use crate::report::machine::{Machine, Versions};
use crate::report::{Measured, Report};
use crate::run::{Named, Run};
use crate::stamps::Stamps;
use crate::subject::{Running, Subject};

/// How long screens may take to become live.
const LIVE_MAX: Duration = Duration::from_secs(120);
/// How long the last messages are waited for; what has not come by then is lost.
const LAST_MAX: Duration = Duration::from_secs(15);
/// How many shops there are, unless it is said.
const MERCHANTS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Every message to every screen, as fast as they are taken: so many are under way and never more.
    Fanout,
    /// Every message to every screen, one at a time at a steady pace.
    Paced,
    /// Screens that hear nothing: what they cost in memory and time, then whether they are still there.
    Idle,
    /// Screens that come back all at once, to another node than they left, and have missed something.
    ResumeStorm,
    /// A few screens that read a kilobyte a second beside many that keep up.
    SlowReaders,
    /// Screens that leave and others that come for them, while messages are sent at a steady pace.
    Churn,
    /// Sales at the tills of many shops, from COMMIT to what their screens have parsed.
    SaleToScreen,
    /// Sales by REST, as fast as tills that wait for their answers can sell.
    Sales,
    /// Entries from journals through the relay and a queue of RabbitMQ: a backlog, then at a steady pace.
    Relay,
    /// Payments by QRIS, from the customer's app through the provider's webhook to what the cashier's screen has parsed.
    WebhookToScreen,
    /// All of these, one after the other, and then a table of what they found.
    All,
}

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Where the results are written, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// Where they are written as a page with plots, which loads nothing.
    #[arg(long)]
    pub html: Option<PathBuf>,

    /// Whom to measure, comma-separated; by default everyone whom the scenario is for.
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<Subject>,

    /// The hub to measure, instead of the one that is compiled beside this tool.
    #[arg(long)]
    pub tillwire: Option<PathBuf>,

    /// The simulated payment providers, instead of those that are compiled beside this tool.
    #[arg(long)]
    pub simulators: Option<PathBuf>,

    /// How many screens; by default 500, 1,000 beside slow ones, 5,000 in a storm, and 20,000 for `idle`.
    #[arg(long, value_parser = positive)]
    pub screens: Option<usize>,

    /// How many times everything is measured. Tables show the medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// How many seconds are measured.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,

    /// How many bytes a message's data has.
    #[arg(long, default_value_t = 100, value_parser = payload_bytes)]
    pub bytes: usize,

    /// How many messages to each screen are under way at most, for `fanout`. A stock socketioxide drops beyond 128.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=1_024))]
    pub window: u64,

    /// How many messages a second, for `paced`, `churn` and `slow-readers`.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub rate: u64,

    /// How many messages each screen has missed, for `resume-storm`.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub missed: u64,

    /// How many new screens a second the hub lets in, for `resume-storm`: the next is told to come back later, and does. By
    /// default it lets in all.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub handshakes_per_second: u32,

    /// How many screens read slowly, for `slow-readers`.
    #[arg(long, default_value_t = 10, value_parser = positive)]
    pub slow: usize,

    /// How many bytes a second those read.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub slow_bytes: u32,

    /// How many screens a second leave and come, for `churn`; by default a tenth of them.
    #[arg(long)]
    pub turnover: Option<u32>,

    /// How many sales a second, for `sale-to-screen`; entries for `relay`.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub sales_per_second: u64,

    /// How many payments a second, for `webhook-to-screen`: as long as is measured, but for 300 seconds and 9,000 payments at
    /// most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=500))]
    pub payments_per_second: u64,

    /// How often each of their webhooks is told at once, for `webhook-to-screen`: 500 webhooks a second for a minute are
    /// `--seconds 60 --payments-per-second 50 --told 10`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub told: u32,

    /// How many shops they are spread over; by default 20, and for `webhook-to-screen` one for every ten payments, since providers
    /// take only so many calls for each. For `sale-to-screen` each has 50 screens, or its part of `--screens`.
    #[arg(long, value_parser = positive)]
    pub merchants: Option<usize>,

    /// How many entries wait for the relay, for `relay`.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(100..=2_000_000))]
    pub entries: u64,

    /// How many tills sell at once, for `sales`, each in a shop of its own.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=150))]
    pub tills: u16,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=200_000) => Ok(number),
        _ => Err("a number from 1 to 200000".to_owned()),
    }
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 30..=16_384) => Ok(number),
        _ => Err("a number from 30 to 16384".to_owned()),
    }
}

impl Scenario {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it consists of.
    fn parts(self) -> Vec<Self> {
        match self {
            Self::All => Self::value_variants().iter().copied().filter(|it| *it != Self::All).collect(),
            one => vec![one],
        }
    }

    /// Who of those that were asked for takes part. Where it is one part of all, others are passed over.
    fn subjects_of(self, options: &Options, is_part: bool) -> Result<Vec<Subject>> {
        let (own, asked) = (self.subjects(), &options.subjects);
        let stranger = asked.iter().find(|it| !own.contains(it) && !is_part);
        ensure!(stranger.is_none(), "{} is not for {}", self.name(), stranger.map(|it| it.name()).unwrap_or_default());
        Ok(own.into_iter().filter(|it| asked.is_empty() || asked.contains(it)).collect())
    }

    /// Whom it is for.
    fn subjects(self) -> Vec<Subject> {
        match self {
            Self::SaleToScreen => vec![Subject::Tillwire, Subject::NodeApp],
            Self::Sales => vec![Subject::Pgbench, Subject::Tillwire],
            Self::Relay => vec![Subject::BarePublish, Subject::Tillwire],
            Self::WebhookToScreen => vec![Subject::BareWebhook, Subject::Tillwire],
            // Nobody else keeps a journal to come back to.
            Self::ResumeStorm => vec![Subject::Tillwire],
            _ => Subject::value_variants().iter().copied().filter(|it| it.holds_screens()).collect(),
        }
    }
}

/// Runs a scenario with one subject after the other, each on fresh processes.
pub async fn run(scenario: Scenario, options: &Options) -> Result<()> {
    let mut report = Report { machine: Machine::look(), versions: Versions::ask().await, results: Vec::new() };
    let named = Named { tillwire: options.tillwire.as_deref(), simulators: options.simulators.as_deref() };
    let run = Run::begin(named, options.handshakes_per_second)?;
    for _ in 0..options.runs {
        for part in scenario.parts() {
            println!("{}", part.name());
            for subject in part.subjects_of(options, scenario == Scenario::All)? {
                let stage = Stage { run: &run, options, scenario: part.name(), subject };
                let measured = measure(part, &stage).await;
                let measured = measured.with_context(|| format!("{} with {}", part.name(), subject.name()))?;
                println!("{}", measured.line());
                report.results.push(measured);
                // What was measured so far is kept if the next subject fails.
                report.write(options.json.as_deref(), options.html.as_deref())?;
            }
        }
    }
    if scenario == Scenario::All || options.runs > 1 {
        println!("{}", report.table());
    }
    run.end()
}

async fn measure(scenario: Scenario, stage: &Stage<'_>) -> Result<Measured> {
    match scenario {
        Scenario::Fanout => fanout::flat_out(stage).await,
        Scenario::Paced => fanout::paced(stage).await,
        Scenario::Idle => idle::run(stage).await,
        Scenario::ResumeStorm => resume_storm::run(stage).await,
        Scenario::SlowReaders => slow_readers::run(stage).await,
        Scenario::Churn => churn::run(stage).await,
        Scenario::SaleToScreen => sale_to_screen::run(stage).await,
        Scenario::Sales => sales::run(stage).await,
        Scenario::Relay => relay::run(stage).await,
        Scenario::WebhookToScreen => webhook_to_screen::run(stage).await,
        Scenario::All => bail!("it is measured part by part"),
    }
}

/// Where a subject is measured.
struct Stage<'a> {
    run: &'a Run,
    options: &'a Options,
    scenario: String,
    subject: Subject,
}

impl Stage<'_> {
    fn screens(&self, default: usize) -> usize {
        self.options.screens.unwrap_or(default)
    }

    /// How many shops there are, where nothing else decides it.
    fn merchants(&self) -> usize {
        self.options.merchants.unwrap_or(MERCHANTS)
    }

    fn stamps(&self) -> PathBuf {
        self.run.dir.join("stamps")
    }

    /// A bar that says what is being done; only where somebody watches.
    fn bar(&self, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix} {msg} [{bar:30}] {pos}/{len} {elapsed}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(total).with_style(style).with_prefix(self.subject.name())
    }
}

/// Sends one message at a time, at the pace that was asked for. Answers the number after the last.
async fn send_steadily(
    stage: &Stage<'_>,
    running: &mut Running,
    stamps: &Stamps,
    mut next: u64,
    length: Duration,
    bar: &ProgressBar,
) -> Result<u64> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(stage.options.rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    while began.elapsed() < length {
        ticks.tick().await;
        running.send(next..next + 1, stage.options.bytes, stamps).await?;
        next += 1;
        bar.set_position(began.elapsed().as_secs());
    }
    Ok(next)
}
