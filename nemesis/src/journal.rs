//! The journal, as the checker sees it: what is true.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use tillwire_channels::{Moment, Position, Stored, Tag};

/// One merchant's entries from some place on, without a hole.
#[derive(Debug)]
pub struct Journal {
    base: u64,
    base_tag: Tag,
    entries: Vec<Entry>,
}

/// All events of one committed transaction.
#[derive(Debug)]
pub struct Entry {
    pub seq: u64,
    pub tag: Tag,
    pub recorded_at: Moment,
    pub events: Vec<Stored>,
}

/// A row of `journal_entries`.
#[derive(Debug)]
pub struct Row {
    pub seq: u64,
    pub prev: Tag,
    pub tag: Tag,
    pub recorded_at: Moment,
    pub events: String,
}

/// An event's place: its entry's number, and its own in it.
pub type Place = (u64, u32);

impl Journal {
    /// From the rows that follow entry `base`, in order. Whether their hashes are right is for others to say.
    ///
    /// # Errors
    /// If one is missing, or does not name the one before it.
    pub fn new(base: u64, base_tag: Tag, rows: Vec<Row>) -> Result<Self> {
        let (mut last, mut entries) = ((base, base_tag), Vec::with_capacity(rows.len()));
        for Row { seq, prev, tag, recorded_at, events } in rows {
            ensure!((seq - 1, prev) == last, "entry {seq} does not follow from entry {}", last.0);
            last = (seq, tag);
            let events = serde_json::from_str(&events).with_context(|| format!("reading entry {seq}"))?;
            entries.push(Entry { seq, tag, recorded_at, events });
        }
        Ok(Self { base, base_tag, entries })
    }

    /// What follows an entry of it.
    pub fn after(mut self, place: Position) -> Self {
        let before = usize::try_from(place.seq.saturating_sub(self.base)).unwrap_or(usize::MAX);
        let rest = self.entries.split_off(before.min(self.entries.len()));
        if let Some(last) = self.entries.last() {
            (self.base, self.base_tag) = (last.seq, last.tag);
        }
        Self { entries: rest, ..self }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last entry.
    pub fn head(&self) -> Position {
        self.entries.last().map_or(self.start(), |last| Position::of_entry(last.seq, last.tag))
    }

    /// Where it begins.
    pub fn start(&self) -> Position {
        Position::of_entry(self.base, self.base_tag)
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(self.base + 1)?).ok()?)
    }

    /// Whether there is such a place in this history.
    pub fn has(&self, position: Position) -> bool {
        if position.seq == self.base {
            return position.tag == self.base_tag.short();
        }
        self.entry(position.seq).is_some_and(|entry| {
            let events = u32::try_from(entry.events.len()).unwrap_or(u32::MAX);
            entry.tag.short() == position.tag && position.event.is_none_or(|event| event <= events)
        })
    }

    /// The event at a place.
    pub fn event(&self, place: Place) -> Option<(&Entry, &Stored)> {
        let entry = self.entry(place.0)?;
        Some((entry, entry.events.get(usize::try_from(place.1.checked_sub(1)?).ok()?)?))
    }

    /// The events that follow `after`, up to and with `to`.
    pub fn between(&self, after: Position, to: Position) -> impl Iterator<Item = (Place, &Stored)> {
        let from = usize::try_from(after.seq.saturating_sub(self.base + 1)).unwrap_or(usize::MAX);
        let entries = self.entries.get(from..).unwrap_or_default().iter().take_while(move |entry| entry.seq <= to.seq);
        entries
            .flat_map(|entry| (1..).zip(&entry.events).map(|(number, event)| ((entry.seq, number), event)))
            .filter(move |((seq, number), _)| after.is_before(*seq, *number))
            .filter(move |((seq, number), _)| !to.is_before(*seq, *number))
    }

    /// The entries in which each of the documents is told of: a sale, a delivery, a product's new name.
    pub fn marks(&self) -> BTreeMap<String, Vec<u64>> {
        let mut marks: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for entry in &self.entries {
            for mark in entry.events.iter().filter_map(mark) {
                let told = marks.entry(mark).or_default();
                if told.last() != Some(&entry.seq) {
                    told.push(entry.seq);
                }
            }
        }
        marks
    }
}

/// What names the request that an event came of.
fn mark(event: &Stored) -> Option<String> {
    let field = match &*event.kind {
        "sale.completed" | "payment.captured" => "sale",
        "stock.changed" => "document",
        "product.changed" => "name",
        "register.enrolled" => "register",
        _ => return None,
    };
    let data: serde_json::Value = serde_json::from_str(event.data.get()).ok()?;
    Some(data.get(field)?.as_str()?.to_owned())
}
