//! Following a journal in the terminal.

use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::support::process::{Env, TillwireProcess, environment, run};
use super::support::services::dir;
use super::support::services::postgres::Postgres;
use super::support::till::Till;

#[tokio::test]
async fn sales_are_followed_from_now_or_from_a_position() {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 1_000).await;
    let merchant = till.merchant.to_string();

    let mut now = TillwireProcess::spawn(&["tail", "--merchant", &merchant, "--channels", "sales,payments"], &env);
    let beginning = ["tail", "--merchant", &merchant, "--after", "0-00000000", "--json"];
    let mut all = TillwireProcess::spawn(&beginning, &env);
    let lines = |tail: &TillwireProcess| tail.printed().lines().count();
    let before = till.journal().await.len();
    // It follows from wherever the head is when it looks: so we sell until it sees a sale.
    let mut sold = 0;
    while lines(&now) == 0 {
        till.sell(&format!("sale-{sold}")).await.unwrap().created();
        sold += 1;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let last = till.sell("the-last").await.unwrap();
    let number = last.created()["number"].as_str().unwrap().to_owned();
    now.until("the last sale", async |tail| tail.printed().contains(&format!("{number}: 1 line, 7500 IDR (cash)")))
        .await;
    let text = now.printed();
    assert!(text.contains("payment.captured") && text.contains("7500 IDR, cash"), "{text}");
    assert!(!text.contains("stock.changed"), "{text}");
    let outlet = till.outlet.to_string();
    assert!(text.lines().all(|line| line.contains(&outlet[24..])), "{text}");

    let events = before + 3 * (sold + 1);
    all.until("everything", async |tail| lines(tail) == events).await;
    let printed: Vec<Value> = all.printed().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(printed, till.journal().await, "what the change feed says");

    for tail in [&mut now, &mut all] {
        tail.signal(Signal::SIGINT);
        assert_eq!(tail.ended().await.code(), Some(0), "{}", tail.log());
        assert_eq!(tail.log(), "");
    }
    // From inside an entry: its rest comes first.
    let inside = printed[events - 2]["position"].as_str().unwrap();
    let mut rest = TillwireProcess::spawn(&["tail", "--merchant", &merchant, "--after", inside], &env);
    rest.until("the rest", async |tail| lines(tail) == 1).await;
    assert!(rest.printed().contains("roti (roti): -1.000 sale"), "{}", rest.printed());
}

#[tokio::test]
async fn what_cannot_be_followed_is_said() {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    let merchant = till.merchant.to_string();
    let refused = async |after: &str| {
        let outcome = run(&["tail", "--merchant", &merchant, "--after", after], &env).await;
        assert_eq!((outcome.code, outcome.out.as_str()), (Some(1), ""), "{outcome:?}");
        outcome.err
    };
    let diverged = refused("2-00000000").await;
    assert!(diverged.contains("snapshot_required: this journal does not hold that position"), "{diverged}");
    let positions: Vec<String> =
        till.journal().await.iter().map(|it| it["position"].as_str().unwrap().to_owned()).collect();
    database.psql("delete from journal_entries where seq <= 2").await;
    let expired = refused("0-00000000").await;
    let oldest = positions[1].replacen(".1", "", 1);
    assert!(expired.contains("no longer kept") && expired.contains(&format!("--after {oldest}")), "{expired}");

    let nobody = run(&["tail", "--merchant", "00000000-0000-7000-8000-000000000000"], &env).await;
    assert!(nobody.code == Some(1) && nobody.err.contains("there is no merchant"), "{nobody:?}");
    for (flag, value) in [("--after", "1041"), ("--channels", "weather"), ("--merchant", "me")] {
        let outcome = run(&["tail", "--merchant", &merchant, flag, value], &env).await;
        assert!(outcome.code == Some(2) && outcome.err.contains(flag), "{outcome:?}");
    }
}

#[tokio::test]
async fn it_waits_for_a_database_that_is_away() {
    let mut postgres = Postgres::start_own().await;
    tillwire::schema::up(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    let (env, signer) =
        environment(&postgres.url("tillwire_app", "tillwire"), &postgres.url("tillwire_feed", "tillwire"));
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    let merchant = till.merchant.to_string();
    let all = ["tail", "--merchant", &merchant, "--after", "0-00000000"];
    let mut tail = TillwireProcess::spawn(&all, &env);
    tail.until("the first product", async |tail| tail.printed().contains("product.changed")).await;

    postgres.kill_now().await.unwrap();
    tail.says("The database does not answer").await;
    postgres.start_again().await.unwrap();
    tail.says("The database is back.").await;
    hub.ready().await;
    till.sell_at_last("after-the-outage").await;
    tail.until("the sale", async |tail| tail.printed().contains("sale.completed")).await;
    let positions: Vec<String> =
        tail.printed().lines().filter_map(|line| Some(line.split_whitespace().nth(2)?.to_owned())).collect();
    let journal: Vec<String> =
        till.journal().await.iter().map(|it| it["position"].as_str().unwrap().to_owned()).collect();
    assert!(journal.starts_with(&positions), "without a gap: {positions:?} of {journal:?}");
}

#[tokio::test]
async fn a_closed_pipe_ends_it_quietly() {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    // The journal has more events than one; `head` closes the pipe after the first, and no other ever comes.
    let script = r#""$0" tail --merchant "$1" --after 0-00000000 | head -n 1; exit "${PIPESTATUS[0]}""#;
    let mut shell = Command::new("bash");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_tillwire"), &till.merchant.to_string()]);
    shell.envs(Env::from_iter(env)).current_dir(dir("pipe")).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), shell.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}
