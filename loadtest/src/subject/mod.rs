//! Subjects: the servers that are compared, each started as its own processes.
//!
//! All but the Node app are told what to send in the same way: line by line, each line the argument of one event that
//! every screen is sent. Tillwire has no such door, and is given none: see [`tillwire`].

pub mod bare;
pub mod build;
#[path = "../../../tests/it/support/services/commands.rs"]
pub mod commands;
pub mod node_app;
pub mod pgbench;
pub mod process;
pub mod providers;
pub mod receiver;
pub mod services;
pub mod tillwire;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};

use crate::client::order::{Format, Group};
use crate::run::Run;
use crate::stamps::Stamps;
use process::Process;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// An epoll loop with one `send` for each message to each screen: the floor of those who coalesce nothing.
    BareSend,
    /// An epoll loop with one `send` for whatever is there to be sent to a screen.
    BareCoalesce,
    /// The stock Socket.IO server on Node.js, at its best documented settings.
    NodeSocketio,
    /// The same on Bun's engine.
    BunSocketio,
    /// socketioxide as it comes.
    Socketioxide,
    /// socketioxide with small read buffers, stripped headers and larger queues.
    SocketioxideTuned,
    /// A gateway of Tillwire, with the PostgreSQL and the Redis that it needs.
    Tillwire,
    /// Express, `pg`, Socket.IO and the Redis adapter, as people write it today.
    NodeApp,
    /// pgbench with the statements of a sale: what PostgreSQL itself can do.
    Pgbench,
    /// A publisher and a consumer without a journal: what RabbitMQ itself can do.
    BarePublish,
    /// A receiver of webhooks that does nothing with them: what the provider itself takes.
    BareWebhook,
}

impl Subject {
    /// Whether it can be told what to send to screens.
    pub fn holds_screens(self) -> bool {
        !matches!(self, Self::NodeApp | Self::Pgbench | Self::BarePublish | Self::BareWebhook)
    }

    /// The name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Starts it, with screens spread over so many processes.
    pub async fn start(self, run: &Run, fronts: usize) -> Result<Running> {
        let dir = run.folder(&self.name())?;
        let exe = std::env::current_exe()?;
        let (program, arguments) = match self {
            Self::BareSend => (exe, vec!["bare".into()]),
            Self::BareCoalesce => (exe, vec!["bare".into(), "--coalesce".into()]),
            Self::NodeSocketio => ("node".into(), vec![build::node_peers().await?.join("node-socketio.mjs")]),
            Self::BunSocketio => {
                let peers = build::node_peers().await?;
                (build::bun(&peers)?, vec![peers.join("bun-socketio.mjs")])
            }
            Self::Socketioxide => (build::socketioxide().await?, vec![]),
            Self::SocketioxideTuned => (build::socketioxide().await?, vec!["tuned".into()]),
            Self::Tillwire => return tillwire::start(run, fronts).await,
            Self::NodeApp | Self::Pgbench | Self::BarePublish | Self::BareWebhook => {
                bail!("{} has no screens to send to", self.name())
            }
        };
        let mut running = Running::default();
        let mut voices = Vec::new();
        for number in 1..=fronts {
            let mut command = Command::new(&program);
            command.args(&arguments);
            let name = if fronts == 1 { self.name() } else { format!("{}-{number}", self.name()) };
            let (process, port, voice) = Process::start_peer(&name, &dir, &mut command).await?;
            running.watched.push(Watched { name, pid: process.pid, front: true });
            running.addresses.push(([127, 0, 0, 1], port).into());
            running.processes.push(process);
            voices.push(voice);
        }
        running.voice = Voice::Lines(voices);
        Ok(running)
    }
}

/// A subject that is running.
#[derive(Default)]
pub struct Running {
    /// Every process of it that is sampled.
    pub watched: Vec<Watched>,
    /// Where screens connect.
    pub addresses: Vec<SocketAddr>,
    pub format: Option<Format>,
    /// What screens connect with.
    pub auth: Option<String>,
    voice: Voice,
    pub processes: Vec<Process>,
    /// Inputs that are never written to, but whose end would end a peer.
    kept: Vec<ChildStdin>,
    pub cluster: Option<::tillwire::embedded::Postgres>,
    /// Where each front tells its metrics, if it does.
    pub metrics: Vec<SocketAddr>,
}

