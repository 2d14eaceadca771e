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

/// Room beyond the queue's bound for what the server must answer: replies to CONNECT, pings. In packets.
const CONTROL_RESERVE: usize = 32;
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
    pub closing: Option<CloseReason>,
    /// Polling state until the session is on a WebSocket.
    pub polling: Option<Box<Polling>>,
    pub pong_due: Option<Instant>,
    pings: u32,
    pongs: u32,
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
                closing: None,
                polling,
                pong_due: None,
                pings: 0,
                pongs: 0,
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

    /// Queues a batch whole, or leaves the queue as it was.
    pub fn try_send(&self, batch: &[Encoded]) -> Result<(), SendError> {
        let config = &self.shared.config;
        let bytes: usize = batch.iter().map(Encoded::size).sum();
        let mut state = self.state();
        if state.closing.is_some() {
            return Err(SendError::Closed);
        }
        if batch.len() > config.queue_packets_max || bytes > config.queue_bytes_max {
            return Err(SendError::TooLarge);
        }
        if state.packets + batch.len() > config.queue_packets_max || state.bytes + bytes > config.queue_bytes_max {
            return Err(SendError::Full);
        }
        state.enqueue(batch.iter().cloned(), bytes);
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
            match self.try_send(batch) {
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
        if state.packets + batch.len() > self.shared.config.queue_packets_max + CONTROL_RESERVE {
            drop(state);
            return self.close(CloseReason::Overflow);
        }
        state.enqueue(batch.iter().cloned(), batch.iter().map(Encoded::size).sum());
        self.wake_writer(state);
    }

    /// Resolves when everything queued has been handed to the kernel (or to the poll that fetched it).
    pub async fn drained(&self) -> Result<(), SendError> {
        self.until(|state| state.packets == 0).await
    }

    /// Queues a ping behind everything queued so far and resolves when the peer has answered it.
    pub async fn confirmed(&self, ping: Encoded) -> Result<(), SendError> {
        let number = {
            let mut state = self.state();
            if state.closing.is_some() {
                return Err(SendError::Closed);
            }
            if state.packets + 1 > self.shared.config.queue_packets_max + CONTROL_RESERVE {
                return Err(SendError::Full);
            }
            let size = ping.size();
            state.enqueue([ping], size);
            state.pings = state.pings.wrapping_add(1);
            let number = state.pings;
            self.wake_writer(state);
            number
        };
        // Both counters wrap; their distance is at most what one queue holds.
        self.until(|state| state.pongs.wrapping_sub(number) < u32::MAX / 2).await
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
    pub fn ping(&self, mut before: Vec<Encoded>, ping: Encoded, pong_due: Instant) {
        before.push(ping);
        {
            let mut state = self.state();
            state.pong_due = Some(pong_due);
            state.pings = state.pings.wrapping_add(1);
        }
        self.send_control(&before);
    }

    pub fn pong(&self) {
        let mut state = self.state();
        state.pong_due = None;
        // A pong nobody asked for would confirm what was never received.
        if state.pongs != state.pings {
            state.pongs = state.pongs.wrapping_add(1);
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
        if state.packets == 0 && state.queue.capacity() > QUEUE_KEPT {
            state.queue = VecDeque::new();
        }
        drop(state);
        self.changed.notify_waiters();
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
    fn enqueue(&mut self, batch: impl IntoIterator<Item = Encoded>, bytes: usize) {
        let before = self.queue.len();
        self.queue.extend(batch);
        self.packets += self.queue.len() - before;
        self.bytes += bytes;
    }
}
