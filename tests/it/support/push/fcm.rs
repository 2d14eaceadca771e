//! Google: the place that gives tokens, and FCM. Both take nothing that the real ones would not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::super::services::{dir, unique};
use super::{Came, Desk, reply, respond};

const PROJECT: &str = "toko-roti";
const EMAIL: &str = "hub@toko-roti.iam.gserviceaccount.com";
const KEY_ID: &str = "0123456789abcdef0123456789abcdef01234567";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// A message that was taken, and with which token.
#[derive(Clone, Debug)]
pub struct Sent {
    pub bearer: String,
    pub message: Message,
}

/// The message of FCM's HTTP v1, as far as we say anything. What is not here is refused, as FCM refuses what it does not know;
/// and so is `collapse_key`, which FCM knows: messages that have one are throttled.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub token: String,
    pub notification: Notification,
    pub data: std::collections::BTreeMap<String, String>,
    pub android: Android,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    pub title: String,
    pub body: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Android {
    pub priority: Priority,
    pub ttl: String,
    pub notification: AndroidNotification,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    Normal,
    High,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AndroidNotification {
    pub tag: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    message: Message,
}

/// What is said for a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Assertion {
    iss: String,
    scope: String,
    aud: String,
    iat: i64,
    exp: i64,
}

struct Google {
    token_uri: String,
    verifier: DecodingKey,
    desk: Arc<Desk<Sent>>,
    /// The tokens that were given; the newest is good.
    given: Mutex<Vec<String>>,
    /// How long a token is said to be good for.
    expires_in: Mutex<u64>,
    /// How often one was asked for, and whether nobody is given any.
    asked: AtomicUsize,
    refuses: AtomicBool,
}

impl Google {
    fn gives_one(&self) -> String {
        let mut given = self.given.lock().expect("tokens");
        let token = format!("ya29.{}", given.len());
        given.push(token.clone());
        token
    }
}

pub struct FcmService {
    pub address: SocketAddr,
    pub desk: Arc<Desk<Sent>>,
    pub came: Came<Sent>,
    /// The service account's file.
    pub credentials: PathBuf,
    /// What must be shown nowhere.
    pub secret: String,
    google: Arc<Google>,
}

