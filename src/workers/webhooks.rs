//! Serving webhook endpoints: each is told what follows its cursor, one event after the other.
//!
//! Looking is the truth: which endpoints have something to be told is asked every second, and sooner when a journal of this
//! node has moved. Each that is due is served by a task of its own, under a lease, for a while; then others have their turn.
//! No endpoint waits for another's receiver, and no merchant for another's endpoints: of each only so many are served at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::bus::Moved;
use crate::error::{Error, Result};
use crate::journal::read::{self, Entries, Slice};
use crate::journal::{Entry, Pools};
use crate::webhooks::attempts::{Answer, Attempted};
use crate::webhooks::leases::{self, Due, Held, Verdict};
use crate::webhooks::message::Message;
use crate::webhooks::schedule;
use crate::webhooks::sender::Sender;

/// How often it is looked who is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after a look the next may be, however many journals move.
const LOOK_PAUSE: Duration = Duration::from_millis(25);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many endpoints are served at once, and how many of them of one merchant.
const SERVED_MAX: usize = 256;
const SERVED_OF_ONE_MAX: usize = 8;
/// How long an endpoint is served before others have their turn.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How much of a journal is read for an endpoint at a time.
const SLICE: Slice = Slice { entries_max: 64, bytes_max: 256 * 1024 };
/// How long that may take.
const READ_MAX: Duration = Duration::from_secs(5);
/// The answer of a receiver that wants nothing any more.
const GONE: u16 = 410;

