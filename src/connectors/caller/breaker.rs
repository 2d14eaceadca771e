//! The breaker: whoever has failed again and again is left alone for a while, and then tried with one call.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many failures, one after the other, open it.
pub const FAILURES_MAX: u32 = 5;
/// For how long it is open the first time.
pub const OPEN_MIN: Duration = Duration::from_secs(5);
/// And at most, having been twice as long each time that the trial failed.
pub const OPEN_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Breaker(Mutex<State>);

enum State {
    /// Failures since the last success.
    Closed(u32),
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call is under way to find out.
    Trying {
        pause: Duration,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(0)
    }
}

/// That a call may be made. If it is dropped without a word, nothing was learnt.
pub struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    pub fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closed(_))
    }

    /// As a word, for people.
    pub fn word(&self, now: Instant) -> &'static str {
        match *self.state() {
            State::Closed(_) => "closed",
            State::Open { until, .. } if until > now => "open",
            // The next call tries.
            State::Open { .. } | State::Trying { .. } => "trying",
        }
    }

    /// For how long nobody need try. While one call tries, that is for the shortest time that it may be open.
    pub fn is_open(&self, now: Instant) -> Option<Duration> {
        match *self.state() {
            State::Open { until, .. } => until.checked_duration_since(now).filter(|left| !left.is_zero()),
            State::Trying { .. } => Some(OPEN_MIN),
            State::Closed(_) => None,
        }
    }

    /// # Errors
    /// If it is open, with for how long.
    pub fn enter(&self, now: Instant) -> Result<Pass<'_>, Duration> {
        if let Some(left) = self.is_open(now) {
            return Err(left);
        }
        let mut state = self.state();
        match *state {
            State::Open { pause, .. } => *state = State::Trying { pause },
            State::Closed(_) => return Ok(Pass { breaker: self, is_trial: false }),
            // Somebody was quicker.
            State::Trying { .. } => return Err(OPEN_MIN),
        }
        Ok(Pass { breaker: self, is_trial: true })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Says whether the other side was there.
    pub fn ended(self, was_there: bool, now: Instant) {
        let mut state = self.breaker.state();
        let open = |pause: Duration| State::Open { until: now + pause, pause };
        *state = match (&*state, was_there) {
            // Also by a call that was made before: it is there.
            (_, true) => State::Closed(0),
            (State::Closed(failures), false) if failures + 1 >= FAILURES_MAX => open(OPEN_MIN),
            (State::Closed(failures), false) => State::Closed(failures + 1),
            (State::Trying { pause }, false) if self.is_trial => open((*pause * 2).min(OPEN_MAX)),
            // We knew.
            _ => return,
        };
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if let State::Trying { pause } = *state
            && self.is_trial
        {
            // Whoever tried was called away, or had no leave to: the next one tries.
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(breaker: &Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            breaker.enter(now).unwrap_or_else(|_| panic!("it is open")).ended(false, now);
        }
    }

    #[test]
    fn it_opens_after_failures_and_lets_one_call_try() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        fails(&breaker, FAILURES_MAX - 1, now);
        breaker.enter(now).unwrap_or_else(|_| panic!()).ended(true, now);
        fails(&breaker, FAILURES_MAX, now);
        assert_eq!((breaker.is_closed(), breaker.is_open(now)), (false, Some(OPEN_MIN)));
        assert_eq!(breaker.enter(now + OPEN_MIN / 2).err(), Some(OPEN_MIN / 2));

        // One tries; the others do not.
        let later = now + OPEN_MIN;
        let trial = breaker.enter(later).unwrap_or_else(|_| panic!());
        assert!(breaker.enter(later).is_err() && breaker.is_open(later).is_some());
        trial.ended(false, later);
        assert_eq!(breaker.is_open(later), Some(OPEN_MIN * 2));

        let later = later + OPEN_MIN * 2;
        breaker.enter(later).unwrap_or_else(|_| panic!()).ended(true, later);
        assert!(breaker.is_closed() && breaker.enter(later).is_ok());
    }

    #[test]
    fn it_is_open_no_longer_than_it_may_be() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        fails(&breaker, FAILURES_MAX, now);
        for _ in 0..10 {
            let left = breaker.is_open(now).unwrap();
            assert!(left <= OPEN_MAX);
            now += left;
            fails(&breaker, 1, now);
        }
        assert_eq!(breaker.is_open(now), Some(OPEN_MAX));
    }

    #[test]
    fn a_trial_that_was_called_away_is_nobodys() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        fails(&breaker, FAILURES_MAX, now);
        let later = now + OPEN_MIN;
        drop(breaker.enter(later).unwrap_or_else(|_| panic!()));
        assert!(breaker.enter(later.max(Instant::now())).is_ok(), "the next one tries");
    }

    #[test]
    fn who_was_under_way_when_it_opened_can_close_it_and_not_open_it_longer() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let [slow, slower] = [(); 2].map(|()| breaker.enter(now).unwrap_or_else(|_| panic!()));
        fails(&breaker, FAILURES_MAX, now);
        slow.ended(false, now + OPEN_MIN / 2);
        assert_eq!(breaker.is_open(now), Some(OPEN_MIN));
        slower.ended(true, now + OPEN_MIN / 2);
        assert!(breaker.is_closed());
    }
}
