//! Acknowledgements, both ways.

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use socketioxide_core::{Value, parser::Parse};
use socketioxide_parser_common::CommonParser;
use tokio::{sync::oneshot, time::Sleep};

use crate::{AckError, Encoded, SendError, socket::Socket};

/// Answers one event of a client. An event that asked for no answer has a sender too, which sends nothing.
///
/// As a handler's argument it takes the event's id; the client waits until [`AckSender::send`], or for its own time-out.
#[derive(Debug)]
pub struct AckSender {
    pub(crate) socket: Arc<Socket>,
    pub(crate) id: Option<u64>,
}

impl AckSender {
    /// Whether the client asked for an answer.
    pub fn is_wanted(&self) -> bool {
        self.id.is_some()
    }

    /// Queues the answer. A tuple becomes several arguments; bytes become attachments.
    ///
    /// # Errors
    /// As [`SocketRef::try_send`](crate::Socket::try_send), or [`SendError::Encode`].
    pub fn send<T: Serialize + ?Sized>(self, args: &T) -> Result<(), SendError> {
        let Some(id) = self.id else { return Ok(()) };
        let packet = Encoded::ack(self.socket.ns(), id, args)?;
        self.socket.try_send(&[packet])
    }

    /// The same, waiting for room in the queue.
    ///
    /// # Errors
    /// [`SendError::TooLarge`], [`SendError::Closed`] or [`SendError::Encode`].
    pub async fn send_when_room<T: Serialize + ?Sized>(self, args: &T) -> Result<(), SendError> {
        let Some(id) = self.id else { return Ok(()) };
        let packet = Encoded::ack(self.socket.ns(), id, args)?;
        self.socket.send(&[packet]).await
    }

    pub(crate) fn into_packet(self, args: &crate::Raw) -> Option<(Arc<Socket>, Encoded)> {
        let packet = args.ack(self.socket.ns(), self.id?);
        Some((self.socket, packet))
    }

    /// Answers with arguments as they came, attachments included.
    ///
    /// # Errors
    /// As [`AckSender::send`].
    pub fn send_raw(self, args: &crate::Raw) -> Result<(), SendError> {
        match self.into_packet(args) {
            Some((socket, packet)) => socket.try_send(&[packet]),
            None => Ok(()),
        }
    }
}

/// Answers a socket waits for: few at a time, so a list is smaller and no slower than a map.
#[derive(Default)]
pub(crate) struct PendingAcks {
    next: u64,
    waiting: Vec<(u64, oneshot::Sender<Value>)>,
}

impl PendingAcks {
    /// An id for one more event, unless `max` are waited for.
    pub fn expect(&mut self, max: usize) -> Option<(u64, oneshot::Receiver<Value>)> {
        if self.waiting.len() >= max {
            return None;
        }
        let id = self.next;
        self.next += 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.push((id, sender));
        Some((id, receiver))
    }

    pub fn forget(&mut self, id: u64) -> Option<oneshot::Sender<Value>> {
        let at = self.waiting.iter().position(|(waiting, _)| *waiting == id)?;
        Some(self.waiting.swap_remove(at).1)
    }

    pub fn clear(&mut self) {
        self.waiting = Vec::new();
    }
}

/// A client's answer to come. Dropping it stops waiting.
pub struct AckFuture<T> {
    socket: Arc<Socket>,
    id: u64,
    answer: oneshot::Receiver<Value>,
    timeout: Pin<Box<Sleep>>,
    shape: PhantomData<fn() -> T>,
}

impl<T> AckFuture<T> {
    pub(crate) fn new(socket: Arc<Socket>, id: u64, answer: oneshot::Receiver<Value>, timeout: Duration) -> Self {
        AckFuture { socket, id, answer, timeout: Box::pin(tokio::time::sleep(timeout)), shape: PhantomData }
    }
}

impl<T: DeserializeOwned> Future for AckFuture<T> {
    type Output = Result<T, AckError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.answer).poll(cx) {
            Poll::Ready(Ok(mut args)) => {
                return Poll::Ready(CommonParser.decode_value(&mut args, false).map_err(AckError::Decode));
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(AckError::Closed)),
            Poll::Pending => {}
        }
        self.timeout.as_mut().poll(cx).map(|()| Err(AckError::Timeout))
    }
}

impl<T> Drop for AckFuture<T> {
    fn drop(&mut self) {
        self.socket.forget_ack(self.id);
    }
}

impl<T> fmt::Debug for AckFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckFuture").field("id", &self.id).finish_non_exhaustive()
    }
}
