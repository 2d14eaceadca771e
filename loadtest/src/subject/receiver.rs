//! The floor of webhooks: a receiver in this process that reads one to its end, parses it and answers. What is left is the
//! provider's own time and the loopback's.

use std::convert::Infallible;
use std::net::SocketAddr;

use anyhow::Result;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::providers;
use crate::stamps;

/// The largest webhook that is read, in bytes: as large as the hub's.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// A payment that was told of, and when, by the machine's monotonic clock in nanoseconds.
pub type Told = (Uuid, u64);

pub struct Receiver {
    pub address: SocketAddr,
    pub told: mpsc::UnboundedReceiver<Told>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    /// Listens until it is dropped. Connections end with whoever made them.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (telling, told) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                _ = stream.set_nodelay(true); // Slower without, and right all the same.
                let telling = telling.clone();
                let answering = service_fn(move |request| receive(request, telling.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answering));
            }
        });
        Ok(Self { address, told, accepting })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn receive(
    request: Request<Incoming>,
    telling: mpsc::UnboundedSender<Told>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            if let Some(payment) = providers::paid(&body.to_bytes()) {
                _ = telling.send((payment, stamps::now())); // Nobody listens when all is over.
            }
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}
