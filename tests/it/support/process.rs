//! The hub as a process of its own, for what only a process can show: signals, exit codes, its log, its sudden death.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tillwire::identity::tokens::{Signer, install_crypto, write_new_key};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::hub::{Answer, realm, request};
use super::metrics;
use super::services::{dir, free_port, unique};

/// A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Environment variables. A process is given these and the PATH, and nothing of the tester's own.
pub type Env = BTreeMap<&'static str, String>;

/// What `serve` and its parts need: a database, keys, ports. Ports stay the same when a process is started again.
pub fn environment(app_url: &str, feed_url: &str) -> (Env, Signer) {
    install_crypto();
    let keys = dir("keys");
    let private = keys.join(unique("key"));
    write_new_key(&private, false).expect("a key");
    let signer = Signer::open(&private, realm()).expect("a signer");
    let public = keys.join("public.json");
    fs::write(&public, serde_json::to_vec(&signer.public_keys().expect("keys")).expect("JSON")).expect("a key file");
    let env = Env::from([
        ("TILLWIRE_DATABASE_URL", app_url.to_owned()),
        ("TILLWIRE_FEED_DATABASE_URL", feed_url.to_owned()),
        ("TILLWIRE_TOKEN_KEYS", public.display().to_string()),
        ("TILLWIRE_TOKEN_ISSUER", realm().issuer),
        ("TILLWIRE_TOKEN_AUDIENCE", realm().audience),
        ("TILLWIRE_LISTEN", loopback(free_port()).to_string()),
        ("TILLWIRE_METRICS_LISTEN", loopback(free_port()).to_string()),
        ("TILLWIRE_DRAIN_SECONDS", "0".to_owned()),
    ]);
    (env, signer)
}

pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The address that a variable names.
pub fn address(env: &Env, variable: &str) -> SocketAddr {
    env[variable].parse().expect("an address")
}

/// A running `tillwire`. Killed when dropped, and with the test run however that ends.
pub struct TillwireProcess {
    /// Where `TILLWIRE_LISTEN` says.
    pub public: SocketAddr,
    /// Where `TILLWIRE_METRICS_LISTEN` says.
    pub metrics: SocketAddr,
    child: Child,
    dir: PathBuf,
}

impl TillwireProcess {
    /// Starts a role and waits until it is ready.
    pub async fn start(arguments: &[&str], env: &Env) -> Self {
        let mut process = Self::spawn(arguments, env);
        process.ready().await;
        process
    }

    /// Starts a role and waits for nothing.
    pub fn spawn(arguments: &[&str], env: &Env) -> Self {
        Self::spawn_as(&mut program(arguments), env)
    }

    /// The same where only so many files may be open.
    pub fn spawn_within(files: u32, arguments: &[&str], env: &Env) -> Self {
        Self::spawn_as(&mut program_within(files, arguments), env)
    }

    fn spawn_as(program: &mut Command, env: &Env) -> Self {
        let dir = dir("hub");
        let child = in_place(program, env, &dir)
            .stdout(File::create(dir.join("out")).expect("a file"))
            .stderr(File::create(dir.join("log")).expect("a file"))
            .process_group(0) // Ctrl-C is for the tests.
            .spawn()
            .expect("starting tillwire");
        let (public, metrics) = (address(env, "TILLWIRE_LISTEN"), address(env, "TILLWIRE_METRICS_LISTEN"));
        Self { public, metrics, child, dir }
    }

    /// Waits until it says that requests should come.
    pub async fn ready(&mut self) {
        self.until("ready", async |hub| hub.probe("/readyz").await == Some(200)).await;
    }

    /// Waits until its log holds this text.
    pub async fn says(&mut self, text: &str) {
        self.until(text, async |hub| hub.log().contains(text)).await;
    }

    /// Waits for a fact; panics with the log if the process ends first.
    pub async fn until(&mut self, what: &str, fact: impl AsyncFn(&Self) -> bool) {
        let started = Instant::now();
        while !fact(self).await {
            let ended = self.child.try_wait().expect("waiting for a child");
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "not `{what}` after {:?} ({ended:?}):\n{}",
                started.elapsed(),
                self.log()
            );
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The status that a path of the public listener answers; none if nobody answers.
    pub async fn probe(&self, path: &str) -> Option<u16> {
        self.get(path).await.map(|answer| answer.status)
    }

    pub async fn get(&self, path: &str) -> Option<Answer> {
        timeout(PATIENCE, request(self.public, "GET", path, &[], vec![])).await.ok()?.ok()
    }

    /// The sum of a metric's series that have all these labels, as it stands now.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.metrics().await, name, labels)
    }

    /// Everything that its metrics' listener tells.
    pub async fn metrics(&self) -> String {
        let told = timeout(PATIENCE, request(self.metrics, "GET", "/metrics", &[], vec![])).await;
        String::from_utf8(told.expect("metrics in time").expect("metrics").body).expect("UTF-8")
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        read(&self.dir.join("log"))
    }

    /// Everything that it has printed.
    pub fn printed(&self) -> String {
        read(&self.dir.join("out"))
    }

    pub fn pid(&self) -> Pid {
        let id = self.child.id().expect("a process that nobody has waited for");
        Pid::from_raw(id.cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a process to signal");
    }

    /// Tells it to drain and stop, as an orchestrator does.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Kills it at once and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("killing a child");
    }

    /// Whether it is gone, however that came about.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_some()
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("waiting for a child"),
            Err(_) => panic!("still running:\n{}", self.log()),
        }
    }
}

/// What a command came to that ends by itself.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command to its end.
pub async fn run(arguments: &[&str], env: &Env) -> Outcome {
    let mut command = program(arguments);
    in_place(&mut command, env, &dir("command"));
    outcome(command).await
}

/// The same where only so many files may be open.
pub async fn run_within(files: u32, arguments: &[&str], env: &Env) -> Outcome {
    let mut command = program_within(files, arguments);
    in_place(&mut command, env, &dir("command"));
    outcome(command).await
}

/// Runs a script in a folder, as somebody would who has `tillwire` on their PATH.
pub async fn shell(script: &str, env: &Env, dir: &Path) -> Outcome {
    let bin = Path::new(env!("CARGO_BIN_EXE_tillwire")).parent().expect("a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).expect("a PATH");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).env_clear().envs(env).env("PATH", path);
    bash.current_dir(dir).stdin(Stdio::null()).kill_on_drop(true);
    outcome(bash).await
}

async fn outcome(mut command: Command) -> Outcome {
    let output = timeout(PATIENCE, command.output()).await.expect("a command that ends").expect("starting it");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Outcome { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillwire"));
    command.args(arguments);
    command
}

fn program_within(files: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string(), env!("CARGO_BIN_EXE_tillwire")]);
    command.args(arguments);
    command
}

fn in_place<'a>(command: &'a mut Command, env: &Env, dir: &Path) -> &'a mut Command {
    command.env_clear().envs(env).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("what a child wrote")).into_owned()
}
