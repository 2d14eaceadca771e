//! QRIS: what Indonesia's QR codes say (EMV, merchant presented). A code that a provider sends is read before a customer
//! sees it: an image shows no amount, and whoever scans pays what stands in it.

use std::fmt;

use super::amount;

/// The longest code, in bytes: EMV's bound.
pub const TEXT_BYTES_MAX: usize = 512;

const FORMAT: u8 = 0;
const INITIATION: u8 = 1;
const CURRENCY: u8 = 53;
const AMOUNT: u8 = 54;
const TIP: u8 = 55;
const TIP_FIXED: u8 = 56;
const TIP_PERCENT: u8 = 57;
const COUNTRY: u8 = 58;
const CRC: u8 = 63;
/// The tag of the checksum and its length: it covers them, too.
const CRC_HEAD: &str = "6304";
const CRC_DIGITS: usize = 4;
/// Rupiah, by its number.
const RUPIAH: &str = "360";
const INDONESIA: &str = "ID";
/// That it is made for one payment.
const ONCE: &str = "12";

/// Why a code is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLong,
    /// Something in it is no ASCII, no tag, or longer than what there is.
    Malformed,
    /// A tag is there twice.
    Twice(u8),
    /// There is no checksum at its end, or another than ours.
    Checksum,
    /// It does not begin as a code of this kind.
    Format,
    Country,
    Currency,
    /// It has no amount, another than the payment, or one that is or may be added to it.
    Amount,
    /// Whoever likes may pay with it, as often as they like.
    Reusable,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(out, "the code has more than {TEXT_BYTES_MAX} characters"),
            Self::Malformed => out.write_str("the code is malformed"),
            Self::Twice(tag) => write!(out, "the code has tag {tag:02} twice"),
            Self::Checksum => out.write_str("the code's checksum is missing or wrong"),
            Self::Format => out.write_str("the code is of another format"),
            Self::Country => out.write_str("the code is of another country"),
            Self::Currency => out.write_str("the code is in another currency"),
            Self::Amount => out.write_str("the code has another amount than the payment"),
            Self::Reusable => out.write_str("the code is not made for one payment"),
        }
    }
}

/// A code that is sound, tag by tag, in its own order. What nobody knows is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qris<'a> {
    parts: Vec<(u8, &'a str)>,
}

impl<'a> Qris<'a> {
    /// # Errors
    /// If it is no sound code of Indonesia in rupiah.
    pub fn parse(text: &'a str) -> Result<Self, Refused> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let parts = parts(text)?;
        let code = Self { parts };
        if code.parts.first() != Some(&(FORMAT, "01")) {
            return Err(Refused::Format);
        }
        code.check_sum(text)?;
        // Templates are read when they are asked for; that they can be is checked here.
        code.parts
            .iter()
            .filter(|(tag, _)| is_template(*tag))
            .try_for_each(|(_, value)| self::parts(value).map(drop))?;
        if code.get(COUNTRY) != Some(INDONESIA) {
            return Err(Refused::Country);
        }
        if code.get(CURRENCY) != Some(RUPIAH) {
            return Err(Refused::Currency);
        }
        Ok(code)
    }

    fn check_sum(&self, text: &str) -> Result<(), Refused> {
        let Some((CRC, said)) = self.parts.last().copied() else { return Err(Refused::Checksum) };
        let covered = text.len().checked_sub(CRC_DIGITS).and_then(|end| text.get(..end)).ok_or(Refused::Checksum)?;
        let is_right = covered.ends_with(CRC_HEAD) && said == format!("{:04X}", crc(covered.as_bytes()));
        if is_right { Ok(()) } else { Err(Refused::Checksum) }
    }

    /// The value of a tag.
    pub fn get(&self, tag: u8) -> Option<&'a str> {
        self.parts.iter().find(|(it, _)| *it == tag).map(|(_, value)| *value)
    }

    /// The value of a tag within a template: 26 to 51, the accounts; 62, what else is said.
    pub fn within(&self, template: u8, tag: u8) -> Option<&'a str> {
        let inner = is_template(template).then(|| self.get(template)).flatten()?;
        parts(inner).ok()?.into_iter().find(|(it, _)| *it == tag).map(|(_, value)| value)
    }

    /// All of it, in its own order.
    pub fn parts(&self) -> &[(u8, &'a str)] {
        &self.parts
    }

    /// What is paid with it, in whole rupiah. A code on a sticker has none.
    ///
    /// # Errors
    /// If there is an amount that is none.
    pub fn amount_minor(&self) -> Result<Option<i64>, Refused> {
        // A point with nothing behind it is allowed here, and so are zeros before the digits: EMV asks for no more than digits and
        // one point at most, and some fill up the field.
        let amount = self.get(AMOUNT).map(|text| text.strip_suffix('.').filter(|it| !it.contains('.')).unwrap_or(text));
        amount.map(|text| amount::parse(unpadded(text)).map_err(|_| Refused::Amount)).transpose()
    }
}

