//! What is broken: services and nodes as processes of the run's own, each reached through a proxy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tillwire::embedded::Durability;
use tillwire::identity::tokens::{Bearer, Realm, Signer, install_crypto, write_new_key};
use tillwire::journal::{Pools, chain, read};
use tillwire_channels::{MerchantId, Position, StaffId, Tag, View};
use tillwire_nemesis::free_port;
use tillwire_nemesis::journal::{Journal, Row};
use tillwire_nemesis::proxy::Proxy;
use tillwire_nemesis::record::{Memory, Who};
use tillwire_nemesis::round::{Guests, ReadJournal, Stage};
use tillwire_nemesis::schedule::{Cast, Target};
use tillwire_nemesis::shop::{Mint, Person, Shop};
use tillwire_nemesis::stock::StockScreen;
use tillwire_nemesis::victim::{Process as Suffering, Victim};
use tokio::process::Command;

use super::Options;
use super::server::{Database, Server};
use crate::run::Run;
use crate::subject::commands::{self, Ports};
use crate::subject::process::Process;
use crate::subject::tillwire::{DATABASE, get};
use crate::subject::{build, services};

const APIS: usize = 2;
const GATEWAYS: usize = 3;
const DOORS: usize = 3;
/// Of each broker's cluster.
const NODES: usize = 3;
/// As long as a token may live, and so a run.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
const SECRET: &str = "nemesis";

/// Everything that is there before anything breaks.
pub struct House {
    pools: Pools,
    signer: Signer,
    cast: Cast,
    /// Until the stage takes them.
    victims: RefCell<Vec<Victim>>,
    before_apis: Proxy,
    doors: Vec<SocketAddr>,
    shops: u64,
    versions: Vec<String>,
    /// The registry of names that RabbitMQ needs.
    _epmd: Process,
    /// For the stock clients.
    clients: PathBuf,
}

pub async fn open(run: &Run, options: &Options) -> Result<House> {
    install_crypto();
    let mut programs = vec![build::tillwire(run).await?];
    if let Some(other) = &options.other_binary {
        programs.push(std::fs::canonicalize(other).with_context(|| format!("finding {}", other.display()))?);
    }
    let mut versions = Vec::new();
    for program in &programs {
        let told = Command::new(program).arg("--version").output().await.context("asking a hub for its version")?;
        versions.push(format!("{} ({})", String::from_utf8(told.stdout)?.trim(), program.display()));
    }
    let brokers = if options.cluster { NODES } else { 1 };
    let cast = Cast { redis: brokers, rabbitmq: brokers, apis: APIS, gateways: GATEWAYS, doors: DOORS };

    let postgres = services::postgres(run, Durability::Test).await?;
    migrate(&programs[0], &postgres.url("tillwire_migrate", DATABASE)).await?;
    let url = |role| postgres.url(role, DATABASE);
    let pools = Pools::open(&url("tillwire_app"), &url("tillwire_feed"), 4)?;
    let link = Proxy::to(postgres.tcp_port().context("a cluster with TCP")?).await;
    let (signer, mut env) = keys(run)?;
    let near = |role| postgres.tcp_url(link.port, role, DATABASE);
    env.insert("TILLWIRE_DATABASE_URL", near("tillwire_app")?);
    env.insert("TILLWIRE_FEED_DATABASE_URL", near("tillwire_feed")?);
    let mut victims = vec![victim(Target::Postgres, Database(postgres), link)];

    let redis = redis(run, cast.redis).await?;
    let of_redis = redis.iter().map(|victim| format!("redis://127.0.0.1:{}", victim.link.port));
    env.insert("REDIS_URL", of_redis.collect::<Vec<_>>().join(","));
    if options.cluster {
        env.insert("TILLWIRE_REDIS_CLUSTER", "true".to_owned());
    }
    victims.extend(redis);
    let (rabbitmq, epmd) = rabbitmq(run, cast.rabbitmq).await?;
    let of_rabbitmq = rabbitmq.iter().map(|victim| format!("amqp://guest:guest@127.0.0.1:{}/%2f", victim.link.port));
    env.insert("AMQP_URL", of_rabbitmq.collect::<Vec<_>>().join(","));
    victims.extend(rabbitmq);

    let (mut apis, mut gateways) = (Vec::new(), Vec::new());
    for target in (0..APIS).map(Target::Api).chain((0..GATEWAYS).map(Target::Gateway)) {
        let victim = node(run, target, &programs, &env).await?;
        if matches!(target, Target::Api(_)) { &mut apis } else { &mut gateways }.push(victim.link.port);
        victims.push(victim);
    }
    let before_apis = Proxy::over(apis).await;
    let mut doors = Vec::new();
    for at in 0..DOORS {
        let link = Proxy::over(gateways.clone()).await;
        doors.push(loopback(link.port));
        victims.push(Victim { target: Target::Door(at), process: None, link });
    }
    let clients = if options.guests > 0 { build::stock_clients().await? } else { PathBuf::new() };
    let (shops, victims) = (options.shops, RefCell::new(victims));
    Ok(House { pools, signer, cast, victims, before_apis, doors, shops, versions, _epmd: epmd, clients })
}

