//! The demo, as a process: a shop opens, sells, is killed, goes on, and closes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tillwire::identity::tokens::{Realm, Signer};
use tillwire_channels::{MerchantId, PaymentId, Role, StaffId};
use tillwire_simulators::{Options, Simulators};
use tokio::time::{sleep, timeout};

use crate::support::caller::{Caller, bearer};
use crate::support::hub::{Answer, request};
use crate::support::process::{Env, TillwireProcess, loopback, run};
use crate::support::services::{dir, free_port};

/// A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A year of so many baskets.
const BASKETS: usize = 25;

/// A demo whose shop is open. What it leaves behind works in the run's folder, and ends with the run.
struct Demo {
    process: TillwireProcess,
    home: PathBuf,
    token: String,
}

fn environment(home: &Path) -> Env {
    Env::from([
        ("TILLWIRE_DATA_DIR", home.display().to_string()),
        ("TILLWIRE_LISTEN", loopback(free_port()).to_string()),
        ("TILLWIRE_METRICS_LISTEN", loopback(free_port()).to_string()),
        ("TILLWIRE_DEMO_BASKETS", BASKETS.to_string()),
    ])
}

impl Demo {
    /// Starts it, and waits for its link.
    async fn start(home: &Path, rate: &str) -> Self {
        Self::start_with(home, rate, Env::new()).await
    }

    /// The same with more in its environment.
    async fn start_with(home: &Path, rate: &str, more: Env) -> Self {
        let mut env = environment(home);
        env.extend(more);
        let mut process = TillwireProcess::spawn(&["demo", "--rate", rate], &env);
        process.until("a link", async |demo| demo.printed().contains("next one comes in time")).await;
        let printed = process.printed();
        let link = printed.lines().find(|line| line.contains("/#token=")).expect("a link");
        let (address, token) = link.trim().split_once("/#token=").expect("a token in the fragment");
        assert_eq!(address, format!("http://{}", process.public));
        Self { token: token.to_owned(), home: home.to_owned(), process }
    }

    /// The server that belongs to it.
    fn postgres(&self) -> Pid {
        let file = fs::read_to_string(self.home.join("demo/data/postmaster.pid")).expect("a running PostgreSQL");
        Pid::from_raw(file.lines().next().expect("a line").parse().expect("a number"))
    }

    /// Tells it to stop, and waits until it has.
    async fn stops(&mut self, signal: Signal) {
        let postgres = self.postgres();
        self.process.signal(signal);
        assert!(self.process.ended().await.success(), "{}", self.process.log());
        assert!(self.process.printed().contains("Stopping"));
        assert!(!is_running(postgres));
        // It was stopped, and not killed.
        assert!(!self.home.join("demo/data/postmaster.pid").exists());
    }

