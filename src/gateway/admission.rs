//! The door: who is it, do they return, and what may they hear. All of it before CONNECT is answered.

use std::sync::Arc;
use std::time::Duration;

use tillwire_channels::wire::{Connect, Denied, Refused};
use tillwire_channels::{Moment, Position};
use tillwire_socketio::{CloseReason, ConnectRequest, Refusal, SocketId, SocketRef};
use tokio::sync::mpsc;
use tracing::debug;

use super::feed::Feed;
use super::feeds::Feeds;
use super::join;
use super::places::{Full, Place, Places};
use super::presence::Presence;
use super::resume::Pid;
use super::rolls::Rolls;
use super::seals::{Keys, Seals};
use super::witness::Witness;
use crate::bus::Claim;
use crate::error::{Error, Result};
use crate::identity::Staff;
use crate::identity::tokens::Verifier;
use crate::screens::joined::Joined;

/// How long a screen waits before the database is asked again that did not say who may come in.
pub const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How often it is asked. By then the connection's own time is up, and the client tries again by itself.
pub const TRIES_MAX: u32 = 40;

/// What is known of a connection before it is one.
#[derive(Clone, Debug)]
pub struct Admission {
    pub staff: Staff,
    pub joined: Vec<Joined>,
    pub denied: Vec<Denied>,
    /// Where it goes on; at the head, if it names no place.
    pub after: Option<Position>,
    /// Tells apart the connections that one client makes: the newer one has the greater number.
    pub epoch: i64,
    /// Where its first connection began, if this one takes that up again.
    pub began_at: Option<Position>,
    /// How long ago that was.
    pub age: Duration,
}

/// What the door needs to know.
pub struct Door {
    pub verifier: Arc<Verifier>,
    pub feeds: Arc<Feeds>,
    pub places: Arc<Places>,
    pub seals: Arc<Seals>,
    pub rolls: Arc<Rolls>,
    pub witness: Witness,
    pub presence: Arc<Presence>,
    /// Where screens that came back are claimed.
    pub claim: mpsc::Sender<Claim>,
}

/// What a connection asks for, as far as it can be read without asking anyone.
struct Asked {
    staff: Staff,
    connect: Connect,
    after: Option<Position>,
}

/// What a screen that came back says that it was.
struct Brought {
    id: SocketId,
    position: Position,
    pid: Pid,
}

/// What a screen that came back had.
struct Left {
    id: SocketId,
    position: Position,
    joined: Vec<Joined>,
    epoch: i64,
    began_at: Position,
    age: Duration,
}

