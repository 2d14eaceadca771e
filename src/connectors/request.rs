//! What goes to a provider and what comes back, in bytes.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tillwire_channels::Moment;

use super::payment::Id;
use crate::egress::client::retry_after;

/// Too many requests.
pub const TOO_MANY: u16 = 429;
/// How long a provider is left alone at most, whatever it says: a payment that nobody looks at is neither found paid nor called off.
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// What a request is for, and so how its answer is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Charge,
    Status { reference: Id },
    Cancel,
    Expire,
    Capture,
    Refund { key: Id },
    RefundStatus { key: Id },
    Settlements,
}

impl Asked {
    /// As metrics and the log name it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Status { .. } => "status",
            Self::Cancel => "cancel",
            Self::Expire => "expire",
            Self::Capture => "capture",
            Self::Refund { .. } => "refund",
            Self::RefundStatus { .. } => "refund_status",
            Self::Settlements => "settlements",
        }
    }

    /// Of what alone it asks how that stands.
    pub const fn state_of(&self) -> Option<&Id> {
        match self {
            Self::Status { reference } => Some(reference),
            Self::RefundStatus { key } => Some(key),
            _ => None,
        }
    }

    /// Whether it must not be done twice, so that an answer that says nothing leaves it unknown.
    pub const fn moves_money(&self) -> bool {
        matches!(self, Self::Charge | Self::Capture | Self::Refund { .. })
    }
}

/// What is sent. `Debug` shows neither keys nor what is in it.
#[derive(Clone)]
pub struct Request {
    pub asked: Asked,
    pub method: Method,
    /// With its query, as it is sent.
    pub path: String,
    /// The path for all such requests. Providers count by it.
    pub endpoint: &'static str,
    pub headers: HeaderMap,
    pub body: Option<String>,
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Request({} {})", self.method, self.endpoint)
    }
}

impl Request {
    /// One that asks and sends nothing.
    pub fn get(asked: Asked, endpoint: &'static str, path: String, key: &SecretString) -> Self {
        Self { asked, method: Method::GET, path, endpoint, headers: headers(key), body: None }
    }

    /// One that is to do something.
    pub fn post(asked: Asked, endpoint: &'static str, path: String, key: &SecretString, body: Option<Value>) -> Self {
        let mut headers = headers(key);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { asked, method: Method::POST, path, endpoint, headers, body: body.map(|body| body.to_string()) }
    }

    /// With one more header, if its value can be one.
    pub fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// What every request has.
fn headers(key: &SecretString) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(AUTHORIZATION, basic(key));
    headers
}

/// Basic, with the key for a user and no password: both providers want it so.
pub fn basic(key: &SecretString) -> HeaderValue {
    let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{}:", key.expose_secret())));
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")); // Base64 always is a value.
    value.set_sensitive(true);
    value
}

/// What a provider answered.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// When.
    pub at: Moment,
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Answer({}, {} bytes)", self.status, self.body.len())
    }
}

impl Answer {
    /// How long the provider asks to wait, and [`WAIT_MAX`] at most. When its count begins anew, it says with every answer; that
    /// is a wish only where there were too many.
    pub fn wait(&self) -> Option<Duration> {
        self.wish().map(|it| it.min(WAIT_MAX))
    }

    fn wish(&self) -> Option<Duration> {
        if self.status != TOO_MANY {
            return retry_after(&self.headers, self.at);
        }
        let reset = self.headers.get("rate-limit-reset").and_then(|it| it.to_str().ok()?.trim().parse().ok());
        // It may be a fraction, and may be nonsense.
        let reset = reset.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        reset.or_else(|| retry_after(&self.headers, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_keys_go_by_basic() {
        for (key, expected) in [
            ("SB-Mid-server-EXAMPLEKEY1234567890ab", "Basic U0ItTWlkLXNlcnZlci1FWEFNUExFS0VZMTIzNDU2Nzg5MGFiOg=="),
            ("xnd_development_EXAMPLEKEY1234567890", "Basic eG5kX2RldmVsb3BtZW50X0VYQU1QTEVLRVkxMjM0NTY3ODkwOg=="),
        ] {
            let value = basic(&key.into());
            assert_eq!(value, expected);
            assert!(!format!("{value:?}").contains("U0It") && value.is_sensitive());
        }
    }

    #[test]
    fn nothing_that_is_sent_or_answered_is_shown() {
        let body = serde_json::json!({"token_id": "hush"});
        let request = Request::post(Asked::Charge, "/v2/charge", "/v2/charge".to_owned(), &"hush".into(), Some(body));
        assert_eq!(format!("{request:?}"), "Request(POST /v2/charge)");
        let answer = Answer { status: 200, headers: request.headers, body: b"hush".to_vec(), at: Moment::UNIX_EPOCH };
        assert!(!format!("{answer:?}").contains("hush"));
    }

    #[test]
    fn a_provider_may_ask_to_wait_in_its_own_words() {
        let answers = |status, name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            Answer { status, headers, body: Vec::new(), at: Moment::UNIX_EPOCH }.wait()
        };
        let asks = |name, value| answers(TOO_MANY, name, value);
        assert_eq!(answers(503, "rate-limit-reset", "17.25"), None, "it says so with every answer");
        assert_eq!(answers(503, "retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(asks("rate-limit-reset", "17.25"), Some(Duration::from_millis(17_250)));
        assert_eq!(asks("retry-after", "3"), Some(Duration::from_secs(3)));
        for (status, name) in [(503, "retry-after"), (429, "retry-after"), (429, "rate-limit-reset")] {
            assert_eq!(answers(status, name, "86400"), Some(WAIT_MAX), "a customer waits for what is put off");
        }
        for value in ["-1", "NaN", "inf", "1e300", "soon"] {
            assert_eq!(asks("rate-limit-reset", value), None, "{value}");
        }
    }
}
