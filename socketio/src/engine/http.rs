//! The HTTP face of Engine.IO: which request is a handshake, a poll, a post or an upgrade, and what each is refused for.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use tower_service::Service;

use super::{
    Application, EngineSocket, Handshake, Registered, Seat, Session, Shared, Transport,
    addresses::counted_address,
    driver::Driver,
    handshake::{Query, detached},
    packet,
    polling::{self, Answer, Delivery, Posted},
    websocket::{Heard, WebSocket},
};
use crate::{CloseReason, Encoded, Origins, RefusedReason};

/// What RFC 6455 §1.3 has every server mix into its answer.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// An Engine.IO endpoint: a tower service for any HTTP/1.1 server on hyper, axum included. It does not look at the path.
///
/// TCP_NODELAY is the listener's to set, and it must be: without it a small write waits 40 ms for the peer.
pub struct EngineService<A> {
    shared: Arc<Shared>,
    application: Arc<A>,
}

impl<A: Application> EngineService<A> {
    /// A server of its own for an application that speaks bare Engine.IO.
    pub fn new(config: crate::Config, application: A) -> Self {
        Self::sharing(Shared::new(config), application)
    }

    pub(crate) fn sharing(shared: Arc<Shared>, application: A) -> Self {
        EngineService { shared, application: Arc::new(application) }
    }

    /// Refuses new sessions, closes those there are and waits until every task of theirs has ended.
    pub async fn shutdown(&self) {
        self.shared.shutdown().await;
    }
}

impl<A> Clone for EngineService<A> {
    fn clone(&self) -> Self {
        EngineService { shared: self.shared.clone(), application: self.application.clone() }
    }
}

impl<A> fmt::Debug for EngineService<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineService").finish_non_exhaustive()
    }
}

impl<A, B> Service<Request<B>> for EngineService<A>
where
    A: Application,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        let admitted = self.shared.config.origins.admits(request.headers());
        let origin = request.headers().get(header::ORIGIN).filter(|_| admitted).and_then(detached);
        let route = self.route(&mut request);
        // Only a POST still needs its request, and of that only the body.
        let body = matches!(route, Ok(Route::Post(_))).then(|| request.into_body());
        Box::pin(async move {
            let answer = match (route, body) {
                (Ok(Route::Reply(reply)), _) => Ok(reply),
                (Ok(Route::Poll(session)), _) => poll(session).await,
                (Ok(Route::Post(session)), Some(body)) => post(session, body).await,
                (Ok(Route::Post(_)), None) => Err(RefusedReason::BadRequest),
                (Err(refused), _) => Err(refused),
            };
            let mut reply = answer.unwrap_or_else(|reason| refuse(&shared, reason));
            allow_origin(&shared.config.origins, origin, reply.headers_mut());
            Ok(reply)
        })
    }
}

/// What a request turns out to be. Everything but waiting is done by then.
enum Route {
    Reply(Response<ReplyBody>),
    Poll(Arc<Session>),
    Post(Arc<Session>),
}

impl<A: Application> EngineService<A> {
    fn route<B>(&self, request: &mut Request<B>) -> Result<Route, RefusedReason> {
        let shared = &self.shared;
        if !shared.config.origins.admits(request.headers()) {
            return Err(RefusedReason::ForeignOrigin);
        }
        if request.method() == Method::OPTIONS {
            return Ok(Route::Reply(preflight(request.headers())));
        }
        let on_upgrade = hyper::upgrade::on(&mut *request);
        let query = Query::parse(request.uri().query()).ok_or(RefusedReason::BadRequest)?;
        let session = match query.sid {
            Some(sid) => Some(shared.sessions.get(sid).ok_or(RefusedReason::UnknownSession)?),
            None => None,
        };
        match (query.transport, request.method(), session) {
            (Transport::Polling, &Method::GET, Some(session)) => Ok(Route::Poll(session)),
            (Transport::Polling, &Method::POST, Some(session)) => Ok(Route::Post(session)),
            (Transport::Polling, &Method::GET, None) => self.open_polling(request).map(Route::Reply),
            (Transport::WebSocket, &Method::GET, session) => {
                let reply = begin_websocket(request.headers())?;
                match session {
                    Some(session) => self.upgrade(session, on_upgrade),
                    None => self.open_websocket(request, on_upgrade)?,
                }
                Ok(Route::Reply(reply))
            }
            _ => Err(RefusedReason::BadRequest),
        }
    }

    fn open_polling<B>(&self, request: &Request<B>) -> Result<Response<ReplyBody>, RefusedReason> {
        let seat = self.seat(request)?;
        let registered = Registered::new(seat, Transport::Polling).ok_or(RefusedReason::Stopping)?;
        let greeting = greeting(&registered.session, Transport::Polling);
        let handshake = self.handshake(request, Transport::Polling);
        self.shared.tasks.spawn(converse(&*self.application, registered, handshake, None));
        Ok(text(StatusCode::OK, greeting))
    }

