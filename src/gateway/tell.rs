//! The packets besides events, as the wire has them: see [`tillwire_channels::wire`].

use serde::Serialize;
use tillwire_channels::wire::{
    CaughtUp, Denied, Draining, Moved, Presence, Ready, SignedOut, SignedOutReason, Snapshot, SnapshotRequired,
    TokenExpiring,
};
use tillwire_channels::{Channel, Position};
use tillwire_socketio::Encoded;

pub fn ready(joined: Vec<Channel>, denied: Vec<Denied>, recovered: bool, position: Position) -> Encoded {
    with_position("ready", &Ready { joined, denied, recovered }, position)
}

pub fn caught_up(replayed: u64, position: Position) -> Encoded {
    with_position("caught_up", &CaughtUp { replayed }, position)
}

pub fn snapshot(part: &Snapshot, position: Position) -> Encoded {
    with_position("snapshot", part, position)
}

pub fn moved(position: Position) -> Encoded {
    with_position("position", &Moved {}, position)
}

pub fn snapshot_required(why: &SnapshotRequired) -> Encoded {
    bare("snapshot_required", why)
}

pub fn snapshot_denied(denied: &Denied) -> Encoded {
    bare("snapshot_denied", denied)
}

pub fn presence(presence: &Presence) -> Encoded {
    bare("presence", presence)
}

pub fn signed_out(reason: SignedOutReason) -> Encoded {
    bare("signed_out", &SignedOut { reason })
}

pub fn token_expiring(seconds: u64) -> Encoded {
    bare("token_expiring", &TokenExpiring { seconds })
}

pub fn draining() -> Encoded {
    bare("draining", &Draining {})
}

/// The position comes last, where the stock client looks for its offset.
fn with_position<T: Serialize>(name: &str, body: &T, position: Position) -> Encoded {
    Encoded::event_json(name, &[&json(body), &format!("\"{position}\"")])
}

fn bare<T: Serialize>(name: &str, body: &T) -> Encoded {
    Encoded::event_json(name, &[&json(body)])
}

/// These types are structs of strings and numbers: writing them cannot fail.
fn json<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).unwrap_or_else(|_| "{}".to_owned())
}
