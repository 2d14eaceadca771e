//! The live page at `/`: what happens at the tills, for whoever brings a token. Plain files, all of them from here.

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
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! live {
    ($name:literal, $kind:expr) => {
        File { path: concat!("/live/", $name), kind: $kind, text: include_str!(concat!("../../web/live/", $name)) }
    };
}

const FILES: &[File] = &[
    File { path: "/", kind: HTML, text: include_str!("../../web/live/index.html") },
    live!("live.css", CSS),
    live!("icon.svg", SVG),
    live!("live.js", JAVASCRIPT),
    live!("board.js", JAVASCRIPT),
    live!("days.js", JAVASCRIPT),
    live!("format.js", JAVASCRIPT),
    live!("hub.js", JAVASCRIPT),
    live!("position.js", JAVASCRIPT),
    live!("screen.js", JAVASCRIPT),
    File {
        path: "/live/socket.io.esm.min.js",
        kind: JAVASCRIPT,
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
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
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
