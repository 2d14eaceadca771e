//! What the documents say, done as they say it.

use std::path::{Path, PathBuf};

use tillwire_channels::{MerchantId, Role};
use tokio::process::Command;

use super::support::caller::Caller;
use super::support::hub::TestHub;
use super::support::providers::Market;
use super::support::services::dir;

/// Runs an example as somebody would, in a folder of its own. Answers what it prints.
async fn example(name: &str, variables: &[(&str, &str)], folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name);
    let output = Command::new("bash")
        .arg(script)
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .await
        .expect("bash and curl");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

#[tokio::test]
async fn the_first_sale_of_the_readme_is_sold() {
    let hub = TestHub::start().await;
    let (url, token) = (format!("http://{}", hub.address), hub.token(MerchantId::new(), Role::Owner, &[]));
    let out = example("first-sale.sh", &[("HUB", &url), ("TOKEN", &token)], &dir("example")).await;
    let journal: serde_json::Value = serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON");
    let kinds: Vec<&str> =
        journal["events"].as_array().unwrap().iter().map(|it| it["event"]["type"].as_str().unwrap()).collect();
    assert!(kinds.ends_with(&["stock.changed", "sale.completed", "payment.captured", "stock.changed"]), "{kinds:?}");
}

#[tokio::test]
async fn the_first_payment_of_the_documents_is_paid_as_often_as_it_is_asked_for() {
    let market = Market::opens().await;
    let (hub, simulator) = (format!("http://{}", market.hub.address), market.providers.midtrans_url());
    let token = market.hub.token(MerchantId::new(), Role::Owner, &[]);
    let variables = [("HUB", hub.as_str()), ("SIMULATOR", &simulator), ("TOKEN", &token)];
    example("first-sale.sh", &variables, &dir("example")).await;
    for _ in 0..2 {
        let folder = dir("example");
        let out = example("first-payment.sh", &variables, &folder).await;
        assert_eq!(out.lines().last(), Some("paid"), "{out}");
        let code = std::fs::read_to_string(folder.join("payment.svg")).expect("a drawn code");
        assert!(code.starts_with("<svg"), "{code}");
    }
    let owner = Caller { address: market.hub.address, token: &token };
    let accounts = owner.get("/v1/provider-accounts").await.expect("an answer").ok();
    assert_eq!(accounts["items"].as_array().expect("accounts").len(), 1, "{accounts}");
    // The notification came by the path that the simulator was told: nobody waited for a look of the hub's own.
    let told = "select count(*) from provider_inbox where outcome = 'applied'";
    assert!(market.hub.database.psql(told).await.trim() != "0");
}

#[tokio::test]
async fn the_accounts_of_the_documents_are_added() {
    let market = Market::opens().await;
    let shop = market.hub.merchant("Toko Roti").await;
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/payments.md")).expect("a page");
    let shown: Vec<&str> =
        page.split("```json account\n").skip(1).map(|rest| rest.split("```").next().expect("its end")).collect();
    assert_eq!(shown.len(), 2);
    for (body, provider) in shown.into_iter().zip(["midtrans", "xendit"]) {
        let added = shop.post("/v1/provider-accounts", serde_json::from_str(body).expect("JSON")).await.created();
        assert_eq!((&added["provider"], &added["mode"]), (&provider.into(), &"test".into()), "{added}");
        assert!(added["webhook_path"].as_str().is_some_and(|path| path.starts_with("/v1/providers/")), "{added}");
    }
}

/// The codes of what is refused, by whichever part of the hub.
#[test]
fn every_refusal_in_the_page_on_payments_is_made_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/payments.md")).expect("a page");
    let tables = page.split("| code | because |\n|---|---|\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().take_while(|line| line.starts_with('|')));
    let codes: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).expect("a code").split('`').skip(1).step_by(2)).collect();
    assert!(codes.len() > 15 && codes.contains(&"nothing_due"), "{codes:?}");
    let mut code = String::new();
    for folder in ["src/commerce", "src/connectors", "src/http", "src/payments"] {
        collect_code(&root.join(folder), &mut code);
    }
    for word in codes {
        assert!(code.contains(&format!("\"{word}\"")), "nothing is refused with {word}");
    }
}

fn collect_code(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect_code(&path, code);
        } else if path.extension().is_some_and(|it| it == "rs") {
            *code += &std::fs::read_to_string(&path).expect("a source file");
        }
    }
}

#[test]
fn the_documents_show_the_examples_as_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = ["README.md", "docs/payments.md"]
        .map(|name| (name, std::fs::read_to_string(root.join(name)).expect("a document")));
    let mut examples = Vec::new();
    for file in std::fs::read_dir(root.join("docs/examples")).expect("the examples") {
        let path = file.expect("an example").path();
        let text = std::fs::read_to_string(&path).expect("an example");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let shown = documents.iter().filter(|(_, document)| document.contains(text.trim_end()));
        examples.extend(shown.map(|(document, _)| (name.clone(), *document)));
        assert!(examples.iter().any(|(shown, _)| *shown == name), "no document shows {name} as it is");
    }
    examples.sort();
    let shown = [
        ("first-payment.sh", "docs/payments.md"),
        ("first-sale.sh", "README.md"),
        ("payment.mjs", "docs/payments.md"),
        ("screen.mjs", "README.md"),
        ("screen.py", "README.md"),
    ];
    assert_eq!(examples, shown.map(|(example, document)| (example.to_owned(), document)));
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
