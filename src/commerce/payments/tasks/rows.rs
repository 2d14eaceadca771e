//! Tasks as their rows have them.

use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RefundId, SaleId, StaffId};
use uuid::Uuid;

use super::{Kind, PAGE_MAX, Resolution, TaskView};
use crate::error::{Error, Result};

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

/// Whole rows, by what follows `from payment_tasks`.
macro_rules! tasks {
    ($which:literal, $($of:expr),+ $(,)?) => {
        sqlx::query_as!(
            Row,
            "select task_id, kind, payment_id, sale_id, outlet_id, detail, opened_at, closed_at, closed_by, resolution, note,
                    accepted_for, refund_id
             from payment_tasks " + $which,
            $($of),+
        )
    };
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
    let rows = tasks!(
        "where merchant_id = $1 and (closed_at is not null) = $5 and ($2::uuid is null or outlet_id = $2)
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
    tasks!("where merchant_id = $1 and task_id = $2", merchant.0, task)
        .fetch_optional(sql)
        .await?
        .ok_or(Error::NotFound("task"))?
        .try_into()
}
