//! Health: is the process alive, and should it get requests. Metrics are on a listener of their own.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::hub::Hub;

/// How long the database may take to show that it is there.
const READY_MAX: Duration = Duration::from_secs(2);

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
    let asked = sqlx::query_scalar!(r#"select 1 as "one!""#).fetch_one(&hub.journal.pools.app);
    match tokio::time::timeout(READY_MAX, asked).await {
        Ok(Ok(_)) => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "no database\n"),
    }
}

/// The metrics listener's one route.
pub fn metrics_router(metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(async move || metrics.render()))
}
