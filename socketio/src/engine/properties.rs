//! A session under anything that its client, its application and its connections may do to it, in any order.
//!
//! Packets and messages are numbered as they are taken, so each end must see 0, 1, 2 … whatever way they went: by polls, over a
//! WebSocket, or half by each. Everything is the real thing but the network, which is memory; nothing here waits for time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::{JoinHandle, yield_now},
};
use tower_service::Service;

use super::{Application, Conversation, EngineService, EngineSocket, Handshake, Message, ReplyBody, session_id};
use crate::{CloseReason, Config, Encoded, Origins, SendError, Transport, fuzzing::client_frame};

const QUEUE_PACKETS_MAX: usize = 12;
/// What the protocol itself may queue beyond that.
const CONTROL_RESERVE: usize = 32;
/// Bytes between the two ends of a WebSocket.
const PIPE_BYTES: usize = 1024;
/// Nothing here waits for time: what takes as long waits for ever.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// As often as everybody else gets a turn before it is looked what came of it.
const TURNS: usize = 48;
/// How many rounds everything may take to arrive at the end, and how many it is given in any case.
const ROUNDS_MAX: usize = 64;
const ROUNDS_MIN: usize = 8;

/// Something that happens.
#[derive(Clone, Debug)]
enum Op {
    /// The application sends a batch of so many packets, perhaps joined to one.
    Send {
        packets: u8,
        bytes: u16,
        joined: bool,
    },
    /// The heartbeat is due, and the application lets as many packets ride with it.
    Ping {
        riding: u8,
    },
    /// The application wants to know that everything has arrived.
    Confirm,
    /// The application stops or begins to take what the client says.
    Rest {
        rests: bool,
    },
    /// The client polls. If a poll is under way, that is one too many.
    Get {
        overlaps: bool,
    },
    /// The client takes the answer of its poll, if it is there.
    Take,
    /// The client gives up its poll, or loses its answer.
    DropGet,
    /// The client says so many messages: by a POST, or over its WebSocket. If a POST is under way, that is one too many.
    Say {
        messages: u8,
        overlaps: bool,
    },
    /// The client says what is no packet.
    Babble,
    /// The client answers a ping.
    Pong,
    /// The client opens a WebSocket on its session, which is probed.
    Probe,
    /// The client opens another, which must change nothing.
    ProbeAgain,
    /// The client goes over to it.
    Upgrade,
    /// The WebSocket breaks.
    Break,
    /// The client reads its WebSocket.
    Hear,
    CloseByClient,
    CloseByServer {
        restarts: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let rarely = || prop::bool::weighted(0.04);
    let op = prop_oneof![
        12 => (1..5_u8, 0..400_u16, any::<bool>())
            .prop_map(|(packets, bytes, joined)| Op::Send { packets, bytes, joined }),
        2 => (0..3_u8).prop_map(|riding| Op::Ping { riding }),
        3 => Just(Op::Confirm),
        2 => any::<bool>().prop_map(|rests| Op::Rest { rests }),
        12 => rarely().prop_map(|overlaps| Op::Get { overlaps }),
        12 => Just(Op::Take),
        8 => (1..4_u8, rarely()).prop_map(|(messages, overlaps)| Op::Say { messages, overlaps }),
        5 => Just(Op::Pong),
        4 => Just(Op::Probe),
        1 => Just(Op::ProbeAgain),
        4 => Just(Op::Upgrade),
        8 => Just(Op::Hear),
    ];
    // What ends a session comes at the end, or the rest would have little to show.
    let end = prop_oneof![
        Just(Op::DropGet),
        Just(Op::Babble),
        Just(Op::Break),
        Just(Op::CloseByClient),
        any::<bool>().prop_map(|restarts| Op::CloseByServer { restarts }),
    ];
    (prop::collection::vec(op.clone(), 1..50), prop::collection::vec(end, 0..3), prop::collection::vec(op, 0..6))
        .prop_map(|(ops, ends, more)| [ops, ends, more].concat())
}

/// What the application has seen of its session.
#[derive(Default)]
struct Seen {
    socket: Option<EngineSocket>,
    heard: u32,
    rests: bool,
    ended: Vec<CloseReason>,
}

#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Seen>>);

impl Ear {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

impl Application for Ear {
    type Conversation = Ear;

