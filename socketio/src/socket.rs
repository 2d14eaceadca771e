//! A socket: one client's membership of one namespace.

use std::{
    borrow::Cow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Instant,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::Extensions;
use serde::{Serialize, de::DeserializeOwned};
use socketioxide_core::Value;
use tokio::sync::oneshot;

use crate::{
    AckError, CloseReason, Encoded, Handshake, SendError, Transport,
    ack::{AckFuture, PendingAcks},
    encoded::Kind,
    engine::Session,
    handler::{AnyHandler, Handler, any},
    io::Room,
};

/// A socket's public id: 128 random bits, written as 22 characters. It is not the Engine.IO session id and opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId([u8; 16]);

impl SocketId {
    /// A fresh id.
    pub fn random() -> Self {
        SocketId(rand::random())
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no socket id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASocketId;

impl fmt::Display for NotASocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a socket id")
    }
}

impl std::error::Error for NotASocketId {}

impl FromStr for SocketId {
    type Err = NotASocketId;

    fn from_str(text: &str) -> Result<Self, NotASocketId> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| NotASocketId)?;
        bytes.try_into().map(SocketId).map_err(|_| NotASocketId)
    }
}

/// A handle to a [`Socket`]: cheap to clone, and it may outlive the connection.
///
/// Two are equal if they are of the same connection. A client that [came back](crate::ConnectRequest::recover) has the
/// public id that it had, and another socket.
#[derive(Clone, Debug)]
pub struct SocketRef(pub(crate) Arc<Socket>);

impl SocketRef {
    fn place(&self) -> *const Socket {
        Arc::as_ptr(&self.0)
    }
}

impl PartialEq for SocketRef {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for SocketRef {}

impl Hash for SocketRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

/// Some order, so that lists can be sorted.
impl Ord for SocketRef {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

impl PartialOrd for SocketRef {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// One client in one namespace. See [`SocketRef`], which dereferences to it.
pub struct Socket {
    id: SocketId,
    pub(crate) room: Arc<Room>,
    session: Arc<Session>,
    handshake: Arc<Handshake>,
    extensions: Extensions,
    recovered: bool,
    connected: AtomicBool,
    /// Most have nothing.
    local: Mutex<Option<Box<Local>>>,
}

/// What this socket alone has.
#[derive(Default)]
struct Local {
    events: Vec<(Cow<'static, str>, AnyHandler)>,
    fallback: Option<AnyHandler>,
    disconnected: Option<AnyHandler>,
    acks: PendingAcks,
}

impl Socket {
    pub(crate) fn new(room: Arc<Room>, session: Arc<Session>, request: crate::ConnectRequest) -> Arc<Self> {
        Arc::new(Socket {
            id: request.id,
            room,
            session,
            handshake: request.handshake,
            extensions: request.extensions,
            recovered: request.recovered,
            connected: AtomicBool::new(true),
            local: Mutex::default(),
        })
    }

    /// The public id.
    pub fn id(&self) -> SocketId {
        self.id
    }

    /// The namespace's name.
    pub fn ns(&self) -> &str {
        &self.room.name
    }

    /// Whether middleware [recovered](crate::ConnectRequest::recover) this socket.
    pub fn recovered(&self) -> bool {
        self.recovered
    }

    /// The transport the session is on now.
    pub fn transport(&self) -> Transport {
        self.session.transport()
    }

    /// The session's first request.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// A value that middleware [left](crate::ConnectRequest::insert). For one that changes, leave an `Arc<Mutex<…>>`.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }

    /// Whether the socket is in its namespace and its session not closing.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Acquire) && self.session.closing().is_none()
    }

    /// Queues a batch whole, or nothing of it. The packets leave together, in one write if the kernel takes them, with nothing
    /// between. They must have been encoded for this namespace. The queue's bounds are the connection's.
    ///
    /// # Errors
    /// [`SendError::Full`], [`SendError::TooLarge`] or [`SendError::Closed`].
    pub fn try_send(&self, batch: &[Encoded]) -> Result<(), SendError> {
        self.try_send_within(batch, usize::MAX)
    }

