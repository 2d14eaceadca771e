//! Apple: APNs over HTTP/2, which takes nothing that the real one would not.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, Version};
use axum::routing::post;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use jsonwebtoken::{Algorithm, Validation};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use super::super::receiver::Reply;
use super::super::services::dir;
use super::{Came, Desk, KeyFile, reply, respond};

/// Makes an authority, and a certificate of its for `localhost`.
const AUTHORITY: &str = r#"
new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $new -keyout authority.key -out authority.pem -days 2 -subj "/CN=Tests"
openssl req -new $new -keyout own.key -out own.csr -subj "/CN=localhost"
echo "subjectAltName=DNS:localhost" > names
openssl x509 -req -in own.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out own.pem
"#;

pub const KEY_ID: &str = "ABC123DEFG";
pub const TEAM: &str = "TEAM123456";
pub const TOPIC: &str = "id.toko.roti";

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct Sent {
    pub device: String,
    pub headers: HeaderMap,
    pub body: Value,
    /// The provider token.
    pub bearer: String,
}

impl Sent {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }
}

/// What a provider token says, and nothing else.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    iss: String,
    iat: i64,
}

struct Apple {
    key: KeyFile,
    desk: Arc<Desk<Sent>>,
    /// The provider tokens that were shown so far.
    shown: Mutex<BTreeSet<String>>,
}

pub struct ApnsService {
    pub address: SocketAddr,
    pub desk: Arc<Desk<Sent>>,
    pub came: Came<Sent>,
    apple: Arc<Apple>,
}

impl ApnsService {
    pub async fn start() -> Self {
        Self::serve(None).await
    }

    /// As Apple's: by TLS, of which HTTP/2 is a part. Whoever trusts the answered authority trusts it, as `localhost`.
    pub async fn start_with_tls() -> (Self, PathBuf) {
        let folder = dir("authority");
        let made = Command::new("sh").arg("-ec").arg(AUTHORITY).current_dir(&folder).output().await.expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let chain = CertificateDer::pem_file_iter(folder.join("own.pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(folder.join("own.key")).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(chain.map(|it| it.expect("PEM")).collect(), key).expect("a server");
        config.alpn_protocols = vec![b"h2".to_vec()];
        (Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await, folder.join("authority.pem"))
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let (desk, came) = Desk::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let apple = Arc::new(Apple { key: KeyFile::new(), desk: desk.clone(), shown: Mutex::default() });
        let routes = Router::new().route("/3/device/{device}", post(take)).with_state(apple.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (service, tls) = (TowerToHyperService::new(routes.clone()), tls.clone());
                tokio::spawn(async move {
                    // HTTP/2 alone, without asking: who speaks 1.1 is not understood, as by Apple.
                    let http = http2::Builder::new(TokioExecutor::new());
                    match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                                http.serve_connection(TokioIo::new(stream), service).await
                            }
                            _ => Ok(()),
                        },
                    }
                });
            }
        });
        Self { address, desk, came, apple }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn key(&self) -> &KeyFile {
        &self.apple.key
    }

    /// How many provider tokens were shown so far.
    pub fn shown(&self) -> usize {
        self.apple.shown.lock().expect("tokens").len()
    }
}

/// A refusal, as Apple gives its reasons.
pub fn refusal(status: u16, reason: &str) -> Reply {
    reply(status, &json!({ "reason": reason }))
}

/// A device that is no more, since a moment in milliseconds.
pub fn unregistered(since_ms: i64) -> Reply {
    reply(410, &json!({ "reason": "Unregistered", "timestamp": since_ms }))
}

async fn take(
    State(apple): State<Arc<Apple>>,
    Path(device): Path<String>,
    version: Version,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response<Body> {
    assert_eq!(version, Version::HTTP_2);
    let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let bearer = header("authorization").strip_prefix("bearer ").or(header("authorization").strip_prefix("Bearer "));
    let bearer = bearer.unwrap_or_default().to_owned();
    if let Err((status, reason)) = is_provider(&apple, &bearer) {
        return respond(refusal(status, reason)).await;
    }
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let is_hex =
        |text: &str| text.len() >= 64 && text.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it));
    let (status, reason) = if !is_hex(&device) {
        (400, "BadDeviceToken")
    } else if header("apns-topic") != TOPIC {
        (400, "TopicDisallowed")
    } else if header("apns-push-type") != "alert" {
        (400, "InvalidPushType")
    } else if !["1", "5", "10"].contains(&header("apns-priority")) {
        (400, "BadPriority")
    } else if header("apns-expiration").parse::<i64>().is_ok_and(|at| at <= now) || header("apns-expiration").is_empty()
    {
        (400, "BadExpirationDate")
    } else if !(1..=64).contains(&header("apns-collapse-id").len()) {
        (400, "BadCollapseId")
    } else if bytes.len() > 4_096 {
        (413, "PayloadTooLarge")
    } else if !body["aps"]["alert"]["title"].is_string() || !body["aps"]["alert"]["body"].is_string() {
        (400, "PayloadEmpty")
    } else {
        let sent = Sent { device, headers, body, bearer };
        return apple.desk.take(sent, reply(200, &Value::Null)).await;
    };
    respond(refusal(status, reason)).await
}

/// Whether a provider token is good: signed with the key that it names, for the team, and not an hour old. A second one so soon
/// is one too many.
fn is_provider(apple: &Apple, bearer: &str) -> Result<(), (u16, &'static str)> {
    if bearer.is_empty() {
        return Err((403, "MissingProviderToken"));
    }
    let bad = (403, "InvalidProviderToken");
    let header = jsonwebtoken::decode_header(bearer).map_err(|_| bad)?;
    let mut rules = Validation::new(Algorithm::ES256);
    rules.validate_exp = false;
    rules.required_spec_claims.clear();
    let claims = jsonwebtoken::decode::<Provider>(bearer, &apple.key.decoding(), &rules).map_err(|_| bad)?.claims;
    if header.kid.as_deref() != Some(KEY_ID) || claims.iss != TEAM {
        return Err(bad);
    }
    let age = time::OffsetDateTime::now_utc().unix_timestamp() - claims.iat;
    if !(-5..=3_600).contains(&age) {
        return Err((403, "ExpiredProviderToken"));
    }
    let mut shown = apple.shown.lock().expect("tokens");
    shown.insert(bearer.to_owned());
    if shown.len() > 1 { Err((429, "TooManyProviderTokenUpdates")) } else { Ok(()) }
}
