//! The feeds of a node: opened when the first screen of a merchant comes, fed by the buses, healed from the journal.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tillwire_channels::{MerchantId, Moment, Position};
use tillwire_socketio::{SocketIo, SocketRef};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::feed::{self, Feed};
use super::screen::{self, Stock};
use crate::bus::{Carried, Interest, Underway};
use crate::error::{Error, Result};
use crate::journal::read::{Head, Slice};

/// How long an entry that came too early waits for the one before it, which most often is only a little late.
const HOLD: Duration = Duration::from_millis(5);
/// How much of what the buses brought is looked at together: the entries of a merchant are told in one go.
const TOGETHER_ENTRIES_MAX: usize = 64;
/// How often the heads are asked for, so that a lost last entry is found too.
const HEADS_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whose token has expired.
const TOKENS_EVERY: Duration = Duration::from_millis(500);
/// How long a feed stays without screens: those of a shop often come back together.
const LINGER: Duration = Duration::from_secs(30);
/// How long the journal is left alone after it did not answer, at first and at most.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

pub struct Feeds {
    slots: Mutex<HashMap<MerchantId, Arc<Slot>>>,
    stock: Stock,
    interest: Arc<Interest>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// How long this node vouches for its screens without having reached the database.
    vouch_max: Duration,
    /// Whether it still does.
    vouches: AtomicBool,
    /// Whether it goes away. Set under the lock of `slots`: each feed is told, or knows from the start.
    draining: AtomicBool,
}

struct Slot {
    feed: Arc<Feed>,
    opened: OnceCell<()>,
    /// Ends the task that heals it.
    stop: CancellationToken,
}

