//! How an endpoint is doing: in one word, and in the numbers that the word stands on.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{EndpointId, MerchantId, Moment, Position};
use utoipa::ToSchema;

use super::endpoints::place;
use super::skip;
use crate::error::{Error, Result};

/// For how long something may wait before an endpoint is behind.
const BEHIND_AFTER: time::Duration = time::Duration::MINUTE;
/// How many attempts are looked at, the newest.
const ATTEMPTS_MAX: i64 = 10_000;

/// An endpoint's health, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthView {
    pub id: EndpointId,
    pub state: HealthState,
    /// How many entries the journal has behind what it was told. Not all of them need be for it.
    pub behind_entries: i64,
    /// When the first of these was recorded.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub behind_since: Option<Moment>,
    /// The event that it is stuck at, if it fails.
    #[schema(value_type = Option<String>)]
    pub stuck_at: Option<Position>,
    pub last_success: Option<LastAttempt>,
    pub last_failure: Option<LastAttempt>,
    pub last_24_hours: Recent,
}

/// In one word; the first that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It is told nothing.
    Disabled,
    /// What it is told next was tried in vain.
    Failing,
    /// Something has waited for it for more than a minute.
    Behind,
    Healthy,
}

/// The newest attempt of its kind.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LastAttempt {
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: Moment,
    /// The status that was answered; none if nobody answered.
    pub status: Option<i16>,
    /// The message's `webhook-id`.
    pub message: String,
}

/// The attempts of the last 24 hours, 10,000 at most: redeliveries among them, and no tests.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Recent {
    pub attempts: i64,
    pub delivered: i64,
    /// From 0 to 1; none if nothing was tried.
    pub success_rate: Option<f64>,
    /// How long half of them took, at most.
    pub took_ms_median: Option<f64>,
    /// How long 95 of 100 took, at most.
    pub took_ms_p95: Option<f64>,
}

/// How an endpoint is doing.
pub async fn of(sql: &mut PgConnection, merchant: MerchantId, id: EndpointId) -> Result<HealthView> {
    let row = sqlx::query!(
        r#"select events, state, attempts, endpoint.seq, event, endpoint.tag, now() as "now!",
                  head.seq - endpoint.seq + case when event is null then 0 else 1 end as "behind_entries!",
                  (select recorded_at from journal_entries entry
                   where entry.merchant_id = $1
                     and entry.seq = endpoint.seq + case when event is null then 1 else 0 end) as behind_since
           from webhook_endpoints endpoint join journal_heads head using (merchant_id)
           where merchant_id = $1 and endpoint_id = $2"#,
        merchant.0,
        id.0,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("webhook"))?;
    let is_behind = row.behind_since.is_some_and(|since| row.now - since > BEHIND_AFTER);
    let state = match (&*row.state, row.attempts) {
        ("disabled", _) => HealthState::Disabled,
        (_, 1..) => HealthState::Failing,
        _ if is_behind => HealthState::Behind,
        _ => HealthState::Healthy,
    };
    let stuck_at = match row.attempts {
        0 => None,
        _ => skip::next(&mut *sql, merchant, place(row.seq, row.event, &row.tag)?, &row.events).await?,
    };
    let [last_success, last_failure] = last(&mut *sql, merchant, id).await?;
    Ok(HealthView {
        id,
        state,
        behind_entries: row.behind_entries.max(0),
        behind_since: row.behind_since,
        stuck_at: stuck_at.and_then(|(_, message)| message.position),
        last_success,
        last_failure,
        last_24_hours: recent(sql, merchant, id).await?,
    })
}

/// The newest attempt that was delivered, and the newest that was not.
async fn last(sql: &mut PgConnection, merchant: MerchantId, id: EndpointId) -> Result<[Option<LastAttempt>; 2]> {
    let rows = sqlx::query!(
        r#"select distinct on (is_delivered) is_delivered as "is_delivered!", attempted_at, response_status, message_id
           from (select outcome = 'delivered' as is_delivered, attempt_id, attempted_at, response_status, message_id
                 from webhook_attempts
                 where merchant_id = $1 and endpoint_id = $2 and event_type <> 'webhook.test' and outcome <> 'skipped'
                 order by attempt_id desc limit $3) newest
           order by is_delivered, attempt_id desc"#,
        merchant.0,
        id.0,
        ATTEMPTS_MAX,
    )
    .fetch_all(sql)
    .await?;
    let mut last = [None, None];
    for row in rows {
        let attempt = LastAttempt { at: row.attempted_at, status: row.response_status, message: row.message_id };
        last[usize::from(!row.is_delivered)] = Some(attempt);
    }
    Ok(last)
}

async fn recent(sql: &mut PgConnection, merchant: MerchantId, id: EndpointId) -> Result<Recent> {
    let row = sqlx::query!(
        r#"select count(*) as "attempts!", count(*) filter (where outcome = 'delivered') as "delivered!",
                  percentile_cont(0.5) within group (order by took_ms) as took_ms_median,
                  percentile_cont(0.95) within group (order by took_ms) as took_ms_p95
           from (select outcome, took_ms, attempted_at from webhook_attempts
                 where merchant_id = $1 and endpoint_id = $2 and event_type <> 'webhook.test' and outcome <> 'skipped'
                 order by attempt_id desc limit $3) newest
           where attempted_at > now() - interval '24 hours'"#,
        merchant.0,
        id.0,
        ATTEMPTS_MAX,
    )
    .fetch_one(sql)
    .await?;
    let (attempts, delivered) = (row.attempts, row.delivered);
    // Both are small: no digit is lost.
    let success_rate = (attempts > 0).then(|| delivered as f64 / attempts as f64);
    Ok(Recent { attempts, delivered, success_rate, took_ms_median: row.took_ms_median, took_ms_p95: row.took_ms_p95 })
}
