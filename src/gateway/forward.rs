//! The way in: a request about a session of another node is sent on to that node. So any balancer will do, round robin
//! too, though stock clients begin with long-polling, whose every request is a new one.
//!
//! What is sent on is not looked into. It is the session's own node that checks origins and sizes, and answers; whoever
//! aborts a poll here aborts it there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tillwire_socketio::session_id;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::timeout::TimeoutBody;
use tracing::debug;

use super::naming::Naming;
use super::tunnel::Tunnels;

/// How many requests, WebSockets included, are under way to one other node at most.
const UNDER_WAY_MAX: usize = 8_192;
/// How long a node may take to accept a connection. They are neighbours.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How much longer than the longest poll an answer may take.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// What is kept of connections to each node that nobody uses.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// Sooner than the other node cuts one: a connection that was made and not needed has not said a byte yet.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// The longest `Retry-After`, in seconds; each is told another, or all would come back together.
const RETRY_AFTER_MAX: u64 = 5;
/// What the kernel may hold for one connection, in each direction, in bytes: a screen that reads slowly would else have
/// megabytes here.
const KERNEL_BUFFER_BYTES: usize = 64 * 1024;
/// A machine that is gone without a word is found out in 30 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// A request that was sent on says so, and is not sent on again: nodes that are wrong about their addresses would else
/// send it in circles.
const FORWARDED: HeaderName = HeaderName::from_static("tillwire-forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Headers that are about a connection and not about a request.
const OF_CONNECTIONS: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// What stands before the Socket.IO server.
pub struct Forwarder {
    naming: Arc<Naming>,
    client: Client<HttpConnector, Body>,
    lanes: Arc<Lanes>,
    tunnels: Arc<Tunnels>,
    /// How long an answer may take.
    answer_max: Duration,
}

impl Forwarder {
    /// `poll_max` is how long a poll may wait. Tunnels are tasks of `tasks`, and end at `stop`.
    pub fn new(
        naming: Arc<Naming>,
        lanes: Lanes,
        poll_max: Duration,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_MAX));
        connector.set_send_buffer_size(Some(KERNEL_BUFFER_BYTES));
        connector.set_recv_buffer_size(Some(KERNEL_BUFFER_BYTES));
        connector.set_keepalive(Some(KEEPALIVE_AFTER));
        connector.set_keepalive_interval(Some(KEEPALIVE_EVERY));
        connector.set_keepalive_retries(Some(KEEPALIVE_TRIES));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        let tunnels = Arc::new(Tunnels::new(tasks, stop));
        Self { naming, client, lanes: Arc::new(lanes), tunnels, answer_max: poll_max + ANSWER_SLACK }
    }

    /// How many WebSockets came in here and live elsewhere.
    pub fn tunnels(&self) -> usize {
        self.tunnels.count()
    }

    /// Closes the WebSockets that came in here and live elsewhere, `slice` at a time with a pause between.
    pub async fn close_in_slices(&self, slice: usize, pause: Duration) {
        self.tunnels.close_in_slices(slice, pause).await;
    }

    /// Has a node answer the request. With the answer comes a word for how it went.
    ///
    /// # Errors
    /// The word for why there is no answer.
    async fn ask(
        &self,
        node: SocketAddr,
        mut request: Request,
        place: Place,
    ) -> Result<(Response, &'static str), &'static str> {
        let client = asks_for_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let request = addressed(node, request, client.is_some()).ok_or("broken")?;
        let mut answer = match tokio::time::timeout(self.answer_max, self.client.request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                debug!(%node, "A request was not answered by the node that it is for: {error:#}");
                return Err(if error.is_connect() { "unreachable" } else { "broken" });
            }
            Err(_) => return Err("late"),
        };
        let is_upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        strip(answer.headers_mut(), is_upgraded);
        if is_upgraded {
            let client = client.ok_or("broken")?;
            self.tunnels.open(client, hyper::upgrade::on(&mut answer), place);
            return Ok((answer.map(|_| Body::empty()), "upgraded"));
        }
        // It is under way until its last byte is.
        let held = move |body: Incoming| {
            let body = TimeoutBody::new(self.answer_max, body);
            Body::new(body.map_frame(move |frame| {
                let _ = &place;
                frame
            }))
        };
        Ok((answer.map(held), "answered"))
    }
}

