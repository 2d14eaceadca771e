//! Buses on clusters of brokers: what one node of a cluster carries is lost with it, and nothing else, and not for long.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tillwire::bus::{Brokers, Carried};
use tillwire_channels::MerchantId;
use tokio::time::{sleep, timeout};

use crate::faults::{CHANNELS, KINDS, carry, environments};
use crate::support::buses::{AGAIN, BUSES, Counts, FACT_MAX, Log, Node, Shop, TASKS, rabbitmq, redis, until};
use crate::support::hub::TestHub;
use crate::support::process::{Env, TillwireProcess};
use crate::support::services::redis::MASTERS;
use crate::support::services::{RabbitMqCluster, Redis, RedisCluster};
use crate::support::watcher::Watcher;

/// Two nodes on a Redis Cluster, and a shop for each of its masters, to which the other node listens.
struct Pair {
    cluster: RedisCluster,
    one: Node,
    other: Node,
    shops: Vec<Shop>,
}

impl Pair {
    async fn on(cluster: RedisCluster) -> Self {
        let mut shops: Vec<Shop> = Vec::new();
        while shops.len() < MASTERS {
            let shop = Shop::new();
            if owner(&cluster, shop.merchant).await == shops.len() {
                shops.push(shop);
            }
        }
        Self::of(cluster, shops)
    }

    fn of(cluster: RedisCluster, shops: Vec<Shop>) -> Self {
        let brokers = sharded(&cluster.urls());
        let (one, other) = (Node::on(&brokers), Node::on(&brokers));
        shops.iter().for_each(|shop| other.doors.gateway.interest.begin(shop.merchant));
        Self { cluster, one, other, shops }
    }

    /// All shops are heard by the other node.
    async fn carry(&mut self) {
        let Self { one, other, shops, .. } = self;
        reach(one, other, shops.iter_mut().collect()).await;
    }

    /// All shops but one are heard.
    async fn carry_without(&mut self, dead: usize) {
        let Self { one, other, shops, .. } = self;
        let alive = shops.iter_mut().enumerate().filter(|(at, _)| *at != dead).map(|(_, shop)| shop);
        reach(one, other, alive.collect()).await;
    }

    fn node(&self, at: usize) -> String {
        format!("127.0.0.1:{}", self.cluster.nodes[at].port)
    }

    async fn stops(self) {
        tokio::join!(self.one.stops(), self.other.stops());
    }
}

fn sharded(urls: &str) -> Brokers {
    Brokers { redis_cluster: true, ..redis(urls, "") }
}

/// Which of the masters serves a merchant as long as no slot has moved.
async fn owner(cluster: &RedisCluster, merchant: MerchantId) -> usize {
    RedisCluster::first_owner(cluster.slot(&channel(merchant)).await)
}

fn channel(merchant: MerchantId) -> String {
    format!("tillwire:live:{merchant}")
}

/// Announces entries of these shops until the other node has heard a new one of each.
async fn reach(one: &Node, other: &mut Node, mut shops: Vec<&mut Shop>) {
    let known: Vec<(MerchantId, u64)> = shops.iter().map(|shop| (shop.merchant, shop.seq)).collect();
    let reached = async {
        while !shops.is_empty() {
            for shop in &mut shops {
                one.announce(&shop.sells()).await;
            }
            let mut heard = HashSet::new();
            while let Ok(Some(Carried::Entry(entry))) = timeout(AGAIN, other.doors.gateway.heard.recv()).await {
                if known.iter().any(|(merchant, seq)| *merchant == entry.merchant && entry.seq > *seq) {
                    heard.insert(entry.merchant);
                }
            }
            shops.retain(|shop| !heard.contains(&shop.merchant));
        }
    };
    let in_time = timeout(FACT_MAX, reached).await;
    assert!(in_time.is_ok(), "not heard: {:?}", shops.iter().map(|shop| shop.merchant).collect::<Vec<_>>());
}

fn is_up(counts: &Counts, node: &str) -> bool {
    let links = TASKS.map(|task| counts.of("tillwire_bus_up", &[("bus", "redis"), ("task", task), ("node", node)]));
    links == [1.0, 1.0]
}

fn is_down(counts: &Counts, node: &str) -> bool {
    let links = TASKS.map(|task| counts.of("tillwire_bus_up", &[("bus", "redis"), ("task", task), ("node", node)]));
    links == [0.0, 0.0]
}

