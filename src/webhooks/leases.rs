//! Serving an endpoint: whoever holds its lease, and nobody else, moves its cursor.
//!
//! A lease is fenced: each move names it, and moves nothing when somebody else has it by now. Each is of one transaction,
//! together with the word on the attempt that it follows from.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{EndpointId, Event, MerchantId, Position};
use uuid::Uuid;

use super::attempts::{self, Attempted};
use super::endpoints::place;
use super::message::{self, Message};
use super::signature::Secret;
use super::{redeliveries, secrets};
use crate::error::Result;
use crate::journal::{Entry, MerchantTx, pool};
use crate::vault::Vault;

/// For how long an endpoint is held without a word: longer than an attempt may take. A lease that reaches twice as far ahead is
/// of a clock that was put right since, and nobody's.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// An endpoint that has something to be told, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Due {
    pub merchant: MerchantId,
    pub endpoint: EndpointId,
}

/// Endpoints that are enabled, whose turn it is, that nobody serves, and whose journal is not where they are, of these merchants
/// or of all: those that have waited longest first, and of one merchant only so many. Merchants in `busy` are left out. `pool`
/// is the relay's: it asks about everybody.
pub async fn due(
    pool: &PgPool,
    of: Option<&[MerchantId]>,
    busy: &[MerchantId],
    of_one_max: usize,
    endpoints_max: usize,
) -> Result<Vec<Due>> {
    let ids = |merchants: &[MerchantId]| merchants.iter().map(|merchant| merchant.0).collect::<Vec<Uuid>>();
    let (of, busy) = (of.map(ids), ids(busy));
    let rows = sqlx::query!(
        r#"select merchant_id as "merchant_id!", endpoint_id as "endpoint_id!"
           from (select endpoint.merchant_id, endpoint.endpoint_id, free_at,
                        row_number() over (partition by endpoint.merchant_id order by free_at) as place
                 from webhook_endpoints endpoint join journal_heads head using (merchant_id)
                 cross join lateral (
                     select greatest('-infinity', next_at,
                                     case when leased_until <= now() + 2 * make_interval(secs => $5) then leased_until end)
                            as free_at) free
                 where endpoint.state = 'enabled' and (head.seq <> endpoint.seq or endpoint.event is not null)
                   and free_at <= now() and ($1::uuid[] is null or endpoint.merchant_id = any($1))
                   and endpoint.merchant_id <> all($2)) due
           where place <= $3 order by free_at limit $4"#,
        of.as_deref(),
        &busy,
        i64::try_from(of_one_max)?,
        i64::try_from(endpoints_max)?,
        LEASE.as_secs_f64(),
    )
    .fetch_all(pool)
    .await?;
    let due = |(merchant, endpoint)| Due { merchant: MerchantId(merchant), endpoint: EndpointId(endpoint) };
    Ok(rows.into_iter().map(|row| due((row.merchant_id, row.endpoint_id))).collect())
}

/// An endpoint that is ours to serve.
#[derive(Clone, Debug)]
pub struct Held {
    pub due: Due,
    lease: Uuid,
    /// As it was when the lease was taken. Whoever changes it takes the lease away.
    pub target: Target,
    /// What it has been told.
    pub position: Position,
    /// How often the next event has been tried.
    pub attempts: i32,
}

/// What is told where.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: String,
    /// The types of events that are told; none for all.
    pub events: Vec<String>,
    pub secrets: Vec<Secret>,
}

impl Target {
    /// The messages of an entry that are still to be told to whoever stands at a place, as far as one position if there is one;
    /// each with the place up to which all is told then.
    pub fn messages(&self, entry: &Entry, at: Position, until: Option<Position>) -> Vec<(Position, Message)> {
        message::untold(entry, at, until, &self.events)
    }
}

