//! The catalogue: products, their variants, barcodes and prices.
//!
//! There is one way to change it, [`put`], for one product and for thousands: it decides for each product by itself, so
//! that one that is refused does not keep the others out.

mod chunks;
mod known;
mod prices;
mod read;
mod write;

use serde::Serialize;
use tillwire_channels::event::{ProductChanged, VariantState};
use tillwire_channels::{Event, ProductId, VariantId};
use utoipa::ToSchema;
use uuid::Uuid;

use self::known::Known;
use self::read::read;
use self::write::write;
use crate::error::{Error, Fault, Result};
use crate::journal::MerchantTx;

pub use chunks::{CHUNK_BYTES_MAX, CHUNK_ITEMS_MAX, chunks};
pub use prices::{Priced, names, prices};
pub use read::{PAGE_MAX, find, get, list};

/// The most variants of a product.
pub const VARIANTS_MAX: usize = 50;
/// The most barcodes of a variant.
pub const BARCODES_MAX: usize = 10;

/// A product with its variants, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProductView {
    pub id: ProductId,
    pub name: String,
    pub department: Option<String>,
    pub category: Option<String>,
    pub brand: Option<String>,
    pub package: Option<String>,
    /// ISO 4217; prices are integers in its minor unit.
    pub currency: String,
    /// Whether it can be sold.
    pub active: bool,
    /// Counts the product's changes, from 1.
    pub version: i64,
    pub variants: Vec<VariantState>,
}

/// A product as it is to be. Variants that it has already and that are not named stay as they are.
#[derive(Clone, Debug)]
pub struct Product {
    /// Without it, the product that has the first variant's SKU is meant, or a new one.
    pub id: Option<ProductId>,
    pub name: String,
    pub department: Option<String>,
    pub category: Option<String>,
    pub brand: Option<String>,
    pub package: Option<String>,
    pub active: bool,
    pub variants: Vec<Variant>,
}

/// A variant as it is to be.
#[derive(Clone, Debug)]
pub struct Variant {
    pub id: Option<VariantId>,
    pub sku: String,
    pub name: Option<String>,
    pub price_minor: i64,
    pub barcodes: Vec<String>,
}

/// What must be true of a product before it is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It must not exist.
    New,
    /// It must exist, in this version if one is given.
    Existing { version: Option<i64> },
    /// Either.
    Any,
}

/// What became of one product.
#[derive(Clone, Debug)]
pub enum Outcome {
    Created(ProductId),
    Changed(ProductId),
    Refused(Fault),
}

/// Puts products into the catalogue, each by itself: what is refused does not keep the others out.
///
/// The entry holds one `product.changed` for each that was put. Callers keep to the chunk's bounds.
pub async fn put(tx: &mut MerchantTx, products: &[Product], expect: Expect) -> Result<Vec<Outcome>> {
    // What is decided on (who has a SKU, a barcode) is not in rows to be locked.
    tx.take_turn("catalog").await?;
    let known = Known::read(tx, products).await?;
    let (outcomes, plan) = known.decide(products, expect);
    write(tx, &plan).await?;
    let merchant = tx.merchant();
    let ids: Vec<Uuid> = plan.products.iter().map(|(id, _)| id.0).collect();
    for product in read(tx.sql(), merchant, &ids).await? {
        let now = tx.now();
        tx.append(&Event::ProductChanged(changed(product)), now)?;
    }
    Ok(outcomes)
}

/// Puts one product; what is refused is an error.
pub async fn put_one(tx: &mut MerchantTx, product: Product, expect: Expect) -> Result<ProductView> {
    let outcome = put(tx, std::slice::from_ref(&product), expect).await?.pop();
    match outcome {
        Some(Outcome::Created(id) | Outcome::Changed(id)) => {
            let merchant = tx.merchant();
            get(tx.sql(), merchant, id).await
        }
        Some(Outcome::Refused(Fault { code: "product_not_found", .. })) => Err(Error::NotFound("product")),
        Some(Outcome::Refused(fault)) => Err(Error::conflict_at(fault.code, fault.pointer, fault.detail)),
        None => Err(anyhow::anyhow!("a product without an outcome").into()),
    }
}

fn changed(product: ProductView) -> ProductChanged {
    let ProductView { id, name, department, category, brand, package, currency, active, version, variants } = product;
    ProductChanged { product: id, name, department, category, brand, package, currency, active, version, variants }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One with a single variant.
    pub fn product(sku: &str) -> Product {
        let variant = Variant { id: None, sku: sku.to_owned(), name: None, price_minor: 1_000, barcodes: vec![] };
        Product {
            id: None,
            name: "Roti".to_owned(),
            department: None,
            category: None,
            brand: None,
            package: None,
            active: true,
            variants: vec![variant],
        }
    }
}
