//! An entry: all events of one committed transaction.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, ensure};
use tillwire_channels::{MerchantId, Moment, Position, Stored, Tag};
use uuid::Uuid;

/// The most that an entry's events may take, in bytes. Larger work is done in several transactions.
pub const ENTRY_BYTES_MAX: usize = 256 * 1024;

/// All events of one committed transaction, numbered and chained.
#[derive(Debug)]
pub struct Entry {
    pub merchant: MerchantId,
    pub seq: u64,
    pub prev: Tag,
    pub tag: Tag,
    pub recorded_at: Moment,
    /// The events as stored: these very bytes are hashed.
    pub text: Arc<str>,
    /// Which request it came of, where that is known: it comes with the entry by the durable path, and not by the buses.
    pub trace: Option<Uuid>,
    parsed: OnceLock<Vec<Stored>>,
}

impl Entry {
    pub fn new(merchant: MerchantId, seq: u64, prev: Tag, tag: Tag, recorded_at: Moment, text: Arc<str>) -> Self {
        Self { merchant, seq, prev, tag, recorded_at, text, trace: None, parsed: OnceLock::new() }
    }

    /// The same, as what came of a request.
    pub fn traced(self, trace: Option<Uuid>) -> Self {
        Self { trace, ..self }
    }

    /// The place of the whole entry.
    pub fn position(&self) -> Position {
        Position::of_entry(self.seq, self.tag)
    }

    /// The events, parsed on first use.
    ///
    /// # Errors
    /// If the text is not a list of events: a journal that was tampered with.
    pub fn events(&self) -> anyhow::Result<&[Stored]> {
        if let Some(events) = self.parsed.get() {
            return Ok(events);
        }
        let events = serde_json::from_str(&self.text)
            .with_context(|| format!("reading entry {} of merchant {}", self.seq, self.merchant))?;
        Ok(self.parsed.get_or_init(|| events))
    }
}

/// An entry that was committed, and when the database said so.
#[derive(Clone, Debug)]
pub struct Committed {
    pub entry: Arc<Entry>,
    pub at: Instant,
}

impl Committed {
    /// The database has just said so.
    pub fn now(entry: Arc<Entry>) -> Self {
        Self { entry, at: Instant::now() }
    }
}

/// A number from the database, where it is `bigint` and never negative.
pub(super) fn seq_of(seq: i64) -> anyhow::Result<u64> {
    u64::try_from(seq).context("a negative number in the journal")
}

/// A tag from the database, where its length is checked.
pub(super) fn tag_of(bytes: &[u8]) -> anyhow::Result<Tag> {
    ensure!(bytes.len() == 8, "a tag of {} bytes in the journal", bytes.len());
    let mut tag = [0; 8];
    tag.copy_from_slice(bytes);
    Ok(Tag(tag))
}
