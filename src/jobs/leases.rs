//! Doing a job: whoever holds its lease, and nobody else, commits what it does and says what came of it.
//!
//! A lease is fenced: what is committed names it in the same transaction, and commits nothing when somebody else has it by now.
//! Time is the database's, but for how long a run takes.

use std::fmt;
use std::time::{Duration, Instant};

use sqlx::{PgPool, Postgres, Transaction};
use tillwire_channels::Moment;
use uuid::Uuid;

use super::Job;
use crate::journal::pool;

/// For how long a job is held without a word. A lease that reaches twice as far ahead is of a clock that was put right since, and
/// nobody's.
const LEASE: Duration = Duration::from_secs(15);
/// How much is kept of why an attempt was in vain. The table holds it.
const ERROR_BYTES_MAX: usize = 1_024;

/// Writes down which jobs there are, and when those are due that are new or have another schedule.
pub async fn plan(pool: &PgPool, jobs: &[Job]) -> anyhow::Result<()> {
    let now = sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(pool).await?;
    let names: Vec<String> = jobs.iter().map(|job| job.name.to_owned()).collect();
    let schedules: Vec<String> = jobs.iter().map(|job| job.schedule.to_string()).collect();
    let first = jobs.iter().map(|job| job.schedule.first(now)).collect::<anyhow::Result<Vec<Moment>>>()?;
    sqlx::query!(
        "insert into jobs (job, schedule, due_at, next_at)
         -- In one order, so that two nodes do not wait for each other in a ring.
         select job, schedule, first, first from unnest($1::text[], $2::text[], $3::timestamptz[]) known (job, schedule, first)
         order by job
         on conflict (job) do update
         set schedule = excluded.schedule, due_at = excluded.due_at, next_at = excluded.next_at, attempts = 0
         where jobs.schedule <> excluded.schedule",
        &names,
        &schedules,
        &first,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A job that is ours to do.
#[derive(Clone, Debug)]
pub struct Run {
    pool: PgPool,
    pub job: String,
    lease: Uuid,
    /// The regular time that it is done for.
    pub due_at: Moment,
    /// Which attempt it is, from 1.
    pub attempt: i32,
    /// Who had it before, and has been silent for too long.
    pub taken_from: Option<String>,
    taken_at: (Moment, Instant),
}

/// Takes so many jobs that are due and that nobody does, those first that have waited longest.
pub async fn take(pool: &PgPool, jobs: &[Job], held_by: &str, jobs_max: usize) -> anyhow::Result<Vec<Run>> {
    let names: Vec<String> = jobs.iter().map(|job| job.name.to_owned()).collect();
    let reaches: Vec<f64> = jobs.iter().map(|job| job.schedule.reach().as_secs_f64()).collect();
    let rows = sqlx::query!(
        r#"with due as (
               select job, held_by as taken_from
               from jobs join unnest($1::text[], $2::float8[]) known (job, reach) using (job)
               where (next_at <= now() or next_at > now() + make_interval(secs => reach))
                 and (leased_until > now() and leased_until <= now() + 2 * make_interval(secs => $4)) is not true
               order by next_at limit $3 for update of jobs skip locked)
           update jobs
           set lease = gen_random_uuid(), leased_until = now() + make_interval(secs => $4), held_by = $5,
               attempts = attempts + 1
           from due where jobs.job = due.job
           returning jobs.job, lease as "lease!", attempts, taken_from, now() as "now!",
                     -- Of one that somebody asked for, or that a clock far ahead had planned, now is the time.
                     least(due_at, now()) as "due_at!""#,
        &names,
        &reaches,
        i64::try_from(jobs_max)?,
        LEASE.as_secs_f64(),
        held_by,
    )
    .fetch_all(pool)
    .await?;
    let runs = rows.into_iter().map(|row| Run {
        pool: pool.clone(),
        job: row.job,
        lease: row.lease,
        due_at: row.due_at,
        attempt: row.attempts,
        taken_from: row.taken_from,
        taken_at: (row.now, Instant::now()),
    });
    Ok(runs.collect())
}

/// A job's lease is somebody else's by now.
#[derive(Debug)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("somebody else has the job by now")
    }
}

impl std::error::Error for Lost {}