    fn open(&self, socket: EngineSocket, _: Arc<Handshake>) -> Ear {
        self.seen().socket = Some(socket);
        self.clone()
    }
}

impl Conversation for Ear {
    fn receive(&mut self, message: Message<'_>) -> Result<(), CloseReason> {
        let number: u32 = match message {
            Message::Text(text) => text.parse().unwrap(),
            Message::Binary(bytes) => u32::from_be_bytes(bytes[..].try_into().unwrap()),
        };
        let mut seen = self.seen();
        assert_eq!(number, seen.heard, "what the client said, in order and once");
        assert!(seen.ended.is_empty() && !seen.rests);
        seen.heard += 1;
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.seen().rests
    }

    async fn finish(self, reason: CloseReason) {
        self.seen().ended.push(reason);
    }
}

type Reply = Response<ReplyBody>;

struct World {
    service: EngineService<Ear>,
    ear: Ear,
    socket: EngineSocket,
    sid: String,
    /// Packets that the queue has taken, and after which of them a batch ended.
    sent: u32,
    ends: HashSet<u32>,
    /// Packets that the client has got.
    got: u32,
    /// Messages that the client has said.
    said: u32,
    get: Option<JoinHandle<Reply>>,
    /// And what will have been heard when it is answered.
    post: Option<(JoinHandle<Reply>, u32)>,
    /// Pings that the client has yet to answer, and those under way to it.
    owed: u32,
    pinged: u32,
    confirming: Vec<(JoinHandle<Result<(), SendError>>, u32)>,
    socket_of_client: Option<WebSocket>,
    is_upgraded: bool,
    /// Whether the server has said goodbye over the WebSocket.
    is_parted: bool,
    /// Why it must have ended, if it must.
    ended: Option<CloseReason>,
}

impl World {
    async fn new() -> Self {
        let hour = Duration::from_secs(3600);
        let config = Config {
            queue_packets_max: QUEUE_PACKETS_MAX,
            ping_interval: hour,
            ping_timeout: hour,
            // Every ping here is one that was asked for.
            ping_bytes: usize::MAX,
            origins: Origins::Any,
            ..Config::default()
        };
        let ear = Ear::default();
        let mut service = EngineService::new(config, ear.clone());
        let reply = service.call(request("EIO=4&transport=polling", "")).await.unwrap();
        let greeting = body(reply).await;
        let greeting: serde_json::Value = serde_json::from_str(&greeting[1..]).unwrap();
        let socket = ear.seen().socket.clone().unwrap();
        World {
            service,
            socket,
            ear,
            sid: greeting["sid"].as_str().unwrap().to_owned(),
            sent: 0,
            ends: [0].into(),
            got: 0,
            said: 0,
            get: None,
            post: None,
            owed: 0,
            pinged: 0,
            confirming: Vec::new(),
            socket_of_client: None,
            is_upgraded: false,
            is_parted: false,
            ended: None,
        }
    }

    fn begin(&self, posts: &str) -> JoinHandle<Reply> {
        let mut service = self.service.clone();
        let request = request(&format!("EIO=4&transport=polling&sid={}", self.sid), posts);
        tokio::spawn(async move { service.call(request).await.unwrap() })
    }

    fn ends(&mut self, reason: CloseReason) {
        self.ended.get_or_insert(reason);
    }

    fn packets(&self, count: u8, bytes: usize) -> Vec<Encoded> {
        let packet = |number: u32| {
            if number.is_multiple_of(3) {
                Encoded::engine_binary([&number.to_be_bytes()[..], &vec![7; bytes]].concat().into())
            } else {
                Encoded::engine_text(&format!("4{number}:{}", "x".repeat(bytes)))
            }
        };
        (self.sent..).take(count.into()).map(packet).collect()
    }

