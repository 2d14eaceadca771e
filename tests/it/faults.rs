//! What screens are promised, kept while gateways, brokers and databases die. The checker is the journal itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::support::clients::{Client, StockScreen, Transports};
use super::support::hub::{BOTH_FACES, TestHub};
use super::support::process::{Env, TillwireProcess, address, environment, loopback};
use super::support::services::{Proxy, RabbitMq, Redis, free_port};
use super::support::watcher::Watcher;

/// What the watchers listen to.
pub const CHANNELS: [&str; 3] = ["sales", "payments", "stock"];
pub const KINDS: [&str; 3] = ["sale.completed", "payment.captured", "stock.changed"];
/// What a node heard, by bus.
const HEARD: &str = "tillwire_bus_heard_total";

#[tokio::test]
async fn g2_g4_screens_lose_nothing_while_gateways_are_killed() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let envs: [Env; 2] = environments(&hub, &[]);
    let mut gateways = Vec::new();
    for env in &envs {
        gateways.push(TillwireProcess::start(&["gateway"], env).await);
    }
    let addresses = envs.each_ref().map(|env| address(env, "TILLWIRE_LISTEN"));
    let watchers: Vec<Watcher> = (0..6).map(|_| Watcher::begins(&addresses, &shop.owner, &CHANNELS)).collect();
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
    for watcher in watchers {
        assert!(watcher.heard_the_journal_of(&shop, &KINDS).await > 1, "it was moved");
    }
}

#[tokio::test]
async fn g2_brokers_carry_and_while_they_die_and_gateways_too_nobody_loses_anything() {
    let (mut redis, mut rabbitmq) = tokio::join!(Redis::start_own(), RabbitMq::start_own());
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100000").await;
    let brokers = [("REDIS_URL", redis.url()), ("AMQP_URL", rabbitmq.url(&rabbitmq.vhost().await))];
    let envs: [Env; 3] = environments(&hub, &brokers);
    let (till, mut one, mut other) = tokio::join!(
        TillwireProcess::start(&["api"], &envs[0]),
        TillwireProcess::start(&["gateway"], &envs[1]),
        TillwireProcess::start(&["gateway"], &envs[2]),
    );
    let stays = Watcher::begins(&[other.public], &shop.owner, &CHANNELS);
    let roams = Watcher::begins(&[one.public, other.public], &shop.owner, &CHANNELS);
    // Someone else's client, and what balances it.
    let door = Proxy::to(one.public.port()).await;
    let (start, near) = (Some("0-00000000"), loopback(door.port));
    let mut stock = StockScreen::of(Client::JavaScript, start, near, &shop.owner, &CHANNELS, Transports::Upgrade).await;

    let over = AtomicBool::new(false);
    let selling = async {
        while !over.load(Ordering::Relaxed) {
            hub.sells_at(till.public, &shop, &bread, 7_500).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let dying = async {
        stock.happens("connect").await;
        stock.listens_while(carry(&["redis", "rabbitmq"], [&mut one, &mut other])).await;

        redis.kill();
        stock.cut().await;
        stock.happens("connect").await;
        stock.listens_while(carry(&["rabbitmq"], [&mut one, &mut other])).await;

        rabbitmq.kill();
        stock.hears("sale.completed").await;
        one.kill().await;
        stock.happens("disconnect").await;
        door.lead_to(other.public.port());
        stock.happens("connect").await;
        // Without any broker it catches up, and then hears what is sold.
        stock.hears("caught_up").await;
        stock.hears("sale.completed").await;

        redis.start_again().await;
        one = TillwireProcess::start(&["gateway"], &envs[1]).await;
        door.lead_to(one.public.port());
        door.cut();
        stock.happens("connect").await;
        stock.listens_while(carry(&["redis"], [&mut one, &mut other])).await;

        stock.listens_while(rabbitmq.start_again()).await;
        stock.listens_while(carry(&["redis", "rabbitmq"], [&mut one, &mut other])).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(selling, dying);
    stock.heard_the_journal_of(&shop, &KINDS).await;
    assert!(roams.heard_the_journal_of(&shop, &KINDS).await > 1, "it was moved");
    assert_eq!(stays.heard_the_journal_of(&shop, &KINDS).await, 1, "a screen does not notice a broker");
}

/// Waits until each of these gateways has heard more by each of these buses.
pub async fn carry(buses: &[&str], gateways: [&mut TillwireProcess; 2]) {
    for gateway in gateways {
        for bus in buses {
            let heard = async |gateway: &TillwireProcess| gateway.counts(HEARD, &[("bus", bus)]).await;
            let before = heard(gateway).await;
            gateway.until(&format!("hears by {bus}"), async |gateway| heard(gateway).await > before).await;
        }
    }
}

/// What so many processes of a hub are configured with, each with ports of its own.
pub fn environments<const N: usize>(hub: &TestHub, more: &[(&'static str, String)]) -> [Env; N] {
    std::array::from_fn(|_| {
        let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
        env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
        env.extend(more.iter().cloned());
        env
    })
}

#[tokio::test]
async fn a_hub_starts_and_serves_without_the_brokers_it_was_promised() {
    let (redis, amqp) = (format!("redis://127.0.0.1:{}", free_port()), format!("amqp://127.0.0.1:{}", free_port()));
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let node = hub.node(BOTH_FACES, &["--redis-url", &redis, "--amqp-url", &amqp]).await;
    let watcher = Watcher::begins(&[node.address], &shop.owner, &CHANNELS);
    hub.sells_at(node.address, &shop, &bread, 7_500).await;
    watcher.heard_the_journal_of(&shop, &KINDS).await;
}
