//! Servers that are killed, and started again on the same ports and data.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tillwire::embedded;
use tillwire_nemesis::victim;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::subject::process::Process;

/// How long a node may take to go in order.
const GO_MAX: Duration = Duration::from_secs(90);
/// How long a broker may take until it listens. RabbitMQ works for seconds on an idle machine, and its tables may have to
/// be had from another node that is still to be started.
const LISTENS_MAX: Duration = Duration::from_secs(400);
/// How often a broker is started that ends while it starts.
const STARTS_MAX: u32 = 3;

/// A process that knows how it is started.
pub struct Server {
    process: Process,
    name: String,
    dir: PathBuf,
    command: Box<dyn FnMut() -> Command>,
    kind: Kind,
}

enum Kind {
    /// Started again, it may find everything else broken.
    Hub,
    /// Ready once it listens here.
    Broker(u16),
}

impl Server {
    /// Starts one of the hub's own.
    pub fn hub(name: String, dir: PathBuf, command: impl FnMut() -> Command + 'static) -> Result<Self> {
        Self::start(name, dir, Box::new(command), Kind::Hub)
    }

    /// Starts a broker that will listen at a port.
    pub fn broker(name: String, dir: PathBuf, port: u16, command: impl FnMut() -> Command + 'static) -> Result<Self> {
        Self::start(name, dir, Box::new(command), Kind::Broker(port))
    }

    fn start(name: String, dir: PathBuf, mut command: Box<dyn FnMut() -> Command>, kind: Kind) -> Result<Self> {
        let process = Process::start(&name, &dir, &mut command())?;
        Ok(Self { process, name, dir, command, kind })
    }

    pub async fn until(&mut self, is_ready: impl AsyncFn() -> bool) -> Result<()> {
        self.process.until(is_ready).await
    }

    /// Waits until a broker listens.
    pub async fn listens(&mut self) -> Result<()> {
        match self.kind {
            Kind::Hub => Ok(()),
            Kind::Broker(port) => {
                let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
                self.process.within(LISTENS_MAX, listens).await
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.process.pid.cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }
}

impl victim::Process for Server {
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.process.kill().boxed_local()
    }

    fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        async {
            self.signal(Signal::SIGTERM)?;
            let status = self.process.ended(GO_MAX).await?;
            ensure!(status.success(), self.process.told(&format!("went with {status}")));
            Ok(())
        }
        .boxed_local()
    }

    fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        async {
            let mut starts = 0;
            loop {
                starts += 1;
                self.process = Process::start(&self.name, &self.dir, &mut (self.command)())?;
                match self.listens().await {
                    Err(_) if starts < STARTS_MAX && self.process.has_ended() => {}
                    outcome => return outcome,
                }
            }
        }
        .boxed_local()
    }

    fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn is_well(&mut self) -> Result<()> {
        ensure!(!self.process.has_ended(), self.process.told("ended by itself"));
        if matches!(self.kind, Kind::Hub) {
            ensure!(!self.process.log().contains("panicked at"), self.process.told("has panicked"));
        }
        Ok(())
    }
}

/// PostgreSQL, which is many processes.
pub struct Database(pub embedded::Postgres);

impl Database {
    fn signal(&self, signal: Signal) {
        for pid in self.0.pids() {
            let _ = kill(pid, signal); // A backend may just have ended.
        }
    }
}

impl victim::Process for Database {
    fn kill(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.0.kill_now().boxed_local()
    }

    fn terminate(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.0.stop().boxed_local()
    }

    fn start_again(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        self.0.start_again().boxed_local()
    }

    fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP);
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT);
        Ok(())
    }

    fn is_well(&mut self) -> Result<()> {
        ensure!(!self.0.pids().is_empty(), "PostgreSQL is not running");
        Ok(())
    }
}
