//! Shops that are open, and what their tills send.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::http::response::Parts;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tillwire_channels::MerchantId;
use tokio::time::timeout;
use uuid::Uuid;

use crate::client::order::Group;
use crate::subject::Running;
use crate::subject::tillwire::Base;

pub const LINES: usize = 4;
pub const PRICE_MINOR: i64 = 15_000;
/// Sales of one register take turns at its receipt numbers.
const REGISTERS: usize = 4;
/// How long is waited for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

pub type Client = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;

/// A subject with shops that are open.
pub struct Stand {
    pub running: Running,
    pub shops: Vec<Shop>,
    /// The screens of each shop.
    pub groups: Vec<Group>,
}

pub struct Shop {
    /// What its tills send, a till each.
    pub sales: Vec<Sale>,
}

#[derive(Clone)]
pub struct Sale {
    pub uri: String,
    pub token: Option<String>,
    pub body: String,
}

impl Sale {
    /// Sells it once more.
    pub async fn ring_up(&self, client: &Client) -> Result<()> {
        post(client, &self.uri, self.token.as_deref(), self.body.clone()).await.map(drop)
    }
}

/// A shop of a hub's.
pub struct Opened {
    pub shop: Shop,
    /// What its screens connect with, all but the last brace.
    pub auth: String,
    /// The journal's number now: whatever is committed from here on is a sale.
    pub seq: u64,
    pub merchant: MerchantId,
    /// The owner's.
    pub token: String,
    pub outlet: Uuid,
    /// The first of its registers, and the first of what it sells.
    pub register: Uuid,
    pub variant: Uuid,
}

pub fn client() -> Client {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector)
}

/// Opens a shop through the API at this address.
pub async fn open(base: &Base, api: SocketAddr, client: &Client) -> Result<Opened> {
    let merchant = MerchantId::new();
    let (auth, token) = base.owner(merchant, &["sales"])?;
    let post = async |path: &str, body: Value| {
        post(client, &format!("http://{api}/v1/{path}"), Some(&token), body.to_string()).await
    };
    post("merchant", json!({ "name": "Toko", "currency": "IDR" })).await?;
    let (outlet, product) = (Uuid::new_v4(), "Roti tawar");
    post("outlets", json!({ "id": outlet, "code": "JKT", "name": "Jakarta", "time_zone": "Asia/Jakarta" })).await?;
    let variants: Vec<Uuid> = (0..LINES).map(|_| Uuid::new_v4()).collect();
    let named = variants.iter().enumerate().map(
        |(at, id)| json!({ "id": id, "sku": format!("ROTI-{at}"), "name": format!("{at}"), "price_minor": PRICE_MINOR }),
    );
    post("products", json!({ "name": product, "variants": named.collect::<Vec<_>>() })).await?;
    let mut registers = Vec::new();
    for number in 1..=REGISTERS {
        let id = Uuid::new_v4();
        let body = json!({ "id": id, "code": format!("R{number}"), "name": format!("Kasir {number}") });
        post(&format!("outlets/{outlet}/registers"), body).await?;
        registers.push(id);
    }
    let stock = variants.iter().map(|it| json!({ "variant": it, "quantity": "1000000" })).collect::<Vec<_>>();
    let moves = json!({ "reason": "received", "lines": stock });
    let (position, _) = post(&format!("outlets/{outlet}/stock/moves"), moves).await?;
    let position = position.context("a position of what was received")?;
    let seq = position.split(['.', '-']).next().unwrap_or_default().parse()?;
    let lines: Vec<_> = variants.iter().map(|it| json!({ "variant": it, "quantity": "1" })).collect();
    let tenders = json!([{ "method": "cash", "amount_minor": PRICE_MINOR * LINES as i64 }]);
    let sales = registers.iter().map(|register| Sale {
        uri: format!("http://{api}/v1/outlets/{outlet}/sales"),
        token: Some(token.clone()),
        body: json!({ "register": register, "lines": lines, "tenders": tenders }).to_string(),
    });
    let (shop, register, variant) = (Shop { sales: sales.collect() }, registers[0], variants[0]);
    Ok(Opened { shop, auth, seq, merchant, token, outlet, register, variant })
}

/// What there is, as an owner is shown it.
pub async fn get(client: &Client, uri: &str, token: &str) -> Result<Value> {
    let request = hyper::Request::get(uri).header("authorization", format!("Bearer {token}")).body(Full::default())?;
    let (parts, body) = send(client, request).await?;
    ensure!(parts.status == 200, "{uri}: {} {}", parts.status, String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}

/// Posts what must be taken. Answers the position, if one was told, and the body.
pub async fn post(client: &Client, uri: &str, token: Option<&str>, body: String) -> Result<(Option<String>, Value)> {
    let mut request = hyper::Request::post(uri)
        .header("content-type", "application/json")
        .header("idempotency-key", Uuid::new_v4().to_string());
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let (parts, body) = send(client, request.body(body.into())?).await?;
    ensure!(parts.status == 201, "{uri}: {} {}", parts.status, String::from_utf8_lossy(&body));
    let position = parts.headers.get("tillwire-position").and_then(|it| Some(it.to_str().ok()?.to_owned()));
    Ok((position, serde_json::from_slice(&body)?))
}

/// Whoever does not answer ends the run.
pub async fn send(client: &Client, request: hyper::Request<Full<Bytes>>) -> Result<(Parts, Bytes)> {
    let uri = request.uri().clone();
    let sending = async {
        let (parts, body) = client.request(request).await?.into_parts();
        anyhow::Ok((parts, body.collect().await?.to_bytes()))
    };
    timeout(ANSWER_MAX, sending).await.with_context(|| format!("{uri}: no answer within {ANSWER_MAX:?}"))?
}
