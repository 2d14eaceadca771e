//! Seals: what a node hands out and any node must know again, so that nobody else can read it or make it up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;

use super::source::Source;
use crate::error::Result;
use crate::screens::keys::Key;

/// How long nobody looks for a key that was not there.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);
const NONCE_BYTES: usize = 12;
const KEY_ID_BYTES: usize = 2;

/// What a seal is for: one made for something else does not open.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// The private id of a screen's connection.
    Pid,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Pid => "tillwire pid",
        }
    }
}

/// The keys of the hub, read from the database when they are first needed.
pub struct Seals {
    source: Source,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Arc<Keys>,
    looked_at: Option<Instant>,
}

impl Seals {
    pub fn new(source: Source) -> Self {
        Self { source, known: Mutex::default() }
    }

    /// The keys; read once.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn keys(&self) -> Result<Arc<Keys>> {
        let keys = self.known.lock().unwrap_or_else(PoisonError::into_inner).keys.clone();
        if keys.0.is_empty() { self.read().await } else { Ok(keys) }
    }

    /// The keys, read again: another node may seal with a newer one. `None` if they were read a moment ago.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read_again(&self) -> Result<Option<Arc<Keys>>> {
        let is_due = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.looked_at.is_none_or(|at| at.elapsed() > LOOK_AGAIN_AFTER)
        };
        Ok(if is_due { Some(self.read().await?) } else { None })
    }

    async fn read(&self) -> Result<Arc<Keys>> {
        let keys = Arc::new(Keys::new(&self.source.keys().await?)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { keys: keys.clone(), looked_at: Some(Instant::now()) };
        Ok(keys)
    }
}

/// Keys that are known, the newest last.
#[derive(Default)]
pub struct Keys(Vec<(i16, RandomizedNonceKey)>);

impl Keys {
    fn new(keys: &[Key]) -> anyhow::Result<Self> {
        let key = |key: &Key| Ok((key.id, RandomizedNonceKey::new(&AES_256_GCM, key.bytes.expose_secret())?));
        let keys: Vec<_> = keys.iter().map(key).collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(!keys.is_empty(), "the table gateway_keys is empty: insert 32 random bytes");
        Ok(Self(keys))
    }

    /// Seals with the newest key: URL-safe text.
    pub fn seal(&self, purpose: Purpose, plain: &[u8]) -> anyhow::Result<String> {
        let (id, key) = self.0.last().ok_or_else(|| anyhow::anyhow!("no key to seal with"))?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(purpose.name()), &mut sealed)?;
        let text = [id.to_be_bytes().as_slice(), nonce.as_ref(), &sealed].concat();
        Ok(BASE64_URL_SAFE_NO_PAD.encode(text))
    }

    /// Opens what one of these keys sealed for this purpose.
    pub fn open(&self, purpose: Purpose, text: &str) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, rest) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (_, key) = self.0.iter().find(|(known, _)| *known == i16::from_be_bytes(*id))?;
        let mut sealed = sealed.to_vec();
        let plain = key.open_in_place(Nonce::from(nonce), Aad::from(purpose.name()), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[i16]) -> Keys {
        let key = |id: &i16| Key { id: *id, bytes: vec![u8::try_from(*id).unwrap(); 32].into() };
        Keys::new(&ids.iter().map(key).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_on_any_node_that_knows_the_key() {
        let text = keys(&[1]).seal(Purpose::Pid, b"sales").unwrap();
        assert_eq!(keys(&[1, 2]).open(Purpose::Pid, &text).unwrap(), b"sales");
        assert_eq!(keys(&[2]).open(Purpose::Pid, &text), None, "a key that is gone");
        assert_ne!(keys(&[1]).seal(Purpose::Pid, b"sales").unwrap(), text, "a nonce is used once");
    }

    #[test]
    fn what_was_changed_cut_or_made_up_does_not_open() {
        let keys = keys(&[1]);
        let text = keys.seal(Purpose::Pid, b"sales").unwrap();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character's lowest bits are padding: another text may mean the same bytes.
            assert!(at + 1 == text.len() || keys.open(Purpose::Pid, &changed).is_none(), "{at}");
            assert!(keys.open(Purpose::Pid, &text[..at]).is_none(), "{at}");
        }
        for text in ["", "!", "AAE", "AAEAAAAAAAAAAAAAAAAA"] {
            assert!(keys.open(Purpose::Pid, text).is_none(), "{text}");
        }
        assert!(Keys::new(&[]).is_err());
    }
}
