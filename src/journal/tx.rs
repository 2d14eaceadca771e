//! `MerchantTx`: rows and their entry, in one commit.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use tillwire_channels::{Event, MerchantId, Moment, StaffId, Stored};
use uuid::Uuid;

use super::entry::{ENTRY_BYTES_MAX, Entry, seq_of, tag_of};
use super::once::Once;
use super::write::Written;
use super::{Caller, pool};
use crate::error::{Error, OnConstraint, Result};

/// How long a transaction that comes to nothing may take to end. The answer is known by then, and does not wait for a
/// database that says nothing.
const ROLLBACK_MAX: Duration = Duration::from_secs(1);

/// A transaction of one merchant: its rows, and the events that tell of them.
///
/// INVARIANT: rows and entry commit together or not at all, and the lock on the head is held for the last statement
/// and the commit only. Locks are taken in this order: document, attempt, stock in variant order, head.
pub struct MerchantTx {
    sql: Transaction<'static, Postgres>,
    by: By,
    now: Moment,
    events: Vec<Stored>,
}

/// On whose behalf something is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Caller(Caller),
    /// The hub itself, for this merchant.
    Hub(MerchantId),
}

impl By {
    pub(super) fn merchant(self) -> MerchantId {
        match self {
            Self::Caller(caller) => caller.merchant,
            Self::Hub(merchant) => merchant,
        }
    }

    fn trace(self) -> Option<Uuid> {
        match self {
            Self::Caller(caller) => caller.trace,
            Self::Hub(_) => None,
        }
    }

    fn staff(self) -> Option<StaffId> {
        match self {
            Self::Caller(caller) => Some(caller.staff),
            Self::Hub(_) => None,
        }
    }
}

impl MerchantTx {
    /// Begins; with a key, only if no twin is running.
    pub(super) async fn begin(pool: &PgPool, by: By, once: Option<&Once>) -> Result<Self> {
        let (mut sql, merchant) = (pool::begin(pool).await?, by.merchant());
        let lock = once.map(|once| once.lock_name(merchant));
        let begun = sqlx::query!(
            r#"select set_config('tillwire.merchant', $1, true) as merchant,
                 set_config('statement_timeout', '10s', true) as statement_timeout,
                 set_config('lock_timeout', '3s', true) as lock_timeout,
                 set_config('idle_in_transaction_session_timeout', '2s', true) as idle_timeout,
                 clock_timestamp() as "now!",
                 case when $2::text is null then true
                      else pg_try_advisory_xact_lock(hashtextextended($2, 0)) end as "alone!""#,
            merchant.to_string(),
            lock,
        )
        .fetch_one(&mut *sql)
        .await?;
        if !begun.alone {
            return Err(Error::InFlight);
        }
        Ok(Self { sql, by, now: begun.now, events: Vec::new() })
    }

    /// Refuses a token that was revoked. Gives the stored answer if the same request was answered before.
    pub(super) async fn admit(&mut self, once: Option<&Once>) -> Result<Option<Written>> {
        if let By::Caller(caller) = self.by {
            refuse_revoked(&mut self.sql, caller).await?;
        }
        match once {
            Some(once) => once.answered(&mut self.sql, self.by.merchant()).await,
            None => Ok(None),
        }
    }

    /// The connection, for the statements of a command. Each of them names the merchant.
    pub fn sql(&mut self) -> &mut PgConnection {
        &mut self.sql
    }

    /// Waits for its turn among the merchant's transactions that decide on `what` and have no row to lock for it. It ends with
    /// the transaction.
    pub async fn take_turn(&mut self, what: &str) -> Result<()> {
        let name = format!("{} {what}", self.by.merchant());
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", name).execute(&mut *self.sql).await?;
        Ok(())
    }

    pub fn merchant(&self) -> MerchantId {
        self.by.merchant()
    }

    /// Who acts.
    ///
    /// # Errors
    /// If the hub itself does, which does nothing that needs a person.
    pub fn actor(&self) -> Result<StaffId> {
        self.by.staff().ok_or_else(|| anyhow::anyhow!("nobody acts here but the hub itself").into())
    }

