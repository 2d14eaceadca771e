//! A feed's screens, and who of them listens to what.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tillwire_channels::{Channel, Position, Stored, Topic, View, topic};
use tillwire_socketio::{Encoded, SendError, SocketRef};

use super::join::Change;
use super::packed::Packed;
use super::portions::{Portion, Portions};
use crate::identity::Staff;
use crate::screens::joined;

/// How many bytes a live screen may have been sent without saying that it received them. One that reads more slowly is
/// behind, and is served bit by bit.
pub const UNCONFIRMED_BYTES_MAX: usize = 64 * 1024;
/// The same for one that has been seen to be slow, and what any screen that is behind may have under way: the less there
/// is, the newer is what comes next. One entry, which is never divided, comes on top.
pub const UNCONFIRMED_BYTES_SLOW: usize = 16 * 1024;

/// One client's connection: a cursor over its merchant's journal, through a filter of channels.
pub struct Screen {
    pub socket: SocketRef,
    pub staff: Staff,
    /// Tells apart the connections that one client makes: the newer one has the greater number.
    pub epoch: i64,
    channels: Vec<Joined>,
    pub cursor: Cursor,
    /// Where it joined something that the feed had not come to when it came. It is told nothing before the feed has, for
    /// that place may be lost meanwhile.
    pub looks_for: Option<Position>,
    /// Whether it was seen to take its time over what it is sent.
    pub is_slow: bool,
    /// The number of the last entry that the client was told a position of.
    pub told: u64,
    /// Entries up to this one were told neither to it nor to an earlier connection of it.
    pub since: u64,
    /// Counts the changes of `channels` and `staff`: a batch prepared before one of them is not sent.
    pub filter_version: u32,
    /// Whether the client was told that its token is about to expire.
    pub warned: bool,
}

/// A channel with its text, which events are matched against.
#[derive(Clone)]
pub struct Joined {
    pub is: joined::Joined,
    text: Box<str>,
    /// The state that it wants was sent on this connection, and perhaps not received: with which of the screen's changes.
    sent: Option<u32>,
}

impl From<joined::Joined> for Joined {
    fn from(is: joined::Joined) -> Self {
        Self { is, text: is.channel.to_string().into(), sent: None }
    }
}

impl Joined {
    /// Whether its state is still to be sent.
    fn is_due(&self) -> bool {
        self.is.wants_state && self.sent.is_none()
    }
}

/// A state that was sent: of which channel, and with which of the screen's changes. One that is asked for anew is another.
pub type Given = (Channel, u32);

/// How far a screen has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// To the feed's head, by definition.
    Live,
    /// To here; a task of its own brings it on.
    Behind(Position),
}

impl Screen {
    pub fn new(
        socket: SocketRef,
        staff: Staff,
        epoch: i64,
        joined: &[joined::Joined],
        cursor: Cursor,
        told: u64,
        since: u64,
    ) -> Self {
        let channels = joined.iter().copied().map(Joined::from).collect();
        let (looks_for, is_slow, filter_version, warned) = (None, false, 0, false);
        Self { socket, staff, epoch, channels, cursor, looks_for, is_slow, told, since, filter_version, warned }
    }

    /// What is joined.
    pub fn joined(&self) -> &[Joined] {
        &self.channels
    }

    /// A channel whose state is wanted, and still to be sent.
    pub fn wants(&self) -> Option<Channel> {
        self.channels.iter().find(|joined| joined.is_due()).map(|joined| joined.is.channel)
    }

    /// The state of a channel was sent. It stays wanted until it is known to have arrived, for a cut may come before.
    pub fn was_sent(&mut self, channel: Channel) {
        let sent = Some(self.filter_version);
        self.channels.iter_mut().filter(|joined| joined.is.channel == channel).for_each(|joined| joined.sent = sent);
    }

    /// The states that were sent and are not known to have arrived.
    pub fn given(&self) -> Vec<Given> {
        self.channels.iter().filter_map(|joined| Some((joined.is.channel, joined.sent?))).collect()
    }

