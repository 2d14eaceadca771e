//! What screens are promised, kept while gateways, brokers and databases die. The checker is the journal itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tillwire::node::Faces;

use super::support::hub::{BOTH_FACES, TestHub};
use super::support::process::{TillwireProcess, address, environment, loopback};
use super::support::services::{RabbitMq, Redis, free_port};
use super::support::watcher::Watcher;

/// What the watchers listen to.
const CHANNELS: [&str; 3] = ["sales", "payments", "stock"];
const KINDS: [&str; 3] = ["sale.completed", "payment.captured", "stock.changed"];

#[tokio::test]
async fn g2_g4_screens_lose_nothing_while_gateways_are_killed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let (env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    let mut envs = [env.clone(), env];
    for env in &mut envs {
        env.insert("TILLWIRE_LISTEN", loopback(free_port()).to_string());
        env.insert("TILLWIRE_METRICS_LISTEN", loopback(free_port()).to_string());
        env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    }
    let mut gateways = Vec::new();
    for env in &envs {
        gateways.push(TillwireProcess::start(&["gateway"], env).await);
    }
    let addresses = envs.each_ref().map(|env| address(env, "TILLWIRE_LISTEN"));
    let mut watchers: Vec<Watcher> = (0..6).map(|_| Watcher::begins(&addresses, &shop.owner, &CHANNELS)).collect();
    for sale in 0..90 {
        shop.sells(&bread, 7_500).await;
        match sale {
            15 | 45 => gateways[0].kill().await,
            30 | 60 => gateways[0] = TillwireProcess::start(&["gateway"], &envs[0]).await,
            40 | 70 => gateways[1].kill().await,
            50 | 80 => gateways[1] = TillwireProcess::start(&["gateway"], &envs[1]).await,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    for mut watcher in watchers.drain(..) {
        watcher.reaches(1).await;
        assert!(watcher.connections() > 1, "it was moved");
        watcher.heard_the_journal_of(&shop, &KINDS).await;
    }
}

#[tokio::test]
async fn g2_two_gateways_lose_nothing_while_brokers_die_and_come_back() {
    let (mut redis, mut rabbitmq) = tokio::join!(Redis::start_own(), RabbitMq::start_own());
    let (redis_url, amqp_url) = (redis.url(), rabbitmq.url(&rabbitmq.vhost().await));
    let brokers = ["--redis-url", &redis_url, "--amqp-url", &amqp_url];
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100000").await;
    let till = hub.node(Faces { api: true, gateway: false }, &brokers).await;
    let gateway = Faces { api: false, gateway: true };
    let gateways = [hub.node(gateway, &brokers).await, hub.node(gateway, &brokers).await];
    let watchers = gateways.each_ref().map(|gateway| Watcher::begins(&[gateway.address], &shop.owner, &CHANNELS));

    let over = AtomicBool::new(false);
    let selling = async {
        let mut sold = 0;
        while !over.load(Ordering::Relaxed) {
            hub.sells_at(&till, &shop, &bread, 7_500).await;
            sold += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sold
    };
    let dying = async {
        // Long enough for sales in each state: both, one, none, the other, both.
        let a_while = || tokio::time::sleep(Duration::from_secs(1));
        a_while().await;
        redis.kill();
        a_while().await;
        rabbitmq.kill();
        a_while().await;
        rabbitmq.start_again().await;
        a_while().await;
        redis.start_again().await;
        a_while().await;
        over.store(true, Ordering::Relaxed);
    };
    let (sold, ()) = tokio::join!(selling, dying);
    assert!(sold > 50, "sales went on: {sold}");
    for watcher in watchers {
        assert_eq!(watcher.connections(), 1, "a screen does not notice a broker");
        watcher.heard_the_journal_of(&shop, &KINDS).await;
    }
}

#[tokio::test]
async fn a_hub_starts_and_serves_without_the_brokers_it_was_promised() {
    let (redis, amqp) = (format!("redis://127.0.0.1:{}", free_port()), format!("amqp://127.0.0.1:{}", free_port()));
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let node = hub.node(BOTH_FACES, &["--redis-url", &redis, "--amqp-url", &amqp]).await;
    let watcher = Watcher::begins(&[node.address], &shop.owner, &CHANNELS);
    hub.sells_at(&node, &shop, &bread, 7_500).await;
    watcher.heard_the_journal_of(&shop, &KINDS).await;
}
