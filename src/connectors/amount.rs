//! Amounts as providers write them: whole rupiah, exactly, and no float on the way.

use std::fmt;

use crate::commerce::money::AMOUNT_MAX_MINOR;

/// The longest text of an amount, in bytes: the largest with some zeros behind its point.
const TEXT_BYTES_MAX: usize = 32;

/// A text that is no amount: it has a fraction, an exponent or a sign, is too large, or is no number at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMoney;

impl fmt::Display for NotMoney {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("this is no amount in whole rupiah")
    }
}

/// `48500`, `48500.00` and `48500.0` are 48,500 rupiah. `48500.50`, `4.85e4`, `+1`, `-1`, `.5`, `1.` and `007` are nothing.
///
/// # Errors
/// If it is no whole amount from 0 to the largest that the hub knows.
pub fn parse(text: &str) -> Result<i64, NotMoney> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(NotMoney);
    }
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(NotMoney),
        None => (text, ""),
    };
    let digits = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if !digits || leading_zero || !fraction.bytes().all(|byte| byte == b'0') {
        return Err(NotMoney);
    }
    whole.parse().ok().filter(|amount| *amount <= AMOUNT_MAX_MINOR).ok_or(NotMoney)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_rupiah_are_amounts() {
        for (text, amount) in [
            ("48500", 48_500),
            ("48500.00", 48_500),
            ("48500.0", 48_500),
            ("0", 0),
            ("0.00", 0),
            ("1000000000000", 1_000_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(amount), "{text}");
        }
        for text in [
            "",
            ".",
            "1.",
            ".0",
            "48500.50",
            "48500.001",
            "48500,00",
            "48.500,00",
            "4.85e4",
            "485e2",
            "1E0",
            "+1",
            "-1",
            "-0",
            " 1",
            "1 ",
            "1_000",
            "0x10",
            "NaN",
            "Infinity",
            "null",
            "007",
            "00",
            "1000000000001",
            "99999999999999999999",
            "1.00.0",
            "１",
            "0.000000000000000000000000000000000",
        ] {
            assert_eq!(parse(text), Err(NotMoney), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_is_what_was_written(amount in 0..=AMOUNT_MAX_MINOR, zeros in 0..9_usize) {
            let point = if zeros == 0 { "" } else { "." };
            prop_assert_eq!(parse(&format!("{amount}{point}{}", "0".repeat(zeros))), Ok(amount));
        }

        #[test]
        fn no_fraction_is_rounded(amount in 0..1_000_000_i64, fraction in 1..1_000_000_u32) {
            prop_assert_eq!(parse(&format!("{amount}.{fraction:06}")), Err(NotMoney));
        }

        #[test]
        fn any_text_is_an_amount_of_its_own_digits_or_none(text in "[-+0-9.eE ]{0,40}|.{0,8}") {
            if let Ok(amount) = parse(&text) {
                prop_assert_eq!(text.split('.').next().unwrap(), amount.to_string());
            }
        }
    }
}
