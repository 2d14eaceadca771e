//! The relay: moves journal entries into RabbitMQ's durable exchange, in the order of each journal, and moves a journal's
//! cursor when the broker has confirmed them.
//!
//! Merchants are spread over [shards](shards::SHARDS), and each shard has one leader among the nodes that relay. Nothing is held
//! that is not in the journal: whoever is killed at any moment, and wherever a broker or the database breaks off, what
//! follows the cursor is published again. So entries arrive at least once, and after a change of leader perhaps out of
//! order; whoever takes them tells them by merchant and position.
//!
//! Looking is the truth: once a second, at the heads of all journals. A word from whoever [commits](herald) only makes it
//! sooner.

mod carry;
mod cursors;
pub mod herald;
mod lead;
pub mod message;
pub mod shards;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, ConfirmSelectOptions};
use lapin::protocol::constants::REPLY_SUCCESS;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::PgPool;
use tillwire_channels::{MerchantId, Position};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use self::carry::{Carried, Rest, Road, SLICE_ENTRIES_MAX};
use self::cursors::{Due, Lag};
use self::herald::NAMED_MAX;
use self::shards::{SHARDS, Shards, shard_of};
use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;
use crate::bus::Moved;
use crate::journal::pool;
use crate::queues::moved;
use crate::queues::topology::{HandlerQueue, Topology};

/// How often all journals are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to say which have moved, to move cursors, or to say how far the relay lags.
const DATABASE_MAX: Duration = Duration::from_secs(5);
/// How many journals are carried in one go. Others have their turn after them, those that have waited longest first.
const JOURNALS_MAX: usize = carry::ABREAST_MAX * 2;
/// How long a broker with nothing to confirm may be silent before it is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(3);
/// How often it is told how far the relay lags.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// Cursors, journals read at the same time, and the lag; each waits for its turn.
const POOL_MAX: u32 = 6;
/// All that it takes of the database: those, and the one that leads.
pub const CONNECTIONS_MAX: u32 = POOL_MAX + 1;
/// How long what is under way may take to end when the node stops. What does not end is published again by the next leader.
const FINISH_MAX: Duration = Duration::from_secs(3);
/// How long a journal is left alone that a queue does not take an entry of, twice as long each time, or that cannot be read.
const REFUSED_REST: Duration = Duration::from_secs(5);
const REFUSED_DOUBLINGS_MAX: u32 = 5;
const UNREADABLE_REST: Duration = Duration::from_secs(60);

pub struct Relay {
    /// As `tillwire_relay`, to PostgreSQL itself.
    database_url: SecretString,
    pool: PgPool,
    nodes: Nodes,
    topology: Topology,
    /// Whose queues have to be there before anything is published.
    handlers: &'static [HandlerQueue],
    /// Journals that are said to have moved, here or elsewhere.
    moved: Arc<Moved>,
    /// Whom it tells of what subscribers are woken for.
    woken: Arc<Moved>,
}

impl Relay {
    /// # Errors
    /// If a URL makes no sense. The database and the broker need not be there.
    pub fn new(
        database_url: SecretString,
        amqp_url: &SecretString,
        prefix: &str,
        handlers: &'static [HandlerQueue],
        moved: Arc<Moved>,
        woken: Arc<Moved>,
    ) -> anyhow::Result<Self> {
        let pool = pool::open(database_url.expose_secret(), POOL_MAX)
            .context("the database URL of the relay (--relay-database-url)")?;
        // What first appears when it happens has not risen, says Prometheus.
        metrics::counter!("tillwire_relay_entries_total").increment(0);
        for reason in ["expired", "diverged"] {
            metrics::counter!("tillwire_relay_cuts_total", "reason" => reason).increment(0);
        }
        for reason in ["refused", "unreadable"] {
            metrics::counter!("tillwire_relay_rests_total", "reason" => reason).increment(0);
        }
        let (nodes, topology) = (Nodes::parse(amqp_url)?, Topology::new(prefix));
        Ok(Self { database_url, pool, nodes, topology, handlers, moved, woken })
    }

    /// Relays until `stop`, whatever is away meanwhile.
    pub async fn run(&self, stop: &CancellationToken) {
        let (leads, led) = watch::channel(Shards::NONE);
        let (up, is_up) = watch::channel(false);
        // Whoever leads lets go of it when what is under way has ended, and not before.
        let ended = CancellationToken::new();
        let relaying = async {
            self.relay(&led, &up, stop).await;
            ended.cancel();
        };
        tokio::join!(
            lead::take_part(self.database_url.expose_secret(), &leads, is_up, &ended),
            self.tell_lag(stop),
            relaying
        );
    }

