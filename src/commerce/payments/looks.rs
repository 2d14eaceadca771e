//! When a payment is looked at again, if nobody says anything by then.
//!
//! Notifications bring most of what is to be known. These looks find what they did not: soon while a customer stands at the
//! till, seldom when it is unlikely, and for a while after the end, for who scanned in time may pay late. The shortest pause is
//! the ten seconds that Midtrans asks for.

use std::time::Duration;

use tillwire_channels::Moment;

use super::state::State;

/// The pauses while the customer can pay: so many of each, and the last until the time is over.
const PENDING_SECONDS: [(u32, u64); 3] = [(6, 10), (12, 20), (u32::MAX, 60)];
/// The pauses while nobody knows whether the provider has heard of it: so many of each, the second for about a day.
const UNKNOWN_SECONDS: [(u32, u64); 3] = [(8, 15), (288, 5 * 60), (u32::MAX, 60 * 60)];
/// The pauses while money is held or looked into: soon at first, for somebody may just be taking it; then seldom, for days.
const HELD_SECONDS: [(u32, u64); 3] = [(6, 10), (12, 60), (u32::MAX, 60 * 60)];
/// For how long somebody tries to find out what became of a payment.
const OPEN_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// And of one whose money is held: banks do that for a week.
const HELD_MAX: Duration = Duration::from_secs(8 * 24 * 60 * 60);
/// For how long a question is asked in vain, at least, also of one that has ended or was paid.
const UNANSWERED_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long after an end without money it is looked at: somebody may pay what they scanned before.
const ENDED_SECONDS: [u64; 3] = [60, 5 * 60, 30 * 60];
/// How long after a payment it is looked at whether the bank has taken it back, where banks do: they have five minutes.
const REVERSIBLE: Duration = Duration::from_secs(6 * 60);

/// How soon it is looked once more after what was told and did not show: a provider may tell it before its own books do.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// What the next look depends on.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub state: State,
    /// How often it was looked at since it came to this state.
    pub looks: u32,
    pub now: Moment,
    pub created_at: Moment,
    /// Since when it stands so.
    pub since: Moment,
    pub expires_at: Moment,
    /// Whether its bank may take back what it has confirmed.
    pub reversible: bool,
    /// Whether something new was told of it, and what its provider shows is what was known before.
    pub told: bool,
}

/// When it is next attended to; none if nothing more is expected.
pub fn next(standing: Standing) -> Option<Moment> {
    let Standing { state, now, told, .. } = standing;
    let by_itself = by_itself(standing);
    // What is open comes soon again in any case, or is to be given up. What was told of is told once.
    let soon = (told && !state.is_open()).then_some(now + TOLD_AGAIN);
    by_itself.into_iter().chain(soon).min()
}

fn by_itself(standing: Standing) -> Option<Moment> {
    let Standing { state, looks, now, created_at, since, expires_at, reversible, .. } = standing;
    let later = |after: Duration| Some(since + after).filter(|at| *at > now);
    match state {
        _ if until(state, created_at, expires_at).is_some_and(|until| now > until) => None,
        // It is called off at its time, and not later.
        State::Created | State::Pending => {
            let again = now + pause(&PENDING_SECONDS, looks);
            Some(if now < expires_at { again.min(expires_at) } else { again })
        }
        State::Authorized | State::Review => Some(now + pause(&HELD_SECONDS, looks)),
        State::Unknown => Some(now + pause(&UNKNOWN_SECONDS, looks)),
        State::Failed | State::Canceled | State::Expired => {
            ENDED_SECONDS.into_iter().find_map(|seconds| later(Duration::from_secs(seconds)))
        }
        State::Paid | State::PaidLate if reversible => later(REVERSIBLE),
        _ => None,
    }
}

/// Until when somebody tries to find out what becomes of one that has not ended, whatever is in the way.
fn until(state: State, created_at: Moment, expires_at: Moment) -> Option<Moment> {
    let tried_max = if state == State::Authorized { HELD_MAX } else { OPEN_MAX };
    state.is_open().then_some(created_at.max(expires_at) + tried_max)
}

/// Whether nobody asks any more: it was asked for long enough in vain, since there was last said to be something new. Whoever was
/// away so long asks first.
pub fn is_hopeless(
    state: State,
    created_at: Moment,
    expires_at: Moment,
    unanswered_since: Option<Moment>,
    now: Moment,
) -> bool {
    let until = until(state, created_at, expires_at);
    unanswered_since.is_some_and(|since| now > since + UNANSWERED_MAX && until.is_none_or(|until| now > until))
}

