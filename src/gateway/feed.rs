//! A feed: this node's live head of one merchant's journal, a ring of recent entries, and the screens that listen.
//!
//! INVARIANT: the head only moves to an entry that follows from it, by number and by tag; whatever a bus brings out of
//! turn is held or dropped. Everything a live screen is told is queued under the feed's lock, hence in journal order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tillwire_channels::event::AccessRevoked;
use tillwire_channels::wire::{Denied, Joined, SignedOutReason, SnapshotRequired};
use tillwire_channels::{Channel, MerchantId, Moment, Position, StaffId};
use tillwire_socketio::{CloseReason, SocketId, SocketRef};
use tokio::sync::Notify;
use tracing::error;

use super::audience::{Audience, Cursor, Joined as JoinedChannel, Screen, heard};
use super::packed::Packed;
use super::ring::Ring;
use super::{join, tell};
use crate::identity::Staff;
use crate::journal::Entry;
use crate::journal::read::Head;

/// How many entries that came too early are held. More are dropped, and read from the journal later.
const HELD_ENTRIES_MAX: usize = 256;
/// How many entries a screen that is behind is given at a time, at most.
const STEP_ENTRIES_MAX: usize = 256;
/// How many seconds before its token expires a screen is told.
const EXPIRY_NOTICE_SECONDS: i64 = 60;

/// A screen whose token is no longer good comes back by itself, and may bring a better one.
const TOKEN_EXPIRED: CloseReason = CloseReason::Server { code: 4001, text: "token expired" };
/// This node cannot vouch for anyone; another may.
const UNVERIFIABLE: CloseReason = CloseReason::Server { code: 1013, text: "try again later" };

pub struct Feed {
    pub merchant: MerchantId,
    state: Mutex<State>,
    /// Rings when the journal has to be read: something is missing or in doubt.
    pub wanting: Notify,
    /// Rings when the head has moved.
    pub moved: Notify,
}

#[derive(Default)]
struct State {
    /// `None` until the journal was looked at for the first time.
    head: Option<Head>,
    ring: Ring,
    /// Entries that came before their turn.
    held: BTreeMap<u64, Arc<Entry>>,
    /// The highest number that is known to be in the journal.
    known: u64,
    /// Whether something did not fit our head: the journal will tell which of the two is wrong.
    doubt: bool,
    revoked: HashMap<StaffId, Moment>,
    audience: Audience,
    /// When the last screen left.
    idle_since: Option<Instant>,
    /// Set once: the feed was taken from the registry, and whoever comes must ask for a new one.
    closed: bool,
}

/// Why a screen was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The feed has just been put away: ask for it again.
    Closed,
    Revoked,
}

/// What a screen that is behind needs next.
pub enum Step {
    /// These follow its cursor.
    Serve(Serving),
    /// What follows its cursor is only in the journal.
    Read(Position),
    /// Its queue has no room for the word that it is live.
    Full,
    /// It is live, or gone.
    Done,
}

/// What a batch for a screen is made of.
pub struct Serving {
    pub after: Position,
    pub entries: Vec<Arc<Packed>>,
    joined: Vec<JoinedChannel>,
    staff: Staff,
    filter_version: u32,
}

impl Serving {
    /// The packets of entry `at`.
    pub fn heard(&self, at: usize) -> Vec<tillwire_socketio::Encoded> {
        heard(&self.entries[at], &self.joined, &self.staff, self.after)
    }
}

