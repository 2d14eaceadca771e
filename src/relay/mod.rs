//! The relay: moves journal entries into RabbitMQ's durable exchange, in the order of each journal, and moves a journal's
//! cursor when the broker has confirmed them.
//!
//! Merchants are spread over [shards](shards::SHARDS), and each shard has one leader among the nodes that relay. Nothing is held
//! that is not in the journal: whoever is killed at any moment, and wherever a broker or the database breaks off, what
//! follows the cursor is published again. So entries arrive at least once, and after a change of leader perhaps out of
//! order; whoever takes them tells them by their positions.
//!
//! Looking is the truth: once a second, at the heads of all journals. A word from whoever [commits](herald) only makes it
//! sooner.

mod carry;
mod cursors;
pub mod herald;
mod lead;
pub mod message;
pub mod shards;
pub mod topology;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use tillwire_channels::MerchantId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use self::carry::{Fault, Road};
use self::cursors::{Due, Lag};
use self::herald::NAMED_MAX;
use self::shards::{SHARDS, Shards, shard_of};
use self::topology::Topology;
use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;
use crate::bus::Moved;
use crate::journal::pool;

/// How often all journals are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to say which have moved.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many journals are carried in one go. Others have their turn after them, those that have waited longest first.
const JOURNALS_MAX: usize = 64;
/// How often it is told how far the relay lags.
const LAG_EVERY: Duration = Duration::from_secs(5);
/// How long the database may take to say it.
const LAG_MAX: Duration = Duration::from_secs(5);
/// Cursors, journals read at the same time, and the lag; each waits for its turn.
const POOL_MAX: u32 = 6;
/// All that it takes of the database: those, and the one that leads.
pub const CONNECTIONS_MAX: u32 = POOL_MAX + 1;
/// How long what is under way may take to end when the node stops. What does not end is published again by the next leader.
const FINISH_MAX: Duration = Duration::from_secs(3);

pub struct Relay {
    /// As `tillwire_relay`, to PostgreSQL itself.
    database_url: SecretString,
    pool: PgPool,
    nodes: Nodes,
    topology: Topology,
    /// Journals that are said to have moved, here or elsewhere.
    moved: Arc<Moved>,
}

impl Relay {
    /// # Errors
    /// If a URL makes no sense. The database and the broker need not be there.
    pub fn new(
        database_url: SecretString,
        amqp_url: &SecretString,
        prefix: &str,
        moved: Arc<Moved>,
    ) -> anyhow::Result<Self> {
        let pool = pool::open(database_url.expose_secret(), POOL_MAX)
            .context("the database URL of the relay (--relay-database-url)")?;
        Ok(Self { database_url, pool, nodes: Nodes::parse(amqp_url)?, topology: Topology::new(prefix), moved })
    }

    /// Relays until `stop`, whatever is away meanwhile.
    pub async fn run(self, stop: CancellationToken) {
        let (leads, led) = watch::channel(Shards::NONE);
        // Whoever leads lets go of it when what is under way has ended, and not before.
        let ended = CancellationToken::new();
        let relaying = async {
            self.relay(&led, &stop).await;
            ended.cancel();
        };
        tokio::join!(
            lead::take_part(self.database_url.expose_secret(), &leads, &ended),
            self.tell_lag(&led, &stop),
            relaying
        );
        self.pool.close().await;
    }

