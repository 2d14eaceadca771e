//! The private PostgreSQL of `tillwire demo` and of the tests.
//!
//! A hub owns one cluster at a time: it finds the server's binaries, makes the cluster when there is none, starts it on
//! a Unix socket that nobody else can reach, and takes over one that outlived its hub. It never touches a cluster that
//! it did not make, never upgrades one, and knows nothing of what is stored in it.

mod binaries;
mod place;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, ValueRef as _};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use binaries::Binaries;
pub use binaries::Source;
use place::Place;

/// The oldest major version whose SQL we speak.
const MAJOR_MIN: u32 = 15;
/// Crash recovery of a large cluster takes its time.
const START_MAX: Duration = Duration::from_secs(120);
const STOP_FAST_MAX: Duration = Duration::from_secs(20);
const STOP_IMMEDIATE_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How much of the server's log an error message quotes.
const LOG_TAIL_BYTES_MAX: u64 = 2_000;

/// The port names the socket's file; nothing listens on it unless [`Options::tcp`] asks for it.
const SOCKET_PORT: u16 = 5432;
const SUPERUSER: &str = "postgres";
const OWNER_ROLE: &str = "tillwire_migrate";
const ROLES: [&str; 4] = [OWNER_ROLE, "tillwire_app", "tillwire_feed", "tillwire_relay"];
const DATABASE: &str = "tillwire";

#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name: its folder under `home`.
    pub name: String,
    /// Where clusters live: by default `/var/lib/tillwire` for root and `~/.local/share/tillwire` for everyone else.
    /// Root runs the server as an unprivileged user, who must be able to reach it.
    pub home: Option<PathBuf>,
    pub source: Source,
    pub durability: Durability,
    pub connections_max: u16,
    pub tcp: Option<Tcp>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            name: "demo".into(),
            home: None,
            source: Source::Any,
            durability: Durability::Full,
            connections_max: 100,
            tcp: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A commit survives a power cut.
    Full,
    /// A commit survives every crash of a process, but not one of the machine.
    Test,
}

/// Also listen on the loopback address, for a test that puts a proxy between.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub port: u16,
    /// Every role's password. The Unix socket asks for none.
    pub password: String,
}

/// A running cluster. Dropping it leaves the server running, as a `kill -9` of the hub does; the next start adopts it.
#[derive(Debug)]
pub struct Postgres {
    options: Options,
    place: Place,
    binaries: Binaries,
    server: Server,
    /// Invariant: held as long as we may start or stop this cluster. The kernel releases it when we die.
    _lock: File,
}

/// The process that we stop, and where it listens.
#[derive(Debug)]
struct Server {
    process: Process,
    port: u16,
    socket_dir: PathBuf,
}

#[derive(Debug)]
enum Process {
    Started(Child),
    /// Another hub's child: ours to stop, not to wait for.
    Adopted(Pid),
    Stopped,
}

/// Starts the cluster named in `options`, or adopts it when its server is still alive, and makes the roles and the
/// database that are missing. `progress` hears what may take a while.
pub async fn start(options: Options, progress: &(dyn Fn(&str) + Sync)) -> Result<Postgres> {
    let place = Place::open(options.home.as_deref(), &options.name)?;
    let lock = place.lock()?;
    let major = major_of(&place.data())?;
    let binaries = binaries::find(options.source, major, place.user(), progress).await?;

    let server = match adopt(&place).await? {
        Some(server) => server,
        None => {
            if major.is_none() {
                progress("Creating the private database …");
                initialise(&place, &binaries, options.durability).await?;
            }
            launch(&place, &binaries, &options).await?
        }
    };
    let postgres = Postgres { options, place, binaries, server, _lock: lock };
    postgres.bootstrap().await.context("preparing the private PostgreSQL")?;
    info!(pid = postgres.server.process.pid().map(Pid::as_raw), "Private PostgreSQL is ready");
    Ok(postgres)
}

impl Postgres {
    /// A connection string over the private socket, which asks for no password. It leaves nothing open that sqlx would
    /// take from PostgreSQL's variables, which may be about another server.
    pub fn url(&self, role: &str, database: &str) -> String {
        let socket_dir = percent_encoded(&self.server.socket_dir.to_string_lossy());
        format!("postgres://{role}@localhost:{}/{database}?host={socket_dir}&sslmode=disable", self.server.port)
    }

