//! Web Push: a browser's own service carries what only that browser can read. Messages are encrypted as RFC 8291 has it, in
//! one record of RFC 8188's `aes128gcm`; who we are is said by a token of RFC 8292 (VAPID).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, ensure};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, ParsedPublicKey, ParsedPublicKeyFormat, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::json;
use tillwire_channels::Moment;
use url::Url;

use super::keys::SigningKey;
use super::note::Message;
use super::{AGENT, ATTEMPT_MAX, Outcome, unanswered};
use crate::egress::Egress;
use crate::egress::client::{Client, retry_after};

/// The bytes of a public key that is not compressed.
pub const POINT_BYTES: usize = 65;
/// The bytes of what browser and application share.
pub const AUTH_BYTES: usize = 16;
/// The bytes of a salt.
const SALT_BYTES: usize = 16;
/// What a record may have. Services take at most 4,096 bytes in all, and so ours is never longer.
const BODY_BYTES_MAX: usize = 4096;
/// What goes before the record: salt, its size, our public key and how long that is.
const HEADER_BYTES: usize = SALT_BYTES + 4 + 1 + POINT_BYTES;
/// What the record has besides the text: where padding begins, and the seal.
const SEAL_BYTES: usize = 1 + 16;
/// The longest text that fits.
pub const TEXT_BYTES_MAX: usize = BODY_BYTES_MAX - HEADER_BYTES - SEAL_BYTES;
/// Texts are made as long as the next multiple of this, so that their length says little of what is in them.
const PADDED_TO_BYTES: usize = 512;
/// How long a token is good for; the standard allows 24 hours.
const TOKEN_LIVES: Duration = Duration::from_secs(12 * 3600);
/// How long one has to be good still, to be sent.
const TOKEN_GOOD_FOR: Duration = Duration::from_secs(3600);
/// For how many services tokens are kept. Addresses are given by strangers.
const TOKENS_MAX: usize = 256;

/// A browser's keys, as a push subscription has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Its public key, a point on P-256 that is not compressed.
    pub p256dh: Vec<u8>,
    pub auth: Vec<u8>,
}

impl Keys {
    /// # Errors
    /// If the point is none on P-256, or not given as 65 bytes.
    pub fn is_point(p256dh: &[u8]) -> bool {
        let parsed = ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, p256dh));
        p256dh.len() == POINT_BYTES
            && parsed.is_ok_and(|key| key.format() == ParsedPublicKeyFormat::Uncompressed && *key.alg() == ECDH_P256)
    }
}

/// Sends to browsers.
pub struct WebPush {
    key: SigningKey,
    /// Whom a service may ask what we are doing: `mailto:` or `https:`.
    contact: String,
    client: Client,
    egress: Arc<Egress>,
    tokens: Mutex<HashMap<String, Token>>,
}

#[derive(Clone)]
struct Token {
    text: String,
    expires_at: Moment,
}

impl WebPush {
    /// # Errors
    /// If the key cannot be read, or the contact is none.
    pub fn open(key: &Path, contact: &str, egress: Arc<Egress>) -> anyhow::Result<Self> {
        let key = SigningKey::open(key)?;
        let is_contact = contact.strip_prefix("mailto:").is_some_and(|it| it.contains('@'))
            || Url::parse(contact).is_ok_and(|url| url.scheme() == "https");
        ensure!(is_contact, "the contact for push services is a mailto: or https: address");
        let client = Client::judged(egress.clone(), ATTEMPT_MAX, AGENT);
        Ok(Self { key, contact: contact.to_owned(), client, egress, tokens: Mutex::default() })
    }

    /// The key that a browser subscribes with: the `applicationServerKey`.
    pub fn public_key(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.key.public())
    }

    pub async fn send(&self, endpoint: &str, keys: &Keys, message: &Message, now: Moment) -> Outcome {
        // Again: an operator may have changed what is allowed since it was given.
        let url = match self.egress.parse(endpoint) {
            Ok(url) => url,
            Err(why) => return Outcome::GivenUp(why.detail().to_owned()),
        };
        let Ok(body) =
            serde_json::to_vec(&message.payload()).map_err(anyhow::Error::from).and_then(|it| encrypt(keys, &it))
        else {
            return Outcome::GivenUp("it could not be encrypted".to_owned());
        };
        let (token, client) = match (self.token(&url, now), self.client.get()) {
            (Ok(token), Ok(client)) => (token, client),
            (Err(error), _) | (_, Err(error)) => return Outcome::Refused(format!("{error:#}")),
        };
        let request = client
            .post(url)
            .header("authorization", format!("vapid t={token}, k={}", self.public_key()))
            .header("content-encoding", "aes128gcm")
            .header("content-type", "application/octet-stream")
            .header("ttl", message.lives_for(now).as_secs())
            .header("urgency", "high")
            .header("topic", &message.collapse)
            .body(body);
        match request.send().await {
            Ok(response) => outcome(response.status().as_u16(), retry_after(response.headers(), now)),
            Err(error) => unanswered(error),
        }
    }

    /// A token for the service behind a URL: one that was made before, as long as it is good.
    fn token(&self, url: &Url, now: Moment) -> anyhow::Result<String> {
        let origin = url.origin().ascii_serialization();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.get(&origin).filter(|token| token.expires_at > now + TOKEN_GOOD_FOR) {
            return Ok(token.text.clone());
        }
        let expires_at = now + TOKEN_LIVES;
        let claims = json!({ "aud": origin, "exp": expires_at.unix_timestamp(), "sub": self.contact });
        let text = self.key.sign(None, &claims)?;
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(origin, Token { text: text.clone(), expires_at });
        Ok(text)
    }
}

