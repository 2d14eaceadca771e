//! Serving webhook endpoints: each is told what follows its cursor, one event after the other.
//!
//! Looking is the truth: which endpoints have something to be told is asked every second, and sooner of journals that are said
//! to have moved. Each that is due is served by a task of its own, under a lease, for a while; then others have their turn. A
//! receiver that takes its time delays its own endpoint; of each merchant only so many are served at once, so that none has
//! all the places. What the tasks ask of the database they ask in turns, over connections of their own.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tillwire_channels::{MerchantId, Position};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use sqlx::PgPool;

use crate::bus::Moved;
use crate::error::{Error, Result};
use crate::journal::Entry;
use crate::journal::Pools;
use crate::journal::read::{self, Entries, Slice};
use crate::webhooks::attempts::{Answer, Attempted};
use crate::webhooks::leases::{self, Due, Held, Verdict};
use crate::webhooks::message::Message;
use crate::webhooks::schedule;
use crate::webhooks::sender::Sender;

/// How often it is looked who is due, of all.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a look the next may be, however many journals move.
const LOOK_PAUSE: Duration = Duration::from_millis(25);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many endpoints are served at once.
pub const SERVED_MAX: usize = 256;
/// How long an endpoint is served before others have their turn.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How much of a journal is read for an endpoint at a time.
const SLICE: Slice = Slice { entries_max: 64, bytes_max: 256 * 1024 };
/// How long that may take.
const READ_MAX: Duration = Duration::from_secs(5);
/// How many of the tasks may be at the database at once: each has a connection then.
pub const STEPS_MAX: u32 = 6;
/// How often what came of an attempt is tried to be written down, and how long after a failure. It is known to nobody else.
const WRITE_TRIES_MAX: u32 = 5;
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// The answer of a receiver that wants nothing any more.
const GONE: u16 = 410;

#[derive(Clone)]
pub struct Webhooks {
    /// Its own, with [`STEPS_MAX`] connections each: tills and screens do not wait for receivers.
    pools: Pools,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
    sender: Sender,
    /// Journals that have moved, as far as somebody said so.
    moved: Arc<Moved>,
    steps: Arc<Semaphore>,
}

impl Webhooks {
    pub fn new(pools: Pools, relay: PgPool, sender: Sender, moved: Arc<Moved>) -> Self {
        for outcome in ["delivered", "refused", "failed"] {
            metrics::counter!("tillwire_webhook_attempts_total", "outcome" => outcome).increment(0);
        }
        for reason in ["gone", "failing"] {
            metrics::counter!("tillwire_webhook_disabled_total", "reason" => reason).increment(0);
        }
        metrics::counter!("tillwire_webhook_cuts_total").increment(0);
        Self { pools, relay, sender, moved, steps: Arc::new(Semaphore::new(STEPS_MAX as usize)) }
    }

    /// Serves until `stop`. What is under way then is waited for; it is bounded by [`crate::webhooks::sender::ATTEMPT_MAX`].
    pub async fn run(&self, stop: &CancellationToken) {
        let own = Arc::new(self.clone());
        let (mut serving, mut is_away) = (Serving::default(), false);
        let (mut named, mut look_at): (Vec<MerchantId>, _) = (Vec::new(), Instant::now());
        while !stop.is_cancelled() {
            let of_all = Instant::now() >= look_at;
            if of_all {
                look_at = Instant::now() + LOOK_EVERY;
            }
            let looked = own.look(&serving, (!of_all).then_some(&named[..]));
            match tokio::time::timeout(LOOK_MAX, looked).await.map_err(Error::from).and_then(|due| due) {
                Ok(due) => {
                    is_away = false;
                    due.into_iter().for_each(|due| serving.begin(&own, due, stop));
                }
                Err(error) if std::mem::replace(&mut is_away, true) => {
                    debug!("Webhooks still wait for the database: {:#}", error.into_anyhow());
                }
                Err(error) => warn!("Webhooks wait for the database: {:#}", error.into_anyhow()),
            }
            let waiting = async {
                tokio::time::sleep(LOOK_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep_until(look_at.into()) => Vec::new(),
                    some = own.moved.take(usize::MAX) => some,
                    // Others of its merchant may have waited for its place.
                    merchant = serving.ends_one() => vec![merchant],
                }
            };
            named = stop.run_until_cancelled(waiting).await.unwrap_or_default();
            serving.tidy();
        }
        while serving.tasks.join_next().await.is_some() {}
    }

    async fn look(&self, serving: &Serving, of: Option<&[MerchantId]>) -> Result<Vec<Due>> {
        let room = SERVED_MAX - serving.now.len();
        if room == 0 || of.is_some_and(<[_]>::is_empty) {
            return Ok(Vec::new());
        }
        leases::due(&self.relay, of, &serving.busy(), room).await
    }

