//! Counters for metrics. Counting and reading them cost a few atomic operations; only the server's own reasons to close take a lock,
//! for they are not known beforehand.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{CloseReason, Transport};

/// Why a request was refused before it reached a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum RefusedReason {
    /// Wrong `EIO` or `transport`, a method out of place: 400.
    BadRequest,
    /// The `sid` names no session, or one that has ended or been upgraded: 400.
    UnknownSession,
    /// An `Origin` that is not allowed: 403.
    ForeignOrigin,
    /// As many sessions as allowed: 503.
    TooManySockets,
    /// A body above `max_payload`: 413.
    TooLarge,
    /// As many sessions of one address as allowed: 429.
    TooManySocketsOfAddress,
    /// More new sessions at a time than allowed: 503.
    TooManyHandshakes,
    /// Shutting down: 503.
    Stopping,
}

impl RefusedReason {
    /// Names in snake case, in the order of the variants.
    pub const NAMES: [&'static str; 8] = [
        "bad_request",
        "unknown_session",
        "foreign_origin",
        "too_many_sockets",
        "too_large",
        "too_many_sockets_of_address",
        "too_many_handshakes",
        "stopping",
    ];

    /// A stable name in snake case, fit for a metric's label.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    sessions: [AtomicUsize; 2],
    handshakes: [AtomicU64; 2],
    upgrades: AtomicU64,
    refused: [AtomicU64; RefusedReason::NAMES.len()],
    closed: [AtomicU64; CloseReason::KINDS.len()],
    closed_for: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    pub fn opened(&self, transport: Transport) {
        self.sessions[transport as usize].fetch_add(1, Relaxed);
        self.handshakes[transport as usize].fetch_add(1, Relaxed);
    }

    pub fn upgraded(&self) {
        self.sessions[Transport::Polling as usize].fetch_sub(1, Relaxed);
        self.sessions[Transport::WebSocket as usize].fetch_add(1, Relaxed);
        self.upgrades.fetch_add(1, Relaxed);
    }

    pub fn ended(&self, transport: Transport) {
        self.sessions[transport as usize].fetch_sub(1, Relaxed);
    }

    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason.kind()].fetch_add(1, Relaxed);
        if let CloseReason::Server { text, .. } = reason {
            *self.closed_for.lock().unwrap_or_else(PoisonError::into_inner).entry(text).or_default() += 1;
        }
    }

    pub fn refused(&self, reason: RefusedReason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> CountersView {
        let [polling, websocket] = &self.sessions;
        CountersView {
            sessions_polling: polling.load(Relaxed),
            sessions_websocket: websocket.load(Relaxed),
            handshakes_polling: self.handshakes[0].load(Relaxed),
            handshakes_websocket: self.handshakes[1].load(Relaxed),
            upgrades: self.upgrades.load(Relaxed),
            refused: std::array::from_fn(|k| (RefusedReason::NAMES[k], self.refused[k].load(Relaxed))),
            closed: std::array::from_fn(|k| (CloseReason::KINDS[k], self.closed[k].load(Relaxed))),
            closed_for: self.closed_for.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// What the counters showed at one moment. All but the two `sessions_…` only ever grow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CountersView {
    /// Open sessions on long-polling, now.
    pub sessions_polling: usize,
    /// Open sessions on WebSocket, now.
    pub sessions_websocket: usize,
    /// Sessions that began with long-polling.
    pub handshakes_polling: u64,
    /// Sessions that began with WebSocket.
    pub handshakes_websocket: u64,
    /// Sessions that went from long-polling to WebSocket.
    pub upgrades: u64,
    /// Requests refused, by [`RefusedReason`].
    pub refused: [(&'static str, u64); RefusedReason::NAMES.len()],
    /// Sessions closed and sockets that left, by [`CloseReason::name`].
    pub closed: [(&'static str, u64); CloseReason::KINDS.len()],
    /// What is `server` among them, by the text of [`CloseReason::Server`].
    pub closed_for: BTreeMap<&'static str, u64>,
}

impl CountersView {
    /// Sessions closed, or sockets that left, for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason.kind()].1
    }

    /// Requests refused for this reason.
    pub fn refused(&self, reason: RefusedReason) -> u64 {
        self.refused[reason as usize].1
    }
}
