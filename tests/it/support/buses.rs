//! Buses without a hub around them: nodes that only carry, shops whose journal only grows, and what both count and log.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use secrecy::SecretString;
use serde_json::json;
use tillwire::bus::{Brokers, Buses, Carried, Doors};
use tillwire::journal::{Committed, Entry, chain};
use tillwire_channels::{MerchantId, Moment, Tag};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics;
use super::services::{Proxy, RabbitMq, Redis};

/// How long a fact is waited for. Only a fault takes as long.
pub const FACT_MAX: Duration = Duration::from_secs(90);
/// How long to wait before looking, or saying something, again.
pub const AGAIN: Duration = Duration::from_millis(50);
/// Less than the time after which a bus gives up on a broker by itself.
const PROMPT: Duration = Duration::from_secs(3);
pub const BUSES: [&str; 2] = ["redis", "rabbitmq"];
pub const TASKS: [&str; 2] = ["publishing", "listening"];

/// One node's buses.
pub struct Node {
    pub doors: Doors,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Node {
    pub fn on(brokers: &Brokers) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut buses, doors) = Buses::new(tasks.clone(), stop.clone());
        buses.connect(brokers).unwrap();
        buses.open();
        Self { doors, tasks, stop }
    }

    /// A node that listens to this merchant.
    pub fn listening(brokers: &Brokers, merchant: MerchantId) -> Self {
        let node = Self::on(brokers);
        node.doors.gateway.interest.begin(merchant);
        node
    }

    pub async fn announce(&self, entry: &Arc<Entry>) {
        let committed = Committed::now(entry.clone());
        timeout(FACT_MAX, self.doors.announce.send(committed)).await.expect("announcing waits for nobody").unwrap();
    }

    pub async fn hears(&mut self) -> Carried {
        timeout(FACT_MAX, self.doors.gateway.heard.recv()).await.expect("something to hear").unwrap()
    }

    /// Announces one entry after another until the other node hears one, and answers with that.
    pub async fn reaches(&self, other: &mut Node, shop: &mut Shop) -> Arc<Entry> {
        let reached = async {
            loop {
                self.announce(&shop.sells()).await;
                match timeout(AGAIN, other.doors.gateway.heard.recv()).await {
                    Ok(Some(Carried::Entry(entry))) if entry.merchant == shop.merchant => return entry.entry,
                    Ok(heard) => panic!("heard {heard:?}"),
                    Err(_) => {} // Not yet.
                }
            }
        };
        timeout(FACT_MAX, reached).await.expect("one node reaches the other")
    }

    /// Stops.
    pub async fn stops(self) {
        self.stops_within(FACT_MAX).await;
    }

    /// Stops without waiting for a broker, whatever it is doing.
    pub async fn stops_promptly(self) {
        self.stops_within(PROMPT).await;
    }

    async fn stops_within(self, max: Duration) {
        self.stop.cancel();
        self.tasks.close();
        timeout(max, self.tasks.wait()).await.expect("it stops in time");
    }
}

/// A merchant whose journal grows.
pub struct Shop {
    pub merchant: MerchantId,
    pub seq: u64,
    prev: Tag,
}

impl Shop {
    pub fn new() -> Self {
        Self::of(MerchantId::new())
    }

    pub fn of(merchant: MerchantId) -> Self {
        Self { merchant, seq: 0, prev: Tag::GENESIS }
    }

    pub fn sells(&mut self) -> Arc<Entry> {
        self.records(&json!([{ "sold": "croissant" }]).to_string())
    }

    pub fn records(&mut self, events: &str) -> Arc<Entry> {
        self.seq += 1;
        let tag = chain::tag(self.prev, self.merchant, self.seq, events);
        let at = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        let entry = Entry::new(self.merchant, self.seq, self.prev, tag, at, events.into());
        self.prev = tag;
        Arc::new(entry)
    }
}

