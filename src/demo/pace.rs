//! The pace: how long it is from one basket to the next.

use std::time::Duration;

use tillwire_channels::Moment;
use time::Date;

use super::till::Number;
use super::year::Year;

/// The data's clock says UTC; its shops' clocks were behind.
const SHOPS_BEHIND_UTC_SECONDS: i64 = 5 * HOUR;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// The shops sleep from one to six.
const OPENS: i64 = 6 * HOUR;
const WAKING: i64 = 19 * HOUR;
/// The year that is replayed again and again has this many days.
const YEAR: i64 = 365 * DAY;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many sales a second, evenly.
    Rate(f64),
    /// The data's own rhythm, so many times as fast, without its nights.
    Speed(f64),
}

impl Pace {
    /// How long after the basket before it a basket is due.
    pub fn before(self, year: &Year, number: Number) -> Duration {
        let seconds = match self {
            Self::Rate(rate) => 1.0 / rate,
            Self::Speed(speed) => {
                let at = &year.baskets[number.basket - 1].at;
                let gap = match number.basket {
                    1 if number.year == 1 => 0,
                    1 => waking(at.unix_timestamp() + YEAR) - year.baskets.last().map_or(0, |last| clock(&last.at)),
                    _ => clock(at) - clock(&year.baskets[number.basket - 2].at),
                };
                gap.max(0) as f64 / speed
            }
        };
        // What is too long to be waited for is as good as for ever.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// The day it was at the shops.
pub fn day(at: Moment) -> Date {
    (at - time::Duration::seconds(SHOPS_BEHIND_UTC_SECONDS)).date()
}

fn clock(at: &Moment) -> i64 {
    waking(at.unix_timestamp())
}

/// A clock that stands still at night. What was sold at night was sold at closing time.
fn waking(unix_seconds: i64) -> i64 {
    let since_opening = unix_seconds - SHOPS_BEHIND_UTC_SECONDS - OPENS;
    since_opening.div_euclid(DAY) * WAKING + since_opening.rem_euclid(DAY).min(WAKING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::year::Basket;
    use time::macros::datetime;

    fn year(times: &[Moment]) -> Year {
        let basket = |at: &Moment| Basket { outlet: 0, at: *at, lines: vec![] };
        Year { products: vec![], baskets: times.iter().map(basket).collect() }
    }

    #[test]
    fn nights_are_skipped_and_days_follow_one_another() {
        let times = [
            datetime!(2017-01-02 03:00 UTC), // 22:00 at the shops.
            datetime!(2017-01-02 05:30 UTC), // 00:30, still awake.
            datetime!(2017-01-02 08:00 UTC), // 03:00: half an hour later they closed.
            datetime!(2017-01-02 10:59 UTC), // 05:59: the same moment.
            datetime!(2017-01-02 12:00 UTC), // 07:00: open for an hour.
        ];
        let year = year(&times);
        let gaps: Vec<u64> =
            (1..=5).map(|basket| Pace::Speed(1.0).before(&year, Number { year: 1, basket }).as_secs()).collect();
        assert_eq!(gaps, [0, 9_000, 1_800, 0, 3_600]);
        assert_eq!(day(times[0]).to_string(), "2017-01-01"); // The day rolls over at the shops' midnight.
        assert_eq!(day(times[1]).to_string(), "2017-01-02");
        assert_eq!(Pace::Speed(60.0).before(&year, Number { year: 1, basket: 2 }).as_secs(), 150);
    }

    #[test]
    fn the_next_year_follows_the_last_evening() {
        let year = year(&[datetime!(2017-01-01 12:00 UTC), datetime!(2018-01-01 03:00 UTC)]);
        // 22:00 on the last evening to 07:00 on the first morning: three hours, and one.
        let first_again = Number { year: 2, basket: 1 };
        assert_eq!(Pace::Speed(1.0).before(&year, first_again), Duration::from_secs(4 * 3600));
    }

    #[test]
    fn a_rate_is_even() {
        let year = year(&[datetime!(2017-01-01 12:00 UTC), datetime!(2017-06-01 03:00 UTC)]);
        assert_eq!(Pace::Rate(4.0).before(&year, Number { year: 1, basket: 2 }), Duration::from_millis(250));
        assert_eq!(Pace::Rate(f64::MIN_POSITIVE).before(&year, Number::FIRST), Duration::MAX);
    }

    #[test]
    fn a_year_is_as_long_as_its_waking_hours() {
        let year = Year::read(None).unwrap();
        let gaps = (1..=year.baskets.len()).map(|basket| Pace::Speed(1.0).before(&year, Number { year: 2, basket }));
        assert_eq!(gaps.sum::<Duration>(), Duration::from_secs(365 * 19 * 3600));
    }
}
