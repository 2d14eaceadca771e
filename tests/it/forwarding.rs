//! No sticky sessions: whichever gateway a request comes to, the one that its session lives on answers it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tillwire::node::Faces;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::support::clients::{Crowd, Member};
use super::support::hub::{Answer, Shop, TestHub, request};
use super::support::process::{Env, TillwireProcess, environment, loopback};
use super::support::services::deployed::Deployed;
use super::support::services::free_port;
use super::support::services::postgres::Postgres;
use super::support::services::proxy::Proxy;

/// How long a fact may take to come about before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const SCREENS_ONLY: Faces = Faces::GATEWAY;
const CLIENTS: usize = 200;
const POLLING_CLIENTS: usize = 20;
const GATEWAYS: [&str; 2] = ["gateway-1", "gateway-2"];

/// What a gateway of this hub is started with.
fn gateway_env(hub: &TestHub, listen: SocketAddr) -> Env {
    let (mut env, _) = environment(&hub.database.url("tillwire_app"), &hub.database.url("tillwire_feed"));
    env.insert("TILLWIRE_TOKEN_KEYS", hub.token_keys());
    env.insert("TILLWIRE_LISTEN", listen.to_string());
    env
}

async fn gateway(hub: &TestHub, listen: SocketAddr) -> TillwireProcess {
    TillwireProcess::start(&["gateway"], &gateway_env(hub, listen)).await
}

async fn two_gateways(hub: &TestHub) -> [TillwireProcess; 2] {
    [gateway(hub, loopback(free_port())).await, gateway(hub, loopback(free_port())).await]
}

/// Two gateways, and the balancer of `deploy/` before them.
struct Door {
    balancer: Deployed,
    gateways: [TillwireProcess; 2],
    address: SocketAddr,
}