/// Whether a code may be shown for a payment of so much.
///
/// # Errors
/// With the reason why not.
pub fn check(text: &str, amount_minor: i64) -> Result<Qris<'_>, Refused> {
    let code = Qris::parse(text)?;
    if code.amount_minor()? != Some(amount_minor) {
        return Err(Refused::Amount);
    }
    // A tip or a fee would be paid on top of it, and what comes would be another amount than we wait for.
    if [TIP, TIP_FIXED, TIP_PERCENT].into_iter().any(|tag| code.get(tag).is_some()) {
        return Err(Refused::Amount);
    }
    // A provider need not say it at all; one that says something else lets a second customer pay.
    if code.get(INITIATION).is_some_and(|it| it != ONCE) {
        return Err(Refused::Reusable);
    }
    Ok(code)
}

/// Digits without the zeros before them; of nothing but zeros one is left.
fn unpadded(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix('0').filter(|rest| rest.starts_with(|it: char| it.is_ascii_digit())) {
        text = rest;
    }
    text
}

const fn is_template(tag: u8) -> bool {
    matches!(tag, 26..=51 | 62)
}

/// Tag, length and value, one after the other: two digits, two digits, and as many characters.
fn parts(text: &str) -> Result<Vec<(u8, &str)>, Refused> {
    if !text.is_ascii() || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Refused::Malformed);
    }
    let (mut rest, mut parts) = (text, Vec::new());
    while !rest.is_empty() {
        let (tag, length) = (number(rest, 0)?, number(rest, 2)?);
        let value = rest.get(4..4 + usize::from(length)).ok_or(Refused::Malformed)?;
        if parts.iter().any(|(it, _)| *it == tag) {
            return Err(Refused::Twice(tag));
        }
        parts.push((tag, value));
        rest = &rest[4 + value.len()..];
    }
    Ok(parts)
}

/// Two digits.
fn number(text: &str, at: usize) -> Result<u8, Refused> {
    let digits = text.get(at..at + 2).filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Refused::Malformed)
}

