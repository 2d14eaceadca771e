//! A run: entries that the head moves over in one go, so that screens are told of all of them in one batch.
//!
//! Nothing waits for a run to grow: it is what came together.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use tillwire_channels::Position;
use tillwire_socketio::SocketRef;
use tracing::error;

use super::State;
use super::signing_out::{obey, revocations};
use crate::gateway::packed::Packed;
use crate::journal::Entry;
use crate::journal::read::Head;

/// How many entries are told in one batch, and how many bytes of them as they are stored: small ones are much larger when
/// they are encoded. What a slow screen may have under way grows by a batch.
const ENTRIES_MAX: usize = 32;
const BYTES_MAX: usize = 8 * 1024;

/// Must be ended, or the last entries are told to nobody.
#[must_use]
pub(super) struct Run<'a> {
    pub state: &'a mut State,
    /// What the head has moved over and nobody was told yet.
    untold: Vec<Arc<Packed>>,
    bytes: usize,
    began: Instant,
    behind: Vec<SocketRef>,
}

impl<'a> Run<'a> {
    pub fn new(state: &'a mut State) -> Self {
        Self { state, untold: Vec::new(), bytes: 0, began: Instant::now(), behind: Vec::new() }
    }

    /// Moves the head to its next entry.
    pub fn move_head(&mut self, entry: Arc<Entry>) {
        let before = Position::of_entry(entry.seq - 1, entry.prev);
        self.state.head = Some(Head { seq: entry.seq, tag: entry.tag });
        let packed = match Packed::new(entry) {
            Ok(packed) => Arc::new(packed),
            Err(error) => {
                // Nothing can be told of it, and not telling would be a gap: screens stop before it, and find out there.
                error!("An entry cannot be read: {error:#}");
                self.tell();
                self.state.ring.clear();
                self.behind.extend(self.state.audience.stop_at(before));
                return;
            }
        };
        let revoked = revocations(&packed);
        if !revoked.is_empty() {
            // Whoever it signs out was told all that came before it.
            self.tell();
            obey(self.state, revoked);
        }
        self.bytes += packed.entry.text.len();
        self.untold.push(packed);
        if self.untold.len() >= ENTRIES_MAX || self.bytes >= BYTES_MAX {
            self.tell();
        }
    }

    /// Tells whoever hears of it.
    fn tell(&mut self) {
        let untold = mem::take(&mut self.untold);
        self.behind.extend(self.state.audience.tell(&untold, self.began));
        metrics::counter!("tillwire_gateway_entries_total").increment(untold.len() as u64);
        untold.into_iter().for_each(|packed| self.state.ring.push(packed));
        (self.bytes, self.began) = (0, Instant::now());
    }

    /// Tells what is untold. Answers the screens that fell behind.
    pub fn end(mut self) -> Vec<SocketRef> {
        if !self.untold.is_empty() {
            self.tell();
        }
        self.behind
    }
}
