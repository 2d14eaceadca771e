//! Reading sales: one, or a page of an outlet's.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::event::{Method, SaleLine, Tender};
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RegisterId, SaleId, StaffId, VariantId};
use utoipa::ToSchema;

use super::{SaleState, SaleView};
use crate::commerce::quantity;
use crate::error::{Error, Result};

/// The most sales that are listed at once.
pub const PAGE_MAX: u32 = 200;

/// One sale.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<SaleView> {
    let row = sqlx::query!(
        "select outlet_id, register_id, number, business_date, currency, subtotal_minor, discount_minor, total_minor,
                actor_id, occurred_at, state, expires_at, void_note,
                -- One that was never open was completed as it was rung up.
                case when state <> 'open' then coalesce(closed_at, occurred_at) end as closed_at
         from sales where merchant_id = $1 and sale_id = $2",
        merchant.0,
        sale.0,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("sale"))?;
    let state = SaleState::read(&row.state)?;
    let tenders = tenders(sql, merchant, sale).await?;
    let paid_minor: i64 = tenders.iter().map(|tender| tender.amount_minor).sum();
    let refunded_minor = refunded(sql, merchant, sale).await?;
    Ok(SaleView {
        id: sale,
        state,
        number: row.number,
        outlet: OutletId(row.outlet_id),
        register: RegisterId(row.register_id),
        business_date: row.business_date.to_string(),
        currency: row.currency,
        lines: lines(sql, merchant, sale).await?,
        subtotal_minor: row.subtotal_minor,
        discount_minor: row.discount_minor,
        total_minor: row.total_minor,
        tenders,
        paid_minor,
        refunded_minor,
        due_minor: state.due(row.total_minor, paid_minor - refunded_minor),
        actor: StaffId(row.actor_id),
        occurred_at: row.occurred_at,
        expires_at: row.expires_at,
        closed_at: row.closed_at,
        void_note: row.void_note,
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

/// What has gone back of what was paid for a sale.
async fn refunded(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<i64> {
    let minor = sqlx::query_scalar!(r#"select sale_given_back($1, $2) as "minor!""#, merchant.0, sale.0,)
        .fetch_one(sql)
        .await?;
    Ok(minor)
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
    pub state: SaleState,
    pub number: String,
    pub register: RegisterId,
    pub business_date: String,
    pub currency: String,
    pub total_minor: i64,
    /// What has been paid of it.
    pub paid_minor: i64,
    /// What of that has been given back, or was taken back by a bank.
    pub refunded_minor: i64,
    /// What is still to be paid: nothing, unless it is open.
    pub due_minor: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
    /// When it ends by itself, if nothing of it is paid by then; none of a sale that was never open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Moment>,
}

/// A sale as a list has it.
struct Row {
    sale_id: uuid::Uuid,
    state: String,
    number: String,
    register_id: uuid::Uuid,
    business_date: time::Date,
    currency: String,
    total_minor: i64,
    paid_minor: i64,
    refunded_minor: i64,
    occurred_at: Moment,
    expires_at: Option<Moment>,
}

impl Row {
    fn view(self) -> Result<SaleSummary> {
        let state = SaleState::read(&self.state)?;
        Ok(SaleSummary {
            id: SaleId(self.sale_id),
            state,
            number: self.number,
            register: RegisterId(self.register_id),
            business_date: self.business_date.to_string(),
            currency: self.currency,
            total_minor: self.total_minor,
            paid_minor: self.paid_minor,
            refunded_minor: self.refunded_minor,
            due_minor: state.due(self.total_minor, self.paid_minor - self.refunded_minor),
            occurred_at: self.occurred_at,
            expires_at: self.expires_at,
        })
    }
}

/// Sales of an outlet before a sale, all or those in one state, the largest id first: the newest, where the hub made the ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    state: Option<SaleState>,
    before: Option<SaleId>,
    limit: u32,
) -> Result<Vec<SaleSummary>> {
    if let Some(state) = state.filter(|state| *state != SaleState::Completed) {
        return not_completed(sql, merchant, outlet, state, before, limit).await;
    }
    let rows = sqlx::query_as!(
        Row,
        r#"select sale_id, state, number, register_id, business_date, currency, total_minor, occurred_at, expires_at,
                  -- One that is complete is paid, as a rule exactly: only for the others is it added up.
                  case when state = 'completed' and sale_given_back($1, sale_id) = 0
                       then total_minor
                       else (select coalesce(sum(amount_minor), 0)::bigint from payments
                             where payments.merchant_id = $1 and payments.sale_id = sales.sale_id) end as "paid_minor!",
                  sale_given_back($1, sale_id) as "refunded_minor!"
           from sales
           where merchant_id = $1 and outlet_id = $2 and ($3::uuid is null or sale_id < $3)
             and (not $5 or state = 'completed')
           order by sale_id desc limit $4"#,
        merchant.0,
        outlet.0,
        before.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
        state.is_some(),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter().map(Row::view).collect()
}

/// The same of those in another state, which are few, and have an index of their own.
async fn not_completed(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
    state: SaleState,
    before: Option<SaleId>,
    limit: u32,
) -> Result<Vec<SaleSummary>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select sale_id, state, number, register_id, business_date, currency, total_minor, occurred_at, expires_at,
                  (select coalesce(sum(amount_minor), 0)::bigint from payments
                   where payments.merchant_id = $1 and payments.sale_id = sales.sale_id) as "paid_minor!",
                  sale_given_back($1, sale_id) as "refunded_minor!"
           from sales
           where merchant_id = $1 and outlet_id = $2 and ($3::uuid is null or sale_id < $3)
             and state <> 'completed' and state = $5
           order by sale_id desc limit $4"#,
        merchant.0,
        outlet.0,
        before.map(|id| id.0),
        i64::from(limit.min(PAGE_MAX) + 1),
        state.as_str(),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter().map(Row::view).collect()
}

/// One sale, without its lines.
pub(super) async fn summary(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<SaleSummary> {
    let row = sqlx::query_as!(
        Row,
        r#"select sale_id, state, number, register_id, business_date, currency, total_minor, occurred_at, expires_at,
                  (select coalesce(sum(amount_minor), 0)::bigint from payments
                   where payments.merchant_id = $1 and payments.sale_id = $2) as "paid_minor!",
                  sale_given_back($1, sale_id) as "refunded_minor!"
           from sales where merchant_id = $1 and sale_id = $2"#,
        merchant.0,
        sale.0,
    )
    .fetch_one(sql)
    .await?;
    row.view()
}