    /// Whoever has this token.
    fn caller<'a>(&self, token: &'a str) -> Caller<'a> {
        Caller { address: self.process.public, token }
    }

    async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.caller(token).get(path).await.expect("an answer")
    }

    async fn post_as(&self, token: &str, path: &str, key: &str, body: Value) -> Answer {
        self.caller(token).post(key, path, body.to_string().into_bytes()).await.expect("an answer")
    }

    /// The receipts of all sales so far, in the journal's order, as whoever has the link reads them.
    async fn receipts(&self) -> Vec<String> {
        let sales = self.caller(&self.token).journal("channels=sales&limit=500").await;
        sales.iter().map(|it| it["event"]["data"]["number"].as_str().expect("a number").to_owned()).collect()
    }

    /// Waits until there are at least so many sales.
    async fn sells(&self, count: usize) -> Vec<String> {
        let waited_for = async {
            loop {
                let receipts = self.receipts().await;
                if receipts.len() >= count {
                    return receipts;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        match timeout(PATIENCE, waited_for).await {
            Ok(receipts) => receipts,
            Err(_) => panic!("not {count} sales:\n{}\n{}", self.process.printed(), self.process.log()),
        }
    }

    /// The merchant whose token the link carries.
    fn merchant(&self) -> MerchantId {
        serde_json::from_value(claims(&self.token)["merchant"].clone()).expect("a merchant")
    }

    /// The token of the link to the till, and the link to the bank.
    fn till_and_bank(&self) -> (String, String) {
        let printed = self.process.printed();
        let start = format!("http://{}/kasir#token=", self.process.public);
        let mut lines = printed.lines().map(str::trim);
        let till = lines.find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no till: {printed}"));
        (till.to_owned(), lines.next().expect("the bank's page").to_owned())
    }

    /// The key that its secrets are sealed with, which nobody else may read.
    fn vault_key(&self) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.home.join("demo/demo-vault.key");
        assert_eq!(fs::metadata(&path).expect("a vault key").permissions().mode() & 0o777, 0o600);
        fs::read_to_string(path).expect("a vault key")
    }

    /// A token of the owner's, made with the key that lies in the data directory.
    fn owner(&self) -> String {
        let realm = Realm { issuer: "tillwire-demo".to_owned(), audience: "tillwire-demo".to_owned() };
        let signer = Signer::open(&self.home.join("demo/demo-signing-key.pem"), realm).expect("the demo's key");
        let owner = bearer(self.merchant(), StaffId::new(), Role::Owner);
        signer.mint(&owner, Duration::from_secs(600)).expect("a token")
    }

    /// What `tillwire journal verify` says of its database.
    async fn verified(&self) -> String {
        let socket = self.home.join("demo/socket").display().to_string().replace('/', "%2F");
        let url = format!("postgres://tillwire_feed@localhost:5432/tillwire?host={socket}");
        let env = Env::from([("TILLWIRE_FEED_DATABASE_URL", url)]);
        let outcome = run(&["journal", "verify", "--merchant", &self.merchant().to_string()], &env).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.out
    }
}

/// No basket is missing and none comes twice: the receipts count baskets and years, one by one.
fn assert_in_order(receipts: &[String]) {
    for (at, receipt) in receipts.iter().enumerate() {
        let expected = format!("-Y{}-{:06}", at / BASKETS + 1, at % BASKETS + 1);
        assert!(receipt.ends_with(&expected), "{receipt} is number {at}, and not {expected}");
    }
}

/// What a token says.
fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let claims = token.split('.').nth(1).expect("claims");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
    serde_json::from_slice(&claims).expect("JSON")
}

fn is_running(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok()
}

#[tokio::test]
async fn the_demo_opens_sells_and_closes() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, "20").await;

    // Two years and a bit: the second collides with nothing.
    let receipts = demo.sells(2 * BASKETS + 5).await;
    assert_in_order(&receipts);
    demo.process.until("progress", async |demo| demo.printed().contains(" sales/s · ")).await;

    // Whoever has the link can look, and that is all.
    let outlets = demo.get_as(&demo.token, "/v1/outlets").await.ok();
    let zones: BTreeSet<&str> =
        outlets["items"].as_array().unwrap().iter().map(|outlet| outlet["time_zone"].as_str().unwrap()).collect();
    assert_eq!(outlets["items"].as_array().unwrap().len(), 5);
    assert_eq!(Vec::from_iter(zones), ["Asia/Jakarta", "Asia/Makassar"]);
    let outlet = outlets["items"][0]["id"].as_str().unwrap();
    let register = outlets["items"][0]["registers"][0]["id"].as_str().unwrap();
    let level = demo.get_as(&demo.token, &format!("/v1/outlets/{outlet}/stock?limit=1")).await.ok();
    let line = json!({ "variant": level["items"][0]["variant"], "quantity": "1" });
    let sale = json!({ "register": register, "lines": [line], "tenders": [] });
    demo.post_as(&demo.token, &format!("/v1/outlets/{outlet}/sales"), "1", sale).await.refused(403, "denied");
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
    let second = run(&["demo"], &environment(&home)).await;
    assert_eq!(second.code, Some(1));
    assert!(second.err.contains(&format!("another Tillwire (process {})", demo.process.pid())), "{second:?}");

    demo.stops(Signal::SIGINT).await;
}

