//! Attending to a refund: one at a time, and what is to be done for it. As with [payments](super::super::held), whoever attends
//! holds a lease, which saves calls and is no fence: a refund is asked for under one key, however often.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tillwire_channels::{MerchantId, PaymentId, RefundId};
use uuid::Uuid;

use super::super::attempts::{self, Attempt};
use super::super::held::{LEASE, within_lease};
use super::state::{State, pause, until};
use super::{Refund, get};
use crate::error::Result;
use crate::journal::pool;

/// A refund that is ours to attend to.
#[derive(Clone, Debug)]
pub struct Held {
    pub merchant: MerchantId,
    pub refund: Refund,
    /// Its payment.
    pub attempt: Attempt,
    pub todo: Todo,
    /// Whether a person is to be told that it takes long.
    pub is_stuck: bool,
    /// How long ago the provider was asked for it last.
    pub called_for: Option<Duration>,
    /// Since when it is.
    since: Instant,
    lease: Uuid,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Ask the provider for it: what was asked before, if anything, was certainly not done.
    Ask,
    /// Ask the provider how it stands.
    Look,
}

/// Refunds that are to be attended to, of all merchants: so many at most, and so many of one. `app` is the application's pool.
pub async fn due(app: &PgPool, of_one_max: i32, due_max: i32) -> Result<Vec<(MerchantId, RefundId)>> {
    let rows = sqlx::query!(
        r#"select merchant as "merchant!", refund as "refund!" from refunds_due($1, $2)"#,
        of_one_max,
        due_max,
    )
    .fetch_all(app)
    .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), RefundId(row.refund))).collect())
}

/// Takes a refund if nobody has it, and it is to be attended to by now, or at once.
pub async fn take(app: &PgPool, merchant: MerchantId, refund: RefundId, at_once: bool) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, merchant).await?;
    let taken = sqlx::query!(
        r#"update refunds set lease = $4, leased_until = clock_timestamp() + make_interval(secs => $5)
           where merchant_id = $1 and refund_id = $2 and (next_at <= clock_timestamp() or $3 and next_at is not null)
             and coalesce(leased_until, '-infinity') <= clock_timestamp()
           returning extract(epoch from clock_timestamp() - called_at)::float8 as called_for, clock_timestamp() as "now!""#,
        merchant.0,
        refund.0,
        at_once,
        lease,
        LEASE.as_secs_f64(),
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(taken) = taken else { return Ok(None) };
    let refund = get(&mut sql, merchant, refund).await?;
    let attempt = attempts::get(&mut sql, merchant, refund.payment).await?;
    let todo = if refund.state == State::Created && refund.called_at.is_none() { Todo::Ask } else { Todo::Look };
    if todo == Todo::Ask {
        // Before it is asked for: whoever finds it so does not know what came of that.
        sqlx::query!(
            "update refunds set called_at = clock_timestamp(), calls = calls + 1 where merchant_id = $1 and refund_id = $2",
            merchant.0,
            refund.id.0
        )
        .execute(&mut *sql)
        .await?;
    }
    sql.commit().await?;
    let called_for = taken.called_for.map(|seconds| Duration::from_secs_f64(seconds.max(0.0)));
    let is_stuck = refund.is_stuck(taken.now);
    Ok(Some(Held { merchant, refund, attempt, todo, is_stuck, called_for, since: Instant::now(), lease }))
}

/// Asks for the refunds of a payment to be looked at soon, and often at first: its provider has told of it, and may say so of them
/// a little later.
pub async fn prompt(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<()> {
    sqlx::query!(
        "update refunds set next_at = least(next_at, now() + make_interval(secs => $3)), looks = 0
         where merchant_id = $1 and payment_id = $2 and next_at is not null",
        merchant.0,
        payment.0,
        pause(State::Pending, 0).as_secs_f64(),
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// Whether somebody attends to a refund, or is to by now.
pub async fn is_under_way(app: &PgPool, merchant: MerchantId, refund: RefundId) -> Result<bool> {
    let mut sql = pool::begin_of(app, merchant).await?;
    let is_under_way = sqlx::query_scalar!(
        r#"select exists (select from refunds
                          where merchant_id = $1 and refund_id = $2
                            and (leased_until > clock_timestamp() or next_at <= clock_timestamp())) as "is_under_way!""#,
        merchant.0,
        refund.0,
    )
    .fetch_one(&mut *sql)
    .await?;
    Ok(is_under_way)
}

impl Held {
    /// The provider was not told of it, or has done nothing of it for now: whoever comes next finds it as it was. Without a
    /// pause it rests longer each time.
    pub async fn not_called(&self, app: &PgPool, pause: Option<Duration>) -> Result<()> {
        self.leave(app, pause, self.todo == Todo::Ask).await
    }

    /// Nobody knows more than before.
    pub async fn put_off(&self, app: &PgPool, pause: Option<Duration>) -> Result<()> {
        self.leave(app, pause, false).await
    }

    /// The provider is sure that it has never heard of it: it can be asked for once more, with the same key.
    pub async fn never_arrived(&self, app: &PgPool) -> Result<()> {
        let mut sql = pool::begin_of(app, self.merchant).await?;
        sqlx::query!(
            "update refunds
             set lease = null, leased_until = null, next_at = now(), looks = 0, state = 'created', called_at = null,
                 version = version + 1
             where merchant_id = $1 and refund_id = $2 and lease = $3 and state in ('created', 'unknown')",
            self.merchant.0,
            self.refund.id.0,
            self.lease,
        )
        .execute(&mut *sql)
        .await?;
        Ok(sql.commit().await?)
    }

    async fn leave(&self, app: &PgPool, rest: Option<Duration>, uncalled: bool) -> Result<()> {
        within_lease(self.since, || self.leave_once(app, rest, uncalled)).await
    }

    async fn leave_once(&self, app: &PgPool, rest: Option<Duration>, uncalled: bool) -> Result<()> {
        let rests = rest.unwrap_or_else(|| pause(self.refund.state, self.refund.looks.unsigned_abs()));
        let mut sql = pool::begin_of(app, self.merchant).await?;
        sqlx::query!(
            "update refunds
             set lease = null, leased_until = null,
                 next_at = case when state not in ('created', 'unknown', 'pending') or now() >= $7 then null
                                -- It was prompted meanwhile.
                                when looks < $8 then next_at
                                else now() + make_interval(secs => $4) end,
                 looks = looks + case when $6 then 1 else 0 end,
                 called_at = case when $5 and state = 'created' then null else called_at end,
                 calls = case when $5 and state = 'created' then calls - 1 else calls end
             where merchant_id = $1 and refund_id = $2 and lease = $3",
            self.merchant.0,
            self.refund.id.0,
            self.lease,
            rests.as_secs_f64(),
            uncalled,
            rest.is_none(),
            until(self.refund.created_at),
            self.refund.looks,
        )
        .execute(&mut *sql)
        .await?;
        Ok(sql.commit().await?)
    }

    /// Lets go of it, in the transaction that says what came of it.
    pub(super) async fn release(&self, sql: &mut PgConnection) -> Result<()> {
        sqlx::query!(
            "update refunds set lease = null, leased_until = null
             where merchant_id = $1 and refund_id = $2 and lease = $3",
            self.merchant.0,
            self.refund.id.0,
            self.lease,
        )
        .execute(sql)
        .await?;
        Ok(())
    }
}
