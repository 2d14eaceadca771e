//! RabbitMQ: a direct exchange, and for each node a queue of its own. One connection publishes, another listens.
//!
//! Of a cluster, several nodes may be named: when one is away, another has its turn. The exchange is the same on all of
//! them, and a queue lives and dies with the node that its listener is connected to.
//!
//! A merchant's entries carry one of 256 routing keys. A key for each merchant would make a node deaf for seconds after
//! a reconnect, since a broker binds about a thousand keys a second.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Consumer, ExchangeKind};
use secrecy::SecretString;
use tillwire_channels::MerchantId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ear::Ear;
use super::pipeline::{self, Sent};
use super::{Bus, Carried, Ends, Interest, PASS_INTERVAL, codec};
use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;

/// What a node's queue holds at most; beyond it the oldest go first, and the feeds read the journal instead.
const QUEUE_MESSAGES_MAX: i32 = 8_192;
const QUEUE_BYTES_MAX: i32 = 32 * 1024 * 1024;
/// How old a message may get in a node's queue. The feeds have long healed by then.
const MESSAGE_AGE_MAX: Duration = Duration::from_secs(5);
/// How many messages may be on their way to a node that it has not acknowledged.
const PREFETCH_MESSAGES: u16 = 256;
/// How often keys that nobody needs any more are unbound. Not at once: a merchant who leaves is often back soon, and a
/// binding costs the broker a transaction.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// A routing key that nobody binds: what is published with it only shows that the broker takes and confirms.
const PROBE_KEY: &str = "probe";
/// Messages that need not survive a broker.
const TRANSIENT: u8 = 1;

pub struct RabbitMq {
    pub(super) nodes: Nodes,
    exchange: ShortString,
}

impl RabbitMq {
    /// # Errors
    /// If these are no URLs of a RabbitMQ. The message does not repeat them: they hold a password.
    pub fn new(list: &SecretString, prefix: &str) -> anyhow::Result<Self> {
        Ok(Self { nodes: Nodes::parse(list)?, exchange: format!("tillwire.{prefix}live").into() })
    }

