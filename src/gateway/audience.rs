//! A feed's screens, and who of them listens to what.

use std::collections::HashMap;

use tillwire_channels::topic::hears;
use tillwire_channels::{Channel, Position};
use tillwire_socketio::{Encoded, SendError, SocketId, SocketRef};

use super::packed::Packed;
use crate::identity::Staff;

/// How many bytes may wait for a live screen. One that reads more slowly is behind, and is served bit by bit: its
/// heartbeat would else wait behind all of them.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

/// One client's connection: a cursor over its merchant's journal, through a filter of channels.
pub struct Screen {
    pub socket: SocketRef,
    pub staff: Staff,
    channels: Vec<Joined>,
    pub cursor: Cursor,
    /// The number of the last entry that the client was told a position of.
    pub told: u64,
    /// Counts the changes of `channels` and `staff`: a batch prepared before one of them is not sent.
    pub filter_version: u32,
    /// Whether the client was told that its token is about to expire.
    pub warned: bool,
}

/// A channel with its text, which events are matched against.
#[derive(Clone)]
pub struct Joined {
    pub channel: Channel,
    text: Box<str>,
}

impl From<Channel> for Joined {
    fn from(channel: Channel) -> Self {
        Self { channel, text: channel.to_string().into() }
    }
}

/// How far a screen has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// To the feed's head, by definition.
    Live,
    /// To here; a task of its own brings it on.
    Behind(Position),
}

impl Screen {
    pub fn new(socket: SocketRef, staff: Staff, channels: &[Channel], cursor: Cursor, told: u64) -> Self {
        let channels = channels.iter().copied().map(Joined::from).collect();
        Self { socket, staff, channels, cursor, told, filter_version: 0, warned: false }
    }

    /// What is joined.
    pub fn joined(&self) -> &[Joined] {
        &self.channels
    }

    /// What is joined, by name.
    pub fn channels(&self) -> Vec<Channel> {
        self.channels.iter().map(|joined| joined.channel).collect()
    }
}

/// The events of an entry that follow `after` and are heard on `joined`, as `staff` may see them.
pub fn heard(packed: &Packed, joined: &[Joined], staff: &Staff, after: Position) -> Vec<Encoded> {
    let view = staff.role.view();
    packed
        .events()
        .filter(|(number, _)| after.is_before(packed.entry.seq, *number))
        .filter(|(_, event)| event.heard_on(joined.iter().map(|joined| &*joined.text), view))
        .filter_map(|(number, _)| packed.packet(number, view).cloned())
        .collect()
}

/// The screens of a feed.
#[derive(Default)]
pub struct Audience {
    screens: HashMap<SocketId, Screen>,
    /// Who joined each channel, so that an entry wakes only those who listen.
    listeners: HashMap<Box<str>, Vec<SocketId>>,
}

impl Audience {
    pub fn is_empty(&self) -> bool {
        self.screens.is_empty()
    }

    pub fn len(&self) -> usize {
        self.screens.len()
    }

    pub fn get(&self, id: SocketId) -> Option<&Screen> {
        self.screens.get(&id)
    }

    pub fn get_mut(&mut self, id: SocketId) -> Option<&mut Screen> {
        self.screens.get_mut(&id)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Screen> {
        self.screens.values_mut()
    }

    pub fn insert(&mut self, screen: Screen) {
        let id = screen.socket.id();
        self.remove(id);
        for joined in &screen.channels {
            self.listeners.entry(joined.text.clone()).or_default().push(id);
        }
        self.screens.insert(id, screen);
    }

    pub fn remove(&mut self, id: SocketId) {
        if let Some(screen) = self.screens.remove(&id) {
            self.unlist(id, &screen.channels);
        }
    }

    /// Replaces what a screen has joined.
    pub fn rejoin(&mut self, id: SocketId, channels: &[Channel]) {
        let Some(screen) = self.screens.get_mut(&id) else { return };
        screen.filter_version += 1;
        let new: Vec<Joined> = channels.iter().copied().map(Joined::from).collect();
        let old = std::mem::replace(&mut screen.channels, new.clone());
        self.unlist(id, &old);
        for joined in new {
            self.listeners.entry(joined.text).or_default().push(id);
        }
    }

    fn unlist(&mut self, id: SocketId, channels: &[Joined]) {
        for joined in channels {
            if let Some(ids) = self.listeners.get_mut(&joined.text) {
                ids.retain(|listener| *listener != id);
                if ids.is_empty() {
                    self.listeners.remove(&joined.text);
                }
            }
        }
    }

    /// Tells every live screen what it hears of the entry that the head has just moved to. Answers those whose queue
    /// was full: they are behind now, at the entry before.
    pub fn tell(&mut self, packed: &Packed) -> Vec<SocketRef> {
        let before = Position::of_entry(packed.entry.seq - 1, packed.entry.prev);
        let mut behind = Vec::new();
        for id in self.listening_to(packed) {
            let Some(screen) = self.screens.get_mut(&id) else { continue };
            if screen.cursor != Cursor::Live {
                continue;
            }
            let batch = heard(packed, &screen.channels, &screen.staff, before);
            if batch.is_empty() {
                continue;
            }
            if screen.socket.queued_bytes() > QUEUED_BYTES_MAX {
                screen.cursor = Cursor::Behind(before);
                behind.push(screen.socket.clone());
                continue;
            }
            match screen.socket.try_send(&batch) {
                Ok(()) => screen.told = packed.entry.seq,
                Err(SendError::Closed) => {} // It is on its way out.
                Err(_) => {
                    // Full. What is queued still leaves; what was not queued is not lost, only later.
                    screen.cursor = Cursor::Behind(before);
                    behind.push(screen.socket.clone());
                }
            }
        }
        behind
    }

    /// Makes every live screen stand at `position`, which the head has left or is leaving. Answers them.
    pub fn stop_at(&mut self, position: Position) -> Vec<SocketRef> {
        let live = self.screens.values_mut().filter(|screen| screen.cursor == Cursor::Live);
        live.map(|screen| {
            screen.cursor = Cursor::Behind(position);
            screen.socket.clone()
        })
        .collect()
    }

    fn listening_to(&self, packed: &Packed) -> Vec<SocketId> {
        let mut found: Vec<SocketId> = packed
            .events()
            .flat_map(|(_, event)| &event.channels)
            .flat_map(|channel| beginnings(channel))
            .filter_map(|beginning| self.listeners.get(beginning))
            .flatten()
            .copied()
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The channels that hear what happens on `channel`: itself, and all that are a beginning of it.
fn beginnings(channel: &str) -> impl Iterator<Item = &str> {
    let cuts = channel.match_indices('/').map(|(at, _)| &channel[..at]);
    cuts.chain([channel]).inspect(|beginning| debug_assert!(hears(beginning, channel)))
}
