//! Webhooks on their way out: what was sent, what came back, and when each provider tries again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::account::Provider;
use crate::clock::Moment;
use crate::ids::Ids;

/// How many deliveries are remembered: the oldest that are over go first.
const DELIVERIES_MAX: usize = 20_000;

/// When Midtrans tries again, in minutes after the attempt before.
const MIDTRANS_PAUSES: [i64; 5] = [2, 10, 30, 90, 210];
/// By how much each of its pauses is shifted at most: the first may be 33 s.
const MIDTRANS_SHIFT_MS: i64 = 87_000;
/// When Xendit tries again, in minutes after the attempt before.
const XENDIT_PAUSES: [u64; 6] = [15, 45, 120, 180, 360, 720];

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Answered(u16),
    TimedOut,
    /// Nobody listened, or the connection broke.
    Unreachable,
}

impl Outcome {
    fn is_success(self) -> bool {
        matches!(self, Self::Answered(200..=299))
    }
}

/// How often Midtrans tries again after this, as documented.
pub fn midtrans_retries(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Answered(200..=299 | 301..=303) => 0,
        Outcome::Answered(500) => 1,
        Outcome::Answered(400 | 404) => 2,
        Outcome::Answered(503) => 4,
        _ => 5,
    }
}

/// How long a provider pauses after an attempt; nothing if it was the last. `before` is how often it had tried again.
fn pause(provider: Provider, outcome: Outcome, before: usize, ids: &mut Ids) -> Option<Duration> {
    match provider {
        Provider::Midtrans if before < midtrans_retries(outcome) => {
            let pause = MIDTRANS_PAUSES.get(before)? * 60_000 + ids.shift_ms(MIDTRANS_SHIFT_MS);
            u64::try_from(pause).ok().map(Duration::from_millis)
        }
        Provider::Xendit if !outcome.is_success() => {
            XENDIT_PAUSES.get(before).map(|minutes| Duration::from_secs(60 * minutes))
        }
        _ => None,
    }
}

/// How long each waits for an answer.
pub fn answer_max(provider: Provider) -> Duration {
    Duration::from_secs(match provider {
        Provider::Midtrans => 15,
        Provider::Xendit => 30,
    })
}

#[derive(Serialize)]
pub struct Attempt {
    pub at: Moment,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has its time.
    Waiting,
    /// By `reorder`: until the next webhook of its payment.
    Held,
    Sending,
    Delivered,
    /// Nobody tries again.
    GivenUp,
    /// By `drop_webhook`.
    Dropped,
}

/// A webhook for one URL.
#[derive(Serialize)]
pub struct Delivery {
    pub id: u64,
    pub provider: Provider,
    /// The payment's reference and ids.
    pub names: Vec<String>,
    /// Midtrans's `transaction_status`, or Xendit's `event`.
    pub event: String,
    pub url: String,
    /// As it is sent.
    pub body: String,
    #[serde(skip)]
    pub token: Option<String>,
    pub created: Moment,
    pub state: State,
    pub attempts: Vec<Attempt>,
    /// When it is tried next.
    pub next: Option<Moment>,
    pub faults: Vec<crate::faults::Fault>,
}

/// All that are remembered.
#[derive(Default)]
pub struct Deliveries {
    all: BTreeMap<u64, Delivery>,
    /// How many times each was begun anew by hand: those attempts count from nothing.
    restarted: HashMap<u64, usize>,
    /// Those that were to be begun anew while they were being sent: they are sent once more after that.
    again: HashSet<u64>,
    last: u64,
}

impl Deliveries {
    /// Its id.
    pub fn add(&mut self, mut delivery: Delivery) -> u64 {
        if self.all.len() >= DELIVERIES_MAX {
            let over = |it: &&Delivery| matches!(it.state, State::Delivered | State::GivenUp | State::Dropped);
            let oldest = self.all.values().find(over).or(self.all.values().next()).map(|it| it.id);
            oldest.inspect(|id| {
                self.all.remove(id);
                self.restarted.remove(id);
                self.again.remove(id);
            });
        }
        self.last += 1;
        delivery.id = self.last;
        self.all.insert(self.last, delivery);
        self.last
    }

    pub fn get(&self, id: u64) -> Option<&Delivery> {
        self.all.get(&id)
    }

    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Delivery> {
        self.all.values()
    }

    /// Whether it is to be sent now. It is, then.
    pub fn begin(&mut self, id: u64) -> bool {
        let Some(delivery) = self.all.get_mut(&id).filter(|it| it.state == State::Waiting) else { return false };
        delivery.state = State::Sending;
        delivery.next = None;
        true
    }

