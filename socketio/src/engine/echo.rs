//! A WebSocket that says back what it hears: for suites that judge the codec itself and not what travels in it.

use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    Shared,
    http::{ReplyBody, accept, begin_websocket, refuse},
    websocket::{Heard, WebSocket},
};
use crate::{Config, Encoded};

/// Raw WebSockets through the codec and the settings that sessions use: every message comes back. No Engine.IO, no heartbeat; what
/// bounds a message is `max_payload`, and a peer may stay for ever. Not for an open network.
#[doc(hidden)]
#[derive(Clone)]
pub struct FrameEcho(Arc<Shared>);

impl FrameEcho {
    pub fn new(config: Config) -> Self {
        FrameEcho(Shared::new(config))
    }
}

impl fmt::Debug for FrameEcho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameEcho").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for FrameEcho {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let reply = begin_websocket(request.headers());
        if reply.is_ok() {
            let shared = self.0.clone();
            self.0.tasks.spawn(async move {
                if let Some(socket) = accept(&shared, on_upgrade).await {
                    echo(socket).await;
                }
            });
        }
        ready(Ok(reply.unwrap_or_else(|reason| refuse(&self.0, reason))))
    }
}

async fn echo(mut socket: Box<WebSocket>) {
    let (code, text) = loop {
        let said = match socket.next().await {
            None => break (1000, ""),
            Some(Err(reason)) if reason.is_silent() => return,
            Some(Err(reason)) => break reason.frame(),
            Some(Ok(Heard::Text(text))) => Encoded::text_frame(&text),
            Some(Ok(Heard::Binary(bytes))) => Encoded::engine_binary(bytes),
        };
        if socket.say(said).await.is_err() {
            return;
        }
    };
    socket.part(None, code, text).await;
}
