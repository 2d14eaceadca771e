//! The packets besides events: the names of [`crate::wire`]'s types on the wire.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use ts_rs::{TS, TypeVisitor};

use super::typescript::Types;
use crate::wire::{
    Acknowledged, Auth, CaughtUp, Connect, Denied, Draining, Join, Joined, Leave, Moved, Presence, Ready, Refused,
    Seen, SignedOut, Snapshot, SnapshotRequired, TokenExpiring,
};

/// A type that every document describes.
#[derive(Clone, Copy)]
pub struct Described {
    pub name: fn() -> Cow<'static, str>,
    pub json: fn(&mut SchemaGenerator) -> Schema,
    pub typescript: fn(&mut Types),
}

impl Described {
    const fn by<T: JsonSchema + TS + 'static>() -> Self {
        Self { name: T::schema_name, json: SchemaGenerator::subschema_for::<T>, typescript: Types::visit::<T> }
    }
}

/// A packet from a gateway to a screen.
pub struct Told {
    pub name: &'static str,
    pub body: Described,
    /// Whether a position follows the body. Only then does the packet end in a string.
    pub then_position: bool,
}

/// A packet from a screen to a gateway.
pub struct Asked {
    pub name: &'static str,
    pub body: Described,
    /// What may answer it.
    pub answers: &'static [Described],
}

/// What a gateway tells a screen besides events.
pub const TOLD: &[Told] = &[
    Told { name: "ready", body: Described::by::<Ready>(), then_position: true },
    Told { name: "caught_up", body: Described::by::<CaughtUp>(), then_position: true },
    Told { name: "snapshot", body: Described::by::<Snapshot>(), then_position: true },
    Told { name: "position", body: Described::by::<Moved>(), then_position: true },
    Told { name: "snapshot_required", body: Described::by::<SnapshotRequired>(), then_position: false },
    Told { name: "snapshot_denied", body: Described::by::<Denied>(), then_position: false },
    Told { name: "presence", body: Described::by::<Presence>(), then_position: false },
    Told { name: "signed_out", body: Described::by::<SignedOut>(), then_position: false },
    Told { name: "token_expiring", body: Described::by::<TokenExpiring>(), then_position: false },
    Told { name: "draining", body: Described::by::<Draining>(), then_position: false },
];

/// What connects a screen: Socket.IO's own packet, answered by `ready` or refused.
pub const CONNECT: Asked =
    Asked { name: "connect", body: Described::by::<Connect>(), answers: &[Described::by::<Refused>()] };

/// What a connected screen asks of a gateway, with an acknowledgement.
pub const ASKED: &[Asked] = &[
    Asked { name: "join", body: Described::by::<Join>(), answers: JOINED },
    Asked { name: "leave", body: Described::by::<Leave>(), answers: JOINED },
    Asked { name: "auth", body: Described::by::<Auth>(), answers: JOINED },
    Asked { name: "seen", body: Described::by::<Seen>(), answers: &[Described::by::<Acknowledged>()] },
];

const JOINED: &[Described] = &[Described::by::<Joined>(), Described::by::<Acknowledged>()];

/// What a gateway writes besides events: packets, acknowledgements, refusals.
pub fn written() -> impl Iterator<Item = Described> {
    let answers = ASKED.iter().chain([&CONNECT]).flat_map(|asked| asked.answers);
    TOLD.iter().map(|told| &told.body).chain(answers).copied()
}

/// What a gateway reads.
pub fn read() -> impl Iterator<Item = Described> {
    ASKED.iter().chain([&CONNECT]).map(|asked| asked.body)
}