    async fn relay(&self, led: &watch::Receiver<Shards>, stop: &CancellationToken) {
        let (mut link, mut turn) = (Link::new("rabbitmq", "relaying"), self.nodes.first_turn());
        loop {
            let node = self.nodes.at(turn);
            let Some(error) = self.relay_once(turn, &mut link, led.clone(), stop).await else { return };
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
        led: watch::Receiver<Shards>,
        stop: &CancellationToken,
    ) -> Option<anyhow::Error> {
        let dialling = Wire::dial(self.nodes.at(turn), "tillwire: relaying");
        let wire = match stop.run_until_cancelled(dialling).await? {
            Ok(wire) => wire,
            Err(error) => return Some(error),
        };
        let outcome = self.relay_over(&wire, link, led, stop).await;
        wire.close().await;
        outcome.err()
    }

    async fn relay_over(
        &self,
        wire: &Wire,
        link: &mut Link,
        led: watch::Receiver<Shards>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let (entries, moved) = link::within(CONNECT_MAX, async {
            let (entries, moved) = (wire.channel().await?, wire.channel().await?);
            self.topology.declare(&entries).await?;
            entries.confirm_select(ConfirmSelectOptions::default()).await?;
            let moved = self.consume_moved(&moved).await?;
            anyhow::Ok((entries, moved))
        })
        .await?;
        link.is_up();
        tokio::select! {
            outcome = self.carry_all(&entries, led, stop) => outcome,
            outcome = self.hear_moved(moved) => outcome.map(|never| match never {}),
            outcome = link::watch(|| is_there(&entries, &self.topology)) => outcome.map(|never| match never {}),
        }
    }

    /// Carries whatever is due in the shards that we lead, until `stop`.
    async fn carry_all(
        &self,
        channel: &Channel,
        mut led: watch::Receiver<Shards>,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let road = Road { pool: &self.pool, channel, topology: &self.topology };
        let (mut more, mut look_at): (Vec<MerchantId>, _) = (Vec::new(), Instant::now());
        let mut is_away = false;
        while !stop.is_cancelled() {
            if more.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep_until(look_at) => {}
                    some = self.moved.take(JOURNALS_MAX) => more = some,
                    changed = led.changed() => {
                        changed?;
                        look_at = Instant::now();
                    }
                }
            }
            let shards = *led.borrow_and_update();
            let carrying = async {
                let due = self.due(shards, &mut more, &mut look_at).await.map_err(Fault::Journal)?;
                road.carry(due).await
            };
            let stopped = async {
                stop.cancelled().await;
                tokio::time::sleep(FINISH_MAX).await;
            };
            let outcome = tokio::select! {
                outcome = carrying => outcome,
                () = stopped => return Ok(()),
            };
            match outcome {
                Ok(some) => {
                    more = some;
                    is_away = false;
                }
                Err(Fault::Broker(error)) => return Err(error),
                Err(Fault::Journal(error)) => {
                    if std::mem::replace(&mut is_away, true) {
                        debug!("The relay still waits for the database: {error:#}");
                    } else {
                        warn!("The relay waits for the database: {error:#}");
                    }
                    more.clear();
                    look_at = Instant::now() + LOOK_EVERY;
                }
            }
        }
        Ok(())
    }

    /// The journals whose turn it is: those that have `more` or are said to have moved, or at each look any.
    async fn due(&self, shards: Shards, more: &mut Vec<MerchantId>, look_at: &mut Instant) -> anyhow::Result<Vec<Due>> {
        if shards.is_empty() {
            more.clear();
            *look_at = (*look_at).max(Instant::now() + LOOK_EVERY);
            return Ok(Vec::new());
        }
        if Instant::now() < *look_at {
            more.extend(self.moved.take_now(JOURNALS_MAX.saturating_sub(more.len())));
            more.retain(|merchant| shards.contains(shard_of(*merchant)));
            let some = std::mem::take(more);
            return if some.is_empty() { Ok(Vec::new()) } else { within(cursors::due_among(&self.pool, &some)).await };
        }
        more.clear(); // Or among those that are due, in their turn.
        let due = within(cursors::due(&self.pool, shards, JOURNALS_MAX as i64)).await?;
        let is_full = due.len() == JOURNALS_MAX;
        *look_at = if is_full { Instant::now() } else { Instant::now() + LOOK_EVERY };
        Ok(due)
    }

    async fn consume_moved(&self, channel: &Channel) -> anyhow::Result<Consumer> {
        let queue = ShortString::from(format!("{}.{}", self.topology.moved, Uuid::new_v4()));
        self.topology.declare_moved(channel).await?;
        self.topology.declare_own_moved(channel, &queue).await?;
        // Without acknowledgements: what is lost is found by looking.
        let options = BasicConsumeOptions { exclusive: true, no_ack: true, ..Default::default() };
        Ok(channel.basic_consume(queue, "tillwire".into(), options, FieldTable::default()).await?)
    }

    async fn hear_moved(&self, mut consumer: Consumer) -> anyhow::Result<Infallible> {
        while let Some(delivery) = consumer.next().await {
            match serde_json::from_slice::<Vec<MerchantId>>(&delivery?.data) {
                Ok(merchants) => merchants.into_iter().take(NAMED_MAX).for_each(|it| self.moved.name(it)),
                Err(error) => debug!("Ignored a word about journals that have moved: {error}"),
            }
        }
        Err(anyhow!("the broker ended the subscription"))
    }

    /// Shows how far the shards that we lead lag behind, until `stop`.
    async fn tell_lag(&self, led: &watch::Receiver<Shards>, stop: &CancellationToken) {
        let mut shown = Shards::NONE;
        loop {
            let shards = *led.borrow();
            match tokio::time::timeout(LAG_MAX, self.lag(shards)).await {
                Ok(Ok(lags)) => {
                    for shard in 0..SHARDS {
                        let lag = lags.iter().find(|(of, _)| *of == shard).map(|(_, lag)| *lag).unwrap_or_default();
                        if shards.contains(shard) {
                            show(shard, lag);
                        } else if shown.contains(shard) {
                            // Another's now, who shows it.
                            show(shard, Lag { entries: f64::NAN, seconds: f64::NAN });
                        }
                    }
                    shown = shards;
                }
                Ok(Err(error)) => debug!("Cannot say how far the relay lags: {error:#}"),
                Err(_) => debug!("Cannot say how far the relay lags: no answer within {LAG_MAX:?}"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(LAG_EVERY)).await.is_none() {
                return;
            }
        }
    }

    async fn lag(&self, shards: Shards) -> anyhow::Result<Vec<(u8, Lag)>> {
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        cursors::lag(&mut *self.pool.acquire().await?, shards).await
    }
}

/// What the database answers in time.
async fn within<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    link::within(LOOK_MAX, question).await
}

fn show(shard: u8, lag: Lag) {
    metrics::gauge!("tillwire_relay_lag_entries", "shard" => shard.to_string()).set(lag.entries);
    metrics::gauge!("tillwire_relay_lag_seconds", "shard" => shard.to_string()).set(lag.seconds);
}

/// Asks whether the broker still has what we publish to, and with it the connection.
async fn is_there(channel: &Channel, topology: &Topology) -> anyhow::Result<()> {
    Ok(topology.declare_moved(channel).await?)
}
