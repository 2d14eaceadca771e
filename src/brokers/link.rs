//! A link: one connection to a broker, made anew whenever it breaks. It is told once when it breaks and once when it is
//! back, however often it was tried in between.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Context;
use metrics::Label;
use tracing::{debug, info, warn};

/// How long making a connection may take, from the first packet to all that was declared.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a broker may take to answer before its connection counts as broken. A half-open connection never answers.
pub const ANSWER_MAX: Duration = Duration::from_secs(3);
/// How often a link is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long to wait after the first failure; doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is known of one connection over its lives.
pub struct Link {
    pub bus: &'static str,
    /// What it is for.
    task: &'static str,
    /// The broker in words: a node of a cluster with its address.
    broker: String,
    labels: Vec<Label>,
    /// One of several that come and go with the nodes of a cluster.
    is_passing: bool,
    failures: u32,
    up_since: Option<Instant>,
    down_since: Option<Instant>,
}

impl Link {
    pub fn new(bus: &'static str, task: &'static str) -> Self {
        Self::with(bus, task, None)
    }

    /// A link to one node of a cluster.
    pub fn to_node(bus: &'static str, task: &'static str, node: String) -> Self {
        Self::with(bus, task, Some(node))
    }

    fn with(bus: &'static str, task: &'static str, node: Option<String>) -> Self {
        let mut labels = vec![Label::new("bus", bus), Label::new("task", task)];
        let is_passing = node.is_some();
        let broker = node.as_ref().map_or_else(|| bus.to_owned(), |node| format!("{bus} at {node}"));
        labels.extend(node.map(|node| Label::new("node", node)));
        let link = Self { bus, task, broker, labels, is_passing, failures: 0, up_since: None, down_since: None };
        link.show(0.0);
        link
    }

    /// It works.
    pub fn is_up(&mut self) {
        let Self { bus, task, broker, .. } = self;
        match self.down_since.take() {
            None => info!(bus, "Connected to {broker} for {task}"),
            Some(since) => info!(bus, "Connected to {broker} for {task} again, after {:.1?}", since.elapsed()),
        }
        self.up_since = Some(Instant::now());
        self.show(1.0);
    }

    /// It could not be made, or broke. Answers how long to wait before the next attempt.
    pub fn is_down(&mut self, error: &anyhow::Error) -> Duration {
        let Self { bus, task, broker, .. } = self;
        match (self.down_since, self.up_since.take()) {
            (Some(_), _) => debug!(bus, "Still without {broker} for {task}: {error:#}"),
            (None, None) => warn!(bus, "Cannot reach {broker} for {task}, and goes on trying: {error:#}"),
            // One that breaks as soon as it is made keeps its place on the ladder.
            (None, Some(since)) => {
                if since.elapsed() > BACKOFF_MAX {
                    self.failures = 0;
                }
                warn!(bus, "Lost {broker} for {task}, and goes on trying: {error:#}");
            }
        }
        self.down_since.get_or_insert_with(Instant::now);
        self.show(0.0);
        metrics::counter!("tillwire_bus_reconnects_total", self.labels.iter()).increment(1);
        self.failures = self.failures.saturating_add(1);
        backoff(self.failures)
    }

    /// What tells its broker from others in a metric.
    pub fn broker_labels(&self) -> impl Iterator<Item = &Label> {
        self.labels.iter().filter(|label| label.key() != "task")
    }

    fn show(&self, up: f64) {
        metrics::gauge!("tillwire_bus_up", self.labels.iter()).set(up);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A node that has left its cluster is not down, and no alarm should wait for it.
        self.show(if self.is_passing { f64::NAN } else { 0.0 });
    }
}

/// How long to wait after so many failures in a row. Half of it is chance, so that the nodes of a fleet do not come back
/// to a broker all at once.
fn backoff(failures: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures - 1));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// What the broker answers, within [`ANSWER_MAX`].
pub async fn answered<T, E>(question: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    within(ANSWER_MAX, question).await
}

/// The same within a time of its own.
pub async fn within<T, E>(max: Duration, question: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let answer = tokio::time::timeout(max, question).await;
    Ok(answer.with_context(|| format!("no answer within {max:?}"))??)
}

/// Pings until there is no answer.
pub async fn watch<F>(ping: impl Fn() -> F) -> anyhow::Result<Infallible>
where
    F: Future<Output = anyhow::Result<()>>,
{
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        answered(ping()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_and_longer_but_never_too_long() {
        assert!(backoff(1) >= BACKOFF_MIN / 2 && backoff(1) <= BACKOFF_MIN);
        assert!(backoff(4) >= BACKOFF_MIN * 4 && backoff(4) <= BACKOFF_MIN * 8);
        for failures in [10, 100, u32::MAX] {
            assert!(backoff(failures) >= BACKOFF_MAX / 2 && backoff(failures) <= BACKOFF_MAX);
        }
    }

    #[test]
    fn a_link_that_breaks_as_soon_as_it_is_made_is_not_tried_faster() {
        let mut link = Link::new("test", "publishing");
        let error = anyhow::anyhow!("away");
        for _ in 0..20 {
            link.is_up();
            link.is_down(&error);
        }
        assert!(link.is_down(&error) >= BACKOFF_MAX / 2);
    }
}
