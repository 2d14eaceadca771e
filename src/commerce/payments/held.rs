//! Attending to a payment: one at a time, and what is to be done for it.
//!
//! Whoever attends holds a lease, so that no two ask the provider for the same at once. It saves calls and is no fence: what a
//! provider says goes by the table of states, whoever asked, and a charge is asked for under one reference, however often.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tillwire_channels::{MerchantId, PaymentId};
use tracing::debug;
use uuid::Uuid;

use super::attempts::{self, Attempt, Closing};
use super::looks;
use super::state::State;
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, pool};

/// For how long a payment is held: longer than its provider may take, however often it is asked for it in one go.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long it may take to let go of one, and how soon it is tried again.
const LEAVE_MAX: Duration = Duration::from_secs(5);
const LEAVE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A payment that is ours to attend to.
#[derive(Clone, Debug)]
pub struct Held {
    pub merchant: MerchantId,
    pub attempt: Attempt,
    pub todo: Todo,
    /// That somebody has said that there is something new.
    pub prompted: bool,
    /// Since when it is.
    pub since: Instant,
    lease: Uuid,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Ask the provider for it: it has certainly never heard of it.
    Charge,
    /// Ask the provider how it stands.
    Look,
    /// Ask the provider for so much of the money that is held.
    Capture(i64),
    /// Call it off.
    Close(Closing),
    /// It is called off, or its time is over, and no provider has ever heard of it.
    Drop(Closing),
    /// Nobody asks any more: it was tried for long enough.
    GiveUp,
}

/// Payments that are to be attended to, of all merchants: so many at most, and so many of one. `app` is the
/// application's pool.
pub async fn due(app: &PgPool, of_one_max: i32, due_max: i32) -> Result<Vec<(MerchantId, PaymentId)>> {
    let rows = sqlx::query!(
        r#"select merchant as "merchant!", payment as "payment!" from payments_due($1, $2)"#,
        of_one_max,
        due_max,
    )
    .fetch_all(app)
    .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), PaymentId(row.payment))).collect())
}

/// Takes a payment if nobody has it, and it is to be attended to by now, or at once.
pub async fn take(app: &PgPool, merchant: MerchantId, payment: PaymentId, at_once: bool) -> Result<Option<Held>> {
    let lease = Uuid::new_v4();
    let mut sql = pool::begin_of(app, merchant).await?;
    let taken = sqlx::query!(
        r#"with free as (
             select payment_id, prompted from payment_attempts
             where merchant_id = $1 and payment_id = $2 and (next_at <= clock_timestamp() or $5 and next_at is not null)
               and coalesce(leased_until, '-infinity') <= clock_timestamp()
             for no key update
         )
         update payment_attempts attempt
         set lease = $3, leased_until = clock_timestamp() + make_interval(secs => $4), prompted = false
         from free
         where attempt.merchant_id = $1 and attempt.payment_id = free.payment_id
         returning free.prompted as "prompted!", unanswered_since, clock_timestamp() as "now!""#,
        merchant.0,
        payment.0,
        lease,
        LEASE.as_secs_f64(),
        at_once,
    )
    .fetch_optional(&mut *sql)
    .await?;
    let Some(taken) = taken else { return Ok(None) };
    let attempt = attempts::get(&mut sql, merchant, payment).await?;
    let Attempt { state, created_at, expires_at, .. } = attempt;
    let is_hopeless = attempt.called_at.is_some()
        && looks::is_hopeless(state, created_at, expires_at, taken.unanswered_since, taken.now);
    let todo = if is_hopeless { Todo::GiveUp } else { todo(&attempt, attempt.expires_at <= taken.now) };
    if todo == Todo::Charge {
        // Before it is asked for: whoever finds it so does not know what came of that.
        sqlx::query!(
            "update payment_attempts set called_at = clock_timestamp() where merchant_id = $1 and payment_id = $2",
            merchant.0,
            payment.0
        )
        .execute(&mut *sql)
        .await?;
    }
    sql.commit().await?;
    Ok(Some(Held { merchant, attempt, todo, prompted: taken.prompted, since: Instant::now(), lease }))
}