    async fn publish(&self, mut outgoing: mpsc::Receiver<Carried>, stop: &CancellationToken) {
        let (mut link, mut turn) = (Link::new(Self::NAME, "publishing"), self.nodes.first_turn());
        while let Some(error) = self.publish_once(self.nodes.at(turn), &mut link, &mut outgoing, stop).await {
            let pause = tokio::time::sleep(link.is_down(&error.context(amqp::place(self.nodes.at(turn)))));
            turn = turn.wrapping_add(1);
            let pause = pipeline::discard_until(Self::NAME, &mut outgoing, pause);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Publishes until the connection is lost, and says why; or until told to stop.
    async fn publish_once(
        &self,
        node: &AMQPUri,
        link: &mut Link,
        outgoing: &mut mpsc::Receiver<Carried>,
        stop: &CancellationToken,
    ) -> Option<anyhow::Error> {
        let dialling = pipeline::discard_until(Self::NAME, outgoing, Wire::dial(node, "tillwire: publishing"));
        let wire = match stop.run_until_cancelled(dialling).await? {
            Ok(wire) => wire,
            Err(error) => return Some(error),
        };
        let outcome = stop.run_until_cancelled(self.publish_over(&wire, link, outgoing)).await;
        wire.close().await;
        outcome.and_then(Result::err)
    }

    async fn publish_over(
        &self,
        wire: &Wire,
        link: &mut Link,
        outgoing: &mut mpsc::Receiver<Carried>,
    ) -> anyhow::Result<Infallible> {
        let channel = link::within(CONNECT_MAX, self.publishing_channel(wire));
        let channel = pipeline::discard_until(Self::NAME, outgoing, channel).await?;
        link.is_up();
        tokio::select! {
            outcome = pipeline::publish(link, outgoing, |carried| self.send(&channel, carried)) => outcome,
            outcome = link::watch(|| self.probe(&channel)) => outcome,
        }
    }

    async fn publishing_channel(&self, wire: &Wire) -> anyhow::Result<Channel> {
        let channel = wire.channel().await?;
        self.declare_exchange(&channel).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        // A broker that is short of memory or disk accepts a connection and its first message, and then blocks it.
        self.probe(&channel).await?;
        self.probe(&channel).await?;
        Ok(channel)
    }

    /// It is refused for all if it cannot be brought to one, as while the node of a cluster dies that his queue is on.
    async fn send(&self, channel: &Channel, carried: Carried) -> anyhow::Result<Sent> {
        self.publish_confirmed(channel, routing_key(bucket(carried.merchant())), &codec::encode(&carried)?).await
    }

    async fn probe(&self, channel: &Channel) -> anyhow::Result<()> {
        match self.publish_confirmed(channel, PROBE_KEY.into(), b"").await? {
            Sent::Taken => Ok(()),
            Sent::Refused => Err(anyhow!("the broker did not take a message that is for nobody")),
        }
    }

    /// Publishes a message and waits until the broker has taken it, which costs no hearer any time.
    async fn publish_confirmed(&self, channel: &Channel, key: ShortString, message: &[u8]) -> anyhow::Result<Sent> {
        let properties = BasicProperties::default().with_delivery_mode(TRANSIENT);
        // Not mandatory: that nobody listens is no fault.
        let options = BasicPublishOptions::default();
        let confirm = channel.basic_publish(self.exchange.clone(), key, options, message, properties).await?;
        match confirm.await? {
            Confirmation::Ack(_) => Ok(Sent::Taken),
            Confirmation::Nack(_) => Ok(Sent::Refused),
            Confirmation::NotRequested => Err(anyhow!("the broker confirms nothing")),
        }
    }

    async fn listen(&self, ear: &Ear, stop: &CancellationToken) {
        let (mut link, mut turn) = (Link::new(Self::NAME, "listening"), self.nodes.first_turn());
        while let Some(error) = self.listen_once(self.nodes.at(turn), &mut link, ear, stop).await {
            let pause = tokio::time::sleep(link.is_down(&error.context(amqp::place(self.nodes.at(turn)))));
            turn = turn.wrapping_add(1);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Listens until the connection is lost, and says why; or until told to stop.
    async fn listen_once(
        &self,
        node: &AMQPUri,
        link: &mut Link,
        ear: &Ear,
        stop: &CancellationToken,
    ) -> Option<anyhow::Error> {
        let wire = match stop.run_until_cancelled(Wire::dial(node, "tillwire: listening")).await? {
            Ok(wire) => wire,
            Err(error) => return Some(error),
        };
        let outcome = stop.run_until_cancelled(self.listen_over(&wire, link, ear)).await;
        wire.close().await;
        outcome.and_then(Result::err)
    }

    async fn listen_over(&self, wire: &Wire, link: &mut Link, ear: &Ear) -> anyhow::Result<Infallible> {
        // What arrives does not wait for bindings: they have a channel of their own.
        let (deliveries, bindings) = link::within(CONNECT_MAX, async {
            let (deliveries, bindings) = (wire.channel().await?, wire.channel().await?);
            self.declare_exchange(&bindings).await?;
            anyhow::Ok((deliveries, bindings))
        })
        .await?;
        let queue = link::answered(self.declare_queue(&bindings)).await?;
        let consumer = link::answered(consume(&deliveries, &queue)).await?;
        tokio::select! {
            outcome = hear(&deliveries, consumer, ear) => outcome,
            outcome = self.follow(link, &bindings, &queue, &ear.interest) => outcome,
            outcome = link::watch(|| exists(&bindings, &queue)) => outcome,
        }
    }

    async fn declare_exchange(&self, channel: &Channel) -> anyhow::Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let arguments = FieldTable::default();
        Ok(channel.exchange_declare(self.exchange.clone(), ExchangeKind::Direct, options, arguments).await?)
    }

    /// A queue that only this connection sees and that goes with it. Its name is new each time: after a half-open
    /// connection the broker may not know yet that the old one is gone.
    async fn declare_queue(&self, channel: &Channel) -> anyhow::Result<ShortString> {
        let name = ShortString::from(format!("{}.{}", self.exchange, Uuid::new_v4()));
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), QUEUE_MESSAGES_MAX.into());
        arguments.insert("x-max-length-bytes".into(), QUEUE_BYTES_MAX.into());
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        arguments.insert("x-message-ttl".into(), (MESSAGE_AGE_MAX.as_millis() as i32).into());
        channel.queue_declare(name.clone(), options, arguments).await?;
        Ok(name)
    }

    /// Binds the keys that the merchants of interest need, whoever they are by and by.
    async fn follow(
        &self,
        link: &mut Link,
        channel: &Channel,
        queue: &ShortString,
        interest: &Interest,
    ) -> anyhow::Result<Infallible> {
        let mut changes = interest.changes();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut bound = BTreeSet::new();
        let mut is_up = false;
        loop {
            changes.mark_unchanged(); // Before looking, so that a change meanwhile brings another pass.
            let wanted: BTreeSet<u8> = interest.merchants().into_iter().map(bucket).collect();
            let missing: Vec<u8> = wanted.difference(&bound).copied().collect();
            // All at once, so that a distant broker costs one round trip and not 256.
            link::within(CONNECT_MAX, try_join_all(missing.iter().map(|key| self.bind(channel, queue, *key)))).await?;
            bound.extend(missing);
            if !std::mem::replace(&mut is_up, true) {
                link.is_up();
            }
            tokio::time::sleep(PASS_INTERVAL).await;
            tokio::select! {
                changed = changes.changed() => changed?,
                _ = sweep.tick() => {
                    let idle: Vec<u8> = bound.difference(&wanted).copied().collect();
                    link::within(CONNECT_MAX, try_join_all(idle.iter().map(|key| self.unbind(channel, queue, *key)))).await?;
                    bound.retain(|key| !idle.contains(key));
                }
            }
        }
    }

    async fn bind(&self, channel: &Channel, queue: &ShortString, bucket: u8) -> lapin::Result<()> {
        let (exchange, key) = (self.exchange.clone(), routing_key(bucket));
        channel.queue_bind(queue.clone(), exchange, key, QueueBindOptions::default(), FieldTable::default()).await
    }

    async fn unbind(&self, channel: &Channel, queue: &ShortString, bucket: u8) -> lapin::Result<()> {
        let (exchange, key) = (self.exchange.clone(), routing_key(bucket));
        channel.queue_unbind(queue.clone(), exchange, key, FieldTable::default()).await
    }
}

impl Bus for RabbitMq {
    const NAME: &'static str = "rabbitmq";

