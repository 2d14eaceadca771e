//! The private PostgreSQL: whatever happens to its hub, the next one finds its rows.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use tillwire::embedded::{self, Durability, Options, Postgres, Source};

use crate::support::services;

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
    use sqlx::Connection as _;
    let mut app = sqlx::PgConnection::connect(&postgres.url("tillwire_app", "tillwire")).await.unwrap();
    let refused = sqlx::raw_sql("create table loot (id int)").execute(&mut app).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
    app.close().await.unwrap();
    let mut migrate = sqlx::PgConnection::connect(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
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
    let (mut hub, pid) = another_hub(&home, std::os::unix::process::CommandExt::process_group(&mut helper(), 0));
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
    println!("\nserves {}", postgres.pids()[0]);
    std::future::pending::<()>().await;
}
