//! What a node takes of screens: the next one is refused for a reason that it is told and that is counted, those who are
//! there do not notice, and a place that is left is free again.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tillwire::identity::tokens::Signer;
use tillwire_channels::wire::CHANNELS_MAX;
use tillwire_channels::{OutletId, Role, StaffId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::support::caller::{Caller, bearer};
use super::support::hub::{Answer, request};
use super::support::line::Line;
use super::support::process::{Env, TillwireProcess, environment, run_within};
use super::support::screen::{End, Screen};
use super::support::services::postgres::{Database, Postgres};
use super::support::services::proxy::Proxy;
use super::support::till::Till;

const PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
/// The close codes that say: come back later, and: you broke the rules.
const TRY_AGAIN_LATER: u16 = 1013;
const POLICY: u16 = 1008;
const TOO_LARGE: u16 = 1009;
const TOKEN_EXPIRED: u16 = 4001;
/// When a token expires that is to expire.
const SOON: Duration = Duration::from_secs(3);

/// A node with these limits, and a shop on it.
struct Site {
    hub: TillwireProcess,
    signer: Signer,
    till: Till,
    _database: Database,
}

async fn environment_with(limits: &[(&'static str, &str)]) -> (Database, Env, Signer) {
    let database = Postgres::shared().await.database(async |url| tillwire::schema::up(&url).await.unwrap()).await;
    let (mut env, signer) = environment(&database.url("tillwire_app"), &database.url("tillwire_feed"));
    env.insert("TILLWIRE_DATABASE_CONNECTIONS", "8".to_owned());
    env.extend(limits.iter().map(|(name, value)| (*name, (*value).to_owned())));
    (database, env, signer)
}

impl Site {
    async fn open(limits: &[(&'static str, &str)]) -> Self {
        let (database, env, signer) = environment_with(limits).await;
        Self::of(TillwireProcess::start(&["serve"], &env).await, signer, database).await
    }

    async fn of(hub: TillwireProcess, signer: Signer, database: Database) -> Self {
        let till = Till::open(hub.public, &signer, 1_000).await;
        Self { hub, signer, till, _database: database }
    }

    /// A fresh token for one more member of staff.
    fn token(&self) -> String {
        self.signer.mint(&bearer(self.till.merchant, StaffId::new(), Role::Owner), PATIENCE).expect("a token")
    }

    async fn tries(&self, token: &str) -> Result<Screen, End> {
        Screen::tries(self.hub.public, json!({ "token": token })).await
    }

    async fn tries_polling(&self, token: &str) -> Result<Screen, End> {
        Screen::tries_polling(self.hub.public, json!({ "token": token })).await
    }

    /// Waits until somebody with this token is let in.
    async fn lets_in(&self, token: &str) -> Screen {
        let patient = async {
            loop {
                if let Ok(screen) = self.tries(token).await {
                    return screen;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(PATIENCE, patient).await.expect("a place that is free again")
    }

    async fn counted(&mut self, name: &str, label: (&str, &str), count: f64) {
        let what = format!("{name} {label:?} is {count}");
        self.hub.until(&what, async |hub| hub.counts(name, &[label]).await == count).await;
    }
}

/// It is there, and is answered.
async fn goes_on(screens: &mut [Screen]) {
    for screen in screens {
        let answer = screen.asks("join", json!({ "channels": ["sales"] })).await;
        assert_eq!(answer["ok"], true, "{answer}");
    }
}

fn refused(end: Result<Screen, End>) -> Value {
    match end {
        Err(End::Refused(data)) => data,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("was let in"),
    }
}

#[tokio::test]
async fn a_token_has_its_share_and_a_person_must_see_to_more() {
    let mut site = Site::open(&[("TILLWIRE_SOCKETS_PER_TOKEN", "2")]).await;
    let (shared, other) = (site.token(), site.token());
    let mut there = vec![site.tries(&shared).await.unwrap(), site.tries_polling(&shared).await.unwrap()];
    let why = json!({ "code": "too_many_connections_of_token", "retry": false });
    assert_eq!(refused(site.tries(&shared).await), why);
    assert_eq!(refused(site.tries_polling(&shared).await), why);
    there.push(site.tries(&other).await.expect("another token of the same shop"));
    goes_on(&mut there).await;
    site.counted("tillwire_gateway_refused_total", ("code", "too_many_connections_of_token"), 2.0).await;

    // Who comes back takes its own place: nobody has noticed yet that the old connection is dead.
    let auth = json!({ "token": shared, "pid": there[0].pid() });
    let again = Screen::enters(site.hub.public, auth).await;
    let old = there.remove(0);
    assert_eq!(again.connected["sid"], old.connected["sid"], "recovered");
    assert_eq!(old.ends().await, End::Closed(1000));
    assert_eq!(refused(site.tries(&shared).await), why, "the place is taken all the same");
    drop(again);
    there.push(site.lets_in(&shared).await);
    goes_on(&mut there).await;
}

#[tokio::test]
async fn a_merchant_has_its_share_and_may_try_again() {
    let mut site = Site::open(&[("TILLWIRE_SOCKETS_PER_MERCHANT", "2")]).await;
    let foreign = Till::open(site.hub.public, &site.signer, 10).await;
    let mut there = vec![site.tries(&site.token()).await.unwrap(), site.tries_polling(&site.token()).await.unwrap()];
    assert_eq!(site.tries(&site.token()).await.err(), Some(End::Closed(TRY_AGAIN_LATER)));
    assert_eq!(site.tries_polling(&site.token()).await.err(), Some(End::PollClosed));
    there.push(site.tries(&foreign.token).await.expect("another merchant's"));
    goes_on(&mut there).await;
    site.counted("tillwire_gateway_refused_total", ("code", "too_many_connections_of_merchant"), 2.0).await;
    site.counted("tillwire_gateway_closed_total", ("reason", "too_many_connections_of_merchant"), 2.0).await;
    drop(there.remove(0));
    let token = site.token();
    there.push(site.lets_in(&token).await);
    goes_on(&mut there).await;
}

#[tokio::test]
async fn who_dies_without_a_word_gives_the_place_back() {
    let limits = [("TILLWIRE_SOCKETS_PER_MERCHANT", "1"), ("TILLWIRE_PING_SECONDS", "1")];
    let mut site = Site::open(&limits).await;
    let other = Till::open(site.hub.public, &site.signer, 10).await;
    // One polls no more. The other's connection stays open, but nobody is there who would answer a ping.
    drop(site.tries_polling(&site.till.token).await.unwrap());
    let _mute = site.tries(&other.token).await.unwrap();
    for token in [&site.till.token, &other.token] {
        assert_eq!(site.tries(token).await.err(), Some(End::Closed(TRY_AGAIN_LATER)));
    }
    tokio::join!(site.lets_in(&site.till.token), site.lets_in(&other.token));
    site.counted("tillwire_gateway_closed_total", ("reason", "ping_timeout"), 2.0).await;
}

/// The status of a handshake from a page of another host, on one transport.
async fn handshake_of_page(hub: SocketAddr, transport: &str, origin: &str) -> u16 {
    let path = format!("/socket.io/?EIO=4&transport={transport}");
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let upgrade = upgrade.into_iter().filter(|_| transport == "websocket");
    let headers: Vec<_> = upgrade.chain([("origin", origin)]).collect();
    request(hub, "GET", &path, &headers, vec![]).await.expect("an answer").status
}

#[tokio::test]
async fn a_page_of_another_host_is_refused_unless_it_is_named() {
    let mut site = Site::open(&[("TILLWIRE_ORIGINS", "https://shop.example")]).await;
    let own = format!("http://{}", site.hub.public);
    for (transport, opened) in [("polling", 200), ("websocket", 101)] {
        for (origin, status) in [
            ("https://evil.example", 403),
            ("https://shop.example.evil", 403),
            ("null", 403),
            ("https://shop.example", opened),
            (&own, opened),
        ] {
            assert_eq!(handshake_of_page(site.hub.public, transport, origin).await, status, "{transport} {origin}");
        }
    }
    site.counted("tillwire_gateway_turned_away_total", ("reason", "foreign_origin"), 6.0).await;
}

#[tokio::test]
async fn a_screen_joins_so_many_channels_and_no_more() {
    let mut site = Site::open(&[]).await;
    let channels: Vec<String> = (0..CHANNELS_MAX).map(|_| format!("sales/{}", OutletId::new())).collect();
    for (count, tried) in [(1.0, site.tries(&site.token()).await), (2.0, site.tries_polling(&site.token()).await)] {
        let mut screen = tried.unwrap();
        let answer = screen.asks("join", json!({ "channels": channels })).await;
        assert_eq!((answer["joined"].as_array().unwrap().len(), &answer["denied"]), (CHANNELS_MAX, &json!([])));
        let answer = screen.asks("join", json!({ "channels": ["stock"] })).await;
        assert_eq!(answer["denied"], json!([{ "channel": "stock", "code": "too_many" }]));
        site.counted("tillwire_gateway_denied_total", ("code", "too_many"), count).await;
        screen.asks("leave", json!({ "channels": [channels[0]] })).await;
        let answer = screen.asks("join", json!({ "channels": ["stock"] })).await;
        assert_eq!(answer["denied"], json!([]), "there is room again");
    }
}

/// A handshake by long-polling, as a proxy passes it on.
async fn handshake_for(hub: SocketAddr, client: &str) -> Answer {
    request(hub, "GET", POLLING, &[("x-forwarded-for", client)], vec![]).await.expect("an answer")
}

fn code(answer: &Answer) -> (u16, String) {
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    (answer.status, answer.json()["code"].as_str().expect("a code").to_owned())
}

#[tokio::test]
async fn an_address_has_its_share_and_a_proxy_names_it_only_if_it_is_trusted() {
    let too_many = (429, "too_many_sockets_of_address".to_owned());
    let limits = [("TILLWIRE_SOCKETS_PER_ADDRESS", "2"), ("TILLWIRE_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")];
    let mut site = Site::open(&limits).await;
    for client in ["203.0.113.7", "203.0.113.8, 10.1.2.3"] {
        for _ in 0..2 {
            assert_eq!(handshake_for(site.hub.public, client).await.status, 200);
        }
        assert_eq!(code(&handshake_for(site.hub.public, client).await), too_many);
    }
    let mut there = vec![site.tries(&site.token()).await.unwrap(), site.tries(&site.token()).await.unwrap()];
    assert_eq!(site.tries(&site.token()).await.err(), Some(End::TurnedAway(429)), "of the proxy itself");
    goes_on(&mut there).await;
    site.counted("tillwire_gateway_turned_away_total", ("reason", "too_many_sockets_of_address"), 3.0).await;
    drop(there.pop());
    let token = site.token();
    site.lets_in(&token).await;

    let site = Site::open(&[("TILLWIRE_SOCKETS_PER_ADDRESS", "1")]).await;
    assert_eq!(handshake_for(site.hub.public, "203.0.113.7").await.status, 200);
    assert_eq!(code(&handshake_for(site.hub.public, "203.0.113.8").await), too_many, "anybody could say so");
}

#[tokio::test]
async fn a_storm_is_let_in_at_its_pace_and_the_rest_is_told_to_come_back() {
    let mut site = Site::open(&[("TILLWIRE_HANDSHAKES_PER_SECOND", "8")]).await;
    let mut there = Vec::new();
    let end = loop {
        match site.tries(&site.token()).await {
            Ok(screen) => there.push(screen),
            Err(end) => break end,
        }
        assert!(there.len() < 200, "nobody was told to come back");
    };
    assert_eq!(end, End::TurnedAway(503));
    let answer = loop {
        let answer = handshake_for(site.hub.public, "").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(code(&answer), (503, "too_many_handshakes".to_owned()));
    let reason = ("reason", "too_many_handshakes");
    let told = async |hub: &TillwireProcess| hub.counts("tillwire_gateway_turned_away_total", &[reason]).await >= 2.0;
    site.hub.until("they were counted", told).await;
    goes_on(&mut there).await;
    let token = site.token();
    site.lets_in(&token).await;
}

#[tokio::test]
async fn a_screen_that_talks_too_much_is_closed() {
    let limits = [("TILLWIRE_MESSAGES_PER_SECOND", "1"), ("TILLWIRE_MESSAGES_BURST", "20")];
    let mut site = Site::open(&limits).await;
    let mut quiet = vec![site.tries(&site.token()).await.unwrap()];
    for (polls, expected) in [(false, End::Closed(POLICY)), (true, End::Broken)] {
        let stream = TcpStream::connect(site.hub.public).await.unwrap();
        let mut line = match polls {
            false => Line::websocket(stream, site.hub.public).await.unwrap(),
            true => Line::polling(site.hub.public).await.unwrap(),
        };
        line.say(format!("40{}", json!({ "token": site.token() }))).await;
        while !line.next().await.unwrap().starts_with("40{") {}
        for _ in 0..200 {
            line.say(r#"42["leave",{"channels":[]}]"#.to_owned()).await;
        }
        let end = async {
            loop {
                if let Err(end) = line.next().await {
                    return end;
                }
            }
        };
        assert_eq!(timeout(PATIENCE, end).await.expect("an end"), expected);
    }
    site.counted("tillwire_gateway_closed_total", ("reason", "too_many_messages"), 2.0).await;
    goes_on(&mut quiet).await;
}

#[tokio::test]
async fn who_says_nothing_is_cut_soon() {
    let mut site = Site::open(&[]).await;
    let mut there = vec![site.tries(&site.token()).await.unwrap()];
    let stream = TcpStream::connect(site.hub.public).await.unwrap();
    let (mut websocket, mut polling) =
        (Line::websocket(stream, site.hub.public).await.unwrap(), Line::polling(site.hub.public).await.unwrap());
    // Not even a request.
    let mut mute = TcpStream::connect(site.hub.public).await.unwrap();
    let ends = async |line: &mut Line| {
        loop {
            if let Err(end) = line.next().await {
                return end;
            }
        }
    };
    let cut = async { mute.read(&mut [0]).await.is_ok_and(|bytes| bytes == 0) };
    let (first, second, cut) =
        timeout(PATIENCE, async { tokio::join!(ends(&mut websocket), ends(&mut polling), cut) }).await.expect("ends");
    assert_eq!((first, second, cut), (End::Closed(POLICY), End::PollClosed, true));
    site.counted("tillwire_gateway_closed_total", ("reason", "connect_timeout"), 2.0).await;
    site.counted("tillwire_connections_refused_total", ("reason", "silent"), 1.0).await;
    goes_on(&mut there).await;
}

#[tokio::test]
async fn a_byte_or_one_request_keeps_no_connection_for_ever_and_a_poll_waits_as_long_as_it_has_to() {
    /// Longer than the balancer and other nodes keep a connection that nobody uses.
    const KEPT: Duration = Duration::from_secs(25);
    // A poll that is answered later than a connection that says nothing is closed.
    let site = Site::open(&[("TILLWIRE_PING_SECONDS", "40")]).await;
    let begun = Instant::now();
    let ends = async |said: &str| {
        let mut stream = TcpStream::connect(site.hub.public).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an end in order");
        (answer, begun.elapsed())
    };
    let polls = async {
        let mut line = Line::polling(site.hub.public).await.unwrap();
        line.say(format!("40{}", json!({ "token": site.token() }))).await;
        while line.next().await.expect("it is answered") != "2" {}
    };
    // All of a head that may be, and it is not complete.
    let large = format!("{:x<32768}", "GET / HTTP/1.1\r\nx-large: ");
    let once = "GET /healthz HTTP/1.1\r\nhost: tillwire\r\n\r\n";
    let all = async { tokio::join!(ends("G"), ends(once), ends(&large), polls) };
    let (byte, once, large, ()) = timeout(PATIENCE, all).await.expect("all of it in time");
    assert!(byte.0.is_empty() && byte.1 > KEPT, "{byte:?}");
    assert!(once.0.starts_with("HTTP/1.1 200") && once.1 > KEPT, "{once:?}");
    assert!(large.0.starts_with("HTTP/1.1 431") && large.1 < KEPT, "{large:?}");
}

#[tokio::test]
async fn who_goes_with_much_still_to_say_gives_the_place_back_soon() {
    let (database, mut env, signer) = environment_with(&[("TILLWIRE_SOCKETS_PER_TOKEN", "1")]).await;
    let proxy = Proxy::to(Postgres::shared().await.tcp_port().unwrap()).await;
    env.insert("TILLWIRE_DATABASE_URL", database.url_through(proxy.port, "tillwire_app"));
    env.insert("TILLWIRE_FEED_DATABASE_URL", database.url_through(proxy.port, "tillwire_feed"));
    let site = Site::of(TillwireProcess::start(&["serve"], &env).await, signer, database).await;
    let token = site.token();
    let stream = TcpStream::connect(site.hub.public).await.unwrap();
    let mut line = Line::websocket(stream, site.hub.public).await.unwrap();
    line.say(format!("40{}", json!({ "token": token }))).await;
    while !line.next().await.unwrap().contains("caught_up") {}
    // Each of these waits for a database that says nothing, for 5 s.
    proxy.pause();
    for _ in 0..8 {
        line.say(r#"42["join",{"channels":["sales"]}]"#.to_owned()).await;
    }
    drop(line);
    let left = Instant::now();
    site.lets_in(&token).await;
    assert!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    proxy.resume();
}

#[tokio::test]
async fn a_screen_that_says_too_much_at_once_is_closed() {
    let mut site = Site::open(&[]).await;
    let mut quiet = vec![site.tries(&site.token()).await.unwrap()];
    let stream = TcpStream::connect(site.hub.public).await.unwrap();
    let mut line = Line::websocket(stream, site.hub.public).await.unwrap();
    line.say(format!("40{}", json!({ "token": site.token() }))).await;
    while !line.next().await.unwrap().starts_with("40{") {}
    line.say(format!("42{}", json!(["leave", { "channels": ["x".repeat(64 * 1024)] }]))).await;
    let end = async {
        loop {
            if let Err(end) = line.next().await {
                return end;
            }
        }
    };
    assert_eq!(timeout(PATIENCE, end).await.expect("an end"), End::Closed(TOO_LARGE));
    site.counted("tillwire_gateway_closed_total", ("reason", "too_large"), 1.0).await;
    goes_on(&mut quiet).await;
}

#[tokio::test]
async fn whose_token_ends_is_closed_and_counted_by_how_it_ended() {
    let mut site = Site::open(&[]).await;
    let mut stays = vec![site.tries(&site.token()).await.unwrap()];
    let short = site.signer.mint(&bearer(site.till.merchant, StaffId::new(), Role::Cashier), SOON).expect("a token");
    let expires = site.tries(&short).await.unwrap();
    let staff = StaffId::new();
    let revoked = site.signer.mint(&bearer(site.till.merchant, staff, Role::Cashier), PATIENCE).expect("a token");
    let revoked = site.tries(&revoked).await.unwrap();
    let owner = Caller { address: site.hub.public, token: &site.till.token };
    owner.post("once", &format!("/v1/staff/{staff}/revocations"), b"{}".to_vec()).await.unwrap().created();
    assert_eq!(revoked.ends().await, End::SignedOff);
    assert_eq!(expires.ends().await, End::Closed(TOKEN_EXPIRED));
    for reason in ["revoked", "expired"] {
        site.counted("tillwire_gateway_signed_out_total", ("reason", reason), 1.0).await;
    }
    for reason in ["token_expired", "server_left"] {
        site.counted("tillwire_gateway_closed_total", ("reason", reason), 1.0).await;
    }
    goes_on(&mut stays).await;
}

/// Few enough to be used up by a test, enough for the node itself.
const FILES: u32 = 200;

#[tokio::test]
async fn screens_never_take_the_last_descriptor() {
    let (database, env, signer) = environment_with(&[]).await;
    let mut hub = TillwireProcess::spawn_within(FILES, &["serve"], &env);
    hub.ready().await;
    let mut site = Site::of(hub, signer, database).await;
    let mut there = Vec::new();
    let end = loop {
        match site.tries(&site.token()).await {
            Ok(screen) => there.push(screen),
            Err(end) => break end,
        }
        assert!(there.len() < FILES as usize, "more screens than descriptors");
    };
    assert_eq!(end, End::TurnedAway(503));
    site.counted("tillwire_gateway_turned_away_total", ("reason", "too_many_sockets"), 1.0).await;
    assert!(there.len() > 16, "{}", there.len());
    // Tills go on, and so does who asks for its health.
    site.till.sell("while-it-is-full").await.unwrap().created();

    // What is left is taken by connections that say nothing yet. The next is told, before anything is done for it.
    let mut idle = Vec::new();
    let answer = loop {
        let mut stream = TcpStream::connect(site.hub.public).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: tillwire\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1024];
        let bytes = timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..bytes]).into_owned();
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
        idle.push(stream);
        assert!(idle.len() < FILES as usize, "more connections than descriptors");
    };
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"file_descriptors\""), "{answer}");
    assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
    assert_eq!(site.tries(&site.token()).await.err(), Some(End::TurnedAway(503)), "a screen is told the same");
    // A flood: whoever is not told is closed at once, and the listener lives.
    let flood: Vec<_> = futures_util::future::join_all((0..300).map(|_| TcpStream::connect(site.hub.public))).await;
    drop(flood);
    goes_on(&mut there).await;
    drop(idle);
    let healthy = async |hub: &TillwireProcess| hub.probe("/healthz").await == Some(200);
    site.hub.until("answering again", healthy).await;
    there.truncate(there.len() - 2);
    let token = site.token();
    there.push(site.lets_in(&token).await);
    goes_on(&mut there).await;
    let refused = site.hub.counts("tillwire_connections_refused_total", &[("reason", "file_descriptors")]).await;
    assert!(refused >= 2.0, "{refused}");
    assert_eq!(site.hub.counts("tillwire_connections_refused_total", &[("reason", "accept_failed")]).await, 0.0);
}

#[tokio::test]
async fn a_node_without_descriptors_does_not_start() {
    let (_database, env, _) = environment_with(&[]).await;
    let done = run_within(100, &["serve"], &env).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("at most 100 files may be open") && done.err.contains("ulimit"), "{}", done.err);
}
