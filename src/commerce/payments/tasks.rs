//! Tasks: what only a person can settle about a payment. Each matter is told once, while it is open; who settles it goes by
//! [another way](super::settling).

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{Event, MerchantId, Moment, OutletId, PaymentId, RefundId, SaleId, StaffId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::attempts::Attempt;
use crate::error::{Error, Result};
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

struct Row {
    task_id: Uuid,
    kind: String,
    payment_id: Uuid,
    sale_id: Uuid,
    outlet_id: Uuid,
    detail: String,
    opened_at: Moment,
    closed_at: Option<Moment>,
    closed_by: Option<Uuid>,
    resolution: Option<String>,
    note: Option<String>,
    accepted_for: Option<Uuid>,
    refund_id: Option<Uuid>,
}

impl TryFrom<Row> for TaskView {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.task_id,
            kind: Kind::of(&row.kind).ok_or_else(|| anyhow::anyhow!("an unknown kind: {}", row.kind))?,
            payment: PaymentId(row.payment_id),
            sale: SaleId(row.sale_id),
            outlet: OutletId(row.outlet_id),
            detail: row.detail,
            opened_at: row.opened_at,
            closed_at: row.closed_at,
            closed_by: row.closed_by.map(StaffId),
            resolution: row.resolution.as_deref().and_then(Resolution::of),
            note: row.note,
            accepted_for: row.accepted_for.map(SaleId),
            refund: row.refund_id.map(RefundId),
        })
    }
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

/// Tasks that are open, or those that are closed, of an outlet or of all, the oldest first, after a task.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: Option<OutletId>,
    closed: bool,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<TaskView>> {
    let rows = sqlx::query_as!(
        Row,
        "select task_id, kind, payment_id, sale_id, outlet_id, detail, opened_at, closed_at, closed_by, resolution, note,
                accepted_for, refund_id
         from payment_tasks
         where merchant_id = $1 and (closed_at is not null) = $5 and ($2::uuid is null or outlet_id = $2)
           and ($3::uuid is null or task_id > $3)
         order by task_id limit $4",
        merchant.0,
        outlet.map(|it| it.0),
        after,
        i64::from(limit.min(PAGE_MAX) + 1),
        closed,
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter().map(TaskView::try_from).collect()
}

/// One task.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, task: Uuid) -> Result<TaskView> {
    sqlx::query_as!(
        Row,
        "select task_id, kind, payment_id, sale_id, outlet_id, detail, opened_at, closed_at, closed_by, resolution, note,
                accepted_for, refund_id
         from payment_tasks where merchant_id = $1 and task_id = $2",
        merchant.0,
        task,
    )
    .fetch_optional(sql)
    .await?
    .ok_or(Error::NotFound("task"))?
    .try_into()
}