/// A process whose time and memory are taken down, with its children.
#[derive(Clone, Debug)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
    /// Whether it holds screens.
    pub front: bool,
}

/// How it is told what to send.
#[derive(Default)]
enum Voice {
    #[default]
    None,
    Lines(Vec<ChildStdin>),
    Journal(Box<tillwire::Publisher>),
}

impl Running {
    /// Nothing yet, whose screens read this format.
    pub fn new(format: Format) -> Self {
        Self { format: Some(format), ..Self::default() }
    }

    /// So many screens, spread evenly.
    pub fn groups(&self, screens: usize) -> Vec<Group> {
        let fronts = self.addresses.len();
        let group = |(at, address): (usize, &SocketAddr)| Group {
            address: *address,
            auth: self.auth.clone().unwrap_or_else(|| "{\"t\":0".to_owned()),
            screens: screens / fronts + usize::from(at < screens % fronts),
            base: 0,
            return_to: None,
            bytes_per_second: None,
        };
        self.addresses.iter().enumerate().map(group).collect()
    }

    /// The same merchant's journal goes on, and nobody is told.
    pub async fn commit(&mut self, numbers: Range<u64>, bytes: usize, stamps: &Stamps) -> Result<()> {
        let Voice::Journal(publisher) = &mut self.voice else { bail!("this subject keeps no journal") };
        stamps.stamp(numbers.clone())?;
        publisher.commit(numbers.map(|number| payload(number, bytes))).await?;
        Ok(())
    }

    pub fn format(&self) -> Format {
        self.format.unwrap_or(Format::Numbered)
    }

    /// Sends these messages to every screen, each of so many bytes. The clock of each starts here.
    pub async fn send(&mut self, numbers: Range<u64>, bytes: usize, stamps: &Stamps) -> Result<()> {
        match &mut self.voice {
            Voice::None => bail!("this subject cannot be told what to send"),
            Voice::Lines(voices) => {
                let lines: String = numbers.clone().map(|number| payload(number, bytes) + "\n").collect();
                stamps.stamp(numbers)?;
                for voice in voices {
                    voice.write_all(lines.as_bytes()).await?;
                    voice.flush().await?;
                }
                Ok(())
            }
            Voice::Journal(publisher) => publisher.send(numbers, bytes, stamps).await,
        }
    }

    /// Stops every process and waits for those that have something to put away.
    pub async fn stop(mut self) -> Result<()> {
        self.voice = Voice::None;
        self.processes.clear();
        if let Some(cluster) = &mut self.cluster {
            cluster.stop().await?;
        }
        Ok(())
    }
}

/// What the kernel holds that was sent from these addresses and not yet taken.
pub fn kernel_send_bytes(addresses: &[SocketAddr]) -> Result<u64> {
    let ports: Vec<String> = addresses.iter().map(|it| format!(":{:04X}", it.port())).collect();
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let queued = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let queue = fields.nth(2)?.split_once(':')?.0;
        ports.iter().any(|port| local.ends_with(port)).then(|| u64::from_str_radix(queue, 16).ok())?
    });
    Ok(queued.sum())
}

/// A message: a JSON object of exactly so many bytes, if it can be so short.
pub fn payload(number: u64, bytes: usize) -> String {
    let bare = format!("{{\"n\":{number},\"x\":\"\"}}").len();
    format!("{{\"n\":{number},\"x\":\"{}\"}}", "x".repeat(bytes.saturating_sub(bare)))
}

/// A program's version, in its own words.
pub async fn version(program: impl AsRef<Path>) -> Option<String> {
    let output = Command::new(program.as_ref()).arg("--version").output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_long_as_was_asked_for() {
        for number in [1, 99, 1_000_000] {
            assert_eq!(payload(number, 100).len(), 100);
        }
        assert_eq!(payload(1, 0), r#"{"n":1,"x":""}"#);
    }

    #[test]
    fn subjects_are_called_as_results_call_them() {
        let names: Vec<String> = Subject::value_variants().iter().map(|it| it.name()).collect();
        assert_eq!(names[..3], ["bare-send", "bare-coalesce", "node-socketio"]);
        assert_eq!(names[3..6], ["bun-socketio", "socketioxide", "socketioxide-tuned"]);
        assert_eq!(names[6..], ["tillwire", "node-app", "pgbench", "bare-publish", "bare-webhook"]);
    }
}
