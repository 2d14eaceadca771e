//! A feed's recent entries: contiguous, bounded in bytes of memory, the newest at the end.

use std::collections::VecDeque;
use std::sync::Arc;

use tillwire_channels::{Position, Tag, View};

use super::packed::Packed;

/// How much memory a feed's entries may take. A busy shop's last minutes.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often an entry may be there: as it is stored, parsed, and encoded for each view that hears it. It is parsed and encoded
/// later, so all of that is counted from the beginning.
const COPIES_MAX: usize = 2 + View::ALL.len();
/// How much of a journal that is, in bytes of stored events.
pub const TEXT_BYTES_MAX: usize = BYTES_MAX / COPIES_MAX;
/// How many entries it keeps, however small they are.
pub const ENTRIES_MAX: usize = 2_048;

/// INVARIANT: each entry follows from the one before it, by number and by tag.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Arc<Packed>>,
    bytes: usize,
}

impl Ring {
    /// Adds the next entry and forgets the oldest that no longer fit. The newest always stays.
    pub fn push(&mut self, packed: Arc<Packed>) {
        self.bytes += bytes(&packed);
        self.entries.push_back(packed);
        while self.entries.len() > 1 && (self.bytes > BYTES_MAX || self.entries.len() > ENTRIES_MAX) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= bytes(&oldest);
            }
        }
    }

    /// Adds earlier entries, which follow one another and end right before the oldest here, or at `head` if there is none:
    /// as many of the newest of them as fit. Anything else is passed over.
    pub fn prepend(&mut self, earlier: Vec<Arc<Packed>>, head: (u64, Tag)) {
        let mut next = match self.entries.front() {
            Some(oldest) => (oldest.entry.seq - 1, oldest.entry.prev),
            None => head,
        };
        let last = next.0;
        for packed in earlier.into_iter().rev().skip_while(|packed| packed.entry.seq > last) {
            let size = bytes(&packed);
            if (packed.entry.seq, packed.entry.tag) != next
                || self.bytes + size > BYTES_MAX
                || self.entries.len() >= ENTRIES_MAX
            {
                return;
            }
            next = (packed.entry.seq - 1, packed.entry.prev);
            self.bytes += size;
            self.entries.push_front(packed);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What follows a position, its own entry first if the position lies inside it; `None` if that is not here, or if
    /// the position is of another history.
    pub fn after(&self, after: Position, entries_max: usize) -> Option<Vec<Arc<Packed>>> {
        let oldest = self.entries.front()?.entry.seq;
        // A position inside an entry needs that entry again, for its rest.
        let from = if after.event.is_some() { after.seq } else { after.seq + 1 };
        let at = usize::try_from(from.checked_sub(oldest)?).ok()?;
        let first = self.entries.get(at)?;
        let own: Tag = if after.event.is_some() { first.entry.tag } else { first.entry.prev };
        (own.short() == after.tag).then(|| self.entries.iter().skip(at).take(entries_max).cloned().collect())
    }
}

/// What an entry may take.
fn bytes(packed: &Packed) -> usize {
    packed.entry.text.len() * COPIES_MAX
}

#[cfg(test)]
pub(super) mod tests {
    use tillwire_channels::{MerchantId, Moment};

    use super::*;
    use crate::journal::{Entry, chain};

    pub fn chained(texts: &[&str]) -> Vec<Arc<Packed>> {
        let (merchant, mut prev) = (MerchantId::new(), Tag::GENESIS);
        (1..)
            .zip(texts)
            .map(|(seq, text)| {
                let tag = chain::tag(prev, merchant, seq, text);
                let entry = Entry::new(merchant, seq, prev, tag, Moment::UNIX_EPOCH, (*text).into());
                prev = tag;
                Arc::new(Packed::new(Arc::new(entry)).unwrap())
            })
            .collect()
    }

    fn seqs(found: Option<Vec<Arc<Packed>>>) -> Option<Vec<u64>> {
        found.map(|entries| entries.iter().map(|packed| packed.entry.seq).collect())
    }

    #[test]
    fn answers_what_follows_and_only_on_its_own_history() {
        let entries = chained(&["[]", "[]", "[]"]);
        let mut ring = Ring::default();
        entries.iter().for_each(|entry| ring.push(entry.clone()));
        let second = &entries[1].entry;
        assert_eq!(seqs(ring.after(Position::START, 9)), Some(vec![1, 2, 3]));
        assert_eq!(seqs(ring.after(second.position(), 9)), Some(vec![3]));
        assert_eq!(seqs(ring.after(Position::of_event(2, 1, second.tag), 1)), Some(vec![2]));
        assert_eq!(seqs(ring.after(Position::of_entry(2, Tag([9; 8])), 9)), None, "another history");
        assert_eq!(seqs(ring.after(entries[2].entry.position(), 9)), None, "nothing follows the head");
    }

    #[test]
    fn takes_in_what_was_before_as_far_as_it_fits_and_follows() {
        let entries = chained(&["[]", "[]", "[]", "[]"]);
        let head = (4, entries[3].entry.tag);
        let mut ring = Ring::default();
        ring.prepend(entries[..2].to_vec(), head);
        assert_eq!(seqs(ring.after(Position::START, 9)), None, "a gap before the head");
        ring.prepend(entries[2..].to_vec(), head);
        ring.prepend(chained(&["[]", "[]"]), head);
        assert_eq!(seqs(ring.after(Position::START, 9)), None, "another history");
        // What overlaps is passed over.
        ring.prepend(entries[..3].to_vec(), head);
        assert_eq!(seqs(ring.after(Position::START, 9)), Some(vec![1, 2, 3, 4]));

        let large = format!("[{}]", " ".repeat(TEXT_BYTES_MAX - 1));
        let entries = chained(&["[]", &large, "[]"]);
        let mut ring = Ring::default();
        ring.push(entries[2].clone());
        ring.prepend(entries[..2].to_vec(), (3, entries[2].entry.tag));
        assert_eq!(
            (ring.entries.len(), ring.bytes),
            (1, 2 * COPIES_MAX),
            "no room for the large one, hence none for what is before it"
        );
    }

    #[test]
    fn forgets_the_oldest_first_and_never_the_newest() {
        let large = format!("[{}]", " ".repeat(TEXT_BYTES_MAX));
        let entries = chained(&["[]", "[]", &large]);
        let mut ring = Ring::default();
        entries.iter().for_each(|entry| ring.push(entry.clone()));
        assert_eq!(seqs(ring.after(entries[1].entry.position(), 9)), Some(vec![3]));
        assert_eq!(seqs(ring.after(entries[0].entry.position(), 9)), None);
    }

    #[test]
    fn holds_as_much_as_fits_when_all_of_it_is_parsed_and_encoded() {
        let text = format!("[{}]", " ".repeat(1_022));
        let entries = chained(&[text.as_str(); 1_000]);
        let mut ring = Ring::default();
        entries.iter().for_each(|entry| ring.push(entry.clone()));
        assert_eq!(
            (ring.entries.len(), ring.bytes),
            (TEXT_BYTES_MAX / 1_024, TEXT_BYTES_MAX / 1_024 * 1_024 * COPIES_MAX)
        );
        assert!(ring.bytes <= BYTES_MAX);
    }
}
