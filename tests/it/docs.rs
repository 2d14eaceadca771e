//! What the documents say, done as they say it.

use std::path::{Path, PathBuf};

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
    let mut documents = Vec::new();
    collect_documents(Path::new(env!("CARGO_MANIFEST_DIR")), &mut documents);
    for name in ["README.md", "docs/faults.md", "docs/decisions/0002-socketio.md", "fuzz/README.md"] {
        assert!(documents.iter().any(|it| it.ends_with(name)), "{name} was not found: {documents:?}");
    }
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a document");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap_or_default();
            let there = document.parent().expect("a folder").join(file).exists();
            assert!(there, "{} points to {link}", document.display());
        }
    }
}

/// The Markdown of the repository: neither what was compiled nor what packages bring.
fn collect_documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        } else if path.is_dir() && !["target", "node_modules", ".git"].iter().any(|it| path.ends_with(it)) {
            collect_documents(&path, found);
        }
    }
}

#[tokio::test]
async fn the_page_of_the_api_loads_nothing_from_outside() {
    let hub = TestHub::start().await;
    let get = async |path: &str| {
        let answer = hub.send("GET", path, &[], vec![]).await;
        assert_eq!(answer.status, 200, "{path}");
        // Whatever its scripts would like, a browser lets it reach nobody but this hub.
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        for directive in policy.split("; ") {
            let (name, sources) = directive.split_once(' ').expect("a directive with its sources");
            let allowed = match name {
                "style-src" => ["'self'", "'unsafe-inline'"].as_slice(),
                "img-src" => &["'self'", "data:"],
                _ => &["'self'", "'none'"],
            };
            assert!(sources.split(' ').all(|source| allowed.contains(&source)), "{directive}");
        }
        for directive in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.split("; ").any(|it| it == directive), "no {directive} in {policy}");
        }
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    let page = get("/docs/").await;
    let files: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|mark| page.split(mark).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(files.len() > 3, "{files:?}");
    for file in &files {
        let name = file.strip_prefix("./").unwrap_or(file);
        assert!(!name.contains([':', '/']), "{file} is not beside the page");
        let text = get(&format!("/docs/{name}")).await;
        if name.ends_with(".css") {
            let pictures = text.split("url(").skip(1);
            assert!(pictures.into_iter().all(|it| it.trim_start_matches(['"', '\'']).starts_with("data:")), "{name}");
            assert!(!text.contains("@import"), "{name}");
        }
    }
    assert!(page.split("<script").skip(1).all(|script| script.contains("src=\"")), "a script with text of its own");
    let settings = get("/docs/swagger-initializer.js").await;
    assert!(files.contains(&"./swagger-initializer.js"));
    for setting in ["\"url\": \"/v1/openapi.json\"", "\"validatorUrl\": \"none\""] {
        assert!(settings.contains(setting), "no {setting} in {settings}");
    }
}

#[tokio::test]
async fn the_document_that_is_served_is_the_one_that_is_committed() {
    let hub = TestHub::start().await;
    let served = hub.send("GET", "/v1/openapi.json", &[], vec![]).await.ok();
    let committed = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json")).unwrap();
    assert_eq!(served, serde_json::from_slice::<serde_json::Value>(&committed).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1."), "{}", served["openapi"]);
}
