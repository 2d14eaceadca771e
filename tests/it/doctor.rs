//! The doctor finds what is wrong with a deployment, one thing at a time, and says what to do.

use serde_json::Value;
use tillwire::identity::tokens::Signer;
use tokio::net::TcpListener;

use super::support::process::{Env, Outcome, TillwireProcess, environment, run};
use super::support::services::postgres::{Database, Postgres};
use super::support::services::{RabbitMq, Redis, RedisCluster, dir, free_port};
use super::support::till::Till;

async fn site() -> (Database, Env, Signer) {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    env.insert("TILLWIRE_MIGRATE_DATABASE_URL", database.url("tillwire_migrate"));
    (database, env, signer)
}

/// What the doctor says of one check: its verdicts, and all its words.
async fn says(env: &Env, check: &str) -> (Vec<String>, String) {
    let outcome = run(&["doctor", "--json"], env).await;
    let report: Value = serde_json::from_str(&outcome.out).unwrap_or_else(|_| panic!("{outcome:?}"));
    let checks = report["checks"].as_array().unwrap();
    let found: Vec<&Value> = checks.iter().filter(|it| it["check"] == check).collect();
    let verdicts: Vec<String> = found.iter().map(|it| it["verdict"].as_str().unwrap().to_owned()).collect();
    let wrong = checks.iter().any(|it| it["verdict"] == "wrong");
    assert_eq!((outcome.code, report["good"].as_bool()), (Some(i32::from(wrong)), Some(!wrong)), "{outcome:?}");
    (verdicts, format!("{found:?}"))
}

#[track_caller]
fn is_wrong((verdicts, words): (Vec<String>, String), about: &str) {
    assert!(verdicts.iter().any(|it| it == "wrong"), "not wrong: {words}");
    assert!(words.contains(about), "nothing about `{about}`: {words}");
}

#[tokio::test]
async fn a_healthy_deployment_is_told_so_in_lines() {
    let (database, env, _) = site().await;
    let Outcome { code, out, err } = run(&["doctor"], &env).await;
    assert_eq!(code, Some(0), "{out}{err}");
    for check in [
        "database",
        "feed",
        "owner",
        "clock",
        "walls",
        "feed_walls",
        "partitions",
        "migrations",
        "buses",
        "token_keys",
        "push",
        "vault",
        "listen",
        "metrics_listen",
        "node_address",
        "descriptors",
    ] {
        let lines = out.lines().filter(|line| line.split_whitespace().nth(1) == Some(check)).count();
        assert_eq!(lines, 1, "{check} in:\n{out}");
    }
    assert!(!out.contains("WRONG"), "{out}");
    // Without the owner's address it says what it could not look at.
    let mut without = env.clone();
    without.remove("TILLWIRE_MIGRATE_DATABASE_URL");
    assert_eq!(says(&without, "migrations").await.0, ["warning"]);
    drop(database);
}

