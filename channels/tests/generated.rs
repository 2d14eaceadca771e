//! The generated documents: committed as they are generated, and true of what is really sent.

use std::path::Path;

use serde_json::{Map, Value, json};
use tillwire_channels::View;
use tillwire_channels::schema::{DOCUMENTS, Document, EventKind, asyncapi, json as schema, samples};

/// Set to `1`, it writes the files anew instead of complaining about them.
const FIX: &str = "TILLWIRE_FIX";

#[test]
fn the_committed_files_are_what_is_generated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    let fix = std::env::var(FIX).is_ok_and(|it| it == "1");
    for Document { name, text } in DOCUMENTS {
        let (file, text) = (folder.join(name), text());
        if fix {
            std::fs::write(&file, text).unwrap_or_else(|error| panic!("writing {}: {error}", file.display()));
        } else if std::fs::read_to_string(&file).unwrap_or_default() != text {
            panic!("channels/schema/{name} is not what the crate `channels` says any more: run bin/test --fix");
        }
    }
}

#[test]
fn generating_twice_gives_the_same_text() {
    for Document { name, text } in DOCUMENTS {
        assert!(text() == text(), "{name} differs from one time to the next");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for document in [asyncapi::document(), schema::document()] {
        let document: Value = serde_json::from_str(&document).unwrap();
        let mut paths = vec![];
        references(&document, &mut paths);
        assert!(paths.len() > 20, "only {} references", paths.len());
        for path in paths {
            let pointer = path.strip_prefix('#').expect("every reference stays in its document");
            assert!(document.pointer(pointer).is_some(), "{path} leads nowhere");
        }
    }
}

fn references<'a>(value: &'a Value, paths: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            paths.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, paths));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, paths)),
        _ => {}
    }
}

#[test]
fn what_is_sent_is_what_the_schema_says() {
    let document: Value = serde_json::from_str(&schema::document()).unwrap();
    let whole = jsonschema::options().should_validate_formats(true).build(&document).expect("a valid schema");
    // Closed as the published schema is not, so that a field that no schema names is found.
    let defs = closed(&document)["$defs"].take();
    let by_name = |name: &str| {
        let schema = json!({ "$schema": document["$schema"], "$ref": format!("#/$defs/{name}"), "$defs": defs });
        jsonschema::options().should_validate_formats(true).build(&schema).expect("a valid schema")
    };
    let mut sent = 0;
    for kind in EventKind::all() {
        let stored = samples::stored(&kind.sample);
        for view in View::ALL.iter().copied().filter(|view| *view >= kind.sample.least_view()) {
            let event = serde_json::to_value(samples::envelope(&stored, view)).unwrap();
            holds(&whole, &event, &kind.name);
            holds(&by_name(&schema::envelope_of(&kind)), &event, &kind.name);
            holds(&by_name(&schema::shown_as(&kind, view)), &event["data"], &kind.name);
            sent += 1;
        }
        let mut other = serde_json::to_value(samples::envelope(&stored, View::Office)).unwrap();
        other["data"] = json!({});
        assert!(!whole.is_valid(&other), "{} needs no data", kind.name);
    }
    assert!(sent > EventKind::all().len());
}

#[test]
fn what_asyncapi_shows_as_an_example_is_what_it_describes() {
    let document: Value = serde_json::from_str(&asyncapi::document()).unwrap();
    let mut shown = 0;
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [message["payload"]],
            "components": closed(&document["components"]),
        });
        let schema = jsonschema::options().should_validate_formats(true).build(&schema).expect("a valid schema");
        for example in message["examples"].as_array().into_iter().flatten() {
            holds(&schema, &example["payload"], name);
            shown += 1;
        }
    }
    assert_eq!(shown, EventKind::all().len());
}

fn holds(schema: &jsonschema::Validator, it: &Value, name: &str) {
    let errors: Vec<String> =
        schema.iter_errors(it).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{it:#}");
}

/// The schema with every object closed to further fields.
fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut fields: Map<String, Value> = fields.iter().map(|(name, it)| (name.clone(), closed(it))).collect();
            if fields.get("properties").is_some_and(Value::is_object) && fields.get("type") == Some(&json!("object")) {
                fields.insert("additionalProperties".into(), false.into());
            }
            fields.into()
        }
        Value::Array(items) => items.iter().map(closed).collect(),
        scalar => scalar.clone(),
    }
}
