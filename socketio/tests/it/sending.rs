//! What a socket promises about its queue: whole batches, in order, bounded, never silent.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tillwire_socketio::{CloseReason, Config, Encoded, Namespace, SendError, SocketRef, Transport};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    peer::{BOTH, End, Packet, Peer, SOCKET, get, narrow_websocket},
    server::{Server, beating, quiet},
};

async fn one_socket(server: &Server) -> SocketRef {
    server.until("a socket joined", |_| !server.io.sockets("/").is_empty()).await;
    server.io.sockets("/").pop().unwrap()
}

fn events(name: &str, count: usize) -> Vec<Encoded> {
    (0..count).map(|n| Encoded::event_json(name, &[&n.to_string()])).collect()
}

#[tokio::test]
async fn a_batch_arrives_whole_and_in_order_beside_other_senders() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        let socket = one_socket(&server).await;
        let senders: Vec<_> = ["a", "b", "c"]
            .map(|name| {
                let socket = socket.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        socket.send(&events(name, 7)).await.unwrap();
                    }
                })
            })
            .into();
        for _ in 0..3 * 20 {
            let first = peer.hears_text().await;
            let name = first[4..5].to_owned();
            assert_eq!(first, format!(r#"42["{name}",0]"#));
            for n in 1..7 {
                assert_eq!(peer.hears_text().await, format!(r#"42["{name}",{n}]"#));
            }
        }
        for sender in senders {
            sender.await.unwrap();
        }
        peer.says("1").await;
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

#[tokio::test]
async fn consecutive_packets_share_one_poll() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    let peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    socket.try_send(&events("a", 3)).unwrap();
    let attachment = Encoded::event("file", &bytes::Bytes::from_static(&[1, 2, 3, 4])).unwrap();
    socket.try_send(&[attachment]).unwrap();
    let body = get(server.addr, &peer.uri()).await.body;
    assert_eq!(
        body.split('\x1e').collect::<Vec<_>>(),
        [r#"42["a",0]"#, r#"42["a",1]"#, r#"42["a",2]"#, r#"451-["file",{"_placeholder":true,"num":0}]"#, "bAQIDBA=="]
    );
}

#[tokio::test]
async fn one_encoding_serves_many_sockets() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    let mut peers = Vec::new();
    for k in 0..10 {
        peers.push(Peer::joined(server.addr, BOTH[k % 2]).await);
    }
    let packet = Encoded::event("sale", &("four", 4, serde_json::json!({ "x": [null] }))).unwrap();
    let sockets = server.io.sockets("/");
    assert_eq!(sockets.len(), 10);
    for socket in &sockets {
        socket.try_send(std::slice::from_ref(&packet)).unwrap();
    }
    for peer in &mut peers {
        assert_eq!(peer.hears_text().await, r#"42["sale","four",4,{"x":[null]}]"#);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_a_whole_batch_and_takes_it_later() {
    let config = Config { queue_packets_max: 10, queue_bytes_max: 1000, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let mut peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    socket.drained().await.unwrap();
    socket.try_send(&events("a", 8)).unwrap();
    assert!(matches!(socket.try_send(&events("b", 3)), Err(SendError::Full)), "bound in packets");
    assert!(matches!(socket.try_send(&events("b", 11)), Err(SendError::TooLarge)));
    let wide = Encoded::event("wide", &"x".repeat(950)).unwrap();
    assert!(matches!(socket.try_send(std::slice::from_ref(&wide)), Err(SendError::Full)), "bound in bytes");
    let wider = Encoded::event("wide", &"x".repeat(1000)).unwrap();
    assert!(matches!(socket.send(&[wider]).await, Err(SendError::TooLarge)));

    let waiting = tokio::spawn({
        let socket = socket.clone();
        async move { socket.send(&events("c", 3)).await }
    });
    let drained = tokio::spawn({
        let socket = socket.clone();
        async move { socket.drained().await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!waiting.is_finished() && !drained.is_finished());
    for n in 0..8 {
        assert_eq!(peer.hears_text().await, format!(r#"42["a",{n}]"#));
    }
    waiting.await.unwrap().unwrap();
    for n in 0..3 {
        assert_eq!(peer.hears_text().await, format!(r#"42["c",{n}]"#), "nothing of the refused batch");
    }
    drained.await.unwrap().unwrap();
    socket.drained().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_waits_is_told_when_its_socket_leaves() {
    let server = Server::start(Config { queue_packets_max: 2, ..quiet() }, |io| io.ns("/", Namespace::new())).await;
    let mut peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    socket.drained().await.unwrap();
    socket.try_send(&events("a", 2)).unwrap();
    let waiting = tokio::spawn({
        let socket = socket.clone();
        async move { socket.send(&events("late", 1)).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    socket.disconnect();
    assert!(matches!(waiting.await.unwrap(), Err(SendError::Closed)));
    for packet in [r#"42["a",0]"#, r#"42["a",1]"#, "41"] {
        assert_eq!(peer.hears_text().await, packet);
    }
}

#[tokio::test]
async fn a_reader_that_stops_fills_its_bounded_queue_and_is_cut_at_the_deadline() {
    let config = Config {
        queue_packets_max: 8,
        queue_bytes_max: 1024 * 1024,
        write_deadline: Duration::from_millis(300),
        ..quiet()
    };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let socket = narrow_websocket(server.addr, &format!("{SOCKET}?EIO=4&transport=websocket"), 4096).await;
    let mut peer = Peer::from_socket(server.addr, socket);
    peer.hears().await;
    peer.says("40").await;
    peer.hears().await;
    let socket = one_socket(&server).await;
    let batch: Vec<_> = (0..2).map(|_| Encoded::event("big", &"x".repeat(60_000)).unwrap()).collect();
    // The kernel takes what it likes, then the queue takes eight, then it says so.
    let mut taken = 0;
    let full = loop {
        match socket.try_send(&batch) {
            Ok(()) => taken += 2,
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(taken < 1000, "the queue has no bound");
    };
    assert!(matches!(full, SendError::Full));
    let waiting = tokio::spawn({
        let socket = socket.clone();
        async move { (socket.send(&batch).await, socket.drained().await, socket.closed().await) }
    });
    // Nobody reads: the write makes no progress.
    let told = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("cut at the deadline");
    let (sent, drained, closed) = told.unwrap();
    assert!(matches!((sent, drained), (Err(SendError::Closed), Err(SendError::Closed))));
    assert_eq!(closed, CloseReason::Stalled);
    server.until("cut", |counters| counters.closed(CloseReason::Stalled) == 1).await;
    assert_eq!(server.io.counters().sessions_websocket, 0);
}

#[tokio::test]
async fn what_is_timed_is_told_when_it_has_left_and_not_before() {
    const LONG: Duration = Duration::from_secs(3_600);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let config = Config { on_written: Arc::new(move |time| tell.send(time).unwrap()), ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        let socket = one_socket(&server).await;
        socket.drained().await.unwrap();
        socket.try_send(&events("a", 3)).unwrap();
        socket.time_written(Instant::now() - LONG);
        // The one that is under way is not taken back.
        socket.time_written(Instant::now());
        socket.try_send(&events("b", 1)).unwrap();
        if transport == Transport::Polling {
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(told.try_recv().is_err(), "nobody has fetched it");
        }
        for text in [r#"42["a",0]"#, r#"42["a",1]"#, r#"42["a",2]"#, r#"42["b",0]"#] {
            assert_eq!(peer.hears_text().await, text);
        }
        assert!(told.recv().await.unwrap() >= LONG);
        socket.drained().await.unwrap();
        assert!(told.try_recv().is_err(), "once");
        // Nothing is queued: it has left already.
        socket.time_written(Instant::now());
        assert!(told.try_recv().is_ok_and(|time| time < LONG));
        peer.says("1").await;
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }

    // What goes with its connection has not left.
    let peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    socket.drained().await.unwrap();
    socket.try_send(&events("a", 3)).unwrap();
    socket.time_written(Instant::now());
    socket.close(CloseReason::RESTART);
    server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    socket.time_written(Instant::now());
    assert!(told.try_recv().is_err());
    drop(peer);
}

#[tokio::test]
async fn a_pong_never_tears_a_packet_that_is_half_written() {
    let config = Config { queue_bytes_max: 8 * 1024 * 1024, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let mut socket = narrow_websocket(server.addr, &format!("{SOCKET}?EIO=4&transport=websocket"), 4096).await;
    socket.next().await.unwrap().unwrap();
    socket.send(Message::text("40")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let sender = one_socket(&server).await;
    let batch: Vec<_> = (0..8).map(|n| Encoded::event("n", &(n, "x".repeat(60_000))).unwrap()).collect();
    sender.try_send(&batch).unwrap();
    // The kernel is full in the middle of a packet when the ping is read.
    tokio::time::sleep(Duration::from_millis(50)).await;
    socket.send(Message::Ping(b"now"[..].into())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut next, mut pongs) = (0, 0);
    while next < 8 || pongs < 1 {
        match socket.next().await.unwrap().unwrap() {
            Message::Pong(payload) => {
                assert_eq!(&payload[..], b"now");
                pongs += 1;
            }
            message => {
                let text = message.into_text().unwrap();
                assert!(text.starts_with(&format!(r#"42["n",{next},"#)) && text.len() > 60_000);
                next += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_outlives_many_deadlines_and_gets_everything() {
    let config = Config {
        queue_packets_max: 64,
        queue_bytes_max: 8 * 1024 * 1024,
        write_deadline: Duration::from_millis(1_500),
        ..quiet()
    };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let mut socket = narrow_websocket(server.addr, &format!("{SOCKET}?EIO=4&transport=websocket"), 32 * 1024).await;
    socket.next().await.unwrap().unwrap();
    socket.send(Message::text("40")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    let sender = one_socket(&server).await;
    let sending = tokio::spawn(async move {
        for n in 0..100 {
            sender.send(&[Encoded::event("n", &(n, "x".repeat(60_000))).unwrap()]).await?;
        }
        sender.drained().await
    });
    for n in 0..100 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
        assert!(text.starts_with(&format!(r#"42["n",{n},"xx"#)), "{}", &text[..20]);
    }
    sending.await.unwrap().unwrap();
    assert_eq!(server.io.counters().closed(CloseReason::Stalled), 0);
}

#[tokio::test]
async fn what_the_hook_returns_rides_with_the_ping() {
    let server = Server::start(beating(50, 2000), |io| {
        io.ns("/", Namespace::new().on_ping(|_| vec![Encoded::event("position", &((), "1041.2")).unwrap()]));
    })
    .await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        for _ in 0..2 {
            if transport == Transport::Polling {
                let both = [Packet::from(r#"42["position",null,"1041.2"]"#), Packet::from("2")];
                assert_eq!(peer.hears_at_once().await, both);
            } else {
                assert_eq!(peer.hears_text().await, r#"42["position",null,"1041.2"]"#);
                assert_eq!(peer.hears_text().await, "2");
            }
            peer.says("3").await;
        }
    }
}

#[tokio::test]
async fn a_confirmation_waits_for_the_clients_answer() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        // A pong that nobody asked for confirms nothing.
        peer.says("3").await;
        let socket = one_socket(&server).await;
        socket.emit("slice", &1).unwrap();
        let confirmed = tokio::spawn({
            let socket = socket.clone();
            async move { socket.confirmed().await }
        });
        assert_eq!(peer.hears_text().await, r#"42["slice",1]"#);
        assert_eq!(peer.hears_text().await, "2");
        assert!(!confirmed.is_finished());
        peer.says("3").await;
        confirmed.await.unwrap().unwrap();
        peer.says("1").await;
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

#[tokio::test]
async fn a_ping_rides_along_with_so_many_bytes_and_never_inside_a_batch_that_is_no_larger() {
    let config = Config { ping_bytes: 1_000, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let batch = |count| -> Vec<_> { (0..count).map(|n| Encoded::event("n", &(n, "x".repeat(200))).unwrap()).collect() };
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        let socket = one_socket(&server).await;
        for count in [3, 3, 6, 1] {
            socket.try_send(&batch(count)).unwrap();
        }
        let mut heard = String::new();
        while heard.len() < 16 {
            // The number of the packet, and of a ping none.
            heard.push(peer.hears_text().await.chars().nth(7).unwrap_or('p'));
        }
        assert_eq!(heard, "012p012p0123p450");
        peer.says("1").await;
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

#[tokio::test]
async fn what_is_unconfirmed_is_known_and_bounds_what_is_sent() {
    let config = Config { ping_bytes: 1_000, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        let socket = one_socket(&server).await;
        let packet = [Encoded::event("n", &"x".repeat(400)).unwrap()];
        let before = socket.unconfirmed_bytes();
        for _ in 0..4 {
            socket.try_send_within(&packet, 2_000).unwrap();
        }
        assert_eq!(socket.unconfirmed_bytes(), before + 4 * packet[0].size());
        assert!(matches!(socket.try_send_within(&packet, 1_000), Err(SendError::Full)));
        let confirmed = tokio::spawn({
            let socket = socket.clone();
            async move { (socket.confirmed_within(1_000).await, socket.confirmed_within(0).await) }
        });
        // One rode along; behind what was sent last there was none, and it is asked for.
        for _ in 0..2 {
            assert!(!confirmed.is_finished());
            while peer.hears_text().await != "2" {}
            peer.says("3").await;
        }
        let confirmed = tokio::time::timeout(Duration::from_secs(10), confirmed).await.expect("it was answered");
        assert!(matches!(confirmed.unwrap(), (Ok(()), Ok(()))));
        assert_eq!(socket.unconfirmed_bytes(), 0);
        peer.says("1").await;
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

#[tokio::test]
async fn an_answer_to_a_poll_ends_with_the_first_ping() {
    let config = Config { ping_bytes: 1_000, ..quiet() };
    let server = Server::start(config, |io| io.ns("/", Namespace::new())).await;
    let mut peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    let packet = Encoded::event("n", &"x".repeat(600)).unwrap();
    for _ in 0..3 {
        socket.try_send(std::slice::from_ref(&packet)).unwrap();
    }
    let text = || Packet::from(packet.text());
    assert_eq!(peer.hears_at_once().await, [text(), Packet::from("2")]);
    assert_eq!(peer.hears_at_once().await, [text(), Packet::from("2")]);
    assert_eq!(peer.hears_at_once().await, [text()]);
    socket.drained().await.unwrap();
}

#[tokio::test]
async fn closing_says_what_was_queued_and_then_the_code() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    for transport in BOTH {
        let mut peer = Peer::joined(server.addr, transport).await;
        let socket = one_socket(&server).await;
        socket.try_send(&[Encoded::event_json("draining", &[])]).unwrap();
        socket.close(CloseReason::RESTART);
        assert!(matches!(socket.emit("late", &1), Err(SendError::Closed)));
        let (heard, end) = peer.ends().await;
        if transport == Transport::Polling {
            assert_eq!(heard, [Packet::from(r#"42["draining"]"#), Packet::from("1")]);
            assert_eq!(end, End::Refused);
        } else {
            assert_eq!(heard, [Packet::from(r#"42["draining"]"#)]);
            assert_eq!(end, End::Closed(1012, "service restart".into()));
        }
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

/// The stock client would keep the events for its next connection, and be sent them again there.
#[tokio::test]
async fn a_poll_is_never_answered_with_events_and_the_close() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    let events = [Encoded::event_json("sale", &[]), Encoded::event_json("draining", &[])];
    // Those that are queued when it closes, and those that come to a poll that waits.
    for waits in [false, true] {
        let mut peer = Peer::joined(server.addr, Transport::Polling).await;
        let socket = one_socket(&server).await;
        let closing = async {
            if waits {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            socket.try_send(&events).unwrap();
            socket.close(CloseReason::RESTART);
        };
        let (first, ()) = tokio::join!(peer.hears_at_once(), closing);
        assert_eq!(first, events.each_ref().map(|event| Packet::from(event.text())));
        // It takes its time over them.
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(peer.hears_at_once().await, [Packet::from("1")]);
        assert_eq!(get(server.addr, &peer.uri()).await.status, StatusCode::BAD_REQUEST);
        server.until("gone", |_| server.io.sockets("/").is_empty()).await;
    }
}

#[tokio::test]
async fn a_waiting_poll_hears_the_servers_close() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    let peer = Peer::joined(server.addr, Transport::Polling).await;
    let socket = one_socket(&server).await;
    let uri = Arc::new(peer.uri());
    let (addr, waiting) = (server.addr, uri.clone());
    let waiting = tokio::spawn(async move { get(addr, &waiting).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    socket.close(CloseReason::RESTART);
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, "1"));
    assert_eq!(get(server.addr, &uri).await.status, StatusCode::BAD_REQUEST);
}
