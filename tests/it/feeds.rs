//! A feed, and what buses do to it: they lose, repeat, reorder and lie.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use tillwire::bus::{Carried, GatewayDoors, Interest};
use tillwire::error::Result;
use tillwire::gateway::address::Place;
use tillwire::gateway::{Gateway, Limits, Options, State};
use tillwire::identity::tokens::Verifier;
use tillwire::journal::read::{self, Slice};
use tillwire::journal::{Committed, Entry, Pools};
use tillwire_channels::{Channel, MerchantId, Position, Tag};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::support::buses::Counts;
use super::support::hub::{Shop, TestHub, realm};
use super::support::screen::{Heard, Screen};
use super::support::services::Postgres;
use super::support::services::proxy::Proxy;

/// A gateway whose bus is in the test's hand.
struct ByHand {
    address: SocketAddr,
    bus: mpsc::Sender<Carried>,
    stop: CancellationToken,
}

impl ByHand {
    async fn start(hub: &TestHub, pools: Pools) -> Self {
        let verifier = Verifier::new(realm(), &hub.signer.public_keys().unwrap()).unwrap();
        let (bus, heard) = mpsc::channel(1_024);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let minute = Duration::from_secs(60);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let place = Place { given: None, listen: address, database: None };
        let limits = Limits::default();
        let connections = Arc::new(Semaphore::new(100));
        let options =
            Options { origins: Vec::new(), ping_interval: minute, vouch_max: minute, place, connections, limits };
        let doors = GatewayDoors { heard, interest: Arc::new(Interest::default()), claim: mpsc::channel(1).0 };
        let gateway = Gateway::start(options, pools, Arc::new(verifier), doors, Arc::new(no_state), &tasks, &stop);
        tokio::spawn(axum::serve(listener, gateway.router()).into_future());
        Self { address, bus, stop }
    }

    async fn carries(&self, entry: &Arc<Entry>) {
        self.bus.send(Carried::Entry(Committed::now(entry.clone()).into())).await.unwrap();
    }
}

fn no_state(_: MerchantId, _: Channel, _: usize) -> BoxFuture<'static, Result<State>> {
    unreachable!("nobody asks")
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn entries_after(hub: &TestHub, shop: &Shop<'_>, after: &str) -> Vec<Arc<Entry>> {
    let mut sql = hub.pools.feed.acquire().await.unwrap();
    read::after(&mut sql, shop.merchant, after.parse().unwrap(), Slice::default()).await.unwrap().entries
}

/// The places of what was heard, in the order it was heard.
fn places(heard: &[Heard]) -> Vec<String> {
    heard.iter().filter_map(|heard| heard.position.clone()).collect()
}

#[tokio::test]
async fn an_entry_that_comes_by_a_bus_needs_no_database() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let url = |role| hub.database.url_through(proxy.port, role);
    let pools = Pools::open(&url("tillwire_app"), &url("tillwire_feed"), 4).unwrap();
    let gateway = ByHand::start(&hub, pools).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut screen = Screen::enters(gateway.address, json!({ "token": shop.owner, "channels": ["sales"] })).await;
    let head = screen.hears("ready").await.position.unwrap();
    screen.hears("caught_up").await;
    proxy.pause();
    shop.sells(&bread, 7_500).await;
    shop.sells(&bread, 7_500).await;
    let entries = entries_after(&hub, &shop, &head).await;
    // The second before the first, and each twice.
    for entry in [&entries[1], &entries[0], &entries[0], &entries[1]] {
        gateway.carries(entry).await;
    }
    let heard = [screen.next().await, screen.next().await];
    assert_eq!(heard.map(|heard| heard.seq()), [entries[0].seq, entries[1].seq]);
    proxy.resume();
}

#[tokio::test]
async fn whatever_a_bus_loses_repeats_reorders_or_makes_up_the_screen_hears_the_journal() {
    let hub = TestHub::start().await;
    let gateway = ByHand::start(&hub, hub.pools.clone()).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "500").await;
    let auth = json!({ "token": shop.owner, "channels": ["sales", "stock"] });
    let mut screen = Screen::enters(gateway.address, auth).await;
    let mut head = screen.hears("ready").await.position.unwrap();
    screen.hears("caught_up").await;
    let (mut heard, mut expected) = (Vec::new(), Vec::new());
    // Any sequence will do, as long as it is the same each time.
    let mut dice = 12_345_u32;
    let mut roll = |sides: u32| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 16) % sides
    };
    for _ in 0..12 {
        for _ in 0..5 {
            shop.sells(&bread, 7_500).await;
        }
        let entries = entries_after(&hub, &shop, &head).await;
        expected
            .extend(entries.iter().flat_map(|it| [1, 3].map(|k| Position::of_event(it.seq, k, it.tag).to_string())));
        head = entries.last().unwrap().position().to_string();
        let mut carried: Vec<Arc<Entry>> = entries.iter().filter(|_| roll(5) > 0).cloned().collect();
        carried.extend(entries.iter().filter(|_| roll(3) == 0).cloned());
        for entry in &entries {
            // Of our numbers, but of another history; and of numbers that do not exist.
            let lie = |seq, prev| {
                let text = entry.text.clone();
                Arc::new(Entry::new(shop.merchant, seq, prev, Tag([7; 8]), entry.recorded_at, text))
            };
            match roll(6) {
                0 => carried.push(lie(entry.seq, Tag([9; 8]))),
                1 => carried.push(lie(entry.seq + 1_000, Tag([9; 8]))),
                _ => {}
            }
        }
        while !carried.is_empty() {
            let next = roll(u32::try_from(carried.len()).unwrap()) as usize;
            gateway.carries(&carried.swap_remove(next)).await;
        }
        while heard.len() < expected.len() {
            heard.push(screen.next().await);
        }
    }
    assert_eq!(places(&heard), expected);
}

