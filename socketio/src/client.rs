//! The Socket.IO side of one connection: which namespaces it is in, and what there is to handle, one thing at a time.
//!
//! Invariants: a CONNECT's reply is queued before its socket is shown to anyone; events of a connection are handled in the
//! order they came, each handler finished before the next begins; acknowledgements pass them by, or a handler that waits for one
//! would wait forever.

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{FutureExt, future::BoxFuture};
use socketioxide_core::{Str, Value};
use tracing::debug;

use crate::{
    CloseReason, ConnectRequest, Encoded, Handshake, Refusal, SocketId, SocketRef,
    encoded::Kind,
    engine::{Conversation, EngineSocket, Message, Session, Standing},
    extract::{Call, Cause},
    handler::AnyHandler,
    io::Hub,
    pace::Paced,
    packet::{BadPacket, Incoming, Reader},
    socket::Socket,
};

/// Bytes of events read but not handled may be this many times `max_payload`.
const INCOMING_PAYLOADS_MAX: usize = 2;

pub struct Client {
    hub: Arc<Hub>,
    session: Arc<Session>,
    handshake: Arc<Handshake>,
    reader: Reader,
    /// Packets that were read, against [`Config::messages`](crate::Config::messages).
    read: Paced,
    sockets: Vec<Arc<Socket>>,
    /// True once a namespace was joined.
    established: bool,
    work: VecDeque<Work>,
    work_bytes: usize,
    running: Option<Progress>,
    /// Whether what is running decides if a socket may join: nobody waits for that once the session is closing.
    joining: bool,
}

/// A piece of work under way; an error is a panic.
type Progress = BoxFuture<'static, Result<Done, CloseReason>>;

/// What waits for its turn.
enum Work {
    Join { ns: Str, auth: Option<Str> },
    Event { ns: Str, name: Box<str>, args: Value, ack: Option<u64> },
    Leave { ns: Str },
}

/// What a piece of work came to.
enum Done {
    Handled,
    Admitted(Box<ConnectRequest>),
    Refused { ns: Box<str>, refusal: Refusal },
}

impl Client {
    pub(crate) fn new(hub: Arc<Hub>, socket: EngineSocket, handshake: Arc<Handshake>) -> Self {
        Client {
            reader: Reader::new(&socket.session.shared.config),
            hub,
            read: Paced::default(),
            session: socket.session,
            handshake,
            sockets: Vec::new(),
            established: false,
            work: VecDeque::new(),
            work_bytes: 0,
            running: None,
            joining: false,
        }
    }

    fn socket(&self, ns: &str) -> Option<&Arc<Socket>> {
        self.sockets.iter().find(|socket| socket.ns() == ns)
    }

    fn take_in(&mut self, incoming: Incoming) -> Result<(), CloseReason> {
        let work = match incoming {
            Incoming::Connect { ns, auth } => Work::Join { ns, auth },
            Incoming::Disconnect { ns } => Work::Leave { ns },
            Incoming::Event { ns, name, args, ack } => Work::Event { ns, name, args, ack },
            Incoming::Ack { ns, id, args } => {
                return if self.answer(&ns, id, args) { Ok(()) } else { self.count() };
            }
        };
        self.count()?;
        self.work_bytes += work.size();
        self.work.push_back(work);
        Ok(())
    }

    /// Counts a packet that nobody asked for.
    fn count(&mut self) -> Result<(), CloseReason> {
        match self.session.shared.config.messages {
            Some(pace) if !self.read.admits(pace, Instant::now()) => Err(CloseReason::TooManyMessages),
            _ => Ok(()),
        }
    }

    /// False if nobody waits for it any more: it came too late, or twice.
    fn answer(&self, ns: &str, id: u64, args: Value) -> bool {
        let waiting = self.socket(ns).and_then(|socket| socket.forget_ack(id));
        let is_awaited = waiting.is_some();
        if let Some(waiting) = waiting {
            let _ = waiting.send(args);
        }
        is_awaited
    }

