//! FCM: Google's way to Android, by its HTTP v1. Who we are is said by a token that is asked for with the word of a service
//! account, signed with its key.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Deserialize;
use serde_json::{Value, json};
use tillwire_channels::Moment;
use tokio::sync::Mutex;

use super::note::Message;
use super::{AGENT, ANSWER_BYTES_MAX, ATTEMPT_MAX, Outcome, unanswered};
use crate::egress::client::{Client, beginning, retry_after};

/// Where messages are sent to, but in tests.
pub const URL: &str = "https://fcm.googleapis.com";
/// What the token is to allow.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// For how long our word for a token is good: an hour is the most that is taken.
const ASSERTION_LIVES: Duration = Duration::from_secs(3600);
/// How long before its end a token is replaced.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// How long Google may take over one: a note waits for it, and is to be sent in what is left of its time.
const ASK_MAX: Duration = Duration::from_secs(4);
/// How long after it was asked for in vain a token is not asked for again: many devices want to be told at once.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A service account's file, as Google writes it.
#[derive(Deserialize)]
struct Account {
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    token_uri: String,
}

/// Sends to Android.
pub struct Fcm {
    account: Account,
    key: EncodingKey,
    url: String,
    client: Client,
    /// Held while one is asked for: those who need it then wait for the same.
    token: Mutex<Option<Asked>>,
}

/// What came of asking for a token.
enum Asked {
    Given { token: String, expires_at: Moment },
    InVain { outcome: Outcome, at: Instant },
}

impl fmt::Debug for Fcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fcm({})", self.account.project_id)
    }
}

/// What is answered to who asks for a token.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Fcm {
    /// # Errors
    /// If the file is no service account's.
    pub fn open(credentials: &Path, url: &str) -> anyhow::Result<Self> {
        let shown = credentials.display();
        let text = std::fs::read(credentials).with_context(|| format!("reading FCM's credentials {shown}"))?;
        // What is wrong with it is not repeated, for it holds a private key.
        let account: Option<Account> = serde_json::from_slice(&text).ok();
        let account = account.with_context(|| format!("{shown} is no service account's file"))?;
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes()).ok();
        let key = key.with_context(|| format!("{shown} holds no RSA key"))?;
        let client = Client::to_service(ATTEMPT_MAX, AGENT);
        Ok(Self { account, key, url: url.trim_end_matches('/').to_owned(), client, token: Mutex::default() })
    }

    pub async fn send(&self, registration: &str, message: &Message, now: Moment) -> Outcome {
        let (token, client) = match (self.token(now).await, self.client.get()) {
            (Ok(token), Ok(client)) => (token, client),
            (Err(outcome), _) => return outcome,
            (_, Err(error)) => return Outcome::Refused(format!("{error:#}")),
        };
        let request = client
            .post(format!("{}/v1/projects/{}/messages:send", self.url, self.account.project_id))
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body(registration, message, now).to_string());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return unanswered(error),
        };
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers(), now));
        if status == 401 {
            self.forget(&token).await;
        }
        outcome(status, &beginning(response, ANSWER_BYTES_MAX).await, wait)
    }

    /// A token to send with: the one that there is, as long as it is good for a while.
    async fn token(&self, now: Moment) -> Result<String, Outcome> {
        let mut held = self.token.lock().await;
        match held.as_ref() {
            Some(Asked::Given { token, expires_at }) if *expires_at > now + RENEWED_BEFORE => return Ok(token.clone()),
            Some(Asked::InVain { outcome, at }) if at.elapsed() < ASKED_AGAIN_AFTER => return Err(outcome.clone()),
            _ => {}
        }
        match self.ask(now).await {
            Ok((token, lives)) => {
                *held = Some(Asked::Given { token: token.clone(), expires_at: now + lives });
                Ok(token)
            }
            Err(outcome) => {
                *held = Some(Asked::InVain { outcome: outcome.clone(), at: Instant::now() });
                Err(outcome)
            }
        }
    }

    /// This token is not good, whatever it was said to be.
    async fn forget(&self, refused: &str) {
        let mut held = self.token.lock().await;
        if matches!(held.as_ref(), Some(Asked::Given { token, .. }) if token == refused) {
            *held = None;
        }
    }

    /// Asks for one. Answers for how long it is good as well.
    async fn ask(&self, now: Moment) -> Result<(String, Duration), Outcome> {
        let refused = |error: anyhow::Error| Outcome::Refused(format!("{error:#}"));
        let assertion = self.assertion(now).map_err(refused)?;
        let client = self.client.get().map_err(refused)?;
        // Both are letters that need no escape, but for the colons.
        let form = format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request =
            client.post(&self.account.token_uri).header("content-type", "application/x-www-form-urlencoded").body(form);
        let response = request.timeout(ASK_MAX).send().await.map_err(unanswered)?;
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers(), now));
        let body = beginning(response, ANSWER_BYTES_MAX).await;
        match (status, serde_json::from_slice::<Granted>(&body)) {
            (200, Ok(granted)) => {
                Ok((granted.access_token, Duration::from_secs(granted.expires_in).min(ASSERTION_LIVES)))
            }
            (429 | 500..=599, _) => Err(Outcome::Later(format!("asking Google for a token: {status}"), wait)),
            _ => Err(Outcome::Refused(format!("asking Google for a token: {status}"))),
        }
    }

    /// Our word for a token (RFC 7523).
    fn assertion(&self, now: Moment) -> anyhow::Result<String> {
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.account.private_key_id.clone());
        let claims = json!({
            "iss": self.account.client_email,
            "scope": SCOPE,
            "aud": self.account.token_uri,
            "iat": now.unix_timestamp(),
            "exp": (now + ASSERTION_LIVES).unix_timestamp(),
        });
        jsonwebtoken::encode(&header, &claims, &self.key).context("signing for a token")
    }
}

