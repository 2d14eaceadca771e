//! Bearer tokens: JWTs signed with EdDSA or ES256, every claim checked.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tillwire_channels::{MerchantId, Moment, OutletId, RegisterId, Role, StaffId};
use time::OffsetDateTime;

use super::Staff;
use crate::error::{Error, Result};

/// The only `typ` of a token that opens anything (RFC 9068).
const TYPE: &str = "at+jwt";
/// How far clocks may differ.
const LEEWAY_SECONDS: u64 = 5;
/// The longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// The longest life of a token.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Keys made by `tillwire demo` say so in their id, and `serve` refuses them.
pub const DEMO_KEY_PREFIX: &str = "demo-";

/// Chooses the cryptography, once for the process. First thing in `main` and in tests.
pub fn install_crypto() {
    // It is chosen already: by an earlier test of the same process.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: StaffId,
    jti: uuid::Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
    merchant: MerchantId,
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outlets: Vec<OutletId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    register: Option<RegisterId>,
}

/// Whom a token is for.
#[derive(Clone, Debug)]
pub struct Bearer {
    pub merchant: MerchantId,
    pub staff: StaffId,
    pub role: Role,
    pub outlets: Vec<OutletId>,
    pub register: Option<RegisterId>,
}

/// Who issues tokens, and for whom.
#[derive(Clone, Debug)]
pub struct Realm {
    pub issuer: String,
    pub audience: String,
}

/// Makes tokens. Holds a private key: only `tillwire token` and `tillwire demo` have one.
pub struct Signer {
    realm: Realm,
    key: EncodingKey,
    algorithm: Algorithm,
    id: String,
}

impl Signer {
    /// Reads a private key: PKCS#8 in PEM, Ed25519 or P-256. Its id is the thumbprint of its public part (RFC 7638).
    pub fn open(path: &Path, realm: Realm) -> anyhow::Result<Self> {
        let pem = std::fs::read(path).with_context(|| format!("reading the signing key {}", path.display()))?;
        let (key, algorithm) = match EncodingKey::from_ed_pem(&pem) {
            Ok(key) => (key, Algorithm::EdDSA),
            Err(_) => match EncodingKey::from_ec_pem(&pem) {
                Ok(key) => (key, Algorithm::ES256),
                Err(_) => bail!("{} is no Ed25519 or P-256 private key in PKCS#8 PEM", path.display()),
            },
        };
        let mut signer = Self { realm, key, algorithm, id: String::new() };
        let thumbprint = signer.public_key()?.thumbprint(ThumbprintHash::SHA256)?;
        let prefix = if pem.starts_with(DEMO_MARK) { DEMO_KEY_PREFIX } else { "" };
        signer.id = format!("{prefix}{thumbprint}");
        Ok(signer)
    }

    /// The public part, as a verifier wants it.
    pub fn public_key(&self) -> anyhow::Result<Jwk> {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).context("deriving the public key")?;
        jwk.common.key_id = Some(self.id.clone());
        Ok(jwk)
    }

    /// The public part as a set, for a file that a verifier opens.
    pub fn public_keys(&self) -> anyhow::Result<JwkSet> {
        Ok(JwkSet { keys: vec![self.public_key()?] })
    }

    /// Makes a token that lives for `ttl` from now.
    pub fn mint(&self, bearer: &Bearer, ttl: Duration) -> anyhow::Result<String> {
        ensure!(ttl <= TTL_MAX, "a token lives for {} hours at most", TTL_MAX.as_secs() / 3600);
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let claims = Claims {
            iss: self.realm.issuer.clone(),
            aud: self.realm.audience.clone(),
            sub: bearer.staff,
            jti: uuid::Uuid::new_v4(),
            iat: now,
            nbf: now,
            exp: now + i64::try_from(ttl.as_secs())?,
            merchant: bearer.merchant,
            role: bearer.role,
            outlets: bearer.outlets.clone(),
            register: bearer.register,
        };
        let mut header = Header::new(self.algorithm);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).context("signing a token")
    }
}

