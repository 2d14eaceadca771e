//! `tillwire queues`: what waits for handlers, how old it is, and what is dead; and what becomes of that.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgPool;
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc3339;

use crate::config::{Letters, Queues, QueuesCommand};
use crate::handled::cursors::{self, Lag};
use crate::handled::letters::{self, Count, Deed, OfAll, Which};
use crate::handled::progress;
use crate::journal::pool;
use crate::queues::depth::{self, OfHandler};
use crate::workers::HANDLERS;

/// How many letters are read at a time.
const PAGE: u32 = 500;
const CONNECTIONS_MAX: u32 = 2;

pub async fn run(config: Queues) -> anyhow::Result<()> {
    let relay = open(config.relay_database_url.as_ref(), "--relay-database-url")?;
    match &config.what {
        None => list(&config, &relay).await,
        Some(QueuesCommand::Dead(which)) => {
            let which = which_of(which);
            each(&relay, &which, async |letter| {
                print_letter(&letter, config.json);
                Ok(())
            })
            .await
            .map(|_| ())
        }
        Some(QueuesCommand::Replay(which)) => with_letters(&config, &relay, which, Deed::Replay).await,
        Some(QueuesCommand::Drop(which)) => with_letters(&config, &relay, which, Deed::Drop).await,
    }
}

fn open(url: Option<&SecretString>, flag: &str) -> anyhow::Result<PgPool> {
    let url = url.with_context(|| format!("{flag} is missing"))?;
    pool::open(url.expose_secret(), CONNECTIONS_MAX).with_context(|| flag.to_owned())
}

/// A line for each handler.
async fn list(config: &Queues, relay: &PgPool) -> anyhow::Result<()> {
    let counts = letters::count(relay).await.map_err(|error| error.into_anyhow())?;
    let newest = progress::all(relay).await?;
    let (at_broker, not_taken_down) = match &config.amqp_url {
        Some(url) => {
            let (of_handlers, dead) = depth::ask(url, &config.bus_prefix, HANDLERS).await.context("RabbitMQ")?;
            (Some(of_handlers), dead)
        }
        None => (None, 0),
    };
    let mut lines = BTreeMap::new();
    for (index, handler) in HANDLERS.iter().enumerate() {
        let line: &mut Line = lines.entry(handler.name.to_owned()).or_default();
        line.broker = at_broker.as_ref().map(|of_handlers| of_handlers[index].clone());
    }
    // A handler that is no more has letters all the same.
    for count in counts {
        let line: &mut Line = lines.entry(count.handler.clone()).or_default();
        line.count = count;
    }
    for (handler, line) in &mut lines {
        line.newest = newest.get(handler).copied();
        if at_broker.is_none() {
            line.behind = Some(cursors::lag(relay, handler).await.map_err(|error| error.into_anyhow())?);
        }
        println!("{}", if config.json { line.json(handler) } else { line.text(handler) });
    }
    if not_taken_down > 0 {
        eprintln!("{not_taken_down} dead letters wait at the broker until a worker takes them down.");
    }
    Ok(())
}

/// What is known of a handler.
#[derive(Default)]
struct Line {
    /// None where there is no broker.
    broker: Option<OfHandler>,
    /// When the newest entry was recorded that it has taken from its queue.
    newest: Option<Moment>,
    /// How far it is behind the journals, where it follows them.
    behind: Option<Lag>,
    count: Count,
}

impl Line {
    /// How old what it took last is, in seconds.
    fn newest_seconds(&self) -> Option<i64> {
        self.newest.map(|newest| (Moment::now_utc() - newest).whole_seconds().max(0))
    }

    fn again(&self) -> i64 {
        self.broker.as_ref().map_or(0, |broker| i64::from(broker.again)) + self.count.waiting
    }

