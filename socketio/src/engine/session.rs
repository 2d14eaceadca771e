//! What a session's task, its HTTP requests and its sockets share: the queue of packets going out, and the wish to close.
//!
//! Invariants: a batch enters the queue whole or not at all; once `closing` is set nothing enters and the first reason stays;
//! no lock is held across an await.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Instant,
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use super::{Shared, polling::Polling};
use crate::{CloseReason, Encoded, SendError, Transport};

/// Room beyond the queue's bound for what the server must answer: replies to CONNECT, pings. In packets. Pings that ride
/// along with what is sent come on top, see [`Config::ping_bytes`](crate::Config::ping_bytes).
const CONTROL_RESERVE: usize = 32;
/// Pings that may be unanswered before none rides along any more: somebody who answers none is cut soon.
const PINGS_MAX: usize = 256;
/// A drained queue that once grew beyond this many packets gives its memory back.
const QUEUE_KEPT: usize = 16;

pub(crate) struct Session {
    /// The private session id: whoever knows it owns a polling session, so it is never shown or logged.
    pub sid: Arc<str>,
    pub shared: Arc<Shared>,
    /// When it was made, which is before the client knows of it: both count from here.
    pub opened_at: Instant,
    state: Mutex<State>,
    task: AtomicWaker,
    changed: Notify,
}

pub(crate) struct State {
    pub queue: VecDeque<Encoded>,
    /// Packets queued or on their way to the kernel.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Packets that have ever left.
    left: u64,
    /// How many have to have left for what is timed to have, and from when the time is counted.
    timed: Option<(u64, Instant)>,
    pub closing: Option<CloseReason>,
    /// Polling state until the session is on a WebSocket.
    pub polling: Option<Box<Polling>>,
    pub pong_due: Option<Instant>,
    /// Pings queued so far. It wraps.
    pings: u32,
    /// For each ping that is not answered, how many bytes lie between it and the one before.
    unanswered: VecDeque<usize>,
    /// Bytes queued since the last ping.
    since_ping: usize,
    /// Bytes queued that no pong has confirmed.
    unconfirmed: usize,
}

