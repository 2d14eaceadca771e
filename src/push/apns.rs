//! APNs: Apple's own way to its devices, by HTTP/2. Who we are is said by a token that we make ourselves, and not too often.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tillwire_channels::Moment;

use super::keys::SigningKey;
use super::note::Message;
use super::{AGENT, ANSWER_BYTES_MAX, ATTEMPT_MAX, Outcome, unanswered};
use crate::egress::client::{self, Client, beginning, retry_after};

/// Where messages are sent to, but in tests.
pub const URL: &str = "https://api.push.apple.com";
/// The same for apps that are being developed.
pub const SANDBOX_URL: &str = "https://api.sandbox.push.apple.com";
/// A token may be replaced after 20 minutes, and has to be after 60.
const TOKEN_LIVES: Duration = Duration::from_secs(40 * 60);
const TOKEN_LIVES_MIN: Duration = Duration::from_secs(20 * 60);
/// How often a connection that is silent is asked whether it still is one, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_MAX: Duration = Duration::from_secs(5);

/// What an operator says of an app.
#[derive(Clone, Debug)]
pub struct App {
    pub key_id: String,
    pub team: String,
    /// The app's bundle id.
    pub topic: String,
}

/// Sends to Apple's devices.
pub struct Apns {
    app: App,
    key: SigningKey,
    url: String,
    client: Client,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    text: String,
    made_at: Moment,
}

impl Apns {
    /// # Errors
    /// If the key cannot be read.
    pub fn open(key: &Path, app: App, url: &str) -> anyhow::Result<Self> {
        let recipe = || {
            client::plain(ATTEMPT_MAX, AGENT)
                .http2_prior_knowledge()
                .http2_keep_alive_interval(PING_EVERY)
                .http2_keep_alive_timeout(PONG_MAX)
        };
        let (key, url) = (SigningKey::open(key)?, url.trim_end_matches('/').to_owned());
        Ok(Self { app, key, url, client: Client::made_by(recipe), token: Mutex::default() })
    }

    pub async fn send(&self, device: &str, message: &Message, now: Moment) -> Outcome {
        let (token, client) = match (self.token(now), self.client.get()) {
            (Ok(token), Ok(client)) => (token, client),
            (Err(error), _) | (_, Err(error)) => return Outcome::Refused(format!("{error:#}")),
        };
        let request = client
            .post(format!("{}/3/device/{device}", self.url))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .header("apns-topic", &self.app.topic)
            .header("apns-push-type", "alert")
            .header("apns-priority", "10")
            .header("apns-expiration", message.expires_at.unix_timestamp().max(now.unix_timestamp() + 1))
            .header("apns-collapse-id", &message.collapse)
            .body(body(message).to_string());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return unanswered(error),
        };
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers(), now));
        let said = serde_json::from_slice(&beginning(response, ANSWER_BYTES_MAX).await).unwrap_or_default();
        if status == 403 {
            self.forget(&token, now);
        }
        outcome(status, &said, wait)
    }

    /// A token to send with: the one that there is, as long as it may be used.
    fn token(&self, now: Moment) -> anyhow::Result<String> {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = held.as_ref().filter(|token| token.made_at + TOKEN_LIVES > now) {
            return Ok(token.text.clone());
        }
        let claims = json!({ "iss": self.app.team, "iat": now.unix_timestamp() });
        let text = self.key.sign(Some(&self.app.key_id), &claims)?;
        Ok(held.insert(Token { text, made_at: now }).text.clone())
    }

    /// This token is not taken: another is made, unless it is too soon for another.
    fn forget(&self, token: &str, now: Moment) {
        let mut held = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|held| held.text == token && held.made_at + TOKEN_LIVES_MIN <= now) {
            *held = None;
        }
    }
}

fn body(message: &Message) -> Value {
    json!({
        "aps": { "alert": { "title": message.title, "body": message.body }, "sound": "default" },
        "tillwire": {
            "merchant": message.merchant,
            "position": message.position,
            "type": message.kind,
            "outlet": message.outlet,
            "tag": message.collapse,
        },
    })
}

/// Why a message was not taken.
#[derive(Debug, Default, Deserialize)]
struct Said {
    #[serde(default)]
    reason: String,
    /// With 410, since when the device is not there any more: in milliseconds.
    timestamp: Option<i64>,
}

/// What APNs' answer means.
fn outcome(status: u16, said: &Said, retry_after: Option<Duration>) -> Outcome {
    let words = || format!("APNs answers {status} {}", said.reason).trim_end().to_owned();
    match (status, said.reason.as_str()) {
        (200, _) => Outcome::Sent,
        (410, _) => {
            let nanoseconds = said.timestamp.map(|it| i128::from(it) * 1_000_000);
            Outcome::Gone(nanoseconds.and_then(|it| Moment::from_unix_timestamp_nanos(it).ok()))
        }
        (_, "BadDeviceToken" | "Unregistered") => Outcome::Gone(None),
        (401 | 403, _) | (404, _) => Outcome::Refused(words()),
        (429 | 500..=599, _) => Outcome::Later(words(), retry_after),
        _ => Outcome::GivenUp(words()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::note::Locale;

    #[test]
    fn each_answer_means_one_thing() {
        for (status, reason, word) in [
            (200, "", "sent"),
            (400, "BadDeviceToken", "gone"),
            (400, "DeviceTokenNotForTopic", "given_up"),
            (413, "PayloadTooLarge", "given_up"),
            (403, "InvalidProviderToken", "refused"),
            (404, "BadPath", "refused"),
            (410, "Unregistered", "gone"),
            (429, "TooManyRequests", "later"),
            (429, "TooManyProviderTokenUpdates", "later"),
            (503, "ServiceUnavailable", "later"),
        ] {
            let said = Said { reason: reason.to_owned(), timestamp: None };
            assert_eq!(outcome(status, &said, None).word(), word, "{status} {reason}");
        }
        let said = Said { reason: "Unregistered".to_owned(), timestamp: Some(1_800_000_000_500) };
        let since = Moment::from_unix_timestamp(1_800_000_000).unwrap() + Duration::from_millis(500);
        assert_eq!(outcome(410, &said, None), Outcome::Gone(Some(since)));
    }

    #[test]
    fn a_message_is_shorter_than_what_is_taken() {
        let long = Message {
            title: "\u{1}".repeat(300),
            body: "\"".repeat(1_000),
            ..Message::test(tillwire_channels::MerchantId::new(), "key", Locale::Id, Moment::now_utc())
        };
        assert!(body(&long).to_string().len() <= 4_096);
    }
}
