//! Engine.IO 4: sessions over long-polling and WebSocket, and the way from one to the other.
//!
//! A session is one task (`driver`) that owns its timers, its application's state and, once there is one, its
//! WebSocket. HTTP requests of a polling session only put packets down and pick packets up (`polling`). This module never
//! looks into a message; that is the [`Application`]'s.

pub(crate) mod addresses;
mod driver;
mod echo;
pub(crate) mod frames;
mod handshake;
mod http;
pub(crate) mod packet;
mod polling;
#[cfg(test)]
mod properties;
mod session;
mod sessions;
mod websocket;

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[doc(hidden)]
pub use echo::FrameEcho;
pub use handshake::{Handshake, Transport, session_id};
pub use http::{EngineService, ReplyBody};

pub(crate) use session::Session;

use crate::{CloseReason, Config, Encoded, RefusedReason, SendError, counters::Counters, pace::Paced};
use addresses::Addresses;
use sessions::Sessions;

/// What is spoken over Engine.IO: Socket.IO, or an echo.
pub trait Application: Send + Sync + 'static {
    /// The application's side of one session.
    type Conversation: Conversation;

    /// A session was opened.
    fn open(&self, session: EngineSocket, handshake: Arc<Handshake>) -> Self::Conversation;
}

/// The application's side of one session, owned and called by that session's task.
pub trait Conversation: Send + 'static {
    /// A message came. An error closes the session.
    ///
    /// # Errors
    /// The reason to close for.
    fn receive(&mut self, message: Message<'_>) -> Result<(), CloseReason>;

    /// Whether another message may come now. While not, the connection is not read and its heartbeat is not counted.
    fn has_room(&self) -> bool {
        true
    }

    /// How the peer stands to what `connect_timeout` waits for.
    fn standing(&self) -> Standing {
        Standing::Inside
    }

    /// Moves the conversation's own work on; ready with a reason to close.
    fn poll_work(&mut self, _: &mut Context<'_>) -> Poll<CloseReason> {
        Poll::Pending
    }

    /// A heartbeat is about to be written; these packets ride in the same write.
    fn before_ping(&mut self) -> Vec<Encoded> {
        Vec::new()
    }

    /// The session has ended.
    fn finish(self, reason: CloseReason) -> impl Future<Output = ()> + Send;
}

/// How a peer stands to what its session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not asked yet, was refused, or has left.
    Outside,
    /// It has asked, and it is our turn.
    Asking,
    /// It takes part.
    Inside,
}

/// A message from a client.
#[derive(Debug)]
pub enum Message<'a> {
    /// A text message, without Engine.IO's leading `4`.
    Text(&'a str),
    /// A binary message.
    Binary(&'a Bytes),
}

/// A session as its application sees it. Its id stays private.
#[derive(Clone)]
pub struct EngineSocket {
    pub(crate) session: Arc<Session>,
}

impl EngineSocket {
    /// Queues a batch whole, or not at all.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::TooLarge`] or [`SendError::Closed`].
    pub fn try_send(&self, batch: &[Encoded]) -> Result<(), SendError> {
        self.session.try_send(batch, usize::MAX)
    }

    /// Queues a batch once there is room for all of it.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] or [`SendError::Closed`].
    pub async fn send(&self, batch: &[Encoded]) -> Result<(), SendError> {
        self.session.send(batch, || false).await
    }

    /// Closes the session.
    pub fn close(&self, reason: CloseReason) {
        self.session.close(reason);
    }
}

impl fmt::Debug for EngineSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineSocket").finish_non_exhaustive()
    }
}

/// What all sessions of one server share.
pub(crate) struct Shared {
    pub config: Config,
    pub counters: Counters,
    pub packets: Packets,
    sessions: Sessions,
    seats: AtomicUsize,
    addresses: Addresses,
    handshakes: Mutex<Paced>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// Packets every session sends.
pub(crate) struct Packets {
    pub ping: Encoded,
    pub close: Encoded,
    pub probed: Encoded,
}

impl Shared {
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Shared {
            config,
            counters: Counters::default(),
            packets: Packets {
                ping: Encoded::engine_text("2"),
                close: Encoded::engine_text("1"),
                probed: Encoded::engine_text("3probe"),
            },
            sessions: Sessions::default(),
            seats: AtomicUsize::new(0),
            addresses: Addresses::default(),
            handshakes: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// A place for one more session, unless all are taken, this address has its share, too many come at once or the server is
    /// stopping. Whoever is refused for one reason uses nothing up of the bounds asked for later.
    fn seat(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Seat, RefusedReason> {
        if self.stopping.is_cancelled() {
            return Err(RefusedReason::Stopping);
        }
        let free = |taken| (taken < self.config.sockets_max).then_some(taken + 1);
        if self.seats.fetch_update(Relaxed, Relaxed, free).is_err() {
            return Err(RefusedReason::TooManySockets);
        }
        // From here on its drop gives back what was taken.
        let mut seat = Seat { shared: self.clone(), address: None };
        if let (Some(address), Some(max)) = (address, self.config.sockets_per_address_max) {
            if !self.addresses.enter(address, max) {
                return Err(RefusedReason::TooManySocketsOfAddress);
            }
            seat.address = Some(address);
        }
        if let Some(pace) = self.config.handshakes
            && !self.handshakes.lock().unwrap_or_else(PoisonError::into_inner).admits(pace, Instant::now())
        {
            return Err(RefusedReason::TooManyHandshakes);
        }
        Ok(seat)
    }

    /// Asks every session to close, `slice` at a time with a pause between.
    pub async fn close_all(&self, reason: CloseReason, slice: usize, pause: Duration) {
        let sessions = self.sessions.all();
        let mut slices = sessions.chunks(slice.max(1)).peekable();
        while let Some(slice) = slices.next() {
            slice.iter().for_each(|session| session.close(reason));
            if slices.peek().is_some() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Refuses new sessions from now on.
    pub fn refuse_new(&self) {
        self.stopping.cancel();
    }

    /// Refuses new sessions, closes those there are and waits for every task.
    pub async fn shutdown(&self) {
        self.refuse_new();
        self.tasks.close();
        for session in self.sessions.all() {
            session.close(CloseReason::ShuttingDown);
        }
        self.tasks.wait().await;
    }
}

/// One session's place among `sockets_max`, and among those of its address; dropping it frees the place.
struct Seat {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.seats.fetch_sub(1, Relaxed);
        if let Some(address) = self.address {
            self.shared.addresses.leave(address);
        }
    }
}

/// A session in the registry. Dropping it ends the session for everyone, also when its task panics.
struct Registered {
    session: Arc<Session>,
    _seat: Seat,
}

impl Registered {
    /// `None` if the id is taken, or the server began to stop meanwhile.
    fn new(seat: Seat, transport: Transport) -> Option<Self> {
        let shared = seat.shared.clone();
        let session = Session::new((shared.config.session_id)().into(), shared.clone(), transport);
        if !shared.sessions.insert(&session) {
            return None;
        }
        shared.counters.opened(transport);
        let registered = Registered { session, _seat: seat };
        // Shutdown looks once at all sessions; one that came in between must see it by itself.
        (!shared.stopping.is_cancelled()).then_some(registered)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let session = &self.session;
        session.shared.sessions.remove(&session.sid);
        session.shared.counters.ended(session.transport());
        session.end();
    }
}
