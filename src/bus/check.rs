//! Checking a broker: does it let us in, and do entries that we publish come back to us?
//!
//! An entry of a merchant whom nobody knows goes out and comes back by the very code that a node runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tillwire_channels::{MerchantId, Moment, Tag};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::rabbitmq::RabbitMq;
use super::redis::Redis;
use super::{Brokers, Bus, Carried, Ends, Interest};
use crate::journal::{Entry, chain};

/// How long to wait for an entry before another is sent: the first may be published before we listen.
const AGAIN_INTERVAL: Duration = Duration::from_millis(100);

/// How long an entry took by Redis, from when we began to connect; none if there is none to be checked.
///
/// # Errors
/// If the URL makes no sense or we are not let in. It waits for as long as the entry does not come back.
pub async fn redis(brokers: &Brokers) -> anyhow::Result<Option<Duration>> {
    let Some(url) = &brokers.redis_url else { return Ok(None) };
    let redis = Redis::new(url, &brokers.prefix)?;
    redis.greet().await?;
    Ok(Some(round_trip(redis).await))
}

/// The same by RabbitMQ.
///
/// # Errors
/// As for Redis.
pub async fn rabbitmq(brokers: &Brokers) -> anyhow::Result<Option<Duration>> {
    let Some(url) = &brokers.amqp_url else { return Ok(None) };
    let rabbitmq = RabbitMq::new(url, &brokers.prefix)?;
    rabbitmq.greet().await?;
    Ok(Some(round_trip(rabbitmq).await))
}

async fn round_trip<B: Bus>(bus: B) -> Duration {
    let (started, stop) = (Instant::now(), CancellationToken::new());
    let (merchant, events) = (MerchantId::new(), "[]");
    let tag = chain::tag(Tag::GENESIS, merchant, 1, events);
    let entry = Arc::new(Entry::new(merchant, 1, Tag::GENESIS, tag, Moment::now_utc(), events.into()));
    let interest = Arc::new(Interest::default());
    interest.begin(merchant);
    let (sender, outgoing) = mpsc::channel(1);
    let (heard_in, mut heard) = mpsc::channel(1);
    let running = bus.run(Ends { outgoing, heard: heard_in, interest, stop: stop.clone() });
    let travelling = async {
        loop {
            // Full as long as the bus is not connected.
            let _ = sender.try_send(Carried::Entry(entry.clone()));
            if let Ok(Some(_)) = tokio::time::timeout(AGAIN_INTERVAL, heard.recv()).await {
                stop.cancel();
                return started.elapsed();
            }
        }
    };
    tokio::join!(running, travelling).1
}