/// What a push service's answer means (RFC 8030). One that does not take our word speaks of this subscription, which may have
/// been made with another key, and whoever named the service may let it answer anything: nobody need look because of that.
fn outcome(status: u16, retry_after: Option<Duration>) -> Outcome {
    match status {
        200..=299 => Outcome::Sent,
        404 | 410 => Outcome::Gone(None),
        408 | 425 | 429 | 500..=599 => Outcome::Later(format!("the push service answers {status}"), retry_after),
        _ => Outcome::GivenUp(format!("the push service answers {status}")),
    }
}

/// Encrypts a text for a browser, with a key and a salt for this once.
///
/// # Errors
/// If it is too long, or the browser's key is none.
pub fn encrypt(keys: &Keys, text: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut salt = [0; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt)?;
    let padding = text.len().next_multiple_of(PADDED_TO_BYTES).min(TEXT_BYTES_MAX).saturating_sub(text.len());
    encrypt_with(&PrivateKey::generate(&ECDH_P256)?, salt, keys, text, padding)
}

fn encrypt_with(
    own: &PrivateKey,
    salt: [u8; SALT_BYTES],
    keys: &Keys,
    text: &[u8],
    padding: usize,
) -> anyhow::Result<Vec<u8>> {
    ensure!(text.len() + padding <= TEXT_BYTES_MAX, "{} bytes are too many", text.len());
    let own_public = own.compute_public_key()?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, &keys.p256dh);
    // RFC 8291, 3.4: the secret of the two keys, and the one that only the browser and we know.
    let secret = agreement::agree(own, peer, anyhow!("the browser's key is none"), |shared| {
        let info: [&[u8]; 3] = [b"WebPush: info\0", &keys.p256dh, own_public.as_ref()];
        derive(&Salt::new(HKDF_SHA256, &keys.auth).extract(shared), &info, 32)
    })?;
    // RFC 8188, 2.2 and 2.3: the key and the nonce of the first record, which is the only one.
    let record = Salt::new(HKDF_SHA256, &salt).extract(&secret);
    let key = derive(&record, &[b"Content-Encoding: aes128gcm\0"], AES_128_GCM.key_len())?;
    let nonce = derive(&record, &[b"Content-Encoding: nonce\0"], aws_lc_rs::aead::NONCE_LEN)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key)?);

    let mut sealed = [text, &[LAST_RECORD], &vec![0; padding]].concat();
    key.seal_in_place_append_tag(Nonce::try_assume_unique_for_key(&nonce)?, Aad::empty(), &mut sealed)?;
    let size = u32::try_from(BODY_BYTES_MAX)?.to_be_bytes();
    Ok([&salt[..], &size, &[POINT_BYTES as u8], own_public.as_ref(), &sealed].concat())
}

/// What stands behind the text of the last record, and before its padding.
const LAST_RECORD: u8 = 2;

/// How many bytes are derived.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn derive(from: &Prk, info: &[&[u8]], bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut derived = vec![0; bytes];
    from.expand(info, Bytes(bytes))?.fill(&mut derived)?;
    Ok(derived)
}

/// What a browser is given to subscribe with.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct PublicKeys {
    /// The `applicationServerKey` of `pushManager.subscribe`; none if this hub sends to no browser.
    pub vapid: Option<String>,
    /// The kinds of devices that this hub can send to: `web`, `fcm`, `apns`.
    pub kinds: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    fn browser() -> Keys {
        Keys {
            p256dh: base64("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            auth: base64("BTBZMqHH6r4Tts7J_aSIgg"),
        }
    }

    /// The example of RFC 8291, appendix A.
    #[test]
    fn encrypts_as_the_rfc_does() {
        let own =
            PrivateKey::from_private_key(&ECDH_P256, &base64("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw")).unwrap();
        let salt = base64("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let text = b"When I grow up, I want to be a watermelon";
        let body = encrypt_with(&own, salt, &browser(), text, 0).unwrap();
        assert_eq!(
            BASE64_URL_SAFE_NO_PAD.encode(body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_\
             yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
    }

    #[test]
    fn no_two_are_alike_and_their_length_says_little() {
        let [one, other] = [(); 2].map(|()| encrypt(&browser(), b"{}").unwrap());
        assert!(one != other && one[..SALT_BYTES] != other[..SALT_BYTES]);
        assert_eq!(one.len(), encrypt(&browser(), &[b'x'; PADDED_TO_BYTES]).unwrap().len());
        assert_eq!(encrypt(&browser(), &[b'x'; TEXT_BYTES_MAX]).unwrap().len(), BODY_BYTES_MAX);
        assert!(encrypt(&browser(), &[b'x'; TEXT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_key_is_a_point_on_the_curve() {
        let good = browser().p256dh;
        assert!(Keys::is_point(&good));
        let mut beside = good.clone();
        beside[64] ^= 1;
        let compressed = [&[2 + (good[64] & 1)], &good[1..33]].concat();
        for bad in [beside, compressed, good[..64].to_vec(), vec![0; 65], vec![0], vec![], [&good[..], &[0]].concat()] {
            assert!(!Keys::is_point(&bad), "{bad:?}");
        }
    }

    #[test]
    fn each_answer_means_one_thing() {
        for (status, word) in [
            (201, "sent"),
            (404, "gone"),
            (410, "gone"),
            (400, "given_up"),
            (413, "given_up"),
            (301, "given_up"),
            (401, "given_up"),
            (403, "given_up"),
            (429, "later"),
            (503, "later"),
        ] {
            assert_eq!(outcome(status, None).word(), word, "{status}");
        }
    }
}
