//! Runs: one for one account over a span of time. Of an account one at a time is under way; whoever asks again is shown that.
//!
//! A run is a row, and how far it has come is in it. Whoever is at it holds its lease, and each commit names the lease: one that
//! was frozen, and wakes up when another is at it, commits nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tillwire_channels::{MerchantId, Moment};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::accounts::kept;
use crate::connectors::credentials::Provider;
use crate::connectors::habits::habits;
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, pool};

/// For how long a run is held without a word: longer than a call to a provider takes, and a step.
pub const LEASE: Duration = Duration::from_secs(60);
/// The longest span, and how far back one may begin: differences are kept for no longer.
pub const SPAN_MAX: time::Duration = time::Duration::days(31);
const BACK_MAX: time::Duration = time::Duration::days(540);
/// The most runs that are listed at once.
pub const PAGE_MAX: u32 = 100;
/// How much of an error is kept, in bytes.
const ERROR_BYTES_MAX: usize = 600;

/// A run, as answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    pub id: Uuid,
    pub account: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub from: Moment,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub until: Moment,
    pub state: RunState,
    /// How many things the provider has told of so far, and how many of them could not be read.
    pub told: i64,
    pub unreadable: i64,
    /// How many payments were compared so far.
    pub compared: i64,
    /// How many differences it found that were not known, and how many are gone that were. Both are known at its end.
    pub found: i64,
    pub gone: i64,
    /// Why it failed.
    pub error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub begun_at: Moment,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Done,
    Failed,
}

/// What is being done in a run, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The provider is asked.
    Asking,
    /// Notifications are gone through that were of no payment.
    Noticing,
    /// What the provider is sure of is learnt, and payments are looked at that it knows better.
    Looking,
    /// Payments are compared.
    Comparing,
    /// What was told of no payment of ours.
    Strangers,
    /// What was told is forgotten.
    Clearing,
}

impl Phase {
    const ALL: [Self; 6] =
        [Self::Asking, Self::Noticing, Self::Looking, Self::Comparing, Self::Strangers, Self::Clearing];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Noticing => "noticing",
            Self::Looking => "looking",
            Self::Comparing => "comparing",
            Self::Strangers => "strangers",
            Self::Clearing => "clearing",
        }
    }
}

/// Begins a run, unless one over the same span is under way, which is answered then.
///
/// # Errors
/// What is wrong with the span; `reconciliation_running` if one over another span is under way.
pub async fn begin(tx: &mut MerchantTx, account: Uuid, from: Moment, until: Moment) -> Result<RunView> {
    let (merchant, now, by) = (tx.merchant(), tx.now(), tx.actor()?);
    let (from, until) = (as_kept(from), as_kept(until));
    let invalid = |pointer: &str, detail: &str| Err(Error::invalid("invalid_span", pointer, detail));
    if from >= until {
        return invalid("/until", "It ends before it begins.");
    }
    if until > now {
        return invalid("/until", "What is to come cannot be compared.");
    }
    if until - from > SPAN_MAX {
        return invalid("/from", "A span has 31 days at most.");
    }
    if now - from > BACK_MAX {
        return invalid("/from", "It begins more than 18 months ago.");
    }
    kept::get(tx.sql(), merchant, account).await?;
    let run = Uuid::now_v7();
    insert(tx.sql(), merchant, account, run, (from, until), Some(by.0)).await?;
    let running = sqlx::query!(
        "select run_id, from_at, until_at from reconciliations
         where merchant_id = $1 and account_id = $2 and ended_at is null",
        merchant.0,
        account,
    )
    .fetch_optional(tx.sql())
    .await?;
    match running {
        Some(running) if running.run_id == run || (running.from_at, running.until_at) == (from, until) => {
            get(tx.sql(), merchant, running.run_id).await
        }
        Some(running) => {
            let detail = format!("The run {} is under way: wait until it has ended.", running.run_id);
            Err(Error::conflict("reconciliation_running", detail))
        }
        // It has ended just now.
        None => Err(Error::Busy { retry_after: Duration::from_secs(1) }),
    }
}