    /// These have arrived.
    pub fn has_got(&mut self, given: &[Given]) {
        for joined in &mut self.channels {
            if joined.sent.is_some_and(|sent| given.contains(&(joined.is.channel, sent))) {
                (joined.is.wants_state, joined.sent) = (false, None);
            }
        }
    }

    /// It goes on behind entry `seq`, and was told nothing of what is before.
    pub fn pass_over(&mut self, seq: u64) {
        self.channels.iter_mut().for_each(|joined| joined.is.skipped = seq);
    }

    /// It goes on behind entry `seq` of a history that may be another than before: so may be what it joined further on.
    pub fn doubt_after(&mut self, seq: u64) {
        self.channels.iter_mut().filter(|joined| joined.is.since > seq).for_each(|joined| joined.is.doubt());
        self.filter_version += 1;
    }

    /// What is joined, as it is stored.
    pub fn roll(&self) -> Vec<joined::Joined> {
        self.channels.iter().map(|joined| joined.is).collect()
    }

    /// The same, wanting only what is still to be sent: whoever asks for a state that is on its way is sent it anew.
    pub fn due(&self) -> Vec<joined::Joined> {
        let due = |joined: &Joined| joined::Joined { wants_state: joined.is_due(), ..joined.is };
        self.channels.iter().map(due).collect()
    }
}

/// The events of an entry that follow `after` and are heard on `joined`, with their numbers.
pub fn hears<'a>(
    packed: &'a Packed,
    joined: &'a [Joined],
    view: View,
    after: Position,
) -> impl Iterator<Item = (u32, &'a Stored)> {
    let seq = packed.entry.seq;
    let joined = joined.iter().filter(move |joined| joined.is.since < seq).map(|joined| &*joined.text);
    packed
        .events()
        .filter(move |(number, _)| after.is_before(seq, *number))
        .filter(move |(_, event)| event.heard_on(joined.clone(), view))
}

/// The packets of these events, as `staff` may see them.
pub fn heard<'a>(
    packed: &'a Packed,
    joined: &'a [Joined],
    staff: &Staff,
    after: Position,
) -> impl Iterator<Item = Encoded> + use<'a> {
    let view = staff.role.view();
    hears(packed, joined, view, after).filter_map(move |(number, _)| packed.packet(number, view).cloned())
}

/// The screens of a feed.
#[derive(Default)]
pub struct Audience {
    screens: HashMap<SocketRef, Screen>,
    /// Who joined each channel, so that an entry wakes only those who listen.
    listeners: HashMap<Box<str>, Vec<SocketRef>>,
}

impl Audience {
    pub fn is_empty(&self) -> bool {
        self.screens.is_empty()
    }

    pub fn len(&self) -> usize {
        self.screens.len()
    }

    pub fn get(&self, socket: &SocketRef) -> Option<&Screen> {
        self.screens.get(socket)
    }

