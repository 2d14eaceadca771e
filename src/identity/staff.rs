//! Staff: the people who act for a merchant, and whose tokens are no longer good.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::AccessRevoked;
use tillwire_channels::{Event, MerchantId, Moment, Role, StaffId};
use utoipa::ToSchema;

use crate::error::{Error, OnConstraint, Result};
use crate::journal::{Caller, MerchantTx};

/// The most members of staff that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// A member of staff, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StaffView {
    pub id: StaffId,
    pub name: String,
    pub role: Role,
}

/// A new member of staff.
#[derive(Clone, Debug)]
pub struct NewStaff {
    pub id: StaffId,
    pub name: String,
    pub role: Role,
}

/// Adds a member of staff.
pub async fn add(tx: &mut MerchantTx, new: NewStaff) -> Result<StaffView> {
    let merchant = tx.merchant();
    sqlx::query!(
        "insert into staff (merchant_id, staff_id, name, role) values ($1, $2, $3, $4)",
        merchant.0,
        new.id.0,
        new.name,
        word(new.role),
    )
    .execute(tx.sql())
    .await
    .on_constraint("staff_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))
    .on_constraint("staff_merchant_id_fkey", || Error::NotFound("merchant"))?;
    Ok(StaffView { id: new.id, name: new.name, role: new.role })
}

/// Members of staff after an id, in the order of their ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    after: Option<StaffId>,
    limit: u32,
) -> Result<Vec<StaffView>> {
    let rows = sqlx::query!(
        "select staff_id, name, role from staff
         where merchant_id = $1 and ($2::uuid is null or staff_id > $2) order by staff_id limit $3",
        merchant.0,
        after.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| Ok(StaffView { id: StaffId(row.staff_id), name: row.name, role: of_word(&row.role)? }))
        .collect()
}

/// What a revocation answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RevocationView {
    pub staff: StaffId,
    /// Tokens issued up to this moment are dead.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub issued_until: Moment,
}

/// Kills every token that the bearer has been issued until now, on every node: the entry that says so reaches them as
/// any other does.
pub async fn revoke(tx: &mut MerchantTx, staff: StaffId) -> Result<RevocationView> {
    let (merchant, now) = (tx.merchant(), tx.now());
    // Tokens are dated in whole seconds.
    let issued_until = now.replace_nanosecond(0)?;
    let issued_until = sqlx::query_scalar!(
        "insert into revocations (merchant_id, staff_id, issued_until) values ($1, $2, $3)
         on conflict (merchant_id, staff_id)
         do update set issued_until = greatest(revocations.issued_until, excluded.issued_until)
         returning issued_until",
        merchant.0,
        staff.0,
        issued_until,
    )
    .fetch_one(tx.sql())
    .await
    .on_constraint("revocations_merchant_id_fkey", || Error::NotFound("merchant"))?;
    tx.append(&Event::AccessRevoked(AccessRevoked { staff, issued_until }), now)?;
    Ok(RevocationView { staff, issued_until })
}

/// Whose tokens are dead, and up to when they were issued; only what was revoked after a moment.
pub async fn revoked_since(
    sql: &mut PgConnection,
    merchant: MerchantId,
    since: Moment,
) -> Result<Vec<(StaffId, Moment)>> {
    let rows = sqlx::query!(
        "select staff_id, issued_until from revocations where merchant_id = $1 and issued_until > $2",
        merchant.0,
        since,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(|row| (StaffId(row.staff_id), row.issued_until)).collect())
}

/// Which of these callers' tokens are dead, in their order.
pub async fn revoked_among(sql: &mut PgConnection, merchant: MerchantId, callers: &[Caller]) -> Result<Vec<bool>> {
    let ids: Vec<uuid::Uuid> = callers.iter().map(|caller| caller.staff.0).collect();
    let rows = sqlx::query!(
        "select staff_id, issued_until from revocations where merchant_id = $1 and staff_id = any($2)",
        merchant.0,
        &ids,
    )
    .fetch_all(sql)
    .await?;
    let is_dead =
        |caller: &Caller| rows.iter().any(|row| row.staff_id == caller.staff.0 && caller.issued_at <= row.issued_until);
    Ok(callers.iter().map(is_dead).collect())
}

/// A role, as rows have it.
pub fn word(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Manager => "manager",
        Role::Cashier => "cashier",
        Role::Clerk => "clerk",
        Role::Accountant => "accountant",
        Role::Auditor => "auditor",
        Role::Display => "display",
    }
}

/// # Errors
/// If there is no such role.
pub fn of_word(text: &str) -> anyhow::Result<Role> {
    Role::ALL
        .iter()
        .copied()
        .find(|role| word(*role) == text)
        .ok_or_else(|| anyhow::anyhow!("an unknown role in the database: {text}"))
}
