//! When a job is due: every so often, or daily at a time of day in some zone. Pure: whoever asks brings the time.
//!
//! Each local date has its time once. Where clocks are put forward over it, that is the first moment after the gap; where they
//! are put back and it comes twice, the first of the two. A date that a zone leaves out, where it crosses the date line, has
//! none.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, ToSpan as _};
use tillwire_channels::Moment;

/// How much further ahead than it can be planned a daily job may be, if clocks were put back by a little.
const DAILY_REACH: Duration = Duration::from_secs(3 * 86_400);

/// When a job is due.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// So much later each time.
    Every(Duration),
    /// Once on each date of a zone.
    Daily { at: Time, zone: TimeZone },
}

impl Schedule {
    /// Daily at an hour and a minute in a zone of the IANA's, such as `Asia/Jakarta`.
    ///
    /// # Errors
    /// If there is no such time or zone.
    pub fn daily(hour: i8, minute: i8, zone: &str) -> anyhow::Result<Self> {
        let at = Time::new(hour, minute, 0, 0)?;
        Ok(Self::Daily { at, zone: TimeZone::get(zone).with_context(|| format!("no time zone {zone}"))? })
    }

    /// When one is due first that was never done.
    ///
    /// # Errors
    /// If the time is beyond what calendars know.
    pub fn first(&self, now: Moment) -> anyhow::Result<Moment> {
        match self {
            Self::Every(_) => Ok(now),
            Self::Daily { .. } => self.next(now, now),
        }
    }

    /// The first regular time after the one that a job was `due` at and after `now`: what was missed meanwhile is made up for
    /// by one run. A clock that is put back finds that time done already.
    ///
    /// # Errors
    /// If the time is beyond what calendars know.
    pub fn next(&self, due: Moment, now: Moment) -> anyhow::Result<Moment> {
        match self {
            Self::Every(period) => {
                let period = time::Duration::try_from(*period)?;
                let passed = (now - due).whole_nanoseconds().div_euclid(period.whole_nanoseconds().max(1)).max(0);
                Ok(due + period * i32::try_from(passed + 1)?)
            }
            Self::Daily { at, zone } => {
                let after = Timestamp::from_nanosecond(due.max(now).unix_timestamp_nanos())?;
                let next = next_daily(*at, zone, after)?;
                Ok(Moment::from_unix_timestamp_nanos(next.as_nanosecond())?)
            }
        }
    }

    /// How far ahead a job may be planned at most. One that is planned for later was planned by a clock that was far ahead.
    pub fn reach(&self) -> Duration {
        match self {
            Self::Every(period) => *period * 2,
            Self::Daily { .. } => DAILY_REACH,
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(period) if period.as_secs() % 3600 == 0 => write!(f, "every {} h", period.as_secs() / 3600),
            Self::Every(period) => write!(f, "every {period:?}"),
            Self::Daily { at, zone } => {
                write!(f, "daily at {} {}", at.strftime("%H:%M"), zone.iana_name().unwrap_or("UTC"))
            }
        }
    }
}

/// The first time after a moment that one of the dates around it has.
fn next_daily(at: Time, zone: &TimeZone, after: Timestamp) -> anyhow::Result<Timestamp> {
    let today = zone.to_datetime(after).date();
    // A gap may put yesterday's time into today, and the date line take one away.
    for days in -1..=3 {
        let date = today.checked_add(Span::new().days(days))?;
        if let Some(time) = time_on(date, at, zone)?.filter(|time| *time > after) {
            return Ok(time);
        }
    }
    anyhow::bail!("no date after {after} has a time")
}

