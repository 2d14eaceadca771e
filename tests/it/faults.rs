//! What screens are promised, kept while gateways, brokers and databases die. The checker is the journal itself.

use std::time::Duration;

use super::support::hub::TestHub;
use super::support::process::{TillwireProcess, address, environment, loopback};
use super::support::services::free_port;
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
