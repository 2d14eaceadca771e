//! Tasks: what only a person can settle about a payment. Each matter is told once, while it is open; who settles it goes by
//! [another way](super::settling).

mod rows;

use serde::{Deserialize, Serialize};
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{Event, Moment, OutletId, PaymentId, RefundId, SaleId, StaffId};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::rows::{get, list};
use super::attempts::Attempt;
use crate::error::Result;
use crate::journal::MerchantTx;

/// The most tasks that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PaymentTaskKind)]
pub enum Kind {
    /// It was paid when it, or its sale, had ended.
    PaidLate,
    /// Less was due than was paid.
    PaidTooMuch,
    /// The provider tells of another amount.
    AmountDiffers,
    CurrencyDiffers,
    /// The provider tells of it for another merchant.
    MerchantDiffers,
    /// The provider says what cannot be, as far as we know.
    Conflict,
    Reversed,
    ChargedBack,
    /// The code that the customer would have been shown is of another payment.
    CodeDiffers,
    /// Nobody could find out what became of it.
    GivenUp,
    /// Somebody has taken it for paid, and its provider knows of no money.
    ForcedUnpaid,
    /// A refund has not ended for a day.
    RefundStuck,
    /// A refund was refused, and somebody waits for the money.
    RefundFailed,
    /// Somebody has made a refund at the provider.
    RefundElsewhere,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::PaidLate,
        Self::PaidTooMuch,
        Self::AmountDiffers,
        Self::CurrencyDiffers,
        Self::MerchantDiffers,
        Self::Conflict,
        Self::Reversed,
        Self::ChargedBack,
        Self::CodeDiffers,
        Self::GivenUp,
        Self::ForcedUnpaid,
        Self::RefundStuck,
        Self::RefundFailed,
        Self::RefundElsewhere,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaidLate => "paid_late",
            Self::PaidTooMuch => "paid_too_much",
            Self::AmountDiffers => "amount_differs",
            Self::CurrencyDiffers => "currency_differs",
            Self::MerchantDiffers => "merchant_differs",
            Self::Conflict => "conflict",
            Self::Reversed => "reversed",
            Self::ChargedBack => "charged_back",
            Self::CodeDiffers => "code_differs",
            Self::GivenUp => "given_up",
            Self::ForcedUnpaid => "forced_unpaid",
            Self::RefundStuck => "refund_stuck",
            Self::RefundFailed => "refund_failed",
            Self::RefundElsewhere => "refund_elsewhere",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    const fn title(self) -> &'static str {
        match self {
            Self::PaidLate => "A payment came too late",
            Self::PaidTooMuch => "More was paid than was due",
            Self::AmountDiffers => "A payment is of another amount",
            Self::CurrencyDiffers => "A payment is of another currency",
            Self::MerchantDiffers => "A payment is told of for another merchant",
            Self::Conflict => "A payment stands differently at its provider",
            Self::Reversed => "A payment was taken back",
            Self::ChargedBack => "A payment was charged back",
            Self::CodeDiffers => "A provider sent the code of another payment",
            Self::GivenUp => "Nobody knows what became of a payment",
            Self::ForcedUnpaid => "A payment that was forced is not paid",
            Self::RefundStuck => "A refund takes more than a day",
            Self::RefundFailed => "A refund was refused",
            Self::RefundElsewhere => "A refund was made at the provider",
        }
    }
}

/// What became of a matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The money pays an open sale.
    Accepted,
    /// The money goes back.
    Refunded,
    /// It was dealt with elsewhere, or there is nothing to do.
    Noted,
}

impl Resolution {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refunded, Self::Noted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refunded => "refunded",
            Self::Noted => "noted",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// A task, as answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    pub id: Uuid,
    pub kind: Kind,
    pub payment: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    /// In a sentence or two: what happened, and what to do.
    pub detail: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Moment,
    /// When it was settled, by whom, how, and in their own words why; none while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Moment>,
    pub closed_by: Option<StaffId>,
    pub resolution: Option<Resolution>,
    pub note: Option<String>,
    /// The sale that the money pays, if it was accepted.
    pub accepted_for: Option<SaleId>,
    /// The refund by which it goes back. It may fail, and is a matter of its own then.
    pub refund: Option<RefundId>,
}

/// Opens a task, and alerts whom it concerns, unless it is open already.
pub(crate) async fn open(
    tx: &mut MerchantTx,
    attempt: &Attempt,
    kind: Kind,
    severity: Severity,
    detail: String,
) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    let opened = sqlx::query!(
        "insert into payment_tasks (merchant_id, task_id, kind, payment_id, sale_id, outlet_id, detail)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (merchant_id, payment_id, kind) where closed_at is null do nothing",
        merchant.0,
        Uuid::now_v7(),
        kind.as_str(),
        attempt.payment.0,
        attempt.sale.0,
        attempt.outlet.0,
        detail,
    )
    .execute(tx.sql())
    .await?;
    if opened.rows_affected() == 0 {
        return Ok(());
    }
    let alert = AlertRaised {
        alert: format!("payment_{}", kind.as_str()),
        severity,
        title: kind.title().to_owned(),
        detail,
        subject: Some(attempt.payment.to_string()),
        outlet: Some(attempt.outlet),
        register: Some(attempt.register),
    };
    tx.append(&Event::AlertRaised(alert), now)
}