    /// Notes an attempt, and answers when to try again.
    pub fn tried(&mut self, id: u64, outcome: Outcome, now: Moment, ids: &mut Ids) -> Option<Moment> {
        let delivery = self.all.get_mut(&id)?;
        let before = delivery.attempts.len() - self.restarted.get(&id).copied().unwrap_or(0);
        delivery.attempts.push(Attempt { at: now, outcome });
        if self.again.remove(&id) {
            self.restarted.insert(id, delivery.attempts.len());
            delivery.next = Some(now);
        } else {
            let pause = pause(delivery.provider, outcome, before, ids);
            delivery.next = pause.map(|pause| now.plus(pause));
        }
        delivery.state = match delivery.next {
            Some(_) => State::Waiting,
            None if outcome.is_success() => State::Delivered,
            None => State::GivenUp,
        };
        delivery.next
    }

    /// Sends again by hand, from the beginning; what is just being sent, after that. False if there is no such delivery.
    pub fn restart(&mut self, id: u64, now: Moment) -> bool {
        let Some(delivery) = self.all.get_mut(&id) else { return false };
        if delivery.state == State::Sending {
            self.again.insert(id);
        } else {
            delivery.state = State::Waiting;
            delivery.next = Some(now);
            self.restarted.insert(id, delivery.attempts.len());
        }
        true
    }

    /// Those of a payment that are held back, which are no more.
    pub fn release(&mut self, name: &str, except: u64, at: Moment) -> Vec<u64> {
        let held = self.all.values_mut().rev().take(1_000);
        let held = held.filter(|it| it.state == State::Held && it.id != except && it.names.iter().any(|it| it == name));
        held.map(|delivery| {
            delivery.state = State::Waiting;
            delivery.next = Some(at);
            delivery.id
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried_again(provider: Provider, outcome: Outcome) -> Vec<u64> {
        let mut ids = Ids::new(1);
        let pauses = (0..).map_while(|before| pause(provider, outcome, before, &mut ids));
        pauses.map(|it| it.as_secs()).collect()
    }

    #[test]
    fn midtrans_tries_again_by_its_table() {
        let often = |outcome| tried_again(Provider::Midtrans, outcome).len();
        for (status, retries) in
            [(200, 0), (204, 0), (500, 1), (503, 4), (400, 2), (404, 2), (301, 0), (302, 0), (303, 0)]
        {
            assert_eq!(often(Outcome::Answered(status)), retries, "{status}");
        }
        for outcome in [Outcome::Answered(502), Outcome::Answered(401), Outcome::TimedOut, Outcome::Unreachable] {
            assert_eq!(often(outcome), 5, "{outcome:?}");
        }
        for (pause, documented) in
            tried_again(Provider::Midtrans, Outcome::TimedOut).iter().zip([120, 600, 1_800, 5_400, 12_600])
        {
            assert!(pause.abs_diff(documented) <= 87, "{pause} s for {documented} s");
        }
    }

    #[test]
    fn xendit_tries_six_times_again_whatever_went_wrong() {
        let pauses = [15, 45, 120, 180, 360, 720].map(|minutes| minutes * 60);
        for outcome in [Outcome::Answered(500), Outcome::Answered(302), Outcome::Answered(404), Outcome::TimedOut] {
            assert_eq!(tried_again(Provider::Xendit, outcome), pauses, "{outcome:?}");
        }
        assert_eq!(tried_again(Provider::Xendit, Outcome::Answered(204)), [0; 0]);
    }

    #[test]
    fn those_that_are_over_are_forgotten_first() {
        let now = Moment::of_the_machine();
        let delivery = |state| Delivery {
            id: 0,
            provider: Provider::Midtrans,
            names: Vec::new(),
            event: String::new(),
            url: String::new(),
            body: String::new(),
            token: None,
            created: now,
            state,
            attempts: Vec::new(),
            next: None,
            faults: Vec::new(),
        };
        let mut all = Deliveries::default();
        let waiting = all.add(delivery(State::Waiting));
        let over = all.add(delivery(State::Delivered));
        for _ in 1..DELIVERIES_MAX {
            all.add(delivery(State::Waiting));
        }
        assert!(all.get(waiting).is_some() && all.get(over).is_none());
        // When all wait, the oldest goes all the same.
        all.add(delivery(State::Waiting));
        assert_eq!((all.get(waiting).is_some(), all.all().count()), (false, DELIVERIES_MAX));
    }
}
