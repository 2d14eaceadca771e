//! A connection's life: who is it, what may it hear, what does it ask.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;
use tillwire_channels::topic::hears;
use tillwire_channels::wire::{self, Acknowledged, Auth, Denied, Join, Leave, SignedOutReason, SnapshotReason};
use tillwire_channels::{Position, Topic};
use tillwire_socketio::{
    AckSender, CloseReason, ConnectHandler, ConnectRequest, Namespace, Refusal, SocketRef, TryData,
};
use tracing::{debug, info};

use super::admission::{Admission, Door, TRIES_MAX};
use super::feed::{self, Feed};
use super::places::{Full, Place};
use super::presence::Visit;
use super::{join, tell};
use crate::error::Error;
use crate::identity::Staff;
use crate::screens::joined::{Joined, Roll};
use crate::screens::seen::Seen;

/// What a connection keeps.
struct Seat {
    admission: Admission,
    /// Where it listens, once it does.
    feed: OnceLock<Arc<Feed>>,
    /// Given back when it leaves, however long a handle to it lives on.
    place: Mutex<Option<Place>>,
    /// Where it counts as present, as long as it is here.
    visit: Mutex<Option<Visit>>,
    /// What it said last that a person saw, as it was kept.
    seen: Mutex<Option<Seen>>,
}

