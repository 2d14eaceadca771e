//! Telemetry: logs to standard error, metrics for Prometheus.

use std::io::IsTerminal;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Upper bounds of the histograms' buckets, in seconds.
const SECONDS_BUCKETS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What is only logged when asked for by name: lapin reports as an error each attempt at a broker that is away, which
/// the bus has said once already.
const QUIET: &str = "lapin=off";

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
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .install_recorder()
        .context("collecting metrics")
}
