//! A connection's life: who is it, what may it hear, what does it ask.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;
use tillwire_channels::wire::{Acknowledged, Auth, Connect, Denied, Join, Joined, Refused, SignedOutReason};
use tillwire_channels::{Channel, Position};
use tillwire_socketio::{
    AckSender, CloseReason, ConnectHandler, ConnectRequest, Namespace, Refusal, SocketRef, TryData,
};
use tracing::{debug, info};

use super::feed::{self, Feed};
use super::feeds::Feeds;
use super::{join, tell};
use crate::error::Error;
use crate::identity::Staff;
use crate::identity::tokens::Verifier;

/// How long a screen waits before the database is asked again that did not say who may come in.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How often it is asked. By then the connection's own time is up, and the client tries again by itself.
const TRIES_MAX: u32 = 40;

/// What is known of a connection before it is one.
struct Admission {
    staff: Staff,
    joined: Vec<Channel>,
    denied: Vec<Denied>,
    after: Option<Position>,
}

/// What a connection keeps.
struct Seat {
    admission: Admission,
    /// Where it listens, once it does.
    feed: OnceLock<Arc<Feed>>,
}

/// Everything a screen can say, and who answers it.
pub fn namespace(feeds: Arc<Feeds>, verifier: Arc<Verifier>) -> Namespace {
    let admit = {
        let (verifier, feeds) = (verifier.clone(), feeds.clone());
        move |request| admit(request, verifier.clone(), feeds.clone())
    };
    let connected = move |socket: SocketRef| connected(socket, feeds.clone());
    connected
        .with(admit)
        .on("join", async |socket: SocketRef, TryData(asked): TryData<Join>, ack: AckSender| {
            let Ok(asked) = asked else { return answer(ack, &failed("malformed")).await };
            let change = |staff: &Staff, joined: &mut Vec<Channel>| join::admit(staff, joined, &asked.channels);
            answer_joined(ack, feed_of(&socket).and_then(|feed| feed.rejoin(socket.id(), change))).await;
        })
        .on("leave", async |socket: SocketRef, TryData(named): TryData<Join>, ack: AckSender| {
            let Ok(named) = named else { return answer(ack, &failed("malformed")).await };
            let change = |_: &Staff, joined: &mut Vec<Channel>| {
                join::withdraw(joined, &named.channels);
                Vec::new()
            };
            answer_joined(ack, feed_of(&socket).and_then(|feed| feed.rejoin(socket.id(), change))).await;
        })
        .on("auth", move |socket: SocketRef, TryData(auth): TryData<Auth>, ack: AckSender| {
            let renewed = match auth {
                Ok(auth) => reauthorise(&socket, &auth.token, &verifier),
                Err(_) => Err("malformed"),
            };
            async move {
                match renewed {
                    Ok(joined) => answer(ack, &joined).await,
                    Err(code) => answer(ack, &failed(code)).await,
                }
            }
        })
        .on_fallback(async |ack: AckSender| answer(ack, &failed("unknown_event")).await)
        .on_ping(|socket| {
            if let Some(feed) = feed_of(socket) {
                feed.tell_position(socket.id());
            }
            Vec::new() // It is queued already, in order with the events.
        })
        .on_disconnect(async |socket: SocketRef, _: CloseReason| {
            if let Some(feed) = feed_of(&socket) {
                feed.leave(socket.id());
            }
        })
}

fn feed_of(socket: &SocketRef) -> Option<&Arc<Feed>> {
    socket.extension::<Arc<Seat>>()?.feed.get()
}