    /// Begins the next piece of work; `None` when there is none that takes time.
    fn begin(&mut self, work: Work) -> Result<Option<Progress>, CloseReason> {
        match work {
            Work::Join { ns, auth } => self.join(ns, auth),
            Work::Leave { ns } => Ok(self.leave(&ns)),
            Work::Event { ns, name, args, ack } => {
                let Some(socket) = self.socket(&ns) else {
                    // An event may cross our own disconnect on its way; one before any CONNECT never may.
                    return if self.established { Ok(None) } else { Err(CloseReason::BadPacket) };
                };
                let handler = socket.handler(&name);
                let call = Call { socket: socket.clone(), cause: Cause::Event { name, args, ack } };
                Ok(handler.map(|handler| run(handler, call).guard()))
            }
        }
    }

    fn join(&mut self, ns: Str, auth: Option<Str>) -> Result<Option<Progress>, CloseReason> {
        if self.socket(&ns).is_some() {
            return Err(CloseReason::BadPacket);
        }
        let Some(room) = self.hub.room(&ns) else {
            self.refuse(&ns, &Refusal::new("Invalid namespace"));
            return Ok(None);
        };
        let mut request = ConnectRequest {
            ns: ns.as_str().into(),
            auth,
            handshake: self.handshake.clone(),
            id: SocketId::random(),
            pid: None,
            recovered: false,
            extensions: http::Extensions::new(),
        };
        Ok(Some(
            async move {
                for middleware in &room.namespace.middleware {
                    request = match middleware(request).await {
                        Ok(request) => request,
                        Err(refusal) => return Done::Refused { ns: room.name.clone(), refusal },
                    };
                }
                Done::Admitted(Box::new(request))
            }
            .guard(),
        ))
    }

    /// Answers CONNECT and only then lets anyone have the socket.
    fn admit(&mut self, request: ConnectRequest) -> Option<Progress> {
        let room = self.hub.room(&request.ns)?;
        let auth = request.auth.clone();
        let mut reply = serde_json::json!({ "sid": request.id.to_string() });
        if let Some(pid) = &request.pid {
            reply["pid"] = (**pid).into();
        }
        self.session.send_control(&[Encoded::socketio(
            Kind::Connect,
            &room.name,
            None,
            &reply.to_string(),
            Vec::new(),
        )]);
        let socket = Socket::new(room.clone(), self.session.clone(), request);
        self.established = true;
        self.sockets.push(socket.clone());
        if let Some(older) = room.insert(&socket) {
            older.close(CloseReason::Replaced);
        }
        let handler = room.namespace.connected.clone()?;
        Some(run(handler, Call { socket, cause: Cause::Connected { auth } }).guard())
    }

    fn refuse(&self, ns: &str, refusal: &Refusal) {
        let packet = Encoded::socketio(Kind::ConnectError, ns, None, &refusal.json(), Vec::new());
        self.session.send_control(&[packet]);
    }

    fn leave(&mut self, ns: &str) -> Option<Progress> {
        let at = self.sockets.iter().position(|socket| socket.ns() == ns)?;
        let socket = self.sockets.remove(at);
        let reason = if socket.leave() { CloseReason::ClientLeft } else { CloseReason::ServerLeft };
        Some(farewell(socket, reason).guard())
    }

    /// A socket whose `disconnect` was called, once its earlier work is done.
    fn next_left(&mut self) -> Option<Progress> {
        let at = self.sockets.iter().position(|socket| socket.has_left())?;
        let socket = self.sockets.remove(at);
        Some(farewell(socket, CloseReason::ServerLeft).guard())
    }

