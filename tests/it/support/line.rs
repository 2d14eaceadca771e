//! What a screen speaks over: Engine.IO's packets, one at a time, on a WebSocket or by long-polling.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::hub::request;

/// How a connection ended, or was refused.
#[derive(Debug, PartialEq)]
pub enum End {
    /// Socket.IO's own refusal, with its `data`.
    Refused(Value),
    /// The server had it leave: a person must act.
    SignedOff,
    /// The WebSocket was closed with this code.
    Closed(u16),
    /// A poll was answered with Engine.IO's close, which has no code.
    PollClosed,
    /// No session was opened, but for this HTTP status.
    TurnedAway(u16),
    /// The connection broke.
    Broken,
}

pub enum Line {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Polling {
        address: SocketAddr,
        path: String,
        /// What the last poll brought and nobody has taken yet.
        packets: VecDeque<String>,
    },
}

impl Line {
    pub async fn websocket(stream: TcpStream, address: SocketAddr) -> Result<Self, End> {
        stream.set_nodelay(true).expect("no delay");
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let request = url.into_client_request().expect("a request");
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Self::WebSocket(Box::new(socket))),
            Err(Error::Http(answer)) => Err(End::TurnedAway(answer.status().as_u16())),
            Err(_) => Err(End::Broken),
        }
    }

    pub async fn polling(address: SocketAddr) -> Result<Self, End> {
        let path = "/socket.io/?EIO=4&transport=polling";
        let answer = request(address, "GET", path, &[], vec![]).await.map_err(|_| End::Broken)?;
        if answer.status != 200 {
            return Err(End::TurnedAway(answer.status));
        }
        let greeting = String::from_utf8(answer.body).expect("UTF-8");
        let session: Value = serde_json::from_str(greeting.trim_start_matches('0')).expect("a greeting");
        let path = format!("{path}&sid={}", session["sid"].as_str().expect("a session id"));
        Ok(Self::Polling { address, path, packets: [greeting].into() })
    }

    /// The next packet.
    pub async fn next(&mut self) -> Result<String, End> {
        loop {
            match self {
                Self::WebSocket(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                    Some(Ok(Message::Close(Some(frame)))) => return Err(End::Closed(frame.code.into())),
                    Some(Ok(Message::Close(None)) | Err(_)) | None => return Err(End::Broken),
                    Some(Ok(_)) => {}
                },
                Self::Polling { address, path, packets } => match packets.pop_front() {
                    Some(packet) if packet == "1" => return Err(End::PollClosed),
                    Some(packet) => return Ok(packet),
                    None => {
                        let answer = request(*address, "GET", path, &[], vec![]).await.map_err(|_| End::Broken)?;
                        if answer.status != 200 {
                            return Err(End::Broken);
                        }
                        let payload = String::from_utf8(answer.body).expect("UTF-8");
                        packets.extend(payload.split('\x1e').map(str::to_owned));
                    }
                },
            }
        }
    }

    /// If the other end is gone, reading will say so.
    pub async fn say(&mut self, packet: String) {
        match self {
            Self::WebSocket(socket) => _ = socket.send(Message::text(packet)).await,
            Self::Polling { address, path, .. } => {
                _ = request(*address, "POST", path, &[], packet.into_bytes()).await;
            }
        }
    }
}
