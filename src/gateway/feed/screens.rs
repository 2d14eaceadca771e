//! Coming, going and changing what is heard.

use std::time::Instant;

use tillwire_channels::wire::{Denied, Joined};
use tillwire_channels::{Channel, Position};
use tillwire_socketio::{SocketId, SocketRef};

use super::signing_out::is_revoked;
use super::{Feed, State};
use crate::gateway::audience::{Cursor, Screen};
use crate::gateway::{join, tell};
use crate::identity::Staff;
use crate::journal::read::Head;

/// Why a screen was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The feed has just been put away: ask for it again.
    Closed,
    Revoked,
}

impl Feed {
    /// Lets a screen in and tells it `ready`: at the head, or behind if it comes with an earlier position.
    ///
    /// Answers whether it is behind.
    ///
    /// # Errors
    /// [`Refused`]. The screen was told nothing.
    pub fn enter(
        &self,
        socket: &SocketRef,
        staff: Staff,
        channels: Vec<Channel>,
        denied: Vec<Denied>,
        after: Option<Position>,
    ) -> Result<bool, Refused> {
        let mut state = self.lock();
        let Some(head) = state.head.filter(|_| !state.closed) else { return Err(Refused::Closed) };
        if is_revoked(&state.revoked, &staff) {
            return Err(Refused::Revoked);
        }
        let from = after.unwrap_or_else(|| head.position());
        let cursor = if from == head.position() { Cursor::Live } else { Cursor::Behind(from) };
        let mut greeting = vec![tell::ready(channels.clone(), denied, from)];
        if cursor == Cursor::Live {
            greeting.push(tell::caught_up(0, from));
        }
        if state.draining {
            greeting.push(tell::draining());
        }
        // If it has no room for that, it is closing.
        let _ = socket.try_send(&greeting);
        state.audience.insert(Screen::new(socket.clone(), staff, &channels, cursor, from.seq));
        state.idle_since = None;
        Ok(cursor != Cursor::Live)
    }

    pub fn leave(&self, id: SocketId) {
        let mut state = self.lock();
        state.audience.remove(id);
        if state.audience.is_empty() {
            state.idle_since.get_or_insert_with(Instant::now);
        }
    }

    /// Changes what a screen has joined; `None` if it is gone.
    pub fn rejoin(
        &self,
        id: SocketId,
        change: impl FnOnce(&Staff, &mut Vec<Channel>) -> Vec<Denied>,
    ) -> Option<Joined> {
        let mut state = self.lock();
        let screen = state.audience.get(id)?;
        let mut channels = screen.channels();
        let denied = change(&screen.staff, &mut channels);
        let position = place(&state, screen);
        if channels != screen.channels() {
            state.audience.rejoin(id, &channels);
        }
        Some(Joined { ok: denied.is_empty(), joined: channels, denied, position })
    }

    /// Gives a screen a fresh token. Channels that it no longer allows are left.
    ///
    /// # Errors
    /// A word for why not; `None` if the screen is gone.
    pub fn reauthorise(&self, id: SocketId, staff: Staff) -> Result<Joined, Option<&'static str>> {
        let mut state = self.lock();
        let screen = state.audience.get(id).ok_or(None)?;
        if (staff.merchant, staff.id) != (screen.staff.merchant, screen.staff.id) {
            return Err(Some("token_of_another"));
        }
        if is_revoked(&state.revoked, &staff) {
            return Err(Some("token_revoked"));
        }
        let asked: Vec<String> = screen.channels().iter().map(Channel::to_string).collect();
        let mut channels = Vec::new();
        let denied = join::admit(&staff, &mut channels, &asked);
        let position = place(&state, screen);
        if let Some(screen) = state.audience.get_mut(id) {
            (screen.staff, screen.warned) = (staff, false);
        }
        state.audience.rejoin(id, &channels);
        Ok(Joined { ok: denied.is_empty(), joined: channels, denied, position })
    }

    /// Lets a quiet screen advance: tells it the head, if that is further than what it was told last.
    pub fn tell_position(&self, id: SocketId) {
        let mut state = self.lock();
        let Some(head) = state.head else { return };
        let Some(screen) = state.audience.get_mut(id) else { return };
        if screen.cursor == Cursor::Live
            && head.seq > screen.told
            && screen.socket.try_send(&[tell::moved(head.position())]).is_ok()
        {
            screen.told = head.seq;
        }
    }

    /// Tells everyone that this node is going away, and from now on whoever still comes.
    pub fn tell_draining(&self) {
        let mut state = self.lock();
        state.draining = true;
        for screen in state.audience.iter_mut() {
            let _ = screen.socket.try_send(&[tell::draining()]);
        }
    }
}

/// Where a change of a screen's channels takes effect.
fn place(state: &State, screen: &Screen) -> Option<Position> {
    match screen.cursor {
        Cursor::Live => state.head.map(Head::position),
        Cursor::Behind(cursor) => Some(cursor),
    }
}
