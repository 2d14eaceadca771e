//! Prices and names: what a sale, a delivery or a count needs to know of variants.

use std::collections::{BTreeMap, BTreeSet};

use tillwire_channels::VariantId;
use uuid::Uuid;

use crate::commerce::stock::{Named, full_name};
use crate::error::Result;
use crate::journal::MerchantTx;

/// What a sale needs to know of a variant.
#[derive(Clone, Debug)]
pub struct Priced {
    pub sku: String,
    pub name: String,
    pub price_minor: i64,
    pub active: bool,
}

/// Prices and names of variants. What is missing is not the merchant's.
///
/// Nothing is locked: a sale is at the prices that it read. `docs/decisions/0001-journal.md` says what can be seen of that.
pub async fn prices(
    tx: &mut MerchantTx,
    variants: impl Iterator<Item = VariantId>,
) -> Result<BTreeMap<VariantId, Priced>> {
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = variants.map(|id| id.0).collect::<BTreeSet<_>>().into_iter().collect();
    let rows = sqlx::query!(
        "select variant_id, sku, product.name, variant.name as variant_name, price_minor, active
         from variants variant join products product using (merchant_id, product_id)
         where merchant_id = $1 and variant_id = any($2)",
        merchant.0,
        &ids,
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let name = full_name(&row.name, row.variant_name.as_deref());
            let priced = Priced { sku: row.sku, name, price_minor: row.price_minor, active: row.active };
            (VariantId(row.variant_id), priced)
        })
        .collect())
}

/// Names of variants.
pub async fn names(
    tx: &mut MerchantTx,
    variants: impl Iterator<Item = VariantId>,
) -> Result<BTreeMap<VariantId, Named>> {
    let prices = prices(tx, variants).await?;
    Ok(prices.into_iter().map(|(id, Priced { sku, name, .. })| (id, Named { sku, name })).collect())
}