impl Seat {
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn visit(&self) -> MutexGuard<'_, Option<Visit>> {
        self.visit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything a screen can say, and who answers it.
pub fn namespace(door: Arc<Door>) -> Namespace {
    let admit = {
        let door = door.clone();
        move |request| admit(request, door.clone())
    };
    let connected = {
        let door = door.clone();
        move |socket: SocketRef| connected(socket, door.clone())
    };
    let (joining, leaving, renewing, witnessing) = (door.clone(), door.clone(), door.clone(), door);
    connected
        .with(admit)
        .on("join", move |socket: SocketRef, TryData(asked): TryData<Join>, ack: AckSender| {
            let door = joining.clone();
            async move {
                let Ok(asked) = asked else { return answer(ack, &failed("malformed")).await };
                let change = |staff: &Staff, joined: &mut Vec<Joined>, place| {
                    join::admit(staff, joined, &asked.channels, place, asked.snapshot)
                };
                answer_rejoined(&socket, &door, ack, rejoin(&socket, &door, change).await).await;
                if asked.channels.iter().any(|name| hears(Topic::Presence.name(), name)) {
                    door.presence.tell_anew(socket.clone());
                }
            }
        })
        .on("leave", move |socket: SocketRef, TryData(named): TryData<Leave>, ack: AckSender| {
            let door = leaving.clone();
            async move {
                let Ok(named) = named else { return answer(ack, &failed("malformed")).await };
                let change = |_: &Staff, joined: &mut Vec<Joined>, _| {
                    join::withdraw(joined, &named.channels);
                    Vec::new()
                };
                answer_rejoined(&socket, &door, ack, rejoin(&socket, &door, change).await).await;
            }
        })
        .on("auth", move |socket: SocketRef, TryData(auth): TryData<Auth>, ack: AckSender| {
            let door = renewing.clone();
            async move {
                let Ok(auth) = auth else { return answer(ack, &failed("malformed")).await };
                answer_rejoined(&socket, &door, ack, renew(&socket, &door, &auth.token).await).await;
            }
        })
        .on("seen", move |socket: SocketRef, TryData(seen): TryData<wire::Seen>, ack: AckSender| {
            let door = witnessing.clone();
            async move {
                let outcome = match seen {
                    Ok(seen) => bear_witness(&socket, &door, seen.position).await,
                    Err(_) => Err("malformed"),
                };
                let word = outcome.map_or_else(|why| why, |()| "kept");
                metrics::counter!("tillwire_gateway_seen_total", "outcome" => word).increment(1);
                let answered = outcome.map_or_else(failed, |()| Acknowledged { ok: true, code: None });
                answer(ack, &answered).await;
            }
        })
        .on_fallback(async |ack: AckSender| answer(ack, &failed("unknown_event")).await)
        .on_ping(|socket| {
            if let Some(feed) = feed_of(socket) {
                feed.tell_position(socket);
            }
            Vec::new() // It is queued already, in order with the events.
        })
        .on_disconnect(async |socket: SocketRef, _: CloseReason| {
            if let Some(feed) = feed_of(&socket) {
                feed.leave(&socket);
            }
            if let Some(seat) = socket.extension::<Arc<Seat>>() {
                seat.place().take();
                seat.visit().take();
            }
        })
}

fn feed_of(socket: &SocketRef) -> Option<&Arc<Feed>> {
    socket.extension::<Arc<Seat>>()?.feed.get()
}

/// Before CONNECT is answered.
async fn admit(request: ConnectRequest, door: Arc<Door>) -> Result<ConnectRequest, Refusal> {
    let (mut request, admission, place) = door.admit(request).await?;
    let place = Mutex::new(place);
    let (feed, visit, seen) = (OnceLock::new(), Mutex::default(), Mutex::default());
    request.insert(Arc::new(Seat { admission, feed, place, visit, seen }));
    Ok(request)
}

/// After CONNECT was answered: takes its place in the feed.
async fn connected(socket: SocketRef, door: Arc<Door>) {
    let Some(seat) = socket.extension::<Arc<Seat>>().cloned() else { return socket.disconnect() };
    let (feeds, staff) = (&door.feeds, &seat.admission.staff);
    // A feed that was put away in the meantime is opened again; twice in a row would need half a minute in between.
    for _ in 0..TRIES_MAX {
        if !feeds.vouches() {
            break;
        }
        let Ok(feed) = feeds.open(staff.merchant).await else { break };
        match feed.enter(&socket, &seat.admission) {
            Ok(is_behind) => {
                let _ = seat.feed.set(feed.clone());
                *seat.visit() = Some(door.presence.enter(staff, seat.admission.age));
                if seat.admission.joined.iter().any(|joined| joined.channel.topic == Topic::Presence) {
                    door.presence.look();
                }
                if socket.recovered() {
                    door.claim(&socket, &seat.admission);
                }
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
    socket.close(CloseReason::Server { code: 1013, text: "unavailable" });
}

/// Whoever has gone is not kept on our lists while the database is asked, one after the other, for all that it had still to
/// say: none of it was acknowledged.
///
/// # Errors
/// A word for that.
fn still_here(socket: &SocketRef) -> Result<(), &'static str> {
    if socket.is_connected() { Ok(()) } else { Err("not_ready") }
}

/// What a screen has joined after a change, and whether it is behind now and has to be brought on.
type Rejoined = (wire::Joined, bool);

/// Changes what a screen has joined: stored before it happens, so that whoever was told of it finds it so on any node.
///
/// # Errors
/// A word for why not.
async fn rejoin(
    socket: &SocketRef,
    door: &Door,
    change: impl FnOnce(&Staff, &mut Vec<Joined>, Position) -> Vec<Denied>,
) -> Result<Rejoined, &'static str> {
    let feed = feed_of(socket).ok_or("not_ready")?;
    still_here(socket)?;
    let _turn = door.rolls.turn(socket).await;
    let plan = feed.plan(socket, change).ok_or("not_ready")?;
    if !plan.change.is_empty() {
        let roll = Roll { screen: socket.id().to_string(), epoch: plan.epoch, joined: plan.joined.clone() };
        match door.rolls.store(feed.merchant, roll).await {
            Ok(true) => {}
            Ok(false) => {
                socket.close(CloseReason::Replaced);
                return Err("replaced");
            }
            Err(error) => {
                debug!("A screen cannot change what it hears: {:#}", error.into_anyhow());
                return Err("unavailable");
            }
        }
    }
    feed.rejoin(socket, plan).ok_or("not_ready")
}

/// Takes a fresh token, in band. Channels that it no longer allows are left.
async fn renew(socket: &SocketRef, door: &Door, token: &str) -> Result<Rejoined, &'static str> {
    let staff = door.verifier.verify(token).map_err(|error| match error {
        Error::Unauthenticated(why) => why,
        _ => "invalid_auth",
    })?;
    let feed = feed_of(socket).ok_or("not_ready")?;
    feed.may_renew(socket, &staff).map_err(|why| why.unwrap_or("not_ready"))?;
    if let Some(seat) = socket.extension::<Arc<Seat>>()
        && let Some(place) = &mut *seat.place()
    {
        place.renew(staff.token).map_err(Full::code)?;
    }
    let rejoined = rejoin(socket, door, |_, joined, _| join::review(&staff, joined)).await?;
    feed.renew(socket, staff.clone()).map_err(|why| why.unwrap_or("not_ready"))?;
    if let Some(seat) = socket.extension::<Arc<Seat>>() {
        let mut visit = seat.visit();
        *visit = Some(door.presence.renew(visit.take(), &staff));
    }
    Ok(rejoined)
}

/// Keeps that a person saw payments up to here on this screen.
///
/// # Errors
/// A word for why not.
async fn bear_witness(socket: &SocketRef, door: &Door, position: Position) -> Result<(), &'static str> {
    let seat = socket.extension::<Arc<Seat>>().ok_or("not_ready")?;
    let feed = seat.feed.get().ok_or("not_ready")?;
    still_here(socket)?;
    let (staff, told) = feed.listens(socket, Topic::Payments).ok_or("not_ready")?;
    if told.is_empty() {
        return Err("not_listening");
    }
    let Staff { id: staff, register, .. } = staff;
    let seen = Seen { screen: socket.id().to_string(), staff, register, position, told };
    if seat.seen().as_ref() == Some(&seen) {
        return Ok(()); // It is kept.
    }
    match door.witness.keep(feed.merchant, seen.clone()).await {
        Ok(Ok(())) => {
            *seat.seen() = Some(seen);
            Ok(())
        }
        Ok(Err(SnapshotReason::Diverged)) => Err("diverged"),
        Ok(Err(SnapshotReason::Expired)) => Err("expired"),
        Err(error) => {
            debug!("What was seen cannot be kept: {:#}", error.into_anyhow());
            Err("unavailable")
        }
    }
}

fn failed(code: &str) -> Acknowledged {
    Acknowledged { ok: false, code: Some(code.to_owned()) }
}

/// Answers a change, and then begins to bring on a screen that is behind by it: nobody else does.
async fn answer_rejoined(socket: &SocketRef, door: &Door, ack: AckSender, outcome: Result<Rejoined, &'static str>) {
    let falls_behind = match outcome {
        Ok((joined, falls_behind)) => {
            answer(ack, &joined).await;
            falls_behind
        }
        Err(code) => return answer(ack, &failed(code)).await,
    };
    if let Some(feed) = feed_of(socket).filter(|_| falls_behind) {
        door.feeds.bring_on(feed, vec![socket.clone()]);
    }
}

/// A screen that reads slowly gets its answer when there is room for it; one that leaves needs none.
async fn answer<T: Serialize>(ack: AckSender, body: &T) {
    let _ = ack.send_when_room(body).await;
}
