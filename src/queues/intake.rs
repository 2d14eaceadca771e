//! Intake: takes messages from one queue, many at a time, and says to the broker what became of each when it has become so.
//!
//! A message is the broker's until then: whoever is killed, or loses the way there, loses nothing, and somebody else is given
//! it. What is put into another queue is acknowledged here when it is confirmed there, so it may be in both, and never in none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use secrecy::SecretString;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::headers::{self, Known};
use super::out::Out;
use super::topology::{DELIVERIES_MAX, HandlerQueue, PAUSES_SECONDS, Topology};
use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;

/// How many messages of a queue a node has at once.
pub const PREFETCH: u16 = 32;
/// How long what is under way may take to end when the node stops. Who does not end is given to somebody else.
const FINISH_MAX: Duration = Duration::from_secs(25);
/// A message that was given so often to somebody who never said what became of it is a suspect: perhaps he died of it.
const SUSPECT_DELIVERIES: u32 = 3;
/// Suspects are dealt with alone, and in an order of chance: or those who came with the one that kills would be taken for
/// killers, too.
const SUSPECT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A message.
#[derive(Debug)]
pub struct Taken {
    pub body: Vec<u8>,
    /// How often its handler has tried.
    pub attempts: u32,
    /// Whose it was and why it is here, of a dead letter.
    pub of: Option<String>,
    pub reason: Option<String>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done with.
    Done,
    /// It has had no turn: it comes again after the shortest pause, and this was no attempt.
    PutOff { reason: String },
    /// It is tried again, after the pause with this number in [`PAUSES_SECONDS`].
    Again { pause: usize, reason: String },
    /// It is a dead letter.
    Dead { reason: String },
}

/// What is taken from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Handler(HandlerQueue),
    /// The dead letters of all handlers.
    Dead,
}

pub struct Intake {
    nodes: Nodes,
    topology: Topology,
    /// All handlers, so that what one has put elsewhere is put where something is.
    handlers: &'static [HandlerQueue],
    source: Source,
    out: Arc<Out>,
}

/// What whoever deals with messages needs, and whether somebody is to be alone.
struct Desk {
    out: Arc<Out>,
    topology: Topology,
    source: Source,
    alone: RwLock<()>,
}

impl Intake {
    /// # Errors
    /// If a URL makes no sense. The broker need not be there.
    pub fn new(
        amqp_url: &SecretString,
        prefix: &str,
        handlers: &'static [HandlerQueue],
        source: Source,
    ) -> anyhow::Result<Self> {
        let (nodes, topology) = (Nodes::parse(amqp_url)?, Topology::new(prefix));
        let out = Arc::new(Out::new(nodes.clone(), topology.clone(), handlers));
        Ok(Self { nodes, topology, handlers, source, out })
    }

    /// Takes messages until `stop`, and does with each what `deal` says. Nothing is taken until `ready` says that it can be
    /// dealt with; where `deal` says that it cannot, all that is under way is given back.
    pub async fn run<D, F, R>(&self, stop: &CancellationToken, ready: impl Fn() -> R, deal: D)
    where
        D: Fn(Taken) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<Verdict>> + Send + 'static,
        R: Future<Output = anyhow::Result<()>>,
    {
        let (mut link, mut turn) = (Link::new("rabbitmq", self.task()), self.nodes.first_turn());
        loop {
            let node = self.nodes.at(turn);
            let taking = async {
                let Some(outcome) = stop.run_until_cancelled(ready()).await else { return Ok(()) };
                outcome?;
                let Some(wire) = stop.run_until_cancelled(Wire::dial(node, &self.name())).await else { return Ok(()) };
                let wire = wire?;
                let outcome = self.take_over(&wire, &mut link, stop, &deal).await;
                wire.close().await;
                outcome
            };
            let Err(error) = taking.await else { return };
            let pause = link.is_down(&error.context(amqp::place(node)));
            turn = turn.wrapping_add(1);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn task(&self) -> &'static str {
        match self.source {
            Source::Handler(handler) => handler.name,
            Source::Dead => "dead letters",
        }
    }

    /// As the broker shows the connection.
    fn name(&self) -> String {
        format!("tillwire: {}", self.task())
    }

    /// Takes messages over a connection until that is lost, or `stop`.
    async fn take_over<D, F>(
        &self,
        wire: &Wire,
        link: &mut Link,
        stop: &CancellationToken,
        deal: &D,
    ) -> anyhow::Result<()>
    where
        D: Fn(Taken) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = anyhow::Result<Verdict>> + Send + 'static,
    {
        let opening = link::within(CONNECT_MAX, self.open(wire));
        let Some(opened) = stop.run_until_cancelled(opening).await else { return Ok(()) };
        let (taking, asking, mut consumer) = opened?;
        link.is_up();
        let (out, topology, source) = (self.out.clone(), self.topology.clone(), self.source);
        let desk = Arc::new(Desk { out, topology, source, alone: RwLock::default() });
        let mut tasks = JoinSet::new();
        let taken = async {
            loop {
                tokio::select! {
                    delivery = consumer.next() => {
                        let delivery = delivery.context("the broker ended the subscription")??;
                        tasks.spawn(deal_with(desk.clone(), delivery, deal.clone()));
                    }
                    Some(ended) = tasks.join_next() => ended.context("dealing with a message")??,
                }
            }
        };
        let outcome = tokio::select! {
            outcome = taken => outcome,
            lost = link::watch(|| self.look(&asking)) => lost.map(|never| match never {}),
            () = stop.cancelled() => Ok(()),
        };
        // Nothing new, and what is under way to its end, also after a failure: what it has done outside is to be written down.
        // Whatever is not acknowledged then is given back with the connection.
        let tag = consumer.tag();
        let cancelled = link::answered(taking.basic_cancel(tag, BasicCancelOptions::default())).await;
        let finishing = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_MAX, finishing).await.is_err() {
            info!("Gives back {} messages of {}: they take too long to end", tasks.len(), self.task());
        }
        outcome.and(cancelled)
    }

