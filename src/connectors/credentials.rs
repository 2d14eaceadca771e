//! What a merchant was given by a payment provider: who it is there, and the keys with which each proves itself to the other.

use std::fmt;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::digest::equal;
use crate::error::{Error, Result};

/// The longest key or name that a provider may have given, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// How many callback tokens are good at once: the new one and the old, while it is being changed.
pub const CALLBACK_TOKENS_MAX: usize = 2;

/// Who carries payments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    Midtrans,
    Xendit,
}

impl Provider {
    /// Whoever is not here is nobody: by it names are read, and lines opened. A test holds it against the variants.
    pub const ALL: [Self; 2] = [Self::Midtrans, Self::Xendit];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Midtrans => "midtrans",
            Self::Xendit => "xendit",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Whether money moves. Nothing of the one is ever taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The provider's sandbox.
    Test,
    Live,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Test, Self::Live];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// A merchant's keys at a provider. Neither `Debug` nor any answer shows a secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case", deny_unknown_fields)]
pub enum Credentials {
    Midtrans(MidtransKeys),
    Xendit(XenditKeys),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidtransKeys {
    /// `SB-Mid-server-…` in the sandbox, `Mid-server-…` where money moves. It signs notifications, too.
    pub server_key: SecretString,
    /// With which a browser makes tokens of cards. It is no secret.
    pub client_key: Option<String>,
    /// As notifications name the merchant: `G…`.
    pub merchant_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XenditKeys {
    /// `xnd_development_…` or `xnd_production_…`.
    pub secret_key: SecretString,
    /// What webhooks bring as `x-callback-token`: one or two.
    pub callback_tokens: Vec<SecretString>,
    /// As webhooks name the merchant.
    pub business_id: String,
}

impl Credentials {
    pub fn provider(&self) -> Provider {
        match self {
            Self::Midtrans(_) => Provider::Midtrans,
            Self::Xendit(_) => Provider::Xendit,
        }
    }

    /// As the provider names the merchant.
    pub fn merchant_there(&self) -> &str {
        match self {
            Self::Midtrans(keys) => &keys.merchant_id,
            Self::Xendit(keys) => &keys.business_id,
        }
    }

    /// The key with which the provider is asked.
    pub fn key(&self) -> &SecretString {
        match self {
            Self::Midtrans(keys) => &keys.server_key,
            Self::Xendit(keys) => &keys.secret_key,
        }
    }

    /// Whether the provider is asked with the same key as with those others.
    pub fn has_key_of(&self, others: &Self) -> bool {
        let [own, other] = [self, others].map(|it| it.key().expose_secret().as_bytes());
        self.provider() == others.provider() && equal(own, other)
    }

    /// Refuses keys that are not keys, and those of the other mode.
    ///
    /// # Errors
    /// `invalid_credentials` or `wrong_mode`, with where in `credentials` it is.
    pub fn check(&self, mode: Mode) -> Result<()> {
        match self {
            Self::Midtrans(keys) => {
                named("merchant_id", &keys.merchant_id)?;
                keyed("server_key", keys.server_key.expose_secret(), mode, ["SB-Mid-server-", "Mid-server-"])?;
                match &keys.client_key {
                    Some(key) => keyed("client_key", key, mode, ["SB-Mid-client-", "Mid-client-"]),
                    None => Ok(()),
                }
            }
            Self::Xendit(keys) => {
                named("business_id", &keys.business_id)?;
                keyed("secret_key", keys.secret_key.expose_secret(), mode, ["xnd_development_", "xnd_production_"])?;
                if !(1..=CALLBACK_TOKENS_MAX).contains(&keys.callback_tokens.len()) {
                    return Err(invalid("callback_tokens", "One callback token, or two while it is being changed."));
                }
                keys.callback_tokens.iter().try_for_each(|token| named("callback_tokens", token.expose_secret()))
            }
        }
    }

    /// As it is sealed. The only place that writes secrets down.
    pub fn to_json(&self) -> SecretString {
        let json = match self {
            Self::Midtrans(MidtransKeys { server_key, client_key, merchant_id }) => json!({
                "provider": Provider::Midtrans,
                "server_key": server_key.expose_secret(),
                "client_key": client_key,
                "merchant_id": merchant_id,
            }),
            Self::Xendit(XenditKeys { secret_key, callback_tokens, business_id }) => json!({
                "provider": Provider::Xendit,
                "secret_key": secret_key.expose_secret(),
                "callback_tokens": callback_tokens.iter().map(|token| token.expose_secret()).collect::<Vec<_>>(),
                "business_id": business_id,
            }),
        };
        json.to_string().into()
    }

    /// What [`to_json`](Self::to_json) wrote.
    pub fn of_json(json: &[u8]) -> anyhow::Result<Self> {
        // serde's own words would repeat what it stumbled over.
        serde_json::from_slice(json).ok().context("credentials that cannot be read")
    }
}

/// A text of printable ASCII, of some length: it goes into headers.
fn named(field: &'static str, text: &str) -> Result<()> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(field, "A text of visible ASCII characters, as the provider shows it."));
    }
    Ok(())
}

/// A key, whose beginning says which mode it is of.
fn keyed(field: &'static str, key: &str, mode: Mode, [test, live]: [&str; 2]) -> Result<()> {
    named(field, key)?;
    let (own, other) = match mode {
        Mode::Test => (test, live),
        Mode::Live => (live, test),
    };
    if key.starts_with(own) && key.len() > own.len() {
        return Ok(());
    }
    if key.starts_with(other) {
        let detail = format!("This key is not of the mode `{}`: those begin with `{own}`.", mode.as_str());
        return Err(Error::invalid("wrong_mode", format!("/credentials/{field}"), detail));
    }
    Err(invalid(field, format!("A key that begins with `{own}`.")))
}

fn invalid(field: &str, detail: impl Into<String>) -> Error {
    Error::invalid("invalid_credentials", format!("/credentials/{field}"), detail.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn midtrans(server_key: &str) -> Credentials {
        let json = json!({"provider": "midtrans", "server_key": server_key, "merchant_id": "G552010987"});
        Credentials::of_json(json.to_string().as_bytes()).unwrap()
    }

    fn xendit(secret_key: &str, tokens: &[&str]) -> Credentials {
        let json = json!({"provider": "xendit", "secret_key": secret_key, "callback_tokens": tokens,
                          "business_id": "64f0c1d2e3a4b5c6d7e8f901"});
        Credentials::of_json(json.to_string().as_bytes()).unwrap()
    }

    fn code(result: Result<()>) -> &'static str {
        match result {
            Ok(()) => "fine",
            Err(Error::Invalid { code, .. }) => code,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// The schema is derived from the variants, so that no list of them in a test has to be kept as well.
    #[test]
    fn every_provider_and_mode_is_listed() {
        let variants = |schema: utoipa::openapi::RefOr<utoipa::openapi::Schema>| {
            serde_json::to_value(schema).unwrap()["enum"].take()
        };
        use utoipa::PartialSchema as _;
        assert_eq!(variants(Provider::schema()), json!(Provider::ALL.map(Provider::as_str)));
        assert_eq!(variants(Mode::schema()), json!(Mode::ALL.map(Mode::as_str)));
    }

    #[test]
    fn keys_are_the_same_whatever_else_is_another() {
        let keys = |key: &str, id: &str| {
            let json = json!({"provider": "midtrans", "server_key": key, "merchant_id": id});
            Credentials::of_json(json.to_string().as_bytes()).unwrap()
        };
        assert!(keys("SB-Mid-server-a", "G1").has_key_of(&keys("SB-Mid-server-a", "G2")));
        assert!(!keys("SB-Mid-server-a", "G1").has_key_of(&keys("SB-Mid-server-b", "G1")));
        assert!(!keys("xnd_development_a", "G1").has_key_of(&xendit("xnd_development_a", &["t"])));
    }

    #[test]
    fn a_key_of_the_other_mode_is_refused() {
        for (credentials, mode, expected) in [
            (midtrans("SB-Mid-server-a"), Mode::Test, "fine"),
            (midtrans("SB-Mid-server-a"), Mode::Live, "wrong_mode"),
            (midtrans("Mid-server-a"), Mode::Live, "fine"),
            (midtrans("Mid-server-a"), Mode::Test, "wrong_mode"),
            (midtrans("Mid-server-"), Mode::Live, "invalid_credentials"),
            (midtrans("secret\nkey"), Mode::Live, "invalid_credentials"),
            (xendit("xnd_development_a", &["t"]), Mode::Test, "fine"),
            (xendit("xnd_development_a", &["t"]), Mode::Live, "wrong_mode"),
            (xendit("xnd_production_a", &["t", "u"]), Mode::Live, "fine"),
            (xendit("xnd_production_a", &[]), Mode::Live, "invalid_credentials"),
            (xendit("xnd_production_a", &["t", "u", "v"]), Mode::Live, "invalid_credentials"),
        ] {
            assert_eq!(code(credentials.check(mode)), expected, "{credentials:?} {mode:?}");
        }
    }

    #[test]
    fn what_is_sealed_can_be_read_and_what_is_shown_has_no_secret() {
        for credentials in [midtrans("SB-Mid-server-hush"), xendit("xnd_development_hush", &["hush"])] {
            let read = Credentials::of_json(credentials.to_json().expose_secret().as_bytes()).unwrap();
            assert_eq!(read.to_json().expose_secret(), credentials.to_json().expose_secret());
            assert_eq!(read.merchant_there(), credentials.merchant_there());
            assert!(!format!("{read:?}").contains("hush"));
        }
        let error = Credentials::of_json(br#"{"provider":"midtrans","server_key":{"hush":1}}"#).unwrap_err();
        assert!(!format!("{error:#}").contains("hush"));
    }
}
