//! QRIS: the text of a merchant-presented QR code, as banks' apps read it.

use std::fmt::Write as _;

/// The most that one QRIS payment may be, in rupiah.
pub const AMOUNT_MAX: i64 = 10_000_000;

/// The shop that a code leads to.
pub struct Shop<'a> {
    /// At most 25 characters.
    pub name: &'a str,
    /// At most 15 characters.
    pub city: &'a str,
    pub postcode: &'a str,
    /// 15 characters, the first two `ID`.
    pub nmid: &'a str,
    /// What the acquirer calls the merchant.
    pub acquirer_id: &'a str,
    /// Ten digits of the merchant's PAN.
    pub number: &'a str,
}

/// Whose code it is: the name of the acquirer's scheme, and the eight digits that its PANs begin with.
#[derive(Clone, Copy)]
pub struct Acquirer {
    pub domain: &'static str,
    pub nns: &'static str,
    /// GoPay writes the amount with decimals, behind the postcode.
    pub amount_comes_late: bool,
}

pub const GOPAY: Acquirer = Acquirer { domain: "COM.GO-JEK.WWW", nns: "93600914", amount_comes_late: true };
pub const SHOPEEPAY: Acquirer = Acquirer { domain: "ID.CO.SHOPEE.WWW", nns: "93600918", amount_comes_late: false };
pub const XENDIT: Acquirer = Acquirer { domain: "COM.XENDIT.WWW", nns: "93600999", amount_comes_late: false };

/// What a code asks for.
#[derive(Default)]
pub struct Bill<'a> {
    /// Nothing for a static code.
    pub amount: Option<i64>,
    /// The fields of tag 62, in order: its sub-tag and what it says.
    pub more: &'a [(&'a str, &'a str)],
}

/// The text of a code.
pub fn text(acquirer: Acquirer, shop: &Shop<'_>, criteria: &str, bill: &Bill<'_>) -> String {
    let account =
        [("00", acquirer.domain), ("01", &pan(acquirer.nns, shop.number)), ("02", shop.acquirer_id), ("03", criteria)];
    let national = [("00", "ID.CO.QRIS.WWW"), ("02", shop.nmid), ("03", criteria)];
    let (early, late) = match bill.amount {
        Some(amount) if acquirer.amount_comes_late => (String::new(), tlv("54", &format!("{amount}.00"))),
        Some(amount) => (tlv("54", &amount.to_string()), String::new()),
        None => Default::default(),
    };
    let mut all = tlv("00", "01");
    all += &tlv("01", if bill.amount.is_some() { "12" } else { "11" });
    all += &tlv("26", &nested(&account));
    all += &tlv("51", &nested(&national));
    all += &tlv("52", "5411");
    all += &tlv("53", "360");
    all += &early;
    all += &tlv("58", "ID");
    all += &tlv("59", &cut(shop.name, 25));
    all += &tlv("60", &cut(shop.city, 15));
    all += &tlv("61", shop.postcode);
    all += &late;
    if !bill.more.is_empty() {
        all += &tlv("62", &nested(bill.more));
    }
    sealed(&all)
}

/// The fields of a code with tag 63 behind them.
fn sealed(fields: &str) -> String {
    let mut all = format!("{fields}6304");
    let crc = crc(all.as_bytes());
    write!(all, "{crc:04X}").expect("a string");
    all
}

/// The same code with another amount, and a checksum that is right.
pub fn with_amount(code: &str, amount: i64) -> Option<String> {
    let mut all = String::new();
    for (tag, value) in fields(code)? {
        match tag {
            "54" if value.contains('.') => all += &tlv(tag, &format!("{amount}.00")),
            "54" => all += &tlv(tag, &amount.to_string()),
            "63" => {}
            _ => all += &tlv(tag, value),
        }
    }
    Some(sealed(&all))
}

/// The same code with a checksum that is wrong.
pub fn with_bad_checksum(code: &str) -> String {
    let (rest, crc) = code.split_at(code.len().saturating_sub(4));
    let wrong = u16::from_str_radix(crc, 16).unwrap_or_default() ^ 0x0101;
    format!("{rest}{wrong:04X}")
}

/// What a bank's app reads in a code. Nothing if it is none: the checksum or a length is wrong, or it is not for rupiah in
/// Indonesia.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub shop: String,
    pub amount: Option<i64>,
}

pub fn read(code: &str) -> Option<Read> {
    let code = code.trim();
    let fields = fields(code)?;
    let field = |wanted: &str| fields.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value);
    let (last, given) = fields.last()?;
    let right = format!("{:04X}", crc(&code.as_bytes()[..code.len() - 4]));
    if *last != "63" || *given != right || field("58")? != "ID" || field("53")? != "360" {
        return None;
    }
    let amount = match field("54") {
        Some(text) => Some(text.strip_suffix(".00").unwrap_or(text).parse().ok()?),
        None => None,
    };
    Some(Read { shop: field("59")?.to_owned(), amount })
}

/// The outermost fields, if their lengths add up.
fn fields(code: &str) -> Option<Vec<(&str, &str)>> {
    let (mut rest, mut found) = (code, Vec::new());
    while !rest.is_empty() {
        let length: usize = rest.get(2..4)?.parse().ok()?;
        found.push((rest.get(..2)?, rest.get(4..4 + length)?));
        rest = &rest[4 + length..];
    }
    Some(found)
}