    async fn relay(&self, led: &watch::Receiver<Shards>, up: &watch::Sender<bool>, stop: &CancellationToken) {
        let (mut link, mut turn) = (Link::new("rabbitmq", "relaying"), self.nodes.first_turn());
        let mut rounds = Rounds::new();
        loop {
            let node = self.nodes.at(turn);
            let outcome = self.relay_once(turn, &mut link, &mut rounds, led.clone(), up, stop).await;
            up.send_replace(false);
            let Some(error) = outcome else { return };
            let pause = link.is_down(&error.context(amqp::place(node)));
            turn = turn.wrapping_add(1);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Relays until the connection is lost, or anything else goes wrong, and says what; or until told to stop.
    async fn relay_once(
        &self,
        turn: usize,
        link: &mut Link,
        rounds: &mut Rounds,
        led: watch::Receiver<Shards>,
        up: &watch::Sender<bool>,
        stop: &CancellationToken,
    ) -> Option<anyhow::Error> {
        let dialling = Wire::dial(self.nodes.at(turn), "tillwire: relaying");
        let wire = match stop.run_until_cancelled(dialling).await? {
            Ok(wire) => wire,
            Err(error) => return Some(error),
        };
        let outcome = self.relay_over(&wire, link, rounds, led, up, stop).await;
        wire.close().await;
        outcome.err()
    }

    async fn relay_over(
        &self,
        wire: &Wire,
        link: &mut Link,
        rounds: &mut Rounds,
        led: watch::Receiver<Shards>,
        up: &watch::Sender<bool>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let opening = link::within(CONNECT_MAX, async {
            let (entries, words) = (open(wire).await?, wire.channel().await?);
            self.topology.declare(&entries, self.handlers).await?;
            moved::probe(&entries, &self.topology).await?;
            let words_heard = self.consume_moved(&words).await?;
            let wake = consume(&words, &self.topology.wake).await?;
            anyhow::Ok((entries, words_heard, wake))
        });
        let Some(opened) = stop.run_until_cancelled(opening).await else { return Ok(()) };
        let (entries, words, wake) = opened?;
        link.is_up();
        up.send_replace(true);
        rounds.is_connected();
        tokio::select! {
            outcome = self.carry_all(wire, entries, rounds, led, stop) => outcome,
            outcome = self.hear_moved(words) => outcome.map(|never| match never {}),
            outcome = self.hear_wake(wake) => outcome.map(|never| match never {}),
        }
    }

    /// Carries whatever is due in the shards that we lead, until `stop`.
    async fn carry_all(
        &self,
        wire: &Wire,
        mut channel: Channel,
        rounds: &mut Rounds,
        mut led: watch::Receiver<Shards>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            if rounds.is_idle() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep_until(rounds.look_at) => {}
                    some = self.moved.take(JOURNALS_MAX) => rounds.more = some,
                    changed = led.changed() => {
                        changed?;
                        rounds.look_at = Instant::now();
                    }
                }
            }
            let shards = *led.borrow_and_update();
            let stopped = async {
                stop.cancelled().await;
                tokio::time::sleep(FINISH_MAX).await;
            };
            tokio::select! {
                outcome = self.round(&channel, shards, rounds) => outcome?,
                () = stopped => return Ok(()),
            }
            if std::mem::take(&mut rounds.is_refused) {
                // A broker remembers for each channel at which of its nodes a queue is led, and refuses for as long as that one
                // is down. A new one asks anew.
                let was = std::mem::replace(&mut channel, link::answered(open(wire)).await?);
                link::answered(was.close(REPLY_SUCCESS, "OK".into())).await?;
            }
            if rounds.heard_at.elapsed() > PING_EVERY {
                link::answered(moved::tell(&channel, &self.topology, &[])).await?;
                rounds.heard_at = Instant::now();
            }
        }
        Ok(())
    }

    /// One round: what was confirmed and is not yet written down, and then whatever is due.
    ///
    /// # Errors
    /// If the broker cannot be relied on. A database that does not answer is waited for.
    async fn round(&self, channel: &Channel, shards: Shards, rounds: &mut Rounds) -> anyhow::Result<()> {
        if let Err(error) = self.try_round(channel, shards, rounds).await? {
            if std::mem::replace(&mut rounds.is_away, true) {
                debug!("The relay still waits for the database: {error:#}");
            } else {
                warn!("The relay waits for the database: {error:#}");
            }
            rounds.more.clear();
            rounds.look_at = Instant::now() + LOOK_EVERY;
        }
        Ok(())
    }

    /// The inner error is the database's, the outer one the broker's.
    async fn try_round(
        &self,
        channel: &Channel,
        shards: Shards,
        rounds: &mut Rounds,
    ) -> anyhow::Result<anyhow::Result<()>> {
        // Before anything else is carried: or it would be carried again and again.
        if !rounds.unsaved.is_empty() {
            if let Err(error) = self.save(&rounds.unsaved).await {
                return Ok(Err(error));
            }
            rounds.unsaved.clear();
        }
        let due = match self.due(shards, rounds).await {
            Ok(due) => due,
            Err(error) => return Ok(Err(error)),
        };
        if due.is_empty() {
            return Ok(Ok(()));
        }
        let Rounds { slice_entries, ref refused, .. } = *rounds;
        let road = Road { pool: &self.pool, channel, topology: &self.topology, slice_entries, refused };
        let Carried { moved, more, resting, journal, broker } = road.carry(due).await;
        if let Some(error) = broker {
            // Perhaps so much was too much for it: else it would be given the same again and again.
            rounds.slice_entries = (slice_entries / 4).max(1);
            return Err(error);
        }
        rounds.slice_entries = (slice_entries * 2).min(SLICE_ENTRIES_MAX);
        rounds.heard_at = Instant::now();
        moved.iter().for_each(|(merchant, _)| _ = rounds.refused.remove(merchant));
        rounds.rest(resting);
        rounds.more = more;
        rounds.unsaved = moved;
        if let Err(error) = self.save(&rounds.unsaved).await {
            return Ok(Err(error));
        }
        rounds.unsaved.clear();
        if let Some(error) = journal {
            return Ok(Err(error));
        }
        rounds.is_away = false;
        Ok(Ok(()))
    }

    async fn save(&self, moved: &[(MerchantId, Position)]) -> anyhow::Result<()> {
        if moved.is_empty() {
            return Ok(());
        }
        in_time(async { Ok(cursors::advance(&self.pool, moved).await?) }).await.context("moving the relay's cursors")
    }

    /// The journals whose turn it is: those that have more or are said to have moved, or at each look any.
    async fn due(&self, shards: Shards, rounds: &mut Rounds) -> anyhow::Result<Vec<Due>> {
        let resting = rounds.resting();
        if shards.is_empty() {
            rounds.more.clear();
            rounds.look_at = rounds.look_at.max(Instant::now() + LOOK_EVERY);
            return Ok(Vec::new());
        }
        if Instant::now() < rounds.look_at {
            let mut some = std::mem::take(&mut rounds.more);
            some.extend(self.moved.take_now(JOURNALS_MAX.saturating_sub(some.len())));
            some.retain(|merchant| shards.contains(shard_of(*merchant)) && !resting.contains(merchant));
            return if some.is_empty() { Ok(Vec::new()) } else { in_time(cursors::due_among(&self.pool, &some)).await };
        }
        rounds.more.clear(); // Or among those that are due, in their turn.
        let due = in_time(cursors::due(&self.pool, shards, &resting, JOURNALS_MAX as i64)).await?;
        let is_full = due.len() == JOURNALS_MAX;
        rounds.look_at = if is_full { Instant::now() } else { Instant::now() + LOOK_EVERY };
        Ok(due)
    }

    async fn consume_moved(&self, channel: &Channel) -> anyhow::Result<Consumer> {
        let queue = ShortString::from(format!("{}.{}", self.topology.moved, Uuid::new_v4()));
        self.topology.declare_moved(channel).await?;
        self.topology.declare_own_moved(channel, &queue).await?;
        consume(channel, &queue).await
    }

    async fn hear_moved(&self, mut consumer: Consumer) -> anyhow::Result<Infallible> {
        while let Some(delivery) = consumer.next().await {
            match serde_json::from_slice::<Vec<MerchantId>>(&delivery?.data) {
                Ok(merchants) => merchants.into_iter().take(NAMED_MAX).for_each(|it| self.moved.name(it)),
                Err(error) => debug!("Ignored a word about journals that have moved: {error}"),
            }
        }
        Err(anyhow!("the broker ended the subscription to words about journals"))
    }

    /// Wakes whoever serves subscribers: one node of all for each entry, who then looks whose turn it is.
    async fn hear_wake(&self, mut consumer: Consumer) -> anyhow::Result<Infallible> {
        #[derive(Deserialize)]
        struct Whose {
            merchant: MerchantId,
        }
        while let Some(delivery) = consumer.next().await {
            if let Ok(Whose { merchant }) = serde_json::from_slice(&delivery?.data) {
                self.woken.name(merchant);
            }
        }
        Err(anyhow!("the broker ended the subscription to what wakes subscribers"))
    }

    /// Shows how far the relay lags behind, until `stop`. Every node that relays does, whoever leads: when nobody does, it
    /// matters most.
    async fn tell_lag(&self, stop: &CancellationToken) {
        loop {
            let lags = in_time(async { cursors::lag(&mut *self.pool.acquire().await?).await }).await;
            for shard in 0..SHARDS {
                let of_shard = |lags: &Vec<(u8, Lag)>| lags.iter().find(|(of, _)| *of == shard).map(|(_, lag)| *lag);
                let unknown = Lag { entries: f64::NAN, seconds: f64::NAN };
                show(shard, lags.as_ref().map_or(unknown, |lags| of_shard(lags).unwrap_or_default()));
            }
            if let Err(error) = lags {
                debug!("Cannot say how far the relay lags: {error:#}");
            }
            if stop.run_until_cancelled(tokio::time::sleep(LAG_EVERY)).await.is_none() {
                return;
            }
        }
    }
}

