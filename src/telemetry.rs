//! Telemetry: logs to standard error, metrics for Prometheus.

mod process;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Upper bounds of a histogram's buckets, in seconds, where nothing else is said: for what a person waits for.
const SECONDS_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// For one step of an entry's way: tens of microseconds in one process, tens of seconds to a screen that hardly reads.
const STEP_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];
/// For a gap: an entry is a moment late, or is read in the journal, or the journal does not answer.
const GAP_BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// For a replay: a few entries from memory, or a week's at a kilobyte a second.
const REPLAY_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0];

/// The metrics that have buckets of their own.
const BUCKETS: &[(&str, &[f64])] = &[
    ("tillwire_bus_commit_to_publish_seconds", STEP_BUCKETS),
    ("tillwire_bus_publish_to_feed_seconds", STEP_BUCKETS),
    ("tillwire_gateway_feed_to_socket_seconds", STEP_BUCKETS),
    ("tillwire_gateway_gap_seconds", GAP_BUCKETS),
    ("tillwire_gateway_heal_seconds", GAP_BUCKETS),
    ("tillwire_gateway_replay_seconds", REPLAY_BUCKETS),
];

/// How often what the histograms were told is put into their buckets. Until then each value is kept, and who asks for the
/// metrics may never come.
const SORT_EVERY: Duration = Duration::from_secs(5);

/// What is only logged when asked for by name: lapin reports as an error each attempt at a broker that is away, which
/// the bus has said once already, and the verifier of certificates whatever a stranger's server shows.
const QUIET: &str = "lapin=off,rustls_platform_verifier=off";

/// Sends what is logged to standard error.
pub fn log(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).context("--log")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    done.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

/// Collects metrics from now on.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let mut builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?;
    for (metric, buckets) in BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Full((*metric).to_owned()), buckets)?;
    }
    let metrics = builder.install_recorder().context("collecting metrics")?;
    process::introduce();
    Ok(metrics)
}

/// Keeps what is collected small, until `stop`.
pub async fn sort(metrics: PrometheusHandle, stop: CancellationToken) {
    let mut pace = tokio::time::interval(SORT_EVERY);
    while stop.run_until_cancelled(pace.tick()).await.is_some() {
        metrics.run_upkeep();
    }
}

/// Everything that was collected, as Prometheus reads it.
pub fn told(metrics: &PrometheusHandle) -> String {
    process::measure();
    metrics.render()
}
