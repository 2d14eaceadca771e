//! Long-polling: a GET waits for what the session has to say, a POST brings what the client has to say.
//!
//! At most one GET and one POST of a session are in flight. A client that aborts its GET loses the session, since nobody
//! knows what of the answer it saw.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{packet::Packet, session::Session};
use crate::{CloseReason, Encoded};

/// A GET that comes after the probe waits this long for the upgrade to complete before it gets its `6`. A stock client
/// whose poll ended just before the probe was answered sends one more; anyone who polls *after* packet `5` is refused.
const PROBE_GRACE: Duration = Duration::from_millis(50);
/// How far two clocks that tick in milliseconds may be apart at a deadline.
pub(super) const TIMER_SLACK: Duration = Duration::from_millis(5);
/// A client's close (`1`) waits this long for the GET sent at the same moment, which is answered `6`.
pub(super) const CLOSE_GRACE: Duration = Duration::from_millis(100);
/// A server's close waits this long for the next GET, so that what was queued before it still arrives.
pub(super) const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// What a session keeps only as long as it is on long-polling.
#[derive(Default)]
pub(crate) struct Polling {
    get: Option<Get>,
    /// Packets of the POST in flight that the session's task has not taken yet.
    posted: Option<VecDeque<Packet>>,
    post: Option<Waker>,
    pub upgrade: Upgrade,
    farewell: Farewell,
}

/// How far a closing session has got with its last words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Farewell {
    #[default]
    Unsaid,
    /// What was queued has left; the close is for the next GET.
    Queue,
    /// It has answered its last GET.
    All,
}

#[derive(Default)]
struct Get {
    waker: Option<Waker>,
    verdict: Option<Verdict>,
}

#[derive(Clone, Copy)]
enum Verdict {
    Noop,
    Refuse,
}

/// How far a WebSocket has got in taking over.
#[derive(Default)]
pub(crate) enum Upgrade {
    #[default]
    None,
    /// A WebSocket on this `sid` was accepted; a second one is closed.
    Claimed,
    /// It was told `3probe`.
    Probed,
    /// It said `5`: polling is over, the session's task has yet to take it.
    Done(Box<super::websocket::WebSocket>),
}

impl Polling {
    pub fn wake_get(&mut self) -> Option<Waker> {
        self.get.as_mut().and_then(|get| get.waker.take())
    }

    pub fn wake_post(&mut self) -> Option<Waker> {
        self.post.take()
    }
}

/// What a GET is answered.
pub(super) enum Answer {
    Packets(Delivery),
    Noop,
    Refused,
}

/// Waits for the session to have something to say.
pub(super) async fn get(session: Arc<Session>) -> Answer {
    let probed = match begin(&session) {
        Begun::Answered(answer) => return answer,
        Begun::Waiting { probed } => probed,
    };
    let waiting = Waiting { session };
    let answer = std::future::poll_fn(|cx| waiting.poll(cx));
    if !probed {
        return answer.await;
    }
    match tokio::time::timeout(PROBE_GRACE, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            waiting.session.with_polling(|polling| polling.get = None);
            Answer::Noop
        }
    }
}

enum Begun {
    Answered(Answer),
    Waiting { probed: bool },
}

fn begin(session: &Arc<Session>) -> Begun {
    let mut state = session.state();
    if state.pong_due.is_some_and(|due| due <= Instant::now() + TIMER_SLACK) {
        // The task's timer is about to say the same; the clock decides, not who is scheduled first.
        state.closing.get_or_insert(CloseReason::PingTimeout);
    }
    let closing = state.closing;
    let Some(polling) = &mut state.polling else { return Begun::Answered(Answer::Refused) };
    if let Some(reason) = closing {
        let unsaid = polling.farewell != Farewell::All;
        let last = unsaid && polling.get.is_none() && (reason == CloseReason::ClientClosed || reason.is_ours());
        drop(state);
        let answer = if last { last_word(session, reason) } else { Answer::Refused };
        session.wake_task();
        return Begun::Answered(answer);
    }
    if matches!(polling.upgrade, Upgrade::Done(_)) {
        return Begun::Answered(Answer::Refused);
    }
    if polling.get.is_some() {
        drop(state);
        session.close(CloseReason::PollOverlap);
        return Begun::Answered(Answer::Refused);
    }
    polling.get = Some(Get::default());
    Begun::Waiting { probed: matches!(polling.upgrade, Upgrade::Probed) }
}

