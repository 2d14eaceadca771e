//! The till: how a basket is rung up and paid.
//!
//! Everything is chosen by the basket's number and by nothing else, so that a request that is repeated after a crash is
//! the same request.

use serde_json::{Value, json};
use tillwire_channels::event::Method;

use super::shop::{OUTLETS, REGISTERS, Shop};
use super::year::{Basket, Year};

/// What people pull out of their wallets.
const NOTES_MINOR: [i64; 5] = [5_000, 10_000, 20_000, 50_000, 100_000];

/// A basket's number: which one it is of which year, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number {
    pub year: u32,
    pub basket: usize,
}

impl Number {
    pub const FIRST: Self = Self { year: 1, basket: 1 };

    /// The basket after it, of a year that has so many.
    pub fn next(self, baskets: usize) -> Self {
        if self.basket < baskets {
            Self { basket: self.basket + 1, ..self }
        } else {
            Self { year: self.year + 1, basket: 1 }
        }
    }

    /// What stands on the receipt, and what the hub knows the sale by for ever: `JKT-Y1-000042`.
    pub fn receipt(self, outlet: usize) -> String {
        format!("{}-Y{}-{:06}", OUTLETS[outlet].code, self.year, self.basket)
    }

    /// Reads a receipt's number; none if the sale was not the demo's.
    pub fn of_receipt(receipt: &str) -> Option<Self> {
        let (rest, basket) = receipt.rsplit_once('-')?;
        let (_, year) = rest.rsplit_once("-Y")?;
        Some(Self { year: year.parse().ok()?, basket: basket.parse().ok()? })
    }

    /// A number that looks like chance and is always the same (splitmix64). `what` tells draws from one another.
    pub fn draw(self, what: u64, below: u64) -> u64 {
        let seed = (u64::from(self.year) << 40) ^ ((self.basket as u64) << 8) ^ what;
        let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// Which of the outlet's tills rings it up.
    pub fn register(self) -> usize {
        usize::try_from(self.draw(1, REGISTERS as u64)).unwrap_or_default()
    }
}

/// The body of the request that completes the sale. It names no time: a sale happens when it is made.
pub fn sale(shop: &Shop, year: &Year, number: Number, basket: &Basket) -> Value {
    let lines: Vec<Value> = basket
        .lines
        .iter()
        .map(|line| {
            let product = &year.products[line.product];
            json!({
                "variant": shop.variant(&product.record.number),
                "quantity": line.quantity,
                "unit_price_minor": product.price_minor,
                "discount_minor": line.discount_minor,
            })
        })
        .collect();
    json!({
        "register": shop.register(basket.outlet, number.register()),
        "number": number.receipt(basket.outlet),
        "lines": lines,
        "tenders": tenders(number, basket.total_minor()),
    })
}

/// Small amounts are mostly paid in cash, middling ones by QRIS, large ones by card or transfer; a few with two.
fn tenders(number: Number, total_minor: i64) -> Vec<Value> {
    if total_minor <= 0 {
        return Vec::new(); // Discounts took all of it.
    }
    // In percent: cash, QRIS, e-wallet, card, transfer.
    let shares: [u64; 5] = match total_minor {
        ..=49_999 => [52, 33, 12, 3, 0],
        50_000..=299_999 => [34, 40, 12, 13, 1],
        300_000..=999_999 => [20, 36, 6, 33, 5],
        _ => [10, 22, 2, 44, 22],
    };
    let methods = [Method::Cash, Method::Qris, Method::Ewallet, Method::Card, Method::Transfer];
    let mut drawn = number.draw(2, 100);
    let mut method = Method::Cash;
    for (share, candidate) in shares.into_iter().zip(methods) {
        if drawn < share {
            method = candidate;
            break;
        }
        drawn -= share;
    }
    // The cash at hand did not do, and a phone paid the rest.
    if method == Method::Cash && total_minor > 2 * NOTES_MINOR[3] && number.draw(3, 10) == 0 {
        let cash = total_minor / NOTES_MINOR[3] / 2 * NOTES_MINOR[3];
        return vec![tender(Method::Cash, cash, None), tender(Method::Qris, total_minor - cash, None)];
    }
    let handed_over = (method == Method::Cash).then(|| hand_over(number, total_minor));
    vec![tender(method, total_minor, handed_over)]
}

/// Exactly, one time in five; else in the notes at hand.
fn hand_over(number: Number, total_minor: i64) -> i64 {
    if number.draw(4, 5) == 0 {
        return total_minor;
    }
    let enough = NOTES_MINOR.iter().position(|note| *note >= total_minor).unwrap_or(NOTES_MINOR.len() - 1);
    let smallest = NOTES_MINOR.len().min(enough + 1) as u64;
    let note = NOTES_MINOR[usize::try_from(number.draw(5, smallest)).unwrap_or_default()];
    (total_minor + note - 1) / note * note
}

fn tender(method: Method, amount_minor: i64, tendered_minor: Option<i64>) -> Value {
    json!({ "method": method.as_str(), "amount_minor": amount_minor, "tendered_minor": tendered_minor })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_year_rolls_over_and_no_receipt_comes_twice() {
        let last = Number { year: 1, basket: 15_692 };
        assert_eq!(last.next(15_692), Number { year: 2, basket: 1 });
        assert_eq!(Number::FIRST.next(15_692), Number { year: 1, basket: 2 });
        assert!(last.next(15_692) > last);
        assert_eq!(last.receipt(0), "JKT-Y1-015692");
        for number in [last, last.next(15_692), Number { year: 1_000, basket: 1_234_567 }] {
            assert_eq!(Number::of_receipt(&number.receipt(4)), Some(number));
        }
        for foreign in ["JKT-R1-000042", "A-1", "", "JKT-Y-1", "JKT-Y1-x"] {
            assert_eq!(Number::of_receipt(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn tenders_cover_the_total_and_vary() {
        let mut methods: HashMap<String, usize> = HashMap::new();
        let (mut change, mut two) = (0, 0);
        for (basket, total) in (1..).zip((0..2_000).map(|n| n * 700)) {
            let tenders = tenders(Number { year: 1, basket }, total);
            let amount = |tender: &Value| tender["amount_minor"].as_i64().unwrap();
            assert_eq!(tenders.iter().map(amount).sum::<i64>(), total);
            for tender in &tenders {
                assert!(amount(tender) > 0);
                if let Some(tendered) = tender["tendered_minor"].as_i64() {
                    assert!(tendered >= amount(tender) && tender["method"] == "cash");
                    assert!(tendered - amount(tender) < 100_000);
                    change += usize::from(tendered > amount(tender));
                }
                *methods.entry(tender["method"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            two += usize::from(tenders.len() == 2);
        }
        assert_eq!(methods.len(), 5);
        assert!(methods.values().all(|count| *count > 50) && change > 100 && two > 5, "{methods:?} {change} {two}");
    }

    #[test]
    fn the_same_basket_is_the_same_request() {
        let year = Year::read(Some(3)).unwrap();
        let shop = Shop::new(Some(3));
        let body = |year_number| sale(&shop, &year, Number { year: year_number, basket: 2 }, &year.baskets[1]);
        assert_eq!(body(1), body(1));
        assert_ne!(body(1)["number"], body(2)["number"]);
    }
}
