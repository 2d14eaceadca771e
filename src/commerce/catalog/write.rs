//! Writing a plan: products, their variants and barcodes, a statement each.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Product;
use super::known::Plan;
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// Writes what was decided.
pub(super) async fn write(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    if plan.products.is_empty() {
        return Ok(());
    }
    let merchant = tx.merchant();
    write_products(tx, plan).await?;
    write_variants(tx, plan).await?;
    let ids: Vec<Uuid> = plan.variants.iter().map(|(_, id, _)| id.0).collect();
    sqlx::query!("delete from barcodes where merchant_id = $1 and variant_id = any($2)", merchant.0, &ids)
        .execute(tx.sql())
        .await?;
    let (barcodes, of): (Vec<String>, Vec<Uuid>) = plan
        .variants
        .iter()
        .flat_map(|(_, id, variant)| variant.barcodes.iter().map(|barcode| (barcode.clone(), id.0)))
        .unzip();
    sqlx::query!(
        "insert into barcodes (merchant_id, barcode, variant_id) select $1, * from unnest($2::text[], $3::uuid[])",
        merchant.0,
        &barcodes,
        &of,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn write_products(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = plan.products.iter().map(|(id, _)| id.0).collect();
    let column = |of: fn(&Product) -> Option<String>| plan.products.iter().map(|(_, it)| of(it)).collect::<Vec<_>>();
    let active: Vec<bool> = plan.products.iter().map(|(_, product)| product.active).collect();
    sqlx::query!(
        "insert into products (merchant_id, product_id, name, department, category, brand, package, active)
         select $1, * from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[])
         on conflict (merchant_id, product_id) do update
         set name = excluded.name, department = excluded.department, category = excluded.category,
             brand = excluded.brand, package = excluded.package, active = excluded.active,
             version = products.version + 1",
        merchant.0,
        &ids,
        &column(|product| Some(product.name.clone())) as &[Option<String>],
        &column(|product| product.department.clone()) as &[Option<String>],
        &column(|product| product.category.clone()) as &[Option<String>],
        &column(|product| product.brand.clone()) as &[Option<String>],
        &column(|product| product.package.clone()) as &[Option<String>],
        &active,
    )
    .execute(tx.sql())
    .await
    .on_constraint("products_merchant_id_fkey", || Error::NotFound("merchant"))?;
    Ok(())
}

async fn write_variants(tx: &mut MerchantTx, plan: &Plan<'_>) -> Result<()> {
    let merchant = tx.merchant();
    let mut places = BTreeMap::new();
    let (mut ids, mut products, mut place, mut skus, mut names, mut prices) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (product, id, variant) in &plan.variants {
        let next = places.entry(*product).and_modify(|place| *place += 1).or_insert(1_i32);
        ids.push(id.0);
        products.push(product.0);
        place.push(*next);
        skus.push(variant.sku.clone());
        names.push(variant.name.clone());
        prices.push(variant.price_minor);
    }
    sqlx::query!(
        "insert into variants (merchant_id, variant_id, product_id, place, sku, name, price_minor)
         select $1, * from unnest($2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::text[], $7::bigint[])
         on conflict (merchant_id, variant_id) do update
         set place = excluded.place, sku = excluded.sku, name = excluded.name, price_minor = excluded.price_minor",
        merchant.0,
        &ids,
        &products,
        &place,
        &skus,
        &names as &[Option<String>],
        &prices,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