    fn json(&self, handler: &str) -> String {
        let queue = self.broker.as_ref().and_then(|broker| broker.queue);
        json!({
            "handler": handler,
            "depth": queue.map(|queue| queue.messages),
            "consumers": queue.map(|queue| queue.consumers),
            "newest_taken_seconds": self.newest_seconds(),
            "behind": self.behind.map(|behind| behind.entries),
            "behind_seconds": self.behind.map(|behind| behind.seconds.round()),
            "again": self.again(),
            "dead": self.count.dead,
            "dead_seconds": self.count.dead_seconds.round(),
        })
        .to_string()
    }

    fn text(&self, handler: &str) -> String {
        let queue = match (&self.broker, self.behind) {
            (Some(OfHandler { queue: Some(queue), .. }), _) => {
                let newest = self.newest_seconds().map(|age| format!(", the newest that was taken is {age} s old"));
                format!(
                    "{} in the queue, {} taking from it{}",
                    queue.messages,
                    queue.consumers,
                    newest.unwrap_or_default()
                )
            }
            (Some(_), _) => "no queue".to_owned(),
            (None, Some(Lag { entries: 0, .. })) => "follows the journals to their ends".to_owned(),
            (None, Some(Lag { entries, seconds })) => {
                format!("{entries} entries behind the journals, the oldest {seconds:.0} s old")
            }
            (None, None) => "not looked at".to_owned(),
        };
        let dead = match self.count.dead {
            0 => "no dead letters".to_owned(),
            dead => format!("{dead} dead letters, the oldest {:.0} s old", self.count.dead_seconds),
        };
        format!("{handler}: {queue}; {} wait for another attempt; {dead}", self.again())
    }
}

fn which_of(letters: &Letters) -> Which {
    Which { merchant: letters.merchant, handler: letters.handler.clone(), letters: letters.letters.clone() }
}

async fn with_letters(config: &Queues, relay: &PgPool, which: &Letters, deed: Deed) -> anyhow::Result<()> {
    let is_named = !which.letters.is_empty() || which.merchant.is_some() || which.handler.is_some();
    ensure!(is_named || which.all, "which? Name ids, --merchant or --handler, or say --all");
    let app = open(config.database_url.as_ref(), "--database-url")?;
    let word = match deed {
        Deed::Replay => "Has tried again",
        Deed::Drop => "Dropped",
    };
    let found = each(relay, &which_of(which), async |letter| {
        match letters::by_operator(&app, letter.merchant, letter.letter, deed).await {
            Ok(_) => {
                println!("{word} {} of {}: {} {}", letter.letter, letter.merchant, letter.handler, letter.position)
            }
            // Somebody else was faster.
            Err(crate::error::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into_anyhow()),
        }
        Ok(())
    })
    .await?;
    if found < which.letters.len() {
        bail!("{} of these are no dead letters", which.letters.len() - found);
    }
    Ok(())
}

/// Does something with each, and answers how many there were.
async fn each(
    relay: &PgPool,
    which: &Which,
    mut what: impl AsyncFnMut(OfAll) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let (mut after, mut found) = (None, 0);
    loop {
        let page = letters::of_all(relay, which, after, PAGE).await.map_err(|error| error.into_anyhow())?;
        let Some(last) = page.last() else { return Ok(found) };
        after = Some(last.letter);
        found += page.len();
        for letter in page {
            what(letter).await?;
        }
    }
}

fn print_letter(of_all: &OfAll, json: bool) {
    let OfAll { merchant, letter, handler, position, attempts, reason, parked_at } = of_all;
    let at = parked_at.format(&Rfc3339).unwrap_or_default();
    if json {
        let line = json!({
            "id": letter, "merchant": merchant, "handler": handler, "position": position, "attempts": attempts,
            "reason": reason, "parked_at": at,
        });
        println!("{line}");
    } else {
        // A reason may hold a stranger's words.
        let reason = reason.replace(char::is_control, " ");
        println!("{letter} {at} {merchant} {handler} {position}, tried {attempts} times: {reason}");
    }
}