    /// The same while no more than this many bytes before the batch are unconfirmed, see [`Socket::unconfirmed_bytes`].
    ///
    /// # Errors
    /// As [`Socket::try_send`]; [`SendError::Full`] also if more are.
    pub fn try_send_within(&self, batch: &[Encoded], unconfirmed_max: usize) -> Result<(), SendError> {
        self.check_connected()?;
        self.session.try_send(batch, unconfirmed_max)
    }

    /// Queues a batch once there is room for all of it.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] or [`SendError::Closed`].
    pub async fn send(&self, batch: &[Encoded]) -> Result<(), SendError> {
        self.session.send(batch, || self.has_left()).await
    }

    /// How many bytes were queued for the connection that the client has not said to have received: it answers a ping
    /// every [`Config::ping_bytes`](crate::Config::ping_bytes), and those of the heartbeat.
    pub fn unconfirmed_bytes(&self) -> usize {
        self.session.unconfirmed()
    }

    /// Resolves when the connection's queue is empty and written: taken by the kernel, or by the poll that fetched it.
    /// That is not yet received; see [`Socket::confirmed`].
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub async fn drained(&self) -> Result<(), SendError> {
        self.session.drained().await
    }

    /// Has [`Config::on_written`](crate::Config::on_written) told the time from `since` until all that is queued now has been taken by
    /// the kernel, or by the poll that fetched it. A connection takes one time after the other: asked again before that, it passes
    /// the later over. What is lost with the connection is not told.
    pub fn time_written(&self, since: Instant) {
        self.session.time_written(since);
    }

    /// Sends an Engine.IO ping of its own behind all that is queued and resolves when the client, as every client does, has
    /// answered it: everything queued before has been received.
    ///
    /// # Errors
    /// [`SendError::Full`] or [`SendError::Closed`].
    pub async fn confirmed(&self) -> Result<(), SendError> {
        self.check_connected()?;
        self.session.confirmed().await
    }

    /// Resolves when no more than this many bytes are [unconfirmed](Socket::unconfirmed_bytes).
    ///
    /// # Errors
    /// [`SendError::Closed`].
    pub async fn confirmed_within(&self, bytes: usize) -> Result<(), SendError> {
        self.check_connected()?;
        self.session.confirmed_within(bytes).await
    }

    /// Encodes an event and queues it. A tuple becomes several arguments; bytes become attachments.
    ///
    /// # Errors
    /// As [`Socket::try_send`], or [`SendError::Encode`].
    pub fn emit<T: Serialize + ?Sized>(&self, event: &str, args: &T) -> Result<(), SendError> {
        self.try_send(&[Encoded::event_in(self.ns(), event, args)?])
    }

    /// Leaves the namespace: the client gets packet `41` after all that was queued, and does not come back by itself.
    pub fn disconnect(&self) {
        if self.leave() {
            self.session.send_control(&[Encoded::socketio(Kind::Disconnect, self.ns(), None, "", Vec::new())]);
            self.session.socket_left();
        }
    }

    /// Closes the whole session. What is queued leaves first (for at most `write_deadline`), then a WebSocket gets the reason's
    /// code and text; a polling client gets `1` as the end of its last answer.
    pub fn close(&self, reason: CloseReason) {
        self.session.close(reason);
    }

    /// Resolves when the connection's session is closing, with the reason.
    pub async fn closed(&self) -> CloseReason {
        self.session.closed().await
    }

    /// Handles one kind of event of this socket, in place of the namespace's handler. Events that came before are not
    /// handled again; in a connect handler none has.
    pub fn on<Args: 'static>(&self, event: impl Into<Cow<'static, str>>, handler: impl Handler<Args>) {
        let event = event.into();
        let mut local = self.local();
        let local = local.get_or_insert_default();
        local.events.retain(|(name, _)| *name != event);
        local.events.push((event, any(handler)));
    }

