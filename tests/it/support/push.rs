//! Doubles of push services: servers of their own that check what the services check, as strictly, and answer as a test says.

pub mod apns;
pub mod fcm;
pub mod web;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::body::Body;
use axum::http::Response;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::buses::FACT_MAX;
use super::receiver::Reply;
use super::services::{dir, unique};

/// What a service took in, and how it answers.
pub struct Desk<T> {
    told: mpsc::UnboundedSender<T>,
    next: Mutex<VecDeque<Reply>>,
    always: Mutex<Option<Reply>>,
}

/// The other end: what came.
pub struct Came<T>(mpsc::UnboundedReceiver<T>);

impl<T: std::fmt::Debug> Desk<T> {
    pub fn new() -> (Arc<Self>, Came<T>) {
        let (told, came) = mpsc::unbounded_channel();
        (Arc::new(Self { told, next: Mutex::default(), always: Mutex::default() }), Came(came))
    }

    /// How it answers from now on, whatever it is told; `None` for what the service would say.
    pub fn answers(&self, reply: Option<Reply>) {
        *self.always.lock().expect("a reply") = reply;
    }

    /// How it answers the next few.
    pub fn answers_next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.next.lock().expect("replies").extend(replies);
    }

    /// Takes something in that was as it should be.
    async fn take(&self, told: T, otherwise: Reply) -> Response<Body> {
        let next = self.next.lock().expect("replies").pop_front();
        let reply = next.or_else(|| self.always.lock().expect("a reply").clone()).unwrap_or(otherwise);
        let _ = self.told.send(told);
        respond(reply).await
    }
}

impl<T: std::fmt::Debug> Came<T> {
    pub async fn next(&mut self) -> T {
        timeout(FACT_MAX, self.0.recv()).await.expect("a message").expect("a service that runs")
    }

    /// Nothing has come that was not taken.
    pub fn is_empty(&mut self) {
        if let Ok(came) = self.0.try_recv() {
            panic!("was told {came:?}");
        }
    }
}

async fn respond(reply: Reply) -> Response<Body> {
    tokio::time::sleep(reply.after).await;
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(reply.body.into()).expect("an answer")
}

fn reply(status: u16, body: &Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Reply { status, headers: Vec::new(), body, after: Duration::ZERO }
}

/// A private key of P-256 in a file, as an operator would have it, and its public point.
pub struct KeyFile {
    pub path: PathBuf,
    pub point: Vec<u8>,
    /// What must be shown nowhere.
    pub secret: String,
}

impl KeyFile {
    pub fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).expect("a pair");
        let secret = BASE64_STANDARD.encode(pkcs8.as_ref());
        let path = dir("push").join(unique("key.pem"));
        std::fs::write(&path, format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"))
            .expect("a file");
        Self { path, point: pair.public_key().as_ref().to_vec(), secret }
    }

    /// To verify with.
    pub fn decoding(&self) -> jsonwebtoken::DecodingKey {
        let part = |from: usize| BASE64_URL_SAFE_NO_PAD.encode(&self.point[from..from + 32]);
        jsonwebtoken::DecodingKey::from_ec_components(&part(1), &part(33)).expect("a key")
    }
}

pub fn text(path: &Path) -> String {
    path.display().to_string()
}
