//! A browser and its push service: what is posted for the browser is read with its own key, by other people's libraries.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::super::buses::FACT_MAX;
use super::super::clients::javascript_program;
use super::{Came, Desk, reply, respond};

/// The largest body that push services take.
const BODY_BYTES_MAX: usize = 4096;

/// What was posted.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub path: String,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Pushed {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().expect("text")
    }
}

pub struct WebService {
    pub address: SocketAddr,
    pub desk: Arc<Desk<Pushed>>,
    pub came: Came<Pushed>,
}

impl WebService {
    pub async fn start() -> Self {
        let (desk, came) = Desk::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(answer).with_state(desk.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, desk, came }
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// As RFC 8030 and the services have it; what is not as it should be is answered, and told to nobody.
async fn answer(
    State(desk): State<Arc<Desk<Pushed>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response<Body> {
    let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let is_topic = |text: &str| {
        (1..=32).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    };
    let why = if method != Method::POST {
        "not a POST"
    } else if header("content-encoding") != "aes128gcm" {
        "no aes128gcm"
    } else if !header("ttl").parse::<u32>().is_ok_and(|ttl| ttl > 0) {
        "no TTL"
    } else if !["very-low", "low", "normal", "high"].contains(&header("urgency")) {
        "no urgency"
    } else if !is_topic(header("topic")) {
        "no topic"
    } else if !header("authorization").starts_with("vapid t=") {
        "no VAPID"
    } else if bytes.len() > BODY_BYTES_MAX {
        return respond(reply(413, &Value::Null)).await;
    } else {
        let pushed = Pushed { path: uri.path().to_owned(), headers, bytes };
        return desk.take(pushed, reply(201, &Value::Null)).await;
    };
    respond(reply(400, &json!({ "why": why }))).await
}

/// A browser with one subscription.
pub struct Browser {
    own: PrivateKey,
    auth: [u8; 16],
    path: String,
}

impl Browser {
    pub fn new(path: &str) -> Self {
        let mut auth = [0; 16];
        aws_lc_rs::rand::fill(&mut auth).expect("chance");
        Self { own: PrivateKey::generate(&ECDH_P256).expect("a key"), auth, path: path.to_owned() }
    }

    pub fn endpoint(&self, service: &WebService) -> String {
        format!("{}{}", service.origin(), self.path)
    }

    /// What `PushSubscription.toJSON()` says, and the kind.
    pub fn registration(&self, service: &WebService) -> Value {
        let public = self.own.compute_public_key().expect("a public key");
        json!({
            "kind": "web",
            "endpoint": self.endpoint(service),
            "expirationTime": null,
            "keys": {
                "p256dh": BASE64_URL_SAFE_NO_PAD.encode(public.as_ref()),
                "auth": BASE64_URL_SAFE_NO_PAD.encode(self.auth),
            },
        })
    }

    /// What other people's libraries find in a post, with this browser's own key: its service worker's data. `contact` and
    /// `public_key` are what the hub says of itself.
    pub async fn reads(&self, service: &WebService, pushed: &Pushed, contact: &str, public_key: &str) -> Value {
        let private: EcPrivateKeyBin<'_> = self.own.as_be_bytes().expect("its bytes");
        let asked = json!({
            "browser": {
                "privateKey": BASE64_URL_SAFE_NO_PAD.encode(private.as_ref()),
                "auth": BASE64_URL_SAFE_NO_PAD.encode(self.auth),
            },
            "audience": service.origin(),
            "subject": contact,
            "publicKey": public_key,
            "authorization": pushed.header("authorization"),
            "body": BASE64_STANDARD.encode(&pushed.bytes),
        });
        let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/push.mjs");
        let (mut command, _folder) = javascript_program(&program).await;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a browser's program");
        child.stdin.take().expect("its input").write_all(asked.to_string().as_bytes()).await.expect("asked");
        let output = timeout(FACT_MAX, child.wait_with_output()).await.expect("an answer in time").expect("an answer");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        serde_json::from_str(found["text"].as_str().expect("a text")).expect("a note")
    }
}
