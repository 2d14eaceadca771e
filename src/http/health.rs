//! Health: is the process alive, and should it get requests. Metrics are on a listener of their own.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::hub::Hub;
use crate::telemetry;

pub fn router() -> Router<Hub> {
    Router::new().route("/healthz", get(alive)).route("/readyz", get(ready))
}

/// The process answers; nothing else is asked.
async fn alive() -> &'static str {
    "ok\n"
}

/// Whether requests should come here: not while draining, and not without the database. A broker that is down does not
/// matter: the hub serves on.
async fn ready(State(hub): State<Hub>) -> (StatusCode, &'static str) {
    if hub.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    if !hub.journal.pools.answer().await {
        return (StatusCode::SERVICE_UNAVAILABLE, "no database\n");
    }
    (StatusCode::OK, "ready\n")
}

/// The metrics listener's one route.
pub fn metrics_router(metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(async move || telemetry::told(&metrics)))
}
