//! Portions: what live screens are sent of a run of entries, made once for all who hear the same of it.
//!
//! INVARIANT: who hears what is asked for each screen and each event; only the bytes are shared.

use std::sync::Arc;

use tillwire_channels::{Position, View};
use tillwire_socketio::Encoded;

use super::PING_BYTES;
use super::audience::{Joined, hears};
use super::packed::Packed;

/// How many different portions of a run are kept at hand. Where every register hears its own, looking for one that is the
/// same would cost more than making it.
const KEPT_MAX: usize = 8;

pub struct Portions<'a> {
    /// Entries that follow one another.
    run: &'a [Arc<Packed>],
    /// The position before the first of them.
    before: Position,
    kept: Vec<Kept>,
    /// What the screen at hand hears. Its memory is for all of them.
    heard: Vec<Heard>,
}

/// Which entry of the run an event is of, and its number in it.
type Heard = (usize, u32);

struct Kept {
    view: View,
    heard: Vec<Heard>,
    portion: Portion,
}

/// What is sent of a run.
pub struct Portion {
    /// Entries are joined to packets that a ping may go between, but one that is larger than such a packet.
    pub batch: Vec<Encoded>,
    /// The number of the last entry that something of is in it.
    pub told: u64,
}

impl<'a> Portions<'a> {
    pub fn new(run: &'a [Arc<Packed>], before: Position) -> Self {
        Self { run, before, kept: Vec::new(), heard: Vec::new() }
    }

    /// What is heard on these channels; `None` if it is nothing.
    pub fn heard_on(&mut self, joined: &[Joined], view: View) -> Option<&Portion> {
        let Self { run, before, kept, heard } = self;
        heard.clear();
        for (at, packed) in run.iter().enumerate() {
            heard.extend(hears(packed, joined, view, *before).map(|(number, _)| (at, number)));
        }
        let told = run[heard.last()?.0].entry.seq;
        let same = kept.iter().position(|kept| kept.view == view && kept.heard == *heard);
        let place = same.unwrap_or_else(|| {
            if kept.len() == KEPT_MAX {
                kept.pop();
            }
            let portion = Portion { batch: batch(run, heard, view), told };
            kept.push(Kept { view, heard: heard.clone(), portion });
            kept.len() - 1
        });
        kept.get(place).map(|kept| &kept.portion)
    }
}

/// The packets of these events, joined as far as no ping has to go between them.
fn batch(run: &[Arc<Packed>], heard: &[Heard], view: View) -> Vec<Encoded> {
    let mut batch = Batch::default();
    for of_entry in heard.chunk_by(|(one, _), (other, _)| one == other) {
        batch.take(of_entry.iter().filter_map(|(at, number)| run[*at].packet(*number, view)).collect());
    }
    batch.join();
    batch.packets
}

#[derive(Default)]
struct Batch<'a> {
    packets: Vec<Encoded>,
    /// What will be joined to the next one: whole entries.
    open: Vec<&'a Encoded>,
    open_bytes: usize,
}

impl<'a> Batch<'a> {
    /// Takes what is heard of an entry.
    fn take(&mut self, entry: Vec<&'a Encoded>) {
        let bytes = entry.iter().map(|packet| packet.size()).sum::<usize>();
        if self.open_bytes + bytes > PING_BYTES {
            self.join();
        }
        if bytes > PING_BYTES {
            self.packets.extend(entry.into_iter().cloned());
            return;
        }
        self.open.extend(entry);
        self.open_bytes += bytes;
    }

    fn join(&mut self) {
        match self.open[..] {
            [] => {}
            [only] => self.packets.push(only.clone()),
            _ => self.packets.push(Encoded::joined(self.open.iter().copied())),
        }
        self.open.clear();
        self.open_bytes = 0;
    }
}
