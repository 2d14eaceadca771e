//! What stands on the shelves: how much is bought in at the opening, and when a delivery comes.
//!
//! All of it follows from the baskets sold so far. After a restart the same deliveries are worked out again, and the hub
//! knows them by their keys.

use std::collections::BTreeMap;

use tillwire_channels::Quantity;

use super::shop::OUTLETS;
use super::year::{Basket, Year};

/// The most lines of a delivery.
const DELIVERY_LINES_MAX: usize = 120;
/// A full shelf lasts a twelfth of a year.
const REFILLS_A_YEAR: i64 = 12;
/// And is enough for the largest basket so many times.
const LARGEST_MIN: i64 = 4;
const UNIT: i64 = 1000;

/// Quantities are in thousandths here.
#[derive(Clone, Copy, Debug)]
struct Shelf {
    full: i64,
    on_hand: i64,
}

/// The shelves of all outlets, by product, as the demo's own baskets leave them. Others may sell as well: then the hub
/// refuses a sale, and the stock is brought at once.
#[derive(Debug)]
pub struct Shelves {
    of: Vec<BTreeMap<usize, Shelf>>,
}

/// Places of products, and how many of each.
pub type Load = Vec<(usize, Quantity)>;

impl Shelves {
    /// Full shelves of what each outlet sells.
    pub fn full(year: &Year) -> Self {
        let mut sold = vec![BTreeMap::<usize, (i64, i64)>::new(); OUTLETS.len()];
        for basket in &year.baskets {
            for line in &basket.lines {
                let quantity = line.quantity.thousandths();
                let (sum, largest) = sold[basket.outlet].entry(line.product).or_default();
                *sum += quantity;
                *largest = quantity.max(*largest);
            }
        }
        let shelf = |(sum, largest): (i64, i64)| {
            // Of what hardly sells, enough for a few who want much of it.
            let full = (sum / REFILLS_A_YEAR).max(LARGEST_MIN * largest);
            let full = (full + UNIT - 1) / UNIT * UNIT;
            Shelf { full, on_hand: full }
        };
        let shelves = |sold: BTreeMap<usize, (i64, i64)>| sold.into_iter().map(|(product, it)| (product, shelf(it)));
        Self { of: sold.into_iter().map(|sold| shelves(sold).collect()).collect() }
    }

    /// What an outlet opens with.
    pub fn opening(&self, outlet: usize) -> Load {
        self.of[outlet].iter().filter_map(|(product, shelf)| Some((*product, quantity(shelf.full)?))).collect()
    }

    /// The delivery that comes before a basket, if it would leave a shelf less than a quarter full. The lorry also
    /// brings what else has gone down at that outlet.
    pub fn deliver(&mut self, basket: &Basket) -> Load {
        let shelves = &mut self.of[basket.outlet];
        let low: Vec<usize> = basket
            .lines
            .iter()
            .filter(|line| {
                shelves.get(&line.product).is_some_and(|it| (it.on_hand - line.quantity.thousandths()) * 4 < it.full)
            })
            .map(|line| line.product)
            .collect();
        if low.is_empty() {
            return Vec::new();
        }
        let others = shelves
            .iter()
            .filter(|(product, it)| it.on_hand * 4 <= it.full * 3 && !low.contains(product))
            .map(|(it, _)| *it);
        let room = DELIVERY_LINES_MAX.saturating_sub(low.len());
        let products: Vec<usize> = others.take(room).collect();
        low.into_iter()
            .chain(products)
            .filter_map(|product| {
                let shelf = shelves.get_mut(&product)?;
                let brought = shelf.full - shelf.on_hand;
                shelf.on_hand = shelf.full;
                Some((product, quantity(brought)?)).filter(|_| brought > 0)
            })
            .collect()
    }

    /// Takes a basket's lines.
    pub fn take(&mut self, basket: &Basket) {
        for line in &basket.lines {
            if let Some(shelf) = self.of[basket.outlet].get_mut(&line.product) {
                shelf.on_hand -= line.quantity.thousandths();
            }
        }
    }
}

fn quantity(thousandths: i64) -> Option<Quantity> {
    Quantity::from_thousandths(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_basket_of_three_years_finds_an_empty_shelf() {
        let year = Year::read(None).unwrap();
        let mut shelves = Shelves::full(&year);
        let (mut deliveries, mut lines) = (0, 0);
        for _ in 0..3 {
            for basket in &year.baskets {
                let load = shelves.deliver(basket);
                assert!(load.len() <= DELIVERY_LINES_MAX);
                deliveries += usize::from(!load.is_empty());
                lines += load.len();
                shelves.take(basket);
                for line in &basket.lines {
                    assert!(shelves.of[basket.outlet][&line.product].on_hand >= 0);
                }
            }
        }
        // A lorry for every few baskets, and not for each.
        assert!(
            deliveries * 3 < year.baskets.len() * 3 && lines > deliveries,
            "{deliveries} deliveries, {lines} lines"
        );
    }

    #[test]
    fn the_same_deliveries_are_worked_out_again() {
        let year = Year::read(Some(2_000)).unwrap();
        let loads = || {
            let mut shelves = Shelves::full(&year);
            let load = |basket: &Basket| {
                let load = shelves.deliver(basket);
                shelves.take(basket);
                load
            };
            year.baskets.iter().map(load).collect::<Vec<Load>>()
        };
        assert_eq!(loads(), loads());
        assert!(loads().iter().any(|load| !load.is_empty()));
    }
}
