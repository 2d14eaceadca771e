//! A socket with nothing behind it: what is queued to it is taken by hand, and nothing is ever written. For tests of those who send,
//! which can then decide in what order things happen.

use std::{collections::VecDeque, sync::Arc};

use http::{Extensions, HeaderMap, Uri};

use crate::{
    CloseReason, Config, ConnectRequest, Encoded, Handshake, Namespace, SocketId, SocketIo, SocketRef, Transport,
    engine::Session, socket::Socket,
};

/// The other end of a socket without a connection. It plays the client and the kernel.
#[doc(hidden)]
pub struct Loose {
    session: Arc<Session>,
}

impl Loose {
    /// A socket of the main namespace, and its other end.
    pub fn new(config: Config) -> (SocketRef, Loose) {
        let handshake =
            Handshake::copy(&config, Transport::Polling, &Uri::default(), &HeaderMap::new(), &Extensions::new());
        let (io, _) = SocketIo::new(config);
        io.ns("/", Namespace::new());
        let session = Session::new(Arc::from("loose"), io.shared(), Transport::WebSocket);
        let request = ConnectRequest {
            ns: "/".into(),
            auth: None,
            handshake: Arc::new(handshake),
            id: SocketId::random(),
            pid: None,
            recovered: false,
            extensions: Extensions::new(),
        };
        let room = io.room("/").expect("it was opened above");
        (SocketRef(Socket::new(room, session.clone(), request)), Loose { session })
    }

    /// Takes all that is queued, as if it had been written: what was joined as the packets it was joined of. Pings are answered.
    pub fn take(&self) -> Vec<Encoded> {
        let mut queue = VecDeque::new();
        self.session.take(&mut queue);
        self.session.written(queue.len(), queue.iter().map(Encoded::size).sum());
        let ping = &self.session.shared.packets.ping;
        let (pings, packets): (Vec<_>, Vec<_>) = queue.into_iter().partition(|packet| packet.is(ping));
        pings.iter().for_each(|_| self.session.pong());
        packets.iter().flat_map(Encoded::parts).collect()
    }

    /// Whether the socket was asked to close, and why.
    pub fn closing(&self) -> Option<CloseReason> {
        self.session.closing()
    }
}