#[tokio::test]
async fn g7_entries_of_merchants_that_come_together_are_told_to_their_own_screens_each_in_order() {
    let hub = TestHub::start().await;
    let gateway = ByHand::start(&hub, hub.pools.clone()).await;
    let (mut screens, mut carried) = (Vec::new(), Vec::new());
    for name in ["Toko Roti", "Toko Kopi", "Toko Buku"] {
        let shop = hub.merchant(name).await;
        let bread = shop.stocked("roti", 7_500, "100").await;
        let auth = json!({ "token": shop.owner, "channels": ["sales"] });
        let mut screen = Screen::enters(gateway.address, auth).await;
        let head = screen.hears("ready").await.position.unwrap();
        screen.hears("caught_up").await;
        for _ in 0..30 {
            shop.sells(&bread, 7_500).await;
        }
        let entries = entries_after(&hub, &shop, &head).await;
        screens.push((screen, entries.iter().map(|it| (it.seq, shop.outlet.to_string())).collect::<Vec<_>>()));
        carried.push(entries);
    }
    // One of each in turn.
    for turn in 0..30 {
        for entries in &carried {
            gateway.carries(&entries[turn]).await;
        }
    }
    for (screen, expected) in &mut screens {
        for (seq, outlet) in expected {
            let heard = screen.hears("sale.completed").await;
            assert_eq!((heard.seq(), heard.body["outlet"].as_str().unwrap()), (*seq, outlet.as_str()));
        }
    }
}

#[tokio::test]
async fn a_gap_of_many_runs_is_told_without_one_missing() {
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let url = |role| hub.database.url_through(proxy.port, role);
    let pools = Pools::open(&url("tillwire_app"), &url("tillwire_feed"), 4).unwrap();
    let gateway = ByHand::start(&hub, pools).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut screen = Screen::enters(gateway.address, json!({ "token": shop.owner, "channels": ["sales"] })).await;
    let head = screen.hears("ready").await.position.unwrap();
    screen.hears("caught_up").await;
    proxy.pause();
    // A run has at most 32.
    for _ in 0..100 {
        shop.sells(&bread, 7_500).await;
    }
    let entries = entries_after(&hub, &shop, &head).await;
    proxy.resume();
    for entry in &entries {
        assert_eq!(screen.hears("sale.completed").await.seq(), entry.seq);
    }
}

#[tokio::test]
async fn a_gap_is_timed_until_it_is_closed_and_by_whom() {
    let counts = Counts::begin();
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    let url = |role| hub.database.url_through(proxy.port, role);
    let pools = Pools::open(&url("tillwire_app"), &url("tillwire_feed"), 4).unwrap();
    let gateway = ByHand::start(&hub, pools).await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let mut screen = Screen::enters(gateway.address, json!({ "token": shop.owner, "channels": ["sales"] })).await;
    let head = screen.hears("ready").await.position.unwrap();
    screen.hears("caught_up").await;
    proxy.pause();
    for _ in 0..4 {
        shop.sells(&bread, 7_500).await;
    }
    let entries = entries_after(&hub, &shop, &head).await;
    let gaps = |by| counts.of("tillwire_gateway_gap_seconds_count", &[("closed_by", by)]);
    // One that is only late.
    for entry in [&entries[1], &entries[0]] {
        gateway.carries(entry).await;
    }
    for _ in 0..2 {
        screen.hears("sale.completed").await;
    }
    assert_eq!((gaps("bus"), gaps("journal")), (1.0, 0.0));
    assert_eq!(counts.of("tillwire_bus_publish_to_feed_seconds_count", &[("bus", "local")]), 2.0);
    counts.until("timed", |counts| counts.of("tillwire_gateway_feed_to_socket_seconds_count", &[]) >= 1.0).await;
    // One that never comes.
    gateway.carries(&entries[3]).await;
    proxy.resume();
    for _ in 0..2 {
        screen.hears("sale.completed").await;
    }
    assert_eq!((gaps("bus"), gaps("journal")), (1.0, 1.0));
    counts.until("healed", |counts| counts.of("tillwire_gateway_heal_seconds_count", &[]) >= 1.0).await;
    for metric in ["gateway_gap", "gateway_heal", "gateway_feed_to_socket", "bus_publish_to_feed"] {
        assert!(counts.of(&format!("tillwire_{metric}_seconds_sum"), &[]) > 0.0, "{metric}: {}", counts.told());
    }
}

#[tokio::test]
async fn an_entry_too_large_to_carry_is_read_where_it_is() {
    let hub = TestHub::start().await;
    let gateway = ByHand::start(&hub, hub.pools.clone()).await;
    let shop = hub.merchant("Toko Roti").await;
    let mut screen = Screen::enters(gateway.address, json!({ "token": shop.owner, "channels": ["catalog"] })).await;
    let head = screen.hears("ready").await.position.unwrap();
    screen.hears("caught_up").await;
    shop.product("kopi", 20_000).await;
    let entry = entries_after(&hub, &shop, &head).await.remove(0);
    let place = Carried::Place { merchant: shop.merchant, seq: entry.seq, tag: entry.tag };
    gateway.bus.send(place).await.unwrap();
    assert_eq!(screen.hears("product.changed").await.seq(), entry.seq);
}