/// Before CONNECT is answered: refuses what only a person can mend, for a stock client does not come back from that.
/// What time can mend it waits for; when the connection's time is up it is closed, and the client tries again.
async fn admit(
    mut request: ConnectRequest,
    verifier: Arc<Verifier>,
    feeds: Arc<Feeds>,
) -> Result<ConnectRequest, Refusal> {
    let admission = check(&request, &verifier)?;
    for _ in 0..TRIES_MAX {
        if !feeds.vouches() {
            tokio::time::sleep(RETRY_AFTER).await;
            continue;
        }
        match feeds.open(admission.staff.merchant).await {
            Ok(feed) if feed.is_revoked(&admission.staff) => {
                return Err(refusal("token_revoked", "The token is revoked."));
            }
            Ok(_) => {
                request.insert(Arc::new(Seat { admission, feed: OnceLock::new() }));
                return Ok(request);
            }
            Err(Error::NotFound(_)) => {
                return Err(refusal("unknown_merchant", "The token is for a merchant that does not exist."));
            }
            Err(error) => {
                debug!("A screen waits to be let in: {:#}", error.into_anyhow());
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    Err(refusal("unavailable", "The hub cannot say now whether the token is good."))
}

/// What the auth payload says, without asking anyone.
fn check(request: &ConnectRequest, verifier: &Verifier) -> Result<Admission, Refusal> {
    let connect: Connect = request.auth().map_err(|error| refusal("invalid_auth", &format!("auth: {error}")))?;
    let staff = verifier.verify(&connect.token).map_err(|error| match error {
        Error::Unauthenticated(why) => refusal(why, "The token is not good."),
        _ => refusal("invalid_auth", "The token could not be checked."),
    })?;
    let after = match &connect.after {
        Some(text) => Some(text.parse().map_err(|error| refusal("invalid_after", &format!("after: {error}")))?),
        None => None,
    };
    let mut joined = Vec::new();
    let denied = join::admit(&staff, &mut joined, &connect.channels);
    Ok(Admission { staff, joined, denied, after })
}

fn refusal(code: &str, message: &str) -> Refusal {
    metrics::counter!("tillwire_gateway_refused_total", "code" => code.to_owned()).increment(1);
    Refusal::new(message).with_data(&Refused { code: code.to_owned(), retry: false })
}

/// After CONNECT was answered: takes its place in the feed.
async fn connected(socket: SocketRef, feeds: Arc<Feeds>) {
    let Some(seat) = socket.extension::<Arc<Seat>>().cloned() else { return socket.disconnect() };
    let Admission { staff, joined, denied, after } = &seat.admission;
    // A feed that was put away in the meantime is opened again; twice in a row would need half a minute in between.
    for _ in 0..TRIES_MAX {
        if !feeds.vouches() {
            break;
        }
        let Ok(feed) = feeds.open(staff.merchant).await else { break };
        match feed.enter(&socket, staff.clone(), joined.clone(), denied.clone(), *after) {
            Ok(is_behind) => {
                let _ = seat.feed.set(feed.clone());
                if is_behind {
                    feeds.bring_on(&feed, vec![socket.clone()]);
                }
                return info!(screen = %socket.id(), merchant = %staff.merchant, is_behind, "A screen came");
            }
            Err(feed::Refused::Closed) => {}
            Err(feed::Refused::Revoked) => {
                let _ = socket.try_send(&[tell::signed_out(SignedOutReason::Revoked)]);
                return socket.disconnect();
            }
        }
    }
    socket.close(CloseReason::Server { code: 1013, text: "try again later" });
}

/// Takes a fresh token, in band.
fn reauthorise(socket: &SocketRef, token: &str, verifier: &Verifier) -> Result<Joined, &'static str> {
    let staff = verifier.verify(token).map_err(|error| match error {
        Error::Unauthenticated(why) => why,
        _ => "invalid_auth",
    })?;
    let feed = feed_of(socket).ok_or("not_ready")?;
    feed.reauthorise(socket.id(), staff).map_err(|why| why.unwrap_or("not_ready"))
}

fn failed(code: &str) -> Acknowledged {
    Acknowledged { ok: false, code: Some(code.to_owned()) }
}

async fn answer_joined(ack: AckSender, joined: Option<Joined>) {
    match joined {
        Some(joined) => answer(ack, &joined).await,
        None => answer(ack, &failed("not_ready")).await,
    }
}

/// A screen that reads slowly gets its answer when there is room for it; one that leaves needs none.
async fn answer<T: Serialize>(ack: AckSender, body: &T) {
    let _ = ack.send_when_room(body).await;
}
