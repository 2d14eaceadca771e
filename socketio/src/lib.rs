//! Engine.IO 4 and Socket.IO 5 for servers: long-polling, WebSocket and the upgrade between them; namespaces, events in order,
//! acknowledgements and binary both ways, and the hooks that connection-state recovery is made of.
//!
//! It is a [tower service](SocketIoService) for HTTP/1.1 on hyper (axum's `route_service`), and knows nothing of what is said.
//!
//! ```no_run
//! use tillwire_socketio::{
//!     AckSender, CloseReason, Config, ConnectHandler, ConnectRequest, Data, Encoded, Refusal, SocketIo, SocketRef,
//! };
//!
//! # async fn example() -> std::io::Result<()> {
//! let (io, service) = SocketIo::new(Config::default());
//!
//! // Before CONNECT is answered: who is this, and do they return?
//! let authenticate = async |mut request: ConnectRequest| {
//!     if request.auth_json() == "{}" {
//!         return Err(Refusal::new("unauthorized").with_data(&"no token"));
//!     }
//!     request.set_pid("private and unguessable"); // or `request.recover(pid, old_id)`
//!     request.insert("whatever handlers want to know");
//!     Ok(request)
//! };
//! // After: the reply `40{"sid","pid"}` is queued, nothing before it.
//! let connected = async |socket: SocketRef| {
//!     let _ = socket.emit("ready", &socket.recovered());
//! };
//! let namespace = connected
//!     .with(authenticate)
//!     .on("join", async |Data(channels): Data<Vec<String>>, ack: AckSender| {
//!         let _ = ack.send(&channels.len());
//!     })
//!     .on_ping(|_| vec![Encoded::event_json("position", &["{}", "\"1041.2\""])])
//!     .on_disconnect(async |socket: SocketRef, reason: CloseReason| println!("{} left: {reason}", socket.id()));
//! io.ns("/", namespace);
//!
//! // Encoded once, sent to many; a batch enters a queue whole or not at all.
//! let batch = [Encoded::event_json("sale", &["{\"seq\":1}", "\"1.0\""]), Encoded::event_json("stock", &["{}", "\"1.1\""])];
//! for socket in io.sockets("/") {
//!     if socket.try_send(&batch).is_err() {
//!         socket.close(CloseReason::RESTART);
//!     }
//! }
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?; // Set TCP_NODELAY, cap SO_SNDBUF.
//! axum::serve(listener, axum::Router::new().route_service("/socket.io/", service)).await?;
//! io.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # What it promises
//!
//! - A batch is queued whole, in order, with nothing between, or refused; nothing is ever dropped in silence. A ping rides along
//!   where more than [`Config::ping_bytes`] would come without one, and so inside a batch only if that is larger.
//! - One task and one timer per connection; packets are shared, not copied, on their way to a WebSocket.
//! - Handlers of one connection run one at a time, in the order their events came. Acknowledgements pass them by.
//! - Every queue, buffer, wait and retry has a bound in [`Config`] or a named constant.
//! - The Engine.IO session id never leaves the handshake reply; a socket's public id opens nothing.
//!
//! # What it leaves to others
//!
//! TCP_NODELAY (without it small writes wait 40 ms), `SO_SNDBUF`, TLS, header and connection time-outs are the listener's.
//! A session lives on the node that made it; [`session_id`] tells a balancer whose a request is.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ack;
mod client;
mod close;
mod config;
mod connect;
mod counters;
mod encoded;
pub mod engine;
mod error;
mod extract;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod io;
#[doc(hidden)]
pub mod loose;
mod namespace;
mod pace;
mod packet;
mod socket;

pub use ack::{AckFuture, AckSender};
pub use close::CloseReason;
pub use config::{Config, IsProxy, OnWritten, Origins, RemoteAddr};
pub use connect::{ConnectRequest, Refusal, Resume};
pub use counters::{CountersView, RefusedReason};
pub use encoded::Encoded;
pub use engine::{Handshake, Transport, session_id};
pub use error::{AckError, EncodeError, SendError};
pub use extract::{Absent, Call, Data, Event, Extract, Raw, TryData};
pub use handler::{Handler, Running};
pub use io::{Namespaces, SocketIo, SocketIoService};
pub use namespace::{ConnectHandler, IntoNamespace, Namespace};
pub use pace::Pace;
pub use socket::{NotASocketId, Socket, SocketId, SocketRef};
