//! The moment before a socket is one: who asks, with what, and what they are told.

use std::{fmt, sync::Arc};

use http::Extensions;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use socketioxide_core::Str;

use crate::{CloseReason, Handshake, SocketId};

/// A client's wish to join a namespace, on its way through the middleware. Nothing has been answered yet.
#[derive(Debug)]
pub struct ConnectRequest {
    pub(crate) ns: Box<str>,
    pub(crate) auth: Option<Str>,
    pub(crate) handshake: Arc<Handshake>,
    pub(crate) id: SocketId,
    pub(crate) pid: Option<Box<str>>,
    pub(crate) recovered: bool,
    pub(crate) extensions: Extensions,
}

/// What a stock client adds to its auth when it returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Resume {
    /// The private id that an earlier CONNECT reply gave.
    pub pid: Option<String>,
    /// The last string that ended an event the client saw.
    pub offset: Option<String>,
}

impl ConnectRequest {
    /// The namespace asked for.
    pub fn ns(&self) -> &str {
        &self.ns
    }

    /// The session's first request.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// The auth payload as it came, a JSON object; `{}` if there was none. `pid` and `offset` are in it.
    pub fn auth_json(&self) -> &str {
        self.auth.as_deref().unwrap_or("{}")
    }

    /// The auth payload, decoded.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn auth<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.auth_json())
    }

    /// Where the client wants to go on; empty if it is new, or if the two are not strings.
    pub fn resume(&self) -> Resume {
        self.auth().unwrap_or_default()
    }

    /// The public id the socket will have.
    pub fn id(&self) -> SocketId {
        self.id
    }

    /// Gives the client this `pid`, with which it may return. A client whose own it is not sees `recovered === false`.
    pub fn set_pid(&mut self, pid: impl Into<Box<str>>) {
        self.pid = Some(pid.into());
        self.recovered = false;
    }

    /// Recovers a socket: the client's own `pid` again, and the public id it had. The client sees `recovered === true`.
    /// Another connection that still holds the id is closed with [`CloseReason::Replaced`](crate::CloseReason::Replaced).
    pub fn recover(&mut self, pid: impl Into<Box<str>>, id: SocketId) {
        self.pid = Some(pid.into());
        self.id = id;
        self.recovered = true;
    }

    /// Leaves a value for handlers, see [`SocketRef::extension`](crate::Socket::extension).
    pub fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) {
        self.extensions.insert(value);
    }

    /// A value that earlier middleware left.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.extensions.get()
    }
}

/// No. The client sees `connect_error` with this message, and `data` as `err.data`; a stock client does not try again by itself.
#[derive(Debug, Serialize)]
pub struct Refusal {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip)]
    closes: Option<CloseReason>,
}

impl Refusal {
    /// A refusal with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Refusal { message: message.into(), data: None, closes: None }
    }

    /// Closes the connection instead of answering: a stock client tries again by itself, which it does not after an answer.
    #[must_use]
    pub fn closing(reason: CloseReason) -> Self {
        Refusal { message: reason.name().to_owned(), data: None, closes: Some(reason) }
    }

    /// Adds data for the client's program to act upon. What cannot be written as JSON is left out.
    #[must_use]
    pub fn with_data<T: Serialize>(self, data: &T) -> Self {
        Refusal { data: serde_json::value::to_raw_value(data).ok(), ..self }
    }

    pub(crate) fn closes(&self) -> Option<CloseReason> {
        self.closes
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| r#"{"message":"refused"}"#.to_owned())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
