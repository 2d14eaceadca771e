//! Screens that read slowly, or not at all: what they are given, what they cost, when they are gone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::support::account::{Noted, merged_in};
use super::support::clients::{Client, StockScreen, Transports};
use super::support::line::{End, Line};
use super::support::process::{TillwireProcess, environment, loopback};
use super::support::screen::{Heard, Screen};
use super::support::services::postgres::{Database, Postgres};
use super::support::services::proxy::Proxy;
use super::support::till::Till;

const PATIENCE: Duration = Duration::from_secs(60);
const KINDS: [&str; 2] = ["sale.completed", "stock.changed"];
const CHANNELS: [&str; 2] = ["sales", "stock"];
/// What a slow one reads in a second.
const SLOW_BYTES: u32 = 1_024;
/// More than the kernel ever holds for one connection of a node.
const KERNEL_BYTES_MAX: u64 = 96 * 1024;
const SCREENS: &str = "tillwire_gateway_screens";
const BEHIND: &str = "tillwire_gateway_behind_screens";
const SESSIONS: &str = "tillwire_gateway_sessions";
const CLOSED: &str = "tillwire_gateway_closed_total";

/// A node of its own and a shop on it.
struct Site {
    hub: TillwireProcess,
    till: Till,
    sold: u32,
    _database: Database,
}

impl Site {
    async fn open(settings: &[(&'static str, &str)]) -> Self {
        let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
        let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
        env.insert("TILLWIRE_DATABASE_CONNECTIONS", "8".to_owned());
        env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let hub = TillwireProcess::start(&["serve"], &env).await;
        let till = Till::open(hub.public, &signer, 100_000).await;
        Self { hub, till, sold: 0, _database: database }
    }

    fn auth(&self, channels: &[&str]) -> Value {
        json!({ "token": self.till.token, "channels": channels })
    }

    async fn screen(&self, channels: &[&str]) -> Screen {
        let mut screen = Screen::enters(self.hub.public, self.auth(channels)).await;
        screen.hears_until("caught_up").await;
        screen
    }

    /// Sells one piece. Answers the sale's position.
    async fn sells(&mut self) -> String {
        self.sold += 1;
        let answer = self.till.sell(&format!("sale-{}", self.sold)).await.expect("an answer");
        answer.created();
        answer.position()
    }

    /// Sells so many, which a screen that keeps up hears one by one.
    async fn sells_before(&mut self, fast: &mut Screen, sales: u32) {
        for _ in 0..sales {
            self.sells().await;
            fast.hears("sale.completed").await;
            fast.hears("stock.changed").await;
        }
    }

    /// The events of these types after a position.
    async fn journal_after(&self, after: &str, kinds: &[&str]) -> Vec<(String, Value)> {
        let all = self.till.owner().journal("limit=500").await.into_iter();
        all.map(|it| (it["position"].as_str().unwrap().to_owned(), it["event"].clone()))
            .filter(|(position, _)| seq(position) > seq(after))
            .filter(|(_, event)| kinds.contains(&event["type"].as_str().unwrap()))
            .collect()
    }

    async fn counted(&mut self, name: &str, labels: &[(&str, &str)], count: f64) {
        self.hub
            .until(&format!("{name} {labels:?} is {count}"), async |hub| hub.counts(name, labels).await == count)
            .await;
    }

    /// The most that the kernel holds for any connection of the node.
    fn kernel_bytes(&self) -> u64 {
        let port = format!(":{:04X}", self.hub.public.port());
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's connections");
        let queued = table.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let queue = fields.next().filter(|local| local.ends_with(&port)).and_then(|_| fields.nth(2))?;
            u64::from_str_radix(queue.split_once(':')?.0, 16).ok()
        });
        queued.max().unwrap_or_default()
    }
}

fn seq(position: &str) -> u64 {
    position.split(['.', '-']).next().unwrap().parse().unwrap()
}

fn noted(heard: &[Heard]) -> Vec<Noted> {
    let noted = |it: &Heard| {
        let position = it.position.clone()?;
        match it.name.as_str() {
            "ready" => Some(Noted::Began(position)),
            _ => it.body.get("seq").map(|_| Noted::Heard(position, it.body.clone())),
        }
    };
    heard.iter().filter_map(noted).collect()
}