/// What one round leaves for the next, also over another connection.
struct Rounds {
    /// Journals that have more, or are said to.
    more: Vec<MerchantId>,
    /// When all are looked at next.
    look_at: Instant,
    /// What is confirmed and not written down.
    unsaved: Vec<(MerchantId, Position)>,
    /// Journals that are left alone, and until when.
    resting: HashMap<MerchantId, Instant>,
    /// How often in a row an entry of these was refused.
    refused: HashMap<MerchantId, u32>,
    /// Whether one was refused in the last round.
    is_refused: bool,
    /// How many entries of a journal are under way at most. A broker that is too slow for so many is given fewer.
    slice_entries: u32,
    /// When the broker last confirmed something.
    heard_at: Instant,
    /// Whether the database does not answer.
    is_away: bool,
}

impl Rounds {
    fn new() -> Self {
        let now = Instant::now();
        let (more, unsaved, resting, refused) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
        let slice_entries = SLICE_ENTRIES_MAX;
        let (is_refused, is_away) = (false, false);
        Self { more, look_at: now, unsaved, resting, refused, is_refused, slice_entries, heard_at: now, is_away }
    }

    /// There is a broker, who has just answered. What was carried over an earlier connection may be due again.
    fn is_connected(&mut self) {
        (self.look_at, self.heard_at) = (Instant::now(), Instant::now());
    }

