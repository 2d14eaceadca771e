//! A Redis Cluster: sharded pub/sub (Redis 7 or later), in which a master carries the channels of its own slots and bothers
//! no other. Each master has connections and a queue of its own, so that one that is away costs the others nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use redis::AsyncConnectionConfig;
use secrecy::{ExposeSecret, SecretString};
use tillwire_channels::MerchantId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::atlas::{Address, Atlas, Slots};
use super::server::Server;
use super::station::{Place, Station};
use super::{Channels, NAME};
use crate::brokers::link::{self, Link};
use crate::brokers::urls;
use crate::bus::ear::Ear;
use crate::bus::{Bus, Carried, Ends, QUEUE_BYTES_MAX, QUEUE_ENTRIES_MAX, Queue, count_dropped};

/// How often the cluster is asked who serves what. Whoever learns that a slot has moved does not wait for it.
const SURVEY_INTERVAL: Duration = Duration::from_secs(3);
/// How long the map is not asked for again, whatever is learned.
const DOUBT_INTERVAL: Duration = Duration::from_millis(250);

pub struct Cluster {
    /// Lets us in anywhere, as the first node that was named does.
    key: Server,
    /// The nodes that were named.
    seeds: Vec<Address>,
    channels: Channels,
}

impl Cluster {
    /// # Errors
    /// If these are no URLs of a Redis Cluster. The message does not repeat them: they hold a password.
    pub fn new(list: &SecretString, prefix: &str) -> anyhow::Result<Self> {
        let servers: Vec<Server> =
            urls::split(list.expose_secret()).into_iter().map(Server::new).collect::<anyhow::Result<_>>()?;
        let key = servers[0].clone(); // A list is never empty.
        ensure!(servers.iter().all(|server| server.database() == 0), "a Redis Cluster has no database but 0");
        let is_alike = servers.iter().all(|server| server.speaks_tls() == key.speaks_tls());
        ensure!(is_alike, "either all nodes of a Redis Cluster speak TLS, or none");
        let seeds = servers.iter().filter_map(Server::address).collect();
        Ok(Self { key, seeds, channels: Channels::new(prefix) })
    }

    /// Comes in at each master, to learn what keeps us out. Answers with a merchant for each of them, who is served there.
    pub async fn greet(&self) -> anyhow::Result<Vec<MerchantId>> {
        let slots = self.ask_around(self.seeds.clone(), &mut 0).await?;
        let unserved = slots.unserved();
        ensure!(unserved == 0, "no master serves {unserved} of the cluster's 16384 slots");
        let masters = slots.masters();
        try_join_all(
            masters.iter().map(async |master| {
                self.key.at(master)?.greet().await.with_context(|| format!("at the master {master}"))
            }),
        )
        .await?;
        let mut served = BTreeMap::new();
        while served.len() < masters.len() {
            let merchant = MerchantId::new();
            if let Some(master) = slots.owner(&self.channels.of(merchant)) {
                served.insert(master.clone(), merchant);
            }
        }
        Ok(served.into_values().collect())
    }

    /// Keeps the map up to date.
    async fn survey(&self, atlas: &Atlas) {
        let mut link = Link::new(NAME, "mapping");
        let (mut turn, mut is_up) = (fastrand::usize(..self.seeds.len()), false);
        loop {
            let known = atlas.now().masters().iter().map(|master| (**master).clone()).collect();
            match self.ask_around(known, &mut turn).await {
                Ok(slots) => {
                    atlas.replace(slots);
                    if !std::mem::replace(&mut is_up, true) {
                        link.is_up();
                    }
                    tokio::select! {
                        () = tokio::time::sleep(SURVEY_INTERVAL) => {}
                        () = atlas.doubted() => tokio::time::sleep(DOUBT_INTERVAL).await,
                    }
                }
                Err(error) => {
                    is_up = false;
                    tokio::time::sleep(link.is_down(&error)).await;
                }
            }
        }
    }

