//! Workers: what must happen outside because something happened here. They follow journals, each by a cursor of its own in
//! the database, so that whoever is killed at any moment loses nothing, and somebody else goes on.

pub mod duties;
pub mod expiry;
pub mod handlers;
pub mod payments;
pub mod push;
pub mod reconciling;
pub mod redeliveries;
pub mod subscribers;
pub mod webhooks;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use self::handlers::follow::Follow;
use self::handlers::queue::{Dead, Queue};
use self::handlers::waiting::Waiting;
use self::handlers::{Attendant, Handler};
use self::push::Push;
use self::redeliveries::Redeliveries;
use self::subscribers::{STEPS_MAX, Steps, Subscriber as _, Subscribers};
use self::webhooks::Webhooks;
use crate::bus::{Brokers, Buses, Moved};
use crate::journal::{Journal, Pools, pool};
use crate::push::services::{self, Services};
use crate::queues::topology::HandlerQueue;
use crate::relay::{self, Relay};
use crate::vault::Vault;
use crate::webhooks::sender::Sender;

/// All handlers, as the broker knows them.
pub const HANDLERS: &[HandlerQueue] = &[Push::QUEUE];

/// How many connections workers have to look who has something to be told.
const LOOKS_CONNECTIONS_MAX: u32 = 4;
/// All that they take of the database, and the connections to whom they serve.
pub const DESCRIPTORS_MAX: usize = (relay::CONNECTIONS_MAX + LOOKS_CONNECTIONS_MAX + 2 * STEPS_MAX) as usize
    + Webhooks::SERVED_MAX
    + Redeliveries::SERVED_MAX
    + services::AT_ONCE_MAX;

/// How long after a panic a worker begins again.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The ways to the database.
pub struct Urls<'a> {
    /// As `tillwire_app`, `tillwire_feed` and `tillwire_relay`.
    pub app: &'a SecretString,
    pub feed: &'a SecretString,
    pub relay: &'a SecretString,
}

/// All workers of a node.
pub struct Workers {
    steps: Steps,
    relay: PgPool,
    relay_url: SecretString,
    brokers: Brokers,
    /// Those whose queues there are.
    handlers: &'static [HandlerQueue],
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Workers {
    /// # Errors
    /// If a URL makes no sense. What they lead to need not be there.
    pub fn new(
        urls: &Urls<'_>,
        brokers: Brokers,
        handlers: &'static [HandlerQueue],
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let relay = pool::open(urls.relay.expose_secret(), LOOKS_CONNECTIONS_MAX)
            .context("the database URL of workers (--relay-database-url)")?;
        // Of their own: tills and screens do not wait for receivers.
        let steps = Steps::over(Pools {
            app: pool::open(urls.app.expose_secret(), STEPS_MAX)?,
            feed: pool::open(urls.feed.expose_secret(), STEPS_MAX)?,
        });
        Ok(Self { steps, relay, relay_url: urls.relay.clone(), brokers, handlers, tasks, stop })
    }

    /// Begins to relay journals, where there is a broker. Answers who will know which of them have moved.
    ///
    /// # Errors
    /// If the broker's URL makes no sense.
    pub fn relay(&self, buses: &mut Buses) -> anyhow::Result<Arc<Moved>> {
        let woken = buses.tell_moved();
        let Some(amqp) = &self.brokers.amqp_url else { return Ok(woken) };
        let (moved, prefix) = (buses.tell_moved(), &self.brokers.prefix);
        let relay = Relay::new(self.relay_url.clone(), amqp, prefix, self.handlers, moved, woken.clone())?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move { until("The relay", &stop, || relay.run(&stop)).await });
        let dead = Dead::new(self.steps.clone(), amqp, prefix, self.handlers)?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move { until("Taking down dead letters", &stop, || dead.run(&stop)).await });
        Ok(woken)
    }

    /// Begins to serve webhooks.
    pub fn serve_webhooks(&self, woken: Arc<Moved>, journal: &Journal, sender: Sender, vault: &Arc<Vault>) {
        let (steps, relay) = (self.steps.clone(), self.relay.clone());
        let webhooks = Webhooks::new(steps, journal, relay, sender.clone(), vault.clone());
        let webhooks = Subscribers::new(webhooks, self.steps.clone(), woken);
        let stop = self.stop.clone();
        self.tasks.spawn(async move { until("Serving webhooks", &stop, || webhooks.run(&stop)).await });
        let redeliveries = Redeliveries::new(self.steps.clone(), self.relay.clone(), sender, vault.clone());
        // A part of what was: no journal that moves has anything to do with it.
        let redeliveries = Subscribers::new(redeliveries, self.steps.clone(), Arc::default());
        let stop = self.stop.clone();
        self.tasks.spawn(async move { until("Serving redeliveries", &stop, || redeliveries.run(&stop)).await });
    }

    /// The handler that tells phones and browsers.
    pub fn push(&self, services: Arc<Services>, vault: Arc<Vault>) -> Push {
        Push::new(self.steps.clone(), services, vault)
    }

    /// Begins one handler: at the broker, or without one.
    ///
    /// # Errors
    /// If the broker's URL makes no sense.
    pub fn handle<H: Handler>(&self, handler: H, buses: &mut Buses) -> anyhow::Result<()> {
        let attendant = Attendant::new(handler, self.steps.clone());
        let waiting = Waiting::new(attendant.clone(), self.relay.clone(), self.brokers.amqp_url.is_none());
        let stop = self.stop.clone();
        self.tasks.spawn(async move { until("What waits for a handler", &stop, || waiting.run(&stop)).await });
        let stop = self.stop.clone();
        if let Some(amqp) = &self.brokers.amqp_url {
            let queue = Queue::new(attendant, self.relay.clone(), amqp, &self.brokers.prefix, self.handlers)?;
            self.tasks.spawn(async move { until("A handler", &stop, || queue.run(&stop)).await });
        } else {
            let follow = Follow::new(attendant, self.relay.clone());
            let follow = Subscribers::new(follow, self.steps.clone(), buses.tell_moved());
            self.tasks.spawn(async move { until("A handler", &stop, || follow.run(&stop)).await });
        }
        Ok(())
    }
}

/// Does work until `stop`: again, if it should come to an end by a panic, for nobody else on this node would do it.
pub async fn until<F: Future<Output = ()>>(what: &str, stop: &CancellationToken, work: impl Fn() -> F) {
    while AssertUnwindSafe(work()).catch_unwind().await.is_err() {
        error!("{what} has panicked, and begins again");
        if stop.run_until_cancelled(tokio::time::sleep(BEGIN_AGAIN_AFTER)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_panics_begins_again() {
        let (begun, stop) = (AtomicU32::new(0), CancellationToken::new());
        let work = || async { assert!(begun.fetch_add(1, Ordering::Relaxed) >= 2, "not yet") };
        until("A test", &stop, work).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