    /// A connection string over TCP, to `port` on the loopback address: the cluster's own or a proxy's.
    pub fn tcp_url(&self, port: u16, role: &str, database: &str) -> Result<String> {
        let tcp = self.options.tcp.as_ref().context("this cluster does not listen on TCP")?;
        Ok(format!("postgres://{role}:{}@127.0.0.1:{port}/{database}?sslmode=disable", percent_encoded(&tcp.password)))
    }

    pub fn tcp_port(&self) -> Option<u16> {
        self.options.tcp.as_ref().map(|tcp| tcp.port)
    }

    /// Where the cluster, its socket and its log live.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    /// Runs statements as superuser. Answers as `psql -At` does: a line a row, columns parted by `|`, null as nothing.
    pub async fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut connection = connect(&self.server, database).await?;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
        connection.close().await?;
        Ok(rows.iter().map(line_of).collect::<Result<Vec<_>>>()?.join("\n"))
    }

    /// Creates a database that belongs to `tillwire_migrate` and that only our roles may enter. A `template` is
    /// copied, rows included; nobody may be connected to it.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<()> {
        let database = quoted(name);
        let template = template.map(|name| format!(" template {}", quoted(name))).unwrap_or_default();
        self.psql(SUPERUSER, &format!("create database {database} owner {OWNER_ROLE}{template}")).await?;
        let roles = ROLES.join(", ");
        self.psql(
            SUPERUSER,
            &format!("revoke all on database {database} from public; grant connect on database {database} to {roles}"),
        )
        .await?;
        Ok(())
    }

    /// Stops the server as politely as time allows: its clients are cut off, its data is flushed.
    pub async fn stop(&mut self) -> Result<()> {
        for (signal, wait_max) in [(Signal::SIGINT, STOP_FAST_MAX), (Signal::SIGQUIT, STOP_IMMEDIATE_MAX)] {
            let Some(pid) = self.server.process.pid() else { return Ok(()) };
            send(pid, signal)?;
            if timeout(wait_max, self.server.process.ended()).await.is_ok() {
                self.server.process = Process::Stopped;
                return Ok(());
            }
            warn!(%signal, "Private PostgreSQL did not stop within {wait_max:?}");
        }
        self.kill_now().await
    }

    /// Kills every process of the cluster at once, as a power cut would. For fault tests.
    pub async fn kill_now(&mut self) -> Result<()> {
        let Some(postmaster) = self.server.process.pid() else { return Ok(()) };
        send(postmaster, Signal::SIGSTOP)?; // So that it cannot start another child while we read which it has.
        for pid in self.pids() {
            send(pid, Signal::SIGKILL)?;
        }
        let ended = timeout(STOP_IMMEDIATE_MAX, self.server.process.ended()).await;
        ended.with_context(|| format!("PostgreSQL (process {postmaster}) survived SIGKILL"))?;
        self.server.process = Process::Stopped;
        Ok(())
    }

    /// Starts the server again after [`Postgres::stop`] or [`Postgres::kill_now`], on the same data and addresses.
    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(self.server.process.pid().is_none(), "the private PostgreSQL is still running");
        self.server = launch(&self.place, &self.binaries, &self.options).await?;
        Ok(())
    }

    /// The cluster's processes, the postmaster first. Each child leads a process group of its own, so that no single
    /// signal reaches them all.
    pub fn pids(&self) -> Vec<Pid> {
        let Some(postmaster) = self.server.process.pid() else { return Vec::new() };
        let mut pids = vec![postmaster];
        pids.extend(children_of(postmaster));
        pids
    }

    async fn bootstrap(&self) -> Result<()> {
        for role in ROLES {
            if self.psql(SUPERUSER, &format!("select 1 from pg_roles where rolname = '{role}'")).await?.is_empty() {
                self.psql(
                    SUPERUSER,
                    &format!("create role {role} login nosuperuser nocreatedb nocreaterole nobypassrls"),
                )
                .await?;
            }
        }
        if let Some(tcp) = &self.options.tcp {
            for role in ROLES.into_iter().chain([SUPERUSER]) {
                let password = tcp.password.replace('\'', "''");
                self.psql(SUPERUSER, &format!("alter role {role} password '{password}'")).await?;
            }
        }
        if self.psql(SUPERUSER, &format!("select 1 from pg_database where datname = '{DATABASE}'")).await?.is_empty() {
            self.create_database(DATABASE, None).await?;
        }
        Ok(())
    }
}