pub fn redis(url: &str, prefix: &str) -> Brokers {
    Brokers { redis_url: Some(SecretString::from(url)), prefix: prefix.to_owned(), ..Default::default() }
}

pub fn rabbitmq(url: &str) -> Brokers {
    Brokers { amqp_url: Some(SecretString::from(url)), ..Default::default() }
}

/// The run's brokers, one after the other, with names of the test's own.
pub async fn each_shared() -> [(&'static str, Brokers); 2] {
    let (redis_server, rabbitmq_server) = tokio::join!(Redis::shared(), RabbitMq::shared());
    let vhost = rabbitmq_server.vhost().await;
    [
        ("redis", redis(&redis_server.url(), &redis_server.prefix())),
        ("rabbitmq", rabbitmq(&rabbitmq_server.url(&vhost))),
    ]
}

/// The same, each through a proxy.
pub async fn each_through_a_proxy() -> [(&'static str, Proxy, Brokers); 2] {
    let (redis_server, rabbitmq_server) = tokio::join!(Redis::shared(), RabbitMq::shared());
    let vhost = rabbitmq_server.vhost().await;
    let (near_redis, near_rabbitmq) = (Proxy::to(redis_server.port).await, Proxy::to(rabbitmq_server.port()).await);
    let redis = redis(&format!("redis://127.0.0.1:{}", near_redis.port), &redis_server.prefix());
    let rabbitmq = rabbitmq(&rabbitmq_server.url_through(near_rabbitmq.port, &vhost));
    [("redis", near_redis, redis), ("rabbitmq", near_rabbitmq, rabbitmq)]
}

/// Looks again and again until there is something to see.
pub async fn until<T>(looks: impl AsyncFn() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match looks().await {
                Some(seen) => return seen,
                None => sleep(AGAIN).await,
            }
        }
    };
    timeout(FACT_MAX, waiting).await.expect("a fact")
}

/// What the buses of this test count: its tasks all run on its own thread.
pub struct Counts {
    handle: PrometheusHandle,
    _guard: ::metrics::LocalRecorderGuard<'static>,
}

impl Counts {
    pub fn begin() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self { handle: recorder.handle(), _guard: ::metrics::set_default_local_recorder(recorder) }
    }

    /// The sum of a metric's series that have all these labels.
    pub fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.told(), name, labels)
    }

    /// All that is counted, as Prometheus would read it.
    pub fn told(&self) -> String {
        self.handle.render()
    }

    pub fn dropped(&self, bus: &str, reason: &str) -> f64 {
        self.of("tillwire_bus_dropped_total", &[("bus", bus), ("reason", reason)])
    }

    pub fn is_up(&self, bus: &str, task: &str) -> bool {
        self.of("tillwire_bus_up", &[("bus", bus), ("task", task)]) == 1.0
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                sleep(AGAIN).await;
            }
        };
        timeout(FACT_MAX, waiting).await.unwrap_or_else(|_| panic!("never: {what}\n{}", self.told()));
    }

    pub async fn until_up(&self, bus: &str) {
        self.until("up", |counts| TASKS.iter().all(|task| counts.is_up(bus, task))).await;
    }
}

/// What this test's tasks log.
pub struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub fn begin() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Lines(lines.clone());
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).with_env_filter("info");
        Self { lines, _guard: tracing::subscriber::set_default(subscriber.finish()) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.lines.lock().unwrap().clone()).unwrap()
    }

    pub fn count(&self, words: &str) -> usize {
        self.text().matches(words).count()
    }

    /// Each outage of so many links is told once: between two of them a link was connected.
    pub fn told_once(&self, link: &str, links: usize) {
        let outages = self.count(&format!("Cannot reach {link}")) + self.count(&format!("Lost {link}"));
        let connects = self.count(&format!("Connected to {link}"));
        assert!(outages >= links && outages <= connects + links, "{outages} {connects}\n{}", self.text());
    }
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
