//! Sending one message to one URL: no redirects, no proxies, no address that is not for everyone, and no answer too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use tillwire_channels::Moment;

use super::attempts::{Answer, Attempted, HEARD_BYTES_MAX};
use super::message::Message;
use super::signature::{self, Secret};
use crate::egress::Egress;
use crate::egress::client::{Client, retry_after};

/// How long an attempt may take, from the name to the last byte of the answer.
pub const ATTEMPT_MAX: Duration = Duration::from_secs(20);
/// How much of an answer is read. What is kept of it is less.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends messages. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    egress: Arc<Egress>,
}

impl Sender {
    pub fn new(egress: Arc<Egress>) -> Self {
        let client =
            Client::judged(egress.clone(), ATTEMPT_MAX, concat!("Tillwire/", env!("CARGO_PKG_VERSION"), " (webhooks)"));
        Self { client, egress }
    }

    /// Posts a message once. That nobody answered is an answer, too.
    pub async fn send(&self, url: &str, secrets: &[Secret], message: &Message) -> Attempted {
        let (at, began) = (to_micros(Moment::now_utc()), Instant::now());
        let answer = self.ask(url, secrets, message, at).await.unwrap_or_else(|why| Answer::None(format!("{why:#}")));
        Attempted::new(at, began.elapsed(), answer)
    }

    async fn ask(&self, url: &str, secrets: &[Secret], message: &Message, at: Moment) -> anyhow::Result<Answer> {
        // Again: an operator may have changed what is allowed since it was given.
        let url = self.egress.parse(url).map_err(|why| anyhow::anyhow!(why.detail()))?;
        let timestamp = at.unix_timestamp();
        let request = self
            .client
            .get()?
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

#[cfg(test)]
mod tests {
    use super::*;

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
