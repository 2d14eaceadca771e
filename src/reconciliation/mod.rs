//! Reconciliation: what we have of payments, held against what their provider tells and against what it has paid out.
//!
//! A [run](runs) is of one account over a span of time. It [asks](ask) the provider for what it has moved, [keeps](told) what is
//! told, and [compares](compare) it with ours, payment by payment; what differs is [kept](differences) once, until it is gone or a
//! person has closed it. [Lines of files](lines) that a person brings are told as well.
//!
//! Nothing here decides what a payment becomes: that money is there which we know nothing of makes its provider be asked, and
//! what the provider is sure of goes through the one function of [commerce](crate::commerce::payments).

mod ask;
pub mod compare;
pub mod differences;
pub mod file;
pub mod lines;
mod rows;
pub mod run;
pub mod runs;
mod told;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In what way ours and theirs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Money came in there that is of no payment of ours.
    MissingInHub,
    /// A payment of ours is paid, and its provider has none of it.
    MissingAtProvider,
    /// It is of another amount or currency there.
    AmountMismatch,
    /// There is money on one side alone.
    StatusMismatch,
    /// What the provider keeps of it is told in two ways, or does not add up.
    FeeMismatch,
    /// Its customer has paid more than once.
    DuplicatePaid,
    /// The provider should have given us the money by now.
    UnsettledOverdue,
}

impl Class {
    pub const ALL: [Self; 7] = [
        Self::MissingInHub,
        Self::MissingAtProvider,
        Self::AmountMismatch,
        Self::StatusMismatch,
        Self::FeeMismatch,
        Self::DuplicatePaid,
        Self::UnsettledOverdue,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingInHub => "missing_in_hub",
            Self::MissingAtProvider => "missing_at_provider",
            Self::AmountMismatch => "amount_mismatch",
            Self::StatusMismatch => "status_mismatch",
            Self::FeeMismatch => "fee_mismatch",
            Self::DuplicatePaid => "duplicate_paid",
            Self::UnsettledOverdue => "unsettled_overdue",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}