    fn open_websocket<B>(&self, request: &Request<B>, on_upgrade: OnUpgrade) -> Result<(), RefusedReason> {
        let seat = self.seat(request)?;
        let handshake = self.handshake(request, Transport::WebSocket);
        let (shared, application) = (self.shared.clone(), self.application.clone());
        self.shared.tasks.spawn(async move {
            // On the heap, for this comes once and the task is this large all its life.
            let Some(socket) = Box::pin(accept(&shared, on_upgrade)).await else { return };
            let Some(registered) = Registered::new(seat, Transport::WebSocket) else { return };
            let greeting = Encoded::engine_text(&greeting(&registered.session, Transport::WebSocket));
            registered.session.send_control(&[greeting]);
            converse(&*application, registered, handshake, Some(socket)).await;
        });
        Ok(())
    }

    /// A WebSocket wants to take over a polling session. One that comes too late is accepted and closed: refusing it over
    /// HTTP would look to a browser like a broken server.
    fn upgrade(&self, session: Arc<Session>, on_upgrade: OnUpgrade) {
        let claimed = session.claim_upgrade();
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            let probing = async {
                let mut socket = accept(&shared, on_upgrade).await?;
                if !claimed {
                    socket.part(None, 1008, "session is taken").await;
                    return None;
                }
                let probed = tokio::select! {
                    probed = probe(&mut socket, &session) => probed,
                    _ = session.closed() => None,
                };
                if probed.is_none() {
                    session.upgrade_failed();
                    socket.part(None, 1002, "upgrade failed").await;
                    return None;
                }
                Some(socket)
            };
            let Ok(Some(mut socket)) = tokio::time::timeout(shared.config.upgrade_timeout, probing).await else {
                if claimed {
                    session.upgrade_failed();
                }
                return;
            };
            // From here on the client may have gone over without our having heard of it, and has stopped polling in any case. If
            // it is gone altogether, the session's heartbeat says so.
            let told = tokio::select! {
                biased; // A session that has just closed has its last words for whoever has gone over.
                told = expect(&mut socket, "5") => told,
                _ = session.closed() => None,
            };
            if told.is_some() {
                session.upgraded(socket);
            } else {
                session.upgrade_failed();
                socket.part(None, 1002, "upgrade failed").await;
            }
        });
    }

    fn seat<B>(&self, request: &Request<B>) -> Result<Seat, RefusedReason> {
        self.shared.seat(counted_address(&self.shared.config, request.headers(), request.extensions()))
    }

    fn handshake<B>(&self, request: &Request<B>, transport: Transport) -> Arc<Handshake> {
        let (uri, headers, extensions) = (request.uri(), request.headers(), request.extensions());
        Arc::new(Handshake::copy(&self.shared.config, transport, uri, headers, extensions))
    }
}

/// A session's whole life. Small, for a task is as large all its life as it is at any moment.
fn converse<A: Application>(
    application: &A,
    registered: Registered,
    handshake: Arc<Handshake>,
    socket: Option<Box<WebSocket>>,
) -> impl Future<Output = ()> + Send + use<A> {
    let conversation = application.open(EngineSocket { session: registered.session.clone() }, handshake);
    Driver::new(registered, conversation, socket).run()
}

pub(super) async fn accept(shared: &Shared, on_upgrade: OnUpgrade) -> Option<Box<WebSocket>> {
    let upgraded = tokio::select! {
        upgraded = tokio::time::timeout(shared.config.upgrade_timeout, on_upgrade) => upgraded.ok()?.ok()?,
        () = shared.stopping.cancelled() => return None,
    };
    Some(WebSocket::new(upgraded, shared.config.max_payload))
}

/// `2probe`, `3probe`: what comes before `5` on the way from polling to WebSocket.
async fn probe(socket: &mut WebSocket, session: &Session) -> Option<()> {
    expect(socket, "2probe").await?;
    // Before the answer leaves, so that a GET sent upon it already finds the session probed.
    session.probed();
    socket.say(session.shared.packets.probed.clone()).await.ok()
}

async fn expect(socket: &mut WebSocket, packet: &str) -> Option<()> {
    match socket.next().await? {
        Ok(Heard::Text(text)) => (text == packet).then_some(()),
        _ => None,
    }
}

/// The handshake packet. Exactly these five keys; suites and clients look.
fn greeting(session: &Session, transport: Transport) -> String {
    let config = &session.shared.config;
    let upgrades: &[&str] = match transport {
        Transport::Polling => &["websocket"],
        Transport::WebSocket => &[],
    };
    let greeting = serde_json::json!({
        "sid": &*session.sid,
        "upgrades": upgrades,
        "pingInterval": config.ping_interval.as_millis() as u64,
        "pingTimeout": config.ping_timeout.as_millis() as u64,
        "maxPayload": config.max_payload,
    });
    format!("0{greeting}")
}

