//! WebSocket frames as a client sends them (RFC 6455 §5), without any I/O: bytes go in, messages come out.
//!
//! Invariants: memory is taken for bytes that have come, never for a length that was announced; between two messages nothing is
//! held but the [`Frames`] itself; no message is larger than `message_max`, its fragments together, and no control frame than 125
//! bytes. What can no longer become a valid message is refused at once and not when the rest of it has come.
//!
//! Extensions are not spoken, so reserved bits are errors. A length written in more bytes than it needs is let pass: the RFC
//! forbids writing it, and does not ask anyone to look.

use bytes::Bytes;

/// The largest payload of a control frame.
pub(crate) const CONTROL_PAYLOAD_MAX: usize = 125;

/// Two bytes, an eight-byte length and a mask.
const HEADER_MAX: usize = 14;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Something a client said. Pongs are not among it: we send no pings of this kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Binary(Bytes),
    /// To be answered with the same payload.
    Ping(Vec<u8>),
    /// The end, with the status code if one was given. Nothing after it counts.
    Close(Option<u16>),
}

/// Why a connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Frame,
    Text,
    TooLarge,
}

/// Reads one connection's frames. After an error, or a close, it has nothing more to say.
pub(crate) struct Frames {
    message_max: usize,
    header: [u8; HEADER_MAX],
    header_len: u8,
    /// The frame whose payload is coming.
    open: Option<Open>,
    /// The kind of the message that is coming, from its first frame to its last.
    kind: Option<Kind>,
    /// That message so far, unmasked.
    message: Vec<u8>,
    /// How much of it is known to be whole characters, if it is a text.
    checked: usize,
    /// A control frame's payload so far: it may come between two fragments.
    control: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Begin(Kind),
    Close,
    Ping,
    Pong,
}

/// A frame whose header is read.
struct Open {
    opcode: Opcode,
    last: bool,
    left: usize,
    /// Turned so that its first byte is the next payload byte's.
    mask: [u8; 4],
}

impl Frames {
    pub fn new(message_max: usize) -> Self {
        Frames {
            message_max,
            header: [0; HEADER_MAX],
            header_len: 0,
            open: None,
            kind: None,
            message: Vec::new(),
            checked: 0,
            control: Vec::new(),
        }
    }