fn body(registration: &str, message: &Message, now: Moment) -> Value {
    // Values are texts, and a name that is missing says more than one that is empty.
    let data: serde_json::Map<String, Value> = [
        ("merchant", Some(message.merchant.to_string())),
        ("position", message.position.map(|position| position.to_string())),
        ("type", Some(message.kind.clone())),
        ("outlet", message.outlet.map(|outlet| outlet.to_string())),
        ("tag", Some(message.collapse.clone())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))))
    .collect();
    json!({ "message": {
        "token": registration,
        "notification": { "title": message.title, "body": message.body },
        "data": data,
        "android": {
            // No `collapse_key`: of those Google keeps four a device, and soon lets only one in three minutes through.
            "priority": "HIGH",
            "ttl": format!("{}s", message.lives_for(now).as_secs()),
            "notification": { "tag": message.collapse },
        },
    } })
}

/// What FCM's answer means. Its own code for it tells more than the status.
fn outcome(status: u16, body: &[u8], retry_after: Option<Duration>) -> Outcome {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let details = body["error"]["details"].as_array().cloned().unwrap_or_default();
    let code = details.iter().find_map(|detail| detail["errorCode"].as_str()).unwrap_or_default();
    let said = || format!("FCM answers {status} {code}").trim_end().to_owned();
    match (status, code) {
        (200, _) => Outcome::Sent,
        (_, "UNREGISTERED") => Outcome::Gone(None),
        // It is another project's: nobody here can tell it anything.
        (_, "SENDER_ID_MISMATCH") => Outcome::GivenUp(said()),
        // A project that is none answers 404 as well, and takes no device with it.
        (401 | 403 | 404, _) => Outcome::Refused(said()),
        (429 | 500..=599, _) => Outcome::Later(said(), retry_after),
        _ => Outcome::GivenUp(said()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_means_one_thing() {
        let error = |code: &str| json!({ "error": { "details": [{ "@type": "other" }, { "errorCode": code }] } });
        for (status, code, word) in [
            (200, "", "sent"),
            (404, "UNREGISTERED", "gone"),
            (404, "", "refused"),
            (400, "INVALID_ARGUMENT", "given_up"),
            (403, "SENDER_ID_MISMATCH", "given_up"),
            (401, "THIRD_PARTY_AUTH_ERROR", "refused"),
            (403, "", "refused"),
            (429, "QUOTA_EXCEEDED", "later"),
            (500, "INTERNAL", "later"),
            (503, "UNAVAILABLE", "later"),
        ] {
            assert_eq!(outcome(status, error(code).to_string().as_bytes(), None).word(), word, "{status} {code}");
        }
        assert_eq!(outcome(404, b"<html>", None).word(), "refused", "a page of somebody in between");
    }
}
