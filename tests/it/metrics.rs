//! What a node tells of itself: every step of an entry's way, and what the process takes.

use serde_json::json;

use super::support::hub::TestHub;
use super::support::process::{Env, TillwireProcess, environment};
use super::support::screen::Screen;
use super::support::services::{RabbitMq, Redis};

type Labels<'a> = &'a [(&'a str, &'a str)];

fn environment_beside(hub: &TestHub, brokers: &[(&'static str, String)]) -> Env {
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.extend(brokers.iter().cloned());
    env
}

#[tokio::test]
async fn each_step_of_an_entrys_way_is_timed_and_a_broken_one_is_shown() {
    let (redis, rabbitmq) = tokio::join!(Redis::start_own(), RabbitMq::shared());
    let brokers = [("REDIS_URL", redis.url()), ("AMQP_URL", rabbitmq.url(&rabbitmq.vhost().await))];
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10000").await;
    let envs = [environment_beside(&hub, &brokers), environment_beside(&hub, &brokers)];
    let (mut api, mut gateway) =
        tokio::join!(TillwireProcess::start(&["api"], &envs[0]), TillwireProcess::start(&["gateway"], &envs[1]));
    // It was away, and is brought up to date first.
    let auth = json!({ "token": shop.owner, "channels": ["sales"], "after": "0-00000000" });
    let mut screen = Screen::enters(gateway.public, auth).await;
    screen.catches_up().await;
    let steps: [(&TillwireProcess, &str, Labels<'_>); 6] = [
        (&api, "tillwire_bus_commit_to_publish_seconds", &[("bus", "redis")]),
        (&api, "tillwire_bus_commit_to_publish_seconds", &[("bus", "rabbitmq")]),
        (&gateway, "tillwire_bus_publish_to_feed_seconds", &[("bus", "redis")]),
        (&gateway, "tillwire_bus_publish_to_feed_seconds", &[("bus", "rabbitmq")]),
        (&gateway, "tillwire_gateway_feed_to_socket_seconds", &[]),
        (&gateway, "tillwire_gateway_replay_seconds", &[]),
    ];
    for (node, metric, labels) in steps {
        // Until both buses carry.
        while node.counts(&format!("{metric}_count"), labels).await == 0.0 {
            hub.sells_at(api.public, &shop, &bread, 7_500).await;
            screen.hears("sale.completed").await;
        }
        let (count, sum) = (
            node.counts(&format!("{metric}_count"), labels).await,
            node.counts(&format!("{metric}_sum"), labels).await,
        );
        assert!(sum > 0.0 && sum / count < 60.0, "{metric} {labels:?}: {sum} s in {count}");
        let highest = [labels, &[("le", "+Inf")]].concat();
        assert!(node.counts(&format!("{metric}_bucket"), &highest).await >= count, "it has buckets");
    }

    // A broker that stands still: entries wait for it, and it is shown for how long.
    redis.pause();
    let age = async |api: &TillwireProcess| api.counts("tillwire_bus_queue_age_seconds", &[("bus", "redis")]).await;
    hub.sells_at(api.public, &shop, &bread, 7_500).await;
    api.until("an entry waits", async |api| age(api).await > 0.5).await;
    assert!(api.counts("tillwire_bus_queue_entries", &[("bus", "redis")]).await >= 1.0);
    // It is given up, and nothing waits for it any more.
    api.until("given up", async |api| age(api).await == 0.0).await;
    assert_eq!(api.counts("tillwire_bus_queue_entries", &[("bus", "redis")]).await, 0.0);
    redis.resume();
    screen.hears("sale.completed").await;
    gateway.until("told", async |gateway| gateway.counts("tillwire_gateway_entries_total", &[]).await > 0.0).await;
}

#[tokio::test]
async fn a_process_tells_what_it_takes_of_the_machine() {
    let hub = TestHub::start().await;
    let node = TillwireProcess::start(&["serve"], &environment_beside(&hub, &[])).await;
    let told = node.metrics().await;
    let value = async |name: &str| node.counts(name, &[]).await;
    assert!(value("process_resident_memory_bytes").await > 1_000_000.0, "{told}");
    assert!(value("process_cpu_seconds_total").await > 0.0, "{told}");
    let (open, max) = (value("process_open_fds").await, value("process_max_fds").await);
    assert!(open > 3.0 && open < max, "{open} of {max}");
    // Since 2025, in seconds.
    assert!(value("process_start_time_seconds").await > 1_735_000_000.0, "{told}");
    assert_eq!(node.counts("tillwire_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).await, 1.0, "{told}");
}