    /// Asks these nodes and those that were named, one after the other until one answers, and another one each time: one
    /// that has been cut off tells what was.
    async fn ask_around(&self, mut nodes: Vec<Address>, turn: &mut usize) -> anyhow::Result<Slots> {
        nodes.extend(self.seeds.iter().cloned());
        nodes.sort();
        nodes.dedup();
        let mut outcome = Err(anyhow!("there is nobody to ask"));
        for _ in 0..nodes.len() {
            let node = &nodes[*turn % nodes.len()];
            *turn = turn.wrapping_add(1);
            outcome = link::answered(self.ask(node)).await.with_context(|| format!("asking {node}"));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn ask(&self, node: &Address) -> anyhow::Result<Slots> {
        let connection = self.key.at(node)?.connect(AsyncConnectionConfig::new()).await?;
        let slots = Slots::ask(&connection, node).await?;
        ensure!(!slots.masters().is_empty(), "it knows of no master that serves a slot");
        Ok(slots)
    }

    /// Runs a station at each master, and gives each what is to be published there.
    async fn steer(&self, atlas: &Arc<Atlas>, mut outgoing: mpsc::Receiver<Carried>, ear: &Ear) {
        let mut moves = atlas.changes();
        let mut shards: BTreeMap<Arc<Address>, Shard> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(carried) = outgoing.recv() => {
                    let owner = atlas.now().owner(&self.channels.of(carried.merchant())).cloned();
                    match owner.and_then(|owner| shards.get(&owner)) {
                        None => count_dropped(NAME, "away", 1),
                        Some(shard) if !shard.queue.put(carried) => count_dropped(NAME, "queue_full", 1),
                        Some(_) => {}
                    }
                }
                Ok(()) = moves.changed() => {
                    let masters = moves.borrow_and_update().masters();
                    shards.retain(|address, _| masters.contains(address));
                    for address in masters {
                        if shards.contains_key(&address) {
                            continue;
                        }
                        let (queue, outgoing) = Queue::new(QUEUE_ENTRIES_MAX, QUEUE_BYTES_MAX);
                        let shard = Shard { queue, stop: CancellationToken::new() };
                        running.push(self.serve(address.clone(), atlas.clone(), outgoing, ear, shard.stop.clone()));
                        shards.insert(address, shard);
                    }
                }
                Some(()) = running.next() => {} // One that is master no more.
                else => return,
            }
        }
    }

    async fn serve(
        &self,
        address: Arc<Address>,
        atlas: Arc<Atlas>,
        outgoing: mpsc::Receiver<Carried>,
        ear: &Ear,
        stop: CancellationToken,
    ) {
        // An address that was made anew from one that makes sense.
        let Ok(server) = self.key.at(&address) else { return };
        let station = Station { server, channels: self.channels.clone(), place: Place::Shard { address, atlas } };
        stop.run_until_cancelled(station.run(outgoing, ear)).await;
    }
}

/// What is held of a station at a master. It stops when this is dropped.
struct Shard {
    queue: Queue,
    stop: CancellationToken,
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bus for Cluster {
    const NAME: &'static str = NAME;

    async fn run(self, ends: Ends) {
        let Ends { outgoing, heard, interest, stop } = ends;
        let ear = Ear { bus: NAME, heard, interest };
        let atlas = Arc::new(Atlas::default());
        let both = async { tokio::join!(self.survey(&atlas), self.steer(&atlas, outgoing, &ear)) };
        // Whatever it is doing: dropping it closes all connections.
        stop.run_until_cancelled(both).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_one_by_one_and_no_secret_is_repeated() {
        let cluster = |list: &str| Cluster::new(&SecretString::from(list), "");
        let both = cluster("redis://hub:ge,heim@a:7000, redis://b:7001").unwrap();
        let seeds: Vec<String> = both.seeds.iter().map(ToString::to_string).collect();
        assert_eq!(seeds, ["a:7000", "b:7001"]);
        assert!(cluster("rediss://hub:geheim@a:7000,rediss://b:7001").is_ok());
        for list in [
            "redis://hub:geheim@a:7000/1",
            "redis://hub:geheim@a:7000,rediss://b",
            "redis://hub:geheim@a,b:7001",
            "redis://hub:geheim@a,",
            "redis://hub:geheim@a,http://b",
            "",
        ] {
            let Err(error) = cluster(list) else { panic!("{list} was taken") };
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
    }
}
