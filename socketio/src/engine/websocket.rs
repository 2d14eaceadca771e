//! A WebSocket under a session: [`Frames`] reads, this module writes.
//!
//! Server frames are not masked, so a packet's frames are the same bytes for every socket. They go from the shared
//! [`Encoded`] straight to the kernel, many in one vectored write. What the peer's pings are answered goes between two packets,
//! never inside one. A connection that is idle holds no buffer in either direction.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    frames::{Frames, Said, Wrong},
    session::Session,
};
use crate::{CloseReason, Encoded};

/// Bytes asked of the kernel at once, into memory on the stack. Reading is therefore free while there is nothing to read.
const READ_MAX: usize = 8 * 1024;
/// Bytes of pongs that may wait for a packet to end. Of those that do not fit, the last is kept, as RFC 6455 §5.5.3 allows.
const PONGS_MAX: usize = 1024;
/// Packets handed to the kernel in one write.
const SLICES_MAX: usize = 128;
/// Time a peer has to answer a close before the connection is dropped.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// A batch that once grew beyond this many packets gives its memory back.
const BATCH_KEPT: usize = 16;

pub(crate) struct WebSocket {
    io: TokioIo<Upgraded>,
    frames: Frames,
    /// What was read behind a message that had to be handled first.
    unread: Bytes,
    reading: Reading,
    batch: VecDeque<Encoded>,
    /// Bytes of the first packet in `batch` that have left.
    offset: usize,
    /// Most peers never ping in this way.
    pongs: Option<Box<Pongs>>,
    unflushed: bool,
    /// When the peer last took a byte, or the write began.
    moved_at: Instant,
}

/// How far the peer's side of the conversation has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer said goodbye, with this code or none.
    Closed(Option<u16>),
    /// It went without a word, or said what cannot be read.
    Broken,
}

#[derive(Default)]
struct Pongs {
    frames: Vec<u8>,
    /// The newest, if `frames` had no room for it.
    late: Vec<u8>,
}

/// A message of a WebSocket.
pub(crate) enum Heard {
    Text(String),
    Binary(Bytes),
}

impl WebSocket {
    pub fn new(io: Upgraded, message_max: usize) -> Box<Self> {
        Box::new(WebSocket {
            io: TokioIo::new(io),
            frames: Frames::new(message_max),
            unread: Bytes::new(),
            reading: Reading::Open,
            batch: VecDeque::new(),
            offset: 0,
            pongs: None,
            unflushed: false,
            moved_at: Instant::now(),
        })
    }

    /// The next message, outside any session; pings are answered meanwhile.
    pub async fn next(&mut self) -> Option<Result<Heard, CloseReason>> {
        poll_fn(|cx| {
            let heard = self.poll_read(cx);
            if heard.is_pending() && self.poll_batch(cx, None).map_err(drop) == Poll::Ready(Err(())) {
                return Poll::Ready(Some(Err(CloseReason::ConnectionLost)));
            }
            heard
        })
        .await
    }