#[tokio::test]
async fn a_demo_that_was_killed_goes_on_where_it_was() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, "1000").await;
    let (postgres, vault_key) = (demo.postgres(), demo.vault_key());
    // What is sealed opens after each of its deaths.
    let owner = demo.owner();
    let body = json!({ "url": "https://hooks.example/", "events": ["alert.raised"] });
    let webhook = demo.post_as(&owner, "/v1/webhooks", "1", body).await.created();
    let secret = format!("/v1/webhooks/{}/secret", webhook["id"].as_str().unwrap());
    let kept = demo.get_as(&owner, &secret).await.ok();
    let mut seen = Vec::new();
    for kills in 1..=3 {
        // Flat out, so that something is always under way.
        demo.sells(kills * 30).await;
        demo.process.kill().await;
        demo = Demo::start(&home, "1000").await;
        assert_eq!(demo.postgres(), postgres, "the server that outlived its hub is adopted");
        seen.push(demo.receipts().await.len());
        assert_eq!(demo.vault_key(), vault_key, "it is made once");
        assert_eq!(demo.get_as(&owner, &secret).await.ok(), kept);
    }
    assert!(seen.is_sorted() && seen[0] >= 30, "{seen:?}");

    // Told to stop while it sells: what is under way is done or not, and not half.
    demo.stops(Signal::SIGINT).await;
    demo = Demo::start(&home, "1000").await;
    let receipts = demo.sells(seen[2] + 30).await;
    assert_in_order(&receipts);
    assert!(demo.verified().await.contains("every link good"));
    demo.stops(Signal::SIGTERM).await;
}

#[tokio::test]
async fn somebody_else_may_buy_the_shelf_empty() {
    let home = dir("demo");
    let mut demo = Demo::start(&home, "2").await;
    let owner = demo.owner();
    // Everything that stands on every shelf is written off.
    let outlets = demo.get_as(&owner, "/v1/outlets").await.ok();
    for outlet in outlets["items"].as_array().unwrap() {
        let stock = format!("/v1/outlets/{}/stock", outlet["id"].as_str().unwrap());
        let levels = demo.get_as(&owner, &format!("{stock}?limit=1000")).await.ok();
        for level in levels["items"].as_array().unwrap() {
            let variant = level["variant"].as_str().unwrap();
            let line = json!({ "variant": variant, "quantity": level["on_hand"] });
            // The tills sell on meanwhile: a level that has just gone down further is left at that.
            demo.post_as(&owner, &format!("{stock}/moves"), variant, json!({ "reason": "lost", "lines": [line] }))
                .await;
        }
    }
    let before = demo.receipts().await.len();
    let receipts = demo.sells(before + 5).await;
    assert_in_order(&receipts);
    demo.stops(Signal::SIGINT).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let home = dir("demo");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut env = environment(&home);
    env.insert("TILLWIRE_LISTEN", loopback(port).to_string());
    let refused = run(&["demo"], &env).await;
    assert_eq!(refused.code, Some(1));
    let said = refused.err.trim();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("--listen"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!home.join("demo/data/postmaster.pid").exists(), "PostgreSQL was stopped as well");
}

/// Where a demo finds the providers.
fn providers_of(simulators: &Simulators) -> Env {
    Env::from([
        ("TILLWIRE_MIDTRANS_TEST_URL", simulators.midtrans_url()),
        ("TILLWIRE_XENDIT_TEST_URL", simulators.xendit_url()),
    ])
}

