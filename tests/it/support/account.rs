//! Holding what a client heard against the journal: everything, in order, once; and of what is a value at least the newest,
//! with a true count of what it stands for.

use std::collections::BTreeMap;

use serde_json::Value;
use tillwire_channels::Position;
use tillwire_channels::topic::TOPICS;

/// What a client wrote down.
#[derive(Clone, Debug)]
pub enum Noted {
    /// A connection, and where it was told that it begins.
    Began(String),
    /// An event, with its position.
    Heard(String, Value),
}

/// Checks a record that goes as far as the journal. Answers how many events were merged into later ones.
///
/// What is missing must be of a value of which a later event came. That one says how many it stands for: all that are
/// missing since its connection began. What was left out before a cut was so for the sake of one that came after it.
pub fn merged_in(noted: &[Noted], journal: &[(String, Value)]) -> u64 {
    let (mut began, mut merged_in_all) = ((0, 0), 0);
    let mut missing: BTreeMap<String, Vec<(u64, u32)>> = BTreeMap::new();
    let mut journal = journal.iter();
    for noted in noted {
        let (position, body) = match noted {
            Noted::Began(position) => {
                began = place(position);
                continue;
            }
            Noted::Heard(position, body) => (position, body),
        };
        loop {
            let (next, event) = journal.next().unwrap_or_else(|| panic!("{position}: twice, late, or never happened"));
            let value = value(event);
            if next != position {
                let value = value.unwrap_or_else(|| panic!("{next} is missing; next came {position}"));
                missing.entry(value).or_default().push(place(next));
                continue;
            }
            let mut told = body.clone();
            let merged = told.as_object_mut().expect("an object").remove("merged");
            let left_out = value.and_then(|value| missing.remove(&value)).unwrap_or_default();
            let since_it_began = left_out.iter().filter(|place| **place > began).count();
            let expected = (since_it_began > 0).then(|| Value::from(since_it_began));
            assert_eq!(merged, expected, "{position} stands for {left_out:?}, the connection began at {began:?}");
            assert_eq!(&told, event, "{position}");
            merged_in_all += left_out.len() as u64;
            break;
        }
    }
    assert_eq!(journal.next(), None, "never came");
    assert!(missing.is_empty(), "nothing newer came: {missing:?}");
    merged_in_all
}

fn place(position: &str) -> (u64, u32) {
    let position: Position = position.parse().unwrap_or_else(|_| panic!("no position: {position}"));
    (position.seq, position.event.unwrap_or(u32::MAX))
}

/// What the table of topics says that the event brings the newest of.
fn value(event: &Value) -> Option<String> {
    let kind = event["type"].as_str().expect("a type");
    let row = TOPICS.iter().find(|row| row.events.contains(&kind))?;
    let part = |field: &&str| event.pointer(&format!("/{}", field.replace('.', "/"))).expect("a field").to_string();
    let parts: Vec<String> = row.latest_by?.iter().map(part).collect();
    Some(format!("{} {parts:?}", row.name))
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use serde_json::json;

    use super::*;

    fn level(seq: u64, variant: &str, merged: Option<u64>) -> (String, Value) {
        let mut body =
            json!({ "type": "stock.changed", "outlet": "jkt", "data": { "variant": variant, "on_hand": seq } });
        if let Some(merged) = merged {
            body["merged"] = merged.into();
        }
        (format!("{seq}.1-00000000"), body)
    }

    fn heard((position, body): (String, Value)) -> Noted {
        Noted::Heard(position, body)
    }

    fn journal() -> Vec<(String, Value)> {
        let sale = ("4.1-00000000".to_owned(), json!({ "type": "sale.completed", "data": {} }));
        vec![level(1, "roti", None), level(2, "kopi", None), level(3, "roti", None), sale, level(5, "roti", None)]
    }

    fn fails(noted: Vec<Noted>) -> bool {
        catch_unwind(move || merged_in(&noted, &journal())).is_err()
    }

    #[test]
    fn what_is_merged_must_be_accounted_for() {
        let [_, kopi, roti, sale, _] = journal().try_into().unwrap();
        let all: Vec<Noted> = journal().into_iter().map(heard).collect();
        assert_eq!(merged_in(&all, &journal()), 0);
        let newest = [heard(kopi.clone()), heard(sale.clone()), heard(level(5, "roti", Some(2)))];
        assert_eq!(merged_in(&newest, &journal()), 2);
        // Cut after the sale: the one that was left out for the sake of what followed comes without a count.
        let began = Noted::Began(sale.0.clone());
        let cut = [heard(kopi.clone()), heard(sale.clone()), began, heard(level(5, "roti", None))];
        assert_eq!(merged_in(&cut, &journal()), 2);

        assert!(fails(all[..4].to_vec()), "the newest is missing");
        assert!(fails([&all[..3], &all[4..]].concat()), "a sale is missing");
        assert!(fails([&all[..2], &all[3..]].concat()), "merged and not said");
        assert!(fails([&all[..], &all[4..]].concat()), "twice");
        assert!(fails(vec![heard(kopi.clone()), heard(roti), heard(sale.clone()), heard(level(5, "roti", Some(1)))]));
        assert!(fails(vec![heard(sale), heard(kopi), heard(level(5, "roti", Some(2)))]), "not in order");
    }
}
