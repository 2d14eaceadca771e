//! The committed OpenAPI document is the one that the code describes, and tells a generator of clients all that it needs.

use std::collections::BTreeSet;

use serde_json::Value;

#[test]
fn the_openapi_document_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    let fresh = tillwire::http::openapi().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("TILLWIRE_FIX").is_some() {
        std::fs::write(path, fresh).expect("writing the document");
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == fresh, "docs/openapi.json is stale: bin/test --fix brings it up to date");
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_what_each_answer_is() {
    let document = serde_json::to_value(tillwire::http::openapi()).expect("JSON");
    let mut names = BTreeSet::new();
    let mut writes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let name = operation["operationId"].as_str().expect("a name");
            assert!(names.insert(name.to_owned()), "{name} is not only {method} {path}");
            // Providers have neither keys nor a use for positions.
            let is_write = method != "get" && !path.starts_with("/v1/providers/");
            writes += u32::from(is_write);
            for (status, answer) in operation["responses"].as_object().expect("answers") {
                let at = format!("{status} of {method} {path}");
                assert!(answer["description"].as_str().is_some_and(|it| !it.is_empty()), "{at} is not described");
                let is_good = status.starts_with('2');
                let kind = match path.rsplit_once('.') {
                    _ if !is_good => "application/problem+json",
                    Some((_, "svg")) => "image/svg+xml",
                    Some((_, "png")) => "image/png",
                    _ => "application/json",
                };
                let kinds: Vec<&String> = answer["content"].as_object().expect("a body").keys().collect();
                assert_eq!(kinds, [kind], "{at}");
                if !is_good {
                    assert_eq!(answer["content"][kind]["schema"]["$ref"], "#/components/schemas/Problem", "{at}");
                }
                let has_position = answer["headers"]["Tillwire-Position"]["description"].is_string();
                assert_eq!(has_position, is_good && is_write, "{at}");
            }
            let key = |it: &Value| it["name"] == "Idempotency-Key" && it["in"] == "header" && it["required"] == true;
            let has_key = operation["parameters"].as_array().is_some_and(|all| all.iter().any(key));
            assert_eq!(has_key, is_write, "{method} {path}");
        }
    }
    assert!(writes >= 10, "{writes}");
}
