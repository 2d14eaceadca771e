//! Xendit's limit: so many calls a minute for each endpoint and account, in a window that slides by the clock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::account::XenditAccount;
use crate::call::Reply;
use crate::clock::Moment;
use crate::world::World;

const WINDOW: Duration = Duration::from_secs(60);
/// Calls a minute, in test mode and live.
const TEST_MAX: u32 = 60;
const LIVE_MAX: u32 = 600;

pub struct Rates {
    /// Another limit than the documented ones.
    most: Option<u32>,
    calls: HashMap<(String, &'static str), VecDeque<Moment>>,
}

impl Rates {
    pub fn new(most: Option<u32>) -> Self {
        Self { most, calls: HashMap::new() }
    }
}

/// What room there is for a call.
pub struct Room {
    most: u32,
    left: u32,
    resets: Duration,
    pub is_full: bool,
}

impl Room {
    pub fn full(resets: Duration) -> Self {
        Self { most: TEST_MAX, left: 0, resets, is_full: true }
    }

    /// The same answer with what there is room for.
    pub fn told(&self, reply: Reply) -> Reply {
        reply
            .with("rate-limit-limit", self.most)
            .with("rate-limit-remaining", self.left)
            .with("rate-limit-reset", format!("{:.3}", self.resets.as_secs_f64()))
    }
}

/// Counts a call, if there is room.
pub fn room(world: &mut World, account: &XenditAccount, operation: &'static str) -> Room {
    let now = world.now();
    let rates = &mut world.xendit.rates;
    let most = rates.most.unwrap_or(if account.is_test() { TEST_MAX } else { LIVE_MAX });
    let calls = rates.calls.entry((account.business_id.clone(), operation)).or_default();
    while calls.front().is_some_and(|at| now.since(*at) >= WINDOW) {
        calls.pop_front();
    }
    let made = u32::try_from(calls.len()).unwrap_or(u32::MAX);
    let is_full = made >= most;
    if !is_full {
        calls.push_back(now);
    }
    let resets = calls.front().map_or(WINDOW, |oldest| oldest.plus(WINDOW).since(now));
    Room { most, left: most.saturating_sub(made + 1), resets, is_full }
}
