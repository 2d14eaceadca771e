//! What the durable path has at RabbitMQ, all of it, declared by whoever connects.
//!
//! | name (after `tillwire.` and the hub's prefix) | is | for |
//! |---|---|---|
//! | `events` | durable topic exchange; the keys are types of events | every entry |
//! | `aside` | durable direct exchange; the keys are the names of queues | what is put from one queue into another: the broker's own exchange, which leads to every queue, is closed to a hub that may touch its own names alone |
//! | `wakes` | quorum queue, bound to all of them, short, the oldest go first | subscribers: that there is something new. What it loses they find when they look |
//! | `moved` | transient fanout exchange | which journals have moved, from those who commit to those who relay |
//! | `handler.{name}` | quorum queue, bound to the types that the handler hears. What was given to nodes [`DELIVERIES_MAX`] times and never taken goes to `dead` | a handler's entries |
//! | `handler.{name}.again.{seconds}` | quorum queues, one for each of [`PAUSES_SECONDS`]; what is so old goes back to `handler.{name}` | entries that a handler could not handle, until the next attempt |
//! | `dead` | quorum queue | entries that a handler will not handle, with the reason. Workers take them down in the database, where people find them |
//!
//! All of them are quorum queues: a classic one is at one node of a cluster, and while that is away the broker refuses whatever
//! is for it, which would hold up every journal.
//!
//! From one quorum queue to another nothing is lost: the first keeps it until the second has it (`at-least-once`). None of them
//! has a greatest length: a full one would hold up the journals for all. What is too much for the broker it refuses as a whole,
//! and it waits in the journals.
//!
//! RabbitMQ refuses to declare anew what is there with other arguments: a change needs another name.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

/// What `wakes` holds at most.
const WAKE_MESSAGES_MAX: i32 = 256;
const WAKE_BYTES_MAX: i32 = 4 * 1024 * 1024;
/// How often a broker gives an entry to nodes that never say what became of it: most likely they die of it.
pub const DELIVERIES_MAX: i32 = 20;
/// How long an entry waits that a handler could not handle, after the first attempt, the second, and so on.
pub const PAUSES_SECONDS: [u32; 5] = [5, 60, 10 * 60, 60 * 60, 6 * 60 * 60];
/// Of what only waits nothing is ever given up.
const ANY_DELIVERIES_MAX: i32 = 1_000_000;
/// How many words about journals that have moved wait for a relay, and how long.
const MOVED_MESSAGES_MAX: i32 = 256;
const MOVED_AGE_MILLIS_MAX: i32 = 2_000;

/// A handler, as the broker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandlerQueue {
    pub name: &'static str,
    /// The types of events that it is told.
    pub hears: &'static [&'static str],
}

/// The names that a hub uses.
#[derive(Clone, Debug)]
pub struct Topology {
    pub events: ShortString,
    pub wake: ShortString,
    pub moved: ShortString,
    pub dead: ShortString,
    pub aside: ShortString,
    /// How the names of handlers' queues begin.
    handler: String,
}

impl Topology {
    pub fn new(prefix: &str) -> Self {
        let name = |what: &str| ShortString::from(format!("tillwire.{prefix}{what}"));
        let handler = name("handler.").to_string();
        let (events, wake, moved) = (name("events"), name("wakes"), name("moved"));
        Self { events, wake, moved, dead: name("dead"), aside: name("aside"), handler }
    }

    /// The queue of a handler.
    pub fn of_handler(&self, handler: &str) -> ShortString {
        format!("{}{handler}", self.handler).into()
    }

    /// Where its entries wait for so long.
    pub fn again(&self, handler: &str, pause_seconds: u32) -> ShortString {
        format!("{}{handler}.again.{pause_seconds}", self.handler).into()
    }