    async fn act(&mut self, op: &Op) {
        match *op {
            Op::Send { packets, bytes, joined } => {
                let mut batch = self.packets(packets, bytes.into());
                if joined {
                    batch = Encoded::joined(&batch.iter().collect::<Vec<_>>()).into_iter().collect();
                }
                let queued = self.socket.session.state().packets;
                match self.socket.try_send(&batch) {
                    Ok(()) => self.count(packets.into()),
                    Err(SendError::Full) => assert!(queued + batch.len() > QUEUE_PACKETS_MAX),
                    Err(SendError::Closed) => assert!(self.socket.session.closing().is_some()),
                    Err(error) => panic!("{error}"),
                }
            }
            // The heartbeat waits for its pong; here it is not sent while anything else waits for one either.
            Op::Ping { riding } if self.pinged == 0 && self.ended.is_none() => {
                let due = Instant::now() + Duration::from_secs(3600);
                self.socket.session.ping(&self.packets(riding, 0), due);
                self.count(riding.into());
                self.pinged += 1;
            }
            Op::Confirm if self.confirming.len() < 4 => {
                let session = self.socket.session.clone();
                let confirmed = tokio::spawn(async move { session.confirmed().await });
                self.confirming.push((confirmed, self.sent));
                self.pinged += u32::from(self.ended.is_none());
            }
            Op::Rest { rests } => {
                self.ear.seen().rests = rests;
                self.socket.session.wake_task();
            }
            Op::Get { .. } if self.is_upgraded => {
                let reply = self.begin("").await.unwrap();
                assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "polling is over");
            }
            Op::Get { overlaps } => match &self.get {
                // One that comes after the probe waits for time to pass, or for the upgrade.
                None if self.socket_of_client.is_none() => self.get = Some(self.begin("")),
                Some(get) if overlaps && !get.is_finished() => {
                    let second = self.begin("").await.unwrap();
                    assert_eq!(second.status(), StatusCode::BAD_REQUEST);
                    self.ends(CloseReason::PollOverlap);
                }
                _ => {}
            },
            Op::Take => self.take().await,
            Op::DropGet => {
                if let Some(get) = self.get.take() {
                    let is_waiting = !get.is_finished();
                    get.abort();
                    drop(get.await);
                    self.turns().await;
                    // An answer without packets takes nothing with it.
                    if self.socket.session.closing().is_some() {
                        self.ends(if is_waiting { CloseReason::PollAborted } else { CloseReason::ConnectionLost });
                    }
                    assert!(!is_waiting || self.ended.is_some());
                }
            }
            Op::Say { messages, overlaps } => self.say(messages, overlaps).await,
            Op::Babble => {
                if let Some(socket) = self.socket_of_client.as_mut().filter(|_| self.is_upgraded) {
                    socket.say("7");
                    // It is not read while the application rests.
                    self.wakes().await;
                } else if self.post.is_none() {
                    drop(self.begin("4a\x1e").await);
                } else {
                    return;
                }
                self.ends(CloseReason::BadPacket);
            }
            Op::Pong if self.owed > 0 => {
                if let Some(socket) = self.socket_of_client.as_mut().filter(|_| self.is_upgraded) {
                    socket.say("3");
                } else if self.post.is_none() {
                    self.post = Some((self.begin("3"), self.said));
                } else {
                    return;
                }
                self.owed -= 1;
                self.pinged -= 1;
            }
            Op::Probe if self.socket_of_client.is_none() && self.ended.is_none() => {
                let mut socket = WebSocket::open(self).await;
                socket.say("2probe");
                self.socket_of_client = Some(socket);
                self.turns().await;
                let socket = self.socket_of_client.as_mut().unwrap();
                assert_eq!(socket.hear(), Some(Frame::Text("3probe".into())));
            }
            Op::ProbeAgain if self.socket_of_client.is_some() && self.ended.is_none() => {
                let mut second = WebSocket::open(self).await;
                self.turns().await;
                assert_eq!(second.hear(), Some(Frame::Close(1008)));
            }
            Op::Upgrade if self.socket_of_client.is_some() && !self.is_upgraded && self.ended.is_none() => {
                // A client lets its poll end first: it has been answered by now.
                self.take().await;
                assert!(self.get.is_none(), "the probe ends the poll");
                if let Some(socket) = self.socket_of_client.as_mut().filter(|_| self.ended.is_none()) {
                    socket.say("5");
                    self.is_upgraded = true;
                }
            }
            Op::Break if self.socket_of_client.take().is_some() && self.is_upgraded => {
                self.wakes().await;
                self.ends(CloseReason::ConnectionLost);
            }
            Op::Hear => self.hear(),
            Op::CloseByClient => {
                if let Some(socket) = self.socket_of_client.as_mut().filter(|_| self.is_upgraded) {
                    socket.say("1");
                } else if self.post.is_none() {
                    self.post = Some((self.begin("1"), self.said));
                } else {
                    return;
                }
                self.wakes().await;
                self.ends(CloseReason::ClientClosed);
            }
            Op::CloseByServer { restarts } => {
                let reason = if restarts { CloseReason::RESTART } else { CloseReason::Replaced };
                self.socket.close(reason);
                self.ends(reason);
            }
            Op::Ping { .. } | Op::Confirm | Op::Pong | Op::Probe | Op::ProbeAgain | Op::Upgrade | Op::Break => {}
        }
        self.turns().await;
        self.check().await;
    }

