//! A screen that is behind: brought on to the feed's head, from the ring or else from the journal, and given on the way the
//! states that it asked for.
//!
//! One task, from the moment a screen falls behind until it is live again or gone. What it sends is confirmed bit by
//! bit: else megabytes would sit in kernel buffers, here and on the way, and what comes at last would be old. Whoever takes
//! long to confirm is slow, and is given the newest of what is a value: see [`pieces`](super::pieces).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tillwire_channels::wire::{SnapshotReason, SnapshotRequired};
use tillwire_channels::{Channel, MerchantId, Position};
use tillwire_socketio::{CloseReason, Encoded, SendError, SocketRef};
use tracing::{debug, error};

use super::audience::UNCONFIRMED_BYTES_SLOW;
use super::feed::{Feed, Serving, Step};
use super::packed::Packed;
use super::ring;
use super::rolls::Rolls;
use super::snapshots::{Parts, Snapshots};
use super::source::Source;
use crate::batches::Batches;
use crate::error::Error;
use crate::journal::read::Slice;

/// A screen that takes longer than this to receive what it may have under way is slow: it reads less than 8 KB a second.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// How much of the journal is read for one screen at a time: at first, when it may be slow, and later.
const SLICE_FIRST: Slice = Slice { entries_max: 64, bytes_max: 16 * 1024 };
const SLICE: Slice = Slice { entries_max: 256, bytes_max: 64 * 1024 };
/// What a ring holds.
const RING: Slice = Slice { entries_max: ring::ENTRIES_MAX as u32, bytes_max: ring::TEXT_BYTES_MAX };
/// How many different places a ring is filled from together. Those who stand elsewhere are served from the journal.
const RECALLS_MAX: usize = 4;
/// How long a screen waits for a feed that has not come as far as the journal.
const FEED_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long it waits before it asks a database again that did not answer, at first and at most.
const RETRY_AFTER: Duration = Duration::from_millis(100);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

/// Ends a screen that cannot be served. It may try again.
const FAILED: CloseReason = CloseReason::Server { code: 1011, text: "internal error" };

/// Where what screens miss is fetched.
#[derive(Clone)]
pub struct Stock {
    pub source: Source,
    pub snapshots: Arc<Snapshots>,
    pub rolls: Arc<Rolls>,
    /// Reads into a feed's ring, which many screens wait for at once.
    pub recalls: Arc<Batches<MerchantId, Position, ()>>,
}

/// Brings a screen on until it is live or gone.
pub async fn bring_on(feed: Arc<Feed>, stock: Stock, socket: SocketRef) {
    metrics::counter!("tillwire_gateway_replays_total").increment(1);
    let _behind = Behind::begins();
    let began = Instant::now();
    let mut replay = Replay {
        feed,
        stock,
        socket: &socket,
        due: None,
        replayed: 0,
        slice: SLICE_FIRST,
        has_skipped: false,
        recalled: None,
        retry_after: RETRY_AFTER,
    };
    tokio::select! {
        outcome = replay.run() => match outcome {
            Ok(()) => metrics::histogram!("tillwire_gateway_replay_seconds").record(began.elapsed()),
            Err(SendError::Closed) => {}
            Err(error) => {
                // Its cursor has moved over what was not sent. It comes back with the position that it has.
                error!("A screen cannot be sent what it missed: {error}");
                socket.close(FAILED);
            }
        },
        _ = socket.closed() => {}
    }
}

/// Whether a screen can be brought from its cursor to where a state is true.
pub(super) fn is_ahead(state: Position, cursor: Position) -> bool {
    state.seq > cursor.seq || (state.seq == cursor.seq && (cursor.event.is_some() || state == cursor))
}

/// Reads into the ring what follows these positions, from the earliest that the journal holds.
async fn recall(feed: &Feed, source: &Source, cursors: &[Position]) {
    let mut cursors = cursors.to_vec();
    cursors.sort_unstable_by_key(|cursor| (cursor.seq, cursor.event));
    cursors.dedup();
    for cursor in cursors.into_iter().take(RECALLS_MAX) {
        if !feed.lacks(cursor) {
            continue; // Whoever was before us has read it.
        }
        if let Ok(read) = source.replay(feed.merchant, cursor, RING).await {
            let packed = read.entries.into_iter().map_while(|entry| Packed::new(entry).ok().map(Arc::new));
            feed.recall(packed.collect());
        }
    }
}

struct Replay<'a> {
    feed: Arc<Feed>,
    stock: Stock,
    socket: &'a SocketRef,
    /// The state of a channel that the screen is being brought to, to be given it there.
    due: Option<(Channel, Arc<Parts>)>,
    /// How many events were sent.
    replayed: u64,
    /// How much is read for it at a time.
    slice: Slice,
    /// Whether it was told that something cannot be served.
    has_skipped: bool,
    /// Where the ring was last asked to be filled from.
    recalled: Option<Position>,
    retry_after: Duration,
}