/// Takes an endpoint, unless somebody else has it, or there is nothing to do.
pub async fn take(app: &PgPool, vault: &Vault, due: Due) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, due.merchant).await?;
    let row = sqlx::query!(
        "update webhook_endpoints set lease = $3, leased_until = now() + make_interval(secs => $4)
         where merchant_id = $1 and endpoint_id = $2 and state = 'enabled'
           and coalesce(next_at, '-infinity') <= now()
           and (leased_until > now() and leased_until <= now() + 2 * make_interval(secs => $4)) is not true
         returning url, events, seq, event, tag, attempts",
        due.merchant.0,
        due.endpoint.0,
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let secrets = secrets::good(&mut sql, vault, due.merchant, due.endpoint).await?;
    let target = Target { url: row.url, events: row.events, secrets };
    let position = place(row.seq, row.event, &row.tag)?;
    let held = Held { due, lease, target, position, attempts: row.attempts };
    sql.commit().await?;
    Ok(Some(held))
}

/// What an endpoint is told where, if it is enabled.
pub(super) async fn target(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    endpoint: EndpointId,
) -> Result<Option<Target>> {
    let row = sqlx::query!(
        "select url, events from webhook_endpoints where merchant_id = $1 and endpoint_id = $2 and state = 'enabled'",
        merchant.0,
        endpoint.0,
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let secrets = secrets::good(sql, vault, merchant, endpoint).await?;
    Ok(Some(Target { url: row.url, events: row.events, secrets }))
}

/// An endpoint's cursor comes to a place, and what else becomes of it.
///
/// INVARIANT: whoever serves an endpoint moves its cursor by this and nothing else, and only while the lease is theirs.
macro_rules! moves {
    ($what:literal, $held:expr, $to:expr $(, $value:expr)* $(; returning $returned:literal)?) => {
        sqlx::query!(
            "update webhook_endpoints set seq = $4, event = $5, tag = $6, " + $what +
            " where merchant_id = $1 and endpoint_id = $2 and lease = $3 and state = 'enabled'" $(+ " returning " + $returned)?,
            $held.due.merchant.0,
            $held.due.endpoint.0,
            $held.lease,
            $to.seq.cast_signed(),
            $to.event.map(i32::try_from).transpose()?,
            $to.tag.as_slice(),
            $($value),*
        )
    };
}

/// An event was delivered, and with it all up to a place. False if the endpoint is not ours any more, or not to be told any
/// more.
pub async fn delivered(
    app: &PgPool,
    held: &Held,
    message: &Message,
    attempted: &Attempted,
    to: Position,
) -> Result<bool> {
    let Due { merchant, endpoint } = held.due;
    let mut sql = pool::begin_of(app, merchant).await?;
    let kept = attempts::keep(&mut sql, merchant, endpoint, message, held.attempts + 1, attempted, None).await?;
    let is_ours = match kept {
        Some(_) => moved(&mut sql, held, to, true).await?,
        None => is_left(&mut sql, held, "enabled", Some(held.lease)).await?,
    };
    sql.commit().await?;
    Ok(is_ours)
}

/// An endpoint is passed on without an attempt, over what it does not hear. False if it is not ours any more.
pub async fn passed(app: &PgPool, held: &Held) -> Result<bool> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    let is_ours = moved(&mut sql, held, held.position, false).await?;
    sql.commit().await?;
    Ok(is_ours)
}

/// Moves the cursor and renews the lease. What was delivered ends what failed.
async fn moved(sql: &mut PgConnection, held: &Held, to: Position, is_delivered: bool) -> Result<bool> {
    let moved = moves!(
        "leased_until = now() + make_interval(secs => $7), attempts = case when $8 then 0 else attempts end,
         failing_since = case when $8 then null else failing_since end, next_at = case when $8 then null else next_at end",
        held,
        to,
        LEASE.as_secs_f64(),
        is_delivered
    )
    .execute(sql)
    .await?;
    Ok(moved.rows_affected() > 0)
}

/// Whether an endpoint is still as a write has left it whose answer was lost: done again, it would count twice.
async fn is_left(sql: &mut PgConnection, held: &Held, state: &str, lease: Option<Uuid>) -> Result<bool> {
    let is_left = sqlx::query_scalar!(
        r#"select exists (select from webhook_endpoints
                          where merchant_id = $1 and endpoint_id = $2 and state = $3
                            and lease is not distinct from $4) as "is_left!""#,
        held.due.merchant.0,
        held.due.endpoint.0,
        state,
        lease,
    )
    .fetch_one(sql)
    .await?;
    Ok(is_left)
}