/// Plans the run that each day brings, unless one is under way or was planned in the last twelve hours.
pub async fn plan(sql: &mut PgConnection, merchant: MerchantId, account: Uuid, provider: Provider) -> Result<()> {
    let is_planned = sqlx::query!(
        r#"select exists (select from reconciliations
                          where merchant_id = $1 and account_id = $2 and asked_by is null
                            and begun_at > now() - interval '12 hours') as "is_planned!", now() as "now!""#,
        merchant.0,
        account,
    )
    .fetch_one(&mut *sql)
    .await?;
    if is_planned.is_planned {
        return Ok(());
    }
    // A list says when money is paid out, days later. Asking for one payment after the other is worth less.
    let days = if habits(provider).lists_settlements { 9 } else { 2 };
    // What was paid just now may not be told yet.
    let until = is_planned.now - time::Duration::minutes(15);
    insert(sql, merchant, account, Uuid::now_v7(), (until - time::Duration::days(days), until), None).await
}

async fn insert(
    sql: &mut PgConnection,
    merchant: MerchantId,
    account: Uuid,
    run: Uuid,
    (from, until): (Moment, Moment),
    by: Option<Uuid>,
) -> Result<()> {
    sqlx::query!(
        "insert into reconciliations (merchant_id, run_id, account_id, from_at, until_at, asked_by)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (merchant_id, account_id) where ended_at is null do nothing",
        merchant.0,
        run,
        account,
        from,
        until,
        by,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// One run.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, run: Uuid) -> Result<RunView> {
    let found = select(sql, merchant, Some(run), None, None, 1).await?;
    found.into_iter().next().ok_or(Error::NotFound("reconciliation"))
}

/// Runs, of an account or of all, the newest first; those before an id.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    account: Option<Uuid>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<RunView>> {
    select(sql, merchant, None, account, before, limit.min(PAGE_MAX) + 1).await
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<Uuid>,
    account: Option<Uuid>,
    before: Option<Uuid>,
    limit: u32,
) -> Result<Vec<RunView>> {
    let rows = sqlx::query!(
        "select run_id, account_id, from_at, until_at, phase, told, unreadable, compared, found, gone, error, begun_at, ended_at
         from reconciliations
         where merchant_id = $1 and ($2::uuid is null or run_id = $2) and ($3::uuid is null or account_id = $3)
           and ($4::uuid is null or run_id < $4)
         order by run_id desc limit $5",
        merchant.0,
        only,
        account,
        before,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    let view = rows.into_iter().map(|row| RunView {
        id: row.run_id,
        account: row.account_id,
        from: row.from_at,
        until: row.until_at,
        state: match row.phase.as_str() {
            "done" => RunState::Done,
            "failed" => RunState::Failed,
            _ => RunState::Running,
        },
        told: row.told,
        unreadable: row.unreadable,
        compared: row.compared,
        found: row.found,
        gone: row.gone,
        error: row.error,
        begun_at: row.begun_at,
        ended_at: row.ended_at,
    });
    Ok(view.collect())
}

/// Runs that are to go on, of all merchants. `app` is the application's pool.
pub async fn due(app: &PgPool, due_max: i32) -> Result<Vec<(MerchantId, Uuid)>> {
    let rows = sqlx::query!(r#"select merchant as "merchant!", run as "run!" from reconciliations_due($1)"#, due_max)
        .fetch_all(app)
        .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), row.run)).collect())
}

/// A run that is ours to go on with.
#[derive(Clone, Debug)]
pub struct Held {
    pub merchant: MerchantId,
    pub run: Uuid,
    pub account: Uuid,
    pub from: Moment,
    pub until: Moment,
    pub begun_at: Moment,
    pub phase: Phase,
    pub cursor: Option<String>,
    pub told: i64,
    pub unreadable: i64,
    lease: Uuid,
}

/// How far a step has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// None for the same.
    pub phase: Option<Phase>,
    pub cursor: Option<String>,
    pub told: usize,
    pub unreadable: usize,
    pub compared: usize,
    pub error: Option<String>,
}

