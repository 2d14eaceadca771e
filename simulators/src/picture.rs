//! A QR code as a PNG: one bit a pixel, drawn from the modules. It needs no more than a checksum and zlib.

use std::io::Write as _;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use qrcode::{Color, EcLevel, QrCode};

/// Pixels a module.
const SCALE: usize = 8;
/// White modules around it, as the standard asks for.
const QUIET: usize = 4;

/// The picture of a text, or nothing if no code can hold it. `is_framed` draws a frame around, as ASPI's pictures have.
pub fn png(text: &str, is_framed: bool) -> Option<Vec<u8>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M).ok()?;
    let margin = QUIET + if is_framed { 2 } else { 0 };
    let side = code.width() + 2 * margin;
    let is_black = |x: usize, y: usize| {
        let on_the_frame = |it: usize| it == 0 || it == side - 1;
        let inside = |it: usize| (margin..side - margin).contains(&it);
        let drawn = inside(x) && inside(y) && code[(x - margin, y - margin)] == Color::Dark;
        drawn || (is_framed && (on_the_frame(x) || on_the_frame(y)))
    };
    let pixels = side * SCALE;
    let mut lines = Vec::with_capacity(pixels * (1 + pixels.div_ceil(8)));
    for y in 0..side {
        // Each line begins with its filter: none. White is 1.
        let mut line = vec![0; 1 + pixels.div_ceil(8)];
        for x in (0..pixels).filter(|x| !is_black(x / SCALE, y)) {
            line[1 + x / 8] |= 0x80 >> (x % 8);
        }
        lines.extend(line.repeat(SCALE));
    }
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&lines).ok()?;
    let size = u32::try_from(pixels).ok()?.to_be_bytes();
    let mut header = [size, size].concat();
    header.extend([1, 0, 0, 0, 0]); // One bit, grey, and nothing unusual.
    let mut all = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut all, *b"IHDR", &header);
    chunk(&mut all, *b"IDAT", &packed.finish().ok()?);
    chunk(&mut all, *b"IEND", &[]);
    Some(all)
}

fn chunk(all: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let mut crc = Crc::new();
    crc.update(&kind);
    crc.update(data);
    all.extend(u32::try_from(data.len()).expect("a small picture").to_be_bytes());
    all.extend(kind);
    all.extend(data);
    all.extend(crc.sum().to_be_bytes());
}
