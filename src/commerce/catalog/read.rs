//! Reading products: one, a page, or the one that has a code.

use std::collections::HashMap;

use sqlx::PgConnection;
use tillwire_channels::event::VariantState;
use tillwire_channels::{MerchantId, ProductId, VariantId};
use uuid::Uuid;

use super::ProductView;
use crate::error::{Error, Result};

/// The most products that are listed at once.
pub const PAGE_MAX: u32 = 500;

/// Products after an id, in the order of their ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    after: Option<ProductId>,
    limit: u32,
) -> Result<Vec<ProductView>> {
    let ids = sqlx::query_scalar!(
        "select product_id from products
         where merchant_id = $1 and ($2::uuid is null or product_id > $2) order by product_id limit $3",
        merchant.0,
        after.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(&mut *sql)
    .await?;
    read(sql, merchant, &ids).await
}

/// One product.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, product: ProductId) -> Result<ProductView> {
    read(sql, merchant, &[product.0]).await?.pop().ok_or(Error::NotFound("product"))
}

/// The products after an id that have this SKU or barcode: one at most of each.
pub async fn find(
    sql: &mut PgConnection,
    merchant: MerchantId,
    code: &str,
    after: Option<ProductId>,
) -> Result<Vec<ProductView>> {
    let mut ids = sqlx::query_scalar!(
        r#"select product_id as "id!" from variants where merchant_id = $1 and sku = $2
           union
           select product_id from barcodes join variants using (merchant_id, variant_id)
           where merchant_id = $1 and barcode = $2"#,
        merchant.0,
        code,
    )
    .fetch_all(&mut *sql)
    .await?;
    ids.retain(|id| after.is_none_or(|after| *id > after.0));
    read(sql, merchant, &ids).await
}

/// These products, in the order of their ids.
pub(super) async fn read(sql: &mut PgConnection, merchant: MerchantId, ids: &[Uuid]) -> Result<Vec<ProductView>> {
    let products = sqlx::query!(
        "select product_id, products.name, department, category, brand, package, active, version, currency
         from products join merchants using (merchant_id)
         where merchant_id = $1 and product_id = any($2) order by product_id",
        merchant.0,
        ids,
    )
    .fetch_all(&mut *sql)
    .await?;
    let variants = sqlx::query!(
        r#"select product_id, variant_id, sku, name, price_minor,
                  array(select barcode from barcodes
                        where barcodes.merchant_id = $1 and barcodes.variant_id = variants.variant_id
                        order by barcode) as "barcodes!"
           from variants where merchant_id = $1 and product_id = any($2) order by product_id, place, sku"#,
        merchant.0,
        ids,
    )
    .fetch_all(sql)
    .await?;
    let mut by_product: HashMap<Uuid, Vec<VariantState>> = HashMap::new();
    for row in variants {
        by_product.entry(row.product_id).or_default().push(VariantState {
            variant: VariantId(row.variant_id),
            sku: row.sku,
            name: row.name,
            price_minor: row.price_minor,
            barcodes: row.barcodes,
        });
    }
    Ok(products
        .into_iter()
        .map(|row| ProductView {
            id: ProductId(row.product_id),
            variants: by_product.remove(&row.product_id).unwrap_or_default(),
            name: row.name,
            department: row.department,
            category: row.category,
            brand: row.brand,
            package: row.package,
            currency: row.currency,
            active: row.active,
            version: row.version,
        })
        .collect())
}
