//! Seals: what a node hands out and any node must know again, so that nobody else can read it or make it up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use tokio_util::task::TaskTracker;

use super::source::Source;
use crate::batches::Batches;
use crate::error::Result;
use crate::screens::keys::Key;

/// How long nobody looks for a key that was not there.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);
const NONCE_BYTES: usize = 12;
const KEY_ID_BYTES: usize = 2;
/// How much of a mark is shown. Whoever guesses one in 2⁹⁶ has to ask us about each.
pub const MARK_BYTES: usize = 12;
/// What keys to mark with are derived for. One key for two ciphers would be one too few.
const MARKING: &[u8] = b"tillwire session";

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
    known: Arc<Mutex<Known>>,
    /// Those that many wait for.
    reads: Arc<Batches<(), (), Arc<Keys>>>,
}

#[derive(Default)]
struct Known {
    keys: Arc<Keys>,
    looked_at: Option<Instant>,
}

impl Known {
    /// What was read a moment ago.
    fn fresh(&self) -> Option<Arc<Keys>> {
        self.looked_at.filter(|at| at.elapsed() <= LOOK_AGAIN_AFTER).map(|_| self.keys.clone())
    }
}

impl Seals {
    pub fn new(source: Source, tasks: TaskTracker) -> Self {
        Self { source, known: Arc::default(), reads: Batches::new(usize::MAX, tasks) }
    }

    /// The keys; read once.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn keys(&self) -> Result<Arc<Keys>> {
        let keys = lock(&self.known).keys.clone();
        if keys.0.is_empty() { self.read_together().await } else { Ok(keys) }
    }

    /// The keys, read again: another node may seal with a newer one. `None` if they were read a moment ago.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read_again(&self) -> Result<Option<Arc<Keys>>> {
        let is_due = lock(&self.known).fresh().is_none();
        Ok(if is_due { Some(self.read_together().await?) } else { None })
    }

    /// The keys, read once for all who ask meanwhile. If that fails it fails for all of them, and who asks again has it tried
    /// again.
    async fn read_together(&self) -> Result<Arc<Keys>> {
        let (source, known) = (self.source.clone(), self.known.clone());
        let answer = move |asked: Vec<()>| {
            let (source, known) = (source.clone(), known.clone());
            async move {
                // Whoever asked while they were being read is given what was read.
                let fresh = lock(&known).fresh();
                let keys = match fresh {
                    Some(keys) => keys,
                    None => read(&source, &known).await?,
                };
                Ok(vec![keys; asked.len()])
            }
        };
        self.reads.ask((), (), answer).await
    }

    /// The keys, read now.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn read(&self) -> Result<Arc<Keys>> {
        read(&self.source, &self.known).await
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(source: &Source, known: &Mutex<Known>) -> Result<Arc<Keys>> {
    let keys = Arc::new(Keys::new(&source.keys().await?)?);
    *lock(known) = Known { keys: keys.clone(), looked_at: Some(Instant::now()) };
    Ok(keys)
}

/// Keys that are known, the newest last.
#[derive(Default)]
pub struct Keys(Vec<KeyPair>);

/// One key of the hub, as what it is used for.
struct KeyPair {
    id: i16,
    sealing: RandomizedNonceKey,
    marking: hmac::Key,
}

impl KeyPair {
    fn new(key: &Key) -> anyhow::Result<Self> {
        let bytes = key.bytes.expose_secret();
        let marking = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), MARKING);
        Ok(Self {
            id: key.id,
            sealing: RandomizedNonceKey::new(&AES_256_GCM, bytes)?,
            marking: hmac::Key::new(hmac::HMAC_SHA256, marking.as_ref()),
        })
    }
}

/// Says that one of us made a text that everyone may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The key that it was made with.
    pub key: i16,
    pub bytes: [u8; MARK_BYTES],
}

impl Keys {
    pub(super) fn new(keys: &[Key]) -> anyhow::Result<Self> {
        let keys: Vec<_> = keys.iter().map(KeyPair::new).collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(!keys.is_empty(), "the table gateway_keys is empty: insert 32 random bytes");
        Ok(Self(keys))
    }

    /// The key that marks are made with, the newest.
    pub fn marks_with(&self) -> Option<i16> {
        self.0.last().map(|key| key.id)
    }

    /// Marks a text with a key; `None` if it is not known.
    pub fn mark(&self, key: i16, text: &[u8]) -> Option<Mark> {
        let pair = self.0.iter().find(|known| known.id == key)?;
        let (mut bytes, tag) = ([0; MARK_BYTES], hmac::sign(&pair.marking, text));
        bytes.copy_from_slice(&tag.as_ref()[..MARK_BYTES]);
        Some(Mark { key, bytes })
    }

    /// Whether one of us marked this text so; `None` if the key is not known.
    pub fn is_marked(&self, mark: &Mark, text: &[u8]) -> Option<bool> {
        let ours = self.mark(mark.key, text)?;
        Some(constant_time::verify_slices_are_equal(&ours.bytes, &mark.bytes).is_ok())
    }

    /// Seals with the newest key: URL-safe text.
    pub fn seal(&self, purpose: Purpose, plain: &[u8]) -> anyhow::Result<String> {
        let key = self.0.last().ok_or_else(|| anyhow::anyhow!("no key to seal with"))?;
        let mut sealed = plain.to_vec();
        let nonce = key.sealing.seal_in_place_append_tag(Aad::from(purpose.name()), &mut sealed)?;
        let text = [key.id.to_be_bytes().as_slice(), nonce.as_ref(), &sealed].concat();
        Ok(BASE64_URL_SAFE_NO_PAD.encode(text))
    }

    /// Opens what one of these keys sealed for this purpose.
    pub fn open(&self, purpose: Purpose, text: &str) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (id, rest) = bytes.split_first_chunk::<KEY_ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let key = self.0.iter().find(|key| key.id == i16::from_be_bytes(*id))?;
        let mut sealed = sealed.to_vec();
        let plain = key.sealing.open_in_place(Nonce::from(nonce), Aad::from(purpose.name()), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn keys(ids: &[i16]) -> Keys {
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

    #[test]
    fn a_mark_is_of_one_key_and_one_text() {
        let mark = keys(&[1]).mark(1, b"here").unwrap();
        assert_eq!(keys(&[1, 2]).is_marked(&mark, b"here"), Some(true));
        assert_eq!(keys(&[1]).is_marked(&mark, b"there"), Some(false));
        assert_eq!(keys(&[1, 2]).is_marked(&Mark { key: 2, ..mark }, b"here"), Some(false));
        assert_eq!(keys(&[2]).is_marked(&mark, b"here"), None, "a key that is not known");
        assert_eq!((keys(&[1, 2]).marks_with(), Keys::default().marks_with()), (Some(2), None));
    }
}
