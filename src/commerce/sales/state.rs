//! Where a sale stands.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Result;

/// Where a sale stands. From open it goes on once, and never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// Its lines are reserved, and it waits for payments.
    Open,
    /// It is paid, and its lines are out of stock.
    Completed,
    /// Somebody voided it while it was open.
    Voided,
    /// It was not paid in time.
    Expired,
}

impl SaleState {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Voided => "voided",
            Self::Expired => "expired",
        }
    }

    /// Reads the word from the database.
    pub(super) fn read(word: &str) -> Result<Self> {
        let known = [Self::Open, Self::Completed, Self::Voided, Self::Expired].into_iter();
        let found = known.into_iter().find(|it| it.as_str() == word);
        Ok(found.ok_or_else(|| anyhow::anyhow!("an unknown state of a sale: {word}"))?)
    }

    /// What a sale in this state still has to be paid.
    pub(super) fn due(self, total_minor: i64, paid_minor: i64) -> i64 {
        match self {
            Self::Open => total_minor - paid_minor,
            Self::Completed | Self::Voided | Self::Expired => 0,
        }
    }
}
