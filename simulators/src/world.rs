//! All that is simulated, behind one lock: two providers, their clock and what is due by it.
//!
//! INVARIANT: nothing here waits. What has to wait is put on the timeline, and what has to be sent into the outbox.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::account::Provider;
use crate::clock::{Clock, Moment};
use crate::deliveries::{Deliveries, Delivery, Outcome, State};
use crate::faults::{Fault, Faults, Subject};
use crate::ids::Ids;
use crate::midtrans::{self, Midtrans};
use crate::requests::Requests;
use crate::xendit::{self, Xendit};

/// How far apart copies of a webhook are that are not sent at once.
const COPIES_APART: Duration = Duration::from_secs(1);
/// How much is put on the timeline at once.
const TIMELINE_MAX: usize = 500_000;

/// Something that is to happen at its time.
pub enum Due {
    Midtrans(midtrans::Due),
    Xendit(xendit::Due),
    /// A delivery's next attempt.
    Attempt(u64),
}

/// An attempt that is to be made now.
pub struct Dispatch {
    pub id: u64,
    pub provider: Provider,
    pub url: String,
    pub token: Option<String>,
    pub body: String,
}

/// A webhook that is to be sent.
pub struct Letter {
    pub provider: Provider,
    pub names: Vec<String>,
    pub event: String,
    pub urls: Vec<String>,
    /// Xendit's `x-callback-token`.
    pub token: Option<String>,
    pub body: String,
    /// What was done to it already.
    pub faults: Vec<Fault>,
}

pub struct World {
    pub clock: Clock,
    pub ids: Ids,
    pub faults: Faults,
    pub deliveries: Deliveries,
    pub requests: Requests,
    pub midtrans: Midtrans,
    pub xendit: Xendit,
    timeline: BTreeMap<(Moment, u64), Due>,
    turns: u64,
    outbox: Vec<Dispatch>,
    /// Attempts that were taken from the outbox and have not ended.
    under_way: usize,
}

impl World {
    pub fn new(clock: Clock, seed: u64, midtrans: Midtrans, xendit: Xendit) -> Self {
        Self {
            clock,
            ids: Ids::new(seed),
            faults: Faults::default(),
            deliveries: Deliveries::default(),
            requests: Requests::default(),
            midtrans,
            xendit,
            timeline: BTreeMap::new(),
            turns: 0,
            outbox: Vec::new(),
            under_way: 0,
        }
    }

    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    pub fn at(&mut self, when: Moment, due: Due) {
        self.turns += 1;
        self.timeline.insert((when, self.turns), due);
        // What is furthest away is most likely forgotten by then.
        if self.timeline.len() > TIMELINE_MAX {
            self.timeline.pop_last();
        }
    }

    pub fn after(&mut self, pause: Duration, due: Due) {
        self.at(self.now().plus(pause), due);
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Moment> {
        self.timeline.keys().next().map(|(when, _)| *when)
    }

    /// Whether anything is being sent.
    pub fn is_sending(&self) -> bool {
        self.under_way > 0
    }

    /// Has everything happen that is due, in order, and answers what is to be sent because of it.
    pub fn run(&mut self) -> Vec<Dispatch> {
        let now = self.now();
        while let Some(entry) = self.timeline.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Due::Midtrans(due) => midtrans::happens(self, due),
                Due::Xendit(due) => xendit::happens(self, due),
                Due::Attempt(id) => self.attempt(id),
            }
        }
        self.under_way += self.outbox.len();
        std::mem::take(&mut self.outbox)
    }

    fn attempt(&mut self, id: u64) {
        if !self.deliveries.begin(id) {
            return;
        }
        self.faults.expire(self.clock.now());
        let Some(delivery) = self.deliveries.get(id) else { return };
        let names: Vec<&str> = delivery.names.iter().map(String::as_str).collect();
        let subject = Subject { provider: delivery.provider, names: &names, on: &delivery.event };
        if self.faults.take(Fault::Hub503, subject).is_some() {
            self.tried(id, Outcome::Answered(503));
        } else if self.faults.take(Fault::HubDown, subject).is_some() {
            self.tried(id, Outcome::Unreachable);
        } else {
            let Delivery { provider, url, token, body, .. } = delivery;
            let (url, token, body) = (url.clone(), token.clone(), body.clone());
            self.outbox.push(Dispatch { id, provider: *provider, url, token, body });
        }
    }

    /// An attempt that was sent has ended.
    pub fn sent(&mut self, id: u64, outcome: Outcome) {
        self.under_way -= 1;
        self.tried(id, outcome);
    }

    fn tried(&mut self, id: u64, outcome: Outcome) {
        let now = self.now();
        if let Some(next) = self.deliveries.tried(id, outcome, now, &mut self.ids) {
            self.at(next, Due::Attempt(id));
        }
        let name = self.deliveries.get(id).and_then(|it| it.names.first().cloned());
        for held in name.map(|name| self.deliveries.release(&name, id, now)).unwrap_or_default() {
            self.at(now, Due::Attempt(held));
        }
    }

    /// Sends again by hand; what is just being sent, once that is over. False if there is no such delivery.
    pub fn redeliver(&mut self, id: u64) -> bool {
        let now = self.now();
        let is_there = self.deliveries.restart(id, now);
        if is_there {
            self.at(now, Due::Attempt(id));
        }
        is_there
    }

    /// Puts a webhook on its way, as the faults would have it.
    pub fn post(&mut self, letter: Letter) {
        let names: Vec<&str> = letter.names.iter().map(String::as_str).collect();
        let subject = Subject { provider: letter.provider, names: &names, on: &letter.event };
        let now = self.now();
        let (mut faults, mut state, mut first) = (letter.faults.clone(), State::Waiting, now);
        let mut times = vec![Duration::ZERO];
        if self.faults.take(Fault::DropWebhook, subject).is_some() {
            faults.push(Fault::DropWebhook);
            state = State::Dropped;
        } else if self.faults.take(Fault::Reorder, subject).is_some() {
            faults.push(Fault::Reorder);
            state = State::Held;
        } else {
            if let Some(rule) = self.faults.take(Fault::DelayS, subject) {
                faults.push(Fault::DelayS);
                first = now.plus(rule.after());
            }
            if let Some(rule) = self.faults.take(Fault::Duplicate, subject) {
                faults.push(Fault::Duplicate);
                let apart = if rule.concurrent { Duration::ZERO } else { COPIES_APART };
                times.extend((1..=rule.n).map(|copy| apart * copy));
            }
        }
        for url in &letter.urls {
            for time in &times {
                let when = first.plus(*time);
                let id = self.deliveries.add(Delivery {
                    id: 0,
                    provider: letter.provider,
                    names: letter.names.clone(),
                    event: letter.event.clone(),
                    url: url.clone(),
                    body: letter.body.clone(),
                    token: letter.token.clone(),
                    created: now,
                    state,
                    attempts: Vec::new(),
                    next: (state == State::Waiting).then_some(when),
                    faults: faults.clone(),
                });
                if state == State::Waiting {
                    self.at(when, Due::Attempt(id));
                }
            }
        }
    }

    /// A rule that is meant, used once.
    pub fn fault(
        &mut self,
        fault: Fault,
        provider: Provider,
        names: &[String],
        on: &str,
    ) -> Option<crate::faults::Rule> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.faults.take(fault, Subject { provider, names: &names, on })
    }
}
