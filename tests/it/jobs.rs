//! Jobs: done at their time, once in a fleet, whichever of its nodes dies or is frozen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tillwire::jobs::{self, Job, Jobs, Lost, Run, Schedule, leases};
use tillwire::journal::pool;
use tillwire::node::Faces;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::support::buses::until;
use super::support::hub::TestHub;
use super::support::process::{Env, TillwireProcess, environment, run};
use super::support::services::Postgres;
use super::support::services::postgres::Database;
use super::support::services::proxy::Proxy;

const EVERY_SECOND: Schedule = Schedule::Every(Duration::from_secs(1));
const HOURLY: Schedule = Schedule::Every(Duration::from_secs(3600));

/// A database with no node on it, and a table for what jobs of tests write.
async fn database() -> Database {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    database.psql("create table done (job text, by text, due_at timestamptz); grant all on done to tillwire_app").await;
    database
}

fn pool_of(url: &str) -> PgPool {
    pool::open(url, jobs::CONNECTIONS_MAX).unwrap()
}

/// A node's jobs, in this process.
struct Doing {
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Doing {
    fn start(url: &str, held_by: &str, jobs: Vec<Job>) -> Self {
        let (jobs, stop) = (Jobs::new(pool_of(url), jobs, held_by.to_owned()), CancellationToken::new());
        let until = stop.clone();
        Self { stop, ended: tokio::spawn(async move { jobs.run(&until).await }) }
    }

    async fn stops(self) {
        self.stop.cancel();
        self.ended.await.expect("an end in order");
    }
}

/// A job that writes down that it was done.
fn writing(name: &'static str, schedule: Schedule, by: &'static str) -> Job {
    Job::new(name, schedule, move |run: Run| async move {
        let mut sql = run.begin().await?;
        insert(&mut sql, &run, by).await?;
        run.commit(sql).await
    })
}

async fn insert(sql: &mut PgConnection, run: &Run, by: &str) -> sqlx::Result<()> {
    sqlx::query("insert into done values ($1, $2, $3)").bind(&run.job).bind(by).bind(run.due_at).execute(sql).await?;
    Ok(())
}

async fn asked(database: &Database, sql: &str) -> String {
    database.psql(sql).await.trim().to_owned()
}

async fn until_it_says(database: &Database, sql: &str, expected: &str) {
    until(async || (asked(database, sql).await == expected).then_some(())).await;
}

async fn until_done(database: &Database, times: u32) {
    until_it_says(database, &format!("select count(*) >= {times} from done"), "t").await;
}

/// What `serve` and its parts are given on a database.
fn node_env(database: &Database) -> Env {
    environment(&database.url("tillwire_app"), &database.url("tillwire_feed")).0
}

#[tokio::test]
async fn each_time_of_a_job_is_done_once_in_a_fleet() {
    let database = database().await;
    let url = database.url("tillwire_app");
    let nodes = ["one", "two", "three"].map(|by| Doing::start(&url, by, vec![writing("often", EVERY_SECOND, by)]));
    until_done(&database, 8).await;
    for node in nodes {
        node.stops().await;
    }
    let twice = "select count(*) from (select due_at from done group by due_at having count(*) > 1) twice";
    assert_eq!(asked(&database, twice).await, "0");
    let rhythm = "select count(*) from done
        where extract(epoch from due_at - (select min(due_at) from done))::numeric % 1 <> 0";
    assert_eq!(asked(&database, rhythm).await, "0", "whole seconds after the first");
    let last = "select due_at = (select max(due_at) from done) + interval '1 second' * round(
            extract(epoch from due_at - (select max(due_at) from done))) and due_at > (select max(due_at) from done)
            and attempts = 0 and lease is null and outcome = 'done' from jobs where job = 'often'";
    assert_eq!(asked(&database, last).await, "t");
}

/// How many jobs there are that every fleet does.
fn upkeep() -> usize {
    tillwire::jobs::upkeep::jobs().len()
}

