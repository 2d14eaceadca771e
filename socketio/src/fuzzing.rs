//! What must hold for everything that reads bytes of strangers. Each function is driven with any bytes at all, by a fuzz target in
//! `../fuzz` and by a test below, and panics where its promise does not hold.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue};
use socketioxide_core::Value;

use crate::{
    Config, Encoded,
    encoded::Kind,
    engine::{
        addresses::counted_address,
        frames::{CONTROL_PAYLOAD_MAX, Frames, Said, Wrong},
        packet::{PACKETS_MAX, Packet, payload},
    },
    packet::{BadPacket, Incoming, Reader},
};

/// Frames that may be anything: reading does not depend on how TCP cut them, and keeps no more than one message and one control frame.
pub fn websocket_bytes(data: &[u8]) {
    let mut dice = Dice(data);
    let message_max = dice.below(2048);
    let piece = 1 + dice.below(32);
    let stream = dice.0;
    let whole = read_frames(message_max, [stream].into_iter());
    assert_eq!(read_frames(message_max, stream.chunks(piece)), whole, "cut every {piece} bytes");
}

/// What a client says arrives as it was said: any kinds, fragments, masks, pings between fragments.
pub fn websocket_messages(data: &[u8]) {
    let mut dice = Dice(data);
    let piece = 1 + dice.below(512);
    let (mut stream, mut said) = (Vec::new(), Vec::new());
    while !dice.0.is_empty() && said.last().is_none_or(|last| !matches!(last, Said::Close(_))) {
        match dice.below(5) {
            0 | 1 => {
                let text = String::from_utf8_lossy(dice.take_some(400)).into_owned();
                say_in_fragments(&mut dice, 1, text.as_bytes(), &mut stream, &mut said);
                said.push(Said::Text(text));
            }
            2 => {
                let bytes = dice.take_some(70_000);
                say_in_fragments(&mut dice, 2, bytes, &mut stream, &mut said);
                said.push(Said::Binary(Bytes::copy_from_slice(bytes)));
            }
            3 => say_between(&mut dice, &mut stream, &mut said),
            _ => {
                let code = [1000, 1001, 1013, 3000, 4999][dice.below(5)];
                client_frame(&mut stream, 0x88, dice.mask(), &u16::to_be_bytes(code));
                said.push(Said::Close(Some(code)));
            }
        }
    }
    let heard = read_frames(usize::from(u16::MAX) * 2, stream.chunks(piece));
    assert_eq!(heard, (said, None));
}

/// A polling body is read whole or refused; what is read is no more than came, and would be written as it was.
pub fn polling_body(data: &[u8]) {
    let Some(packets) = std::str::from_utf8(data).ok().and_then(payload) else { return };
    assert!(packets.len() <= PACKETS_MAX);
    let kept: usize = packets.iter().map(|packet| written(packet).text().len().max(attachment(packet))).sum();
    assert!(kept <= data.len());
    if packets.iter().any(|packet| matches!(packet, Packet::Nothing | Packet::Pong | Packet::Close)) {
        return; // They have more than one spelling: what follows their first letter is not looked at.
    }
    let mut again = Vec::new();
    packets.iter().for_each(|packet| written(packet).write_payload(&mut again));
    assert_eq!(std::str::from_utf8(&again), std::str::from_utf8(data));
}

/// What one end writes for polling, the other reads.
pub fn polling_packets(data: &[u8]) {
    let mut dice = Dice(data);
    let (mut body, mut packets) = (Vec::new(), Vec::new());
    while !dice.0.is_empty() && packets.len() < PACKETS_MAX {
        packets.push(match dice.below(2) {
            // A text that holds the separator has no form in a payload. JSON, which is what travels, never does.
            0 => Packet::Text(String::from_utf8_lossy(dice.take_some(300)).replace('\x1e', " ")),
            _ => Packet::Binary(Bytes::copy_from_slice(dice.take_some(300))),
        });
    }
    packets.iter().for_each(|packet| written(packet).write_payload(&mut body));
    if !packets.is_empty() {
        assert_eq!(std::str::from_utf8(&body).ok().and_then(payload), Some(packets));
    }
}

