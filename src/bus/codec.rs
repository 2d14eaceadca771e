//! How an entry travels between nodes: JSON with one-letter names, the events as the very text that is hashed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tillwire_channels::{MerchantId, Moment, Tag};

use super::{CARRIED_BYTES_MAX, Carried, Claim, Underway, Way, micros};
use crate::journal::{Entry, chain};

/// The most that a message may measure: the events and what is around them.
const MESSAGE_BYTES_MAX: usize = CARRIED_BYTES_MAX + 1_024;

#[derive(Serialize, Deserialize)]
struct Form<'a> {
    /// The merchant.
    m: MerchantId,
    /// The number.
    s: u64,
    /// The tag of the entry before, and its own.
    p: String,
    t: String,
    /// When it was recorded, in microseconds since 1970.
    r: i64,
    /// When it was given to the bus, likewise, by the clock of whoever did. Nodes of an earlier version neither say nor mind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    w: Option<i64>,
    /// The events, unless they are too large to carry.
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    e: Option<&'a RawValue>,
}

/// A claim begins with its screen, which nothing else has.
#[derive(Serialize, Deserialize)]
struct ClaimForm<'a> {
    /// The screen.
    c: &'a str,
    /// The merchant.
    m: MerchantId,
    /// The epoch.
    n: i64,
}

/// How a claim begins.
const CLAIM_MARK: &[u8] = b"{\"c\":";
/// The longest id of a screen.
const SCREEN_BYTES_MAX: usize = 64;

/// Encodes what a bus carries; an entry that is too large as its place only.
pub fn encode(carried: &Carried) -> serde_json::Result<Vec<u8>> {
    match carried {
        Carried::Entry(entry) => encode_entry(entry),
        Carried::Place { merchant, seq, tag } => {
            let (p, t) = (Tag::GENESIS.to_string(), tag.to_string());
            serde_json::to_vec(&Form { m: *merchant, s: *seq, p, t, r: 0, w: None, e: None })
        }
        Carried::Claim(claim) => serde_json::to_vec(&ClaimForm { c: &claim.screen, m: claim.merchant, n: claim.epoch }),
    }
}

fn encode_entry(entry: &Entry) -> serde_json::Result<Vec<u8>> {
    let e = if entry.text.len() <= CARRIED_BYTES_MAX { Some(serde_json::from_str(&entry.text)?) } else { None };
    serde_json::to_vec(&Form {
        m: entry.merchant,
        s: entry.seq,
        p: entry.prev.to_string(),
        t: entry.tag.to_string(),
        r: (entry.recorded_at.unix_timestamp_nanos() / 1_000) as i64, // Microseconds of any year that PostgreSQL knows fit.
        w: Some(micros()),
        e,
    })
}

