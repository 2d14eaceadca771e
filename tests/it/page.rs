//! The live page and the cashier's, as a browser gets them. What they make of the events is tested in `web/test`, in their own
//! language.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tillwire_channels::Role;

use super::support::clients::{StockScreen, javascript_packages};
use super::support::hub::{Answer, Shop, TestHub};

const CLIENT: &str = "/live/socket.io.esm.min.js";
/// The pages, and the folder under `web/` that each is made of.
const PAGES: &[(&str, &str)] = &[("/", "live"), ("/kasir", "cashier")];
/// Links that a person follows, and the browser does not.
const LINKS: &[&str] = &["/docs/"];

#[tokio::test]
async fn the_pages_and_all_they_need_come_from_the_hub() {
    let hub = TestHub::start().await;
    // Follows every reference, as a browser would.
    let mut found: Vec<String> = PAGES.iter().map(|(page, _)| (*page).to_owned()).collect();
    for at in 0.. {
        let Some(path) = found.get(at).cloned() else { break };
        let file = get(&hub, &path).await;
        assert_eq!((file.status, header(&file, "content-type")), (200, kind(&path)), "{path}");
        let text = String::from_utf8(file.body).expect("text");
        for reference in references(&path, &text) {
            assert!(reference.starts_with('/') && !reference.starts_with("//"), "{path} refers to {reference}");
            if !LINKS.contains(&reference.as_str()) && !found.contains(&reference) {
                found.push(reference);
            }
        }
    }
    let written = PAGES.iter().flat_map(|(page, folder)| {
        sources(folder).into_iter().map(move |source| {
            let name = source.file_name().expect("a name").to_string_lossy().into_owned();
            if name == "index.html" { (*page).to_owned() } else { format!("/{folder}/{name}") }
        })
    });
    let mut written: Vec<String> = written.chain([CLIENT.to_owned()]).collect();
    written.sort();
    found.sort();
    assert_eq!(found, written, "what the pages refer to, and what there is");
}

#[tokio::test]
async fn nothing_from_elsewhere_and_nothing_inline_may_run() {
    let hub = TestHub::start().await;
    for path in ["/", CLIENT, "/live/live.css", "/kasir", "/cashier/cashier.js"] {
        let file = get(&hub, path).await;
        let policy: BTreeMap<&str, &str> = header(&file, "content-security-policy")
            .split(';')
            .map(|directive| directive.trim().split_once(' ').expect("a directive with its value"))
            .collect();
        for directive in ["default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"] {
            assert_eq!(policy.get(directive), Some(&"'none'"), "{directive}");
        }
        for directive in ["script-src", "style-src", "connect-src"] {
            assert_eq!(policy.get(directive), Some(&"'self'"), "{directive}");
        }
        // The code that a customer scans is fetched with the token, and shown from the page's memory.
        let pictures = if path == "/kasir" { "'self' blob:" } else { "'self'" };
        assert_eq!(policy.get("img-src"), Some(&pictures), "{path}");
        assert_eq!(policy.get("require-trusted-types-for"), Some(&"'script'"));
        assert_eq!(policy.len(), 10, "{policy:?}");
        assert_eq!(header(&file, "referrer-policy"), "no-referrer");
        assert_eq!(header(&file, "x-content-type-options"), "nosniff");
    }

    for (page, folder) in PAGES {
        let html = get(&hub, page).await.body;
        let html = String::from_utf8(html).expect("text");
        let (scripts, empty) = (html.matches("<script").count(), html.matches("\"></script>").count());
        assert_eq!((scripts, empty), (1, 1), "a script with text of its own at {page}");
        for inline in ["<style", "style=", "javascript:", "srcdoc"] {
            assert!(!html.contains(inline), "{inline} at {page}");
        }
        let handlers = html.split_whitespace().filter(|word| word.starts_with("on") && word.contains('='));
        assert_eq!(handlers.count(), 0, "an inline handler at {page}");
        for source in sources(folder) {
            let text = fs::read_to_string(&source).expect("text");
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute(\"on"]
            {
                assert!(!text.contains(sink), "{sink} in {}", source.display());
            }
        }
    }
}

#[tokio::test]
async fn the_client_is_the_packages_own_file() {
    let hub = TestHub::start().await;
    let served = get(&hub, CLIENT).await.body;
    let package = javascript_packages().await.join("socket.io-client/dist/socket.io.esm.min.js");
    assert!(served == fs::read(package).expect("the package's file"), "the served client is another");
}

#[tokio::test]
async fn a_browser_that_has_the_page_is_only_told_so() {
    let hub = TestHub::start().await;
    let first = get(&hub, "/").await;
    let etag = header(&first, "etag").to_owned();
    assert_eq!(header(&first, "cache-control"), "no-cache");
    for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
        let again = hub.send("GET", "/", &[("if-none-match", &known)], vec![]).await;
        assert_eq!((again.status, again.body.len(), header(&again, "etag")), (304, 0, etag.as_str()), "{known}");
    }
    let changed = hub.send("GET", "/", &[("if-none-match", "\"other\"")], vec![]).await;
    assert_eq!((changed.status, changed.body), (200, first.body.clone()));

    let head = hub.send("HEAD", "/", &[], vec![]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(header(&head, "content-length"), first.body.len().to_string());
    assert_eq!(header(&head, "etag"), etag);

    get(&hub, "/live/nothing.js").await.refused(404, "not_found");
    get(&hub, "/live/../index.html").await.refused(404, "not_found");
    assert_eq!(hub.send("POST", "/", &[], vec![]).await.status, 405);
}

