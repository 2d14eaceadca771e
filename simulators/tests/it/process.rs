//! The binary: it says where it is, and ends when it is told to.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const STARTS_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_process_says_where_it_is_and_ends_when_it_is_told_to() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_tillwire-simulators"))
        .args(["--midtrans-listen", "127.0.0.1:0", "--xendit-listen", "127.0.0.1:0", "--speed", "0", "--seed", "3"])
        .args(["--start", "2026-01-14T03:05:02Z", "--shop-name", "Kopi Senja", "--midtrans-merchant-id", "G42"])
        .args(["--midtrans-webhook-url", "http://127.0.0.1:9/hook"])
        .env("TILLWIRE_SIMULATORS_MIDTRANS_SERVER_KEY", "SB-Mid-server-of-the-environment")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary");
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let mut said = Vec::new();
    for _ in 0..3 {
        let line = timeout(STARTS_MAX, lines.next_line()).await.expect("in time").expect("a line").expect("a line");
        let (name, url) = line.split_once(' ').expect("a name and a URL");
        said.push((name.to_owned(), url.to_owned()));
    }
    assert_eq!(said.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["midtrans", "xendit", "bank"]);
    let client = reqwest::Client::new();
    let get = async |url: String| client.get(url).send().await.expect("an answer");
    assert_eq!(get(said[2].1.clone()).await.status(), 200);
    let clock = get(format!("{}/_sim/clock", said[1].1)).await.text().await.expect("a clock");
    assert_eq!(clock, r#"{"now":"2026-01-14T03:05:02.000Z","speed":0.0}"#);
    let charged = client
        .post(format!("{}/v2/charge", said[0].1))
        .basic_auth("SB-Mid-server-of-the-environment", Some(""))
        .body(crate::support::qris("A-1", 1_000).to_string())
        .send()
        .await
        .expect("an answer");
    let text = charged.text().await.expect("an answer");
    assert!(text.contains("KOPI SENJA") && text.contains("\"merchant_id\":\"G42\""), "{text}");

    let id = process.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill").success());
    let ended = timeout(STARTS_MAX, process.wait()).await.expect("in time").expect("an end");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn the_process_goes_on_though_nobody_reads_what_it_says() {
    // An address of this process's own: the only way to know where it is.
    let id = std::process::id();
    let home = format!("127.77.{}.{}", id >> 8 & 0xff, id & 0xff);
    let mut process = Command::new(env!("CARGO_BIN_EXE_tillwire-simulators"))
        .args(["--midtrans-listen", &format!("{home}:7201"), "--xendit-listen", &format!("{home}:7202")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary");
    drop(process.stdout.take());
    let begun = Instant::now();
    let clock = loop {
        assert_eq!(process.try_wait().expect("a state"), None, "it has ended");
        assert!(begun.elapsed() < STARTS_MAX, "nobody answers");
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Ok(answer) = reqwest::get(format!("http://{home}:7202/_sim/clock")).await {
            break answer;
        }
    };
    assert_eq!(clock.status(), 200);
    // It says where it is when both doors are open already.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(process.try_wait().expect("a state"), None, "it has ended");
}
