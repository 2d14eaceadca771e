//! Reading sales: one, or a page of an outlet's.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{Method, SaleLine, Tender};
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RegisterId, SaleId, StaffId, VariantId};
use utoipa::ToSchema;

use super::SaleView;
use crate::commerce::quantity;
use crate::error::{Error, Result};

/// The most sales that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// One sale.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<SaleView> {
    let row = sqlx::query!(
        "select outlet_id, register_id, number, business_date, currency, subtotal_minor, discount_minor, total_minor,
                actor_id, occurred_at
         from sales where merchant_id = $1 and sale_id = $2",
        merchant.0,
        sale.0,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("sale"))?;
    Ok(SaleView {
        id: sale,
        number: row.number,
        outlet: OutletId(row.outlet_id),
        register: RegisterId(row.register_id),
        business_date: row.business_date.to_string(),
        currency: row.currency,
        lines: lines(sql, merchant, sale).await?,
        subtotal_minor: row.subtotal_minor,
        discount_minor: row.discount_minor,
        total_minor: row.total_minor,
        tenders: tenders(sql, merchant, sale).await?,
        actor: StaffId(row.actor_id),
        occurred_at: row.occurred_at,
    })
}

async fn lines(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<Vec<SaleLine>> {
    let rows = sqlx::query!(
        "select line, variant_id, sku, name, quantity, unit_price_minor, discount_minor, total_minor
         from sale_lines where merchant_id = $1 and sale_id = $2 order by line",
        merchant.0,
        sale.0,
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SaleLine {
                line: row.line.unsigned_abs(),
                variant: VariantId(row.variant_id),
                sku: row.sku,
                name: row.name,
                quantity: quantity(row.quantity)?,
                unit_price_minor: row.unit_price_minor,
                discount_minor: row.discount_minor,
                total_minor: row.total_minor,
            })
        })
        .collect()
}

async fn tenders(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<Vec<Tender>> {
    let rows = sqlx::query!(
        "select payment_id, method, amount_minor, tendered_minor, change_minor
         from payments where merchant_id = $1 and sale_id = $2 order by place",
        merchant.0,
        sale.0,
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Tender {
                payment: PaymentId(row.payment_id),
                method: Method::of(&row.method).ok_or_else(|| anyhow::anyhow!("an unknown method: {}", row.method))?,
                amount_minor: row.amount_minor,
                tendered_minor: row.tendered_minor,
                change_minor: row.change_minor,
            })
        })
        .collect()
}

/// A sale in a list: without its lines.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleSummary {
    pub id: SaleId,
    pub number: String,
    pub register: RegisterId,
    pub business_date: String,
    pub currency: String,
    pub total_minor: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
}

/// Sales of an outlet before a sale, the largest id first: the newest, where the hub made the ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    before: Option<SaleId>,
    limit: u32,
) -> Result<Vec<SaleSummary>> {
    let rows = sqlx::query!(
        "select sale_id, number, register_id, business_date, currency, total_minor, occurred_at from sales
         where merchant_id = $1 and outlet_id = $2 and ($3::uuid is null or sale_id < $3)
         order by sale_id desc limit $4",
        merchant.0,
        outlet.0,
        before.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
    )
    .fetch_all(sql)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| SaleSummary {
            id: SaleId(row.sale_id),
            number: row.number,
            register: RegisterId(row.register_id),
            business_date: row.business_date.to_string(),
            currency: row.currency,
            total_minor: row.total_minor,
            occurred_at: row.occurred_at,
        })
        .collect())
}
