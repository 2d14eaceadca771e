//! The year: the catalogue and the baskets that are replayed, in whole rupiah.

use std::collections::HashSet;

use tillwire_channels::{Moment, Quantity};

use super::data::{self, LineRecord, ProductRecord};
use super::prices;

/// What is sold in a year, and in which order.
#[derive(Debug)]
pub struct Year {
    pub products: Vec<Product>,
    pub baskets: Vec<Basket>,
}

#[derive(Clone, Debug)]
pub struct Product {
    pub record: ProductRecord,
    /// None for what was never sold for anything: listed, and not for sale.
    pub price_minor: Option<i64>,
}

/// What somebody bought.
#[derive(Clone, Debug)]
pub struct Basket {
    /// Place in [`OUTLETS`](super::shop::OUTLETS).
    pub outlet: usize,
    pub at: Moment,
    /// Each of another product.
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug)]
pub struct Line {
    /// Place in [`Year::products`].
    pub product: usize,
    pub quantity: Quantity,
    pub gross_minor: i64,
    pub discount_minor: i64,
}

impl Basket {
    pub fn total_minor(&self) -> i64 {
        self.lines.iter().map(|line| line.gross_minor - line.discount_minor).sum()
    }
}

impl Product {
    /// What it is called: the data has no names.
    pub fn name(&self) -> String {
        let ProductRecord { department, category, kind, package, .. } = &self.record;
        let what = kind.as_ref().or(category.as_ref()).unwrap_or(department);
        let words = what.split_inclusive([' ', '-', '/', '&', ':']).map(capitalised);
        let package = package.iter().map(|package| format!(" {}", package.to_lowercase()));
        words.chain(package).collect()
    }
}

fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + &rest.to_lowercase()
}

impl Year {
    /// Reads the data; `baskets` keeps the first so many, and the products in them.
    pub fn read(baskets: Option<usize>) -> anyhow::Result<Self> {
        let records = data::products()?;
        let lines = data::lines(&records)?;
        let mut of_product = vec![Vec::new(); records.len()];
        for line in &lines {
            if let Some(product) = line.product {
                of_product[product].push(line);
            }
        }
        let price = |lines: Vec<&LineRecord>| prices::shelf_price(lines.into_iter());
        let products: Vec<Product> = records
            .into_iter()
            .zip(of_product)
            .map(|(record, lines)| Product { record, price_minor: price(lines) })
            .collect();
        let all = lines
            .chunk_by(|one, next| one.basket == next.basket)
            .map(|lines| basket(lines, &products))
            .filter(|basket| !basket.lines.is_empty());
        Ok(match baskets {
            None => Self { baskets: all.collect(), products },
            Some(baskets) => Self { baskets: all.take(baskets).collect(), products }.without_what_is_not_sold(),
        })
    }

    fn without_what_is_not_sold(mut self) -> Self {
        let sold: HashSet<usize> = self.baskets.iter().flat_map(|it| &it.lines).map(|line| line.product).collect();
        let mut places = vec![0; self.products.len()];
        let mut kept = Vec::with_capacity(sold.len());
        for (place, product) in self.products.into_iter().enumerate() {
            if sold.contains(&place) {
                places[place] = kept.len();
                kept.push(product);
            }
        }
        self.products = kept;
        for line in self.baskets.iter_mut().flat_map(|basket| &mut basket.lines) {
            line.product = places[line.product];
        }
        self
    }
}

/// What is left of a basket when what has no price is left out.
fn basket(lines: &[LineRecord], products: &[Product]) -> Basket {
    let left = lines.iter().filter(|line| prices::has_price(line)).filter_map(|line| {
        let product = line.product?;
        let gross_minor = prices::gross(products[product].price_minor?, line.quantity);
        let discount_minor = prices::discount(line, gross_minor);
        Some(Line { product, quantity: line.quantity, gross_minor, discount_minor })
    });
    Basket { outlet: lines[0].outlet, at: lines[0].at, lines: left.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commerce::money::AMOUNT_MAX_MINOR;
    use crate::commerce::sales::LINES_MAX;

    #[test]
    fn the_year_is_what_its_readme_says() {
        let year = Year::read(None).unwrap();
        assert_eq!((year.products.len(), year.baskets.len()), (25_787, 15_692));
        assert_eq!(year.baskets.iter().map(|basket| basket.lines.len()).sum::<usize>(), 143_629);
        assert_eq!(year.products.iter().filter(|product| product.price_minor.is_none()).count(), 83);
        assert_eq!(year.baskets.iter().map(|basket| basket.lines.len()).max(), Some(146));
        for basket in &year.baskets {
            assert!((1..=LINES_MAX).contains(&basket.lines.len()));
            let mut products: Vec<usize> = basket.lines.iter().map(|line| line.product).collect();
            products.sort_unstable();
            products.dedup();
            assert_eq!(products.len(), basket.lines.len());
            assert!(basket.lines.iter().all(|line| (0..=line.gross_minor).contains(&line.discount_minor)));
            assert!((0..AMOUNT_MAX_MINOR).contains(&basket.total_minor()));
        }
        for product in &year.products {
            assert!(product.price_minor.is_none_or(|price| price >= 100 && price % 100 == 0));
            assert!((1..=200).contains(&product.name().chars().count()), "{}", product.name());
        }
        assert_eq!(year.products[1].name(), "All Family Cereal 10.4 oz");
    }

    #[test]
    fn the_first_baskets_need_fewer_products() {
        let (whole, first) = (Year::read(None).unwrap(), Year::read(Some(20)).unwrap());
        assert_eq!(first.baskets.len(), 20);
        assert!(first.products.len() < 200);
        for (one, other) in whole.baskets.iter().zip(&first.baskets) {
            assert_eq!(one.total_minor(), other.total_minor());
            for (one, other) in one.lines.iter().zip(&other.lines) {
                let number = |year: &Year, line: &Line| year.products[line.product].record.number.clone();
                assert_eq!(number(&whole, one), number(&first, other));
            }
        }
    }
}