/// Asks for a payment to be looked at now, because its provider has told of it, in the transaction that writes that down; and
/// takes it for whoever `is_free` to look, if nobody has it. Whoever has it looks once more, and what nobody takes is due: but for what
/// was told before of a payment that somebody has, or that money was found of.
pub async fn prompt(tx: &mut MerchantTx, attempt: &Attempt, is_new: bool, is_free: bool) -> Result<Option<Held>> {
    let (merchant, lease) = (tx.merchant(), Uuid::new_v4());
    let unpaid: Vec<&str> = State::ALL.into_iter().filter(|it| it.is_unpaid()).map(State::as_str).collect();
    let prompted = sqlx::query!(
        r#"with looked_at as (
             select payment_id, coalesce(leased_until, '-infinity') > clock_timestamp() as is_held from payment_attempts
             where merchant_id = $1 and payment_id = $2 and called_at is not null
               -- What was told before waits for nobody who is at it, whose commit may be a while, and is no news once that has
               -- found money.
               and ($6 or coalesce(leased_until, '-infinity') <= clock_timestamp() and state = any($7))
             for no key update
         )
         update payment_attempts attempt
         set next_at = now(),
             prompted = is_held or not $5,
             unanswered_since = null,
             lease = case when is_held or not $5 then lease else $3 end,
             leased_until = case when is_held or not $5 then leased_until
                                 else clock_timestamp() + make_interval(secs => $4) end
         from looked_at
         where attempt.merchant_id = $1 and attempt.payment_id = looked_at.payment_id
         returning coalesce(lease = $3, false) as "is_ours!", version"#,
        merchant.0,
        attempt.payment.0,
        lease,
        LEASE.as_secs_f64(),
        is_free,
        is_new,
        &unpaid as &[&str],
    )
    .fetch_optional(tx.sql())
    .await?;
    let Some(prompted) = prompted.filter(|it| it.is_ours) else { return Ok(None) };
    // Before it was locked it may have gone on.
    let attempt = if prompted.version == attempt.version {
        attempt.clone()
    } else {
        attempts::get(tx.sql(), merchant, attempt.payment).await?
    };
    let todo = todo(&attempt, attempt.expires_at <= tx.now());
    Ok(Some(Held { merchant, attempt, todo, prompted: true, since: Instant::now(), lease }))
}

/// Lets go of what is held since then, and while the database is busy or away tries it again until the lease is over: then nobody
/// holds it any more.
pub(super) async fn within_lease<L>(since: Instant, leaves: impl Fn() -> L) -> Result<()>
where
    L: Future<Output = Result<()>>,
{
    loop {
        let left = tokio::time::timeout(LEAVE_MAX, leaves()).await.map_err(Error::from).flatten();
        match left {
            Err(error) if since.elapsed() + LEAVE_AGAIN_AFTER < LEASE => {
                debug!("What is held is let go a little later: {error:?}");
                tokio::time::sleep(LEAVE_AGAIN_AFTER).await;
            }
            left => return left,
        }
    }
}

/// Whether somebody attends to a payment, or is to by now.
pub async fn is_under_way(app: &PgPool, merchant: MerchantId, payment: PaymentId) -> Result<bool> {
    let mut sql = pool::begin_of(app, merchant).await?;
    let is_under_way = sqlx::query_scalar!(
        r#"select exists (select from payment_attempts
                          where merchant_id = $1 and payment_id = $2
                            and (leased_until > clock_timestamp() or next_at <= clock_timestamp())) as "is_under_way!""#,
        merchant.0,
        payment.0,
    )
    .fetch_one(&mut *sql)
    .await?;
    Ok(is_under_way)
}

/// What is to be done for an attempt, whose time may be over.
fn todo(attempt: &Attempt, is_over: bool) -> Todo {
    let closing = attempt.closing.or(is_over.then_some(Closing::Expired));
    match (closing, attempt.called_at, attempt.state) {
        (Some(why), None, State::Created) => Todo::Drop(why),
        (None, None, State::Created) => Todo::Charge,
        // A card's hold is given back by a person's word, or runs out at the bank.
        (Some(why), _, State::Pending) => Todo::Close(why),
        // Whoever may have taken the money finds that out first.
        (_, _, State::Authorized) if attempt.capture_called_at.is_some() => Todo::Look,
        (Some(Closing::Canceled), _, State::Authorized | State::Review) => Todo::Close(Closing::Canceled),
        (_, _, State::Authorized) => attempt.capture_minor.map_or(Todo::Look, Todo::Capture),
        // Whoever does not know whether it is there asks that first.
        _ => Todo::Look,
    }
}

