//! What a handler may ask for as an argument.

use std::{convert::Infallible, fmt, sync::Arc};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use socketioxide_core::{
    Str, Value,
    parser::{Parse, ParserError},
};
use socketioxide_parser_common::CommonParser;

use crate::{
    AckSender, CloseReason, Encoded, Handshake,
    encoded::Kind,
    socket::{Socket, SocketRef},
};

/// One call of a handler: the socket and what it is called for.
#[derive(Debug)]
pub struct Call {
    pub(crate) socket: Arc<Socket>,
    pub(crate) cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    Connected { auth: Option<Str> },
    Event { name: Box<str>, args: Value, ack: Option<u64> },
    Left(CloseReason),
}

/// A handler's argument.
pub trait Extract: Sized + Send {
    /// Why a call may not have it; a handler with such an argument is not called.
    type Error: fmt::Display;

    /// Takes the argument from the call.
    ///
    /// # Errors
    /// When this call has none, or of another shape.
    fn extract(call: &mut Call) -> Result<Self, Self::Error>;
}

/// What came, decoded: an event's arguments, or the auth payload in a connect handler. A tuple takes all arguments,
/// anything else the first. `Bytes` fields take binary attachments. If decoding fails the handler is not called:
/// take [`TryData`] to answer that yourself.
#[derive(Clone, Copy, Debug)]
pub struct Data<T>(pub T);

/// As [`Data`], with the failure to decode as a value.
#[derive(Debug)]
pub struct TryData<T>(pub Result<T, ParserError>);

/// The name of the event, for handlers of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event(pub Box<str>);

/// An event's arguments as they came: JSON texts and attachments, not decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// The arguments, comma-separated JSON without brackets; placeholders stand for attachments.
    json: Str,
    attachments: Vec<Bytes>,
}

impl Raw {
    /// The arguments, comma-separated JSON without brackets. An attachment is `{"_placeholder":true,"num":k}`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Binary attachments, in the order of their numbers.
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// An event that carries these arguments on, in the namespace `ns`.
    pub fn event_in(&self, ns: &str, name: &str) -> Encoded {
        let name = serde_json::Value::from(name);
        let json = if self.json.is_empty() { format!("[{name}]") } else { format!("[{name},{}]", &*self.json) };
        Encoded::socketio(Kind::Event, ns, None, &json, self.attachments.clone())
    }

    pub(crate) fn ack(&self, ns: &str, id: u64) -> Encoded {
        Encoded::socketio(Kind::Ack, ns, Some(id), &format!("[{}]", &*self.json), self.attachments.clone())
    }
}

/// The call has no such argument: the handler's signature does not fit what it is registered for.
#[derive(Debug)]
pub struct Absent(&'static str);

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} in this kind of handler", self.0)
    }
}

impl Extract for SocketRef {
    type Error = Infallible;

    fn extract(call: &mut Call) -> Result<Self, Infallible> {
        Ok(SocketRef(call.socket.clone()))
    }
}

impl Extract for Handshake {
    type Error = Infallible;

    fn extract(call: &mut Call) -> Result<Self, Infallible> {
        Ok(call.socket.handshake().clone())
    }
}

impl<T: DeserializeOwned + Send> Extract for Data<T> {
    type Error = ParserError;

    fn extract(call: &mut Call) -> Result<Self, ParserError> {
        decode(call).map(Data)
    }
}

impl<T: DeserializeOwned + Send> Extract for TryData<T> {
    type Error = Infallible;

    fn extract(call: &mut Call) -> Result<Self, Infallible> {
        Ok(TryData(decode(call)))
    }
}

fn decode<T: DeserializeOwned>(call: &mut Call) -> Result<T, ParserError> {
    match &mut call.cause {
        Cause::Event { args, .. } => CommonParser.decode_value(args, true),
        Cause::Connected { auth } => {
            let auth = auth.as_deref().unwrap_or("{}");
            serde_json::from_str(auth).map_err(ParserError::new)
        }
        Cause::Left(_) => serde_json::from_str("null").map_err(ParserError::new),
    }
}

impl Extract for AckSender {
    type Error = Absent;

    fn extract(call: &mut Call) -> Result<Self, Absent> {
        match &mut call.cause {
            Cause::Event { ack, .. } => Ok(AckSender { socket: call.socket.clone(), id: ack.take() }),
            _ => Err(Absent("acknowledgement")),
        }
    }
}

impl Extract for Event {
    type Error = Absent;

    fn extract(call: &mut Call) -> Result<Self, Absent> {
        match &call.cause {
            Cause::Event { name, .. } => Ok(Event(name.clone())),
            _ => Err(Absent("event")),
        }
    }
}

impl Extract for Raw {
    type Error = Absent;

    fn extract(call: &mut Call) -> Result<Self, Absent> {
        match &call.cause {
            Cause::Event { args: Value::Str(array, attachments), .. } => {
                Ok(Raw { json: after_name(array), attachments: attachments.iter().flatten().cloned().collect() })
            }
            _ => Err(Absent("arguments")),
        }
    }
}

impl Extract for CloseReason {
    type Error = Absent;

    fn extract(call: &mut Call) -> Result<Self, Absent> {
        match call.cause {
            Cause::Left(reason) => Ok(reason),
            _ => Err(Absent("close reason")),
        }
    }
}

/// What follows the event's name in an array that is known to be valid: `["a", 1, 2]` → `1, 2`.
fn after_name(array: &Str) -> Str {
    let text = array.trim_end();
    let start = text.len() - text.trim_start().len() + 1;
    let end = text.len().saturating_sub(1);
    let mut names = serde_json::Deserializer::from_str(&text[start..]).into_iter::<serde::de::IgnoredAny>();
    let _ = names.next();
    let rest = start + names.byte_offset();
    match text[rest..end].find(',') {
        // Nothing but white space and a comma can follow the name.
        Some(comma) => array.slice(rest + comma + 1..end),
        None => array.slice(end..end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_what_follows_the_name() {
        for (array, rest) in [
            (r#"["a"]"#, ""),
            (r#"["a",1,[2,{"b":3}]]"#, r#"1,[2,{"b":3}]"#),
            (r#" [ "a,\"b" , "c" ] "#, r#" "c" "#),
            ("[4,1]", "1"),
        ] {
            assert_eq!(&*after_name(&Str::copy_from_slice(array)), rest, "{array}");
        }
    }
}
