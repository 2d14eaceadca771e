//! Writing a sale: its row, its lines, its payments, a statement each; and where it stands, by compare-and-set.
//!
//! A number that another sale has does not spoil the transaction: the register's next number can still be tried.

use tillwire_channels::event::Tender;
use tillwire_channels::{Moment, SaleId};

use super::{SaleState, SaleView};
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
    payments(tx, sale.id, sale.occurred_at, &sale.tenders, 0, "/tenders").await?;
    Ok(true)
}

/// Leaves a sale open that this transaction has just written.
pub(super) async fn opened(tx: &mut MerchantTx, sale: SaleId, expires_at: Moment) -> Result<()> {
    let merchant = tx.merchant();
    let opened = sqlx::query!(
        "update sales set state = 'open', expires_at = $3
         where merchant_id = $1 and sale_id = $2 and state = 'completed' and closed_at is null",
        merchant.0,
        sale.0,
        expires_at,
    )
    .execute(tx.sql())
    .await?;
    once(opened)
}

/// Completes an open sale, on the day that it is at its outlet.
pub(super) async fn completed(tx: &mut MerchantTx, sale: SaleId) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    let completed = sqlx::query!(
        "update sales set state = 'completed', closed_at = $3, business_date = ($3::timestamptz at time zone time_zone)::date
         from outlets outlet
         where sales.merchant_id = $1 and sale_id = $2 and state = 'open'
           and outlet.merchant_id = $1 and outlet.outlet_id = sales.outlet_id",
        merchant.0,
        sale.0,
        now,
    )
    .execute(tx.sql())
    .await?;
    once(completed)
}

/// Ends an open sale that comes to nothing.
pub(super) async fn voided(tx: &mut MerchantTx, sale: SaleId, state: SaleState, note: Option<&str>) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    let voided = sqlx::query!(
        "update sales set state = $3, closed_at = $4, void_note = $5
         where merchant_id = $1 and sale_id = $2 and state = 'open'",
        merchant.0,
        sale.0,
        state.as_str(),
        now,
        note,
    )
    .execute(tx.sql())
    .await?;
    once(voided)
}

/// The row is locked and was decided on: that it is another by now cannot be, and must not be half-done.
fn once(moved: sqlx::postgres::PgQueryResult) -> Result<()> {
    match moved.rows_affected() {
        1 => Ok(()),
        rows => Err(anyhow::anyhow!("{rows} sales went on instead of one").into()),
    }
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

/// Writes payments of a sale behind so many that it has already. `pointer` is where the request names them.
pub(super) async fn payments(
    tx: &mut MerchantTx,
    sale: SaleId,
    captured_at: Moment,
    tenders: &[Tender],
    before: usize,
    pointer: &str,
) -> Result<()> {
    let merchant = tx.merchant();
    let ids: Vec<uuid::Uuid> = tenders.iter().map(|tender| tender.payment.0).collect();
    let places: Vec<i32> = (i32::try_from(before)? + 1..).take(ids.len()).collect();
    let methods: Vec<String> = tenders.iter().map(|tender| tender.method.as_str().to_owned()).collect();
    let amounts: Vec<i64> = tenders.iter().map(|tender| tender.amount_minor).collect();
    let tendered: Vec<i64> = tenders.iter().map(|tender| tender.tendered_minor).collect();
    let change: Vec<i64> = tenders.iter().map(|tender| tender.change_minor).collect();
    sqlx::query!(
        "insert into payments (merchant_id, sale_id, captured_at, payment_id, place, method, amount_minor,
                               tendered_minor, change_minor)
         select $1, $2, $3, * from unnest($4::uuid[], $5::int[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[])",
        merchant.0,
        sale.0,
        captured_at,
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
        Error::conflict_at("payment_exists", pointer, "This payment is recorded already.")
    })?;
    Ok(())
}
