//! The payment providers: `tillwire-simulators` as a process of its own, so that what a provider costs is on no subject's bill.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tillwire_channels::Moment;
use tokio::net::TcpStream;
use tokio::process::Command;
use uuid::Uuid;

use super::Watched;
use super::process::Process;
use crate::run::{Run, free_port};
use crate::scenario::shop::{self, Client};

/// The keys of those who have no hub. They open nothing.
const MIDTRANS_KEY: &str = "SB-Mid-server-loadtest";
const XENDIT_KEY: &str = "xnd_development_loadtest";
/// The version of Xendit's API that is spoken.
const XENDIT_VERSION: &str = "2024-11-11";
/// How many deliveries are asked for: as many as are remembered.
const DELIVERIES_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Midtrans,
    Xendit,
}

impl Provider {
    pub const ALL: [Self; 2] = [Self::Midtrans, Self::Xendit];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Midtrans => "midtrans",
            Self::Xendit => "xendit",
        }
    }

    /// What its webhook says happened when money has come.
    const fn paid(self) -> &'static str {
        match self {
            Self::Midtrans => "settlement",
            Self::Xendit => "payment.capture",
        }
    }

    /// What has the simulators tell each time that money has come so often again.
    pub fn tells_again(self, copies: u32) -> Value {
        json!({ "fault": "duplicate", "provider": self.name(), "on": self.paid(), "n": copies, "concurrent": true,
                "times": null })
    }
}

pub struct Providers {
    process: Process,
    pub midtrans: SocketAddr,
    pub xendit: SocketAddr,
}

/// A webhook, as the simulators remember it.
#[derive(Debug, Deserialize)]
pub struct Delivery {
    event: String,
    #[serde(with = "time::serde::rfc3339")]
    created: Moment,
    attempts: Vec<Attempt>,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    /// When it was over.
    #[serde(with = "time::serde::rfc3339")]
    at: Moment,
    outcome: Value,
}

impl Delivery {
    /// Whether it tells that money has come.
    pub fn is_paid(&self) -> bool {
        Provider::ALL.iter().any(|it| it.paid() == self.event)
    }

    /// Milliseconds until it was taken, if it was at the first attempt.
    pub fn answered_ms(&self) -> Option<u64> {
        let [attempt] = &self.attempts[..] else { return None };
        let is_taken = attempt.outcome["answered"].as_u64().is_some_and(|status| (200..300).contains(&status));
        is_taken.then(|| u64::try_from((attempt.at - self.created).whole_milliseconds()).unwrap_or(0))
    }
}

/// What both providers write in a webhook, as far as it says which payment was made.
#[derive(Deserialize)]
struct Notice {
    order_id: Option<Uuid>,
    transaction_status: Option<String>,
    event: Option<String>,
    data: Option<NoticeData>,
}

#[derive(Deserialize)]
struct NoticeData {
    reference_id: Option<Uuid>,
}

/// The payment that was made, if this webhook tells of one.
pub fn paid(body: &[u8]) -> Option<Uuid> {
    let notice: Notice = serde_json::from_slice(body).ok()?;
    if notice.transaction_status.as_deref() == Some(Provider::Midtrans.paid()) {
        return notice.order_id;
    }
    if notice.event.as_deref() == Some(Provider::Xendit.paid()) {
        return notice.data?.reference_id;
    }
    None
}