    /// Reads from `input` to the end of the next message and leaves there what follows; `None` when all was read and more is needed.
    ///
    /// # Errors
    /// What the client did [`Wrong`].
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Said>, Wrong> {
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None if self.fill_header(input) => self.open()?,
                // Two bytes already say enough for most refusals.
                None => return self.check_first().map(|()| None),
            };
            let (payload, rest) = input.split_at(open.left.min(input.len()));
            *input = rest;
            open.left -= payload.len();
            let into = if open.opcode.is_control() { &mut self.control } else { &mut self.message };
            let from = into.len();
            if open.left == 0 && from == 0 {
                // The usual message comes in one piece. Those that grow do so by doubling.
                into.reserve_exact(payload.len());
            }
            into.extend_from_slice(payload);
            unmask(&mut into[from..], &mut open.mask);
            if open.left > 0 {
                if !open.opcode.is_control() {
                    self.check_text()?;
                }
                self.open = Some(open);
                return Ok(None);
            }
            if let Some(said) = self.end(&open)? {
                return Ok(Some(said));
            }
        }
    }

    /// The memory, in bytes, that is held for a message and a control frame not yet whole.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn held(&self) -> usize {
        self.message.capacity() + self.control.capacity()
    }

    /// True once the header is whole.
    fn fill_header(&mut self, input: &mut &[u8]) -> bool {
        loop {
            let have = usize::from(self.header_len);
            let more = (self.header_size() - have).min(input.len());
            if more == 0 {
                return have == self.header_size();
            }
            let (taken, rest) = input.split_at(more);
            self.header[have..have + more].copy_from_slice(taken);
            // At most HEADER_MAX, which fits.
            self.header_len += more as u8;
            *input = rest;
        }
    }

    /// How long the header is, as far as it is known by now.
    fn header_size(&self) -> usize {
        if self.header_len < 2 {
            return 2;
        }
        let length = match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.header[1] & MASKED == 0 { 0 } else { 4 }
    }

    /// What the first two bytes of a header may not say.
    fn check_first(&self) -> Result<(), Wrong> {
        if self.header_len < 2 {
            return Ok(());
        }
        let [first, second, ..] = self.header;
        let opcode = Opcode::of(first & 0x0f).ok_or(Wrong::Frame)?;
        let is_whole = first & FINAL != 0 && usize::from(second & !MASKED) <= CONTROL_PAYLOAD_MAX;
        let is_in_turn = match opcode {
            Opcode::Continuation => self.kind.is_some(),
            Opcode::Begin(_) => self.kind.is_none(),
            _ => is_whole,
        };
        // A client masks, always.
        if first & RESERVED != 0 || second & MASKED == 0 || !is_in_turn { Err(Wrong::Frame) } else { Ok(()) }
    }

    /// Begins the frame whose header is whole.
    fn open(&mut self) -> Result<Open, Wrong> {
        self.check_first()?;
        let header = &self.header[..usize::from(self.header_len)];
        let (length, mask) = header[2..].split_at(header.len() - 6);
        let length = match length {
            [] => u64::from(header[1] & !MASKED),
            // The highest bit must be 0; a length that has it is too large in any case.
            bytes => bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let opcode = Opcode::of(header[0] & 0x0f).ok_or(Wrong::Frame)?;
        let room = if opcode.is_control() { CONTROL_PAYLOAD_MAX } else { self.message_max - self.message.len() };
        let left = usize::try_from(length).ok().filter(|left| *left <= room).ok_or(Wrong::TooLarge)?;
        let open = Open { opcode, last: header[0] & FINAL != 0, left, mask: [mask[0], mask[1], mask[2], mask[3]] };
        if let Opcode::Begin(kind) = opcode {
            self.kind = Some(kind);
        }
        self.header_len = 0;
        Ok(open)
    }

    /// A frame's payload is whole.
    fn end(&mut self, open: &Open) -> Result<Option<Said>, Wrong> {
        match open.opcode {
            Opcode::Pong => {
                self.control = Vec::new();
                Ok(None)
            }
            Opcode::Ping => Ok(Some(Said::Ping(std::mem::take(&mut self.control)))),
            Opcode::Close => close(&std::mem::take(&mut self.control)).map(|code| Some(Said::Close(code))),
            Opcode::Continuation | Opcode::Begin(_) if !open.last => self.check_text().map(|()| None),
            Opcode::Continuation | Opcode::Begin(_) => {
                self.checked = 0;
                let message = std::mem::take(&mut self.message);
                match self.kind.take() {
                    Some(Kind::Text) => {
                        String::from_utf8(message).map(|text| Some(Said::Text(text))).map_err(|_| Wrong::Text)
                    }
                    // Attachments may be kept for long: without the room that a growing message has to spare.
                    _ => Ok(Some(Said::Binary(message.into_boxed_slice().into()))),
                }
            }
        }
    }

    /// Looks at what came since the last look. A character may still be divided at the end.
    fn check_text(&mut self) -> Result<(), Wrong> {
        if self.kind == Some(Kind::Text)
            && let Err(error) = std::str::from_utf8(&self.message[self.checked..])
        {
            self.checked += error.valid_up_to();
            return if error.error_len().is_some() { Err(Wrong::Text) } else { Ok(()) };
        }
        self.checked = self.message.len();
        Ok(())
    }
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Opcode::Continuation),
            1 => Some(Opcode::Begin(Kind::Text)),
            2 => Some(Opcode::Begin(Kind::Binary)),
            8 => Some(Opcode::Close),
            9 => Some(Opcode::Ping),
            10 => Some(Opcode::Pong),
            _ => None,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// The status code of a close frame: one that may be sent (RFC 6455 §7.4, and the registry's 1012 to 1014), and a reason in UTF-8.
fn close(payload: &[u8]) -> Result<Option<u16>, Wrong> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(None) } else { Err(Wrong::Frame) };
    };
    let code = u16::from_be_bytes([*high, *low]);
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Wrong::Frame),
    }
    std::str::from_utf8(reason).map_err(|_| Wrong::Text)?;
    Ok(Some(code))
}

