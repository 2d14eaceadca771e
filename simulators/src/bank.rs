//! The customer's bank, as a page: `/_sim/bank`. It shows what can be paid, or reads a code, and pays.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::sending::Shared;

/// Everything is its own, and it talks to nobody else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 3] = [
    ("/_sim/bank", "text/html; charset=utf-8", include_str!("bank/index.html")),
    ("/_sim/bank.css", "text/css; charset=utf-8", include_str!("bank/bank.css")),
    ("/_sim/bank.js", "text/javascript; charset=utf-8", include_str!("bank/bank.js")),
];

pub fn router() -> Router<Arc<Shared>> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, text)
}
