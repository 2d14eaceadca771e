//! Snapshots: the state of a topic, and the position at which it is true.
//!
//! A screen that cannot be served what it missed takes one of these and goes on from its position. Long ones come in
//! pages; the position of the *first* page is the one to go on from: events that a later page already contains are then
//! applied again, which changes nothing where each event carries the whole new value.

use serde::Serialize;
use serde_json::Value;
use tillwire_channels::{Channel, OutletId, Position, ProductId, Topic, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{catalog, outlets, stock};
use crate::error::{Error, Result};
use crate::journal::read::ReadTx;

/// A page of a topic's state.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotView {
    #[schema(value_type = String)]
    pub channel: Channel,
    /// The position at which this page is true.
    #[schema(value_type = String)]
    pub position: Position,
    /// What the table of topics promises for this topic.
    pub state: Vec<Value>,
    /// For the next page, if there is one.
    pub next_cursor: Option<String>,
}

/// Reads a page of the state of `channel`, on one snapshot of the database.
///
/// `outlets` are those the reader is bound to; empty for all.
pub async fn read(
    tx: &mut ReadTx,
    channel: Channel,
    outlets: &[OutletId],
    cursor: Option<Uuid>,
    limit: u32,
) -> Result<SnapshotView> {
    let (merchant, position) = (tx.merchant(), tx.position().await?);
    let only = channel.outlet.map(|outlet| vec![outlet]).or_else(|| (!outlets.is_empty()).then(|| outlets.to_vec()));
    let (state, next) = match channel.topic {
        Topic::Catalog => {
            let products = catalog::list(tx.sql(), merchant, cursor.map(ProductId), limit).await?;
            page(products, limit, |product| product.id.0)?
        }
        Topic::Outlets => {
            let outlets = outlets::list(tx.sql(), merchant, only.as_deref(), cursor.map(OutletId), limit).await?;
            page(outlets, limit, |outlet| outlet.id.0)?
        }
        Topic::Stock => {
            let detail = "A snapshot of stock is of one outlet: stock/{outlet}.";
            let outlet = channel.outlet.ok_or_else(|| Error::invalid("outlet_needed", "channel", detail))?;
            let levels = stock::levels(tx.sql(), merchant, outlet, cursor.map(VariantId), limit).await?;
            page(levels, limit, |level| level.variant.0)?
        }
        Topic::Sales => (sales_of_the_day(tx, &channel, only.as_deref()).await?, None),
        Topic::Payments => (payments_of_the_day(tx, &channel, only.as_deref()).await?, None),
        Topic::Access => {
            return Err(Error::invalid("no_snapshot", "channel", "This topic has no snapshot."));
        }
    };
    Ok(SnapshotView { channel, position, state, next_cursor: next })
}

/// Cuts off the item that was read only to see whether there is more.
fn page<T: Serialize>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Result<(Vec<Value>, Option<String>)> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(|last| id(last).to_string()) } else { None };
    Ok((items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?, next))
}

/// The day's sales of an outlet.
#[derive(Serialize)]
struct SalesOfTheDay {
    outlet: OutletId,
    business_date: String,
    currency: String,
    count: i64,
    total_minor: i64,
}

/// Counts and totals of today's sales, for each outlet by its own calendar.
async fn sales_of_the_day(tx: &mut ReadTx, channel: &Channel, only: Option<&[OutletId]>) -> Result<Vec<Value>> {
    let merchant = tx.merchant();
    let only: Option<Vec<Uuid>> = only.map(|only| only.iter().map(|id| id.0).collect());
    let rows = sqlx::query!(
        r#"select outlet.outlet_id, today as "today!", merchant.currency, count(sale_id) as "count!",
                  coalesce(sum(total_minor), 0)::bigint as "total_minor!"
           from outlets outlet
           join merchants merchant using (merchant_id)
           cross join lateral (select (now() at time zone time_zone)::date as today) as day
           left join sales sale on sale.merchant_id = $1 and sale.outlet_id = outlet.outlet_id
                and business_date = today and ($3::uuid is null or register_id = $3)
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

/// Counts and amounts of the payments of today's sales, for each outlet and method.
async fn payments_of_the_day(tx: &mut ReadTx, channel: &Channel, only: Option<&[OutletId]>) -> Result<Vec<Value>> {
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