/// Somebody sells at the demo's till, by a provider's QRIS, and the customer pays with a phone.
async fn sells_by_qris(demo: &Demo, simulators: &Simulators, provider: &str) {
    let (till, bank) = demo.till_and_bank();
    assert_eq!(bank, simulators.bank_url());
    let claims = claims(&till);
    let (outlet, register) = (claims["outlets"][0].as_str().expect("an outlet"), &claims["register"]);
    assert_eq!((&claims["role"], claims["outlets"].as_array().map(Vec::len)), (&json!("cashier"), Some(1)));

    let stock = demo.get_as(&till, &format!("/v1/outlets/{outlet}/stock?limit=200")).await.ok();
    let quantity = |level: &Value| level["on_hand"].as_str().expect("a quantity").parse::<f64>().expect("a number");
    let in_stock = stock["items"].as_array().expect("levels").iter().find(|level| quantity(level) >= 1.0);
    let line = json!({ "variant": in_stock.expect("something in stock")["variant"], "quantity": "1" });
    let sale = json!({ "register": register, "open": true, "lines": [line] });
    let key = PaymentId::new().to_string();
    let sale = demo.post_as(&till, &format!("/v1/outlets/{outlet}/sales"), &key, sale).await.created();
    let payment = json!({ "method": "qris", "provider": provider, "mode": "test" });
    let payments = format!("/v1/sales/{}/payments", sale["id"].as_str().expect("an id"));
    let payment = demo.post_as(&till, &payments, &key, payment).await.created();
    assert_eq!((&payment["state"], &payment["shown"]["type"]), (&json!("pending"), &json!("qr")), "{payment}");

    let scanned = json!({ "qr": payment["shown"]["text"], "issuer": "DANA" }).to_string().into_bytes();
    let headers = [("content-type", "application/json")];
    request(simulators.midtrans, "POST", "/_sim/pay", &headers, scanned).await.expect("an answer").ok();
    let path = format!("/v1/payments/{}", payment["id"].as_str().expect("an id"));
    let paid = async {
        while demo.get_as(&till, &path).await.ok()["state"] != "paid" {
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(PATIENCE, paid).await.expect("a payment that is paid");
    let sold = demo.get_as(&till, &format!("/v1/sales/{}", sale["id"].as_str().unwrap())).await.ok();
    assert_eq!((&sold["state"], &sold["tenders"][0]["payment"]), (&json!("completed"), &payment["id"]));
}

#[tokio::test]
async fn a_person_sells_at_the_demos_till_and_pays_with_a_phone() {
    let home = dir("demo");
    let simulators = Simulators::start(Options::default()).await.expect("providers");
    let mut demo = Demo::start_with(&home, "5", providers_of(&simulators)).await;
    assert_eq!(demo.process.probe("/kasir").await, Some(200));
    sells_by_qris(&demo, &simulators, "midtrans").await;
    sells_by_qris(&demo, &simulators, "xendit").await;
    // What providers tell arrives: the hub need not ask.
    let told = async {
        loop {
            let told =
                request(simulators.midtrans, "GET", "/_sim/deliveries", &[], vec![]).await.expect("an answer").ok();
            let told = told["deliveries"].as_array().expect("deliveries").clone();
            let by = |provider| told.iter().any(|it| it["provider"] == provider && it["state"] == "delivered");
            if by("midtrans") && by("xendit") {
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(PATIENCE, told).await.expect("notifications that arrive");

    // The next start finds other simulators, which know nothing, and the same accounts.
    demo.stops(Signal::SIGINT).await;
    simulators.stop().await;
    let simulators = Simulators::start(Options::default()).await.expect("providers");
    let mut demo = Demo::start_with(&home, "5", providers_of(&simulators)).await;
    sells_by_qris(&demo, &simulators, "xendit").await;
    let accounts = demo.get_as(&demo.owner(), "/v1/provider-accounts").await.ok();
    assert_eq!(accounts["items"].as_array().map(Vec::len), Some(2), "{accounts}");
    demo.sells(10).await;
    demo.stops(Signal::SIGINT).await;
}

#[tokio::test]
async fn a_demo_sells_without_simulators_that_are_not_there() {
    let home = dir("demo");
    let nobody = format!("http://{}", loopback(free_port()));
    let mut demo = Demo::start_with(&home, "5", Env::from([("TILLWIRE_XENDIT_TEST_URL", nobody.clone())])).await;
    let printed = demo.process.printed();
    assert!(printed.contains("There are no payments by providers") && printed.contains(&nobody), "{printed}");
    assert!(!printed.contains("/kasir"), "{printed}");
    demo.sells(5).await;
    demo.stops(Signal::SIGINT).await;
}
