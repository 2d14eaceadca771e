//! The vault: secrets that are kept sealed.
//!
//! An envelope: what a merchant's secrets are [sealed](sealed) with is a data key, the merchant's own, and a row as well. That
//! is sealed with a [vault key](keys), which nodes have and the database has not. So whoever has only the database has no
//! secret; and to change the vault key, data keys are [sealed anew](rotation) and nothing else is touched.
//!
//! A node without a vault key serves merchants of whom nothing is sealed, as ever. Where something is, it says so and does
//! nothing: what one node sealed, no other keeps in clear.

pub mod keys;
pub mod rotation;
mod rows;
pub mod sealed;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::hmac;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretSlice};
use sqlx::{PgConnection, PgPool};
use tillwire_channels::MerchantId;
use tracing::warn;
use uuid::Uuid;

use self::keys::{Source, VaultKeys};
use self::rows::Row;
pub use self::rows::{Needed, merchants_in_clear, needed};
use self::sealed::{Cipher, KEY_BYTES};
pub use self::sealed::{Found, Place, Sealed};
use crate::error::{Error, Result};
use crate::journal::pool;

/// For how long a merchant's data keys are known without a look at their rows. A database that was restored may have lost one.
pub const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Of how many merchants they are known at once.
const KNOWN_MAX: usize = 4_096;
/// The most data keys of one merchant that are read.
const OF_MERCHANT_MAX: i64 = 100;
/// How often it is said that something cannot be opened here.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Why something could not be sealed or opened.
const FAILURES: [&str; 3] = ["no_key", "unknown_key", "broken"];
/// What a data key's second use is derived for. One key for two ciphers would be one too few.
const MARKING: &[u8] = b"tillwire mark";

/// The vault of a node.
pub struct Vault {
    keys: VaultKeys,
    known: Mutex<HashMap<MerchantId, Known>>,
    voice: Arc<Voice>,
}

/// What is said aloud, now and then: those who meet it are many, come again every second, and most of them say nothing.
#[derive(Default)]
struct Voice {
    closed_at: Mutex<Option<Instant>>,
    broken_at: Mutex<Option<Instant>>,
}

impl Voice {
    /// This node lacks a key.
    fn closed(&self, why: &'static str, detail: &str) {
        metrics::counter!("tillwire_vault_failures_total", "why" => why).increment(1);
        if is_due(&self.closed_at) {
            warn!("Something could not be sealed or opened. {detail}");
        }
    }

    /// A sealed value that does not open with its own key is somebody's work, or the disk's.
    fn broken(&self, error: &anyhow::Error) {
        metrics::counter!("tillwire_vault_failures_total", "why" => "broken").increment(1);
        if is_due(&self.broken_at) {
            warn!("Something sealed does not open: {error:#}");
        }
    }
}

fn is_due(said_at: &Mutex<Option<Instant>>) -> bool {
    let mut said_at = lock(said_at);
    let is_due = said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY);
    if is_due {
        *said_at = Some(Instant::now());
    }
    is_due
}

struct Known {
    read_at: Instant,
    ring: Arc<Keyring>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({:?})", self.keys)
    }
}

impl Vault {
    /// # Errors
    /// If a key that is named cannot be read.
    pub fn open(source: &Source) -> anyhow::Result<Self> {
        for why in FAILURES {
            metrics::counter!("tillwire_vault_failures_total", "why" => why).increment(0);
        }
        Ok(Self { keys: VaultKeys::open(source)?, known: Mutex::default(), voice: Arc::default() })
    }

    /// The vault keys of this node.
    pub fn keys(&self) -> &VaultKeys {
        &self.keys
    }

