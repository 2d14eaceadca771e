//! Tillwire as a subject: real `tillwire` processes on services of the run's own.
//!
//! A gateway sends what journals hold, and has no door for anything else. So the driver plays the node that commits:
//! it writes real entries, numbered and chained, into the journal's tables, and announces each on the real bus, through
//! the library's own code. The gateway hears them as it hears those of any other node, checks every one against its
//! chain, and would find in the journal whatever the bus lost. The clock starts when an entry is announced; writing it
//! down before is on the subject's CPU bill, with PostgreSQL's and Redis's own work. What differs from a sale: an entry
//! holds one event of a type that no commerce knows, with as many bytes of data as the peers' messages have. On the
//! wire it is larger than theirs, for a screen is also told number, time, place and position.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};
use tillwire::bus::{Brokers, Buses, Doors};
use tillwire::embedded::{Durability, Postgres};
use tillwire::identity::tokens::{Bearer, Realm, Signer, install_crypto, write_new_key};
use tillwire::journal::{Committed, Entry, chain};
use tillwire::relay::herald::Herald;
use tillwire_channels::{MerchantId, Moment, Role, StaffId, Tag};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::process::Process;
use super::{Running, Voice, Watched, build, payload, services};
use crate::client::order::Format;
use crate::run::{Run, free_port};
use crate::stamps::Stamps;

pub const DATABASE: &str = "tillwire";
/// As long as a run may take.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);
/// How long a node may take to answer whether it is ready, or with its metrics.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What an idle screen of the budgets has joined.
const CHANNELS: [&str; 3] = ["sales", "stock", "payments"];

/// The services under a hub, its keys, and what its nodes are started with.
pub struct Base {
    pub cluster: Postgres,
    pub brokers: Vec<Process>,
    pub redis_url: String,
    pub amqp_url: Option<String>,
    pub signer: Signer,
    env: BTreeMap<&'static str, String>,
}

impl Base {
    pub async fn start(run: &Run, durability: Durability, with_rabbitmq: bool) -> Result<Self> {
        install_crypto();
        let cluster = services::postgres(run, durability).await?;
        tillwire::schema::up(&cluster.url("tillwire_migrate", DATABASE)).await.context("migrating")?;
        let (redis, redis_port) = services::redis(run).await?;
        let mut brokers = vec![redis];
        let mut amqp_url = None;
        if with_rabbitmq {
            let (processes, port) = services::rabbitmq(run).await?;
            brokers.extend(processes);
            amqp_url = Some(format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
        }
        let redis_url = format!("redis://127.0.0.1:{redis_port}");

        let keys = run.folder("keys")?;
        write_new_key(&keys.join("private.pem"), false)?;
        let realm = Realm { issuer: "loadtest".to_owned(), audience: "loadtest".to_owned() };
        let signer = Signer::open(&keys.join("private.pem"), realm)?;
        let public = keys.join("public.json");
        std::fs::write(&public, serde_json::to_vec(&signer.public_keys()?)?)?;

        let mut env = BTreeMap::from([
            ("TILLWIRE_DATABASE_URL", cluster.url("tillwire_app", DATABASE)),
            ("TILLWIRE_FEED_DATABASE_URL", cluster.url("tillwire_feed", DATABASE)),
            ("TILLWIRE_RELAY_DATABASE_URL", cluster.url("tillwire_relay", DATABASE)),
            ("TILLWIRE_TOKEN_KEYS", public.display().to_string()),
            ("TILLWIRE_TOKEN_ISSUER", "loadtest".to_owned()),
            ("TILLWIRE_TOKEN_AUDIENCE", "loadtest".to_owned()),
            ("TILLWIRE_DRAIN_SECONDS", "0".to_owned()),
            ("TILLWIRE_LOG", "warn".to_owned()),
            // The peers have none of these bounds, and all screens here come from one machine with one token.
            ("TILLWIRE_SOCKETS_PER_ADDRESS", "0".to_owned()),
            ("TILLWIRE_SOCKETS_PER_TOKEN", "0".to_owned()),
            ("TILLWIRE_SOCKETS_PER_MERCHANT", "0".to_owned()),
            ("TILLWIRE_HANDSHAKES_PER_SECOND", run.handshakes_per_second.to_string()),
            ("REDIS_URL", redis_url.clone()),
        ]);
        if let Some(url) = &amqp_url {
            env.insert("AMQP_URL", url.clone());
        }
        Ok(Self { cluster, brokers, redis_url, amqp_url, signer, env })
    }

    /// What nodes that are started from now on are told besides.
    pub fn tell(&mut self, variable: &'static str, value: String) {
        self.env.insert(variable, value);
    }

    /// Starts a node of this role and waits until it is ready. Answers where it serves.
    pub async fn node(&self, program: &Path, role: &str, name: &str, dir: &Path) -> Result<Node> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(program);
        command.arg(role).env_clear().envs(&self.env);
        command.env("TILLWIRE_LISTEN", address.to_string()).env("TILLWIRE_METRICS_LISTEN", metrics.to_string());
        let mut process = Process::start(name, dir, &mut command)?;
        process.until(async || is_ready(address).await.unwrap_or(false)).await?;
        Ok(Node { process, address, metrics })
    }

