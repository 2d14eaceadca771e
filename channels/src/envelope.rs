//! Envelopes: how an event is kept in the journal, and how a screen gets it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use ts_rs::TS;

use crate::Moment;
use crate::event::Event;
use crate::ids::{OutletId, RegisterId, StaffId};
use crate::topic::{TOPICS, hears};
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

    /// What names the value that this event brings: its topic and what [`latest_by`](crate::topic::TopicRow::latest_by) says.
    /// A later event of the same name makes this one old. `None` for events that stay true whatever comes, and for those
    /// that this node does not know.
    pub fn value(&self) -> Option<Box<str>> {
        let row = TOPICS.iter().find(|row| row.events.contains(&&*self.kind))?;
        let fields = row.latest_by?;
        let data: Value = serde_json::from_str(self.data.get()).ok()?;
        let mut name = row.name.to_owned();
        for field in fields {
            let part = match (*field, field.strip_prefix("data.")) {
                ("outlet", _) => self.outlet?.to_string().into(),
                (_, Some(path)) => path.split('.').try_fold(&data, |data, key| data.get(key))?.clone(),
                _ => return None,
            };
            if !part.is_string() && !part.is_number() {
                return None;
            }
            // As JSON, where a text cannot run into the next.
            name.push_str(&part.to_string());
        }
        Some(name.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(kind: &str, outlet: Option<OutletId>, data: Value) -> Stored {
        let stored = serde_json::json!({
            "type": kind, "channels": [], "view": "display", "outlet": outlet,
            "occurred_at": "2026-11-29T00:00:00Z", "data": data,
        });
        serde_json::from_str(&stored.to_string()).unwrap()
    }

    #[test]
    fn a_value_is_named_by_its_topic_and_what_the_table_says() {
        let (here, there) = (Some(OutletId::new()), Some(OutletId::new()));
        let level = |outlet, variant: &str, on_hand| {
            stored("stock.changed", outlet, serde_json::json!({ "variant": variant, "on_hand": on_hand })).value()
        };
        assert_eq!(level(here, "roti", 1), level(here, "roti", 2));
        assert!(level(here, "roti", 1).is_some());
        assert_ne!(level(here, "roti", 1), level(there, "roti", 1));
        assert_ne!(level(here, "roti", 1), level(here, "kopi", 1));
        let product = stored("product.changed", None, serde_json::json!({ "product": "roti" })).value();
        assert!(product.is_some_and(|name| name.starts_with("catalog")));
    }

    #[test]
    fn what_has_no_name_is_never_old() {
        let outlet = Some(OutletId::new());
        let named = serde_json::json!({ "variant": "roti", "product": "roti", "sale": "1" });
        assert_eq!(stored("sale.completed", outlet, named.clone()).value(), None, "a fact, not a value");
        let levels = serde_json::json!({ "levels": [named] });
        assert_eq!(stored("stock.reserved", outlet, levels).value(), None, "it brings several");
        assert_eq!(stored("stock.counted", outlet, named.clone()).value(), None, "unknown here");
        assert_eq!(stored("stock.changed", None, named).value(), None, "no outlet");
        for variant in [serde_json::json!(null), serde_json::json!({}), serde_json::json!(["roti"])] {
            let data = serde_json::json!({ "variant": variant });
            assert_eq!(stored("stock.changed", outlet, data).value(), None);
        }
    }
}
