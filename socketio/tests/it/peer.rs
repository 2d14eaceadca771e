//! A client that does only what it is told: raw HTTP, raw WebSocket, no heartbeat of its own.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tillwire_socketio::Transport;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, protocol::CloseFrame},
};

pub const BOTH: [Transport; 2] = [Transport::Polling, Transport::WebSocket];
pub const ENGINE: &str = "/engine.io/";
pub const SOCKET: &str = "/socket.io/";
/// How long a fact may take to come about before a test gives up.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// One HTTP request on a connection of its own. Dropping the future aborts it.
pub async fn http(
    addr: SocketAddr,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut request = Request::builder().method(method).uri(uri).header(header::HOST, addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = async {
        let reply = sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    };
    // The connection is driven here, not by a task, so that it dies with this future.
    tokio::pin!(connection, answer);
    let both = async {
        tokio::select! {
            reply = &mut answer => reply,
            _ = &mut connection => answer.await,
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("an HTTP reply")
}

pub async fn get(addr: SocketAddr, uri: &str) -> Reply {
    http(addr, "GET", uri, &[], "").await
}

pub async fn post(addr: SocketAddr, uri: &str, body: impl Into<Bytes>) -> Reply {
    http(addr, "POST", uri, &[], body).await
}

pub type Socket = WebSocketStream<TcpStream>;

/// A WebSocket, or the status it was refused with.
pub async fn websocket(addr: SocketAddr, uri: &str, headers: &[(&str, &str)]) -> Result<Socket, StatusCode> {
    websocket_on(TcpStream::connect(addr).await.unwrap(), addr, uri, headers).await
}

/// The same with a small receive buffer, so that a write to it soon has to wait.
pub async fn narrow_websocket(addr: SocketAddr, uri: &str, buffer: u32) -> Socket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    websocket_on(socket.connect(addr).await.unwrap(), addr, uri, &[]).await.unwrap()
}

async fn websocket_on(
    stream: TcpStream,
    addr: SocketAddr,
    uri: &str,
    headers: &[(&str, &str)],
) -> Result<Socket, StatusCode> {
    let mut request = format!("ws://{addr}{uri}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(reply)) => Err(reply.status()),
        Err(error) => panic!("{error}"),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Text(String),
    Binary(Vec<u8>),
}

impl From<&str> for Packet {
    fn from(text: &str) -> Self {
        Packet::Text(text.to_owned())
    }
}

/// One Engine.IO session over either transport.
pub struct Peer {
    pub addr: SocketAddr,
    pub path: &'static str,
    pub greeting: serde_json::Value,
    pub line: Line,
    heard: VecDeque<Packet>,
}

pub enum Line {
    Polling,
    WebSocket(Box<Socket>),
}

/// How a session ended, as its client sees it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// A poll answered 400.
    Refused,
    /// A WebSocket close with its code and reason; 1005 where it had none.
    Closed(u16, String),
    /// The connection broke.
    Broken,
}

impl Peer {
    pub async fn open(addr: SocketAddr, path: &'static str, transport: Transport) -> Peer {
        let (greeting, line) = match transport {
            Transport::Polling => (get(addr, &format!("{path}?EIO=4&transport=polling")).await.body, Line::Polling),
            Transport::WebSocket => {
                let mut socket = websocket(addr, &format!("{path}?EIO=4&transport=websocket"), &[]).await.unwrap();
                let Some(Ok(Message::Text(text))) = socket.next().await else { panic!("no greeting") };
                (text.to_string(), Line::WebSocket(Box::new(socket)))
            }
        };
        let greeting = serde_json::from_str(greeting.strip_prefix('0').expect("a handshake packet")).unwrap();
        Peer { addr, path, greeting, line, heard: VecDeque::new() }
    }

    /// A Socket.IO peer that has joined the main namespace.
    pub async fn joined(addr: SocketAddr, transport: Transport) -> Peer {
        let mut peer = Self::open(addr, SOCKET, transport).await;
        peer.says("40").await;
        let reply = peer.hears_text().await;
        assert!(reply.starts_with("40{"), "{reply}");
        peer
    }

    pub fn from_socket(addr: SocketAddr, socket: Socket) -> Peer {
        let line = Line::WebSocket(Box::new(socket));
        Peer { addr, path: SOCKET, greeting: serde_json::Value::Null, line, heard: VecDeque::new() }
    }

    pub fn sid(&self) -> &str {
        self.greeting["sid"].as_str().unwrap()
    }

    pub fn uri(&self) -> String {
        format!("{}?EIO=4&transport=polling&sid={}", self.path, self.sid())
    }

    pub async fn says(&mut self, packet: &str) {
        match &mut self.line {
            Line::Polling => {
                post(self.addr, &self.uri(), packet.to_owned()).await;
            }
            // The server may have closed already; the test will see that in what it hears.
            Line::WebSocket(socket) => _ = socket.send(Message::text(packet)).await,
        }
    }

    pub async fn says_binary(&mut self, message: &[u8]) {
        match &mut self.line {
            Line::Polling => {
                post(self.addr, &self.uri(), format!("b{}", BASE64_STANDARD.encode(message))).await;
            }
            Line::WebSocket(socket) => _ = socket.send(Message::binary(message.to_vec())).await,
        }
    }

    /// The next packet.
    pub async fn hears(&mut self) -> Packet {
        self.hears_or_ends().await.unwrap_or_else(|end| panic!("ended: {end:?}"))
    }

    /// The next packet, or how the session ended.
    pub async fn hears_or_ends(&mut self) -> Result<Packet, End> {
        loop {
            if let Some(packet) = self.heard.pop_front() {
                return Ok(packet);
            }
            self.fetch().await?;
        }
    }

    pub async fn hears_text(&mut self) -> String {
        match self.hears().await {
            Packet::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that arrives in one go: a poll's answer, or one WebSocket message.
    pub async fn hears_at_once(&mut self) -> Vec<Packet> {
        if self.heard.is_empty() {
            self.fetch().await.unwrap();
        }
        self.heard.drain(..).collect()
    }

    /// Hears on until the session ends; whatever came before and how it ended.
    pub async fn ends(&mut self) -> (Vec<Packet>, End) {
        loop {
            if let Err(end) = self.fetch().await {
                return (self.heard.drain(..).collect(), end);
            }
        }
    }

    async fn fetch(&mut self) -> Result<(), End> {
        match &mut self.line {
            Line::Polling => {
                let reply = get(self.addr, &self.uri()).await;
                if reply.status == StatusCode::BAD_REQUEST {
                    return Err(End::Refused);
                }
                assert_eq!(reply.status, StatusCode::OK);
                self.heard.extend(reply.body.split('\x1e').map(|packet| match packet.strip_prefix('b') {
                    Some(encoded) => Packet::Binary(BASE64_STANDARD.decode(encoded).unwrap()),
                    None => Packet::from(packet),
                }));
            }
            Line::WebSocket(socket) => {
                let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a message");
                self.heard.push_back(match message {
                    Some(Ok(Message::Text(text))) => Packet::from(text.as_str()),
                    Some(Ok(Message::Binary(bytes))) => Packet::Binary(bytes.to_vec()),
                    Some(Ok(Message::Close(frame))) => {
                        return Err(match frame {
                            Some(CloseFrame { code, reason }) => End::Closed(code.into(), reason.to_string()),
                            None => End::Closed(1005, String::new()),
                        });
                    }
                    Some(Ok(_)) => return Ok(()),
                    Some(Err(_)) | None => return Err(End::Broken),
                });
            }
        }
        Ok(())
    }

    pub async fn upgrades(&mut self) {
        let uri = format!("{}?EIO=4&transport=websocket&sid={}", self.path, self.sid());
        let mut socket = websocket(self.addr, &uri, &[]).await.unwrap();
        socket.send(Message::text("2probe")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("3probe"));
        socket.send(Message::text("5")).await.unwrap();
        self.line = Line::WebSocket(Box::new(socket));
    }
}
