//! The fields of what a provider sent: read by name, leniently. A field that is missing, null, empty or of another kind
//! than is asked for is not there; an amount that is none is an error. Numbers stay the text that they are.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tillwire_channels::Moment;
use time::UtcOffset;

use super::amount;

/// The longest text that is taken from a provider, in bytes. A longer one is cut, but for [`Fields::exact`].
pub const TEXT_BYTES_MAX: usize = 255;

/// An object of JSON. One that says something twice is none: whom should one believe?
#[derive(Debug, Default)]
pub struct Fields<'a>(BTreeMap<String, &'a RawValue>);

/// A moment of this century, which can be reckoned with: strangers name others too.
pub fn in_utc(at: Moment) -> Option<Moment> {
    (2000..2100).contains(&at.year()).then(|| at.to_offset(UtcOffset::UTC))
}

/// A field that should be an amount in whole rupiah, and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMoneyIn(pub &'static str);

impl<'a> Fields<'a> {
    /// What is read of bytes that may be anything. None if they are no object.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// A text, or a number as it was written; as long as it is, however long. Nothing is trimmed or translated.
    pub fn exact(&self, name: &str) -> Option<String> {
        let raw = self.0.get(name)?.get();
        match raw.as_bytes().first()? {
            b'"' => serde_json::from_str(raw).ok(),
            b'-' | b'0'..=b'9' => Some(raw.to_owned()),
            _ => None,
        }
    }

    /// A text, or a number as it was written. Cut to [`TEXT_BYTES_MAX`], without control characters.
    pub fn text(&self, name: &str) -> Option<String> {
        let text = self.exact(name).map(|text| clean(text.trim()))?;
        (!text.is_empty()).then_some(text)
    }

    /// A word that providers write in either case: in lower case.
    pub fn word(&self, name: &str) -> Option<String> {
        self.text(name).map(|text| text.to_ascii_lowercase())
    }

    /// # Errors
    /// If there is something that is no amount.
    pub fn amount(&self, name: &'static str) -> Result<Option<i64>, NotMoneyIn> {
        if !self.has(name) {
            return Ok(None);
        }
        let text = self.exact(name).ok_or(NotMoneyIn(name))?;
        amount::parse(&text).map(Some).map_err(|_| NotMoneyIn(name))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|raw| raw.get() == "true")
    }

    /// An object.
    pub fn object(&self, name: &str) -> Option<Self> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    /// The objects of a list; what in it is none is left out.
    pub fn objects(&self, name: &str) -> Vec<Self> {
        self.items(name).into_iter().filter_map(|item| serde_json::from_str(item.get()).ok()).collect()
    }

    fn items(&self, name: &str) -> Vec<&'a RawValue> {
        self.0.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// Whether it is a list, of whatever.
    pub fn is_list(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|raw| raw.get().starts_with('['))
    }

    /// The texts of a list.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let texts = self.items(name).into_iter().filter_map(|item| serde_json::from_str::<String>(item.get()).ok());
        texts.map(|text| clean(text.trim())).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|raw| !is_nothing(raw))
    }
}

fn is_nothing(raw: &RawValue) -> bool {
    matches!(raw.get(), "null" | "\"\"")
}

/// A text from outside as it may be shown: cut, and without control characters.
pub fn clean(text: &str) -> String {
    let mut kept = String::new();
    for it in text.chars().filter(|it| !it.is_control()) {
        if kept.len() + it.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        kept.push(it);
    }
    kept
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = BTreeMap<String, &'de RawValue>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name that is there twice"));
                    }
                }
                Ok(fields)
            }
        }
        from.deserialize_map(Names).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_read_as_it_was_written() {
        let body = br#"{"a":"48500.00","b":48500.0,"c":null,"d":" x\u0000 ","e":true,"f":[{"g":1},2,null],"h":{"i":"j"},"k":["l",1],"m":"","n":1e3}"#;
        let fields = Fields::parse(body).unwrap();
        assert_eq!(fields.exact("a").as_deref(), Some("48500.00"));
        assert_eq!(fields.exact("b").as_deref(), Some("48500.0"));
        assert_eq!((fields.amount("a"), fields.amount("b")), (Ok(Some(48_500)), Ok(Some(48_500))));
        assert_eq!((fields.amount("c"), fields.amount("m"), fields.amount("z")), (Ok(None), Ok(None), Ok(None)));
        for name in ["d", "e", "f", "h", "n"] {
            assert_eq!(fields.amount(name), Err(NotMoneyIn(name)));
        }
        assert_eq!((fields.text("c"), fields.text("m"), fields.text("f")), (None, None, None));
        assert_eq!((fields.text("d").as_deref(), fields.exact("d").as_deref()), (Some("x"), Some(" x\0 ")));
        assert!(fields.flag("e") && !fields.flag("a"));
        assert_eq!(fields.objects("f").len(), 1);
        assert_eq!(fields.object("h").unwrap().text("i").as_deref(), Some("j"));
        assert_eq!(fields.texts("k"), ["l"]);
        assert!(["a", "e", "f", "h", "k", "n"].into_iter().all(|name| fields.has(name)));
        assert!(["c", "m", "z"].into_iter().all(|name| !fields.has(name)), "null and empty are not there");
    }

    #[test]
    fn what_is_said_twice_or_is_no_object_is_nothing() {
        for body in [
            &b"[]"[..],
            b"",
            b"null",
            b"\"a\"",
            b"{",
            b"{\"a\":1,\"a\":2}",
            b"{\"a\":1}x",
            b"\xff",
            b"{\"a\":1,\"\\u0061\":2}",
        ] {
            assert!(Fields::parse(body).is_none(), "{}", String::from_utf8_lossy(body));
        }
        assert!(Fields::parse(&b"{\"a\":".repeat(100_000)).is_none());
        assert_eq!(clean(&"é".repeat(200)).len(), TEXT_BYTES_MAX - 1);
    }
}