/// The answer to the last GET of a closing session: `6` to a client that closed, else `1`; or to the one before, what is
/// queued.
///
/// Never both at once. The stock client hands events over a moment after it has read them, and a close at once: what comes
/// with its close it keeps for the next connection, gives it to its handlers then, and asks for it again all the same.
fn last_word(session: &Arc<Session>, reason: CloseReason) -> Answer {
    let mut state = session.state();
    let queue = if reason.is_ours() { mem::take(&mut state.queue) } else { VecDeque::new() };
    let is_last = queue.is_empty();
    if let Some(polling) = &mut state.polling {
        polling.farewell = if is_last { Farewell::All } else { Farewell::Queue };
        polling.get = None;
    }
    if reason == CloseReason::ClientClosed {
        return Answer::Noop;
    }
    drop(state);
    Answer::Packets(Delivery::new(session, queue, is_last.then_some(&session.shared.packets.close)))
}

/// A GET in flight. Dropped unanswered, it was aborted by its client.
struct Waiting {
    session: Arc<Session>,
}

impl Waiting {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.session.state();
        let closing = state.closing;
        let Some(get) = state.polling.as_mut().and_then(|polling| polling.get.as_mut()) else {
            return Poll::Ready(Answer::Refused);
        };
        let verdict = get.verdict;
        if verdict.is_none() && closing.is_none() && state.queue.is_empty() {
            get_waker(&mut state.polling, cx.waker());
            return Poll::Pending;
        }
        if let Some(polling) = &mut state.polling {
            polling.get = None;
        }
        let answer = match (verdict, closing) {
            (Some(Verdict::Noop), _) => Answer::Noop,
            (Some(Verdict::Refuse), _) => Answer::Refused,
            (None, Some(reason)) => {
                drop(state);
                let answer = last_word(&self.session, reason);
                self.session.wake_task();
                return Poll::Ready(answer);
            }
            (None, None) => {
                let queue = state.take_for_poll(&self.session.shared.packets.ping);
                drop(state);
                return Poll::Ready(Answer::Packets(Delivery::new(&self.session, queue, None)));
            }
        };
        Poll::Ready(answer)
    }
}

fn get_waker(polling: &mut Option<Box<Polling>>, waker: &Waker) {
    if let Some(get) = polling.as_mut().and_then(|polling| polling.get.as_mut()) {
        get.waker = Some(waker.clone());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let unanswered = self.session.with_polling(|polling| polling.get.take()).flatten();
        if unanswered.is_some() {
            self.session.close(CloseReason::PollAborted);
        }
    }
}

/// What a POST is answered.
pub(super) enum Posted {
    Taken,
    Refused,
}

