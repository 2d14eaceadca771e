//! The wire: what travels between a screen and a gateway besides the events themselves.
//!
//! Namespace `/`. No packet to a screen but events, `ready`, `caught_up`, `snapshot` and `position` ends in a string:
//! the stock client takes any last string as its offset.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::Moment;
use crate::ids::{OutletId, RegisterId, StaffId};
use crate::position::Position;
use crate::topic::Channel;
use crate::view::Role;

/// The most channels that one screen may have joined.
pub const CHANNELS_MAX: usize = 64;

/// The longest text that can name a channel, in bytes. Longer ones are unknown without being read.
pub const CHANNEL_BYTES_MAX: usize = 128;

/// What a screen sends when it connects: the `auth` of a Socket.IO client.
#[derive(Clone, Debug, Deserialize, JsonSchema, TS)]
pub struct Connect {
    /// A bearer token, as for REST. The client should pass `auth` as a function, so that a reconnect sends a fresh one.
    pub token: String,
    /// What to join at once; names that are not allowed come back as denied.
    #[serde(default)]
    #[ts(optional, as = "Option<_>")]
    pub channels: Vec<String>,
    /// The last position seen, to hear everything that followed it.
    #[serde(default)]
    #[ts(optional)]
    pub after: Option<String>,
    /// Set by clients that recover by themselves: the private id of the connection that was lost.
    #[serde(default)]
    #[ts(optional)]
    pub pid: Option<String>,
    /// Set by clients that recover by themselves: the last offset seen. It beats `after`.
    #[serde(default)]
    #[ts(optional)]
    pub offset: Option<String>,
}

/// `ready`: the first packet to a screen. The position that replay starts from follows it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Ready {
    pub joined: Vec<Channel>,
    pub denied: Vec<Denied>,
    /// Whether a lost connection was taken up again, its channels with it.
    pub recovered: bool,
}

/// A channel that was not joined; as `snapshot_denied`, one that was and whose state does not come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS)]
pub struct Denied {
    /// The channel, as it was asked for.
    pub channel: String,
    pub code: DeniedCode,
}

/// Why a channel was not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS)]
#[serde(rename_all = "snake_case")]
pub enum DeniedCode {
    /// No such topic, or it cannot be narrowed like that.
    UnknownChannel,
    /// The token does not allow it.
    Forbidden,
    /// More than a screen may have joined.
    TooMany,
    /// It was joined, but its state is too large for a socket: fetch `GET /v1/snapshot`, page by page, stock outlet by outlet.
    TooLarge,
}

/// `caught_up`: a replay ended, what follows is live. The position it ended at follows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct CaughtUp {
    /// How many events were sent; one that stands for others is one.
    #[ts(type = "number")]
    pub replayed: u64,
}

/// `position`: nothing for this screen, but the journal has moved. The position follows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Moved {}

/// `snapshot_required`: the position cannot be served. Fetch `GET /v1/snapshot` and go on from the position there.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct SnapshotRequired {
    pub reason: SnapshotReason,
    /// The oldest position that could be served, if any.
    pub oldest: Option<OldestPosition>,
}

/// A position inside an object, so that no packet ends in a string by accident.
pub type OldestPosition = Position;

/// Why a position cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotReason {
    /// The journal no longer reaches back that far.
    Expired,
    /// The journal's history is another: a backup was restored, or the position is of another merchant.
    Diverged,
}

/// `snapshot`: a part of the state of a channel. The position at which it is true follows it: entries up to there came
/// before, entries after it follow, and nothing comes between its parts but heartbeats.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Snapshot {
    pub channel: Channel,
    /// Which part this is, of how many: `[1, 3]` is the first of three.
    pub of: (u32, u32),
    /// What the table of topics says of this topic, an item each.
    #[schemars(with = "Vec<serde_json::Value>")]
    #[ts(type = "unknown[]")]
    pub state: Vec<Box<RawValue>>,
}

/// `presence`: who is at an outlet, or at all of them, as of now. A whole new list whenever it changes, at most about
/// once a second; also after every connect and `join` of the channel, recovered or not.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Presence {
    pub channel: Channel,
    /// The longest there first.
    pub present: Vec<Present>,
    /// How many more there are: `GET /v1/outlets/{outlet}/presence` names more of them.
    pub more: u32,
}

/// Somebody at an outlet: everyone with a screen whose token is bound to it, once for each register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, TS, ToSchema)]
pub struct Present {
    pub outlet: OutletId,
    /// The register that the token is bound to, and its name.
    pub register: Option<RegisterId>,
    pub register_name: Option<String>,
    /// Whose token it is, and their name, if they are in the merchant's list of staff.
    pub staff: StaffId,
    pub staff_name: Option<String>,
    pub role: Role,
    /// When the first of the screens came that are there now.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    #[schema(value_type = String, format = DateTime)]
    pub since: Moment,
    /// How many screens.
    pub screens: u32,
}

/// `join`, sent by a screen.
#[derive(Clone, Debug, Deserialize, JsonSchema, TS)]
pub struct Join {
    pub channels: Vec<String>,
    /// Whether `snapshot` shall bring the state of these channels, as far as their topics have any.
    #[serde(default)]
    #[ts(optional, as = "Option<_>")]
    pub snapshot: bool,
}

/// `leave`, sent by a screen.
#[derive(Clone, Debug, Deserialize, JsonSchema, TS)]
pub struct Leave {
    pub channels: Vec<String>,
}

/// The acknowledgement of `join` and `leave`, and of `auth`: what a fresh token no longer allows has been left.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Joined {
    /// Whether nothing was denied.
    pub ok: bool,
    /// Everything that is joined now.
    pub joined: Vec<Channel>,
    pub denied: Vec<Denied>,
    /// Where it took effect: later events follow the new channels. Not a place to come back to: events from before it may
    /// still be on their way. Keep the positions of packets.
    pub position: Option<Position>,
}

/// `auth`, sent by a screen: a fresh token, in band.
#[derive(Clone, Debug, Deserialize, JsonSchema, TS)]
pub struct Auth {
    pub token: String,
}

/// `seen`, sent by a screen: a person saw payments up to here.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, TS)]
pub struct Seen {
    /// The last one that they saw, or any later position. It counts for what this screen was sent, and on which channels.
    pub position: Position,
}

/// The acknowledgement of `seen`, and of anything that went wrong.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Acknowledged {
    pub ok: bool,
    /// A stable word for what went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub code: Option<String>,
}

/// The `data` of a refused connection, beside its `message`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Refused {
    /// `unauthenticated`, `invalid_auth`, `unknown_merchant` …
    pub code: String,
    /// Whether trying again later with the same token can help. It cannot: what time can mend closes the connection instead.
    pub retry: bool,
}

/// `signed_out`: the token is no longer good; the connection closes after it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct SignedOut {
    pub reason: SignedOutReason,
}

/// Why a screen was signed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, TS)]
#[serde(rename_all = "snake_case")]
pub enum SignedOutReason {
    Expired,
    Revoked,
    /// The gateway could not reach the database for too long to vouch for anyone.
    Unverifiable,
}

/// `token_expiring`: send `auth` with a fresh token within so many seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct TokenExpiring {
    #[ts(type = "number")]
    pub seconds: u64,
}

/// `draining`: this node is going away; the connection closes and should be made again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, TS)]
pub struct Draining {}
