//! Telling: whoever listens to presence is told who is there, at once and whenever that has changed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tillwire_channels::{Channel, MerchantId, wire};
use tillwire_socketio::Encoded;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Presence;
use crate::error::Result;
use crate::gateway::feed::{self, Feed};
use crate::gateway::feeds::Feeds;
use crate::gateway::tell;
use crate::screens::presence::{Node, Said};

/// How often the gateways that live are looked at, and how often a merchant's people are read at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long those who come together wait for one another.
const COMPANY: Duration = Duration::from_millis(20);
/// How long nobody is believed to be gone once a database that was away answers again: every gateway must first have said
/// that it lives.
const BELIEVED_AFTER: Duration = Duration::from_secs(6);
/// A read that fails and took longer, with the look that followed it, has met a database that was away.
const AWAY_AFTER: Duration = Duration::from_secs(2);
/// How many people a packet names.
const PRESENT_MAX: usize = 100;

/// What is told of one merchant.
struct Told {
    channels: HashMap<Channel, News>,
    /// What the gateways had written when it was last read.
    as_of: Vec<Node>,
    read_at: Instant,
}

/// What is told on one channel, and who has been told.
struct News {
    said: Said,
    packet: Encoded,
    told: feed::Told,
}

/// What one round leaves to the next.
#[derive(Default)]
struct Memory {
    told: HashMap<MerchantId, Told>,
    is_away: bool,
    believed_from: Option<Instant>,
}

impl Presence {
    /// Tells, until `stop`. While the database is away, what was told last stays.
    pub async fn tell(self: Arc<Self>, feeds: Arc<Feeds>, stop: CancellationToken) {
        let mut memory = Memory::default();
        loop {
            let next = async {
                if tokio::time::timeout(LOOK_EVERY, self.asked.notified()).await.is_ok() {
                    tokio::time::sleep(COMPANY).await;
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
            match self.round(&feeds, &mut memory).await {
                Ok(()) if memory.is_away => {
                    memory.is_away = false;
                    memory.believed_from = Some(Instant::now() + BELIEVED_AFTER);
                }
                Ok(()) => {}
                Err(error) => {
                    memory.is_away = true;
                    metrics::counter!("tillwire_gateway_presence_failed_total", "what" => "read").increment(1);
                    debug!("Nobody can be told who is present: {:#}", error.into_anyhow());
                }
            }
        }
    }

    async fn round(&self, feeds: &Feeds, memory: &mut Memory) -> Result<()> {
        let listening: Vec<(Arc<Feed>, Vec<Channel>)> = feeds
            .all()
            .into_iter()
            .map(|feed| (feed.clone(), feed.presence_channels()))
            .filter(|(_, channels)| !channels.is_empty())
            .collect();
        let joined = std::mem::take(&mut *self.joined.lock().unwrap_or_else(PoisonError::into_inner));
        let merchants: HashSet<MerchantId> = listening.iter().map(|(feed, _)| feed.merchant).collect();
        memory.told.retain(|merchant, _| merchants.contains(merchant));
        if listening.is_empty() {
            return Ok(());
        }
        for news in memory.told.values_mut().flat_map(|told| told.channels.values_mut()) {
            for socket in &joined {
                news.told.forget(socket);
            }
        }
        // Those who wait are told what is known, before anything is asked.
        tell_all(&listening, memory);
        let nodes = self.source.nodes().await?;
        if memory.is_away {
            return Ok(()); // It is there again. Nobody is believed to be gone yet.
        }
        for (feed, channels) in &listening {
            let asked_at = Instant::now();
            if let Err(error) = self.read(feed, channels, &nodes, memory).await {
                metrics::counter!("tillwire_gateway_presence_failed_total", "what" => "read").increment(1);
                // If the database answers, and soon, the trouble is this merchant's own, and no other waits for it. One that
                // took its time was away meanwhile, and so it is for the gateways whose beats it did not hear.
                self.source.nodes().await?;
                if asked_at.elapsed() > AWAY_AFTER {
                    return Err(error);
                }
                debug!(merchant = %feed.merchant, "Who is present cannot be read: {:#}", error.into_anyhow());
            }
        }
        tell_all(&listening, memory);
        Ok(())
    }

    /// Reads who is on the channels of one merchant, if anything may have changed or a channel is new.
    async fn read(&self, feed: &Feed, channels: &[Channel], nodes: &[Node], memory: &mut Memory) -> Result<()> {
        let is_believed = memory.believed_from.is_none_or(|from| from <= Instant::now());
        let told = memory.told.entry(feed.merchant).or_insert_with(|| Told {
            channels: HashMap::new(),
            as_of: nodes.to_vec(),
            read_at: Instant::now(),
        });
        told.channels.retain(|channel, _| channels.contains(channel));
        let is_due = is_believed && told.as_of != nodes && told.read_at.elapsed() >= LOOK_EVERY;
        let asked: Vec<(Channel, Option<Said>)> = channels
            .iter()
            .filter(|channel| is_due || !told.channels.contains_key(*channel))
            .map(|channel| (*channel, told.channels.get(channel).map(|news| news.said.clone())))
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        for (channel, said, present, more) in self.source.presence(feed.merchant, &asked, PRESENT_MAX).await? {
            let packet = tell::presence(&wire::Presence { channel, present, more });
            told.channels.insert(channel, News { said, packet, told: feed::Told::default() });
        }
        if is_due {
            (told.as_of, told.read_at) = (nodes.to_vec(), Instant::now());
        }
        Ok(())
    }
}

/// Tells everyone who has not been told what is known.
fn tell_all(listening: &[(Arc<Feed>, Vec<Channel>)], memory: &mut Memory) {
    let mut sent = 0;
    for (feed, channels) in listening {
        let Some(told) = memory.told.get_mut(&feed.merchant) else { continue };
        for channel in channels {
            if let Some(news) = told.channels.get_mut(channel) {
                sent += feed.tell_presence(*channel, &news.packet, &mut news.told);
            }
        }
    }
    metrics::counter!("tillwire_gateway_presence_sent_total").increment(sent as u64);
}
