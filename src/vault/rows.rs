//! The rows of data keys.

use sqlx::PgConnection;
use tillwire_channels::MerchantId;
use uuid::Uuid;

use crate::error::{Error, OnConstraint as _, Result};

/// A data key, sealed.
pub(super) struct Row {
    pub key: Uuid,
    /// The vault key that it is sealed with.
    pub vault_key: String,
    pub sealed: Vec<u8>,
}

/// A merchant's data keys, the newest last.
pub(super) async fn all(sql: &mut PgConnection, merchant: MerchantId, rows_max: i64) -> sqlx::Result<Vec<Row>> {
    let rows = sqlx::query!(
        "select key_id, vault_key, sealed from data_keys where merchant_id = $1 order by key_id desc limit $2",
        merchant.0,
        rows_max,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows
        .into_iter()
        .rev()
        .map(|row| Row { key: row.key_id, vault_key: row.vault_key, sealed: row.sealed })
        .collect())
}

/// Waits for its turn among those who may make a merchant's data key. It ends with the transaction.
pub(super) async fn take_turn(sql: &mut PgConnection, merchant: MerchantId) -> sqlx::Result<()> {
    let name = format!("{merchant} data keys");
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", name).execute(sql).await?;
    Ok(())
}

pub(super) async fn insert(sql: &mut PgConnection, merchant: MerchantId, row: Row) -> Result<Row> {
    sqlx::query!(
        "insert into data_keys (merchant_id, key_id, vault_key, sealed) values ($1, $2, $3, $4)",
        merchant.0,
        row.key,
        row.vault_key,
        row.sealed,
    )
    .execute(sql)
    .await
    .on_constraint("data_keys_merchant_id_fkey", || Error::NotFound("merchant"))?;
    Ok(row)
}

/// A merchant's data keys that another vault key than this sealed, held until the transaction ends.
pub(super) async fn of_others(sql: &mut PgConnection, merchant: MerchantId, than: &str) -> sqlx::Result<Vec<Row>> {
    let rows = sqlx::query!(
        "select key_id, vault_key, sealed from data_keys where merchant_id = $1 and vault_key <> $2
         order by key_id for no key update",
        merchant.0,
        than,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(|row| Row { key: row.key_id, vault_key: row.vault_key, sealed: row.sealed }).collect())
}

/// Keeps a data key as it is sealed anew.
pub(super) async fn replace(sql: &mut PgConnection, merchant: MerchantId, row: &Row) -> sqlx::Result<()> {
    sqlx::query!(
        "update data_keys set vault_key = $3, sealed = $4, sealed_at = clock_timestamp()
         where merchant_id = $1 and key_id = $2",
        merchant.0,
        row.key,
        row.vault_key,
        row.sealed,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// A vault key that is needed.
#[derive(Clone, Debug)]
pub struct Needed {
    pub vault_key: String,
    /// How many data keys it sealed.
    pub data_keys: i64,
    /// A merchant who has one of them.
    pub merchant: MerchantId,
}

/// The vault keys that are needed to open what there is, of all merchants.
pub async fn needed(sql: &mut PgConnection) -> sqlx::Result<Vec<Needed>> {
    let rows = sqlx::query!(
        r#"select vault_key as "vault_key!", data_keys as "data_keys!", merchant_id as "merchant_id!"
           from vault_keys_needed()"#
    )
    .fetch_all(sql)
    .await?;
    let needed = |(vault_key, data_keys, merchant)| Needed { vault_key, data_keys, merchant: MerchantId(merchant) };
    Ok(rows.into_iter().map(|row| needed((row.vault_key, row.data_keys, row.merchant_id))).collect())
}

/// Merchants behind one, by id, who have a data key that another vault key than this sealed.
pub(super) async fn merchants(sql: &mut PgConnection, than: &str, behind: Uuid, max: i32) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(r#"select vault_merchants($1, $2, $3) as "merchant!""#, than, behind, max).fetch_all(sql).await
}

/// Merchants behind one, by id, who have secrets in clear.
pub async fn merchants_in_clear(sql: &mut PgConnection, behind: Uuid, max: i32) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(r#"select vault_merchants_in_clear($1, $2) as "merchant!""#, behind, max).fetch_all(sql).await
}
