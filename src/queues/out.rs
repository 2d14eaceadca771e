//! The way out: puts messages into queues, over a connection of its own. A broker that is short of memory or disk says nothing
//! any more to whoever publishes; whoever only takes from it goes on.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Mutex;
use tracing::debug;

use super::moved;
use super::topology::{HandlerQueue, Topology};
use crate::brokers::amqp::Nodes;
use crate::brokers::link;
use crate::brokers::wire::Wire;

/// How long the broker may take to confirm a message, or to let us in first.
const CONFIRM_MAX: Duration = Duration::from_secs(10);
/// How long after a failure it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub struct Out {
    nodes: Nodes,
    topology: Topology,
    handlers: &'static [HandlerQueue],
    /// Made when it is first needed.
    line: Mutex<Option<Line>>,
}

struct Line {
    channel: Channel,
    /// Whose end ends the channel.
    _wire: Wire,
}

impl Out {
    pub fn new(nodes: Nodes, topology: Topology, handlers: &'static [HandlerQueue]) -> Self {
        Self { nodes, topology, handlers, line: Mutex::default() }
    }

    /// Puts a message into a queue, and returns when it is there, however long that takes.
    ///
    /// One at a time: that a message is given back, which no queue takes, is told with whichever confirmation comes next.
    pub async fn put(&self, queue: &ShortString, body: &[u8], properties: &BasicProperties) {
        loop {
            let mut line = self.line.lock().await;
            let putting = self.put_over(&mut line, queue, body, properties);
            let Err(error) = link::within(CONFIRM_MAX, putting).await else { return };
            *line = None;
            drop(line);
            debug!("A message is not in {queue} yet: {error:#}");
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn put_over(
        &self,
        line: &mut Option<Line>,
        queue: &ShortString,
        body: &[u8],
        properties: &BasicProperties,
    ) -> anyhow::Result<()> {
        let channel = match line {
            Some(line) => &line.channel,
            None => &line.insert(self.open().await?).channel,
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let confirm = channel
            .basic_publish(self.topology.aside.clone(), queue.clone(), options, body, properties.clone())
            .await?;
        match confirm.await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(anyhow!("the broker did not take it: {other:?}")),
        }
    }

    async fn open(&self) -> anyhow::Result<Line> {
        let wire = Wire::dial(self.nodes.at(self.nodes.first_turn()), "tillwire: putting aside").await?;
        let channel = wire.channel().await?;
        // What it is put into may be gone.
        self.topology.declare(&channel, self.handlers).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        moved::probe(&channel, &self.topology).await?;
        ensure!(channel.status().connected(), "the broker has closed the channel");
        Ok(Line { channel, _wire: wire })
    }
}
