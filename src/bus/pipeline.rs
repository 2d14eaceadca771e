//! The way out: entries are sent as they come, without waiting for the answer to the one before, but never with too many
//! unanswered.

use std::convert::Infallible;
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::{Carried, count_dropped, link};

/// How many entries may be under way to a broker. With [`super::CARRIED_BYTES_MAX`] it bounds what a broker that has
/// stopped reading can make us hold; at a round trip of 50 ms it still lets 5,000 entries a second through.
const UNANSWERED_MAX: usize = 256;

/// What became of an entry that a broker answered for.
pub enum Sent {
    Taken,
    /// It takes others, but not this one now.
    Refused,
}

/// Sends what comes out of `outgoing`, until the connection breaks or an entry is not answered for in time.
pub async fn publish<F>(
    bus: &'static str,
    outgoing: &mut mpsc::Receiver<Carried>,
    send: impl Fn(Carried) -> F,
) -> anyhow::Result<Infallible>
where
    F: Future<Output = anyhow::Result<Sent>>,
{
    let mut unanswered = Unanswered { bus, answers: FuturesUnordered::new() };
    loop {
        tokio::select! {
            Some(carried) = outgoing.recv(), if unanswered.answers.len() < UNANSWERED_MAX => {
                unanswered.answers.push(link::answered(send(carried)));
            }
            Some(answer) = unanswered.answers.next() => match answer {
                Ok(Sent::Taken) => metrics::counter!("tillwire_bus_published_total", "bus" => bus).increment(1),
                Ok(Sent::Refused) => count_dropped(bus, "refused", 1),
                Err(error) => {
                    count_dropped(bus, "unanswered", 1);
                    return Err(error);
                }
            },
            // Nobody announces any more.
            else => return std::future::pending().await,
        }
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
struct Unanswered<F> {
    bus: &'static str,
    answers: FuturesUnordered<F>,
}

impl<F> Drop for Unanswered<F> {
    fn drop(&mut self) {
        count_dropped(self.bus, "unanswered", self.answers.len() as u64);
    }
}