/// Marks the demo's key file. A comment before the PEM block is allowed by RFC 7468.
const DEMO_MARK: &[u8] = b"# tillwire demo key";

/// Writes a new Ed25519 private key, readable by its owner only. An existing file is never overwritten.
pub fn write_new_key(path: &Path, for_demo: bool) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use aws_lc_rs::signature::Ed25519KeyPair;
    use base64::Engine;

    // The v1 form: the later one cannot be turned into a JWK.
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new())?;
    let mark = if for_demo { [DEMO_MARK, b": refused by every other role\n"].concat() } else { Vec::new() };
    let body = base64::engine::general_purpose::STANDARD.encode(pkcs8.as_ref());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("writing a new signing key to {}", path.display()))?;
    file.write_all(&mark)?;
    writeln!(file, "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----")?;
    file.sync_all()?;
    Ok(())
}

/// Checks tokens against configured public keys.
pub struct Verifier {
    realm: Realm,
    keys: HashMap<String, (DecodingKey, Algorithm)>,
}

impl Verifier {
    /// Trusts these keys and no others: headers that bring a key or name an address are not looked at.
    pub fn new(realm: Realm, set: &JwkSet) -> anyhow::Result<Self> {
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let id = jwk.common.key_id.clone().context("a key without `kid`")?;
            let algorithm = match (jwk.common.key_algorithm, &jwk.algorithm) {
                (Some(KeyAlgorithm::EdDSA), AlgorithmParameters::OctetKeyPair(_)) => Algorithm::EdDSA,
                (Some(KeyAlgorithm::ES256), AlgorithmParameters::EllipticCurve(key))
                    if key.curve == EllipticCurve::P256 =>
                {
                    Algorithm::ES256
                }
                _ => bail!("key {id} must be Ed25519 with `alg` EdDSA, or P-256 with `alg` ES256"),
            };
            let key = DecodingKey::from_jwk(jwk).with_context(|| format!("key {id}"))?;
            ensure!(keys.insert(id.clone(), (key, algorithm)).is_none(), "two keys are called {id}");
        }
        ensure!(!keys.is_empty(), "no key to verify tokens with");
        Ok(Self { realm, keys })
    }

    /// Reads the keys from a JWK set in a file.
    pub fn open(path: &Path, realm: Realm) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("reading the token keys {}", path.display()))?;
        let set: JwkSet = serde_json::from_slice(&text).with_context(|| format!("{} is no JWK set", path.display()))?;
        Self::new(realm, &set)
    }

    /// Whether any of the keys is the demo's, which is lying in a data directory unprotected.
    pub fn trusts_demo(&self) -> bool {
        self.keys.keys().any(|id| id.starts_with(DEMO_KEY_PREFIX))
    }

    /// Checks signature, type and every claim. The error says what was wrong, in a word.
    pub fn verify(&self, token: &str) -> Result<Staff> {
        let bad = Error::Unauthenticated;
        if token.len() > TOKEN_BYTES_MAX || !is_compact_jws(token) {
            return Err(bad("token_malformed"));
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| bad("token_malformed"))?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(bad("token_type"));
        }
        let Some((key, algorithm)) = header.kid.as_ref().and_then(|id| self.keys.get(id)) else {
            return Err(bad("token_key_unknown"));
        };
        let mut rules = Validation::new(*algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.realm.issuer]);
        rules.set_audience(&[&self.realm.audience]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &rules)
            .map_err(|error| {
                use jsonwebtoken::errors::ErrorKind;
                bad(match error.kind() {
                    ErrorKind::ExpiredSignature => "token_expired",
                    ErrorKind::ImmatureSignature => "token_not_yet_valid",
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => "token_signature",
                    ErrorKind::InvalidIssuer => "token_issuer",
                    ErrorKind::InvalidAudience => "token_audience",
                    _ => "token_claims",
                })
            })?
            .claims;
        let moment = |seconds| Moment::from_unix_timestamp(seconds).map_err(|_| bad("token_claims"));
        let now = OffsetDateTime::now_utc().unix_timestamp();
        // A token from the future, or one that outlives what we would have issued, was not made by our rules.
        if claims.iat > now + LEEWAY_SECONDS.cast_signed() || claims.exp - claims.iat > TTL_MAX.as_secs().cast_signed()
        {
            return Err(bad("token_claims"));
        }
        Ok(Staff {
            merchant: claims.merchant,
            id: claims.sub,
            token: claims.jti,
            role: claims.role,
            outlets: claims.outlets,
            register: claims.register,
            issued_at: moment(claims.iat)?,
            expires_at: moment(claims.exp)?,
            trace: None,
        })
    }
}