fn nested(fields: &[(&str, &str)]) -> String {
    fields.iter().map(|(tag, value)| tlv(tag, value)).collect()
}

fn tlv(tag: &str, value: &str) -> String {
    assert!(value.len() < 100, "tag {tag} is too long: {value}");
    format!("{tag}{:02}{value}", value.len())
}

/// ASCII in capitals, no longer than so many characters.
fn cut(text: &str, most: usize) -> String {
    let plain = text.chars().filter(char::is_ascii).take(most).collect::<String>();
    plain.to_ascii_uppercase()
}

/// Nineteen digits: the institution, the merchant and Luhn's check digit.
fn pan(nns: &str, number: &str) -> String {
    let digits = format!("{nns}{number}");
    let check = (10 - luhn_sum(&digits, true) % 10) % 10;
    format!("{digits}{check}")
}

/// Whether a number ends in Luhn's check digit.
pub fn is_luhn(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit()) && luhn_sum(digits, false).is_multiple_of(10)
}

fn luhn_sum(digits: &str, mut doubled: bool) -> u32 {
    let mut sum = 0;
    for digit in digits.bytes().rev().map(|it| u32::from(it - b'0')) {
        let counted = if doubled { 2 * digit } else { digit };
        sum += counted / 10 + counted % 10;
        doubled = !doubled;
    }
    sum
}

/// CRC-16/CCITT-FALSE.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc: u16, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: Shop<'_> = Shop {
        name: "Toko Melati Jaya",
        city: "Surabaya",
        postcode: "60241",
        nmid: "ID1029384756012",
        acquirer_id: "G990012345",
        number: "0990012345",
    };
    const DYNAMIC: &str = "00020101021226620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UMI51440014ID.CO.QRIS.WWW0215ID10293847560120303UMI5204541153033605405485005802ID5916TOKO MELATI JAYA6008SURABAYA61056024162260515INV2601140001230703K0163043E54";
    const STATIC: &str = "00020101021126620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UMI51440014ID.CO.QRIS.WWW0215ID10293847560120303UMI5204541153033605802ID5916TOKO MELATI JAYA6008SURABAYA61056024163042A2D";
    const GOPAY_LIKE: &str = "00020101021226620014COM.GO-JEK.WWW011993600914099001234580210G9900123450303UKE51440014ID.CO.QRIS.WWW0215ID10293847560120303UKE5204541153033605802ID5910KOPI SENJA6006MALANG610565111540848500.00624750367d0c9b52-3f0e-4b0a-9a55-0f1c2d3e4f500703A0163046CA5";

    #[test]
    fn the_vectors_are_written_digit_by_digit() {
        assert_eq!(crc(b"123456789"), 0x29B1);
        assert_eq!(pan("93600914", "0990012345"), "9360091409900123458");
        assert!(is_luhn("9360091409900123458") && is_luhn("4811111111111114") && !is_luhn("4811111111111115"));

        let plain = Acquirer { amount_comes_late: false, ..GOPAY };
        // The bill's number is under 05 in the vector.
        let bill = Bill { amount: Some(48_500), more: &[("05", "INV260114000123"), ("07", "K01")] };
        assert_eq!(text(plain, &SHOP, "UMI", &bill), DYNAMIC);
        assert_eq!(text(plain, &SHOP, "UMI", &Bill::default()), STATIC);
        let senja = Shop { name: "Kopi Senja", city: "Malang", postcode: "65111", ..SHOP };
        let more = [("50", "7d0c9b52-3f0e-4b0a-9a55-0f1c2d3e4f50"), ("07", "A01")];
        assert_eq!(text(GOPAY, &senja, "UKE", &Bill { amount: Some(48_500), more: &more }), GOPAY_LIKE);
    }

    #[test]
    fn the_vectors_are_read_and_a_changed_one_is_not() {
        let shop = "TOKO MELATI JAYA".to_owned();
        assert_eq!(read(DYNAMIC), Some(Read { shop: shop.clone(), amount: Some(48_500) }));
        assert_eq!(read(STATIC), Some(Read { shop, amount: None }));
        assert_eq!(read(GOPAY_LIKE).and_then(|it| it.amount), Some(48_500));
        for wrong in [
            DYNAMIC.replace("540548500", "540548501"),
            DYNAMIC.replace("3E54", "3e54"),
            DYNAMIC[..DYNAMIC.len() - 8].to_owned(),
            DYNAMIC.replace("5405", "5499"),
            sealed(&DYNAMIC[..DYNAMIC.len() - 8].replace("5802ID", "5802SG")),
            sealed(&DYNAMIC[..DYNAMIC.len() - 8].replace("5303360", "5303702")),
            String::from("00"),
            String::new(),
        ] {
            assert_eq!(read(&wrong), None, "{wrong}");
        }
        // What nobody knows is kept.
        assert!(read(&sealed(&format!("{}9903abc", &DYNAMIC[..DYNAMIC.len() - 8]))).is_some());
    }

    #[test]
    fn a_code_is_spoiled_in_two_ways() {
        assert_eq!(read(&with_amount(DYNAMIC, 48_501).unwrap()).unwrap().amount, Some(48_501));
        assert_eq!(read(&with_amount(GOPAY_LIKE, 1).unwrap()).unwrap().amount, Some(1));
        let bad = with_bad_checksum(DYNAMIC);
        assert_eq!((bad.len(), read(&bad)), (DYNAMIC.len(), None));
    }
}
