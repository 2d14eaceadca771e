//! Private services for the tests: one PostgreSQL, one Redis and one RabbitMQ for the whole run, each started when the
//! first test asks for it, and as many of their own as tests that kill them need. A cluster of RabbitMQ takes long to start,
//! so there is one a run, and its tests take turns.
//!
//! Nothing here is the machine's own, nothing listens beyond the loopback address, and nothing outlives the test process,
//! however that ends: a watchdog, which only waits for the kernel to close our end of a pipe, then kills every process
//! that works inside the run's folder and removes the folder. (Linux only: it reads `/proc`.)

pub mod commands;
pub mod deployed;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid, User};

pub use postgres::Postgres;
pub use rabbitmq::{RabbitMq, RabbitMqCluster};
pub use redis::{Redis, RedisCluster};
pub use tillwire_nemesis::proxy::{self, Proxy};

/// RabbitMQ takes seconds on an idle machine, and longer on a busy one.
const READY_MAX: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// PostgreSQL is first asked to remove its shared memory, which is not in the folder.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
for file in $(find "$1" -name postmaster.pid); do
    pid=$(head -n 1 "$file")
    kill -CONT "$pid"
    kill -QUIT "$pid"
done
sleep 0.3
rounds=0
while [ "$rounds" -lt 100 ]; do
    found=no
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd") in
            "$1" | "$1"/*) kill -KILL "${process#/proc/}" && found=yes ;;
        esac
    done
    [ "$found" = no ] && break
    rounds=$((rounds + 1))
    sleep 0.1
done
rm -rf "$1"
"#;

struct Run {
    dir: PathBuf,
    /// Invariant: its standard input closes when this process ends, and not before.
    _watchdog: Child,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    // Short, since Unix sockets live in it.
    let dir = env::temp_dir().join(format!("tillwire-test-{}-{:x}", process::id(), now.subsec_nanos()));
    make_dir(&dir);
    let dir = fs::canonicalize(dir).expect("the run's folder");
    let watchdog = Command::new("sh")
        .args(["-c", WATCHDOG, "watchdog"])
        .arg(&dir)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0) // Ctrl-C is for the tests; the watchdog has work to do then.
        .spawn()
        .expect("starting the watchdog");
    Run { dir, _watchdog: watchdog }
});

/// A new folder that goes when the test process ends, with every process whose working directory is in it.
pub fn dir(name: &str) -> PathBuf {
    let dir = RUN.dir.join(unique(name));
    make_dir(&dir);
    dir
}

/// A name that no other test of this run has.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A port on the loopback address that nobody listens on now, and that no other caller of this run gets.
pub fn free_port() -> u16 {
    tillwire_nemesis::free_port().expect("a free port")
}

/// Others may pass through, but not look around: services run as unprivileged users when we are root.
fn make_dir(dir: &Path) {
    fs::create_dir(dir).unwrap_or_else(|error| panic!("creating {}: {error}", dir.display()));
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).expect("permissions");
}

/// A service's process, the leader of its process group, with its folder and its log. Killed when dropped.
struct Service {
    name: &'static str,
    dir: PathBuf,
    child: Child,
}

impl Service {
    /// Starts the command in `dir`, as an unprivileged user when we are root.
    fn spawn(name: &'static str, dir: &Path, mut command: Command) -> Service {
        let log = File::create(dir.join(format!("{name}.out"))).expect("a log file");
        if let Some(user) = unprivileged() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir(dir).env("HOME", dir).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {name} ({command:?}): {error}"));
        Service { name, dir: dir.to_owned(), child }
    }

    /// Waits until `is_ready` says so; panics with the log when the process ends first.
    async fn ready(&mut self, is_ready: impl AsyncFn() -> bool) {
        let started = std::time::Instant::now();
        while !is_ready().await {
            let ended = self.child.try_wait().expect("waiting for a child");
            if ended.is_some() || started.elapsed() > READY_MAX {
                let log = fs::read_to_string(self.dir.join(format!("{}.out", self.name))).unwrap_or_default();
                panic!("{} is not ready after {:?} ({ended:?}):\n{log}", self.name, started.elapsed());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Stops it, as one that hangs. Waits until the last of its threads stands still: those of a busy machine go on for a while.
    fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        waitpid(Pid::from_raw(self.child.id().cast_signed()), Some(WaitPidFlag::WUNTRACED))
            .expect("a child that stops");
    }

    fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        // The group may already be gone.
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waiting for a child").is_some()
    }

    /// Kills the process group and waits for its leader, so that its ports are free afterwards.
    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("waiting for a child");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Who services run as when we are root.
fn unprivileged() -> Option<User> {
    let needed = Uid::effective().is_root();
    needed.then(|| User::from_name("nobody").expect("the list of users").expect("a user `nobody`"))
}

/// A folder that belongs to the user whom services run as.
fn service_dir(name: &str) -> PathBuf {
    let dir = dir(name);
    if let Some(user) = unprivileged() {
        chown_to(&dir, &user);
    }
    dir
}

fn chown_to(path: &Path, user: &User) {
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("giving a folder to a service's user");
}