/// A connection's messages, divided by bytes 255; binary ones begin with 254. What is read as a packet is written as a packet that
/// reads the same; attachments are bounded in number and bytes.
pub fn socketio_messages(data: &[u8]) {
    let config = limits();
    let mut reader = Reader::new(&config);
    let (mut attachments, mut bytes) = (0, 0);
    for message in data.split(|byte| *byte == 255) {
        let read = match (message.split_first(), std::str::from_utf8(message)) {
            (Some((254, binary)), _) => {
                (attachments, bytes) = (attachments + 1, bytes + binary.len());
                reader.binary(&Bytes::copy_from_slice(binary))
            }
            (_, Ok(text)) => {
                (attachments, bytes) = (0, 0);
                reader.text(text)
            }
            _ => continue,
        };
        match read {
            Err(BadPacket) => return,
            Ok(incoming) => {
                assert!(attachments <= config.attachments_max && bytes <= config.max_payload, "{attachments}, {bytes}");
                if let Some(incoming) = incoming {
                    reads_back(&config, &incoming);
                }
            }
        }
    }
}

/// Lines of `X-Forwarded-For`, divided by bytes 255, in a request of an address that may be a proxy's: only a trusted proxy's word
/// counts, and of what is found all of the customer's IPv6 addresses are one.
pub fn forwarded_for(data: &[u8]) {
    let mut dice = Dice(data);
    let peer = match dice.below(4) {
        0 => IpAddr::from([203, 0, 113, dice.below(256) as u8]),
        1 => IpAddr::from(<[u8; 16]>::try_from(dice.take(16)).unwrap_or([7; 16])),
        _ => IpAddr::from([10, 0, 0, dice.below(256) as u8]),
    };
    let is_proxy = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10);
    let config = Config { is_proxy: Arc::new(is_proxy), ..Config::default() };
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    extensions.insert(SocketAddr::new(peer, 4711));
    let lines = dice.0.split(|byte| *byte == 255).filter_map(|line| HeaderValue::from_bytes(line).ok());
    lines.for_each(|line| _ = headers.append("x-forwarded-for", line));
    let counted = counted_address(&config, &headers, &extensions).expect("the peer's at least");
    if let IpAddr::V6(v6) = counted {
        assert_eq!(v6.to_bits() as u64, 0, "{v6}: one customer, one address");
    }
    let alone = counted_address(&config, &HeaderMap::new(), &extensions);
    assert!(is_proxy(peer.to_canonical()) || Some(counted) == alone, "{peer} is a stranger, and was believed");
    // What a client writes before what our proxy adds changes nothing.
    let mut lines: Vec<HeaderValue> = headers.get_all("x-forwarded-for").into_iter().cloned().collect();
    let added = HeaderValue::from_static("198.51.100.1");
    lines.push(added.clone());
    headers.clear();
    lines.into_iter().for_each(|line| _ = headers.append("x-forwarded-for", line));
    let (forged, mut honest) = (counted_address(&config, &headers, &extensions), HeaderMap::new());
    honest.append("x-forwarded-for", added);
    assert_eq!(forged, counted_address(&config, &honest, &extensions), "made up by the client");
}

fn limits() -> Config {
    Config { max_payload: 256, attachments_max: 3, connect_timeout: Duration::from_secs(1), ..Config::default() }
}

