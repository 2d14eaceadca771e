//! Engine.IO 4, row by row of the protocol's table.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tillwire_socketio::Transport;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    peer::{BOTH, ENGINE, End, Packet, Peer, SOCKET, Socket, get, http, post, websocket},
    server::{Server, beating, quiet},
};

#[tokio::test]
async fn a_handshake_has_exactly_five_keys() {
    let server = Server::echo(quiet()).await;
    for transport in BOTH {
        let peer = Peer::open(server.addr, ENGINE, transport).await;
        let mut keys: Vec<_> = peer.greeting.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]);
        assert_eq!(peer.greeting["pingInterval"], 60_000);
        assert_eq!(peer.greeting["pingTimeout"], 20_000);
        assert_eq!(peer.greeting["maxPayload"], 65_536);
        let upgrades = if transport == Transport::Polling { vec!["websocket"] } else { vec![] };
        assert_eq!(peer.greeting["upgrades"], serde_json::json!(upgrades));
        assert!(peer.sid().len() >= 22, "128 bits or more");
    }
}

#[tokio::test]
async fn a_wrong_version_or_transport_is_refused() {
    let server = Server::echo(quiet()).await;
    for query in [
        "",
        "transport=polling",
        "EIO=abc&transport=polling",
        "EIO=3&transport=polling",
        "EIO=4",
        "EIO=4&transport=abc",
    ] {
        assert_eq!(get(server.addr, &format!("{ENGINE}?{query}")).await.status, StatusCode::BAD_REQUEST, "{query}");
    }
    for query in ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"] {
        let refused = websocket(server.addr, &format!("{ENGINE}?{query}"), &[]).await;
        assert_eq!(refused.err(), Some(StatusCode::BAD_REQUEST), "{query}");
    }
}

#[tokio::test]
async fn a_session_begins_with_get_and_is_known_by_its_id() {
    let server = Server::echo(quiet()).await;
    let handshake = format!("{ENGINE}?EIO=4&transport=polling");
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(http(server.addr, method, &handshake, &[], "").await.status, StatusCode::BAD_REQUEST);
    }
    let unknown = format!("{handshake}&sid=unknown");
    assert_eq!(get(server.addr, &unknown).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(server.addr, &unknown, "4hello").await.status, StatusCode::BAD_REQUEST);
    let refused = websocket(server.addr, &format!("{ENGINE}?EIO=4&transport=websocket&sid=unknown"), &[]).await;
    assert_eq!(refused.err(), Some(StatusCode::BAD_REQUEST));
    // A WebSocket's URL without the upgrade headers is no handshake either.
    let bare = get(server.addr, &format!("{ENGINE}?EIO=4&transport=websocket")).await;
    assert_eq!(bare.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn messages_come_back_in_order() {
    let server = Server::echo(quiet()).await;
    for transport in BOTH {
        let mut peer = Peer::open(server.addr, ENGINE, transport).await;
        peer.says("4one").await;
        peer.says_binary(&[1, 2, 3, 4]).await;
        peer.says("4").await;
        assert_eq!(peer.hears().await, Packet::from("4one"));
        assert_eq!(peer.hears().await, Packet::Binary(vec![1, 2, 3, 4]));
        assert_eq!(peer.hears().await, Packet::from("4"));
    }
}

#[tokio::test]
async fn a_post_is_answered_ok_and_a_payload_keeps_its_order() {
    let server = Server::echo(quiet()).await;
    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let reply = post(server.addr, &peer.uri(), "4a\x1ebAQIDBA==\x1e4b").await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, "ok"));
    assert_eq!(get(server.addr, &peer.uri()).await.body, "4a\x1ebAQIDBA==\x1e4b");
}

#[tokio::test]
async fn an_invalid_packet_ends_the_session() {
    let server = Server::echo(quiet()).await;
    for invalid in ["abc", "", "0{}", "2", "5", "4ok\x1eabc", "b***"] {
        let mut peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
        assert_eq!(post(server.addr, &peer.uri(), invalid).await.status, StatusCode::BAD_REQUEST, "{invalid:?}");
        assert_eq!(peer.ends().await, (vec![], End::Refused), "{invalid:?}");
    }
    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    assert_eq!(post(server.addr, &peer.uri(), vec![b'4', 0xff]).await.status, StatusCode::BAD_REQUEST);

    for invalid in ["abc", "", "0{}", "2", "5"] {
        let mut peer = Peer::open(server.addr, ENGINE, Transport::WebSocket).await;
        peer.says(invalid).await;
        assert_eq!(peer.ends().await, (vec![], End::Closed(1002, "bad packet".into())), "{invalid:?}");
    }
}

