//! Coming, going and changing what is heard.

use std::time::Instant;

use tillwire_channels::wire::{self, Denied};
use tillwire_channels::{Channel, Position, Topic};
use tillwire_socketio::{CloseReason, SocketRef};

use super::signing_out::is_revoked;
use super::{Feed, State};
use crate::gateway::admission::Admission;
use crate::gateway::audience::{Cursor, Screen};
use crate::gateway::join::Change;
use crate::gateway::tell;
use crate::identity::Staff;
use crate::journal::read::Head;
use crate::screens::joined::Joined;

/// Why a screen was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The feed has just been put away: ask for it again.
    Closed,
    Revoked,
}

/// A change of what a screen has joined, worked out but not carried out.
pub struct Plan {
    pub change: Change,
    pub denied: Vec<Denied>,
    /// What is joined then, as it is stored.
    pub joined: Vec<Joined>,
    /// That of the screen's connection.
    pub epoch: i64,
}

impl Feed {
    /// Lets a screen in and tells it `ready`: at the head, or behind if it comes with an earlier position.
    ///
    /// Answers whether it is behind.
    ///
    /// # Errors
    /// [`Refused`]. The screen was told nothing.
    pub fn enter(&self, socket: &SocketRef, admission: &Admission) -> Result<bool, Refused> {
        let Admission { staff, joined, denied, after, epoch, began_at, .. } = admission;
        let mut state = self.lock();
        let Some(head) = state.head.filter(|_| !state.closed) else { return Err(Refused::Closed) };
        if is_revoked(&state.revoked, staff) {
            return Err(Refused::Revoked);
        }
        let from = after.unwrap_or_else(|| head.position());
        // What is wanted is brought by the task that brings on those who are behind.
        let wants_state = joined.iter().any(|joined| joined.wants_state);
        // Where it joined something that this feed has not come to.
        let further_on = joined.iter().filter(|joined| joined.since > head.seq);
        let looks_for = further_on.filter_map(|joined| joined.place).max_by_key(|place| place.seq);
        let is_live = from == head.position() && !wants_state && looks_for.is_none();
        let cursor = if is_live { Cursor::Live } else { Cursor::Behind(from) };
        let mut greeting = vec![tell::ready(channels(joined), denied.clone(), socket.recovered(), from)];
        if cursor == Cursor::Live {
            greeting.push(tell::caught_up(0, from));
        }
        if state.draining {
            greeting.push(tell::draining());
        }
        // If it has no room for that, it is closing.
        let _ = socket.try_send(&greeting);
        let since = last_before(began_at.unwrap_or(from));
        let mut screen = Screen::new(socket.clone(), staff.clone(), *epoch, joined, cursor, from.seq, since);
        screen.looks_for = looks_for;
        state.audience.insert(screen);
        state.idle_since = None;
        Ok(cursor != Cursor::Live)
    }

    /// Closes an earlier connection of a screen that has come back elsewhere.
    pub fn give_up(&self, socket: &SocketRef, epoch: i64) {
        if self.lock().audience.get(socket).is_some_and(|screen| screen.epoch < epoch) {
            socket.close(CloseReason::Replaced);
        }
    }

    pub fn leave(&self, socket: &SocketRef) {
        let mut state = self.lock();
        state.audience.remove(socket);
        if state.audience.is_empty() {
            state.idle_since.get_or_insert_with(Instant::now);
        }
    }

    /// What a screen would have joined after a change, which is given the place where that takes effect. Nothing has
    /// changed yet. `None` if the screen is gone.
    pub fn plan(
        &self,
        socket: &SocketRef,
        change: impl FnOnce(&Staff, &mut Vec<Joined>, Position) -> Vec<Denied>,
    ) -> Option<Plan> {
        let state = self.lock();
        let screen = state.audience.get(socket)?;
        let before = screen.due();
        let mut after = before.clone();
        let denied = change(&screen.staff, &mut after, place(&state, screen)?);
        let change = Change::between(&before, &after);
        Some(Plan { joined: change.of(screen.roll()), change, denied, epoch: screen.epoch })
    }

