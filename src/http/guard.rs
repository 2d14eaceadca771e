//! What stands around every request: its trace id, its deadline, and the bound on how many run at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tracing::{Instrument, info, info_span};

use super::{REQUEST_TIMEOUT, problem};
use crate::error::Error;

/// What a route allows one request. It must be laid around [`admit`], which reads it.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub body_bytes_max: usize,
    pub timeout: Duration,
}

/// Gives the request a trace id, counts and logs it, and writes the body of its error.
pub async fn trace(request: Request, next: Next) -> Response {
    let trace_id = uuid::Uuid::new_v4().simple().to_string();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    // The route and not the address: ids and cursors would make a label of each request.
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let span = info_span!("request", trace_id, %method, route);
    let started = Instant::now();
    async move {
        let response = problem::render(next.run(request).await, &uri, &trace_id);
        let (took, status) = (started.elapsed(), response.status().as_u16());
        metrics::histogram!("tillwire_http_request_seconds", "route" => route.clone(), "method" => label(&method))
            .record(took.as_secs_f64());
        metrics::counter!("tillwire_http_requests_total", "route" => route, "status" => status.to_string())
            .increment(1);
        if status >= 500 {
            info!(status, took_ms = took.as_millis(), "Answered");
        }
        with_trace(response, &trace_id)
    }
    .instrument(span)
    .await
}

/// A client can make up methods: those that we do not answer share one label.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn with_trace(mut response: Response, trace_id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(trace_id) {
        response.headers_mut().insert("x-trace-id", value);
    }
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Refuses early what would only wait, and ends what takes too long. A write that is under way is not cancelled by it.
pub async fn admit(State(limits): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = limits.try_acquire() else {
        metrics::counter!("tillwire_http_shed_total").increment(1);
        return Error::Busy { retry_after: Duration::from_secs(1) }.into_response();
    };
    let timeout = request.extensions().get::<Bounds>().map_or(REQUEST_TIMEOUT, |bounds| bounds.timeout);
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Error::Internal(anyhow::anyhow!("no answer within {timeout:?}")).into_response(),
    }
}
