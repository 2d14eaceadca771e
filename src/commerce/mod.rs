//! Commerce: the rules of a shop and their SQL, a noun a file.
//!
//! Every command takes a [`MerchantTx`](crate::journal::MerchantTx), decides in pure functions, writes its rows and
//! appends the events that tell of them. Every query names its merchant. This room never sees HTTP, a broker or a
//! socket.

pub mod catalog;
mod clock;
pub mod merchants;
pub mod money;
pub mod outlets;
pub mod payments;
mod reservations;
pub mod sales;
pub mod snapshots;
pub mod stock;

use rust_decimal::Decimal;
use tillwire_channels::Quantity;

/// A quantity as the database has it.
fn decimal(quantity: Quantity) -> Decimal {
    Decimal::new(quantity.thousandths(), 3)
}

/// A quantity from the database, where it is `numeric(14,3)`.
fn quantity(decimal: Decimal) -> anyhow::Result<Quantity> {
    let mut exact = decimal;
    exact.rescale(3);
    i64::try_from(exact.mantissa())
        .ok()
        .and_then(Quantity::from_thousandths)
        .ok_or_else(|| anyhow::anyhow!("a quantity out of range in the database: {decimal}"))
}