/// What becomes of an endpoint that was tried in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again after this time.
    Later(Duration),
    /// It is not tried any more, and why.
    Disabled(&'static str),
}

/// An attempt was in vain: the endpoint is let go of, until its next. False if it was not ours any more.
pub async fn later(
    app: &PgPool,
    held: &Held,
    message: &Message,
    attempted: &Attempted,
    pause: Duration,
) -> Result<bool> {
    let Due { merchant, endpoint } = held.due;
    let mut sql = pool::begin_of(app, merchant).await?;
    let kept = attempts::keep(&mut sql, merchant, endpoint, message, held.attempts + 1, attempted, None).await?;
    if kept.is_none() {
        return is_left(&mut sql, held, "enabled", None).await;
    }
    let changed = moves!(
        "attempts = attempts + 1, failing_since = coalesce(failing_since, now()),
         next_at = now() + make_interval(secs => $7), lease = null, leased_until = null",
        held,
        held.position,
        pause.as_secs_f64()
    )
    .execute(&mut *sql)
    .await?;
    sql.commit().await?;
    Ok(changed.rows_affected() > 0)
}

/// The last attempt there is, and why.
#[derive(Clone, Debug)]
pub struct GivenUp {
    pub held: Held,
    pub message: Message,
    pub attempted: Attempted,
    pub why: &'static str,
}

/// An endpoint is disabled, and its owner is told so by an event of the same commit. False if it was not ours any more: then
/// there is nothing to tell.
pub async fn disabled(tx: &mut MerchantTx, given_up: GivenUp) -> Result<bool> {
    let GivenUp { held, message, attempted, why } = given_up;
    let Due { merchant, endpoint } = held.due;
    let kept = attempts::keep(tx.sql(), merchant, endpoint, &message, held.attempts + 1, &attempted, None).await?;
    if kept.is_none() {
        return is_left(tx.sql(), &held, "disabled", None).await;
    }
    let changed = moves!(
        "attempts = attempts + 1, failing_since = coalesce(failing_since, now()), state = 'disabled', disabled_why = $7,
         next_at = null, lease = null, leased_until = null",
        held,
        held.position,
        why;
        returning "description, attempts"
    )
    .fetch_optional(tx.sql())
    .await?;
    let Some(row) = changed else { return Ok(false) };
    redeliveries::interrupt(tx.sql(), merchant, endpoint, false).await?;
    tx.append(&Event::AlertRaised(alert(endpoint, &row.description, why, row.attempts)), tx.now())?;
    Ok(true)
}

/// What its owner is told of an endpoint that was disabled. It is named by what is no secret: a URL may be one.
fn alert(endpoint: EndpointId, description: &str, why: &str, attempts: i32) -> AlertRaised {
    let named = match description {
        "" => endpoint.to_string(),
        description => format!("\"{description}\" ({endpoint})"),
    };
    let cause = match why {
        "gone" => "answered 410, that it is gone".to_owned(),
        _ => format!("failed {attempts} times in a row"),
    };
    AlertRaised {
        alert: "webhook_disabled".to_owned(),
        severity: Severity::Warning,
        title: "A webhook is disabled".to_owned(),
        detail: format!(
            "The webhook {named} {cause}, and is told nothing more. Once its receiver is well, enable it again: it is told \
             what it missed, as far as the journal still has it."
        ),
        subject: Some(endpoint.to_string()),
        outlet: None,
        register: None,
    }
}

/// Lets go of an endpoint, which has been told everything up to its place. Whoever has just been served is behind those who
/// wait.
pub async fn let_go(app: &PgPool, held: Held) -> Result<()> {
    let mut sql = pool::begin_of(app, held.due.merchant).await?;
    moves!("lease = null, leased_until = now()", held, held.position).execute(&mut *sql).await?;
    sql.commit().await?;
    Ok(())
}
