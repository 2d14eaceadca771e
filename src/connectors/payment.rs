//! What is asked of a provider, in our words: a payment, and what is to become of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tillwire_channels::Moment;
use utoipa::ToSchema;

pub use crate::commerce::payments::refunds::Reason;
use crate::commerce::payments::state::State;

/// The longest id, in bytes. Providers' longest known is 39.
pub const ID_BYTES_MAX: usize = 64;

/// A payment, a refund or the like, as we or a provider name it: letters, digits, `.`, `_`, `~` and `-`, the first a letter
/// or a digit. So it is the same in a path, in a query and in JSON, and leads to no other path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Id(String);

impl Id {
    pub fn parse(text: &str) -> Option<Self> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        let is_id = text.len() <= ID_BYTES_MAX
            && text.bytes().all(is_part)
            && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        is_id.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// How a customer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", content = "bank", rename_all = "snake_case")]
#[schema(as = ProviderMethod)]
pub enum Method {
    /// Any app of a bank or a wallet scans one QR code.
    Qris,
    /// To a number that stands for this payment at this bank.
    BankTransfer(Bank),
    /// On a page of the provider, or with a token that its script made: no card's number ever comes here.
    Card,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qris => "qris",
            Self::BankTransfer(_) => "bank_transfer",
            Self::Card => "card",
        }
    }

    pub const fn bank(self) -> Option<Bank> {
        match self {
            Self::BankTransfer(bank) => Some(bank),
            Self::Qris | Self::Card => None,
        }
    }
}

/// A bank that takes transfers for a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bank {
    Bca,
    Bni,
    Bri,
    Bsi,
    Cimb,
    Mandiri,
    Permata,
}

impl Bank {
    pub const ALL: [Self; 7] = [Self::Bca, Self::Bni, Self::Bri, Self::Bsi, Self::Cimb, Self::Mandiri, Self::Permata];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bca => "bca",
            Self::Bni => "bni",
            Self::Bri => "bri",
            Self::Bsi => "bsi",
            Self::Cimb => "cimb",
            Self::Mandiri => "mandiri",
            Self::Permata => "permata",
        }
    }

    /// In either case, as providers write it.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str().eq_ignore_ascii_case(text))
    }
}

/// A payment to be made. [`check`](super::ability::check) says whether a provider takes it.
#[derive(Clone, Debug)]
pub struct Charge {
    /// As we name it there; never used again.
    pub reference: Id,
    pub method: Method,
    pub amount_minor: i64,
    pub currency: String,
    /// For how long the customer can pay, where that can be chosen.
    pub expires_in: Option<Duration>,
    /// When this is asked: expiries that are a moment count from it.
    pub at: Moment,
    /// The shop, as the customer reads it.
    pub shop: String,
    pub card: Option<Card>,
    /// Where notifications of this payment go, if not where the merchant's account says.
    pub notify_url: Option<String>,
    /// What we want to find again at the provider: the outlet, the register.
    pub labels: BTreeMap<String, String>,
}

/// What a card's payment needs besides.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// What the provider's script in the browser made of the card; good for once.
    pub token: Option<SecretString>,
    /// The money is held, and taken by [`capture`](super::Connector::capture).
    pub hold: bool,
    /// Where the provider's page leads when it is done. It is no proof of anything.
    pub return_url: Option<String>,
}

/// A payment that was asked for, and what the provider has called it since.
#[derive(Clone, Debug)]
pub struct Known {
    pub reference: Id,
    pub ids: Ids,
    pub method: Method,
    /// As far as we know.
    pub state: State,
}

/// A provider's own names of a payment. A provider has only some of them, and not all from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// Of what was asked for: Xendit's `pr-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Id>,
    /// Of the payment itself: Midtrans' transaction, Xendit's `py-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<Id>,
    /// Of the page on which it is paid: Xendit's `ps-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Id>,
}

impl Ids {
    /// What is known now: of each name the newer.
    pub fn and(self, newer: Self) -> Self {
        Self {
            request: newer.request.or(self.request),
            payment: newer.payment.or(self.payment),
            session: newer.session.or(self.session),
        }
    }
}

/// Money to be given back.
#[derive(Clone, Debug)]
pub struct Refund {
    pub payment: Known,
    /// As we name the refund there. With the same it is the same refund, however often it is asked for.
    pub key: Id,
    pub amount_minor: i64,
    pub currency: String,
    pub reason: Reason,
    /// In a person's words.
    pub note: String,
}

/// A refund that was asked for.
#[derive(Clone, Debug)]
pub struct KnownRefund {
    pub payment: Known,
    pub key: Id,
    /// As the provider names it, once it has said so.
    pub id: Option<Id>,
}

/// A page of what a provider has moved, between two moments.
#[derive(Clone, Debug)]
pub struct Listing {
    pub from: Moment,
    pub until: Moment,
    /// Where the page before ended: its [`next`](super::report::Page::next).
    pub after: Option<Id>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_to_no_other_path() {
        let longest = "a".repeat(ID_BYTES_MAX);
        for text in ["POS01-260114-000123-a1", "pr-5b8e2a34-7c1d-4f60-9a2b-3c4d5e6f7081", "a.b_c~d", "7", &longest] {
            assert_eq!(Id::parse(text).unwrap().as_str(), text);
        }
        let too_long = format!("{longest}a");
        for text in ["", ".", "..", "../x", "a/b", "a%2Fb", "a b", "a?b", "a#b", "-a", "é", "a\n", &too_long] {
            assert_eq!(Id::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_way_to_pay_is_written_as_it_is_read() {
        for (method, json) in [
            (Method::Qris, r#"{"method":"qris"}"#),
            (Method::BankTransfer(Bank::Mandiri), r#"{"method":"bank_transfer","bank":"mandiri"}"#),
            (Method::Card, r#"{"method":"card"}"#),
        ] {
            assert_eq!(serde_json::to_string(&method).unwrap(), json);
            assert_eq!(serde_json::from_str::<Method>(json).unwrap(), method);
        }
        assert!(Bank::ALL.into_iter().all(|bank| Bank::of(&bank.as_str().to_uppercase()) == Some(bank)));
    }
}
