//! A message: one event, as an endpoint is told it.

use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::value::RawValue;
use tillwire_channels::{MerchantId, Moment, OutletId, Position, RegisterId, StaffId, Stored};
use tracing::error;

use crate::journal::Entry;

/// What is posted: an id that stays the same however often it is sent, a type, and the body.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: String,
    /// The event's; none for one that is of no event.
    pub position: Option<Position>,
    pub kind: String,
    pub body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    /// When it was recorded: as Standard Webhooks names it.
    #[serde(with = "time::serde::rfc3339")]
    timestamp: Moment,
    merchant: MerchantId,
    position: Option<Position>,
    #[serde(with = "time::serde::rfc3339")]
    occurred_at: Moment,
    outlet: Option<OutletId>,
    register: Option<RegisterId>,
    actor: Option<StaffId>,
    data: &'a RawValue,
}

impl Message {
    /// One of an event. Its id is the merchant and the position, so it is nobody else's.
    ///
    /// # Errors
    /// None that is known.
    pub fn of(merchant: MerchantId, position: Position, recorded_at: Moment, event: &Stored) -> anyhow::Result<Self> {
        let body = Body {
            r#type: &event.kind,
            timestamp: recorded_at,
            merchant,
            position: Some(position),
            occurred_at: event.occurred_at,
            outlet: event.outlet,
            register: event.register,
            actor: event.actor,
            data: &event.data,
        };
        let (id, kind) = (format!("evt_{}_{position}", merchant.0.simple()), event.kind.to_string());
        Ok(Self { id, position: Some(position), kind, body: serde_json::to_string(&body)? })
    }

    /// One that only shows that the endpoint is reached, told from others by a key.
    ///
    /// # Errors
    /// None that is known.
    pub fn ping(merchant: MerchantId, key: &str, now: Moment) -> anyhow::Result<Self> {
        let kind = "webhook.test";
        let data: Box<RawValue> = serde_json::from_str("{}")?;
        let body = Body {
            r#type: kind,
            timestamp: now,
            merchant,
            position: None,
            occurred_at: now,
            outlet: None,
            register: None,
            actor: None,
            data: &data,
        };
        // Nobody chooses an id that could be taken for an event's.
        let digest = digest(&SHA256, key.as_bytes());
        let id = digest.as_ref()[..16].iter().fold("test_".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        Ok(Self { id, position: None, kind: kind.to_owned(), body: serde_json::to_string(&body)? })
    }
}

/// The messages of an entry for whoever hears these types of events, or all if there are none: what comes after a place, as
/// far as a position if there is one. Each has the place up to which all is told then: behind the last one that is the end
/// of the entry.
pub fn untold(entry: &Entry, at: Position, until: Option<Position>, hears: &[String]) -> Vec<(Position, Message)> {
    let events = match entry.events() {
        Ok(events) => events,
        Err(error) => {
            error!("An entry that cannot be read is told to no webhook: {error:#}");
            return Vec::new();
        }
    };
    let is_next =
        |number| at.is_before(entry.seq, number) && until.is_none_or(|until| !until.is_before(entry.seq, number));
    let is_heard = |kind: &str| hears.is_empty() || hears.iter().any(|it| it == kind);
    let mut messages: Vec<(Position, Message)> = (1..)
        .zip(events)
        .filter(|(number, event)| is_next(*number) && is_heard(&event.kind))
        .filter_map(|(number, event)| {
            let position = Position::of_event(entry.seq, number, entry.tag);
            Message::of(entry.merchant, position, entry.recorded_at, event).ok().map(|message| (position, message))
        })
        .collect();
    if let Some((to, _)) = messages.last_mut() {
        *to = entry.position();
    }
    messages
}
