//! The hub's REST API, as the demo's tills and owner call it: over HTTP, with a token and a key.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tracing::debug;

use crate::identity::tokens::{Bearer, Signer};

/// How long a token of the demo's own is good for: it is made for one request.
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// How long the hub may take to answer. An import is the longest.
const ANSWER_MAX: Duration = Duration::from_secs(300);
/// How often a request is sent until an answer settles it, and the pauses between.
const TRIES_MAX: u32 = 8;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A client of one hub.
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    hub: SocketAddr,
    signer: Signer,
}

/// Why a request was of no use.
#[derive(Debug)]
pub enum Failure {
    /// The hub said no, and why.
    Refused { code: String, detail: String },
    /// No answer settled it. The same key will.
    Unsettled(anyhow::Error),
}

impl Failure {
    /// Whether the hub refused with this code.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }

    /// Whether the hub refused because this was done before, by an earlier run whose key it has forgotten by now.
    pub fn is_done_already(&self) -> bool {
        let codes = ["merchant_open", "id_taken", "code_taken", "receipt_number_taken", "idempotency_key_reused"];
        codes.iter().any(|code| self.is(code))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, detail } => write!(f, "{detail} ({code})"),
            Self::Unsettled(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Unsettled(error)
    }
}

impl Api {
    pub fn new(hub: SocketAddr, signer: Signer) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), hub, signer }
    }

    /// A token for someone.
    pub fn token(&self, bearer: &Bearer, ttl: Duration) -> anyhow::Result<String> {
        self.signer.mint(bearer, ttl)
    }

    pub async fn get(&self, bearer: &Bearer, path: &str) -> Result<Value, Failure> {
        self.settle(bearer, Method::GET, path, None).await
    }

    /// Writes once, however often it is called with this key.
    pub async fn post(&self, bearer: &Bearer, path: &str, key: &str, body: &Value) -> Result<Value, Failure> {
        let body = serde_json::to_vec(body).context("writing a body")?;
        self.settle(bearer, Method::POST, path, Some((key, body.into()))).await
    }

    /// Asks until there is an answer that settles it.
    async fn settle(
        &self,
        bearer: &Bearer,
        method: Method,
        path: &str,
        write: Option<(&str, Bytes)>,
    ) -> Result<Value, Failure> {
        let mut pause = PAUSE_MIN;
        for tried in 1.. {
            match self.ask(bearer, &method, path, write.clone()).await {
                Err(Failure::Unsettled(error)) if tried < TRIES_MAX => {
                    debug!(tried, "{method} {path} is tried again: {error:#}");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
                settled => return settled,
            }
        }
        unreachable!("the last try answers")
    }

    async fn ask(
        &self,
        bearer: &Bearer,
        method: &Method,
        path: &str,
        write: Option<(&str, Bytes)>,
    ) -> Result<Value, Failure> {
        let token = self.signer.mint(bearer, TOKEN_TTL)?; // A fresh one each time: there is none to renew.
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.hub))
            .header(AUTHORIZATION, format!("Bearer {token}"));
        let mut body = Bytes::new();
        if let Some((key, bytes)) = write {
            request = request.header("idempotency-key", key).header(CONTENT_TYPE, "application/json");
            body = bytes;
        }
        let request = request.body(Full::new(body)).context("a request")?;
        let answer = async {
            let (parts, body) = self.http.request(request).await.context("asking the hub")?.into_parts();
            let bytes = body.collect().await.context("reading the hub's answer")?.to_bytes();
            anyhow::Ok((parts.status, bytes))
        };
        let (status, bytes) = tokio::time::timeout(ANSWER_MAX, answer).await.context("no answer from the hub")??;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(answer);
        }
        let (code, detail) = (text(&answer["code"]), text(&answer["detail"]));
        if status.is_server_error() || code == "request_in_flight" {
            return Err(anyhow::anyhow!("{status}: {detail}").into());
        }
        Err(Failure::Refused { code, detail })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("no reason given").to_owned()
}
