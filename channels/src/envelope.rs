//! Envelopes: how an event is kept in the journal, and how a screen gets it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ts_rs::TS;

use crate::Moment;
use crate::event::Event;
use crate::ids::{OutletId, RegisterId, StaffId};
use crate::topic::hears;
use crate::view::{View, keep};

/// An event as its entry stores it: with its channels and the least view that hears it, as decided at commit.
///
/// Replay therefore routes exactly as live did, also on an older node that does not know the type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    #[serde(rename = "type")]
    pub kind: Box<str>,
    pub channels: Vec<Box<str>>,
    pub view: View,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outlet: Option<OutletId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub register: Option<RegisterId>,
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: Moment,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub actor: Option<StaffId>,
    pub data: Box<RawValue>,
}

impl Stored {
    /// Readies an event for the journal.
    pub fn new(event: &Event, occurred_at: Moment, actor: Option<StaffId>) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Parts {
            r#type: Box<str>,
            data: Box<RawValue>,
        }
        let Parts { r#type, data } = serde_json::from_str(&serde_json::to_string(event)?)?;
        let (outlet, register) = event.place();
        Ok(Self {
            kind: r#type,
            channels: event.channels().iter().map(|channel| channel.to_string().into()).collect(),
            view: event.least_view(),
            outlet,
            register,
            occurred_at,
            actor,
            data,
        })
    }

    /// Whether a screen that joined `joined` and sees `view` hears it.
    pub fn heard_on<'a>(&self, mut joined: impl Iterator<Item = &'a str>, view: View) -> bool {
        view >= self.view && joined.any(|joined| self.channels.iter().any(|channel| hears(joined, channel)))
    }

    /// The event as `view` sees it: number `event` (from 1) of the `events` in entry `seq`.
    ///
    /// # Errors
    /// If the stored data is not JSON: a journal that was tampered with.
    pub fn envelope(
        &self,
        view: View,
        seq: u64,
        (event, events): (u32, u32),
        recorded_at: Moment,
    ) -> serde_json::Result<Envelope<'_>> {
        let data = match view.fields(&self.kind) {
            None => Shown::All(&self.data),
            Some(paths) => {
                let kept = keep(serde_json::from_str(self.data.get())?, paths);
                Shown::Part(serde_json::value::to_raw_value(&kept)?)
            }
        };
        Ok(Envelope {
            seq,
            of: [event, events],
            kind: &self.kind,
            outlet: self.outlet,
            register: self.register,
            occurred_at: self.occurred_at,
            recorded_at,
            actor: self.actor.filter(|_| view.shows_actor()),
            data,
            merged: None,
        })
    }
}

/// An event as a screen and the change feed get it. Its position travels beside it, as the packet's last argument.
///
/// In TypeScript it has two parameters, the type of event `T` and the view `V`, on which its data depends.
#[derive(Debug, Serialize, JsonSchema, TS)]
pub struct Envelope<'a> {
    /// The number of its entry.
    #[ts(type = "number")]
    pub seq: u64,
    /// Which event of the entry it is, from 1, and of how many.
    pub of: [u32; 2],
    /// What happened, e.g. `sale.completed`.
    #[serde(rename = "type")]
    #[ts(type = "T")]
    pub kind: &'a str,
    pub outlet: Option<OutletId>,
    pub register: Option<RegisterId>,
    /// When it happened, by the clock of whoever reported it.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    pub occurred_at: Moment,
    /// When it was committed, by the database's clock. Never runs backwards within a journal.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[ts(type = "string")]
    pub recorded_at: Moment,
    /// Who did it; `null` for views that show no people.
    pub actor: Option<StaffId>,
    /// What the view shows of the event's data.
    #[schemars(with = "serde_json::Value")]
    #[ts(type = "Data<T, V>")]
    pub data: Shown<'a>,
    /// For a latest-value topic: how many earlier events of the same value this one stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub merged: Option<u32>,
}

/// An event's data as a view shows it, already encoded.
#[derive(Debug)]
pub enum Shown<'a> {
    All(&'a RawValue),
    Part(Box<RawValue>),
}

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All(raw) => raw.serialize(serializer),
            Self::Part(raw) => raw.serialize(serializer),
        }
    }
}
