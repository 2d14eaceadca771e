//! Extractors: what a handler is given has been parsed and checked.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::{HeaderValue, header, request::Parts};
use garde::Validate;
use serde::de::DeserializeOwned;

use super::BODY_BYTES_MAX;
use super::guard::{Bounds, Trace};
use crate::error::{Error, Fault, Result};
use crate::hub::Hub;
use crate::identity::Staff;
use crate::journal::Once;

/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 100;

impl FromRequestParts<Hub> for Staff {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &Hub) -> Result<Self> {
        let value = parts.headers.get(header::AUTHORIZATION).ok_or(Error::Unauthenticated("token_missing"))?;
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or(Error::Unauthenticated("token_malformed"))?;
        let staff = hub.verifier.verify(token)?;
        Ok(Staff { trace: parts.extensions.get::<Trace>().map(|trace| trace.0), ..staff })
    }
}

/// The `Idempotency-Key` header, and the path it came with.
pub struct IdempotencyKey {
    key: String,
    path: String,
}

impl IdempotencyKey {
    /// The key for a request with this body.
    pub fn once(self, route: &'static str, body: &[u8]) -> Once {
        self.once_if(route, body, &IfMatch::default())
    }

    /// The key itself, for what is told apart by it and by nothing else.
    pub fn into_text(self) -> String {
        self.key
    }

    /// The key for a request with this body that is to be done only on a condition: under another it is another request.
    pub fn once_if(self, route: &'static str, body: &[u8], condition: &IfMatch) -> Once {
        let mut request = vec![self.path.as_bytes(), body];
        request.extend(condition.value.as_ref().map(HeaderValue::as_bytes));
        Once::new(route, self.key, &request)
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let detail =
            format!("1 to {KEY_BYTES_MAX} visible ASCII characters, new for each attempt that is not a repetition.");
        let value = parts.headers.get("idempotency-key").ok_or_else(|| {
            Error::invalid("invalid_header", "Idempotency-Key", format!("This header is missing: {detail}"))
        })?;
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| Error::invalid("invalid_header", "Idempotency-Key", detail.clone()))?;
        Ok(Self { key: key.to_owned(), path: parts.uri.path().to_owned() })
    }
}

/// The `If-Match` header: the one version at which something is to be done, or none for any.
#[derive(Default)]
pub struct IfMatch {
    pub version: Option<i64>,
    value: Option<HeaderValue>,
}

impl IfMatch {
    fn read(value: Option<&HeaderValue>) -> Result<Self> {
        let version = |value: &HeaderValue| {
            let quoted = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            quoted.ok_or_else(|| Error::invalid("invalid_header", "If-Match", "A version is needed, quoted: \"3\"."))
        };
        Ok(Self { version: value.map(version).transpose()?, value: value.cloned() })
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::read(parts.headers.get(header::IF_MATCH))
    }
}

/// A body that has been parsed and validated, and its bytes.
pub struct Valid<T> {
    pub body: T,
    pub bytes: Bytes,
}

impl<S, T> FromRequest<S> for Valid<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Validate<Context = ()>,
{
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let json =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
                value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
            });
        if !json {
            return Err(Error::invalid("unsupported_media_type", "Content-Type", "The body must be application/json."));
        }
        let limit_bytes = request.extensions().get::<Bounds>().map_or(BODY_BYTES_MAX, |bounds| bounds.body_bytes_max);
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status().as_u16() {
                413 => Error::TooLarge { limit_bytes },
                _ => Error::invalid("malformed_json", "", "The body could not be read."),
            })?;
        let body = parse::<T>(&bytes)?;
        body.validate().map_err(|report| Error::InvalidMany(faults(&report)))?;
        Ok(Self { body, bytes })
    }
}

/// A text that can be printed in a line. The database keeps no NUL, and no receipt wants the other control characters.
pub fn printable(text: &str, _: &()) -> garde::Result {
    match text.contains(char::is_control) {
        true => Err(garde::Error::new("must not have control characters")),
        false => Ok(()),
    }
}

/// Parses JSON; errors name the field by a JSON pointer.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (pointer, inner) = (pointer(&error.path().to_string()), error.inner());
        // The words of the parser name the field and what was expected, never our own types.
        match inner.classify() {
            serde_json::error::Category::Data => Error::invalid("invalid_field", pointer, inner.to_string()),
            _ => Error::invalid("malformed_json", pointer, inner.to_string()),
        }
    })?;
    reader.end().map_err(|error| Error::invalid("malformed_json", "", error.to_string()))?;
    Ok(body)
}

pub fn faults(report: &garde::Report) -> Vec<Fault> {
    report
        .iter()
        .map(|(path, error)| Fault {
            code: "invalid_field",
            pointer: pointer(&path.to_string()),
            detail: error.message().to_owned(),
        })
        .collect()
}

/// `lines[0].quantity` as `/lines/0/quantity`.
pub fn pointer(path: &str) -> String {
    if path.is_empty() || path == "." {
        return String::new();
    }
    format!("/{}", path.replace('[', ".").replace(']', "").trim_start_matches('.').replace('.', "/"))
}

/// Parameters of the path. What is no id at all names nothing, so it is not found.
pub struct At<T>(pub T);

impl<S, T> FromRequestParts<S> for At<T>
where
    S: Send + Sync,
    T: DeserializeOwned + Send,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Path(value) = Path::<T>::from_request_parts(parts, state).await.map_err(|_| Error::NotFound("resource"))?;
        Ok(Self(value))
    }
}

/// Parameters of the query; unknown ones are refused.
pub struct Params<T>(pub T);

impl<S, T> FromRequestParts<S> for Params<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Query(value) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Error::invalid("invalid_parameter", "query", rejection.body_text()))?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_a_version_in_quotes() {
        let read = |text: &'static str| IfMatch::read(Some(&HeaderValue::from_static(text))).map(|it| it.version);
        assert!(matches!(IfMatch::read(None), Ok(IfMatch { version: None, value: None })));
        assert_eq!(read("\"3\"").unwrap(), Some(3));
        for bad in ["3", "\"3", "\"\"", "*", "W/\"3\"", "\"3\", \"4\"", "\"three\""] {
            let refused = matches!(read(bad), Err(Error::Invalid { .. }));
            assert!(refused, "{bad}");
        }
    }

    #[test]
    fn paths_become_pointers() {
        for (path, expected) in
            [("", ""), (".", ""), ("name", "/name"), ("lines[0].quantity", "/lines/0/quantity"), ("[3]", "/3")]
        {
            assert_eq!(pointer(path), expected, "{path:?}");
        }
    }
}
