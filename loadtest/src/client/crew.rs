//! The client processes, as whoever started them sees them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use super::order::{Done, Format, Group, Order, Plan, Said};

/// How many screens one process holds: each takes a descriptor, and a process may have 20,000.
const SCREENS_MAX: usize = 12_000;
/// How many connections are being opened at a time, by all processes together.
const OPENING_MAX: usize = 128;

pub struct Crew {
    clients: Vec<Client>,
}

struct Client {
    child: Child,
    orders: ChildStdin,
    state: watch::Receiver<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    live: bool,
    left: bool,
    seen: u64,
    done: Option<Done>,
    failed: Option<String>,
}

/// What a crew is given besides its groups.
pub struct Kit<'a> {
    pub stamps: &'a Path,
    pub format: Format,
    pub resumes: bool,
    pub credit: u64,
}

impl Crew {
    /// Starts as many processes as these screens ask for. They connect at once.
    pub async fn start(groups: Vec<Group>, kit: Kit<'_>) -> Result<Self> {
        let shares = share(groups);
        let opening_max = (OPENING_MAX / shares.len().max(1)).max(1);
        let mut clients = Vec::new();
        for (number, groups) in (1..).zip(shares) {
            let plan = Plan {
                groups,
                source: Ipv4Addr::new(127, 0, 1, number),
                stamps: kit.stamps.to_owned(),
                format: kit.format,
                resumes: kit.resumes,
                credit: kit.credit.max(1),
                opening_max,
            };
            clients.push(Client::start(&plan).await?);
        }
        Ok(Self { clients })
    }

    /// Waits until every screen is live.
    pub async fn live(&mut self, patience: Duration) -> Result<()> {
        self.all(patience, "live", |state| state.live).await
    }

    /// Waits until every screen has seen this number. Whether that came to be.
    pub async fn seen(&mut self, number: u64, patience: Duration) -> Result<bool> {
        let waiting = async {
            for client in &mut self.clients {
                client.until(|state| state.seen >= number).await?;
            }
            Ok(())
        };
        match timeout(patience, waiting).await {
            Ok(outcome) => outcome.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Tells every screen to hang up, and waits until they have.
    pub async fn leave(&mut self, patience: Duration) -> Result<()> {
        self.tell(&Order::Leave).await?;
        self.all(patience, "away", |state| state.left).await
    }

    /// Tells them to come back, all at once.
    pub async fn come_back(&mut self) -> Result<()> {
        self.tell(&Order::Return).await
    }

    /// From now on so many a second leave, while others come for them.
    pub async fn churn(&mut self, per_second: f64) -> Result<()> {
        let per_second = per_second / self.clients.len() as f64;
        self.tell(&Order::Churn { per_second }).await
    }

    /// Asks what came of it, when every screen has seen the last number of its group or patience has ended.
    pub async fn finish(mut self, last: Vec<u64>, patience: Duration) -> Result<Outcome> {
        let patience_ms = u64::try_from(patience.as_millis())?;
        self.tell(&Order::Finish { last, patience_ms }).await?;
        self.all(patience + Duration::from_secs(30), "done", |state| state.done.is_some()).await?;
        let mut outcome = Outcome::new()?;
        for client in &mut self.clients {
            let done = client.state.borrow().done.clone();
            outcome.add(&done.context("a client that is done")?)?;
            client.child.wait().await?;
        }
        Ok(outcome)
    }

    async fn tell(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        for client in &mut self.clients {
            client.orders.write_all(line.as_bytes()).await?;
        }
        Ok(())
    }

    async fn all(&mut self, patience: Duration, what: &str, holds: impl Fn(&State) -> bool) -> Result<()> {
        for client in &mut self.clients {
            let waiting = timeout(patience, client.until(&holds)).await;
            waiting.with_context(|| format!("not all screens are {what} after {patience:?}"))??;
        }
        Ok(())
    }
}

impl Client {
    async fn start(plan: &Plan) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("client")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a client process")?;
        let mut orders = child.stdin.take().context("a pipe to the client")?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe from the client")?).lines();
        orders.write_all((serde_json::to_string(plan)? + "\n").as_bytes()).await?;
        let (sender, state) = watch::channel(State::default());
        // It ends with the process, whose output closes then.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|state| match serde_json::from_str(&line) {
                    Ok(Said::Live) => state.live = true,
                    Ok(Said::Left) => (state.left, state.live) = (true, false),
                    Ok(Said::Seen(number)) => state.seen = number,
                    Ok(Said::Done(done)) => state.done = Some(done),
                    Ok(Said::Failed(error)) => state.failed = Some(error),
                    Err(error) => state.failed = Some(format!("{error}: {line}")),
                });
            }
        });
        Ok(Self { child, orders, state })
    }

    async fn until(&mut self, holds: impl Fn(&State) -> bool) -> Result<()> {
        let state = self.state.wait_for(|state| state.failed.is_some() || holds(state)).await;
        match state.context("a client process ended")?.failed.clone() {
            Some(error) => bail!("a client process: {error}"),
            None => Ok(()),
        }
    }
}

/// Gives each process its part of every group, so that all of them see all groups.
fn share(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let screens: usize = groups.iter().map(|group| group.screens).sum();
    let processes = screens.div_ceil(SCREENS_MAX).max(1);
    let part = |group: &Group, at: usize| Group {
        screens: group.screens / processes + usize::from(at < group.screens % processes),
        ..group.clone()
    };
    (0..processes).map(|at| groups.iter().map(|group| part(group, at)).collect()).collect()
}

/// What came of it, over all processes.
#[derive(Debug)]
pub struct Outcome {
    pub sum: Done,
    pub latency: Histogram<u64>,
    pub entry: Histogram<u64>,
}

impl Outcome {
    pub fn new() -> Result<Self> {
        let sum = Done { first_at: u64::MAX, ..Done::default() };
        Ok(Self { sum, latency: Histogram::new(3)?, entry: Histogram::new(3)? })
    }

    fn add(&mut self, done: &Done) -> Result<()> {
        let sum = &mut self.sum;
        sum.received += done.received;
        sum.lost += done.lost;
        sum.repeated += done.repeated;
        sum.reordered += done.reordered;
        sum.cut += done.cut;
        sum.turned_away += done.turned_away;
        let seconds = sum.live_by_second.len().max(done.live_by_second.len());
        sum.live_by_second.resize(seconds, 0);
        sum.live_by_second.iter_mut().zip(&done.live_by_second).for_each(|(sum, live)| *sum += live);
        sum.churned += done.churned;
        sum.first_at = sum.first_at.min(done.first_at);
        sum.last_at = sum.last_at.max(done.last_at);
        for (counts, histogram) in [(&done.latency_us, &mut self.latency), (&done.entry_us, &mut self.entry)] {
            for (value, count) in counts {
                histogram.record_n(*value, *count)?;
            }
        }
        Ok(())
    }
}