    /// The next message; `None` once the peer has closed. Pings met on the way are answered.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Heard, CloseReason>>> {
        while self.reading == Reading::Open {
            match ready!(self.poll_said(cx)) {
                Ok(None) => {}
                Ok(Some(Said::Text(text))) => return Poll::Ready(Some(Ok(Heard::Text(text)))),
                Ok(Some(Said::Binary(bytes))) => return Poll::Ready(Some(Ok(Heard::Binary(bytes)))),
                Ok(Some(Said::Ping(payload))) => {
                    self.pong(&payload);
                    if self.offset == 0 && self.poll_pongs(cx).map_err(drop) == Poll::Ready(Err(())) {
                        self.reading = Reading::Broken;
                        return Poll::Ready(Some(Err(CloseReason::ConnectionLost)));
                    }
                }
                Ok(Some(Said::Close(code))) => self.reading = Reading::Closed(code),
                Err(reason) => {
                    self.reading = Reading::Broken;
                    return Poll::Ready(Some(Err(reason)));
                }
            }
        }
        Poll::Ready(None)
    }

    /// What the bytes at hand, or else the next ones from the kernel, come to.
    fn poll_said(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Said>, CloseReason>> {
        let said = if self.unread.is_empty() {
            let mut memory = [const { MaybeUninit::uninit() }; READ_MAX];
            let mut buffer = ReadBuf::uninit(&mut memory);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer));
            let mut input = buffer.filled();
            if read.is_err() || input.is_empty() {
                return Poll::Ready(Err(CloseReason::ConnectionLost));
            }
            let said = self.frames.next(&mut input);
            self.unread = Bytes::copy_from_slice(input);
            said
        } else {
            let mut input = &self.unread[..];
            let said = self.frames.next(&mut input);
            let read = self.unread.len() - input.len();
            self.unread.advance(read);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            said
        };
        Poll::Ready(said.map_err(|wrong| match wrong {
            Wrong::Frame => CloseReason::BadPacket,
            Wrong::Text => CloseReason::BadText,
            Wrong::TooLarge => CloseReason::TooLarge,
        }))
    }

    fn pong(&mut self, payload: &[u8]) {
        if self.waiting_since().is_none() {
            self.moved_at = Instant::now();
        }
        let pongs = self.pongs.get_or_insert_default();
        let pong = Encoded::pong_frame(payload);
        if pongs.late.is_empty() && pongs.frames.len() + pong.size() <= PONGS_MAX {
            pongs.frames.extend_from_slice(pong.frames());
        } else {
            pongs.late = pong.frames().to_vec();
        }
    }

    /// Since when a write has been waiting for the peer, if one is.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.batch.is_empty() || self.unflushed || self.pongs.is_some()).then_some(self.moved_at)
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
        if let Reading::Closed(code) = self.reading {
            // RFC 6455 §5.5.1: the answer repeats the code.
            self.say(Encoded::close_frame(code, "")).await?;
            return poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
        }
        self.say(Encoded::close_frame(Some(code), reason)).await?;
        while let Some(Ok(_)) = poll_fn(|cx| self.poll_read(cx)).await {}
        poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await?;
        if self.reading == Reading::Broken {
            // What cannot be read as frames any more is still read: closing on unread bytes would take the close frame back.
            let mut waste = [0; 1024];
            while self.io.read(&mut waste).await? > 0 {}
        }
        Ok(())
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>, session: Option<&Session>) -> Poll<io::Result<()>> {
        loop {
            if self.offset == 0 {
                ready!(self.poll_pongs(cx))?;
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
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the pongs that wait. Never inside a packet.
    fn poll_pongs(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(pongs) = &mut self.pongs {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &pongs.frames))?;
            if !pongs.sent(sent) {
                self.pongs = None;
            }
            self.moved(sent)?;
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
        let WebSocket { io, batch, offset, .. } = self;
        let mut from = *offset;
        if let [packet] = batch.make_contiguous() {
            // The ordinary case, and a plain send is cheaper than a vectored write of one.
            return Pin::new(io).poll_write(cx, &packet.frames()[from..]);
        }
        let slices = batch.iter().map(|packet| &packet.frames()[std::mem::take(&mut from)..]);
        let mut vector = [IoSlice::new(&[]); SLICES_MAX];
        let mut filled = 0;
        for (slot, slice) in vector.iter_mut().zip(slices) {
            *slot = IoSlice::new(slice);
            filled += 1;
        }
        Pin::new(io).poll_write_vectored(cx, &vector[..filled])
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

impl Pongs {
    /// Lets go of what has left; false if that was all.
    fn sent(&mut self, bytes: usize) -> bool {
        self.frames.drain(..bytes);
        if self.frames.is_empty() {
            self.frames = std::mem::take(&mut self.late);
        }
        !self.frames.is_empty()
    }
}
