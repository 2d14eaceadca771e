//! How often a provider may be asked: by each merchant, for each kind of call, and for one payment's state.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tillwire_channels::MerchantId;
use tokio::time::Instant;

use super::super::request::{Answer, Request, TOO_MANY, WAIT_MAX};

/// What the rates of providers are said for.
const MINUTE: Duration = Duration::from_secs(60);
/// How soon after a state was asked for because the provider had just told of the payment it may be asked for again because of
/// that. A look of the hub's own before it does not count: somebody waits for what is new.
const PROMPTED_MIN: Duration = Duration::from_secs(1);
/// How soon a payment's state is asked for again otherwise.
const STATUS_MIN: Duration = Duration::from_secs(10);
/// How often it is asked for so soon, before that takes its time as well: one such look comes back every [`STATUS_MIN`].
const PROMPTED_MAX: u32 = 5;
/// How long a provider that asks to wait, and does not say how long, is waited for the first time; twice as long each time, and
/// [`WAIT_MAX`] at most.
const HELD_MIN: Duration = Duration::from_secs(1);
/// For how many merchants' calls, and for how many payments, it is kept when they were made last; beyond that, for those
/// alone of which it matters still.
const KEPT_MAX: usize = 16_384;

/// What a provider allows, or half of it.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How many calls of one kind a merchant makes in a minute.
    per_minute: Option<u32>,
    /// Whether it counts each kind of call by itself.
    by_endpoint: bool,
}

impl Rules {
    /// Midtrans names no rate, and wants to be asked of a payment every ten seconds at most.
    pub const MIDTRANS: Self = Self { per_minute: None, by_endpoint: false };
    /// Half of 60. That one payment is asked for at Midtrans' pace keeps what there is for the others.
    pub const XENDIT_TEST: Self = Self { per_minute: Some(30), by_endpoint: true };
    /// Half of 600.
    pub const XENDIT_LIVE: Self = Self { per_minute: Some(300), by_endpoint: true };
}

pub struct Budget {
    rules: Rules,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// By merchant and kind of call.
    rates: HashMap<(MerchantId, &'static str, &'static str), Rate>,
    /// By merchant and what is asked for.
    asked: HashMap<(MerchantId, String), Last>,
}

/// When a payment's state was asked for last.
#[derive(Clone, Copy)]
struct Last {
    at: Instant,
    /// And when because its provider had told of it.
    prompted_at: Option<Instant>,
    /// When all such looks will have come back.
    full_at: Instant,
}

impl Last {
    /// From when on it may be asked for again.
    fn again_at(self, prompted: bool) -> Instant {
        match self.prompted_at {
            _ if !prompted => self.at + STATUS_MIN,
            None => self.at,
            Some(at) => {
                (at + PROMPTED_MIN).max(self.full_at.checked_sub((PROMPTED_MAX - 1) * STATUS_MIN).unwrap_or(at))
            }
        }
    }
}

struct Rate {
    /// When all that was taken will have been given back, a minute's worth in a minute.
    full_at: Instant,
    /// Not before.
    held_until: Instant,
    /// How often in a row it asked to wait.
    throttled: u32,
}

impl Budget {
    pub fn new(rules: Rules) -> Self {
        Self { rules, kept: Mutex::default() }
    }

    /// Takes leave for one call.
    ///
    /// # Errors
    /// If there is none, with for how long.
    pub fn take(&self, merchant: MerchantId, request: &Request, prompted: bool, now: Instant) -> Result<(), Duration> {
        let mut kept = self.kept();
        let rate = kept.rate(self.key(merchant, request), now);
        let left = |until: Instant| until.checked_duration_since(now).filter(|left| !left.is_zero());
        if let Some(left) = left(rate.held_until) {
            return Err(left);
        }
        let each = self.rules.per_minute.map(|per_minute| MINUTE / per_minute);
        let full_at = rate.full_at.max(now) + each.unwrap_or_default();
        if let Some(left) = left(full_at.checked_sub(MINUTE).unwrap_or(now)) {
            return Err(left);
        }
        if request.asked.state_of().is_some() {
            let of = (merchant, request.path.clone());
            let last = kept.asked.get(&of).copied();
            if let Some(left) = last.and_then(|last| left(last.again_at(prompted))) {
                return Err(left);
            }
            bound(&mut kept.asked, |last| last.at + STATUS_MIN > now || last.full_at > now);
            let mut asked = Last { at: now, ..last.unwrap_or(Last { at: now, prompted_at: None, full_at: now }) };
            if prompted {
                (asked.prompted_at, asked.full_at) = (Some(now), asked.full_at.max(now) + STATUS_MIN);
            }
            kept.asked.insert(of, asked);
        }
        kept.rate(self.key(merchant, request), now).full_at = full_at;
        Ok(())
    }

