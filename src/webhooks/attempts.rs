//! The log of attempts: what was sent, what was answered, and how long it took.

use std::time::Duration;

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{EndpointId, MerchantId, Moment};
use utoipa::ToSchema;
use uuid::Uuid;

use super::mask::{AHEAD_BYTES, masked};
use super::message::Message;
use crate::error::{Error, OnConstraint, Result};

/// The most attempts that are listed at once.
pub const PAGE_MAX: u32 = 100;
/// How much of a request and of an answer is kept.
pub const KEPT_BYTES_MAX: usize = 4 * 1024;
/// How much of an answer has to be at hand for that: what is cut off decides what the rest is.
pub const HEARD_BYTES_MAX: usize = KEPT_BYTES_MAX + AHEAD_BYTES;
/// How much of an error is.
const ERROR_BYTES_MAX: usize = 500;

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// By which it is known that it was taken down already, when whoever took it down was not told so.
    pub id: Uuid,
    pub at: Moment,
    pub took: Duration,
    pub answer: Answer,
}

#[derive(Clone, Debug)]
pub enum Answer {
    /// A status, the beginning of the body, and how long to wait, if it asked for that.
    Status { code: u16, body: String, retry_after: Option<Duration> },
    /// None, and why.
    None(String),
    /// Nobody was asked: a person had the message passed over.
    Skipped,
}

impl Attempted {
    pub fn new(at: Moment, took: Duration, answer: Answer) -> Self {
        Self { id: Uuid::now_v7(), at, took, answer }
    }

    pub fn is_delivered(&self) -> bool {
        matches!(self.answer, Answer::Status { code: 200..=299, .. })
    }

    /// `delivered`, `refused` by an answer, `failed` without one, or `skipped` by a person.
    pub fn outcome(&self) -> &'static str {
        match self.answer {
            Answer::Status { code: 200..=299, .. } => "delivered",
            Answer::Status { .. } => "refused",
            Answer::None(_) => "failed",
            Answer::Skipped => "skipped",
        }
    }
}

/// An attempt, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AttemptView {
    pub id: Uuid,
    /// The message's `webhook-id`.
    pub message: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// Which attempt at this message, from 1.
    pub attempt: i32,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub attempted_at: Moment,
    pub took_ms: i32,
    /// `delivered`, `refused` by an answer, `failed` without one, or `skipped` by a person.
    pub outcome: String,
    /// The redelivery that it was made for, if it was for one.
    pub redelivery: Option<Uuid>,
    /// What was sent, up to 4 KiB of it; what looks like a secret is struck out.
    pub request_body: String,
    pub response_status: Option<i16>,
    /// What was answered, likewise.
    pub response_body: Option<String>,
    /// Why there was no answer.
    pub error: Option<String>,
}

/// Takes an attempt down. None if it was taken down already, and all that came of it with it.
pub async fn keep(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    message: &Message,
    attempt: i32,
    attempted: &Attempted,
    redelivery: Option<Uuid>,
) -> Result<Option<AttemptView>> {
    let (status, body, error) = match &attempted.answer {
        Answer::Status { code, body, .. } => (i16::try_from(*code).ok(), Some(shown(body, KEPT_BYTES_MAX)), None),
        Answer::None(why) => (None, None, Some(shown(why, ERROR_BYTES_MAX))),
        Answer::Skipped => (None, None, None),
    };
    let view = AttemptView {
        id: attempted.id,
        message: message.id.clone(),
        kind: message.kind.clone(),
        attempt,
        attempted_at: attempted.at,
        took_ms: i32::try_from(attempted.took.as_millis()).unwrap_or(i32::MAX),
        outcome: attempted.outcome().to_owned(),
        redelivery,
        request_body: shown(&message.body, KEPT_BYTES_MAX),
        response_status: status,
        response_body: body,
        error,
    };
    let inserted = sqlx::query!(
        "insert into webhook_attempts (merchant_id, attempt_id, endpoint_id, message_id, event_type, attempt, attempted_at, took_ms,
                                       outcome, request_body, response_status, response_body, error, redelivery_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         on conflict on constraint webhook_attempts_pkey do nothing",
        merchant.0,
        view.id,
        endpoint.0,
        view.message,
        view.kind,
        view.attempt,
        view.attempted_at,
        view.took_ms,
        view.outcome,
        view.request_body,
        view.response_status,
        view.response_body,
        view.error,
        view.redelivery,
    )
    .execute(sql)
    .await
    .on_constraint("webhook_attempts_test_key", || Error::InFlight)?;
    Ok((inserted.rows_affected() > 0).then_some(view))
}

/// Attempts at an endpoint, the newest first; those before an id.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AttemptView>> {
    select(sql, merchant, endpoint, before, None, limit.min(PAGE_MAX) + 1).await
}

/// The attempt at a test message, if there was one.
pub async fn of_test(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    message_id: &str,
) -> Result<Option<AttemptView>> {
    Ok(select(sql, merchant, endpoint, None, Some(message_id), 1).await?.pop())
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    before: Option<Uuid>,
    test: Option<&str>,
    limit: u32,
) -> Result<Vec<AttemptView>> {
    let views = sqlx::query_as!(
        AttemptView,
        r#"select attempt_id as id, message_id as message, event_type as kind, attempt, attempted_at, took_ms, outcome,
                  redelivery_id as redelivery, request_body, response_status, response_body, error
           from webhook_attempts
           where merchant_id = $1 and endpoint_id = $2 and ($3::uuid is null or attempt_id < $3)
             and ($4::text is null or (message_id = $4 and event_type = 'webhook.test'))
           order by attempt_id desc limit $5"#,
        merchant.0,
        endpoint.0,
        before,
        test,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    Ok(views)
}

/// A text as it may be shown and kept: masked and cut, and with nothing in it that moves a terminal or that PostgreSQL refuses.
fn shown(text: &str, bytes_max: usize) -> String {
    masked(text, bytes_max)
        .chars()
        .map(|it| if it.is_control() && it != '\n' && it != '\t' { '·' } else { it })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_cut_and_harmless() {
        assert_eq!(shown("a\u{0}b\x1b[2J\nc", 100), "a·b·[2J\nc");
        assert_eq!(shown("ééé", 3), "é");
        let worst = shown(&"\x01".repeat(KEPT_BYTES_MAX), KEPT_BYTES_MAX);
        assert!(worst.len() <= 2 * KEPT_BYTES_MAX);
    }
}