/// Takes the mask off, eight bytes at a time, and turns it for the byte that follows.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
    mask.rotate_left(payload.len() % 4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::client_frame;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        client_frame(&mut out, first, [1, 2, 3, 4], payload);
        out
    }

    /// The first thing that comes of these frames.
    fn first(stream: &[&[u8]]) -> Result<Option<Said>, Wrong> {
        Frames::new(1000).next(&mut &stream.concat()[..])
    }

    #[test]
    fn a_message_may_come_in_fragments_with_a_ping_between() {
        let stream =
            [frame(0x01, "caf".as_bytes()), frame(0x89, b"?"), frame(0x80, "é".as_bytes()), frame(0x82, b"")].concat();
        let (mut frames, mut input) = (Frames::new(5), &stream[..]);
        assert_eq!(frames.next(&mut input), Ok(Some(Said::Ping(b"?".to_vec()))));
        assert_eq!(frames.next(&mut input), Ok(Some(Said::Text("café".into()))));
        assert_eq!(frames.next(&mut input), Ok(Some(Said::Binary(Bytes::new()))));
        assert_eq!((frames.next(&mut input), frames.held()), (Ok(None), 0));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (wrong, why) in [
            (frame(0xc1, b"a"), "a reserved bit"),
            (frame(0x83, b"a"), "an opcode nobody knows"),
            (frame(0x8b, b""), "a control opcode nobody knows"),
            (vec![0x81, 1, b'a'], "no mask"),
            (frame(0x80, b"a"), "a continuation of nothing"),
            ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), "a message inside a message"),
            (frame(0x09, b"a"), "a ping in fragments"),
            (frame(0x89, &[0; 126]), "a long ping"),
            (frame(0x88, &[3]), "half a code"),
            (frame(0x88, &999_u16.to_be_bytes()), "a code below 1000"),
            (frame(0x88, &1005_u16.to_be_bytes()), "a code that is never sent"),
            (frame(0x88, &1006_u16.to_be_bytes()), "a code that is never sent"),
            (frame(0x88, &1015_u16.to_be_bytes()), "a code that is never sent"),
            (frame(0x88, &2999_u16.to_be_bytes()), "a code that means nothing yet"),
            (frame(0x88, &5000_u16.to_be_bytes()), "a code above 4999"),
        ] {
            assert_eq!(first(&[&wrong]), Err(Wrong::Frame), "{why}");
        }
        assert_eq!(first(&[&frame(0x81, &[0xff])]), Err(Wrong::Text));
        assert_eq!(first(&[&frame(0x81, "é".as_bytes()[..1].into())]), Err(Wrong::Text), "half a character");
        assert_eq!(first(&[&frame(0x88, &[3, 232, 0xff])]), Err(Wrong::Text), "a reason");
        assert_eq!(first(&[&frame(0x88, &[3, 232])]), Ok(Some(Said::Close(Some(1000)))));
        assert_eq!(first(&[&frame(0x88, &[])]), Ok(Some(Said::Close(None))));
    }

    #[test]
    fn what_is_wrong_is_refused_before_the_rest_has_come() {
        assert_eq!(first(&[&[0x81, 1]]), Err(Wrong::Frame), "unmasked, and the payload is yet to come");
        assert_eq!(first(&[&frame(0x81, &[0x80, b'a', b'b'])[..7]]), Err(Wrong::Text), "one byte of three");
        assert_eq!(first(&[&frame(0x01, &[b'a', 0xc0]), &[]]), Err(Wrong::Text), "one fragment of a message");
        assert_eq!(first(&[&frame(0x81, &[0; 1001])[..8]]), Err(Wrong::TooLarge), "only announced");
        assert_eq!(
            first(&[&frame(0x01, &[b'a'; 600]), &frame(0x80, &[b'a'; 401])[..8]]),
            Err(Wrong::TooLarge),
            "together"
        );
        assert_eq!(
            first(&[&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]),
            Err(Wrong::TooLarge),
            "beyond all numbers"
        );
    }

    #[test]
    fn nothing_is_held_for_what_was_only_announced() {
        let mut frames = Frames::new(1 << 20);
        assert_eq!(frames.next(&mut &frame(0x82, &[0; 1 << 20])[..14]), Ok(None));
        assert_eq!(frames.held(), 0);
    }
}
