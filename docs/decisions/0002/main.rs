//! A server for `reproduce.sh`: socketioxide as its own documentation sets it up, with short intervals.
//!
//!     cargo new reproduce && cd reproduce && cargo add socketioxide@=0.18.9 axum@0.8 serde_json
//!     cargo add tokio --features full && cp …/main.rs src/main.rs && cargo run

use std::time::Duration;

use socketioxide::SocketIo;
use socketioxide::extract::{AckSender, Data, SocketRef};

async fn on_connect(socket: SocketRef) {
    socket.join("everyone");
    socket.on("message-with-ack", async |Data::<serde_json::Value>(data), ack: AckSender| ack.send(&data).unwrap());
    socket.on("flood", async |io: SocketIo| {
        let mut errors = Vec::new();
        for number in 0..1_000 {
            if let Err(error) = io.to("everyone").emit("number", &number).await {
                errors.push(format!("{error:?}"));
            }
        }
        println!("{} of 1000 broadcasts failed, the first: {:?}", errors.len(), errors.first());
    });
}

#[tokio::main]
async fn main() {
    let (layer, io) = SocketIo::builder()
        .ping_interval(Duration::from_millis(3_000))
        .ping_timeout(Duration::from_millis(2_000))
        .build_layer();
    io.ns("/", on_connect);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await.unwrap();
    axum::serve(listener, axum::Router::new().layer(layer)).await.unwrap();
}
