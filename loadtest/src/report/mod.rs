//! What a run found, as JSON and as a page.

mod html;
pub mod machine;
mod table;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::crew::Outcome;
use crate::sample::{self, Usage};
use crate::subject::Watched;
use machine::{Machine, Versions};

#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub versions: Versions,
    pub results: Vec<Measured>,
}

/// One subject in one scenario. A message is one message delivered to one screen.
#[derive(Debug, Serialize)]
pub struct Measured {
    pub subject: String,
    pub scenario: String,
    pub screens: usize,
    pub messages: u64,
    pub messages_per_s: f64,
    /// Of every process of the subject, databases and brokers included; null where no message was what it was about.
    pub server_cpu_us_per_message: Option<f64>,
    /// What the processes that hold screens grew by, for each screen.
    pub rss_bytes_per_screen: f64,
    pub latency_us: Quantiles,
    pub lost: u64,
    pub repeated: u64,
    pub reordered: u64,
    /// From a screen's first byte until it is live.
    pub entry_us: Quantiles,
    /// Screens that the server cut off.
    pub cut: u64,
    pub seconds: f64,
    pub processes: Vec<ProcessCost>,
    /// What only this scenario has.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Quantiles {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

#[derive(Debug, Serialize)]
pub struct ProcessCost {
    pub name: String,
    /// Whether it holds screens.
    pub front: bool,
    /// While it was measured.
    pub cpu_ms: u64,
    pub rss_bytes: u64,
}

/// What the processes had cost at some moment.
#[derive(Clone, Debug)]
pub struct Bill(Vec<Usage>);

impl Bill {
    pub fn of(watched: &[Watched]) -> Result<Self> {
        let pids: Vec<u32> = watched.iter().map(|it| it.pid).collect();
        Ok(Self(sample::usage(&pids)?))
    }

    /// Memory of those who hold screens.
    pub fn front_rss(&self, watched: &[Watched]) -> u64 {
        watched.iter().zip(&self.0).filter(|(it, _)| it.front).map(|(_, usage)| usage.rss_bytes).sum()
    }

    /// What each process has used since then.
    pub fn since(&self, before: &Bill, watched: &[Watched]) -> Vec<ProcessCost> {
        let spent = self.0.iter().zip(&before.0).zip(watched);
        spent
            .map(|((now, then), it)| ProcessCost {
                name: it.name.clone(),
                front: it.front,
                cpu_ms: now.cpu.saturating_sub(then.cpu).as_millis() as u64, // Years would fit.
                rss_bytes: now.rss_bytes,
            })
            .collect()
    }
}

/// What a scenario hands in.
pub struct Found<'a> {
    pub subject: String,
    pub scenario: &'a str,
    pub screens: usize,
    /// Deliveries while the clock of the bill ran.
    pub messages: u64,
    pub took: Duration,
    pub watched: &'a [Watched],
    /// Before the first screen came, when they all were there, when measuring began and when it ended.
    pub bills: [&'a Bill; 4],
    pub outcome: &'a Outcome,
}

impl Found<'_> {
    pub fn measured(self) -> Measured {
        let [empty, full, began, ended] = self.bills;
        let processes = ended.since(began, self.watched);
        let cpu_ms: u64 = processes.iter().map(|it| it.cpu_ms).sum();
        let grown = full.front_rss(self.watched).saturating_sub(empty.front_rss(self.watched));
        let sum = &self.outcome.sum;
        Measured {
            subject: self.subject,
            scenario: self.scenario.to_owned(),
            screens: self.screens,
            messages: self.messages,
            messages_per_s: rounded(self.messages as f64 / self.took.as_secs_f64()),
            server_cpu_us_per_message: (self.messages > 0)
                .then(|| rounded(cpu_ms as f64 * 1_000.0 / self.messages as f64)),
            rss_bytes_per_screen: rounded(grown as f64 / self.screens as f64),
            latency_us: Quantiles::of(&self.outcome.latency),
            lost: sum.lost,
            repeated: sum.repeated,
            reordered: sum.reordered,
            entry_us: Quantiles::of(&self.outcome.entry),
            cut: sum.cut,
            seconds: rounded(self.took.as_secs_f64()),
            processes,
            more: serde_json::Map::new(),
        }
    }
}

/// To two decimals: more would be noise.
fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

impl Measured {
    /// Adds what only this scenario has.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Result<Self> {
        self.more.insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(self)
    }

    /// A line for the terminal.
    pub fn line(&self) -> String {
        let cpu = self.server_cpu_us_per_message.map_or("–".to_owned(), |cpu| format!("{cpu:.2}"));
        let Quantiles { p50, p99, p999, max } = self.latency_us;
        format!(
            "{:<18} {:>9.0} msg/s {cpu:>7} µs CPU/msg {:>7.0} B/screen  p50 {p50} p99 {p99} p99.9 {p999} max {max} µs  \
             lost {} repeated {} reordered {}",
            self.subject, self.messages_per_s, self.rss_bytes_per_screen, self.lost, self.repeated, self.reordered
        )
    }
}

impl Report {
    /// Writes what there is, wherever it is wanted.
    pub fn write(&self, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
        if let Some(path) = json {
            self.write_json(path)?;
        }
        if let Some(path) = html {
            self.write_html(path)?;
        }
        Ok(())
    }

    fn write_json(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, json).with_context(|| format!("writing {} (--json)", path.display()))
    }
}
