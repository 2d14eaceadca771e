//! Somebody between the hub and a provider, who changes what is answered: for answers that no provider is known to give.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::Value;
use tokio::net::TcpListener;

use super::hub::request;

/// What becomes of an answer.
type Edit = Box<dyn Fn(&mut Value) + Send>;

pub struct Editor {
    pub address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    provider: SocketAddr,
    edit: Mutex<Option<Edit>>,
}

impl Editor {
    /// One that changes nothing yet.
    pub async fn before(provider: SocketAddr) -> Self {
        let desk = Arc::new(Desk { provider, edit: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(passes).with_state(desk.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, desk }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes answers so from now on.
    pub fn edits(&self, edit: impl Fn(&mut Value) + Send + 'static) {
        *self.desk.edit.lock().expect("an edit") = Some(Box::new(edit));
    }

    /// And no more.
    pub fn rests(&self) {
        *self.desk.edit.lock().expect("an edit") = None;
    }
}

async fn passes(
    State(desk): State<Arc<Desk>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    bytes: Bytes,
) -> Response<Body> {
    let path = uri.path_and_query().expect("a path").as_str();
    // A connection of its own has its own host and length.
    let text = |value: &axum::http::HeaderValue| value.to_str().expect("text").to_owned();
    let kept: Vec<(String, String)> = headers
        .iter()
        .filter(|(name, _)| !["host", "content-length", "connection"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    let kept: Vec<(&str, &str)> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = request(desk.provider, method.as_str(), path, &kept, bytes.to_vec()).await.expect("an answer");
    let mut body = answer.body;
    if let Some(edit) = &*desk.edit.lock().expect("an edit")
        && let Ok(mut json) = serde_json::from_slice(&body)
    {
        edit(&mut json);
        body = json.to_string().into_bytes();
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers.iter().filter(|(name, _)| *name != "content-length") {
        response = response.header(name, value);
    }
    response.body(body.into()).expect("an answer")
}
