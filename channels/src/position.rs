//! Positions: the place of an event in its merchant's journal.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ts_rs::TS;

/// The chain hash of an entry: the first eight bytes of `sha256(prev ‖ merchant ‖ seq ‖ events)`.
///
/// `prev` is the tag of the entry before (zeros for the first), `merchant` the sixteen bytes of its id, `seq` eight
/// bytes big-endian, `events` the stored text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; 8]);

impl Tag {
    /// What stands before the first entry.
    pub const GENESIS: Self = Self([0; 8]);

    /// The part of the tag that a position carries.
    pub fn short(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Tag {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        hex(text).map(Self)
    }
}

/// `1041.2-9f3ac2d1`: event 2 of entry 1041, whose chain hash begins with `9f3ac2d1`. `1041-9f3ac2d1` is the whole
/// entry, `0-00000000` the place before the first.
///
/// An event's position is its id, its Socket.IO offset and its idempotency key at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, TS)]
#[ts(type = "string")]
pub struct Position {
    /// The number of the entry in the merchant's journal.
    pub seq: u64,
    /// Which event of the entry, from 1; `None` for the whole entry.
    pub event: Option<u32>,
    /// The first four bytes of the entry's tag.
    pub tag: [u8; 4],
}

impl Position {
    /// Before everything.
    pub const START: Self = Self { seq: 0, event: None, tag: [0; 4] };

    /// The whole of an entry.
    pub fn of_entry(seq: u64, tag: Tag) -> Self {
        Self { seq, event: None, tag: tag.short() }
    }

    /// Event `event` (from 1) of an entry.
    pub fn of_event(seq: u64, event: u32, tag: Tag) -> Self {
        Self { seq, event: Some(event), tag: tag.short() }
    }

    /// Whether an event that is number `event` of entry `seq` comes after this position.
    pub fn is_before(&self, seq: u64, event: u32) -> bool {
        match self.seq.cmp(&seq) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => self.event.is_some_and(|own| own < event),
            std::cmp::Ordering::Greater => false,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seq)?;
        if let Some(event) = self.event {
            write!(f, ".{event}")?;
        }
        let [a, b, c, d] = self.tag;
        write!(f, "-{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

/// Why a text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPosition;

impl fmt::Display for NotAPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position looks like 1041.2-9f3ac2d1 or 1041-9f3ac2d1")
    }
}

impl std::error::Error for NotAPosition {}

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (place, tag) = text.split_once('-').ok_or(NotAPosition)?;
        let (seq, event) = match place.split_once('.') {
            Some((seq, event)) => (seq, Some(number(event)?)),
            None => (place, None),
        };
        let event = event.map(u32::try_from).transpose().map_err(|_| NotAPosition)?;
        let seq = number(seq)?;
        // A journal counts in `bigint`, and events from one.
        if event == Some(0) || i64::try_from(seq).is_err() {
            return Err(NotAPosition);
        }
        Ok(Self { seq, event, tag: hex(tag)? })
    }
}

/// Digits only, and as they are written: `parse` alone would also take a plus sign, and zeros that stand before. One
/// position is one text, for the text is an id.
fn number(text: &str) -> Result<u64, NotAPosition> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
        return Err(NotAPosition);
    }
    text.parse().map_err(|_| NotAPosition)
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], NotAPosition> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(NotAPosition);
    }
    let value = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
    Ok(std::array::from_fn(|at| value(digits[at * 2]) << 4 | value(digits[at * 2 + 1])))
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Position {
    fn schema_name() -> Cow<'static, str> {
        "Position".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(0|[1-9][0-9]*)(\.[1-9][0-9]*)?-[0-9a-f]{8}$",
            "description": "A place in the merchant's journal: entry, event in it, and the first digits of the entry's chain hash."
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_position_reads_back(seq in 0..=i64::MAX as u64, event in any::<u32>(), tag in any::<[u8; 8]>()) {
            let position = match event {
                0 => Position::of_entry(seq, Tag(tag)),
                event => Position::of_event(seq, event, Tag(tag)),
            };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
            prop_assert_eq!(Tag(tag).to_string().parse(), Ok(Tag(tag)));
        }

        #[test]
        fn what_reads_as_a_position_is_its_one_text(text in "[0-9+]{1,20}(\\.[0-9]{1,11})?-[0-9a-fA]{8}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn reads_back_what_it_writes() {
        for text in ["0-00000000", "1041-9f3ac2d1", "1041.2-9f3ac2d1"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "1041",
            "1041.0-9f3ac2d1",
            "+1-9f3ac2d1",
            "007-9f3ac2d1",
            "00-00000000",
            "7.02-9f3ac2d1",
            "1-9F3AC2D1",
            "1-9f3ac2d",
            "9223372036854775808-00000000",
            "1.-9f3ac2d1",
        ] {
            assert_eq!(text.parse::<Position>(), Err(NotAPosition), "{text:?}");
        }
    }

    #[test]
    fn a_whole_entry_comes_after_all_its_events() {
        let within: Position = "7.2-00000000".parse().unwrap();
        assert!(within.is_before(7, 3) && within.is_before(8, 1) && !within.is_before(7, 2));
        let whole: Position = "7-00000000".parse().unwrap();
        assert!(!whole.is_before(7, 3) && whole.is_before(8, 1));
    }
}