    /// What an answer says of calls to come.
    pub fn answered(&self, merchant: MerchantId, request: &Request, answer: &Answer, now: Instant) {
        let mut kept = self.kept();
        let rate = kept.rate(self.key(merchant, request), now);
        if answer.status == TOO_MANY {
            let by_us = HELD_MIN.saturating_mul(1 << rate.throttled.min(16));
            rate.throttled += 1;
            rate.held_until = rate.held_until.max(now + answer.wait().unwrap_or(by_us).min(WAIT_MAX));
        } else {
            rate.throttled = 0;
        }
    }

    /// By what the provider counts.
    fn key(&self, merchant: MerchantId, request: &Request) -> (MerchantId, &'static str, &'static str) {
        if self.rules.by_endpoint {
            let verb = if request.method == reqwest::Method::GET { "GET" } else { "POST" };
            (merchant, verb, request.endpoint)
        } else {
            (merchant, "", "")
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn rate(&mut self, key: (MerchantId, &'static str, &'static str), now: Instant) -> &mut Rate {
        if !self.rates.contains_key(&key) {
            bound(&mut self.rates, |rate| rate.full_at > now || rate.held_until > now);
        }
        self.rates.entry(key).or_insert(Rate { full_at: now, held_until: now, throttled: 0 })
    }
}

/// Makes room where there is none: first of what does not matter any more. If all of it does, it is forgotten.
fn bound<K: Eq + Hash, V>(kept: &mut HashMap<K, V>, matters: impl Fn(&V) -> bool) {
    if kept.len() >= KEPT_MAX {
        kept.retain(|_, it| matters(it));
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderMap, HeaderValue};
    use tillwire_channels::Moment;

    use super::*;
    use crate::connectors::payment::Id;
    use crate::connectors::request::Asked;

    fn status(reference: &str) -> Request {
        let asked = Asked::Status { reference: Id::parse(reference).unwrap() };
        Request::get(asked, "/v2/{id}/status", format!("/v2/{reference}/status"), &"key".into())
    }

    fn charge() -> Request {
        Request::post(Asked::Charge, "/v3/payment_requests", "/v3/payment_requests".to_owned(), &"key".into(), None)
    }

    fn throttled(reset: Option<&'static str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(reset) = reset {
            headers.insert("rate-limit-reset", HeaderValue::from_static(reset));
        }
        Answer { status: 429, headers, body: Vec::new(), at: Moment::UNIX_EPOCH }
    }

    #[test]
    fn half_of_what_is_allowed_is_taken_and_comes_back_with_time() {
        let (budget, merchant, mut now) = (Budget::new(Rules::XENDIT_TEST), MerchantId::new(), Instant::now());
        let takes = |request: &Request, now| budget.take(merchant, request, false, now);
        let at_once = (0..100).take_while(|_| takes(&charge(), now).is_ok()).count();
        assert_eq!(at_once, 30);
        assert_eq!(takes(&charge(), now), Err(Duration::from_secs(2)));
        // In no minute more than the provider allows.
        let mut taken = at_once;
        for _ in 0..60 {
            now += Duration::from_secs(1);
            taken += usize::from(takes(&charge(), now).is_ok());
        }
        assert_eq!(taken, 60);
        // Another kind of call, and another merchant's.
        let listing = Request::get(Asked::Settlements, "/v3/payment_requests", "/x".to_owned(), &"key".into());
        assert!(takes(&listing, now).is_ok() && budget.take(MerchantId::new(), &charge(), false, now).is_ok());
    }

    #[test]
    fn a_payments_state_is_not_asked_for_more_often_than_it_may_be() {
        let (budget, merchant, now) = (Budget::new(Rules::MIDTRANS), MerchantId::new(), Instant::now());
        let takes = |reference: &str, prompted, after| {
            budget.take(merchant, &status(reference), prompted, now + Duration::from_millis(after))
        };
        assert_eq!(takes("a", false, 0), Ok(()));
        assert_eq!(takes("b", false, 0), Ok(()), "another payment");
        assert_eq!(takes("a", false, 4_000), Err(Duration::from_secs(6)));
        assert_eq!(takes("a", true, 500), Ok(()), "it was told of: nobody waits for a look that came before");
        assert_eq!(takes("a", false, 10_000), Err(Duration::from_millis(500)), "from the last time on");
        assert_eq!(takes("a", false, 10_500), Ok(()));
        assert!(
            (0..1_000).all(|_| budget.take(merchant, &charge(), false, now).is_ok()),
            "and there is no other bound"
        );
    }

    #[test]
    fn a_storm_of_notifications_is_one_look_at_once_few_that_follow_and_then_the_usual_pace() {
        for rules in [Rules::MIDTRANS, Rules::XENDIT_TEST, Rules::XENDIT_LIVE] {
            let (budget, merchant, now) = (Budget::new(rules), MerchantId::new(), Instant::now());
            let takes =
                |prompted, after| budget.take(merchant, &status("a"), prompted, now + Duration::from_millis(after));
            assert_eq!(takes(false, 0), Ok(()), "a look of our own");
            let passed: Vec<u64> = (1..35_000).step_by(10).filter(|after| takes(true, *after).is_ok()).collect();
            assert_eq!(passed, [1, 1_001, 2_001, 3_001, 4_001, 10_001, 20_001, 30_001]);
            // Looks of our own wait for those as well.
            assert_eq!(takes(false, 40_000), Err(Duration::from_millis(1)));
            assert_eq!(takes(true, 40_000), Err(Duration::from_millis(1)));
            assert_eq!(takes(true, 100_000), Ok(()), "and time brings all of them back");
            assert_eq!(takes(true, 101_000), Ok(()));
        }
    }

    #[test]
    fn p17_nothing_is_sent_before_a_provider_wants_it() {
        let (merchant, now) = (MerchantId::new(), Instant::now());
        let xendit = Budget::new(Rules::XENDIT_LIVE);
        xendit.answered(merchant, &charge(), &throttled(Some("17.25")), now);
        let takes = |budget: &Budget, request: &Request, after| {
            budget.take(merchant, request, true, now + Duration::from_millis(after)).is_ok()
        };
        assert!(
            !takes(&xendit, &charge(), 0) && !takes(&xendit, &charge(), 17_249) && takes(&xendit, &charge(), 17_250)
        );
        assert!(takes(&xendit, &status("a"), 0), "it counts each kind by itself");
        let midtrans = Budget::new(Rules::MIDTRANS);
        midtrans.answered(merchant, &charge(), &throttled(Some("17.25")), now);
        assert!(!takes(&midtrans, &status("a"), 17_249) && takes(&midtrans, &status("a"), 17_250), "and Midtrans none");

        // Without a word longer each time, and never for ever.
        let budget = Budget::new(Rules::MIDTRANS);
        for pause in [1, 2, 4, 8] {
            let now = now + Duration::from_secs(1_000 * pause);
            budget.answered(merchant, &charge(), &throttled(None), now);
            assert_eq!(budget.take(merchant, &charge(), false, now), Err(Duration::from_secs(pause)));
        }
        let far = now + Duration::from_secs(100_000);
        budget.answered(merchant, &charge(), &throttled(Some("1e15")), far);
        assert_eq!(budget.take(merchant, &charge(), false, far), Err(WAIT_MAX));
        // A provider that says less the next time takes nothing back.
        budget.answered(merchant, &charge(), &throttled(Some("1")), far);
        assert_eq!(budget.take(merchant, &charge(), false, far), Err(WAIT_MAX));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (budget, now) = (Budget::new(Rules::MIDTRANS), Instant::now());
        for at in 0..2 * KEPT_MAX {
            budget.take(MerchantId::new(), &status(&format!("a{at}")), false, now).unwrap();
        }
        let kept = budget.kept();
        assert!(kept.rates.len() <= KEPT_MAX && kept.asked.len() <= KEPT_MAX);
    }
}
