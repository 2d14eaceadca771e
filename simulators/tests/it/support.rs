//! A stage: both simulators on a clock that stands still, and a hub that notes what it is told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tillwire_simulators::{MidtransAccount, Options, Simulators, XenditAccount, midtrans_signature};
use time::macros::datetime;
use tokio::net::TcpListener;

pub const SERVER_KEY: &str = "SB-Mid-server-EXAMPLEKEY1234567890ab";
pub const CLIENT_KEY: &str = "SB-Mid-client-EXAMPLEKEY1234";
pub const MERCHANT: &str = "G552010987";
pub const SECRET_KEY: &str = "xnd_development_EXAMPLEKEY1234567890";
pub const BUSINESS: &str = "64f0c1d2e3a4b5c6d7e8f901";
pub const TOKEN: &str = "EXAMPLE-callback-token-1234567890";

pub struct Stage {
    pub simulators: Simulators,
    pub hub: Hub,
    client: reqwest::Client,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    pub body: Value,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Midtrans's code, which is HTTP 200.
    pub fn code(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["status_code"].as_str().expect("a code")
    }

    /// Xendit's status and code.
    pub fn error(&self) -> (u16, &str) {
        (self.status, self.body["error_code"].as_str().unwrap_or_default())
    }
}

impl Stage {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// With other options than the usual.
    pub async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let hub = Hub::start().await;
        let mut options = Options {
            midtrans: vec![MidtransAccount { webhook_urls: vec![hub.url("/midtrans")], ..MidtransAccount::default() }],
            xendit: vec![XenditAccount { webhook_urls: vec![hub.url("/xendit")], ..XenditAccount::default() }],
            speed: 0.0,
            start: Some(datetime!(2026-01-14 03:05:02 UTC)),
            seed: 7,
            ..Options::default()
        };
        change(&mut options);
        let simulators = Simulators::start(options).await.expect("simulators");
        Self { simulators, hub, client: reqwest::Client::new() }
    }

    pub async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> reqwest::Result<Answer> {
        let method = method.parse().expect("a method");
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await?.to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(Answer { status, headers, bytes, body })
    }

    /// A call to Midtrans with its key and these headers besides.
    pub async fn try_midtrans(&self, line: &str, headers: &[(&str, &str)], body: &Value) -> reqwest::Result<Answer> {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let key = basic(SERVER_KEY);
        let usual =
            [("authorization", key.as_str()), ("accept", "application/json"), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("{}{path}", self.simulators.midtrans_url()), &[&usual, headers].concat(), body).await
    }

    pub async fn midtrans(&self, line: &str, body: Value) -> Answer {
        self.try_midtrans(line, &[], &body).await.expect("an answer")
    }

    pub async fn try_xendit(&self, line: &str, headers: &[(&str, &str)], body: &Value) -> reqwest::Result<Answer> {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let key = basic(SECRET_KEY);
        let usual =
            [("authorization", key.as_str()), ("api-version", "2024-11-11"), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("{}{path}", self.simulators.xendit_url()), &[&usual, headers].concat(), body).await
    }

    pub async fn xendit(&self, line: &str, body: Value) -> Answer {
        self.try_xendit(line, &[], &body).await.expect("an answer")
    }

    /// The world outside does something.
    pub async fn sim(&self, line: &str, body: Value) -> Answer {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let url = format!("{}/_sim/{path}", self.simulators.midtrans_url());
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &url, &[("content-type", "application/json")], body).await.expect("an answer")
    }

    pub async fn does(&self, what: &str, body: Value) -> Value {
        let answer = self.sim(&format!("POST {what}"), body).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        answer.body
    }

    pub async fn goes_wrong(&self, rule: Value) {
        self.does("faults", rule).await;
    }

    /// The clock goes on, and whatever is sent meanwhile is answered.
    pub async fn advance(&self, seconds: f64) -> Value {
        self.does("clock", json!({ "advance_s": seconds })).await
    }

    /// What the hub was told since it was asked last: all that is under way has come.
    pub async fn told(&self) -> Vec<Post> {
        self.advance(0.0).await;
        self.hub.take()
    }

    pub async fn deliveries(&self, payment: &str) -> Vec<Value> {
        self.advance(0.0).await;
        let all = self.sim(&format!("GET deliveries?payment={payment}"), Value::Null).await;
        all.body["deliveries"].as_array().expect("deliveries").clone()
    }

    /// A QRIS charge at Midtrans, and what the hub is told of it is forgotten. Answers the transaction's id.
    pub async fn midtrans_qris(&self, order: &str, amount: i64) -> String {
        let charged = self.midtrans("POST /v2/charge", qris(order, amount)).await;
        assert_eq!(charged.code(), "201", "{charged:?}");
        self.told().await;
        charged.body["transaction_id"].as_str().expect("an id").to_owned()
    }

    /// A QRIS request at Xendit. Answers its id.
    pub async fn xendit_qris(&self, reference: &str, amount: i64) -> String {
        let made = self.xendit("POST /v3/payment_requests", request(reference, "QRIS", amount)).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["payment_request_id"].as_str().expect("an id").to_owned()
    }
}

