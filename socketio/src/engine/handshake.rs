//! What a request says about itself, copied out sparingly: keeping a hyper request alive pins its 8 KiB read buffer.

use std::net::SocketAddr;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Uri};

use crate::Config;

/// Longest query string taken, in bytes.
const QUERY_MAX: usize = 2048;
/// Bytes of header values kept of one handshake; a header that does not fit any more is left out.
const HEADERS_KEPT_MAX: usize = 2048;

/// How a session's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long-polling.
    Polling = 0,
    /// WebSocket.
    WebSocket = 1,
}

/// What is known of a session's first request.
#[derive(Clone, Debug)]
pub struct Handshake {
    transport: Transport,
    remote_addr: Option<SocketAddr>,
    query: Box<str>,
    headers: Box<[(HeaderName, HeaderValue)]>,
}

impl Handshake {
    pub(crate) fn copy(
        config: &Config,
        transport: Transport,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Self {
        let mut room = HEADERS_KEPT_MAX;
        let headers = config
            .headers_kept
            .iter()
            .filter_map(|name| {
                let value = headers.get(name)?;
                room = room.checked_sub(value.len())?;
                Some((name.clone(), detached(value)?))
            })
            .collect();
        Handshake {
            transport,
            remote_addr: (config.remote_addr)(extensions),
            query: uri.query().unwrap_or_default().into(),
            headers,
        }
    }

    /// The transport the session began with.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The client's address, if [`Config::remote_addr`] found one.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote_addr
    }

    /// One of the headers named in [`Config::headers_kept`].
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.iter().find(|(kept, _)| kept == name).map(|(_, value)| value)
    }

    /// The query string as it came, without the question mark.
    pub fn query(&self) -> &str {
        &self.query
    }
}

/// A copy that does not share the request's buffer.
pub(super) fn detached(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// The Engine.IO parameters of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub transport: Transport,
    pub sid: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// `None` unless it names version 4 and a transport we have.
    pub fn parse(query: Option<&'a str>) -> Option<Self> {
        let query = query.filter(|query| query.len() <= QUERY_MAX)?;
        let transport = match value(query, "transport")? {
            "polling" => Transport::Polling,
            "websocket" => Transport::WebSocket,
            _ => return None,
        };
        (value(query, "EIO")? == "4").then_some(Query { transport, sid: value(query, "sid") })
    }
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
}

/// The session id a request names, if it names one: what a balancer of several nodes routes by.
pub fn session_id(uri: &Uri) -> Option<&str> {
    value(uri.query()?, "sid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_version_and_transport() {
        let query = Query::parse(Some("EIO=4&transport=polling&t=x&sid=abc")).unwrap();
        assert_eq!(query, Query { transport: Transport::Polling, sid: Some("abc") });
        let long = format!("EIO=4&transport=polling&x={}", "a".repeat(QUERY_MAX));
        for wrong in ["", "EIO=4", "transport=polling", "EIO=3&transport=polling", "EIO=4&transport=abc", &long] {
            assert_eq!(Query::parse(Some(wrong)), None);
        }
        assert_eq!(Query::parse(None), None);
    }
}