    /// Opens a merchant with an empty journal.
    pub async fn merchant(&self) -> Result<MerchantId> {
        let merchant = MerchantId::new();
        let sql = format!(
            "insert into merchants (merchant_id, name, currency) values ('{merchant}', 'Load', 'IDR');
             insert into journal_heads (merchant_id) values ('{merchant}')"
        );
        self.cluster.psql(DATABASE, &sql).await.context("opening a merchant")?;
        Ok(merchant)
    }

    /// What an owner's screen connects with, all but the last brace, and the bare token.
    pub fn owner(&self, merchant: MerchantId, channels: &[&str]) -> Result<(String, String)> {
        let (outlets, register) = (Vec::new(), None);
        let bearer = Bearer { merchant, staff: StaffId::new(), role: Role::Owner, outlets, register };
        let token = self.signer.mint(&bearer, TOKEN_TTL)?;
        let auth = serde_json::json!({ "token": token, "channels": channels }).to_string();
        Ok((auth.strip_suffix('}').context("an object")?.to_owned(), token))
    }

    /// The processes of the services, as they are sampled.
    pub fn watched(&self) -> Result<Vec<Watched>> {
        let postmaster = self.cluster.pids().first().context("a cluster that runs")?.as_raw().cast_unsigned();
        let mut watched = vec![Watched { name: "postgres".to_owned(), pid: postmaster, front: false }];
        let brokers = self.brokers.iter();
        watched.extend(brokers.map(|it| Watched { name: it.name.clone(), pid: it.pid, front: false }));
        Ok(watched)
    }
}

pub struct Node {
    pub process: Process,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
}

/// Gateways with one merchant, and the driver that plays the node that commits.
pub async fn start(run: &Run, fronts: usize) -> Result<Running> {
    let program = build::tillwire(run).await?;
    // Nobody waits for a disk here: the fan-out is what is measured.
    let base = Base::start(run, Durability::Test, false).await?;
    let merchant = base.merchant().await?;
    let dir = run.folder("tillwire")?;
    let mut running = Running::new(Format::Enveloped);
    for number in 1..=fronts {
        let name = if fronts == 1 { "tillwire".to_owned() } else { format!("tillwire-{number}") };
        let node = base.node(&program, "gateway", &name, &dir).await?;
        running.watched.push(Watched { name, pid: node.process.pid, front: true });
        running.addresses.push(node.address);
        running.metrics.push(node.metrics);
        running.processes.push(node.process);
    }
    running.auth = Some(base.owner(merchant, &CHANNELS)?.0);
    running.watched.extend(base.watched()?);
    running.voice = Voice::Journal(Box::new(Publisher::start(&base, merchant).await?));
    running.processes.extend(base.brokers);
    running.cluster = Some(base.cluster);
    Ok(running)
}

/// The node that commits.
pub struct Publisher {
    sql: PgConnection,
    merchant: MerchantId,
    seq: u64,
    prev: Tag,
    doors: Doors,
    stop: CancellationToken,
}

impl Publisher {
    pub async fn start(base: &Base, merchant: MerchantId) -> Result<Self> {
        let mut sql = PgConnection::connect(&base.cluster.url("tillwire_app", DATABASE)).await?;
        sqlx::query("select set_config('tillwire.merchant', $1, false)")
            .bind(merchant.to_string())
            .execute(&mut sql)
            .await?;
        let stop = CancellationToken::new();
        let (mut buses, mut doors) = Buses::new(TaskTracker::new(), stop.clone());
        let brokers = Brokers {
            redis_url: Some(SecretString::from(base.redis_url.as_str())),
            amqp_url: base.amqp_url.as_deref().map(SecretString::from),
            ..Brokers::default()
        };
        buses.connect(&brokers)?;
        if let Some(herald) = Herald::new(&brokers, || buses.tell_moved())? {
            tokio::spawn(herald.run(stop.clone()));
        }
        buses.open();
        // Nobody listens at this node: what it says to itself is let go.
        let (_, nothing) = tokio::sync::mpsc::channel(1);
        let mut heard = std::mem::replace(&mut doors.gateway.heard, nothing);
        tokio::spawn(async move { while heard.recv().await.is_some() {} });
        Ok(Self { sql, merchant, seq: 0, prev: Tag::GENESIS, doors, stop })
    }