/// The pause after so many looks.
pub(super) fn pause(pauses: &[(u32, u64)], looks: u32) -> Duration {
    let mut before = 0_u32;
    for (many, seconds) in pauses {
        before = before.saturating_add(*many);
        if looks < before {
            return Duration::from_secs(*seconds);
        }
    }
    Duration::from_secs(pauses.last().map_or(60, |(_, seconds)| *seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(15 * 60);

    fn standing(state: State, looks: u32, after_seconds: u64) -> Standing {
        let created_at = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        Standing {
            state,
            looks,
            now: created_at + Duration::from_secs(after_seconds),
            created_at,
            since: created_at,
            expires_at: created_at + LIFE,
            reversible: false,
            told: false,
        }
    }

    #[test]
    fn what_was_told_and_does_not_show_is_looked_for_once_more_also_after_the_end() {
        let day = 24 * 60 * 60;
        for state in [State::Expired, State::Canceled, State::Failed, State::Paid, State::Settled, State::PaidLate] {
            let standing = standing(state, 0, day);
            assert_eq!(next(standing), None);
            let soon = next(Standing { told: true, ..standing });
            assert_eq!(soon, Some(standing.now + Duration::from_secs(10)), "{state:?}");
        }
        // What comes sooner by itself does.
        let ended = standing(State::Expired, 0, 55);
        assert_eq!(next(Standing { told: true, ..ended }), next(ended));
        // What nobody asks for any more is given up all the same.
        assert_eq!(next(Standing { told: true, ..standing(State::Pending, 0, 30 * day) }), None);
    }

    /// Seconds after it was made, of each look.
    fn looks(state: State, bound: usize) -> Vec<i64> {
        let mut at = standing(state, 0, 0);
        let mut found = Vec::new();
        while let Some(next) = next(at).filter(|_| found.len() < bound) {
            found.push((next - at.created_at).whole_seconds());
            (at.now, at.looks) = (next, at.looks + 1);
        }
        found
    }

    #[test]
    fn a_customer_at_the_till_is_looked_after_every_ten_seconds_and_never_sooner() {
        for state in [State::Created, State::Pending] {
            let looks = looks(state, 60);
            assert_eq!(looks[..8], [10, 20, 30, 40, 50, 60, 80, 100]);
            assert!(looks.windows(2).all(|two| two[1] - two[0] >= 10), "{looks:?}");
            assert!(looks.contains(&900), "its time is over at a look: {looks:?}");
            assert!(*looks.last().unwrap() > 1_800, "and it is looked at until it has ended: {looks:?}");
        }
    }

    #[test]
    fn money_that_is_held_is_looked_at_each_hour_until_its_bank_has_let_go_of_it() {
        for (state, seconds) in [(State::Authorized, 8 * 86_400), (State::Review, 7 * 86_400)] {
            let looks = looks(state, 10_000);
            assert_eq!(looks[..8], [10, 20, 30, 40, 50, 60, 120, 180]);
            assert!(looks.len() < 250, "{}", looks.len());
            assert!((seconds..seconds + 5_000).contains(looks.last().unwrap()), "{:?}", looks.last());
        }
    }

    #[test]
    fn what_ended_is_looked_at_one_five_and_thirty_minutes_later_however_often_it_was_meanwhile() {
        for state in [State::Canceled, State::Expired, State::Failed] {
            assert_eq!(looks(state, 40), [60, 300, 1_800]);
            let often = standing(state, 99, 61);
            assert_eq!(next(often), Some(often.created_at + Duration::from_secs(300)));
        }
    }

    #[test]
    fn what_nobody_knows_is_asked_for_a_week() {
        let looks = looks(State::Unknown, 10_000);
        assert_eq!(looks[..9], [15, 30, 45, 60, 75, 90, 105, 120, 420]);
        assert!((604_800..610_000).contains(looks.last().unwrap()), "{:?}", looks.last());
    }

    #[test]
    fn nobody_is_asked_for_ever_who_does_not_answer() {
        let (day, second) = (Duration::from_secs(24 * 60 * 60), Duration::from_secs(1));
        let Standing { created_at, expires_at, .. } = standing(State::Pending, 0, 0);
        for (state, days) in [
            (State::Created, Some(7)),
            (State::Unknown, Some(7)),
            (State::Pending, Some(7)),
            (State::Review, Some(7)),
            (State::Authorized, Some(8)),
            // What is over is asked about for a day, whenever that was.
            (State::Expired, None),
            (State::Paid, None),
            (State::PaidLate, None),
        ] {
            let is_hopeless = |since, now| is_hopeless(state, created_at, expires_at, since, now);
            let end = days.map_or(created_at + day, |days| expires_at + days * day);
            assert!(!is_hopeless(Some(created_at), end) && is_hopeless(Some(created_at), end + second), "{state}");
            // Something new is asked about for a day, and takes nothing of the time that there is.
            let new = end + 3 * day;
            assert!(!is_hopeless(Some(new), new + day) && is_hopeless(Some(new), new + day + second), "{state}");
            // Nobody has tried yet, since a hub was away.
            assert!(!is_hopeless(None, end + 30 * day), "{state}");
        }
    }

    #[test]
    fn what_is_paid_is_looked_at_once_where_a_bank_may_take_it_back() {
        assert_eq!(next(standing(State::Paid, 0, 60)), None);
        let reversible = Standing { reversible: true, ..standing(State::Paid, 7, 60) };
        assert_eq!(next(reversible), Some(reversible.since + REVERSIBLE));
        assert_eq!(next(Standing { now: reversible.since + REVERSIBLE, ..reversible }), None);
    }
}
