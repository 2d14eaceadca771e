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

/// How many entries are told in one batch, and how many bytes of them as they are stored. Small ones are much larger when they
/// are encoded, and a batch counts against what a screen may have under way.
pub const ENTRIES_MAX: usize = 32;
const BYTES_MAX: usize = 8 * 1024;

/// Must be [ended](Run::end), or the last entries are told to nobody.
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

    /// Tells what nobody was told yet.
    fn tell(&mut self) {
        let untold = mem::take(&mut self.untold);
        self.behind.extend(self.state.audience.tell(&untold, self.began));
        metrics::counter!("tillwire_gateway_entries_total").increment(untold.len() as u64);
        untold.into_iter().for_each(|packed| self.state.ring.push(packed));
        (self.bytes, self.began) = (0, Instant::now());
    }

    /// Tells what is untold. Answers the screens that fell behind.
    pub fn end(mut self) -> Vec<SocketRef> {
        self.tell();
        mem::take(&mut self.behind)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        debug_assert!(self.untold.is_empty() || std::thread::panicking(), "a run was not ended");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use serde_json::{Value, json};
    use tillwire_channels::{Channel, MerchantId, Role, StaffId, Tag};
    use tillwire_socketio::loose::Loose;
    use tillwire_socketio::{Config, Encoded};

    use super::*;
    use crate::gateway::admission::Admission;
    use crate::gateway::audience::{UNCONFIRMED_BYTES_MAX, UNCONFIRMED_BYTES_SLOW};
    use crate::gateway::feed::Feed;
    use crate::gateway::packed::tests::someone;
    use crate::gateway::ring::tests::chained;

    fn feed() -> Feed {
        let feed = Feed::new(MerchantId::new());
        feed.begin_at(Head { seq: 0, tag: Tag::GENESIS }, HashMap::new());
        feed
    }

    /// Somebody who has joined the sales, and the other end of their screen.
    fn enter(feed: &Feed) -> (StaffId, SocketRef, Loose) {
        let staff = someone(Role::Owner);
        let id = staff.id;
        let admission = Admission {
            staff,
            joined: vec!["sales".parse::<Channel>().unwrap().into()],
            denied: Vec::new(),
            after: None,
            epoch: 0,
            began_at: None,
            age: Duration::ZERO,
        };
        let (socket, far) = Loose::new(Config::default());
        assert!(!feed.enter(&socket, &admission).unwrap());
        (id, socket, far)
    }

    /// Entries of one event each, of this type, on this channel, with this data.
    fn entries(of: impl IntoIterator<Item = (&'static str, &'static str, Value)>) -> Vec<Arc<Entry>> {
        let text = |(kind, channel, data): (&str, &str, Value)| {
            let event = json!({
                "type": kind, "channels": [channel], "view": "display",
                "occurred_at": "2026-11-24T00:00:00Z", "data": data,
            });
            json!([event]).to_string()
        };
        let texts: Vec<String> = of.into_iter().map(text).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        chained(&texts).iter().map(|packed| packed.entry.clone()).collect()
    }

    fn sale() -> (&'static str, &'static str, Value) {
        ("sale.completed", "sales", json!({}))
    }

    fn told(far: &Loose) -> Vec<String> {
        let events = far.take().into_iter().filter_map(|packet| Some(packet.text().strip_prefix("42")?.to_owned()));
        let events = events.map(|json| serde_json::from_str::<Value>(&json).unwrap());
        events.map(|event| format!("{} {}", event[0].as_str().unwrap(), event[1]["seq"])).collect()
    }

    #[test]
    fn whoever_is_revoked_in_the_middle_was_told_what_came_before_and_nothing_after() {
        let feed = feed();
        let ((revoked, _socket, their_end), (_, _other_socket, other_end)) = (enter(&feed), enter(&feed));
        let access = json!({ "staff": revoked, "issued_until": "2026-11-24T00:00:00Z" });
        let run = entries([sale(), sale(), ("access.revoked", "access", access), sale()]);
        assert!(feed.offer(run).is_empty());
        let before = ["ready null", "caught_up null", "sale.completed 1", "sale.completed 2"];
        assert_eq!(told(&their_end), [&before[..], &["signed_out null"]].concat());
        assert_eq!(told(&other_end), [&before[..], &["sale.completed 4"]].concat());
    }

    #[test]
    fn many_small_entries_at_once_are_no_way_past_what_a_screen_may_have_under_way() {
        for (is_slow, bytes_max) in [(false, UNCONFIRMED_BYTES_MAX), (true, UNCONFIRMED_BYTES_SLOW)] {
            let feed = feed();
            let (_, socket, far) = enter(&feed);
            feed.found(&socket, is_slow);
            let entries = entries((0..40 * ENTRIES_MAX).map(|_| sale()));
            let mut runs = entries.chunks(ENTRIES_MAX).map(|run| feed.offer(run.iter().cloned()));
            assert!(runs.any(|behind| behind == [socket.clone()]), "nothing was confirmed");
            let bytes: usize = far.take().iter().map(Encoded::size).sum();
            assert!(bytes <= bytes_max && bytes > bytes_max / 2, "{bytes} of {bytes_max}");
        }
    }
}