    /// Commits an entry for each message, all in one statement, and then announces them.
    pub async fn send(&mut self, numbers: Range<u64>, bytes: usize, stamps: &Stamps) -> Result<()> {
        // A gateway that just then looks at the heads reads them from the journal: its clock has begun as well.
        stamps.stamp(numbers.clone())?;
        let entries = self.commit(numbers.clone().map(|number| payload(number, bytes))).await?;
        stamps.stamp(numbers)?;
        self.announce(entries).await
    }

    /// Whose journal it is, and the number that its next entry will have.
    pub fn next(&self) -> (MerchantId, u64) {
        (self.merchant, self.seq + 1)
    }

    /// Commits one entry with this data, and then announces it.
    pub async fn tell(&mut self, data: String) -> Result<()> {
        let entries = self.commit(std::iter::once(data)).await?;
        self.announce(entries).await
    }

    async fn announce(&self, entries: Vec<Arc<Entry>>) -> Result<()> {
        for entry in entries {
            self.doors.announce.send(Committed::now(entry)).await.context("a bus that runs")?;
        }
        Ok(())
    }

    /// Commits entries of one event each, with this data.
    pub async fn commit(&mut self, data: impl Iterator<Item = String>) -> Result<Vec<Arc<Entry>>> {
        // Microseconds, as PostgreSQL keeps them.
        let now = Moment::now_utc();
        let now = now.replace_nanosecond(now.microsecond() * 1_000)?;
        let occurred_at = now.format(&time::format_description::well_known::Rfc3339)?;
        let before = self.prev;
        let mut last = before;
        let mut entries = Vec::new();
        for data in data {
            let text = format!(
                "[{{\"type\":\"load.tested\",\"channels\":[\"sales\"],\"view\":\"display\",\
                 \"occurred_at\":\"{occurred_at}\",\"data\":{data}}}]"
            );
            self.seq += 1;
            let tag = chain::tag(self.prev, self.merchant, self.seq, &text);
            entries.push(Arc::new(Entry::new(self.merchant, self.seq, self.prev, tag, now, text.into())));
            (last, self.prev) = (self.prev, tag);
        }
        let seqs: Vec<i64> = entries.iter().map(|it| it.seq.cast_signed()).collect();
        let prevs: Vec<&[u8]> = entries.iter().map(|it| it.prev.0.as_slice()).collect();
        let tags: Vec<&[u8]> = entries.iter().map(|it| it.tag.0.as_slice()).collect();
        let texts: Vec<&str> = entries.iter().map(|it| &*it.text).collect();
        sqlx::query(
            "with entry as (
                 insert into journal_entries (merchant_id, seq, recorded_at, prev, tag, events)
                 select $1, seq, $2, prev, tag, events
                 from unnest($3::bigint[], $4::bytea[], $5::bytea[], $6::text[]) as new (seq, prev, tag, events)
             )
             update journal_heads set seq = $7, prev = $8, tag = $9, recorded_at = $2 where merchant_id = $1",
        )
        .bind(self.merchant.0)
        .bind(now)
        .bind(seqs)
        .bind(prevs)
        .bind(tags)
        .bind(texts)
        .bind(self.seq.cast_signed())
        .bind(last.0.as_slice())
        .bind(self.prev.0.as_slice())
        .execute(&mut self.sql)
        .await
        .context("writing entries")?;
        Ok(entries)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn is_ready(address: SocketAddr) -> Result<bool> {
    Ok(get(address, "/readyz").await?.starts_with("HTTP/1.1 200"))
}

/// What a path answers, head and body.
pub async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(ANSWER_MAX, asking).await.with_context(|| format!("{path}: no answer within {ANSWER_MAX:?}"))?
}

/// The sum of a counter's series at a node's metrics.
pub async fn counted(metrics: SocketAddr, name: &str) -> Result<f64> {
    let told = get(metrics, "/metrics").await?;
    let lines = told.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}
