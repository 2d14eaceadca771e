//! Serving a screen that is behind, up to the moment when it is live.

use std::sync::Arc;

use tillwire_channels::wire::{DeniedCode, SnapshotRequired};
use tillwire_channels::{Channel, Position};
use tillwire_socketio::SocketRef;

use super::{Feed, State};
use crate::gateway::audience::{Cursor, Given, Joined, Screen};
use crate::gateway::packed::Packed;
use crate::gateway::pieces::Piece;
use crate::gateway::{join, ring, tell};
use crate::identity::Staff;
use crate::screens::joined::Roll;

/// How many entries a screen that is behind is given at a time, at most.
const STEP_ENTRIES_MAX: usize = 256;

/// What a screen that is behind needs next.
pub enum Step {
    /// These follow its cursor.
    Serve(Serving),
    /// What follows its cursor is only in the journal.
    Read(Position),
    /// It joined something here, where the feed has not come to, or in another history.
    LookFor(Position),
    /// The state of this channel, as of its cursor or later.
    Want(Channel, Position),
    /// It is where the state that it waits for is true.
    Arrived,
    /// The state that it waits for is of another place, or not wanted any more.
    Stale,
    /// Its queue has no room for the word that it is live.
    Full,
    /// It is live, or gone.
    Done,
}

/// Entries that follow a screen's cursor, and how it hears them.
pub struct Serving {
    pub ground: Ground,
    pub entries: Vec<Arc<Packed>>,
    pub joined: Vec<Joined>,
    pub staff: Staff,
    /// Whether the screen was seen to be slow: it is given the newest of what is a value.
    pub is_slow: bool,
}

/// Where a screen stands and which of its changes are known: what is prepared for it holds as long as both do.
#[derive(Clone, Copy)]
pub struct Ground {
    pub after: Position,
    pub filter_version: u32,
}

impl Feed {
    /// What follows a screen's cursor, or the word that it is live: a screen changes to live here and nowhere else.
    ///
    /// `due` is the state that it waits for, and where that is true: it is brought there and not further.
    pub fn step(&self, socket: &SocketRef, replayed: u64, due: Option<(Channel, Position)>) -> Step {
        let mut state = self.lock();
        let Some(head) = state.head else { return Step::Done };
        let State { ring, audience, .. } = &mut *state;
        let Some(screen) = audience.get_mut(socket) else { return Step::Done };
        let Cursor::Behind(cursor) = screen.cursor else { return Step::Done };
        if let Some(place) = screen.looks_for {
            return Step::LookFor(place);
        }
        match due {
            Some((channel, at)) if screen.wants() != Some(channel) || at.seq < cursor.seq => return Step::Stale,
            Some((_, at)) if at == cursor => return Step::Arrived,
            // The same entry of another history.
            Some((_, at)) if at.seq == cursor.seq && cursor.event.is_none() => return Step::Stale,
            Some(_) => {}
            None => {
                if let Some(channel) = screen.wants() {
                    return Step::Want(channel, cursor);
                }
            }
        }
        if due.is_none() && cursor == head.position() {
            if screen.socket.try_send(&[tell::caught_up(replayed, cursor)]).is_err() {
                return if screen.socket.is_connected() { Step::Full } else { Step::Done };
            }
            (screen.cursor, screen.told) = (Cursor::Live, cursor.seq);
            return Step::Done;
        }
        let bound = due.map_or(u64::MAX, |(_, at)| at.seq);
        // The further a slow one is looked ahead for, the more is old that it need not be sent.
        let entries_max = if screen.is_slow { ring::ENTRIES_MAX } else { STEP_ENTRIES_MAX };
        match ring.after(cursor, entries_max) {
            Some(mut entries) => {
                entries.retain(|packed| packed.entry.seq <= bound);
                Step::Serve(serving(screen, cursor, entries))
            }
            None => Step::Read(cursor),
        }
    }

    /// The journal has the place that a screen looks for. From when the feed has come there, it is lost with our own head or
    /// not at all. False if it has not.
    pub fn found_place(&self, socket: &SocketRef, place: Position) -> bool {
        let mut state = self.lock();
        let has_come = state.head.is_some_and(|head| head.seq >= place.seq);
        if let Some(screen) = state.audience.get_mut(socket).filter(|_| has_come) {
            screen.looks_for = None;
        }
        has_come
    }

    /// The place that a screen looks for is of another history: so may be all that it joined further on than where it stands.
    pub fn lost_place(&self, socket: &SocketRef) {
        let mut state = self.lock();
        let Some(screen) = state.audience.get_mut(socket) else { return };
        screen.looks_for = None;
        if let Cursor::Behind(cursor) = screen.cursor {
            screen.doubt_after(cursor.seq);
        }
    }

