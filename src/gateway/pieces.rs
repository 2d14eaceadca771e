//! Pieces: what a screen that is behind is sent next of the entries that follow its cursor.
//!
//! To a screen that keeps up, a piece is an entry. One that is slow is given more entries at a time, and of the events that
//! bring the same value the newest alone, in its own place: where a client stands by its last position, everything older is
//! known or made old by what follows. INVARIANT: an event is left out only if a later one of its value is in the same piece,
//! and a piece is taken back by nothing but the end of its connection.

use std::collections::HashMap;
use std::sync::Arc;

use tillwire_channels::{Position, View};
use tillwire_socketio::Encoded;

use super::audience::{heard, hears};
use super::feed::{Ground, Serving};
use super::packed::Packed;

/// How large a piece for a slow screen becomes, in bytes of what is sent: it is under way for that long, and made no newer.
const PIECE_BYTES_MAX: usize = 32 * 1024;
/// About what an envelope adds to its event's data, in bytes.
const ENVELOPE_BYTES: usize = 320;

/// What the cursor is moved over at once.
#[derive(Debug)]
pub struct Piece {
    /// To where.
    pub to: Position,
    /// The number of the last entry that something of is sent.
    pub told: Option<u64>,
    /// The packets, those of an entry together.
    pub batches: Vec<Vec<Encoded>>,
    /// How many events were left out.
    pub merged: u64,
}

impl Serving {
    /// The pieces, and the ground on which they hold. Entries are let go of: a screen may take minutes over its pieces, and
    /// thousands may do so at once. Of a slow one's only the first is made, for by the next there will be something newer.
    pub fn into_pieces(self) -> (Ground, Vec<Piece>) {
        let pieces = if self.is_slow { vec![self.newest()] } else { self.exact() };
        (self.ground, pieces)
    }

    fn exact(&self) -> Vec<Piece> {
        let mut after = self.ground.after;
        let mut pieces: Vec<Piece> = Vec::new();
        for packed in &self.entries {
            let batch: Vec<_> = heard(packed, &self.joined, &self.staff, after).collect();
            after = packed.entry.position();
            match pieces.last_mut() {
                // What is not heard is passed over together with what was.
                Some(last) if batch.is_empty() => last.to = after,
                _ => {
                    let told = (!batch.is_empty()).then_some(packed.entry.seq);
                    let batches = if batch.is_empty() { Vec::new() } else { vec![batch] };
                    pieces.push(Piece { to: after, told, batches, merged: 0 });
                }
            }
        }
        pieces
    }

    fn newest(&self) -> Piece {
        let mut newest = Newest::default();
        let (view, mut after) = (self.staff.role.view(), self.ground.after);
        for packed in &self.entries {
            for (number, event) in hears(packed, &self.joined, view, after) {
                newest.take(packed, number, event.data.get().len() + ENVELOPE_BYTES);
            }
            after = packed.entry.position();
            if newest.bytes >= PIECE_BYTES_MAX {
                break;
            }
        }
        newest.piece(after, view)
    }
}

/// What is to be sent, as far as it is known.
#[derive(Default)]
struct Newest<'a> {
    /// In their order; those that were made old are gone.
    events: Vec<Option<Kept<'a>>>,
    /// Where the newest event of each value is.
    by_value: HashMap<&'a str, usize>,
    bytes: usize,
    merged: u64,
}

struct Kept<'a> {
    packed: &'a Arc<Packed>,
    number: u32,
    bytes: usize,
    /// How many earlier events it stands for.
    merged: u32,
}

impl<'a> Newest<'a> {
    fn take(&mut self, packed: &'a Arc<Packed>, number: u32, bytes: usize) {
        let place = self.events.len();
        let older = packed.value(number).and_then(|value| self.by_value.insert(value, place));
        let mut merged = 0;
        if let Some(older) = older.and_then(|older| self.events[older].take()) {
            merged = older.merged + 1;
            self.bytes -= older.bytes;
            self.merged += 1;
        }
        self.bytes += bytes;
        self.events.push(Some(Kept { packed, number, bytes, merged }));
    }

    fn piece(self, to: Position, view: View) -> Piece {
        let mut batches: Vec<Vec<Encoded>> = Vec::new();
        let mut told = None;
        for Kept { packed, number, merged, .. } in self.events.into_iter().flatten() {
            let packet = match merged {
                0 => packed.packet(number, view).cloned(),
                merged => packed.merged_packet(number, view, merged),
            };
            let Some(packet) = packet else { continue };
            match batches.last_mut() {
                Some(batch) if told == Some(packed.entry.seq) => batch.push(packet),
                _ => batches.push(vec![packet]),
            }
            told = Some(packed.entry.seq);
        }
        Piece { to, told, batches, merged: self.merged }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};
    use tillwire_channels::{MerchantId, Moment, OutletId, Role, StaffId, Tag};

