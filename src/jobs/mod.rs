//! Jobs: what is to be done at its time, once in a fleet, whichever node does it.
//!
//! A job is a row: when it is due, and who does it. Every node that takes part looks for those that are due, and takes one
//! under a [lease](leases). It says every few seconds that it is at it; when it has been silent for fifteen, another takes
//! over. What a run commits names the lease, so that one that was frozen, or cut off, and wakes up when another has its job
//! commits nothing. A run that is broken off is done again from the beginning: what a job does can be done twice.
//!
//! One that fails is tried again after longer and longer pauses, then waits for its next regular time, and is shown as failing
//! until it is done. Each is done in a task of its own, so that none waits for another's pauses.

pub mod leases;
pub mod reconciling;
pub mod schedule;
pub mod sealing;
pub mod upkeep;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub use self::leases::{Known, Lost, Run, all, ask_for};
pub use self::schedule::Schedule;

/// How often it is looked which jobs are due.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the database may take to say it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How often a run says that it is under way. A lease outlives a few words that are lost.
const BEAT_EVERY: Duration = Duration::from_secs(3);
/// How many jobs a node does at once.
const RUNS_MAX: usize = 2;
/// All that jobs take of the database: a transaction for each run, and one for what is said of them.
pub const CONNECTIONS_MAX: u32 = RUNS_MAX as u32 + 1;
/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(15 * 60);
/// How long a job waits after each attempt in vain; after the last it waits for its next regular time.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900)];
const ATTEMPTS_MAX: i32 = PAUSES.len() as i32 + 1;
/// How often what came of a run is tried to be written down, and how long after a failure. It is known to nobody else.
const WRITE_TRIES_MAX: u32 = 5;
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often it is told how jobs stand.
const TELL_EVERY: Duration = Duration::from_secs(10);

type Body = dyn Fn(Run) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync;

/// Something that is to be done at its time.
#[derive(Clone)]
pub struct Job {
    /// As its row and metrics name it. It never changes.
    pub name: &'static str,
    pub schedule: Schedule,
    body: Arc<Body>,
}

impl Job {
    /// What `body` writes it commits by [`Run::commit`]. It can be broken off at any await, and begun again.
    pub fn new<F>(name: &'static str, schedule: Schedule, body: impl Fn(Run) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self { name, schedule, body: Arc::new(move |run| body(run).boxed()) }
    }
}

/// Whoever does jobs: one a node.
#[derive(Clone)]
pub struct Jobs {
    /// Its own, as `tillwire_app`, with [`CONNECTIONS_MAX`] connections: jobs do not wait for tills, nor tills for jobs.
    pool: PgPool,
    jobs: Arc<[Job]>,
    held_by: String,
}

/// How a run ended.
enum End {
    Done,
    Failed(anyhow::Error),
    Lost,
    /// This node goes away.
    Stopped,
}

impl Jobs {
    /// `held_by` names the node to people.
    pub fn new(pool: PgPool, jobs: Vec<Job>, held_by: String) -> Self {
        // What first appears when it happens has not risen, says Prometheus.
        for (job, outcome) in jobs.iter().flat_map(|job| ["done", "failed", "lost"].map(|outcome| (job, outcome))) {
            metrics::counter!("tillwire_job_runs_total", "name" => job.name, "outcome" => outcome).increment(0);
        }
        Self { pool, jobs: jobs.into(), held_by }
    }

    /// Does what is due until `stop`. A run that is under way then is broken off, and its job given back.
    pub async fn run(&self, stop: &CancellationToken) {
        tokio::join!(self.look(stop), self.tell(stop));
    }

