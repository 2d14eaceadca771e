//! The pulse of accounts: when each last answered and told something, and how many calls failed. Nodes notice it in memory, and
//! write it down every few seconds: a call costs no statement. What a node had not written when it died is lost, and matters to
//! nobody for long.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tillwire_channels::{MerchantId, Moment};
use uuid::Uuid;

use crate::connectors::caller::{NotSent, Outcome};
use crate::error::{Error, Result};
use crate::journal::pool;

/// Of how many accounts it is kept between two times that it is written.
const KEPT_MAX: usize = 16_384;
/// How long writing it may take in all.
const WRITE_MAX: Duration = Duration::from_secs(3);

/// What was noticed since it was written.
#[derive(Default)]
pub struct Pulse(Mutex<HashMap<(MerchantId, Uuid), Beat>>);

#[derive(Clone, Copy, Debug, Default)]
struct Beat {
    answered_at: Option<Moment>,
    failed_at: Option<Moment>,
    noticed_at: Option<Moment>,
    calls: i64,
    failed: i64,
}

/// What is known of an account.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub answered_at: Option<Moment>,
    pub failed_at: Option<Moment>,
    pub noticed_at: Option<Moment>,
    /// Calls, and those of them that failed, since a moment.
    pub since: Option<Moment>,
    pub calls: i64,
    pub failed: i64,
    /// Since when notifications are missing.
    pub missing_since: Option<Moment>,
}

impl Pulse {
    /// A call came to something. Of what was not sent on purpose nobody knows.
    pub fn called(&self, merchant: MerchantId, account: Uuid, outcome: &Outcome) {
        let was_there = match outcome {
            Outcome::Answered(answer) => answer.status < 500,
            Outcome::Unknown(_) | Outcome::NotSent(NotSent::Unreachable) => false,
            Outcome::NotSent(_) => return,
        };
        let now = Moment::now_utc();
        self.beat(merchant, account, |beat| {
            beat.calls += 1;
            if was_there {
                beat.answered_at = Some(now);
            } else {
                beat.failed += 1;
                beat.failed_at = Some(now);
            }
        });
    }

    /// It has told something by itself.
    pub fn noticed(&self, merchant: MerchantId, account: Uuid) {
        self.beat(merchant, account, |beat| beat.noticed_at = Some(Moment::now_utc()));
    }