    fn is_idle(&self) -> bool {
        self.more.is_empty() && (self.unsaved.is_empty() || self.is_away)
    }

    fn rest(&mut self, resting: Vec<(MerchantId, Rest)>) {
        for (merchant, why) in resting {
            let (reason, pause) = match why {
                Rest::Refused => {
                    self.is_refused = true;
                    let times = self.refused.entry(merchant).or_default();
                    *times += 1;
                    ("refused", REFUSED_REST * 2_u32.pow((*times - 1).min(REFUSED_DOUBLINGS_MAX)))
                }
                Rest::Unreadable => ("unreadable", UNREADABLE_REST),
            };
            metrics::counter!("tillwire_relay_rests_total", "reason" => reason).increment(1);
            info!(%merchant, "A journal is not relayed for {pause:?}: {reason}");
            self.resting.insert(merchant, Instant::now() + pause);
        }
    }

    /// Who is left alone now.
    fn resting(&mut self) -> Vec<MerchantId> {
        self.resting.retain(|_, until| *until > Instant::now());
        self.resting.keys().copied().collect()
    }
}

/// A channel on which what is published is confirmed.
async fn open(wire: &Wire) -> anyhow::Result<Channel> {
    let channel = wire.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Without acknowledgements: what is lost is found by looking.
async fn consume(channel: &Channel, queue: &ShortString) -> anyhow::Result<Consumer> {
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    Ok(channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?)
}

/// What the database answers in time.
async fn in_time<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let answer = tokio::time::timeout(DATABASE_MAX, question).await;
    answer.with_context(|| format!("no answer within {DATABASE_MAX:?}"))?
}

fn show(shard: u8, lag: Lag) {
    metrics::gauge!("tillwire_relay_lag_entries", "shard" => shard.to_string()).set(lag.entries);
    metrics::gauge!("tillwire_relay_lag_seconds", "shard" => shard.to_string()).set(lag.seconds);
}