#[tokio::test]
async fn each_master_carries_the_merchants_of_its_slots_and_no_others() {
    let mut pair = Pair::on(RedisCluster::start().await).await;
    pair.carry().await;
    // A crowd, so that many are subscribed to at once.
    let mut crowd: Vec<Shop> = (0..1_500).map(|_| Shop::new()).collect();
    crowd.iter().for_each(|shop| pair.other.doors.gateway.interest.begin(shop.merchant));
    reach(&pair.one, &mut pair.other, crowd.iter_mut().take(60).collect()).await;

    let listened = async |cluster: &RedisCluster| {
        let mut counts = Vec::new();
        for node in &cluster.nodes {
            let channels = node.command("PUBSUB SHARDCHANNELS tillwire:live:*").await;
            counts.push(channels.trim_start_matches('*').parse::<usize>().unwrap());
        }
        counts
    };
    let expected = async |shops: &[&Shop]| {
        let mut counts = vec![0; MASTERS];
        for shop in shops {
            counts[owner(&pair.cluster, shop.merchant).await] += 1;
        }
        counts
    };
    let all = expected(&crowd.iter().chain(&pair.shops).collect::<Vec<_>>()).await;
    until(async || (listened(&pair.cluster).await == all).then_some(())).await;
    // By sharded pub/sub alone: the other kind would be carried to every node.
    for node in &pair.cluster.nodes {
        assert_eq!(node.command("PUBSUB CHANNELS tillwire:*").await, "*0");
    }
    // Nobody is listened to who has gone.
    crowd.iter().for_each(|shop| pair.other.doors.gateway.interest.end(shop.merchant));
    until(async || (listened(&pair.cluster).await == [1, 1, 1]).then_some(())).await;
    pair.carry().await;
    pair.stops().await;
}

#[tokio::test]
async fn a_master_that_is_killed_takes_its_own_merchants_and_comes_back_with_them() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let mut pair = Pair::on(RedisCluster::start().await).await;
    pair.carry().await;
    let (dead, alive) = (pair.node(0), [pair.node(1), pair.node(2)]);

    pair.cluster.nodes[0].kill();
    counts.until("noticed", |counts| is_down(counts, &dead)).await;
    for _ in 0..20 {
        pair.carry_without(0).await;
        let entry = pair.shops[0].sells();
        pair.one.announce(&entry).await;
    }
    counts.until("dropped", |counts| counts.dropped("redis", "away") >= 20.0).await;
    assert!(alive.iter().all(|node| is_up(&counts, node)), "{}", counts.told());

    pair.cluster.nodes[0].start_again().await;
    pair.carry().await;
    counts.until("back", |counts| is_up(counts, &dead)).await;
    log.told_once(&format!("redis at {dead}"), 4);
    assert_eq!(alive.iter().map(|node| log.count(&format!("Lost redis at {node}"))).sum::<usize>(), 0);
    assert_eq!(log.count("Lost redis for mapping"), 0, "{}", log.text());
    pair.stops().await;
}

#[tokio::test]
async fn a_master_that_hangs_delays_no_merchant_of_another() {
    let counts = Counts::begin();
    let mut pair = Pair::on(RedisCluster::start().await).await;
    pair.carry().await;
    let hung = pair.node(1);

    pair.cluster.nodes[1].pause();
    let entry = pair.shops[1].sells();
    pair.one.announce(&entry).await;
    // Before and after it is noticed.
    for _ in 0..5 {
        pair.carry_without(1).await;
    }
    counts.until("noticed", |counts| is_down(counts, &hung)).await;
    for _ in 0..5 {
        pair.carry_without(1).await;
    }
    pair.cluster.nodes[1].resume();
    pair.carry().await;
    pair.stops().await;
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_merchants_along() {
    let log = Log::begin();
    let mut pair = Pair::on(RedisCluster::start().await).await;
    pair.carry().await;
    let moving = channel(pair.shops[0].merchant);
    let slot = pair.cluster.slot(&moving).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        pair.cluster.moves(slot, from, to).await;
        pair.carry().await;
        let listened = pair.cluster.nodes[to].command(&format!("PUBSUB SHARDCHANNELS {moving}")).await;
        assert_eq!(listened, "*1", "on its new master");
    }
    // No connection is broken for that.
    assert_eq!(log.count("Lost redis"), 0, "{}", log.text());
    pair.stops().await;
}

#[tokio::test]
async fn a_replica_that_takes_over_is_found() {
    let counts = Counts::begin();
    let mut pair = Pair::on(RedisCluster::start_with_replicas().await).await;
    pair.carry().await;
    let (dead, heir) = (pair.node(0), pair.node(MASTERS));

    pair.cluster.nodes[0].kill();
    pair.carry().await;
    counts.until("the replica is its master", |counts| is_up(counts, &heir)).await;
    // The one that is no master any more is not waited for.
    counts.until("let go", |counts| !is_down(counts, &dead) && !is_up(counts, &dead)).await;

    // It comes back as a replica of the other, and nothing changes.
    pair.cluster.nodes[0].start_again().await;
    pair.carry().await;
    pair.stops().await;
}