impl Run {
    /// Begins a transaction for some of what the job does. Nothing of it counts before [`Run::commit`].
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        pool::begin_of_nobody(&self.pool).await
    }

    /// Commits what was done in a transaction of [`Run::begin`], if the job is still ours.
    ///
    /// # Errors
    /// [`Lost`] if it is not, and nothing was done; or if the database does not answer.
    pub async fn commit(&self, mut sql: Transaction<'static, Postgres>) -> anyhow::Result<()> {
        // It holds the row until the commit: nobody takes the job in between.
        let renewed = sqlx::query!(
            "update jobs set leased_until = clock_timestamp() + make_interval(secs => $3) where job = $1 and lease = $2",
            self.job,
            self.lease,
            LEASE.as_secs_f64(),
        );
        is_ours(renewed.execute(&mut *sql).await?)?;
        Ok(sql.commit().await?)
    }

    /// Says that the run is still under way.
    pub(super) async fn beat(&self) -> anyhow::Result<()> {
        let beat = sqlx::query!(
            "update jobs set leased_until = now() + make_interval(secs => $3) where job = $1 and lease = $2",
            self.job,
            self.lease,
            LEASE.as_secs_f64(),
        );
        is_ours(beat.execute(&self.pool).await?)
    }

    /// The database's time. Its clock is not asked again: whatever it does meanwhile, it is no earlier than it was.
    pub(super) fn now(&self) -> Moment {
        let (at, since) = self.taken_at;
        at + since.elapsed()
    }

    /// The job is done, and next due at a time.
    pub(super) async fn done(&self, next: Moment) -> anyhow::Result<()> {
        let done = sqlx::query!(
            "update jobs
             set due_at = $3, next_at = $3, attempts = 0, failing_since = null, lease = null, leased_until = null,
                 held_by = null, ended_at = now(), took_ms = $4, outcome = 'done', error = null
             where job = $1 and lease = $2",
            self.job,
            self.lease,
            next,
            self.took_ms(),
        );
        is_ours(done.execute(&self.pool).await?)
    }

    /// It was tried in vain. It is tried again at a time; or it is given up until it is next due, which is that time.
    pub(super) async fn failed(&self, next: Moment, gives_up: bool, error: &str) -> anyhow::Result<()> {
        let failed = sqlx::query!(
            "update jobs
             set due_at = case when $4 then $3 else due_at end, next_at = $3, attempts = case when $4 then 0 else attempts end,
                 failing_since = coalesce(failing_since, now()), lease = null, leased_until = null, held_by = null,
                 ended_at = now(), took_ms = $5, outcome = 'failed', error = $6
             where job = $1 and lease = $2",
            self.job,
            self.lease,
            next,
            gives_up,
            self.took_ms(),
            cut(error),
        );
        is_ours(failed.execute(&self.pool).await?)
    }

    /// Gives it back as if it had not been tried: this node goes away.
    pub(super) async fn give_back(&self) -> anyhow::Result<()> {
        let given = sqlx::query!(
            "update jobs set lease = null, leased_until = null, held_by = null, attempts = attempts - 1
             where job = $1 and lease = $2",
            self.job,
            self.lease,
        );
        is_ours(given.execute(&self.pool).await?)
    }

    fn took_ms(&self) -> i64 {
        i64::try_from(self.taken_at.1.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

fn is_ours(moved: sqlx::postgres::PgQueryResult) -> anyhow::Result<()> {
    anyhow::ensure!(moved.rows_affected() > 0, Lost);
    Ok(())
}

/// As much of a text as the table holds.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Has a job done as soon as somebody has room for it. False if there is none of that name, or if it is being done.
///
/// # Errors
/// If the database does not answer.
pub async fn ask_for(pool: &PgPool, job: &str) -> anyhow::Result<bool> {
    let asked = sqlx::query!(
        "update jobs set next_at = least(next_at, now()), attempts = 0
         where job = $1 and (leased_until > now() and leased_until <= now() + 2 * make_interval(secs => $2)) is not true",
        job,
        LEASE.as_secs_f64(),
    );
    Ok(asked.execute(pool).await?.rows_affected() > 0)
}

/// What is known of a job.
#[derive(Debug)]
pub struct Known {
    pub job: String,
    pub schedule: String,
    /// When it is tried next.
    pub next_at: Moment,
    pub attempts: i32,
    /// Who is doing it, as far as is known.
    pub held_by: Option<String>,
    /// For how long it should have been done.
    pub late_seconds: f64,
    /// For how long it has been tried in vain.
    pub failing_seconds: f64,
    pub ended_at: Option<Moment>,
    pub took_ms: Option<i64>,
    pub outcome: Option<String>,
    pub error: Option<String>,
}

/// All jobs, by name.
///
/// # Errors
/// If the database does not answer.
pub async fn all(pool: &PgPool) -> anyhow::Result<Vec<Known>> {
    let known = sqlx::query_as!(
        Known,
        r#"select job, schedule, next_at, attempts, ended_at, took_ms, outcome, error,
                  case when leased_until > now() and leased_until <= now() + 2 * make_interval(secs => $1) then held_by end
                      as held_by,
                  greatest(extract(epoch from now() - due_at), 0)::float8 as "late_seconds!",
                  greatest(extract(epoch from now() - failing_since), 0)::float8 as "failing_seconds!"
           from jobs order by job"#,
        LEASE.as_secs_f64(),
    );
    Ok(known.fetch_all(pool).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_error_is_as_much_as_the_table_holds() {
        assert_eq!(cut("no"), "no");
        let long = "é".repeat(ERROR_BYTES_MAX);
        assert_eq!(cut(&long).len(), ERROR_BYTES_MAX);
        assert_eq!(cut(&format!("a{long}")).len(), ERROR_BYTES_MAX - 1);
    }
}
