//! How soon whoever may not listen any more is told and closed, by a gateway that revoked nothing itself: what is promised,
//! and what was seen (`--nocapture` prints it).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tillwire::identity::tokens::Signer;
use tillwire_channels::{Role, StaffId};

use super::support::caller::bearer;
use super::support::process::{Env, TillwireProcess, environment, loopback};
use super::support::screen::{End, Screen};
use super::support::services::postgres::{Database, Postgres};
use super::support::services::{Proxy, Redis, free_port};
use super::support::till::Till;

/// What is promised: on every node, from the 2xx on.
const BY_A_BUS: Duration = Duration::from_secs(1);
const WITHOUT_A_BUS: Duration = Duration::from_secs(2);
/// How long a busy machine may keep somebody waiting beyond what is promised.
const STALL_MAX: Duration = Duration::from_secs(20);
const REVOCATIONS: u32 = 20;
/// How long a gateway here vouches for screens without a database.
const VOUCH: Duration = Duration::from_secs(3);
/// A token that does not expire meanwhile.
const TTL: Duration = Duration::from_secs(600);
const SIGNED_OUT: &str = "tillwire_gateway_signed_out_total";

/// A node that writes, and another that has the screens.
struct Apart {
    api: TillwireProcess,
    gateway: TillwireProcess,
    till: Till,
    signer: Signer,
    _database: Database,
}