    /// Handles events of this socket that nothing else handles.
    pub fn on_fallback<Args: 'static>(&self, handler: impl Handler<Args>) {
        self.local().get_or_insert_default().fallback = Some(any(handler));
    }

    /// Runs when this socket has left, before the namespace's handler of the same kind.
    pub fn on_disconnect<Args: 'static>(&self, handler: impl Handler<Args>) {
        self.local().get_or_insert_default().disconnected = Some(any(handler));
    }

    fn check_connected(&self) -> Result<(), SendError> {
        if self.connected.load(Acquire) { Ok(()) } else { Err(SendError::Closed) }
    }

    /// True for the one who made it leave.
    pub(crate) fn leave(&self) -> bool {
        self.connected.swap(false, AcqRel)
    }

    pub(crate) fn has_left(&self) -> bool {
        !self.connected.load(Acquire)
    }

    fn local(&self) -> MutexGuard<'_, Option<Box<Local>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits for this answer any more, or it has come.
    pub(crate) fn forget_ack(&self, id: u64) -> Option<oneshot::Sender<Value>> {
        self.local().as_mut()?.acks.forget(id)
    }

    pub(crate) fn forget_acks(&self) {
        if let Some(local) = &mut *self.local() {
            local.acks.clear();
        }
    }

    /// What handles an event: the socket's own handler, the namespace's, or a fallback.
    pub(crate) fn handler(&self, event: &str) -> Option<AnyHandler> {
        let ns = &self.room.namespace;
        let local = self.local();
        let own =
            local.iter().flat_map(|local| &local.events).find(|(name, _)| name == event).map(|(_, handler)| handler);
        let own_fallback = local.as_ref().and_then(|local| local.fallback.as_ref());
        own.or_else(|| ns.events.get(event)).or(own_fallback).or(ns.fallback.as_ref()).cloned()
    }

    pub(crate) fn take_disconnected(&self) -> Option<AnyHandler> {
        self.local().as_mut()?.disconnected.take()
    }
}

impl SocketRef {
    /// Sends an event and waits for the client's answer, for at most `ack_timeout`.
    ///
    /// ```no_run
    /// # async fn example(socket: tillwire_socketio::SocketRef) -> Result<(), Box<dyn std::error::Error>> {
    /// let seen: bool = socket.emit_with_ack("ask", &"did you see it?")?.await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Socket::emit`]; also [`SendError::Full`] while `pending_acks_max` answers are waited for.
    pub fn emit_with_ack<A, T>(&self, event: &str, args: &A) -> Result<AckFuture<T>, SendError>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let config = &self.session.shared.config;
        let expected = self.local().get_or_insert_default().acks.expect(config.pending_acks_max);
        let (id, answer) = expected.ok_or(SendError::Full)?;
        // Made first, so that a packet that is not sent is forgotten with it.
        let future = AckFuture::new(self.0.clone(), id, answer, config.ack_timeout);
        self.try_send(&[Encoded::event_with_ack(self.ns(), event, id, args)?])?;
        Ok(future)
    }

    /// As [`SocketRef::emit_with_ack`], in one await.
    ///
    /// # Errors
    /// The [`AckError`]; a packet that could not be sent is [`AckError::Closed`].
    pub async fn ask<A, T>(&self, event: &str, args: &A) -> Result<T, AckError>
    where
        A: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        self.emit_with_ack(event, args).map_err(|_| AckError::Closed)?.await
    }
}

impl Deref for SocketRef {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.0
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("id", &self.id).field("ns", &self.ns()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_being_written() {
        let id = SocketId::random();
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "abc", "é", &"A".repeat(23)] {
            assert_eq!(wrong.parse::<SocketId>(), Err(NotASocketId));
        }
    }
}
