//! The audit: what people did that is no sale, and should be found again. A line is written in the transaction of the deed, and
//! never changed.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, StaffId};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::Result;

/// The most lines that are listed at once.
pub const PAGE_MAX: u32 = 100;

/// A line.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LineView {
    pub id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub happened_at: Moment,
    /// Who; none for the operator at the machine.
    pub staff: Option<StaffId>,
    /// What was done: `dead_letter.replayed`, `refund.asked`, `payment_task.settled`.
    pub action: String,
    /// To what.
    pub subject: String,
    pub detail: String,
}

/// Notes what somebody does; the operator, if it is nobody of the merchant's.
pub async fn note(
    sql: &mut PgConnection,
    merchant: MerchantId,
    by: Option<StaffId>,
    action: &str,
    subject: &str,
    detail: &str,
) -> Result<()> {
    sqlx::query!(
        "insert into audit_lines (merchant_id, line_id, staff_id, action, subject, detail) values ($1, $2, $3, $4, $5, $6)",
        merchant.0,
        Uuid::now_v7(),
        by.map(|staff| staff.0),
        action,
        subject,
        detail,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// A merchant's lines, the newest first; those before an id.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<LineView>> {
    let rows = sqlx::query!(
        "select line_id, happened_at, staff_id, action, subject, detail from audit_lines
         where merchant_id = $1 and ($2::uuid is null or line_id < $2) order by line_id desc limit $3",
        merchant.0,
        before,
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    let line = rows.into_iter().map(|row| LineView {
        id: row.line_id,
        happened_at: row.happened_at,
        staff: row.staff_id.map(StaffId),
        action: row.action,
        subject: row.subject,
        detail: row.detail,
    });
    Ok(line.collect())
}