impl House {
    /// What the hub says that it is, and the other one.
    pub fn versions(&self) -> &[String] {
        &self.versions
    }

    pub fn mint(&self) -> impl Fn(&Person) -> Result<String> + '_ {
        |person| {
            let Person { merchant, role, outlets, register } = person.clone();
            let bearer = Bearer { merchant, staff: StaffId::new(), role, outlets, register };
            self.signer.mint(&bearer, TOKEN_TTL)
        }
    }

    pub fn read(&self) -> impl Fn(MerchantId) -> BoxFuture<'static, Result<Journal>> + use<> {
        let pools = self.pools.clone();
        move |merchant| read_journal(pools.clone(), merchant).boxed()
    }

    /// Opens the shops.
    pub async fn stage<'a>(&self, mint: Mint<'a>, read: ReadJournal<'a>) -> Result<Stage<'a>> {
        let (api, mut shops) = (loopback(self.before_apis.port), Vec::new());
        for number in 1..=self.shops {
            shops.push(Arc::new(Shop::open(api, usize::try_from(number)?, mint).await?));
        }
        let victims = self.victims.take();
        Ok(Stage { cast: self.cast, victims, api, doors: self.doors.clone(), shops, mint, read })
    }

    /// Someone else's clients, in all shops and by all doors.
    pub async fn guests(&self, stage: &Stage<'_>, many: u64, seed: u64) -> Result<Box<dyn Guests>> {
        let mut guests = Vec::new();
        for number in 0..usize::try_from(many)? {
            let shop = number % stage.shops.len();
            let name = format!("shop {} socket.io-client {} of seed {seed}", shop + 1, number + 1);
            let channels = ["sales", "payments", "stock", "catalog"].map(str::to_owned).to_vec();
            let who = Who { name, shop, view: View::Office, channels, memory: Memory::Protocol };
            let hub = format!("http://{}", stage.doors[number % stage.doors.len()]);
            let mut node = Command::new("node");
            node.arg("screen.mjs").current_dir(&self.clients);
            guests.push(StockScreen::comes(node, who, &hub, &stage.shops[shop].owner).await?);
        }
        Ok(Box::new(guests))
    }
}

