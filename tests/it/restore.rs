//! An older backup is put back: nobody is left with a history that is no longer true.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tillwire::schema;

use super::support::process::{TillwireProcess, environment};
use super::support::screen::Screen;
use super::support::services::postgres::Postgres;
use super::support::till::Till;

#[tokio::test]
async fn g3_whoever_has_seen_what_a_restored_backup_never_knew_is_told() {
    let mut postgres = Postgres::start_own().await;
    schema::up(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    let (env, signer) =
        environment(&postgres.url("tillwire_app", "tillwire"), &postgres.url("tillwire_feed", "tillwire"));
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 100).await;
    let sell = async |key: String| till.sell_at_last(&key).await.position();
    let kept = sell("before-the-backup".into()).await;

    let (data, backup) = (postgres.dir().join("data"), postgres.dir().join("backup"));
    postgres.stop().await.unwrap();
    copy(&data, &backup);
    postgres.start_again().await.unwrap();
    hub.ready().await;

    let auth = |after: &str| json!({ "token": till.token, "channels": ["sales"], "after": after });
    let mut live = Screen::enters(hub.public, auth(&kept)).await;
    live.catches_up().await;
    let mut tail = TillwireProcess::spawn(&["tail", "--merchant", &till.merchant.to_string(), "--after", &kept], &env);
    let mut lost = Vec::new();
    for n in 0..3 {
        lost.push(sell(format!("lost-{n}")).await);
        live.hears("sale.completed").await;
    }
    tail.until("the last of them", async |tail| tail.printed().contains(lost[2].split('-').next_back().unwrap())).await;

    postgres.stop().await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    postgres.start_again().await.unwrap();
    hub.ready().await;
    let after = async |position: &str| till.get(&format!("/v1/journal?after={position}")).await;
    // A position beyond the head that is there now …
    assert_eq!(after(&lost[2]).await.refused(410, "snapshot_required")["snapshot"]["reason"], "diverged");
    // … and ones that are there again, with another past.
    let mut anew = Vec::new();
    for n in 0..5 {
        anew.push(sell(format!("anew-{n}")).await);
    }
    for position in &lost {
        assert_eq!(after(position).await.refused(410, "snapshot_required")["snapshot"]["reason"], "diverged");
    }
    let missed: Vec<String> = after(&kept).await.ok()["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["event"]["type"] == "sale.completed")
        .map(|it| it["position"].as_str().unwrap().replacen(".1-", "-", 1))
        .collect();
    assert_eq!(missed, anew, "what was there before the backup is a good place to go on from");

    // A screen that was live all the while, one that comes back, and whoever watches in the terminal.
    assert_eq!(live.hears_next("snapshot_required").await.body["reason"], "diverged");
    let mut back = Screen::enters(hub.public, auth(&lost[1])).await;
    assert_eq!(back.hears_next("snapshot_required").await.body["reason"], "diverged");
    let mut good = Screen::enters(hub.public, auth(&kept)).await;
    let replayed = good.catches_up().await;
    assert_eq!(replayed.iter().filter(|heard| heard.name == "sale.completed").count(), anew.len());
    assert_eq!(tail.ended().await.code(), Some(1));
    assert!(tail.log().contains("snapshot_required"), "{}", tail.log());
}

/// As file backups do: with owners, modes and times.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(copied.success());
}