async fn poll(session: Arc<Session>) -> Result<Response<ReplyBody>, RefusedReason> {
    match polling::get(session).await {
        Answer::Packets(delivery) => Ok(respond(StatusCode::OK, ReplyBody(Reply::Delivery(delivery)))),
        Answer::Noop => Ok(text(StatusCode::OK, "6")),
        Answer::Refused => Err(RefusedReason::UnknownSession),
    }
}

async fn post<B>(session: Arc<Session>, body: B) -> Result<Response<ReplyBody>, RefusedReason>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let config = &session.shared.config;
    // A body that dribbles in longer than a heartbeat may take is no better than none.
    let patience = config.ping_interval + config.ping_timeout;
    let body = Limited::new(body, config.max_payload).collect();
    let bytes = match tokio::time::timeout(patience, body).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            session.close(CloseReason::TooLarge);
            return Err(RefusedReason::TooLarge);
        }
        _ => {
            session.close(CloseReason::ConnectionLost);
            return Err(RefusedReason::BadRequest);
        }
    };
    let Some(packets) = std::str::from_utf8(&bytes).ok().and_then(packet::payload) else {
        session.close(CloseReason::BadPacket);
        return Err(RefusedReason::BadRequest);
    };
    match polling::post(&session, packets).await {
        Posted::Taken => Ok(text(StatusCode::OK, "ok")),
        Posted::Refused => Err(RefusedReason::UnknownSession),
    }
}

/// The answer to a WebSocket's handshake (RFC 6455 §4.2.2).
pub(super) fn begin_websocket(headers: &HeaderMap) -> Result<Response<ReplyBody>, RefusedReason> {
    accept_key(headers).map(switching).ok_or(RefusedReason::BadRequest)
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let lists = |name, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    let asks = lists(header::CONNECTION, "upgrade")
        && lists(header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| asks)?;
    let digest = Sha1::new().chain_update(key.as_bytes()).chain_update(ACCEPT_GUID).finalize();
    HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).ok()
}

fn switching(accept: HeaderValue) -> Response<ReplyBody> {
    let mut reply = Response::new(ReplyBody(Reply::Text(Full::default())));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

fn preflight(headers: &HeaderMap) -> Response<ReplyBody> {
    let mut reply = text(StatusCode::NO_CONTENT, "");
    reply.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).and_then(detached) {
        reply.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
    reply
}

/// CORS: what was let in may be read by the page that asked, `origin`.
fn allow_origin(origins: &Origins, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    match origins {
        Origins::Any => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        Origins::List(_) | Origins::OwnAnd(_) => {
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
            if let Some(origin) = origin {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

pub(super) fn refuse(shared: &Shared, reason: RefusedReason) -> Response<ReplyBody> {
    shared.counters.refused(reason);
    // The codes and words of Node's server, which some clients look at; it has none for its bounds.
    let (status, code, message) = match reason {
        RefusedReason::BadRequest => (StatusCode::BAD_REQUEST, Value::from(3), "Bad request"),
        RefusedReason::UnknownSession => (StatusCode::BAD_REQUEST, Value::from(1), "Session ID unknown"),
        RefusedReason::ForeignOrigin => (StatusCode::FORBIDDEN, Value::from(4), "Forbidden"),
        RefusedReason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Value::from(3), "Payload too large"),
        RefusedReason::TooManySocketsOfAddress => {
            (StatusCode::TOO_MANY_REQUESTS, reason.name().into(), "Too many connections from this address")
        }
        RefusedReason::TooManySockets => {
            (StatusCode::SERVICE_UNAVAILABLE, reason.name().into(), "As many connections as there may be")
        }
        RefusedReason::TooManyHandshakes => {
            (StatusCode::SERVICE_UNAVAILABLE, reason.name().into(), "Too many new connections at once")
        }
        RefusedReason::Stopping => (StatusCode::SERVICE_UNAVAILABLE, reason.name().into(), "Shutting down"),
    };
    let mut reply = text(status, json!({ "code": code, "message": message }).to_string());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        // Each another time, or those who were sent away together would come back together.
        let seconds = rand::random_range(1..=shared.config.retry_after.as_secs().max(1));
        reply.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    reply
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<ReplyBody> {
    respond(status, ReplyBody(Reply::Text(Full::new(body.into()))))
}

fn respond(status: StatusCode, body: ReplyBody) -> Response<ReplyBody> {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// The body of a reply.
pub struct ReplyBody(Reply);

enum Reply {
    Text(Full<Bytes>),
    Delivery(Delivery),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Reply::Text(body) => Pin::new(body).poll_frame(cx),
            Reply::Delivery(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Reply::Text(body) => body.is_end_stream(),
            Reply::Delivery(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Reply::Text(body) => body.size_hint(),
            Reply::Delivery(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyBody").finish_non_exhaustive()
    }
}