#[tokio::test]
async fn the_upkeep_of_a_fleet_is_done_once() {
    let database = database().await;
    let mut nodes = Vec::new();
    for role in ["api", "api", "serve"] {
        nodes.push(TillwireProcess::start(&[role], &node_env(&database)).await);
    }
    until_it_says(&database, "select count(*) from jobs where outcome = 'done'", &upkeep().to_string()).await;
    // Whoever has not looked by now finds nothing due.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut runs = 0.0;
    for node in &nodes {
        runs += node.counts("tillwire_job_runs_total", &[]).await;
    }
    assert_eq!(runs, upkeep() as f64);
    for node in &nodes {
        until(async || (node.counts("tillwire_job_late_seconds", &[]).await == 0.0).then_some(())).await;
        assert_eq!(node.counts("tillwire_job_failing_seconds", &[]).await, 0.0);
    }
}

/// Nobody else can read or write the table until the session that is answered is closed.
async fn locks(database: &Database, table: &str) -> PgConnection {
    let mut sql = PgConnection::connect(&database.url("postgres")).await.expect("a superuser");
    let lock = AssertSqlSafe(format!("begin; lock table {table} in access exclusive mode"));
    sqlx::raw_sql(lock).execute(&mut sql).await.expect("a lock");
    sql
}

/// Starts a node that is in the middle of forgetting keys: the lock is in its way.
async fn in_mid_run(database: &Database) -> (TillwireProcess, PgConnection) {
    let lock = locks(database, "idempotency_keys").await;
    let node = TillwireProcess::spawn(&["api"], &node_env(database));
    let held = format!(
        "select count(*) from jobs where job = 'idempotency_keys' and held_by like '% pid {}'
           and exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%idempotency_keys_expire%'
                       and datname = current_database())",
        node.pid()
    );
    until_it_says(database, &held, "1").await;
    (node, lock)
}

const KEYS: &str = "select outcome || ' ' || attempts from jobs where job = 'idempotency_keys'";
const KEYS_WHOLE: &str = "select jobs from jobs where job = 'idempotency_keys'";

#[tokio::test]
async fn a_node_that_is_killed_in_mid_run_is_taken_over_from() {
    let database = database().await;
    let (mut killed, lock) = in_mid_run(&database).await;
    killed.kill().await;
    lock.close().await.unwrap();
    assert_eq!(
        asked(&database, "select attempts from jobs where job = 'idempotency_keys' and lease is not null").await,
        "1"
    );
    let other = TillwireProcess::start(&["api"], &node_env(&database)).await;
    until_it_says(&database, KEYS, "done 0").await;
    assert!(other.log().contains("Takes over a job from"), "{}", other.log());
}

#[tokio::test]
async fn a_node_that_is_frozen_in_mid_run_is_taken_over_from_and_says_nothing_of_it_any_more() {
    let database = database().await;
    let (mut frozen, lock) = in_mid_run(&database).await;
    frozen.signal(Signal::SIGSTOP);
    lock.close().await.unwrap();
    let other = TillwireProcess::start(&["api"], &node_env(&database)).await;
    until_it_says(&database, KEYS, "done 0").await;
    let done = asked(&database, KEYS_WHOLE).await;
    frozen.signal(Signal::SIGCONT);
    frozen
        .until("it has lost the job", async |node| {
            let log = node.log();
            log.contains("taken over by another node") || log.contains("is not written down: somebody else has the job")
        })
        .await;
    assert_eq!(asked(&database, KEYS_WHOLE).await, done);
    assert!(other.counts("tillwire_job_runs_total", &[("name", "idempotency_keys"), ("outcome", "done")]).await >= 1.0);
}

