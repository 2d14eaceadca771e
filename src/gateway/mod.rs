//! The gateway: brings every screen what its merchant's journal holds, in order and without a gap.
//!
//! A [screen](audience::Screen) is a cursor over the journal through a filter of channels. A [feed](feed::Feed) is the
//! live head of one journal; [feeds] listens to the buses and heals what they lose; a screen that is behind is brought
//! on by a [task of its own](screen). This room sees the journal and the channels, never commerce, and writes
//! nothing that is the merchant's.

pub mod address;
mod admission;
mod audience;
mod counting;
mod feed;
mod feeds;
mod forward;
mod join;
mod naming;
mod packed;
mod pieces;
mod places;
mod portions;
mod presence;
mod resume;
mod ring;
mod rolls;
mod screen;
mod seals;
mod session;
mod snapshots;
mod source;
mod tell;
mod tunnel;
mod witness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::HeaderValue;
use axum::middleware::from_fn_with_state;
use ipnet::IpNet;
use tillwire_socketio::{CloseReason, Config, Origins, Pace, SocketIo, SocketIoService};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batches::Batches;
use crate::bus::GatewayDoors;
use crate::identity::tokens::Verifier;
use crate::journal::Pools;
use address::Place;
use admission::Door;
use feeds::Feeds;
use forward::{Forwarder, Lanes};
use naming::Naming;
use places::Places;
use presence::Presence;
use rolls::Rolls;
use screen::Stock;
use seals::Seals;
use snapshots::Snapshots;
pub use snapshots::{State, StateOf};
use source::Source;
use witness::Witness;

/// A connection that has not said who it is within this time is closed, and so is one that we have not let in within as
/// long again.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How many bytes may lie between two pings to a screen: whoever reads slowly says that often how far it has come.
const PING_BYTES: usize = 16 * 1024;
/// How many packets are queued for one screen. An entry of 256 KiB has fewer events, and must fit.
const QUEUE_PACKETS_MAX: usize = 2_048;
/// A node that goes away closes so many screens at a time, with a pause between: they come back elsewhere at that pace.
pub const CLOSE_SLICE: usize = 100;
pub const CLOSE_PAUSE: Duration = Duration::from_millis(100);
/// In so many slices at most, and as many again for those who only came in here: a node has 30 s for all of it, and the
/// last must be told as well.
const CLOSE_SLICES_MAX: usize = 100;

/// What a gateway is told.
pub struct Options {
    /// Pages that may connect besides those of the host that is asked.
    pub origins: Vec<HeaderValue>,
    /// From a screen's last sign of life to the next ping.
    pub ping_interval: Duration,
    /// How long screens are vouched for while the database does not answer.
    pub vouch_max: Duration,
    /// What is known of where other gateways reach this one.
    pub place: Place,
    /// The connections that the node may still have. One that is made to another gateway takes one.
    pub connections: Arc<Semaphore>,
    pub limits: Limits,
}

/// How much of what a node serves. Where there is no number there is no bound.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that nobody takes who stays for long.
    pub connections_kept: usize,
    /// Connections of screens at once.
    pub sockets_max: usize,
    pub sockets_per_address_max: Option<usize>,
    pub sockets_per_token_max: Option<usize>,
    pub sockets_per_merchant_max: Option<usize>,
    /// What one screen may send.
    pub messages: Option<Pace>,
    /// New connections.
    pub handshakes: Option<Pace>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for Limits {
    /// Nothing but a number of connections.
    fn default() -> Self {
        Self {
            connections_kept: 0,
            sockets_max: 16_384,
            sockets_per_address_max: None,
            sockets_per_token_max: None,
            sockets_per_merchant_max: None,
            messages: None,
            handshakes: None,
            trusted_proxies: Vec::new(),
        }
    }
}

pub struct Gateway {
    io: SocketIo,
    service: SocketIoService,
    forwarder: Arc<Forwarder>,
    feeds: Arc<Feeds>,
}