/// Hands a payload to the session's task and waits until it has taken every packet: that is the client's backpressure.
pub(super) async fn post(session: &Arc<Session>, packets: Vec<Packet>) -> Posted {
    {
        let mut state = session.state();
        let overdue = state.pong_due.is_some_and(|due| due <= Instant::now());
        let closing = state.closing.is_some();
        let Some(polling) = &mut state.polling else { return Posted::Refused };
        if closing || overdue || matches!(polling.upgrade, Upgrade::Done(_)) {
            return Posted::Refused;
        }
        if polling.posted.is_some() {
            drop(state);
            session.close(CloseReason::PollOverlap);
            return Posted::Refused;
        }
        polling.posted = Some(packets.into());
    }
    session.wake_task();
    std::future::poll_fn(|cx| {
        let mut state = session.state();
        let closing = state.closing;
        match (closing, &mut state.polling) {
            (Some(CloseReason::BadPacket | CloseReason::TooLarge | CloseReason::TooManyMessages), _) => {
                Poll::Ready(Posted::Refused)
            }
            (Some(_), _) | (None, None) => Poll::Ready(Posted::Taken),
            (None, Some(polling)) if polling.posted.is_none() => Poll::Ready(Posted::Taken),
            (None, Some(polling)) => {
                polling.post = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}

/// What the session's task finds on long-polling.
pub(super) enum Found {
    Packet(Packet),
    Upgraded(Box<super::websocket::WebSocket>),
    Nothing,
}

impl Session {
    pub(super) fn with_polling<R>(&self, change: impl FnOnce(&mut Polling) -> R) -> Option<R> {
        self.state().polling.as_mut().map(|polling| change(polling))
    }

    /// The next packet that was posted. When all are taken and a WebSocket has taken over, that.
    pub(super) fn next_posted(&self) -> Found {
        let mut state = self.state();
        let Some(polling) = &mut state.polling else { return Found::Nothing };
        if let Some(posted) = &mut polling.posted {
            if let Some(packet) = posted.pop_front() {
                return Found::Packet(packet);
            }
            polling.posted = None;
            let post = polling.post.take();
            drop(state);
            if let Some(waker) = post {
                waker.wake();
            }
            return self.next_posted();
        }
        match mem::take(&mut polling.upgrade) {
            Upgrade::Done(socket) => {
                state.polling = None;
                Found::Upgraded(socket)
            }
            other => {
                polling.upgrade = other;
                Found::Nothing
            }
        }
    }

    /// The WebSocket that has taken over a session whose task had not come to see it: that is where the client hears now.
    pub(super) fn take_upgraded(&self) -> Option<Box<super::websocket::WebSocket>> {
        let mut state = self.state();
        let polling = state.polling.as_mut()?;
        match mem::take(&mut polling.upgrade) {
            Upgrade::Done(socket) => {
                state.polling = None;
                Some(socket)
            }
            other => {
                polling.upgrade = other;
                None
            }
        }
    }

    /// Wakes the POST in flight, so that it sees the session closing.
    pub(super) fn release_post(&self) {
        if let Some(waker) = self.with_polling(Polling::wake_post).flatten() {
            waker.wake();
        }
    }

    /// What a closing session has said over long-polling.
    pub(super) fn farewell(&self) -> Farewell {
        self.with_polling(|polling| polling.farewell).unwrap_or(Farewell::All)
    }

    pub(super) fn has_get(&self) -> bool {
        self.with_polling(|polling| polling.get.is_some()).unwrap_or(false)
    }

    /// A WebSocket claims the session. False if another one has, or if polling is over.
    pub(super) fn claim_upgrade(&self) -> bool {
        let mut state = self.state();
        let closing = state.closing.is_some();
        match &mut state.polling {
            Some(polling) if !closing && matches!(polling.upgrade, Upgrade::None) => {
                polling.upgrade = Upgrade::Claimed;
                true
            }
            _ => false,
        }
    }

    /// The probe is answered: a waiting GET gets its `6`, so that the client can stop polling.
    pub(super) fn probed(&self) {
        self.end_get(Verdict::Noop, |polling| polling.upgrade = Upgrade::Probed);
    }

    /// The upgrade is complete: polling is over.
    pub(super) fn upgraded(&self, socket: Box<super::websocket::WebSocket>) {
        self.end_get(Verdict::Refuse, |polling| polling.upgrade = Upgrade::Done(socket));
        self.wake_task();
    }

    /// The upgrade failed: the session goes on polling.
    pub(super) fn upgrade_failed(&self) {
        self.with_polling(|polling| {
            if matches!(polling.upgrade, Upgrade::Claimed | Upgrade::Probed) {
                polling.upgrade = Upgrade::None;
            }
        });
    }

    fn end_get(&self, verdict: Verdict, change: impl FnOnce(&mut Polling)) {
        let waker = self.with_polling(|polling| {
            change(polling);
            let get = polling.get.as_mut()?;
            get.verdict = Some(verdict);
            get.waker.take()
        });
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
    }
}

/// Packets on their way into one polling answer. They count as written when hyper takes the body; a body dropped before
/// that is a lost answer, which ends the session.
pub(super) struct Delivery {
    session: Arc<Session>,
    payload: Option<Bytes>,
    packets: usize,
    bytes: usize,
}

impl Delivery {
    fn new(session: &Arc<Session>, queue: VecDeque<Encoded>, last: Option<&Encoded>) -> Self {
        let bytes = queue.iter().map(Encoded::size).sum();
        let mut payload = Vec::with_capacity(bytes);
        for packet in queue.iter().chain(last) {
            packet.write_payload(&mut payload);
        }
        Delivery { session: session.clone(), payload: Some(payload.into()), packets: queue.len(), bytes }
    }
}

impl Body for Delivery {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let payload = self.payload.take();
        if payload.is_some() {
            self.session.written(self.packets, self.bytes);
        }
        Poll::Ready(payload.map(|payload| Ok(Frame::data(payload))))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.as_ref().map_or(0, |payload| payload.len() as u64))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.payload.is_some() {
            self.session.written(self.packets, self.bytes);
            // Whatever came after it would come after a gap: also a session that was closing already says nothing more.
            self.session.with_polling(|polling| polling.farewell = Farewell::All);
            self.session.close(CloseReason::ConnectionLost);
        }
    }
}
