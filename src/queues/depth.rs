//! How much is in the queues, for whoever asks.

use anyhow::Context as _;
use lapin::ErrorKind;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use secrecy::SecretString;

use super::topology::{HandlerQueue, PAUSES_SECONDS, Topology};
use crate::brokers::amqp::Nodes;
use crate::brokers::link::{self, ANSWER_MAX};
use crate::brokers::wire::Wire;

/// What is in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait, besides those that somebody is at.
    pub messages: u32,
    /// How many take from it.
    pub consumers: u32,
}

/// What the broker has for a handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfHandler {
    /// In its queue; none if there is no such queue.
    pub queue: Option<Depth>,
    /// How many wait for another attempt.
    pub again: u32,
}

/// What the broker has for each of these handlers, and how many dead letters nobody has taken down yet.
///
/// # Errors
/// If no node answers.
pub async fn ask(
    amqp_url: &SecretString,
    prefix: &str,
    handlers: &[HandlerQueue],
) -> anyhow::Result<(Vec<OfHandler>, u32)> {
    let (nodes, topology) = (Nodes::parse(amqp_url)?, Topology::new(prefix));
    let wire = nodes.come_in("tillwire: queues").await?;
    let mut of_handlers = Vec::with_capacity(handlers.len());
    for handler in handlers {
        let queue = of_queue(&wire, topology.of_handler(handler.name)).await?;
        let mut again = 0;
        for pause_seconds in PAUSES_SECONDS {
            let waiting = of_queue(&wire, topology.again(handler.name, pause_seconds)).await?;
            again += waiting.unwrap_or_default().messages;
        }
        of_handlers.push(OfHandler { queue, again });
    }
    let dead = of_queue(&wire, topology.dead.clone()).await?.unwrap_or_default().messages;
    wire.close().await;
    Ok((of_handlers, dead))
}

/// Nothing, if there is no such queue, which also ends the channel.
async fn of_queue(wire: &Wire, name: ShortString) -> anyhow::Result<Option<Depth>> {
    let channel = link::answered(wire.channel()).await?;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let asking = tokio::time::timeout(ANSWER_MAX, channel.queue_declare(name.clone(), options, FieldTable::default()));
    match asking.await.with_context(|| format!("{name}: no answer within {ANSWER_MAX:?}"))? {
        Ok(queue) => Ok(Some(Depth { messages: queue.message_count(), consumers: queue.consumer_count() })),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| name.to_string()),
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(refusal) = error.kind() else { return false };
    *refusal.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
}