    use super::*;
    use crate::gateway::audience::Joined;
    use crate::identity::Staff;
    use crate::journal::Entry;
    use crate::screens::joined;

    fn someone(role: Role) -> Staff {
        let (merchant, id, token) = (MerchantId::new(), StaffId::new(), uuid::Uuid::new_v4());
        let (issued_at, expires_at) = (Moment::UNIX_EPOCH, Moment::UNIX_EPOCH);
        Staff { merchant, id, token, role, outlets: Vec::new(), register: None, issued_at, expires_at, trace: None }
    }

    fn joined(channels: &[&str], since: u64) -> Vec<Joined> {
        let joined = channels.iter().map(|channel| joined::Joined {
            since,
            ..joined::Joined::from(channel.parse::<tillwire_channels::Channel>().unwrap())
        });
        joined.map(Joined::from).collect()
    }

    /// An event: kind, channel, outlet and data.
    type Happened = (&'static str, String, Option<OutletId>, Value);

    /// A journal of these events, each entry a list of them.
    fn journal(entries: &[Vec<Happened>]) -> Vec<Arc<Packed>> {
        let mut prev = Tag::GENESIS;
        let packed = (1..).zip(entries).map(|(seq, events)| {
            let event = |(kind, channel, outlet, data): &Happened| {
                json!({
                    "type": kind, "channels": [channel], "view": "display", "outlet": outlet,
                    "occurred_at": "2026-11-29T00:00:00Z", "data": data,
                })
            };
            let text = Value::Array(events.iter().map(event).collect()).to_string();
            let tag = Tag(u64::to_be_bytes(seq));
            let entry = Entry::new(MerchantId::new(), seq, prev, tag, Moment::UNIX_EPOCH, text.into());
            prev = tag;
            Arc::new(Packed::new(Arc::new(entry)).unwrap())
        });
        packed.collect()
    }

    fn level(outlet: OutletId, variant: u32, on_hand: u32) -> Happened {
        let data = json!({ "variant": variant.to_string(), "on_hand": on_hand });
        ("stock.changed", format!("stock/{outlet}"), Some(outlet), data)
    }

    fn sale(outlet: OutletId) -> Happened {
        ("sale.completed", format!("sales/{outlet}"), Some(outlet), json!({ "total_minor": 1 }))
    }

    fn serving(after: Position, entries: &[Arc<Packed>], joined: Vec<Joined>, is_slow: bool) -> Serving {
        let ground = Ground { after, filter_version: 0 };
        Serving { ground, entries: entries.to_vec(), joined, staff: someone(Role::Owner), is_slow }
    }

    /// What packets say: their positions, and how many events each stands for.
    fn told(pieces: &[Piece]) -> Vec<(Position, u64)> {
        let packets = pieces.iter().flat_map(|piece| piece.batches.iter().flatten());
        let told = packets.map(|packet| {
            let packet: Value = serde_json::from_str(packet.text().trim_start_matches(char::is_numeric)).unwrap();
            (packet[2].as_str().unwrap().parse().unwrap(), packet[1]["merged"].as_u64().unwrap_or_default())
        });
        told.collect()
    }

    #[test]
    fn whoever_keeps_up_is_given_everything_an_entry_at_a_time() {
        let outlet = OutletId::new();
        let entries = journal(&[
            vec![sale(outlet), level(outlet, 1, 9)],
            vec![level(outlet, 1, 8)],
            vec![("product.changed", "catalog".to_owned(), None, json!({ "product": "1" }))],
            vec![level(outlet, 1, 7)],
        ]);
        let within = Position::of_event(1, 1, entries[0].entry.tag);
        let (_, pieces) = serving(within, &entries, joined(&["sales", "stock"], 0), false).into_pieces();
        let places = |piece: &Piece| (piece.to, piece.told, piece.batches.iter().map(Vec::len).collect::<Vec<_>>());
        let at = |seq: usize| entries[seq - 1].entry.position();
        let expected = [(at(1), Some(1), vec![1]), (at(3), Some(2), vec![1]), (at(4), Some(4), vec![1])];
        assert_eq!(pieces.iter().map(places).collect::<Vec<_>>(), expected);
        assert!(told(&pieces).iter().all(|(_, merged)| *merged == 0));
        // Nothing of it is heard: the cursor moves all the same.
        let (_, pieces) = serving(Position::START, &entries, joined(&["outlets"], 0), false).into_pieces();
        assert_eq!(pieces.iter().map(places).collect::<Vec<_>>(), [(at(4), None, vec![])]);
    }

    #[test]
    fn a_slow_screen_is_given_the_newest_of_each_value_that_it_hears() {
        let (here, there) = (OutletId::new(), OutletId::new());
        let entries = journal(&[
            vec![level(here, 1, 9), level(here, 2, 9), level(there, 1, 9)],
            vec![sale(here), level(here, 1, 8), level(here, 1, 7)],
            vec![level(there, 1, 8)],
            vec![level(here, 1, 6), ("stock.counted", format!("stock/{here}"), Some(here), json!({ "variant": "1" }))],
            vec![("stock.counted", format!("stock/{here}"), Some(here), json!({ "variant": "1" }))],
        ]);
        let at = |seq: u64, number| Position::of_event(seq, number, entries[seq as usize - 1].entry.tag);
        let all = vec![(at(1, 2), 0), (at(2, 1), 0), (at(3, 1), 1), (at(4, 1), 3), (at(4, 2), 0), (at(5, 1), 0)];
        let (_, pieces) = serving(Position::START, &entries, joined(&["sales", "stock"], 0), true).into_pieces();
        assert_eq!((told(&pieces), pieces.len(), pieces[0].merged), (all, 1, 4));
        assert_eq!((pieces[0].to, pieces[0].told), (entries[4].entry.position(), Some(5)));
        let sizes: Vec<usize> = pieces[0].batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1, 2, 1], "an entry's together");