impl Door {
    async fn open(hub: &TestHub) -> Self {
        let names = ["POSTGRES_PASSWORD", "MIGRATE_PASSWORD", "APP_PASSWORD", "FEED_PASSWORD", "PGBOUNCER_PASSWORD"];
        let names =
            names.into_iter().chain(["REDIS_PASSWORD", "RABBITMQ_PASSWORD", "TOKEN_KEYS_FILE", "VAULT_KEY_FILE"]);
        let balancer = Deployed::new(names.map(|name| (name, "not-used".to_owned())).collect::<BTreeMap<_, _>>());
        let [one, other] = GATEWAYS.map(|name| balancer.address(name, 8080));
        let gateways = [gateway(hub, one).await, gateway(hub, other).await];
        balancer.start("haproxy").await;
        let (address, started) = (balancer.address("haproxy", 8080), Instant::now());
        // Until it sends requests to both of them.
        let metrics = balancer.address("haproxy", 8405);
        loop {
            let told = request(metrics, "GET", "/metrics", &[], vec![]).await.expect("the balancer's metrics");
            let told = String::from_utf8(told.body).expect("UTF-8");
            let up = |name| {
                told.contains(&format!(r#"haproxy_server_status{{proxy="gateways",server="{name}",state="UP"}} 1"#))
            };
            if GATEWAYS.into_iter().all(up) {
                return Self { balancer, gateways, address };
            }
            assert!(started.elapsed() < PATIENCE, "the balancer does not see both gateways");
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn counts(&self, name: &str, labels: &[(&str, &str)]) -> [usize; 2] {
        let [one, other] = &self.gateways;
        [one.counts(name, labels).await as usize, other.counts(name, labels).await as usize]
    }
}

/// The node that a session id names.
fn node_of(sid: &str) -> SocketAddr {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(sid).expect("base64");
    let ip: [u8; 4] = bytes[2..6].try_into().expect("an IPv4 address");
    (ip, u16::from_be_bytes([bytes[6], bytes[7]])).into()
}

fn seq(position: &str) -> u64 {
    position.split(['.', '-']).next().and_then(|seq| seq.parse().ok()).expect("a position")
}

/// Each has heard everything since it came, in order, once.
async fn all_heard_everything(crowd: &mut Crowd, shop: &Shop<'_>) -> Vec<Member> {
    let journal = shop.journal_of(&["sale.completed"]).await;
    let last = journal.last().map(|(place, _)| place.clone());
    let members = crowd.until("heard the last sale", |one| one.heard.last() == last.as_ref()).await;
    for one in &members {
        let start = seq(one.start.as_deref().expect("it was ready"));
        let wanted: Vec<&String> = journal.iter().map(|(place, _)| place).filter(|it| seq(it) > start).collect();
        assert_eq!(one.heard.iter().collect::<Vec<_>>(), wanted);
    }
    members
}

#[tokio::test]
async fn g2_two_hundred_stock_clients_come_and_stay_through_round_robin_and_a_node_that_dies_takes_only_its_own() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let mut door = Door::open(&hub).await;
    let mut crowd = Crowd::comes(door.address, &shop.owner, &["sales"], CLIENTS, json!({})).await;
    let upgraded = |one: &Member| one.connected && one.transport.as_deref() == Some("websocket") && one.start.is_some();
    crowd.until("upgraded", upgraded).await;
    for _ in 0..30 {
        shop.sells(&bread, 7_500).await;
        sleep(POLL_INTERVAL).await; // A till that sells; what is waited for comes below.
    }
    let members = all_heard_everything(&mut crowd, &shop).await;
    for one in &members {
        assert_eq!((one.recovered.as_slice(), one.left.len(), one.errors.len()), (&[false][..], 0, 0), "{one:?}");
    }

    // Whose are they? By their ids, and by what the nodes count.
    let dies = door.gateways[1].public;
    let lives_there = members.iter().filter(|one| node_of(&one.sids[0]) == dies).count();
    let sessions = [CLIENTS - lives_there, lives_there];
    let started = Instant::now();
    while door.counts("tillwire_gateway_sessions", &[("transport", "websocket")]).await != sessions {
        assert!(started.elapsed() < PATIENCE, "not {sessions:?}");
        sleep(POLL_INTERVAL).await;
    }
    let tunnels = door.counts("tillwire_gateway_tunnels", &[]).await;
    assert!(sessions.into_iter().chain(tunnels).all(|count| count > CLIENTS / 10), "{sessions:?} {tunnels:?}");

    door.gateways[1].kill().await;
    // Cut are those who live there, and those who came in there.
    let cut = lives_there + tunnels[1];
    for _ in 0..10 {
        shop.sells(&bread, 7_500).await;
    }
    crowd
        .until_all("as many cut as there have to be", |all| {
            all.iter().filter(|one| !one.left.is_empty()).count() == cut
        })
        .await;
    crowd.until("back", upgraded).await;
    for _ in 0..5 {
        shop.sells(&bread, 7_500).await;
    }
    let members = all_heard_everything(&mut crowd, &shop).await;
    let (own, others): (Vec<_>, Vec<_>) = members.iter().partition(|one| node_of(&one.sids[0]) == dies);
    assert!(own.iter().all(|one| !one.left.is_empty()));
    assert_eq!(others.iter().filter(|one| !one.left.is_empty()).count(), tunnels[1]);
    for one in members.iter().filter(|one| !one.left.is_empty()) {
        assert_eq!((one.left.len(), one.recovered.as_slice()), (1, &[false, true][..]), "{one:?}");
    }
}

#[tokio::test]
async fn clients_that_only_poll_are_served_through_round_robin() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "1000").await;
    let door = Door::open(&hub).await;
    let options = json!({ "transports": ["polling"] });
    let mut crowd = Crowd::comes(door.address, &shop.owner, &["sales"], POLLING_CLIENTS, options).await;
    crowd.until("ready", |one| one.start.is_some()).await;
    for _ in 0..30 {
        shop.sells(&bread, 7_500).await;
        sleep(POLL_INTERVAL).await; // Or few polls would do for all of it.
    }
    for one in all_heard_everything(&mut crowd, &shop).await {
        assert_eq!((one.connected, one.sids.len(), one.left.len(), one.errors.len()), (true, 1, 0, 0), "{one:?}");
    }
    let forwarded = door.counts("tillwire_gateway_forwarded_total", &[("outcome", "answered")]).await;
    assert!(forwarded.into_iter().all(|count| count > POLLING_CLIENTS), "{forwarded:?}");
    // Whoever reads the log of the balancer learns of no session whose polls they could answer.
    let log = door.balancer.log("haproxy");
    assert!(log.contains(r#""GET /socket.io/ HTTP/1.1""#) && !log.contains("sid="), "{log}");
}

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

async fn opens(node: SocketAddr) -> String {
    let answer = timeout(PATIENCE, request(node, "GET", POLLING, &[], vec![])).await.expect("in time");
    sid(&answer.expect("a greeting")).to_owned()
}

fn sid(greeting: &Answer) -> String {
    assert_eq!(greeting.status, 200, "{greeting:?}");
    let greeting: Value = serde_json::from_slice(&greeting.body[1..]).expect("a greeting");
    greeting["sid"].as_str().expect("a session id").to_owned()
}

async fn polls(node: SocketAddr, sid: &str) -> Answer {
    let path = format!("{POLLING}&sid={sid}");
    timeout(PATIENCE, request(node, "GET", &path, &[], vec![])).await.expect("an answer in time").expect("an answer")
}

async fn posts(node: SocketAddr, sid: &str, packets: &str) -> Answer {
    let path = format!("{POLLING}&sid={sid}");
    timeout(PATIENCE, request(node, "POST", &path, &[], packets.into()))
        .await
        .expect("an answer in time")
        .expect("an answer")
}

#[track_caller]
fn is_unknown(answer: &Answer) {
    assert_eq!((answer.status, answer.json()["code"].as_u64()), (400, Some(1)), "{answer:?}");
}

fn auth(shop: &Shop<'_>) -> String {
    format!("40{}", json!({ "token": shop.owner, "channels": ["sales"] }))
}

/// Takes a session over to a WebSocket that comes in at this node.
async fn upgrades(node: SocketAddr, sid: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(node).await.expect("a gateway");
    let url = format!("ws://{node}/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("a WebSocket");
    socket.send(Message::text("2probe")).await.expect("a probe");
    assert_eq!(hears(&mut socket).await, Message::text("3probe"));
    socket.send(Message::text("5")).await.expect("an upgrade");
    socket
}

async fn hears(socket: &mut WebSocketStream<TcpStream>) -> Message {
    let heard = timeout(PATIENCE, socket.next()).await.expect("a message in time");
    heard.expect("a message").expect("a message")
}

/// How many connections to a port are open, in this machine's own words.
fn connections_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let open = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[2].ends_with(&format!(":{port:04X}")) && words[3] == "01"
    };
    table.lines().skip(1).filter(open).count()
}

async fn until(what: &str, fact: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !fact().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

#[tokio::test]
async fn a_session_is_served_by_its_own_node_whichever_is_asked_over_ipv4_and_ipv6() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let bread = shop.stocked("roti", 7_500, "10").await;
    let v6: SocketAddr = format!("[::1]:{}", free_port()).parse().unwrap();
    let nodes = [gateway(&hub, loopback(free_port())).await, gateway(&hub, v6).await];
    let [one, other] = [nodes[0].public, nodes[1].public];
    for (own, asked) in [(one, other), (other, one)] {
        let sid = opens(own).await;
        let posted = posts(asked, &sid, &auth(&shop)).await;
        assert_eq!((posted.status, posted.body.as_slice()), (200, &b"ok"[..]));
        let polled = polls(asked, &sid).await;
        assert!(
            polled.body.starts_with(b"40{") && polled.headers["content-type"].as_bytes().starts_with(b"text/plain")
        );

        // Whose page may ask is for the session's own node to say: it sees the host that was asked, and the origin.
        let path = format!("{POLLING}&sid={sid}");
        let from =
            async |origin: &str| request(asked, "POST", &path, &[("origin", origin)], b"3".to_vec()).await.unwrap();
        assert_eq!(from("http://elsewhere.example").await.status, 403);
        let (own_page, answer) = (format!("http://{asked}"), from(&format!("http://{asked}")).await);
        assert_eq!(
            (answer.status, answer.headers["access-control-allow-origin"].to_str().unwrap()),
            (200, own_page.as_str())
        );

        let mut socket = upgrades(asked, &sid).await;
        shop.sells(&bread, 7_500).await;
        while !hears(&mut socket).await.into_text().unwrap().contains("sale.completed") {}

        // What is too large for it, it refuses, and ends the session.
        let sid = opens(own).await;
        let answer = posts(asked, &sid, &"4".repeat(200_000)).await;
        assert!([400, 413].contains(&answer.status), "{answer:?}");
        is_unknown(&polls(asked, &sid).await);
    }
    for node in nodes {
        assert!(node.counts("tillwire_gateway_forwarded_total", &[("outcome", "answered")]).await >= 4.0);
        assert_eq!(node.counts("tillwire_gateway_forwarded_total", &[("outcome", "upgraded")]).await, 1.0);
    }
}

#[tokio::test]
async fn a_poll_that_is_aborted_on_its_way_is_aborted_where_its_session_lives() {
    let hub = TestHub::start().await;
    let [own, asked] = two_gateways(&hub).await;
    let sid = opens(own.public).await;
    until("the session ended", async || {
        // Dropped a moment later, by when it has mostly got there; if not, the next one will have.
        let mut poll = TcpStream::connect(asked.public).await.unwrap();
        let head = format!("GET {POLLING}&sid={sid} HTTP/1.1\r\nhost: x\r\n\r\n");
        poll.write_all(head.as_bytes()).await.unwrap();
        let _ = timeout(POLL_INTERVAL, poll.readable()).await;
        drop(poll);
        own.counts("tillwire_gateway_closed_total", &[("reason", "poll_aborted")]).await > 0.0
    })
    .await;
    assert!(asked.counts("tillwire_gateway_forwarded_total", &[("outcome", "aborted")]).await > 0.0);
    is_unknown(&polls(own.public, &sid).await);
}

#[tokio::test]
async fn a_made_up_session_id_has_nobody_connect_anywhere() {
    let hub = TestHub::start().await;
    let other = hub.node(SCREENS_ONLY, &[]).await;
    let target = TcpListener::bind("127.0.0.1:0").expect("a listener");
    target.set_nonblocking(true).expect("a listener that does not wait");
    let port = target.local_addr().expect("an address").port().to_be_bytes();
    let real = BASE64_URL_SAFE_NO_PAD.decode(opens(other.address).await).expect("base64");
    let made_up = |key: [u8; 2], mark: u8| {
        let mut bytes = real.clone();
        bytes[..2].copy_from_slice(&key);
        bytes[6..8].copy_from_slice(&port);
        *bytes.last_mut().expect("a byte") ^= mark;
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    };
    let own_key = [real[0], real[1]];
    for sid in [made_up(own_key, 0), made_up(own_key, 1), made_up([0, 0], 0), made_up([127, 255], 0)] {
        is_unknown(&polls(hub.address, &sid).await);
        is_unknown(&posts(hub.address, &sid, "3").await);
    }
    let knocked = target.accept().map(|(_, from)| from).map_err(|error| error.kind());
    assert_eq!(knocked, Err(ErrorKind::WouldBlock));
    // The real one is still good, at either node.
    assert_eq!(posts(hub.address, &BASE64_URL_SAFE_NO_PAD.encode(&real), "3").await.status, 200);
}

#[tokio::test]
async fn a_gateway_that_does_not_know_the_keys_yet_turns_clients_away_and_lets_them_in_later() {
    let mut proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    let hub = TestHub::start().await;
    proxy.refuse().await;
    let node = hub.node_through(proxy.port, SCREENS_ONLY, &[]).await;
    let turned_away = request(node.address, "GET", POLLING, &[], vec![]).await.unwrap();
    assert_eq!((turned_away.status, &turned_away.json()["code"]), (503, &json!("no_keys")));
    let retry_after: u64 = turned_away.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&retry_after), "{retry_after}");
    proxy.accept().await;
    until("let in", async || request(node.address, "GET", POLLING, &[], vec![]).await.unwrap().status == 200).await;
    // And the other node knows what it made.
    assert_eq!(posts(hub.address, &opens(node.address).await, "3").await.status, 200);
}