/// Answers a request, or has the node answer it that it is about.
pub async fn forward(State(forwarder): State<Arc<Forwarder>>, request: Request, here: Next) -> Response {
    if !forwarder.naming.is_ready().await {
        metrics::counter!("tillwire_gateway_turned_away_total", "reason" => "no_keys").increment(1);
        return busy("no_keys", "Not ready yet");
    }
    let is_forwarded = request.headers().contains_key(&FORWARDED);
    let node = match session_id(request.uri()) {
        Some(sid) if !is_forwarded => forwarder.naming.other(sid).await,
        _ => None,
    };
    let Some(node) = node else { return here.run(request).await };
    let mut counted = Counted { outcome: "aborted" };
    let stays = asks_for_upgrade(request.headers());
    let Some(place) = forwarder.lanes.enter(node, stays) else {
        counted.outcome = "full";
        return busy("too_many_forwarded", "Too many requests are under way to the node of this session");
    };
    let without_body = without_body(&request);
    match forwarder.ask(node, request, place).await {
        Ok((answer, outcome)) => {
            counted.outcome = outcome;
            answer
        }
        Err(outcome) => {
            counted.outcome = outcome;
            // We do not know the session, and say so as whoever does not know one: the client opens another at once.
            here.run(without_body).await
        }
    }
}

/// A request that was sent on, to be counted by how that went.
struct Counted {
    outcome: &'static str,
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::counter!("tillwire_gateway_forwarded_total", "outcome" => self.outcome).increment(1);
    }
}

/// How many requests are under way, by node.
pub struct Lanes {
    taken: Mutex<HashMap<SocketAddr, usize>>,
    each_max: usize,
    connections: Arc<Semaphore>,
    kept: usize,
}

/// A request's place in a lane, and the connection that it takes.
struct Place {
    lanes: Arc<Lanes>,
    node: SocketAddr,
    _connection: OwnedSemaphorePermit,
}

impl Lanes {
    /// Each request takes one of the connections that the node may still have. What stays for long leaves so many.
    pub fn new(connections: Arc<Semaphore>, kept: usize) -> Self {
        Self { taken: Mutex::default(), each_max: UNDER_WAY_MAX, connections, kept }
    }

    /// `None` if there is no place left. `stays` is for a WebSocket; its client polls on without one.
    fn enter(self: &Arc<Self>, node: SocketAddr, stays: bool) -> Option<Place> {
        if stays && self.connections.available_permits() <= self.kept {
            return None;
        }
        let connection = self.connections.clone().try_acquire_owned().ok()?;
        let mut taken = self.lock();
        let lane = taken.entry(node).or_default();
        if *lane >= self.each_max {
            return None;
        }
        *lane += 1;
        Some(Place { lanes: self.clone(), node, _connection: connection })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.lanes.lock();
        if let Some(lane) = taken.get_mut(&self.node) {
            *lane -= 1;
            if *lane == 0 {
                taken.remove(&self.node);
            }
        }
    }
}

/// Come back in a moment, in the form of the Socket.IO server.
fn busy(code: &str, message: &str) -> Response {
    let retry_after = fastrand::u64(1..=RETRY_AFTER_MAX).to_string();
    let body = serde_json::json!({ "code": code, "message": message });
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, retry_after)], Json(body)).into_response()
}

/// As much of a request as our own service looks at before it finds that it does not know the session.
fn without_body(request: &Request) -> Request {
    let mut without = Request::new(Body::empty());
    *without.method_mut() = request.method().clone();
    *without.uri_mut() = request.uri().clone();
    for name in [header::HOST, header::ORIGIN] {
        if let Some(value) = request.headers().get(&name) {
            without.headers_mut().insert(name, value.clone());
        }
    }
    without
}

fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers.get(header::UPGRADE).is_some_and(is_websocket)
}