    async fn open(&self, wire: &Wire) -> anyhow::Result<(Channel, Channel, Consumer)> {
        let (taking, asking) = (wire.channel().await?, wire.channel().await?);
        self.topology.declare(&asking, self.handlers).await?;
        taking.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = taking.basic_consume(self.queue(), "".into(), options, FieldTable::default()).await?;
        Ok((taking, asking, consumer))
    }

    fn queue(&self) -> ShortString {
        match self.source {
            Source::Handler(handler) => self.topology.of_handler(handler.name),
            Source::Dead => self.topology.dead.clone(),
        }
    }

    /// Sees whether the broker is there, and how much waits.
    async fn look(&self, channel: &Channel) -> anyhow::Result<()> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(self.queue(), options, FieldTable::default()).await?;
        if let Source::Handler(handler) = self.source {
            metrics::gauge!("tillwire_handler_backlog", "handler" => handler.name)
                .set(f64::from(queue.message_count()));
        }
        Ok(())
    }
}

async fn deal_with<D, F>(desk: Arc<Desk>, delivery: Delivery, deal: D) -> anyhow::Result<()>
where
    D: Fn(Taken) -> F + Send,
    F: Future<Output = anyhow::Result<Verdict>> + Send,
{
    let Delivery { data, properties, acker, .. } = delivery;
    let known = headers::read(&properties);
    // Of what the broker gave up, each time that it was given to somebody was one.
    let given = if known.given_up_in.is_some() { DELIVERIES_MAX.unsigned_abs() } else { 0 };
    let attempts = known.attempts + given;
    let dealing = async {
        let taken = Taken { body: data.clone(), attempts, of: desk.whose(&known), reason: desk.why(&known) };
        deal(taken).await
    };
    let verdict = if known.deliveries < SUSPECT_DELIVERIES {
        let _beside_others = desk.alone.read().await;
        dealing.await?
    } else {
        tokio::time::sleep(SUSPECT_PAUSE_MAX.mul_f64(fastrand::f64())).await;
        let _alone = desk.alone.write().await;
        dealing.await?
    };
    match &verdict {
        Verdict::Done => {}
        Verdict::PutOff { reason } => {
            let properties = headers::write(&properties, desk.handler()?, attempts, reason);
            desk.out.put(&desk.topology.again(desk.handler()?, PAUSES_SECONDS[0]), &data, &properties).await;
        }
        Verdict::Again { pause, reason } => {
            let pause_seconds = PAUSES_SECONDS[(*pause).min(PAUSES_SECONDS.len() - 1)];
            let properties = headers::write(&properties, desk.handler()?, attempts + 1, reason);
            desk.out.put(&desk.topology.again(desk.handler()?, pause_seconds), &data, &properties).await;
        }
        Verdict::Dead { reason } => {
            let properties = headers::write(&properties, desk.handler()?, attempts + 1, reason);
            desk.out.put(&desk.topology.dead, &data, &properties).await;
        }
    }
    ensure!(acker.ack(BasicAckOptions::default()).await?, "the broker has taken a message back");
    Ok(())
}

impl Desk {
    fn handler(&self) -> anyhow::Result<&'static str> {
        match self.source {
            Source::Handler(handler) => Ok(handler.name),
            Source::Dead => bail!("a dead letter cannot die"),
        }
    }

    /// Whose a dead letter is: as it says, or by the queue in which the broker gave it up.
    fn whose(&self, known: &Known) -> Option<String> {
        let given_up = known.given_up_in.as_deref().and_then(|queue| self.topology.handler_of(queue));
        given_up.map(str::to_owned).or_else(|| known.handler.clone())
    }

    fn why(&self, known: &Known) -> Option<String> {
        match &known.given_up_in {
            Some(_) => Some(
                "It was given to nodes again and again, and none said what became of it: they may die of it.".into(),
            ),
            None => known.reason.clone(),
        }
    }
}
