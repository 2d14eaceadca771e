//! The committed OpenAPI document is the one that the code describes.

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
