//! What stands around every request: its trace id, its deadline, and the bound on how many run at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tracing::{Instrument, info, info_span};
use uuid::Uuid;

use super::{REQUEST_TIMEOUT, problem};
use crate::error::Error;

/// What a route allows one request. It must be laid around [`admit`], which reads it.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub body_bytes_max: usize,
    pub timeout: Duration,
}

/// Which trace a request is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace(pub Uuid);

impl Trace {
    /// That of whoever called, as W3C Trace Context has it: `00-` and 32 hexadecimal digits. Or a new one.
    /// <https://www.w3.org/TR/trace-context/#traceparent-header>
    fn of(headers: &HeaderMap) -> Self {
        let named = || {
            let text = headers.get("traceparent")?.to_str().ok()?;
            let (trace, rest) = text.strip_prefix("00-")?.split_at_checked(32)?;
            let is_hex = |part: &str| part.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it));
            let is_whole = rest.len() == 20 && rest.split('-').all(is_hex) && is_hex(trace);
            Uuid::try_parse(trace).ok().filter(|id| is_whole && !id.is_nil())
        };
        Self(named().unwrap_or_else(Uuid::new_v4))
    }
}

/// Gives the request a trace id, counts and logs it, and writes the body of its error.
pub async fn trace(mut request: Request, next: Next) -> Response {
    let trace = Trace::of(request.headers());
    request.extensions_mut().insert(trace);
    let trace_id = trace.0.simple().to_string();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_if_it_is_one_and_begins_if_it_is_none() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            Trace::of(&headers).0.simple().to_string()
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(of(&format!("00-{trace}-00f067aa0ba902b7-01")), trace);
        for text in [
            format!("01-{trace}-00f067aa0ba902b7-01"),
            format!("00-{trace}-00f067aa0ba902b7"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7-0g"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            "00-é".to_owned(),
            String::new(),
        ] {
            let made = of(&text);
            assert!(made != trace && made.len() == 32, "{text}: {made}");
        }
        assert_ne!(Trace::of(&HeaderMap::new()), Trace::of(&HeaderMap::new()));
    }
}
