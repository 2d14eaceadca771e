//! Writing a sale: its row, its lines, its payments, a statement each.
//!
//! A number that another sale has does not spoil the transaction: the register's next number can still be tried.

use super::SaleView;
use crate::commerce::decimal;
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// Writes a sale with its lines and payments, and answers whether it did: nothing is written if another sale has its
/// number.
pub(super) async fn insert(tx: &mut MerchantTx, sale: &SaleView, business_date: time::Date) -> Result<bool> {
    let merchant = tx.merchant();
    let written = sqlx::query!(
        "insert into sales (merchant_id, sale_id, outlet_id, register_id, number, business_date, currency,
                            subtotal_minor, discount_minor, total_minor, actor_id, occurred_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         on conflict on constraint sales_number_key do nothing",
        merchant.0,
        sale.id.0,
        sale.outlet.0,
        sale.register.0,
        sale.number,
        business_date,
        sale.currency,
        sale.subtotal_minor,
        sale.discount_minor,
        sale.total_minor,
        sale.actor.0,
        sale.occurred_at,
    )
    .execute(tx.sql())
    .await
    .on_constraint("sales_pkey", sale_exists)?
    .rows_affected();
    if written == 0 {
        return Ok(false);
    }
    insert_lines(tx, sale).await?;
    insert_payments(tx, sale).await?;
    Ok(true)
}

/// Why a sale was not written under the number that its till brought: it is recorded already, or another is.
pub(super) async fn refusal(tx: &mut MerchantTx, sale: &SaleView) -> Result<Error> {
    let merchant = tx.merchant();
    let recorded = sqlx::query_scalar!(
        r#"select exists (select from sales where merchant_id = $1 and sale_id = $2) as "recorded!""#,
        merchant.0,
        sale.id.0,
    )
    .fetch_one(tx.sql())
    .await?;
    if recorded {
        return Ok(sale_exists());
    }
    Ok(Error::conflict_at("receipt_number_taken", "/number", "Another sale has this receipt number."))
}

fn sale_exists() -> Error {
    Error::conflict_at("sale_exists", "/id", "This sale is recorded already.")
}

async fn insert_lines(tx: &mut MerchantTx, sale: &SaleView) -> Result<()> {
    let merchant = tx.merchant();
    let lines: Vec<i32> = sale.lines.iter().map(|line| line.line.cast_signed()).collect();
    let variants: Vec<uuid::Uuid> = sale.lines.iter().map(|line| line.variant.0).collect();
    let skus: Vec<String> = sale.lines.iter().map(|line| line.sku.clone()).collect();
    let names: Vec<String> = sale.lines.iter().map(|line| line.name.clone()).collect();
    let quantities: Vec<_> = sale.lines.iter().map(|line| decimal(line.quantity)).collect();
    let prices: Vec<i64> = sale.lines.iter().map(|line| line.unit_price_minor).collect();
    let discounts: Vec<i64> = sale.lines.iter().map(|line| line.discount_minor).collect();
    let totals: Vec<i64> = sale.lines.iter().map(|line| line.total_minor).collect();
    sqlx::query!(
        "insert into sale_lines (merchant_id, sale_id, line, variant_id, sku, name, quantity, unit_price_minor,
                                 discount_minor, total_minor)
         select $1, $2, * from unnest($3::int[], $4::uuid[], $5::text[], $6::text[], $7::numeric[], $8::bigint[],
                                      $9::bigint[], $10::bigint[])",
        merchant.0,
        sale.id.0,
        &lines,
        &variants,
        &skus,
        &names,
        &quantities,
        &prices,
        &discounts,
        &totals,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn insert_payments(tx: &mut MerchantTx, sale: &SaleView) -> Result<()> {
    let merchant = tx.merchant();
    let ids: Vec<uuid::Uuid> = sale.tenders.iter().map(|tender| tender.payment.0).collect();
    let places: Vec<i32> = (1..).take(ids.len()).collect();
    let methods: Vec<String> = sale.tenders.iter().map(|tender| tender.method.as_str().to_owned()).collect();
    let amounts: Vec<i64> = sale.tenders.iter().map(|tender| tender.amount_minor).collect();
    let tendered: Vec<i64> = sale.tenders.iter().map(|tender| tender.tendered_minor).collect();
    let change: Vec<i64> = sale.tenders.iter().map(|tender| tender.change_minor).collect();
    sqlx::query!(
        "insert into payments (merchant_id, sale_id, captured_at, payment_id, place, method, amount_minor,
                               tendered_minor, change_minor)
         select $1, $2, $3, * from unnest($4::uuid[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])",
        merchant.0,
        sale.id.0,
        sale.occurred_at,
        &ids,
        &places,
        &methods,
        &amounts,
        &tendered,
        &change,
    )
    .execute(tx.sql())
    .await
    .on_constraint("payments_pkey", || {
        Error::conflict_at("payment_exists", "/tenders", "One of these payments is recorded already.")
    })?;
    Ok(())
}