impl Session {
    pub fn new(sid: Arc<str>, shared: Arc<Shared>, transport: Transport) -> Arc<Self> {
        let polling = matches!(transport, Transport::Polling).then(Box::default);
        Arc::new(Session {
            sid,
            shared,
            opened_at: Instant::now(),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                packets: 0,
                bytes: 0,
                left: 0,
                timed: None,
                closing: None,
                polling,
                pong_due: None,
                pings: 0,
                unanswered: VecDeque::new(),
                since_ping: 0,
                unconfirmed: 0,
            }),
            task: AtomicWaker::new(),
            changed: Notify::new(),
        })
    }

    /// The shared state. A panic elsewhere leaves it whole, for no code in this crate panics while it holds it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn transport(&self) -> Transport {
        if self.state().polling.is_some() { Transport::Polling } else { Transport::WebSocket }
    }

    pub fn wake_on_change(&self, waker: &Waker) {
        self.task.register(waker);
    }

    pub fn wake_task(&self) {
        self.task.wake();
    }

    /// A socket has left: its senders stop waiting, and the task sees to the rest.
    pub fn socket_left(&self) {
        self.changed.notify_waiters();
        self.task.wake();
    }

    /// Queues a batch whole, or leaves the queue as it was. Full is also a queue with more than this many bytes before the
    /// batch that the peer has not confirmed.
    pub fn try_send(&self, batch: &[Encoded], unconfirmed_max: usize) -> Result<(), SendError> {
        let config = &self.shared.config;
        let bytes: usize = batch.iter().map(Encoded::size).sum();
        let mut state = self.state();
        if state.closing.is_some() {
            return Err(SendError::Closed);
        }
        if batch.len() > config.queue_packets_max || bytes > config.queue_bytes_max {
            return Err(SendError::TooLarge);
        }
        if state.packets + batch.len() > config.queue_packets_max
            || state.bytes + bytes > config.queue_bytes_max
            || state.unconfirmed > unconfirmed_max
        {
            return Err(SendError::Full);
        }
        state.enqueue(batch, bytes, &self.shared);
        self.wake_writer(state);
        Ok(())
    }

    /// Queues a batch as soon as there is room for all of it, unless the sender is `gone` by then.
    pub async fn send(&self, batch: &[Encoded], gone: impl Fn() -> bool) -> Result<(), SendError> {
        loop {
            let changed = self.changed.notified();
            if gone() {
                return Err(SendError::Closed);
            }
            match self.try_send(batch, usize::MAX) {
                Err(SendError::Full) => changed.await,
                answer => return answer,
            }
        }
    }

    /// Queues what the protocol owes the peer. A peer that asks for more than the reserve is closed.
    pub fn send_control(&self, batch: &[Encoded]) {
        let mut state = self.state();
        if state.closing.is_some() {
            return;
        }
        if !self.has_control_room(&state, batch.len()) {
            drop(state);
            return self.close(CloseReason::Overflow);
        }
        batch.iter().for_each(|packet| state.push(packet.clone()));
        self.wake_writer(state);
    }

    fn has_control_room(&self, state: &State, packets: usize) -> bool {
        let config = &self.shared.config;
        let riding_max = config.queue_bytes_max / config.ping_bytes.max(1);
        state.packets + packets <= config.queue_packets_max + riding_max + CONTROL_RESERVE
    }

    /// Resolves when everything queued has been handed to the kernel (or to the poll that fetched it).
    pub async fn drained(&self) -> Result<(), SendError> {
        self.until(|state| state.packets == 0).await
    }

    /// Queues a ping behind everything queued so far and resolves when the peer has answered it.
    pub async fn confirmed(&self) -> Result<(), SendError> {
        let number = {
            let mut state = self.state();
            if state.closing.is_some() {
                return Err(SendError::Closed);
            }
            if !self.has_control_room(&state, 1) {
                return Err(SendError::Full);
            }
            state.ping(&self.shared);
            let number = state.pings;
            self.wake_writer(state);
            number
        };
        // Both counters wrap; their distance is at most what one queue holds.
        self.until(|state| state.answered().wrapping_sub(number) < u32::MAX / 2).await
    }

    /// Resolves when no more than this many bytes are unconfirmed. Where no ping is under way that will tell, one is sent.
    pub async fn confirmed_within(&self, bytes: usize) -> Result<(), SendError> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if state.unconfirmed <= bytes {
                    return Ok(());
                }
                if state.closing.is_some() {
                    return Err(SendError::Closed);
                }
                // Without room something is queued, and the next write looks here again.
                if state.unanswered.is_empty() && self.has_control_room(&state, 1) {
                    state.ping(&self.shared);
                    self.wake_writer(state);
                }
            }
            changed.await;
        }
    }

    /// How many bytes were queued that the peer has not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.state().unconfirmed
    }

    async fn until(&self, met: impl Fn(&State) -> bool) -> Result<(), SendError> {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if met(&state) {
                    return Ok(());
                }
                if state.closing.is_some() {
                    return Err(SendError::Closed);
                }
            }
            changed.await;
        }
    }

    /// Resolves when the session is closing, for whatever reason.
    pub async fn closed(&self) -> CloseReason {
        loop {
            let changed = self.changed.notified();
            if let Some(reason) = self.closing() {
                return reason;
            }
            changed.await;
        }
    }

    /// The heartbeat's own ping: whatever `before` holds rides in the same write.
    pub fn ping(&self, before: &[Encoded], pong_due: Instant) {
        let mut state = self.state();
        state.pong_due = Some(pong_due);
        if state.closing.is_some() {
            return;
        }
        if !self.has_control_room(&state, before.len() + 1) {
            drop(state);
            return self.close(CloseReason::Overflow);
        }
        before.iter().for_each(|packet| state.push(packet.clone()));
        state.ping(&self.shared);
        self.wake_writer(state);
    }

    pub fn pong(&self) {
        let mut state = self.state();
        state.pong_due = None;
        // A pong nobody asked for would confirm what was never received.
        if let Some(bytes) = state.unanswered.pop_front() {
            state.unconfirmed -= bytes;
        }
        if state.unanswered.is_empty() {
            state.unanswered = VecDeque::new();
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Asks the session's task to close. The first reason stays.
    pub fn close(&self, reason: CloseReason) {
        let mut state = self.state();
        state.closing.get_or_insert(reason);
        self.wake_writer(state);
        self.changed.notify_waiters();
    }

    /// Lets go of everything a session holds; sockets that outlive it keep only the shell.
    pub fn end(&self) {
        let mut state = self.state();
        state.closing.get_or_insert(CloseReason::ConnectionLost);
        state.queue = VecDeque::new();
        let polling = state.polling.take();
        drop(state);
        if let Some(mut polling) = polling {
            polling.wake_get().into_iter().chain(polling.wake_post()).for_each(Waker::wake);
        }
        self.changed.notify_waiters();
    }

    pub fn closing(&self) -> Option<CloseReason> {
        self.state().closing
    }

    /// Takes the whole queue to write it. It still counts against the bounds until [`Session::written`].
    pub fn take(&self, into: &mut VecDeque<Encoded>) {
        debug_assert!(into.is_empty(), "a batch is taken when the one before is written");
        mem::swap(&mut self.state().queue, into);
    }

    /// Packets have left, or are lost with their connection.
    pub fn written(&self, packets: usize, bytes: usize) {
        let mut state = self.state();
        state.packets -= packets;
        state.bytes -= bytes;
        state.left += packets as u64;
        if state.packets == 0 && state.queue.capacity() > QUEUE_KEPT {
            state.queue = VecDeque::new();
        }
        let left = state.left;
        // What is lost with its connection has not left.
        let timed = state.timed.take_if(|(mark, _)| left >= *mark).filter(|_| state.closing.is_none());
        drop(state);
        self.changed.notify_waiters();
        if let Some((_, since)) = timed {
            (self.shared.config.on_written)(since.elapsed());
        }
    }

    /// Takes the time from `since` until all that is queued now has left. One at a time: while another is taken, this one is not.
    pub fn time_written(&self, since: Instant) {
        let mut state = self.state();
        if state.timed.is_some() || state.closing.is_some() {
            return;
        }
        if state.packets > 0 {
            state.timed = Some((state.left + state.packets as u64, since));
            return;
        }
        drop(state);
        (self.shared.config.on_written)(since.elapsed());
    }

    /// Wakes whoever writes: the poll that waits, or the task.
    fn wake_writer(&self, mut state: MutexGuard<'_, State>) {
        let poll = state.polling.as_mut().and_then(|polling| polling.wake_get());
        drop(state);
        if let Some(waker) = poll {
            waker.wake();
        }
        self.task.wake();
    }
}

impl State {
    /// Queues a batch, and pings between its packets or before them, so that never more than `ping_bytes` lie between two:
    /// whoever reads slowly hears one in time, and says how far it has come. A batch that is no larger than that is not
    /// interrupted.
    fn enqueue(&mut self, batch: &[Encoded], bytes: usize, shared: &Shared) {
        self.ping_before(bytes, shared);
        for packet in batch {
            self.ping_before(packet.size(), shared);
            self.push(packet.clone());
        }
    }

    fn ping_before(&mut self, bytes: usize, shared: &Shared) {
        let too_many = self.since_ping + bytes > shared.config.ping_bytes;
        if too_many && self.since_ping > 0 && self.unanswered.len() < PINGS_MAX {
            self.ping(shared);
        }
    }

    fn ping(&mut self, shared: &Shared) {
        let ping = shared.packets.ping.clone();
        self.packets += 1;
        self.bytes += ping.size();
        self.queue.push_back(ping);
        self.pings = self.pings.wrapping_add(1);
        self.unanswered.push_back(mem::take(&mut self.since_ping));
    }

    /// Pings answered so far. It wraps.
    fn answered(&self) -> u32 {
        // INVARIANT: there are fewer unanswered ones than a queue and what is on its way can hold.
        self.pings.wrapping_sub(self.unanswered.len() as u32)
    }

    fn push(&mut self, packet: Encoded) {
        let size = packet.size();
        self.packets += 1;
        self.bytes += size;
        self.since_ping += size;
        self.unconfirmed += size;
        self.queue.push_back(packet);
    }

    /// What one poll is answered: as far as the next ping. The client takes an answer in when it has all of it, and what
    /// it is asked behind that ping would have to wait as long.
    pub fn take_for_poll(&mut self, ping: &Encoded) -> VecDeque<Encoded> {
        match self.queue.iter().position(|packet| packet.is(ping)) {
            Some(at) => {
                let rest = self.queue.split_off(at + 1);
                mem::replace(&mut self.queue, rest)
            }
            None => mem::take(&mut self.queue),
        }
    }
}
