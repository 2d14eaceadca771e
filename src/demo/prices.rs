//! Prices and amounts in whole rupiah, made from the data's dollars.

use tillwire_channels::Quantity;

use super::data::LineRecord;

/// About the mean of 2017.
const RUPIAH_PER_DOLLAR: i64 = 13_400;
/// The smallest coin that people use. Shelf prices and discounts are multiples of it.
const COIN_MINOR: i64 = 100;
/// Prices are compared in millionths of a cent for one unit: fine enough for fuel by the thousandth.
const FINE: i64 = 1_000_000;

/// Whether something was sold, and for something. Returns of bottles, coupons and giveaways are not.
pub fn has_price(line: &LineRecord) -> bool {
    line.quantity > Quantity::ZERO && line.paid_cents + line.discount_cents > 0
}

/// The price on the shelf: the median, over a product's lines, of what one unit cost before discounts.
///
/// None without a line that has a price.
pub fn shelf_price<'a>(lines: impl Iterator<Item = &'a LineRecord>) -> Option<i64> {
    let mut units: Vec<i64> = lines
        .filter(|line| has_price(line))
        .map(|line| (line.paid_cents + line.discount_cents) * FINE * 1000 / line.quantity.thousandths())
        .collect();
    units.sort_unstable();
    let (low, high) = (units.get(units.len().checked_sub(1)? / 2)?, units.get(units.len() / 2)?);
    // Dollars are a hundred cents.
    let rupiah = i128::from(low + high) * i128::from(RUPIAH_PER_DOLLAR) / (2 * 100 * i128::from(FINE));
    Some(to_coins(i64::try_from(rupiah).ok()?).max(COIN_MINOR))
}

/// What a line comes to before its discount, as the hub will add it up: half a rupiah counts as a whole one.
pub fn gross(price_minor: i64, quantity: Quantity) -> i64 {
    (price_minor * quantity.thousandths() + 500) / 1000
}

/// The line's discount now, in the proportion that it had then.
pub fn discount(line: &LineRecord, gross_minor: i64) -> i64 {
    let before = line.paid_cents + line.discount_cents;
    if line.paid_cents == 0 {
        return gross_minor; // It was free, and no coin must be left of it.
    }
    to_coins(gross_minor * line.discount_cents / before).min(gross_minor)
}

fn to_coins(amount_minor: i64) -> i64 {
    (amount_minor + COIN_MINOR / 2) / COIN_MINOR * COIN_MINOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use tillwire_channels::Moment;

    fn line(quantity: &str, paid_cents: i64, discount_cents: i64) -> LineRecord {
        LineRecord {
            outlet: 0,
            basket: String::new(),
            at: Moment::UNIX_EPOCH,
            product: Some(0),
            quantity: quantity.parse().unwrap(),
            paid_cents,
            discount_cents,
        }
    }

    fn price(lines: &[LineRecord]) -> Option<i64> {
        shelf_price(lines.iter())
    }

    #[test]
    fn the_shelf_price_is_the_median_before_discounts() {
        assert_eq!(price(&[line("1", 100, 0)]), Some(13_400));
        assert_eq!(price(&[line("1", 80, 20), line("2", 200, 0), line("1", 900, 0)]), Some(13_400));
        assert_eq!(price(&[line("1", 100, 0), line("1", 200, 0)]), Some(20_100)); // Between the two in the middle.
        assert_eq!(price(&[line("6.980", 1_670, 0)]), Some(32_100)); // 2.3926 dollars a unit.
        assert_eq!(price(&[line("1", 1, 0)]), Some(100)); // 134 rupiah; and never less than a coin:
        assert_eq!(price(&[line("30", 1, 0)]), Some(100));
        assert_eq!(price(&[line("0", 0, 0), line("1", 0, 0)]), None);
        assert_eq!(price(&[]), None);
    }

    #[test]
    fn discounts_keep_their_proportion() {
        assert_eq!(discount(&line("1", 80, 20), 13_400), 2_700);
        assert_eq!(discount(&line("1", 100, 0), 13_400), 0);
        assert_eq!(discount(&line("1", 0, 50), 13_450), 13_450);
        assert_eq!(discount(&line("1", 1, 99), 60), 60); // Never more than there is.
    }

    #[test]
    fn lines_add_up_as_the_hub_adds_them_up() {
        use crate::commerce::money::extend;
        for (price, quantity) in [(32_100, "6.980"), (13_400, "2"), (100, "0.005"), (999, "0.5")] {
            let quantity = quantity.parse().unwrap();
            assert_eq!(Some(gross(price, quantity)), extend(price, quantity));
        }
    }
}