#[tokio::test]
async fn a_cluster_that_is_down_at_start_is_found_when_it_comes() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let Pair { mut cluster, one, other, shops } = Pair::on(RedisCluster::start().await).await;
    tokio::join!(one.stops(), other.stops());
    cluster.nodes.iter_mut().for_each(Redis::kill);

    let (mut pair, connects) = (Pair::of(cluster, shops), log.count("Connected to redis"));
    let attempts =
        |counts: &Counts| counts.of("tillwire_bus_reconnects_total", &[("bus", "redis"), ("task", "mapping")]);
    counts.until("many attempts", |counts| attempts(counts) > 6.0).await;
    let entry = pair.shops[0].sells();
    pair.one.announce(&entry).await;
    counts.until("dropped", |counts| counts.dropped("redis", "away") >= 1.0).await;
    assert_eq!(log.count("Cannot reach redis"), 2, "{}", log.text());
    assert_eq!(log.count("Connected to redis"), connects);
    for node in &mut pair.cluster.nodes {
        node.start_again().await;
    }
    pair.carry().await;
    log.told_once("redis for mapping", 2);
    pair.stops().await;
}

#[tokio::test]
async fn a_cluster_of_which_one_master_is_down_at_start_carries_with_the_others() {
    let counts = Counts::begin();
    let mut cluster = RedisCluster::start().await;
    let urls = cluster.urls();
    cluster.nodes[2].kill();
    let (one, mut other) = (Node::on(&sharded(&urls)), Node::on(&sharded(&urls)));
    let mut shops = Vec::new();
    while shops.len() < 10 {
        let shop = Shop::new();
        if owner(&cluster, shop.merchant).await != 2 {
            other.doors.gateway.interest.begin(shop.merchant);
            shops.push(shop);
        }
    }
    reach(&one, &mut other, shops.iter_mut().collect()).await;
    let dead = format!("127.0.0.1:{}", cluster.nodes[2].port);
    counts.until("the dead one is known", |counts| is_down(counts, &dead)).await;
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn links_move_to_another_rabbitmq_when_the_node_that_they_are_on_is_killed() {
    let (counts, log) = (Counts::begin(), Log::begin());
    let mut cluster = RabbitMqCluster::shared().await;
    let brokers = rabbitmq(&cluster.urls(&cluster.vhost().await));
    let mut shop = Shop::new();
    let (one, mut other) = (Node::on(&brokers), Node::listening(&brokers, shop.merchant));
    reach(&one, &mut other, vec![&mut shop]).await;
    for at in 0..cluster.nodes.len() {
        cluster.nodes[at].kill();
        reach(&one, &mut other, vec![&mut shop]).await;
        counts.until_up("rabbitmq").await;
        cluster.mended().await;
        reach(&one, &mut other, vec![&mut shop]).await;
    }
    // Each of the four links was on one of them.
    assert!(log.count("Lost rabbitmq for") >= 4, "{}", log.text());
    log.told_once("rabbitmq", 4);
    tokio::join!(one.stops(), other.stops());
}

#[tokio::test]
async fn g2_screens_do_not_notice_that_nodes_of_both_clusters_die() {
    let mut rabbitmq = RabbitMqCluster::shared().await;
    let mut redis = RedisCluster::start().await;
    let hub = TestHub::start().await;
    // A shop for each master.
    let mut shops = Vec::new();
    while shops.len() < MASTERS {
        let shop = hub.merchant("Toko Roti").await;
        if owner(&redis, shop.merchant).await == shops.len() {
            let bread = shop.stocked("roti", 7_500, "100000").await;
            shops.push((shop, bread));
        }
    }
    let brokers = [
        ("REDIS_URL", redis.urls()),
        ("TILLWIRE_REDIS_CLUSTER", "true".to_owned()),
        ("AMQP_URL", rabbitmq.urls(&rabbitmq.vhost().await)),
    ];
    let envs: [Env; 3] = environments(&hub, &brokers);
    let (till, mut one, mut other) = tokio::join!(
        TillwireProcess::start(&["api"], &envs[0]),
        TillwireProcess::start(&["gateway"], &envs[1]),
        TillwireProcess::start(&["gateway"], &envs[2]),
    );
    let gateways = [one.public, other.public];
    let at = |gateway| shops.iter().map(move |(shop, _)| Watcher::begins(&[gateway], &shop.owner, &CHANNELS));
    let watchers: Vec<Watcher> = gateways.into_iter().flat_map(at).collect();

    let over = AtomicBool::new(false);
    let selling = async {
        while !over.load(Ordering::Relaxed) {
            for (shop, bread) in &shops {
                hub.sells_at(till.public, shop, bread, 7_500).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let dying = async {
        carry(&BUSES, [&mut one, &mut other]).await;
        redis.nodes[0].kill();
        rabbitmq.nodes[0].kill();
        carry(&BUSES, [&mut one, &mut other]).await;
        redis.nodes[1].kill();
        rabbitmq.mended().await;
        rabbitmq.nodes[1].kill();
        carry(&BUSES, [&mut one, &mut other]).await;
        for node in &mut redis.nodes[..2] {
            node.start_again().await;
        }
        rabbitmq.mended().await;
        carry(&BUSES, [&mut one, &mut other]).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(selling, dying);
    for (at, watcher) in watchers.into_iter().enumerate() {
        let connections = watcher.heard_the_journal_of(&shops[at % shops.len()].0, &KINDS).await;
        assert_eq!(connections, 1, "a screen does not notice a broker");
    }
}