/// When it is that time on a date.
fn time_on(date: Date, at: Time, zone: &TimeZone) -> anyhow::Result<Option<Timestamp>> {
    let local = date.to_datetime(at);
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            Ok(Some(offset.to_timestamp(local)?))
        }
        AmbiguousOffset::Gap { before, .. } => {
            // By the clock of before, it is that time at the end of the gap or some time behind it.
            let behind = before.to_timestamp(local)?.checked_add(1.second())?;
            let end = zone.preceding(behind).next().map(|it| it.timestamp()).context("a gap without a beginning")?;
            // Where the gap began before this date and ends behind it, there is no such date.
            let is_left_out = zone.to_datetime(end).date() > date
                && before.to_datetime(end.checked_sub(1.nanosecond())?).date() < date;
            Ok((!is_left_out).then_some(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn moment(text: &str) -> Moment {
        Moment::parse(text, &Rfc3339).unwrap()
    }

    /// When a daily job is due in a zone from a moment on, in the words of that zone.
    fn due(hour: i8, minute: i8, zone: &str, from: &str, times: usize) -> Vec<String> {
        let schedule = Schedule::daily(hour, minute, zone).unwrap();
        let (zone, mut at) = (TimeZone::get(zone).unwrap(), moment(from));
        let mut found = Vec::new();
        for _ in 0..times {
            at = schedule.next(at, at).unwrap();
            let there = Timestamp::from_second(at.unix_timestamp()).unwrap().to_zoned_datetime(zone.clone());
            found.push(there.strftime("%m-%dT%H:%M %:z").to_string());
        }
        found
    }

    #[test]
    fn a_zone_whose_clocks_are_left_alone() {
        let found = due(2, 30, "Asia/Jakarta", "2026-11-29T19:30:00Z", 3);
        assert_eq!(
            found,
            ["12-01T02:30 +07:00", "12-02T02:30 +07:00", "12-03T02:30 +07:00"],
            "not the very same again"
        );
        assert_eq!(due(2, 30, "Asia/Jakarta", "2026-11-29T19:29:59Z", 1), ["11-30T02:30 +07:00"]);
    }

    #[test]
    fn a_time_that_does_not_exist_is_the_first_moment_after_the_gap() {
        let found = due(2, 30, "Europe/Berlin", "2026-03-28T00:00:00Z", 3);
        assert_eq!(found, ["03-28T02:30 +01:00", "03-29T03:00 +02:00", "03-30T02:30 +02:00"]);
        // Its very beginning, and its end.
        assert_eq!(due(2, 0, "Europe/Berlin", "2026-03-28T12:00:00Z", 1), ["03-29T03:00 +02:00"]);
        assert_eq!(due(3, 0, "Europe/Berlin", "2026-03-28T12:00:00Z", 2), ["03-29T03:00 +02:00", "03-30T03:00 +02:00"]);
        let found = due(2, 30, "America/New_York", "2026-03-07T12:00:00Z", 2);
        assert_eq!(found, ["03-08T03:00 -04:00", "03-09T02:30 -04:00"]);
        // Half an hour alone.
        let found = due(2, 15, "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2);
        assert_eq!(found, ["10-04T02:30 +11:00", "10-05T02:15 +11:00"]);
        // At midnight.
        let found = due(0, 30, "America/Asuncion", "2019-10-05T12:00:00Z", 2);
        assert_eq!(found, ["10-06T01:00 -03:00", "10-07T00:30 -03:00"]);
    }

    #[test]
    fn a_time_that_comes_twice_is_the_first_of_the_two() {
        let found = due(2, 30, "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(found, ["10-25T02:30 +02:00", "10-26T02:30 +01:00"]);
        // Between the two, and from the second on.
        assert_eq!(due(2, 30, "Europe/Berlin", "2026-10-25T01:00:00Z", 1), ["10-26T02:30 +01:00"]);
        assert_eq!(due(2, 30, "Europe/Berlin", "2026-10-25T01:30:00Z", 1), ["10-26T02:30 +01:00"]);
        let found = due(1, 30, "America/New_York", "2026-10-31T12:00:00Z", 2);
        assert_eq!(found, ["11-01T01:30 -04:00", "11-02T01:30 -05:00"]);
        let found = due(1, 45, "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2);
        assert_eq!(found, ["04-05T01:45 +11:00", "04-06T01:45 +10:30"]);
    }

    #[test]
    fn a_date_that_a_zone_leaves_out_has_no_time_and_one_that_comes_twice_has_one() {
        // Samoa went from the 29th to the 31st.
        let found = due(2, 30, "Pacific/Apia", "2011-12-28T20:00:00Z", 3);
        assert_eq!(found, ["12-29T02:30 -10:00", "12-31T02:30 +14:00", "01-01T02:30 +14:00"]);
        // Kwajalein had gone the same way, and began in 1969 on the other side.
        let found = due(12, 0, "Pacific/Kwajalein", "1993-08-20T12:00:00Z", 2);
        assert_eq!(found, ["08-20T12:00 -12:00", "08-22T12:00 +12:00"]);
        let found = due(2, 30, "Pacific/Kwajalein", "1969-09-28T17:00:00Z", 3);
        assert_eq!(found.iter().map(|it| &it[..5]).collect::<Vec<_>>(), ["09-30", "10-01", "10-02"]);
    }

    #[test]
    fn each_date_has_one_time_and_all_are_in_order() {
        for zone in ["Asia/Jakarta", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"] {
            for (hour, minute) in [(0, 0), (1, 30), (2, 0), (2, 30), (3, 0), (23, 59)] {
                let dates = due(hour, minute, zone, "2024-01-01T12:00:00Z", 800);
                let dates: Vec<&str> = dates.iter().map(|it| &it[..5]).collect();
                assert!(dates.windows(2).all(|two| two[0] != two[1]), "{zone} {hour}:{minute}");
                // 800 days on, counted by the calendar.
                let first = &dates[0];
                assert!(["01-01", "01-02"].contains(first), "{first}");
                assert_eq!(dates[799], if *first == "01-01" { "03-10" } else { "03-11" }, "{zone} {hour}:{minute}");
            }
        }
    }

    /// What is done by a clock that shows `jumps` seconds more from a second on, when it is looked at once a minute.
    fn done_by(schedule: &Schedule, from: Moment, minutes: i64, jumps: &[(i64, i64)]) -> Vec<Moment> {
        let mut next = schedule.first(from).unwrap();
        let mut done = Vec::new();
        for minute in 0..minutes {
            let jumped: i64 = jumps.iter().filter(|(at, _)| *at <= minute).map(|(_, seconds)| *seconds).sum();
            let now = from + time::Duration::seconds(minute * 60 + jumped);
            if next <= now {
                done.push(next);
                next = schedule.next(next, now).unwrap();
            }
        }
        done
    }

    #[test]
    fn a_clock_that_jumps_by_an_hour_skips_nothing_and_does_nothing_twice() {
        let schedule = Schedule::daily(2, 30, "Asia/Jakarta").unwrap();
        let from = moment("2026-11-29T17:00:00Z"); // Midnight there.
        let regular = done_by(&schedule, from, 4 * 1440, &[]);
        assert_eq!(regular.len(), 4);
        // Over the time, back over it just after it, and to and fro.
        for jumps in [&[(120, 3600)][..], &[(151, -3600)], &[(149, 3600), (152, -3600)], &[(151, -3600), (153, 3600)]] {
            assert_eq!(done_by(&schedule, from, 4 * 1440, jumps), regular, "{jumps:?}");
        }
        let hourly = Schedule::Every(Duration::from_secs(3600));
        let regular = done_by(&hourly, from, 600, &[]);
        assert_eq!(regular.len(), 10);
        let forward = done_by(&hourly, from, 600, &[(90, 3600)]);
        assert_eq!((forward.len(), &forward[..10]), (11, &regular[..]), "one more hour by that clock, and each once");
        let back = done_by(&hourly, from, 600, &[(90, -3600)]);
        assert_eq!(back, regular[..9], "an hour later, and none twice");
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_and_the_rhythm_stays() {
        let hourly = Schedule::Every(Duration::from_secs(3600));
        let due = moment("2026-11-30T10:07:00Z");
        let next = |now: &str| hourly.next(due, moment(now)).unwrap();
        assert_eq!(next("2026-11-30T10:07:05Z"), moment("2026-11-30T11:07:00Z"));
        assert_eq!(next("2026-11-30T11:07:00Z"), moment("2026-11-30T12:07:00Z"));
        assert_eq!(next("2026-12-02T15:30:00Z"), moment("2026-12-02T16:07:00Z"));
        assert_eq!(next("2026-11-30T09:00:00Z"), moment("2026-11-30T11:07:00Z"), "a clock that was put back");
    }

    #[test]
    fn a_schedule_reads_as_one_says_it() {
        assert_eq!(Schedule::Every(Duration::from_secs(7200)).to_string(), "every 2 h");
        assert_eq!(Schedule::Every(Duration::from_secs(90)).to_string(), "every 90s");
        assert_eq!(Schedule::daily(2, 5, "Asia/Jakarta").unwrap().to_string(), "daily at 02:05 Asia/Jakarta");
        assert!(Schedule::daily(24, 0, "Asia/Jakarta").is_err() && Schedule::daily(2, 0, "Asia/Atlantis").is_err());
    }
}
