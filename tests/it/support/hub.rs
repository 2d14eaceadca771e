//! A hub of a test's own: a database of its own, a listener on a free port, and the people of a shop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use sqlx::PgConnection;
use tillwire::config::{Config, Role};
use tillwire::identity::tokens::{Bearer, Realm, Signer, Verifier, install_crypto, write_new_key};
use tillwire::journal::Pools;
use tillwire::node::{Faces, Node};
use tillwire_channels::{MerchantId, OutletId, RegisterId, Role as StaffRole, StaffId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::caller::{Caller, bearer};
use super::screen::Screen;
use super::services::postgres::{Database, Postgres};
use super::services::{dir, unique};

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct TestHub {
    pub database: Database,
    pub pools: Pools,
    /// Where the first node is.
    pub address: SocketAddr,
    pub signer: Signer,
    /// The file of the private key that tokens are signed with.
    pub signing_key: PathBuf,
    _first: TestNode,
}

/// A node of a hub in this process. Told to stop when it is dropped.
pub struct TestNode {
    pub address: SocketAddr,
    stop: CancellationToken,
    stopped: Option<JoinHandle<()>>,
}

impl TestNode {
    /// Tells it to stop, and waits until it has.
    pub async fn stops(mut self) {
        self.stop.cancel();
        self.stopped.take().expect("it was not stopped before").await.expect("a node that stops in order");
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl TestHub {
    /// A hub of one node with both faces, on a fresh database.
    pub async fn start() -> Self {
        Self::start_through(None).await
    }

    /// A hub that reaches its database through a proxy on this port.
    pub async fn start_through(proxy: Option<u16>) -> Self {
        let postgres = Postgres::shared().await;
        let database = postgres.database(async |url| tillwire::schema::up(&url).await.expect("migrations")).await;
        Self::start_on(database, proxy).await
    }

    /// A hub of one node with both faces and these flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let postgres = Postgres::shared().await;
        let database = postgres.database(async |url| tillwire::schema::up(&url).await.expect("migrations")).await;
        Self::start_as(database, None, flags).await
    }

    /// A hub on this database.
    pub async fn start_on(database: Database, proxy: Option<u16>) -> Self {
        Self::start_as(database, proxy, &[]).await
    }

    async fn start_as(database: Database, proxy: Option<u16>, flags: &[&str]) -> Self {
        install_crypto();
        let key: PathBuf = dir("keys").join(unique("key"));
        write_new_key(&key, false).expect("a key");
        let signer = Signer::open(&key, realm()).expect("a signer");
        let pools = Pools::open(&database.url("tillwire_app"), &database.url("tillwire_feed"), 8).expect("pools");
        let first = start_node(&database, &signer, BOTH_FACES, proxy, flags).await;
        Self { database, pools, address: first.address, signer, signing_key: key, _first: first }
    }

    /// A file with the public keys of this hub's tokens, for nodes that are processes.
    pub fn token_keys(&self) -> String {
        let path = dir("keys").join("public.json");
        let keys = serde_json::to_vec(&self.signer.public_keys().expect("keys")).expect("JSON");
        std::fs::write(&path, keys).expect("a key file");
        path.display().to_string()
    }

    /// Another node of the same hub.
    pub async fn node(&self, faces: Faces, flags: &[&str]) -> TestNode {
        start_node(&self.database, &self.signer, faces, None, flags).await
    }

    /// The same, reaching the database through a proxy on this port.
    pub async fn node_through(&self, proxy: u16, faces: Faces, flags: &[&str]) -> TestNode {
        start_node(&self.database, &self.signer, faces, Some(proxy), flags).await
    }

    /// A merchant that is open, with one outlet and one register.
    pub async fn merchant(&self, name: &str) -> Shop<'_> {
        let merchant = MerchantId::new();
        let owner = self.token(merchant, StaffRole::Owner, &[]);
        let (outlet, register) = Caller { address: self.address, token: &owner }.opens(name).await;
        Shop { hub: self, merchant, outlet, register, owner }
    }

    pub fn token(&self, merchant: MerchantId, role: StaffRole, outlets: &[OutletId]) -> String {
        let bearer = Bearer { outlets: outlets.to_vec(), ..bearer(merchant, StaffId::new(), role) };
        self.signer.mint(&bearer, Duration::from_secs(600)).expect("a token")
    }

    /// A new member of staff, and a token for them.
    pub fn token_of_someone(&self, merchant: MerchantId, role: StaffRole) -> (StaffId, String) {
        let staff = StaffId::new();
        (staff, self.token_for(merchant, staff, role))
    }

    pub fn token_for(&self, merchant: MerchantId, staff: StaffId, role: StaffRole) -> String {
        self.signer.mint(&bearer(merchant, staff, role), Duration::from_secs(600)).expect("a token")
    }

    /// A token for a new member of staff that is good for so many seconds.
    pub fn short_token(&self, merchant: MerchantId, role: StaffRole, seconds: u64) -> (StaffId, String) {
        let staff = StaffId::new();
        (staff, self.signer.mint(&bearer(merchant, staff, role), Duration::from_secs(seconds)).expect("a token"))
    }

    /// Sells one of a variant at another node. Answers the sale's position.
    pub async fn sells_at(&self, node: SocketAddr, shop: &Shop<'_>, variant: &str, price_minor: i64) -> String {
        let (key, sale) = (Uuid::new_v4().to_string(), shop.sale(variant, "1", price_minor));
        let answer = shop.post_at(node, &key, &shop.sales(), &sale).await;
        answer.created();
        answer.position()
    }

    /// Every level is what its moves add up to, and what the last of them said.
    pub async fn ledgers_add_up(&self) {
        let wrong = "select count(*) || ' of ' || (select count(*) > 0 from stock_moves) from stock_levels level
            where on_hand <> (select coalesce(sum(quantity), 0) from stock_moves
                              where (merchant_id, outlet_id, variant_id)
                                  = (level.merchant_id, level.outlet_id, level.variant_id))
               or on_hand <> (select on_hand from stock_moves
                              where (merchant_id, outlet_id, variant_id)
                                  = (level.merchant_id, level.outlet_id, level.variant_id)
                              order by move_id desc limit 1)";
        assert_eq!(self.database.psql(wrong).await.trim(), "0 of true");
    }

    /// Waits until a session of this hub's database waits for a lock that another holds.
    pub async fn someone_is_locked_out(&self) {
        self.are_locked_out(1).await;
    }

    /// Waits until so many sessions do.
    pub async fn are_locked_out(&self, sessions: u32) {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        let started = Instant::now();
        while self.database.psql(waiting).await.trim().parse::<u32>().expect("a count") < sessions {
            assert!(started.elapsed() < PATIENCE, "fewer than {sessions} wait for a lock");
        }
    }

    /// Locks a table of its database.
    pub async fn locks(&self, table: &str) -> PgConnection {
        self.database.locks(table).await
    }

    /// How many sessions wait for a table of this hub's database.
    pub async fn waiting_for(&self, table: &str) -> usize {
        let waiting = format!(
            "select count(*) from pg_locks join pg_database on pg_database.oid = pg_locks.database
             where datname = current_database() and relation = '{table}'::regclass and not granted"
        );
        self.database.psql(&waiting).await.trim().parse().expect("a number")
    }

    /// Waits until a session waits for a table of this hub's database.
    pub async fn someone_waits_for(&self, table: &str) {
        let started = Instant::now();
        while self.waiting_for(table).await == 0 {
            assert!(started.elapsed() < PATIENCE, "nobody waits for {table}");
        }
    }

    /// Asks for a job out of turn, and waits until it is done.
    pub async fn has_done(&self, job: &str) {
        let asked = self.database.psql("select clock_timestamp()").await;
        let started = Instant::now();
        while !tillwire::jobs::ask_for(&self.pools.app, job).await.expect("the database") {
            assert!(started.elapsed() < PATIENCE, "{job} cannot be asked for");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let done = format!(
            "select count(*) from jobs where job = '{job}' and outcome = 'done' and ended_at > '{}'",
            asked.trim()
        );
        while self.database.psql(&done).await.trim() != "1" {
            assert!(started.elapsed() < PATIENCE, "{job} is not done");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        request(self.address, method, path, headers, body).await.expect("an answer")
    }
}

/// Asks whoever listens at an address, on a connection of its own: a fault in one is no other's.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> anyhow::Result<Answer> {
    let mut request = http_request(method, &format!("http://{address}{path}"), headers);
    *request.body_mut() = http_body_util::Full::new(body.into());
    let io = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await?.to_bytes();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: bytes.to_vec() })
}