    /// Serves one endpoint for a turn. A database that is away leaves the lease to expire.
    async fn serve(&self, due: Due, stop: &CancellationToken) {
        if let Err(error) = self.serve_turn(due, stop).await {
            debug!(webhook = %due.endpoint, "A webhook could not be served: {:#}", error.into_anyhow());
        }
    }

    async fn serve_turn(&self, due: Due, stop: &CancellationToken) -> Result<()> {
        let Some(mut held) = self.step(leases::take(&self.pools.app, due)).await? else { return Ok(()) };
        let began = Instant::now();
        let is_over = || stop.is_cancelled() || began.elapsed() > TURN_MAX;
        loop {
            let Entries { entries, more } = match self.read(&held).await {
                Ok(read) => read,
                Err(Error::SnapshotRequired(why)) => {
                    let to = self.beyond(&held).await?;
                    metrics::counter!("tillwire_webhook_cuts_total").increment(1);
                    error!(
                        webhook = %due.endpoint,
                        "The journal does not go on from {}, up to which an endpoint was told ({:?}): it goes on after {to}",
                        held.position, why.reason
                    );
                    if !self.step(leases::passed(&self.pools.app, &held, to)).await? {
                        return Ok(());
                    }
                    held.position = to;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for entry in &entries {
                for (to, message) in messages(&held, entry) {
                    if is_over() {
                        return self.step(leases::let_go(&self.pools.app, held)).await;
                    }
                    let attempted = self.sender.send(&held.url, &held.secrets, &message).await;
                    count(&attempted);
                    if !attempted.is_delivered() {
                        return self.give_way(&held, &message, &attempted).await;
                    }
                    let write = || leases::delivered(&self.pools.app, &held, &message, &attempted, to);
                    if !self.write(write).await? {
                        return Ok(());
                    }
                    (held.position, held.attempts) = (to, 0);
                }
                held.position = entry.position();
            }
            if !more || is_over() {
                return self.step(leases::let_go(&self.pools.app, held)).await;
            }
            if !self.step(leases::passed(&self.pools.app, &held, held.position)).await? {
                return Ok(());
            }
        }
    }

    async fn read(&self, held: &Held) -> Result<Entries> {
        let reading = async {
            let mut sql = self.pools.feed.acquire().await?;
            read::after(&mut sql, held.due.merchant, held.position, SLICE).await
        };
        self.step(async { tokio::time::timeout(READ_MAX, reading).await? }).await
    }

    async fn beyond(&self, held: &Held) -> Result<Position> {
        let asking = async {
            let mut sql = self.pools.feed.acquire().await?;
            read::beyond(&mut sql, held.due.merchant, held.position).await
        };
        self.step(async { tokio::time::timeout(READ_MAX, asking).await? }).await
    }

    /// An attempt was in vain.
    async fn give_way(&self, held: &Held, message: &Message, attempted: &Attempted) -> Result<()> {
        let verdict = verdict(held.attempts.unsigned_abs() + 1, attempted, fastrand::f64());
        let write = || leases::failed(&self.pools.app, held, message, attempted, verdict);
        if self.write(write).await?
            && let Verdict::Disabled(why) = verdict
        {
            metrics::counter!("tillwire_webhook_disabled_total", "reason" => why).increment(1);
            info!(merchant = %held.due.merchant, webhook = %held.due.endpoint, "A webhook is disabled: {why}");
        }
        Ok(())
    }

    /// A step at the database, when it is its turn.
    async fn step<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let _turn = self.steps.acquire().await?;
        step.await
    }

    /// Writes down what came of an attempt: again, if the database does not take it at once.
    async fn write<F: Future<Output = Result<bool>>>(&self, write: impl Fn() -> F) -> Result<bool> {
        for _ in 1..WRITE_TRIES_MAX {
            match self.step(write()).await {
                Ok(is_ours) => return Ok(is_ours),
                Err(error) => debug!("What came of an attempt is not written down yet: {:#}", error.into_anyhow()),
            }
            tokio::time::sleep(WRITE_AGAIN_AFTER).await;
        }
        self.step(write()).await
    }
}

/// What becomes of an endpoint after so many attempts in vain, the last of which came to this.
fn verdict(attempts: u32, attempted: &Attempted, chance: f64) -> Verdict {
    let retry_after = match attempted.answer {
        Answer::Status { code: GONE, .. } => return Verdict::Disabled("gone"),
        Answer::Status { retry_after, .. } => retry_after,
        Answer::None(_) => None,
    };
    schedule::pause(attempts, chance, retry_after).map_or(Verdict::Disabled("failing"), Verdict::Later)
}

/// The messages of an entry that an endpoint is still to be told, each with the place up to which it is then told: behind the
/// last one that is the end of the entry.
fn messages(held: &Held, entry: &Entry) -> Vec<(Position, Message)> {
    let events = match entry.events() {
        Ok(events) => events,
        Err(error) => {
            error!("An entry that cannot be read is told to no webhook: {error:#}");
            return Vec::new();
        }
    };
    let mut messages: Vec<(Position, Message)> = (1..)
        .zip(events)
        .filter(|(number, event)| held.position.is_before(entry.seq, *number) && held.hears(&event.kind))
        .filter_map(|(number, event)| {
            let position = Position::of_event(entry.seq, number, entry.tag);
            Message::of(entry.merchant, position, entry.recorded_at, event).ok().map(|message| (position, message))
        })
        .collect();
    if let Some((to, _)) = messages.last_mut() {
        *to = entry.position();
    }
    messages
}

fn count(attempted: &Attempted) {
    metrics::counter!("tillwire_webhook_attempts_total", "outcome" => attempted.outcome()).increment(1);
    metrics::histogram!("tillwire_webhook_attempt_seconds").record(attempted.took);
}

/// Who is being served.
#[derive(Default)]
struct Serving {
    now: HashSet<Due>,
    of: HashMap<MerchantId, i64>,
    /// Each ends with whom it served, also after a panic.
    tasks: JoinSet<Due>,
    ended: Vec<Due>,
}

impl Serving {
    fn begin(&mut self, webhooks: &Arc<Webhooks>, due: Due, stop: &CancellationToken) {
        if !self.takes(due) {
            return;
        }
        let (webhooks, stop) = (webhooks.clone(), stop.clone());
        self.tasks.spawn(async move {
            if AssertUnwindSafe(webhooks.serve(due, &stop)).catch_unwind().await.is_err() {
                error!(webhook = %due.endpoint, "Serving a webhook has panicked");
            }
            due
        });
    }

