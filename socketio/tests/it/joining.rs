//! Joins that are still being decided: whoever has gone by then is not waited for, and leaves nothing behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use tillwire_socketio::{CloseReason, Config, ConnectHandler, ConnectRequest, Namespace, Refusal, SocketIo, Transport};
use tokio::sync::{Notify, Semaphore};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    peer::{BOTH, Line, Peer, SOCKET},
    server::{Server, beating, quiet},
};

/// A door before the main namespace: it decides when it is told to, and counts who was at it.
struct Door {
    knocked: AtomicUsize,
    waiting: AtomicUsize,
    connected: AtomicUsize,
    left: AtomicUsize,
    /// Each permit decides about one; who brings anything but an empty auth is refused.
    decisions: Semaphore,
}

/// Someone before the door. Dropped when that is decided, or given up.
struct Waiting<'a>(&'a Door);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

impl Door {
    fn before(io: &SocketIo) -> Arc<Self> {
        let [knocked, waiting, connected, left] = std::array::from_fn(|_| AtomicUsize::new(0));
        let door = Arc::new(Door { knocked, waiting, connected, left, decisions: Semaphore::new(0) });
        let (decides, connects, leaves) = (door.clone(), door.clone(), door.clone());
        let connected = move || {
            connects.connected.fetch_add(1, SeqCst);
            async {}
        };
        let decide = move |request| {
            let door = decides.clone();
            async move { door.decides(request).await }
        };
        let leave = move || {
            leaves.left.fetch_add(1, SeqCst);
            async {}
        };
        io.ns("/", connected.with(decide).on_disconnect(leave));
        door
    }

    async fn decides(&self, request: ConnectRequest) -> Result<ConnectRequest, Refusal> {
        self.knocked.fetch_add(1, SeqCst);
        self.waiting.fetch_add(1, SeqCst);
        let _waiting = Waiting(self);
        self.decisions.acquire().await.unwrap().forget();
        if request.auth_json() == "{}" { Ok(request) } else { Err(Refusal::new("no")) }
    }

    /// How many knocked, wait now, came in, and left.
    fn counts(&self) -> [usize; 4] {
        [&self.knocked, &self.waiting, &self.connected, &self.left].map(|count| count.load(SeqCst))
    }
}

/// A server with a door, and with one session id: whoever has it must be forgotten before anyone else can come.
async fn guarded(config: Config) -> (Server, Arc<Door>) {
    let mut door = None;
    let config = Config { session_id: Arc::new(|| "the-only-one".to_owned()), ..config };
    let server = Server::start(config, |io| door = Some(Door::before(io))).await;
    (server, door.unwrap())
}

/// A peer that has asked to join, and waits before the door.
async fn who_waits(server: &Server, door: &Door, transport: Transport, asks: &str) -> Peer {
    let mut peer = Peer::open(server.addr, SOCKET, transport).await;
    peer.says(asks).await;
    server.until("someone waits", |_| door.counts()[1] == 1).await;
    peer
}

