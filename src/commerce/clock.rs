//! The till's clock: when something happened, as far as ours can believe it.

use tillwire_channels::Moment;
use time::Duration;

use crate::error::{Error, Result};

/// How far a till's clock may be ahead of ours.
const AHEAD_MAX: Duration = Duration::minutes(5);
/// How late a till that was offline may hand something in.
const LATE_MAX: Duration = Duration::days(31);

/// When it happened: as the till says, or else now. Moments that a working clock cannot report are refused.
///
/// For commands alone: a request that has its answer already is given it again, however late it is by then.
pub(super) fn happened_at(said: Option<Moment>, now: Moment) -> Result<Moment> {
    match said {
        Some(at) if at > now + AHEAD_MAX => {
            Err(Error::invalid("occurred_at_in_future", "/occurred_at", "This has not happened yet, by our clock."))
        }
        Some(at) if at < now - LATE_MAX => {
            Err(Error::invalid("occurred_at_too_old", "/occurred_at", "This happened more than 31 days ago."))
        }
        said => Ok(said.unwrap_or(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_till_may_be_five_minutes_ahead_and_a_month_late() {
        let now = Moment::UNIX_EPOCH + Duration::days(20_000);
        assert_eq!(happened_at(None, now).unwrap(), now);
        for said in [now, now + AHEAD_MAX, now - LATE_MAX] {
            assert_eq!(happened_at(Some(said), now).unwrap(), said);
        }
        let refused = |said: Moment, expected: &str| {
            let refusal = happened_at(Some(said), now).unwrap_err();
            assert!(
                matches!(&refusal, Error::Invalid { code, pointer, .. } if *code == expected && pointer == "/occurred_at"),
                "{refusal:?}"
            );
        };
        refused(now + AHEAD_MAX + Duration::MICROSECOND, "occurred_at_in_future");
        refused(now - LATE_MAX - Duration::MICROSECOND, "occurred_at_too_old");
    }
}