    fn next(&mut self) -> Result<bool, CloseReason> {
        if let Some(future) = self.next_left() {
            self.running = Some(future);
            return Ok(true);
        }
        let Some(work) = self.work.pop_front() else { return Ok(false) };
        self.work_bytes -= work.size();
        if self.work.is_empty() {
            self.work = VecDeque::new();
        }
        let is_join = matches!(work, Work::Join { .. });
        self.running = self.begin(work)?;
        // One that is refused at once leaves nothing running: what comes next is no join.
        self.joining = is_join && self.running.is_some();
        Ok(true)
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        loop {
            if let Some(running) = &mut self.running {
                let done = std::task::ready!(running.poll_unpin(cx));
                (self.running, self.joining) = (None, false);
                match done? {
                    Done::Handled => {}
                    Done::Admitted(request) => self.running = self.admit(*request),
                    Done::Refused { ns, refusal } => match refusal.closes() {
                        Some(reason) => return Poll::Ready(Err(reason)),
                        None => self.refuse(&ns, &refusal),
                    },
                }
                continue;
            }
            if !self.next()? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Work {
    fn size(&self) -> usize {
        match self {
            Work::Join { auth, .. } => auth.as_ref().map_or(0, |auth| auth.len()),
            Work::Event { args: Value::Str(json, attachments), .. } => {
                json.len() + attachments.iter().flatten().map(|bytes| bytes.len()).sum::<usize>()
            }
            Work::Event { args: Value::Bytes(bytes), .. } => bytes.len(),
            Work::Leave { .. } => 0,
        }
    }
}

impl Conversation for Client {
    fn receive(&mut self, message: Message<'_>) -> Result<(), CloseReason> {
        let incoming = match message {
            Message::Text(text) => self.reader.text(text),
            Message::Binary(bytes) => self.reader.binary(bytes),
        };
        match incoming {
            Ok(Some(incoming)) => self.take_in(incoming),
            Ok(None) => Ok(()),
            Err(BadPacket) => Err(CloseReason::BadPacket),
        }
    }

    fn has_room(&self) -> bool {
        let config = &self.session.shared.config;
        self.work.len() < config.incoming_events_max && self.work_bytes < INCOMING_PAYLOADS_MAX * config.max_payload
    }

    fn standing(&self) -> Standing {
        if !self.sockets.is_empty() {
            return Standing::Inside;
        }
        let asks = self.joining || self.work.iter().any(|work| matches!(work, Work::Join { .. }));
        if asks { Standing::Asking } else { Standing::Outside }
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.poll_all(cx) {
            Poll::Ready(Err(reason)) => Poll::Ready(reason),
            _ => Poll::Pending,
        }
    }

    fn before_ping(&mut self) -> Vec<Encoded> {
        let sockets = self.sockets.iter().filter(|socket| !socket.has_left());
        sockets
            .filter_map(|socket| Some(socket.room.namespace.ping_hook.as_ref()?(&SocketRef(socket.clone()))))
            .flatten()
            .collect()
    }

    /// What was read is handled, then every socket is told that it left. A join not yet answered is dropped.
    async fn finish(mut self, reason: CloseReason) {
        // Or a handler would wait for an answer that cannot come any more.
        self.sockets.iter().for_each(|socket| socket.forget_acks());
        if let Some(running) = self.running.take().filter(|_| !self.joining) {
            let _ = running.await;
        }
        while let Some(work) = self.work.pop_front() {
            if reason == CloseReason::HandlerPanicked || matches!(work, Work::Join { .. }) {
                continue;
            }
            if let Ok(Some(running)) = self.begin(work) {
                let _ = running.await;
            }
        }
        for socket in std::mem::take(&mut self.sockets) {
            let reason = if socket.leave() { reason } else { CloseReason::ServerLeft };
            let _ = farewell(socket, reason).guard().await;
        }
    }
}

async fn farewell(socket: Arc<Socket>, reason: CloseReason) -> Done {
    socket.room.remove(&socket);
    socket.forget_acks();
    if matches!(reason, CloseReason::ClientLeft | CloseReason::ServerLeft) {
        socket.room.counters().closed(reason);
    }
    for handler in [socket.take_disconnected(), socket.room.namespace.disconnected.clone()].into_iter().flatten() {
        run(handler, Call { socket: socket.clone(), cause: Cause::Left(reason) }).await;
    }
    Done::Handled
}

async fn run(handler: AnyHandler, call: Call) -> Done {
    if let Some(running) = handler(call) {
        running.await;
    }
    Done::Handled
}

/// A handler's panic is its own connection's end, not the server's.
trait Guard: Future<Output = Done> + Send + Sized + 'static {
    fn guard(self) -> Progress {
        AssertUnwindSafe(self)
            .catch_unwind()
            .map(|done| {
                done.map_err(|_| {
                    debug!("A handler panicked");
                    CloseReason::HandlerPanicked
                })
            })
            .boxed()
    }
}

impl<F: Future<Output = Done> + Send + 'static> Guard for F {}
