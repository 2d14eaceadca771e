//! The tests' own services: they are shared, apart and gone afterwards.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use crate::support::services::postgres::Database;
use crate::support::services::proxy::Cut;
use crate::support::services::{self, Postgres, Proxy, RabbitMq, Redis};

/// A database as every test gets it, with a table that only this test knows.
async fn database() -> Database {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    database.psql("create table scraps (id int); grant insert, select on scraps to tillwire_app").await;
    database
}

#[tokio::test]
async fn tests_have_databases_apart() {
    let (one, other) = tokio::join!(database(), database());
    one.psql("insert into scraps values (1)").await;
    assert_eq!(one.psql("select count(*) from scraps").await, "1");
    assert_eq!(other.psql("select count(*) from scraps").await, "0");
}

#[tokio::test]
async fn a_commit_is_cut_before_or_after_the_database_has_it() {
    let database = database().await;
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    for (cut, sales) in [(Cut::Before, "0"), (Cut::After, "1")] {
        let url = database.url_through(proxy.port, "tillwire_app");
        let mut connection = PgConnection::connect(&url).await.unwrap();
        #[allow(clippy::disallowed_methods)] // Nobody cancels it here, and the connection is in no pool.
        let mut tx = connection.begin().await.unwrap();
        sqlx::query("insert into scraps values (1)").execute(&mut *tx).await.unwrap();
        let happened = proxy.cut_when(|bytes| bytes.windows(7).any(|word| word == b"COMMIT\0"), cut);
        assert!(tx.commit().await.is_err());
        happened.await.unwrap();
        assert_eq!(database.psql("select count(*) from scraps").await, sales, "{cut:?}");
    }
}

#[tokio::test]
async fn a_cluster_of_its_own_can_be_paused_and_killed() {
    let mut postgres = Postgres::start_own().await;
    postgres.pause();
    assert!(tokio::time::timeout(Duration::from_secs(1), postgres.psql("tillwire", "select 1")).await.is_err());
    postgres.resume();
    postgres.psql("tillwire", "select 1").await.unwrap();
    postgres.kill_now().await.unwrap();
    assert!(postgres.psql("tillwire", "select 1").await.is_err());
    postgres.start_again().await.unwrap();
    postgres.psql("tillwire", "select 1").await.unwrap();
}

#[tokio::test]
async fn services_are_shared() {
    let (redis, rabbitmq) = tokio::join!(Redis::shared(), RabbitMq::shared());
    assert_eq!(redis.port, Redis::shared().await.port);
    assert_ne!(redis.prefix(), redis.prefix());
    assert_ne!(rabbitmq.vhost().await, rabbitmq.vhost().await);
}

#[tokio::test]
async fn nothing_is_left_of_a_killed_test_run() {
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "services::helper_everything_until_it_is_killed", "--ignored", "--nocapture"])
        .env("TILLWIRE_TEST_HELPER", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    let dir = lines.find_map(|line| line.strip_prefix("runs in ").map(PathBuf::from)).expect("a run's folder");
    let names = processes_in(&dir);
    for name in ["postgres", "redis-server", "beam.smp", "erl_child_setup", "epmd"] {
        assert!(names.iter().any(|running| running.starts_with(name)), "{name} in {names:?}");
    }

    run.kill().unwrap(); // SIGKILL
    run.wait().unwrap();
    let killed = Instant::now();
    while dir.exists() || !processes_in(&dir).is_empty() {
        assert!(killed.elapsed() < Duration::from_secs(120), "left: {:?}", processes_in(&dir));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The names of the processes that work inside the folder.
fn processes_in(dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let inside = processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)));
    inside.filter_map(|process| Some(fs::read_to_string(process.join("comm")).ok()?.trim().to_owned())).collect()
}

#[tokio::test]
#[ignore = "started by another test, as a process"]
async fn helper_everything_until_it_is_killed() {
    if std::env::var_os("TILLWIRE_TEST_HELPER").is_none() {
        return;
    }
    tokio::join!(Postgres::shared(), Redis::shared(), RabbitMq::shared());
    println!("\nruns in {}", services::dir("last").parent().unwrap().display());
    std::future::pending::<()>().await;
}
