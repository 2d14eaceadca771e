//! Outlets and their registers.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{OutletOpened, RegisterEnrolled};
use tillwire_channels::{Event, MerchantId, OutletId, RegisterId};
use utoipa::ToSchema;

use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// The most outlets that are listed at once.
pub const PAGE_MAX: u32 = 200;
/// The most registers of one outlet.
pub const REGISTERS_MAX: i64 = 200;

/// An outlet with its registers, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutletView {
    pub id: OutletId,
    pub code: String,
    pub name: String,
    /// An IANA name such as `Asia/Jakarta`.
    pub time_zone: String,
    pub registers: Vec<RegisterView>,
}

/// A register, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RegisterView {
    pub id: RegisterId,
    pub code: String,
    pub name: String,
}

/// A new outlet.
#[derive(Clone, Debug)]
pub struct NewOutlet {
    pub id: OutletId,
    pub code: String,
    pub name: String,
    pub time_zone: String,
}

/// Opens an outlet.
pub async fn open(tx: &mut MerchantTx, new: NewOutlet) -> Result<OutletView> {
    let merchant = tx.merchant();
    let known = sqlx::query_scalar!(
        r#"select exists (select from pg_timezone_names where name = $1) as "known!""#,
        new.time_zone
    )
    .fetch_one(tx.sql())
    .await?;
    if !known {
        return Err(Error::invalid("unknown_time_zone", "/time_zone", "An IANA name is needed, such as Asia/Jakarta."));
    }
    sqlx::query!(
        "insert into outlets (merchant_id, outlet_id, code, name, time_zone) values ($1, $2, $3, $4, $5)",
        merchant.0,
        new.id.0,
        new.code,
        new.name,
        new.time_zone,
    )
    .execute(tx.sql())
    .await
    .on_constraint("outlets_code_key", || Error::conflict_at("code_taken", "/code", "Another outlet has this code."))
    .on_constraint("outlets_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))
    .on_constraint("outlets_merchant_id_fkey", || Error::NotFound("merchant"))?;
    let opened = OutletOpened {
        outlet: new.id,
        code: new.code.clone(),
        name: new.name.clone(),
        time_zone: new.time_zone.clone(),
    };
    tx.append(&Event::OutletOpened(opened), tx.now())?;
    let NewOutlet { id, code, name, time_zone } = new;
    Ok(OutletView { id, code, name, time_zone, registers: Vec::new() })
}

/// A new register.
#[derive(Clone, Debug)]
pub struct NewRegister {
    pub id: RegisterId,
    pub outlet: OutletId,
    pub code: String,
    pub name: String,
}

/// Enrols a register at an outlet.
pub async fn enrol(tx: &mut MerchantTx, new: NewRegister) -> Result<RegisterView> {
    let merchant = tx.merchant();
    // How many there are is not in a row to be locked.
    tx.take_turn(&format!("registers of {}", new.outlet)).await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from registers where merchant_id = $1 and outlet_id = $2"#,
        merchant.0,
        new.outlet.0
    )
    .fetch_one(tx.sql())
    .await?;
    if count >= REGISTERS_MAX {
        return Err(Error::conflict("too_many_registers", format!("An outlet has {REGISTERS_MAX} registers at most.")));
    }
    sqlx::query!(
        "insert into registers (merchant_id, register_id, outlet_id, code, name) values ($1, $2, $3, $4, $5)",
        merchant.0,
        new.id.0,
        new.outlet.0,
        new.code,
        new.name,
    )
    .execute(tx.sql())
    .await
    .on_constraint("registers_code_key", || {
        Error::conflict_at("code_taken", "/code", "Another register of this outlet has this code.")
    })
    .on_constraint("registers_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))
    .on_constraint("registers_outlet_fkey", || Error::NotFound("outlet"))?;
    let enrolled =
        RegisterEnrolled { outlet: new.outlet, register: new.id, code: new.code.clone(), name: new.name.clone() };
    tx.append(&Event::RegisterEnrolled(enrolled), tx.now())?;
    Ok(RegisterView { id: new.id, code: new.code, name: new.name })
}

/// Outlets after an id, in the order of their ids, with their registers. `only` keeps those that are named.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<&[OutletId]>,
    after: Option<OutletId>,
    limit: u32,
) -> Result<Vec<OutletView>> {
    let only: Option<Vec<uuid::Uuid>> = only.map(|only| only.iter().map(|id| id.0).collect());
    let rows = sqlx::query!(
        "select outlet_id, code, name, time_zone from outlets
         where merchant_id = $1 and ($2::uuid[] is null or outlet_id = any($2))
           and ($3::uuid is null or outlet_id > $3)
         order by outlet_id limit $4",
        merchant.0,
        only.as_deref(),
        after.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(&mut *sql)
    .await?;
    let ids: Vec<uuid::Uuid> = rows.iter().map(|row| row.outlet_id).collect();
    let registers = sqlx::query!(
        "select outlet_id, register_id, code, name from registers
         where merchant_id = $1 and outlet_id = any($2) order by code",
        merchant.0,
        &ids,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| OutletView {
            id: OutletId(row.outlet_id),
            registers: registers
                .iter()
                .filter(|register| register.outlet_id == row.outlet_id)
                .map(|register| RegisterView {
                    id: RegisterId(register.register_id),
                    code: register.code.clone(),
                    name: register.name.clone(),
                })
                .collect(),
            code: row.code,
            name: row.name,
            time_zone: row.time_zone,
        })
        .collect())
}

/// One outlet with its registers.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, outlet: OutletId) -> Result<OutletView> {
    list(sql, merchant, Some(&[outlet]), None, 1).await?.pop().ok_or(Error::NotFound("outlet"))
}
