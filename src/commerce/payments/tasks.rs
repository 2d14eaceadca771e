//! Tasks: what only a person can settle about a payment. Each matter is told once, while it is open.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{Event, MerchantId, Moment, OutletId, PaymentId, SaleId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::attempts::Attempt;
use crate::error::Result;
use crate::journal::MerchantTx;

/// The most tasks that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// What is the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
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
}

impl Kind {
    const ALL: [Self; 11] = [
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
        }
    }
}

/// A task, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
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

/// Tasks that are open, of an outlet or of all, the oldest first, after a task.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: Option<OutletId>,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<TaskView>> {
    let rows = sqlx::query!(
        "select task_id, kind, payment_id, sale_id, outlet_id, detail, opened_at from payment_tasks
         where merchant_id = $1 and closed_at is null and ($2::uuid is null or outlet_id = $2)
           and ($3::uuid is null or task_id > $3)
         order by task_id limit $4",
        merchant.0,
        outlet.map(|it| it.0),
        after,
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TaskView {
                id: row.task_id,
                kind: Kind::of(&row.kind).ok_or_else(|| anyhow::anyhow!("an unknown kind: {}", row.kind))?,
                payment: PaymentId(row.payment_id),
                sale: SaleId(row.sale_id),
                outlet: OutletId(row.outlet_id),
                detail: row.detail,
                opened_at: row.opened_at,
            })
        })
        .collect()
}
