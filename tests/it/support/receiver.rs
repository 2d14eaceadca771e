//! A receiver: somebody's own server, which is told things by webhooks and answers as the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::buses::FACT_MAX;

/// What it was told.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Post {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("JSON")
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }

    pub fn position(&self) -> String {
        self.json()["position"].as_str().expect("a position").to_owned()
    }

    /// Which of its signatures is made with this secret, as the specification says.
    pub fn signed_with(&self, secret: &str) -> Option<usize> {
        let key = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed =
            [format!("{}.{}.", self.id(), self.header("webhook-timestamp")).as_bytes(), &self.bytes[..]].concat();
        let expected = format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(&key, &signed)));
        self.header("webhook-signature").split(' ').position(|it| it == expected)
    }
}

/// How it answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: "thanks".to_owned(), after: Duration::ZERO }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

pub struct Receiver {
    pub address: SocketAddr,
    posts: mpsc::UnboundedReceiver<Post>,
    desk: Arc<Desk>,
}

struct Desk {
    told: mpsc::UnboundedSender<Post>,
    /// What it answers next; when there is nothing, what it always does.
    next: Mutex<VecDeque<Reply>>,
    always: Mutex<Reply>,
}

impl Receiver {
    pub async fn start() -> Self {
        let (told, posts) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk { told, next: Mutex::default(), always: Mutex::new(Reply::status(204)) });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(answer).with_state(desk.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, posts, desk }
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// How it answers from now on.
    pub fn answers(&self, reply: Reply) {
        *self.desk.always.lock().expect("a reply") = reply;
    }

    /// How it answers the next few.
    pub fn answers_next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.desk.next.lock().expect("replies").extend(replies);
    }

    pub async fn next(&mut self) -> Post {
        timeout(FACT_MAX, self.posts.recv()).await.expect("a post").expect("a receiver that runs")
    }

    /// The next so many.
    pub async fn take(&mut self, posts: usize) -> Vec<Post> {
        let mut taken = Vec::new();
        while taken.len() < posts {
            taken.push(self.next().await);
        }
        taken
    }

    /// Nothing comes for a while.
    pub async fn is_silent(&mut self, length: Duration) {
        if let Ok(post) = timeout(length, self.posts.recv()).await {
            panic!("told {post:?}");
        }
    }
}

async fn answer(State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap, bytes: Bytes) -> Response<Body> {
    let next = desk.next.lock().expect("replies").pop_front();
    let reply = next.unwrap_or_else(|| desk.always.lock().expect("a reply").clone());
    let _ = desk.told.send(Post { path: uri.path().to_owned(), headers, bytes });
    tokio::time::sleep(reply.after).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(reply.body.into()).expect("an answer")
}
