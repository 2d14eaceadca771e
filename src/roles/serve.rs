//! `tillwire serve`: answers requests until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::serve::ListenerExt;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::bus::Buses;
use crate::config::Node;
use crate::hub::Hub;
use crate::identity::tokens::Verifier;
use crate::journal::{Journal, Pools, upkeep};
use crate::{http, shutdown, telemetry};

/// How long requests that are under way may take once the listener is closed.
const FINISH_MAX: Duration = Duration::from_secs(30);

pub async fn run(node: Node) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let metrics = telemetry::metrics()?;
    let verifier = Verifier::open(&node.tokens.token_keys, node.tokens.realm.into())?;
    ensure!(
        !verifier.trusts_demo(),
        "the token keys include the demo's, which is not secret: make one with `tillwire token new-key`"
    );
    let pools = Pools::open(
        node.database.database_url.expose_secret(),
        node.database.feed_database_url.expose_secret(),
        node.database.database_connections,
    )?;
    let (tasks, ended) = (TaskTracker::new(), CancellationToken::new());
    let (buses, doors) = Buses::new(tasks.clone(), ended.clone());
    buses.open();
    tasks.spawn(upkeep::run(pools.app.clone(), ended.clone()));
    let hub = Hub {
        journal: Journal::new(pools.clone(), doors.announce, tasks.clone()),
        verifier: Arc::new(verifier),
        draining: stop.clone(),
    };

    let public = bind(node.listen.listen).await?;
    let private = bind(node.listen.metrics_listen).await?;
    info!("Serving on http://{}, metrics on http://{}", public.local_addr()?, private.local_addr()?);
    let (closing, drain) = (CancellationToken::new(), Duration::from_secs(node.listen.drain_seconds));
    // Small answers must not wait for company: Nagle's algorithm costs 40 ms.
    let public = public.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let serving = axum::serve(public, http::router(hub)).with_graceful_shutdown(closing.clone().cancelled_owned());
    let watching =
        axum::serve(private, http::metrics_router(metrics)).with_graceful_shutdown(closing.clone().cancelled_owned());
    let serving = tokio::spawn(serving.into_future());
    let watching = tokio::spawn(watching.into_future());

    stop.cancelled().await;
    // Readiness fails from now on; balancers get the time to learn it before the listener closes.
    tokio::time::sleep(drain).await;
    closing.cancel();
    if tokio::time::timeout(FINISH_MAX, async { tokio::join!(serving, watching) }).await.is_err() {
        warn!("Some requests did not end in {FINISH_MAX:?} and are cut off");
    }
    ended.cancel();
    tasks.close();
    if tokio::time::timeout(FINISH_MAX, tasks.wait()).await.is_err() {
        warn!("Some writes did not end in {FINISH_MAX:?} and are cut off");
    }
    pools.close().await;
    info!("Stopped");
    Ok(())
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listening on {address}: is it taken? Another can be given, see `tillwire serve --help`")
    })
}
