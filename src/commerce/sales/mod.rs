//! Sales: what a till rings up, completed in one transaction.

mod payment;
mod place;
mod read;
mod ring_up;
mod series;
mod write;

use std::collections::BTreeMap;

use serde::Serialize;
use tillwire_channels::event::{Method, PaymentCaptured, SaleCompleted, SaleLine, StockReason, Tender};
use tillwire_channels::{Event, Moment, OutletId, PaymentId, Quantity, RegisterId, SaleId, StaffId, VariantId};
use utoipa::ToSchema;

use self::place::Place;
use self::ring_up::ring_up;
use self::write::{insert, refusal};
use super::catalog::{self, Priced};
use super::clock::happened_at;
use super::stock::{self, Change, Movement, Named};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

pub use payment::{Payment, payment};
pub use read::{PAGE_MAX, SaleSummary, get, list};

/// The most lines of a sale: unless all their names are of the longest, its entry stays below the journal's limit.
pub const LINES_MAX: usize = 200;
/// The most tenders of a sale.
pub const TENDERS_MAX: usize = 10;

/// A sale as the till hands it in.
#[derive(Clone, Debug)]
pub struct Draft {
    pub id: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The receipt's number, if the till has its own series.
    pub number: Option<String>,
    /// By the till's clock, if it says so.
    pub occurred_at: Option<Moment>,
    pub lines: Vec<DraftLine>,
    /// A discount on the whole sale.
    pub discount_minor: i64,
    pub tenders: Vec<DraftTender>,
}

#[derive(Clone, Debug)]
pub struct DraftLine {
    pub variant: VariantId,
    pub quantity: Quantity,
    /// The price that the till showed; refused if it is no longer the price.
    pub unit_price_minor: Option<i64>,
    pub discount_minor: i64,
}

#[derive(Clone, Debug)]
pub struct DraftTender {
    pub id: PaymentId,
    pub method: Method,
    pub amount_minor: i64,
    /// What was handed over, if more than the amount.
    pub tendered_minor: Option<i64>,
}

/// A completed sale, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleView {
    pub id: SaleId,
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The day it counts for at the outlet, as `YYYY-MM-DD`.
    pub business_date: String,
    pub currency: String,
    pub lines: Vec<SaleLine>,
    pub subtotal_minor: i64,
    pub discount_minor: i64,
    pub total_minor: i64,
    pub tenders: Vec<Tender>,
    pub actor: StaffId,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
}

/// Completes a sale: takes its lines from stock, records its tenders and tells the merchant.
pub async fn complete(tx: &mut MerchantTx, draft: Draft) -> Result<SaleView> {
    let occurred_at = happened_at(draft.occurred_at, tx.now())?;
    let mut place = Place::lock(tx, &draft, occurred_at).await?;
    let prices = catalog::prices(tx, draft.lines.iter().map(|line| line.variant)).await?;
    let rung = ring_up(&draft, &prices)?;
    let mut sale = SaleView {
        id: draft.id,
        number: draft.number.clone().unwrap_or_else(|| place.series.number()),
        outlet: draft.outlet,
        register: draft.register,
        business_date: place.business_date.to_string(),
        currency: place.currency,
        lines: rung.lines,
        subtotal_minor: rung.subtotal_minor,
        discount_minor: rung.discount_minor,
        total_minor: rung.total_minor,
        tenders: rung.tenders,
        actor: tx.actor()?,
        occurred_at,
    };
    // Once, as a rule. But a till may have brought the register's next number, and what is free may be taken a moment
    // later.
    while !insert(tx, &sale, place.business_date).await? {
        if draft.number.is_some() {
            return Err(refusal(tx, &sale).await?);
        }
        place.series.pass_over(tx).await?;
        sale.number = place.series.number();
    }
    // The news first, its consequences after it.
    tx.append(&Event::SaleCompleted(completed(&sale)), occurred_at)?;
    for tender in &sale.tenders {
        tx.append(&Event::PaymentCaptured(captured(&sale, tender)), occurred_at)?;
    }
    let movement = taken(&draft)?;
    let names = prices.into_iter().map(|(id, Priced { sku, name, .. })| (id, Named { sku, name })).collect();
    stock::apply(tx, &movement, &names).await?;
    Ok(sale)
}

/// What a sale takes from stock: lines of the same variant together.
fn taken(draft: &Draft) -> Result<Movement> {
    let mut changes: BTreeMap<VariantId, (Change, usize)> = BTreeMap::new();
    for (at, line) in draft.lines.iter().enumerate() {
        let before = match changes.get(&line.variant) {
            Some((Change::By(before), _)) => *before,
            _ => Quantity::ZERO,
        };
        let both = before.checked_add(line.quantity.negated()).ok_or_else(|| {
            Error::invalid(
                "quantity_out_of_range",
                format!("/lines/{at}/quantity"),
                "The lines of this variant add up to more than is allowed.",
            )
        })?;
        changes.insert(line.variant, (Change::By(both), at));
    }
    Ok(Movement {
        outlet: draft.outlet,
        reason: StockReason::Sale,
        document: Some(draft.id.0),
        occurred_at: draft.occurred_at,
        changes,
    })
}

fn completed(sale: &SaleView) -> SaleCompleted {
    SaleCompleted {
        sale: sale.id,
        number: sale.number.clone(),
        outlet: sale.outlet,
        register: sale.register,
        business_date: sale.business_date.clone(),
        currency: sale.currency.clone(),
        lines: sale.lines.clone(),
        subtotal_minor: sale.subtotal_minor,
        discount_minor: sale.discount_minor,
        total_minor: sale.total_minor,
        tenders: sale.tenders.clone(),
    }
}

fn captured(sale: &SaleView, tender: &Tender) -> PaymentCaptured {
    PaymentCaptured {
        payment: tender.payment,
        sale: sale.id,
        outlet: sale.outlet,
        register: sale.register,
        method: tender.method,
        currency: sale.currency.clone(),
        amount_minor: tender.amount_minor,
        tendered_minor: tender.tendered_minor,
        change_minor: tender.change_minor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_variant_are_taken_together() {
        let bread = VariantId::new();
        let line =
            DraftLine { variant: bread, quantity: "1.5".parse().unwrap(), unit_price_minor: None, discount_minor: 0 };
        let draft = Draft {
            id: SaleId::new(),
            outlet: OutletId::new(),
            register: RegisterId::new(),
            number: None,
            occurred_at: None,
            lines: vec![line.clone(), line],
            discount_minor: 0,
            tenders: vec![],
        };
        let movement = taken(&draft).unwrap();
        assert_eq!(movement.changes[&bread].0, Change::By("-3".parse().unwrap()));
    }
}