impl Feed {
    pub fn new(merchant: MerchantId) -> Self {
        Self { merchant, state: Mutex::default(), wanting: Notify::new(), moved: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn screens(&self) -> usize {
        self.lock().audience.len()
    }

    /// Begins at this head, or begins anew: after a fail-over or a restore the journal is another. Screens that were
    /// live stand where they stood, and the journal is asked about that.
    ///
    /// Answers the screens that are behind now.
    pub fn begin_at(&self, head: Head, revoked: HashMap<StaffId, Moment>) -> Vec<SocketRef> {
        let mut state = self.lock();
        let state = &mut *state;
        let mut behind = match state.head.replace(head) {
            Some(old) => state.audience.stop_at(old.position()),
            None => Vec::new(),
        };
        state.ring.clear();
        state.doubt = false;
        state.revoked = revoked;
        // No entry may ever come by that says so.
        for screen in state.audience.iter_mut().filter(|screen| is_revoked(&state.revoked, &screen.staff)) {
            sign_out(screen, SignedOutReason::Revoked);
        }
        state.held = state.held.split_off(&(head.seq + 1));
        state.known = state.held.last_key_value().map_or(head.seq, |(last, _)| *last);
        behind.extend(self.take_held(state));
        if state.head.is_some_and(|head| head.seq < state.known) {
            self.wanting.notify_one();
        }
        self.moved.notify_waiters();
        behind
    }

    /// Takes an entry that a bus or the journal brought. Answers the screens that fell behind by it.
    pub fn offer(&self, entry: Arc<Entry>) -> Vec<SocketRef> {
        let mut state = self.lock();
        let state = &mut *state;
        state.known = state.known.max(entry.seq);
        let Some(head) = state.head else {
            hold(state, entry);
            return Vec::new();
        };
        if entry.seq <= head.seq {
            // A duplicate, unless it tells another story of our own last entry.
            if entry.seq == head.seq && entry.tag != head.tag {
                self.doubt(state);
            }
            return Vec::new();
        }
        hold(state, entry);
        let behind = self.take_held(state);
        if state.head == Some(head) {
            metrics::counter!("tillwire_gateway_gaps_total").increment(1);
            self.wanting.notify_one();
        } else {
            self.moved.notify_waiters();
        }
        behind
    }

    /// There is an entry of this number in the journal, as a bus or a look at the heads says.
    pub fn expect(&self, seq: u64) {
        let mut state = self.lock();
        state.known = state.known.max(seq);
        if state.head.is_none_or(|head| head.seq < state.known) {
            self.wanting.notify_one();
        }
    }

    /// Compares with the head as the database has it.
    pub fn compare(&self, theirs: Head) {
        let mut state = self.lock();
        let Some(ours) = state.head else { return };
        // One that looks behind may be an answer that was overtaken; the journal is asked.
        if theirs.seq < ours.seq || (theirs.seq == ours.seq && theirs.tag != ours.tag) {
            self.doubt(&mut state);
        } else if theirs.seq > ours.seq {
            state.known = state.known.max(theirs.seq);
            self.wanting.notify_one();
        }
    }

    fn doubt(&self, state: &mut State) {
        state.doubt = true;
        self.wanting.notify_one();
    }

    /// Something is wrong with our own history, says the journal.
    pub fn suspect(&self) {
        self.doubt(&mut self.lock());
    }

    /// The head from which the journal should be read, if anything is missing or in doubt.
    pub fn wants(&self) -> Option<Head> {
        let state = self.lock();
        state.head.filter(|head| state.doubt || state.known > head.seq)
    }

    /// The journal holds our head: nothing is in doubt. If it has nothing after it, nothing is missing either.
    pub fn confirmed(&self, head: Head, nothing_after: bool) {
        let mut state = self.lock();
        state.doubt = false;
        if nothing_after && state.head == Some(head) {
            // What a bus told us of is not in the journal. It was no entry of this history.
            state.known = head.seq;
            state.held.clear();
        }
    }

    /// Moves the head along what is held, as far as it follows.
    fn take_held(&self, state: &mut State) -> Vec<SocketRef> {
        let mut behind = Vec::new();
        while let Some(head) = state.head
            && let Some(first) = state.held.first_entry()
            && *first.key() <= head.seq + 1
        {
            let entry = first.remove();
            if entry.seq <= head.seq {
                continue;
            }
            if entry.prev != head.tag {
                self.doubt(state);
                break;
            }
            behind.extend(move_head(state, entry));
        }
        behind
    }

    /// Whether the bearer's token is dead.
    pub fn is_revoked(&self, staff: &Staff) -> bool {
        is_revoked(&self.lock().revoked, staff)
    }

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

    /// What follows a screen's cursor, or the word that it is live: a screen changes to live here and nowhere else.
    pub fn step(&self, id: SocketId, replayed: u64) -> Step {
        let mut state = self.lock();
        let Some(head) = state.head else { return Step::Done };
        let State { ring, audience, .. } = &mut *state;
        let Some(screen) = audience.get_mut(id) else { return Step::Done };
        let Cursor::Behind(cursor) = screen.cursor else { return Step::Done };
        if cursor == head.position() {
            if screen.socket.try_send(&[tell::caught_up(replayed, cursor)]).is_err() {
                return if screen.socket.is_connected() { Step::Full } else { Step::Done };
            }
            (screen.cursor, screen.told) = (Cursor::Live, cursor.seq);
            return Step::Done;
        }
        match ring.after(cursor, STEP_ENTRIES_MAX) {
            Some(entries) => Step::Serve(serving(screen, cursor, entries)),
            None => Step::Read(cursor),
        }
    }

    /// Makes entries from the journal servable to a screen; `None` if it is not where it was.
    pub fn serving(&self, id: SocketId, after: Position, entries: Vec<Arc<Packed>>) -> Option<Serving> {
        let state = self.lock();
        let screen = state.audience.get(id)?;
        (screen.cursor == Cursor::Behind(after)).then(|| serving(screen, after, entries))
    }

    /// Moves a screen's cursor over what is about to be sent. False if its channels have changed meanwhile: what was
    /// prepared must not be sent.
    pub fn advance(&self, id: SocketId, served: &Serving, to: Position, is_told: bool) -> bool {
        let mut state = self.lock();
        let Some(screen) = state.audience.get_mut(id) else { return false };
        if screen.cursor != Cursor::Behind(served.after) || screen.filter_version != served.filter_version {
            return false;
        }
        screen.cursor = Cursor::Behind(to);
        if is_told {
            screen.told = to.seq;
        }
        true
    }

    /// A screen's position cannot be served: it is told so, and goes on from the head. False if it has no room for that.
    pub fn skip(&self, id: SocketId, why: &SnapshotRequired) -> bool {
        let mut state = self.lock();
        let Some(head) = state.head else { return false };
        let Some(screen) = state.audience.get_mut(id) else { return true };
        if screen.socket.try_send(&[tell::snapshot_required(why)]).is_err() {
            return !screen.socket.is_connected();
        }
        screen.cursor = Cursor::Behind(head.position());
        true
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

    /// Tells screens that their token is about to expire, and signs out those whose token has.
    pub fn expire(&self, now: Moment) {
        let mut state = self.lock();
        for screen in state.audience.iter_mut() {
            let left = (screen.staff.expires_at - now).whole_seconds();
            if left <= 0 {
                sign_out(screen, SignedOutReason::Expired);
            } else if left <= EXPIRY_NOTICE_SECONDS && !screen.warned {
                screen.warned = screen.socket.try_send(&[tell::token_expiring(left.unsigned_abs())]).is_ok();
            }
        }
    }

    /// Signs everyone out: this node has been cut off from the database for too long to vouch for them.
    pub fn dismiss(&self) {
        for screen in self.lock().audience.iter_mut() {
            sign_out(screen, SignedOutReason::Unverifiable);
        }
    }

    /// Closes the feed, whoever listens: its journal is no more. They are told to come back, and learn it then.
    pub fn close(&self) {
        self.lock().closed = true;
        self.dismiss();
    }

    /// Tells everyone that this node is going away.
    pub fn tell_draining(&self) {
        for screen in self.lock().audience.iter_mut() {
            let _ = screen.socket.try_send(&[tell::draining()]);
        }
    }

    /// Closes the feed if nobody has listened since `before`. Whoever holds it must ask for a new one.
    pub fn close_if_idle(&self, before: Instant) -> bool {
        let mut state = self.lock();
        if state.audience.is_empty() && *state.idle_since.get_or_insert_with(Instant::now) <= before {
            state.closed = true;
        }
        state.closed
    }
}

fn serving(screen: &Screen, after: Position, entries: Vec<Arc<Packed>>) -> Serving {
    Serving {
        after,
        entries,
        joined: screen.joined().to_vec(),
        staff: screen.staff.clone(),
        filter_version: screen.filter_version,
    }
}

/// Where a change of a screen's channels takes effect.
fn place(state: &State, screen: &Screen) -> Option<Position> {
    match screen.cursor {
        Cursor::Live => state.head.map(Head::position),
        Cursor::Behind(cursor) => Some(cursor),
    }
}

fn hold(state: &mut State, entry: Arc<Entry>) {
    state.held.insert(entry.seq, entry);
    if state.held.len() > HELD_ENTRIES_MAX {
        // The earliest are the ones that will be taken first.
        state.held.pop_last();
    }
}

/// Moves the head to its next entry and tells whoever hears of it.
fn move_head(state: &mut State, entry: Arc<Entry>) -> Vec<SocketRef> {
    state.head = Some(Head { seq: entry.seq, tag: entry.tag });
    let before = Position::of_entry(entry.seq - 1, entry.prev);
    let packed = match Packed::new(entry) {
        Ok(packed) => Arc::new(packed),
        Err(error) => {
            // Nothing can be told of it, and not telling would be a gap: screens stop before it, and find out there.
            error!("An entry cannot be read: {error:#}");
            state.ring.clear();
            return state.audience.stop_at(before);
        }
    };
    obey(state, &packed);
    let behind = state.audience.tell(&packed);
    state.ring.push(packed);
    metrics::counter!("tillwire_gateway_entries_total").increment(1);
    behind
}

/// Signs out whom the entry revokes, before it is told to anyone.
fn obey(state: &mut State, packed: &Packed) {
    let revocations = packed
        .events()
        .filter(|(_, event)| &*event.kind == "access.revoked")
        .filter_map(|(_, event)| serde_json::from_str::<AccessRevoked>(event.data.get()).ok());
    for AccessRevoked { staff, issued_until } in revocations {
        let until = state.revoked.entry(staff).or_insert(issued_until);
        *until = issued_until.max(*until);
        for screen in state.audience.iter_mut() {
            if screen.staff.id == staff && screen.staff.issued_at <= issued_until {
                sign_out(screen, SignedOutReason::Revoked);
            }
        }
    }
}

fn is_revoked(revoked: &HashMap<StaffId, Moment>, staff: &Staff) -> bool {
    revoked.get(&staff.id).is_some_and(|until| staff.issued_at <= *until)
}

fn sign_out(screen: &mut Screen, reason: SignedOutReason) {
    let _ = screen.socket.try_send(&[tell::signed_out(reason)]);
    match reason {
        // Only a person can help: the stock client does not come back from this by itself.
        SignedOutReason::Revoked => screen.socket.disconnect(),
        SignedOutReason::Expired => screen.socket.close(TOKEN_EXPIRED),
        SignedOutReason::Unverifiable => screen.socket.close(UNVERIFIABLE),
    }
    metrics::counter!("tillwire_gateway_signed_out_total", "reason" => format!("{reason:?}").to_lowercase())
        .increment(1);
}
