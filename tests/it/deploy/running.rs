//! The same files, running: real services started from them, the hub behind them, and everything through the one door.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use tillwire::identity::tokens::{Realm, Signer};
use tillwire::journal::pool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::support::hub::{Answer, request};
use crate::support::process::{Env, TillwireProcess, run};
use crate::support::screen::{End, Screen};
use crate::support::services::deployed::Deployed;
use crate::support::services::{dir, unique};
use crate::support::till::Till;

const PATIENCE: Duration = Duration::from_secs(60);
/// The close code that says: come back.
const SERVICE_RESTART: u16 = 1012;
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How many connections of screens a gateway takes from one address: few, so that a test can use them up.
const SOCKETS_PER_ADDRESS: usize = 16;

/// Values for every variable that has no default.
fn values() -> (BTreeMap<&'static str, String>, Signer) {
    tillwire::identity::tokens::install_crypto();
    let keys = dir("keys");
    let private = keys.join(unique("key"));
    tillwire::identity::tokens::write_new_key(&private, false).unwrap();
    let realm = Realm { issuer: "tillwire".to_owned(), audience: "tillwire".to_owned() };
    let signer = Signer::open(&private, realm).unwrap();
    let public = keys.join("token-keys.json");
    std::fs::write(&public, serde_json::to_vec(&signer.public_keys().unwrap()).unwrap()).unwrap();
    let passwords = [
        "POSTGRES_PASSWORD",
        "MIGRATE_PASSWORD",
        "APP_PASSWORD",
        "FEED_PASSWORD",
        "RELAY_PASSWORD",
        "PGBOUNCER_PASSWORD",
        "REDIS_PASSWORD",
        "RABBITMQ_PASSWORD",
    ];
    let mut values: BTreeMap<_, _> = passwords.map(|name| (name, Uuid::new_v4().simple().to_string())).into();
    values.insert("TOKEN_KEYS_FILE", public.display().to_string());
    let vault_key = keys.join(unique("vault"));
    tillwire::vault::keys::write_new_key(&vault_key, false).unwrap();
    values.insert("VAULT_KEY_FILE", vault_key.display().to_string());
    values.insert("TRUSTED_PROXIES", "127.0.0.1".to_owned());
    (values, signer)
}

/// Everything that the compose file starts, started.
struct Shop {
    services: Deployed,
    nodes: BTreeMap<&'static str, TillwireProcess>,
    door: SocketAddr,
    till: Till,
}

impl Shop {
    /// A merchant with a million pieces of one product.
    async fn open() -> Self {
        let (values, signer) = values();
        let services = Deployed::new(values);
        services.start("postgres").await;
        tokio::join!(services.start("pgbouncer"), services.start("redis"), services.start("rabbitmq"));
        let migrated = run(&services.command("migrate"), &env(&services, "migrate")).await;
        assert_eq!(migrated.code, Some(0), "{}", migrated.err);
        let mut nodes = BTreeMap::new();
        for name in ["api", "gateway-1", "gateway-2", "worker"] {
            let mut env = env(&services, name);
            env.insert("TILLWIRE_SOCKETS_PER_ADDRESS", SOCKETS_PER_ADDRESS.to_string());
            nodes.insert(name, TillwireProcess::spawn(&services.command(name), &env));
        }
        for node in nodes.values_mut() {
            node.ready().await;
        }
        services.start("haproxy").await;

        let door = services.address("haproxy", 8080);
        until_served(door).await;
        let till = Till::open(door, &signer, 1_000_000).await;
        Self { services, nodes, door, till }
    }

    /// Asks without a token.
    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Answer {
        timeout(PATIENCE, request(self.door, method, path, &[], body)).await.expect("in time").expect("an answer")
    }

    /// Sells one, and repeats with the same key until there is an answer of success: what a till does.
    async fn sell(&self, key: &str) -> Value {
        self.till.sell_at_last(key).await.json()
    }

    fn auth(&self, after: Option<&str>) -> Value {
        json!({ "token": self.till.token, "channels": ["sales"], "after": after })
    }

    /// Whether the balancer's own metrics hold a line that begins so and is not about nothing.
    async fn balancer_counts(&self, line: &str) -> bool {
        let metrics = request(self.services.address("haproxy", 8405), "GET", "/metrics", &[], vec![]).await.unwrap();
        let metrics = String::from_utf8(metrics.body).unwrap();
        metrics.lines().any(|it| it.starts_with(line) && !it.ends_with(" 0"))
    }