/// With the program's own migrations, which may be newer than those of the other one.
async fn migrate(program: &Path, url: &str) -> Result<()> {
    let output = Command::new(program).arg("migrate").env("TILLWIRE_MIGRATE_DATABASE_URL", url).output().await;
    let output = output.context("starting `migrate`")?;
    ensure!(output.status.success(), "migrating: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn victim(target: Target, process: impl Suffering + 'static, link: Proxy) -> Victim {
    Victim { target, process: Some(Box::new(process)), link }
}

fn port() -> Result<u16> {
    free_port().context("no port is free")
}

/// A key to sign tokens with, and what every node is told.
fn keys(run: &Run) -> Result<(Signer, BTreeMap<&'static str, String>)> {
    let keys = run.folder("keys")?;
    write_new_key(&keys.join("private.pem"), false)?;
    let realm = Realm { issuer: "loadtest".to_owned(), audience: "loadtest".to_owned() };
    let signer = Signer::open(&keys.join("private.pem"), realm)?;
    let public = keys.join("public.json");
    std::fs::write(&public, serde_json::to_vec(&signer.public_keys()?)?)?;
    let env = BTreeMap::from([
        ("TILLWIRE_TOKEN_KEYS", public.display().to_string()),
        ("TILLWIRE_TOKEN_ISSUER", "loadtest".to_owned()),
        ("TILLWIRE_TOKEN_AUDIENCE", "loadtest".to_owned()),
        ("TILLWIRE_DRAIN_SECONDS", "0".to_owned()),
        // Each is made anew after every fault, and there are many nodes.
        ("TILLWIRE_DATABASE_CONNECTIONS", "6".to_owned()),
        // So that half-open connections are noticed many times in a run.
        ("TILLWIRE_PING_SECONDS", "2".to_owned()),
        ("TILLWIRE_LOG", "info,tillwire::gateway::session=warn".to_owned()),
    ]);
    Ok((signer, env))
}

/// A server, or the masters of a cluster, who tell clients to come by their proxies.
async fn redis(run: &Run, nodes: usize) -> Result<Vec<Victim>> {
    let (mut victims, mut ports) = (Vec::new(), Vec::new());
    for at in 0..nodes {
        let (port, cluster_port, dir) = (port()?, port()?, run.folder("redis")?);
        let link = Proxy::to(port).await;
        let (is_cluster, announced) = (nodes > 1, link.port);
        let mut server = Server::broker(Target::Redis(at).to_string(), dir, port, move || {
            if !is_cluster {
                return commands::redis_server(port).into();
            }
            let mut command = commands::redis_node(port, cluster_port);
            command.args(["--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", &announced.to_string()]);
            command.args(["--cluster-announce-bus-port", &cluster_port.to_string()]);
            command.into()
        })?;
        server.listens().await?;
        ports.push((port, cluster_port));
        victims.push(victim(Target::Redis(at), server, link));
    }
    if nodes > 1 {
        commands::form_redis_cluster(&ports, nodes).await.context("making a Redis Cluster")?;
    }
    Ok(victims)
}

/// A node, or a cluster of them, and the registry of their names.
async fn rabbitmq(run: &Run, nodes: usize) -> Result<(Vec<Victim>, Process)> {
    let (epmd_port, dir) = (port()?, run.folder("epmd")?);
    let mut epmd = Process::start("epmd", &dir, &mut commands::epmd(epmd_port).into())?;
    epmd.until(async || tokio::net::TcpStream::connect(("127.0.0.1", epmd_port)).await.is_ok()).await?;
    let names: Vec<String> = (1..=nodes).map(|number| format!("nemesis-{number}@localhost")).collect();
    let peers = if nodes > 1 { names.clone() } else { Vec::new() };
    let mut servers = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let ports = Ports { amqp: port()?, management: port()?, distribution: port()?, epmd: epmd_port };
        let dir = run.folder("rabbitmq")?;
        commands::write_rabbitmq_files(&dir, ports, &peers, SECRET)?;
        let home = dir.clone();
        let server = Server::broker(Target::RabbitMq(at).to_string(), dir, ports.amqp, move || {
            let mut command = commands::rabbitmq_server(&home, ports, &name);
            command.env("HOME", &home);
            command.into()
        })?;
        servers.push((at, server, Proxy::to(ports.amqp).await));
    }
    let mut victims = Vec::new();
    for (at, mut server, link) in servers {
        server.listens().await?;
        victims.push(victim(Target::RabbitMq(at), server, link));
    }
    Ok((victims, epmd))
}

/// A node of the hub, which others reach through its proxy, gateways one another too. Each start is of the next program.
async fn node(run: &Run, target: Target, programs: &[PathBuf], env: &BTreeMap<&'static str, String>) -> Result<Victim> {
    let (listen, metrics, dir) = (loopback(port()?), loopback(port()?), run.folder("hub")?);
    let link = Proxy::to(listen.port()).await;
    let (programs, mut env) = (programs.to_vec(), env.clone());
    env.insert("TILLWIRE_LISTEN", listen.to_string());
    env.insert("TILLWIRE_METRICS_LISTEN", metrics.to_string());
    env.insert("TILLWIRE_NODE_ADDRESS", loopback(link.port).to_string());
    // Not all begin with the same.
    let mut starts = match target {
        Target::Api(at) | Target::Gateway(at) => at,
        _ => 0,
    };
    let mut server = Server::hub(target.to_string(), dir, move || {
        let program: &Path = &programs[starts % programs.len()];
        starts += 1;
        let mut command = Command::new(program);
        command.arg(target.kind()).env_clear().envs(&env);
        command
    })?;
    server.until(async || get(listen, "/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))).await?;
    Ok(victim(target, server, link))
}

/// The whole journal, every hash of it checked.
async fn read_journal(pools: Pools, merchant: MerchantId) -> Result<Journal> {
    let verified = chain::verify(&pools.feed, merchant).await?;
    ensure!(verified.is_ok(), "{verified:?}");
    let (mut rows, mut after) = (Vec::new(), Position::START);
    loop {
        let mut sql = pools.feed.acquire().await?;
        let page = read::after(&mut sql, merchant, after, read::Slice::default()).await;
        let page = page.map_err(|error| error.into_anyhow())?;
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
