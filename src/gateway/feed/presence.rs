//! Telling who is present: not a part of the journal, and said only to screens that are live, between two entries.

use std::collections::HashSet;

use tillwire_channels::{Channel, Topic};
use tillwire_socketio::{Encoded, SocketRef};

use super::Feed;
use crate::gateway::audience::{Cursor, UNCONFIRMED_BYTES_SLOW};

/// Who has been told what is there to be told on a channel.
#[derive(Default)]
pub struct Told(HashSet<SocketRef>);

impl Told {
    /// This one is to be told again.
    pub fn forget(&mut self, socket: &SocketRef) {
        self.0.remove(socket);
    }
}

impl Feed {
    /// The channels of presence that somebody listens to.
    pub fn presence_channels(&self) -> Vec<Channel> {
        self.lock().audience.channels_of(Topic::Presence)
    }

    /// Tells whoever listens to a channel and has not been told. One that is behind, or reads slowly, is told when it has
    /// caught up: what is said then is newer. Answers how many were told.
    pub fn tell_presence(&self, channel: Channel, packet: &Encoded, told: &mut Told) -> usize {
        let (state, before) = (self.lock(), told.0.len());
        for socket in state.audience.listeners(channel) {
            let is_live = state.audience.get(socket).is_some_and(|screen| screen.cursor == Cursor::Live);
            if is_live
                && !told.0.contains(socket)
                && socket.try_send_within(std::slice::from_ref(packet), UNCONFIRMED_BYTES_SLOW).is_ok()
            {
                told.0.insert(socket.clone());
            }
        }
        let more = told.0.len() - before;
        // Whoever has left is not held on to.
        told.0.retain(|socket| {
            let screen = state.audience.get(socket);
            screen.is_some_and(|screen| screen.joined().iter().any(|joined| joined.is.channel == channel))
        });
        more
    }
}