    /// The database's clock when the transaction began.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Adds an event to the transaction's entry.
    pub fn append(&mut self, event: &Event, occurred_at: Moment) -> Result<()> {
        self.events.push(Stored::new(event, occurred_at, self.by.staff())?);
        Ok(())
    }

    /// The last statement before the commit: takes the next number, inserts the entry, stores the answer.
    pub(super) async fn finish(&mut self, once: Option<&Once>, status: u16, reply: &str) -> Result<Option<Entry>> {
        if self.events.is_empty() {
            self.keep_answer(once, status, reply).await?;
            return Ok(None);
        }
        self.number(once, status, reply).await.map(Some)
    }

    pub(super) async fn commit(self) -> Result<()> {
        Ok(self.sql.commit().await?)
    }

    /// Ends it with nothing done, and lets go of its locks. Whatever comes of that, the answer is known.
    pub(super) async fn rollback(self) {
        let _ = tokio::time::timeout(ROLLBACK_MAX, self.sql.rollback()).await;
    }

    async fn number(&mut self, once: Option<&Once>, status: u16, reply: &str) -> Result<Entry> {
        let text: Arc<str> = serde_json::to_string(&self.events)?.into();
        if text.len() > ENTRY_BYTES_MAX {
            let detail = format!(
                "It would take {} bytes of the journal, and {ENTRY_BYTES_MAX} is the most: do it in parts.",
                text.len()
            );
            return Err(Error::invalid("entry_too_large", "", detail));
        }
        let merchant = self.by.merchant();
        let row = sqlx::query!(
            "with head as (
                 update journal_heads
                 set seq = seq + 1, prev = tag,
                     tag = substring(sha256(tag || uuid_send(merchant_id) || int8send(seq + 1)
                                            || convert_to($2, 'UTF8')) from 1 for 8),
                     recorded_at = greatest(recorded_at, clock_timestamp())
                 where merchant_id = $1
                 returning seq, prev, tag, recorded_at
             ), entry as (
                 insert into journal_entries (merchant_id, seq, recorded_at, prev, tag, events, trace)
                 select $1, seq, recorded_at, prev, tag, $2, $8 from head
             ), answer as (
                 insert into idempotency_keys (merchant_id, route, key, fingerprint, status, reply, seq, tag)
                 select $1, $3, $4, $5, $6, $7, seq, tag from head where $3::text is not null
             )
             select seq, prev, tag, recorded_at from head",
            merchant.0,
            &*text,
            once.map(Once::route),
            once.map(Once::key),
            once.map(Once::fingerprint),
            status.cast_signed(),
            reply,
            self.by.trace(),
        )
        .fetch_optional(&mut *self.sql)
        .await?
        .ok_or(Error::NotFound("merchant"))?;
        let (seq, prev, tag) = (seq_of(row.seq)?, tag_of(&row.prev)?, tag_of(&row.tag)?);
        Ok(Entry::new(merchant, seq, prev, tag, row.recorded_at, text).traced(self.by.trace()))
    }

    /// Stores the answer of a request that nobody will hear of.
    async fn keep_answer(&mut self, once: Option<&Once>, status: u16, reply: &str) -> Result<()> {
        let Some(once) = once else { return Ok(()) };
        sqlx::query!(
            "insert into idempotency_keys (merchant_id, route, key, fingerprint, status, reply)
             values ($1, $2, $3, $4, $5, $6)",
            self.by.merchant().0,
            once.route(),
            once.key(),
            once.fingerprint(),
            status.cast_signed(),
            reply,
        )
        .execute(&mut *self.sql)
        .await
        .on_constraint("idempotency_keys_merchant_id_fkey", || Error::NotFound("merchant"))?;
        Ok(())
    }
}

/// Refuses a token that was issued before its bearer was revoked.
pub(super) async fn refuse_revoked(sql: &mut PgConnection, caller: Caller) -> Result<()> {
    let until = sqlx::query_scalar!(
        "select issued_until from revocations where merchant_id = $1 and staff_id = $2",
        caller.merchant.0,
        caller.staff.0,
    )
    .fetch_optional(sql)
    .await?;
    match until {
        Some(until) if caller.issued_at <= until => Err(Error::Unauthenticated("token_revoked")),
        _ => Ok(()),
    }
}
