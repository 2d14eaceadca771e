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
const PORTIONS_MAX: usize = 8;

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
    /// Whole entries, joined to packets that a ping may go between. One that is larger than such a packet is not joined.
    pub batch: Vec<Encoded>,
    /// How large that is.
    pub bytes: usize,
    /// The number of the last entry that something of is in it.
    pub told: u64,
}

impl<'a> Portions<'a> {
    pub fn new(run: &'a [Arc<Packed>], before: Position) -> Self {
        Self { run, before, kept: Vec::new(), heard: Vec::new() }
    }

    /// What whoever has joined these channels is sent; `None` if that is nothing.
    pub fn of(&mut self, joined: &[Joined], view: View) -> Option<&Portion> {
        let Self { run, before, kept, heard } = self;
        heard.clear();
        for (at, packed) in run.iter().enumerate() {
            heard.extend(hears(packed, joined, view, *before).map(|(number, _)| (at, number)));
        }
        let told = run[heard.last()?.0].entry.seq;
        let same = kept.iter().position(|kept| kept.view == view && kept.heard == *heard);
        let place = same.unwrap_or_else(|| {
            if kept.len() == PORTIONS_MAX {
                kept.pop();
            }
            let batch = Batch::of(run, heard, view);
            let bytes = batch.iter().map(Encoded::size).sum();
            kept.push(Kept { view, heard: heard.clone(), portion: Portion { batch, bytes, told } });
            kept.len() - 1
        });
        kept.get(place).map(|kept| &kept.portion)
    }
}

#[derive(Default)]
struct Batch<'a> {
    packets: Vec<Encoded>,
    /// What will be joined to the next one: whole entries.
    open: Vec<&'a Encoded>,
    open_bytes: usize,
}

impl<'a> Batch<'a> {
    /// The packets of these events, joined as far as no ping has to go between them.
    fn of(run: &'a [Arc<Packed>], heard: &[Heard], view: View) -> Vec<Encoded> {
        let mut batch = Self::default();
        for of_entry in heard.chunk_by(|(one, _), (other, _)| one == other) {
            batch.take(of_entry.iter().filter_map(|(at, number)| run[*at].packet(*number, view)).collect());
        }
        batch.join();
        batch.packets
    }

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
        self.packets.extend(Encoded::joined(&self.open));
        self.open.clear();
        self.open_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tillwire_channels::{Channel, OutletId};

    use super::*;
    use crate::gateway::ring::tests::chained;
    use crate::screens::joined;

    /// Entries with events on these channels, each with so many bytes of data.
    fn run(entries: &[(&[&str], usize)]) -> Vec<Arc<Packed>> {
        let text = |(channels, bytes): &(&[&str], usize)| {
            let event = |channel: &&str| {
                json!({
                    "type": "sale.completed", "channels": [channel], "view": "display",
                    "occurred_at": "2026-11-24T00:00:00Z", "data": { "padding": "x".repeat(*bytes) },
                })
            };
            serde_json::Value::from_iter(channels.iter().map(event)).to_string()
        };
        let texts: Vec<String> = entries.iter().map(text).collect();
        chained(&texts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn joined(channels: &[&str]) -> Vec<Joined> {
        channels.iter().map(|channel| joined::Joined::from(channel.parse::<Channel>().unwrap()).into()).collect()
    }

    fn before(run: &[Arc<Packed>]) -> Position {
        Position::of_entry(0, run[0].entry.prev)
    }

    #[test]
    fn those_who_hear_the_same_share_it_and_others_hear_their_own() {
        let run = run(&[(&["sales"], 9), (&["stock"], 9), (&["sales"], 9)]);
        let mut portions = Portions::new(&run, before(&run));
        let mut of = |channels: &[&str], view| {
            let portion = portions.of(&joined(channels), view)?;
            let [packet] = &portion.batch[..] else { panic!("one packet") };
            Some((packet.clone(), portion.told))
        };
        let (sales, told) = of(&["sales"], View::Display).unwrap();
        let single = |at: usize, view| run[at].packet(1, view).unwrap();
        assert_eq!((sales.size(), told), (single(0, View::Display).size() + single(2, View::Display).size(), 3));
        assert!(of(&["sales", "payments"], View::Display).unwrap().0.is(&sales), "other channels, and heard the same");
        let (stock, told) = of(&["stock"], View::Display).unwrap();
        assert!(stock.is(single(1, View::Display)) && told == 2, "one packet is joined with nothing");
        assert!(!of(&["sales"], View::Office).unwrap().0.is(&sales), "another view");
        assert!(of(&["payments"], View::Office).is_none());
    }

    #[test]
    fn more_different_portions_than_are_kept_are_made_anew() {
        let outlets: Vec<String> = (0..PORTIONS_MAX).map(|_| format!("sales/{}", OutletId::new())).collect();
        let all: Vec<&str> = outlets.iter().map(String::as_str).collect();
        // Each of another size, so that a sum says which they are.
        let entries: Vec<_> =
            all.iter().zip(0..).map(|(channel, at)| (std::slice::from_ref(channel), 1 << at)).collect();
        let run = run(&entries);
        let size = |at: usize| run[at].packet(1, View::Display).unwrap().size();
        let mut portions = Portions::new(&run, before(&run));
        for _ in 0..2 {
            for count in (1..=PORTIONS_MAX).chain([2, 1]) {
                for from in 0..=PORTIONS_MAX - count {
                    let heard = from..from + count;
                    let portion = portions.of(&joined(&all[heard.clone()]), View::Display).unwrap();
                    let [packet] = &portion.batch[..] else { panic!("one packet") };
                    let bytes = heard.clone().map(size).sum();
                    assert_eq!((packet.size(), portion.bytes, portion.told), (bytes, bytes, heard.end as u64));
                }
            }
        }
        assert_eq!(portions.kept.len(), PORTIONS_MAX);
    }

    #[test]
    fn a_ping_can_go_between_packets_and_never_into_an_entry_that_is_no_larger() {
        let half = PING_BYTES / 2;
        let run = run(&[(&["sales"], half), (&["sales", "sales"], 9), (&["sales"], half), (&["sales"; 3], half)]);
        let mut portions = Portions::new(&run, before(&run));
        let sizes = |packets: &[Encoded]| packets.iter().map(Encoded::size).collect::<Vec<_>>();
        let size = |at: usize, number| run[at].packet(number, View::Office).unwrap().size();
        let portion = portions.of(&joined(&["sales"]), View::Office).unwrap();
        let expected = [size(0, 1) + size(1, 1) + size(1, 2), size(2, 1), size(3, 1), size(3, 2), size(3, 3)];
        assert_eq!(sizes(&portion.batch), expected, "the last entry is too large, and a ping goes into it");
        assert_eq!(portion.told, 4);
    }
}