impl Apart {
    /// The gateway reaches the database through a proxy, if one is named.
    async fn start(more: &[(&'static str, String)], proxy: Option<u16>) -> Self {
        let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
        let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
        env.extend(more.iter().cloned());
        let mut beside: Env = env.clone();
        for variable in ["TILLWIRE_LISTEN", "TILLWIRE_METRICS_LISTEN"] {
            beside.insert(variable, loopback(free_port()).to_string());
        }
        if let Some(port) = proxy {
            beside.insert("TILLWIRE_DATABASE_URL", database.url_through(port, "tillwire_app"));
            beside.insert("TILLWIRE_FEED_DATABASE_URL", database.url_through(port, "tillwire_feed"));
        }
        let (api, gateway) =
            tokio::join!(TillwireProcess::start(&["api"], &env), TillwireProcess::start(&["gateway"], &beside));
        let till = Till::open(api.public, &signer, 1_000).await;
        Self { api, gateway, till, signer, _database: database }
    }

    fn token(&self, staff: StaffId) -> String {
        self.signer.mint(&bearer(self.till.merchant, staff, Role::Cashier), TTL).expect("a token")
    }

    async fn screen(&self, staff: StaffId) -> Screen {
        let auth = json!({ "token": self.token(staff), "channels": ["sales"] });
        let mut screen = Screen::enters(self.gateway.public, auth).await;
        screen.hears("ready").await;
        screen.hears("caught_up").await;
        screen
    }

    /// Revokes a screen's token at the other node. The time from the answer until it was told why and closed.
    async fn revokes(&self) -> Duration {
        let staff = StaffId::new();
        let screen = self.screen(staff).await;
        let leaving = tokio::spawn(is_sent_away(screen, "revoked", End::SignedOff));
        let path = format!("/v1/staff/{staff}/revocations");
        self.till.owner().post(&staff.to_string(), &path, b"{}".to_vec()).await.expect("an answer").created();
        let answered = Instant::now();
        leaving.await.expect("it is told").saturating_duration_since(answered)
    }

    /// One after the other, within `promised`.
    async fn revokes_many(&self, how: &str, promised: Duration) {
        let mut took = Vec::new();
        for _ in 0..REVOCATIONS {
            took.push(self.revokes().await);
        }
        print(how, &mut took);
        assert!(is_kept(&took, promised), "{how}: {took:?}");
        let counted = self.gateway.counts(SIGNED_OUT, &[("reason", "revoked")]).await;
        assert_eq!(counted, f64::from(REVOCATIONS));
    }
}

/// When it had been told this and was closed.
async fn is_sent_away(mut screen: Screen, reason: &'static str, end: End) -> Instant {
    assert_eq!(screen.hears_next("signed_out").await.body, json!({ "reason": reason }));
    assert_eq!(screen.ends().await, end);
    Instant::now()
}

/// Whether most took no longer than was promised. A machine that stands still for a moment breaks no promise: it keeps all waiting.
fn is_kept(sorted: &[Duration], promised: Duration) -> bool {
    sorted[sorted.len() / 2] <= promised && sorted.iter().all(|took| *took <= promised + STALL_MAX)
}

fn print(how: &str, took: &mut [Duration]) {
    took.sort();
    let (first, median, last) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    println!("{how}: {} of them, from {first:.1?} to {last:.1?}, median {median:.1?}", took.len());
}

#[tokio::test]
async fn who_is_revoked_is_signed_out_elsewhere_within_a_second_by_a_bus() {
    let redis = Redis::start_own().await;
    let mut site = Apart::start(&[("REDIS_URL", redis.url())], None).await;
    let mut listens = site.screen(site.till.staff).await;
    let by_redis = [("bus", "redis")];
    let till = &site.till;
    // Until the gateway hears by it.
    let mut sold = 0;
    let hears = async |gateway: &TillwireProcess| gateway.counts("tillwire_bus_heard_total", &by_redis).await > 0.0;
    while !hears(&site.gateway).await {
        sold += 1;
        till.sell(&format!("sale-{sold}")).await.unwrap().created();
        listens.hears("sale.completed").await;
    }
    let arrived = "tillwire_bus_publish_to_feed_seconds_count";
    let before = site.gateway.counts(arrived, &by_redis).await;
    site.revokes_many("revoked, by Redis", BY_A_BUS).await;
    let all = before + f64::from(REVOCATIONS);
    site.gateway.until("each came by Redis", async |gateway| gateway.counts(arrived, &by_redis).await >= all).await;
    drop(listens);
}

#[tokio::test]
async fn who_is_revoked_is_signed_out_elsewhere_within_two_seconds_without_a_bus() {
    let site = Apart::start(&[], None).await;
    site.revokes_many("revoked, without a bus", WITHOUT_A_BUS).await;
    assert_eq!(site.gateway.counts("tillwire_bus_heard_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_gateway_cut_off_from_its_database_closes_in_time_whom_it_cannot_vouch_for() {
    const SCREENS: usize = 5;
    let mut proxy = Proxy::to(Postgres::shared().await.tcp_port().expect("a cluster with TCP")).await;
    let vouch = ("TILLWIRE_VOUCH_SECONDS", VOUCH.as_secs().to_string());
    let mut site = Apart::start(&[vouch], Some(proxy.port)).await;
    let (mut took_frozen, mut took_gone) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let is_frozen = round % 2 == 0;
        site.gateway.ready().await;
        let screens = join_all((0..SCREENS).map(|_| site.screen(StaffId::new()))).await;
        let leaving: Vec<_> = screens
            .into_iter()
            .map(|screen| tokio::spawn(is_sent_away(screen, "unverifiable", End::Closed(1013))))
            .collect();
        // Half-open, so that nobody ever answers; or gone, so that everybody is refused.
        if is_frozen {
            proxy.pause();
        } else {
            proxy.refuse().await;
            proxy.cut();
        }
        let cut = Instant::now();
        for leaving in leaving {
            let took = leaving.await.expect("it is told").saturating_duration_since(cut);
            if is_frozen { took_frozen.push(took) } else { took_gone.push(took) }
        }
        if is_frozen { proxy.resume() } else { proxy.accept().await }
    }
    for (how, mut took) in [("unverifiable, frozen", took_frozen), ("unverifiable, gone", took_gone)] {
        print(how, &mut took);
        // The last time that the database answered was a moment before it was cut off.
        assert!(took[0] > VOUCH / 2 && is_kept(&took, VOUCH + BY_A_BUS), "{how}: {took:?}");
    }
    for metric in [SIGNED_OUT, "tillwire_gateway_closed_total"] {
        let all = 4.0 * SCREENS as f64;
        let counted =
            async |gateway: &TillwireProcess| gateway.counts(metric, &[("reason", "unverifiable")]).await == all;
        site.gateway.until(metric, counted).await;
    }
    // Tills do not notice.
    assert_eq!(site.api.probe("/readyz").await, Some(200));
}
