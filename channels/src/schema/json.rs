//! `tillwire.schema.json`: every type that travels, as JSON Schema 2020-12.
//!
//! The document itself describes any event as a screen gets it; `$defs` holds the parts by name: `SaleCompleted` the
//! whole data of an event, `SaleCompletedForTill` what a lesser view sees of it, `SaleCompletedEnvelope` the event
//! as it travels. Objects are open: a later release may add fields, and a client passes over what it does not know.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{EventKind, packets, printed, text, word};
use crate::envelope::Envelope;
use crate::event::Event;
use crate::view::{Role, View};

/// The text of `tillwire.schema.json`.
pub fn document() -> String {
    printed(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tillwire",
        "description": "Any event as a screen gets it. The types that travel are in $defs.",
        "$ref": "#/$defs/AnyEnvelope",
        "$defs": defs(),
    }))
}

/// Every schema by its name.
pub fn defs() -> Map<String, Value> {
    // What is written always has all its fields, what is read may lack some: two contracts of the same types.
    let mut written = SchemaSettings::draft2020_12().for_serialize().into_generator();
    written.subschema_for::<Event>();
    written.subschema_for::<Envelope>();
    written.subschema_for::<Role>();
    written.subschema_for::<View>();
    packets::written().for_each(|it| drop((it.json)(&mut written)));
    let mut read = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    packets::read().for_each(|it| drop((it.json)(&mut read)));

    let mut defs = written.take_definitions(true);
    for (name, schema) in read.take_definitions(true) {
        assert!(defs.get(&name).is_none_or(|other| *other == schema), "{name} is read and written differently");
        defs.insert(name, schema);
    }
    // Nothing travels as the enum is written: its parts go into envelopes.
    defs.remove("Event");
    for kind in EventKind::all() {
        for view in kind.views() {
            if let Some(paths) = view.fields(&kind.name) {
                let name = shown_as(&kind, view);
                let mut schema = shown(&defs, &defs[&kind.payload], paths);
                schema["description"] =
                    format!("{} As the view `{}` sees it.", about(&defs, &kind.payload), word(&view)).into();
                defs.insert(name, schema);
            }
        }
        defs.insert(envelope_of(&kind), envelope(&defs, &kind));
    }
    let envelopes: Vec<Value> = EventKind::all().iter().map(|kind| reference(&envelope_of(kind))).collect();
    defs.insert("AnyEnvelope".into(), json!({ "description": "Any event, told apart by `type`.", "oneOf": envelopes }));
    defs
}

/// The name of the schema of an event as it travels.
pub fn envelope_of(kind: &EventKind) -> String {
    format!("{}Envelope", kind.payload)
}

/// The name of the schema of what a view sees of an event's data.
pub fn shown_as(kind: &EventKind, view: View) -> String {
    match view {
        View::Office => kind.payload.clone(),
        View::Till => format!("{}ForTill", kind.payload),
        View::Display => format!("{}ForDisplay", kind.payload),
    }
}

/// What the type's own comment says of it, as one line.
pub fn about(defs: &Map<String, Value>, name: &str) -> String {
    text(&defs[name]["description"]).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The envelope of one type of event: the general one, with the type and the data settled.
fn envelope(defs: &Map<String, Value>, kind: &EventKind) -> Value {
    let mut schema = defs["Envelope"].clone();
    schema["description"] = about(defs, &kind.payload).into();
    schema["properties"]["type"] = json!({ "type": "string", "const": kind.name });
    let mut views: Vec<Value> = kind.views().map(|view| reference(&shown_as(kind, view))).collect();
    views.reverse();
    schema["properties"]["data"] = match views.as_slice() {
        [whole] => whole.clone(),
        _ => json!({ "description": "As much of it as the screen's view shows.", "anyOf": views }),
    };
    schema
}

/// The schema of what [`crate::view::keep`] leaves of data with this schema.
fn shown(defs: &Map<String, Value>, schema: &Value, paths: &[&str]) -> Value {
    let schema = followed(defs, schema);
    if let Some(items) = schema.get("items") {
        return json!({ "type": "array", "items": shown(defs, items, paths) });
    }
    let kept = |name: &str, field: &Value| {
        if paths.contains(&name) {
            return Some(field.clone());
        }
        let inner: Vec<&str> = paths.iter().filter_map(|path| path.strip_prefix(name)?.strip_prefix('.')).collect();
        (!inner.is_empty()).then(|| shown(defs, field, &inner))
    };
    let fields = schema["properties"].as_object().into_iter().flatten();
    let fields: Map<String, Value> =
        fields.filter_map(|(name, field)| Some((name.clone(), kept(name, field)?))).collect();
    let required = schema["required"].as_array().into_iter().flatten();
    let required: Vec<&Value> = required.filter(|name| fields.contains_key(text(name))).collect();
    json!({ "type": "object", "required": required, "properties": fields })
}

fn followed<'a>(defs: &'a Map<String, Value>, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        Some(name) => followed(defs, &defs[name]),
        None => schema,
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TOPICS;

    /// Whether data of the schema has the field that the dotted path names.
    fn has(defs: &Map<String, Value>, schema: &Value, path: &str) -> bool {
        let schema = followed(defs, schema);
        if let Some(items) = schema.get("items") {
            return has(defs, items, path);
        }
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        schema["properties"].get(name).is_some_and(|field| rest.is_none_or(|rest| has(defs, field, rest)))
    }

    #[test]
    fn every_field_that_a_view_lists_exists() {
        let defs = defs();
        for kind in EventKind::all() {
            for view in kind.views() {
                let paths = view.fields(&kind.name);
                assert!(
                    paths.is_none_or(|paths| !paths.is_empty()),
                    "{view:?} hears {} and sees nothing of it",
                    kind.name
                );
                for path in paths.into_iter().flatten() {
                    assert!(
                        has(&defs, &defs[&kind.payload], path),
                        "{view:?} lists {path}, which no {} has",
                        kind.name
                    );
                }
            }
        }
        assert!(!has(&defs, &defs["SaleCompleted"], "lines.nothing") && !has(&defs, &defs["SaleCompleted"], "sale.x"));
    }

    #[test]
    fn what_names_a_latest_value_is_in_every_view() {
        let defs = defs();
        for (row, fields) in TOPICS.iter().filter_map(|row| Some((row, row.latest_by?))) {
            let kinds = EventKind::all();
            let names_a_value = |kind: &&EventKind| {
                let mut paths = fields.iter().filter_map(|field| field.strip_prefix("data."));
                paths.all(|path| has(&defs, &defs[&kind.payload], path))
            };
            let of_topic = kinds.iter().filter(|kind| row.events.contains(&kind.name.as_str()));
            let values: Vec<&EventKind> = of_topic.filter(names_a_value).collect();
            // Of two types, the one would take the other's place.
            let [kind] = values[..] else { panic!("{} types of {} bring its values", values.len(), row.name) };
            for (view, field) in kind.views().flat_map(|view| fields.iter().map(move |field| (view, field))) {
                let (of, path) = match field.strip_prefix("data.") {
                    Some(path) => (shown_as(kind, view), path),
                    None => (envelope_of(kind), *field),
                };
                assert!(has(&defs, &defs[&of], path), "{of} has no {field}, by which {} is merged", row.name);
            }
        }
    }

    #[test]
    fn every_type_of_the_wire_is_described() {
        let defs = defs();
        for line in include_str!("../wire.rs").lines() {
            let named = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            if let Some(name) = named.and_then(|rest| rest.split_whitespace().next()) {
                assert!(defs.contains_key(name), "{name} travels and is not described");
            }
        }
    }
}