#[tokio::test]
async fn a_second_concurrent_poll_ends_the_session() {
    let server = Server::echo(quiet()).await;
    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let uri = peer.uri();
    let (one, two) = tokio::join!(get(server.addr, &uri), get(server.addr, &uri));
    let (first, second) = if one.status == StatusCode::OK { (one, two) } else { (two, one) };
    assert_eq!((first.status, first.body.as_str()), (StatusCode::OK, "1"));
    assert_eq!(second.status, StatusCode::BAD_REQUEST);
    assert_eq!(get(server.addr, &uri).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_second_concurrent_post_ends_the_session() {
    let hold = |io: &tillwire_socketio::SocketIo| {
        io.ns("/", tillwire_socketio::Namespace::new().on("hold", std::future::pending));
    };
    let config = tillwire_socketio::Config { incoming_events_max: 1, ..quiet() };
    let server = Server::start(config, hold).await;
    let mut peer = Peer::joined(server.addr, Transport::Polling).await;
    let uri = peer.uri();
    // The first post waits: its third event has no room while the first one's handler runs.
    let first = post(server.addr, &uri, "42[\"hold\"]\x1e42[\"a\"]\x1e42[\"b\"]");
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        post(server.addr, &uri, "42[\"c\"]").await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::BAD_REQUEST));
    assert_eq!(peer.ends().await, (vec![], End::Refused));
    assert_eq!(server.io.counters().closed(tillwire_socketio::CloseReason::PollOverlap), 1);
}

#[tokio::test]
async fn a_session_id_may_name_its_node() {
    let session_id = std::sync::Arc::new(|| format!("node7-{:032x}", rand::random::<u128>()));
    let server = Server::echo(tillwire_socketio::Config { session_id, ..quiet() }).await;
    let mut peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let uri = peer.uri().parse().unwrap();
    assert!(tillwire_socketio::session_id(&uri).unwrap().starts_with("node7-"));
    peer.says("4hello").await;
    assert_eq!(peer.hears_text().await, "4hello");
}

