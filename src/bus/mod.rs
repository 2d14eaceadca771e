//! Buses: carry entries between nodes, fast, and may lose, repeat and reorder them.
//!
//! Nothing relies on a bus. A feed takes an entry only if it is the next one, and reads the journal for what is missing;
//! a bus only makes it sooner. So a broker that is down is logged, counted and tried again, and never waited for: each
//! bus has a short queue of its own, and what does not fit is dropped.

pub mod check;
pub mod codec;
mod ear;
mod interest;
mod local;
mod moved;
mod pipeline;
mod queue;
mod rabbitmq;
mod redis;

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use secrecy::SecretString;
use tillwire_channels::{MerchantId, Moment, Tag};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::journal::{Committed, Entry};
pub use interest::Interest;
pub use moved::Moved;
pub use queue::Queue;

/// How many entries wait for one bus. At 500 sales a second it rides out a pause of two seconds.
const QUEUE_ENTRIES_MAX: usize = 1_024;
/// And how many bytes of them.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many entries wait between the journal and the buses, or between the buses and the feeds.
const HALL_ENTRIES_MAX: usize = 8_192;
/// And how many bytes of them wait for the feeds. What waits for the buses is only handed on.
const HALL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Above this size a bus carries only the position, and whoever hears it reads the journal.
pub const CARRIED_BYTES_MAX: usize = 64 * 1024;

/// A message that says it is older is of a node whose clock is wrong, or of somebody who makes it up.
const PASSED_MAX: Duration = Duration::from_secs(3_600);

/// How long a bus rests after it has followed a change of interest, so that a storm of changes is followed in batches.
const PASS_INTERVAL: Duration = Duration::from_millis(5);

/// What arrives by a bus.
#[derive(Clone, Debug)]
pub enum Carried {
    /// An entry, whole.
    Entry(Underway),
    /// There is an entry, too large to carry.
    Place { merchant: MerchantId, seq: u64, tag: Tag },
    /// A screen has come back, here or elsewhere.
    Claim(Claim),
}

/// An entry that is under way, and by what.
#[derive(Clone, Debug)]
pub struct Underway {
    pub entry: Arc<Entry>,
    way: Way,
    /// The room that it takes in a queue, given back with it.
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

/// From when the time of an entry that is under way is counted.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// It was committed in this process.
    Here { committed: Instant },
    /// Another process gave it to this bus, at this moment by its own clock, in microseconds since 1970. Nodes of an earlier
    /// version do not say when.
    By { bus: &'static str, published: Option<i64> },
}

impl From<Committed> for Underway {
    fn from(Committed { entry, at }: Committed) -> Self {
        Self { entry, way: Way::Here { committed: at }, _room: None }
    }
}

impl Deref for Underway {
    type Target = Arc<Entry>;

