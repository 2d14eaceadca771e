//! Who the merchants are at each provider: keys, names, and where webhooks go. The keys are made up by whoever starts the
//! simulators; all the same nothing prints them.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

/// How many accounts each provider may have.
pub const ACCOUNTS_MAX: usize = 1_000;
/// The longest text that an account may hold, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// How many webhook URLs an account may have.
const URLS_MAX: usize = 3;

/// Who plays the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    Midtrans,
    Xendit,
}

impl fmt::Display for Provider {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Midtrans => "midtrans",
            Self::Xendit => "xendit",
        })
    }
}

/// A merchant's account at Midtrans.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MidtransAccount {
    pub server_key: String,
    pub client_key: String,
    pub merchant_id: String,
    /// Where notifications go, unless a charge says otherwise.
    pub webhook_urls: Vec<String>,
    pub shop: Shop,
    /// Payment types that this merchant may not use (402).
    pub without: Vec<String>,
    /// Answered with 410.
    pub is_deactivated: bool,
}

impl Default for MidtransAccount {
    fn default() -> Self {
        Self {
            server_key: "SB-Mid-server-EXAMPLEKEY1234567890ab".into(),
            client_key: "SB-Mid-client-EXAMPLEKEY1234".into(),
            merchant_id: "G552010987".into(),
            webhook_urls: Vec::new(),
            shop: Shop::default(),
            without: Vec::new(),
            is_deactivated: false,
        }
    }
}

/// A merchant's account at Xendit.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XenditAccount {
    /// Its prefix decides the mode: `xnd_development_` is test, all else is live.
    pub secret_key: String,
    pub business_id: String,
    pub callback_token: String,
    pub webhook_urls: Vec<String>,
    pub shop: Shop,
    /// Business ids that `for-user-id` may name.
    pub sub_accounts: Vec<String>,
    /// Channels that this merchant may not use (403).
    pub without: Vec<String>,
    /// Whether a card may be charged without 3DS.
    pub may_skip_3ds: bool,
}

impl Default for XenditAccount {
    fn default() -> Self {
        Self {
            secret_key: "xnd_development_EXAMPLEKEY1234567890".into(),
            business_id: "64f0c1d2e3a4b5c6d7e8f901".into(),
            callback_token: "EXAMPLE-callback-token-1234567890".into(),
            webhook_urls: Vec::new(),
            shop: Shop::default(),
            sub_accounts: Vec::new(),
            without: Vec::new(),
            may_skip_3ds: false,
        }
    }
}

impl XenditAccount {
    pub fn is_test(&self) -> bool {
        self.secret_key.starts_with("xnd_development_")
    }
}

/// What a customer reads on the own phone.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shop {
    pub name: String,
    pub city: String,
    pub postcode: String,
    /// The national merchant id: `ID` and 13 digits.
    pub nmid: String,
}

impl Default for Shop {
    fn default() -> Self {
        Self {
            name: "Toko Melati Jaya".into(),
            city: "Surabaya".into(),
            postcode: "60241".into(),
            nmid: "ID1029384756012".into(),
        }
    }
}

impl Shop {
    pub fn qris<'a>(&'a self, acquirer_id: &'a str, number: &'a str) -> crate::qris::Shop<'a> {
        let Self { name, city, postcode, nmid } = self;
        crate::qris::Shop { name, city, postcode, nmid, acquirer_id, number }
    }

    fn check(&self) -> Result<(), String> {
        let all_digits = |text: &str| text.bytes().all(|it| it.is_ascii_digit());
        if self.name.is_empty() || self.name.len() > TEXT_BYTES_MAX || self.city.len() > TEXT_BYTES_MAX {
            return Err("shop.name and shop.city must be short".into());
        }
        if self.postcode.len() != 5 || !all_digits(&self.postcode) {
            return Err("shop.postcode must have 5 digits".into());
        }
        match self.nmid.strip_prefix("ID") {
            Some(digits) if digits.len() == 13 && all_digits(digits) => Ok(()),
            _ => Err("shop.nmid must be ID and 13 digits".into()),
        }
    }
}

/// An account of either.
#[derive(Clone, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case")]
pub enum Account {
    Midtrans(MidtransAccount),
    Xendit(XenditAccount),
}

impl Account {
    /// # Errors
    /// The field that is wrong, and why.
    pub fn check(&self) -> Result<(), String> {
        let (texts, urls, shop) = match self {
            Self::Midtrans(it) => (
                vec![("server_key", &it.server_key), ("client_key", &it.client_key), ("merchant_id", &it.merchant_id)],
                &it.webhook_urls,
                &it.shop,
            ),
            Self::Xendit(it) => (
                vec![
                    ("secret_key", &it.secret_key),
                    ("business_id", &it.business_id),
                    ("callback_token", &it.callback_token),
                ],
                &it.webhook_urls,
                &it.shop,
            ),
        };
        let plain = |text: &str| text.len() <= TEXT_BYTES_MAX && text.bytes().all(|it| it.is_ascii_graphic());
        if let Some((name, _)) = texts.iter().find(|(_, text)| text.is_empty() || !plain(text)) {
            return Err(format!("{name} must be visible ASCII, of at most {TEXT_BYTES_MAX} bytes"));
        }
        if urls.len() > URLS_MAX || !urls.iter().all(|url| is_url(url)) {
            return Err(format!("webhook_urls must be at most {URLS_MAX} HTTP URLs"));
        }
        shop.check()
    }
}

pub fn is_url(text: &str) -> bool {
    text.len() <= 2048 && url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}

/// Compares keys in constant time: these are no secrets, and nobody shall copy it otherwise from here.
pub fn is_same(key: &str, given: &str) -> bool {
    verify_slices_are_equal(key.as_bytes(), given.as_bytes()).is_ok()
}
