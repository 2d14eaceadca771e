//! `docs/operating.md` is executed, and its lists and that of `docs/metrics.md` are compared with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use clap::CommandFactory;
use serde_json::Value;
use tillwire::config::Config;
use tillwire::node::STOP_MAX;
use tillwire::schema;

use super::support::process::{Env, TillwireProcess, environment, shell};
use super::support::services::postgres::{Database, Postgres};
use super::support::services::{RabbitMq, dir};
use super::support::till::Till;
use super::support::vault;

/// What the page names of other programs: `timeout`, `cargo` and the load test.
const FLAGS_OF_OTHERS: [&str; 3] = ["--preserve-status", "--release", "--screens"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/operating.md")).expect("the page")
}

/// The metrics that `docs/metrics.md` explains.
pub fn explained() -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("docs/metrics.md")).expect("the page");
    let names = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

/// Words that begin so, in a text.
pub fn words(text: &str, beginning: &str) -> BTreeSet<String> {
    let part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    text.split(|it| !part(it)).filter(|word| word.starts_with(beginning)).map(str::to_owned).collect()
}

#[tokio::test]
async fn every_example_works() {
    let database = Postgres::shared().await.database(async |url| schema::up(&url).await.unwrap()).await;
    let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    env.insert("TILLWIRE_MIGRATE_DATABASE_URL", database.url("tillwire_migrate"));
    env.insert("TILLWIRE_RELAY_DATABASE_URL", database.url("tillwire_relay"));
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    till.sell("a-sale").await.unwrap().created();
    env.insert("MERCHANT", till.merchant.to_string());

    let page = page();
    let examples: Vec<&str> = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 3);
    let mut printed = String::new();
    for example in examples {
        let done = shell(example, &env, &dir("example")).await;
        assert_eq!(done.code, Some(0), "{example}\n{}", done.err);
        printed += &done.out;
    }
    for line in ["migrations      all", "sale.completed", "every link good"] {
        assert!(printed.contains(line), "no `{line}` in:\n{printed}");
    }
}

#[test]
fn every_metric_is_explained_and_no_other() {
    fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, text);
            } else {
                *text += &fs::read_to_string(&path).expect("a source file");
            }
        }
    }
    let mut code = String::new();
    sources(&root().join("src"), &mut code);
    // In the code a metric's name is the whole string that a macro, or the one function around it, is given.
    let made = ["counter!(", "gauge!(", "histogram!(", " gauge("].iter().flat_map(|make| code.split(make).skip(1));
    let counted: BTreeSet<String> =
        made.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).map(str::to_owned).collect();
    assert!(counted.len() > 30, "{counted:?}");
    assert_eq!(explained(), counted);
}

#[test]
fn every_variable_and_flag_that_is_named_exists() {
    let mut config = Config::command();
    config.build(); // Before that, no command has `--help`.
    let arguments: Vec<_> = config
        .get_subcommands()
        .chain([&config])
        .flat_map(|command| command.get_subcommands().chain([command]))
        .flat_map(|command| command.get_arguments())
        .collect();
    let variables = arguments.iter().filter_map(|argument| argument.get_env()?.to_str());
    let variables: BTreeSet<String> = variables.map(str::to_owned).collect();
    let named = words(&page(), "TILLWIRE_");
    assert!(named.len() >= 3 && named.is_subset(&variables), "{:?}", named.difference(&variables));

    let flags = arguments.iter().filter_map(|argument| argument.get_long()).map(|name| format!("--{name}"));
    let known: BTreeSet<String> = flags.chain(FLAGS_OF_OTHERS.map(str::to_owned)).collect();
    let named = flags_in(&page());
    assert!(FLAGS_OF_OTHERS.iter().all(|flag| named.contains(*flag)), "which of {FLAGS_OF_OTHERS:?} is gone?");
    assert!(named.len() > FLAGS_OF_OTHERS.len() + 3 && named.is_subset(&known), "{:?}", named.difference(&known));
}

/// The flags that a text names.
fn flags_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '-'));
    let is_flag = |word: &&str| word.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic));
    words.filter(is_flag).map(str::to_owned).collect()
}

#[test]
fn what_a_node_may_take_to_stop_is_as_the_page_says() {
    let line = format!("wait {} seconds and the drain", STOP_MAX.as_secs());
    assert!(page().contains(&line), "the page does not say `{line}`");
}

