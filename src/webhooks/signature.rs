//! Signatures of webhooks as Standard Webhooks has them: HMAC-SHA256 over `id.timestamp.body`, one for each secret that is
//! good at the time. <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use secrecy::{ExposeSecret, SecretSlice};

/// How a secret begins where it is shown.
const PREFIX: &str = "whsec_";
/// How many bytes a new secret has. The specification wants 24 to 64.
const SECRET_BYTES: usize = 32;
/// And what a secret may have that somebody brings along.
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;

/// What a receiver and we know.
#[derive(Clone, Debug)]
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn random() -> anyhow::Result<Self> {
        let mut bytes = vec![0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
        Ok(Self(bytes.into()))
    }

    /// One that somebody brings along: `whsec_` and base64 of 24 to 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(BASE64_STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?)
    }

    /// One that was kept.
    pub fn of(bytes: Vec<u8>) -> Option<Self> {
        (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// As it is shown to its owner.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(self.0.expose_secret()))
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

/// The value of `webhook-signature`: a signature with each secret, the newest first.
pub fn sign(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let signatures = secrets.iter().map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.bytes());
        let mut signing = hmac::Context::with_key(&key);
        signing.update(format!("{id}.{timestamp}.").as_bytes());
        signing.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(signing.sign()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn signs_as_the_published_libraries_do() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = sign(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn while_a_secret_is_changed_both_sign() {
        let (new, old) = (Secret::random().unwrap(), Secret::random().unwrap());
        let signed = sign(&[new.clone(), old.clone()], "a", 1, b"{}");
        let each = [sign(&[new], "a", 1, b"{}"), sign(&[old], "a", 1, b"{}")];
        assert_eq!(signed.split(' ').collect::<Vec<_>>(), each);
    }

    #[test]
    fn a_secret_is_shown_as_receivers_want_it_and_in_no_log() {
        let secret = Secret::random().unwrap();
        let text = secret.to_text();
        assert_eq!(Secret::parse(&text).unwrap().bytes(), secret.bytes());
        assert!(!format!("{secret:?}").contains(&text[6..20]));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([1; 65]));
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!", &long] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
