//! The one task of a session: reads, writes, heartbeats, and moves the application's work on, all in one poll.
//!
//! Invariant: messages reach the conversation in the order they came, those posted before an upgrade first.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::Sleep;
use tracing::debug;

use super::{
    Conversation, Message, Registered, Session, Standing,
    packet::{Head, Packet, head},
    polling::{CLOSE_GRACE, FAREWELL_WAIT, Farewell, Found, TIMER_SLACK},
    websocket::{Heard, WebSocket},
};
use crate::CloseReason;

pub(super) struct Driver<C> {
    registered: Registered,
    conversation: C,
    socket: Option<Box<WebSocket>>,
    /// One timer for every deadline below. It may fire early, never late.
    timer: Pin<Box<Sleep>>,
    ping_at: Instant,
    pong_due: Option<Instant>,
    /// When a peer that takes part in nothing is sent away.
    connect_by: Option<Instant>,
    /// Whether that was put off because it had asked.
    has_asked: bool,
}

impl<C: Conversation> Driver<C> {
    /// On the heap: the task that runs it would hold it twice.
    pub fn new(registered: Registered, conversation: C, socket: Option<Box<WebSocket>>) -> Box<Self> {
        let (config, opened_at) = (&registered.session.shared.config, registered.session.opened_at);
        let ping_at = opened_at + config.ping_interval;
        let connect_by = Some(opened_at + config.connect_timeout);
        let timer = Box::pin(tokio::time::sleep_until(ping_at.into()));
        Box::new(Driver {
            registered,
            conversation,
            socket,
            timer,
            ping_at,
            pong_due: None,
            connect_by,
            has_asked: false,
        })
    }

    /// Runs the session to its end.
    pub async fn run(mut self: Box<Self>) {
        let reason = poll_fn(|cx| self.poll(cx)).await;
        let session = self.session().clone();
        session.close(reason);
        // Whoever closed first named the reason.
        let reason = session.closing().unwrap_or(reason);
        session.release_post();
        session.shared.counters.closed(reason);
        debug!(reason = reason.name(), "Closing a session");
        let Driver { registered, conversation, mut socket, .. } = *self;
        if let Some(upgraded) = session.take_upgraded() {
            session.shared.counters.upgraded();
            socket = Some(upgraded);
        }
        let part = async move {
            match &mut socket {
                Some(socket) => part_websocket(socket, &session, reason).await,
                None => part_polling(&session, reason).await,
            }
            drop(registered);
        };
        // Side by side, for a handler must not wait for a peer that is slow to leave. On the heap, for this comes once and the
        // task is this large all its life.
        Box::pin(async move { tokio::join!(part, conversation.finish(reason)) }).await;
    }

    fn session(&self) -> &Arc<Session> {
        &self.registered.session
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        self.session().wake_on_change(cx.waker());
        loop {
            if let Poll::Ready(reason) = self.conversation.poll_work(cx) {
                return Poll::Ready(reason);
            }
            if let Some(reason) = self.session().closing() {
                return Poll::Ready(reason);
            }
            let read = match self.poll_read(cx) {
                Ok(read) => read,
                Err(reason) => return Poll::Ready(reason),
            };
            if let Err(reason) = self.poll_write(cx) {
                return Poll::Ready(reason);
            }
            if !read {
                return self.poll_timers(cx);
            }
        }
    }

