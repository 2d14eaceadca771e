//! Who is let in, and how much of what.

use std::{net::SocketAddr, sync::Arc};

use axum::extract::ConnectInfo;
use futures_util::SinkExt;
use http::{StatusCode, header};
use serde_json::{Value, json};
use tillwire_socketio::{
    AckSender, CloseReason, Config, Namespace, Origins, Pace, RefusedReason, SocketRef, Transport,
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    peer::{BOTH, ENGINE, End, Peer, Reply, SOCKET, get, http, post, websocket},
    server::{Server, beating, quiet},
};

#[tokio::test]
async fn an_oversized_payload_ends_the_session() {
    let config = Config { max_payload: 1000, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let fits = format!("4{}", "x".repeat(999));
    let large = format!("4{}", "x".repeat(1000));

    let mut peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    assert_eq!(post(server.addr, &peer.uri(), fits.clone()).await.status, StatusCode::OK);
    assert_eq!(peer.hears_text().await, fits);
    assert_eq!(post(server.addr, &peer.uri(), large.clone()).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(peer.ends().await.1, End::Refused);

    let mut peer = Peer::open(server.addr, ENGINE, Transport::WebSocket).await;
    peer.says(&fits).await;
    assert_eq!(peer.hears_text().await, fits);
    peer.says(&large).await;
    assert_eq!(peer.ends().await.1, End::Closed(1009, "message too large".into()));

    // Fragments count together.
    let uri = format!("{SOCKET}?EIO=4&transport=websocket");
    let mut socket = websocket(server.addr, &uri, &[]).await.unwrap();
    use tokio_tungstenite::tungstenite::protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    };
    for (opcode, last) in [(Data::Text, false), (Data::Continue, false), (Data::Continue, true)] {
        let frame = Frame::message("4".repeat(400), OpCode::Data(opcode), last);
        let _ = socket.send(Message::Frame(frame)).await;
    }
    server.until("cut", |counters| counters.closed(CloseReason::TooLarge) == 1).await;
    for (transport, count) in [(Transport::WebSocket, 2), (Transport::Polling, 3)] {
        let mut peer = Peer::joined(server.addr, transport).await;
        peer.says(&large).await;
        server.until("counted", |counters| counters.closed(CloseReason::TooLarge) == count).await;
    }
    assert_eq!(server.io.counters().refused(RefusedReason::TooLarge), 1);
}

#[tokio::test]
async fn attachments_are_bounded_in_number_and_sum() {
    let config = Config { max_payload: 1000, attachments_max: 3, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        peer.says(r#"454-["a"]"#).await;
        assert_ne!(peer.ends().await.1, End::Broken);
        let mut peer = Peer::joined(server.addr, transport).await;
        peer.says(r#"453-["a"]"#).await;
        peer.says_binary(&[0; 600]).await;
        peer.says_binary(&[0; 600]).await;
        assert_ne!(peer.ends().await.1, End::Broken);
    }
    server.until("four closed", |counters| counters.closed(CloseReason::BadPacket) == 4).await;
}

#[tokio::test]
async fn a_foreign_origin_is_refused_on_both_transports() {
    let origins = Origins::list(["https://app.example.com"]);
    let server = Server::start(Config { origins, ..quiet() }, |_| {}).await;
    let polling = format!("{SOCKET}?EIO=4&transport=polling");
    let upgrade = format!("{SOCKET}?EIO=4&transport=websocket");
    for foreign in ["https://evil.example.com", "http://app.example.com", "https://app.example.com.evil", "null"] {
        let origin = [("origin", foreign)];
        let reply = http(server.addr, "GET", &polling, &origin, "").await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        assert!(!reply.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        assert_eq!(http(server.addr, "OPTIONS", &polling, &origin, "").await.status, StatusCode::FORBIDDEN);
        assert_eq!(websocket(server.addr, &upgrade, &origin).await.err(), Some(StatusCode::FORBIDDEN));
    }
    let own = [("origin", "https://app.example.com"), ("access-control-request-headers", "x-shop")];
    let reply = http(server.addr, "GET", &polling, &own, "").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.com");
    assert_eq!(reply.headers[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    assert_eq!(reply.headers[header::VARY], "origin");
    let preflight = http(server.addr, "OPTIONS", &polling, &own, "").await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    assert_eq!(preflight.headers[header::ACCESS_CONTROL_ALLOW_HEADERS], "x-shop");
    assert!(websocket(server.addr, &upgrade, &own).await.is_ok());
    assert!(websocket(server.addr, &upgrade, &[]).await.is_ok(), "a phone sends no origin");
    assert_eq!(server.io.counters().refused(RefusedReason::ForeignOrigin), 12);

    let also = Origins::OwnAnd(vec!["https://app.example.com".parse().unwrap()]);
    let server = Server::start(Config { origins: also, ..quiet() }, |_| {}).await;
    for (origin, status) in [
        (format!("http://{}", server.addr), StatusCode::OK),
        (format!("https://{}", server.addr), StatusCode::OK),
        ("https://app.example.com".to_owned(), StatusCode::OK),
        (format!("http://{}.example", server.addr), StatusCode::FORBIDDEN),
        (server.addr.to_string(), StatusCode::FORBIDDEN),
        ("null".to_owned(), StatusCode::FORBIDDEN),
    ] {
        let reply = http(server.addr, "GET", &polling, &[("origin", origin.as_str())], "").await;
        assert_eq!(reply.status, status, "{origin}");
    }

    let server = Server::start(Config { origins: Origins::Any, ..quiet() }, |_| {}).await;
    let reply = http(server.addr, "GET", &polling, &[("origin", "https://anyone.example")], "").await;
    assert_eq!(reply.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(!reply.headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
}

#[tokio::test]
async fn a_full_house_answers_503_and_when_to_come_back() {
    let server = Server::start(Config { sockets_max: 2, ..quiet() }, |_| {}).await;
    let polling = format!("{SOCKET}?EIO=4&transport=polling");
    let upgrade = format!("{SOCKET}?EIO=4&transport=websocket");
    let mut first = Peer::open(server.addr, SOCKET, Transport::Polling).await;
    let _second = Peer::open(server.addr, SOCKET, Transport::WebSocket).await;
    let reply = get(server.addr, &polling).await;
    assert_refused(&reply, StatusCode::SERVICE_UNAVAILABLE, RefusedReason::TooManySockets);
    assert_eq!(websocket(server.addr, &upgrade, &[]).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    // An upgrade is no second seat.
    first.upgrades().await;
    server.until("upgraded", |counters| (counters.sessions_polling, counters.sessions_websocket) == (0, 2)).await;
    first.says("1").await;
    first.ends().await;
    server.until("one seat is free", |counters| counters.sessions_websocket == 1).await;
    assert_eq!(get(server.addr, &polling).await.status, StatusCode::OK);
    let counters = server.io.counters();
    assert_eq!((counters.handshakes_polling, counters.handshakes_websocket, counters.upgrades), (2, 1, 1));
    assert_eq!(counters.refused(RefusedReason::TooManySockets), 2);
}

#[tokio::test]
async fn a_client_that_only_asks_and_never_listens_is_closed() {
    let config = Config { queue_packets_max: 4, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let mut peer = Peer::open(server.addr, SOCKET, Transport::Polling).await;
    // Every unknown namespace is owed an answer, and no poll fetches them.
    for _ in 0..60 {
        peer.says("40/unknown").await;
    }
    server.until("closed", |counters| counters.closed(CloseReason::Overflow) == 1).await;
    assert_eq!(peer.ends().await.1, End::Refused);
}

/// Refused for this reason, which the body names, and told when to come back.
#[track_caller]
fn assert_refused(reply: &Reply, status: StatusCode, reason: RefusedReason) {
    assert_eq!(reply.status, status, "{}", reply.body);
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["code"], reason.name());
    let seconds: u64 = reply.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&seconds), "{seconds}");
}

/// Behind a proxy on this machine that is trusted.
fn proxied(config: Config) -> Config {
    Config {
        remote_addr: Arc::new(|extensions| extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0)),
        is_proxy: Arc::new(|address| address.is_loopback()),
        ..config
    }
}

/// Counted under an address, as a proxy would name it.
async fn handshake_from(server: &Server, address: &str) -> Reply {
    let polling = format!("{SOCKET}?EIO=4&transport=polling");
    http(server.addr, "GET", &polling, &[("x-forwarded-for", address)], "").await
}

#[tokio::test]
async fn an_address_has_its_share_of_sessions_and_no_more() {
    let server = Server::start(proxied(Config { sockets_per_address_max: Some(2), ..quiet() }), |_| {}).await;
    let upgrade = format!("{SOCKET}?EIO=4&transport=websocket");
    let here = [("x-forwarded-for", "203.0.113.7")];
    let first = handshake_from(&server, here[0].1).await;
    assert_eq!(first.status, StatusCode::OK);
    let second = websocket(server.addr, &upgrade, &here).await.unwrap();
    let refused = handshake_from(&server, here[0].1).await;
    assert_refused(&refused, StatusCode::TOO_MANY_REQUESTS, RefusedReason::TooManySocketsOfAddress);
    assert_eq!(websocket(server.addr, &upgrade, &here).await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    // Nobody else minds, and those that are there stay.
    assert_eq!(handshake_from(&server, "203.0.113.8").await.status, StatusCode::OK);
    let counters = server.io.counters();
    assert_eq!((counters.sessions_polling, counters.sessions_websocket), (2, 1));
    assert_eq!(counters.refused(RefusedReason::TooManySocketsOfAddress), 2);
    drop(second);
    server.until("one has left", |counters| counters.sessions_websocket == 0).await;
    assert!(websocket(server.addr, &upgrade, &here).await.is_ok());
}

#[tokio::test]
async fn who_dies_without_a_word_gives_the_place_back() {
    let config = Config { sockets_per_address_max: Some(2), sockets_max: 3, ..beating(200, 100) };
    let server = Server::start(proxied(config), |_| {}).await;
    for round in 1..=2 {
        // Neither polls or answers a ping ever again; the connection stays open.
        let _polling = Peer::open(server.addr, SOCKET, Transport::Polling).await;
        let _websocket = Peer::open(server.addr, SOCKET, Transport::WebSocket).await;
        assert_eq!(handshake_from(&server, "127.0.0.1").await.status, StatusCode::TOO_MANY_REQUESTS);
        let dead = |counters: &tillwire_socketio::CountersView| counters.closed(CloseReason::PingTimeout) == 2 * round;
        server.until("both are given up", dead).await;
        server.until("both are gone", |it| it.sessions_polling + it.sessions_websocket == 0).await;
    }
}

#[tokio::test]
async fn a_storm_is_let_in_at_its_pace() {
    let config = Config { handshakes: Some(Pace { per_second: 1, burst: 4 }), ..quiet() };
    let server = Server::start(proxied(config), |io| io.ns("/", Namespace::new())).await;
    let (polling, upgrade) =
        (format!("{SOCKET}?EIO=4&transport=polling"), format!("{SOCKET}?EIO=4&transport=websocket"));
    let mut first = Peer::open(server.addr, SOCKET, Transport::Polling).await;
    let mut let_in = 1;
    let refused = loop {
        let reply = get(server.addr, &polling).await;
        if reply.status != StatusCode::OK {
            break reply;
        }
        let_in += 1;
        assert!(let_in < 100, "none was refused");
    };
    assert_refused(&refused, StatusCode::SERVICE_UNAVAILABLE, RefusedReason::TooManyHandshakes);
    while let Ok(socket) = websocket(server.addr, &upgrade, &[]).await {
        // A slow machine has earned one more meanwhile.
        drop(socket);
        let_in += 1;
        assert!(let_in < 100, "none was refused");
    }
    assert!(let_in >= 4, "{let_in}");
    assert!(server.io.counters().refused(RefusedReason::TooManyHandshakes) >= 2);
    // Those who are in go on, and an upgrade is no handshake.
    first.upgrades().await;
    first.says("40").await;
    assert!(first.hears_text().await.starts_with("40{"));
    let later = async { while get(server.addr, &polling).await.status != StatusCode::OK {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), later).await.expect("its turn comes");
}

#[tokio::test]
async fn more_messages_than_allowed_end_one_session_and_no_other() {
    let config = Config { messages: Some(Pace { per_second: 1, burst: 6 }), ..quiet() };
    let server = Server::start(config, |io| {
        io.ns("/", Namespace::new().on("echo", async |ack: AckSender| ack.send(&"heard").unwrap()));
    })
    .await;
    for (transport, count) in BOTH.into_iter().zip(1..) {
        let mut other = Peer::joined(server.addr, transport).await;
        let mut peer = Peer::joined(server.addr, transport).await;
        for n in 0..5 {
            // A heartbeat is no message.
            peer.says("3").await;
            peer.says(&format!(r#"42{n}["echo"]"#)).await;
            assert_eq!(peer.hears_text().await, format!(r#"43{n}["heard"]"#));
        }
        let end = async {
            for n in 5..100 {
                peer.says(&format!(r#"42{n}["echo"]"#)).await;
            }
            peer.ends().await.1
        };
        let expected = match transport {
            Transport::Polling => End::Refused,
            Transport::WebSocket => End::Closed(1008, "too many messages".into()),
        };
        assert_eq!(end.await, expected);
        server.until("counted", |counters| counters.closed(CloseReason::TooManyMessages) == count).await;
        other.says(r#"421["echo"]"#).await;
        assert_eq!(other.hears_text().await, r#"431["heard"]"#);
    }
}

#[tokio::test]
async fn an_answer_is_no_message_unless_nobody_asked() {
    let config = Config { messages: Some(Pace { per_second: 1, burst: 6 }), ..quiet() };
    let server = Server::start(config, |io| {
        io.ns("/", async |socket: SocketRef| {
            for _ in 0..30 {
                let Ok(answer) = socket.emit_with_ack::<_, Value>("ask", &json!({})) else { return };
                if answer.await.is_err() {
                    return;
                }
            }
            socket.emit("enough", &json!({})).unwrap();
        });
    })
    .await;
    for (transport, count) in BOTH.into_iter().zip(1..) {
        let mut peer = Peer::joined(server.addr, transport).await;
        loop {
            let asked = peer.hears_text().await;
            let Some(id) = asked.strip_prefix("42").and_then(|rest| rest.split('[').next()).filter(|id| !id.is_empty())
            else {
                assert_eq!(asked, r#"42["enough",{}]"#);
                break;
            };
            peer.says(&format!("43{id}[1]")).await;
        }
        for _ in 0..20 {
            peer.says("43777[1]").await;
        }
        assert_ne!(peer.ends().await.1, End::Broken);
        server.until("counted", |counters| counters.closed(CloseReason::TooManyMessages) == count).await;
    }
}