impl Replay<'_> {
    async fn run(&mut self) -> Result<(), SendError> {
        // What made it fall behind is received first.
        self.keep_pace().await?;
        loop {
            let due = self.due.as_ref().map(|(channel, parts)| (*channel, parts.position));
            match self.feed.step(self.socket, self.replayed, due) {
                Step::Done => return self.write_off().await,
                Step::Full => self.socket.drained().await?,
                Step::Serve(serving) => self.serve(serving).await?,
                Step::Read(cursor) => self.read(cursor).await?,
                Step::LookFor(place) => self.look_for(place).await,
                Step::Want(channel, cursor) => self.fetch(channel, cursor).await?,
                Step::Arrived => self.give().await?,
                Step::Stale => self.due = None,
            }
        }
    }

    /// Fetches the state of a channel, of the screen's place or later.
    async fn fetch(&mut self, channel: Channel, cursor: Position) -> Result<(), SendError> {
        match self.stock.snapshots.of(self.feed.merchant, channel, cursor).await {
            Ok(parts) if parts.packets.is_none() => {
                while !self.feed.deny_state(self.socket, channel) {
                    self.socket.drained().await?;
                }
            }
            // The journal is not what our feed takes it for, which will find out now.
            Ok(parts) if !is_ahead(parts.position, cursor) && self.feed.head() == Some(cursor) => {
                self.feed.suspect();
                tokio::time::sleep(RETRY_AFTER).await;
            }
            // Our place is not in this journal, or not any more: reading on from it says so, and the screen is told.
            Ok(parts) if !is_ahead(parts.position, cursor) => self.read(cursor).await?,
            Ok(parts) => {
                self.retry_after = RETRY_AFTER;
                self.due = Some((channel, parts));
            }
            Err(error) => self.pause(error).await,
        }
        Ok(())
    }

    /// Sends a state, part by part, at the place where it is true. Nothing else is sent meanwhile: the screen is behind,
    /// and this task is what sends to it.
    async fn give(&mut self) -> Result<(), SendError> {
        let Some((channel, parts)) = self.due.take() else { return Ok(()) };
        if !self.feed.give(self.socket, channel, parts.position) {
            return Ok(());
        }
        metrics::counter!("tillwire_gateway_snapshots_sent_total").increment(1);
        for packet in parts.packets.iter().flatten() {
            self.send(std::slice::from_ref(packet)).await?;
        }
        self.replayed -= parts.packets.as_ref().map_or(0, Vec::len) as u64; // They are no events.
        Ok(())
    }

    /// Once the screen has received the states that it was sent, no node shall send them again; and none shall believe that
    /// it was told what it was to fetch.
    async fn write_off(&mut self) -> Result<(), SendError> {
        let given = self.feed.given(self.socket);
        if given.is_empty() && !self.has_skipped {
            return Ok(());
        }
        self.confirm().await?;
        self.store(&given).await;
        Ok(())
    }

    /// Stores what the screen has joined, as it is now that these states have arrived.
    async fn store(&mut self, given: &[(Channel, u32)]) {
        let _turn = self.stock.rolls.turn(self.socket).await;
        let Some(roll) = self.feed.write_off(self.socket, given) else { return };
        match self.stock.rolls.store(self.feed.merchant, roll).await {
            Ok(_) => self.has_skipped = false,
            // It will be sent them once more when it comes back. That it skipped something is stored with the next.
            Err(error) => debug!("What a screen has received could not be stored: {:#}", error.into_anyhow()),
        }
    }

    /// Waits before the database is asked again that did not answer.
    async fn pause(&mut self, error: Error) {
        // The node says once that the database is away; a line for each screen would be a flood.
        debug!("A screen waits for the database: {:#}", error.into_anyhow());
        tokio::time::sleep(self.retry_after).await;
        self.retry_after = (self.retry_after * 2).min(RETRY_AFTER_MAX);
    }

    /// Sends entries that follow one another, as many as may be under way unconfirmed.
    async fn serve(&mut self, serving: Serving) -> Result<(), SendError> {
        let (mut ground, pieces) = serving.into_pieces();
        for piece in pieces {
            if !self.feed.advance(self.socket, &mut ground, &piece) {
                return Ok(());
            }
            metrics::counter!("tillwire_gateway_merged_total").increment(piece.merged);
            for batch in &piece.batches {
                self.send(batch).await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self, batch: &[Encoded]) -> Result<(), SendError> {
        self.socket.send(batch).await?;
        self.replayed += batch.len() as u64;
        self.keep_pace().await
    }

    /// Waits until the screen has received all but so much of what it was sent, and sees how long it takes over that.
    async fn keep_pace(&mut self) -> Result<(), SendError> {
        if self.socket.unconfirmed_bytes() <= UNCONFIRMED_BYTES_SLOW {
            return Ok(());
        }
        let began = Instant::now();
        self.socket.confirmed_within(UNCONFIRMED_BYTES_SLOW).await?;
        let is_slow = began.elapsed() >= SLOW_AFTER;
        self.feed.found(self.socket, is_slow);
        self.slice = SLICE;
        Ok(())
    }

    /// Waits until the screen says that it has received everything.
    async fn confirm(&mut self) -> Result<(), SendError> {
        loop {
            match self.socket.confirmed().await {
                // No room for a ping: what is queued has to leave first.
                Err(SendError::Full) => self.socket.drained().await?,
                answer => return answer,
            }
        }
    }

    /// Serves what only the journal has.
    async fn read(&mut self, cursor: Position) -> Result<(), SendError> {
        if self.recalled != Some(cursor) && self.feed.lacks(cursor) {
            self.recalled = Some(cursor);
            self.recall(cursor).await;
            return Ok(());
        }
        let feed = self.feed.clone();
        // Before the read: a feed that moves meanwhile must not be missed.
        let moved = feed.moved.notified();
        let read = self.stock.source.replay(feed.merchant, cursor, self.slice).await;
        if read.is_ok() {
            self.retry_after = RETRY_AFTER;
        }
        match read {
            Ok(read) if read.entries.is_empty() => {
                // The position is good, and further than this node has heard: the feed will come as far. A state from
                // further on than the journal is of no use.
                self.due = None;
                feed.expect(cursor.seq);
                let _ = tokio::time::timeout(FEED_WAIT_MAX, moved).await;
                Ok(())
            }
            Ok(read) => {
                let mut entries = Vec::with_capacity(read.entries.len());
                let bound = self.due.as_ref().map_or(u64::MAX, |(_, parts)| parts.position.seq);
                for entry in read.entries.into_iter().take_while(|entry| entry.seq <= bound) {
                    match Packed::new(entry) {
                        Ok(packed) => entries.push(Arc::new(packed)),
                        Err(_) => break,
                    }
                }
                if entries.is_empty() {
                    return self.skip(SnapshotRequired { reason: SnapshotReason::Diverged, oldest: None }).await;
                }
                match self.feed.serving(self.socket, cursor, entries) {
                    Some(serving) => self.serve(serving).await,
                    None => Ok(()),
                }
            }
            Err(Error::SnapshotRequired(why)) => self.skip(why).await,
            Err(error) => {
                self.pause(error).await;
                Ok(())
            }
        }
    }

    /// Looks for a place where something was joined, and waits until the feed has come there.
    async fn look_for(&mut self, place: Position) {
        let feed = self.feed.clone();
        let moved = feed.moved.notified();
        match self.stock.source.replay(feed.merchant, place, Slice { entries_max: 1, bytes_max: 1 }).await {
            Ok(_) if feed.found_place(self.socket, place) => self.retry_after = RETRY_AFTER,
            Ok(_) => {
                self.retry_after = RETRY_AFTER;
                feed.expect(place.seq);
                let _ = tokio::time::timeout(FEED_WAIT_MAX, moved).await;
            }
            Err(Error::SnapshotRequired(_)) => feed.lost_place(self.socket),
            Err(error) => self.pause(error).await,
        }
    }

    /// Fills the ring from this place on, together with all who ask for it now. If that does not succeed, the journal is
    /// read for this screen alone, which then also says why.
    async fn recall(&self, cursor: Position) {
        let (feed, source) = (self.feed.clone(), self.stock.source.clone());
        let answer = move |cursors: Vec<Position>| {
            let (feed, source) = (feed.clone(), source.clone());
            async move {
                recall(&feed, &source, &cursors).await;
                Ok(vec![(); cursors.len()])
            }
        };
        let _ = self.stock.recalls.ask(self.feed.merchant, cursor, answer).await;
    }

    async fn skip(&mut self, why: SnapshotRequired) -> Result<(), SendError> {
        metrics::counter!("tillwire_gateway_snapshots_required_total").increment(1);
        if why.reason == SnapshotReason::Diverged {
            // Perhaps it is our own head that is of another history.
            self.feed.suspect();
        }
        while !self.feed.skip(self.socket, &why) {
            self.socket.drained().await?;
        }
        self.has_skipped = true;
        // At once: it may be cut long before it has caught up, and would then say that it was shown what it skipped.
        self.store(&[]).await;
        Ok(())
    }
}

/// One of the screens that are behind, as long as it is.
struct Behind;

impl Behind {
    fn begins() -> Self {
        metrics::gauge!("tillwire_gateway_behind_screens").increment(1);
        Self
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        metrics::gauge!("tillwire_gateway_behind_screens").decrement(1);
    }
}