#[tokio::test]
async fn a_poll_under_way_to_a_node_that_dies_is_answered_at_once_and_so_are_later_ones() {
    let hub = TestHub::start().await;
    let [mut own, asked] = two_gateways(&hub).await;
    let sid = opens(own.public).await;
    until("nobody is connected", async || connections_to(own.public.port()) == 0).await;
    let (polled, ()) = tokio::join!(polls(asked.public, &sid), async {
        until("it is on its way", async || connections_to(own.public.port()) > 0).await;
        own.kill().await;
    });
    is_unknown(&polled);
    let late = Instant::now();
    is_unknown(&polls(asked.public, &sid).await);
    is_unknown(&posts(asked.public, &sid, "3").await);
    assert!(late.elapsed() < Duration::from_secs(10), "{:?}", late.elapsed());
    assert!(asked.counts("tillwire_gateway_forwarded_total", &[("outcome", "unreachable")]).await >= 2.0);
}

#[tokio::test]
async fn a_node_that_is_frozen_keeps_nobody_for_ever_and_nobody_elsewhere() {
    // From a ping to the next, until it must be answered, and some time more.
    const BOUND: Duration = Duration::from_secs(1 + 20 + 5);
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let mut env = gateway_env(&hub, loopback(free_port()));
        env.insert("TILLWIRE_PING_SECONDS", "1".to_owned());
        nodes.push(TillwireProcess::start(&["gateway"], &env).await);
    }
    let (own, asked) = (&nodes[0], nodes[1].public);
    let mut sids = Vec::new();
    for _ in 0..50 {
        sids.push(opens(own.public).await);
    }
    own.signal(Signal::SIGSTOP);
    let started = Instant::now();
    let polling = sids[..49].iter().map(|sid| async {
        is_unknown(&polls(asked, sid).await);
        assert!(started.elapsed() < BOUND + Duration::from_secs(10), "{:?}", started.elapsed());
    });
    let upgrading = async {
        let stream = TcpStream::connect(asked).await.unwrap();
        let url = format!("ws://{asked}/socket.io/?EIO=4&transport=websocket&sid={}", sids[49]);
        let refused = tokio_tungstenite::client_async(url, stream).await;
        assert!(refused.is_err() && started.elapsed() < BOUND + Duration::from_secs(10), "{:?}", started.elapsed());
    };
    let others = async {
        let sid = opens(asked).await;
        assert_eq!(posts(asked, &sid, &auth(&shop)).await.status, 200);
        assert!(polls(asked, &sid).await.body.starts_with(b"40{"));
        assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    };
    tokio::join!(futures_util::future::join_all(polling), upgrading, others);
    own.signal(Signal::SIGCONT);
    assert_eq!(nodes[1].counts("tillwire_gateway_forwarded_total", &[("outcome", "late")]).await, 50.0);
    // It is itself again, and so is the way to it.
    let sid = opens(own.public).await;
    assert_eq!(posts(asked, &sid, "3").await.status, 200);
}