#[tokio::test]
async fn whoever_has_lost_a_job_commits_nothing() {
    let database = database().await;
    let pool = pool_of(&database.url("tillwire_app"));
    let known = [writing("often", HOURLY, "")];
    leases::plan(&pool, &known).await.unwrap();
    let take = async |by: &str| leases::take(&pool, &known, by, 2).await.unwrap().pop();

    let first = take("one").await.expect("it is due");
    assert!(take("two").await.is_none(), "it is being done");
    let mut early = first.begin().await.unwrap();
    insert(&mut early, &first, "one, in time").await.unwrap();
    first.commit(early).await.unwrap();
    let mut late = first.begin().await.unwrap();
    insert(&mut late, &first, "one, too late").await.unwrap();
    database.psql("update jobs set leased_until = now() - interval '1 second'").await;
    let second = take("two").await.expect("it is free");
    assert_eq!((second.taken_from.as_deref(), second.attempt, second.due_at), (Some("one"), 2, first.due_at));
    let refused = first.commit(late).await.unwrap_err();
    assert!(refused.is::<Lost>(), "{refused}");
    let mut sql = second.begin().await.unwrap();
    insert(&mut sql, &second, "two").await.unwrap();
    second.commit(sql).await.unwrap();
    assert_eq!(asked(&database, "select string_agg(by, '; ' order by by) from done").await, "one, in time; two");

    // Whoever is about to commit keeps it, however late it is: nobody takes it in between.
    let mut sql = PgConnection::connect(&database.url("postgres")).await.unwrap();
    database.psql("update jobs set leased_until = now() - interval '1 second'").await;
    sqlx::raw_sql("begin; update jobs set leased_until = now()").execute(&mut sql).await.unwrap();
    assert!(take("three").await.is_none());
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    assert_eq!(take("three").await.expect("it is free").taken_from.as_deref(), Some("two"));
}