fn reads_back(config: &Config, incoming: &Incoming) {
    let (packet, attachments) = match incoming {
        Incoming::Connect { ns, auth } => {
            (packet(Kind::Connect, ns, None, auth.as_deref().unwrap_or(""), &[]), &[][..])
        }
        Incoming::Disconnect { ns } => (packet(Kind::Disconnect, ns, None, "", &[]), &[][..]),
        Incoming::Event { ns, args, ack, .. } => encode(Kind::Event, ns, *ack, args),
        Incoming::Ack { ns, id, args } => encode(Kind::Ack, ns, Some(*id), args),
    };
    let mut reader = Reader::new(config);
    let mut read = reader.text(&packet.text()[1..]);
    for bytes in attachments {
        assert!(matches!(read, Ok(None)), "{:?}", packet.text());
        read = reader.binary(bytes);
    }
    assert_eq!(format!("{read:?}"), format!("{:?}", Ok::<_, BadPacket>(Some(incoming))), "{:?}", packet.text());
}

fn encode<'a>(kind: Kind, ns: &str, id: Option<u64>, args: &'a Value) -> (Encoded, &'a [Bytes]) {
    let Value::Str(json, attachments) = args else { panic!("no arguments are bare bytes: {args:?}") };
    // The parser fills them in one after the other, so they lie in one piece.
    let attachments = attachments.as_ref().map_or(&[][..], |attachments| attachments.as_slices().0);
    (packet(kind, ns, id, json, attachments), attachments)
}

fn packet(kind: Kind, ns: &str, id: Option<u64>, json: &str, attachments: &[Bytes]) -> Encoded {
    Encoded::socketio(kind, ns, id, json, attachments.to_vec())
}

fn written(packet: &Packet) -> Encoded {
    match packet {
        Packet::Close => Encoded::engine_text("1"),
        Packet::Pong => Encoded::engine_text("3"),
        Packet::Nothing => Encoded::engine_text("6"),
        Packet::Text(text) => Encoded::engine_text(&format!("4{text}")),
        Packet::Binary(bytes) => Encoded::engine_binary(bytes.clone()),
    }
}

fn attachment(packet: &Packet) -> usize {
    if let Packet::Binary(bytes) = packet { bytes.len() } else { 0 }
}

/// All that comes out of a stream, up to its first fault or its close.
fn read_frames<'a>(message_max: usize, stream: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, Option<Wrong>) {
    let mut frames = Frames::new(message_max);
    let mut heard = Vec::new();
    for mut input in stream {
        loop {
            match frames.next(&mut input) {
                Err(wrong) => return (heard, Some(wrong)),
                Ok(None) => break assert!(input.is_empty(), "all was read"),
                Ok(Some(said)) => {
                    let (len, max) = match &said {
                        Said::Text(text) => (text.len(), message_max),
                        Said::Binary(bytes) => (bytes.len(), message_max),
                        Said::Ping(payload) => (payload.len(), CONTROL_PAYLOAD_MAX),
                        Said::Close(_) => (0, 0),
                    };
                    assert!(len <= max, "{len} of {max} bytes");
                    heard.push(said);
                    if let Some(Said::Close(_)) = heard.last() {
                        return (heard, None);
                    }
                }
            }
        }
        // A vector that grows doubles, and begins with eight.
        let bound = 2 * message_max.max(8) + 2 * CONTROL_PAYLOAD_MAX;
        assert!(frames.held() <= bound, "{} of {bound} bytes", frames.held());
    }
    (heard, None)
}

fn say_in_fragments(dice: &mut Dice<'_>, opcode: u8, payload: &[u8], stream: &mut Vec<u8>, said: &mut Vec<Said>) {
    let mut rest = payload;
    let fragments = dice.below(4);
    for at in 0..fragments {
        let (fragment, more) = rest.split_at(dice.below(rest.len() + 1));
        client_frame(stream, if at == 0 { opcode } else { 0 }, dice.mask(), fragment);
        rest = more;
        if dice.below(3) == 0 {
            say_between(dice, stream, said);
        }
    }
    client_frame(stream, 0x80 | if fragments == 0 { opcode } else { 0 }, dice.mask(), rest);
}