#[tokio::test]
async fn nodes_that_come_back_as_each_other_know_no_session_and_send_nothing_in_circles() {
    let hub = TestHub::start().await;
    let ports = [loopback(free_port()), loopback(free_port())];
    let mut sids = Vec::new();
    for address in ports {
        let mut node = gateway(&hub, address).await;
        sids.push(opens(node.public).await);
        node.kill().await;
    }
    let mut nodes = [gateway(&hub, ports[1]).await, gateway(&hub, ports[0]).await];
    for node in &nodes {
        for sid in &sids {
            is_unknown(&polls(node.public, sid).await);
        }
        assert_eq!(node.counts("tillwire_gateway_forwarded_total", &[]).await, 1.0);
    }
    for node in &mut nodes {
        node.kill().await;
    }

    // Told each other's addresses, each is sent on what is asked about the other, by itself, and asks nobody again.
    let mut nodes = Vec::new();
    for (own, wrong) in [(ports[0], ports[1]), (ports[1], ports[0])] {
        let mut env = gateway_env(&hub, own);
        env.insert("TILLWIRE_NODE_ADDRESS", wrong.to_string());
        nodes.push(TillwireProcess::start(&["gateway"], &env).await);
    }
    is_unknown(&polls(nodes[1].public, &opens(nodes[0].public).await).await);
    assert_eq!(nodes[1].counts("tillwire_gateway_forwarded_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_node_that_goes_away_closes_the_websockets_of_others_and_waits_for_their_polls() {
    let hub = TestHub::start().await;
    let shop = hub.merchant("Toko Roti").await;
    let mut env = gateway_env(&hub, loopback(free_port()));
    env.insert("TILLWIRE_PING_SECONDS", "10".to_owned());
    let own = TillwireProcess::start(&["gateway"], &env).await;
    let mut asked = gateway(&hub, loopback(free_port())).await;
    // One who polls, and has nothing to hear until the next ping.
    let polling = opens(own.public).await;
    posts(asked.public, &polling, &auth(&shop)).await;
    while !String::from_utf8(polls(asked.public, &polling).await.body).unwrap().contains("caught_up") {}
    let address = asked.public;
    let mut poll = tokio::spawn(async move { polls(address, &polling).await });
    until("it polls", async || connections_to(address.port()) > 0).await;

    let mut socket = upgrades(asked.public, &opens(own.public).await).await;
    socket.send(Message::text(auth(&shop))).await.expect("CONNECT");
    while !hears(&mut socket).await.into_text().unwrap().contains("caught_up") {}
    asked.terminate();
    let told = tokio::select! {
        told = hears(&mut socket) => told,
        answer = &mut poll => panic!("the poll was waited for first, and not this: {answer:?}"),
    };
    let Message::Close(Some(CloseFrame { code, .. })) = told else { panic!("told something else: {told:?}") };
    assert_eq!(u16::from(code), 1012);
    let answer = poll.await.expect("a poll");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"2"[..]));
    assert!(asked.ended().await.success());
    until("the session ended", async || {
        own.counts("tillwire_gateway_closed_total", &[("reason", "connection_lost")]).await == 1.0
    })
    .await;
}

