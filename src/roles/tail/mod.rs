//! `tillwire tail`: follows one merchant's journal in the terminal.
//!
//! It reads the database as the feed does, and shows everything, as the office sees it: it is for whoever runs the hub,
//! and asks for no token. It waits for a database that is away, and never passes over a gap in silence.

mod line;

use std::io::{ErrorKind, Stdout, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tillwire_channels::topic::TOPICS;
use tillwire_channels::wire::{SnapshotReason, SnapshotRequired};
use tillwire_channels::{Channel, MerchantId, Position};

use crate::config::Tail;
use crate::error::Error;
use crate::journal::read::{self, Entries, Slice};
use crate::journal::{Entry, pool};

/// How often the head is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// One reads, and one more while a connection is being replaced.
const CONNECTIONS_MAX: u32 = 2;

pub async fn run(config: Tail) -> anyhow::Result<()> {
    tokio::select! {
        outcome = follow(config) => outcome,
        told = tokio::signal::ctrl_c() => told.context("waiting for Ctrl-C"),
    }
}

async fn follow(config: Tail) -> anyhow::Result<()> {
    let pool = pool::open(config.feed_database_url.expose_secret(), CONNECTIONS_MAX).context("--feed-database-url")?;
    let mut reader = Reader { pool, merchant: config.merchant, away: false };
    let mut printer = Printer::new(&config);
    let mut after = match config.after {
        Some(position) => position,
        None => reader.head().await?,
    };
    while printer.is_read() {
        let Entries { entries, more } = reader.after(after).await?;
        for entry in entries {
            if !printer.print(&entry, after)? {
                return Ok(());
            }
            after = entry.position();
        }
        if !more {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

/// Reads one journal, however often the database goes away meanwhile.
struct Reader {
    pool: PgPool,
    merchant: MerchantId,
    /// Whether the last read failed: then it has been said.
    away: bool,
}

impl Reader {
    async fn head(&mut self) -> anyhow::Result<Position> {
        loop {
            let head = read::head(&self.pool, self.merchant).await;
            match self.outcome(head)? {
                Some(Some(head)) => return Ok(head.position()),
                Some(None) => bail!("there is no merchant {}", self.merchant),
                None => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn after(&mut self, position: Position) -> anyhow::Result<Entries> {
        loop {
            let read = async {
                let mut sql = self.pool.acquire().await?;
                read::after(&mut sql, self.merchant, position, Slice::default()).await
            };
            let read = read.await;
            if let Some(entries) = self.outcome(read)? {
                return Ok(entries);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// What was read; nothing if the database is away, which is said once.
    fn outcome<T>(&mut self, read: Result<T, Error>) -> anyhow::Result<Option<T>> {
        match read {
            Ok(read) => {
                if std::mem::take(&mut self.away) {
                    eprintln!("The database is back.");
                }
                Ok(Some(read))
            }
            Err(Error::SnapshotRequired(required)) => bail!(unserved(&required)),
            Err(Error::NotFound(_)) => bail!("there is no merchant {}", self.merchant),
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    let cause = match error {
                        Error::Busy { .. } => "no connection in time".to_owned(),
                        other => format!("{:#}", other.into_anyhow()),
                    };
                    eprintln!("The database does not answer ({cause}); waiting for it.");
                }
                Ok(None)
            }
        }
    }
}

fn unserved(required: &SnapshotRequired) -> String {
    let why = match required.reason {
        SnapshotReason::Expired => "what follows this position is no longer kept",
        SnapshotReason::Diverged => {
            "this journal does not hold that position: it is another merchant's, or the database was restored from a backup"
        }
    };
    let oldest = match required.oldest {
        Some(oldest) => format!("the oldest that can be followed is --after {oldest}"),
        None => "there is nothing to follow".to_owned(),
    };
    format!("snapshot_required: {why}; {oldest}")
}

/// Prints events to whoever reads our output.
struct Printer {
    out: Stdout,
    channels: Vec<String>,
    json: bool,
}

impl Printer {
    fn new(config: &Tail) -> Self {
        let everything = || TOPICS.iter().map(|row| row.topic.everywhere()).collect();
        let channels = if config.channels.is_empty() { everything() } else { config.channels.clone() };
        let channels = channels.iter().map(Channel::to_string).collect();
        Self { out: std::io::stdout(), channels, json: config.json }
    }

    /// Prints an entry's events that follow a position. Answers whether anyone still reads.
    fn print(&mut self, entry: &Entry, after: Position) -> anyhow::Result<bool> {
        let stored = entry.events()?;
        let count = u32::try_from(stored.len())?;
        let mut text = String::new();
        for (number, event) in (1..).zip(stored) {
            let joined = self.channels.iter().map(String::as_str);
            if after.is_before(entry.seq, number) && event.heard_on(joined, line::VIEW) {
                let place = (number, count);
                text += &if self.json { line::json(entry, event, place)? } else { line::text(entry, event, place) };
                text.push('\n');
            }
        }
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error).context("printing"),
        }
    }

    /// Whether the other end of a pipe is still open; `tail … | head -1` must not wait for one more event to end.
    fn is_read(&self) -> bool {
        let mut out = [PollFd::new(self.out.as_fd(), PollFlags::empty())];
        let gone =
            |out: &PollFd| out.revents().is_some_and(|it| it.intersects(PollFlags::POLLERR | PollFlags::POLLHUP));
        !matches!(poll(&mut out, PollTimeout::ZERO), Ok(1..) if gone(&out[0]))
    }
}
