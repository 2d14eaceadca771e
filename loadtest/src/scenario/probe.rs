//! A handler of the hub's own kind, in this process: it does nothing but say when it was told. Around it is the hub's own loop,
//! which reads an entry's marks before and writes one after, as for any handler that calls somebody.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use secrecy::SecretString;
use tillwire::bus::{Brokers, Buses};
use tillwire::queues::depth;
use tillwire::queues::topology::HandlerQueue;
use tillwire::workers::handlers::{Effect, Failure, Handler, Heard};
use tillwire::workers::{Urls, Workers};
use tillwire_channels::MerchantId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::subject::tillwire::{Base, DATABASE};

/// How long it may take to come to its queue.
const READY_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PROBES: &[HandlerQueue] = &[Probe::QUEUE];

/// An event that it was told, and when.
pub type Told = (MerchantId, u64, Instant);

struct Probe {
    told: mpsc::UnboundedSender<Told>,
}

impl Handler for Probe {
    const NAME: &'static str = "probe";
    const HEARS: &'static [&'static str] = &["load.tested"];

    async fn handle(&self, heard: &Heard) -> Result<Effect, Failure> {
        let told = self.told.send((heard.merchant, heard.position.seq, Instant::now()));
        told.map_err(|gone| Failure::Never(gone.into()))?;
        Ok(Effect::Made)
    }
}

/// A worker with this handler.
pub struct Probing {
    pub told: mpsc::UnboundedReceiver<Told>,
    stop: CancellationToken,
}

impl Probing {
    /// Begins, and waits until it takes from its queue: from then on it is told everything.
    pub async fn begin(base: &Base, amqp_url: &str) -> Result<Self> {
        let url = |role: &str| SecretString::from(base.cluster.url(role, DATABASE));
        let (app, feed, relay) = (url("tillwire_app"), url("tillwire_feed"), url("tillwire_relay"));
        let amqp_url = SecretString::from(amqp_url);
        let brokers = Brokers { amqp_url: Some(amqp_url.clone()), ..Brokers::default() };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut buses, _doors) = Buses::new(tasks.clone(), stop.clone());
        let urls = Urls { app: &app, feed: &feed, relay: &relay };
        let workers = Workers::new(&urls, brokers, PROBES, tasks, stop.clone())?;
        let (telling, told) = mpsc::unbounded_channel();
        workers.handle(Probe { told: telling }, &mut buses)?;
        let probing = Self { told, stop };
        let began = Instant::now();
        loop {
            let (found, _) = depth::ask(&amqp_url, "", PROBES).await?;
            if found.iter().all(|it| it.queue.is_some_and(|queue| queue.consumers > 0)) {
                return Ok(probing);
            }
            ensure!(began.elapsed() < READY_MAX, "the handler does not come to its queue");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