#[tokio::test]
async fn a_database_that_is_not_as_it_should_be_is_found_out() {
    let (database, env, signer) = site().await;
    let sql = async |sql: &str| drop(database.psql(sql).await);
    let is_good = async |check: &str| assert_eq!(says(&env, check).await.0, ["good"], "{check}");

    sql("alter table sales no force row level security").await;
    is_wrong(says(&env, "walls").await, "not forced on sales");
    sql("alter table sales force row level security").await;
    sql("create policy all_of_them on merchants to tillwire_app using (true)").await;
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    Till::open(hub.public, &signer, 1).await;
    is_wrong(says(&env, "walls").await, "1 merchants are seen by whoever names none");
    sql("drop policy all_of_them on merchants").await;

    let this_month = database.psql("select 'journal_entries_' || to_char(now() at time zone 'utc', 'YYYY_MM')").await;
    sql(&format!("grant select on {this_month} to tillwire_app")).await;
    is_wrong(says(&env, "walls").await, &this_month);
    sql(&format!("revoke all on {this_month} from tillwire_app")).await;
    is_good("walls").await;

    sql("grant select on sales to tillwire_feed").await;
    is_wrong(says(&env, "feed_walls").await, "grants on sales");
    sql("revoke all on sales from tillwire_feed; revoke select on journal_heads from tillwire_feed").await;
    is_wrong(says(&env, "feed_walls").await, "cannot read the journal");
    sql("grant select on journal_heads to tillwire_feed").await;
    is_good("feed_walls").await;

    sql("update _sqlx_migrations set success = false where version = 2").await;
    is_wrong(says(&env, "migrations").await, "0002 failed half-way");
    sql("update _sqlx_migrations set success = true; insert into _sqlx_migrations
         select 9999, 'of next year', now(), true, checksum, 1 from _sqlx_migrations where version = 1")
    .await;
    is_wrong(says(&env, "migrations").await, "9999 is unknown");
    sql("delete from _sqlx_migrations where version in (3, 9999)").await;
    is_wrong(says(&env, "migrations").await, "not applied: 0003");

    hub.kill().await; // Or it would make the partition again.
    let next_month = "select 'journal_entries_' || to_char(now() at time zone 'utc' + interval '1 month', 'YYYY_MM')";
    let next_month = database.psql(next_month).await;
    sql(&format!("drop table {next_month}")).await;
    is_wrong(says(&env, "partitions").await, &next_month);
}

#[tokio::test]
async fn a_wrong_way_in_is_found_out_and_no_secret_told() {
    let (database, env, _) = site().await;
    let with = |name: &'static str, value: &str| {
        let mut env = env.clone();
        env.insert(name, value.to_owned());
        env
    };
    let app = "TILLWIRE_DATABASE_URL";
    is_wrong(says(&with(app, &database.url("postgres")), "database").await, "superuser");
    is_wrong(says(&with(app, &database.url("tillwire_relay")), "database").await, "for whom there are no walls");
    is_wrong(says(&with("TILLWIRE_FEED_DATABASE_URL", &database.url("tillwire_app")), "feed").await, "tillwire_feed");
    let relay = "TILLWIRE_RELAY_DATABASE_URL";
    is_wrong(says(&with(relay, &database.url("tillwire_app")), "relay").await, "tillwire_relay");
    let empty = Postgres::shared().await.url("tillwire_app", "tillwire");
    is_wrong(says(&with(app, &empty), "walls").await, "tillwire migrate");
    is_wrong(says(&with(app, &empty), "one_database").await, "two different databases");
    let nowhere = format!("postgres://tillwire_app:kenari@127.0.0.1:{}/tillwire", free_port());
    is_wrong(says(&with(app, &nowhere), "database").await, "Is it running?");
    let unknown = Postgres::shared().await.url("tillwire_app", "no_such_database");
    is_wrong(says(&with(app, &unknown), "database").await, "Create the database");
    is_wrong(says(&with(app, "http://kenari"), "database").await, "of the form postgres://");

    let port = Postgres::shared().await.tcp_port().unwrap();
    let guessed = database.url_through(port, "tillwire_app").replace(":tillwire@", ":kenari@");
    is_wrong(says(&with(app, &guessed), "database").await, "Is the password");
    for url in [&nowhere, &guessed] {
        for arguments in [&["doctor"][..], &["doctor", "--json"], &["doctor", "--help"]] {
            let Outcome { out, err, .. } = run(arguments, &with(app, url)).await;
            assert!(!out.contains("kenari") && !err.contains("kenari"), "{out}{err}");
        }
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_keeps_nobody_waiting() {
    let mut postgres = Postgres::start_own().await;
    tillwire::schema::up(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    let (env, _) = environment(&postgres.url("tillwire_app", "tillwire"), &postgres.url("tillwire_feed", "tillwire"));
    postgres.pause();
    is_wrong(says(&env, "database").await, "no answer within");
    postgres.resume();
    assert_eq!(says(&env, "database").await.0, ["good"]);

    // A standby answers, but is not the truth.
    postgres.stop().await.unwrap();
    let signal = postgres.dir().join("data/standby.signal");
    std::fs::write(&signal, "").unwrap();
    postgres.start_again().await.unwrap();
    is_wrong(says(&env, "database").await, "a standby");
    is_wrong(says(&env, "feed").await, "a standby");
}

#[tokio::test]
async fn brokers_are_talked_to() {
    let (_database, mut env, _) = site().await;
    let (redis, rabbitmq) = tokio::join!(Redis::shared(), RabbitMq::shared());
    let amqp = format!("amqp://guest:guest@127.0.0.1:{}/{}", rabbitmq.port(), rabbitmq.vhost().await);
    env.insert("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port));
    env.insert("AMQP_URL", amqp.clone());
    for check in ["redis", "rabbitmq"] {
        let (verdicts, words) = says(&env, check).await;
        assert!(verdicts == ["good"] && words.contains("came back"), "{words}");
    }
    env.insert("AMQP_URL", amqp.replace("guest:guest", "guest:kenari"));
    env.insert("REDIS_URL", format!("redis://:kenari@127.0.0.1:{}", free_port()));
    is_wrong(says(&env, "rabbitmq").await, "--amqp-url says where");
    is_wrong(says(&env, "redis").await, "--redis-url says where");
    let Outcome { out, err, .. } = run(&["doctor"], &env).await;
    assert!(!out.contains("kenari") && !err.contains("kenari"), "{out}{err}");
}

#[tokio::test]
async fn each_node_of_a_cluster_is_talked_to() {
    let (_database, mut env, _) = site().await;
    let mut cluster = RedisCluster::start().await;
    env.insert("REDIS_URL", cluster.nodes[0].url());
    let (verdicts, words) = says(&env, "redis").await;
    assert!(verdicts == ["warning"] && words.contains("--redis-cluster"), "{words}");
    env.insert("TILLWIRE_REDIS_CLUSTER", "true".to_owned());
    // The doctor waits for five seconds, which a busy machine may need for a cluster that has just been made.
    let mut said = says(&env, "redis").await;
    for _ in 0..5 {
        if said.0 != ["good"] {
            said = says(&env, "redis").await;
        }
    }
    let (verdicts, words) = said;
    assert!(verdicts == ["good"] && words.contains("from each of 3 masters"), "{words}");
    cluster.nodes[2].kill();
    is_wrong(says(&env, "redis").await, &format!("at the master 127.0.0.1:{}", cluster.nodes[2].port));
    env.insert("TILLWIRE_REDIS_CLUSTER", "false".to_owned());
    env.insert("REDIS_URL", cluster.urls());
    is_wrong(says(&env, "redis").await, "say so with --redis-cluster");
    env.insert("TILLWIRE_REDIS_CLUSTER", "true".to_owned());
    env.insert("REDIS_URL", Redis::shared().await.url());
    is_wrong(says(&env, "redis").await, "cluster support disabled");

    let rabbitmq = RabbitMq::shared().await;
    let vhost = rabbitmq.vhost().await;
    let nowhere = format!("amqp://guest:kenari@127.0.0.1:{}/{vhost}", free_port());
    env.insert("AMQP_URL", format!("{nowhere},{}", rabbitmq.url(&vhost)));
    let (verdicts, words) = says(&env, "rabbitmq").await;
    assert!(verdicts == ["warning"] && words.contains("came back"), "{words}");
    assert!(words.contains(nowhere.rsplit(['@', '/']).nth(1).unwrap()) && !words.contains("kenari"), "{words}");
    env.insert("AMQP_URL", format!("{nowhere},{nowhere}"));
    is_wrong(says(&env, "rabbitmq").await, "--amqp-url says where");
}

#[tokio::test]
async fn ports_keys_and_descriptors_are_looked_at() {
    let (_database, env, _) = site().await;
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let (verdicts, words) = says(&env, "listen").await;
    assert!(verdicts == ["good"] && words.contains("a tillwire that is running"), "{words}");
    assert!(says(&env, "metrics_listen").await.1.contains("a tillwire that is running"));
    hub.kill().await;
    let stranger = TcpListener::bind(hub.public).await.unwrap();
    is_wrong(says(&env, "listen").await, "taken by another program");
    drop(stranger);

    let (verdicts, words) = says(&env, "node_address").await;
    assert!(verdicts == ["good"] && words.contains(&env["TILLWIRE_LISTEN"]), "{words}");
    let mut elsewhere = env.clone();
    elsewhere.insert("TILLWIRE_NODE_ADDRESS", "10.0.0.7:8080".to_owned());
    assert!(says(&elsewhere, "node_address").await.1.contains("10.0.0.7:8080"));

    let mut keyless = env.clone();
    keyless.insert("TILLWIRE_TOKEN_KEYS", dir("keys").join("none.json").display().to_string());
    is_wrong(says(&keyless, "token_keys").await, "tillwire token new-key");

    let mut mute = env.clone();
    mute.insert("TILLWIRE_FCM_CREDENTIALS", keyless["TILLWIRE_TOKEN_KEYS"].clone());
    is_wrong(says(&mute, "push").await, "none.json");
}
