//! Intake: takes messages from one queue, many at a time, and says to the broker what became of each when it has become so.
//!
//! A message is the broker's until then: whoever is killed, or loses the way there, loses nothing, and somebody else is given
//! it. What is put into another queue is acknowledged here when it is confirmed there, so it may be in both, and never in none.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer};
use secrecy::SecretString;
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::headers::{self, Known};
use super::topology::{HandlerQueue, PAUSES_SECONDS, Topology};
use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;

/// How many messages of a queue a node has at once.
pub const PREFETCH: u16 = 32;
/// How long what is under way may take to end when the node stops. Who does not end is given to somebody else.
const FINISH_MAX: Duration = Duration::from_secs(25);
/// How long the broker may take to confirm what is put into another queue.
const CONFIRM_MAX: Duration = Duration::from_secs(10);
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
}

/// What a message is put into another queue over, and whether somebody is to be alone.
struct Desk {
    out: Channel,
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
        Ok(Self { nodes: Nodes::parse(amqp_url)?, topology: Topology::new(prefix), handlers, source })
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
        let (out, taking, mut consumer) = opened?;
        link.is_up();
        let desk = Arc::new(Desk {
            out: out.clone(),
            topology: self.topology.clone(),
            source: self.source,
            alone: RwLock::default(),
        });
        let mut tasks = JoinSet::new();
        let watching = link::watch(|| self.ping(&out));
        tokio::pin!(watching);
        loop {
            tokio::select! {
                delivery = consumer.next() => {
                    let delivery = delivery.context("the broker ended the subscription")??;
                    tasks.spawn(deal_with(desk.clone(), delivery, deal.clone()));
                }
                Some(ended) = tasks.join_next() => ended.context("dealing with a message")??,
                lost = &mut watching => lost.map(|never| match never {})?,
                () = stop.cancelled() => break,
            }
        }
        // Nothing new, and what is under way to its end. What is given up is given back with the connection.
        let tag = consumer.tag();
        link::answered(taking.basic_cancel(tag, BasicCancelOptions::default())).await?;
        let finishing = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_MAX, finishing).await.is_err() {
            info!("Gives back {} messages of {}: they take too long to end", tasks.len(), self.task());
        }
        Ok(())
    }

    async fn open(&self, wire: &Wire) -> anyhow::Result<(Channel, Channel, Consumer)> {
        let (out, taking) = (wire.channel().await?, wire.channel().await?);
        self.topology.declare(&out, self.handlers).await?;
        out.confirm_select(ConfirmSelectOptions::default()).await?;
        taking.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let queue = match self.source {
            Source::Handler(handler) => self.topology.of_handler(handler.name),
            Source::Dead => self.topology.dead.clone(),
        };
        let options = BasicConsumeOptions::default();
        let consumer = taking.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        Ok((out, taking, consumer))
    }

    /// Shows that the broker is there: an answer to a question that changes nothing.
    async fn ping(&self, channel: &Channel) -> anyhow::Result<()> {
        Ok(self.topology.declare_moved(channel).await?)
    }
}

async fn deal_with<D, F>(desk: Arc<Desk>, delivery: Delivery, deal: D) -> anyhow::Result<()>
where
    D: Fn(Taken) -> F + Send,
    F: Future<Output = anyhow::Result<Verdict>> + Send,
{
    let Delivery { data, properties, acker, .. } = delivery;
    let known = headers::read(&properties);
    let attempts = known.attempts;
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
        Verdict::Again { pause, reason } => {
            let (handler, pause) = (desk.handler()?, PAUSES_SECONDS[(*pause).min(PAUSES_SECONDS.len() - 1)]);
            let properties = headers::write(&properties, handler, attempts + 1, reason);
            desk.put(desk.topology.again(handler, pause), &data, properties).await?;
        }
        Verdict::Dead { reason } => {
            let properties = headers::write(&properties, desk.handler()?, attempts + 1, reason);
            desk.put(desk.topology.dead.clone(), &data, properties).await?;
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

    /// Puts a message into a queue, and waits until it is there.
    async fn put(&self, queue: ShortString, body: &[u8], properties: BasicProperties) -> anyhow::Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let putting = async {
            let confirm = self.out.basic_publish("".into(), queue.clone(), options, body, properties).await?;
            anyhow::Ok(confirm.await?)
        };
        match link::within(CONFIRM_MAX, putting).await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(anyhow!("the broker did not take a message for {queue}: {other:?}")),
        }
    }
}
