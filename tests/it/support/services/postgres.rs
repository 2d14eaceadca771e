//! PostgreSQL: a database for each test, copied from a template that the first test migrates.

use std::ops::{Deref, DerefMut};

use nix::sys::signal::{Signal, kill};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tillwire::embedded::{self, Durability, Options, Source, Tcp};
use tokio::sync::OnceCell;

use super::super::buses::until;
use super::{dir, free_port, unique};

const TEMPLATE: &str = "tillwire_template";
/// Tests run side by side, each with its pools.
const CONNECTIONS_MAX: u16 = 400;
/// Only the loopback address listens, and only for proxies.
const PASSWORD: &str = "tillwire";

/// A cluster with a Unix socket for everyone and a TCP port for proxies; `embedded::Postgres` has the rest of its verbs.
pub struct Postgres {
    cluster: embedded::Postgres,
    template: OnceCell<()>,
}

/// One test's own database.
pub struct Database {
    pub name: String,
    cluster: &'static Postgres,
}

impl Postgres {
    /// The run's cluster.
    pub async fn shared() -> &'static Postgres {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Postgres::start_own).await
    }

    /// A cluster for a test that kills it.
    pub async fn start_own() -> Postgres {
        let options = Options {
            name: "pg".into(),
            home: Some(dir("postgres")),
            source: Source::Any,
            durability: Durability::Test,
            connections_max: CONNECTIONS_MAX,
            tcp: Some(Tcp { port: free_port(), password: PASSWORD.into() }),
        };
        let cluster = embedded::start(options, &|line| eprintln!("{line}")).await.expect("a private PostgreSQL");
        Postgres { cluster, template: OnceCell::new() }
    }

    /// A new database with what `migrate` made of an empty one. It is called once in a run, with a connection string for
    /// `tillwire_migrate`, and must have closed its connections when it returns.
    pub async fn database(&'static self, migrate: impl AsyncFnOnce(String)) -> Database {
        let name = unique("test");
        self.template(migrate).await;
        self.cluster.create_database(&name, Some(TEMPLATE)).await.expect("a database");
        Database { name, cluster: self }
    }

    async fn template(&self, migrate: impl AsyncFnOnce(String)) {
        let made = self.template.get_or_init(async || {
            // A test that panicked in `migrate` leaves half a template behind.
            let drop = format!("drop database if exists {TEMPLATE} with (force)");
            self.cluster.psql("postgres", &drop).await.expect("dropping an unfinished template");
            self.cluster.create_database(TEMPLATE, None).await.expect("an empty database");
            migrate(self.cluster.url("tillwire_migrate", TEMPLATE)).await;
        });
        made.await;
    }

    /// Stops every process of the cluster where it is: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in self.cluster.pids() {
            let _ = kill(pid, signal); // A backend may just have ended.
        }
    }
}

impl Database {
    pub fn url(&self, role: &str) -> String {
        self.cluster.url(role, &self.name)
    }

    /// The same through a proxy's port.
    pub fn url_through(&self, port: u16, role: &str) -> String {
        self.cluster.tcp_url(port, role, &self.name).expect("a cluster with TCP")
    }

    pub async fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.name, sql).await.expect("SQL")
    }

    /// Locks a table: nobody can read or write it until the session that is answered lets go, or is closed.
    pub async fn locks(&self, table: &str) -> PgConnection {
        self.held(&format!("lock table {table} in access exclusive mode")).await
    }

    /// Waits until nobody does a job, and none is due for some seconds: they all are when a hub starts.
    pub async fn has_no_job_due(&self) {
        let idle =
            "select count(*) > 0 and bool_and(lease is null and next_at > now() + interval '2 seconds') from jobs";
        until(async || (self.psql(idle).await.trim() == "t").then_some(())).await;
    }

    /// A session of a superuser's that holds what a statement locks.
    pub async fn held(&self, statement: &str) -> PgConnection {
        let mut holder = PgConnection::connect(&self.url("postgres")).await.expect("a superuser");
        let lock = AssertSqlSafe(format!("begin; {statement}"));
        sqlx::raw_sql(lock).execute(&mut holder).await.expect("a lock");
        holder
    }
}

/// The session lets go of what it holds.
pub async fn let_go(mut holder: PgConnection) {
    sqlx::raw_sql("rollback").execute(&mut holder).await.expect("a rollback");
}

/// Waits until so many sessions of the application's wait for locks.
pub async fn locked_out(database: &Database, sessions: usize) {
    let waiting = "select count(*) from pg_stat_activity
        where datname = current_database() and usename = 'tillwire_app' and wait_event_type = 'Lock'";
    let waiting = async || database.psql(waiting).await.trim().parse::<usize>().expect("a number");
    until(async || (waiting().await >= sessions).then_some(())).await;
}

impl Deref for Postgres {
    type Target = embedded::Postgres;

    fn deref(&self) -> &embedded::Postgres {
        &self.cluster
    }
}

impl DerefMut for Postgres {
    fn deref_mut(&mut self) -> &mut embedded::Postgres {
        &mut self.cluster
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pids = self.cluster.pids();
        self.resume();
        if let Some(postmaster) = pids.first() {
            let _ = kill(*postmaster, Signal::SIGQUIT); // Removes its shared memory, unlike SIGKILL.
        }
    }
}