#[tokio::test]
async fn a_lease_of_a_clock_that_was_far_ahead_is_nobodys() {
    let database = database().await;
    let pool = pool_of(&database.url("tillwire_app"));
    let known = [writing("often", HOURLY, "")];
    leases::plan(&pool, &known).await.unwrap();
    let take = async |by: &str| leases::take(&pool, &known, by, 1).await.unwrap().pop();
    let ahead = async |interval: &str| {
        database.psql(&format!("update jobs set leased_until = now() + interval '{interval}'")).await;
        leases::all(&pool).await.unwrap().pop().unwrap().held_by
    };
    let first = take("one").await.expect("it is due");
    // As far as clocks of the database may differ from one statement to the next, it is believed.
    assert_eq!(ahead("25 seconds").await.as_deref(), Some("one"));
    assert!(take("two").await.is_none() && !jobs::ask_for(&pool, "often").await.unwrap());
    assert_eq!(ahead("1 day").await, None);
    assert!(jobs::ask_for(&pool, "often").await.unwrap());
    let second = take("two").await.expect("it is free");
    assert_eq!(second.taken_from.as_deref(), Some("one"));
    let refused = first.commit(first.begin().await.unwrap()).await.unwrap_err();
    assert!(refused.is::<Lost>(), "{refused}");
    second.commit(second.begin().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_and_then_waits_for_its_time_and_delays_no_other() {
    let database = database().await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = is_mended.clone();
    let failing = Job::new("failing", HOURLY, move |_| {
        let mended = mended.clone();
        async move {
            anyhow::ensure!(mended.load(Ordering::Relaxed), "the other side is away");
            Ok(())
        }
    });
    let panicking = Job::new("panicking", HOURLY, async |_| panic!("a bug"));
    let jobs = vec![failing, panicking, writing("often", EVERY_SECOND, "it")];
    let doing = Doing::start(&database.url("tillwire_app"), "one", jobs);
    let first_due = {
        until_it_says(&database, "select count(*) from jobs where outcome = 'failed'", "2").await;
        asked(&database, "select due_at from jobs where job = 'failing'").await
    };
    assert_eq!(asked(&database, "select error from jobs where job = 'panicking'").await, "it has panicked");
    for (attempt, pause) in [(1, 10), (2, 60), (3, 300), (4, 900)] {
        until_it_says(
            &database,
            "select attempts from jobs where job = 'failing' and lease is null",
            &attempt.to_string(),
        )
        .await;
        let waits = format!(
            "select next_at - ended_at between interval '{} seconds' and interval '{pause} seconds' and due_at = '{first_due}'
                 and error = 'the other side is away' and failing_since is not null from jobs where job = 'failing'",
            pause / 2
        );
        assert_eq!(asked(&database, &waits).await, "t", "after attempt {attempt}");
        let others = asked(&database, "select count(*) from done").await.parse::<u32>().unwrap();
        until_done(&database, others + 1).await;
        // The pause is over.
        database.psql("update jobs set next_at = now() where job = 'failing'").await;
    }
    let waits = format!(
        "select attempts = 0 and due_at = next_at and next_at = timestamptz '{first_due}' + interval '1 hour'
             and failing_since is not null and outcome = 'failed' from jobs where job = 'failing'"
    );
    until_it_says(&database, &waits, "t").await;

    is_mended.store(true, Ordering::Relaxed);
    let pool = pool_of(&database.url("tillwire_app"));
    assert!(jobs::ask_for(&pool, "failing").await.unwrap() && !jobs::ask_for(&pool, "unknown").await.unwrap());
    let done =
        "select outcome = 'done' and failing_since is null and error is null and attempts = 0 and next_at > now()
        from jobs where job = 'failing'";
    until_it_says(&database, done, "t").await;
    doing.stops().await;
}

#[tokio::test]
async fn a_job_that_kills_its_nodes_is_given_up_until_its_next_time() {
    let database = database().await;
    let pool = pool_of(&database.url("tillwire_app"));
    let begun = Arc::new(AtomicU32::new(0));
    let counting = begun.clone();
    let killing = Job::new("killing", HOURLY, move |_| {
        counting.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(()))
    });
    leases::plan(&pool, std::slice::from_ref(&killing)).await.unwrap();
    for attempt in 1..=5 {
        let taken = leases::take(&pool, std::slice::from_ref(&killing), "one that dies", 1).await.unwrap().pop();
        assert_eq!(taken.expect("it is free").attempt, attempt);
        database.psql("update jobs set leased_until = now()").await;
    }
    let doing = Doing::start(&database.url("tillwire_app"), "one", vec![killing]);
    let given_up = "select outcome || ' ' || attempts || ' ' || error from jobs where next_at > now()";
    until_it_says(&database, given_up, "failed 0 none of 5 attempts came to an end").await;
    doing.stops().await;
    assert_eq!(begun.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_node_that_stops_gives_its_job_back() {
    let database = database().await;
    let endless = Job::new("endless", HOURLY, |_| std::future::pending());
    let doing = Doing::start(&database.url("tillwire_app"), "one", vec![endless]);
    until_it_says(&database, "select held_by || ' ' || attempts from jobs where leased_until > now()", "one 1").await;
    doing.stops().await;
    let free = "select lease is null and attempts = 0 and outcome is null and next_at <= now() from jobs";
    assert_eq!(asked(&database, free).await, "t");
}

#[tokio::test]
async fn a_run_goes_on_for_longer_than_a_lease_while_it_says_so() {
    let database = database().await;
    let url = database.url("tillwire_app");
    let long = |by| {
        Job::new("long", HOURLY, move |run: Run| async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            let mut sql = run.begin().await?;
            insert(&mut sql, &run, by).await?;
            run.commit(sql).await
        })
    };
    let nodes = ["one", "two"].map(|by| Doing::start(&url, by, vec![long(by)]));
    until_done(&database, 1).await;
    until_it_says(&database, "select outcome || ' ' || attempts from jobs", "done 0").await;
    assert_eq!(asked(&database, "select count(*) from done").await, "1");
    for node in nodes {
        node.stops().await;
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for() {
    let database = database().await;
    let mut near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    near.refuse().await;
    let url = database.url_through(near.port, "tillwire_app");
    let doing = Doing::start(&url, "one", vec![writing("often", EVERY_SECOND, "it")]);
    for _ in 0..2 {
        let before = asked(&database, "select count(*) from done").await.parse::<u32>().unwrap();
        near.accept().await;
        until_done(&database, before + 2).await;
        near.refuse().await;
        near.cut();
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    doing.stops().await;
    let twice = "select count(*) - count(distinct due_at) from done";
    assert_eq!(asked(&database, twice).await, "0");
}

#[tokio::test]
async fn partitions_are_made_as_soon_as_the_database_is_there() {
    let database = database().await;
    let names = "select count(*) from pg_inherits where inhparent = 'journal_entries'::regclass";
    let drop = "do $$ declare part regclass; begin
            for part in select inhrelid::regclass from pg_inherits where inhparent = 'journal_entries'::regclass loop
                execute format('drop table %s', part);
            end loop;
        end $$";
    let mut near = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start_on(database, Some(near.port)).await;
    // Not by the job: its time has passed.
    until_it_says(&hub.database, "select count(*) from jobs where outcome = 'done'", &upkeep().to_string()).await;
    near.refuse().await;
    near.cut();
    hub.database.psql(drop).await;
    assert_eq!(asked(&hub.database, names).await, "0");
    let _node = hub.node_through(near.port, Faces::API, &[]).await;
    near.accept().await;
    until_it_says(&hub.database, names, "4").await;
    hub.merchant("Toko Roti").await;
}

#[tokio::test]
async fn a_job_that_a_wrong_clock_has_planned_for_next_year_is_done() {
    let database = database().await;
    let doing = Doing::start(&database.url("tillwire_app"), "one", vec![writing("hourly", HOURLY, "it")]);
    until_done(&database, 1).await;
    until_it_says(&database, "select count(*) from jobs where lease is null", "1").await;
    database.psql("update jobs set due_at = due_at + interval '1 year', next_at = next_at + interval '1 year'").await;
    until_done(&database, 2).await;
    let soon = "select next_at between now() and now() + interval '1 hour' from jobs where lease is null";
    until_it_says(&database, soon, "t").await;
    doing.stops().await;
}

#[tokio::test]
async fn another_schedule_plans_a_job_anew() {
    let database = database().await;
    let pool = pool_of(&database.url("tillwire_app"));
    let daily = Schedule::daily(2, 30, "Asia/Jakarta").unwrap();
    leases::plan(&pool, &[writing("a", HOURLY, ""), writing("b", daily.clone(), "")]).await.unwrap();
    let local = "select to_char(next_at at time zone 'Asia/Jakarta', 'HH24:MI') || ' ' || schedule from jobs
        where job = 'b' and next_at > now() and next_at <= now() + interval '1 day'";
    assert_eq!(asked(&database, local).await, "02:30 daily at 02:30 Asia/Jakarta");
    let taken =
        leases::take(&pool, &[writing("a", HOURLY, ""), writing("b", daily.clone(), "")], "one", 2).await.unwrap();
    assert_eq!(taken.iter().map(|it| it.job.as_str()).collect::<Vec<_>>(), ["a"], "what is daily waits for its time");
    let before = asked(&database, "select jobs from jobs where job = 'b'").await;
    leases::plan(&pool, &[writing("b", daily, "")]).await.unwrap();
    assert_eq!(asked(&database, "select jobs from jobs where job = 'b'").await, before, "nothing has changed");
    leases::plan(&pool, &[writing("b", Schedule::daily(3, 15, "Europe/Berlin").unwrap(), "")]).await.unwrap();
    let local = "select to_char(next_at at time zone 'Europe/Berlin', 'HH24:MI') from jobs where job = 'b'";
    assert_eq!(asked(&database, local).await, "03:15");
}

#[tokio::test]
async fn people_see_how_jobs_stand_and_ask_for_one() {
    let hub = TestHub::start().await;
    until_it_says(&hub.database, "select count(*) from jobs where outcome = 'done'", &upkeep().to_string()).await;
    let mut env = Env::new();
    env.insert("TILLWIRE_DATABASE_URL", hub.database.url("tillwire_app"));
    let listed = run(&["jobs", "list"], &env).await;
    assert_eq!((listed.code, listed.out.lines().count()), (Some(0), upkeep()), "{}", listed.err);
    let line = listed.out.lines().find(|line| line.starts_with("partitions ")).expect("a line");
    assert!(line.contains("every 1 h, next 2") && line.contains("; done 2") && line.ends_with(" ms"), "{line}");

    hub.database.psql("update jobs set ended_at = null where job = 'partitions'").await;
    let asked_for = run(&["jobs", "run", "partitions"], &env).await;
    assert_eq!(asked_for.code, Some(0), "{}", asked_for.err);
    until_it_says(&hub.database, "select ended_at is not null from jobs where job = 'partitions'", "t").await;
    let unknown = run(&["jobs", "run", "nothing"], &env).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("no job nothing"), "{}", unknown.err);
}
