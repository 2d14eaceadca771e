//! What the documents say, done as they say it.

use std::path::Path;

use tillwire_channels::{MerchantId, Role};
use tokio::process::Command;

use super::support::hub::TestHub;

#[tokio::test]
async fn the_first_sale_of_the_readme_is_sold() {
    let hub = TestHub::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/first-sale.sh");
    let output = Command::new("bash")
        .arg(script)
        .env("HUB", format!("http://{}", hub.address))
        .env("TOKEN", hub.token(MerchantId::new(), Role::Owner, &[]))
        .output()
        .await
        .expect("bash and curl");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    let journal: serde_json::Value = serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON");
    let kinds: Vec<&str> =
        journal["events"].as_array().unwrap().iter().map(|it| it["event"]["type"].as_str().unwrap()).collect();
    assert!(kinds.ends_with(&["stock.changed", "sale.completed", "payment.captured", "stock.changed"]), "{kinds:?}");
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let mut examples = 0;
    for file in std::fs::read_dir(root.join("docs/examples")).expect("the examples") {
        let path = file.expect("an example").path();
        let text = std::fs::read_to_string(&path).expect("an example");
        assert!(readme.contains(text.trim_end()), "the README shows another {}", path.display());
        examples += 1;
    }
    assert!(examples > 2);
}

#[test]
fn what_the_documents_point_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/operating.md",
        "docs/adding-an-event.md",
    ] {
        let document = root.join(name);
        let text = std::fs::read_to_string(&document).expect(name);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap_or_default();
            assert!(document.parent().expect("a folder").join(file).exists(), "{name} points to {link}");
        }
    }
}