fn http_request(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> hyper::Request<http_body_util::Full<bytes::Bytes>> {
    let uri: hyper::Uri = uri.parse().expect("an address");
    let host = uri.authority().expect("a host").to_string();
    let path = uri.path_and_query().expect("a path").to_string();
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(http_body_util::Full::default()).expect("a request")
}

pub const BOTH_FACES: Faces = Faces { api: true, gateway: true, worker: false };

/// Through a proxy on a port, if one is named; otherwise as a deployment would be configured, plus these flags.
async fn start_node(
    database: &Database,
    signer: &Signer,
    faces: Faces,
    proxy: Option<u16>,
    flags: &[&str],
) -> TestNode {
    let url = |role| match proxy {
        Some(port) => database.url_through(port, role),
        None => database.url(role),
    };
    let (app, feed) = (url("tillwire_app"), url("tillwire_feed"));
    let usual = [
        "tillwire",
        "serve",
        "--database-url",
        &app,
        "--feed-database-url",
        &feed,
        "--database-connections",
        "8",
        "--token-keys",
        "given",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        "--drain-seconds",
        "0",
    ];
    let config = Config::try_parse_from(usual.iter().chain(flags)).expect("a configuration");
    let Role::Serve(config) = config.role else { unreachable!("the role that was named") };
    let verifier = Verifier::new(realm(), &signer.public_keys().expect("keys")).expect("a verifier");
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let stop = CancellationToken::new();
    let node = Node::start(config, verifier, faces, metrics, stop.clone()).await.expect("a node");
    TestNode { address: node.public, stop, stopped: Some(tokio::spawn(node.stopped())) }
}

pub fn realm() -> Realm {
    Realm { issuer: "tests".to_owned(), audience: "tests".to_owned() }
}

/// A merchant, as its owner.
pub struct Shop<'a> {
    pub hub: &'a TestHub,
    pub merchant: MerchantId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub owner: String,
}

