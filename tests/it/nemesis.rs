//! The short form of the fault proof: tills sell and screens listen while everything under them breaks, by a plan that a
//! seed decides. `loadtest faults` is the long one. A failure names the seed, which has the same in store again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, join_all};
use nix::sys::signal::Signal;
use tillwire::identity::tokens::{Bearer, Signer};
use tillwire::journal::{Pools, chain, read};
use tillwire_channels::{MerchantId, Position, StaffId, Tag};
use tillwire_nemesis::journal::{Journal, Row};
use tillwire_nemesis::record::{Memory, Who};
use tillwire_nemesis::round::{Progress, Size, Stage, play};
use tillwire_nemesis::schedule::{Cast, Target, Tempo};
use tillwire_nemesis::shop::{Person, Shop};
use tillwire_nemesis::stock::StockScreen;
use tillwire_nemesis::victim::{Process, Victim};
use tokio::time::timeout;

use super::support::clients::javascript_program;
use super::support::process::{Env, TillwireProcess, environment, loopback};
use super::support::services::{Postgres, Proxy, RabbitMq, Redis};

/// What these have in store is decided; what they meet is not.
const SEEDS: [u64; 1] = [293];
const CAST: Cast = Cast { redis: 1, rabbitmq: 1, apis: 2, gateways: 2, doors: 2 };
const SHOPS: usize = 2;
/// Of each shop: two or three of every kind.
const SCREENS: usize = 13;
/// How long a node may take to go in order.
const GO_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn g1_g2_g3_g4_nothing_is_lost_repeated_reordered_torn_or_foreign_whatever_breaks() {
    let (postgres, redis, rabbitmq) = tokio::join!(Postgres::start_own(), Redis::start_own(), RabbitMq::start_own());
    tillwire::schema::up(&postgres.url("tillwire_migrate", DATABASE)).await.expect("migrations");
    let pools = Pools::open(&postgres.url("tillwire_app", DATABASE), &postgres.url("tillwire_feed", DATABASE), 4)
        .expect("pools");
    let ways = (
        Proxy::to(postgres.tcp_port().expect("a cluster with TCP")).await,
        Proxy::to(redis.port).await,
        Proxy::to(rabbitmq.port()).await,
    );
    let near = |role| postgres.tcp_url(ways.0.port, role, DATABASE).expect("a cluster with TCP");
    let (shared, signer) = environment(&near("tillwire_app"), &near("tillwire_feed"));
    let brokers = [
        ("REDIS_URL", format!("redis://127.0.0.1:{}", ways.1.port)),
        ("AMQP_URL", rabbitmq.url_through(ways.2.port, &rabbitmq.vhost().await)),
        // So that a short run sees what silence comes to.
        ("TILLWIRE_PING_SECONDS", "2".to_owned()),
        // Each is made anew after every fault.
        ("TILLWIRE_DATABASE_CONNECTIONS", "4".to_owned()),
    ];
    let mut victims = vec![
        Victim { target: Target::Postgres, process: Some(Box::new(postgres)), link: ways.0 },
        Victim { target: Target::Redis(0), process: Some(Box::new(redis)), link: ways.1 },
        Victim { target: Target::RabbitMq(0), process: Some(Box::new(rabbitmq)), link: ways.2 },
    ];
    let nodes = (0..CAST.apis).map(Target::Api).chain((0..CAST.gateways).map(Target::Gateway));
    let nodes: Vec<Victim> = join_all(nodes.map(|target| node(target, &shared, &brokers))).await;
    let ports = |of: fn(&Target) -> bool| {
        nodes.iter().filter(|node| of(&node.target)).map(|node| node.link.port).collect::<Vec<_>>()
    };
    let before_apis = Proxy::over(ports(|target| matches!(target, Target::Api(_)))).await;
    let gateways = ports(|target| matches!(target, Target::Gateway(_)));
    victims.extend(nodes);
    let mut doors = Vec::new();
    for at in 0..CAST.doors {
        let link = Proxy::over(gateways.clone()).await;
        doors.push(loopback(link.port));
        victims.push(Victim { target: Target::Door(at), process: None, link });
    }

    let mint = |person: &Person| token(&signer, person);
    let read = move |merchant| read_journal(pools.clone(), merchant).boxed();
    let api = loopback(before_apis.port);
    let shops = join_all((0..SHOPS).map(|number| Shop::open(api, number, &mint))).await;
    let shops: Vec<Arc<Shop>> = shops.into_iter().map(|shop| Arc::new(shop.expect("a shop that opens"))).collect();
    let mut stage = Stage { cast: CAST, victims, api, doors, shops, mint: &mint, read: &read };
    let tempo =
        Tempo { length: Duration::from_secs(26), longest: Duration::from_secs(4), quiet: Duration::from_millis(800) };
    let size = Size { tempo, rolling: false, screens: SCREENS, pause: Duration::from_millis(150) };
    for seed in SEEDS {
        let guests = vec![guest(&stage, 0, stage.doors[0]).await];
        let progress =
            Progress { stage: &|_| {}, step: &|step| println!("seed {seed}: {} {:?}", step.target, step.fault) };
        let told = play(&mut stage, seed, size, Some(Box::new(guests)), &progress).await.expect("a round");
        let findings: Vec<String> = told.findings.iter().map(ToString::to_string).collect();
        assert!(
            findings.is_empty(),
            "seed {seed}:\n{}\n{}\n{:?}",
            findings.join("\n"),
            serde_json::to_string(&told.history).expect("JSON"),
            told.records
        );
        println!("{:?}, {:?}, {} entries, {} asked again", told.counts, told.deeds, told.entries, told.repeated);
        // Much or little, as the machine allows; but all that was in store, and something of everything.
        assert!(told.history.len() == told.schedule.len() && told.entries > 0 && told.counts.recovered > 0, "{told:?}");
    }
}