    /// Whose queue this is.
    pub fn handler_of<'a>(&self, queue: &'a str) -> Option<&'a str> {
        queue.strip_prefix(&self.handler)
    }

    /// Declares the exchanges and queues that are not there, those of these handlers among them: whatever is published from then on comes to
    /// them.
    ///
    /// # Errors
    /// If the broker does not answer, or has something else under one of these names.
    pub async fn declare(&self, channel: &Channel, handlers: &[HandlerQueue]) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(self.events.clone(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(self.aside.clone(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        self.declare_moved(channel).await?;
        self.declare_wake(channel).await?;
        self.declare_dead(channel).await?;
        for handler in handlers {
            self.declare_handler(channel, handler).await?;
        }
        Ok(())
    }

    async fn declare_handler(&self, channel: &Channel, handler: &HandlerQueue) -> lapin::Result<()> {
        let name = self.of_handler(handler.name);
        for pause_seconds in PAUSES_SECONDS {
            let mut arguments = self.quorum_leading_to(&name, ANY_DELIVERIES_MAX);
            // In milliseconds.
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(i64::from(pause_seconds) * 1_000));
            self.declare_aside(channel, &self.again(handler.name, pause_seconds), arguments).await?;
        }
        self.declare_aside(channel, &name, self.quorum_leading_to(&self.dead, DELIVERIES_MAX)).await?;
        for kind in handler.hears {
            self.bind(channel, &name, &self.events, kind).await?;
        }
        Ok(())
    }

    async fn declare_dead(&self, channel: &Channel) -> lapin::Result<()> {
        self.declare_aside(channel, &self.dead, quorum(ANY_DELIVERIES_MAX)).await
    }

    /// Declares a queue that something is put into by its name.
    async fn declare_aside(&self, channel: &Channel, name: &ShortString, arguments: FieldTable) -> lapin::Result<()> {
        declare_durable(channel, name, arguments).await?;
        self.bind(channel, name, &self.aside, name.as_str()).await
    }

    /// One that gives what is over to another queue, and forgets it when that has it.
    fn quorum_leading_to(&self, queue: &ShortString, deliveries_max: i32) -> FieldTable {
        let mut arguments = quorum(deliveries_max);
        for (key, value) in [
            ("x-dead-letter-exchange", self.aside.as_str()),
            ("x-dead-letter-routing-key", queue.as_str()),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"), // Which the strategy wants.
        ] {
            arguments.insert(key.into(), AMQPValue::LongString(value.into()));
        }
        arguments
    }

    async fn declare_wake(&self, channel: &Channel) -> lapin::Result<()> {
        let mut arguments = quorum(ANY_DELIVERIES_MAX);
        arguments.insert("x-max-length".into(), WAKE_MESSAGES_MAX.into());
        arguments.insert("x-max-length-bytes".into(), WAKE_BYTES_MAX.into());
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        declare_durable(channel, &self.wake, arguments).await?;
        self.bind(channel, &self.wake, &self.events, "#").await
    }

    /// The exchange alone that says which journals have moved.
    pub async fn declare_moved(&self, channel: &Channel) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions::default();
        channel.exchange_declare(self.moved.clone(), ExchangeKind::Fanout, options, FieldTable::default()).await
    }

    /// A queue of our own for words about journals that have moved.
    pub async fn declare_own_moved(&self, channel: &Channel, name: &ShortString) -> lapin::Result<()> {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), MOVED_MESSAGES_MAX.into());
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        arguments.insert("x-message-ttl".into(), MOVED_AGE_MILLIS_MAX.into());
        channel.queue_declare(name.clone(), options, arguments).await?;
        self.bind(channel, name, &self.moved, "").await
    }

    async fn bind(
        &self,
        channel: &Channel,
        queue: &ShortString,
        exchange: &ShortString,
        key: &str,
    ) -> lapin::Result<()> {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), exchange.clone(), key.into(), options, FieldTable::default()).await
    }
}

fn quorum(deliveries_max: i32) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), deliveries_max.into());
    arguments
}

async fn declare_durable(channel: &Channel, name: &ShortString, arguments: FieldTable) -> lapin::Result<()> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name.clone(), options, arguments).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hubs_on_one_broker_share_no_name() {
        let (one, other) = (Topology::new(""), Topology::new("shop-7."));
        assert_eq!((one.events.as_str(), other.events.as_str()), ("tillwire.events", "tillwire.shop-7.events"));
        let names = |it: &Topology| {
            [
                it.events.clone(),
                it.wake.clone(),
                it.moved.clone(),
                it.dead.clone(),
                it.of_handler("push"),
                it.again("push", 5),
            ]
        };
        assert!(names(&one).iter().all(|name| !names(&other).contains(name)));
        assert_eq!(
            (one.handler_of("tillwire.handler.push"), other.handler_of("tillwire.handler.push")),
            (Some("push"), None)
        );
    }
}
