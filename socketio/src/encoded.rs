//! Packets encoded once and shared by every socket that sends them.
//!
//! An [`Encoded`] holds the very bytes a WebSocket carries, frame headers included: a server's frames are not masked, so
//! one image fits all connections and a write hands the kernel shared slices. Polling takes the payloads out of it.

use std::{fmt, ops::Range, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Serialize;
use socketioxide_core::{Value, parser::Parse};
use socketioxide_parser_common::CommonParser;

use crate::EncodeError;

/// Separates packets in a polling payload.
pub(crate) const SEPARATOR: u8 = 0x1e;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;

/// Bytes of a close frame's payload that its code leaves to the reason.
const CLOSE_REASON_MAX: usize = 123;

/// A packet ready for the wire, binary attachments included, or several [joined](Encoded::joined). Cloning shares the bytes.
#[derive(Clone)]
pub struct Encoded(Arc<Image>);

struct Image {
    /// WebSocket frames, one after the other: of each packet its text, then one per attachment.
    frames: Box<[u8]>,
    /// What they carry, in their order. Frames that polling never sees carry nothing for it.
    payloads: Box<[Payload]>,
}

/// Where a payload lies within an image's frames.
#[derive(Clone)]
enum Payload {
    Text(Range<usize>),
    Binary(Range<usize>),
}

impl Encoded {
    /// `42["name",…]`: an event of the main namespace. A tuple becomes several arguments, anything else is one (`()` is `null`;
    /// for none at all see [`Encoded::event_json`]); values that serialise as bytes (such as [`Bytes`]) become binary attachments.
    ///
    /// # Errors
    /// When `args` cannot be written as JSON.
    pub fn event<T: Serialize + ?Sized>(name: &str, args: &T) -> Result<Self, EncodeError> {
        Self::event_in("/", name, args)
    }

    /// The same for the namespace `ns`, which begins with a slash.
    ///
    /// # Errors
    /// As [`Encoded::event`].
    pub fn event_in<T: Serialize + ?Sized>(ns: &str, name: &str, args: &T) -> Result<Self, EncodeError> {
        Self::message(Kind::Event, ns, None, args_of(args, Some(name))?)
    }

    /// An event of the main namespace whose arguments are JSON already, one string an argument; they are copied as they are.
    /// The caller vouches for them: a client closes on what it cannot parse.
    pub fn event_json(name: &str, args: &[&str]) -> Self {
        Self::event_json_in("/", name, args)
    }

    /// The same for the namespace `ns`.
    pub fn event_json_in(ns: &str, name: &str, args: &[&str]) -> Self {
        let mut json = String::with_capacity(name.len() + 4 + args.iter().map(|arg| arg.len() + 1).sum::<usize>());
        json.push('[');
        json.push_str(&serde_json::Value::from(name).to_string());
        for arg in args {
            json.push(',');
            json.push_str(arg);
        }
        json.push(']');
        Self::socketio(Kind::Event, ns, None, &json, Vec::new())
    }

    pub(crate) fn event_with_ack<T: Serialize + ?Sized>(
        ns: &str,
        name: &str,
        id: u64,
        args: &T,
    ) -> Result<Self, EncodeError> {
        Self::message(Kind::Event, ns, Some(id), args_of(args, Some(name))?)
    }

    pub(crate) fn ack<T: Serialize + ?Sized>(ns: &str, id: u64, args: &T) -> Result<Self, EncodeError> {
        Self::message(Kind::Ack, ns, Some(id), args_of(args, None)?)
    }

    fn message(kind: Kind, ns: &str, id: Option<u64>, args: Value) -> Result<Self, EncodeError> {
        match args {
            Value::Str(json, attachments) => {
                Ok(Self::socketio(kind, ns, id, &json, attachments.unwrap_or_default().into()))
            }
            Value::Bytes(_) => Err(EncodeError::NotText),
        }
    }

    /// Any Socket.IO packet: its type, namespace, ack id, JSON and attachments.
    pub(crate) fn socketio(kind: Kind, ns: &str, id: Option<u64>, json: &str, attachments: Vec<Bytes>) -> Self {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(json.len() + ns.len() + 24);
        text.push('4');
        // Writing to a String cannot fail.
        if attachments.is_empty() {
            let _ = write!(text, "{}", kind as u8);
        } else {
            let _ = write!(text, "{}{}-", kind as u8 + 3, attachments.len());
        }
        if ns != "/" {
            text.push_str(ns);
            text.push(',');
        }
        if let Some(id) = id {
            let _ = write!(text, "{id}");
        }
        text.push_str(json);
        Self::image(&text, &attachments)
    }

    /// A bare Engine.IO packet, e.g. `4hello` or the ping `2`.
    pub fn engine_text(packet: &str) -> Self {
        Self::image(packet, &[])
    }

    /// A bare Engine.IO binary message.
    pub fn engine_binary(message: Bytes) -> Self {
        Self::image("", &[message])
    }

    /// Several packets in one, to be sent to many sockets: their bytes stand one after the other, so that a queue holds them once
    /// and one plain write takes them. A queue counts them as one packet, and the protocol's own frames go before or after it.
    /// `None` if there are none.
    ///
    /// ```
    /// use tillwire_socketio::Encoded;
    /// let [one, two] = [Encoded::event_json("one", &["1"]), Encoded::event_json("two", &["2"])];
    /// assert_eq!(Encoded::joined(&[&one, &two]).unwrap().size(), one.size() + two.size());
    /// ```
    pub fn joined(packets: &[&Encoded]) -> Option<Self> {
        if let [] | [_] = packets {
            return packets.first().copied().cloned();
        }
        let mut frames = Vec::with_capacity(packets.iter().map(|packet| packet.size()).sum());
        let mut payloads = Vec::with_capacity(packets.len());
        for packet in packets {
            payloads.extend(packet.0.payloads.iter().map(|payload| payload.moved(frames.len())));
            frames.extend_from_slice(packet.frames());
        }
        Some(Encoded(Arc::new(Image { frames: frames.into(), payloads: payloads.into() })))
    }

    fn image(text: &str, attachments: &[Bytes]) -> Self {
        let size = text.len() + attachments.iter().map(|bytes| bytes.len() + FRAME_HEADER_MAX).sum::<usize>();
        let mut frames = Vec::with_capacity(size + FRAME_HEADER_MAX);
        let mut payloads = Vec::with_capacity(1 + attachments.len());
        if !text.is_empty() {
            frame(&mut frames, TEXT, text.as_bytes());
            payloads.push(Payload::Text(frames.len() - text.len()..frames.len()));
        }
        for attachment in attachments {
            frame(&mut frames, BINARY, attachment);
            payloads.push(Payload::Binary(frames.len() - attachment.len()..frames.len()));
        }
        Encoded(Arc::new(Image { frames: frames.into(), payloads: payloads.into() }))
    }

    /// A text message of a WebSocket that carries no Engine.IO; unlike a packet it may be empty.
    pub(crate) fn text_frame(text: &str) -> Self {
        Self::one_frame(TEXT, text.as_bytes())
    }

    fn one_frame(opcode: u8, payload: &[u8]) -> Self {
        let mut frames = Vec::with_capacity(payload.len() + FRAME_HEADER_MAX);
        frame(&mut frames, opcode, payload);
        Encoded(Arc::new(Image { frames: frames.into(), payloads: Box::default() }))
    }

    /// A WebSocket close frame, which polling never sees. Without a code there is no reason either.
    pub(crate) fn close_frame(code: Option<u16>, reason: &str) -> Self {
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend(code.to_be_bytes());
            payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(CLOSE_REASON_MAX)]);
        }
        Self::one_frame(CLOSE, &payload)
    }

    /// The answer to a WebSocket ping, with its payload.
    pub(crate) fn pong_frame(payload: &[u8]) -> Self {
        Self::one_frame(PONG, payload)
    }

    /// The packets it was joined of, each with bytes of its own, or itself.
    pub(crate) fn parts(&self) -> Vec<Encoded> {
        if self.0.payloads.len() <= 1 {
            return vec![self.clone()];
        }
        let mut parts: Vec<(&str, Vec<Bytes>)> = Vec::new();
        for payload in &self.0.payloads {
            match payload {
                Payload::Text(at) => parts.push((self.text_at(at), Vec::new())),
                Payload::Binary(at) => {
                    let attachment = Bytes::copy_from_slice(&self.0.frames[at.clone()]);
                    match parts.last_mut() {
                        Some((_, attachments)) => attachments.push(attachment),
                        None => parts.push(("", vec![attachment])),
                    }
                }
            }
        }
        parts.iter().map(|(text, attachments)| Self::image(text, attachments)).collect()
    }

    /// Whether it is this very packet, not one that looks the same.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Bytes this packet takes on a WebSocket; what a queue's byte bound counts.
    pub fn size(&self) -> usize {
        self.0.frames.len()
    }

    pub(crate) fn frames(&self) -> &[u8] {
        &self.0.frames
    }

    /// Appends the packet as polling carries it, after a separator if something came before.
    pub(crate) fn write_payload(&self, payload: &mut Vec<u8>) {
        for part in &self.0.payloads {
            separate(payload);
            match part {
                Payload::Text(at) => payload.extend_from_slice(&self.0.frames[at.clone()]),
                Payload::Binary(at) => {
                    payload.push(b'b');
                    payload.extend_from_slice(BASE64_STANDARD.encode(&self.0.frames[at.clone()]).as_bytes());
                }
            }
        }
    }

    /// The text of the packet, e.g. `42["name",1]`, and of the first one if it is joined; empty for a binary Engine.IO message.
    pub fn text(&self) -> &str {
        match self.0.payloads.first() {
            Some(Payload::Text(at)) => self.text_at(at),
            _ => "",
        }
    }

    fn text_at(&self, at: &Range<usize>) -> &str {
        std::str::from_utf8(&self.0.frames[at.clone()]).unwrap_or_default()
    }
}