/// Says more, and waits until the server has read it.
async fn says_more(peer: &mut Peer, packet: &str) {
    peer.says(packet).await; // A post is answered when it was taken.
    if let Line::WebSocket(socket) = &mut peer.line {
        socket.send(Message::Ping("read?".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("read?".into()));
    }
}

/// Waits until a session has ended for this reason, and with it everything that it was about.
async fn nothing_stays(server: &Server, door: &Door, reason: CloseReason) {
    server.until("closed", |counters| counters.closed(reason) == 1).await;
    let open = |counters: &tillwire_socketio::CountersView| counters.sessions_polling + counters.sessions_websocket;
    server.until("nobody is there", |counters| open(counters) == 0 && door.counts()[1] == 0).await;
    assert!(server.io.sockets("/").is_empty());
    drop(Peer::open(server.addr, SOCKET, Transport::WebSocket).await);
    // Tasks are waited for by this, and nothing else.
    tokio::time::timeout(Duration::from_secs(10), server.io.shutdown()).await.expect("every task has ended");
}

/// Not even with the door open is anyone let in who is gone.
async fn was_given_up(server: &Server, door: &Door, reason: CloseReason) {
    nothing_stays(server, door, reason).await;
    door.decisions.add_permits(9);
    assert_eq!(door.counts(), [1, 0, 0, 0], "{reason}");
}

#[tokio::test]
async fn a_join_is_given_up_when_its_client_goes() {
    for transport in BOTH {
        let (server, door) = guarded(quiet()).await;
        let mut peer = who_waits(&server, &door, transport, "40").await;
        peer.says("1").await;
        was_given_up(&server, &door, CloseReason::ClientClosed).await;
    }
    let (server, door) = guarded(quiet()).await;
    let mut peer = who_waits(&server, &door, Transport::WebSocket, "40").await;
    let Line::WebSocket(socket) = &mut peer.line else { unreachable!() };
    socket.close().await.unwrap();
    was_given_up(&server, &door, CloseReason::ClientClosed).await;

    let (server, door) = guarded(quiet()).await;
    drop(who_waits(&server, &door, Transport::WebSocket, "40").await);
    was_given_up(&server, &door, CloseReason::ConnectionLost).await;
}

#[tokio::test]
async fn a_join_is_given_up_when_its_client_is_heard_of_no_more() {
    for transport in BOTH {
        let (server, door) = guarded(beating(50, 100)).await;
        let _silent = who_waits(&server, &door, transport, "40").await;
        was_given_up(&server, &door, CloseReason::PingTimeout).await;

        let (server, door) = guarded(Config { connect_timeout: Duration::from_millis(100), ..quiet() }).await;
        let _patient = who_waits(&server, &door, transport, "40").await;
        was_given_up(&server, &door, CloseReason::ConnectTimeout).await;
    }
}

#[tokio::test]
async fn who_asks_in_time_has_as_long_again_to_be_let_in_and_who_asks_anew_has_not() {
    const LONG: Duration = Duration::from_secs(3);
    let config = || Config { connect_timeout: LONG, ..quiet() };
    for transport in BOTH {
        let (server, door) = guarded(config()).await;
        let mut peer = Peer::open(server.addr, SOCKET, transport).await;
        tokio::time::sleep(LONG * 3 / 4).await;
        peer.says("40").await;
        tokio::time::sleep(LONG * 3 / 4).await;
        door.decisions.add_permits(1);
        assert!(peer.hears_text().await.starts_with("40{"));

        let (server, door) = guarded(config()).await;
        let mut peer = Peer::open(server.addr, SOCKET, transport).await;
        let begun = Instant::now();
        while server.io.counters().closed(CloseReason::ConnectTimeout) == 0 {
            assert!(begun.elapsed() < 4 * LONG, "it is still there after {} refusals", door.counts()[0]);
            peer.says(r#"40{"token":"wrong"}"#).await;
            tokio::time::sleep(LONG / 8).await;
            door.decisions.add_permits(1);
        }
        assert!(door.counts()[0] > 1 && door.counts()[2] == 0, "{:?}", door.counts());
    }
}

#[tokio::test]
async fn who_asks_twice_is_decided_about_one_after_the_other() {
    for transport in BOTH {
        // The first is let in: asking for what one has is against the protocol.
        let (server, door) = guarded(quiet()).await;
        let mut peer = who_waits(&server, &door, transport, "40").await;
        says_more(&mut peer, "40").await;
        assert_eq!(door.counts(), [1, 1, 0, 0], "the second waits for the first");
        door.decisions.add_permits(2);
        nothing_stays(&server, &door, CloseReason::BadPacket).await;
        assert_eq!(door.counts(), [1, 0, 1, 1]);

        // The first is refused: the second is as good as any.
        let (server, door) = guarded(quiet()).await;
        let mut peer = who_waits(&server, &door, transport, r#"40{"token":"wrong"}"#).await;
        says_more(&mut peer, "40").await;
        door.decisions.add_permits(2);
        assert_eq!(peer.hears_text().await, r#"44{"message":"no"}"#);
        assert!(peer.hears_text().await.starts_with("40{"));
        assert_eq!((door.counts(), server.io.sockets("/").len()), ([2, 0, 1, 0], 1));

        // The client goes: neither is decided.
        let (server, door) = guarded(quiet()).await;
        let mut peer = who_waits(&server, &door, transport, "40").await;
        says_more(&mut peer, "40").await;
        peer.says("1").await;
        was_given_up(&server, &door, CloseReason::ClientClosed).await;
    }
}

#[tokio::test]
async fn a_farewell_that_follows_a_refused_join_is_no_join() {
    let (begun, goes_on, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let server = Server::start(quiet(), |io| {
        let (begun, goes_on, done) = (begun.clone(), goes_on.clone(), done.clone());
        let slow_farewell = move || {
            let (begun, goes_on, done) = (begun.clone(), goes_on.clone(), done.clone());
            async move {
                begun.notify_one();
                goes_on.notified().await;
                done.fetch_add(1, SeqCst);
            }
        };
        io.ns("/", Namespace::new().on_disconnect(slow_farewell));
    })
    .await;
    let mut peer = Peer::joined(server.addr, Transport::WebSocket).await;
    peer.says("40/unknown").await;
    assert_eq!(peer.hears_text().await, r#"44/unknown,{"message":"Invalid namespace"}"#);
    server.io.sockets("/").pop().unwrap().disconnect();
    begun.notified().await;
    peer.says("1").await;
    server.until("closing", |counters| counters.closed(CloseReason::ClientClosed) == 1).await;
    goes_on.notify_one();
    server.io.shutdown().await;
    assert_eq!(done.load(SeqCst), 1, "whoever left was told so to the end");
}