    pub fn get_mut(&mut self, socket: &SocketRef) -> Option<&mut Screen> {
        self.screens.get_mut(socket)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Screen> {
        self.screens.values_mut()
    }

    pub fn insert(&mut self, screen: Screen) {
        for joined in &screen.channels {
            self.listeners.entry(joined.text.clone()).or_default().push(screen.socket.clone());
        }
        self.screens.insert(screen.socket.clone(), screen);
    }

    pub fn remove(&mut self, socket: &SocketRef) {
        if let Some(screen) = self.screens.remove(socket) {
            self.unlist(socket, &screen.channels);
        }
    }

    /// Changes what a screen has joined.
    pub fn rejoin(&mut self, socket: &SocketRef, change: &Change) {
        let Some(screen) = self.screens.get_mut(socket) else { return };
        screen.filter_version += 1;
        let left: Vec<Joined> =
            screen.channels.extract_if(.., |joined| change.left.contains(&joined.is.channel)).collect();
        for joined in screen.channels.iter_mut().filter(|joined| change.wanted.contains(&joined.is.channel)) {
            (joined.is.wants_state, joined.sent) = (true, None);
        }
        let new: Vec<Joined> = change.joined.iter().copied().map(Joined::from).collect();
        screen.channels.extend_from_slice(&new);
        self.unlist(socket, &left);
        for joined in new {
            self.listeners.entry(joined.text).or_default().push(socket.clone());
        }
    }

    /// The channels of a topic that somebody has joined.
    pub fn channels_of(&self, of: Topic) -> Vec<Channel> {
        let of_topic = self.listeners.keys().filter(|text| topic::hears(of.name(), text));
        of_topic.filter_map(|text| text.parse().ok()).collect()
    }

    /// Who has joined this very channel.
    pub fn listeners(&self, channel: Channel) -> &[SocketRef] {
        self.listeners.get(&*channel.to_string()).map(Vec::as_slice).unwrap_or_default()
    }

    fn unlist(&mut self, socket: &SocketRef, channels: &[Joined]) {
        for joined in channels {
            if let Some(listening) = self.listeners.get_mut(&joined.text) {
                listening.retain(|listener| listener != socket);
                if listening.is_empty() {
                    self.listeners.remove(&joined.text);
                }
            }
        }
    }

    /// Tells every live screen what it hears of the entries that the head has just moved over, which follow one another.
    /// Answers those whose queue was full: they are behind now, at the entry before.
    ///
    /// One of those who are told is timed, from `taken_at` on.
    pub fn tell(&mut self, run: &[Arc<Packed>], taken_at: Instant) -> Vec<SocketRef> {
        let Some(first) = run.first() else { return Vec::new() };
        let before = Position::of_entry(first.entry.seq - 1, first.entry.prev);
        let mut behind = Vec::new();
        let Self { screens, listeners } = self;
        let listening = listening_to(listeners, run);
        // By chance, so that it is not always the same one.
        let mut timed = Some(fastrand::usize(..listening.len().max(1)));
        let mut portions = Portions::new(run, before);
        for (at, socket) in listening.into_iter().enumerate() {
            let Some(screen) = screens.get_mut(socket) else { continue };
            if screen.cursor != Cursor::Live {
                continue;
            }
            let Some(portion) = portions.of(&screen.channels, screen.staff.role.view()) else { continue };
            let Portion { batch, bytes, told } = portion;
            let bound = if screen.is_slow { UNCONFIRMED_BYTES_SLOW } else { UNCONFIRMED_BYTES_MAX };
            // A run is not to be a way past the bound; an entry cannot be divided.
            let unconfirmed_max = if run.len() > 1 { bound.saturating_sub(*bytes) } else { bound };
            match screen.socket.try_send_within(batch, unconfirmed_max) {
                Ok(()) => {
                    screen.told = *told;
                    if timed.take_if(|chosen| at >= *chosen).is_some() {
                        screen.socket.time_written(taken_at);
                    }
                }
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
}

/// Whoever hears something of a run of entries, once.
fn listening_to<'a>(listeners: &'a HashMap<Box<str>, Vec<SocketRef>>, run: &[Arc<Packed>]) -> Vec<&'a SocketRef> {
    let events = run.iter().flat_map(|packed| packed.events());
    let channels = events.flat_map(|(_, event)| &event.channels);
    let mut lists: Vec<&Vec<SocketRef>> =
        channels.flat_map(|channel| beginnings(channel)).filter_map(|beginning| listeners.get(beginning)).collect();
    // Events are mostly of the same channels.
    lists.sort_unstable_by_key(|list| list.as_ptr());
    lists.dedup_by_key(|list| list.as_ptr());
    let may_repeat = lists.len() > 1;
    let mut found: Vec<&SocketRef> = lists.into_iter().flatten().collect();
    if may_repeat {
        found.sort_unstable();
        found.dedup();
    }
    found
}

/// The channels that hear what happens on `channel`: itself, and all that are a beginning of it.
fn beginnings(channel: &str) -> impl Iterator<Item = &str> {
    let cuts = channel.match_indices('/').map(|(at, _)| &channel[..at]);
    cuts.chain([channel]).inspect(|beginning| debug_assert!(topic::hears(beginning, channel)))
}