    async fn run(self, ends: Ends) {
        let Ends { outgoing, heard, interest, stop } = ends;
        let ear = Ear { bus: Self::NAME, heard, interest };
        tokio::join!(self.publish(outgoing, &stop), self.listen(&ear, &stop));
    }
}

async fn consume(channel: &Channel, queue: &ShortString) -> anyhow::Result<Consumer> {
    channel.basic_qos(PREFETCH_MESSAGES, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    Ok(channel.basic_consume(queue.clone(), "tillwire".into(), options, FieldTable::default()).await?)
}

/// Hands on what is delivered. It is acknowledged, so that what waits for a slow node waits at the broker, within the
/// queue's bounds, and not here.
async fn hear(channel: &Channel, consumer: Consumer, ear: &Ear) -> anyhow::Result<Infallible> {
    let mut bursts = consumer.ready_chunks(usize::from(PREFETCH_MESSAGES) / 2);
    while let Some(burst) = bursts.next().await {
        let mut last = None;
        for delivery in burst {
            let delivery = delivery?;
            ear.hear(&delivery.data);
            last = Some(delivery.delivery_tag);
        }
        if let Some(last) = last {
            channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        }
    }
    Err(anyhow!("the broker ended the subscription"))
}

/// Asks whether the queue is still there, and with it the connection.
async fn exists(channel: &Channel, queue: &ShortString) -> anyhow::Result<()> {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
    Ok(())
}

/// Which of the 256 keys a merchant's entries carry. All nodes must agree, so this never changes.
fn bucket(merchant: MerchantId) -> u8 {
    merchant.0.as_bytes().iter().fold(0, |folded, byte| folded ^ byte)
}

fn routing_key(bucket: u8) -> ShortString {
    format!("{bucket:02x}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merchants_spread_over_all_keys() {
        let buckets: BTreeSet<u8> = (0..10_000).map(|_| bucket(MerchantId::new())).collect();
        assert_eq!(buckets.len(), 256);
        assert_eq!((routing_key(0).as_str(), routing_key(255).as_str()), ("00", "ff"));
    }

    #[test]
    fn a_merchants_key_never_changes() {
        let merchant = MerchantId("0192d3a4-5b6c-7d8e-9fa0-b1c2d3e4f506".parse().unwrap());
        assert_eq!(routing_key(bucket(merchant)).as_str(), "a8");
    }
}