/// Reads on at the pace of somebody slow, until it is over.
async fn reads_slowly(screen: &mut Screen, heard: &mut Vec<Heard>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let before = screen.packets.len();
        heard.push(screen.next().await);
        let bytes: usize = screen.packets[before..].iter().map(String::len).sum();
        sleep(Duration::from_secs_f64(bytes as f64 / f64::from(SLOW_BYTES))).await;
    }
}

/// Reads whatever comes, up to this position.
async fn reads_to(screen: &mut Screen, heard: &mut Vec<Heard>, last: &str) {
    while heard.last().is_none_or(|heard| heard.position.as_deref() != Some(last)) {
        heard.push(screen.next().await);
    }
}

#[tokio::test]
async fn g5_a_reader_of_a_kilobyte_a_second_stays_loses_nothing_and_delays_nobody() {
    // Whoever has not answered a ping for half a minute is cut.
    let mut site = Site::open(&[("TILLWIRE_PING_SECONDS", "10")]).await;
    let mut fast = site.screen(&CHANNELS).await;
    // One has hardly any room for what it does not read. For others there is much on the way, behind a slow line:
    // somebody else's client, on either transport.
    let mut narrow = Screen::enters_narrow(site.hub.public, site.auth(&CHANNELS)).await;
    let line = Proxy::to(site.hub.public.port()).await;
    line.throttle(Some(SLOW_BYTES));
    let start = site.till.journal().await.last().unwrap()["position"].as_str().unwrap().to_owned();
    let comes = async |transports| {
        let (start, near) = (Some(&*start), loopback(line.port));
        let mut client =
            StockScreen::of(Client::JavaScript, start, near, &site.till.token, &CHANNELS, transports).await;
        client.hears("caught_up").await;
        client
    };
    let (mut websocket, mut polling) = tokio::join!(comes(Transports::Websocket), comes(Transports::Polling));

    // At once what takes them minutes, and then more than they can take.
    let (over, mut heard, mut kernel) = (AtomicBool::new(false), Vec::new(), 0);
    let selling = async {
        site.sells_before(&mut fast, 150).await;
        let until = Instant::now() + Duration::from_secs(40);
        while Instant::now() < until {
            site.sells_before(&mut fast, 1).await;
            kernel = kernel.max(site.kernel_bytes());
            sleep(Duration::from_millis(250)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let all = async { tokio::join!(selling, reads_slowly(&mut narrow, &mut heard, &over)) };
    websocket.listens_while(polling.listens_while(all)).await;
    assert_eq!(site.hub.counts(BEHIND, &[]).await, 3.0);
    assert_eq!(site.hub.counts(SCREENS, &[]).await, 4.0);
    assert!((1..=KERNEL_BYTES_MAX).contains(&kernel), "the kernel held {kernel} bytes for one of them");

    for reason in ["stalled", "ping_timeout"] {
        assert_eq!(site.hub.counts(CLOSED, &[("reason", reason)]).await, 0.0, "nobody was cut");
    }

    // The line is good again.
    line.throttle(None);
    let journal = site.journal_after(&start, &KINDS).await;
    let last = journal.last().unwrap().0.clone();
    let comes_to_the_end = async |client: &mut StockScreen| {
        while client.positions().last() != Some(&last) {
            client.next().await;
        }
    };
    tokio::join!(
        reads_to(&mut narrow, &mut heard, &last),
        comes_to_the_end(&mut websocket),
        comes_to_the_end(&mut polling),
    );
    let mut merged = merged_in(&noted(&heard), &journal);
    for client in [&websocket, &polling] {
        assert!(client.happened.iter().all(|it| it["on"] != "disconnect"), "it stayed");
        merged += merged_in(&client.noted(), &journal);
    }
    site.counted(BEHIND, &[], 0.0).await;
    site.counted("tillwire_gateway_merged_total", &[], merged as f64).await;
    assert!(merged > 0);
}

#[tokio::test]
async fn g5_a_slow_screen_of_levels_is_given_the_newest_and_is_soon_live_again() {
    let mut site = Site::open(&[]).await;
    let mut fast = site.screen(&CHANNELS).await;
    let line = Proxy::to(site.hub.public.port()).await;
    let mut board = Screen::enters(loopback(line.port), site.auth(&["stock"])).await;
    let mut heard = board.hears_until("caught_up").await;
    let start = board.position.clone().unwrap();
    line.throttle(Some(SLOW_BYTES));
    // The number of the last entry of all, once it is known.
    let last = AtomicU64::new(u64::MAX);
    let selling = async {
        // What is under way stays as it is.
        while site.hub.counts(BEHIND, &[]).await == 0.0 {
            site.sells_before(&mut fast, 10).await;
            assert!(site.sold < 2_000, "it never fell behind");
        }
        // What waits is made new. At this pace it would be minutes.
        site.sells_before(&mut fast, 300).await;
        line.throttle(Some(16 * SLOW_BYTES));
        let before = site.sells().await;
        last.store(seq(&before) + 1, Ordering::Relaxed);
        site.sells().await;
    };
    let listening = async {
        while heard.last().is_none_or(|heard| heard.position.as_deref().map(seq) != Some(last.load(Ordering::Relaxed)))
        {
            heard.push(board.next().await);
        }
    };
    tokio::join!(selling, listening);
    site.counted(BEHIND, &[], 0.0).await;
    let journal = site.journal_after(&start, &["stock.changed"]).await;
    let merged = merged_in(&noted(&heard), &journal);
    assert!(merged > 20, "{merged} of {} were merged", journal.len());
    let newest = heard.iter().rev().find(|heard| heard.name == "stock.changed").unwrap();
    assert_eq!(newest.data()["on_hand"], site.till.on_hand().await);
}

/// How a connection ends, whatever comes before that; nothing is answered.
async fn ends_mutely(line: &mut Line) -> End {
    loop {
        if let Err(end) = line.next().await {
            return end;
        }
    }
}

/// A screen of this shop that is live, as a bare line: nobody answers pings on it.
async fn mute(site: &Site, polls: bool) -> (Line, String) {
    let mut line = match polls {
        false => {
            let stream = TcpStream::connect(site.hub.public).await.unwrap();
            Line::websocket(stream, site.hub.public).await.unwrap()
        }
        true => Line::polling(site.hub.public).await.unwrap(),
    };
    line.say(format!("40{}", site.auth(&CHANNELS))).await;
    loop {
        let packet = line.next().await.unwrap();
        if let Some(caught_up) = packet.strip_prefix("42").filter(|packet| packet.contains("caught_up")) {
            let caught_up: Value = serde_json::from_str(caught_up).unwrap();
            return (line, caught_up[2].as_str().unwrap().to_owned());
        }
    }
}

/// Whoever was cut comes back with the position that it has, and is sent exactly what it missed.
async fn returns(site: &Site, after: &str) {
    let mut auth = site.auth(&CHANNELS);
    auth["after"] = after.into();
    let mut screen = Screen::enters(site.hub.public, auth).await;
    let missed = screen.catches_up().await;
    assert!(missed.len() > 2, "something happened meanwhile");
    merged_in(&noted(&missed), &site.journal_after(after, &KINDS).await);
}

#[tokio::test]
async fn g5_whoever_stops_reading_is_gone_at_the_deadline_and_nobody_is_delayed() {
    let mut site = Site::open(&[]).await;
    let mut fast = site.screen(&CHANNELS).await;
    let mut stopped = Screen::enters_narrow(site.hub.public, site.auth(&CHANNELS)).await;
    stopped.hears_until("caught_up").await;
    let after = stopped.position.clone().unwrap();
    // Its poll is answered, and nobody reads the answer.
    let (line, _) = mute(&site, true).await;
    let Line::Polling { path, .. } = line else { unreachable!("it polls") };
    let unread = TcpSocket::new_v4().unwrap();
    unread.set_recv_buffer_size(4 * 1024).unwrap();
    let mut unread = unread.connect(site.hub.public).await.unwrap();
    let poll = format!("GET {path} HTTP/1.1\r\nhost: tillwire\r\n\r\n");
    unread.write_all(poll.as_bytes()).await.unwrap();
    site.counted(SCREENS, &[], 3.0).await;

    let stopped_at = Instant::now();
    site.sells_before(&mut fast, 150).await;
    while site.hub.counts(CLOSED, &[]).await < 2.0 {
        assert!(stopped_at.elapsed() < 2 * PATIENCE, "they are still there");
        site.sells_before(&mut fast, 1).await;
        sleep(Duration::from_millis(500)).await;
    }
    // Whatever comes first: that nothing was taken for 30 seconds, or that a ping is not answered.
    let reasons = ["stalled", "ping_timeout"].map(|reason| [("reason", reason)]);
    let counts = [site.hub.counts(CLOSED, &reasons[0]).await, site.hub.counts(CLOSED, &reasons[1]).await];
    assert_eq!(counts[0] + counts[1], 2.0);
    site.counted(SCREENS, &[], 1.0).await;
    site.counted(SESSIONS, &[("transport", "websocket")], 1.0).await;
    site.counted(SESSIONS, &[("transport", "polling")], 0.0).await;
    site.counted(BEHIND, &[], 0.0).await;
    site.sells_before(&mut fast, 1).await;
    returns(&site, &after).await;
    drop((stopped, unread));
}

#[tokio::test]
async fn whoever_stops_reading_an_answer_is_cut_and_a_slow_reader_of_it_gets_all() {
    // Much more than kernels hold of it.
    let asks = "GET /docs/swagger-ui.css HTTP/1.1\r\nhost: tillwire\r\nconnection: close\r\n\r\n";
    let mut site = Site::open(&[]).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let mut stream = socket.connect(site.hub.public).await.unwrap();
        stream.write_all(asks.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    let (mut slow, stopped) = (streams.remove(0), streams.remove(0));
    let (over, mut answer) = (AtomicBool::new(false), Vec::new());
    let reading = async {
        let mut second = [0; SLOW_BYTES as usize];
        while !over.load(Ordering::Relaxed) {
            let bytes = slow.read(&mut second).await.expect("it stays");
            answer.extend_from_slice(&second[..bytes]);
            sleep(Duration::from_secs(1)).await;
        }
    };
    let waiting = async {
        site.counted("tillwire_connections_refused_total", &[("reason", "stalled")], 1.0).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(reading, waiting);
    drop(stopped);
    slow.read_to_end(&mut answer).await.expect("the rest");
    let head = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("a head");
    let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let length: usize = length.parse().expect("a number");
    assert!(length > 100_000 && answer.len() == head + 4 + length, "{} of {length} bytes", answer.len());
}

#[tokio::test]
async fn g5_whoever_answers_no_ping_is_gone_at_the_deadline_and_nobody_is_delayed() {
    let mut site = Site::open(&[("TILLWIRE_PING_SECONDS", "1"), ("TILLWIRE_SOCKETS_PER_TOKEN", "3")]).await;
    let mut fast = site.screen(&CHANNELS).await;
    let (mut websocket, after) = mute(&site, false).await;
    let (mut polling, _) = mute(&site, true).await;
    let fourth = Screen::tries(site.hub.public, site.auth(&CHANNELS)).await.err().expect("no place");
    assert!(matches!(fourth, End::Refused(_)));
    let began = Instant::now();
    let selling = async {
        // It listens and does not answer: what it is sent is read all the while.
        while began.elapsed() < Duration::from_secs(25) {
            site.sells_before(&mut fast, 1).await;
            sleep(Duration::from_millis(500)).await;
        }
    };
    let ending = async { tokio::join!(ends_mutely(&mut websocket), ends_mutely(&mut polling)) };
    tokio::join!(selling, async { timeout(PATIENCE, ending).await.expect("they are cut") });
    site.counted(CLOSED, &[("reason", "ping_timeout")], 2.0).await;
    site.counted(SCREENS, &[], 1.0).await;
    site.counted(SESSIONS, &[], 1.0).await;
    returns(&site, &after).await;
    site.sells_before(&mut fast, 1).await;
}

#[tokio::test]
async fn g5_whoever_opens_and_never_connects_is_gone_at_the_deadline_and_its_place_is_free() {
    let mut site = Site::open(&[("TILLWIRE_SOCKETS_PER_ADDRESS", "3")]).await;
    let mut fast = site.screen(&CHANNELS).await;
    let stream = TcpStream::connect(site.hub.public).await.unwrap();
    let mut websocket = Line::websocket(stream, site.hub.public).await.unwrap();
    let _polling = Line::polling(site.hub.public).await.unwrap(); // It never asks again.
    let fourth = Screen::tries(site.hub.public, site.auth(&CHANNELS)).await.err();
    assert_eq!(fourth, Some(End::TurnedAway(429)));
    let end = async {
        site.sells_before(&mut fast, 5).await;
        timeout(PATIENCE, ends_mutely(&mut websocket)).await.expect("it is cut")
    };
    assert_eq!(end.await, End::Closed(1008));
    site.counted(CLOSED, &[("reason", "connect_timeout")], 2.0).await;
    site.counted(SESSIONS, &[], 1.0).await;
    let again = [site.screen(&CHANNELS).await, site.screen(&CHANNELS).await];
    site.sells_before(&mut fast, 1).await;
    for mut screen in again {
        screen.hears("sale.completed").await;
    }
}
