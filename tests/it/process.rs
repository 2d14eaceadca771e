//! The hub as a process: it starts without its database, drains when it is told to stop, says clearly what is wrong with
//! its configuration, keeps its secrets, and loses nothing when it is killed.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tillwire::http;
use tillwire::identity::tokens::{Realm, Signer, write_new_key};
use tillwire_channels::{MerchantId, Role, StaffId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::support::caller::{Caller, bearer};
use super::support::process::{Env, TillwireProcess, address, environment, run};
use super::support::screen::Screen;
use super::support::services::postgres::{Database, Postgres};
use super::support::services::{Proxy, dir};
use super::support::till::Till;

/// A database with the schema, and what a hub on it is configured with.
async fn site() -> (Database, Env, Signer) {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    (database, env, signer)
}

fn with(env: &Env, name: &'static str, value: &str) -> Env {
    let mut env = env.clone();
    env.insert(name, value.to_owned());
    env
}

/// A request whose second half is still to come.
struct HalfSent {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl HalfSent {
    async fn sale(till: &Till, key: &str) -> Self {
        let body = till.sale().to_string();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: tillwire\r\nauthorization: Bearer {}\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            till.sales(),
            till.token,
            body.len()
        );
        let mut stream = TcpStream::connect(till.address).await.expect("the hub listens");
        let (first, rest) = body.split_at(body.len() / 2);
        stream.write_all(format!("{head}{first}").as_bytes()).await.expect("half a request");
        Self { stream, rest: rest.as_bytes().to_vec() }
    }

    /// What a stranger sends to the one door that no token opens.
    async fn notice(till: &Till) -> Self {
        let head = format!(
            "POST /v1/providers/{}/{}/webhook HTTP/1.1\r\nhost: tillwire\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n{{",
            till.merchant,
            Uuid::new_v4(),
        );
        let mut stream = TcpStream::connect(till.address).await.expect("the hub listens");
        stream.write_all(head.as_bytes()).await.expect("half a request");
        Self { stream, rest: Vec::new() }
    }

    /// The status line that is answered although the rest does not come.
    async fn status(mut self) -> String {
        let mut line = [0; 12];
        self.stream.read_exact(&mut line).await.expect("an answer");
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Sends the rest, and answers the status line.
    async fn finish(mut self) -> String {
        self.stream.write_all(&self.rest).await.expect("the other half");
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.expect("an answer");
        answer.lines().next().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn sigterm_drains() {
    let (_database, env, signer) = site().await;
    let mut hub = TillwireProcess::start(&["serve"], &with(&env, "TILLWIRE_DRAIN_SECONDS", "5")).await;
    let till = Till::open(hub.public, &signer, 10).await;
    let under_way = HalfSent::sale(&till, "under-way").await;

    hub.terminate();
    // Readiness fails first, while requests are still answered …
    hub.until("not ready", async |hub| hub.probe("/readyz").await == Some(503)).await;
    till.sell("a-late-one").await.unwrap().created();
    // … then nobody new is let in, and what was under way is finished.
    hub.until("closed", async |hub| hub.probe("/healthz").await.is_none()).await;
    assert_eq!(under_way.finish().await, "HTTP/1.1 201 Created");
    assert_eq!(hub.ended().await.code(), Some(0), "{}", hub.log());
    assert!(hub.log().contains("Stopped") && !hub.log().contains("left behind"), "{}", hub.log());

    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    assert_eq!(till.on_hand().await, "8.000");
    hub.kill().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (_database, env, _) = site().await;
    let mut hub = TillwireProcess::start(&["serve"], &with(&env, "TILLWIRE_DRAIN_SECONDS", "3600")).await;
    hub.terminate();
    hub.says("Told to stop").await;
    hub.terminate();
    assert_eq!(hub.ended().await.code(), Some(130));
}

#[tokio::test]
async fn it_starts_without_its_database_and_outlives_it() {
    let mut postgres = Postgres::start_own().await;
    tillwire::schema::up(&postgres.url("tillwire_migrate", "tillwire")).await.unwrap();
    let (env, signer) =
        environment(&postgres.url("tillwire_app", "tillwire"), &postgres.url("tillwire_feed", "tillwire"));
    postgres.stop().await.unwrap();

    let mut hub = TillwireProcess::spawn(&["serve"], &env);
    hub.until("alive", async |hub| hub.probe("/healthz").await == Some(200)).await;
    let unready = hub.get("/readyz").await.unwrap();
    assert_eq!((unready.status, unready.body.as_slice()), (503, b"no database\n".as_slice()));
    postgres.start_again().await.unwrap();
    hub.ready().await;
    let till = Till::open(hub.public, &signer, 10).await;

    postgres.kill_now().await.unwrap();
    let refused = till.sell("sold-in-the-dark").await.unwrap();
    assert!([500, 503].contains(&refused.status), "{refused:?}");
    assert_eq!((hub.probe("/healthz").await, hub.probe("/readyz").await), (Some(200), Some(503)));
    postgres.start_again().await.unwrap();
    hub.ready().await;
    till.sell_at_last("sold-in-the-dark").await;
    assert_eq!(till.on_hand().await, "9.000");
}

#[tokio::test]
async fn the_demos_key_is_refused() {
    let (_database, env, _) = site().await;
    let keys = dir("demo-keys");
    write_new_key(&keys.join("private.pem"), true).unwrap();
    let nobody = Realm { issuer: String::new(), audience: String::new() };
    let set = Signer::open(&keys.join("private.pem"), nobody).unwrap().public_keys().unwrap();
    let public = keys.join("public.json");
    fs::write(&public, serde_json::to_vec(&set).unwrap()).unwrap();
    for role in ["serve", "api", "gateway"] {
        let outcome = run(&[role], &with(&env, "TILLWIRE_TOKEN_KEYS", public.to_str().unwrap())).await;
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.err.contains("the token keys include the demo's, which is not secret"), "{}", outcome.err);
    }
}

#[tokio::test]
async fn bad_configuration_is_refused_with_a_line_that_names_the_flag() {
    let (_database, env, _) = site().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let nowhere = dir("keys").join("none.json");
    let garbled = dir("keys").join("garbled.json");
    fs::write(&garbled, "no JSON").unwrap();
    for (name, value, flag) in [
        ("TILLWIRE_LISTEN", taken.as_str(), "--listen"),
        ("TILLWIRE_METRICS_LISTEN", taken.as_str(), "--metrics-listen"),
        ("TILLWIRE_LISTEN", "somewhere", "--listen"),
        ("TILLWIRE_DRAIN_SECONDS", "soon", "--drain-seconds"),
        ("TILLWIRE_DATABASE_URL", "mysql://localhost", "--database-url"),
        ("TILLWIRE_FEED_DATABASE_URL", "", "--feed-database-url"),
        ("TILLWIRE_DATABASE_CONNECTIONS", "0", "--database-connections"),
        ("TILLWIRE_TOKEN_KEYS", nowhere.to_str().unwrap(), "--token-keys"),
        ("TILLWIRE_TOKEN_KEYS", garbled.to_str().unwrap(), "--token-keys"),
        ("TILLWIRE_LOG", "=", "--log"),
    ] {
        let outcome = run(&["serve"], &with(&env, name, value)).await;
        assert!(matches!(outcome.code, Some(1 | 2)), "{name}={value}: {outcome:?}");
        assert!(outcome.err.contains(flag), "{name}={value}: {}", outcome.err);
        assert!(!outcome.err.contains("panicked"), "{}", outcome.err);
    }
    let mut without = env.clone();
    without.remove("TILLWIRE_TOKEN_KEYS");
    let outcome = run(&["serve"], &without).await;
    assert!(outcome.code == Some(2) && outcome.err.contains("--token-keys"), "{outcome:?}");
}

#[tokio::test]
async fn g7_no_answer_log_line_or_metric_crosses_merchants() {
    let (database, env, signer) = site().await;
    let mut proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let env = with(&env, "TILLWIRE_DATABASE_URL", &database.url_through(proxy.port, "tillwire_app"));
    let mut hub = TillwireProcess::start(&["serve"], &with(&env, "TILLWIRE_LOG", "trace")).await;
    let tills = [Till::open(hub.public, &signer, 100).await, Till::open(hub.public, &signer, 100).await];
    let names = tills.each_ref().map(|till| {
        let Till { merchant, outlet, staff, register, variant, .. } = till;
        [merchant.to_string(), outlet.to_string(), staff.to_string(), register.to_string(), variant.clone()]
    });
    let (mut screens, mut answers) = (Vec::new(), [Vec::new(), Vec::new()]);
    for till in &tills {
        let auth = json!({ "token": till.token, "channels": ["sales", "stock"], "after": "0-00000000" });
        screens.push(Screen::enters(hub.public, auth).await);
    }
    for sale in 0..5 {
        for (till, answers) in tills.iter().zip(&mut answers) {
            answers.push(till.sell(&format!("sale-{sale}")).await.unwrap());
            answers.push(till.sell(&format!("sale-{sale}")).await.unwrap()); // The same keys at both merchants.
            for path in ["/v1/merchant", "/v1/outlets", "/v1/products", "/v1/journal?limit=500", "/v1/nothing"] {
                answers.push(till.get(path).await);
            }
            answers.push(till.post("refused", &till.sales(), &json!({ "register": 1 })).await.unwrap());
        }
    }
    for screen in &mut screens {
        while screen.hears_next("stock.changed").await.data()["on_hand"] != "95.000" {}
    }
    // Nothing is logged of a request unless something is wrong here.
    proxy.refuse().await;
    proxy.cut();
    for (till, answers) in tills.iter().zip(&mut answers) {
        answers.push(till.sell("sold-in-the-dark").await.unwrap());
    }
    let (metrics, log) = (hub.metrics().await, hub.log());
    hub.kill().await;

    for (n, answers) in answers.iter().enumerate() {
        let named = |names: &[String], text: &str| names.iter().any(|name| text.contains(name));
        let (mine, theirs) = (&names[n], &names[1 - n]);
        let mut traced = 0;
        for answer in answers {
            let text = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
            assert!(!named(theirs, &text), "{text}");
            let trace_id = answer.headers["x-trace-id"].to_str().unwrap();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(trace_id)).collect();
            assert_eq!(lines.iter().find(|line| named(theirs, line)), None);
            traced += usize::from(!lines.is_empty());
        }
        assert!(traced > 0 && log.contains(&mine[0]), "the log does tell of requests and of merchants");
        assert_eq!(log.lines().find(|line| named(mine, line) && named(theirs, line)), None);
    }
    // Labels are few: no id of anyone or anything is one.
    let labels: Vec<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .collect();
    assert!(labels.contains(&"/v1/outlets/{outlet}/sales"), "{metrics}");
    let connections: Vec<&str> = screens.iter().flat_map(Screen::ids).collect();
    for label in labels {
        assert!(label.split('/').all(|part| Uuid::parse_str(part).is_err()), "{label}");
        assert!(!connections.iter().any(|id| label.contains(id)), "{label}");
    }
}

#[tokio::test]
async fn g8_more_requests_than_it_can_hold_are_told_to_come_back() {
    let (_database, env, signer) = site().await;
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 2_000).await;
    let key = |n: usize| format!("sale-{n}");
    let mut held = Vec::new();
    let refused = loop {
        held.push(HalfSent::sale(&till, &key(held.len())).await);
        assert!(held.len() < 2 * http::REQUESTS_MAX, "nobody is ever refused");
        if held.len() < http::REQUESTS_MAX {
            continue;
        }
        // One of those held may have come a moment after this, and been refused in its place.
        let answer = till.get("/v1/outlets").await;
        if answer.status != 200 {
            break answer;
        }
    };
    let sales = held.len();
    refused.refused(503, "busy");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(hub.probe("/healthz").await, Some(200), "whoever asks whether it lives gets an answer");
    let metrics = hub.metrics().await;
    assert!(metrics.contains("tillwire_http_shed_total"), "{metrics}");

    futures_util::future::join_all(held.into_iter().map(HalfSent::finish)).await;
    // Some of them found no free connection to the database, and were told so. The same key tells.
    for n in 0..sales {
        till.sell_at_last(&key(n)).await;
    }
    assert_eq!(till.on_hand().await, format!("{}.000", 2_000 - sales));
}

#[tokio::test]
async fn g8_strangers_who_notify_slowly_hold_up_no_till() {
    let (_database, env, signer) = site().await;
    let hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 10).await;
    let began = Instant::now();
    let mut held = Vec::new();
    for _ in 0..http::REQUESTS_MAX + 64 {
        held.push(HalfSent::notice(&till).await);
    }
    // What they hold is not the tills', and they do not hold it for long.
    till.sell("while-they-are-there").await.unwrap().created();
    till.get("/v1/outlets").await.ok();
    for status in futures_util::future::join_all(held.into_iter().map(HalfSent::status)).await {
        assert_eq!(status, "HTTP/1.1 503");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The door is open again. Nobody has such an account.
    let path = format!("/v1/providers/{}/{}/webhook", till.merchant, Uuid::new_v4());
    till.post("none", &path, &json!({})).await.unwrap().refused(404, "not_found");
}

#[tokio::test]
async fn secrets_are_nowhere_to_be_read() {
    let (database, env, signer) = site().await;
    let canary = "kenari-5tilly";
    let port = Postgres::shared().await.tcp_port().unwrap();
    let right = database.url_through(port, "tillwire_app");
    let (start, rest) = right.split_once(":tillwire@").unwrap();
    // The wrong password, so that there is an error to tell of.
    let env = with(&env, "TILLWIRE_DATABASE_URL", &format!("{start}:{canary}@{rest}"));
    let env = with(&env, "TILLWIRE_LOG", "trace");
    let mut hub = TillwireProcess::spawn(&["serve"], &env);
    hub.until("alive", async |hub| hub.probe("/healthz").await == Some(200)).await;
    let owner = bearer(MerchantId::new(), StaffId::new(), Role::Owner);
    let token = signer.mint(&owner, Duration::from_secs(60)).unwrap();
    let answer = Caller { address: hub.public, token: &token }.get("/v1/outlets").await.unwrap();
    answer.refused(500, "internal");
    hub.says("password authentication failed").await;
    assert_eq!(hub.probe("/readyz").await, Some(503));
    hub.terminate();
    assert_eq!(hub.ended().await.code(), Some(0));
    let help = run(&["serve", "--help"], &env).await;
    assert_eq!(help.code, Some(0));
    let refused = run(&["serve"], &with(&env, "TILLWIRE_DATABASE_URL", &format!("postgres//{canary}"))).await;
    assert_eq!(refused.code, Some(1));
    let signature = token.rsplit('.').next().unwrap();
    for text in [hub.log(), hub.printed(), help.out, help.err, refused.out, refused.err] {
        for secret in [canary, signature] {
            assert!(!text.contains(secret), "{secret} in: {text}");
        }
    }
    assert!(!String::from_utf8_lossy(&answer.body).contains(canary));
}

#[tokio::test]
async fn g1_killed_in_the_middle_of_sales_each_key_gives_exactly_one() {
    const TILLS: usize = 8;
    const SALES: usize = 40;
    let (database, env, signer) = site().await;
    let mut hub = TillwireProcess::start(&["serve"], &env).await;
    let till = Till::open(hub.public, &signer, 1_000).await;
    let before = till.journal().await.len();
    let (answered, dead) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let key = |till: usize, sale: usize| format!("{till}-{sale}");
    // Each till sells until its hub is gone; it does not know of its last sale whether it was recorded.
    let selling = futures_util::future::join_all((0..TILLS).map(|n| {
        let (till, answered, dead) = (&till, &answered, &dead);
        async move {
            for sale in 0..SALES {
                match till.sell(&key(n, sale)).await {
                    Ok(answer) if answer.status == 201 => _ = answered.fetch_add(1, Ordering::SeqCst),
                    Ok(answer) => panic!("{answer:?}"),
                    Err(_) => {
                        dead.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                }
            }
        }
    }));
    let killing = async {
        while answered.load(Ordering::SeqCst) < 3 * TILLS {
            tokio::task::yield_now().await;
        }
        hub.kill().await;
    };
    tokio::join!(selling, killing);
    assert_eq!(dead.load(Ordering::SeqCst), TILLS, "everyone was in the middle of a sale");

    assert_eq!(address(&env, "TILLWIRE_LISTEN"), till.address);
    let _hub = TillwireProcess::start(&["serve"], &env).await;
    let mut numbers = BTreeSet::new();
    for (n, sale) in (0..TILLS).flat_map(|n| (0..SALES).map(move |sale| (n, sale))) {
        numbers.insert(till.sell_at_last(&key(n, sale)).await.json()["number"].to_string());
    }
    assert_eq!(numbers.len(), TILLS * SALES, "a receipt each");
    assert_eq!(till.on_hand().await, format!("{}.000", 1_000 - TILLS * SALES));
    assert_eq!(till.journal().await.len() - before, 3 * TILLS * SALES, "three events a sale");
    let feed = database.url("tillwire_feed");
    let merchant = till.merchant.to_string();
    let verify = ["journal", "verify", "--feed-database-url", &feed, "--merchant", &merchant];
    let verified = run(&verify, &Env::new()).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}