impl FcmService {
    pub async fn start() -> Self {
        let (desk, came) = Desk::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let token_uri = format!("http://{address}/token");
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("a private key");
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("a public key");
        let pem = |what: &str, der: &[u8]| {
            format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", BASE64_STANDARD.encode(der))
        };
        let public = pem("PUBLIC KEY", public.as_ref());
        let account = json!({
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": pem("PRIVATE KEY", private.as_ref()),
            "client_email": EMAIL,
            "client_id": "100000000000000000000",
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        });
        let credentials = dir("push").join(unique("account.json"));
        std::fs::write(&credentials, account.to_string()).expect("a file");
        let google = Arc::new(Google {
            token_uri,
            verifier: DecodingKey::from_rsa_pem(public.as_bytes()).expect("a public key"),
            desk: desk.clone(),
            given: Mutex::default(),
            expires_in: Mutex::new(3_599),
            asked: AtomicUsize::new(0),
            refuses: AtomicBool::new(false),
        });
        let routes = Router::new()
            .route("/token", post(give))
            .route("/v1/projects/{project}/{messages}", post(send))
            .with_state(google.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let secret = BASE64_STANDARD.encode(private.as_ref());
        Self { address, desk, came, credentials, secret, google }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many tokens were given so far.
    pub fn given(&self) -> usize {
        self.google.given.lock().expect("tokens").len()
    }

    /// How often one was asked for so far.
    pub fn asked(&self) -> usize {
        self.google.asked.load(Ordering::Relaxed)
    }

    /// Whether nobody is given a token, as if the account's key had been withdrawn.
    pub fn refuses_tokens(&self, refuses: bool) {
        self.google.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Tokens that were given are not good any more.
    pub fn revokes(&self) {
        self.google.given.lock().expect("tokens").push("another".to_owned());
    }

    /// How long the next tokens are good for.
    pub fn gives_for(&self, seconds: u64) {
        *self.google.expires_in.lock().expect("a time") = seconds;
    }
}

/// `POST /token`, as RFC 7523 and Google have it.
async fn give(State(google): State<Arc<Google>>, headers: HeaderMap, bytes: Bytes) -> Response<Body> {
    let refused = |why: String| respond(reply(400, &json!({ "error": "invalid_grant", "error_description": why })));
    google.asked.fetch_add(1, Ordering::Relaxed);
    if google.refuses.load(Ordering::Relaxed) {
        return refused("Invalid JWT Signature.".to_owned()).await;
    }
    if headers["content-type"] != "application/x-www-form-urlencoded" {
        return refused("no form".to_owned()).await;
    }
    let form: std::collections::BTreeMap<String, String> = url::form_urlencoded::parse(&bytes).into_owned().collect();
    if form.len() != 2 || form.get("grant_type").is_none_or(|it| it != "urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return refused(format!("{form:?}")).await;
    }
    let assertion = form.get("assertion").cloned().unwrap_or_default();
    let kid = jsonwebtoken::decode_header(&assertion).ok().and_then(|header| header.kid);
    let mut rules = Validation::new(Algorithm::RS256);
    rules.leeway = 0;
    rules.set_audience(&[&google.token_uri]);
    rules.set_issuer(&[EMAIL]);
    rules.set_required_spec_claims(&["exp", "aud", "iss"]);
    let claims = match jsonwebtoken::decode::<Assertion>(&assertion, &google.verifier, &rules) {
        Ok(decoded) => decoded.claims,
        Err(error) => return refused(error.to_string()).await,
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let is_good = kid.as_deref() == Some(KEY_ID)
        && claims.scope == SCOPE
        && (now - 60..=now).contains(&claims.iat)
        && (1..=3_600).contains(&(claims.exp - claims.iat))
        && (&*claims.iss, &claims.aud) == (EMAIL, &google.token_uri);
    if !is_good {
        return refused(format!("{claims:?}")).await;
    }
    let expires_in = *google.expires_in.lock().expect("a time");
    let token = google.gives_one();
    respond(reply(200, &json!({ "access_token": token, "expires_in": expires_in, "token_type": "Bearer" }))).await
}

/// `POST /v1/projects/{project}/messages:send`.
async fn send(
    State(google): State<Arc<Google>>,
    Path((project, messages)): Path<(String, String)>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response<Body> {
    let refused = |status: u16, code: &str, why: String| {
        let detail = json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code });
        respond(reply(status, &json!({ "error": { "code": status, "message": why, "details": [detail] } })))
    };
    if (&*project, &*messages) != (PROJECT, "messages:send") {
        return respond(reply(404, &json!({ "error": { "code": 404, "status": "NOT_FOUND" } }))).await;
    }
    let bearer =
        headers.get("authorization").and_then(|it| it.to_str().ok()?.strip_prefix("Bearer ")).unwrap_or_default();
    if google.given.lock().expect("tokens").last().is_none_or(|last| last != bearer) {
        return refused(401, "THIRD_PARTY_AUTH_ERROR", "the token is not good".to_owned()).await;
    }
    let message = match serde_json::from_slice::<Request>(&bytes) {
        Ok(request) => request.message,
        Err(error) => return refused(400, "INVALID_ARGUMENT", error.to_string()).await,
    };
    let Android { ttl, notification, .. } = &message.android;
    let reserved = ["from", "message_type", "collapse_key"];
    let is_good = ttl.strip_suffix('s').is_some_and(|it| it.parse::<u32>().is_ok_and(|it| it <= 2_419_200))
        && !message
            .data
            .keys()
            .any(|key| reserved.contains(&&**key) || key.starts_with("google") || key.starts_with("gcm"))
        && bytes.len() <= 4_096
        && !notification.tag.is_empty()
        && headers["content-type"] == "application/json";
    if !is_good {
        return refused(400, "INVALID_ARGUMENT", format!("{message:?}")).await;
    }
    let name = json!({ "name": format!("projects/{PROJECT}/messages/1") });
    google.desk.take(Sent { bearer: bearer.to_owned(), message }, reply(200, &name)).await
}

/// FCM's answer for a device that is no more.
pub fn unregistered() -> super::super::receiver::Reply {
    let detail = json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED" });
    let error: Value = json!({ "error": { "code": 404, "status": "NOT_FOUND", "details": [detail] } });
    reply(404, &error)
}
