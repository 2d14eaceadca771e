//! The pages: at `/` the live one, what happens at the tills, and at `/kasir` a till, for whoever brings a token. Plain files,
//! all of them from here.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::hub::Hub;

/// Nothing from elsewhere, nothing inline, and no text can become markup: whatever a product is called, it stays text.
macro_rules! policy {
    ($pictures:literal) => {
        concat!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src ",
            $pictures,
            "; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'"
        )
    };
}

const POLICY: &str = policy!("'self'");
/// A payment's code is fetched with the token, and shown from the page's own memory.
const CASHIER_POLICY: &str = policy!("'self' blob:");

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct File {
    path: &'static str,
    kind: &'static str,
    policy: &'static str,
    text: &'static str,
}

/// A file of a folder under `web/`, at the same path.
macro_rules! file {
    ($path:literal, $kind:expr) => {
        file!($path, $path, $kind, POLICY)
    };
    ($at:literal, $path:literal, $kind:expr, $policy:expr) => {
        File { path: $at, kind: $kind, policy: $policy, text: include_str!(concat!("../../web", $path)) }
    };
}

const FILES: &[File] = &[
    file!("/", "/live/index.html", HTML, POLICY),
    file!("/live/live.css", CSS),
    file!("/live/icon.svg", SVG),
    file!("/live/live.js", JAVASCRIPT),
    file!("/live/board.js", JAVASCRIPT),
    file!("/live/days.js", JAVASCRIPT),
    file!("/live/door.js", JAVASCRIPT),
    file!("/live/format.js", JAVASCRIPT),
    file!("/live/hub.js", JAVASCRIPT),
    file!("/live/position.js", JAVASCRIPT),
    file!("/live/screen.js", JAVASCRIPT),
    file!("/live/token.js", JAVASCRIPT),
    file!("/kasir", "/cashier/index.html", HTML, CASHIER_POLICY),
    file!("/cashier/cashier.css", CSS),
    file!("/cashier/cashier.js", JAVASCRIPT),
    file!("/cashier/basket.js", JAVASCRIPT),
    file!("/cashier/chime.js", JAVASCRIPT),
    file!("/cashier/counter.js", JAVASCRIPT),
    file!("/cashier/hub.js", JAVASCRIPT),
    file!("/cashier/list.js", JAVASCRIPT),
    file!("/cashier/payment.js", JAVASCRIPT),
    file!("/cashier/shelf.js", JAVASCRIPT),
    file!("/cashier/till.js", JAVASCRIPT),
    file!("/cashier/ways.js", JAVASCRIPT),
    File {
        path: "/live/socket.io.esm.min.js",
        kind: JAVASCRIPT,
        policy: POLICY,
        // The npm package's own file, fetched by the build script.
        text: include_str!(concat!(env!("OUT_DIR"), "/web/node_modules/socket.io-client/dist/socket.io.esm.min.js")),
    },
];

pub fn router() -> Router<Hub> {
    FILES.iter().fold(Router::new(), |router, file| {
        let etag: Arc<str> = etag(file.text).into();
        router.route(file.path, get(async move |headers: HeaderMap| answer(file, &etag, &headers)))
    })
}

/// The file, or only the news that the browser's copy is still good. Browsers ask each time, so that what they show and
/// what the hub speaks are of one build.
fn answer(file: &File, etag: &str, asked: &HeaderMap) -> Response {
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|value| names(value, etag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { file.text.into_response() };
    let headers = response.headers_mut();
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    }
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(file.policy));
    // The address carries a token until the page has read it.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn etag(text: &str) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes())))
}

/// Whether an `If-None-Match` names the tag. What a proxy has made weak names it too.
fn names(value: &HeaderValue, etag: &str) -> bool {
    let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == etag || tag == "*")
}
