//! How often something may happen: a token bucket, kept as one moment.

use std::time::{Duration, Instant};

/// So many times a second in the long run, and so many at once after a pause. Neither is ever less than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Times a second, in the long run.
    pub per_second: u32,
    /// Times at once.
    pub burst: u32,
}

/// What was used of a [`Pace`]: the moment at which all of it is free again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Paced {
    free_at: Option<Instant>,
}

impl Paced {
    /// Whether it may happen once more. What may not happen uses nothing up.
    pub fn admits(&mut self, pace: Pace, now: Instant) -> bool {
        let each = Duration::from_secs(1) / pace.per_second.max(1);
        let free_at = self.free_at.map_or(now, |at| at.max(now)) + each;
        let is_admitted = free_at - now <= each * pace.burst.max(1);
        if is_admitted {
            self.free_at = Some(free_at);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_steady_pace() {
        let (pace, start) = (Pace { per_second: 10, burst: 3 }, Instant::now());
        let mut paced = Paced::default();
        let mut admitted = |after: u64| paced.admits(pace, start + Duration::from_millis(after));
        assert_eq!([0, 0, 0, 0, 99].map(&mut admitted), [true, true, true, false, false]);
        assert_eq!([100, 100, 199, 200].map(&mut admitted), [true, false, false, true], "one each 100 ms");
        assert_eq!([10_000; 4].map(&mut admitted), [true, true, true, false], "a pause earns one burst, no more");
    }

    #[test]
    fn nothing_is_no_pace() {
        let (mut paced, now) = (Paced::default(), Instant::now());
        let admitted = [0, 0, 1000]
            .map(|after| paced.admits(Pace { per_second: 0, burst: 0 }, now + Duration::from_millis(after)));
        assert_eq!(admitted, [true, false, true]);
    }
}
