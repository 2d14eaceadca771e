//! An entry as a message of the durable exchange.
//!
//! The body is JSON: `{"merchant": …, "position": "1041-9f3ac2d1", "prev": …, "tag": …, "recorded_at": …, "events": […]}`, the events as
//! the very text that the journal hashes. Those of an entry above 64 KiB are left out; whoever wants them reads the journal. `trace` is the request that it came of.
//! A position is of one journal alone, so a message is told from others by merchant and position: its id has both.
//! A routing key is the type of an event; an entry with events of several types carries the others as `CC`, so that a queue
//! bound to several of them gets it once.

use std::collections::BTreeSet;

use anyhow::Context;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tillwire_channels::{MerchantId, Moment, Position};
use uuid::Uuid;

use crate::journal::{Entry, chain};

/// Above so many bytes, events are left out: a broker keeps a message for each queue, and copies it to each replica.
pub const EVENTS_BYTES_MAX: usize = 64 * 1024;
/// The key of an entry without events that can be read.
const NO_TYPE: &str = "entry";
/// Messages survive a broker.
const PERSISTENT: u8 = 2;
/// The header with the routing keys but the first.
const CC: &str = "CC";

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    merchant: MerchantId,
    position: Position,
    prev: String,
    tag: String,
    #[serde(with = "time::serde::rfc3339")]
    recorded_at: Moment,
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    events: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    trace: Option<Uuid>,
}

/// An entry, ready to be published.
pub struct Message {
    pub key: ShortString,
    pub properties: BasicProperties,
    pub body: Vec<u8>,
}

/// One whose events cannot be read, in a journal that was tampered with, is published by its place: whoever takes it will
/// see, and the ones after it do not wait.
///
/// # Errors
/// None that is known.
pub fn encode(entry: &Entry) -> anyhow::Result<Message> {
    let read = entry.events();
    let stored = read.as_deref().unwrap_or_default();
    let mut types: BTreeSet<&str> = stored.iter().map(|event| &*event.kind).collect();
    let key = types.pop_first().unwrap_or(NO_TYPE);
    let mut headers = FieldTable::default();
    headers.insert("merchant".into(), AMQPValue::LongString(entry.merchant.to_string().into()));
    if !types.is_empty() {
        let others = types.into_iter().filter(|it| ShortString::try_new(*it).is_ok());
        let others: Vec<AMQPValue> = others.map(|it| AMQPValue::LongString(it.into())).collect();
        headers.insert(CC.into(), AMQPValue::FieldArray(others.into()));
    }
    let position = entry.position();
    let events = match (&read, entry.text.len()) {
        (Ok(_), ..=EVENTS_BYTES_MAX) => Some(serde_json::from_str(&entry.text)?),
        _ => None,
    };
    let body = Body {
        merchant: entry.merchant,
        position,
        prev: entry.prev.to_string(),
        tag: entry.tag.to_string(),
        recorded_at: entry.recorded_at,
        events,
        trace: entry.trace,
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_app_id("tillwire".into())
        .with_message_id(format!("{}/{position}", entry.merchant).into())
        .with_timestamp(entry.recorded_at.unix_timestamp().unsigned_abs())
        .with_headers(headers);
    // A key has 255 bytes at most. No type of ours has as many.
    let key = ShortString::try_new(key).unwrap_or_else(|_| NO_TYPE.into());
    Ok(Message { key, properties, body: serde_json::to_vec(&body)? })
}

/// What a message says.
#[derive(Debug)]
pub enum Told {
    Entry(Entry),
    /// The entry is only in the journal.
    Place {
        merchant: MerchantId,
        position: Position,
    },
}

impl Told {
    pub fn merchant(&self) -> MerchantId {
        match self {
            Self::Entry(entry) => entry.merchant,
            Self::Place { merchant, .. } => *merchant,
        }
    }
}

/// Whoever can write to a broker cannot put words into a journal unnoticed: events have to hash to their tag.
///
/// # Errors
/// If it is no message of ours.
pub fn decode(body: &[u8]) -> anyhow::Result<Told> {
    let body: Body<'_> = serde_json::from_slice(body).context("not an entry")?;
    let Body { merchant, position, recorded_at, .. } = body;
    let (prev, tag) = (body.prev.parse()?, body.tag.parse()?);
    let Some(events) = body.events else { return Ok(Told::Place { merchant, position }) };
    anyhow::ensure!(chain::tag(prev, merchant, position.seq, events.get()) == tag, "events that do not fit their tag");
    anyhow::ensure!(position == Position::of_entry(position.seq, tag), "a position that does not fit its tag");
    Ok(Told::Entry(Entry::new(merchant, position.seq, prev, tag, recorded_at, events.get().into()).traced(body.trace)))
}