        // Of what happens elsewhere, before it joined or before its place it hears nothing, and nothing stands for that.
        let narrow = joined(&[&format!("stock/{here}")], 1);
        let (_, pieces) = serving(at(2, 2), &entries[1..4], narrow, true).into_pieces();
        assert_eq!(told(&pieces), [(at(4, 1), 1), (at(4, 2), 0)]);
    }

    #[test]
    fn a_piece_for_a_slow_screen_is_bounded_by_what_is_sent() {
        let outlet = OutletId::new();
        let same: Vec<_> = (0..2_000).map(|n| vec![level(outlet, 1, n)]).collect();
        let (_, pieces) = serving(Position::START, &journal(&same), joined(&["stock"], 0), true).into_pieces();
        assert_eq!((told(&pieces).len(), told(&pieces)[0].1), (1, 1_999), "however far it looks");
        let other: Vec<_> = (0..2_000).map(|n| vec![level(outlet, n, n)]).collect();
        let (_, pieces) = serving(Position::START, &journal(&other), joined(&["stock"], 0), true).into_pieces();
        let bytes: usize = pieces[0].batches.iter().flatten().map(Encoded::size).sum();
        assert!((PIECE_BYTES_MAX / 2..2 * PIECE_BYTES_MAX).contains(&bytes), "{bytes}");
        assert!(pieces[0].to.seq < 2_000);
    }

    /// Wherever a slow screen is cut: what it knows and what follows is the newest of everything, and all that is no value.
    #[test]
    fn wherever_it_is_cut_nothing_newest_is_lost() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let outlets = [OutletId::new(), OutletId::new()];
            let mut count = 0;
            let mut any = || {
                let outlet = outlets[random.usize(..2)];
                count += 1;
                if random.bool() { level(outlet, random.u32(..4), count) } else { sale(outlet) }
            };
            let sizes = (seed % 30 + 1) as usize;
            let entries: Vec<_> = (0..sizes).map(|n| (0..=n % 4).map(|_| any()).collect()).collect();
            let entries = journal(&entries);
            let channels = joined(&["sales", &format!("stock/{}", outlets[0])], seed % 3);
            let exact = told(&serving(Position::START, &entries, channels.clone(), false).into_pieces().1);
            let pieces = serving(Position::START, &entries, channels, true).into_pieces().1;
            let sent = told(&pieces);
            let value = |place: &Position| {
                let number = place.event.unwrap();
                entries[place.seq as usize - 1].value(number).map(str::to_owned)
            };
            assert!(exact.iter().filter(|(place, _)| value(place).is_none()).all(|one| sent.contains(one)), "{seed}");
            assert!(sent.is_sorted_by_key(|(place, _)| (place.seq, place.event)), "{seed}");
            let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
            for (place, _) in &exact {
                let Some(value) = value(place) else { continue };
                match sent.iter().find(|(sent, _)| sent == place) {
                    Some((_, merged)) => assert_eq!(waiting.remove(&value).unwrap_or_default(), *merged, "{seed}"),
                    None => *waiting.entry(value).or_default() += 1,
                }
            }
            // Nothing waits for a later one that never comes: so it holds after every cut, for what follows is exact then.
            assert!(waiting.is_empty(), "{seed}: {waiting:?}");
            assert_eq!(
                pieces.iter().map(|piece| piece.merged).sum::<u64>() as usize,
                exact.len() - sent.len(),
                "{seed}"
            );
        }
    }
}
