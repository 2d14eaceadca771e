//! The hooks a recovery is made of, as the stock client plays it.

use std::{collections::HashMap, sync::Arc, sync::Mutex};

use serde_json::Value;
use tillwire_socketio::{CloseReason, ConnectHandler, ConnectRequest, Encoded, SocketId, SocketIo, SocketRef};

use crate::{
    peer::{BOTH, End, Peer, SOCKET},
    server::{Server, quiet},
};

type Held = Arc<Mutex<HashMap<String, SocketId>>>;

/// Remembers who had which `pid`, and gives it back.
fn recovering(io: &SocketIo) {
    let held = Held::default();
    let connected = |socket: SocketRef| async move {
        let offset = socket.extension::<Option<String>>().cloned().flatten();
        let missed = offset.map(|offset| Encoded::event("missed", &((), offset)).unwrap());
        let ready = Encoded::event("ready", &socket.recovered()).unwrap();
        socket.try_send(&[[ready].to_vec(), missed.into_iter().collect()].concat()).unwrap();
    };
    let resume = move |mut request: ConnectRequest| {
        let resume = request.resume();
        let mut held = held.lock().unwrap();
        match resume.pid.and_then(|pid| Some((held.get(&pid).copied()?, pid))) {
            Some((id, pid)) => {
                request.insert(resume.offset);
                request.recover(pid, id);
            }
            None => {
                request.insert(None::<String>);
                let pid = SocketId::random().to_string();
                held.insert(pid.clone(), request.id());
                request.set_pid(pid);
            }
        }
        async move { Ok(request) }
    };
    io.ns("/", connected.with(resume));
}

async fn connects(peer: &mut Peer, auth: &str) -> Value {
    peer.says(&format!("40{auth}")).await;
    let reply = peer.hears_text().await;
    serde_json::from_str(reply.strip_prefix("40").unwrap()).unwrap()
}

#[tokio::test]
async fn who_returns_with_a_pid_gets_it_and_the_old_id_back() {
    let server = Server::start(quiet(), recovering).await;
    for transport in BOTH {
        let mut peer = Peer::open(server.addr, SOCKET, transport).await;
        let first = connects(&mut peer, "").await;
        assert_eq!(peer.hears_text().await, r#"42["ready",false]"#);
        assert_ne!(first["pid"], first["sid"]);
        peer.says("1").await;
        peer.ends().await;

        let mut peer = Peer::open(server.addr, SOCKET, transport).await;
        let auth = format!(r#"{{"token":"x","pid":{},"offset":"1041.2"}}"#, first["pid"]);
        let second = connects(&mut peer, &auth).await;
        assert_eq!(second, first, "the same pid and public sid, nothing else");
        assert_eq!(peer.hears_text().await, r#"42["ready",true]"#);
        assert_eq!(peer.hears_text().await, r#"42["missed",null,"1041.2"]"#);

        let mut stranger = Peer::open(server.addr, SOCKET, transport).await;
        let third = connects(&mut stranger, r#"{"pid":"unknown","offset":"1041.2"}"#).await;
        assert_ne!(third["pid"], "unknown");
        assert_eq!(stranger.hears_text().await, r#"42["ready",false]"#);
        // What is no string is no pid; the rest of the auth is still read.
        let mut odd = Peer::open(server.addr, SOCKET, transport).await;
        assert!(connects(&mut odd, r#"{"pid":7,"offset":{}}"#).await["pid"].is_string());
    }
}

#[tokio::test]
async fn the_newer_connection_takes_over_a_public_id() {
    let server = Server::start(quiet(), recovering).await;
    for transport in BOTH {
        let mut older = Peer::open(server.addr, SOCKET, transport).await;
        let first = connects(&mut older, "").await;
        older.hears().await;
        let mut newer = Peer::open(server.addr, SOCKET, transport).await;
        let second = connects(&mut newer, &format!(r#"{{"pid":{}}}"#, first["pid"])).await;
        assert_eq!(second["sid"], first["sid"]);
        let (_, end) = older.ends().await;
        assert!(matches!(end, End::Refused | End::Closed(1000, _)), "{end:?}");
        // The older one's end does not take the newer one along.
        server.until("replaced", |counters| counters.closed(CloseReason::Replaced) > 0).await;
        let id: SocketId = first["sid"].as_str().unwrap().parse().unwrap();
        assert!(server.io.socket("/", id).unwrap().is_connected());
    }
}
