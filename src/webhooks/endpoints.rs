//! Endpoints: where a merchant wants to be told what.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{EndpointId, Event, MerchantId, Moment, Position};
use utoipa::ToSchema;

use super::signature::Secret;
use super::{redeliveries, secrets};
use crate::egress::Egress;
use crate::error::{Error, OnConstraint, Result};
use crate::journal::{MerchantTx, read};
use crate::vault::Keyring;

/// The most endpoints of one merchant.
pub const ENDPOINTS_MAX: i64 = 50;
/// The most endpoints that are listed at once.
pub const PAGE_MAX: u32 = 50;

/// An endpoint, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointView {
    pub id: EndpointId,
    pub url: String,
    pub description: String,
    /// The types of events that it is told of; none for all.
    pub events: Vec<String>,
    pub enabled: bool,
    /// Why it is not: `by_hand`, `gone` (it answered 410) or `failing` (it failed for as long as it is tried).
    pub disabled_why: Option<String>,
    /// What it has been told: everything up to here.
    #[schema(value_type = String)]
    pub position: Position,
    /// How often the next event has been tried in vain.
    pub attempts: i32,
    /// Since when nothing has been delivered, if it fails.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Moment>,
    /// When it is tried next, if not at once.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Moment>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
}

/// What an endpoint is to be.
#[derive(Clone, Debug)]
pub struct Draft {
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub enabled: bool,
}

impl Draft {
    /// # Errors
    /// If the URL may not be connected to, or there is no such type of event.
    pub fn check(&self, egress: &Egress) -> Result<()> {
        egress.parse(&self.url).map_err(|why| Error::invalid("url_refused", "/url", format!("{}.", why.detail())))?;
        for (at, kind) in self.events.iter().enumerate() {
            if !Event::KINDS.contains(&kind.as_str()) {
                let detail = format!("There is no such event. There are {}.", Event::KINDS.join(", "));
                return Err(Error::invalid("unknown_event", format!("/events/{at}"), detail));
            }
        }
        Ok(())
    }
}

/// Adds an endpoint, with a secret, which is sealed if there is something to seal with. It is told what happens from now on.
pub async fn add(
    tx: &mut MerchantTx,
    id: EndpointId,
    draft: Draft,
    secret: &Secret,
    ring: Option<&Keyring>,
) -> Result<EndpointView> {
    let merchant = tx.merchant();
    tx.take_turn("webhook endpoints").await?;
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from webhook_endpoints where merchant_id = $1"#, merchant.0)
            .fetch_one(tx.sql())
            .await?;
    if count >= ENDPOINTS_MAX {
        return Err(Error::conflict("too_many_webhooks", format!("A merchant has {ENDPOINTS_MAX} webhooks at most.")));
    }
    let head = read::head(tx.sql(), merchant).await?.ok_or(Error::NotFound("merchant"))?.position();
    sqlx::query!(
        "insert into webhook_endpoints (merchant_id, endpoint_id, url, description, events, state, disabled_why, seq, tag)
         values ($1, $2, $3, $4, $5, case when $6 then 'enabled' else 'disabled' end,
                 case when not $6 then 'by_hand' end, $7, $8)",
        merchant.0,
        id.0,
        draft.url,
        draft.description,
        &draft.events,
        draft.enabled,
        head.seq.cast_signed(),
        head.tag.as_slice(),
    )
    .execute(tx.sql())
    .await
    .on_constraint("webhook_endpoints_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))?;
    secrets::add(tx.sql(), merchant, id, secret, ring).await?;
    get(tx.sql(), merchant, id).await
}

/// Makes an endpoint what it is to be. One that is enabled again, or leads elsewhere, is tried at once. Whoever is serving it
/// as it was, or a redelivery to it, has lost it: what he still says moves nothing.
pub async fn replace(tx: &mut MerchantTx, id: EndpointId, draft: Draft) -> Result<EndpointView> {
    let merchant = tx.merchant();
    let is_anew = sqlx::query_scalar!(
        r#"select state = 'disabled' or url <> $3 as "is_anew!" from webhook_endpoints
           where merchant_id = $1 and endpoint_id = $2 for no key update"#,
        merchant.0,
        id.0,
        draft.url,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(Error::NotFound("webhook"))?;
    sqlx::query!(
        "update webhook_endpoints
         set url = $3, description = $4, events = $5,
             state = case when $6 then 'enabled' else 'disabled' end,
             disabled_why = case when not $6 then coalesce(disabled_why, 'by_hand') end,
             lease = null, leased_until = null,
             attempts = case when $7 then 0 else attempts end,
             failing_since = case when $7 then null else failing_since end,
             next_at = case when $7 then null else next_at end
         where merchant_id = $1 and endpoint_id = $2",
        merchant.0,
        id.0,
        draft.url,
        draft.description,
        &draft.events,
        draft.enabled,
        is_anew,
    )
    .execute(tx.sql())
    .await?;
    redeliveries::interrupt(tx.sql(), merchant, id, is_anew).await?;
    get(tx.sql(), merchant, id).await
}

/// What is answered when an endpoint is gone.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Removed {
    pub id: EndpointId,
}

/// Removes an endpoint with its secrets. The log of its attempts is forgotten with time.
pub async fn remove(tx: &mut MerchantTx, id: EndpointId) -> Result<Removed> {
    let merchant = tx.merchant();
    let gone =
        sqlx::query!("delete from webhook_endpoints where merchant_id = $1 and endpoint_id = $2", merchant.0, id.0)
            .execute(tx.sql())
            .await?;
    if gone.rows_affected() == 0 { Err(Error::NotFound("webhook")) } else { Ok(Removed { id }) }
}

/// One endpoint.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, id: EndpointId) -> Result<EndpointView> {
    let found = select(sql, merchant, Some(id), None, 1).await?;
    found.into_iter().next().ok_or(Error::NotFound("webhook"))
}

/// Endpoints after an id, in the order of their ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    after: Option<EndpointId>,
    limit: u32,
) -> Result<Vec<EndpointView>> {
    select(sql, merchant, None, after, limit.min(PAGE_MAX) + 1).await
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<EndpointId>,
    after: Option<EndpointId>,
    limit: u32,
) -> Result<Vec<EndpointView>> {
    let rows = sqlx::query!(
        "select endpoint_id, url, description, events, state, disabled_why, seq, event, tag, attempts, failing_since, next_at,
                created_at
         from webhook_endpoints
         where merchant_id = $1 and ($2::uuid is null or endpoint_id = $2) and ($3::uuid is null or endpoint_id > $3)
         order by endpoint_id limit $4",
        merchant.0,
        only.map(|id| id.0),
        after.map(|id| id.0),
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(EndpointView {
                id: EndpointId(row.endpoint_id),
                url: row.url,
                description: row.description,
                events: row.events,
                enabled: row.state == "enabled",
                disabled_why: row.disabled_why,
                position: place(row.seq, row.event, &row.tag)?,
                attempts: row.attempts,
                failing_since: row.failing_since,
                next_at: row.next_at,
                created_at: row.created_at,
            })
        })
        .collect()
}

/// A position as a row has it.
pub(super) fn place(seq: i64, event: Option<i32>, tag: &[u8]) -> anyhow::Result<Position> {
    let event = event.map(u32::try_from).transpose()?;
    Ok(Position { seq: u64::try_from(seq)?, event, tag: tag.try_into()? })
}
