//! A server's process: started in the run's folder, its log kept there, ended when it is dropped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a server may take until it listens.
const READY_MAX: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

pub struct Process {
    pub name: String,
    pub pid: u32,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it in `dir`. What it says on its standard error is its log.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        Self::spawn(name, dir, command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    fn spawn(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        command.current_dir(dir).stderr(OpenOptions::new().create(true).append(true).open(&log)?).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("starting {name} ({command:?})"))?;
        let pid = child.id().context("a process that has just begun")?;
        Ok(Self { name: name.to_owned(), pid, child, log })
    }

    /// Starts one that says `listening PORT` and then does what its standard input says. Answers the port and the input.
    pub async fn start_peer(name: &str, dir: &Path, command: &mut Command) -> Result<(Self, u16, ChildStdin)> {
        let mut process = Self::spawn(name, dir, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = process.child.stdin.take().context("a pipe to a peer")?;
        let mut lines = BufReader::new(process.child.stdout.take().context("a pipe from a peer")?).lines();
        let first = timeout(READY_MAX, lines.next_line()).await.with_context(|| process.told("is not ready"))??;
        let port = first.as_deref().and_then(|line| line.strip_prefix("listening ")?.parse().ok());
        let port = port.with_context(|| process.told(&format!("said {first:?}")))?;
        Ok((process, port, input))
    }

    /// Waits until `is_ready` says so.
    pub async fn until(&mut self, is_ready: impl AsyncFn() -> bool) -> Result<()> {
        self.within(READY_MAX, is_ready).await
    }

    /// The same with more patience, or less.
    pub async fn within(&mut self, patience: Duration, is_ready: impl AsyncFn() -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is_ready().await {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!(self.told("is not ready"));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Ends it at once, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, patience: Duration) -> Result<ExitStatus> {
        let ended = timeout(patience, self.child.wait()).await;
        Ok(ended.with_context(|| self.told(&format!("did not end within {patience:?}")))??)
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Everything that it and its predecessors of the same name have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What became of it, with its log.
    pub fn told(&self, what: &str) -> String {
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        format!("{} {what}: {}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}
