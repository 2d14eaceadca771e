//! A request as the providers' code sees it, and its answer.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::form_urlencoded;

/// The largest body that is taken, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// A request, read to its end.
pub struct Call {
    pub method: Method,
    pub path: String,
    /// The parts of the path, decoded.
    pub parts: Vec<String>,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Call {
    pub fn new(method: Method, path: &str, query: Option<&str>, headers: HeaderMap, body: Vec<u8>) -> Self {
        let parts = path.split('/').filter(|part| !part.is_empty());
        let parts = parts.map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
        let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
        Self { method, path: path.to_owned(), parts, query, headers, body }
    }

    /// What it is about, to match on.
    pub fn line(&self) -> (&str, Vec<&str>) {
        (self.method.as_str(), self.parts.iter().map(String::as_str).collect())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The user name of HTTP Basic, if the password is empty.
    pub fn key(&self) -> Option<String> {
        let text = self.header("authorization")?.strip_prefix("Basic ")?;
        let pair = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
        pair.strip_suffix(':').map(str::to_owned)
    }

    /// The first value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter: repeated, or with commas.
    pub fn parameters(&self, name: &str) -> Vec<&str> {
        let all = self.query.iter().filter(|(key, _)| key == name || key.strip_suffix("[]") == Some(name));
        all.flat_map(|(_, value)| value.split(',')).filter(|it| !it.is_empty()).collect()
    }

    /// The first value of a field of a form in the body.
    pub fn field(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(&self.body).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// An answer.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub kind: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let body = serde_json::to_vec(body).expect("JSON");
        Self { status, kind: "application/json", headers: Vec::new(), body }
    }

    pub fn html(status: u16, body: String) -> Self {
        Self { status, kind: "text/html; charset=utf-8", headers: Vec::new(), body: body.into_bytes() }
    }

    pub fn file(kind: &'static str, body: Vec<u8>) -> Self {
        Self { status: 200, kind, headers: Vec::new(), body }
    }

    pub fn with(mut self, header: &'static str, value: impl ToString) -> Self {
        self.headers.push((header, value.to_string()));
        self
    }
}

impl From<Reply> for Response<Body> {
    fn from(reply: Reply) -> Self {
        let mut response = Self::new(Body::from(reply.body));
        *response.status_mut() = StatusCode::from_u16(reply.status).expect("a status");
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
        for (name, value) in reply.headers {
            let value = HeaderValue::from_str(&value).expect("a header's value");
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
        response
    }
}

/// A text that stands in HTML, between tags or in quotes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
