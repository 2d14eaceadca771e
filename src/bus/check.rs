//! Checking a broker: does it let us in, and do entries that we publish come back to us?
//!
//! An entry of a merchant whom nobody knows goes out and comes back by the very code that a node runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tillwire_channels::{MerchantId, Moment, Tag};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rabbitmq::RabbitMq;
use super::redis::{Cluster, Redis};
use super::{Brokers, Bus, Carried, Ends, Interest, QUEUE_BYTES_MAX, Queue};
use crate::journal::{Committed, Entry, chain};

/// How long to wait for an entry before another is sent: the first may be published before we listen.
const AGAIN_INTERVAL: Duration = Duration::from_millis(100);

/// What was found of a broker that carries.
pub struct Carries {
    /// How long an entry took, from when we began to connect; at a Redis Cluster the last of one by each master.
    pub took: Duration,
    /// The masters of a Redis Cluster.
    pub masters: Option<usize>,
    /// What somebody should look at.
    pub doubts: Vec<String>,
}

/// Whether Redis carries; none if there is none to be checked.
///
/// # Errors
/// If the URL makes no sense or we are not let in. It waits for as long as the entry does not come back.
pub async fn redis(brokers: &Brokers) -> anyhow::Result<Option<Carries>> {
    let Some(url) = &brokers.redis_url else { return Ok(None) };
    if brokers.redis_cluster {
        let cluster = Cluster::new(url, &brokers.prefix)?;
        let merchants = cluster.greet().await?;
        let masters = Some(merchants.len());
        return Ok(Some(Carries { took: round_trip(cluster, &merchants).await, masters, doubts: vec![] }));
    }
    let redis = Redis::new(url, &brokers.prefix)?;
    let is_of_cluster = redis.greet().await?;
    let took = round_trip(redis, &[MerchantId::new()]).await;
    let doubt = "it is a node of a Redis Cluster, which carries every entry to every other node: --redis-cluster";
    let doubts = if is_of_cluster { vec![doubt.to_owned()] } else { vec![] };
    Ok(Some(Carries { took, masters: None, doubts }))
}

/// The same by RabbitMQ.
///
/// # Errors
/// As for Redis.
pub async fn rabbitmq(brokers: &Brokers) -> anyhow::Result<Option<Carries>> {
    let Some(url) = &brokers.amqp_url else { return Ok(None) };
    let rabbitmq = RabbitMq::new(url, &brokers.prefix)?;
    let doubts = rabbitmq.nodes.greet().await?.iter().map(|failure| format!("{failure:#}")).collect();
    Ok(Some(Carries { took: round_trip(rabbitmq, &[MerchantId::new()]).await, masters: None, doubts }))
}

/// How long it takes until an entry of each of these merchants has come back.
async fn round_trip<B: Bus>(bus: B, merchants: &[MerchantId]) -> Duration {
    let (started, stop) = (Instant::now(), CancellationToken::new());
    let interest = Arc::new(Interest::default());
    let mut missing = HashMap::new();
    for merchant in merchants {
        interest.begin(*merchant);
        missing.insert(*merchant, first_entry(*merchant));
    }
    let (sender, outgoing) = mpsc::channel(merchants.len());
    let (heard_in, mut heard) = Queue::new(merchants.len(), QUEUE_BYTES_MAX);
    let running = bus.run(Ends { outgoing, heard: heard_in, interest, stop: stop.clone() });
    let travelling = async {
        loop {
            for entry in missing.values() {
                // Full as long as the bus is not connected.
                let _ = sender.try_send(Carried::Entry(Committed::now(entry.clone()).into()));
            }
            while let Ok(Some(carried)) = tokio::time::timeout(AGAIN_INTERVAL, heard.recv()).await {
                missing.remove(&carried.merchant());
                if missing.is_empty() {
                    stop.cancel();
                    return started.elapsed();
                }
            }
        }
    };
    tokio::join!(running, travelling).1
}

fn first_entry(merchant: MerchantId) -> Arc<Entry> {
    let events = "[]";
    let tag = chain::tag(Tag::GENESIS, merchant, 1, events);
    Arc::new(Entry::new(merchant, 1, Tag::GENESIS, tag, Moment::now_utc(), events.into()))
}
