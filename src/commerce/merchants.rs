//! Merchants: the tenants.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::MerchantId;
use utoipa::ToSchema;

use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// A merchant, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MerchantView {
    pub id: MerchantId,
    pub name: String,
    /// ISO 4217.
    pub currency: String,
}

/// Opens the merchant that the transaction is for, with an empty journal.
///
/// Nobody listens yet, so there is no event and no entry.
pub async fn open(tx: &mut MerchantTx, name: String, currency: String) -> Result<MerchantView> {
    let merchant = tx.merchant();
    sqlx::query!("insert into merchants (merchant_id, name, currency) values ($1, $2, $3)", merchant.0, name, currency)
        .execute(tx.sql())
        .await
        .on_constraint("merchants_pkey", || Error::conflict("merchant_open", "This merchant is open already."))?;
    sqlx::query!("insert into journal_heads (merchant_id) values ($1)", merchant.0).execute(tx.sql()).await?;
    Ok(MerchantView { id: merchant, name, currency })
}

/// The merchant.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId) -> Result<MerchantView> {
    sqlx::query!("select name, currency from merchants where merchant_id = $1", merchant.0)
        .fetch_optional(sql)
        .await?
        .map(|row| MerchantView { id: merchant, name: row.name, currency: row.currency })
        .ok_or(Error::NotFound("merchant"))
}
