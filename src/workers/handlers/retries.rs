//! When an entry is tried again that could not be handled, and when it is given up.

use std::time::Duration;

use crate::queues::topology::PAUSES_SECONDS;

/// How often an entry is tried, the first time included: over seven hours in all.
pub const ATTEMPTS_MAX: u32 = PAUSES_SECONDS.len() as u32 + 1;

/// After which of the pauses an entry is tried again that failed so often; `None` if it is given up. The other side may ask for
/// a longer one: it is given the next that is as long, or the longest.
pub fn pause_after(attempts: u32, asked: Option<Duration>) -> Option<usize> {
    let planned = attempts.checked_sub(1)? as usize;
    PAUSES_SECONDS.get(planned)?;
    let asked = asked.unwrap_or_default();
    let long_enough = (planned..PAUSES_SECONDS.len()).find(|pause| length(*pause) >= asked);
    Some(long_enough.unwrap_or(PAUSES_SECONDS.len() - 1))
}

/// How long a pause is.
pub fn length(pause: usize) -> Duration {
    Duration::from_secs(PAUSES_SECONDS[pause].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_more_and_more_seldom_and_then_given_up() {
        let pauses: Vec<Duration> = (1..).map_while(|attempts| pause_after(attempts, None)).map(length).collect();
        assert_eq!(pauses.len() as u32 + 1, ATTEMPTS_MAX);
        assert!(pauses.is_sorted() && pauses.iter().sum::<Duration>() > Duration::from_secs(7 * 3600));
    }

    #[test]
    fn the_other_side_may_ask_for_more_time_and_not_for_less() {
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(pause_after(1, asked(1)), Some(0));
        assert_eq!(pause_after(1, asked(30)).map(length), asked(60));
        assert_eq!(pause_after(3, asked(30)), Some(2));
        assert_eq!(pause_after(1, asked(1_000_000)).map(length), asked(6 * 3600));
        assert_eq!(pause_after(ATTEMPTS_MAX, asked(1)), None, "it is over all the same");
    }
}