/// The request as it is sent to a node; `None` if it cannot be.
fn addressed(node: SocketAddr, request: Request, is_upgrade: bool) -> Option<Request> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query()?.clone();
    parts.uri = Uri::builder().scheme("http").authority(node.to_string()).path_and_query(path).build().ok()?;
    parts.version = Version::HTTP_11;
    let peer = parts.extensions.remove::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_canonical());
    parts.extensions = Extensions::new();
    let headers = &mut parts.headers;
    strip(headers, is_upgrade);
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    if let Some(peer) = peer {
        headers.append(X_FORWARDED_FOR, HeaderValue::from_str(&peer.to_string()).ok()?);
    }
    Some(Request::from_parts(parts, body))
}

/// Takes away what is about the connection that a message came on, but for an upgrade to WebSocket.
fn strip(headers: &mut HeaderMap, is_upgrade: bool) {
    let listed = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let listed: Vec<HeaderName> =
        listed.flat_map(|value| value.split(',')).filter_map(|it| it.trim().parse().ok()).collect();
    for name in OF_CONNECTIONS.iter().chain(&listed) {
        headers.remove(name);
    }
    if is_upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::SILENCE_MAX;

    #[test]
    fn no_connection_is_kept_until_the_other_node_cuts_it() {
        // It is looked once in so long which have been kept for as long.
        assert!(2 * IDLE_MAX <= SILENCE_MAX);
    }

    #[test]
    fn a_lane_that_is_full_holds_nobody_up_elsewhere() {
        let free = Arc::new(Semaphore::new(9));
        let lanes = Arc::new(Lanes { each_max: 2, ..Lanes::new(free.clone(), 6) });
        let nodes = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 7], port)));
        let mut first = [lanes.enter(nodes[0], false), lanes.enter(nodes[0], true)];
        assert!(first.iter().all(Option::is_some) && lanes.enter(nodes[0], false).is_none());
        let second = lanes.enter(nodes[1], true);
        assert!(second.is_some() && lanes.enter(nodes[1], true).is_none(), "six are kept from those who stay");
        assert!(lanes.enter(nodes[1], false).is_some());
        first[0] = None;
        assert!(lanes.enter(nodes[0], true).is_some());
        drop((first, second));
        assert_eq!((lanes.lock().len(), free.available_permits()), (0, 9), "nothing is kept of those who are gone");
        let _none = free.try_acquire_many(9).unwrap();
        assert!(lanes.enter(nodes[0], false).is_none());
    }

    #[test]
    fn what_is_about_a_connection_is_not_sent_on() {
        let request = |more: &[(&'static str, &'static str)]| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = "/socket.io/?EIO=4&sid=x".parse().unwrap();
            for (name, value) in
                [("host", "shop.example"), ("origin", "http://shop.example"), ("cookie", "a=b")].iter().chain(more)
            {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 4_000))));
            request
        };
        let sent = |request: Request, is_upgrade| {
            let request = addressed(([10, 0, 0, 7], 8080).into(), request, is_upgrade).unwrap();
            assert_eq!(request.uri(), "http://10.0.0.7:8080/socket.io/?EIO=4&sid=x");
            let text = |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
            let mut headers: Vec<String> = request.headers().iter().map(text).collect();
            headers.sort();
            headers.join("\n")
        };
        let polled = request(&[
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let usual = "host: shop.example\norigin: http://shop.example\ntillwire-forwarded: 1";
        let hops = "x-forwarded-for: 10.0.0.1\nx-forwarded-for: 192.0.2.1";
        assert_eq!(sent(polled, false), format!("cookie: a=b\n{usual}\n{hops}"));
        let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks_for_upgrade(request(&upgrade).headers()) && !asks_for_upgrade(request(&[]).headers()));
        assert_eq!(
            sent(request(&upgrade), true),
            "connection: upgrade\ncookie: a=b\nhost: shop.example\norigin: http://shop.example\n\
             tillwire-forwarded: 1\nupgrade: websocket\nx-forwarded-for: 10.0.0.1"
        );
    }
}
