//! The fault proof, in its long form: a hub of many processes is broken for as long as one likes, while tills sell and
//! screens listen, and every screen's record is compared with the journal.
//!
//! A run is several rounds, each of a seed of its own: whatever goes wrong in one is replayed alone, in minutes.

mod server;
mod stage;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tillwire_nemesis::round::{Progress, Size, play};
use tillwire_nemesis::schedule::Tempo;

use crate::run::{Named, Run};
use summary::Summary;

/// A round is this long: its records have to fit into memory, and a replay into somebody's patience.
const ROUND_MINUTES: u64 = 3;
/// Longer than time-outs: of heartbeats (22 s here), of a write (25 s), of brokers.
const LONGEST: Duration = Duration::from_secs(40);
const QUIET: Duration = Duration::from_secs(2);
/// Every till of a shop has its register.
const TILLS_PER_SHOP: u64 = 4;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// What happens when. Each round has the next one.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// How long it goes on: in whole rounds of three minutes, or one that is shorter.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub minutes: u64,

    /// On a Redis Cluster of three masters and a RabbitMQ of three nodes, instead of one of each.
    #[arg(long)]
    pub cluster: bool,

    /// The hub to break, instead of the one that is compiled beside this tool.
    #[arg(long)]
    pub tillwire: Option<PathBuf>,

    /// An older version of it, for its migrations are not run: restarts alternate between the two, as in a rolling upgrade
    /// that never ends.
    #[arg(long)]
    pub other_binary: Option<PathBuf>,

    /// Nothing but restarts: every node is told to go and started again, one after the other, over and over.
    #[arg(long)]
    pub rolling: bool,

    /// How many screens each shop has.
    #[arg(long, default_value_t = 33, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub screens: u64,

    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=50))]
    pub shops: u64,

    /// How many things the tills do in a second, all together, while nothing is broken.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub rate: u64,

    /// How many of someone else's clients are there as well: `socket.io-client` on Node.js.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=50))]
    pub guests: u64,

    /// Where schedule, history and findings are written, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// Plays it. An error also if anything was found.
pub async fn run(options: &Options) -> Result<()> {
    let run = Run::begin(Named { tillwire: options.tillwire.as_deref(), simulators: None }, 0)?;
    let outcome = play_all(options, &run).await;
    if outcome.as_ref().is_ok_and(|summary| summary.findings() > 0) {
        keep_logs(&run, options)?;
    }
    run.end()?;
    let summary = outcome?;
    println!("{summary}");
    let found = summary.findings();
    ensure!(found == 0, "{found} findings; {}", options.how_to_replay(&summary));
    Ok(())
}

async fn play_all(options: &Options, run: &Run) -> Result<Summary> {
    let rounds = options.minutes.div_ceil(ROUND_MINUTES);
    let length = Duration::from_secs(60 * options.round_minutes());
    let tempo = Tempo { length, longest: LONGEST, quiet: QUIET };
    let pause = Duration::from_secs_f64((options.shops * TILLS_PER_SHOP) as f64 / options.rate as f64);
    let size = Size { tempo, rolling: options.rolling, screens: usize::try_from(options.screens)?, pause };
    let style = ProgressStyle::with_template("{prefix} {msg} [{bar:30}] {pos}/{len} s")?;
    let bar = ProgressBar::new(length.as_secs() * rounds).with_style(style);

    let house = stage::open(run, options).await?;
    let (mint, read) = (house.mint(), house.read());
    let mut stage = house.stage(&mint, &read).await?;
    let mut summary = Summary::new(options, house.versions());
    for (number, seed) in (0..rounds).zip(options.seed..) {
        bar.set_prefix(format!("seed {seed}"));
        let began = length.as_secs() * number;
        let progress = Progress {
            stage: &|name| bar.set_message(name.to_owned()),
            step: &|step| {
                bar.set_message(format!("{} {}", step.target, step.fault.kind()));
                bar.set_position(began + step.at.as_secs());
            },
        };
        let guests = house.guests(&stage, options.guests, seed).await?;
        let told =
            play(&mut stage, seed, size, Some(guests), &progress).await.with_context(|| format!("seed {seed}"))?;
        bar.suspend(|| eprintln!("{}", summary::line(&told)));
        summary.take(told, options)?;
        if let Some(json) = &options.json {
            std::fs::write(json, serde_json::to_vec_pretty(&summary)?).context("writing the JSON")?;
        }
    }
    bar.finish_and_clear();
    Ok(summary)
}

/// The run's folder goes; what its nodes logged is needed to understand a finding.
fn keep_logs(run: &Run, options: &Options) -> Result<()> {
    let to = options.evidence()?;
    for folder in
        std::fs::read_dir(&run.dir)?.flatten().filter(|it| it.file_name().to_string_lossy().starts_with("hub"))
    {
        for log in std::fs::read_dir(folder.path())?.flatten() {
            std::fs::copy(log.path(), to.join(log.file_name()))?;
        }
    }
    Ok(())
}

impl Options {
    /// A folder for what findings are about.
    fn evidence(&self) -> Result<PathBuf> {
        let folder = PathBuf::from(format!("faults-{}", self.seed));
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(folder)
    }

    fn round_minutes(&self) -> u64 {
        self.minutes.min(ROUND_MINUTES)
    }

    fn how_to_replay(&self, summary: &Summary) -> String {
        let Self { shops, screens, rate, guests, .. } = self;
        let minutes = self.round_minutes();
        let mut flags =
            format!("--minutes {minutes} --shops {shops} --screens {screens} --rate {rate} --guests {guests}");
        if self.rolling {
            flags += " --rolling";
        }
        if self.cluster {
            flags += " --cluster";
        }
        if let Some(other) = &self.other_binary {
            flags += &format!(" --other-binary {}", other.display());
        }
        let seeds: Vec<String> = summary.failed().map(|seed| format!("faults --seed {seed} {flags}")).collect();
        format!("records and logs are in faults-{}; again with {}", self.seed, seeds.join("; "))
    }
}
