//! What a server may be told, with defaults that are safe on an open network.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, header};

use crate::Pace;

/// Finds a client's address among a request's extensions.
pub type RemoteAddr = Arc<dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync>;

/// Is told how long packets took to leave, see [`Socket::time_written`](crate::Socket::time_written).
pub type OnWritten = Arc<dyn Fn(Duration) + Send + Sync>;

/// Knows the proxies whose `X-Forwarded-For` is believed.
pub type IsProxy = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Settings of one server. Every bound is per connection unless it says otherwise.
#[derive(Clone)]
pub struct Config {
    /// Time from a pong (or the handshake) to the next ping. 25 s.
    pub ping_interval: Duration,
    /// Time a peer has to answer a ping. 20 s.
    pub ping_timeout: Duration,
    /// Bytes after which a ping rides along with what is sent, whatever the time. A peer that takes all of `ping_timeout` to
    /// read so many is not cut while more waits behind them, and says how far it has come. 16 KiB: a kilobyte a second.
    pub ping_bytes: usize,
    /// Largest message from a client in bytes: HTTP body, WebSocket message and frame. 64 KiB.
    pub max_payload: usize,
    /// Time a client has to ask for its first namespace, and the server to let it in; also how long a client may stay that has
    /// left them all. 45 s.
    pub connect_timeout: Duration,
    /// Time an upgrade to WebSocket may take, from the request to the answer of its probe. Packet `5` is waited for as long as the
    /// session lives, for its client has stopped polling. 10 s.
    pub upgrade_timeout: Duration,
    /// A WebSocket whose peer takes no byte for this long is closed. 30 s. What counts is the kernel taking bytes from us, and Linux
    /// says that it may only when a third of the send buffer is free: the listener should cap `SO_SNDBUF` (64 KiB, say), or a
    /// slow but honest reader looks stalled behind megabytes that the kernel took at once.
    pub write_deadline: Duration,
    /// Time [`emit_with_ack`](crate::SocketRef::emit_with_ack) waits for an answer. 10 s.
    pub ack_timeout: Duration,
    /// Events whose acknowledgement a socket may wait for at once. 64.
    pub pending_acks_max: usize,
    /// Packets queued for one connection, those being written included; several that are [joined](crate::Encoded::joined) are one. 256.
    pub queue_packets_max: usize,
    /// Bytes queued for one connection, those being written included. 1 MiB.
    pub queue_bytes_max: usize,
    /// Packets a client may send: events, joins, leaves, and answers that nobody waits for. Heartbeats and answers that were asked
    /// for are not counted. Beyond it the session is closed. 20 a second, 100 at once.
    pub messages: Option<Pace>,
    /// Events read but not yet handled; beyond it the connection is not read further. 32.
    pub incoming_events_max: usize,
    /// Binary attachments of one incoming event. Their sum is bounded by `max_payload`. 16.
    pub attachments_max: usize,
    /// Who may call from a browser.
    pub origins: Origins,
    /// Sessions of this server at once, all connections together. Beyond it: 503. 65,536.
    pub sockets_max: usize,
    /// Sessions at once of one address, which is what `remote_addr` finds or a trusted proxy names; of IPv6 its first 64 bits. Beyond it:
    /// 429. No bound by default: whole shops are behind one address.
    pub sockets_per_address_max: Option<usize>,
    /// New sessions of this server, all together: a storm of clients that come back. Beyond it: 503, before anything is done for
    /// them. No bound by default.
    pub handshakes: Option<Pace>,
    /// The longest time that `Retry-After` names on a 429 or 503, in whole seconds; while many are sent away, each is told another. 5 s.
    pub retry_after: Duration,
    /// Request headers copied out for middleware; nothing else of a request is kept.
    /// `origin`, `user-agent`, `x-forwarded-for`, `traceparent`.
    pub headers_kept: Vec<HeaderName>,
    /// Makes Engine.IO session ids. Whoever knows one owns its polling session: it must be unguessable, unique and URL-safe.
    /// 144 random bits by default.
    pub session_id: Arc<dyn Fn() -> String + Send + Sync>,
    /// Finds the client's address among a request's extensions. The default knows a bare [`SocketAddr`];
    /// with axum: `Arc::new(|e| e.get::<ConnectInfo<SocketAddr>>().map(|info| info.0))`.
    pub remote_addr: RemoteAddr,
    /// Is told how long what was [timed](crate::Socket::time_written) took to leave. It must be quick: it is called while others wait
    /// to write. Nobody by default.
    pub on_written: OnWritten,
    /// Whose `X-Forwarded-For` names the address to count a session under. Nobody's by default.
    pub is_proxy: IsProxy,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            ping_bytes: 16 * 1024,
            max_payload: 64 * 1024,
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            write_deadline: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(10),
            pending_acks_max: 64,
            queue_packets_max: 256,
            queue_bytes_max: 1024 * 1024,
            messages: Some(Pace { per_second: 20, burst: 100 }),
            incoming_events_max: 32,
            attachments_max: 16,
            origins: Origins::List(Vec::new()),
            sockets_max: 65_536,
            sockets_per_address_max: None,
            handshakes: None,
            retry_after: Duration::from_secs(5),
            headers_kept: vec![
                header::ORIGIN,
                header::USER_AGENT,
                HeaderName::from_static("x-forwarded-for"),
                HeaderName::from_static("traceparent"),
            ],
            session_id: Arc::new(random_session_id),
            remote_addr: Arc::new(|extensions| extensions.get().copied()),
            on_written: Arc::new(|_| {}),
            is_proxy: Arc::new(|_| false),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("ping_interval", &self.ping_interval)
            .field("ping_timeout", &self.ping_timeout)
            .field("max_payload", &self.max_payload)
            .field("origins", &self.origins)
            .field("sockets_max", &self.sockets_max)
            .finish_non_exhaustive()
    }
}

fn random_session_id() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>())
}

/// Which `Origin` headers are let in, over both transports. Requests without one (phones, servers) always are.
#[derive(Clone, Debug)]
pub enum Origins {
    /// Every page on the web. CORS answers `*`, hence browsers send no cookies.
    Any,
    /// Exactly these, e.g. `https://app.example.com`; the server's own origin needs listing too.
    List(Vec<HeaderValue>),
    /// Pages from the host that the request itself names (`Host`), and these. Sound where what opens a socket is a token in the
    /// CONNECT packet and not a cookie: a name that was made to point here has none to bring.
    OwnAnd(Vec<HeaderValue>),
}

impl Origins {
    /// A list from strings; one that cannot be a header value is left out, hence refused.
    pub fn list<'a>(origins: impl IntoIterator<Item = &'a str>) -> Self {
        Origins::List(origins.into_iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        match (self, headers.get(header::ORIGIN)) {
            (Origins::Any, _) | (_, None) => true,
            (Origins::List(list), Some(origin)) => list.contains(origin),
            (Origins::OwnAnd(list), Some(origin)) => list.contains(origin) || is_own(origin, headers.get(header::HOST)),
        }
    }
}

/// Whether a page's origin is at the host that was asked. The scheme may differ: TLS can end before us.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    authority.zip(host.and_then(|host| host.to_str().ok())).is_some_and(|(own, asked)| own.eq_ignore_ascii_case(asked))
}