impl Shop<'_> {
    /// The owner at the hub's first node.
    pub fn owner(&self) -> Caller<'_> {
        Caller { address: self.hub.address, token: &self.owner }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.get_as(&self.owner, path).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        Caller { address: self.hub.address, token }.get(path).await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_once(&Uuid::new_v4().to_string(), path, body).await
    }

    pub async fn post_once(&self, key: &str, path: &str, body: Value) -> Answer {
        self.post_as(&self.owner, key, path, body.to_string().into_bytes()).await
    }

    /// The same once the first to come with this key is over: PostgreSQL may not have noticed yet that it is gone.
    pub async fn post_again(&self, key: &str, path: &str, body: Value) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.post_once(key, path, body.clone()).await;
            if answer.status != 409 {
                return answer;
            }
            answer.refused(409, "request_in_flight");
            assert!(started.elapsed() < PATIENCE, "the first of them never ends");
        }
    }

    pub async fn post_as(&self, token: &str, key: &str, path: &str, body: Vec<u8>) -> Answer {
        Caller { address: self.hub.address, token }.post(key, path, body).await.expect("an answer")
    }

    /// The owner's post at another node.
    pub async fn post_at(&self, node: SocketAddr, key: &str, path: &str, body: &Value) -> Answer {
        Caller { address: node, token: &self.owner }
            .post(key, path, body.to_string().into_bytes())
            .await
            .expect("an answer")
    }

    /// A product at this price, with so many in stock. Answers its variant.
    pub async fn stocked(&self, name: &str, price_minor: i64, quantity: &str) -> String {
        let variant = self.product(name, price_minor).await;
        self.owner().receives(self.outlet, &variant, quantity).await;
        variant
    }

    pub async fn product(&self, name: &str, price_minor: i64) -> String {
        self.owner().product(name, price_minor).await
    }

    /// Enrols one more register. Sales of one register take turns at its receipt numbers: whoever is to meet others
    /// elsewhere needs a till of their own.
    pub async fn till(&self) -> RegisterId {
        let register = RegisterId::new();
        // The last digits of an id are random; the first are the time.
        let code = register.to_string()[24..].to_uppercase();
        let body = json!({ "id": register, "code": code, "name": "Kasir" });
        self.post(&format!("/v1/outlets/{}/registers", self.outlet), body).await.created();
        register
    }

    /// A sale of some of one variant, paid in cash.
    pub fn sale(&self, variant: &str, quantity: &str, total_minor: i64) -> Value {
        self.sale_at(self.register, variant, quantity, total_minor)
    }

    /// The same at another till.
    pub fn sale_at(&self, register: RegisterId, variant: &str, quantity: &str, total_minor: i64) -> Value {
        json!({
            "register": register,
            "lines": [{ "variant": variant, "quantity": quantity, "discount_minor": 0 }],
            "tenders": [{ "method": "cash", "amount_minor": total_minor }],
        })
    }

    pub fn sales(&self) -> String {
        format!("/v1/outlets/{}/sales", self.outlet)
    }

    pub async fn stock_of(&self, variant: &str) -> String {
        let level = self.get(&format!("/v1/outlets/{}/stock/{variant}", self.outlet)).await.ok();
        level["on_hand"].as_str().expect("a quantity").to_owned()
    }

    /// The owner's screen at the hub's first node.
    pub async fn screen(&self, channels: &[&str]) -> Screen {
        let mut screen = Screen::enters(self.hub.address, json!({ "token": self.owner, "channels": channels })).await;
        screen.hears("ready").await;
        screen.hears("caught_up").await;
        screen
    }

    /// A screen that comes back to a node with a position.
    pub async fn screen_after(&self, address: SocketAddr, channels: &[&str], after: &str) -> Screen {
        Screen::enters(address, json!({ "token": self.owner, "channels": channels, "after": after })).await
    }

    /// Sells one of a variant for this price. Answers the sale's position.
    pub async fn sells(&self, variant: &str, price_minor: i64) -> String {
        let answer = self.post(&self.sales(), self.sale(variant, "1", price_minor)).await;
        answer.created();
        answer.position()
    }

    /// Everything in the journal, page by page.
    pub async fn journal(&self) -> Vec<Value> {
        self.owner().journal("limit=7").await
    }

    /// The journal's events of these types, each with its position: what a screen that listens to them is sent.
    pub async fn journal_of(&self, kinds: &[&str]) -> Vec<(String, Value)> {
        let all = self.journal().await.into_iter();
        all.filter(|it| kinds.contains(&it["event"]["type"].as_str().expect("a type")))
            .map(|it| (it["position"].as_str().expect("a position").to_owned(), it["event"].clone()))
            .collect()
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn created(&self) -> Value {
        assert_eq!(self.status, 201, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// A problem with this status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        problem
    }

    pub fn position(&self) -> String {
        self.headers["tillwire-position"].to_str().expect("a position").to_owned()
    }
}
