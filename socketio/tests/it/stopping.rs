//! The end of a server: nobody is forgotten.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, header};
use tillwire_socketio::{AckSender, CloseReason, Namespace, Transport};
use tokio::sync::Notify;

use crate::{
    peer::{BOTH, End, Packet, Peer, SOCKET, get, websocket},
    server::{Server, quiet},
};

#[tokio::test]
async fn shutdown_closes_everyone_and_waits_for_their_handlers() {
    let (entered, release, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let server = Server::start(quiet(), |io| {
        let (entered, release, left) = (entered.clone(), release.clone(), left.clone());
        let ns = Namespace::new()
            .on("work", move || {
                let (entered, release) = (entered.clone(), release.clone());
                async move {
                    entered.notify_one();
                    release.notified().await;
                }
            })
            .on_disconnect(move |reason: CloseReason| {
                assert_eq!(reason, CloseReason::ShuttingDown);
                left.notify_one();
                async {}
            });
        io.ns("/", ns);
    })
    .await;
    let mut peer = Peer::joined(server.addr, Transport::WebSocket).await;
    peer.says(r#"42["work"]"#).await;
    entered.notified().await;

    let stopping = tokio::spawn({
        let io = server.io.clone();
        async move { io.shutdown().await }
    });
    assert_eq!(peer.ends().await, (vec![], End::Closed(1012, "service restart".into())));
    assert_eq!(
        get(server.addr, &format!("{SOCKET}?EIO=4&transport=polling")).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let refused = websocket(server.addr, &format!("{SOCKET}?EIO=4&transport=websocket"), &[]).await;
    assert_eq!(refused.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!stopping.is_finished(), "a handler is still at work");
    release.notify_one();
    stopping.await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), left.notified()).await.expect("told before shutdown ended");
    assert!(server.io.sockets("/").is_empty());
}

#[tokio::test]
async fn everyone_is_closed_in_slices() {
    let server = Server::start(quiet(), |io| io.ns("/", Namespace::new())).await;
    let mut peers = Vec::new();
    for k in 0..9 {
        peers.push(Peer::joined(server.addr, BOTH[k % 2]).await);
    }
    let begun = std::time::Instant::now();
    let pause = Duration::from_millis(40);
    server.io.close_all_in_slices(4, pause, CloseReason::RESTART).await;
    assert!(begun.elapsed() >= 2 * pause, "two pauses between three slices");
    for peer in &mut peers {
        let (_, end) = peer.ends().await;
        assert!(matches!(end, End::Refused | End::Closed(1012, _)), "{end:?}");
    }
    // The server itself goes on, and has reasons of its own, each counted apart.
    let mut peer = Peer::joined(server.addr, BOTH[1]).await;
    server.io.close_all_in_slices(4, pause, CloseReason::Server { code: 4001, text: "token expired" }).await;
    assert_eq!(peer.ends().await, (vec![], End::Closed(4001, "token expired".into())));
    let expected = [("service restart", 9), ("token expired", 1)].into();
    server.until("counted", |counters| counters.closed_for == expected).await;
    assert_eq!(server.io.counters().closed(CloseReason::RESTART), 10, "all that were the server's own");
}

#[tokio::test]
async fn who_waits_for_a_later_slice_is_served_and_nobody_new_is_let_in() {
    const SLICE: usize = 4;
    const LATER: usize = 5;
    let server = Server::start(quiet(), |io| {
        let answer = async |ack: AckSender| ack.send("here").unwrap();
        io.ns("/", Namespace::new().on("still there?", answer));
    })
    .await;
    let mut peers = Vec::new();
    for k in 0..SLICE + LATER {
        peers.push(Peer::joined(server.addr, BOTH[k % 2]).await);
    }
    server.io.refuse_new();
    let io = server.io.clone();
    // The next slice's turn does not come.
    let closing = tokio::spawn(async move {
        io.close_all_in_slices(SLICE, Duration::from_secs(3600), CloseReason::RESTART).await;
    });
    server.until("a slice is closed", |counters| counters.closed(CloseReason::RESTART) >= SLICE as u64).await;

    let reply = get(server.addr, &format!("{SOCKET}?EIO=4&transport=polling")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key(header::RETRY_AFTER) && reply.body.contains("stopping"), "{}", reply.body);
    let refused = websocket(server.addr, &format!("{SOCKET}?EIO=4&transport=websocket"), &[]).await;
    assert_eq!(refused.err(), Some(StatusCode::SERVICE_UNAVAILABLE));

    let (mut here, mut closed) = (0, 0);
    for peer in &mut peers {
        peer.says(r#"421["still there?"]"#).await;
        match peer.hears_or_ends().await {
            Ok(packet) if packet == Packet::from(r#"431["here"]"#) => here += 1,
            Ok(packet) if packet == Packet::from("1") => closed += 1, // What a poll is told in place of 1012.
            Err(End::Refused | End::Closed(1012, _)) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((closed, here), (SLICE, LATER));
    assert_eq!(server.io.counters().closed(CloseReason::RESTART), SLICE as u64);
    closing.abort();
}