#[derive(Clone)]
pub struct Webhooks {
    pools: Pools,
    /// As `tillwire_relay`, who may ask about all merchants.
    relay: PgPool,
    sender: Sender,
    /// Journals that have moved, as far as somebody said so.
    moved: Arc<Moved>,
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
        Self { pools, relay, sender, moved }
    }

    /// Serves until `stop`. What is under way then is waited for; it is bounded by [`crate::webhooks::sender::ATTEMPT_MAX`].
    pub async fn run(&self, stop: &CancellationToken) {
        let own = Arc::new(self.clone());
        let (mut serving, mut is_away) = (Serving::default(), false);
        while !stop.is_cancelled() {
            let looked = own.look(&serving);
            match tokio::time::timeout(LOOK_MAX, looked).await.map_err(Error::from).and_then(|due| due) {
                Ok(due) => {
                    is_away = false;
                    for due in due {
                        if serving.begins(due) {
                            let (own, stop) = (own.clone(), stop.clone());
                            serving.tasks.spawn(async move {
                                own.serve(due, &stop).await;
                                due
                            });
                        }
                    }
                }
                Err(error) if std::mem::replace(&mut is_away, true) => {
                    debug!("Webhooks still wait for the database: {:#}", error.into_anyhow());
                }
                Err(error) => warn!("Webhooks wait for the database: {:#}", error.into_anyhow()),
            }
            let waiting = async {
                tokio::time::sleep(LOOK_PAUSE).await;
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    _ = own.moved.take(usize::MAX) => {}
                    () = serving.ends_one() => {}
                }
            };
            stop.run_until_cancelled(waiting).await;
            serving.tidy();
        }
        while serving.tasks.join_next().await.is_some() {}
    }

    async fn look(&self, serving: &Serving) -> Result<Vec<Due>> {
        let room = SERVED_MAX - serving.now.len();
        if room == 0 {
            return Ok(Vec::new());
        }
        leases::due(&self.relay, &serving.busy(), room).await
    }

    /// Serves one endpoint for a turn. A database that is away leaves the lease to expire.
    async fn serve(&self, due: Due, stop: &CancellationToken) {
        if let Err(error) = self.serve_turn(due, stop).await {
            debug!(webhook = %due.endpoint, "A webhook could not be served: {:#}", error.into_anyhow());
        }
    }

    async fn serve_turn(&self, due: Due, stop: &CancellationToken) -> Result<()> {
        let Some(mut held) = leases::take(&self.pools.app, due).await? else { return Ok(()) };
        let began = Instant::now();
        let is_over = || stop.is_cancelled() || began.elapsed() > TURN_MAX;
        loop {
            let entries = match self.read(&held).await {
                Ok(read) => read.entries,
                Err(Error::SnapshotRequired(why)) => {
                    let mut sql = self.pools.feed.acquire().await?;
                    let to = read::beyond(&mut sql, due.merchant, held.position).await?;
                    drop(sql);
                    metrics::counter!("tillwire_webhook_cuts_total").increment(1);
                    error!(
                        webhook = %due.endpoint,
                        "The journal does not go on from {}, up to which an endpoint was told ({:?}): it goes on after {to}",
                        held.position, why.reason
                    );
                    if leases::passed(&self.pools.app, &mut held, to).await? {
                        continue;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let Some(last) = entries.last().map(|entry| entry.position()) else { break };
            for entry in &entries {
                for (position, message) in messages(&held, entry) {
                    if is_over() {
                        return leases::let_go(&self.pools.app, held).await;
                    }
                    let attempted = self.sender.send(&held.url, &held.secrets, &message).await;
                    count(&attempted);
                    if !attempted.is_delivered() {
                        return self.give_way(held, &message, &attempted).await;
                    }
                    if !leases::delivered(&self.pools.app, &mut held, &message, &attempted, position).await? {
                        return Ok(());
                    }
                }
            }
            if !leases::passed(&self.pools.app, &mut held, last).await? {
                return Ok(());
            }
            if is_over() {
                break;
            }
        }
        leases::let_go(&self.pools.app, held).await
    }

    async fn read(&self, held: &Held) -> Result<Entries> {
        let reading = async {
            let mut sql = self.pools.feed.acquire().await?;
            read::after(&mut sql, held.due.merchant, held.position, SLICE).await
        };
        tokio::time::timeout(READ_MAX, reading).await?
    }

    /// An attempt was in vain.
    async fn give_way(&self, held: Held, message: &Message, attempted: &Attempted) -> Result<()> {
        let verdict = verdict(held.attempts.unsigned_abs() + 1, attempted, fastrand::f64());
        if let Verdict::Disabled(why) = verdict {
            metrics::counter!("tillwire_webhook_disabled_total", "reason" => why).increment(1);
            info!(merchant = %held.due.merchant, webhook = %held.due.endpoint, "A webhook is disabled: {why}");
        }
        leases::failed(&self.pools.app, held, message, attempted, verdict).await
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

/// The messages of an entry that an endpoint is still to be told, each with its place.
fn messages(held: &Held, entry: &Entry) -> Vec<(Position, Message)> {
    let events = match entry.events() {
        Ok(events) => events,
        Err(error) => {
            error!("An entry that cannot be read is told to no webhook: {error:#}");
            return Vec::new();
        }
    };
    (1..)
        .zip(events)
        .filter(|(number, event)| held.position.is_before(entry.seq, *number) && held.hears(&event.kind))
        .filter_map(|(number, event)| {
            let position = Position::of_event(entry.seq, number, entry.tag);
            Message::of(entry.merchant, position, entry.recorded_at, event).ok().map(|message| (position, message))
        })
        .collect()
}

fn count(attempted: &Attempted) {
    let outcome = match attempted.answer {
        Answer::Status { code: 200..=299, .. } => "delivered",
        Answer::Status { .. } => "refused",
        Answer::None(_) => "failed",
    };
    metrics::counter!("tillwire_webhook_attempts_total", "outcome" => outcome).increment(1);
    metrics::histogram!("tillwire_webhook_attempt_seconds").record(attempted.took);
}

/// Who is being served.
#[derive(Default)]
struct Serving {
    now: HashSet<Due>,
    of: HashMap<MerchantId, usize>,
    tasks: JoinSet<Due>,
    ended: Vec<Due>,
}

impl Serving {
    /// Notes that an endpoint is served; false if it is already, or its merchant has enough.
    fn begins(&mut self, due: Due) -> bool {
        let of_merchant = self.of.entry(due.merchant).or_default();
        if *of_merchant >= SERVED_OF_ONE_MAX || !self.now.insert(due) {
            return false;
        }
        *of_merchant += 1;
        true
    }

    /// Waits until one is not served any more; for ever if none is.
    async fn ends_one(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(due)) => self.ended.push(due),
            Some(Err(error)) => error!("A webhook's task came to an end: {error}"),
            None => std::future::pending().await,
        }
    }

    fn tidy(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended.extend(ended);
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
        // A task that panicked told nobody whom it served.
        if self.tasks.is_empty() {
            self.now.clear();
            self.of.clear();
        }
    }

    /// The merchants of whom enough are served.
    fn busy(&self) -> Vec<MerchantId> {
        self.of.iter().filter(|(_, served)| **served >= SERVED_OF_ONE_MAX).map(|(merchant, _)| *merchant).collect()
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
        assert!(serving.begins(first) && !serving.begins(first));
        serving.tasks.spawn(async move { first });
        (1..SERVED_OF_ONE_MAX).for_each(|_| assert!(serving.begins(due(merchant))));
        assert!(!serving.begins(due(merchant)) && serving.begins(due(other)));
        assert_eq!(serving.busy(), [merchant]);
        serving.tasks.spawn(std::future::pending());
        serving.ends_one().await;
        serving.tidy();
        assert!(serving.busy().is_empty() && serving.begins(due(merchant)));
    }
}