    /// Carries a plan out; `None` if the screen is gone. Answers also whether it is behind now, for it waits for a state:
    /// what it is told stops at the place where that joins it.
    ///
    /// INVARIANT: only who asks for a state falls behind. A state that was given since the plan was made stays given.
    pub fn rejoin(&self, socket: &SocketRef, mut plan: Plan) -> Option<(wire::Joined, bool)> {
        let mut state = self.lock();
        let position = place(&state, state.audience.get(socket)?);
        if let Some(position) = position {
            // What was further on when it was planned was so in another history.
            plan.change.joined.iter_mut().filter(|joined| joined.since > position.seq).for_each(Joined::doubt);
        }
        if !plan.change.is_empty() {
            state.audience.rejoin(socket, &plan.change);
        }
        let screen = state.audience.get_mut(socket)?;
        let falls_behind = screen.wants().is_some() && screen.cursor == Cursor::Live;
        if let Some(position) = position.filter(|_| falls_behind) {
            screen.cursor = Cursor::Behind(position);
        }
        let joined =
            wire::Joined { ok: plan.denied.is_empty(), joined: channels(&plan.joined), denied: plan.denied, position };
        Some((joined, falls_behind))
    }

    /// A screen's bearer, and what it has joined of a topic: each channel, and the last entry that it was not told there.
    /// `None` if the screen is gone.
    pub fn listens(&self, socket: &SocketRef, topic: Topic) -> Option<(Staff, Vec<(Channel, u64)>)> {
        let state = self.lock();
        let screen = state.audience.get(socket)?;
        let joined = screen.joined().iter().map(|joined| joined.is).filter(|joined| joined.channel.topic == topic);
        let told = joined.map(|joined| (joined.channel, joined.since.max(joined.skipped).max(screen.since)));
        Some((screen.staff.clone(), told.collect()))
    }

    /// Whether a screen may go on with this token.
    ///
    /// # Errors
    /// A word for why not; `None` if the screen is gone.
    pub fn may_renew(&self, socket: &SocketRef, staff: &Staff) -> Result<(), Option<&'static str>> {
        may_renew(&self.lock(), socket, staff)
    }

    /// Gives a screen a fresh token.
    ///
    /// # Errors
    /// As [`Feed::may_renew`].
    pub fn renew(&self, socket: &SocketRef, staff: Staff) -> Result<(), Option<&'static str>> {
        let mut state = self.lock();
        may_renew(&state, socket, &staff)?;
        let screen = state.audience.get_mut(socket).ok_or(None)?;
        (screen.staff, screen.warned) = (staff, false);
        screen.filter_version += 1;
        Ok(())
    }

    /// Lets a quiet screen advance: tells it the head, if that is further than what it was told last.
    pub fn tell_position(&self, socket: &SocketRef) {
        let mut state = self.lock();
        let Some(head) = state.head else { return };
        let Some(screen) = state.audience.get_mut(socket) else { return };
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

fn may_renew(state: &State, socket: &SocketRef, staff: &Staff) -> Result<(), Option<&'static str>> {
    let screen = state.audience.get(socket).ok_or(None)?;
    if (staff.merchant, staff.id) != (screen.staff.merchant, screen.staff.id) {
        return Err(Some("token_of_another"));
    }
    if is_revoked(&state.revoked, staff) {
        return Err(Some("token_revoked"));
    }
    Ok(())
}

/// Where a change of a screen's channels takes effect.
fn place(state: &State, screen: &Screen) -> Option<Position> {
    match screen.cursor {
        Cursor::Live => state.head.map(Head::position),
        Cursor::Behind(cursor) => Some(cursor),
    }
}

/// The last entry that is over at a position: inside an entry its rest is still to come.
fn last_before(position: Position) -> u64 {
    if position.event.is_some() { position.seq.saturating_sub(1) } else { position.seq }
}

fn channels(joined: &[Joined]) -> Vec<Channel> {
    joined.iter().map(|joined| joined.channel).collect()
}
