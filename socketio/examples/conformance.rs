//! The echo server that conformance suites expect: Engine.IO at `/engine.io/`, Socket.IO at `/socket.io/`, and at `/echo` bare
//! WebSockets through the same codec with the same settings.
//!
//! `cargo run --release -p tillwire-socketio --example conformance -- 127.0.0.1:3000`

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use tillwire_socketio::{
    AckSender, CloseReason, Config, Data, Encoded, Handshake, Namespace, Origins, Raw, SocketIo, SocketRef,
    engine::{Application, Conversation, EngineService, EngineSocket, FrameEcho, Message},
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address: SocketAddr = match std::env::args().nth(1) {
        Some(address) => address.parse().map_err(|error| std::io::Error::other(format!("{address}: {error}")))?,
        None => SocketAddr::from(([127, 0, 0, 1], 3000)),
    };

    let (io, socketio) = SocketIo::new(config());
    io.ns("/", Namespace::new().on_connect(greet).on("message", message_back).on("message-with-ack", acknowledge));
    io.ns("/custom", greet);
    let router = Router::new()
        .route_service("/echo", FrameEcho::new(config()))
        .route_service("/engine.io/", EngineService::new(config(), Echo))
        .route_service("/socket.io/", socketio);

    let mut servers = tokio::task::JoinSet::new();
    servers.spawn(serve(TcpListener::bind(address).await?, router.clone()));
    if address.ip().is_loopback() && address.is_ipv4() {
        // `localhost` is either; a client may try one only.
        let twin = SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()));
        servers.spawn(serve(TcpListener::bind(twin).await?, router));
    }
    println!("Listening on {address}");
    tokio::signal::ctrl_c().await?;
    io.shutdown().await;
    Ok(())
}

async fn serve(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Without it a small write waits for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

fn config() -> Config {
    Config {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        max_payload: 1_000_000,
        connect_timeout: Duration::from_millis(1000),
        origins: Origins::Any,
        ..Config::default()
    }
}

async fn greet(socket: SocketRef, Data(auth): Data<serde_json::Value>) {
    let _ = socket.emit("auth", &auth);
}

async fn message_back(socket: SocketRef, arguments: Raw) {
    let _ = socket.send(&[arguments.event_in(socket.ns(), "message-back")]).await;
}

async fn acknowledge(arguments: Raw, ack: AckSender) {
    let _ = ack.send_raw(&arguments);
}

/// Bare Engine.IO: every message comes back.
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