fn say_between(dice: &mut Dice<'_>, stream: &mut Vec<u8>, said: &mut Vec<Said>) {
    let payload = dice.take_some(CONTROL_PAYLOAD_MAX);
    if dice.below(2) == 0 {
        client_frame(stream, 0x89, dice.mask(), payload);
        said.push(Said::Ping(payload.to_vec()));
    } else {
        client_frame(stream, 0x8a, dice.mask(), payload);
    }
}

/// One frame as a client writes it.
pub(crate) fn client_frame(out: &mut Vec<u8>, first: u8, mask: [u8; 4], payload: &[u8]) {
    out.push(first);
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Bytes that decisions are drawn from; when they are used up, every decision is the first.
struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn take_some(&mut self, max: usize) -> &'a [u8] {
        let len = self.below(max + 1);
        self.take(len)
    }

    fn below(&mut self, end: usize) -> usize {
        let drawn = self.take(if end > 256 { 3 } else { 1 });
        drawn.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)) % end
    }

    fn mask(&mut self) -> [u8; 4] {
        self.take(4).try_into().unwrap_or([7, 0, 255, 1])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..max)
    }

    /// Headers as a client writes them, now and then with a bit that is wrong: bytes at random seldom get past the first two.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let first = prop::sample::select(vec![0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0x83]);
        let frame = (first, any::<[u8; 4]>(), "\\PC{0,40}", prop::option::of(bytes(200))).prop_map(
            |(first, mask, text, binary)| {
                let mut frame = Vec::new();
                client_frame(&mut frame, first, mask, &binary.unwrap_or(text.into_bytes()));
                frame
            },
        );
        (bytes(5), prop::collection::vec(frame, 0..12)).prop_map(|(dice, frames)| [dice, frames.concat()].concat())
    }

    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let text =
            "[0-6]([0-4]-)?(/[a-zé]{0,3},?)?[0-9]{0,3}(\\[\"[a-zé]{1,5}\"(,[0-9]{1,2}|,\\{\\})?\\]|\\{\\}|\\PC{0,6})";
        let text = text.prop_map(String::into_bytes);
        let binary = bytes(120).prop_map(|bytes| [vec![254], bytes].concat());
        prop::collection::vec(prop_oneof![3 => text, 2 => binary], 0..8).prop_map(|messages| messages.join(&255))
    }

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let packet = prop_oneof![
            "[0-7]\\PC{0,9}",
            bytes(30).prop_map(|bytes| {
                let mut packet = Vec::new();
                Encoded::engine_binary(bytes.into()).write_payload(&mut packet);
                String::from_utf8(packet).unwrap()
            }),
            "b[a-zA-Z0-9+/=]{0,8}"
        ];
        prop::collection::vec(packet, 0..6).prop_map(|packets| packets.join("\x1e").into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn frames_read_the_same_however_they_are_cut(data in prop_oneof![frames(), bytes(300)]) {
            websocket_bytes(&data);
        }

        #[test]
        fn messages_arrive_as_they_were_said(data in bytes(2000)) {
            websocket_messages(&data);
        }

        #[test]
        fn a_polling_body_is_read_whole_or_not_at_all(data in prop_oneof![body(), bytes(50)]) {
            polling_body(&data);
        }

        #[test]
        fn polled_packets_arrive_as_they_were_written(data in bytes(1500)) {
            polling_packets(&data);
        }

        #[test]
        fn only_a_trusted_proxy_is_believed(dice in bytes(18), lines in "([0-9.:a-f\\[\\], ]{0,40}|10\\.0\\.0\\.1, ?|\\PC{0,9}){0,4}") {
            forwarded_for(&[dice, lines.into_bytes()].concat());
        }

        #[test]
        fn packets_that_are_read_can_be_written(data in prop_oneof![messages(), bytes(60)]) {
            socketio_messages(&data);
        }
    }
}
