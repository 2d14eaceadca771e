//! A node: what the roles that serve have in common. It opens what it needs, shows its faces, and drains when told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::serve::ListenerExt;
use futures_util::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use tillwire_socketio::Pace;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::bus::{Brokers, Buses};
use crate::connectors::caller::Caller;
use crate::gateway::address::Place;
use crate::gateway::{self, Gateway};
use crate::hub::Hub;
use crate::identity::tokens::Verifier;
use crate::jobs::{self, Jobs};
use crate::journal::{Journal, Pools, pool};
use crate::listener::{self, Listener};
use crate::payments::Desk;
use crate::push::services::Services;
use crate::relay::herald::Herald;
use crate::vault::Vault;
use crate::workers::duties;
use crate::workers::expiry::{self, Expiring};
use crate::workers::payments;
use crate::workers::reconciling::{self, Reconciling};
use crate::workers::{self, Urls, Workers};
use crate::{config, http, server, telemetry};

/// How long requests, screens and writes that are under way may take to end, each.
pub const FINISH_MAX: Duration = Duration::from_secs(30);
/// How long connections to the database may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How long a node may take to stop after its drain: screens, requests, writes, connections to the database, in turn.
pub const STOP_MAX: Duration = Duration::from_secs(3 * FINISH_MAX.as_secs() + CLOSE_MAX.as_secs());
/// What the kernel may hold for one connection, in bytes; it counts its own overhead and doubles the number. It would take
/// megabytes for a screen that reads slowly. It says that there is room again when a third of it is free, which takes a
/// reader of 1 KB/s some 20 seconds here: with much more, an honest one would look stalled.
const SEND_BUFFER_BYTES: u32 = 32 * 1024;
/// How many connections may wait to be accepted: a storm of screens that come back all at once.
const BACKLOG: u32 = 4_096;
/// Of so many connections one is kept free of screens: for REST and for whoever asks whether the node lives.
const KEPT_FROM_SCREENS: usize = 8;

/// Which faces a node shows.
#[derive(Clone, Copy, Debug)]
pub struct Faces {
    /// REST.
    pub api: bool,
    /// Screens.
    pub gateway: bool,
    /// The durable path: none to the public, whom it only tells that it lives.
    pub worker: bool,
}

impl Faces {
    pub const ALL: Self = Self { api: true, gateway: true, worker: true };
    pub const API: Self = Self { api: true, gateway: false, worker: false };
    pub const GATEWAY: Self = Self { api: false, gateway: true, worker: false };
    pub const WORKER: Self = Self { api: false, gateway: false, worker: true };
}

/// A node that is serving.
pub struct Node {
    /// Where the public listener is.
    pub public: SocketAddr,
    /// Where the metrics' listener is.
    pub metrics: SocketAddr,
    drain: Duration,
    stop: CancellationToken,
    /// Cancelled when the listeners close.
    closing: CancellationToken,
    /// Cancelled when nothing new can come any more.
    ended: CancellationToken,
    listeners: [JoinHandle<()>; 2],
    gateway: Option<Gateway>,
    tasks: TaskTracker,
    pools: Pools,
}