/// The major version that made the cluster; none when there is no cluster yet.
fn major_of(data: &Path) -> Result<Option<u32>> {
    let version = match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(version) => version,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading the version of {}", data.display())),
    };
    let major = version.trim().parse().with_context(|| format!("reading the version of {}", data.display()))?;
    ensure!(
        major >= MAJOR_MIN,
        "{} was made by PostgreSQL {major}; Tillwire needs {MAJOR_MIN} or newer: upgrade it with pg_upgrade or move it away",
        data.display()
    );
    Ok(Some(major))
}

/// Makes the cluster aside and moves it into place, so that one that was interrupted is never mistaken for a whole one.
async fn initialise(place: &Place, binaries: &Binaries, durability: Durability) -> Result<()> {
    let (unfinished, data) = (place.dir.join("data.new"), place.data());
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    place.make_private_dir(&unfinished)?;

    let mut initdb = binaries.initdb();
    initdb.args(["--encoding=UTF8", "--locale=C", "--username", SUPERUSER]);
    initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]); // The socket's folder is the lock on the door.
    initdb.args(durability.eq(&Durability::Test).then_some("--no-sync")).arg("--pgdata").arg(&unfinished);
    initdb.env("LC_ALL", "C").current_dir(&unfinished).stdin(Stdio::null());
    place.user().runs(&mut initdb);
    let output = tokio::task::spawn_blocking(move || initdb.output()).await?.context("starting initdb")?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());

    fs::rename(&unfinished, &data).with_context(|| format!("moving the new cluster to {}", data.display()))
}

/// Takes over the server that a killed hub left behind.
async fn adopt(place: &Place) -> Result<Option<Server>> {
    let data = place.data();
    let Ok(pid_file) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(None) };
    let lines: Vec<&str> = pid_file.lines().collect();
    // Line by line: pid, data directory, start time, port, socket directory. A server that has just begun wrote the pid.
    let Some(pid) = lines.first().and_then(|pid| pid.trim().parse().ok()).map(Pid::from_raw) else { return Ok(None) };
    if !serves(pid, &data) {
        // Its process is gone, or the number is another program's by now, which PostgreSQL could mistake for a server.
        fs::remove_file(data.join("postmaster.pid"))?;
        return Ok(None);
    }
    let (Some(port), Some(socket_dir)) = (lines.get(3).and_then(|port| port.trim().parse().ok()), lines.get(4)) else {
        return Err(anyhow!("PostgreSQL (process {pid}) is just starting in {}: try again", data.display()));
    };
    let server = Server { process: Process::Adopted(pid), port, socket_dir: socket_dir.trim().into() };

    let started = Instant::now();
    loop {
        match connect(&server, SUPERUSER).await {
            Ok(_) => break,
            Err(_) if !serves(pid, &data) => return Ok(None), // It was shutting down.
            Err(error) if started.elapsed() > START_MAX => {
                return Err(error)
                    .context(format!("PostgreSQL (process {pid}) runs in {} but does not answer", data.display()));
            }
            Err(_) => sleep(POLL_INTERVAL).await,
        }
    }
    info!(pid = pid.as_raw(), "Adopted the private PostgreSQL of an earlier run");
    Ok(Some(server))
}