    /// What a merchant's secrets are sealed with from now on, before the transaction in which they are kept: its first data
    /// key is made, and committed, where there is none. `None` where secrets are kept in clear, because this node has no vault
    /// key and nothing of this merchant's is sealed. `app` is the application's pool.
    ///
    /// # Errors
    /// `vault_unavailable` if this node has not the vault key for it.
    pub async fn sealer(&self, app: &PgPool, merchant: MerchantId) -> Result<Option<Arc<Keyring>>> {
        if let Some(ring) = self.fresh(merchant).filter(|ring| ring.seals()) {
            return Ok(Some(ring));
        }
        let mut sql = pool::begin_of(app, merchant).await?;
        let mut rows = rows::all(&mut sql, merchant, OF_MERCHANT_MAX).await?;
        match self.keys.first() {
            None if rows.is_empty() => return Ok(None),
            None => return Err(self.no_key()),
            Some(_) if !rows.is_empty() => {}
            Some(first) => {
                // Of two that find none, one makes it.
                rows::take_turn(&mut sql, merchant).await?;
                rows = rows::all(&mut sql, merchant, OF_MERCHANT_MAX).await?;
                if rows.is_empty() {
                    let (key, mut bytes) = (Uuid::now_v7(), Zeroizing::new([0_u8; KEY_BYTES]));
                    aws_lc_rs::rand::fill(bytes.as_mut_slice()).ok().context("no randomness")?;
                    let sealed = first.seal(merchant, key, bytes.as_slice())?;
                    rows.push(
                        rows::insert(&mut sql, merchant, Row { key, vault_key: first.id.clone(), sealed }).await?,
                    );
                }
            }
        }
        // Known only when it is committed: what is sealed with a key that is lost is lost as well.
        sql.commit().await?;
        let ring = self.learn(merchant, &rows);
        match rows.last() {
            Some(newest) if !ring.seals() => Err(self.unknown_key(&newest.vault_key)),
            _ => Ok(Some(ring)),
        }
    }

    /// The same where nothing is kept in clear.
    ///
    /// # Errors
    /// `vault_unavailable` if this node has no vault key, or not the one for it.
    pub async fn sealer_for_sure(&self, app: &PgPool, merchant: MerchantId) -> Result<Arc<Keyring>> {
        self.sealer(app, merchant).await?.ok_or_else(|| self.no_key())
    }

    /// A merchant's data keys, these among them, to open with. Costs nothing for a minute after the first time.
    ///
    /// # Errors
    /// `vault_unavailable` if this node cannot open one of these.
    pub async fn keyring(&self, sql: &mut PgConnection, merchant: MerchantId, these: &[Uuid]) -> Result<Arc<Keyring>> {
        if these.is_empty() {
            return Ok(Arc::new(Keyring { merchant, keys: Vec::new(), voice: self.voice.clone() }));
        }
        if self.keys.is_empty() {
            return Err(self.no_key());
        }
        let has_all = |ring: &Arc<Keyring>| these.iter().all(|key| ring.find(*key).is_some());
        if let Some(ring) = self.fresh(merchant).filter(has_all) {
            return Ok(ring);
        }
        let rows = rows::all(sql, merchant, OF_MERCHANT_MAX).await?;
        let ring = self.learn(merchant, &rows);
        let Some(missing) = these.iter().find(|key| ring.find(**key).is_none()) else { return Ok(ring) };
        match rows.iter().find(|row| row.key == *missing) {
            Some(row) => Err(self.unknown_key(&row.vault_key)),
            None => {
                let error = anyhow!("there is no data key {missing} of {merchant}");
                self.voice.broken(&error);
                Err(error.into())
            }
        }
    }

    /// Opens one sealed value of a merchant's.
    ///
    /// # Errors
    /// `vault_unavailable` if this node has not the vault key for it; [`Error::Internal`] if it was changed or moved.
    pub async fn unseal(
        &self,
        sql: &mut PgConnection,
        merchant: MerchantId,
        place: Place<'_>,
        sealed: &Sealed,
    ) -> Result<SecretSlice<u8>> {
        let ring = self.keyring(sql, merchant, &[sealed.key]).await?;
        Ok(ring.open(place, sealed)?)
    }

