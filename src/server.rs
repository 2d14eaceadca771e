//! HTTP/1.1 on a listener, by the clock: neither half a request nor one and then silence keeps a connection for ever, as
//! it would with axum's own `serve`.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the head of a request may take, from when its connection was accepted or the answer before it was handed to
/// the kernel; so long a connection may be idle, too. Whoever keeps connections for later lets go of them sooner: other
/// gateways, and the balancer of `deploy/`. The time of an answer does not count.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How large the head of a request may be, in bytes. It is held until it is complete.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Serves these routes, which are told each client's address. Once it is `closing` nobody new is accepted, and it returns
/// when whatever is under way has been answered; what has become a WebSocket is somebody else's to end.
pub async fn serve<L>(mut listener: L, routes: Router, closing: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_buf_size(HEAD_BYTES_MAX);
    let (routes, connections) = (TowerToHyperService::new(routes), TaskTracker::new());
    loop {
        let (io, address) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => break,
        };
        let routes = routes.clone();
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            routes.call(request)
        });
        let connection = http.serve_connection(TokioIo::new(io), answer).with_upgrades();
        let closing = closing.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            // An error is a client that has gone, or has taken too long.
            tokio::select! {
                _ = connection.as_mut() => return,
                () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}