    /// The state of a channel is about to be sent to a screen. False if it has moved, or does not want it any more.
    pub fn give(&self, socket: &SocketRef, channel: Channel, at: Position) -> bool {
        let mut state = self.lock();
        let Some(screen) = state.audience.get_mut(socket) else { return false };
        if screen.cursor != Cursor::Behind(at) || screen.wants() != Some(channel) {
            return false;
        }
        screen.was_sent(channel);
        screen.told = at.seq;
        true
    }

    /// A screen has joined a channel whose state it cannot be given: it is told so.
    pub fn deny_state(&self, socket: &SocketRef, channel: Channel) -> bool {
        let denied = join::deny(channel.to_string(), DeniedCode::TooLarge);
        let mut state = self.lock();
        let Some(screen) = state.audience.get_mut(socket) else { return true };
        if screen.socket.try_send(&[tell::snapshot_denied(&denied)]).is_err() {
            return !screen.socket.is_connected();
        }
        screen.was_sent(channel);
        true
    }

    /// The states that a screen was sent, or denied, and that it is not known to have received.
    pub fn given(&self, socket: &SocketRef) -> Vec<Given> {
        self.lock().audience.get(socket).map(Screen::given).unwrap_or_default()
    }

    /// These have arrived. Answers what is to be stored of the screen; `None` if it is gone.
    pub fn write_off(&self, socket: &SocketRef, given: &[Given]) -> Option<Roll> {
        let mut state = self.lock();
        let screen = state.audience.get_mut(socket)?;
        screen.has_got(given);
        Some(Roll { screen: socket.id().to_string(), epoch: screen.epoch, joined: screen.roll() })
    }

    /// Whether what follows a position could be in the ring, and is not: one read would then serve everybody who stands
    /// there.
    pub fn lacks(&self, position: Position) -> bool {
        let state = self.lock();
        let is_recent = state.head.is_some_and(|head| {
            head.seq > position.seq && head.seq - position.seq < u64::try_from(ring::ENTRIES_MAX).unwrap_or(u64::MAX)
        });
        is_recent && state.ring.after(position, 0).is_none()
    }

    /// Takes entries into the ring that were before it.
    pub fn recall(&self, entries: Vec<Arc<Packed>>) {
        let mut state = self.lock();
        let State { head, ring, .. } = &mut *state;
        if let Some(head) = head {
            ring.prepend(entries, (head.seq, head.tag));
        }
    }

    /// Makes entries from the journal servable to a screen; `None` if it is not where it was.
    pub fn serving(&self, socket: &SocketRef, after: Position, entries: Vec<Arc<Packed>>) -> Option<Serving> {
        let state = self.lock();
        let screen = state.audience.get(socket)?;
        (screen.cursor == Cursor::Behind(after)).then(|| serving(screen, after, entries))
    }

    /// Moves a screen's cursor over what is about to be sent. False if its channels have changed meanwhile: what was
    /// prepared must not be sent.
    pub fn advance(&self, socket: &SocketRef, ground: &mut Ground, piece: &Piece) -> bool {
        let mut state = self.lock();
        let Some(screen) = state.audience.get_mut(socket) else { return false };
        if screen.cursor != Cursor::Behind(ground.after) || screen.filter_version != ground.filter_version {
            return false;
        }
        screen.cursor = Cursor::Behind(piece.to);
        screen.told = piece.told.unwrap_or(screen.told);
        ground.after = piece.to;
        true
    }

    /// A screen was seen to be slow, or not to be any more.
    pub fn found(&self, socket: &SocketRef, is_slow: bool) {
        if let Some(screen) = self.lock().audience.get_mut(socket) {
            screen.is_slow = is_slow;
        }
    }

    /// A screen's position cannot be served: it is told so, and goes on from the head. False if it has no room for that.
    pub fn skip(&self, socket: &SocketRef, why: &SnapshotRequired) -> bool {
        let mut state = self.lock();
        let Some(head) = state.head else { return false };
        let Some(screen) = state.audience.get_mut(socket) else { return true };
        if screen.socket.try_send(&[tell::snapshot_required(why)]).is_err() {
            return !screen.socket.is_connected();
        }
        screen.cursor = Cursor::Behind(head.position());
        screen.pass_over(head.seq);
        screen.doubt_after(head.seq);
        true
    }
}

fn serving(screen: &Screen, after: Position, entries: Vec<Arc<Packed>>) -> Serving {
    Serving {
        ground: Ground { after, filter_version: screen.filter_version },
        entries,
        joined: screen.joined().to_vec(),
        staff: screen.staff.clone(),
        is_slow: screen.is_slow,
    }
}
