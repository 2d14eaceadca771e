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

#[derive(Default)]
struct State {
    phase: Phase,
    /// At what alone the last failure that counts was, if it was at one thing alone.
    failed_at: Option<String>,
}

#[derive(Clone, Copy)]
enum Phase {
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

impl Default for Phase {
    fn default() -> Self {
        Self::Closed(0)
    }
}

/// How a call found the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    There,
    /// Away, or not well.
    Failing,
    /// It answers, and fails at one thing that it is asked about, which is named. That may be the thing's own fault: again and
    /// again at the same says nothing of all else.
    FailingAt(&'a str),
}

/// That a call may be made. If it is dropped without a word, nothing was learnt.
pub struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    pub fn is_closed(&self) -> bool {
        matches!(self.state().phase, Phase::Closed(_))
    }

    /// As a word, for people.
    pub fn word(&self, now: Instant) -> &'static str {
        match self.state().phase {
            Phase::Closed(_) => "closed",
            Phase::Open { until, .. } if until > now => "open",
            // The next call tries.
            Phase::Open { .. } | Phase::Trying { .. } => "trying",
        }
    }

    /// For how long nobody need try. While one call tries, that is for the shortest time that it may be open.
    pub fn is_open(&self, now: Instant) -> Option<Duration> {
        match self.state().phase {
            Phase::Open { until, .. } => until.checked_duration_since(now).filter(|left| !left.is_zero()),
            Phase::Trying { .. } => Some(OPEN_MIN),
            Phase::Closed(_) => None,
        }
    }

    /// # Errors
    /// If it is open, with for how long.
    pub fn enter(&self, now: Instant) -> Result<Pass<'_>, Duration> {
        if let Some(left) = self.is_open(now) {
            return Err(left);
        }
        let mut state = self.state();
        match state.phase {
            Phase::Open { pause, .. } => state.phase = Phase::Trying { pause },
            Phase::Closed(_) => return Ok(Pass { breaker: self, is_trial: false }),
            // Somebody was quicker.
            Phase::Trying { .. } => return Err(OPEN_MIN),
        }
        Ok(Pass { breaker: self, is_trial: true })
    }

    /// The other side has spoken by itself: it lives. It is left alone as if it had failed for the first time, and no longer.
    pub fn heard(&self) {
        if let Phase::Open { until, pause } = &mut self.state().phase {
            *until = until.checked_sub(pause.saturating_sub(OPEN_MIN)).unwrap_or(*until);
            *pause = OPEN_MIN;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Says how it found the other side.
    pub fn ended(self, found: Found<'_>, now: Instant) {
        let mut state = self.breaker.state();
        let open = |pause: Duration| Phase::Open { until: now + pause, pause };
        let is_again = matches!(found, Found::FailingAt(it) if state.failed_at.as_deref() == Some(it));
        state.phase = match (state.phase, found) {
            // Also by a call that was made before: it is there.
            (_, Found::There) => Phase::Closed(0),
            // Nothing is learnt.
            _ if is_again => return,
            (Phase::Closed(failures), _) if failures + 1 >= FAILURES_MAX => open(OPEN_MIN),
            (Phase::Closed(failures), _) => Phase::Closed(failures + 1),
            (Phase::Trying { pause }, _) if self.is_trial => open((pause * 2).min(OPEN_MAX)),
            // We knew.
            _ => return,
        };
        state.failed_at = match found {
            Found::FailingAt(it) => Some(it.to_owned()),
            Found::There | Found::Failing => None,
        };
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if let Phase::Trying { pause } = state.phase
            && self.is_trial
        {
            // Whoever tried was called away, had no leave to, or has learnt nothing: the next one tries.
            state.phase = Phase::Open { until: Instant::now(), pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(breaker: &Breaker, times: u32, now: Instant) {
        for _ in 0..times {
            breaker.enter(now).unwrap_or_else(|_| panic!("it is open")).ended(Found::Failing, now);
        }
    }

    #[test]
    fn it_opens_after_failures_and_lets_one_call_try() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        fails(&breaker, FAILURES_MAX - 1, now);
        breaker.enter(now).unwrap_or_else(|_| panic!()).ended(Found::There, now);
        fails(&breaker, FAILURES_MAX, now);
        assert_eq!((breaker.is_closed(), breaker.is_open(now)), (false, Some(OPEN_MIN)));
        assert_eq!(breaker.enter(now + OPEN_MIN / 2).err(), Some(OPEN_MIN / 2));

        // One tries; the others do not.
        let later = now + OPEN_MIN;
        let trial = breaker.enter(later).unwrap_or_else(|_| panic!());
        assert!(breaker.enter(later).is_err() && breaker.is_open(later).is_some());
        trial.ended(Found::Failing, later);
        assert_eq!(breaker.is_open(later), Some(OPEN_MIN * 2));

        let later = later + OPEN_MIN * 2;
        breaker.enter(later).unwrap_or_else(|_| panic!()).ended(Found::There, later);
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
        slow.ended(Found::Failing, now + OPEN_MIN / 2);
        assert_eq!(breaker.is_open(now), Some(OPEN_MIN));
        slower.ended(Found::There, now + OPEN_MIN / 2);
        assert!(breaker.is_closed());
    }

    #[test]
    fn one_thing_that_fails_for_ever_takes_nothing_else_with_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let ends = |found, now| breaker.enter(now).unwrap_or_else(|_| panic!("it is open")).ended(found, now);
        for _ in 0..10 * FAILURES_MAX {
            ends(Found::FailingAt("a"), now);
        }
        assert!(breaker.is_closed());
        // Two that fail, or one and whatever else does, are no chance.
        for at in 1..FAILURES_MAX {
            ends(Found::FailingAt(if at % 2 == 1 { "b" } else { "a" }), now);
        }
        assert_eq!(breaker.is_open(now), Some(OPEN_MIN));

        // Nor does it keep it open, when it is the first to try.
        let later = now + OPEN_MIN;
        ends(Found::FailingAt("a"), later);
        assert!(breaker.enter(later.max(Instant::now())).is_ok(), "nothing was learnt: the next one tries");
        ends(Found::FailingAt("b"), later.max(Instant::now()));
        assert!(breaker.is_open(later).is_some_and(|left| left > OPEN_MIN), "another one fails as well");

        let breaker = Breaker::default();
        for at in 0..FAILURES_MAX {
            let found = if at % 2 == 0 { Found::FailingAt("a") } else { Found::Failing };
            breaker.enter(now).unwrap_or_else(|_| panic!("it is open")).ended(found, now);
        }
        assert!(!breaker.is_closed());
    }

    #[test]
    fn who_is_heard_of_by_itself_is_left_alone_no_longer_than_the_first_time() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.heard();
        assert!(breaker.is_closed());
        fails(&breaker, FAILURES_MAX, now);
        breaker.heard();
        assert_eq!(breaker.is_open(now), Some(OPEN_MIN), "it is not taken for well");
        for pause in [2, 4, 8] {
            now += breaker.is_open(now).expect("a time");
            fails(&breaker, 1, now);
            assert_eq!(breaker.is_open(now), Some(OPEN_MIN * pause));
        }
        breaker.heard();
        assert_eq!(breaker.is_open(now), Some(OPEN_MIN));
        assert!(breaker.enter(now + OPEN_MIN / 2).is_err());
        // However much is heard, one call tries at a time, and what is heard makes no pause longer.
        for _ in 0..4 {
            now += OPEN_MIN;
            let trial = breaker.enter(now).unwrap_or_else(|_| panic!("it is open"));
            breaker.heard();
            assert!(breaker.enter(now).is_err());
            trial.ended(Found::Failing, now);
            breaker.heard();
            breaker.heard();
            assert_eq!(breaker.is_open(now), Some(OPEN_MIN));
        }
        // What is over is not begun again.
        breaker.heard();
        assert!(breaker.enter(now + OPEN_MAX).is_ok());
    }
}
