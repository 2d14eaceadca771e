//! The contract as documents for those who do not read Rust: JSON Schema, AsyncAPI and TypeScript.
//!
//! Everything here is told by the types, the table of topics and the views, so a new event needs no line of this.
//! The texts are the same on every machine; `schema/` beside this crate holds them, and a test holds it to them.

pub mod asyncapi;
pub mod json;
pub mod packets;
pub mod samples;
pub mod typescript;

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::event::Event;
use crate::view::View;

/// A generated file.
pub struct Document {
    /// Its name in `channels/schema/`.
    pub name: &'static str,
    /// What makes its text.
    pub text: fn() -> String,
}

/// The generated files.
pub const DOCUMENTS: &[Document] = &[
    Document { name: "tillwire.schema.json", text: json::document },
    Document { name: "asyncapi.json", text: asyncapi::document },
    Document { name: "tillwire.ts", text: typescript::document },
];

/// A variant of [`Event`], as the documents name it.
pub struct EventKind {
    /// Its word on the wire, e.g. `sale.completed`.
    pub name: String,
    /// The name of its data's type, e.g. `SaleCompleted`.
    pub payload: String,
    pub sample: Event,
}

impl EventKind {
    /// Every variant, in the enum's order.
    pub fn all() -> Vec<Self> {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Event>();
        let variants = schema.get("oneOf").and_then(Value::as_array).expect("an enum's schema lists its variants");
        let variant = |variant: &Value| {
            let name = text(&variant["properties"]["type"]["const"]);
            let payload = text(&variant["properties"]["data"]["$ref"]).rsplit('/').next().unwrap_or_default();
            let sample = samples::events().into_iter().find(|sample| word(sample) == name);
            Self { name: name.into(), payload: payload.into(), sample: sample.expect("every event has a sample") }
        };
        variants.iter().map(variant).collect()
    }

    /// The views that hear of it, least first.
    pub fn views(&self) -> impl Iterator<Item = View> {
        let least = self.sample.least_view();
        View::ALL.iter().copied().filter(move |view| *view >= least)
    }
}

/// The word on the wire of an event, or of anything else that is written as a word or tagged with one.
fn word(it: &impl serde::Serialize) -> String {
    match value(it) {
        Value::String(word) => word,
        tagged => text(&tagged["type"]).into(),
    }
}

fn value(it: &impl serde::Serialize) -> Value {
    serde_json::to_value(it).expect("the contract's own types are JSON")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The document as it is committed: indented, and its names sorted whether or not `serde_json` keeps their order.
fn printed(document: Value) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields: BTreeMap<_, _> = fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
                Value::Object(fields.into_iter().collect())
            }
            Value::Array(items) => items.into_iter().map(sorted).collect(),
            scalar => scalar,
        }
    }
    serde_json::to_string_pretty(&sorted(document)).expect("a document is JSON") + "\n"
}
