//! QR codes as images, from their text: for a till's screen, which has no time to fetch one from a provider.

use std::fmt::Write as _;

use anyhow::Context as _;
use qrcode::{Color, EcLevel, QrCode};

use super::qris::TEXT_BYTES_MAX;

/// How wide the white around a code is, in modules: what readers want.
const QUIET_MODULES: usize = 4;
/// How many pixels of a PNG a module has, along each side.
const MODULE_PIXELS: usize = 8;

/// A code, module by module.
pub struct Qr {
    modules: Vec<bool>,
    width: usize,
}

impl Qr {
    /// # Errors
    /// If the text is longer than a QRIS code may be.
    pub fn of(text: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(text.len() <= TEXT_BYTES_MAX, "a text of {} bytes for a QR code", text.len());
        // A seventh of it may be hidden, by a reflection or a finger.
        let code = QrCode::with_error_correction_level(text, EcLevel::M).context("making a QR code")?;
        Ok(Self { width: code.width(), modules: code.to_colors().into_iter().map(|it| it == Color::Dark).collect() })
    }

    /// With the white around it.
    fn is_dark(&self, x: usize, y: usize) -> bool {
        let inner = |at: usize| at.checked_sub(QUIET_MODULES).filter(|at| *at < self.width);
        inner(x).zip(inner(y)).is_some_and(|(x, y)| self.modules[y * self.width + x])
    }

    fn side_modules(&self) -> usize {
        self.width + 2 * QUIET_MODULES
    }

    /// An image that is as large as it is shown.
    pub fn svg(&self) -> String {
        let side = self.side_modules();
        let mut path = String::new();
        for y in 0..side {
            let mut x = 0;
            while x < side {
                let run = (x..side).take_while(|x| self.is_dark(*x, y)).count();
                if run > 0 {
                    let _ = write!(path, "M{x} {y}h{run}v1h-{run}z"); // A `String` takes everything.
                }
                x += run.max(1);
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">\
             <path fill=\"#fff\" d=\"M0 0h{side}v{side}H0z\"/><path d=\"{path}\"/></svg>"
        )
    }

    /// An image in black and white.
    ///
    /// # Errors
    /// None that is known: it is as large as a code may be.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        let side_pixels = self.side_modules() * MODULE_PIXELS;
        let mut bytes = Vec::new();
        let side = u32::try_from(side_pixels)?;
        let mut encoder = png::Encoder::new(&mut bytes, side, side);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let row_bytes = side_pixels.div_ceil(8);
        let mut pixels = vec![0_u8; row_bytes * side_pixels];
        for (y, row) in pixels.chunks_exact_mut(row_bytes).enumerate() {
            for x in (0..side_pixels).filter(|x| !self.is_dark(x / MODULE_PIXELS, y / MODULE_PIXELS)) {
                row[x / 8] |= 0x80 >> (x % 8);
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a camera would see.
    fn scanned(side: usize, light: impl Fn(usize, usize) -> u8) -> String {
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, light);
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one code is found");
        grids[0].decode().expect("a code that can be read").1
    }

    fn texts() -> [String; 3] {
        let qris = "00020101021226620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UMI51440014ID.CO.QRIS.WWW\
                    0215ID10293847560120303UMI5204541153033605405485005802ID5916TOKO MELATI JAYA6008SURABAYA6105602416226\
                    0515INV2601140001230703K0163043E54";
        [qris.to_owned(), "a".to_owned(), "0".repeat(TEXT_BYTES_MAX)]
    }

    #[test]
    fn a_png_is_read_as_it_was_written() {
        for text in texts() {
            let bytes = Qr::of(&text).unwrap().png().unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            let side = info.width as usize;
            assert_eq!((info.width, info.bit_depth), (info.height, png::BitDepth::One));
            let light = |x: usize, y: usize| {
                if pixels[y * info.line_size + x / 8] & (0x80 >> (x % 8)) == 0 { 0 } else { 255 }
            };
            assert_eq!(scanned(side, light), text);
            let quiet = QUIET_MODULES * MODULE_PIXELS;
            assert!((0..side).all(|x| (0..quiet).all(|y| light(x, y) == 255 && light(y, x) == 255)), "white around it");
        }
    }

    #[test]
    fn an_svg_has_the_same_modules() {
        for text in texts() {
            let qr = Qr::of(&text).unwrap();
            let (svg, side) = (qr.svg(), qr.side_modules());
            let path = svg.split("d=\"").last().unwrap().split('"').next().unwrap();
            let mut dark = vec![false; side * side];
            for run in path.split('M').skip(1) {
                let (x, rest) = run.split_once(' ').unwrap();
                let (y, rest) = rest.split_once('h').unwrap();
                let (length, _) = rest.split_once('v').unwrap();
                let [x, y, length] = [x, y, length].map(|it| it.parse::<usize>().unwrap());
                dark[y * side + x..][..length].fill(true);
            }
            let pixels = 4;
            let light = |x: usize, y: usize| if dark[y / pixels * side + x / pixels] { 0 } else { 255 };
            assert_eq!(scanned(side * pixels, light), text);
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_no_code() {
        assert!(Qr::of(&"0".repeat(TEXT_BYTES_MAX + 1)).is_err());
    }
}
