//! Who is let in, and how much of what.

use futures_util::SinkExt;
use http::{StatusCode, header};
use tillwire_socketio::{CloseReason, Config, Namespace, Origins, RefusedReason, Transport};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    peer::{BOTH, ENGINE, End, Peer, SOCKET, get, http, post, websocket},
    server::{Server, quiet},
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
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.headers[header::RETRY_AFTER], "5");
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
    assert_eq!(counters.refused(RefusedReason::Busy), 2);
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