impl Payload {
    fn moved(&self, by: usize) -> Self {
        match self {
            Payload::Text(at) => Payload::Text(at.start + by..at.end + by),
            Payload::Binary(at) => Payload::Binary(at.start + by..at.end + by),
        }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads are the application's and may be private; their size is not.
        f.debug_struct("Encoded").field("size", &self.size()).finish()
    }
}

/// The text types of Socket.IO packets that a server sends; with attachments, event and ack are three higher.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Connect = 0,
    Disconnect = 1,
    Event = 2,
    Ack = 3,
    ConnectError = 4,
}

fn args_of<T: Serialize + ?Sized>(args: &T, event: Option<&str>) -> Result<Value, EncodeError> {
    CommonParser.encode_value(args, event).map_err(EncodeError::Json)
}

fn separate(payload: &mut Vec<u8>) {
    if !payload.is_empty() {
        payload.push(SEPARATOR);
    }
}

const FRAME_HEADER_MAX: usize = 10;

/// One final, unmasked frame (RFC 6455 §5.2).
fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(opcode);
    match payload.len() {
        len @ 0..126 => out.push(len as u8),
        len @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_once_for_both_transports() {
        let packet = Encoded::event("sale", &(1, "two")).unwrap();
        assert_eq!(packet.text(), r#"42["sale",1,"two"]"#);
        assert_eq!(packet.frames()[..2], [TEXT, packet.text().len() as u8]);
        let mut payload = b"2".to_vec();
        packet.write_payload(&mut payload);
        assert_eq!(payload, b"2\x1e42[\"sale\",1,\"two\"]");
    }

    #[test]
    fn what_is_joined_is_carried_as_its_packets_would_be_one_by_one() {
        let text = Encoded::event("sale", &1).unwrap();
        let binary = Encoded::event("put", &Bytes::from_static(&[1, 2, 3, 4])).unwrap();
        let some = Encoded::joined(&[&binary, &text]).unwrap();
        let joined = Encoded::joined(&[&text, &some]).unwrap();
        assert_eq!(joined.frames(), [text.frames(), binary.frames(), text.frames()].concat());
        let (mut together, mut one_by_one) = (b"2".to_vec(), b"2".to_vec());
        joined.write_payload(&mut together);
        [&text, &binary, &text].iter().for_each(|packet| packet.write_payload(&mut one_by_one));
        assert_eq!(together, one_by_one);
        let frames = |packets: &[&Encoded]| packets.iter().map(|packet| packet.frames().to_vec()).collect::<Vec<_>>();
        assert_eq!(frames(&joined.parts().iter().collect::<Vec<_>>()), frames(&[&text, &binary, &text]));
        assert!(Encoded::joined(&[&text]).unwrap().is(&text) && Encoded::joined(&[]).is_none());
    }

    #[test]
    fn bytes_become_attachments() {
        let packet = Encoded::event_in("/file", "put", &Bytes::from_static(&[1, 2, 3, 4])).unwrap();
        assert_eq!(packet.text(), r#"451-/file,["put",{"_placeholder":true,"num":0}]"#);
        let mut payload = Vec::new();
        packet.write_payload(&mut payload);
        assert!(payload.ends_with(b"\x1ebAQIDBA=="));
        assert!(packet.frames().ends_with(&[BINARY, 4, 1, 2, 3, 4]));
    }

    #[test]
    fn raw_json_is_copied_and_names_are_escaped() {
        let packet = Encoded::event_json("say \"hi\"", &["{\"a\":1}", "\"1041.2\""]);
        assert_eq!(packet.text(), r#"42["say \"hi\"",{"a":1},"1041.2"]"#);
        assert_eq!(Encoded::event_json("bare", &[]).text(), r#"42["bare"]"#);
    }

    #[test]
    fn frame_headers_grow_with_their_payload() {
        for (len, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            frame(&mut out, TEXT, &vec![b'a'; len]);
            assert_eq!(out.len(), len + header);
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let packet = Encoded::close_frame(Some(1012), &"é".repeat(100));
        assert_eq!(packet.frames().len(), 2 + 2 + 122);
    }
}
