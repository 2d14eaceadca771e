//! Under what name a service knows a device: what a browser or an app was given, and what of that is taken.

use std::fmt;

use anyhow::Context as _;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::webpush::{AUTH_BYTES, Keys, POINT_BYTES};
use crate::egress::Egress;
use crate::error::{Error, Result};
use crate::vault::Keyring;

/// The longest token of FCM that is kept, in bytes. None has been seen that is longer than a fifth of it.
const FCM_TOKEN_BYTES_MAX: usize = 1_024;
/// How long APNs' tokens are, in bytes. There may be longer ones one day, says Apple.
const APNS_TOKEN_BYTES: std::ops::RangeInclusive<usize> = 32..=100;

/// Whose service leads to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeviceKind)]
pub enum Kind {
    /// A browser, by Web Push.
    Web,
    /// Android, by Google's FCM.
    Fcm,
    /// Apple's devices, by APNs.
    Apns,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Web, Self::Fcm, Self::Apns];

    pub fn word(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Fcm => "fcm",
            Self::Apns => "apns",
        }
    }
}

/// Under what name its service knows a device. Whoever knows it may tell the device something: it is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub enum Registration {
    Web { endpoint: String, keys: Keys },
    Fcm { token: String },
    Apns { token: String },
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({}, …)", self.kind().word())
    }
}

impl Registration {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Web { .. } => Kind::Web,
            Self::Fcm { .. } => Kind::Fcm,
            Self::Apns { .. } => Kind::Apns,
        }
    }

    /// A browser's subscription.
    ///
    /// # Errors
    /// With the field, if the endpoint may not be connected to, or a key is none.
    pub fn web(endpoint: String, keys: Keys, egress: &Egress) -> Result<Self> {
        let refused =
            |field: &str, detail: &str| Error::invalid("invalid_field", format!("/registration/{field}"), detail);
        egress
            .parse(&endpoint)
            .map_err(|why| Error::invalid("url_refused", "/registration/endpoint", format!("{}.", why.detail())))?;
        if !Keys::is_point(&keys.p256dh) {
            return Err(refused("keys/p256dh", "A point on P-256 that is not compressed is needed: 65 bytes."));
        }
        if keys.auth.len() != AUTH_BYTES {
            return Err(refused("keys/auth", "16 bytes are needed."));
        }
        Ok(Self::Web { endpoint, keys })
    }

    /// # Errors
    /// If it looks like no token of FCM.
    pub fn fcm(token: String) -> Result<Self> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.".contains(&byte);
        match (1..=FCM_TOKEN_BYTES_MAX).contains(&token.len()) && token.bytes().all(is_token) {
            true => Ok(Self::Fcm { token }),
            false => Err(Error::invalid("invalid_field", "/registration/token", "This is no token of FCM.")),
        }
    }

    /// # Errors
    /// If it looks like no token of APNs.
    pub fn apns(token: &str) -> Result<Self> {
        let is_token = token.len().is_multiple_of(2)
            && APNS_TOKEN_BYTES.contains(&(token.len() / 2))
            && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_token {
            // In one form, so that the same device is known again.
            true => Ok(Self::Apns { token: token.to_ascii_lowercase() }),
            false => {
                let detail =
                    "A token of APNs is needed, in hexadecimal digits: 64, or more, of a device with a newer one.";
                Err(Error::invalid("invalid_field", "/registration/token", detail))
            }
        }
    }

    /// What no other device of its kind has: a URL, or a token.
    pub fn name(&self) -> &str {
        match self {
            Self::Web { endpoint, .. } => endpoint,
            Self::Fcm { token } | Self::Apns { token } => token,
        }
    }

    pub fn keys(&self) -> Option<&Keys> {
        match self {
            Self::Web { keys, .. } => Some(keys),
            Self::Fcm { .. } | Self::Apns { .. } => None,
        }
    }

    pub fn of(kind: &str, text: String, p256dh: Option<Vec<u8>>, auth: Option<Vec<u8>>) -> anyhow::Result<Self> {
        match (kind, p256dh, auth) {
            ("web", Some(p256dh), Some(auth)) => Ok(Self::Web { endpoint: text, keys: Keys { p256dh, auth } }),
            ("fcm", None, None) => Ok(Self::Fcm { token: text }),
            ("apns", None, None) => Ok(Self::Apns { token: text }),
            _ => Err(anyhow::anyhow!("an unknown kind of device in the database: {kind}")),
        }
    }

    /// As it is sealed: a browser's two keys, which have one length each, and the name.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys().map(|keys| [keys.p256dh.as_slice(), &keys.auth]);
        let parts = keys.into_iter().flatten().chain([self.name().as_bytes()]).collect::<Vec<_>>();
        Zeroizing::new(parts.concat())
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    pub fn of_bytes(kind: &str, bytes: &[u8]) -> anyhow::Result<Self> {
        let (p256dh, auth, name) = match kind {
            "web" => {
                let (keys, name) =
                    bytes.split_at_checked(POINT_BYTES + AUTH_BYTES).context("a browser without keys")?;
                let (p256dh, auth) = keys.split_at(POINT_BYTES);
                (Some(p256dh.to_vec()), Some(auth.to_vec()), name)
            }
            _ => (None, None, bytes),
        };
        Self::of(kind, str::from_utf8(name).ok().context("a registration that is no text")?.to_owned(), p256dh, auth)
    }

    /// All that it may be found by while it is sealed.
    pub fn marks(&self, ring: Option<&Keyring>) -> Vec<Vec<u8>> {
        ring.map(|ring| ring.marks(&self.marked())).unwrap_or_default()
    }

    pub fn marked(&self) -> [&[u8]; 2] {
        [self.kind().word().as_bytes(), self.name().as_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_what_its_service_gives_and_shown_nowhere() {
        let token = "AB".repeat(32);
        let apns = Registration::apns(&token).unwrap();
        assert_eq!(apns, Registration::Apns { token: token.to_lowercase() });
        assert_eq!(format!("{apns:?}"), "Registration(apns, …)");
        for bad in ["", "ab", &"ab".repeat(31), &"ab".repeat(101), &"g".repeat(64), &"a".repeat(65)] {
            assert!(Registration::apns(bad).is_err(), "{bad}");
        }
        assert!(Registration::fcm("dGVz-dA_:APA91b.x".to_owned()).is_ok());
        assert_eq!(Registration::of_bytes("apns", &apns.to_bytes()).unwrap(), apns);
        let keys = Keys { p256dh: vec![4; POINT_BYTES], auth: vec![5; AUTH_BYTES] };
        let web = Registration::Web { endpoint: "https://push.example/é".to_owned(), keys };
        let bytes = web.to_bytes();
        assert_eq!(Registration::of_bytes("web", &bytes).unwrap(), web);
        assert!(Registration::of_bytes("web", &bytes[..80]).is_err() && Registration::of_bytes("tv", b"x").is_err());
        for bad in ["", "a b", "a/b", "é", &"a".repeat(1_025)] {
            assert!(Registration::fcm(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
