//! socketioxide, stock or tuned: each line of the standard input is the argument of an event `m` that everyone is sent.
//! The end of the input ends it.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::map_request;
use axum::serve::ListenerExt as _;
use serde_json::value::RawValue;
use socketioxide::extract::SocketRef;
use socketioxide::{SocketIo, TransportType};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpSocket;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const BACKLOG: u32 = 4_096;
/// The most that a tuned connection reads at once, in bytes. Screens say little.
const READ_BUFFER_BYTES: usize = 1_024;
/// How many packets a tuned connection queues, where the stock one drops after 128.
const QUEUE_PACKETS_MAX: usize = 2_048;

#[tokio::main]
async fn main() -> Result<()> {
    let tuned = std::env::args().nth(1).as_deref() == Some("tuned");
    let builder = SocketIo::builder().transports([TransportType::Websocket]);
    let builder = match tuned {
        true => builder.ws_read_buffer_size(READ_BUFFER_BYTES).max_buffer_size(QUEUE_PACKETS_MAX),
        false => builder,
    };
    let (layer, io) = builder.build_layer();
    io.ns("/", async |_: SocketRef| {});

    let routes = Router::new().layer(layer);
    let routes = if tuned { routes.layer(map_request(strip)) } else { routes };
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening {}", listener.local_addr()?.port());
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    tokio::spawn(axum::serve(listener, routes).into_future());

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        // Which sockets it could not be queued for does not matter: the screens count what they miss.
        let _ = io.emit("m", &RawValue::from_string(line)?).await;
    }
    Ok(())
}

/// Keeps of a request only what the handshake needs, as copies: the rest would hold the buffer it was read into for as
/// long as the connection lives.
async fn strip(mut request: Request) -> Request {
    let needed = [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
    ];
    let copy = |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).ok();
    let headers: HeaderMap = needed
        .into_iter()
        .filter_map(|name| {
            let value = copy(request.headers().get(&name)?)?;
            Some((name, value))
        })
        .collect();
    *request.headers_mut() = headers;
    if let Ok(uri) = request.uri().to_string().parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}