#[tokio::test]
async fn an_aborted_poll_ends_the_session() {
    let server = Server::start(quiet(), |_| {}).await;
    let peer = Peer::open(server.addr, "/socket.io/", Transport::Polling).await;
    let uri = peer.uri();
    let poll = tokio::spawn(async move { get(server.addr, &uri).await });
    // The poll is in flight once a second one would be refused; there is no way to ask but to wait.
    tokio::time::sleep(Duration::from_millis(50)).await;
    poll.abort();
    let _ = poll.await;
    server.until("the abort is noticed", |counters| counters.sessions_polling == 0).await;
    assert_eq!(server.io.counters().closed(tillwire_socketio::CloseReason::PollAborted), 1);
    assert_eq!(get(server.addr, &peer.uri()).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_server_pings_after_the_interval_and_goes_on_while_it_is_answered() {
    let server = Server::echo(beating(150, 2000)).await;
    for transport in BOTH {
        let begun = Instant::now();
        let mut peer = Peer::open(server.addr, ENGINE, transport).await;
        for beats in 1..=3 {
            assert_eq!(peer.hears_at_once().await, [Packet::from("2")]);
            assert!(begun.elapsed() >= Duration::from_millis(beats * 150), "ping {beats} came early");
            peer.says("3").await;
        }
        peer.says("4still here").await;
        assert_eq!(peer.hears().await, Packet::from("4still here"));
    }
}

#[tokio::test]
async fn a_session_without_pong_is_closed() {
    let server = Server::echo(beating(50, 100)).await;
    let begun = Instant::now();
    let mut peer = Peer::open(server.addr, ENGINE, Transport::WebSocket).await;
    assert_eq!(peer.ends().await, (vec![Packet::from("2")], End::Closed(1001, "ping timeout".into())));
    assert!(begun.elapsed() >= Duration::from_millis(150));

    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    assert_eq!(get(server.addr, &peer.uri()).await.body, "2");
    // A poll waiting when the time is up is told; one that comes later is refused.
    assert_eq!(get(server.addr, &peer.uri()).await.body, "1");
    assert_eq!(get(server.addr, &peer.uri()).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(server.addr, &peer.uri(), "3").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_poll_beside_the_clients_close_is_answered_noop_in_either_order() {
    let server = Server::echo(quiet()).await;
    for poll_first in [true, false] {
        let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
        let uri = peer.uri();
        let poll = async {
            if !poll_first {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            get(server.addr, &uri).await
        };
        let close = async {
            if poll_first {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            post(server.addr, &uri, "1").await
        };
        let (poll, close) = tokio::join!(poll, close);
        assert_eq!((poll.status, poll.body.as_str()), (StatusCode::OK, "6"));
        assert_eq!((close.status, close.body.as_str()), (StatusCode::OK, "ok"));
        assert_eq!(get(server.addr, &uri).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(post(server.addr, &uri, "4x").await.status, StatusCode::BAD_REQUEST);
    }
    let mut peer = Peer::open(server.addr, ENGINE, Transport::WebSocket).await;
    peer.says("1").await;
    assert_eq!(peer.ends().await, (vec![], End::Closed(1000, String::new())));
}

#[tokio::test]
async fn an_upgrade_answers_the_waiting_poll_and_ends_polling() {
    let server = Server::echo(quiet()).await;
    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let uri = peer.uri();
    let waiting = tokio::spawn({
        let uri = uri.clone();
        async move { get(server.addr, &uri).await }
    });
    let upgrade = format!("{ENGINE}?EIO=4&transport=websocket&sid={}", peer.sid());
    let mut socket = websocket(server.addr, &upgrade, &[]).await.unwrap();
    // What is said during the upgrade is not lost.
    assert_eq!(post(server.addr, &uri, "4before").await.body, "ok");
    assert_eq!(waiting.await.unwrap().body, "4before");
    let waiting = tokio::spawn({
        let uri = uri.clone();
        async move { get(server.addr, &uri).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    socket.send(Message::text("2probe")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("3probe"));
    let noop = waiting.await.unwrap();
    assert_eq!((noop.status, noop.body.as_str()), (StatusCode::OK, "6"));
    // A stock client may poll once more before it says `5`.
    assert_eq!(get(server.addr, &uri).await.body, "6");

    socket.send(Message::text("5")).await.unwrap();
    socket.send(Message::text("4hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("4hello"));
    assert_eq!(get(server.addr, &uri).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(server.addr, &uri, "4x").await.status, StatusCode::BAD_REQUEST);

    let mut second = websocket(server.addr, &upgrade, &[]).await.unwrap();
    assert!(matches!(second.next().await, Some(Ok(Message::Close(_))) | None));
    socket.send(Message::text("4still")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("4still"));
}

#[tokio::test]
async fn what_is_queued_while_polling_follows_over_the_websocket() {
    let server = Server::echo(quiet()).await;
    let mut peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    peer.says("4one").await;
    peer.says("4two").await;
    peer.upgrades().await;
    peer.says("4three").await;
    for message in ["4one", "4two", "4three"] {
        assert_eq!(peer.hears().await, Packet::from(message));
    }
}

#[tokio::test]
async fn a_failed_upgrade_leaves_polling_alive() {
    let config = tillwire_socketio::Config { upgrade_timeout: Duration::from_millis(100), ..quiet() };
    let server = Server::echo(config).await;
    let mut peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let upgrade = format!("{ENGINE}?EIO=4&transport=websocket&sid={}", peer.sid());
    for says in [Some("4wrong"), None] {
        let mut socket = websocket(server.addr, &upgrade, &[]).await.unwrap();
        if let Some(packet) = says {
            socket.send(Message::text(packet)).await.unwrap();
        }
        while let Some(Ok(message)) = socket.next().await {
            assert!(message.is_close(), "{message}");
        }
    }
    peer.says("4alive").await;
    assert_eq!(peer.hears().await, Packet::from("4alive"));
    peer.upgrades().await;
    peer.says("4upgraded").await;
    assert_eq!(peer.hears().await, Packet::from("4upgraded"));
}

/// A WebSocket on a polling session, whose probe was answered.
async fn probed(peer: &Peer) -> Socket {
    let upgrade = format!("{}?EIO=4&transport=websocket&sid={}", peer.path, peer.sid());
    let mut socket = websocket(peer.addr, &upgrade, &[]).await.unwrap();
    socket.send(Message::text("2probe")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("3probe"));
    socket
}

#[tokio::test]
async fn a_client_whose_probe_was_answered_may_take_its_time_to_go_over() {
    let config = tillwire_socketio::Config { upgrade_timeout: Duration::from_millis(100), ..quiet() };
    let server = Server::echo(config).await;
    let peer = Peer::open(server.addr, ENGINE, Transport::Polling).await;
    let mut socket = probed(&peer).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    socket.send(Message::text("5")).await.unwrap();
    socket.send(Message::text("4hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("4hello"));
    assert_eq!(get(server.addr, &peer.uri()).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_client_that_never_goes_over_answers_no_ping_and_is_gone() {
    let server = Server::start(beating(300, 300), |_| {}).await;
    let peer = Peer::open(server.addr, SOCKET, Transport::Polling).await;
    let mut socket = probed(&peer).await; // And it polls no more.
    let told = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("an end in time");
    assert!(matches!(told, Some(Ok(Message::Close(Some(_))))), "{told:?}");
    let timed_out = tillwire_socketio::CloseReason::PingTimeout;
    server.until("it is gone", |it| (it.closed(timed_out), it.sessions_polling) == (1, 0)).await;
}

#[tokio::test]
async fn websocket_pings_are_answered_between_packets() {
    let server = Server::echo(quiet()).await;
    let mut socket = websocket(server.addr, &format!("{ENGINE}?EIO=4&transport=websocket"), &[]).await.unwrap();
    socket.next().await.unwrap().unwrap();
    for round in 0..50 {
        socket.feed(Message::text(format!("4{round}"))).await.unwrap();
        socket.feed(Message::Ping(vec![round].into())).await.unwrap();
    }
    socket.flush().await.unwrap();
    let (mut texts, mut last_pong) = (0, None);
    while texts < 50 || last_pong != Some(49) {
        match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => {
                assert_eq!(text.as_str(), format!("4{texts}"));
                texts += 1;
            }
            // RFC 6455 lets a pong stand for the pings before it.
            Message::Pong(payload) => last_pong = Some(payload[0]),
            other => panic!("{other}"),
        }
    }
}
