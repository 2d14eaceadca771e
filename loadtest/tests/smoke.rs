//! The tool itself, in small: every part of it runs, nothing is lost, and the results have the form that is promised.
//! Never how fast.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// So many runs have begun: each writes a file of its own, side by side with others.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Runs a scenario and answers its results.
fn measured(scenario: &str, arguments: &[&str]) -> Vec<Value> {
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}.json", std::process::id()));
    let mut tool = Command::new(env!("CARGO_BIN_EXE_tillwire-loadtest"));
    let output = tool.arg(scenario).arg("--json").arg(&json).args(["--seconds", "1"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert!(report["machine"]["cores"].as_u64() > Some(0) && report["versions"]["tillwire"].is_string(), "{report}");
    let results = report["results"].as_array().unwrap().clone();
    for result in &results {
        assert_eq!(result["scenario"], scenario);
        for count in ["lost", "repeated", "reordered", "cut"] {
            assert_eq!(result[count], 0, "{count}: {result}");
        }
        for number in ["screens", "messages", "messages_per_s"] {
            assert!(result[number].as_f64() > Some(0.0), "{number}: {result}");
        }
        assert!(result["rss_bytes_per_screen"].is_number() && result.get("server_cpu_us_per_message").is_some());
        for quantile in ["p50", "p99", "p999", "max"] {
            assert!(result["latency_us"][quantile].as_u64() > Some(0), "{quantile}: {result}");
        }
    }
    results
}

fn subjects(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| result["subject"].as_str().unwrap()).collect()
}

#[test]
fn everyone_hears_everything_flat_out_and_paced() {
    let floors = ["--screens", "50", "--subjects", "bare-send,bare-coalesce"];
    for scenario in ["fanout", "paced"] {
        let results = measured(scenario, &floors);
        assert_eq!(subjects(&results), ["bare-send", "bare-coalesce"]);
        let messages = results[0]["messages"].as_u64().unwrap();
        assert_eq!(messages % 50, 0, "each of the screens heard as many");
    }
}

#[test]
fn screens_that_come_and_go_miss_nothing_while_they_are_there() {
    let results = measured("churn", &["--screens", "40", "--subjects", "bare-send"]);
    assert!(results[0]["churned"].as_u64() > Some(0), "{}", results[0]);
}

/// The hub that cargo has compiled with the workspace's tests. Compiled by the tool it would take other features of the
/// same crates, and minutes; that is for whoever runs these tests alone.
fn hub() -> Option<String> {
    let beside = Path::new(env!("CARGO_BIN_EXE_tillwire-loadtest")).with_file_name("tillwire");
    beside.exists().then(|| beside.display().to_string())
}

#[test]
fn the_hub_brings_its_screens_what_they_missed() {
    let hub = hub();
    let named = hub.as_ref().map_or(vec![], |hub| vec!["--tillwire", hub]);
    let results = measured("resume-storm", &[&["--screens", "20", "--missed", "5"], &*named].concat());
    assert_eq!(subjects(&results), ["tillwire"]);
    assert_eq!(results[0]["messages"], 20 * 5);
    assert_eq!(results[0]["turned_away"], 0);
    assert!(results[0]["let_in_per_s"].as_u64() > Some(0), "{}", results[0]);
}

#[test]
fn a_storm_that_is_too_much_at_once_comes_back_later_and_misses_nothing() {
    let hub = hub();
    let named = hub.as_ref().map_or(vec![], |hub| vec!["--tillwire", hub]);
    let pace = ["--screens", "20", "--missed", "5", "--handshakes-per-second", "4"];
    let results = measured("resume-storm", &[&pace, &*named].concat());
    assert_eq!(results[0]["messages"], 20 * 5);
    assert!(results[0]["turned_away"].as_u64() > Some(0), "{}", results[0]);
}

#[test]
fn tills_sell_by_rest_and_pgbench_repeats_their_sales() {
    let hub = hub();
    let named = hub.as_ref().map_or(vec![], |hub| vec!["--tillwire", hub]);
    let results = measured("sales", &[&["--tills", "2"], &*named].concat());
    assert_eq!(subjects(&results), ["pgbench", "tillwire"]);
}

#[test]
fn a_backlog_is_relayed_and_what_comes_later_too() {
    let hub = hub();
    let named = hub.as_ref().map_or(vec![], |hub| vec!["--tillwire", hub]);
    let few = ["--entries", "300", "--merchants", "3", "--sales-per-second", "20"];
    let results = measured("relay", &[&few, &*named].concat());
    assert_eq!(subjects(&results), ["bare-publish", "tillwire"]);
    assert!(results.iter().all(|it| it["messages"] == 300 && it["latency_us"]["p99"].as_u64() > Some(0)));
}

#[test]
fn every_customer_who_pays_is_seen_at_the_till_and_by_a_receiver_alone() {
    let beside = |name: &str| Path::new(env!("CARGO_BIN_EXE_tillwire-loadtest")).with_file_name(name);
    let named = [("--tillwire", beside("tillwire")), ("--simulators", beside("tillwire-simulators"))];
    let named = named.iter().filter(|(_, path)| path.exists());
    let named: Vec<String> = named.flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]).collect();
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    // One in each shop, so that none can overtake another.
    let few = ["--payments-per-second", "6", "--merchants", "6"];
    let results = measured("webhook-to-screen", &[&few, &*named].concat());
    assert_eq!(subjects(&results), ["bare-webhook", "tillwire"]);
    for result in &results {
        assert_eq!((&result["messages"], &result["payments"]), (&6.into(), &6.into()), "{result}");
        assert!(result["webhooks_not_taken_at_once"].is_u64(), "{result}");
        assert!(result["webhook_answered_us"]["max"].as_u64() > Some(0), "{result}");
    }
    assert_eq!((&results[0]["screens"], &results[1]["screens"]), (&1.into(), &6.into()));
}

#[test]
fn what_is_measured_again_and_again_is_told_in_a_table() {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_tillwire-loadtest"));
    // As fast as it goes: the CPU of a few messages is less than what the kernel counts in.
    tool.args(["fanout", "--runs", "2", "--seconds", "1", "--screens", "5", "--subjects", "bare-send"]);
    let output = tool.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = told.lines().filter(|line| line.starts_with('|')).collect();
    let heads = "| | fanout: messages/s | fanout: µs CPU a message | fanout: p99 ms |";
    assert_eq!(rows[..2], [heads, "|---|---:|---:|---:|"]);
    let cells: Vec<&str> = rows[2].split('|').map(str::trim).collect();
    assert_eq!((rows.len(), cells[1]), (3, "`bare-send`"));
    assert!(cells[2..5].iter().all(|cell| cell.parse::<f64>().is_ok_and(|figure| figure > 0.0)), "{told}");
}

#[test]
fn a_scenario_that_nobody_knows_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_tillwire-loadtest")).arg("nothing").output().unwrap();
    assert!(!output.status.success());
}
