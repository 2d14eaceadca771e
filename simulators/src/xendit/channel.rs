//! What can be paid by at Xendit, within which amounts, and what a refund may be.

use std::time::Duration;

const DAY: u64 = 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Qr,
    Va,
    Card,
}

#[derive(Debug)]
pub struct Channel {
    pub code: &'static str,
    pub kind: Kind,
    /// In rupiah.
    pub least: i64,
    pub most: i64,
    /// What a virtual account's numbers begin with.
    pub prefix: &'static str,
}

const fn va(code: &'static str, least: i64, most: i64, prefix: &'static str) -> Channel {
    Channel { code, kind: Kind::Va, least, most, prefix }
}

pub const CHANNELS: [Channel; 8] = [
    Channel { code: "QRIS", kind: Kind::Qr, least: 1, most: crate::qris::AMOUNT_MAX, prefix: "" },
    va("BCA_VIRTUAL_ACCOUNT", 10_000, 50_000_000, "381659"),
    va("BNI_VIRTUAL_ACCOUNT", 1, 50_000_000_000, "880899"),
    va("BRI_VIRTUAL_ACCOUNT", 1, 50_000_000_000, "13282"),
    va("MANDIRI_VIRTUAL_ACCOUNT", 1, 50_000_000_000, "88608"),
    va("BSI_VIRTUAL_ACCOUNT", 1, 50_000_000_000, "9347"),
    va("PERMATA_VIRTUAL_ACCOUNT", 1, 9_999_999_999, "7293"),
    Channel { code: "CARDS", kind: Kind::Card, least: 5_000, most: 200_000_000, prefix: "" },
];

/// How many digits a virtual account's number has.
pub const VA_DIGITS: usize = 16;

impl Channel {
    pub fn of(code: &str) -> Option<&'static Self> {
        CHANNELS.iter().find(|it| it.code == code)
    }

    pub fn category(&self) -> &'static str {
        match self.kind {
            Kind::Qr => "QR_CODE",
            Kind::Va => "VIRTUAL_ACCOUNT",
            Kind::Card => "CARDS",
        }
    }

    /// How long a request lives for which nobody says it.
    pub fn life(&self) -> Duration {
        Duration::from_secs(match self.kind {
            Kind::Qr => 2 * DAY,
            Kind::Va => 31 * 365 * DAY,
            Kind::Card => 600,
        })
    }

    /// How long its payments can be refunded; nothing if they cannot.
    pub fn refunded_within(&self) -> Option<Duration> {
        match self.kind {
            Kind::Qr => Some(Duration::from_secs(7 * DAY)),
            Kind::Va => None,
            Kind::Card => Some(Duration::from_secs(365 * DAY)),
        }
    }

    /// When the money is the merchant's, counted in calendar days: a transfer's at once, but BCA's.
    pub fn settled_after(&self) -> Duration {
        Duration::from_secs(match (self.kind, self.code) {
            (Kind::Qr, _) => 2 * DAY,
            (Kind::Card, _) => 5 * DAY,
            (_, "BCA_VIRTUAL_ACCOUNT") => DAY,
            _ => 0,
        })
    }

    /// Xendit's fee and the tax on it, in rupiah. They are made up.
    pub fn fee(&self, amount: i64) -> (i64, i64) {
        let fee = match self.kind {
            Kind::Qr => amount * 7 / 1_000,
            Kind::Va => 4_000,
            Kind::Card => amount * 29 / 1_000 + 2_000,
        };
        (fee, fee * 11 / 100)
    }
}

/// The payers' apps whose QRIS payments can be refunded, in lower case without blanks.
pub fn is_refundable(issuer: &str) -> bool {
    let issuer: String = issuer.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    ["dana", "shopeepay", "ovo", "gopay", "permata", "jenius", "smbc", "bsi", "cimb"].contains(&issuer.as_str())
}

/// What a card's payment fails with, by its amount.
pub fn failure_of(amount: i64) -> Option<&'static str> {
    Some(match amount {
        10_051 => "EXPIRED_CARD",
        10_052 => "SUSPECTED_FRAUDULENT",
        10_053 => "DECLINED_BY_PROCESSOR",
        10_054 => "INSUFFICIENT_BALANCE",
        10_055 => "STOLEN_CARD",
        10_056 => "INACTIVE_OR_UNAUTHORIZED_CARD",
        10_057 => "PROCESSOR_ERROR",
        10_058 => "INVALID_CVV",
        10_059 => "DECLINED_BY_ISSUER",
        _ => return None,
    })
}
