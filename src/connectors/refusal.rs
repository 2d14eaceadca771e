//! Why a provider did not do what it was asked, and whether to ask again.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::fields::clean;

/// Whether the same may be asked once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "again", content = "after_seconds", rename_all = "snake_case")]
pub enum Again {
    /// It will be refused for ever.
    Never,
    /// Nothing was done, or it does no harm twice: again, after this pause if the provider named one.
    Later(#[serde(serialize_with = "seconds")] Option<Duration>),
    /// Nobody knows whether it was done: the payment's state is asked for before anything else is.
    Unknown,
}

fn seconds<S: serde::Serializer>(pause: &Option<Duration>, out: S) -> Result<S::Ok, S::Error> {
    pause.map(|it| it.as_secs_f64()).serialize(out)
}

/// A provider's refusal. It holds no secret: what the provider said is struck of the keys that it was asked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    #[serde(flatten)]
    pub again: Again,
    pub code: Code,
    /// As the provider numbers or names it.
    pub theirs: String,
    /// What the provider said, for whoever looks after the merchant's account there; not for a till.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

impl Refusal {
    pub fn new(again: Again, code: Code, theirs: impl Into<String>) -> Self {
        Self { again, code, theirs: theirs.into(), said: None }
    }

    /// With the provider's own words, but for a secret that may be in them.
    pub fn saying(self, said: Option<String>, secret: &str) -> Self {
        Self { said: said.map(|said| clean(&said.replace(secret, "***"))).filter(|said| !said.is_empty()), ..self }
    }

    /// For a screen.
    pub fn words(&self) -> &'static str {
        self.code.words()
    }
}

/// What was the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    WrongKeys,
    NotEnabled,
    Invalid,
    Declined,
    CardToken,
    NotFound,
    Duplicate,
    IllegalState,
    AmountTooLarge,
    NotRefundable,
    RefundInProgress,
    BalanceTooLow,
    TooManyRequests,
    InFlight,
    Unavailable,
    Unreadable,
}

impl Code {
    pub const fn words(self) -> &'static str {
        match self {
            Self::WrongKeys => "The provider does not know the keys of this shop.",
            Self::NotEnabled => "The provider has not enabled this way to pay for this shop.",
            Self::Invalid => "The provider does not take what it was asked.",
            Self::Declined => "The payment was declined.",
            Self::CardToken => "The card has to be entered once more.",
            Self::NotFound => "The provider does not know this payment.",
            Self::Duplicate => "The provider has had this before.",
            Self::IllegalState => "The payment has gone on: this cannot be done with it any more.",
            Self::AmountTooLarge => "This is more than is left of the payment.",
            Self::NotRefundable => "The provider does not give this payment back.",
            Self::RefundInProgress => "Another refund of this payment is still under way.",
            Self::BalanceTooLow => "The shop's balance at the provider is too low.",
            Self::TooManyRequests => "The provider asks to wait a moment.",
            Self::InFlight => "The provider is still at it.",
            Self::Unavailable => "The provider, or a bank behind it, is not available.",
            Self::Unreadable => "The provider's answer cannot be read.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_repeats_no_secret() {
        let refusal = Refusal::new(Again::Never, Code::WrongKeys, "401");
        let said = refusal.saying(Some("Unknown key SB-Mid-server-hush\n, sorry".to_owned()), "SB-Mid-server-hush");
        assert_eq!(said.said.as_deref(), Some("Unknown key ***, sorry"));
        let json = serde_json::to_value(Refusal::new(
            Again::Later(Some(Duration::from_millis(1500))),
            Code::Unavailable,
            "503",
        ));
        assert_eq!(
            json.unwrap(),
            serde_json::json!({"again": "later", "after_seconds": 1.5, "code": "unavailable", "theirs": "503"})
        );
    }
}