/// The one that the embedded PostgreSQL makes.
const DATABASE: &str = "tillwire";

/// A node that others reach through a proxy, gateways one another too.
async fn node(target: Target, shared: &Env, brokers: &[(&'static str, String)]) -> Victim {
    let mut env = shared.clone();
    let (listen, metrics) = (super::support::services::free_port(), super::support::services::free_port());
    let link = Proxy::to(listen).await;
    env.extend(brokers.iter().cloned());
    env.insert("TILLWIRE_LISTEN", loopback(listen).to_string());
    env.insert("TILLWIRE_METRICS_LISTEN", loopback(metrics).to_string());
    env.insert("TILLWIRE_NODE_ADDRESS", loopback(link.port).to_string());
    let role = target.kind();
    let process = TillwireProcess::start(&[role], &env).await;
    Victim { target, process: Some(Box::new(Node { process, role, env })), link }
}

fn token(signer: &Signer, person: &Person) -> Result<String> {
    let Person { merchant, role, outlets, register } = person.clone();
    let bearer = Bearer { merchant, staff: StaffId::new(), role, outlets, register };
    signer.mint(&bearer, Duration::from_secs(3_600))
}

/// The whole journal, every hash of it checked.
async fn read_journal(pools: Pools, merchant: MerchantId) -> Result<Journal> {
    let verified = chain::verify(&pools.feed, merchant).await?;
    ensure!(verified.is_ok(), "{verified:?}");
    let (mut rows, mut after) = (Vec::new(), Position::START);
    loop {
        let mut sql = pools.feed.acquire().await?;
        let slice = read::Slice::default();
        let page = read::after(&mut sql, merchant, after, slice).await.map_err(|error| error.into_anyhow())?;
        for entry in &page.entries {
            let (seq, prev, tag, recorded_at) = (entry.seq, entry.prev, entry.tag, entry.recorded_at);
            rows.push(Row { seq, prev, tag, recorded_at, events: entry.text.to_string() });
            after = entry.position();
        }
        if !page.more {
            return Journal::new(0, Tag::GENESIS, rows);
        }
    }
}

/// A stock client, which remembers nothing itself.
async fn guest(stage: &Stage<'_>, shop: usize, door: SocketAddr) -> StockScreen {
    let owner = &stage.shops[shop];
    let channels = ["sales", "payments", "stock", "catalog"].map(str::to_owned).to_vec();
    let view = tillwire_channels::View::Office;
    let who = Who { name: "socket.io-client".to_owned(), shop, view, channels, memory: Memory::Protocol };
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/screen.mjs");
    let (node, _) = javascript_program(&program).await;
    StockScreen::comes(node, who, &format!("http://{door}"), &owner.owner).await.expect("Node.js")
}

/// One of the hub's own.
struct Node {
    process: TillwireProcess,
    role: &'static str,
    env: Env,
}

impl Process for Node {
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        async {
            self.process.kill().await;
            Ok(())
        }
        .boxed_local()
    }

    fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        async {
            self.process.terminate();
            let status = timeout(GO_MAX, self.process.ended()).await.context("it does not go")?;
            ensure!(status.success(), "it went with {status}:\n{}", self.process.log());
            Ok(())
        }
        .boxed_local()
    }

    fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        async {
            // Ready is another matter: what it needs may be broken as well.
            self.process = TillwireProcess::spawn(&[self.role], &self.env);
            Ok(())
        }
        .boxed_local()
    }

    fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP);
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT);
        Ok(())
    }

    fn is_well(&mut self) -> Result<()> {
        let log = self.process.log();
        ensure!(!self.process.has_ended(), "it ended by itself:\n{log}");
        ensure!(!log.contains("panicked at"), "something in it panicked:\n{log}");
        Ok(())
    }
}

impl Process for Postgres {
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.kill_now().boxed_local()
    }

    fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.stop().boxed_local()
    }

    fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        (**self).start_again().boxed_local()
    }

    fn pause(&mut self) -> Result<()> {
        Self::pause(self);
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        Self::resume(self);
        Ok(())
    }

    fn is_well(&mut self) -> Result<()> {
        ensure!(!self.pids().is_empty(), "it is not running");
        Ok(())
    }
}

/// Brokers have one way to go.
macro_rules! broker {
    ($service:ty) => {
        impl Process for $service {
            fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>> {
                async {
                    Self::kill(self);
                    Ok(())
                }
                .boxed_local()
            }

            fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>> {
                Process::kill(self)
            }

            fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>> {
                async {
                    Self::start_again(self).await;
                    Ok(())
                }
                .boxed_local()
            }

            fn pause(&mut self) -> Result<()> {
                Self::pause(self);
                Ok(())
            }

            fn resume(&mut self) -> Result<()> {
                Self::resume(self);
                Ok(())
            }

            fn is_well(&mut self) -> Result<()> {
                Ok(())
            }
        }
    };
}

broker!(Redis);
broker!(RabbitMq);
