//! Quiet hours: when a person does not want to be told anything.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tillwire_channels::Moment;
use time::Time;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// How a time of day is written.
const FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[hour]:[minute]");

/// From a time of day up to another, which may be on the next day, by the clocks of a time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub from: Time,
    pub to: Time,
    /// An IANA name.
    pub zone: String,
}

impl Quiet {
    /// Whether there is such a zone.
    pub fn has_zone(&self) -> bool {
        TimeZone::get(&self.zone).is_ok()
    }

    /// Whether it is quiet at a moment. Never in a zone that there is no more.
    pub fn covers_moment(&self, now: Moment) -> bool {
        local(&self.zone, now).is_some_and(|local| self.covers(local))
    }

    /// Whether it is quiet when clocks there show this.
    pub fn covers(&self, local: Time) -> bool {
        let (after, before) = (local >= self.from, local < self.to);
        if self.from < self.to { after && before } else { after || before }
    }
}

/// What clocks show in a zone.
fn local(zone: &str, now: Moment) -> Option<Time> {
    let zone = TimeZone::get(zone).ok()?;
    let local = Timestamp::from_second(now.unix_timestamp()).ok()?.to_zoned_datetime(zone).time();
    let part = |it: i8| u8::try_from(it).ok();
    Time::from_hms(part(local.hour())?, part(local.minute())?, part(local.second())?).ok()
}

/// A time of day, as `22:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(pub Time);

impl Serialize for TimeOfDay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.format(FORMAT).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = Time::parse(&text, FORMAT);
        time.map(Self).map_err(|_| serde::de::Error::custom("a time of day looks like 22:00"))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::{datetime, time};

    use super::*;

    #[test]
    fn a_night_goes_over_midnight_and_ends_at_its_last_minute() {
        let night = Quiet { from: time!(22:00), to: time!(06:30), zone: "Asia/Jakarta".to_owned() };
        for quiet in [time!(22:00), time!(23:59:59), time!(00:00), time!(06:29:59)] {
            assert!(night.covers(quiet), "{quiet}");
        }
        for loud in [time!(06:30), time!(12:00), time!(21:59:59)] {
            assert!(!night.covers(loud), "{loud}");
        }
        let noon = Quiet { from: time!(12:00), to: time!(13:00), ..night };
        assert!(noon.covers(time!(12:00)) && !noon.covers(time!(13:00)) && !noon.covers(time!(00:00)));
    }

    #[test]
    fn it_is_quiet_by_the_clocks_of_the_zone() {
        let now = datetime!(2026-11-30 16:30 UTC);
        let quiet = |zone: &str| Quiet { from: time!(23:30), to: time!(23:31), zone: zone.to_owned() };
        assert_eq!(local("Asia/Jakarta", now), Some(time!(23:30)));
        assert!(quiet("Asia/Jakarta").covers_moment(now) && !quiet("Asia/Makassar").covers_moment(now));
        assert!(quiet("Asia/Jakarta").has_zone());
        assert!(!quiet("Asia/Atlantis").has_zone() && !quiet("Asia/Atlantis").covers_moment(now));
    }

    #[test]
    fn a_time_of_day_has_one_form() {
        let read = |text: &str| serde_json::from_value::<TimeOfDay>(text.into());
        assert_eq!(serde_json::to_value(read("06:30").unwrap()).unwrap(), "06:30");
        for text in ["", "6:30", "24:00", "06:60", "06:30:00", "06:30 ", "-1:00"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
