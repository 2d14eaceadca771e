//! P-256 keys that operators give us in a file: Web Push's VAPID key and Apple's.

use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// How a point that is not compressed begins.
const UNCOMPRESSED: u8 = 4;

/// A private key, and its public point.
pub struct SigningKey {
    key: EncodingKey,
    public: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    /// Reads one: PKCS#8 in PEM.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let pem = std::fs::read(path).with_context(|| format!("reading the key {}", path.display()))?;
        Self::of_pem(&pem).with_context(|| format!("{} is no P-256 private key in PKCS#8 PEM", path.display()))
    }

    fn of_pem(pem: &[u8]) -> anyhow::Result<Self> {
        let key = EncodingKey::from_ec_pem(pem)?;
        let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256)?;
        let AlgorithmParameters::EllipticCurve(point) = jwk.algorithm else { bail!("another kind of key") };
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.decode(point.x)?, BASE64_URL_SAFE_NO_PAD.decode(point.y)?);
        Ok(Self { key, public: [&[UNCOMPRESSED], &*x, &*y].concat() })
    }

    /// The public point, not compressed.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// A JWT that says this, signed with ES256.
    pub fn sign(&self, key_id: Option<&str>, claims: &impl Serialize) -> anyhow::Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = key_id.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.key).context("signing a token")
    }
}

#[cfg(test)]
pub mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn the_public_point_is_the_keys_own_and_the_private_one_is_shown_nowhere() {
        crate::identity::tokens::install_crypto();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let body = base64::prelude::BASE64_STANDARD.encode(pkcs8.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let key = SigningKey::of_pem(pem.as_bytes()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        assert_eq!(key.public(), pair.public_key().as_ref());
        assert_eq!(format!("{key:?}"), "SigningKey(…)");
        for pem in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(SigningKey::of_pem(pem.as_bytes()).is_err(), "{pem}");
        }
    }
}