/// The most connections that a node may take as each role of the database, as `tillwire_app`, `tillwire_feed` and
/// `tillwire_relay`: the sum of the pools that it has opened. There is one way to open one, and it says so.
async fn takes(role: &str, env: &Env, database: &Database) -> [u64; 3] {
    let mut node = TillwireProcess::start(&[role], env).await;
    if env.contains_key("AMQP_URL") && role != "gateway" && role != "api" {
        node.says("Opened a connection for locks").await;
    }
    let mut taken = BTreeMap::new();
    for line in node.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if let (Some(role), Some(most)) = (line["role"].as_str(), line["connections_max"].as_u64()) {
            *taken.entry(role.to_owned()).or_default() += most;
        }
    }
    // What it has open is what PostgreSQL says, and no more than that.
    let open = "select usename, count(*) from pg_stat_activity
                where datname = current_database() and application_name = 'tillwire' group by 1 order by 1";
    let open = database.psql(open).await;
    println!("{role} has {}", open.trim().replace('\n', ", "));
    for row in open.trim().lines() {
        let (role, open) = row.split_once('|').expect("two columns");
        let open: u64 = open.parse().expect("a number");
        assert!(taken.get(role).is_some_and(|most| *most >= open), "{open} as {role}, of {taken:?}");
    }
    assert!(open.contains("tillwire_app"), "{open}");
    node.kill().await;
    ["tillwire_app", "tillwire_feed", "tillwire_relay"].map(|role| taken.get(role).copied().unwrap_or_default())
}

#[tokio::test]
async fn a_node_takes_as_many_connections_as_the_page_says() {
    let database = Postgres::shared().await.database(async |url| schema::up(&url).await.unwrap()).await;
    let rabbitmq = RabbitMq::shared().await;
    let (mut bare, _) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    bare.insert("TILLWIRE_LOG", "info,tillwire::journal::pool=debug".to_owned());
    bare.insert("TILLWIRE_LOG_JSON", "true".to_owned());
    let mut works = bare.clone();
    works.insert("TILLWIRE_RELAY_DATABASE_URL", database.url("tillwire_relay"));
    let amqp = ("AMQP_URL", rabbitmq.url(&rabbitmq.vhost().await));
    let keys = ("TILLWIRE_VAULT_KEY_FILE", vault::list(&[&vault::key()]));
    let with = |env: &Env, more: &[&(&'static str, String)]| -> Env {
        env.clone().into_iter().chain(more.iter().map(|it| (*it).clone())).collect()
    };

    // Requests and screens: all that a gateway has.
    let [app, feed, relay] = takes("gateway", &bare, &database).await;
    assert_eq!(relay, 0);
    let besides = async |role: &str, env: &Env| -> [u64; 3] {
        let [all_app, all_feed, relay] = takes(role, env, &database).await;
        [all_app - app, all_feed - feed, relay]
    };
    let api = besides("api", &with(&bare, &[&keys])).await;
    let closed_api = besides("api", &bare).await;
    let worker = besides("worker", &with(&works, &[&amqp, &keys])).await;
    let closed_worker = besides("worker", &with(&works, &[&amqp])).await;
    let lone_worker = besides("worker", &with(&works, &[&keys])).await;
    assert_eq!((api[1], api[2], closed_worker[1..] == worker[1..]), (0, 0, true));
    assert_eq!(lone_worker[..2], worker[..2]);
    assert_eq!(besides("serve", &with(&works, &[&amqp, &keys])).await, worker);
    assert_eq!(besides("serve", &with(&bare, &[&keys])).await, api);

    let page = page();
    for row in [
        format!(
            "| every node, for requests and screens | `TILLWIRE_DATABASE_CONNECTIONS`, {app} | a quarter as many, {feed} at least | |"
        ),
        format!("| and `api` | {}; {} without a vault key | | |", api[0], closed_api[0]),
        format!(
            "| and `worker` | {}; {} without a vault key | {} | {}; {} without RabbitMQ |",
            worker[0], closed_worker[0], worker[1], worker[2], lone_worker[2]
        ),
    ] {
        assert!(page.contains(&row), "the page does not say `{row}`");
    }
}