/// Decodes what a node encoded and `bus` brought, if its merchant `is_wanted`. A message whose events do not hash to its tag is refused:
/// whoever can write to a broker still cannot put words into a journal unnoticed.
///
/// # Errors
/// If it is not a message of ours.
pub fn decode(
    bus: &'static str,
    bytes: &[u8],
    is_wanted: impl FnOnce(MerchantId) -> bool,
) -> anyhow::Result<Option<Carried>> {
    anyhow::ensure!(bytes.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", bytes.len());
    if bytes.starts_with(CLAIM_MARK) {
        let ClaimForm { c: screen, m: merchant, n: epoch } = serde_json::from_slice(bytes)?;
        anyhow::ensure!(screen.len() <= SCREEN_BYTES_MAX, "a screen's id of {} bytes", screen.len());
        return Ok(is_wanted(merchant).then(|| Carried::Claim(Claim { merchant, screen: screen.to_owned(), epoch })));
    }
    let form: Form<'_> = serde_json::from_slice(bytes)?;
    if !is_wanted(form.m) {
        return Ok(None);
    }
    let (prev, tag) = (form.p.parse()?, form.t.parse()?);
    let Some(events) = form.e else {
        return Ok(Some(Carried::Place { merchant: form.m, seq: form.s, tag }));
    };
    anyhow::ensure!(chain::tag(prev, form.m, form.s, events.get()) == tag, "events that do not fit their tag");
    let recorded_at = Moment::from_unix_timestamp_nanos(i128::from(form.r) * 1_000)?;
    let entry = Entry::new(form.m, form.s, prev, tag, recorded_at, events.get().into());
    Ok(Some(Carried::Entry(Underway { entry: Arc::new(entry), way: Way::By { bus, published: form.w }, _room: None })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(events: &str) -> Entry {
        let merchant = MerchantId::new();
        let at = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        Entry::new(merchant, 7, Tag::GENESIS, chain::tag(Tag::GENESIS, merchant, 7, events), at, events.into())
    }

    #[test]
    fn arrives_as_it_left() {
        let sent = entry(r#"[{"a":  "exact  spaces"}]"#);
        let heard = decode("redis", &encode_entry(&sent).unwrap(), |merchant| merchant == sent.merchant).unwrap();
        let Some(Carried::Entry(heard)) = heard else { panic!("no entry") };
        assert_eq!((heard.seq, heard.tag, &heard.text, heard.recorded_at), (7, sent.tag, &sent.text, sent.recorded_at));
    }

    #[test]
    fn says_when_it_was_given_to_the_bus() {
        let before = micros();
        let sent = entry("[]");
        let Some(Carried::Entry(heard)) = decode("redis", &encode_entry(&sent).unwrap(), |_| true).unwrap() else {
            panic!("no entry")
        };
        let Way::By { bus: "redis", published: Some(at) } = heard.way else { panic!("{:?}", heard.way) };
        assert!((before..=micros()).contains(&at));
        // Whatever the two clocks say.
        assert_eq!(super::super::since(i64::MAX), std::time::Duration::ZERO);
        assert_eq!(super::super::since(i64::MIN), super::super::PASSED_MAX);
    }

    /// The form of 0.1.0, before it said when. Nodes of two versions are on one bus while a hub is replaced node by node.
    #[test]
    fn nodes_of_the_version_before_and_after_hear_each_other() {
        #[derive(Serialize, Deserialize)]
        struct Earlier<'a> {
            m: MerchantId,
            s: u64,
            p: String,
            t: String,
            r: i64,
            #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
            e: Option<&'a RawValue>,
        }
        let sent = entry(r#"[{"total":1}]"#);
        let new = encode_entry(&sent).unwrap();
        let read: Earlier<'_> = serde_json::from_slice(&new).unwrap();
        assert_eq!((read.m, read.s, read.e.unwrap().get()), (sent.merchant, 7, &*sent.text));
        let old = serde_json::to_vec(&read).unwrap();
        assert!(old.len() < new.len());
        let Some(Carried::Entry(heard)) = decode("redis", &old, |_| true).unwrap() else { panic!("no entry") };
        assert_eq!((heard.tag, &heard.text, heard.recorded_at), (sent.tag, &sent.text, sent.recorded_at));
        assert!(matches!(heard.way, Way::By { published: None, .. }));
        // It arrives, and no time is made up for it.
        heard.has_arrived();
    }

    #[test]
    fn a_large_one_travels_as_its_place() {
        let sent = entry(&format!("[\"{}\"]", "x".repeat(CARRIED_BYTES_MAX)));
        let bytes = encode_entry(&sent).unwrap();
        assert!(bytes.len() < 300);
        let heard = decode("redis", &bytes, |_| true).unwrap();
        assert!(matches!(heard, Some(Carried::Place { seq: 7, tag, .. }) if tag == sent.tag));
    }

    #[test]
    fn carries_the_largest_that_is_not_too_large() {
        let sent = entry(&format!("[\"{}\"]", "x".repeat(CARRIED_BYTES_MAX - 4)));
        assert!(matches!(decode("redis", &encode_entry(&sent).unwrap(), |_| true).unwrap(), Some(Carried::Entry(_))));
    }

    #[test]
    fn a_claim_arrives_as_it_left() {
        let claim = Claim { merchant: MerchantId::new(), screen: "8ZkM2dOZT0uQyMbmVbGQDA".to_owned(), epoch: -7 };
        let bytes = encode(&Carried::Claim(claim.clone())).unwrap();
        let heard = decode("redis", &bytes, |merchant| merchant == claim.merchant).unwrap();
        assert!(matches!(heard, Some(Carried::Claim(heard)) if heard == claim));
        assert!(decode("redis", &bytes, |_| false).unwrap().is_none());
        let long = encode(&Carried::Claim(Claim { screen: "x".repeat(65), ..claim })).unwrap();
        assert!(decode("redis", &long, |_| true).is_err());
    }

    #[test]
    fn looks_no_further_when_nobody_listens() {
        let sent = String::from_utf8(encode_entry(&entry(r#"[{"total":1}]"#)).unwrap()).unwrap();
        assert!(decode("redis", sent.as_bytes(), |_| false).unwrap().is_none());
    }

    #[test]
    fn refuses_what_was_changed_on_the_way() {
        let sent = String::from_utf8(encode_entry(&entry(r#"[{"total":1}]"#)).unwrap()).unwrap();
        assert!(decode("redis", sent.replace("\"total\":1", "\"total\":2").as_bytes(), |_| true).is_err());
        let long = " ".repeat(MESSAGE_BYTES_MAX) + &sent;
        for bytes in ["", "{}", "null", "[]", "{\"m\":1}", &long] {
            assert!(decode("redis", bytes.as_bytes(), |_| true).is_err());
        }
    }

    /// What a node might encode, and what is nearly that.
    fn message() -> impl Strategy<Value = (Entry, Vec<u8>)> {
        let events = prop_oneof![
            Just("[]".to_owned()),
            "\\PC{0,30}".prop_map(|text| serde_json::json!([{ "note": text, "total_minor": 7500 }]).to_string()),
        ];
        let entry = (events, any::<[u8; 8]>(), any::<u32>(), any::<u128>(), 0..4_000_000_000_i64).prop_map(
            |(events, prev, seq, merchant, at)| {
                let (merchant, seq, prev) = (MerchantId(uuid::Uuid::from_u128(merchant)), seq.into(), Tag(prev));
                let tag = chain::tag(prev, merchant, seq, &events);
                Entry::new(merchant, seq, prev, tag, Moment::from_unix_timestamp(at).unwrap(), events.into())
            },
        );
        entry.prop_map(|entry| {
            let bytes = encode_entry(&entry).unwrap();
            (entry, bytes)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_entry_arrives_as_it_was_committed_or_not_at_all(
            (sent, bytes) in message(),
            (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let heard = decode("redis", &bytes, |_| true).unwrap();
            prop_assert!(matches!(&heard, Some(Carried::Entry(heard)) if heard.text == sent.text && heard.tag == sent.tag));
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] = byte;
            // Only when it was recorded is not hashed. A message may also lose its events, and says then that there are some.
            match decode("redis", &changed, |_| true) {
                Ok(Some(Carried::Entry(heard))) => {
                    let own = (heard.merchant, heard.seq, heard.prev, heard.tag, &heard.text);
                    prop_assert_eq!(own, (sent.merchant, sent.seq, sent.prev, sent.tag, &sent.text));
                }
                Ok(Some(Carried::Claim(claim))) => panic!("a claim: {claim:?}"),
                Ok(_) | Err(_) => {}
            }
            prop_assert!(decode("redis", &bytes[..at.index(bytes.len())], |_| true).is_err(), "cut");
        }

        #[test]
        fn no_bytes_at_all_are_more_than_refused(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "\\{\"c\":\"[a-z]{0,70}\",\"m\":\"\\PC{0,40}\",\"n\":-?[0-9]{1,20}\\}".prop_map(String::into_bytes),
            "\\{(\"[mspter]\":(\"\\PC{0,9}\"|-?[0-9]{0,20}|\\[\\]),?){0,6}\\}".prop_map(String::into_bytes),
        ]) {
            prop_assert!(!matches!(decode("redis", &bytes, |_| true), Ok(Some(Carried::Entry(_)))));
        }
    }
}