    fn fresh(&self, merchant: MerchantId) -> Option<Arc<Keyring>> {
        let known = lock(&self.known);
        known.get(&merchant).filter(|it| it.read_at.elapsed() < KNOWN_FOR).map(|it| it.ring.clone())
    }

    /// Opens what can be opened of a merchant's data keys, and keeps it in mind.
    fn learn(&self, merchant: MerchantId, rows: &[Row]) -> Arc<Keyring> {
        let open = |row: &Row| {
            let vault_key = self.keys.find(&row.vault_key)?;
            let opened = vault_key.open(merchant, row.key, &row.sealed).and_then(|bytes| DataKey::new(row.key, &bytes));
            match opened {
                Ok(key) => Some(key),
                Err(error) => {
                    self.voice.broken(&error);
                    None
                }
            }
        };
        let keys = rows.iter().filter_map(open).collect();
        let ring = Arc::new(Keyring { merchant, keys, voice: self.voice.clone() });
        let mut known = lock(&self.known);
        if known.len() >= KNOWN_MAX && !known.contains_key(&merchant) {
            known.retain(|_, it| it.read_at.elapsed() < KNOWN_FOR);
            let oldest = known.iter().min_by_key(|(_, it)| it.read_at).map(|(merchant, _)| *merchant);
            if known.len() >= KNOWN_MAX
                && let Some(oldest) = oldest
            {
                known.remove(&oldest);
            }
        }
        known.insert(merchant, Known { read_at: Instant::now(), ring: ring.clone() });
        ring
    }

    fn no_key(&self) -> Error {
        let detail = "This is kept sealed, and this node has no key to do so: whoever runs it can give it one, with \
                      --vault-key-file.";
        self.unavailable("no_key", detail.to_owned())
    }

    fn unknown_key(&self, id: &str) -> Error {
        let detail = format!(
            "This needs the vault key {id}, which this node does not have, or what it sealed has changed: whoever runs it can \
             give it that one as well, with --vault-key-file."
        );
        self.unavailable("unknown_key", detail)
    }

    fn unavailable(&self, why: &'static str, detail: String) -> Error {
        self.voice.closed(why, &detail);
        Error::conflict("vault_unavailable", detail)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A merchant's data keys, as far as this node can open them; the newest last.
pub struct Keyring {
    merchant: MerchantId,
    keys: Vec<DataKey>,
    voice: Arc<Voice>,
}

/// Bytes of keys are forgotten by whoever drops them: what is kept here is the cipher's own, which it wipes.
struct DataKey {
    id: Uuid,
    cipher: Cipher,
    marking: hmac::Key,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys of {})", self.keys.len(), self.merchant)
    }
}

impl DataKey {
    fn new(id: Uuid, bytes: &SecretSlice<u8>) -> anyhow::Result<Self> {
        let bytes = bytes.expose_secret();
        let marking = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), MARKING);
        Ok(Self { id, cipher: Cipher::new(bytes)?, marking: hmac::Key::new(hmac::HMAC_SHA256, marking.as_ref()) })
    }
}

impl Keyring {
    fn seals(&self) -> bool {
        !self.keys.is_empty()
    }

    fn find(&self, key: Uuid) -> Option<&DataKey> {
        self.keys.iter().find(|known| known.id == key)
    }

    /// Seals a secret for a place of this merchant's.
    ///
    /// # Errors
    /// If it is too long, or there is no randomness.
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> anyhow::Result<Sealed> {
        let newest = self.keys.last().context("no key to seal with")?;
        let bytes = newest.cipher.seal(self.merchant, newest.id, place, secret)?;
        Ok(Sealed { key: newest.id, bytes })
    }

