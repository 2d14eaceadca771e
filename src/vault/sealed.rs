//! What is sealed: AES-256-GCM with a nonce drawn anew each time, bound to the place where it is kept.
//!
//! Sealed bytes are a version (1), the nonce (12 bytes), the ciphertext, and its tag (16 bytes).

use std::fmt;

use anyhow::{Context as _, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use secrecy::SecretSlice;
use secrecy::zeroize::Zeroizing;
use tillwire_channels::MerchantId;
use uuid::Uuid;

/// How many bytes a key has.
pub const KEY_BYTES: usize = 32;
/// The version of what is sealed now. Another one may be sealed otherwise, and be told by it.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// How much longer what is sealed is than what was to be.
pub const OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;
/// The longest that is sealed, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Something sealed, as its row has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The data key that opens it.
    pub key: Uuid,
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes with {})", self.bytes.len(), self.key)
    }
}

impl Sealed {
    /// From a row's two columns, if it has them.
    pub fn of(key: Option<Uuid>, bytes: Option<Vec<u8>>) -> Option<Self> {
        Some(Self { key: key?, bytes: bytes? })
    }
}

/// Something sealed and where it was found, for whoever looks whether all of it opens.
#[derive(Debug)]
pub struct Found {
    pub table: &'static str,
    pub column: &'static str,
    pub row: Vec<Uuid>,
    pub sealed: Sealed,
}

impl Found {
    pub fn place(&self) -> Place<'_> {
        Place { table: self.table, column: self.column, row: &self.row }
    }
}

/// Where something sealed is kept, its merchant aside. It opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub table: &'static str,
    pub column: &'static str,
    /// The row's key, its merchant aside.
    pub row: &'a [Uuid],
}

impl Place<'_> {
    /// What was found there.
    pub fn found(&self, sealed: Sealed) -> Found {
        Found { table: self.table, column: self.column, row: self.row.to_vec(), sealed }
    }

    /// What is part of the seal and not sealed: no two places, merchants or keys read alike.
    fn bound(&self, merchant: MerchantId, key: Uuid) -> Vec<u8> {
        let mut bound = b"tillwire vault\0".to_vec();
        bound.push(VERSION);
        for name in [self.table, self.column] {
            bound.extend_from_slice(name.as_bytes());
            bound.push(0);
        }
        for id in [&merchant.0, &key].into_iter().chain(self.row) {
            bound.extend_from_slice(id.as_bytes());
        }
        bound
    }
}

/// A key, ready to seal and open.
pub struct Cipher(RandomizedNonceKey);

impl Cipher {
    /// # Errors
    /// If the key is none.
    pub fn new(key: &[u8]) -> anyhow::Result<Self> {
        ensure!(key.len() == KEY_BYTES, "a key has {KEY_BYTES} bytes");
        Ok(Self(RandomizedNonceKey::new(&AES_256_GCM, key).ok().context("a key that is none")?))
    }

    /// Seals a secret for a place. `key` is this key's id, where it has one.
    ///
    /// # Errors
    /// If the secret is too long, or there is no randomness.
    pub fn seal(&self, merchant: MerchantId, key: Uuid, place: Place<'_>, secret: &[u8]) -> anyhow::Result<Vec<u8>> {
        ensure!(secret.len() <= SECRET_BYTES_MAX, "a secret has {SECRET_BYTES_MAX} bytes at most");
        // With room for the tag: grown, it would leave the secret behind in memory that was let go of.
        let mut text = Vec::with_capacity(secret.len() + TAG_BYTES);
        text.extend_from_slice(secret);
        let bound = Aad::from(place.bound(merchant, key));
        let nonce = self.0.seal_in_place_append_tag(bound, &mut text).ok().context("sealing")?;
        Ok([[VERSION].as_slice(), nonce.as_ref(), &text].concat())
    }

    /// Opens what this key sealed for this place.
    ///
    /// # Errors
    /// If it did not: the key is another, or so is the place, or what was sealed has changed.
    pub fn open(
        &self,
        merchant: MerchantId,
        key: Uuid,
        place: Place<'_>,
        sealed: &[u8],
    ) -> anyhow::Result<SecretSlice<u8>> {
        let Place { table, column, row } = place;
        let what = || format!("{column} of {table}, row {row:?} of {merchant},");
        let failed = || format!("{} does not open: it was changed or moved", what());
        let (version, rest) = sealed.split_first().with_context(failed)?;
        ensure!(*version == VERSION, "{} has version {version}", what());
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().with_context(failed)?;
        let mut text = Zeroizing::new(text.to_vec());
        let bound = Aad::from(place.bound(merchant, key));
        let secret = self.0.open_in_place(Nonce::from(nonce), bound, &mut text).ok().with_context(failed)?;
        Ok(secret.to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    fn place(row: &[Uuid]) -> Place<'_> {
        Place { table: "provider_accounts", column: "sealed", row }
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_and_in_no_other() {
        let (cipher, merchant, key, row) =
            (Cipher::new(&KEY).unwrap(), MerchantId::new(), Uuid::new_v4(), [Uuid::new_v4()]);
        let sealed = cipher.seal(merchant, key, place(&row), b"hush").unwrap();
        assert_eq!(sealed.len(), 4 + OVERHEAD_BYTES);
        assert_eq!(cipher.open(merchant, key, place(&row), &sealed).unwrap().expose_secret(), b"hush");
        assert_ne!(cipher.seal(merchant, key, place(&row), b"hush").unwrap(), sealed, "a nonce is used once");

        let (other, rows) = (Uuid::new_v4(), [row[0], row[0]]);
        for (merchant, key, place) in [
            (MerchantId(other), key, place(&row)),
            (merchant, other, place(&row)),
            (merchant, key, place(&[other])),
            (merchant, key, place(&[])),
            (merchant, key, place(&rows)),
            (merchant, key, Place { table: "webhook_secrets", ..place(&row) }),
            (merchant, key, Place { column: "other", ..place(&row) }),
            // Where one name ends and the next begins is part of it.
            (merchant, key, Place { table: "provider_accountss", column: "ealed", row: &row }),
        ] {
            let error = cipher.open(merchant, key, place, &sealed).unwrap_err();
            assert!(format!("{error:#}").contains("changed or moved"), "{error:#}");
        }
        let another = Cipher::new(&[8; KEY_BYTES]).unwrap();
        assert!(another.open(merchant, key, place(&row), &sealed).is_err());
    }

    #[test]
    fn what_was_changed_or_cut_does_not_open_and_nothing_panics() {
        let (cipher, merchant, key, row) =
            (Cipher::new(&KEY).unwrap(), MerchantId::new(), Uuid::new_v4(), [Uuid::new_v4()]);
        let sealed = cipher.seal(merchant, key, place(&row), b"hush").unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(cipher.open(merchant, key, place(&row), &changed).is_err(), "{at}");
            assert!(cipher.open(merchant, key, place(&row), &sealed[..at]).is_err(), "{at}");
        }
        assert!(Cipher::new(&KEY[1..]).is_err());
        assert!(cipher.seal(merchant, key, place(&row), &vec![0; SECRET_BYTES_MAX + 1]).is_err());
    }
}