impl Held {
    /// Writes down that its provider is asked to take so much of what it holds, before it is: whoever finds it so does not know
    /// what came of that. False if that is not to be done any more, or by somebody else.
    pub async fn asks_to_take(&self, app: &PgPool, amount_minor: i64) -> Result<bool> {
        let mut sql = pool::begin_of(app, self.merchant).await?;
        let asked = sqlx::query!(
            "update payment_attempts set capture_called_at = clock_timestamp()
             where merchant_id = $1 and payment_id = $2 and lease = $3 and capture_minor = $4 and capture_called_at is null
               and state = 'authorized' and closing is null",
            self.merchant.0,
            self.attempt.payment.0,
            self.lease,
            amount_minor,
        )
        .execute(&mut *sql)
        .await?;
        sql.commit().await?;
        Ok(asked.rows_affected() > 0)
    }

    /// The provider was not told of it: whoever comes next finds it as it was.
    pub async fn not_called(&self, app: &PgPool, pause: Duration) -> Result<()> {
        self.leave(app, pause, matches!(self.todo, Todo::Charge | Todo::Capture(_))).await
    }

    /// Nobody knows more than before.
    pub async fn put_off(&self, app: &PgPool, pause: Duration) -> Result<()> {
        self.leave(app, pause, false).await
    }

    /// The provider is sure that it has never heard of it: it can be asked for once more, unless somebody has just taken it for paid.
    pub async fn never_arrived(&self, app: &PgPool) -> Result<()> {
        let mut sql = pool::begin_of(app, self.merchant).await?;
        sqlx::query!(
            "update payment_attempts
             set lease = null, leased_until = null, next_at = now(), unanswered_since = null, looks = 0, version = version + 1,
                 state = case when forced_at is null then 'created' else state end,
                 called_at = case when forced_at is null then null else called_at end
             where merchant_id = $1 and payment_id = $2 and lease = $3 and state in ('created', 'unknown')",
            self.merchant.0,
            self.attempt.payment.0,
            self.lease,
        )
        .execute(&mut *sql)
        .await?;
        Ok(sql.commit().await?)
    }

    async fn leave(&self, app: &PgPool, pause: Duration, uncalled: bool) -> Result<()> {
        within_lease(self.since, || self.leave_once(app, pause, uncalled)).await
    }

    async fn leave_once(&self, app: &PgPool, pause: Duration, uncalled: bool) -> Result<()> {
        let mut sql = pool::begin_of(app, self.merchant).await?;
        sqlx::query!(
            "update payment_attempts
             set lease = null, leased_until = null,
                 next_at = case when prompted then now() else now() + make_interval(secs => $4) end,
                 prompted = prompted or $6,
                 -- What is new since is another question.
                 unanswered_since = case when prompted then null else coalesce(unanswered_since, clock_timestamp()) end,
                 called_at = case when $5 and state = 'created' then null else called_at end,
                 capture_called_at = case when $5 and state = 'authorized' then null else capture_called_at end
             where merchant_id = $1 and payment_id = $2 and lease = $3",
            self.merchant.0,
            self.attempt.payment.0,
            self.lease,
            pause.as_secs_f64(),
            uncalled,
            self.prompted,
        )
        .execute(&mut *sql)
        .await?;
        Ok(sql.commit().await?)
    }

    /// Whether it ends that somebody asks, although there is said to be something new.
    pub(super) fn gives_up_news(&self) -> bool {
        self.todo == Todo::GiveUp && self.prompted
    }

    /// By which the row says that it is.
    pub(super) fn lease(&self) -> Uuid {
        self.lease
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn whoever_cannot_let_go_tries_it_again_while_the_lease_lasts() {
        let tried = Cell::new(0);
        let leaves = || {
            tried.set(tried.get() + 1);
            let at = tried.get();
            async move {
                match at {
                    1 => Err(Error::Busy { retry_after: Duration::ZERO }),
                    2 => std::future::pending().await, // A connection that is half open.
                    _ => Ok(()),
                }
            }
        };
        within_lease(Instant::now(), leaves).await.expect("let go");
        assert_eq!(tried.get(), 3);
        // Somebody else may hold it by then.
        tried.set(0);
        let since = Instant::now().checked_sub(LEASE).expect("a machine that is older");
        within_lease(since, leaves).await.expect_err("too late");
        assert_eq!(tried.get(), 1);
    }
}