    /// Opens what is kept at a place of this merchant's.
    ///
    /// # Errors
    /// If it was sealed for another, was changed, or is sealed with a key that [`Vault::keyring`] was not asked for.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> anyhow::Result<SecretSlice<u8>> {
        let key = self.find(sealed.key).with_context(|| format!("no data key {}", sealed.key))?;
        let opened = key.cipher.open(self.merchant, key.id, place, &sealed.bytes);
        opened.inspect_err(|error| self.voice.broken(error))
    }

    /// What a text is found by while it is sealed: a keyed hash, by the newest key.
    pub fn mark(&self, text: &[&[u8]]) -> anyhow::Result<Vec<u8>> {
        Ok(self.keys.last().context("no key to mark with")?.mark(text))
    }

    /// All that it may be found by: the hash by each key.
    pub fn marks(&self, text: &[&[u8]]) -> Vec<Vec<u8>> {
        self.keys.iter().map(|key| key.mark(text)).collect()
    }
}

impl DataKey {
    fn mark(&self, text: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.marking);
        for part in text {
            // Lengths between the parts, so that no two texts read alike.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(bytes: &[u8]) -> Vault {
        use base64::Engine as _;
        let text = |byte: &u8| base64::prelude::BASE64_STANDARD.encode([*byte; KEY_BYTES]).into();
        Vault::open(&Source { files: Vec::new(), keys: bytes.iter().map(text).collect() }).unwrap()
    }

    fn row(vault: &Vault, merchant: MerchantId, byte: u8) -> Row {
        let (first, key) = (vault.keys.first().unwrap(), Uuid::now_v7());
        let sealed = first.seal(merchant, key, &[byte; KEY_BYTES]).unwrap();
        Row { key, vault_key: first.id.clone(), sealed }
    }

    const ROW: [Uuid; 1] = [Uuid::nil()];
    const PLACE: Place<'_> = Place { table: "table", column: "column", row: &ROW };

    #[test]
    fn any_node_with_the_vault_key_opens_what_another_sealed_and_no_other() {
        let (one, two, other) = (vault(&[1]), vault(&[2, 1]), vault(&[3]));
        let merchant = MerchantId::new();
        let rows = [row(&one, merchant, 7), row(&one, merchant, 8)];
        let sealed = one.learn(merchant, &rows[..1]).seal(PLACE, b"hush").unwrap();
        let ring = two.learn(merchant, &rows);
        assert_eq!(ring.open(PLACE, &sealed).unwrap().expose_secret(), b"hush");
        assert_eq!((sealed.key, ring.seal(PLACE, b"").unwrap().key), (rows[0].key, rows[1].key), "the newest seals");
        assert!(!other.learn(merchant, &rows).seals() && other.learn(merchant, &rows).open(PLACE, &sealed).is_err());
        // A data key of another merchant's, in its own rows, is none.
        assert!(!two.learn(MerchantId::new(), &rows).seals());
        let marks = ring.marks(&[b"a", b"b"]);
        assert_eq!((marks.len(), &ring.mark(&[b"a", b"b"]).unwrap()), (2, &marks[1]));
        assert!(marks[0] != marks[1] && ring.marks(&[b"ab", b""]) != marks);
    }

    #[test]
    fn the_keys_of_so_many_merchants_are_known_and_none_is_shown() {
        let vault = vault(&[1]);
        for _ in 0..KNOWN_MAX + 10 {
            vault.learn(MerchantId::new(), &[]);
        }
        let merchant = MerchantId::new();
        let row = row(&vault, merchant, 7);
        let ring = vault.learn(merchant, std::slice::from_ref(&row));
        assert_eq!(lock(&vault.known).len(), KNOWN_MAX);
        assert!(vault.fresh(merchant).is_some() && vault.fresh(MerchantId::new()).is_none());
        let shown = format!("{vault:?} {ring:?} {:?}", ring.seal(PLACE, b"hush").unwrap());
        assert!(!shown.contains("hush") && !shown.contains("1, 1") && !shown.contains("7, 7"), "{shown}");
    }
}