    /// Whoever says the last word must be heard.
    async fn wakes(&mut self) {
        self.ear.seen().rests = false;
        self.socket.session.wake_task();
        self.turns().await;
    }

    fn count(&mut self, packets: u32) {
        self.sent += packets;
        self.ends.insert(self.sent);
    }

    async fn say(&mut self, messages: u8, overlaps: bool) {
        let numbers = (self.said..).take(messages.into());
        if let Some(socket) = self.socket_of_client.as_mut().filter(|_| self.is_upgraded) {
            for number in numbers {
                if number.is_multiple_of(3) {
                    socket.say_binary(&number.to_be_bytes());
                } else {
                    socket.say(&format!("4{number}"));
                }
            }
            self.said += u32::from(messages);
            return;
        }
        let packet = |number: u32| {
            let mut body = Vec::new();
            if number.is_multiple_of(3) {
                Encoded::engine_binary(Bytes::copy_from_slice(&number.to_be_bytes())).write_payload(&mut body);
            } else {
                Encoded::engine_text(&format!("4{number}")).write_payload(&mut body);
            }
            String::from_utf8(body).unwrap()
        };
        let body: Vec<_> = numbers.map(packet).collect();
        if self.post.is_none() {
            self.said += u32::from(messages);
            self.post = Some((self.begin(&body.join("\x1e")), self.said));
        } else if overlaps {
            assert_eq!(self.begin(&body.join("\x1e")).await.unwrap().status(), StatusCode::BAD_REQUEST);
            self.ends(CloseReason::PollOverlap);
        }
    }

    /// The client takes the answer of its poll.
    async fn take(&mut self) {
        if !self.get.as_ref().is_some_and(JoinHandle::is_finished) {
            return;
        }
        let reply = self.get.take().unwrap().await.unwrap();
        if reply.status() != StatusCode::OK {
            assert!(self.ended.is_some(), "a poll is refused only when the session has ended");
            return;
        }
        for packet in body(reply).await.split('\x1e') {
            match packet.strip_prefix('b') {
                Some(base64) => {
                    use base64::Engine as _;
                    self.got(base64::prelude::BASE64_STANDARD.decode(base64).unwrap().as_slice());
                }
                None => self.got_text(packet),
            }
        }
    }

    /// The client reads its WebSocket, once it is on it.
    fn hear(&mut self) {
        if !self.is_upgraded {
            return;
        }
        while let Some(frame) = self.socket_of_client.as_mut().and_then(WebSocket::hear) {
            match frame {
                Frame::Text(text) => self.got_text(&text),
                Frame::Binary(bytes) => self.got(&bytes),
                Frame::Close(code) => {
                    assert_eq!(Some(code), self.ended.map(|reason| reason.frame().0));
                    self.is_parted = true;
                }
            }
        }
    }

