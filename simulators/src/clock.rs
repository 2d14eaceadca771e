//! The simulated clock: it runs at a speed, stands still at 0, and can be advanced. It never goes back.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::{format_description, offset};

const JAKARTA: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const ORDER_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]");
const UTC: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const DENSE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day][hour][minute][second]");

/// How fast the clock may go.
pub const SPEED_MAX: f64 = 100_000.0;
/// How far it may be advanced at once.
pub const ADVANCE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);

/// A moment of the simulated world, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

/// Where every clock stops: the year 9000. What is due later still has a year of four digits.
const LAST: Moment = Moment(221_845_392_000_000);

impl Moment {
    pub fn of(time: OffsetDateTime) -> Self {
        Self(i64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("a year of four digits"))
    }

    /// Now, by the machine.
    pub fn of_the_machine() -> Self {
        Self::of(OffsetDateTime::now_utc())
    }

    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it has been since another, or nothing.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    fn time(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000).expect("a year of four digits")
    }

    /// As Midtrans writes it: GMT+7, without saying so.
    pub fn jakarta(self) -> String {
        self.time().to_offset(offset!(+7)).format(JAKARTA).expect("a time")
    }

    /// Minutes since midnight in Jakarta.
    pub fn minute_of_the_day(self) -> u16 {
        let time = self.time().to_offset(offset!(+7));
        u16::from(time.hour()) * 60 + u16::from(time.minute())
    }

    /// As Xendit writes it.
    pub fn utc(self) -> String {
        self.time().format(UTC).expect("a time")
    }

    /// Digits alone, as in an id.
    pub fn dense(self) -> String {
        self.time().format(DENSE).expect("a time")
    }

    /// ISO 8601 with an offset.
    pub fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(Self::of)
    }

    /// Midtrans's `2026-01-14 10:05:00 +0700`.
    pub fn parse_order_time(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, ORDER_TIME).ok().map(Self::of)
    }

    /// The month and the year in Jakarta, for cards.
    pub fn month(self) -> (i32, u8) {
        let date = self.time().to_offset(offset!(+7)).date();
        (date.year(), u8::from(date.month()))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.utc())
    }
}

/// Where the simulated world stands.
pub struct Clock {
    /// What it showed at `since`.
    shown: Moment,
    since: Instant,
    speed: f64,
}

impl Clock {
    pub fn new(start: Moment, speed: f64) -> Self {
        Self { shown: start, since: Instant::now(), speed: speed.clamp(0.0, SPEED_MAX) }
    }

    pub fn now(&self) -> Moment {
        self.shown.plus(self.since.elapsed().mul_f64(self.speed)).min(LAST)
    }

    pub fn speed(&self) -> f64 {
        self.speed
    }

    pub fn set_speed(&mut self, speed: f64) {
        *self = Self::new(self.now(), speed);
    }

    /// Jumps to a moment, if it is not past.
    pub fn advance_to(&mut self, to: Moment) {
        *self = Self::new(self.now().max(to), self.speed);
    }

    /// How long it really is until then; nothing if the clock stands still.
    pub fn until(&self, then: Moment) -> Option<Duration> {
        let left = then.since(self.now());
        if left.is_zero() {
            return Some(left);
        }
        (self.speed > 0.0).then(|| left.div_f64(self.speed).max(Duration::from_millis(1)))
    }

    /// How long a provider's time limit really is: shorter when the clock runs fast, but never less than `least`, for the
    /// hub that is waited for runs no faster than this machine.
    pub fn limit(&self, limit: Duration, least: Duration) -> Duration {
        limit.div_f64(self.speed.max(1.0)).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_each_provider_writes_them() {
        let moment = Moment::parse("2026-01-14T03:05:02.114Z").unwrap();
        assert_eq!(moment.jakarta(), "2026-01-14 10:05:02");
        assert_eq!(moment.utc(), "2026-01-14T03:05:02.114Z");
        assert_eq!(moment.dense(), "20260114030502");
        assert_eq!(moment.minute_of_the_day(), 10 * 60 + 5);
        assert_eq!(Moment::parse_order_time("2026-01-14 10:05:02 +0700").unwrap().utc(), "2026-01-14T03:05:02.000Z");
        assert_eq!(Moment::parse_order_time("2026-01-14 10:05:02"), None);
    }

    #[test]
    fn a_clock_that_stands_moves_only_when_it_is_told_to_and_never_back() {
        let start = Moment::parse("2026-01-14T03:05:02Z").unwrap();
        let mut clock = Clock::new(start, 0.0);
        assert_eq!((clock.now(), clock.until(start.plus(Duration::from_secs(1)))), (start, None));
        let later = start.plus(Duration::from_secs(90));
        clock.advance_to(later);
        clock.advance_to(start);
        assert_eq!((clock.now(), clock.until(start)), (later, Some(Duration::ZERO)));
    }

    #[test]
    fn a_clock_ends_before_its_years_have_five_digits() {
        let mut clock = Clock::new(Moment::of_the_machine(), 0.0);
        clock.advance_to(Moment(i64::MAX));
        assert_eq!(clock.now().utc(), "9000-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_limit_shrinks_with_the_speed_to_a_least() {
        let clock = |speed| Clock::new(Moment::of_the_machine(), speed);
        let limit = |speed| clock(speed).limit(Duration::from_secs(15), Duration::from_secs(2)).as_millis();
        assert_eq!([limit(0.0), limit(1.0), limit(3.0), limit(60.0)], [15_000, 15_000, 5_000, 2_000]);
    }
}
