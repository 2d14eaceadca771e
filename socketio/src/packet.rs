//! Socket.IO packets as they come in. The header and the attachments are socketioxide's parser's; the strictness is ours.
//!
//! Three things the parser lets pass would break a promise, so they are caught here: an ack id too large for it is dropped
//! in silence, what follows a DISCONNECT is ignored, and JSON is not looked at before a handler asks for it.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use socketioxide_core::{
    Str, Value,
    packet::{Packet, PacketData},
    parser::{Parse, ParseConfig, ParseError, ParserState},
};
use socketioxide_parser_common::CommonParser;

use crate::Config;

/// Time the attachments of one event may take to follow it.
const ATTACHMENTS_WAIT: Duration = Duration::from_secs(60);

/// Digits of an ack id that fit the parser's `i64`, whatever they are.
const ACK_DIGITS_MAX: usize = 18;

/// Events that a client's library makes up itself; Node refuses them on the wire too.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// A packet that broke the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadPacket;

#[derive(Debug)]
pub(crate) enum Incoming {
    Connect { ns: Str, auth: Option<Str> },
    Disconnect { ns: Str },
    Event { ns: Str, name: Box<str>, args: Value, ack: Option<u64> },
    Ack { ns: Str, id: u64, args: Value },
}

/// Reads one connection's packets; between two calls it holds at most one event that waits for its attachments.
pub(crate) struct Reader {
    limits: ParseConfig,
    /// The event that waits. Most connections never see a binary one.
    waiting: Option<Box<ParserState>>,
}

impl Reader {
    pub fn new(config: &Config) -> Self {
        Reader {
            limits: ParseConfig {
                max_incoming_binary_buf_size: config.max_payload,
                max_incoming_binaries: config.attachments_max,
                packet_completion_timeout: ATTACHMENTS_WAIT,
            },
            waiting: None,
        }
    }

    /// A text message. `None` while attachments are to follow.
    pub fn text(&mut self, message: &str) -> Result<Option<Incoming>, BadPacket> {
        if self.waiting.is_some() || !is_strict(message) {
            return Err(BadPacket);
        }
        let state = ParserState::default();
        let decoded = CommonParser.decode_str(&self.limits, &state, Str::copy_from_slice(message));
        self.waiting = matches!(decoded, Err(ParseError::NeedsMoreBinaryData)).then(|| Box::new(state));
        taken(decoded)
    }

    /// A binary message: the next attachment.
    pub fn binary(&mut self, message: &Bytes) -> Result<Option<Incoming>, BadPacket> {
        let state = self.waiting.as_ref().ok_or(BadPacket)?;
        let decoded = CommonParser.decode_bin(&self.limits, state, message.clone());
        if decoded.is_ok() {
            self.waiting = None;
        }
        taken(decoded)
    }
}

fn taken(decoded: Result<Packet, ParseError>) -> Result<Option<Incoming>, BadPacket> {
    match decoded {
        Ok(packet) => read(packet).map(Some),
        Err(ParseError::NeedsMoreBinaryData) => Ok(None),
        Err(_) => Err(BadPacket),
    }
}

/// Whether a text message's header says no more than its type may: no ack id beyond what the parser can hold (it would drop
/// it and go on), none at all on CONNECT, and nothing behind DISCONNECT. Everything else is the parser's to refuse.
fn is_strict(message: &str) -> bool {
    let Some((kind, rest)) = message.split_at_checked(1) else { return false };
    let rest = match (kind, rest.split_once('-')) {
        ("5" | "6", Some((_, rest))) => rest,
        _ => rest,
    };
    let rest = match rest.strip_prefix('/').map(|ns| ns.split_once(',')) {
        Some(Some((_, rest))) => rest,
        Some(None) => "",
        None => rest,
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    match kind {
        "0" => digits == 0,
        "1" => rest.is_empty(),
        _ => digits <= ACK_DIGITS_MAX,
    }
}

fn read(packet: Packet) -> Result<Incoming, BadPacket> {
    let ns = packet.ns;
    match packet.inner {
        PacketData::Connect(None) => Ok(Incoming::Connect { ns, auth: None }),
        PacketData::Connect(Some(Value::Str(auth, _))) => {
            serde_json::from_str::<Object>(&auth).map_err(|_| BadPacket)?;
            Ok(Incoming::Connect { ns, auth: Some(auth) })
        }
        PacketData::Disconnect => Ok(Incoming::Disconnect { ns }),
        PacketData::Event(args, ack) | PacketData::BinaryEvent(args, ack) => {
            let name = event_name(&args)?;
            let ack = ack.map(u64::try_from).transpose().map_err(|_| BadPacket)?;
            Ok(Incoming::Event { ns, name, args, ack })
        }
        PacketData::EventAck(args, id) | PacketData::BinaryAck(args, id) => {
            let json = args.as_str().ok_or(BadPacket)?;
            serde_json::from_str::<Array>(json).map_err(|_| BadPacket)?;
            Ok(Incoming::Ack { ns, id: u64::try_from(id).map_err(|_| BadPacket)?, args })
        }
        PacketData::Connect(Some(Value::Bytes(_))) | PacketData::ConnectError(_) => Err(BadPacket),
    }
}

fn event_name(args: &Value) -> Result<Box<str>, BadPacket> {
    let json = args.as_str().ok_or(BadPacket)?;
    let Named(name) = serde_json::from_str(json).map_err(|_| BadPacket)?;
    if RESERVED.contains(&&*name) { Err(BadPacket) } else { Ok(name) }
}

/// An array whose first element names the event; the rest is only checked to be JSON.
/// (The parser's own `read_event` fails on a name that holds an escape, as other languages' clients write `é`.)
struct Named(Box<str>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Named;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event's name and arguments")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Named, A::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Name<'a> {
                    Text(#[serde(borrow)] Cow<'a, str>),
                    Number(serde_json::Number),
                }
                let name = match seq.next_element()?.ok_or_else(|| de::Error::custom("no event name"))? {
                    Name::Text(text) => text.into(),
                    Name::Number(number) => number.to_string().into(),
                };
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Named(name))
            }
        }
        deserializer.deserialize_seq(First)
    }
}