    fn beat(&self, merchant: MerchantId, account: Uuid, beat: impl FnOnce(&mut Beat)) {
        let mut kept = self.kept();
        if kept.len() < KEPT_MAX || kept.contains_key(&(merchant, account)) {
            beat(kept.entry((merchant, account)).or_default());
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(MerchantId, Uuid), Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what was noticed. `app` is the application's pool.
    ///
    /// # Errors
    /// If the database does not answer, or not in time. What was noticed is kept until the next time.
    pub async fn write(&self, app: &PgPool) -> Result<()> {
        let until = tokio::time::Instant::now() + WRITE_MAX;
        let mut beats: Vec<((MerchantId, Uuid), Beat)> = self.kept().drain().collect();
        while let Some(((merchant, account), beat)) = beats.pop() {
            let written = tokio::time::timeout_at(until, write_one(app, merchant, account, beat)).await;
            if let Err(error) = written.map_err(|late| Error::from(anyhow::Error::from(late))).flatten() {
                for ((merchant, account), older) in beats.into_iter().chain([((merchant, account), beat)]) {
                    self.beat(merchant, account, |beat| beat.follows(older));
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Beat {
    /// With what was noticed before.
    fn follows(&mut self, older: Self) {
        self.answered_at = self.answered_at.max(older.answered_at);
        self.failed_at = self.failed_at.max(older.failed_at);
        self.noticed_at = self.noticed_at.max(older.noticed_at);
        self.calls += older.calls;
        self.failed += older.failed;
    }
}

async fn write_one(app: &PgPool, merchant: MerchantId, account: Uuid, beat: Beat) -> Result<()> {
    let mut sql = pool::begin_of(app, merchant).await?;
    sqlx::query!(
        "insert into provider_health as kept (merchant_id, account_id, answered_at, failed_at, noticed_at, calls, failed)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (merchant_id, account_id) do update
         set answered_at = greatest(kept.answered_at, excluded.answered_at),
             failed_at = greatest(kept.failed_at, excluded.failed_at),
             noticed_at = greatest(kept.noticed_at, excluded.noticed_at),
             since = case when kept.since < now() - interval '1 hour' then now() else kept.since end,
             calls = case when kept.since < now() - interval '1 hour' then 0 else kept.calls end + excluded.calls,
             failed = case when kept.since < now() - interval '1 hour' then 0 else kept.failed end + excluded.failed,
             -- What is told again is not missing any more.
             missed = case when excluded.noticed_at is null then kept.missed else 0 end,
             missed_at = case when excluded.noticed_at is null then kept.missed_at end,
             alerted_at = case when excluded.noticed_at is null then kept.alerted_at end",
        merchant.0,
        account,
        beat.answered_at,
        beat.failed_at,
        beat.noticed_at,
        beat.calls,
        beat.failed,
    )
    .execute(&mut *sql)
    .await?;
    Ok(sql.commit().await?)
}

/// What is known of an account by what nodes have written.
pub async fn known(sql: &mut PgConnection, merchant: MerchantId, account: Uuid) -> Result<Known> {
    let row = sqlx::query!(
        "select answered_at, failed_at, noticed_at, since, calls, failed, alerted_at, missed_at from provider_health
         where merchant_id = $1 and account_id = $2",
        merchant.0,
        account,
    )
    .fetch_optional(sql)
    .await?;
    Ok(row.map_or_else(Known::default, |row| Known {
        answered_at: row.answered_at,
        failed_at: row.failed_at,
        noticed_at: row.noticed_at,
        since: Some(row.since),
        calls: row.calls,
        failed: row.failed,
        missing_since: row.alerted_at.and(row.missed_at),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::caller::Unknown;
    use crate::connectors::request::Answer;

    fn answered(status: u16) -> Outcome {
        let headers = reqwest::header::HeaderMap::new();
        Outcome::Answered(Answer { status, headers, body: Vec::new(), at: Moment::UNIX_EPOCH })
    }

    #[test]
    fn what_was_asked_and_what_came_of_it_is_counted() {
        let (pulse, merchant, account) = (Pulse::default(), MerchantId::new(), Uuid::new_v4());
        for outcome in [
            answered(200),
            answered(404),
            answered(503),
            Outcome::Unknown(Unknown::TimedOut),
            Outcome::NotSent(NotSent::Unreachable),
            Outcome::NotSent(NotSent::Busy),
        ] {
            pulse.called(merchant, account, &outcome);
        }
        let beat = pulse.kept()[&(merchant, account)];
        assert_eq!((beat.calls, beat.failed), (5, 3));
        assert!(beat.answered_at.is_some() && beat.failed_at.is_some() && beat.noticed_at.is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_kept() {
        let (pulse, merchant, accounts) = (Pulse::default(), MerchantId::new(), [Uuid::new_v4(), Uuid::new_v4()]);
        for account in accounts {
            pulse.called(merchant, account, &answered(200));
        }
        // Nobody listens there.
        let app = pool::open("postgres://tillwire_app@127.0.0.1:1/tillwire", 1).unwrap();
        for _ in 0..2 {
            let began = std::time::Instant::now();
            pulse.write(&app).await.unwrap_err();
            assert!(began.elapsed() < 2 * WRITE_MAX);
        }
        pulse.called(merchant, accounts[0], &answered(503));
        let of = |account| pulse.kept()[&(merchant, account)];
        assert_eq!((of(accounts[0]).calls, of(accounts[0]).failed, of(accounts[1]).calls), (2, 1, 1));
    }

    #[test]
    fn what_is_kept_is_bounded_and_nothing_of_it_is_lost() {
        let (pulse, merchant) = (Pulse::default(), MerchantId::new());
        for _ in 0..KEPT_MAX + 10 {
            pulse.noticed(merchant, Uuid::new_v4());
        }
        assert_eq!(pulse.kept().len(), KEPT_MAX);
        let old = Beat { calls: 2, failed: 1, noticed_at: Some(Moment::UNIX_EPOCH), ..Beat::default() };
        let mut beat = Beat { calls: 3, ..Beat::default() };
        beat.follows(old);
        assert_eq!((beat.calls, beat.failed, beat.noticed_at), (5, 1, Some(Moment::UNIX_EPOCH)));
    }
}