impl Feeds {
    pub fn new(
        stock: Stock,
        interest: Arc<Interest>,
        vouch_max: Duration,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots: Mutex::default(),
            stock,
            interest,
            tasks,
            stop,
            vouch_max,
            vouches: AtomicBool::new(true),
            draining: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MerchantId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node can say who may listen: it has reached the database lately.
    pub fn vouches(&self) -> bool {
        self.vouches.load(Ordering::Relaxed)
    }

    /// The feed of a merchant, opened if it is not yet: by one caller, while the others wait.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such merchant; others if the database does not answer.
    pub async fn open(self: &Arc<Self>, merchant: MerchantId) -> Result<Arc<Feed>> {
        let slot = self.slot(merchant);
        let begin = async || {
            let (head, revoked) = self.stock.source.begin(merchant).await?;
            let behind = slot.feed.begin_at(head, revoked);
            self.bring_on(&slot.feed, behind);
            let healing = self.clone().heal(slot.feed.clone());
            let stop = slot.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(healing).await });
            Ok::<_, Error>(())
        };
        slot.opened.get_or_try_init(begin).await?;
        Ok(slot.feed.clone())
    }

    /// Whether what follows this position can be served. Asks the journal only if the feed cannot say.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn serves(&self, feed: &Feed, position: Position) -> Result<bool> {
        if feed.holds(position) {
            return Ok(true);
        }
        match self.stock.source.replay(feed.merchant, position, Slice { entries_max: 1, bytes_max: 1 }).await {
            Ok(_) => Ok(true),
            Err(Error::SnapshotRequired(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn slot(&self, merchant: MerchantId) -> Arc<Slot> {
        let mut slots = self.lock();
        let slot = slots.entry(merchant).or_insert_with(|| {
            // Before the head is read: what is committed meanwhile should be heard.
            self.interest.begin(merchant);
            let (feed, stop) = (Arc::new(Feed::new(merchant)), self.stop.child_token());
            if self.draining.load(Ordering::Relaxed) {
                feed.tell_draining();
            }
            Arc::new(Slot { feed, opened: OnceCell::new(), stop })
        });
        slot.clone()
    }

    fn find(&self, merchant: MerchantId) -> Option<Arc<Feed>> {
        self.lock().get(&merchant).map(|slot| slot.feed.clone())
    }

    /// Every feed.
    pub fn all(&self) -> Vec<Arc<Feed>> {
        self.lock().values().map(|slot| slot.feed.clone()).collect()
    }

    /// Tells every screen that this node goes away, those too that are still on their way in.
    pub fn tell_draining(&self) {
        let slots = self.lock();
        self.draining.store(true, Ordering::Relaxed);
        slots.values().for_each(|slot| slot.feed.tell_draining());
    }

    /// Starts a task for each screen that fell behind.
    pub fn bring_on(&self, feed: &Arc<Feed>, behind: Vec<SocketRef>) {
        for socket in behind {
            self.tasks.spawn(screen::bring_on(feed.clone(), self.stock.clone(), socket));
        }
    }

    /// Hands what the buses bring to the feeds, until `stop`.
    pub async fn listen(self: Arc<Self>, mut heard: mpsc::Receiver<Carried>, io: SocketIo) {
        let mut together = Vec::with_capacity(TOGETHER_ENTRIES_MAX);
        let mut entries: HashMap<MerchantId, Vec<Underway>> = HashMap::new();
        while let Some(1..) = self.stop.run_until_cancelled(heard.recv_many(&mut together, TOGETHER_ENTRIES_MAX)).await
        {
            // There is more: whoever was told of this much may write it first.
            let is_full = together.len() == TOGETHER_ENTRIES_MAX;
            for carried in together.drain(..) {
                match carried {
                    Carried::Entry(underway) => entries.entry(underway.merchant).or_default().push(underway),
                    Carried::Place { merchant, seq, .. } => {
                        if let Some(feed) = self.find(merchant) {
                            feed.expect(seq);
                        }
                    }
                    Carried::Claim(claim) => {
                        let here = claim.screen.parse().ok().and_then(|id| io.socket("/", id));
                        if let (Some(feed), Some(socket)) = (self.find(claim.merchant), here) {
                            feed.give_up(&socket, claim.epoch);
                        }
                    }
                }
            }
            for (merchant, entries) in entries.drain() {
                let Some(feed) = self.find(merchant) else { continue };
                entries.iter().for_each(Underway::has_arrived);
                let behind = feed.offer(entries.into_iter().map(|underway| underway.entry));
                self.bring_on(&feed, behind);
            }
            if is_full {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads what a feed misses or doubts, one read at a time.
    async fn heal(self: Arc<Self>, feed: Arc<Feed>) {
        let mut retry_after = RETRY_AFTER;
        loop {
            feed.wanting.notified().await;
            tokio::time::sleep(HOLD).await;
            let (began, mut reads) = (Instant::now(), 0_u32);
            while let Some(head) = feed.wants() {
                reads += 1;
                metrics::counter!("tillwire_gateway_heals_total").increment(1);
                match self.stock.source.heal(feed.merchant, head.position()).await {
                    Ok(read) => {
                        retry_after = RETRY_AFTER;
                        feed.confirmed(head, read.entries.is_empty());
                        // In runs, between which others come to the feed.
                        for run in read.entries.chunks(feed::RUN_ENTRIES_MAX) {
                            let behind = feed.mend(run.iter().cloned());
                            self.bring_on(&feed, behind);
                        }
                    }
                    Err(Error::SnapshotRequired(why)) => {
                        warn!(merchant = %feed.merchant, "The journal's history is another, or cut: {:?}", why.reason);
                        metrics::counter!("tillwire_gateway_diverged_total").increment(1);
                        match self.stock.source.begin(feed.merchant).await {
                            Ok((head, revoked)) => {
                                let behind = feed.begin_at(head, revoked);
                                self.bring_on(&feed, behind);
                            }
                            Err(error) => pause(error, &mut retry_after).await,
                        }
                    }
                    Err(Error::NotFound(_)) => {
                        warn!(merchant = %feed.merchant, "The merchant is gone from the database");
                        return self.put_away(&feed);
                    }
                    Err(error) => pause(error, &mut retry_after).await,
                }
            }
            if reads > 0 {
                metrics::histogram!("tillwire_gateway_heal_seconds").record(began.elapsed());
            }
        }
    }

    /// Signs out whose token expires, until `stop`: in time, also where the database takes its own.
    pub async fn watch_tokens(self: Arc<Self>) {
        let mut pace = tokio::time::interval(TOKENS_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(pace.tick()).await.is_some() {
            let now = Moment::now_utc();
            self.all().iter().for_each(|feed| feed.expire(now));
        }
    }

    /// Asks for the heads at a steady pace, and sees to what comes with time: feeds that nobody listens to, a database that
    /// is away for too long. Until `stop`.
    pub async fn watch(self: Arc<Self>) {
        let (mut reached, mut away) = (Instant::now(), false);
        let mut pace = tokio::time::interval(HEADS_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.stop.run_until_cancelled(pace.tick()).await.is_some() {
            let feeds = self.all();
            match self.compare_heads_while_vouching(&feeds, reached + self.vouch_max).await {
                // Nobody to vouch for: whoever comes has a feed opened, which asks the database.
                Ok(()) if feeds.is_empty() => {
                    reached = Instant::now();
                    self.vouches.store(true, Ordering::Relaxed);
                }
                Ok(()) => {
                    if std::mem::take(&mut away) {
                        info!("The database answers again after {:?}", reached.elapsed());
                    }
                    reached = Instant::now();
                    self.vouches.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    metrics::counter!("tillwire_gateway_heads_failed_total").increment(1);
                    if !std::mem::replace(&mut away, true) {
                        warn!("The database does not answer; screens wait: {:#}", error.into_anyhow());
                    }
                    if reached.elapsed() > self.vouch_max {
                        self.dismiss(&feeds);
                    }
                }
            }
            self.put_away_idle();
            self.stock.snapshots.tidy();
            gauge("tillwire_gateway_feeds", feeds.len());
            gauge("tillwire_gateway_screens", feeds.iter().map(|feed| feed.screens()).sum());
        }
    }

    /// Compares the heads. A database that is frozen takes its time to show that it does not answer: whoever cannot be vouched
    /// for any longer does not stay until then.
    async fn compare_heads_while_vouching(&self, feeds: &[Arc<Feed>], until: Instant) -> Result<()> {
        let mut comparing = pin!(self.compare_heads(feeds));
        tokio::select! {
            biased;
            outcome = &mut comparing => return outcome,
            () = tokio::time::sleep_until(until.into()) => {}
        }
        self.dismiss(feeds);
        comparing.await
    }

    /// Vouches for nobody until the database answers.
    fn dismiss(&self, feeds: &[Arc<Feed>]) {
        self.vouches.store(false, Ordering::Relaxed);
        feeds.iter().for_each(|feed| feed.dismiss());
    }

    async fn compare_heads(&self, feeds: &[Arc<Feed>]) -> Result<()> {
        let merchants: Vec<MerchantId> = feeds.iter().map(|feed| feed.merchant).collect();
        if merchants.is_empty() {
            return Ok(());
        }
        let heads: HashMap<MerchantId, Head> = self.stock.source.heads(&merchants).await?.into_iter().collect();
        for feed in feeds {
            match heads.get(&feed.merchant) {
                Some(head) => feed.compare(*head),
                None => feed.suspect(), // The merchant is gone, or has not been there yet.
            }
        }
        Ok(())
    }

    /// Closes a feed whose journal is no more.
    fn put_away(&self, feed: &Feed) {
        if let Some(slot) = self.lock().remove(&feed.merchant) {
            feed.close();
            self.interest.end(feed.merchant);
            slot.stop.cancel();
        }
    }

    fn put_away_idle(&self) {
        let Some(before) = Instant::now().checked_sub(LINGER) else { return };
        // Under the lock, so that nobody is given a feed that is being put away.
        self.lock().retain(|merchant, slot| {
            let keep = !slot.feed.close_if_idle(before);
            if !keep {
                slot.stop.cancel();
                self.interest.end(*merchant);
            }
            keep
        });
    }
}

async fn pause(error: Error, retry_after: &mut Duration) {
    // The node says once that the database is away; a line for each feed would be a flood.
    debug!("A feed waits for the journal: {:#}", error.into_anyhow());
    tokio::time::sleep(*retry_after).await;
    *retry_after = (*retry_after * 2).min(RETRY_AFTER_MAX);
}

fn gauge(name: &'static str, value: usize) {
    metrics::gauge!(name).set(value as f64);
}
