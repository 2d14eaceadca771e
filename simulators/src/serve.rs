//! The doors: HTTP/1.1 on a port for each provider, where faults of the connection itself can happen.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tower_service::Service as _;

use crate::account::Provider;
use crate::call::{BODY_BYTES_MAX, Call, Reply};
use crate::faults::Fault;
use crate::requests::Request as Logged;
use crate::sending::Shared;
use crate::world::World;
use crate::{midtrans, xendit};

/// How many connections each door takes at once; further ones wait.
const CONNECTIONS_MAX: usize = 1_024;
/// How long it rests when none could be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that is closed without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("closed, as a fault would have it")
    }
}

impl std::error::Error for Closed {}

/// Serves until it is stopped.
pub async fn serve(shared: Arc<Shared>, provider: Provider, listener: TcpListener, control: Router) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = free.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let (of_the_connection, control) = (shared.clone(), control.clone());
        shared.tasks.spawn(async move {
            let service = service_fn(|request| answer(of_the_connection.clone(), provider, control.clone(), request));
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = of_the_connection.stop.cancelled() => {}
                // Whoever has gone needs no answer, and neither does whom a fault has hung up on.
                _ = connection => {}
            }
            drop(permit);
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    provider: Provider,
    mut control: Router,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    if request.uri().path().starts_with("/_sim") {
        let answered: Result<_, Infallible> = control.call(request.map(Body::new)).await;
        return Ok(answered.unwrap_or_else(|never| match never {}));
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(too_large(provider).into());
    };
    let call = Call::new(head.method, head.uri.path(), head.uri.query(), head.headers, body.to_bytes().to_vec());
    // A caller who hangs up undoes nothing.
    let done = shared.tasks.spawn(process(shared.clone(), provider, call)).await;
    done.ok().flatten().map(Response::from).ok_or(Closed)
}

fn too_large(provider: Provider) -> Reply {
    match provider {
        Provider::Midtrans => midtrans::error(413, "Request entity too large"),
        Provider::Xendit => xendit::error(413, "API_VALIDATION_ERROR", "The request is too large"),
    }
}

/// A body to remember: a card's number is not.
fn without_a_card(mut body: Value) -> Value {
    if let Some(card) = body.pointer_mut("/channel_properties/card_details").and_then(Value::as_object_mut) {
        card.retain(|name, _| !matches!(name.as_str(), "card_number" | "cvn"));
    }
    body
}

/// What the faults make of a request.
enum Plan {
    Answer(Reply),
    Close,
    /// Begun so much later, and then not answered if it says how long not.
    Do {
        later: Duration,
        unanswered: Option<Duration>,
    },
}

/// An answer, or none: then the connection is closed.
async fn process(shared: Arc<Shared>, provider: Provider, call: Call) -> Option<Reply> {
    let (number, plan) = shared.act(|world| plan(world, provider, &call));
    let (reply, unanswered) = match plan {
        Plan::Close => return None,
        Plan::Answer(reply) => (reply, None),
        Plan::Do { later, unanswered } => {
            pause(&shared, later).await;
            let reply = shared.act(|world| match provider {
                Provider::Midtrans => midtrans::handle(world, &call),
                Provider::Xendit => xendit::handle(world, &call),
            });
            (reply, unanswered)
        }
    };
    if let Some(long) = unanswered {
        pause(&shared, long).await;
        return None;
    }
    shared.act(|world| world.requests.answered(number, reply.status));
    Some(reply)
}

async fn pause(shared: &Shared, long: Duration) {
    if !long.is_zero() {
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = sleep(long) => {}
        }
    }
}

fn plan(world: &mut World, provider: Provider, call: &Call) -> (u64, Plan) {
    let (operation, names) = match provider {
        Provider::Midtrans => (midtrans::operation(call), midtrans::names(world, call)),
        Provider::Xendit => (xendit::operation(call), xendit::names(world, call)),
    };
    let mut faults = Vec::new();
    let mut take = |fault| {
        let rule = world.fault(fault, provider, &names, operation);
        faults.extend(rule.iter().map(|rule| rule.fault));
        rule
    };
    let plan = if take(Fault::Reset).is_some() {
        Plan::Close
    } else if let Some(status) = [(Fault::Http500, 500), (Fault::Http503, 503)]
        .into_iter()
        .find_map(|(fault, status)| take(fault).map(|_| status))
    {
        Plan::Answer(match provider {
            Provider::Midtrans => midtrans::broken(status),
            Provider::Xendit => xendit::broken(status),
        })
    } else if let Some(rule) = take(Fault::Http429) {
        Plan::Answer(match provider {
            Provider::Midtrans => midtrans::broken(429),
            Provider::Xendit => xendit::too_many(rule.after()),
        })
    } else {
        let later = take(Fault::SlowS).map(|rule| rule.after()).unwrap_or_default();
        let unanswered = take(Fault::TimeoutAfterCommit).map(|rule| rule.after());
        Plan::Do { later, unanswered }
    };
    // Only one that takes its time can be asked again meanwhile.
    let plan = match plan {
        Plan::Do { .. } if provider == Provider::Midtrans => match midtrans::idempotency::enter(world, call) {
            Some(reply) => Plan::Answer(reply),
            None => plan,
        },
        plan => plan,
    };
    let number = world.requests.came(Logged {
        at: world.now(),
        provider,
        operation,
        method: call.method.to_string(),
        path: call.path.clone(),
        body: without_a_card(call.json()),
        idempotency_key: call.header("idempotency-key").map(str::to_owned),
        status: None,
        faults,
        number: 0,
    });
    (number, plan)
}
