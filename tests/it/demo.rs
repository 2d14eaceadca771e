//! The demo, as a process: a shop opens, sells, is killed, goes on, and closes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tillwire::identity::tokens::{Bearer, Realm, Signer};
use tillwire_channels::{MerchantId, Role, StaffId};

use crate::support::hub::{Answer, request};
use crate::support::services::{dir, free_port};

/// Everything that a process is waited for must come within this, also beside a compiler.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// A year of so many baskets.
const BASKETS: usize = 25;

/// A demo that was started. Whatever is left of it works in the run's folder, and ends with the run.
struct Demo {
    process: Child,
    lines: Receiver<String>,
    home: PathBuf,
    hub: SocketAddr,
    token: String,
}

/// Starts `tillwire demo`; the lines that it prints on either stream arrive one by one.
fn spawn(home: &Path, ports: (u16, u16), more: &[&str]) -> (Child, Receiver<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tillwire"));
    command.arg("demo").arg("--data-dir").arg(home).current_dir(home);
    command.args([
        "--listen",
        &format!("127.0.0.1:{}", ports.0),
        "--metrics-listen",
        &format!("127.0.0.1:{}", ports.1),
    ]);
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the demo");
    let (tell, lines) = channel();
    let (out, err) = (process.stdout.take().expect("its output"), process.stderr.take().expect("its errors"));
    for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
        let tell = tell.clone();
        std::thread::spawn(move || {
            BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|it| tell.send(it))
        });
    }
    (process, lines)
}