impl Providers {
    /// Starts both. Whoever charges without a hub is told at `webhook_url`.
    pub async fn start(run: &Run, program: &Path, webhook_url: Option<&str>) -> Result<Self> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (midtrans, xendit) = (local(free_port()?), local(free_port()?));
        let mut command = Command::new(program);
        command.args(["--midtrans-listen", &midtrans.to_string(), "--xendit-listen", &xendit.to_string()]);
        command.args(["--midtrans-server-key", MIDTRANS_KEY, "--xendit-secret-key", XENDIT_KEY]);
        if let Some(url) = webhook_url {
            // One account makes all the calls that are spread over many merchants otherwise.
            command.args(["--midtrans-webhook-url", url, "--xendit-webhook-url", url, "--xendit-rate-max", "1000000"]);
        }
        let mut process = Process::start("simulators", &run.folder("simulators")?, &mut command)?;
        let listens = async |address: SocketAddr| TcpStream::connect(address).await.is_ok();
        process.until(async || listens(midtrans).await && listens(xendit).await).await?;
        Ok(Self { process, midtrans, xendit })
    }

    /// The process, as it is sampled.
    pub fn watched(&self) -> Watched {
        Watched { name: self.process.name.clone(), pid: self.process.pid, front: false }
    }

    /// Has the world outside do something.
    pub async fn says(&self, client: &Client, what: &str, order: &Value) -> Result<()> {
        let request = hyper::Request::post(format!("http://{}/_sim/{what}", self.midtrans));
        let request = request.header("content-type", "application/json").body(order.to_string().into())?;
        ask::<Value>(client, request).await.map(drop)
    }

    /// The customer pays.
    pub async fn pays(&self, client: &Client, provider: Provider, payment: Uuid) -> Result<()> {
        let order = json!({ "id": payment, "provider": provider.name(), "issuer": "DANA" });
        self.says(client, "pay", &order).await
    }

    /// Asks for a QRIS payment, as somebody who has no hub.
    pub async fn charge(&self, client: &Client, provider: Provider, payment: Uuid, amount_minor: i64) -> Result<()> {
        let (at, path, key, body) = match provider {
            Provider::Midtrans => {
                let details = json!({ "order_id": payment, "gross_amount": amount_minor });
                let body = json!({ "payment_type": "qris", "transaction_details": details });
                (self.midtrans, "/v2/charge", MIDTRANS_KEY, body)
            }
            Provider::Xendit => {
                let body = json!({ "reference_id": payment, "type": "PAY", "country": "ID", "currency": "IDR",
                                   "request_amount": amount_minor, "channel_code": "QRIS" });
                (self.xendit, "/v3/payment_requests", XENDIT_KEY, body)
            }
        };
        let request = hyper::Request::post(format!("http://{at}{path}"))
            .header("authorization", format!("Basic {}", STANDARD.encode(format!("{key}:"))))
            .header("accept", "application/json")
            .header("api-version", XENDIT_VERSION)
            .header("content-type", "application/json");
        let answer: Value = ask(client, request.body(body.to_string().into())?).await?;
        // At Midtrans the truth is in the body.
        ensure!(provider == Provider::Xendit || answer["status_code"] == "201", "no charge: {answer}");
        Ok(())
    }

    /// The webhooks that are remembered, oldest first.
    pub async fn deliveries(&self, client: &Client) -> Result<Vec<Delivery>> {
        #[derive(Deserialize)]
        struct Deliveries {
            deliveries: Vec<Delivery>,
        }
        let uri = format!("http://{}/_sim/deliveries?limit={DELIVERIES_MAX}", self.midtrans);
        let told: Deliveries = ask(client, hyper::Request::get(uri).body(Full::default())?).await?;
        Ok(told.deliveries)
    }
}

async fn ask<T: DeserializeOwned>(client: &Client, request: hyper::Request<Full<Bytes>>) -> Result<T> {
    let uri = request.uri().clone();
    let (parts, body) = shop::send(client, request).await.with_context(|| format!("asking {uri}"))?;
    ensure!(parts.status.is_success(), "{uri}: {} {}", parts.status, String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).with_context(|| format!("reading what {uri} answers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_says_which_payment_was_made_and_others_say_nothing() {
        let id = Uuid::new_v4();
        let midtrans = |status: &str| json!({ "order_id": id, "transaction_status": status }).to_string();
        let xendit = |event: &str| json!({ "event": event, "data": { "reference_id": id } }).to_string();
        assert_eq!(paid(midtrans("settlement").as_bytes()), Some(id));
        assert_eq!(paid(xendit("payment.capture").as_bytes()), Some(id));
        for other in [midtrans("pending"), xendit("payment.failure"), "{}".to_owned(), "no JSON".to_owned()] {
            assert_eq!(paid(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_delivery_counts_if_it_was_taken_at_once() {
        let delivery = |attempts: Value| -> Delivery {
            let created = "2026-01-14T03:05:02.100Z";
            serde_json::from_value(json!({ "event": "settlement", "created": created, "attempts": attempts })).unwrap()
        };
        let attempt = |outcome: Value| json!({ "at": "2026-01-14T03:05:02.107Z", "outcome": outcome });
        let (taken, refused) = (attempt(json!({ "answered": 200 })), attempt(json!({ "answered": 503 })));
        assert_eq!(delivery(json!([taken])).answered_ms(), Some(7));
        assert!(delivery(json!([taken])).is_paid());
        for attempts in [json!([]), json!([attempt(json!("timed_out"))]), json!([refused]), json!([refused, taken])] {
            assert_eq!(delivery(attempts.clone()).answered_ms(), None, "{attempts}");
        }
    }
}
