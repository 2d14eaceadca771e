//! Why a connection, or a socket on it, came to its end.

use std::fmt;

/// Why a session was closed or a socket left its namespace.
///
/// The first two concern one socket only; every other reason ends the whole Engine.IO session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client left the namespace (packet `41`); its session lives on.
    ClientLeft,
    /// The server had the socket leave its namespace, see [`SocketRef::disconnect`](crate::Socket::disconnect).
    ServerLeft,
    /// The client closed the session: Engine.IO packet `1`, or a WebSocket close.
    ClientClosed,
    /// The connection broke without a word.
    ConnectionLost,
    /// No pong came within `ping_timeout`.
    PingTimeout,
    /// The client was in no namespace for `connect_timeout`.
    ConnectTimeout,
    /// A packet, payload or frame broke the protocol.
    BadPacket,
    /// A text message of a WebSocket was not UTF-8.
    BadText,
    /// A message was larger than `max_payload`.
    TooLarge,
    /// The peer took no byte for `write_deadline`.
    Stalled,
    /// The client sent more packets than [`Config::messages`](crate::Config::messages) allows.
    TooManyMessages,
    /// The client made the server answer more than the queue can hold.
    Overflow,
    /// The client gave up a poll that was in flight.
    PollAborted,
    /// The client had two polls, or two posts, in flight at once.
    PollOverlap,
    /// A newer connection took over the same public socket id.
    Replaced,
    /// A handler panicked; what it left behind is not trusted any further.
    HandlerPanicked,
    /// The server shuts down.
    ShuttingDown,
    /// The server closed the session for a reason of its own. Each text is counted apart, so there should be few.
    Server {
        /// WebSocket close code, 1000–4999 (for example 1012, service restart).
        code: u16,
        /// WebSocket close reason, cut after 123 bytes.
        text: &'static str,
    },
}

impl CloseReason {
    /// Service restart: stock clients come back by themselves.
    pub const RESTART: CloseReason = CloseReason::Server { code: 1012, text: "service restart" };

    pub(crate) const KINDS: [&'static str; 18] = [
        "client_left",
        "server_left",
        "client_closed",
        "connection_lost",
        "ping_timeout",
        "connect_timeout",
        "bad_packet",
        "too_large",
        "stalled",
        "overflow",
        "poll_aborted",
        "poll_overlap",
        "replaced",
        "handler_panicked",
        "shutting_down",
        "server",
        "bad_text",
        "too_many_messages",
    ];

    pub(crate) fn kind(self) -> usize {
        match self {
            CloseReason::ClientLeft => 0,
            CloseReason::ServerLeft => 1,
            CloseReason::ClientClosed => 2,
            CloseReason::ConnectionLost => 3,
            CloseReason::PingTimeout => 4,
            CloseReason::ConnectTimeout => 5,
            CloseReason::BadPacket => 6,
            CloseReason::TooLarge => 7,
            CloseReason::Stalled => 8,
            CloseReason::Overflow => 9,
            CloseReason::PollAborted => 10,
            CloseReason::PollOverlap => 11,
            CloseReason::Replaced => 12,
            CloseReason::HandlerPanicked => 13,
            CloseReason::ShuttingDown => 14,
            CloseReason::Server { .. } => 15,
            CloseReason::BadText => 16,
            CloseReason::TooManyMessages => 17,
        }
    }

    /// A stable name in snake case, fit for a metric's label.
    pub fn name(self) -> &'static str {
        Self::KINDS[self.kind()]
    }

    /// The WebSocket close code and reason that the peer is shown.
    pub(crate) fn frame(self) -> (u16, &'static str) {
        match self {
            CloseReason::BadPacket => (1002, "bad packet"),
            CloseReason::BadText => (1007, "text is not UTF-8"),
            CloseReason::TooLarge => (1009, "message too large"),
            CloseReason::PingTimeout => (1001, "ping timeout"),
            CloseReason::ConnectTimeout => (1008, "connect timeout"),
            CloseReason::TooManyMessages => (1008, "too many messages"),
            CloseReason::Overflow => (1008, "too much to answer"),
            CloseReason::Replaced => (1000, "replaced"),
            CloseReason::HandlerPanicked => (1011, "internal error"),
            CloseReason::ShuttingDown => (1012, "service restart"),
            CloseReason::Server { code, text } => (code, text),
            _ => (1000, ""),
        }
    }

    /// Whether the server chose this moment, so that what is queued should still go out first.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, CloseReason::Server { .. } | CloseReason::ShuttingDown | CloseReason::Replaced)
    }

    /// Whether nobody is left at the other end to be told.
    pub(crate) fn is_silent(self) -> bool {
        matches!(self, CloseReason::ConnectionLost | CloseReason::Stalled)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
