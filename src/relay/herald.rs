//! The herald: tells those who relay which journals have moved on this node. It saves them the time until they next look,
//! and nothing depends on it.

use std::convert::Infallible;
use std::sync::Arc;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio_util::sync::CancellationToken;

use crate::brokers::amqp::{self, Nodes};
use crate::brokers::link::{self, CONNECT_MAX, Link};
use crate::brokers::wire::Wire;
use crate::bus::{Brokers, Moved};
use crate::queues::moved;
use crate::queues::topology::Topology;

/// How many merchants one message names.
pub const NAMED_MAX: usize = 256;

pub struct Herald {
    nodes: Nodes,
    topology: Topology,
    /// The journals that move on this node.
    moved: Arc<Moved>,
}

impl Herald {
    /// One for these brokers, if entries are relayed by any of them.
    ///
    /// # Errors
    /// If a URL makes no sense.
    pub fn new(brokers: &Brokers, moved: impl FnOnce() -> Arc<Moved>) -> anyhow::Result<Option<Self>> {
        let Some(url) = &brokers.amqp_url else { return Ok(None) };
        let (nodes, topology) = (Nodes::parse(url)?, Topology::new(&brokers.prefix));
        Ok(Some(Self { nodes, topology, moved: moved() }))
    }

    /// Tells until `stop`. A broker that is away is tried again; what it is not told meanwhile is found without it.
    pub async fn run(self, stop: CancellationToken) {
        let (mut link, mut turn) = (Link::new("rabbitmq", "heralding"), self.nodes.first_turn());
        loop {
            let node = self.nodes.at(turn);
            let Some(Err(error)) = stop.run_until_cancelled(self.tell(&mut link, turn)).await else { return };
            let pause = link.is_down(&error.context(amqp::place(node)));
            turn = turn.wrapping_add(1);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn tell(&self, link: &mut Link, turn: usize) -> anyhow::Result<Infallible> {
        let wire = Wire::dial(self.nodes.at(turn), "tillwire: heralding").await?;
        let channel = link::within(CONNECT_MAX, async {
            let channel = wire.channel().await?;
            self.topology.declare_moved(&channel).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            moved::probe(&channel, &self.topology).await?;
            anyhow::Ok(channel)
        })
        .await?;
        link.is_up();
        tokio::select! {
            outcome = self.tell_over(&channel) => outcome,
            outcome = link::watch(|| moved::tell(&channel, &self.topology, &[])) => outcome,
        }
    }

    /// One message is under way at a time: whoever moves meanwhile is named in the next.
    async fn tell_over(&self, channel: &Channel) -> anyhow::Result<Infallible> {
        loop {
            let merchants = self.moved.take(NAMED_MAX).await;
            link::answered(moved::tell(channel, &self.topology, &merchants)).await?;
        }
    }
}