impl Node {
    /// Starts it: returns once both listeners are bound. `stop` makes it drain.
    ///
    /// # Errors
    /// If the configuration is unusable or an address is taken. A service that is down is no error: it is waited for.
    pub async fn start(
        config: config::Node,
        verifier: Verifier,
        faces: Faces,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let pools = Pools::open(
            config.database.database_url.expose_secret(),
            config.database.feed_database_url.expose_secret(),
            config.database.database_connections,
        )?;
        let public = bind(config.listen.listen, "--listen")?;
        let private = bind(config.listen.metrics_listen, "--metrics-listen")?;
        let for_database = config.database.database_connections + config.database.database_connections / 4 + 2;
        let works = faces.worker.then_some(config.database.relay_database_url.as_ref()).flatten();
        if faces.worker && works.is_none() {
            ensure!(faces.api || faces.gateway, "a worker needs --relay-database-url");
            info!("Serves no webhooks and relays nothing: that needs --relay-database-url, here or at a worker");
        }
        let for_workers = works.map_or(0, |_| workers::DESCRIPTORS_MAX);
        let for_jobs = if faces.api || faces.worker {
            (jobs::CONNECTIONS_MAX + expiry::CONNECTIONS_MAX) as usize
                + payments::DESCRIPTORS_MAX
                + reconciling::DESCRIPTORS_MAX
        } else {
            0
        };
        let connections_max = listener::connections_max(for_database as usize + for_jobs + for_workers)?;
        let connections = Arc::new(Semaphore::new(connections_max));
        let addresses = (public.local_addr()?, private.local_addr()?);

        let (tasks, ended, closing) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let (mut buses, doors) = Buses::new(tasks.clone(), ended.clone());
        let brokers: Brokers = config.buses.clone().into();
        // A worker is told by its own ways, and nobody by it.
        if faces.api || faces.gateway {
            buses.connect(&brokers)?;
        }
        if faces.api
            && let Some(herald) = Herald::new(&brokers, || buses.tell_moved())?
        {
            tasks.spawn(herald.run(ended.clone()));
        }
        let journal = Journal::new(pools.clone(), doors.announce, tasks.clone());
        let egress = Arc::new(config.webhooks.clone().into());
        let push = Arc::new(Services::open(&config.push.clone().into())?);
        let vault = Arc::new(Vault::open(&config.vault.clone().into())?);
        let has_vault = !vault.keys().is_empty();
        if !has_vault && (faces.api || faces.worker) {
            info!("Seals no secrets, and keeps no accounts at payment providers: that needs --vault-key-file");
        }
        let verifier = Arc::new(verifier);
        let caller = Arc::new(Caller::open(&config.providers.clone().into())?);
        let desk = Desk::new(journal.clone(), vault.clone(), caller);
        let hub = Hub::new(journal, verifier, egress, push.clone(), desk, tasks.clone(), stop.clone());
        if let Some(relay) = works {
            let urls = Urls { app: &config.database.database_url, feed: &config.database.feed_database_url, relay };
            let workers = Workers::new(&urls, brokers, workers::HANDLERS, tasks.clone(), ended.clone())?;
            let woken = workers.relay(&mut buses)?;
            workers.serve_webhooks(woken, &hub.journal, hub.sender.clone(), &vault);
            workers.handle(workers.push(push, vault.clone()), &mut buses)?;
        }
        buses.open();
        let mut routes = http::router(hub.clone(), faces.api);
        if faces.api || faces.worker {
            let own = pool::open(config.database.database_url.expose_secret(), jobs::CONNECTIONS_MAX)?;
            tasks.spawn(jobs::upkeep::at_start(own.clone(), ended.clone()));
            let mut all = jobs::upkeep::jobs();
            // Only whoever can seal does it, and has accounts.
            if has_vault {
                all.push(jobs::sealing::job(vault, own.clone()));
                all.push(jobs::reconciling::job()?);
            }
            let jobs = Jobs::new(own, all, name());
            let stop = ended.clone();
            tasks.spawn(async move { workers::until("Doing jobs", &stop, || jobs.run(&stop)).await });
            let expiring = Expiring::new(&config.database.database_url, &hub.journal)?;
            let stop = ended.clone();
            tasks.spawn(async move { workers::until("Ending open sales", &stop, || expiring.run(&stop)).await });
            // Whoever cannot open an account would only keep others from it.
            if has_vault {
                payments::begin(&config.database.database_url, &hub.desk, &tasks, &ended)?;
                duties::begin(Reconciling::new(&config.database.database_url, &hub.desk)?, &tasks, &ended);
            }
        }
        let gateway = faces.gateway.then(|| {
            let place = Place {
                given: config.listen.node_address,
                listen: addresses.0,
                database: pool::place_of(config.database.database_url.expose_secret()),
            };
            let options = gateway::Options {
                origins: config.listen.origins,
                ping_interval: Duration::from_secs(config.listen.ping_seconds),
                vouch_max: Duration::from_secs(config.listen.vouch_seconds),
                place,
                connections: connections.clone(),
                limits: limits(config.listen.limits, connections_max),
            };
            let (verifier, hub) = (hub.verifier.clone(), hub.clone());
            let state_of = Arc::new(move |merchant, channel, bytes_max| -> BoxFuture<'static, _> {
                Box::pin(hub.clone().state_of(merchant, channel, bytes_max))
            });
            Gateway::start(options, pools.clone(), verifier, doors.gateway, state_of, &tasks, &ended)
        });
        if let Some(gateway) = &gateway {
            routes = routes.merge(gateway.router());
        }
        tasks.spawn(telemetry::sort(metrics.clone(), ended.clone()));
        let public = Listener::new(public, connections, tasks.clone());
        // Small answers must not wait for company: Nagle's algorithm costs 40 ms.
        let private = private.tap_io(|stream| _ = stream.set_nodelay(true));
        // `stopped` waits for both.
        let listeners = [
            tokio::spawn(server::serve(public, routes, closing.clone())),
            tokio::spawn(server::serve(private, http::metrics_router(metrics), closing.clone())),
        ];
        info!("Serving on http://{}, metrics on http://{}", addresses.0, addresses.1);
        Ok(Self {
            public: addresses.0,
            metrics: addresses.1,
            drain: Duration::from_secs(config.listen.drain_seconds),
            stop,
            closing,
            ended,
            listeners,
            gateway,
            tasks,
            pools,
        })
    }

    /// Waits until it was told to stop, has drained, and everything it started has ended.
    pub async fn stopped(self) {
        self.stop.cancelled().await;
        // Readiness fails from now on; balancers get the time to learn it before the listeners close.
        tokio::time::sleep(self.drain).await;
        // Before the listeners close: a screen that polls is told by an answer to its next poll.
        if let Some(gateway) = &self.gateway
            && tokio::time::timeout(FINISH_MAX, gateway.drain()).await.is_err()
        {
            warn!("Some screens did not close in {FINISH_MAX:?} and are left behind");
        }
        self.closing.cancel();
        let [public, private] = self.listeners;
        if tokio::time::timeout(FINISH_MAX, async { tokio::join!(public, private) }).await.is_err() {
            warn!("Some requests did not end in {FINISH_MAX:?} and are left behind");
        }
        self.ended.cancel();
        self.tasks.close();
        if tokio::time::timeout(FINISH_MAX, self.tasks.wait()).await.is_err() {
            warn!("Some writes did not end in {FINISH_MAX:?} and are left behind");
        }
        if tokio::time::timeout(CLOSE_MAX, self.pools.close()).await.is_err() {
            warn!("Some connections to the database did not close in {CLOSE_MAX:?} and are left behind");
        }
        info!("Stopped");
    }
}

/// What people call this process by: its machine and its number there.
fn name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{} pid {}", host.to_string_lossy(), std::process::id())
}

fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("listening on {address}: is it taken? {flag} names another"))
}

/// What the gateway may take of what the node has.
fn limits(config: config::Limits, connections_max: usize) -> gateway::Limits {
    let bound = |number: u32| (number > 0).then_some(number as usize);
    let pace = |per_second: u32, burst: u32| (per_second > 0).then_some(Pace { per_second, burst });
    let for_screens = connections_max - connections_max / KEPT_FROM_SCREENS;
    gateway::Limits {
        connections_kept: connections_max - for_screens,
        sockets_max: for_screens.min(config.sockets_max as usize),
        sockets_per_address_max: bound(config.sockets_per_address),
        sockets_per_token_max: bound(config.sockets_per_token),
        sockets_per_merchant_max: bound(config.sockets_per_merchant),
        messages: pace(config.messages_per_second, config.messages_burst),
        handshakes: pace(config.handshakes_per_second, config.handshakes_per_second / 4),
        trusted_proxies: config.trusted_proxies,
    }
}
