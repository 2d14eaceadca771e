//! The way out: entries are sent as they come, without waiting for the answer to the one before, but never with too many
//! unanswered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metrics::Label;
use tokio::sync::mpsc;

use super::{Carried, Way, count_dropped};
use crate::brokers::link::{self, Link};

/// How many entries may be under way to a broker. With [`super::CARRIED_BYTES_MAX`] it bounds what a broker that has
/// stopped reading can make us hold; at a round trip of 50 ms it still lets 5,000 entries a second through.
const UNANSWERED_MAX: usize = 256;
/// How often it is told how far a broker lags.
const LAG_EVERY: Duration = Duration::from_secs(1);

/// What became of an entry that a broker answered for.
pub enum Sent {
    Taken,
    /// It takes others, but not this one now.
    Refused,
}

/// Sends what comes out of `outgoing`, until the connection breaks or an entry is not answered for in time.
pub async fn publish<F>(
    link: &Link,
    outgoing: &mut mpsc::Receiver<Carried>,
    send: impl Fn(Carried) -> F,
) -> anyhow::Result<Infallible>
where
    F: Future<Output = anyhow::Result<Sent>>,
{
    let bus = link.bus;
    let took = metrics::histogram!("tillwire_bus_commit_to_publish_seconds", "bus" => bus);
    let mut unanswered = Unanswered { link, answers: FuturesUnordered::new(), since: BTreeMap::new() };
    let mut lag = tokio::time::interval(LAG_EVERY);
    let mut numbers = 0_u64..;
    loop {
        tokio::select! {
            Some(carried) = outgoing.recv(), if unanswered.answers.len() < UNANSWERED_MAX => {
                let committed = committed_at(&carried);
                let number = numbers.next().unwrap_or_default();
                unanswered.since.insert(number, committed.unwrap_or_else(Instant::now));
                let (sending, took) = (send(carried), took.clone());
                unanswered.answers.push(async move {
                    // First looked at when the broker's connection takes it.
                    if let Some(committed) = committed {
                        took.record(committed.elapsed());
                    }
                    (number, link::answered(sending).await)
                });
            }
            Some((number, answer)) = unanswered.answers.next() => {
                unanswered.since.remove(&number);
                match answer {
                    Ok(Sent::Taken) => metrics::counter!("tillwire_bus_published_total", "bus" => bus).increment(1),
                    Ok(Sent::Refused) => count_dropped(bus, "refused", 1),
                    Err(error) => {
                        count_dropped(bus, "unanswered", 1);
                        return Err(error);
                    }
                }
            }
            _ = lag.tick() => unanswered.show(outgoing.len()),
        }
    }
}

/// When it was committed here. A claim never was.
fn committed_at(carried: &Carried) -> Option<Instant> {
    match carried {
        Carried::Entry(underway) => match underway.way {
            Way::Here { committed } => Some(committed),
            Way::By { .. } => None,
        },
        Carried::Place { .. } | Carried::Claim(_) => None,
    }
}

/// Waits for something while the broker is away. What is announced meanwhile is dropped: until the broker is back its
/// hearers have long read it in the journal, and it would only delay what is new.
pub async fn discard_until<T>(
    bus: &'static str,
    outgoing: &mut mpsc::Receiver<Carried>,
    done: impl Future<Output = T>,
) -> T {
    let mut done = pin!(done);
    loop {
        tokio::select! {
            biased;
            done = &mut done => return done,
            Some(_) = outgoing.recv() => count_dropped(bus, "away", 1),
        }
    }
}

/// What is under way. Whatever is still unanswered when its connection goes counts as dropped.
struct Unanswered<'a, F> {
    link: &'a Link,
    answers: FuturesUnordered<F>,
    /// Since when. The oldest is first, and nothing that still waits for its turn is older.
    since: BTreeMap<u64, Instant>,
}

impl<F> Unanswered<'_, F> {
    /// Shows how far the broker lags, with so many more that wait.
    fn show(&self, waiting: usize) {
        let age = self.since.first_key_value().map_or(Duration::ZERO, |(_, since)| since.elapsed());
        let labels: Vec<Label> = self.link.broker_labels().cloned().collect();
        metrics::gauge!("tillwire_bus_queue_entries", labels.iter()).set((waiting + self.since.len()) as f64);
        metrics::gauge!("tillwire_bus_queue_age_seconds", labels.iter()).set(age);
    }
}

impl<F> Drop for Unanswered<'_, F> {
    fn drop(&mut self) {
        count_dropped(self.link.bus, "unanswered", self.answers.len() as u64);
        self.since.clear();
        self.show(0);
    }
}