    async fn look(&self, stop: &CancellationToken) {
        let (mut runs, mut is_planned, mut is_away) = (JoinSet::new(), false, false);
        while !stop.is_cancelled() {
            let looking = async {
                if !is_planned {
                    leases::plan(&self.pool, &self.jobs).await?;
                    is_planned = true;
                }
                match RUNS_MAX - runs.len() {
                    0 => Ok(Vec::new()),
                    room => leases::take(&self.pool, &self.jobs, &self.held_by, room).await,
                }
            };
            match tokio::time::timeout(LOOK_MAX, looking).await.map_err(anyhow::Error::from).and_then(|taken| taken) {
                Ok(taken) => {
                    is_away = false;
                    for run in taken {
                        let (jobs, stop) = (self.clone(), stop.clone());
                        runs.spawn(async move { jobs.attempt(run, &stop).await });
                    }
                }
                Err(error) if std::mem::replace(&mut is_away, true) => {
                    debug!("Jobs still wait for the database: {error:#}");
                }
                Err(error) => warn!("Jobs wait for the database: {error:#}"),
            }
            let waiting = async {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    Some(_) = runs.join_next() => {} // Others may have waited for its place.
                }
            };
            stop.run_until_cancelled(waiting).await;
            while runs.try_join_next().is_some() {}
        }
        while runs.join_next().await.is_some() {}
    }

    /// One attempt at a job, and a word on what came of it.
    async fn attempt(&self, run: Run, stop: &CancellationToken) {
        let Some(job) = self.jobs.iter().find(|job| job.name == run.job) else { return };
        if let Some(other) = &run.taken_from {
            warn!(job = job.name, "Takes over a job from {other}, which has fallen silent");
        }
        let end = self.end_of(job, &run, stop).await;
        let outcome = match &end {
            End::Done => "done",
            End::Failed(_) => "failed",
            End::Lost => "lost",
            End::Stopped => return give_back(&run).await,
        };
        metrics::counter!("tillwire_job_runs_total", "name" => job.name, "outcome" => outcome).increment(1);
        let now = run.now();
        let next = match job.schedule.next(run.due_at, now) {
            Ok(next) => next,
            Err(error) => return error!(job = job.name, "Nobody knows when a job is next due: {error:#}"),
        };
        match end {
            End::Done => self.write(job, || run.done(next)).await,
            End::Failed(error) => {
                let again = pause(run.attempt).map(|pause| now + pause).filter(|again| *again < next);
                let then = again.unwrap_or(next);
                warn!(job = job.name, "Attempt {} at a job failed, the next is at {then}: {error:#}", run.attempt);
                let error = format!("{error:#}");
                self.write(job, || run.failed(then, again.is_none(), &error)).await;
            }
            _ => {
                warn!(job = job.name, "A job was taken over by another node: what this one had not committed is undone")
            }
        }
    }

    /// Does a job to its end, or until it is not ours any more.
    async fn end_of(&self, job: &Job, run: &Run, stop: &CancellationToken) -> End {
        if run.attempt > ATTEMPTS_MAX {
            return End::Failed(anyhow!("none of {ATTEMPTS_MAX} attempts came to an end"));
        }
        let doing = tokio::time::timeout(RUN_MAX, AssertUnwindSafe((job.body)(run.clone())).catch_unwind());
        tokio::select! {
            outcome = doing => match outcome {
                Ok(Ok(Ok(()))) => End::Done,
                Ok(Ok(Err(error))) if error.is::<Lost>() => End::Lost,
                Ok(Ok(Err(error))) => End::Failed(error),
                Ok(Err(_)) => End::Failed(anyhow!("it has panicked")),
                Err(_) => End::Failed(anyhow!("it took longer than {RUN_MAX:?}")),
            },
            () = beat_until_lost(run) => End::Lost,
            () = stop.cancelled() => End::Stopped,
        }
    }

    /// Writes down what came of a run: again, if the database does not take it at once.
    async fn write<F: Future<Output = anyhow::Result<()>>>(&self, job: &Job, write: impl Fn() -> F) {
        for tried in 1.. {
            match write().await {
                Ok(()) => return,
                Err(error) if error.is::<Lost>() || tried == WRITE_TRIES_MAX => {
                    return warn!(job = job.name, "What came of a job is not written down: {error:#}");
                }
                Err(error) => debug!(job = job.name, "What came of a job is not written down yet: {error:#}"),
            }
            tokio::time::sleep(WRITE_AGAIN_AFTER).await;
        }
    }

    /// Shows how jobs stand, until `stop`. Every node does, whoever does them: when nobody does, it matters most.
    async fn tell(&self, stop: &CancellationToken) {
        loop {
            let known = tokio::time::timeout(LOOK_MAX, all(&self.pool)).await;
            let known = known.map_err(anyhow::Error::from).and_then(|known| known).context("asking how jobs stand");
            for job in &*self.jobs {
                let of = |known: &Vec<Known>| known.iter().find(|it| it.job == job.name).map(stands);
                let (late, failing) = known.as_ref().ok().and_then(of).unwrap_or((f64::NAN, f64::NAN));
                metrics::gauge!("tillwire_job_late_seconds", "name" => job.name).set(late);
                metrics::gauge!("tillwire_job_failing_seconds", "name" => job.name).set(failing);
            }
            if let Err(error) = known {
                debug!("Cannot say how jobs stand: {error:#}");
            }
            if stop.run_until_cancelled(tokio::time::sleep(TELL_EVERY)).await.is_none() {
                return;
            }
        }
    }
}

fn stands(known: &Known) -> (f64, f64) {
    (known.late_seconds, known.failing_seconds)
}

/// How long a job waits after so many attempts in vain; none if that was the last.
fn pause(attempts: i32) -> Option<Duration> {
    usize::try_from(attempts - 1).ok().and_then(|before| PAUSES.get(before)).copied()
}

/// Tried once: whoever goes away waits for nobody, and a lease expires.
async fn give_back(run: &Run) {
    if let Err(error) = run.give_back().await {
        debug!(job = run.job, "A job could not be given back: {error:#}");
    }
}

/// Says that a run is under way, until it is another's. A database that is away is no reason to stop: while it is, nobody
/// else takes the job either.
async fn beat_until_lost(run: &Run) {
    loop {
        tokio::time::sleep(BEAT_EVERY).await;
        match run.beat().await {
            Err(error) if error.is::<Lost>() => return,
            Err(error) => debug!(job = run.job, "A job could not say that it is under way: {error:#}"),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_further_and_further_apart_and_bounded() {
        let pauses: Vec<Duration> = (1..).map_while(pause).collect();
        assert_eq!(pauses, PAUSES);
        assert!(pauses.windows(2).all(|two| two[0] < two[1]));
        assert_eq!((pause(ATTEMPTS_MAX), pause(0)), (None, None));
    }
}
