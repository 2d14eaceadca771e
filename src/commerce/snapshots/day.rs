//! The state of topics that count: today's sales and payments, for each outlet by its own calendar.

use serde::Serialize;
use serde_json::Value;
use tillwire_channels::{Channel, OutletId};
use uuid::Uuid;

use crate::error::Result;
use crate::journal::read::ReadTx;

/// The day's sales of an outlet.
#[derive(Serialize)]
struct SalesOfTheDay {
    outlet: OutletId,
    business_date: String,
    currency: String,
    count: i64,
    total_minor: i64,
}

/// Counts and totals of the sales that were completed today, for each outlet by its own calendar.
pub(super) async fn sales(tx: &mut ReadTx, channel: &Channel, only: Option<&[OutletId]>) -> Result<Vec<Value>> {
    let merchant = tx.merchant();
    let only: Option<Vec<Uuid>> = only.map(|only| only.iter().map(|id| id.0).collect());
    let rows = sqlx::query!(
        r#"select outlet.outlet_id, today as "today!", merchant.currency, count(sale_id) as "count!",
                  coalesce(sum(total_minor), 0)::bigint as "total_minor!"
           from outlets outlet
           join merchants merchant using (merchant_id)
           cross join lateral (select (now() at time zone time_zone)::date as today) as day
           left join sales sale on sale.merchant_id = $1 and sale.outlet_id = outlet.outlet_id
                and sale.state = 'completed' and business_date = today and ($3::uuid is null or register_id = $3)
           where outlet.merchant_id = $1 and ($2::uuid[] is null or outlet.outlet_id = any($2))
           group by outlet.outlet_id, today, merchant.currency order by outlet.outlet_id"#,
        merchant.0,
        only.as_deref(),
        channel.register.map(|register| register.0),
    )
    .fetch_all(tx.sql())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(serde_json::to_value(SalesOfTheDay {
                outlet: OutletId(row.outlet_id),
                business_date: row.today.to_string(),
                currency: row.currency,
                count: row.count,
                total_minor: row.total_minor,
            })?)
        })
        .collect()
}

/// The day's payments of an outlet by one method.
#[derive(Serialize)]
struct PaymentsOfTheDay {
    outlet: OutletId,
    business_date: String,
    currency: String,
    method: String,
    count: i64,
    amount_minor: i64,
}

/// Counts and amounts of the payments of today's sales, for each outlet and method: what was paid of open ones has arrived as
/// well, and was told.
pub(super) async fn payments(tx: &mut ReadTx, channel: &Channel, only: Option<&[OutletId]>) -> Result<Vec<Value>> {
    let merchant = tx.merchant();
    let only: Option<Vec<Uuid>> = only.map(|only| only.iter().map(|id| id.0).collect());
    let rows = sqlx::query!(
        r#"select outlet.outlet_id, today as "today!", sale.currency, method, count(*) as "count!",
                  sum(amount_minor)::bigint as "amount_minor!"
           from outlets outlet
           cross join lateral (select (now() at time zone time_zone)::date as today) as day
           join sales sale on sale.merchant_id = $1 and sale.outlet_id = outlet.outlet_id and business_date = today
           join payments payment on payment.merchant_id = $1 and payment.sale_id = sale.sale_id
           where outlet.merchant_id = $1 and ($2::uuid[] is null or outlet.outlet_id = any($2))
             and ($3::uuid is null or register_id = $3)
           group by outlet.outlet_id, today, sale.currency, method order by outlet.outlet_id, method"#,
        merchant.0,
        only.as_deref(),
        channel.register.map(|register| register.0),
    )
    .fetch_all(tx.sql())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(serde_json::to_value(PaymentsOfTheDay {
                outlet: OutletId(row.outlet_id),
                business_date: row.today.to_string(),
                currency: row.currency,
                method: row.method,
                count: row.count,
                amount_minor: row.amount_minor,
            })?)
        })
        .collect()
}