    /// Notes that an endpoint is served; false if it is already, or its merchant has enough.
    fn takes(&mut self, due: Due) -> bool {
        let of_merchant = self.of.entry(due.merchant).or_default();
        if *of_merchant >= leases::OF_ONE_MAX || !self.now.insert(due) {
            return false;
        }
        *of_merchant += 1;
        true
    }

    /// Waits until one is not served any more, and answers whose it is; for ever if none is.
    async fn ends_one(&mut self) -> MerchantId {
        match self.tasks.join_next().await {
            Some(Ok(due)) => {
                self.ended.push(due);
                due.merchant
            }
            _ => std::future::pending().await,
        }
    }

    fn tidy(&mut self) {
        while let Some(Ok(ended)) = self.tasks.try_join_next() {
            self.ended.push(ended);
        }
        for due in self.ended.drain(..) {
            self.now.remove(&due);
            if let Some(of_merchant) = self.of.get_mut(&due.merchant) {
                *of_merchant -= 1;
                if *of_merchant == 0 {
                    self.of.remove(&due.merchant);
                }
            }
        }
    }

    /// The merchants of whom enough are served.
    fn busy(&self) -> Vec<MerchantId> {
        self.of.iter().filter(|(_, served)| **served >= leases::OF_ONE_MAX).map(|(merchant, _)| *merchant).collect()
    }
}

#[cfg(test)]
mod tests {
    use tillwire_channels::{EndpointId, Moment};

    use super::*;

    fn answered(code: u16, retry_after: Option<u64>) -> Attempted {
        let answer = Answer::Status { code, body: String::new(), retry_after: retry_after.map(Duration::from_secs) };
        Attempted { at: Moment::UNIX_EPOCH, took: Duration::ZERO, answer }
    }

    #[test]
    fn whoever_is_gone_is_disabled_at_once_and_whoever_fails_when_the_schedule_ends() {
        assert_eq!(verdict(1, &answered(410, None), 0.5), Verdict::Disabled("gone"));
        assert_eq!(verdict(1, &answered(500, None), 0.5), Verdict::Later(Duration::from_secs(5)));
        assert_eq!(verdict(1, &answered(302, None), 0.5), Verdict::Later(Duration::from_secs(5)));
        assert_eq!(verdict(1, &answered(429, Some(90)), 0.5), Verdict::Later(Duration::from_secs(90)));
        assert_eq!(verdict(schedule::ATTEMPTS_MAX, &answered(500, None), 0.5), Verdict::Disabled("failing"));
    }

    #[tokio::test]
    async fn no_merchant_has_more_served_than_its_part_and_none_twice() {
        let mut serving = Serving::default();
        let (merchant, other) = (MerchantId::new(), MerchantId::new());
        let due = |merchant| Due { merchant, endpoint: EndpointId::new() };
        let first = due(merchant);
        assert!(serving.takes(first) && !serving.takes(first));
        serving.tasks.spawn(async move { first });
        (1..leases::OF_ONE_MAX).for_each(|_| assert!(serving.takes(due(merchant))));
        assert!(!serving.takes(due(merchant)) && serving.takes(due(other)));
        assert_eq!(serving.busy(), [merchant]);
        assert_eq!(serving.ends_one().await, merchant);
        serving.tidy();
        assert!(serving.busy().is_empty() && serving.takes(due(merchant)));
    }
}