/// The first line from now on in which something stands.
#[track_caller]
fn line_with(lines: &Receiver<String>, what: &str) -> String {
    let (started, mut seen) = (Instant::now(), Vec::new());
    while let Some(left) = WAIT_MAX.checked_sub(started.elapsed()) {
        match lines.recv_timeout(left) {
            Ok(line) if line.contains(what) => return line,
            Ok(line) => seen.push(line),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    panic!("no line with {what:?}: {seen:#?}");
}

impl Demo {
    /// Starts it, and waits for its link.
    fn start(home: &Path, more: &[&str]) -> Self {
        let (public, metrics) = (free_port(), free_port());
        let baskets = BASKETS.to_string();
        let (process, lines) = spawn(home, (public, metrics), &[&["--baskets", &baskets], more].concat());
        let link = line_with(&lines, "/#token=");
        let (address, token) = link.trim().split_once("/#token=").expect("a link");
        let hub: SocketAddr = address.strip_prefix("http://").expect("a link").parse().expect("an address");
        assert_eq!(hub.port(), public);
        Self { process, lines, home: home.to_owned(), hub, token: token.to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).expect("the demo is alive");
    }

    /// The server that belongs to it.
    fn postgres(&self) -> Pid {
        let file = fs::read_to_string(self.home.join("demo/data/postmaster.pid")).expect("a running PostgreSQL");
        Pid::from_raw(file.lines().next().expect("a line").parse().expect("a number"))
    }

    /// Waits until the process has ended.
    fn ended(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("a child") {
                return status;
            }
            assert!(started.elapsed() < WAIT_MAX, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    async fn get_as(&self, token: &str, path: &str) -> Answer {
        request(self.hub, "GET", path, &[("authorization", &format!("Bearer {token}"))], vec![])
            .await
            .expect("an answer")
    }

    /// The receipts of all sales so far, in the journal's order, as whoever has the link reads them.
    async fn receipts(&self) -> Vec<String> {
        let (mut receipts, mut after) = (Vec::new(), "0-00000000".to_owned());
        loop {
            let page =
                self.get_as(&self.token, &format!("/v1/journal?channels=sales&limit=500&after={after}")).await.ok();
            for event in page["events"].as_array().expect("events") {
                receipts.push(event["event"]["data"]["number"].as_str().expect("a number").to_owned());
            }
            after = page["position"].as_str().expect("a position").to_owned();
            if page["more"] == false {
                return receipts;
            }
        }
    }

    /// Waits until there are at least so many sales.
    async fn sells(&self, count: usize) -> Vec<String> {
        let started = Instant::now();
        loop {
            let receipts = self.receipts().await;
            if receipts.len() >= count {
                return receipts;
            }
            assert!(started.elapsed() < WAIT_MAX, "{} of {count} sales", receipts.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The merchant whose token the link carries.
    fn merchant(&self) -> MerchantId {
        use base64::Engine as _;
        let claims = self.token.split('.').nth(1).expect("claims");
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        serde_json::from_value(claims["merchant"].clone()).expect("a merchant")
    }

    /// A token of the owner's, made with the key that lies in the data directory.
    fn owner(&self) -> String {
        let realm = Realm { issuer: "tillwire-demo".to_owned(), audience: "tillwire-demo".to_owned() };
        let signer = Signer::open(&self.home.join("demo/demo-signing-key.pem"), realm).expect("the demo's key");
        let bearer = Bearer {
            merchant: self.merchant(),
            staff: StaffId::new(),
            role: Role::Owner,
            outlets: vec![],
            register: None,
        };
        signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
    }

    /// `tillwire journal verify`, on its database.
    fn verified(&self) -> String {
        let socket = self.home.join("demo/socket").display().to_string().replace('/', "%2F");
        let output = Command::new(env!("CARGO_BIN_EXE_tillwire"))
            .args(["journal", "verify", "--merchant", &self.merchant().to_string(), "--feed-database-url"])
            .arg(format!("postgres://tillwire_feed@localhost:5432/tillwire?host={socket}"))
            .output()
            .expect("tillwire journal");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// No basket is missing and none comes twice: the receipts count baskets and years, one by one.
fn assert_in_order(receipts: &[String]) {
    for (at, receipt) in receipts.iter().enumerate() {
        let expected = format!("-Y{}-{:06}", at / BASKETS + 1, at % BASKETS + 1);
        assert!(receipt.ends_with(&expected), "{receipt} is number {at}, and not {expected}");
    }
}

fn is_running(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

#[tokio::test]
async fn the_demo_opens_sells_and_closes() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, &["--rate", "20"]);
    let postgres = demo.postgres();

    // Two years and a bit: the second collides with nothing.
    let receipts = demo.sells(2 * BASKETS + 5).await;
    assert_in_order(&receipts);
    line_with(&demo.lines, " sales/s · ");

    // Whoever has the link can look, and that is all.
    let outlets = demo.get_as(&demo.token, "/v1/outlets").await.ok();
    let zones: BTreeSet<&str> =
        outlets["items"].as_array().unwrap().iter().map(|outlet| outlet["time_zone"].as_str().unwrap()).collect();
    assert_eq!(outlets["items"].as_array().unwrap().len(), 5);
    assert_eq!(Vec::from_iter(zones), ["Asia/Jakarta", "Asia/Makassar"]);
    let outlet = outlets["items"][0]["id"].as_str().unwrap();
    let register = outlets["items"][0]["registers"][0]["id"].as_str().unwrap();
    let bearer = format!("Bearer {}", demo.token);
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "1"), ("content-type", "application/json")];
    let level = demo.get_as(&demo.token, &format!("/v1/outlets/{outlet}/stock?limit=1")).await.ok();
    let line = json!({ "variant": level["items"][0]["variant"], "quantity": "1" });
    let sale = json!({ "register": register, "lines": [line], "tenders": [] }).to_string().into_bytes();
    let sales = format!("/v1/outlets/{outlet}/sales");
    request(demo.hub, "POST", &sales, &headers, sale.clone()).await.expect("an answer").refused(403, "denied");
    demo.get_as(&demo.token, "/v1/staff").await.refused(403, "denied");

    // What was sold is what was paid, in more than one way.
    let owner = demo.owner();
    let mut methods = BTreeSet::new();
    for outlet in outlets["items"].as_array().unwrap() {
        let page = demo.get_as(&owner, &format!("/v1/outlets/{}/sales", outlet["id"].as_str().unwrap())).await.ok();
        for sale in page["items"].as_array().unwrap() {
            let sale = demo.get_as(&owner, &format!("/v1/sales/{}", sale["id"].as_str().unwrap())).await.ok();
            methods
                .extend(sale["tenders"].as_array().unwrap().iter().map(|it| it["method"].as_str().unwrap().to_owned()));
        }
    }
    assert!(methods.contains("cash") && methods.contains("qris") && methods.len() >= 3, "{methods:?}");

    // A second one on the same data says who is there already.
    let (mut second, lines) = spawn(&home, (free_port(), free_port()), &[]);
    let line = line_with(&lines, "another Tillwire");
    assert!(line.contains(&format!("(process {})", demo.process.id())), "{line}");
    assert!(!second.wait().unwrap().success());

    demo.signal(Signal::SIGINT);
    line_with(&demo.lines, "Stopping");
    assert!(demo.ended().success());
    assert!(!is_running(postgres));
    assert!(!home.join("demo/data/postmaster.pid").exists(), "PostgreSQL was stopped, and not killed");
}

#[tokio::test]
async fn a_demo_that_was_killed_goes_on_where_it_was() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, &["--rate", "1000"]);
    let postgres = demo.postgres();
    let mut seen = Vec::new();
    for kills in 1..=3 {
        // Flat out, so that something is always under way.
        demo.sells(kills * 30).await;
        demo.signal(Signal::SIGKILL);
        demo.ended();
        demo = Demo::start(&home, &["--rate", "1000"]);
        assert_eq!(demo.postgres(), postgres, "the server that outlived its hub is adopted");
        seen.push(demo.receipts().await.len());
    }
    assert!(seen.is_sorted() && seen[0] >= 30, "{seen:?}");

    // Told to stop while it sells: what is under way is done or not, and not half.
    demo.signal(Signal::SIGINT);
    assert!(demo.ended().success());
    assert!(!is_running(postgres));
    demo = Demo::start(&home, &["--rate", "1000"]);
    let receipts = demo.sells(seen[2] + 30).await;
    assert_in_order(&receipts);
    assert!(demo.verified().contains("every link good"));
    demo.signal(Signal::SIGTERM);
    assert!(demo.ended().success());
}

#[tokio::test]
async fn somebody_else_may_buy_the_shelf_empty() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, &["--rate", "2"]);
    let owner = demo.owner();
    let bearer = format!("Bearer {owner}");
    // Everything that stands on every shelf is written off.
    let outlets = demo.get_as(&owner, "/v1/outlets").await.ok();
    for outlet in outlets["items"].as_array().unwrap() {
        let stock = format!("/v1/outlets/{}/stock", outlet["id"].as_str().unwrap());
        let levels = demo.get_as(&owner, &format!("{stock}?limit=1000")).await.ok();
        for level in levels["items"].as_array().unwrap() {
            let key = level["variant"].as_str().unwrap();
            let headers =
                [("authorization", bearer.as_str()), ("idempotency-key", key), ("content-type", "application/json")];
            // The tills sell on meanwhile: a level that has just gone down further is left at that.
            let line = json!({ "variant": key, "quantity": level["on_hand"] });
            let body = json!({ "reason": "lost", "lines": [line] }).to_string().into_bytes();
            request(demo.hub, "POST", &format!("{stock}/moves"), &headers, body).await.expect("an answer");
        }
    }
    let before = demo.receipts().await.len();
    let receipts = demo.sells(before + 5).await;
    assert_in_order(&receipts);
    demo.signal(Signal::SIGINT);
    assert!(demo.ended().success());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let home = dir("demo");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (mut process, lines) = spawn(&home, (port, free_port()), &[]);
    let line = line_with(&lines, "listening on");
    assert!(line.contains(&port.to_string()) && line.contains("--listen"), "{line}");
    assert!(!process.wait().unwrap().success());
    assert!(!home.join("demo/data/postmaster.pid").exists(), "PostgreSQL was stopped as well");
}