pub fn qris(order: &str, amount: i64) -> Value {
    json!({
        "payment_type": "qris",
        "transaction_details": { "order_id": order, "gross_amount": amount },
        "qris": { "acquirer": "gopay" },
    })
}

pub fn transfer(order: &str, bank: &str, amount: i64) -> Value {
    json!({
        "payment_type": "bank_transfer",
        "bank_transfer": { "bank": bank },
        "transaction_details": { "order_id": order, "gross_amount": amount },
    })
}

pub fn request(reference: &str, channel: &str, amount: i64) -> Value {
    json!({
        "reference_id": reference,
        "type": "PAY",
        "country": "ID",
        "currency": "IDR",
        "request_amount": amount,
        "channel_code": channel,
    })
}

pub fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{key}:")))
}

/// A webhook that came.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Post {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
    }

    /// Midtrans's status, or Xendit's event.
    pub fn event(&self) -> &str {
        self.body["transaction_status"].as_str().or(self.body["event"].as_str()).unwrap_or_default()
    }

    /// Whether Midtrans's signature is right.
    pub fn is_signed(&self) -> bool {
        let text = |name: &str| self.body[name].as_str().unwrap_or_default();
        let right = midtrans_signature(text("order_id"), text("status_code"), text("gross_amount"), SERVER_KEY);
        text("signature_key") == right
    }
}

/// How the hub answers next.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub location: Option<String>,
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, location: None, after: Duration::ZERO }
    }
}

#[derive(Default)]
struct Notes {
    posts: Vec<Post>,
    replies: VecDeque<Reply>,
    /// When there is nothing in `replies`.
    always: Option<Reply>,
}

/// Somebody who is told things. The server ends with the test's runtime.
pub struct Hub {
    address: SocketAddr,
    notes: Arc<Mutex<Notes>>,
}

impl Hub {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (address, notes) = (listener.local_addr().expect("an address"), Arc::<Mutex<Notes>>::default());
        let router = Router::new().fallback(hears).with_state(notes.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { address, notes }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All that came, which is forgotten.
    pub fn take(&self) -> Vec<Post> {
        std::mem::take(&mut self.notes.lock().expect("notes").posts)
    }

    pub fn answers(&self, replies: impl IntoIterator<Item = Reply>) {
        self.notes.lock().expect("notes").replies.extend(replies);
    }

    pub fn always_answers(&self, reply: Option<Reply>) {
        self.notes.lock().expect("notes").always = reply;
    }
}

async fn hears(
    State(notes): State<Arc<Mutex<Notes>>>,
    uri: Uri,
    headers: HeaderMap,
    bytes: Bytes,
) -> impl IntoResponse {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let reply = {
        let mut notes = notes.lock().expect("notes");
        notes.posts.push(Post { path: uri.path().to_owned(), headers, body, text });
        notes.replies.pop_front().or_else(|| notes.always.clone()).unwrap_or_else(|| Reply::status(200))
    };
    tokio::time::sleep(reply.after).await;
    let location = reply.location.map(|it| [("location", it)]);
    (StatusCode::from_u16(reply.status).expect("a status"), location.into_iter().flatten().collect::<Headers>())
}

/// Headers of an answer.
#[derive(Default)]
struct Headers(Vec<(&'static str, String)>);

impl FromIterator<(&'static str, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl IntoResponse for Headers {
    fn into_response(self) -> axum::response::Response {
        let mut response = ().into_response();
        for (name, value) in self.0 {
            response.headers_mut().insert(name, value.parse().expect("a header"));
        }
        response
    }
}
