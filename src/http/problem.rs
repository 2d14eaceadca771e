//! Problems: every error as problem+json (RFC 9457), with a stable `code` and JSON pointers.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tillwire_channels::wire::SnapshotRequired;
use tracing::error;
use utoipa::ToSchema;

use crate::error::{Error, Fault};

/// An error, as answered with `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem: `/problems/{code}`.
    pub r#type: String,
    /// The status in words.
    pub title: &'static str,
    pub status: u16,
    /// A stable word for programs.
    pub code: &'static str,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The path that was asked for.
    pub instance: String,
    /// What to tell whoever runs this hub; it finds the request in their log.
    pub trace_id: String,
    /// What is wrong where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemError>,
    /// With `snapshot_required`: why, and the oldest position that can be served.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub snapshot: Option<SnapshotRequired>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemError {
    /// A JSON pointer into the body, or the name of a parameter, a header or another part of the request.
    pub pointer: String,
    pub code: &'static str,
    pub detail: String,
}

/// Carries an error from where it was answered to [`render`], which knows the request.
#[derive(Clone)]
struct Unrendered(Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = status(&self).into_response();
        response.extensions_mut().insert(Unrendered(Arc::new(self)));
        response
    }
}

/// Writes the body of an error's answer; other answers pass.
pub fn render(mut response: Response, uri: &Uri, trace_id: &str) -> Response {
    let Some(Unrendered(error)) = response.extensions_mut().remove() else { return response };
    if let Error::Internal(cause) = &*error {
        // Once, with the whole chain; the caller sees only the trace id.
        error!(error = format!("{cause:#}"), "A request failed");
    }
    let problem = describe(&error, response.status(), uri, trace_id);
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH); // The empty body's, if somebody has measured it.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(after) = retry_after(&error) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if matches!(*error, Error::Unauthenticated(_)) {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn status(error: &Error) -> StatusCode {
    match error {
        Error::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
        Error::Denied(_) => StatusCode::FORBIDDEN,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Invalid { code: "malformed_json" | "invalid_parameter" | "invalid_header", .. } => {
            StatusCode::BAD_REQUEST
        }
        Error::Invalid { code: "unsupported_media_type", .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Error::Invalid { code: "method_not_allowed", .. } => StatusCode::METHOD_NOT_ALLOWED,
        Error::Invalid { .. } | Error::InvalidMany(_) | Error::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Conflict { code: "stale_version", .. } => StatusCode::PRECONDITION_FAILED,
        Error::Conflict { .. } | Error::InFlight => StatusCode::CONFLICT,
        Error::SnapshotRequired(_) => StatusCode::GONE,
        Error::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn describe(error: &Error, status: StatusCode, uri: &Uri, trace_id: &str) -> Problem {
    let one = |code: &'static str, pointer: &str, detail: &str| {
        vec![ProblemError { pointer: pointer.to_owned(), code, detail: detail.to_owned() }]
    };
    let (code, detail, errors) = match error {
        Error::Unauthenticated(why) => (*why, Some("A good bearer token is needed.".to_owned()), vec![]),
        Error::Denied(permission) => ("denied", Some(format!("The token does not allow {permission} here.")), vec![]),
        Error::NotFound(what) => ("not_found", Some(format!("There is no such {what}.")), vec![]),
        Error::Invalid { code, pointer, detail } => (*code, Some(detail.clone()), one(code, pointer, detail)),
        Error::InvalidMany(faults) => ("invalid", Some("Some fields are not valid.".to_owned()), listed(faults)),
        Error::TooLarge { limit_bytes } => {
            ("too_large", Some(format!("At most {limit_bytes} bytes are taken.")), vec![])
        }
        Error::Conflict { code, pointer, detail } => {
            let errors = pointer.as_deref().map(|pointer| one(code, pointer, detail)).unwrap_or_default();
            (*code, Some(detail.clone()), errors)
        }
        Error::KeyReused => {
            let detail = "This idempotency key was used for another request.";
            (
                "idempotency_key_reused",
                Some(detail.to_owned()),
                one("idempotency_key_reused", "Idempotency-Key", detail),
            )
        }
        Error::InFlight => {
            ("request_in_flight", Some("The same request with this key is still running.".to_owned()), vec![])
        }
        Error::SnapshotRequired(_) => {
            ("snapshot_required", Some("This position cannot be served: take a snapshot.".to_owned()), vec![])
        }
        Error::Busy { .. } => ("busy", Some("Too much at once; try again later.".to_owned()), vec![]),
        Error::Internal(_) => (
            "internal",
            Some(
                "Something went wrong here. The outcome is unknown; the same idempotency key gives the one there was."
                    .to_owned(),
            ),
            vec![],
        ),
    };
    let snapshot = match error {
        Error::SnapshotRequired(required) => Some(required.clone()),
        _ => None,
    };
    Problem {
        r#type: format!("/problems/{code}"),
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        code,
        detail,
        instance: uri.path().to_owned(),
        trace_id: trace_id.to_owned(),
        errors,
        snapshot,
    }
}

fn listed(faults: &[Fault]) -> Vec<ProblemError> {
    faults
        .iter()
        .map(|fault| ProblemError { pointer: fault.pointer.clone(), code: fault.code, detail: fault.detail.clone() })
        .collect()
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Busy { retry_after } => Some(*retry_after),
        Error::InFlight => Some(Duration::from_secs(1)),
        _ => None,
    }
}

pub async fn no_such_route() -> Error {
    Error::NotFound("route")
}

pub async fn no_such_method() -> Error {
    Error::invalid("method_not_allowed", "method", "This route has no such method; `Allow` names those that it has.")
}

/// A panic is our own fault; the process and the connection live on.
pub fn of_panic(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Internal(anyhow::anyhow!("panicked: {}", text.unwrap_or_default())).into_response()
}