#[tokio::test]
async fn the_websockets_of_others_leave_a_node_the_descriptors_that_it_needs() {
    /// Few enough to be used up by a test, enough for the node itself.
    const FILES: u32 = 200;
    /// What it keeps for itself, besides connections to its database.
    const KEPT: usize = 96;
    let hub = TestHub::start().await;
    let own = gateway(&hub, loopback(free_port())).await;
    let env = gateway_env(&hub, loopback(free_port()));
    let mut asked = TillwireProcess::spawn_within(FILES, &["gateway"], &env);
    asked.ready().await;
    let mut tunnels = Vec::new();
    let refused = loop {
        let sid = opens(own.public).await;
        let stream = TcpStream::connect(asked.public).await.expect("a gateway");
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket&sid={sid}", asked.public);
        match tokio_tungstenite::client_async(url, stream).await {
            Ok((socket, _)) => tunnels.push((socket, sid)),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => break (answer.status().as_u16(), sid),
            Err(error) => panic!("{error} after {}", tunnels.len()),
        }
        assert!(tunnels.len() < FILES as usize / 2, "more tunnels than descriptors");
    };
    assert!(refused.0 == 503 && tunnels.len() > 8, "{} after {}", refused.0, tunnels.len());
    let open = std::fs::read_dir(format!("/proc/{}/fd", asked.pid())).expect("its descriptors").count();
    assert!(open + KEPT <= FILES as usize, "{open} are open with {} tunnels", tunnels.len());
    // Who was refused goes on polling, by this node as well; and who asks for its health is answered.
    assert_eq!(posts(asked.public, &refused.1, "3").await.status, 200);
    assert_eq!(asked.probe("/readyz").await, Some(200));
    assert_eq!(asked.counts("tillwire_gateway_forwarded_total", &[("outcome", "full")]).await, 1.0);
    // One that leaves makes room for another.
    tunnels.pop();
    until("there is room", async || asked.counts("tillwire_gateway_tunnels", &[]).await < tunnels.len() as f64 + 1.0)
        .await;
    upgrades(asked.public, &opens(own.public).await).await;
}