    fn deref(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Underway {
    /// A feed has it: takes down how long that took, by which bus.
    pub fn has_arrived(&self) {
        let (bus, took) = match self.way {
            Way::Here { committed } => ("local", committed.elapsed()),
            Way::By { bus, published: Some(at) } => (bus, since(at)),
            Way::By { published: None, .. } => return,
        };
        metrics::histogram!("tillwire_bus_publish_to_feed_seconds", "bus" => bus).record(took);
    }
}

/// Microseconds since 1970 by our own clock.
fn micros() -> i64 {
    i64::try_from(Moment::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// The time that has passed since another node's moment: by our clock, and no less than nothing.
fn since(micros_there: i64) -> Duration {
    let passed = u64::try_from(micros().saturating_sub(micros_there)).unwrap_or(0);
    Duration::from_micros(passed).min(PASSED_MAX)
}

/// A screen has come back: earlier connections of it are dead, wherever they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub merchant: MerchantId,
    /// The screen's public id.
    pub screen: String,
    /// The number of the connection that it has now. Earlier ones have smaller ones.
    pub epoch: i64,
}

impl Carried {
    pub fn merchant(&self) -> MerchantId {
        match self {
            Self::Entry(entry) => entry.merchant,
            Self::Place { merchant, .. } | Self::Claim(Claim { merchant, .. }) => *merchant,
        }
    }
}

/// A bus between processes.
pub trait Bus: Send + 'static {
    /// Its name in logs and metrics.
    const NAME: &'static str;

    /// Runs until `ends.stop`: publishes what comes out of `ends.outgoing`, hands what it hears to `ends.heard`, and
    /// listens to the merchants in `ends.interest`. It never ends before: a broker that is away is tried again.
    fn run(self, ends: Ends) -> impl Future<Output = ()> + Send;
}

/// A bus's two ends, and whom it listens to.
pub struct Ends {
    pub outgoing: mpsc::Receiver<Carried>,
    pub heard: Queue,
    pub interest: Arc<Interest>,
    pub stop: CancellationToken,
}

/// The brokers that a node carries its entries by: any set of them. Without one it is alone.
#[derive(Clone, Debug, Default)]
pub struct Brokers {
    /// One server, or nodes of a cluster.
    pub redis_url: Option<SecretString>,
    /// Whether it is a Redis Cluster.
    pub redis_cluster: bool,
    /// One server, or nodes of a cluster that are tried in turn.
    pub amqp_url: Option<SecretString>,
    /// A part of every name that is used at a broker, so that several hubs can share it.
    pub prefix: String,
}

/// The buses of a node.
pub struct Buses {
    announced: mpsc::Receiver<Committed>,
    claims: mpsc::Receiver<Claim>,
    outgoing: Vec<(&'static str, Queue)>,
    heard: Queue,
    moved: Vec<Arc<Moved>>,
    interest: Arc<Interest>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a node's rooms hold of its buses.
pub struct Doors {
    /// Where the journal announces what it committed.
    pub announce: mpsc::Sender<Committed>,
    pub gateway: GatewayDoors,
}

/// What a gateway holds of the buses.
pub struct GatewayDoors {
    /// What the feeds hear.
    pub heard: mpsc::Receiver<Carried>,
    /// Whom the feeds listen to.
    pub interest: Arc<Interest>,
    /// Where it says which screens have come back to it.
    pub claim: mpsc::Sender<Claim>,
}

impl Buses {
    /// Makes the halls; buses are then added, and [`Buses::open`] starts carrying.
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> (Self, Doors) {
        let (announce, announced) = mpsc::channel(HALL_ENTRIES_MAX);
        let (claim, claims) = mpsc::channel(HALL_ENTRIES_MAX);
        let (heard_in, heard) = Queue::new(HALL_ENTRIES_MAX, HALL_BYTES_MAX);
        let interest = Arc::new(Interest::default());
        let doors = Doors { announce, gateway: GatewayDoors { heard, interest: interest.clone(), claim } };
        (
            Self { announced, claims, outgoing: Vec::new(), heard: heard_in, moved: Vec::new(), interest, tasks, stop },
            doors,
        )
    }

    /// Adds the buses to these brokers, which need not be there yet.
    ///
    /// # Errors
    /// If a URL makes no sense.
    pub fn connect(&mut self, brokers: &Brokers) -> anyhow::Result<()> {
        match &brokers.redis_url {
            Some(urls) if brokers.redis_cluster => self.add(redis::Cluster::new(urls, &brokers.prefix)?),
            Some(url) => self.add(redis::Redis::new(url, &brokers.prefix)?),
            None => ensure!(!brokers.redis_cluster, "--redis-cluster wants to know where: --redis-url"),
        }
        if let Some(url) = &brokers.amqp_url {
            self.add(rabbitmq::RabbitMq::new(url, &brokers.prefix)?);
        }
        Ok(())
    }

    /// Adds a bus and starts it.
    pub fn add<B: Bus>(&mut self, bus: B) {
        let (queue, outgoing) = Queue::new(QUEUE_ENTRIES_MAX, QUEUE_BYTES_MAX);
        self.outgoing.push((B::NAME, queue));
        let ends =
            Ends { outgoing, heard: self.heard.clone(), interest: self.interest.clone(), stop: self.stop.clone() };
        self.tasks.spawn(bus.run(ends));
    }

    /// Where it will be said whose journals this node has moved.
    pub fn tell_moved(&mut self) -> Arc<Moved> {
        let moved = Arc::new(Moved::default());
        self.moved.push(moved.clone());
        moved
    }

    /// Carries what is announced to every bus and, in this process, straight to the feeds.
    pub fn open(self) {
        let Self { announced, claims, outgoing, heard, moved, tasks, stop, .. } = self;
        tasks.spawn(local::run(announced, claims, outgoing, heard, moved, stop));
    }
}

/// Counts what a bus did not carry, by why.
fn count_dropped(bus: &'static str, reason: &'static str, count: u64) {
    metrics::counter!("tillwire_bus_dropped_total", "bus" => bus, "reason" => reason).increment(count);
}
