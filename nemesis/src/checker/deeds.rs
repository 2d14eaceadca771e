//! What tills did and were answered, compared with what became of it (G1).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Finding, Kind};
use crate::journal::Journal;

/// A request under one idempotency key, and how it ended.
#[derive(Clone, Debug, Serialize)]
pub struct Deed {
    pub key: String,
    pub what: &'static str,
    /// What its entry tells of, and no other's: the id of the sale, the delivery's number, the product's new name.
    pub mark: String,
    pub outcome: Outcome,
    /// How often it was asked for.
    pub tries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 2xx, with the position that was answered.
    Done { position: Option<String> },
    /// 4xx.
    Refused { status: u16, text: String },
    /// Nobody ever told.
    Unknown { last: String },
}

/// Whatever was answered with 2xx is in the journal once, where the answer said; whatever was refused is not there; and
/// nothing else is.
pub fn check_deeds(about: &str, journal: &Journal, deeds: &[Deed]) -> Vec<Finding> {
    let marks = journal.marks();
    let positions: BTreeMap<u64, String> = journal
        .entries()
        .iter()
        .map(|entry| (entry.seq, tillwire_channels::Position::of_entry(entry.seq, entry.tag).to_string()))
        .collect();
    let (mut findings, mut ours) = (Vec::new(), BTreeMap::new());
    let mut find = |kind, at: Option<&String>, detail: String| {
        findings.push(Finding { about: about.to_owned(), kind, at: at.cloned(), detail });
    };
    for deed in deeds {
        let found = marks.get(&deed.mark).map(Vec::as_slice).unwrap_or_default();
        let at = found.first().and_then(|seq| positions.get(seq));
        let of = format!("{} {} (key {}, tried {} times)", deed.what, deed.mark, deed.key, deed.tries);
        match (&deed.outcome, found) {
            (Outcome::Done { position }, [seq]) => {
                ours.insert(*seq, ());
                if position.as_ref() != at {
                    find(Kind::Misreported, at, format!("{of} was answered {position:?}"));
                }
            }
            (Outcome::Done { .. }, []) => find(Kind::Lost, None, format!("{of} was answered, and is not there")),
            (Outcome::Done { .. }, more) => find(Kind::Repeated, at, format!("{of} is there at {more:?}")),
            (Outcome::Refused { .. }, []) => {}
            (Outcome::Refused { status, text }, there) => {
                find(
                    Kind::Misreported,
                    at,
                    format!("{of} was refused with {status} {text}, and is there at {there:?}"),
                );
            }
            (Outcome::Unknown { last }, _) => find(Kind::Stuck, at, format!("{of} was never answered: {last}")),
        }
    }
    for (seq, position) in &positions {
        if !ours.contains_key(seq) {
            find(Kind::Foreign, Some(position), "an entry that no till knows of".to_owned());
        }
    }
    findings
}