/// Three parts of base64url: anything else is refused before it is parsed.
fn is_compact_jws(token: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    token.split('.').count() == 3 && token.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;

    fn realm() -> Realm {
        Realm { issuer: "i".to_owned(), audience: "a".to_owned() }
    }

    /// Who signs with the key that is written to a file, and who trusts that key alone.
    fn with_key(write: impl FnOnce(&Path)) -> (Signer, Verifier) {
        install_crypto();
        let path = std::env::temp_dir().join(format!("tillwire-key-{}", uuid::Uuid::new_v4()));
        write(&path);
        let signer = Signer::open(&path, realm()).unwrap();
        std::fs::remove_file(path).unwrap();
        let verifier = Verifier::new(realm(), &signer.public_keys().unwrap()).unwrap();
        (signer, verifier)
    }

    fn signer() -> (Signer, Verifier) {
        with_key(|path| write_new_key(path, false).unwrap())
    }

    /// With a key that `tillwire` does not make, but an issuer may have.
    fn p256_signer() -> (Signer, Verifier) {
        with_key(|path| {
            let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
            let body = STANDARD.encode(key.as_ref());
            std::fs::write(path, format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")).unwrap();
        })
    }

    fn owner() -> Bearer {
        Bearer {
            merchant: MerchantId::new(),
            staff: StaffId::new(),
            role: Role::Owner,
            outlets: vec![],
            register: None,
        }
    }

    fn claims() -> Value {
        let (id, now) = (uuid::Uuid::new_v4(), OffsetDateTime::now_utc().unix_timestamp());
        json!({ "iss": "i", "aud": "a", "sub": id, "jti": id, "iat": now, "nbf": now, "exp": now + 60,
                "merchant": id, "role": "owner" })
    }

    /// What a verifier says of a token, in a word.
    fn verdict(verifier: &Verifier, token: &str) -> &'static str {
        match verifier.verify(token) {
            Ok(_) => "good",
            Err(Error::Unauthenticated(why)) => why,
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_claim_is_needed_and_checked() {
        let (signer, verifier) = signer();
        let verify = |typ: &str, claims: &Value| {
            let mut header = Header::new(signer.algorithm);
            (header.typ, header.kid) = (Some(typ.to_owned()), Some(signer.id.clone()));
            verdict(&verifier, &jsonwebtoken::encode(&header, claims, &signer.key).unwrap())
        };
        assert_eq!(verify("at+jwt", &claims()), "good");
        for typ in ["JWT", "refresh+jwt", ""] {
            assert_eq!(verify(typ, &claims()), "token_type");
        }
        let now = OffsetDateTime::now_utc().unix_timestamp();
        for (claim, value, why) in [
            ("exp", json!(now - 10), "token_expired"),
            ("nbf", json!(now + 30), "token_not_yet_valid"),
            ("iat", json!(now + 30), "token_claims"),
            ("exp", json!(now + 200_000), "token_claims"),
            ("iss", json!("other"), "token_issuer"),
            ("aud", json!("other"), "token_audience"),
            ("role", json!("king"), "token_claims"),
        ] {
            let mut changed = claims();
            changed[claim] = value;
            assert_eq!(verify("at+jwt", &changed), why, "{claim}");
        }
        for claim in ["iss", "aud", "sub", "jti", "iat", "nbf", "exp", "merchant", "role"] {
            let mut without = claims();
            without.as_object_mut().unwrap().remove(claim);
            assert_ne!(verify("at+jwt", &without), "good", "{claim}");
        }
    }

    #[test]
    fn another_key_or_algorithm_opens_nothing() {
        let ((signer, _), (_, verifier)) = (signer(), signer());
        let foreign = signer.mint(&owner(), Duration::from_secs(60)).unwrap();
        assert_eq!(verdict(&verifier, &foreign), "token_key_unknown");
        let mut header = Header::new(Algorithm::HS256);
        let known = verifier.keys.keys().next().unwrap().clone();
        (header.typ, header.kid) = (Some(TYPE.to_owned()), Some(known));
        let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(b"public")).unwrap();
        assert_eq!(verdict(&verifier, &forged), "token_signature");
    }

    #[test]
    fn es256_with_a_known_key_opens_as_eddsa_does() {
        let (signer, verifier) = p256_signer();
        let [ours, another] = [owner(), owner()];
        let [token, other] = [&ours, &another].map(|bearer| signer.mint(bearer, Duration::from_secs(60)).unwrap());
        assert_eq!(jsonwebtoken::decode_header(&token).unwrap().alg, Algorithm::ES256);
        let staff = verifier.verify(&token).unwrap();
        assert_eq!((staff.merchant, staff.id), (ours.merchant, ours.staff));
        // What one signature is good for, another token's words are not.
        let (words, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert_eq!(verdict(&verifier, &format!("{words}.{signature}")), "token_signature");
    }

    #[test]
    fn each_key_is_good_for_its_own_algorithm_alone() {
        let ((ed25519, _), (p256, _)) = (signer(), p256_signer());
        let keys = vec![ed25519.public_key().unwrap(), p256.public_key().unwrap()];
        let verifier = Verifier::new(realm(), &JwkSet { keys: keys.clone() }).unwrap();
        for (signer, other) in [(&ed25519, &p256), (&p256, &ed25519)] {
            let signed_as = |id: &str| {
                let mut header = Header::new(signer.algorithm);
                (header.typ, header.kid) = (Some(TYPE.to_owned()), Some(id.to_owned()));
                verdict(&verifier, &jsonwebtoken::encode(&header, &claims(), &signer.key).unwrap())
            };
            assert_eq!(signed_as(&signer.id), "good");
            assert_eq!(signed_as(&other.id), "token_signature");
        }
        // A set that says otherwise is a mistake of whoever wrote it, and is not served with.
        for (mut key, algorithm) in keys.into_iter().zip([KeyAlgorithm::ES256, KeyAlgorithm::EdDSA]) {
            key.common.key_algorithm = Some(algorithm);
            assert!(Verifier::new(realm(), &JwkSet { keys: vec![key] }).is_err(), "{algorithm:?}");
        }
    }

    #[test]
    fn a_key_that_a_token_brings_or_points_to_opens_nothing() {
        let ((signer, verifier), (attacker, _)) = (signer(), signer());
        let usual = Header { typ: Some(TYPE.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let address = Some("https://attacker.example/keys".to_owned());
        for header in [
            Header { jwk: Some(attacker.public_key().unwrap()), ..usual.clone() },
            Header { jku: address.clone(), ..usual.clone() },
            Header { x5u: address, ..usual },
        ] {
            let signed_by = |who: &Signer, id: Option<&str>| {
                let header = Header { kid: id.map(str::to_owned), ..header.clone() };
                verdict(&verifier, &jsonwebtoken::encode(&header, &claims(), &who.key).unwrap())
            };
            assert_eq!(signed_by(&attacker, Some(&signer.id)), "token_signature", "{header:?}");
            assert_eq!(signed_by(&attacker, Some(&attacker.id)), "token_key_unknown", "{header:?}");
            assert_eq!(signed_by(&attacker, None), "token_key_unknown", "{header:?}");
            // Of our own tokens as little: the key that counts is the one that was configured.
            assert_eq!(signed_by(&signer, Some(&signer.id)), "good", "{header:?}");
        }
    }
}
