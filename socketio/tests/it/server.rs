//! A server on a free port.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, serve::ListenerExt};
use tillwire_socketio::{
    CloseReason, Config, Encoded, Handshake, SocketIo,
    engine::{Application, Conversation, EngineService, EngineSocket, Message},
};
use tokio::net::TcpSocket;

pub struct Server {
    pub addr: SocketAddr,
    pub io: SocketIo,
}

impl Server {
    /// Socket.IO at `/socket.io/`, an Engine.IO echo at `/engine.io/`.
    pub async fn start(config: Config, open: impl FnOnce(&SocketIo)) -> Server {
        let (io, service) = SocketIo::new(config.clone());
        open(&io);
        let router = Router::new()
            .route_service("/engine.io/", EngineService::new(config, Echo))
            .route_service("/socket.io/", service);
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted connections inherit it: the kernel must not swallow what a test sends to a slow reader.
        socket.set_send_buffer_size(64 * 1024).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(
            async move { axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await },
        );
        Server { addr, io }
    }

    pub async fn echo(config: Config) -> Server {
        Self::start(config, |_| {}).await
    }

    /// Waits until the counters say so.
    pub async fn until(&self, what: &str, met: impl Fn(&tillwire_socketio::CountersView) -> bool) {
        let waiting = async {
            while !met(&self.io.counters()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), waiting).await.is_err() {
            panic!("never: {what}; {:?}", self.io.counters());
        }
    }
}

/// No heartbeat in sight: tests that are not about it must not meet it.
pub fn quiet() -> Config {
    Config { ping_interval: Duration::from_secs(60), ping_bytes: usize::MAX, ..Config::default() }
}

pub fn beating(interval: u64, timeout: u64) -> Config {
    Config {
        ping_interval: Duration::from_millis(interval),
        ping_timeout: Duration::from_millis(timeout),
        ..Config::default()
    }
}

struct Echo;

struct EchoSession(EngineSocket);

impl Application for Echo {
    type Conversation = EchoSession;

    fn open(&self, session: EngineSocket, _: Arc<Handshake>) -> EchoSession {
        EchoSession(session)
    }
}

impl Conversation for EchoSession {
    fn receive(&mut self, message: Message<'_>) -> Result<(), CloseReason> {
        let echo = match message {
            Message::Text(text) => Encoded::engine_text(&format!("4{text}")),
            Message::Binary(bytes) => Encoded::engine_binary(bytes.clone()),
        };
        self.0.try_send(&[echo]).map_err(|_| CloseReason::Overflow)
    }

    async fn finish(self, _: CloseReason) {}
}
