//! Quantities: three decimals, exact, as a string on the wire.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use ts_rs::TS;

/// A number of units with three decimals, e.g. `"2.000"` or `"0.355"`. Kept in thousandths, never in floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, TS)]
#[ts(type = "string")]
pub struct Quantity {
    thousandths: i64,
}

/// The most that a quantity can be, in thousandths: what `numeric(14,3)` holds.
pub const QUANTITY_MAX_THOUSANDTHS: i64 = 99_999_999_999_999;

impl Quantity {
    pub const ZERO: Self = Self { thousandths: 0 };

    /// So many thousandths of a unit. `None` if that is out of range.
    pub const fn from_thousandths(thousandths: i64) -> Option<Self> {
        if thousandths.unsigned_abs() > QUANTITY_MAX_THOUSANDTHS as u64 { None } else { Some(Self { thousandths }) }
    }

    pub const fn thousandths(self) -> i64 {
        self.thousandths
    }

    /// The sum, or `None` where it would be out of range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.thousandths.checked_add(other.thousandths).and_then(Self::from_thousandths)
    }

    /// The same quantity with the other sign.
    pub const fn negated(self) -> Self {
        Self { thousandths: -self.thousandths }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.thousandths < 0 { "-" } else { "" };
        let all = self.thousandths.unsigned_abs();
        write!(f, "{sign}{}.{:03}", all / 1000, all % 1000)
    }
}

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQuantity;

impl fmt::Display for NotAQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a quantity is a decimal number with at most eleven digits before and three behind the point, as a string",
        )
    }
}

impl std::error::Error for NotAQuantity {}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, behind) = match digits.split_once('.') {
            Some((_, "")) => return Err(NotAQuantity),
            Some(parts) => parts,
            None => (digits, ""),
        };
        let numeric = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 11 || behind.len() > 3 || !numeric(whole) || !numeric(behind) {
            return Err(NotAQuantity);
        }
        let thousandths = format!("{whole}{behind:0<3}").parse::<i64>().map_err(|_| NotAQuantity)?;
        Self::from_thousandths(sign * thousandths).ok_or(NotAQuantity)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^-?[0-9]{1,11}(\.[0-9]{1,3})?$",
            "description": "A number of units with up to three decimals; always sent with three, e.g. \"2.000\"."
        })
    }
}

impl utoipa::PartialSchema for Quantity {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(r"^-?[0-9]{1,11}(\.[0-9]{1,3})?$"))
            .description(Some("A number of units with up to three decimals, as a string; always answered with three."))
            .examples(["2.000"])
            .into()
    }
}

impl utoipa::ToSchema for Quantity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_and_written_exactly() {
        for (text, written) in
            [("2", "2.000"), ("0.355", "0.355"), ("-1.5", "-1.500"), ("99999999999.999", "99999999999.999")]
        {
            assert_eq!(text.parse::<Quantity>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn refuses_what_is_not_exact() {
        for text in ["", "-", ".5", "1.", "1.0005", "1e3", "+1", "--1", "123456789012", " 1", "NaN", "1,5", "١"] {
            assert_eq!(text.parse::<Quantity>(), Err(NotAQuantity), "{text:?}");
        }
    }
}