#[tokio::test]
async fn the_page_counts_each_sale_once_however_often_it_is_cut_off() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    shop.sells(&bread, 7_500).await;
    shop.sells(&bread, 7_500).await;
    let display = hub.token(shop.merchant, Role::Display, &[]);
    let mut page = StockScreen::live_page(hub.address, &display).await;
    let today = page.happens("today").await;
    assert_eq!(today["outlets"], json!(["Toko Roti"]));
    assert_eq!(today["overall"], json!({ "currency": "IDR", "count": 2, "totalMinor": 15_000 }));
    is_live(&mut page).await;

    let mut sold = 2;
    for away in [1, 5, 0] {
        shop.sells(&bread, 7_500).await;
        let last = page.hears("sale.completed").await.body().clone();
        // For longer than any test, or for a moment after which it comes back by itself.
        let milliseconds = if away > 0 { 3_600_000 } else { 1 };
        page.tell(json!({ "do": "cut", "milliseconds": milliseconds })).await;
        page.happens("away").await;
        for _ in 0..away {
            shop.sells(&bread, 7_500).await;
        }
        if away > 0 {
            page.tell(json!({ "do": "resume" })).await;
        }
        let back = page.happens("back").await;
        assert_eq!(back["events"], away, "{back}");
        assert!(back["from"].as_str().is_some_and(|from| from.starts_with(&format!("{}.1-", last["seq"]))), "{back}");
        sold += 1 + away;
    }
    let recovered = page.happened.iter().filter(|happened| happened["recovered"] == true).count();
    assert_eq!((recovered, page.heard().len()), (6, sold - 2));

    let totals = totals(&mut page).await;
    let snapshot = shop.get("/v1/snapshot?channel=sales").await.ok();
    assert_eq!(totals["overall"]["count"], sold);
    assert_eq!(totals["overall"]["count"], snapshot["state"][0]["count"]);
    assert_eq!(totals["overall"]["totalMinor"], snapshot["state"][0]["total_minor"]);
}

#[tokio::test]
async fn the_page_goes_on_with_a_fresh_token_of_the_same_or_of_another_person() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "100").await;
    let (staff, first) = hub.token_of_someone(shop.merchant, Role::Display);
    let mut page = StockScreen::live_page(hub.address, &first).await;
    is_live(&mut page).await;

    // The same person's is taken in band.
    let second = hub.token_for(shop.merchant, staff, Role::Display);
    page.tell(json!({ "do": "auth", "token": second })).await;
    sells_and_hears(&shop, &bread, &mut page).await;
    assert!(!happened(&page, "away"));

    // Another's needs another connection, which goes on from where the first one was.
    let other = hub.token(shop.merchant, Role::Display, &[]);
    page.tell(json!({ "do": "auth", "token": other })).await;
    page.happens("back").await;
    sells_and_hears(&shop, &bread, &mut page).await;

    // One that is good for nothing ends it, and a good one goes on even then.
    page.tell(json!({ "do": "auth", "token": "a.b.c" })).await;
    let refused = page.happens("refused").await;
    assert!(refused["code"].as_str().is_some_and(|code| code.starts_with("token_")), "{refused}");
    shop.sells(&bread, 7_500).await;
    page.tell(json!({ "do": "auth", "token": first })).await;
    assert_eq!(page.happens("back").await["events"], 1);
    assert_eq!(totals(&mut page).await["overall"]["count"], 3);
}

async fn is_live(page: &mut StockScreen) {
    while page.happens("state").await["word"] != "live" {}
}

async fn sells_and_hears(shop: &Shop<'_>, variant: &str, page: &mut StockScreen) {
    shop.sells(variant, 7_500).await;
    page.hears("sale.completed").await;
}

async fn totals(page: &mut StockScreen) -> Value {
    page.tell(json!({ "do": "totals" })).await;
    page.happens("totals").await
}

fn happened(page: &StockScreen, on: &str) -> bool {
    page.happened.iter().any(|happened| happened["on"] == on)
}

async fn get(hub: &TestHub, path: &str) -> Answer {
    hub.send("GET", path, &[], vec![]).await
}

#[track_caller]
fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", answer.headers));
    value.to_str().expect("text")
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("web").join(folder);
    fs::read_dir(folder).expect("a page's sources").map(|entry| entry.expect("a file").path()).collect()
}

fn kind(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        None => "text/html; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        Some((_, other)) => panic!("what is a {other}?"),
    }
}

/// What a file makes a browser load.
fn references(path: &str, text: &str) -> Vec<String> {
    let (lines, marks): (&[&str], &[&str]) = match path.rsplit_once('.') {
        None => (&[""], &["src=\"", "href=\"", "action=\"", "srcset=\"", "poster=\""]),
        Some((_, "js")) => (&["import ", "} from ", "export * "], &[" \""]),
        _ => (&[""], &["url(", "@import \"", "href=\""]),
    };
    let name = |rest: &str| rest[..rest.find(['"', ')']).unwrap_or(rest.len())].to_owned();
    // A module names its neighbours.
    let here = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let whole = |name: String| {
        let next_door = name.strip_prefix("../").map(|name| format!("/{name}"));
        next_door.or_else(|| name.strip_prefix("./").map(|name| format!("{here}/{name}"))).unwrap_or(name)
    };
    text.lines()
        .map(str::trim_start)
        .filter(|line| lines.iter().any(|start| line.starts_with(start)))
        .flat_map(|line| marks.iter().flat_map(|mark| line.match_indices(mark).map(|(at, _)| &line[at + mark.len()..])))
        .map(name)
        .map(whole)
        .collect()
}
