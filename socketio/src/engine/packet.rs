//! Engine.IO packets as they come in.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;

use crate::encoded::SEPARATOR;

/// Packets one polling payload may hold; Node's client sends a handful.
pub(crate) const PACKETS_MAX: usize = 1024;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Close,
    Pong,
    Text(String),
    Binary(Bytes),
    Nothing,
}

/// The kinds of text packet that may come on an open session. Pings and handshakes only ever go the other way.
pub(crate) enum Head<'a> {
    Close,
    Pong,
    Message(&'a str),
    Nothing,
}

pub(crate) fn head(packet: &str) -> Option<Head<'_>> {
    match packet.as_bytes().first()? {
        b'1' => Some(Head::Close),
        b'3' => Some(Head::Pong),
        b'4' => Some(Head::Message(&packet[1..])),
        b'6' => Some(Head::Nothing),
        _ => None,
    }
}

/// Splits a polling payload. One wrong packet spoils all of it.
pub(crate) fn payload(body: &str) -> Option<Vec<Packet>> {
    let parts = body.split(char::from(SEPARATOR));
    if parts.clone().nth(PACKETS_MAX).is_some() {
        return None;
    }
    parts.map(packet).collect()
}

fn packet(text: &str) -> Option<Packet> {
    if let Some(encoded) = text.strip_prefix('b') {
        return BASE64_STANDARD.decode(encoded).ok().map(|bytes| Packet::Binary(bytes.into()));
    }
    Some(match head(text)? {
        Head::Close => Packet::Close,
        Head::Pong => Packet::Pong,
        Head::Message(message) => Packet::Text(message.to_owned()),
        Head::Nothing => Packet::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_all_or_nothing() {
        assert_eq!(
            payload("4hello\x1ebAQIDBA==\x1e3\x1e1"),
            Some(vec![
                Packet::Text("hello".into()),
                Packet::Binary(Bytes::from_static(&[1, 2, 3, 4])),
                Packet::Pong,
                Packet::Close,
            ])
        );
        for wrong in ["", "abc", "4a\x1e", "4a\x1e2", "b!", "0{}", "é"] {
            assert_eq!(payload(wrong), None, "{wrong:?}");
        }
        assert_eq!(payload(&vec!["4"; PACKETS_MAX + 1].join("\x1e")), None);
    }
}