/// Any JSON array, looked at but not kept.
struct Array;

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<IgnoredAny>::deserialize(deserializer).map(|_| Array)
    }
}

/// Any JSON object, looked at but not kept.
struct Object;

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::collections::HashMap::<Cow<'de, str>, IgnoredAny>::deserialize(deserializer).map(|_| Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &str) -> Result<Option<Incoming>, BadPacket> {
        Reader::new(&Config::default()).text(message)
    }

    #[test]
    fn packets_are_read() {
        assert!(matches!(text("0"), Ok(Some(Incoming::Connect { auth: None, .. }))));
        assert!(matches!(text("0/a,{\"b\":1}"), Ok(Some(Incoming::Connect { ns, auth: Some(_) })) if ns == "/a"));
        assert!(matches!(text("1/a,"), Ok(Some(Incoming::Disconnect { ns })) if ns == "/a"));
        assert!(matches!(text("1/a-b,"), Ok(Some(Incoming::Disconnect { ns })) if ns == "/a-b"));
        assert!(matches!(text("1"), Ok(Some(Incoming::Disconnect { ns })) if ns == "/"));
        assert!(matches!(text("2[\"a\",1]"), Ok(Some(Incoming::Event { ack: None, .. }))));
        assert!(matches!(text("27[\"a\",1]"), Ok(Some(Incoming::Event { ack: Some(7), .. }))));
        assert!(matches!(text("3/a1,7[]"), Ok(Some(Incoming::Ack { id: 7, ns, .. })) if ns == "/a1"));
        assert!(matches!(text("2[4]"), Ok(Some(Incoming::Event { name, .. })) if &*name == "4"));
        assert!(matches!(text(r#"2["caf\u00e9"]"#), Ok(Some(Incoming::Event { name, .. })) if &*name == "café"));
    }

    #[test]
    fn wrong_packets_are_refused() {
        for wrong in [
            "",
            "abc",
            "7",
            "0abc",
            "0[]",
            "0/a,1",
            "0/a,1{}",
            "01{}",
            "1abc",
            "1/a,x",
            "2",
            "2{}",
            "2[]",
            "2[{}]",
            "2[\"a\"",
            "2abc[\"a\"]",
            "299999999999999999999999[\"a\"]",
            "2[\"disconnect\"]",
            "3[]",
            "31{}",
            "31[",
            "4{}",
            "5[\"a\"]",
            "5-[\"a\"]",
            "5999-[\"a\"]",
            "51-9999999999999999999[\"a\"]",
            "2/é",
            "é",
        ] {
            assert!(matches!(text(wrong), Err(BadPacket)), "{wrong:?}");
        }
    }

    #[test]
    fn attachments_follow_their_event_and_nothing_comes_between() {
        let mut reader = Reader::new(&Config::default());
        let event = r#"52-["put",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        assert!(matches!(reader.text(event), Ok(None)));
        assert!(matches!(reader.binary(&Bytes::from_static(b"a")), Ok(None)));
        assert!(matches!(reader.binary(&Bytes::from_static(b"b")), Ok(Some(Incoming::Event { .. }))));
        assert!(matches!(reader.binary(&Bytes::from_static(b"c")), Err(BadPacket)));
        assert!(matches!(reader.text(event), Ok(None)));
        assert!(matches!(reader.text("2[\"a\"]"), Err(BadPacket)));
    }
}
