//! WebSocket frames, as little of them as clients and floors need: whole messages, none larger than a read buffer.

use anyhow::{Result, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The most that one frame may measure, in bytes. An entry's largest event is smaller.
const FRAME_BYTES_MAX: usize = 512 * 1024;
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
    /// What the payload is masked with, if it is.
    pub mask: Option<[u8; 4]>,
    /// How many bytes it took, its header included.
    pub size: usize,
}

impl Frame<'_> {
    /// The payload without its mask.
    pub fn unmasked(&self) -> Vec<u8> {
        let mask = self.mask.unwrap_or_default();
        self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
    }
}

/// The first frame of what was read; none while it is not all there.
///
/// # Errors
/// If it is a fragment or too large: no server sends these here.
pub fn first(bytes: &[u8]) -> Result<Option<Frame<'_>>> {
    let [head, length, rest @ ..] = bytes else { return Ok(None) };
    ensure!(head & 0xf0 == 0x80, "a frame that begins with {head:#x}: a fragment, or compressed");
    let (length, rest) = match (length & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
            let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            (usize::try_from(length)?, rest)
        }
        (126 | 127, _) => return Ok(None),
        (short, rest) => (usize::from(short), rest),
    };
    ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes");
    let (mask, rest) = match (bytes[1] & 0x80 != 0, rest) {
        (false, rest) => (None, rest),
        (true, [a, b, c, d, rest @ ..]) => (Some([*a, *b, *c, *d]), rest),
        (true, _) => return Ok(None),
    };
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let size = bytes.len() - rest.len() + length;
    Ok(Some(Frame { opcode: head & 0x0f, payload, mask, size }))
}

/// A frame as a server sends it.
pub fn from_server(opcode: u8, payload: &[u8]) -> Vec<u8> {
    framed(opcode, payload, 0, &[])
}

/// A frame as a client sends it. The mask is zero, which spares the work of masking: it guards proxies against scripts,
/// and here is neither.
pub fn from_client(opcode: u8, payload: &[u8]) -> Vec<u8> {
    framed(opcode, payload, 0x80, &[0; 4])
}

fn framed(opcode: u8, payload: &[u8], masked: u8, mask: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => frame.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(masked | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(mask);
    frame.extend_from_slice(payload);
    frame
}

/// What a server answers to a client's key.
pub fn accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_not_before_it_is_all_there() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            for frame in [from_server(TEXT, &payload), from_client(TEXT, &payload)] {
                let read = first(&frame).unwrap().unwrap();
                assert_eq!((read.opcode, read.payload, read.size), (TEXT, payload.as_slice(), frame.len()));
                assert_eq!(first(&frame[..frame.len() - 1]).unwrap(), None);
                assert_eq!(first(&frame[..1]).unwrap(), None);
            }
        }
    }

    #[test]
    fn fragments_and_giants_are_refused() {
        assert!(first(&[0x01, 0]).is_err());
        assert!(first(&[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn the_key_of_the_standard_is_answered_as_the_standard_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455, 1.3
    }

    #[test]
    fn a_masked_payload_is_unmasked() {
        let frame = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
        assert_eq!(first(&frame).unwrap().unwrap().unmasked(), b"hi");
    }
}