    /// Which gateway the only screen is at.
    async fn gateway_of_the_screen(&self) -> &'static str {
        let started = Instant::now();
        loop {
            let mut at = Vec::new();
            for gateway in ["gateway-1", "gateway-2"] {
                let line = format!(r#"haproxy_server_current_sessions{{proxy="gateways",server="{gateway}"}}"#);
                at.extend(self.balancer_counts(&line).await.then_some(gateway));
            }
            match at[..] {
                [gateway] => return gateway,
                _ => assert!(started.elapsed() < PATIENCE, "one screen, at {at:?}"),
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the balancer sends clients to a gateway.
    async fn until_up(&self, gateway: &str) {
        let started = Instant::now();
        let line = format!(r#"haproxy_server_status{{proxy="gateways",server="{gateway}",state="UP"}}"#);
        while !self.balancer_counts(&line).await {
            assert!(started.elapsed() < PATIENCE, "{gateway} is not up");
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a node has all its links to a broker: to publish and to listen, and to say which journals have moved; or, as
    /// a worker, to relay, to handle, and to take down what is dead.
    async fn until_on_bus(&self, name: &str, node: &TillwireProcess, bus: &str) {
        let links = match (name, bus) {
            ("worker", "rabbitmq") => 3,
            ("worker", _) => return,
            ("api", "rabbitmq") => 3,
            _ => 2,
        };
        let started = Instant::now();
        loop {
            let metrics = request(node.metrics, "GET", "/metrics", &[], vec![]).await.unwrap();
            let metrics = String::from_utf8(metrics.body).unwrap();
            let start = format!(r#"tillwire_bus_up{{bus="{bus}""#);
            let up: Vec<&str> = metrics.lines().filter(|line| line.starts_with(&start)).collect();
            if up.len() == links && up.iter().all(|line| line.ends_with(" 1")) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not on {bus}: {up:?}\n{}", node.log());
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Reads through the door, until it is not told to come again: the balancer misses a node for a second or two, on a busy machine
    /// and after a fault that is over.
    async fn reads(&self, path: &str) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.till.get(path).await;
            if answer.status != 503 || started.elapsed() > PATIENCE {
                return answer.ok();
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn on_hand(&self) -> Value {
        self.reads(&self.till.stock()).await["on_hand"].clone()
    }

    /// Every completed sale in the journal.
    async fn journal(&self) -> Vec<Value> {
        let page = self.reads("/v1/journal?channels=sales&limit=100&after=0-00000000").await;
        assert_eq!(page["more"], false);
        page["events"].as_array().expect("events").clone()
    }
}

/// Waits until the balancer has seen a node of each kind ready.
async fn until_served(door: SocketAddr) {
    let started = Instant::now();
    let ready = || timeout(PATIENCE, request(door, "GET", "/readyz", &[], vec![]));
    while !ready().await.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200)) {
        assert!(started.elapsed() < PATIENCE, "nobody is served");
        sleep(POLL_INTERVAL).await;
    }
}

/// What the compose file tells a node, as a process takes it.
fn env(services: &Deployed, name: &str) -> Env {
    // The names of variables are few, and live as long as the tests.
    services.environment(name).into_iter().map(|(variable, value)| (&*variable.leak(), value)).collect()
}

#[tokio::test]
async fn a_sale_goes_through_the_door_and_is_read_back() {
    let shop = Shop::open().await;
    let sale = shop.sell("first").await;
    let read = shop.reads(&format!("/v1/sales/{}", sale["id"].as_str().unwrap())).await;
    assert_eq!((&read["id"], &read["total_minor"]), (&sale["id"], &sale["total_minor"]));
    assert_eq!(shop.on_hand().await, "999999.000");
    let journal = shop.journal().await;
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(journal[0]["event"]["data"]["sale"], sale["id"]);
    // News goes by both brokers: every node is let in and does there what it needs to do.
    for (name, node) in &shop.nodes {
        for bus in ["redis", "rabbitmq"] {
            shop.until_on_bus(name, node, bus).await;
        }
    }
    // The pages of the API come the same way.
    assert_eq!(shop.send("GET", "/docs/", vec![]).await.status, 200);
}

#[tokio::test]
async fn a_pooler_that_dies_under_requests_costs_no_sale_and_doubles_none() {
    let shop = Shop::open().await;
    shop.sell("before").await;
    const SALES: usize = 60;
    const AT_ONCE: usize = 6;
    let shop = &shop;
    let tills = (0..AT_ONCE).map(|till| async move {
        for sale in 0..SALES / AT_ONCE {
            shop.sell(&format!("{till}-{sale}")).await;
        }
    });
    let fault = async {
        let started = Instant::now();
        while shop.on_hand().await == "999999.000" {
            assert!(started.elapsed() < PATIENCE);
        }
        shop.services.kill("pgbouncer");
        assert!(shop.till.get("/v1/merchant").await.status >= 500, "there is no database");
        shop.services.start("pgbouncer").await;
    };
    tokio::join!(fault, futures_util::future::join_all(tills));

    let journal = shop.journal().await;
    assert_eq!(journal.len(), SALES + 1, "each key once");
    assert_eq!(shop.on_hand().await, format!("{}.000", 1_000_000 - SALES - 1));
}

#[tokio::test]
async fn a_screen_whose_gateway_dies_or_retires_comes_back_on_the_other() {
    let mut shop = Shop::open().await;
    let mut screen = Screen::enters(shop.door, shop.auth(None)).await;
    screen.catches_up().await;
    shop.sell("1").await;
    let first = screen.hears("sale.completed").await;
    let mine = shop.gateway_of_the_screen().await;
    let other = if mine == "gateway-1" { "gateway-2" } else { "gateway-1" };

    shop.nodes.get_mut(mine).unwrap().kill().await;
    assert_eq!(screen.ends().await, End::Broken);
    let missed = shop.sell("2").await;
    let mut screen = Screen::enters(shop.door, shop.auth(first.position.as_deref())).await;
    let replayed = screen.catches_up().await;
    assert_eq!(replayed.len(), 1, "{replayed:?}");
    assert_eq!(replayed[0].data()["sale"], missed["id"]);
    assert_eq!(shop.gateway_of_the_screen().await, other);
    let live = shop.sell("3").await;
    assert_eq!(screen.hears("sale.completed").await.data()["sale"], live["id"]);

    // The dead one is started again, and the other is told to stop.
    let again = TillwireProcess::start(&shop.services.command(mine), &env(&shop.services, mine)).await;
    shop.nodes.insert(mine, again);
    shop.until_up(mine).await;
    shop.nodes[other].terminate();
    assert_eq!(screen.ends().await, End::Closed(SERVICE_RESTART), "told, not cut");
    let missed = shop.sell("4").await;
    let mut screen = Screen::enters(shop.door, shop.auth(replayed[0].position.as_deref())).await;
    let replayed: Vec<Value> = screen.catches_up().await.iter().map(|heard| heard.data()["sale"].clone()).collect();
    assert_eq!(replayed, [live["id"].clone(), missed["id"].clone()]);
    assert_eq!(shop.gateway_of_the_screen().await, mine);
    assert!(shop.nodes.get_mut(other).unwrap().ended().await.success());
}

#[tokio::test]
async fn a_client_that_polls_is_served_by_whichever_gateway_is_asked() {
    let mut shop = Shop::open().await;
    for gateway in ["gateway-1", "gateway-2"] {
        shop.until_up(gateway).await;
    }
    for _ in 0..4 {
        let path = "/socket.io/?EIO=4&transport=polling";
        let greeting = shop.send("GET", path, vec![]).await;
        let greeting = String::from_utf8(greeting.body).unwrap();
        let greeting: Value = serde_json::from_str(greeting.strip_prefix('0').expect("a greeting")).unwrap();
        let path = format!("{path}&sid={}", greeting["sid"].as_str().unwrap());
        let enter = format!("40{}", shop.auth(None));
        let posted = shop.send("POST", &path, enter.into_bytes()).await;
        assert_eq!((posted.status, posted.body.as_slice()), (200, b"ok".as_slice()));
        let polled = shop.send("GET", &path, vec![]).await;
        let polled = String::from_utf8(polled.body).unwrap();
        assert!(polled.starts_with("40{"), "{polled}");
    }
    // Three requests each, in turns: they came to the one and to the other.
    for gateway in ["gateway-1", "gateway-2"] {
        let forwarded =
            shop.nodes[gateway].counts("tillwire_gateway_forwarded_total", &[("outcome", "answered")]).await;
        assert!(forwarded >= 2.0, "{gateway}: {forwarded}");
    }

    // With no gateway left, whoever comes is told to come again.
    for gateway in ["gateway-1", "gateway-2"] {
        shop.nodes.get_mut(gateway).unwrap().kill().await;
    }
    let refused = shop.send("GET", "/socket.io/?EIO=4&transport=polling", vec![]).await;
    refused.refused(503, "busy");
    assert_eq!(refused.headers["retry-after"], "1");
    shop.sell("still").await;
}

#[tokio::test]
async fn the_balancer_says_whose_a_connection_is() {
    let shop = Shop::open().await;
    let handshake = async |from: u8, claims: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, from], 0).into()).unwrap();
        let mut stream = socket.connect(shop.door).await.unwrap();
        let head = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: tillwire\r\nconnection: close";
        stream.write_all(format!("{head}\r\nx-forwarded-for: {claims}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    for n in 0..SOCKETS_PER_ADDRESS {
        assert_eq!(handshake(2, &format!("203.0.113.{n}")).await, "200", "{n}");
    }
    // What it says of itself is not believed. Gateways count each for itself.
    let mut more = 0;
    while handshake(2, &format!("198.51.100.{more}")).await != "429" {
        more += 1;
        assert!(more <= SOCKETS_PER_ADDRESS, "it was never refused");
    }
    for other in 3..10 {
        assert_eq!(handshake(other, "127.0.0.2").await, "200", "127.0.0.{other} is another");
    }
}

#[tokio::test]
async fn a_pooled_connection_answers_everybody_with_their_own() {
    const CLIENTS: i64 = 30; // More than the pooler has connections to the server.
    const QUERIES: i64 = 20;
    let (values, _) = values();
    let services = Deployed::new(values);
    services.start("postgres").await;
    services.start("pgbouncer").await;
    let urls = env(&services, "api");
    for (role, variable) in [("tillwire_app", "TILLWIRE_DATABASE_URL"), ("tillwire_feed", "TILLWIRE_FEED_DATABASE_URL")]
    {
        let pool = pool::open(&urls[variable], u32::try_from(CLIENTS).unwrap()).unwrap();
        let mut logged_in = Vec::new(); // One after the other: each costs a moment of hashing.
        for _ in 0..CLIENTS {
            logged_in.push(pool.acquire().await.unwrap());
        }
        drop(logged_in);
        // What the hub asks for at connect and the pooler does not pass on.
        let bounds = "select current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' \
                      || current_setting('idle_in_transaction_session_timeout')";
        assert_eq!(sqlx::query_scalar::<_, String>(bounds).fetch_one(&pool).await.unwrap(), "10s 3s 2s");

        let clients = (0..CLIENTS).map(|client| {
            let pool = pool.clone();
            async move {
                for query in 0..QUERIES {
                    // Few texts, so that statements are shared, prepared and used by many, in and out of transactions.
                    let text = sqlx::AssertSqlSafe(format!("select $1::bigint * 1000 + {}", query % 8));
                    let asked = client * QUERIES + query;
                    let select = sqlx::query_scalar::<_, i64>(text).bind(asked);
                    let answer = if query % 2 == 0 {
                        select.fetch_one(&pool).await.unwrap()
                    } else {
                        let mut tx = pool::begin(&pool).await.unwrap();
                        let answer = select.fetch_one(&mut *tx).await.unwrap();
                        tx.commit().await.unwrap();
                        answer
                    };
                    assert_eq!(answer, asked * 1000 + query % 8);
                }
            }
        });
        futures_util::future::join_all(clients).await;
        let connections = format!("select count(*) from pg_stat_activity where usename = '{role}'");
        let connections = services.psql_as_superuser(&["-c", &connections]);
        let connections: i64 = connections.parse().unwrap();
        assert!((1..CLIENTS).contains(&connections), "{connections} connections for {CLIENTS} clients");
        pool.close().await;
    }
}

#[tokio::test]
async fn postgres_lets_in_whom_its_files_name() {
    let (values, _) = values();
    let services = Deployed::new(values.clone());
    services.start("postgres").await;
    let place = services.address("postgres", 5432);
    let enters = async |role: &str, password: &str, database: &str| {
        let url = format!("postgres://{role}:{password}@{place}/{database}");
        let pool = pool::open_for_owner(&url).unwrap();
        pool.acquire().await.map(drop).map_err(|error| error.to_string())
    };
    for (role, variable) in [
        ("tillwire_app", "APP_PASSWORD"),
        ("tillwire_feed", "FEED_PASSWORD"),
        ("tillwire_relay", "RELAY_PASSWORD"),
        ("tillwire_migrate", "MIGRATE_PASSWORD"),
    ] {
        assert_eq!(enters(role, &values[variable], "tillwire").await, Ok(()), "{role}");
        assert!(enters(role, &values[variable], "postgres").await.is_err(), "{role} in another database");
        assert!(enters(role, "wrong", "tillwire").await.is_err(), "{role} with another password");
    }
    assert_eq!(enters("pgbouncer", &values["PGBOUNCER_PASSWORD"], "postgres").await, Ok(()));
    assert!(enters("pgbouncer", &values["PGBOUNCER_PASSWORD"], "tillwire").await.is_err());
    assert!(enters("postgres", &values["POSTGRES_PASSWORD"], "postgres").await.is_err(), "the superuser from outside");

    // The pooler may look up whom it serves, and only as itself.
    let secrets = "set role pgbouncer; select name, left(secret, 13) from pgbouncer.secret_of('ROLE')";
    let secret = |role: &str| services.psql_as_superuser(&["-q", "-c", &secrets.replace("ROLE", role)]);
    assert_eq!(secret("tillwire_app"), "tillwire_app|SCRAM-SHA-256");
    assert_eq!(secret("tillwire_feed"), "tillwire_feed|SCRAM-SHA-256");
    for role in ["postgres", "tillwire_migrate", "tillwire_relay", "pgbouncer"] {
        assert_eq!(secret(role), "", "{role}");
    }
    let others = "select has_function_privilege('tillwire_app', 'pgbouncer.secret_of(name)', 'execute')";
    assert_eq!(services.psql_as_superuser(&["-c", others]), "f");
}

#[tokio::test]
async fn redis_is_for_news_and_for_nothing_else() {
    let (values, _) = values();
    let services = Deployed::new(values.clone());
    services.start("redis").await;
    let mut redis = TcpStream::connect(services.address("redis", 6379)).await.unwrap();
    let mut says = async |command: &str| {
        redis.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let length = timeout(PATIENCE, redis.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(says("PING").await.starts_with("-NOAUTH"));
    assert!(says("AUTH default anything").await.starts_with("-WRONGPASS"));
    assert!(says("AUTH tillwire wrong").await.starts_with("-WRONGPASS"));
    assert_eq!(says(&format!("AUTH tillwire {}", values["REDIS_PASSWORD"])).await, "+OK\r\n");
    assert_eq!(says("PUBLISH tillwire:live:m entry").await, ":0\r\n");
    for refused in ["PUBLISH other entry", "SET tillwire:live:m 1", "CONFIG GET *", "FLUSHALL", "ACL LIST", "KEYS *"] {
        assert!(says(refused).await.starts_with("-NOPERM"), "{refused}");
    }
    assert!(says("SUBSCRIBE tillwire:live:m").await.contains("subscribe"));
}

#[tokio::test]
async fn rabbitmq_lets_in_one_user_to_one_place() {
    let (values, _) = values();
    let services = Deployed::new(values.clone());
    services.start("rabbitmq").await;
    let place = services.address("rabbitmq", 5672);
    let enters = async |user: &str, password: &str, vhost: &str| {
        let url = format!("amqp://{user}:{password}@{place}/{vhost}");
        timeout(PATIENCE, Connection::connect(&url, ConnectionProperties::default())).await.unwrap()
    };
    let password = &values["RABBITMQ_PASSWORD"];
    assert!(enters("guest", "guest", "tillwire").await.is_err(), "the default user");
    assert!(enters("guest", "guest", "%2f").await.is_err(), "the default user");
    assert!(enters("tillwire", "wrong", "tillwire").await.is_err());
    assert!(enters("tillwire", password, "%2f").await.is_err(), "another virtual host");

    let connection = enters("tillwire", password, "tillwire").await.unwrap();
    let declares = async |name: &str| {
        let channel = connection.create_channel().await.unwrap(); // A refusal ends it.
        let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await.is_ok()
    };
    assert!(declares("tillwire.anything").await);
    assert!(!declares("anything").await);
}