impl Door {
    /// Refuses what only a person can mend, for a stock client does not come back from that. What time can mend it
    /// waits for; when the connection's time is up it is closed, and the client tries again.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn admit(
        &self,
        mut request: ConnectRequest,
    ) -> Result<(ConnectRequest, Admission, Option<Place>), Refusal> {
        let asked = self.read(&request)?;
        // Kept while the database is asked again: nobody else shall have it meanwhile.
        let mut place = None;
        for _ in 0..TRIES_MAX {
            if self.feeds.vouches() {
                match self.try_admit(&asked, &mut request, &mut place).await {
                    Ok(admission) => return Ok((request, admission, place)),
                    Err(NotIn::Full(full)) => return Err(refusal_when(full)),
                    Err(NotIn::Yet(Error::Unauthenticated(why))) => return Err(refusal(why, "The token is revoked.")),
                    Err(NotIn::Yet(Error::NotFound(_))) => {
                        return Err(refusal("unknown_merchant", "The token is for a merchant that does not exist."));
                    }
                    Err(NotIn::Yet(error)) => debug!("A screen waits to be let in: {:#}", error.into_anyhow()),
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
        count_refused("unavailable");
        Err(Refusal::closing(CloseReason::Server { code: 1013, text: "unavailable" }))
    }

    /// Says to every node that this connection of a screen is the one that lives. A full queue is a slow bus: what is
    /// left of the earlier one is then found out by its heartbeat.
    pub fn claim(&self, socket: &SocketRef, admission: &Admission) {
        let (merchant, epoch) = (admission.staff.merchant, admission.epoch);
        let _ = self.claim.try_send(Claim { merchant, screen: socket.id().to_string(), epoch });
    }

    /// What the auth payload says, without asking anyone.
    fn read(&self, request: &ConnectRequest) -> Result<Asked, Refusal> {
        let connect: Connect = request.auth().map_err(|error| refusal("invalid_auth", &format!("auth: {error}")))?;
        let staff = self.verifier.verify(&connect.token).map_err(|error| match error {
            Error::Unauthenticated(why) => refusal(why, "The token is not good."),
            _ => refusal("invalid_auth", "The token could not be checked."),
        })?;
        let after = match &connect.after {
            Some(text) => Some(text.parse().map_err(|error| refusal("invalid_after", &format!("after: {error}")))?),
            None => None,
        };
        Ok(Asked { staff, connect, after })
    }

    /// Takes a place, unless an earlier try has.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if the token was revoked, [`Error::NotFound`] if there is no such merchant; others if
    /// the database does not answer.
    async fn try_admit(
        &self,
        asked: &Asked,
        request: &mut ConnectRequest,
        place: &mut Option<Place>,
    ) -> Result<Admission, NotIn> {
        let Asked { staff, connect, after } = asked;
        let feed = self.feeds.open(staff.merchant).await?;
        if feed.is_revoked(staff) {
            return Err(Error::Unauthenticated("token_revoked").into());
        }
        let keys = self.seals.keys().await?;
        let (now, mut epoch) = (Moment::now_utc(), epoch());
        let brought = self.brought(staff, connect, &keys, now).await?;
        // Before the database is asked what it had joined.
        let screen = brought.as_ref().map_or(request.id(), |brought| brought.id);
        if place.is_none() {
            *place = Some(self.places.take(staff.merchant, staff.token, screen)?);
        }
        let why = match brought {
            Ok(brought) => {
                let mut left = self.find_left(staff, brought).await?;
                // Never less than what this screen's earlier connection wrote with, whatever our clock says.
                epoch = epoch.max(left.epoch + 1);
                if self.feeds.serves(&feed, left.position).await? {
                    self.check_places(&feed, &mut left).await?;
                    let denied = join::review(staff, &mut left.joined);
                    request.recover(connect.pid.clone().unwrap_or_default(), left.id);
                    count_resumed("recovered");
                    let (joined, after, began_at) = (left.joined, Some(left.position), Some(left.began_at));
                    let (staff, age) = (staff.clone(), left.age);
                    return Ok(Admission { staff, joined, denied, after, epoch, began_at, age });
                }
                // It will be told why; until then it goes on where it was.
                count_resumed("position_unserved");
                return Ok(self.welcome(asked, Some(left.position), &feed, &keys, request, epoch)?);
            }
            Err(why) => why,
        };
        if let Some(why) = why {
            count_resumed(why);
        }
        Ok(self.welcome(asked, *after, &feed, &keys, request, epoch)?)
    }

    /// Lets one in that does not return: with a new private id.
    fn welcome(
        &self,
        asked: &Asked,
        after: Option<Position>,
        feed: &Feed,
        keys: &Keys,
        request: &mut ConnectRequest,
        epoch: i64,
    ) -> Result<Admission> {
        let (staff, mut joined) = (&asked.staff, Vec::new());
        let denied = join::admit(staff, &mut joined, &asked.connect.channels, Position::START, false);
        let from = after.or_else(|| feed.head()).unwrap_or(Position::START);
        let pid = Pid::new(staff, request.id().to_string(), from, &joined, Moment::now_utc());
        request.set_pid(pid.seal(keys)?);
        let (staff, age) = (staff.clone(), Duration::ZERO);
        Ok(Admission { staff, joined, denied, after, epoch, began_at: None, age })
    }

    /// What the private id says that a screen brings, if it is its own. Else why not, if it brought one.
    async fn brought(
        &self,
        staff: &Staff,
        connect: &Connect,
        keys: &Arc<Keys>,
        now: Moment,
    ) -> Result<Result<Brought, Option<&'static str>>> {
        let Some(text) = &connect.pid else { return Ok(Err(None)) };
        let mut pid = Pid::open(keys, text);
        if pid.is_none()
            && let Some(keys) = self.seals.read_again().await?
        {
            pid = Pid::open(&keys, text);
        }
        let Some(pid) = pid else { return Ok(Err(Some("unknown_pid"))) };
        let resumed = pid.resume(staff, connect.offset.as_deref(), now).map_err(Some);
        Ok(resumed.map(|(id, position)| Brought { id, position, pid }))
    }

    /// What a screen that comes back had.
    async fn find_left(&self, staff: &Staff, brought: Brought) -> Result<Left> {
        let Brought { id, position, pid } = brought;
        let roll = self.rolls.find(staff.merchant, pid.screen.clone()).await?;
        let (joined, epoch) = roll.map_or_else(|| (pid.joined(), 0), |roll| (roll.joined, roll.epoch));
        Ok(Left { id, position, joined, epoch, began_at: pid.from, age: pid.age(Moment::now_utc()) })
    }

    /// What it joined further on than where it goes on is heard from there only if that is of the same history: a gateway
    /// may have heard of an entry that was lost with the database it was in.
    async fn check_places(&self, feed: &Feed, left: &mut Left) -> Result<()> {
        for joined in left.joined.iter_mut().filter(|joined| joined.since > left.position.seq) {
            if let Some(place) = joined.place
                && !self.feeds.serves(feed, place).await?
            {
                joined.doubt();
            }
        }
        Ok(())
    }
}

/// Why somebody is not let in.
enum NotIn {
    Full(Full),
    /// For this reason; most pass.
    Yet(Error),
}

impl From<Full> for NotIn {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl From<Error> for NotIn {
    fn from(error: Error) -> Self {
        Self::Yet(error)
    }
}

/// Microseconds since 1970.
fn epoch() -> i64 {
    i64::try_from(Moment::now_utc().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

fn count_resumed(outcome: &'static str) {
    metrics::counter!("tillwire_gateway_resumed_total", "outcome" => outcome).increment(1);
}

/// A token that too many use is a person's to mend; a merchant's screens come and go.
fn refusal_when(full: Full) -> Refusal {
    match full {
        Full::OfToken => refusal(full.code(), "As many connections as a token may have."),
        Full::OfMerchant => {
            count_refused(full.code());
            Refusal::closing(CloseReason::Server { code: 1013, text: full.code() })
        }
    }
}

fn count_refused(code: &str) {
    metrics::counter!("tillwire_gateway_refused_total", "code" => code.to_owned()).increment(1);
}

fn refusal(code: &str, message: &str) -> Refusal {
    count_refused(code);
    Refusal::new(message).with_data(&Refused { code: code.to_owned(), retry: false })
}
