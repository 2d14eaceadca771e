//! One request, on a connection of its own: a fault in one is no other's, and a balancer sends each where it likes.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub struct Answer {
    pub status: u16,
    /// What the header `Tillwire-Position` says.
    pub position: Option<String>,
    pub body: String,
}

/// Asks whoever listens there. How long to wait is for the caller to say: whoever does not any more, hangs up.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Answer> {
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = String::from_utf8(body.collect().await?.to_bytes().to_vec())?;
        let position = parts.headers.get("tillwire-position").and_then(|it| Some(it.to_str().ok()?.to_owned()));
        Ok(Answer { status: parts.status.as_u16(), position, body })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}