/// CRC-16/CCITT-FALSE.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const DYNAMIC: &str = "00020101021226620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UMI51440014ID.CO.QRIS.WWW0215ID10293847560120303UMI5204541153033605405485005802ID5916TOKO MELATI JAYA6008SURABAYA61056024162260515INV2601140001230703K0163043E54";
    const STATIC: &str = "00020101021126620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UMI51440014ID.CO.QRIS.WWW0215ID10293847560120303UMI5204541153033605802ID5916TOKO MELATI JAYA6008SURABAYA61056024163042A2D";
    const GOPAY: &str = "00020101021226620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UKE51440014ID.CO.QRIS.WWW0215ID10293847560120303UKE5204541153033605802ID5910KOPI SENJA6006MALANG610565111540848500.00624750367d0c9b52-3f0e-4b0a-9a55-0f1c2d3e4f500703A0163046CA5";

    /// With a checksum that is right.
    pub fn summed(body: &str) -> String {
        format!("{body}{CRC_HEAD}{:04X}", crc(format!("{body}{CRC_HEAD}").as_bytes()))
    }

    /// The dynamic code with something in it changed, and summed up anew.
    fn changed(from: &str, to: &str) -> String {
        let body = DYNAMIC.strip_suffix("63043E54").unwrap();
        assert_eq!(body.matches(from).count(), 1, "{from}");
        summed(&body.replace(from, to))
    }

    #[test]
    fn p1_codes_are_read() {
        assert_eq!(crc(b"123456789"), 0x29b1);
        let code = check(DYNAMIC, 48_500).unwrap();
        assert_eq!(code.get(1), Some("12"));
        assert_eq!(
            (code.get(59), code.get(60), code.get(61)),
            (Some("TOKO MELATI JAYA"), Some("SURABAYA"), Some("60241"))
        );
        assert_eq!(code.within(26, 0), Some("COM.GO-JEK.WWW"));
        assert_eq!(code.within(51, 2), Some("ID1029384756012"));
        assert_eq!((code.within(62, 5), code.within(62, 7)), (Some("INV260114000123"), Some("K01")));
        assert_eq!((code.within(59, 0), code.within(62, 99), code.within(27, 0)), (None, None, None));

        let sticker = Qris::parse(STATIC).unwrap();
        assert_eq!((sticker.get(1), sticker.amount_minor()), (Some("11"), Ok(None)));
        assert_eq!(check(STATIC, 48_500), Err(Refused::Amount));

        let code = check(GOPAY, 48_500).unwrap();
        assert_eq!(code.within(62, 50), Some("7d0c9b52-3f0e-4b0a-9a55-0f1c2d3e4f50"));
        assert_eq!(code.parts().last().map(|(tag, _)| *tag), Some(63));
    }

    #[test]
    fn p1_codes_that_are_not_sound_are_refused() {
        let body = DYNAMIC.strip_suffix("63043E54").unwrap();
        for (text, why) in [
            (DYNAMIC.replace("540548500", "540548501"), Refused::Checksum),
            (DYNAMIC.replace("3E54", "3e54"), Refused::Checksum),
            (body.to_owned(), Refused::Checksum),
            (format!("{DYNAMIC}6400"), Refused::Checksum),
            (format!("{body}63053E540"), Refused::Checksum),
            (format!("{body}63043E5"), Refused::Malformed),
            (DYNAMIC[..DYNAMIC.len() - 20].to_owned(), Refused::Malformed),
            (changed("5802ID", "5802SG"), Refused::Country),
            (changed("5802ID", ""), Refused::Country),
            (changed("5802ID", "5802id"), Refused::Country),
            (changed("5303360", "5303702"), Refused::Currency),
            (changed("5303360", ""), Refused::Currency),
            (changed("540548500", "540548501"), Refused::Amount),
            (changed("540548500", ""), Refused::Amount),
            (changed("540548500", "540848500.50"), Refused::Amount),
            (changed("540548500", "5406+48500"), Refused::Amount),
            (changed("540548500", "5405485e2"), Refused::Amount),
            (changed("540548500", "54054850055020256041000"), Refused::Amount),
            (changed("540548500", "5405485005502035703100"), Refused::Amount),
            (changed("540548500", "540548500550201"), Refused::Amount),
            (changed("540548500", "540948500.00."), Refused::Amount),
            (changed("540548500", "5401."), Refused::Amount),
            (changed("540548500", "54010"), Refused::Amount),
            (changed("540548500", "5403000"), Refused::Amount),
            (changed("540548500", "54070048501"), Refused::Amount),
            (changed("540548500", "54090048500.5"), Refused::Amount),
            (changed("540548500", "5407+048500"), Refused::Amount),
            (changed("540548500", "54070.48500"), Refused::Amount),
            (changed("010212", "010211"), Refused::Reusable),
            (changed("540548500", "5405485005802ID"), Refused::Twice(58)),
            (changed("000201", ""), Refused::Format),
            (changed("000201", "000202"), Refused::Format),
            (changed("0703K01", "0799K01"), Refused::Malformed),
            (changed("SURABAYA", "SURABAY\u{e9}"), Refused::Malformed),
            (changed("SURABAYA", "SURABAY\n"), Refused::Malformed),
            (changed("6008", "60+8"), Refused::Malformed),
            (String::new(), Refused::Format),
            ("0".repeat(TEXT_BYTES_MAX + 1), Refused::TooLong),
        ] {
            assert_eq!(check(&text, 48_500), Err(why), "{text}");
        }
        assert_eq!(check(DYNAMIC, 48_501), Err(Refused::Amount));
    }

    #[test]
    fn what_nobody_knows_is_kept() {
        let text = changed("540548500", "5405485008002509003abc");
        let code = check(&text, 48_500).unwrap();
        assert_eq!((code.get(80), code.get(90)), (Some("50"), Some("abc")));
        let tags: Vec<u8> = code.parts().iter().map(|(tag, _)| *tag).collect();
        assert_eq!(tags, [0, 1, 26, 51, 52, 53, 54, 80, 90, 58, 59, 60, 61, 62, 63]);
        for same in [
            changed("540548500", "540648500."),
            changed("010212", ""),
            changed("540548500", "5406048500"),
            changed("540548500", "54130000048500.00"),
            changed("540548500", "5410000048500."),
        ] {
            assert!(check(&same, 48_500).is_ok(), "{same}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_change_of_one_digit_is_seen(at in 0..DYNAMIC.len(), to in 0x20..0x7f_u8) {
            let mut text = DYNAMIC.as_bytes().to_vec();
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(Qris::parse(std::str::from_utf8(&text).unwrap()).is_err());
        }

        #[test]
        fn what_is_summed_up_reads_back(amount in 1..=10_000_000_i64, name in "[A-Z ]{1,25}", zeros in any::<bool>()) {
            let amount_text = if zeros { format!("{amount}.00") } else { amount.to_string() };
            let body = format!(
                "00020101021252045411530336054{:02}{amount_text}5802ID59{:02}{name}6008SURABAYA",
                amount_text.len(), name.len(),
            );
            let text = summed(&body);
            let code = check(&text, amount).unwrap();
            prop_assert_eq!(code.get(59), Some(name.as_str()));
            prop_assert_eq!(check(&text, amount + 1).unwrap_err(), Refused::Amount);
        }
    }
}