/// Takes a run if nobody has it, and it is to go on by now.
pub async fn take(app: &PgPool, merchant: MerchantId, run: Uuid) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, merchant).await?;
    let row = sqlx::query!(
        "update reconciliations
         set lease = $3, leased_until = clock_timestamp() + make_interval(secs => $4)
         where merchant_id = $1 and run_id = $2 and next_at <= clock_timestamp()
           and coalesce(leased_until, '-infinity') <= clock_timestamp()
         returning account_id, from_at, until_at, begun_at, phase, cursor, told, unreadable",
        merchant.0,
        run,
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    sql.commit().await?;
    let Some(row) = row else { return Ok(None) };
    let phase = Phase::ALL.into_iter().find(|it| it.as_str() == row.phase);
    Ok(Some(Held {
        merchant,
        run,
        account: row.account_id,
        from: row.from_at,
        until: row.until_at,
        begun_at: row.begun_at,
        phase: phase.ok_or_else(|| anyhow::anyhow!("an unknown phase: {}", row.phase))?,
        cursor: row.cursor,
        told: row.told,
        unreadable: row.unreadable,
        lease,
    }))
}

impl Held {
    /// Begins a transaction for some of what the run does.
    pub async fn begin(&self, app: &PgPool) -> Result<Transaction<'static, Postgres>> {
        Ok(pool::begin_of(app, self.merchant).await?)
    }

    /// Commits a step, if the run is still ours.
    ///
    /// # Errors
    /// If it is not, and nothing was done.
    pub async fn commit(&mut self, mut sql: Transaction<'static, Postgres>, progress: Progress) -> Result<()> {
        let phase = progress.phase.unwrap_or(self.phase);
        let error = progress.error.map(|error| cut(&error).to_owned());
        let moved = sqlx::query!(
            "update reconciliations
             set phase = $4, cursor = $5, told = told + $6, unreadable = unreadable + $7, compared = compared + $8,
                 error = coalesce($9, error), leased_until = clock_timestamp() + make_interval(secs => $10)
             where merchant_id = $1 and run_id = $2 and lease = $3
             returning told, unreadable",
            self.merchant.0,
            self.run,
            self.lease,
            phase.as_str(),
            progress.cursor,
            i64::try_from(progress.told)?,
            i64::try_from(progress.unreadable)?,
            i64::try_from(progress.compared)?,
            error,
            LEASE.as_secs_f64(),
        )
        .fetch_optional(&mut *sql)
        .await?;
        let moved = moved.ok_or_else(lost)?;
        sql.commit().await?;
        (self.phase, self.cursor) = (phase, progress.cursor);
        (self.told, self.unreadable) = (moved.told, moved.unreadable);
        Ok(())
    }

    /// Leaves it to whoever comes next, after a while.
    pub async fn leave(&self, app: &PgPool, pause: Duration) -> Result<()> {
        let mut sql = self.begin(app).await?;
        sqlx::query!(
            "update reconciliations
             set lease = null, leased_until = null, next_at = clock_timestamp() + make_interval(secs => $4)
             where merchant_id = $1 and run_id = $2 and lease = $3",
            self.merchant.0,
            self.run,
            self.lease,
            pause.as_secs_f64(),
        )
        .execute(&mut *sql)
        .await?;
        Ok(sql.commit().await?)
    }

    /// Ends it, in a transaction that tells what came of it: how many differences are new, and whether it has failed.
    ///
    /// # Errors
    /// If it is not ours any more.
    pub async fn end(&self, sql: &mut PgConnection) -> Result<(i64, Option<String>)> {
        let row = sqlx::query!(
            r#"update reconciliations
               set phase = case when error is null then 'done' else 'failed' end, cursor = null,
                   ended_at = clock_timestamp(), next_at = null, lease = null, leased_until = null,
                   found = (select count(*) from payment_differences where merchant_id = $1 and found_by = $2),
                   gone = (select count(*) from payment_differences where merchant_id = $1 and gone_by = $2)
               where merchant_id = $1 and run_id = $2 and lease = $3
               returning found, error"#,
            self.merchant.0,
            self.run,
            self.lease,
        )
        .fetch_optional(sql)
        .await?
        .ok_or_else(lost)?;
        Ok((row.found, row.error))
    }
}

/// A moment as the database keeps it: to the microsecond.
fn as_kept(at: Moment) -> Moment {
    at.replace_microsecond(at.microsecond()).unwrap_or(at)
}

fn lost() -> Error {
    anyhow::anyhow!("somebody else has the run by now").into()
}

/// As much of a text as the table holds.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
