//! The files of `demo/`, as they are: products, and sale lines in dollars. `demo/README.md` says where they come from.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context, ensure};
use flate2::read::GzDecoder;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use tillwire_channels::{Moment, Quantity};
use time::PrimitiveDateTime;
use time::macros::format_description;

use super::shop::OUTLETS;

/// Compiled in, so that the binary is enough to run the demo anywhere.
const PRODUCTS: &[u8] = include_bytes!("../../demo/products.csv.gz");
const SALES: &[u8] = include_bytes!("../../demo/sales.csv.gz");

/// Fuel by volume stands in thousandths; whoever paid it in advance bought one.
const FUEL_TYPE: &str = "GASOLINE";
const FUEL_THOUSANDTHS_MIN: i64 = 100;

/// A product as listed. Empty columns are none.
#[derive(Clone, Debug)]
pub struct ProductRecord {
    /// Its number, which becomes the SKU.
    pub number: String,
    pub department: String,
    pub brand: String,
    pub category: Option<String>,
    pub kind: Option<String>,
    pub package: Option<String>,
}

/// A line of a basket, with its product's place in the list. Lines of a basket follow one another.
#[derive(Clone, Debug)]
pub struct LineRecord {
    /// Place in [`OUTLETS`].
    pub outlet: usize,
    pub basket: String,
    pub at: Moment,
    /// None for the few products that the list does not have.
    pub product: Option<usize>,
    pub quantity: Quantity,
    pub paid_cents: i64,
    pub discount_cents: i64,
}

/// Reads the list of products.
pub fn products() -> anyhow::Result<Vec<ProductRecord>> {
    let text = unzip(PRODUCTS)?;
    let mut products = Vec::new();
    for line in text.lines().skip(1) {
        let [number, department, brand, category, kind, package] = fields(line)?;
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        products.push(ProductRecord {
            number: number.to_owned(),
            department: department.to_owned(),
            brand: brand.to_owned(),
            category: some(category),
            kind: some(kind),
            package: some(package),
        });
    }
    Ok(products)
}

/// Reads the sale lines, in the order of time.
pub fn lines(products: &[ProductRecord]) -> anyhow::Result<Vec<LineRecord>> {
    let places: HashMap<&str, usize> = products.iter().map(|it| it.number.as_str()).zip(0..).collect();
    let is_fuel = |place: usize| products[place].kind.as_ref().is_some_and(|kind| kind.starts_with(FUEL_TYPE));
    let text = unzip(SALES)?;
    let mut lines = Vec::new();
    for line in text.lines().skip(1) {
        let [outlet, basket, at, product, quantity, paid, discount, _coupon] = fields(line)?;
        let product = places.get(product).copied();
        let at = PrimitiveDateTime::parse(at, format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]"))?;
        lines.push(LineRecord {
            outlet: OUTLETS.iter().position(|it| it.source == outlet).with_context(|| format!("outlet {outlet}"))?,
            basket: basket.to_owned(),
            at: at.assume_utc(),
            product,
            quantity: units(quantity.parse()?, product.is_some_and(is_fuel)).context("a quantity")?,
            paid_cents: cents(paid)?,
            discount_cents: cents(discount)?,
        });
    }
    Ok(lines)
}

fn unzip(file: &[u8]) -> anyhow::Result<String> {
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).context("unpacking the demo's data")?;
    Ok(text)
}

/// No field of these files is quoted.
fn fields<const N: usize>(line: &str) -> anyhow::Result<[&str; N]> {
    ensure!(!line.contains('"'), "a quoted field: {line}");
    let fields: Vec<&str> = line.split(',').collect();
    fields.try_into().map_err(|_| anyhow::anyhow!("not {N} fields: {line}"))
}

/// What a number in the column of quantities means.
fn units(number: i64, is_fuel: bool) -> Option<Quantity> {
    let in_thousandths = is_fuel && number >= FUEL_THOUSANDTHS_MIN;
    Quantity::from_thousandths(if in_thousandths { number } else { number.checked_mul(1000)? })
}

fn cents(dollars: &str) -> anyhow::Result<i64> {
    let cents = dollars.parse::<Decimal>()? * Decimal::ONE_HUNDRED;
    cents.round().to_i64().with_context(|| format!("an amount: {dollars}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn fuel_is_in_thousandths_and_everything_else_is_not() {
        let text = |number, is_fuel| units(number, is_fuel).unwrap().to_string();
        assert_eq!(text(6980, true), "6.980");
        assert_eq!(text(1, true), "1.000"); // Paid in advance.
        assert_eq!(text(54, false), "54.000");
        assert_eq!(text(0, true), "0.000");
        assert_eq!(units(i64::MAX, false), None);
    }

    #[test]
    fn the_files_hold_what_their_readme_says() {
        let products = products().unwrap();
        let lines = lines(&products).unwrap();
        assert_eq!((products.len(), lines.len()), (25_787, 144_586));
        assert!(lines.is_sorted_by_key(|line| line.at));
        let baskets: Vec<&str> = lines.iter().map(|line| line.basket.as_str()).collect();
        let mut once = baskets.clone();
        once.dedup();
        assert_eq!(once.len(), 15_747);
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), 15_747, "the lines of a basket follow one another");

        let zero = |line: &&LineRecord| line.quantity == Quantity::ZERO;
        assert_eq!(lines.iter().filter(zero).count(), 927);
        let left = || lines.iter().filter(|line| !zero(line));
        assert_eq!(left().filter(|line| line.product.is_none()).count(), 8);
        let worthless = |line: &&LineRecord| line.product.is_some() && line.paid_cents + line.discount_cents == 0;
        assert_eq!(left().filter(worthless).count(), 22);

        let (mut fuel, mut by_volume) = (BTreeSet::new(), BTreeSet::new());
        for line in left() {
            let Some(place) = line.product else { continue };
            let (quantity, product) = (line.quantity.thousandths(), &products[place]);
            if product.kind.as_ref().is_some_and(|kind| kind.starts_with(FUEL_TYPE)) {
                fuel.insert(product.number.as_str());
                if quantity != 1000 {
                    by_volume.insert(product.number.as_str());
                }
            } else {
                assert!(quantity % 1000 == 0 && quantity <= 54_000, "{line:?}");
            }
        }
        assert_eq!((fuel.len(), by_volume.len()), (5, 4));
        assert!(fuel.contains("6533765") && !by_volume.contains("6533765"));
    }
}
