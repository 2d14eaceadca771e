//! Snapshots: the state of a topic, and the position at which it is true.
//!
//! A screen that cannot be served what it missed takes one of these and goes on from its position. Long ones come in
//! pages; the position of the *first* page is the one to go on from: events that a later page already contains are then
//! applied again, which changes nothing where each event carries the whole new value.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tillwire_channels::{Channel, OutletId, Position, ProductId, Topic, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

mod day;
mod shared;

use super::{catalog, outlets, stock};
use crate::error::{Error, Result};
use crate::journal::read::ReadTx;
pub use shared::Shared;

/// How many items of a whole state are read at a time.
const WHOLE_PAGE: u32 = 500;

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

/// Whether there is a snapshot of this channel, of one page or more over REST.
///
/// # Errors
/// [`Error::Invalid`] that says why not.
pub fn check(channel: Channel) -> Result<()> {
    match channel.topic {
        Topic::Access | Topic::Alerts | Topic::Presence => {
            Err(Error::invalid("no_snapshot", "channel", "This topic has no snapshot."))
        }
        Topic::Stock if channel.outlet.is_none() => {
            let detail = "A snapshot of stock is of one outlet: stock/{outlet}.";
            Err(Error::invalid("outlet_needed", "channel", detail))
        }
        _ => Ok(()),
    }
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
    check(channel)?;
    let position = tx.position().await?;
    let (state, next) = page_of(tx, channel, outlets, cursor, limit).await?;
    Ok(SnapshotView { channel, position, state, next_cursor: next.map(|id| id.to_string()) })
}

/// The whole state of a channel, every item as JSON, and the position at which it is true.
#[derive(Debug)]
pub struct Whole {
    pub position: Position,
    /// `None` if it is larger than was asked for.
    pub items: Option<Vec<Box<RawValue>>>,
}

/// Reads the whole state of `channel`, on one snapshot of the database; of stock everywhere, outlet by outlet.
pub async fn read_whole(tx: &mut ReadTx, channel: Channel, bytes_max: usize) -> Result<Whole> {
    let position = tx.position().await?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    for channel in parts(tx, channel).await? {
        let mut cursor = None;
        loop {
            let (state, next) = page_of(tx, channel, &[], cursor, WHOLE_PAGE).await?;
            for item in state {
                let item = to_raw_value(&item)?;
                bytes += item.get().len();
                items.push(item);
            }
            if bytes > bytes_max {
                return Ok(Whole { position, items: None });
            }
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(Whole { position, items: Some(items) })
}

/// The channels whose states make up that of `channel`.
async fn parts(tx: &mut ReadTx, channel: Channel) -> Result<Vec<Channel>> {
    if channel.topic != Topic::Stock || channel.outlet.is_some() {
        return Ok(vec![channel]);
    }
    let (merchant, mut parts) = (tx.merchant(), Vec::new());
    loop {
        let after = parts.last().and_then(|last: &Channel| last.outlet);
        let outlets = outlets::list(tx.sql(), merchant, None, after, outlets::PAGE_MAX).await?;
        let more = outlets.len() > outlets::PAGE_MAX as usize;
        parts.extend(outlets.iter().take(outlets::PAGE_MAX as usize).map(|outlet| Topic::Stock.at(outlet.id)));
        if !more {
            return Ok(parts);
        }
    }
}

type Page = (Vec<Value>, Option<Uuid>);

async fn page_of(
    tx: &mut ReadTx,
    channel: Channel,
    outlets: &[OutletId],
    cursor: Option<Uuid>,
    limit: u32,
) -> Result<Page> {
    let merchant = tx.merchant();
    let only = channel.outlet.map(|outlet| vec![outlet]).or_else(|| (!outlets.is_empty()).then(|| outlets.to_vec()));
    match (channel.topic, channel.outlet) {
        (Topic::Catalog, _) => {
            let products = catalog::list(tx.sql(), merchant, cursor.map(ProductId), limit).await?;
            page(products, limit.min(catalog::PAGE_MAX), |product| product.id.0)
        }
        (Topic::Outlets, _) => {
            let outlets = outlets::list(tx.sql(), merchant, only.as_deref(), cursor.map(OutletId), limit).await?;
            page(outlets, limit.min(outlets::PAGE_MAX), |outlet| outlet.id.0)
        }
        (Topic::Stock, Some(outlet)) => {
            let levels = stock::levels(tx.sql(), merchant, outlet, cursor.map(VariantId), limit).await?;
            let levels = levels.into_iter().map(|level| LevelAt { outlet, level }).collect();
            page(levels, limit.min(stock::PAGE_MAX), |level: &LevelAt| level.level.variant.0)
        }
        (Topic::Sales, _) => Ok((day::sales(tx, &channel, only.as_deref()).await?, None)),
        (Topic::Payments, _) => Ok((day::payments(tx, &channel, only.as_deref()).await?, None)),
        (Topic::Stock, None) | (Topic::Access | Topic::Alerts | Topic::Presence, _) => {
            check(channel).map(|()| Page::default())
        }
    }
}

/// A level of stock, and where.
#[derive(Serialize)]
struct LevelAt {
    outlet: OutletId,
    #[serde(flatten)]
    level: stock::LevelView,
}

/// Cuts off the item that was read only to see whether there is more.
fn page<T: Serialize>(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> Uuid) -> Result<Page> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = if more { items.last().map(id) } else { None };
    Ok((items.iter().map(serde_json::to_value).collect::<Result<_, _>>()?, next))
}