/// Starts the server and waits until it takes connections.
async fn launch(place: &Place, binaries: &Binaries, options: &Options) -> Result<Server> {
    let socket_dir = place.socket_dir()?;
    let port = options.tcp.as_ref().map_or(SOCKET_PORT, |tcp| tcp.port);
    let started = Instant::now();
    loop {
        let child = spawn(place, binaries, options, &socket_dir, port)?;
        let mut server = Server { process: Process::Started(child), port, socket_dir: socket_dir.clone() };
        loop {
            if connect(&server, SUPERUSER).await.is_ok() {
                return Ok(server);
            }
            if server.process.has_ended() {
                break;
            }
            if started.elapsed() > START_MAX {
                server.process.pid().map_or(Ok(()), |pid| send(pid, Signal::SIGQUIT))?;
                bail!("PostgreSQL did not answer within {START_MAX:?}; its log ends: {}", log_tail(place));
            }
            sleep(POLL_INTERVAL).await;
        }
        // Children of a killed postmaster may live on for a moment and still hold its memory.
        let log_tail = log_tail(place);
        if !log_tail.contains("pre-existing shared memory block") || started.elapsed() > START_MAX {
            bail!("PostgreSQL did not start; its log ends: {log_tail}");
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Settings travel on the command line and not in `postgresql.conf`: they are always those of this version of the hub.
fn spawn(place: &Place, binaries: &Binaries, options: &Options, socket_dir: &Path, port: u16) -> Result<Child> {
    let fsync = if options.durability == Durability::Full { "on" } else { "off" };
    let listen = if options.tcp.is_some() { "127.0.0.1" } else { "" };
    let settings = [
        format!("listen_addresses={listen}"),
        format!("port={port}"),
        format!("unix_socket_directories={}", socket_dir.display()),
        "unix_socket_permissions=0700".into(),
        format!("max_connections={}", options.connections_max),
        format!("fsync={fsync}"),
        format!("full_page_writes={fsync}"),
        "synchronous_commit=on".into(),
        "shared_buffers=128MB".into(),
        "max_wal_size=512MB".into(),
        "jit=off".into(), // Compiling a till's short queries costs more than it saves.
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        "log_checkpoints=off".into(),
        "logging_collector=off".into(),
    ];
    let log = place.fresh_log()?;
    let mut postgres = binaries.postgres();
    postgres.arg("-D").arg(place.data());
    for setting in settings {
        postgres.args(["-c", &setting]);
    }
    postgres.current_dir(place.data()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    postgres.process_group(0); // Ctrl-C is for the hub, which then stops the server in its turn.
    place.user().runs(&mut postgres);
    postgres.spawn().context("starting PostgreSQL")
}

async fn connect(server: &Server, database: &str) -> Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&server.socket_dir)
        .port(server.port)
        .ssl_mode(PgSslMode::Disable)
        .username(SUPERUSER)
        .database(database);
    Ok(timeout(CONNECT_MAX, PgConnection::connect_with(&options)).await.context("PostgreSQL does not answer")??)
}

/// One row as `psql -At` prints it. A raw statement's values arrive as text.
fn line_of(row: &PgRow) -> Result<String> {
    let columns = (0..row.len()).map(|column| {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            Ok(String::new())
        } else {
            value.as_str().map(str::to_owned).map_err(|error| anyhow!(error))
        }
    });
    Ok(columns.collect::<Result<Vec<_>>>()?.join("|"))
}

impl Process {
    fn pid(&self) -> Option<Pid> {
        match self {
            Process::Started(child) => Some(Pid::from_raw(child.id().cast_signed())),
            Process::Adopted(pid) => Some(*pid),
            Process::Stopped => None,
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Process::Started(child) => !matches!(child.try_wait(), Ok(None)),
            Process::Adopted(pid) => !is_alive(*pid),
            Process::Stopped => true,
        }
    }

    /// Polls, so that the handle belongs to no one runtime: tests share a cluster between theirs.
    async fn ended(&mut self) {
        while !self.has_ended() {
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// Whether the process is a server of this data directory, which every such server has as its working directory.
fn serves(pid: Pid, data: &Path) -> bool {
    if cfg!(target_os = "linux") {
        let (cwd, data) = (fs::read_link(format!("/proc/{pid}/cwd")), fs::canonicalize(data));
        matches!((cwd, data), (Ok(cwd), Ok(data)) if cwd == data)
    } else {
        is_alive(pid)
    }
}

/// A process that has ended keeps its number until its parent asks, which an adopted one's may never do; what tells is
/// that it works nowhere any more.
fn is_alive(pid: Pid) -> bool {
    if cfg!(target_os = "linux") {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
    } else {
        kill(pid, None) != Err(nix::errno::Errno::ESRCH)
    }
}

/// A process that has just ended by itself needs no signal any more.
fn send(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {signal} to process {pid}")),
    }
}

/// Read from `/proc`; empty where there is none.
fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|number: &i32| {
            // `pid (command) state ppid …`: a command may itself contain spaces and brackets.
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let after_command = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            after_command.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        })
        .map(Pid::from_raw)
        .collect()
}

fn log_tail(place: &Place) -> String {
    let tail = || -> std::io::Result<String> {
        let mut log = File::open(place.log())?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        log.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    tail().unwrap_or_else(|error| format!("(no log: {error})"))
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn percent_encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}
