//! What the durable path has at RabbitMQ, all of it, declared by whoever connects.
//!
//! | name (after `tillwire.` and the hub's prefix) | is | for |
//! |---|---|---|
//! | `events` | durable topic exchange; the keys are types of events | every entry |
//! | `wake` | durable classic queue, bound to all of them, short, the oldest go first | subscribers: that there is something new. What it loses they find when they look |
//! | `moved` | transient fanout exchange | which journals have moved, from those who commit to those who relay |
//!
//! RabbitMQ refuses to declare anew what is there with other arguments: a change needs another name.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

/// What `wake` holds at most.
const WAKE_MESSAGES_MAX: i32 = 256;
const WAKE_BYTES_MAX: i32 = 4 * 1024 * 1024;
/// How many words about journals that have moved wait for a relay, and how long.
const MOVED_MESSAGES_MAX: i32 = 256;
const MOVED_AGE_MILLIS_MAX: i32 = 2_000;

/// The names that a hub uses.
#[derive(Clone, Debug)]
pub struct Topology {
    pub events: ShortString,
    pub wake: ShortString,
    pub moved: ShortString,
}

impl Topology {
    pub fn new(prefix: &str) -> Self {
        let name = |what: &str| ShortString::from(format!("tillwire.{prefix}{what}"));
        Self { events: name("events"), wake: name("wake"), moved: name("moved") }
    }

    /// Declares the exchanges that are not there.
    ///
    /// # Errors
    /// If the broker does not answer, or has something else under one of these names.
    pub async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel.exchange_declare(self.events.clone(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        self.declare_moved(channel).await
    }

    /// Declares the queue that takes every entry, and answers its name. It lives on one node of a cluster: while that is
    /// away, nobody can declare it, and we have one of our own. An error ends the channel.
    pub async fn declare_wake(&self, channel: &Channel, own: Option<&ShortString>) -> lapin::Result<ShortString> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        arguments.insert("x-max-length".into(), WAKE_MESSAGES_MAX.into());
        arguments.insert("x-max-length-bytes".into(), WAKE_BYTES_MAX.into());
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let (name, options) = match own {
            None => (self.wake.clone(), QueueDeclareOptions { durable: true, ..Default::default() }),
            Some(own) => {
                (own.clone(), QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() })
            }
        };
        channel.queue_declare(name.clone(), options, arguments).await?;
        self.bind(channel, &name, &self.events, "#").await?;
        Ok(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hubs_on_one_broker_share_no_name() {
        let (one, other) = (Topology::new(""), Topology::new("shop-7."));
        assert_eq!((one.events.as_str(), other.events.as_str()), ("tillwire.events", "tillwire.shop-7.events"));
        let names = |it: &Topology| [it.events.clone(), it.wake.clone(), it.moved.clone()];
        assert!(names(&one).iter().all(|name| !names(&other).contains(name)));
    }
}
