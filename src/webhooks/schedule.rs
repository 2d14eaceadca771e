//! When a delivery that failed is tried again, and when it is given up.

use std::time::Duration;

const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// How long after each failure the next attempt is made: over three days in all.
const PAUSES_SECONDS: [u64; 9] =
    [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
/// How much of a pause is chance, so that those who failed together do not all come back together.
const JITTER: f64 = 0.2;
/// The longest that a receiver's `Retry-After` is waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * HOUR);

/// How many attempts there are, the first included.
pub const ATTEMPTS_MAX: u32 = PAUSES_SECONDS.len() as u32 + 1;

/// How long to wait after so many attempts that failed; `None` if it is given up. `chance` is from 0 up to 1, and
/// `retry_after` what the receiver asked for.
pub fn pause(attempts: u32, chance: f64, retry_after: Option<Duration>) -> Option<Duration> {
    let planned = PAUSES_SECONDS.get(attempts.checked_sub(1)? as usize)?;
    let planned = Duration::from_secs(*planned).mul_f64(1.0 - JITTER / 2.0 + JITTER * chance);
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    Some(planned.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_for_three_days_more_and_more_seldom() {
        let pauses: Vec<Duration> = (1..).map_while(|attempts| pause(attempts, 0.5, None)).collect();
        assert_eq!(pauses.len() as u32 + 1, ATTEMPTS_MAX);
        assert!(pauses.is_sorted());
        let all: Duration = pauses.iter().sum();
        assert!(all > Duration::from_secs(72 * HOUR) && all < Duration::from_secs(96 * HOUR), "{all:?}");
    }

    #[test]
    fn chance_moves_it_by_a_tenth_either_way() {
        assert_eq!(pause(2, 0.0, None), Some(Duration::from_secs(270)));
        assert!(pause(2, 0.999, None).unwrap() <= Duration::from_secs(330));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_and_not_for_less() {
        let asked = Some(Duration::from_secs(60));
        assert_eq!(pause(1, 0.5, asked), asked);
        assert_eq!(pause(2, 0.5, asked), Some(Duration::from_secs(300)));
        assert_eq!(pause(1, 0.5, Some(Duration::MAX)), Some(RETRY_AFTER_MAX));
        assert_eq!(pause(ATTEMPTS_MAX, 0.5, asked), None, "it is over all the same");
    }
}
