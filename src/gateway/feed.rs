//! A feed: this node's live head of one merchant's journal, a ring of recent entries, and the screens that listen.
//!
//! INVARIANT: the head only moves to an entry that follows from it, by number and by tag; whatever a bus brings out of
//! turn is held or dropped. Everything a live screen is told is queued under the feed's lock, hence in journal order.

mod presence;
#[cfg(test)]
mod properties;
mod replay;
mod run;
mod screens;
mod signing_out;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tillwire_channels::wire::SignedOutReason;
use tillwire_channels::{MerchantId, Moment, Position, StaffId};
use tillwire_socketio::SocketRef;
use tokio::sync::Notify;

use super::audience::{Audience, Cursor};
use super::ring::Ring;
use crate::journal::Entry;
use crate::journal::read::Head;
pub use presence::Told;
pub use replay::{Ground, Serving, Step};
pub use run::ENTRIES_MAX as RUN_ENTRIES_MAX;
use run::Run;
pub use screens::Refused;
use signing_out::{is_revoked, sign_out};

/// How many entries that came too early are held. More are dropped, and read from the journal later.
const HELD_ENTRIES_MAX: usize = 256;

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
    /// Since when there are any.
    held_since: Option<Instant>,
    /// The highest number that is known to be in the journal.
    known: u64,
    /// Whether something did not fit our head: the journal will tell which of the two is wrong.
    doubt: bool,
    revoked: HashMap<StaffId, Moment>,
    audience: Audience,
    /// When the last screen left.
    idle_since: Option<Instant>,
    /// Set once: this node goes away, and whoever still comes is told so.
    draining: bool,
    /// Set once: the feed was taken from the registry, and whoever comes must ask for a new one.
    closed: bool,
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

    /// The position of the head, once there is one.
    pub fn head(&self) -> Option<Position> {
        self.lock().head.map(Head::position)
    }

    /// Whether what follows this position is here, or nothing does. False does not mean that the journal has it not.
    pub fn holds(&self, position: Position) -> bool {
        let state = self.lock();
        state.head.map(Head::position) == Some(position) || state.ring.after(position, 0).is_some()
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
        for screen in state.audience.iter_mut() {
            if let Cursor::Behind(cursor) = screen.cursor {
                screen.doubt_after(cursor.seq);
            }
        }
        state.ring.clear();
        state.doubt = false;
        state.revoked = revoked;
        // No entry may ever come by that says so.
        for screen in state.audience.iter_mut().filter(|screen| is_revoked(&state.revoked, &screen.staff)) {
            sign_out(screen, SignedOutReason::Revoked);
        }
        state.held = state.held.split_off(&(head.seq + 1));
        state.known = state.held.last_key_value().map_or(head.seq, |(last, _)| *last);
        let mut run = Run::new(state);
        self.take_held(&mut run);
        behind.extend(run.end());
        // What was held for came of another history, or before there was one.
        state.held_since = (!state.held.is_empty()).then(Instant::now);
        if state.head.is_some_and(|head| head.seq < state.known) {
            self.wanting.notify_one();
        }
        self.moved.notify_waiters();
        behind
    }

    /// Takes entries that a bus brought. Answers the screens that fell behind by them.
    pub fn offer(&self, entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<SocketRef> {
        self.take_all(entries, "bus")
    }

    /// Takes entries that were missing and read in the journal. Answers the screens that fell behind by them.
    pub fn mend(&self, entries: impl IntoIterator<Item = Arc<Entry>>) -> Vec<SocketRef> {
        self.take_all(entries, "journal")
    }

    fn take_all(&self, entries: impl IntoIterator<Item = Arc<Entry>>, brought_by: &'static str) -> Vec<SocketRef> {
        let mut state = self.lock();
        let mut run = Run::new(&mut state);
        for entry in entries {
            self.take(&mut run, entry, brought_by);
        }
        run.end()
    }

    fn take(&self, run: &mut Run<'_>, entry: Arc<Entry>, brought_by: &'static str) {
        let state = &mut *run.state;
        state.known = state.known.max(entry.seq);
        let Some(head) = state.head else { return hold(state, entry) };
        if entry.seq <= head.seq {
            // A duplicate, unless it tells another story of our own last entry.
            if entry.seq == head.seq && entry.tag != head.tag {
                self.doubt(state);
            }
            return;
        }
        hold(state, entry);
        self.take_held(run);
        let state = &mut *run.state;
        if state.head == Some(head) {
            metrics::counter!("tillwire_gateway_gaps_total").increment(1);
            state.held_since.get_or_insert_with(Instant::now);
            self.wanting.notify_one();
        } else {
            self.moved.notify_waiters();
        }
        if state.held.is_empty()
            && let Some(since) = state.held_since.take()
        {
            metrics::histogram!("tillwire_gateway_gap_seconds", "closed_by" => brought_by).record(since.elapsed());
        }
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
            state.held_since = None;
        }
    }

    /// Moves the head along what is held, as far as it follows.
    fn take_held(&self, run: &mut Run<'_>) {
        while let Some(head) = run.state.head
            && let Some(first) = run.state.held.first_entry()
            && *first.key() <= head.seq + 1
        {
            let entry = first.remove();
            if entry.seq <= head.seq {
                continue;
            }
            if entry.prev != head.tag {
                self.doubt(run.state);
                break;
            }
            run.move_head(entry);
        }
    }

    /// Closes the feed, whoever listens: its journal is no more. They are told to come back, and learn it then.
    pub fn close(&self) {
        self.lock().closed = true;
        self.dismiss();
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

fn hold(state: &mut State, entry: Arc<Entry>) {
    state.held.insert(entry.seq, entry);
    if state.held.len() > HELD_ENTRIES_MAX {
        // The earliest are the ones that will be taken first.
        state.held.pop_last();
    }
}
