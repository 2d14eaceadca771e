//! Sending one message to one URL: no redirects, no proxies, no address that is not for everyone, and no answer too long.

use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use tillwire_channels::Moment;
use time::format_description::well_known::Rfc2822;
use tokio::sync::Semaphore;

use super::attempts::{Answer, Attempted, HEARD_BYTES_MAX};
use super::message::Message;
use super::signature::{self, Secret};
use crate::egress::Egress;

/// How long an attempt may take, from the name to the last byte of the answer.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(20);
/// How long connecting may.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How much of an answer is read. What is kept of it is less.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a connection that nobody uses is kept: less than servers do.
const IDLE_MAX: Duration = Duration::from_secs(3);
/// How many names are looked up at once.
const LOOKUPS_MAX: usize = 32;

/// Sends messages. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    /// Made when it is first needed: a machine without certificates to trust can be told nothing, and does all else.
    client: Arc<Mutex<Option<Client>>>,
    egress: Arc<Egress>,
}

impl Sender {
    pub fn new(egress: Arc<Egress>) -> Self {
        Self { client: Arc::default(), egress }
    }

    fn client(&self) -> anyhow::Result<Client> {
        let mut made = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*made {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(ATTEMPT_MAX)
            .connect_timeout(CONNECT_MAX)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE_MAX)
            .dns_resolver(Arc::new(Judged::new(self.egress.clone())))
            .user_agent(concat!("Tillwire/", env!("CARGO_PKG_VERSION"), " (webhooks)"))
            .build()
            .context("making a client: are there certificates to trust (ca-certificates)?")?;
        Ok(made.insert(client).clone())
    }

    /// Posts a message once. That nobody answered is an answer, too.
    pub async fn send(&self, url: &str, secrets: &[Secret], message: &Message) -> Attempted {
        let (at, began) = (to_micros(Moment::now_utc()), Instant::now());
        let answer = self.ask(url, secrets, message, at).await.unwrap_or_else(|why| Answer::None(format!("{why:#}")));
        Attempted { at, took: began.elapsed(), answer }
    }

    async fn ask(&self, url: &str, secrets: &[Secret], message: &Message, at: Moment) -> anyhow::Result<Answer> {
        // Again: an operator may have changed what is allowed since it was given.
        let url = self.egress.parse(url).map_err(|why| anyhow::anyhow!(why.detail()))?;
        let timestamp = at.unix_timestamp();
        let request = self
            .client()?
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature::sign(secrets, &message.id, timestamp, message.body.as_bytes()))
            .body(message.body.clone());
        // The URL may hold what is nobody's business.
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        let (code, retry_after) = (response.status().as_u16(), retry_after(response.headers(), at));
        // The status is the answer, whatever becomes of the rest.
        let body = beginning(response).await;
        Ok(Answer::Status { code, body, retry_after })
    }
}

/// A moment as PostgreSQL keeps it.
fn to_micros(moment: Moment) -> Moment {
    moment.replace_nanosecond(moment.microsecond() * 1_000).unwrap_or(moment)
}

/// The beginning of an answer's body, as far as it comes.
async fn beginning(mut response: Response) -> String {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Ok(Some(data)) = response.chunk().await {
        kept.extend_from_slice(&data[..data.len().min(HEARD_BYTES_MAX - kept.len())]);
        read += data.len();
        if read > ANSWER_BYTES_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// How long `Retry-After` asks to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: Moment) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = Moment::parse(text, &Rfc2822).ok()?;
    (until - now).try_into().ok()
}

/// Resolves names, and lets nobody be led to an address that is not for everyone.
struct Judged {
    egress: Arc<Egress>,
    /// Held until a look-up's thread has ended, also when nobody waits for it any more: the hub's own names need threads, too.
    lookups: Arc<Semaphore>,
}

impl Judged {
    fn new(egress: Arc<Egress>) -> Self {
        Self { egress, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, lookups) = (self.egress.clone(), self.lookups.clone());
        Box::pin(async move {
            let turn = lookups.acquire_owned().await?;
            let looking = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
            });
            let allowed = egress.allowed(looking.await??);
            if allowed.is_empty() {
                return Err("the name leads to an address that is not public".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_asks_for_time_in_seconds_or_by_a_date() {
        let now = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        let asks = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(asks("120"), Some(Duration::from_secs(120)));
        assert_eq!(asks("Fri, 15 Jan 2027 08:01:00 GMT"), Some(Duration::from_secs(60)));
        for text in ["-1", "soon", "", "Fri, 15 Jan 2027 07:00:00 GMT", "1e9"] {
            assert_eq!(asks(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_not_followed() {
        crate::identity::tokens::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let egress = Egress { networks: Vec::new(), ports: vec![listener.local_addr().unwrap().port()] };
        let sender = Sender::new(Arc::new(egress));
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let message = Message::ping(tillwire_channels::MerchantId::new(), "one", Moment::now_utc()).unwrap();
        let attempted = tokio::select! {
            attempted = sender.send(&url, &[], &message) => attempted,
            _ = listener.accept() => panic!("somebody came"),
        };
        let Answer::None(why) = &attempted.answer else { panic!("{attempted:?}") };
        assert!(why.contains("not public") && !why.contains("localhost:"), "{why}");
    }
}
