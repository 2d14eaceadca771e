//! A WebSocket under a session: tungstenite reads, this module writes.
//!
//! Server frames are not masked, so a packet's frames are the same bytes for every socket. They go from the shared
//! [`Encoded`] straight to the kernel, many in one vectored write, with no buffer per connection. What tungstenite itself
//! wants to say while it reads (pong, close) is caught in [`Wire`] and sent between two packets, never inside one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::Stream;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{Role, WebSocketConfig},
    },
};

use super::session::Session;
use crate::{CloseReason, Encoded};

/// tungstenite allocates and zeroes this up front, and grows it for a larger message. In bytes.
const READ_BUFFER: usize = 1024;
/// Pongs and closes that may wait for a packet to end, in bytes: eight of the largest.
const CONTROL_MAX: usize = 8 * 127;
/// Packets handed to the kernel in one write.
const SLICES_MAX: usize = 128;
/// Time a peer has to answer a close before the connection is dropped.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// A batch that once grew beyond this many packets gives its memory back.
const BATCH_KEPT: usize = 16;

pub(crate) struct WebSocket {
    stream: WebSocketStream<Wire>,
    batch: VecDeque<Encoded>,
    /// Bytes of the first packet in `batch` that have left.
    offset: usize,
    unflushed: bool,
    /// The peer sent its close frame, or its end of the stream.
    peer_closed: bool,
    /// When the peer last took a byte, or the write began.
    moved_at: Instant,
}

impl WebSocket {
    pub async fn new(io: Upgraded, message_max: usize) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_MAX)
            .max_message_size(Some(message_max))
            .max_frame_size(Some(message_max));
        let wire = Wire { io: TokioIo::new(io), control: Vec::new() };
        Box::new(WebSocket {
            stream: WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await,
            batch: VecDeque::new(),
            offset: 0,
            unflushed: false,
            peer_closed: false,
            moved_at: Instant::now(),
        })
    }

    /// The next message; `None` once the peer has closed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Message, CloseReason>>> {
        let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            None | Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed)) => None,
            Some(Ok(message)) => Some(Ok(message)),
            Some(Err(Error::Capacity(_))) => Some(Err(CloseReason::TooLarge)),
            Some(Err(Error::Io(_) | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                Some(Err(CloseReason::ConnectionLost))
            }
            Some(Err(_)) => Some(Err(CloseReason::BadPacket)),
        };
        self.peer_closed |= message.is_none();
        Poll::Ready(message)
    }

    /// Since when a write has been waiting for the peer, if one is.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.batch.is_empty() || self.unflushed).then_some(self.moved_at)
    }

    /// Writes the session's queue until it is empty (ready) or the peer takes no more (pending).
    pub fn poll_write(&mut self, cx: &mut Context<'_>, session: &Session) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_batch(cx, Some(session)))?;
            session.take(&mut self.batch);
            if self.batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.moved_at = Instant::now();
        }
    }

    /// Says one packet to the peer outside any session: the probe's answer, a close.
    pub async fn say(&mut self, packet: Encoded) -> io::Result<()> {
        self.batch.push_back(packet);
        poll_fn(|cx| self.poll_batch(cx, None)).await
    }

    /// Says goodbye and waits until the peer does, or hangs up, for `CLOSE_WAIT` at most. What was not written before is dropped,
    /// but a packet already begun is ended, for a frame cannot be torn.
    pub async fn part(&mut self, session: Option<&Session>, code: u16, reason: &str) {
        // An error here is a peer that has gone first.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.say_goodbye(session, code, reason)).await;
    }

    async fn say_goodbye(&mut self, session: Option<&Session>, code: u16, reason: &str) -> io::Result<()> {
        let begun = usize::from(self.offset > 0);
        let dropped = self.batch.split_off(begun.min(self.batch.len()));
        if let Some(session) = session {
            session.written(dropped.len(), dropped.iter().map(Encoded::size).sum());
        }
        poll_fn(|cx| self.poll_batch(cx, session)).await?;
        if self.peer_closed {
            // One more read has tungstenite say its answer to the peer's close.
            let _ = poll_fn(|cx| self.poll_read(cx)).await;
            poll_fn(|cx| self.poll_batch(cx, None)).await?;
            return poll_fn(|cx| Pin::new(&mut self.wire().io).poll_shutdown(cx)).await;
        }
        self.say(Encoded::close_frame(code, reason)).await?;
        while let Some(Ok(_)) = poll_fn(|cx| self.poll_read(cx)).await {}
        poll_fn(|cx| Pin::new(&mut self.wire().io).poll_shutdown(cx)).await?;
        if !self.peer_closed {
            // What cannot be read as frames any more is still read: closing on unread bytes would take the close frame back.
            let mut waste = [0; READ_BUFFER];
            while self.wire().io.read(&mut waste).await? > 0 {}
        }
        Ok(())
    }

    /// Gives back what will never be written.
    pub fn abandon(&mut self, session: &Session) {
        session.written(self.batch.len(), self.batch.iter().map(Encoded::size).sum());
        self.batch.clear();
    }

    fn wire(&mut self) -> &mut Wire {
        self.stream.get_mut()
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, session: Option<&Session>) -> Poll<io::Result<()>> {
        loop {
            if self.offset == 0 && !self.wire().control.is_empty() {
                let sent = ready!(self.wire().poll_control(cx))?;
                self.moved(sent)?;
                continue;
            }
            if self.batch.is_empty() {
                break;
            }
            let sent = ready!(self.poll_slices(cx))?;
            self.moved(sent)?;
            let (packets, bytes) = self.advance(sent);
            if let Some(session) = session
                && packets > 0
            {
                session.written(packets, bytes);
            }
        }
        if self.batch.capacity() > BATCH_KEPT {
            self.batch = VecDeque::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.wire().io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn moved(&mut self, sent: usize) -> io::Result<()> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.moved_at = Instant::now();
        Ok(())
    }

    fn poll_slices(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let WebSocket { stream, batch, offset, .. } = self;
        let io = Pin::new(&mut stream.get_mut().io);
        let mut from = *offset;
        let slices = batch.iter().map(|packet| &packet.frames()[std::mem::take(&mut from)..]);
        let mut vector = [IoSlice::new(&[]); SLICES_MAX];
        let mut filled = 0;
        for (slot, slice) in vector.iter_mut().zip(slices) {
            *slot = IoSlice::new(slice);
            filled += 1;
        }
        io.poll_write_vectored(cx, &vector[..filled])
    }

    /// Lets go of the packets that have left whole. Their number and bytes.
    fn advance(&mut self, sent: usize) -> (usize, usize) {
        self.offset += sent;
        let (mut packets, mut bytes) = (0, 0);
        while let Some(first) = self.batch.front()
            && self.offset >= first.size()
        {
            self.offset -= first.size();
            bytes += first.size();
            packets += 1;
            self.batch.pop_front();
        }
        (packets, bytes)
    }
}

/// The stream as tungstenite sees it: reads are real, writes are kept for the next gap between packets.
struct Wire {
    io: TokioIo<Upgraded>,
    control: Vec<u8>,
}

impl Wire {
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.control))?;
        self.control.drain(..sent);
        if self.control.is_empty() {
            self.control = Vec::new();
        }
        Poll::Ready(Ok(sent))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // Tungstenite keeps one pong and tries again with the next read, so no waker is needed.
        if self.control.len() + bytes.len() > CONTROL_MAX {
            return Poll::Pending;
        }
        self.control.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