impl Gateway {
    /// Starts the tasks that feed the screens; they run until `stop`.
    pub fn start(
        options: Options,
        pools: Pools,
        verifier: Arc<Verifier>,
        doors: GatewayDoors,
        state_of: StateOf,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let (source, GatewayDoors { heard, interest, claim }) = (Source::new(pools), doors);
        let seals = Arc::new(Seals::new(source.clone(), tasks.clone()));
        let naming = Arc::new(Naming::new(seals.clone(), options.place));
        tasks.spawn(naming.clone().keep(stop.clone()));
        let Limits { trusted_proxies, .. } = options.limits;
        let config = Config {
            ping_interval: options.ping_interval,
            connect_timeout: CONNECT_MAX,
            queue_packets_max: QUEUE_PACKETS_MAX,
            ping_bytes: PING_BYTES,
            origins: Origins::OwnAnd(options.origins),
            session_id: {
                let naming = naming.clone();
                Arc::new(move || naming.make())
            },
            messages: options.limits.messages,
            sockets_max: options.limits.sockets_max,
            sockets_per_address_max: options.limits.sockets_per_address_max,
            handshakes: options.limits.handshakes,
            on_written: {
                let took = metrics::histogram!("tillwire_gateway_feed_to_socket_seconds");
                Arc::new(move |time| took.record(time))
            },
            remote_addr: Arc::new(|extensions| extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0)),
            is_proxy: Arc::new(move |address| trusted_proxies.iter().any(|network| network.contains(&address))),
            ..Config::default()
        };
        let poll_max = config.ping_interval + config.ping_timeout;
        let (io, service) = SocketIo::new(config);
        let lanes = Lanes::new(options.connections, options.limits.connections_kept);
        let forwarder = Forwarder::new(naming, lanes, poll_max, tasks.clone(), stop.clone());
        let rolls = Arc::new(Rolls::new(source.clone(), tasks.clone()));
        let witness = Witness::new(source.clone(), tasks.clone());
        let recalls = Batches::new(usize::MAX, tasks.clone());
        let stock = Stock {
            source: source.clone(),
            snapshots: Snapshots::new(state_of, tasks.clone()),
            rolls: rolls.clone(),
            recalls,
        };
        let feeds = Feeds::new(stock, interest, options.vouch_max, tasks.clone(), stop.clone());
        tasks.spawn(feeds.clone().listen(heard, io.clone()));
        tasks.spawn(feeds.clone().watch());
        tasks.spawn(feeds.clone().watch_tokens());
        tasks.spawn(counting::bring(io.clone(), stop.clone()));
        let presence = Presence::new(source);
        tasks.spawn(presence.clone().beat(stop.clone()));
        tasks.spawn(presence.clone().write(stop.clone()));
        tasks.spawn(presence.clone().tell(feeds.clone(), stop.clone()));
        let places = Places::new(options.limits.sockets_per_token_max, options.limits.sockets_per_merchant_max);
        let door = Door { verifier, feeds: feeds.clone(), places, seals, rolls, witness, presence, claim };
        io.ns("/", session::namespace(Arc::new(door)));
        Self { io, service, forwarder: Arc::new(forwarder), feeds }
    }

    /// The one route of a gateway.
    pub fn router(&self) -> Router {
        let forward = from_fn_with_state(self.forwarder.clone(), forward::forward);
        Router::new().route_service("/socket.io/", self.service.clone()).route_layer(forward)
    }

    /// Tells every screen that this node goes away and closes them in slices; they come back to another, for this one
    /// lets nobody in any more. Those that live on another node and only came in here are closed as well.
    pub async fn drain(&self) {
        self.io.refuse_new();
        self.feeds.tell_draining();
        let counted = self.io.counters();
        let slice = slice_of(counted.sessions_polling + counted.sessions_websocket);
        self.io.close_all_in_slices(slice, CLOSE_PAUSE, CloseReason::RESTART).await;
        self.forwarder.close_in_slices(slice_of(self.forwarder.tunnels()), CLOSE_PAUSE).await;
        self.io.shutdown().await;
    }
}

/// How many are closed at a time, of so many.
fn slice_of(count: usize) -> usize {
    CLOSE_SLICE.max(count.div_ceil(CLOSE_SLICES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_they_leave_in_time() {
        for count in [0, 1, CLOSE_SLICE, 16_384, 65_535, 1_000_000] {
            let pauses = count.div_ceil(slice_of(count)) as u32;
            // Both kinds, and time is left for the last words.
            assert!(2 * pauses * CLOSE_PAUSE <= Duration::from_secs(20), "{count}");
        }
        assert_eq!((slice_of(0), slice_of(230)), (CLOSE_SLICE, CLOSE_SLICE));
    }
}
