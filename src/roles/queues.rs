//! `tillwire queues`: what waits for handlers, how old it is, and what is dead; and what becomes of that.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgPool;
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc3339;

use crate::config::{Letters, Queues, QueuesCommand};
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
    for (handler, line) in lines {
        println!("{}", line.text(&handler, newest.get(&handler).copied(), config.json)?);
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
    count: Count,
}

impl Line {
    fn text(&self, handler: &str, newest: Option<Moment>, json: bool) -> anyhow::Result<String> {
        let depth = self.broker.as_ref().map(|broker| broker.queue.unwrap_or_default());
        // What is in the queue is younger than what was last taken from it.
        let age = match (depth, newest) {
            (Some(depth), Some(newest)) if depth.messages > 0 => {
                Some((Moment::now_utc() - newest).whole_seconds().max(0))
            }
            (Some(depth), _) if depth.messages == 0 => Some(0),
            _ => None,
        };
        let again = self.broker.as_ref().map_or(0, |broker| i64::from(broker.again)) + self.count.waiting;
        if json {
            return Ok(json!({
                "handler": handler,
                "depth": depth.map(|depth| depth.messages),
                "consumers": depth.map(|depth| depth.consumers),
                "age_seconds_max": age,
                "again": again,
                "dead": self.count.dead,
                "dead_seconds": self.count.dead_seconds.round(),
            })
            .to_string());
        }
        let queue = match depth {
            Some(depth) => {
                let age = age.map_or("of unknown age".to_owned(), |age| format!("{age} s old at most"));
                format!("{} in the queue, {age}, {} taking from it", depth.messages, depth.consumers)
            }
            None => "follows the journals".to_owned(),
        };
        let dead = match self.count.dead {
            0 => "no dead letters".to_owned(),
            dead => format!("{dead} dead letters, the oldest {:.0} s old", self.count.dead_seconds),
        };
        Ok(format!("{handler}: {queue}; {again} wait for another attempt; {dead}"))
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
        match letters::by_operator(&app, letter.due, deed).await {
            Ok(_) => println!(
                "{word} {} of {}: {} {}",
                letter.due.letter, letter.due.merchant, letter.handler, letter.position
            ),
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
        after = Some(last.due.letter);
        found += page.len();
        for letter in page {
            what(letter).await?;
        }
    }
}

fn print_letter(letter: &OfAll, json: bool) {
    let OfAll { due, handler, position, attempts, reason, parked_at } = letter;
    let at = parked_at.format(&Rfc3339).unwrap_or_default();
    if json {
        let line = json!({
            "id": due.letter, "merchant": due.merchant, "handler": handler, "position": position, "attempts": attempts,
            "reason": reason, "parked_at": at,
        });
        println!("{line}");
    } else {
        // A reason may hold a stranger's words.
        let reason = reason.replace(char::is_control, " ");
        println!("{} {at} {} {handler} {position}, tried {attempts} times: {reason}", due.letter, due.merchant);
    }
}
