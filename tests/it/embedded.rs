//! The private PostgreSQL: whatever happens to its hub, the next one finds its rows.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, Uid};
use sqlx::{Connection as _, PgConnection};
use tillwire::embedded::{self, Durability, Options, Postgres, Source};

use crate::support::services;

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(home: &Path) -> Options {
    Options {
        name: "shop".into(),
        home: Some(home.to_owned()),
        source: Source::Installed,
        durability: Durability::Test,
        ..Options::default()
    }
}

async fn start(home: &Path) -> anyhow::Result<Postgres> {
    embedded::start(options(home), &|_| {}).await
}

async fn refusal(home: &Path) -> String {
    format!("{:#}", start(home).await.expect_err("a refusal"))
}

#[tokio::test]
async fn a_fresh_cluster_has_its_roles_and_keeps_its_rows() {
    let home = services::dir("embedded");
    let mut postgres = start(&home).await.unwrap();

    let roles =
        "select rolname from pg_roles where rolname like 'tillwire%' and not rolsuper and not rolbypassrls order by 1";
    let made = "tillwire_app\ntillwire_feed\ntillwire_migrate\ntillwire_relay";
    assert_eq!(postgres.psql("tillwire", roles).await.unwrap(), made);
    let settings =
        "select current_setting('listen_addresses'), current_setting('synchronous_commit'), current_setting('fsync')";
    assert_eq!(postgres.psql("tillwire", settings).await.unwrap(), "|on|off");
    let socket_mode = fs::metadata(home.join("shop/socket")).unwrap().permissions().mode();
    assert_eq!(socket_mode & 0o777, 0o700);

    // The connection string is one that sqlx takes, and the app's role is nobody special.
    let mut app = PgConnection::connect(&postgres.url("tillwire_app", "tillwire")).await.unwrap();
    let refused = sqlx::raw_sql("create table loot (id int)").execute(&mut app).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    app.close().await.unwrap();
    let mut migrate = PgConnection::connect(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    sqlx::raw_sql("create table sales (id int); insert into sales values (7)").execute(&mut migrate).await.unwrap();

    postgres.stop().await.unwrap(); // Although somebody is still connected.
    assert!(postgres.pids().is_empty());
    postgres.start_again().await.unwrap();
    postgres.kill_now().await.unwrap();
    postgres.start_again().await.unwrap();
    assert_eq!(postgres.psql("tillwire", "select id from sales").await.unwrap(), "7");

    postgres.create_database("copy", Some("tillwire")).await.unwrap();
    assert_eq!(postgres.psql("copy", "select id, null from sales").await.unwrap(), "7|");
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_outlived_its_hub_is_adopted() {
    let home = services::dir("embedded");
    let (mut hub, pid) = another_hub(&home, &mut helper());
    let message = refusal(&home).await;
    assert!(message.contains(&format!("another Tillwire (process {})", hub.id())), "{message}");

    hub.kill().unwrap(); // SIGKILL
    hub.wait().unwrap();
    let mut postgres = start(&home).await.unwrap();
    assert_eq!(postgres.pids()[0], pid);
    postgres.stop().await.unwrap();
    assert!(!is_running(pid));
}

#[tokio::test]
async fn ctrl_c_at_the_hub_is_not_for_the_server() {
    let home = services::dir("embedded");
    let (mut hub, pid) = another_hub(&home, helper().process_group(0));
    killpg(Pid::from_raw(hub.id().cast_signed()), Signal::SIGINT).unwrap();
    hub.wait().unwrap();
    assert!(is_running(pid));
    start(&home).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_stale_pid_file_is_no_obstacle() {
    let home = services::dir("embedded");
    let mut postgres = start(&home).await.unwrap();
    let pid_file = home.join("shop/data/postmaster.pid");
    let written = fs::read_to_string(&pid_file).unwrap();
    let dead = postgres.pids()[0].to_string();
    postgres.kill_now().await.unwrap();
    drop(postgres);
    assert!(pid_file.exists());
    let mut postgres = start(&home).await.unwrap();
    postgres.stop().await.unwrap();
    drop(postgres);

    // The number may belong to another program by now: here, to this one.
    fs::write(&pid_file, written.replacen(&dead, &std::process::id().to_string(), 1)).unwrap();
    start(&home).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_hub_that_died_while_it_made_the_cluster_leaves_nothing_in_the_way() {
    let home = services::dir("embedded");
    fs::create_dir_all(home.join("shop/data.new/base")).unwrap();
    fs::set_permissions(home.join("shop"), fs::Permissions::from_mode(0o711)).unwrap();
    start(&home).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_another_version_is_refused() {
    let home = services::dir("embedded");
    start(&home).await.unwrap().stop().await.unwrap();
    let version = home.join("shop/data/PG_VERSION");

    fs::write(&version, "14\n").unwrap();
    let message = refusal(&home).await;
    assert!(message.contains("made by PostgreSQL 14; Tillwire needs 15 or newer"), "{message}");

    fs::write(&version, "99\n").unwrap();
    let message = refusal(&home).await;
    assert!(message.contains("no PostgreSQL 99 (the version that made the data directory) was found"), "{message}");
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_gets_a_short_one() {
    let home = services::dir("embedded").join("x".repeat(60)).join("y, z".repeat(10));
    fs::create_dir_all(&home).unwrap();
    let mut postgres = start(&home).await.unwrap();
    let url = postgres.url("tillwire_app", "tillwire");
    assert!(url.contains("host=%2Ftmp%2Ftillwire-"), "{url}");
    let socket_dir = postgres.psql("tillwire", "show unix_socket_directories").await.unwrap();
    postgres.stop().await.unwrap();
    fs::remove_dir_all(socket_dir).unwrap();
}

/// Although the environment names it in every way there is, as the shell of whoever looks after it may.
#[tokio::test]
async fn a_cluster_that_is_already_there_is_left_alone() {
    let foreign = Foreign::start().await;
    let before = foreign.look().await;
    let visits = foreign.visits();

    let home = services::dir("embedded");
    let (mut hub, pid) = another_hub(&home, helper().envs(foreign.environment()));
    hub.kill().unwrap();
    hub.wait().unwrap();
    let mut postgres = start(&home).await.unwrap();
    assert_eq!(postgres.pids()[0], pid);
    assert_eq!(postgres.psql("tillwire", "select count(*) from merchants").await.unwrap(), "0", "it has our schema");
    postgres.stop().await.unwrap();

    assert_eq!(foreign.visits(), visits, "nobody has knocked");
    assert_eq!(foreign.look().await, before);
}

/// A cluster that somebody else made and looks after. It ends with the test.
struct Foreign {
    server: Child,
    dir: PathBuf,
    port: u16,
}

impl Foreign {
    /// With the same programs and as the same user as ours, so that nothing but our manners protects it.
    async fn start() -> Foreign {
        let ours = services::Postgres::shared().await;
        let programs = fs::read_link(format!("/proc/{}/exe", ours.pids()[0])).unwrap();
        let owner = fs::metadata(ours.dir().join("data")).unwrap();
        let (dir, port) = (services::dir("foreign"), services::free_port());
        chown(&dir, Some(owner.uid()), Some(owner.gid())).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let program = |name: &str| {
            let mut program = Command::new(programs.with_file_name(name));
            program.arg("-D").arg(dir.join("data")).current_dir(&dir).stdin(Stdio::null());
            program.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
            if Uid::effective().is_root() {
                program.uid(owner.uid()).gid(owner.gid());
            }
            program
        };
        let made = program("initdb").args(["--username=postgres", "--auth=trust", "--no-sync"]).status().unwrap();
        assert!(made.success());
        let settings = ["listen_addresses=127.0.0.1".into(), format!("port={port}"), "log_connections=on".into()];
        let mut postgres = program("postgres");
        postgres.args(settings.iter().flat_map(|setting| ["-c", setting])).arg("-k").arg(&dir).process_group(0);
        let foreign = Foreign { server: postgres.spawn().unwrap(), dir, port };
        let started = Instant::now();
        while foreign.connect().await.is_err() {
            assert!(started.elapsed() < PATIENCE, "{}", foreign.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        foreign
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)).await
    }

    /// Everything about it that somebody could change who went astray.
    async fn look(&self) -> (String, String, Vec<String>) {
        let inside = "select concat_ws(' ', pg_postmaster_start_time(),
            (select string_agg(datname, ' ' order by datname) from pg_database),
            (select string_agg(rolname, ' ' order by rolname) from pg_roles),
            (select count(*) from pg_stat_user_tables))";
        let inside = sqlx::query_scalar(inside).fetch_one(&mut self.connect().await.unwrap()).await.unwrap();
        let data = self.dir.join("data");
        let names = |dir: &Path| fs::read_dir(dir).unwrap().map(|it| it.unwrap().path().display().to_string());
        let mut files: Vec<String> = names(&self.dir).chain(names(&data)).collect();
        files.sort();
        (inside, fs::read_to_string(data.join("postmaster.pid")).unwrap(), files)
    }

    /// How often somebody has connected.
    fn visits(&self) -> usize {
        self.log().matches("connection received").count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// What leads PostgreSQL's own programs to it; the last two are what only those understand.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let (host, port) = ("127.0.0.1".to_owned(), self.port.to_string());
        let services = self.dir.with_extension("services");
        fs::write(&services, format!("[foreign]\nhost={host}\nport={port}\nuser=postgres\n")).unwrap();
        vec![
            ("PGHOST", host.clone()),
            ("PGHOSTADDR", host),
            ("PGPORT", port),
            ("PGDATA", self.dir.join("data").display().to_string()),
            ("PGDATABASE", "postgres".to_owned()),
            ("PGUSER", "postgres".to_owned()),
            ("PGPASSWORD", "foreign".to_owned()),
            ("PGSERVICE", "foreign".to_owned()),
            ("PGSERVICEFILE", services.display().to_string()),
            ("PGSSLMODE", "require".to_owned()),
            ("PGCLIENTENCODING", "auto".to_owned()),
        ]
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Removes its shared memory, unlike SIGKILL.
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGQUIT);
        let _ = self.server.wait();
    }
}

#[tokio::test]
async fn it_runs_without_root() {
    let home = services::dir("embedded");
    another_hub(&home, &mut nobody(&home)).0.kill().unwrap();
}

/// Also without any installed PostgreSQL: the prebuilt one is fetched anew, into a user's empty cache.
#[tokio::test]
async fn it_runs_on_binaries_from_npm() {
    let home = services::dir("embedded");
    let (mut hub, pid) = another_hub(&home, nobody(&home).env("TILLWIRE_TEST_SOURCE", "npm"));
    let server = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(server.starts_with(home.join("user/.cache/tillwire")), "{}", server.display());
    hub.kill().unwrap();
}

/// A process that nobody has waited for has a number, but no place to work.
fn is_running(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

/// The helper as an unprivileged user with an empty home directory.
fn nobody(home: &Path) -> Command {
    let user_home = home.join("user");
    fs::create_dir(&user_home).unwrap();
    // The target folder may be closed to others.
    let program = home.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = if Uid::effective().is_root() {
        fs::set_permissions(&user_home, fs::Permissions::from_mode(0o777)).unwrap();
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
        setpriv
    } else {
        Command::new(program)
    };
    command.args(HELPER).env("HOME", &user_home).current_dir(home);
    for variable in ["XDG_CACHE_HOME", "XDG_DATA_HOME", "npm_config_cache"] {
        command.env_remove(variable);
    }
    command
}

const HELPER: [&str; 4] = ["--exact", "embedded::helper_a_hub_until_it_is_killed", "--ignored", "--nocapture"];

fn helper() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(HELPER);
    command
}

/// Starts the cluster in another process; answers that process and its server's.
fn another_hub(home: &Path, helper: &mut Command) -> (Child, Pid) {
    let mut hub = helper.env("TILLWIRE_TEST_HOME", home).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(hub.stdout.take().unwrap()).lines().map_while(Result::ok);
    let pid = lines.find_map(|line| line.strip_prefix("serves ")?.parse().ok()).expect("another hub's server");
    (hub, Pid::from_raw(pid))
}

#[tokio::test]
#[ignore = "started by other tests, as a process"]
async fn helper_a_hub_until_it_is_killed() {
    let Some(home) = std::env::var_os("TILLWIRE_TEST_HOME").map(PathBuf::from) else { return };
    let source = match std::env::var("TILLWIRE_TEST_SOURCE").as_deref() {
        Ok("npm") => Source::Npm,
        Ok("any") => Source::Any, // By hand, on a machine without PostgreSQL.
        _ => Source::Installed,
    };
    let postgres = embedded::start(Options { source, ..options(&home) }, &|line| eprintln!("{line}")).await.unwrap();
    tillwire::schema::up(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    println!("\nserves {}", postgres.pids()[0]);
    std::future::pending::<()>().await;
}
