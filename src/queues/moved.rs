//! Words about journals that have moved, from those who commit to those who relay. A word that names none shows that the broker
//! takes and confirms.

use anyhow::ensure;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel};
use tillwire_channels::MerchantId;

use super::topology::Topology;

/// Says which have moved, over a channel that confirms.
pub async fn tell(channel: &Channel, topology: &Topology, merchants: &[MerchantId]) -> anyhow::Result<()> {
    let body = serde_json::to_vec(merchants)?;
    let options = BasicPublishOptions::default(); // Not mandatory: that nobody relays is no fault of ours.
    let exchange = topology.moved.clone();
    let confirm = channel.basic_publish(exchange, "".into(), options, &body, BasicProperties::default()).await?;
    ensure!(confirm.await?.is_ack(), "the broker refused a message");
    Ok(())
}

/// Shows that a broker takes and confirms. One that is short of memory or disk accepts a connection and its first message, and
/// then blocks it.
pub async fn probe(channel: &Channel, topology: &Topology) -> anyhow::Result<()> {
    tell(channel, topology, &[]).await?;
    tell(channel, topology, &[]).await
}