    /// Reads one message, if there is one and room for it. True if something moved.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if !self.conversation.has_room() {
            return Ok(false);
        }
        let Some(socket) = &mut self.socket else { return self.read_posted() };
        let message = match socket.poll_read(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Err(CloseReason::ClientClosed),
            Poll::Ready(Some(message)) => message?,
        };
        match message {
            Heard::Text(text) => match head(&text).ok_or(CloseReason::BadPacket)? {
                Head::Message(message) => self.conversation.receive(Message::Text(message))?,
                Head::Close => return Err(CloseReason::ClientClosed),
                Head::Pong => self.pong(),
                Head::Nothing => {}
            },
            Heard::Binary(bytes) => self.conversation.receive(Message::Binary(&bytes))?,
        }
        Ok(true)
    }

    fn read_posted(&mut self) -> Result<bool, CloseReason> {
        match self.session().next_posted() {
            Found::Nothing => return Ok(false),
            Found::Upgraded(socket) => {
                self.session().shared.counters.upgraded();
                self.socket = Some(socket);
            }
            Found::Packet(Packet::Text(message)) => self.conversation.receive(Message::Text(&message))?,
            Found::Packet(Packet::Binary(message)) => self.conversation.receive(Message::Binary(&message))?,
            Found::Packet(Packet::Close) => return Err(CloseReason::ClientClosed),
            Found::Packet(Packet::Pong) => self.pong(),
            Found::Packet(Packet::Nothing) => {}
        }
        Ok(true)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        let Driver { socket, registered, .. } = self;
        match socket.as_mut().map(|socket| socket.poll_write(cx, &registered.session)) {
            Some(Poll::Ready(Err(_))) => Err(CloseReason::ConnectionLost),
            _ => Ok(()),
        }
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let now = Instant::now();
            if let Some(reason) = self.overdue(now) {
                return Poll::Ready(reason);
            }
            if self.pong_due.is_none() && now >= self.ping_at {
                self.ping(now);
                // The ping is in the queue; on a WebSocket this poll writes it.
                if let Err(reason) = self.poll_write(cx) {
                    return Poll::Ready(reason);
                }
            }
            let next = self.next_deadline();
            // An earlier deadline re-arms the timer; a later one only makes it fire once for nothing.
            if next < self.timer.deadline().into_std() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn overdue(&mut self, now: Instant) -> Option<CloseReason> {
        self.keep_connect_clock(now);
        if self.connect_by.is_some_and(|by| now >= by) {
            return Some(CloseReason::ConnectTimeout);
        }
        if self.stalls_at().is_some_and(|at| now >= at) {
            return Some(CloseReason::Stalled);
        }
        if self.pong_due.is_some_and(|due| now >= due) {
            if self.conversation.has_room() {
                return Some(CloseReason::PingTimeout);
            }
            // We are the slow ones: the pong may lie unread behind events nobody has handled yet.
            self.wait_for_pong(now);
        }
        None
    }

    /// A peer has a while to ask, and we have as long again to answer. Whoever asks a second time goes on with what is left of
    /// that, or wrong tokens would keep a session open; whoever has left begins anew.
    fn keep_connect_clock(&mut self, now: Instant) {
        let standing = self.conversation.standing();
        if standing == Standing::Inside {
            (self.connect_by, self.has_asked) = (None, false);
            return;
        }
        let asks_first = standing == Standing::Asking && !self.has_asked;
        if asks_first || self.connect_by.is_none() {
            self.connect_by = Some(now + self.session().shared.config.connect_timeout);
        }
        self.has_asked |= asks_first;
    }

    fn next_deadline(&self) -> Instant {
        let heartbeat = self.pong_due.unwrap_or(self.ping_at);
        [self.connect_by, self.stalls_at()].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    fn stalls_at(&self) -> Option<Instant> {
        let since = self.socket.as_ref()?.waiting_since()?;
        Some(since + self.session().shared.config.write_deadline)
    }

    fn ping(&mut self, now: Instant) {
        let before = self.conversation.before_ping();
        // The peer counts from when the ping was due. One that leaves much later gives it the whole time.
        let from = if now - self.ping_at < TIMER_SLACK { self.ping_at } else { now };
        let pong_due = from + self.session().shared.config.ping_timeout;
        self.pong_due = Some(pong_due);
        self.session().ping(&before, pong_due);
    }

    fn wait_for_pong(&mut self, now: Instant) {
        let pong_due = now + self.session().shared.config.ping_timeout;
        self.pong_due = Some(pong_due);
        self.session().state().pong_due = Some(pong_due);
    }

    fn pong(&mut self) {
        self.session().pong();
        self.pong_due = None;
        self.ping_at = Instant::now() + self.session().shared.config.ping_interval;
    }
}

/// Ends a WebSocket: what is queued goes out first if the server chose to close, then the close frame.
async fn part_websocket(socket: &mut WebSocket, session: &Arc<Session>, reason: CloseReason) {
    if reason.is_ours() {
        let flush = poll_fn(|cx| socket.poll_write(cx, session));
        let _ = tokio::time::timeout(session.shared.config.write_deadline, flush).await;
    }
    if !reason.is_silent() {
        let (code, text) = reason.frame();
        socket.part(Some(session), code, text).await;
    }
}

/// Ends long-polling: the GET in flight gets the last word; where there is more to say, the next GET is waited for.
async fn part_polling(session: &Arc<Session>, reason: CloseReason) {
    let wait = match reason {
        CloseReason::ClientClosed => CLOSE_GRACE,
        reason if reason.is_ours() || session.has_get() => FAREWELL_WAIT,
        _ => return,
    };
    // One GET for what is queued, and one for the close: each in its own time.
    let mut said = Farewell::Unsaid;
    while said != Farewell::All {
        let more = poll_fn(|cx| {
            session.wake_on_change(cx.waker());
            let now = session.farewell();
            if now == said { Poll::Pending } else { Poll::Ready(now) }
        });
        match tokio::time::timeout(wait, more).await {
            Ok(now) => said = now,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::{
        Config, Encoded, Transport,
        engine::{Shared, http::begin_websocket},
    };

    /// How many bytes lie between the two ends of a WebSocket.
    const PIPE_BYTES: usize = 1024;

    /// A WebSocket in memory, and what its peer has of it.
    async fn websocket() -> (Box<WebSocket>, DuplexStream) {
        let (mut here, there) = tokio::io::duplex(PIPE_BYTES);
        let (asked, asks) = tokio::sync::oneshot::channel::<OnUpgrade>();
        let asked = Mutex::new(Some(asked));
        let serve = service_fn(move |mut request: Request<Incoming>| {
            let asked = asked.lock().unwrap().take().expect("one request");
            assert!(asked.send(hyper::upgrade::on(&mut request)).is_ok());
            let reply = begin_websocket(request.headers()).expect("a WebSocket");
            async move { Ok::<_, Infallible>(reply) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(there), serve).with_upgrades();
        tokio::spawn(async move { _ = connection.await });
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        here.write_all(request.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n\r\n") {
            reply.push(here.read_u8().await.unwrap());
        }
        let upgraded = asks.await.unwrap().await.unwrap();
        (WebSocket::new(upgraded, PIPE_BYTES), here)
    }

    #[tokio::test]
    async fn a_goodbye_that_nobody_takes_was_no_packet_of_the_queue() {
        let (mut socket, _peer) = websocket().await;
        let session = Session::new("sid".into(), Shared::new(Config::default()), Transport::WebSocket);
        // To the last byte, so that the goodbye cannot even begin.
        let full = Encoded::text_frame(&"x".repeat(PIPE_BYTES - 4));
        assert_eq!(full.size(), PIPE_BYTES);
        socket.say(full).await.unwrap();
        part_websocket(&mut socket, &session, CloseReason::BadPacket).await;
        assert_eq!(session.state().packets, 0);
    }
}