    fn got_text(&mut self, packet: &str) {
        match packet.strip_prefix('4') {
            Some(message) => {
                let number: u32 = message.split(':').next().unwrap().parse().unwrap();
                self.got(&number.to_be_bytes());
            }
            None => {
                // What rides with a ping is a batch, and the ping its end.
                assert!(self.ends.contains(&self.got), "{packet:?} in the middle of a batch, after {}", self.got);
                match packet {
                    "2" => self.owed += 1,
                    "6" => {}
                    "1" => assert!(self.ended.is_some()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn got(&mut self, packet: &[u8]) {
        assert_eq!(u32::from_be_bytes(packet[..4].try_into().unwrap()), self.got, "what was sent, in order and once");
        self.got += 1;
    }

    async fn turns(&mut self) {
        for _ in 0..TURNS {
            if let Some(socket) = &mut self.socket_of_client {
                socket.flush();
            }
            yield_now().await;
        }
    }

    /// What holds at any time.
    async fn check(&mut self) {
        let session = self.socket.session.clone();
        {
            let state = session.state();
            assert!(state.queue.len() <= state.packets && state.packets <= QUEUE_PACKETS_MAX + CONTROL_RESERVE);
            assert!(state.bytes <= session.shared.config.queue_bytes_max + 64 * CONTROL_RESERVE);
        }
        if self.post.as_ref().is_some_and(|(post, _)| post.is_finished()) {
            let (post, said) = self.post.take().unwrap();
            let is_taken = post.await.unwrap().status() == StatusCode::OK;
            assert!(is_taken || self.ended.is_some());
            assert!(!is_taken || self.ended.is_some() || self.ear.seen().heard >= said, "taken, hence heard");
        }
        let mut waiting = Vec::new();
        for (confirmed, sent) in std::mem::take(&mut self.confirming) {
            if !confirmed.is_finished() {
                waiting.push((confirmed, sent));
            } else if confirmed.await.unwrap().is_ok() {
                assert!(self.got >= sent, "confirmed {sent} packets, of which {} have arrived", self.got);
            } else {
                assert!(self.ended.is_some());
            }
        }
        self.confirming = waiting;
        assert_eq!(session.closing(), self.ended, "the first reason, and no other");
        let ended = self.ear.seen().ended.clone();
        assert_eq!(ended, self.ended.into_iter().collect::<Vec<_>>(), "told once");
        let closed: u64 = session.shared.counters.read().closed.iter().map(|(_, count)| count).sum();
        assert_eq!(closed, ended.len() as u64, "counted once");
    }

    /// Nothing goes wrong any more: everything arrives, and a restart is said behind it.
    async fn settle(mut self) {
        self.act(&Op::Rest { rests: false }).await;
        if self.ended.is_some() {
            return assert!(self.confirming.is_empty() && self.post.is_none(), "nobody waits for ever");
        }
        if !self.is_upgraded && self.socket_of_client.take().is_some() {
            // Its way to a WebSocket broke off.
            self.turns().await;
        }
        // A round brings what its pipe holds, and answers one ping.
        for round in 0..ROUNDS_MAX {
            if round >= ROUNDS_MIN && (self.got, self.owed) == (self.sent, 0) {
                break;
            }
            self.act(&Op::Get { overlaps: false }).await;
            self.act(&Op::Take).await;
            self.act(&Op::Hear).await;
            self.act(&Op::Pong).await;
        }
        assert_eq!((self.got, self.owed), (self.sent, 0), "everything has arrived");
        let heard = self.ear.seen().heard;
        assert_eq!((heard, self.post.is_none()), (self.said, true), "and was heard");
        assert!(self.confirming.is_empty(), "and is confirmed");
        let transport = if self.is_upgraded { Transport::WebSocket } else { Transport::Polling };
        assert_eq!(self.socket.session.transport(), transport);
        let queued = {
            let state = self.socket.session.state();
            (state.packets, state.bytes)
        };
        assert_eq!(queued, (0, 0));
        // Which ends the poll that is under way.
        self.act(&Op::Send { packets: 1, bytes: 0, joined: false }).await;
        self.act(&Op::Take).await;
        self.act(&Op::Send { packets: 3, bytes: 0, joined: false }).await;
        self.act(&Op::CloseByServer { restarts: true }).await;
        self.act(&Op::Get { overlaps: false }).await;
        self.act(&Op::Take).await;
        self.act(&Op::Hear).await;
        assert_eq!(self.got, self.sent, "what was queued leaves first");
    }
}

fn request(query: &str, posts: &str) -> Request<Full<Bytes>> {
    let method = if posts.is_empty() { "GET" } else { "POST" };
    let uri = format!("/engine.io/?{query}");
    let request = Request::builder().method(method).uri(uri).body(Full::new(Bytes::copy_from_slice(posts.as_bytes())));
    let request = request.unwrap();
    debug_assert_eq!(session_id(request.uri()).is_some(), query.contains("sid="));
    request
}

async fn body(reply: Reply) -> String {
    let body = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close(u16),
}

/// The client's end of a WebSocket.
struct WebSocket {
    io: DuplexStream,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

impl WebSocket {
    async fn open(world: &World) -> Self {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let service = world.service.clone();
        let serve = service_fn(move |request| service.clone().call(request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(there), serve).with_upgrades();
        tokio::spawn(async move { _ = connection.await });
        let mut socket = WebSocket { io: here, unsent: Vec::new(), unread: Vec::new() };
        let asks = "Host: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let line = format!("GET /engine.io/?EIO=4&transport=websocket&sid={} HTTP/1.1\r\n{asks}", world.sid);
        socket.unsent.extend_from_slice(line.as_bytes());
        let end = loop {
            socket.flush();
            yield_now().await;
            socket.fetch();
            if let Some(end) = socket.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        assert!(socket.unread.starts_with(b"HTTP/1.1 101"));
        socket.unread.drain(..end + 4);
        socket
    }

    fn say(&mut self, text: &str) {
        client_frame(&mut self.unsent, 0x81, [1, 2, 3, 4], text.as_bytes());
    }

    fn say_binary(&mut self, bytes: &[u8]) {
        client_frame(&mut self.unsent, 0x82, [1, 2, 3, 4], bytes);
    }

    /// Writes as much as there is room for.
    fn flush(&mut self) {
        while !self.unsent.is_empty()
            && let Some(Ok(written @ 1..)) = self.io.write(&self.unsent).now_or_never()
        {
            self.unsent.drain(..written);
        }
    }

    fn fetch(&mut self) {
        let mut buffer = [0; 64];
        while let Some(Ok(read @ 1..)) = self.io.read(&mut buffer).now_or_never() {
            self.unread.extend_from_slice(&buffer[..read]);
        }
    }

    /// The next frame, if it is there.
    fn hear(&mut self) -> Option<Frame> {
        self.fetch();
        let (opcode, length) = (*self.unread.first()?, *self.unread.get(1)?);
        let (header, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes(self.unread.get(2..4)?.try_into().unwrap()))),
            short => (2, usize::from(short)),
        };
        let payload = self.unread.get(header..header + length)?.to_vec();
        self.unread.drain(..header + length);
        Some(match opcode {
            0x81 => Frame::Text(String::from_utf8(payload).unwrap()),
            0x82 => Frame::Binary(payload),
            0x88 => Frame::Close(u16::from_be_bytes(payload[..2].try_into().unwrap())),
            other => panic!("a frame {other:#x}"),
        })
    }
}

fn run(story: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(story);
}

fn happens(ops: &[Op]) {
    run(async {
        let mut world = World::new().await;
        for op in ops {
            let done = tokio::time::timeout(STUCK_AFTER, world.act(op)).await;
            assert!(done.is_ok(), "nobody answers {op:?}");
        }
        assert!(tokio::time::timeout(STUCK_AFTER, world.settle()).await.is_ok(), "nobody answers");
    });
}

#[test]
fn a_client_that_has_just_gone_over_hears_the_rest_and_the_goodbye_on_its_websocket() {
    run(async {
        let mut world = World::new().await;
        // The application has its hands full, so that the session's task does not look for what comes.
        let close = Op::CloseByServer { restarts: true };
        for op in [
            Op::Rest { rests: true },
            Op::Probe,
            Op::Upgrade,
            Op::Send { packets: 3, bytes: 0, joined: false },
            close,
            Op::Hear,
        ] {
            world.act(&op).await;
        }
        assert_eq!((world.got, world.is_parted), (3, true));
    });
}

#[test]
fn a_client_that_lost_an_answer_while_its_session_was_closed_is_given_nothing_behind_it() {
    let send = || Op::Send { packets: 1, bytes: 0, joined: false };
    happens(&[
        send(),
        Op::Get { overlaps: false },
        send(),
        Op::CloseByServer { restarts: false },
        Op::DropGet,
        Op::Get { overlaps: false },
        Op::Take,
    ]);
}

/// Few enough for every build; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 128 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_sent_and_said_arrives_in_order_and_once_by_whatever_way(ops in ops()) {
        happens(&ops);
    }
}
