//! Paying an open sale, in parts, until it is covered and thereby complete.

use std::collections::BTreeMap;

use serde::Serialize;
use tillwire_channels::event::{Method, StockReason, Tender};
use tillwire_channels::{Event, Moment, PaymentId, VariantId};
use utoipa::ToSchema;

use super::locked::Locked;
use super::ring_up::tender;
use super::{DraftTender, SaleState, SaleSummary, SaleView, read, write};
use crate::commerce::reservations::{self, End};
use crate::commerce::stock::{self, Change, Movement, Named};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// The most payments of an open sale: the last of them has to pay all that is due.
pub const PAYMENTS_MAX: usize = 20;

/// Money that has arrived.
#[derive(Clone, Debug)]
pub struct Captured {
    pub payment: PaymentId,
    pub method: Method,
    /// What it pays of the sale.
    pub amount_minor: i64,
    /// What was handed over; more than the amount only for cash.
    pub tendered_minor: i64,
    pub at: Moment,
}

/// What became of money that arrived for a sale.
#[derive(Debug)]
pub enum Settled {
    /// It is recorded, and more is due.
    Part { due_minor: i64 },
    /// It is recorded, and the sale is complete.
    Completed(Box<SaleView>),
    /// The sale waits for no payments: nothing was written.
    NotOpen(SaleState),
    /// Less is due than this: nothing was written.
    TooMuch { due_minor: i64 },
}

/// A payment that was taken, and how its sale stands now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PaidView {
    pub payment: Tender,
    pub sale: SaleSummary,
}

/// Records what a person has taken in: cash, or what their own terminal says. `asked` is in how many payments others are asked for the
/// money besides.
///
/// # Errors
/// `sale_not_open`; `amount_exceeds_due`, `tendered_mismatch`, `payment_exists`, `too_many_payments`, each with the field.
pub async fn pay(tx: &mut MerchantTx, sale: &Locked, draft: &DraftTender, asked: usize) -> Result<PaidView> {
    if sale.state != SaleState::Open {
        return Err(sale.is_over());
    }
    let payment = tender(draft, "")?;
    sale.require_room(asked, payment.amount_minor, sale.due_minor(), "/amount_minor")?;
    let Tender { payment: id, method, amount_minor, tendered_minor, .. } = payment;
    let captured = Captured { payment: id, method, amount_minor, tendered_minor, at: tx.now() };
    match settle(tx, sale, captured).await? {
        Settled::Part { .. } | Settled::Completed(_) => {}
        Settled::NotOpen(_) => return Err(sale.is_over()),
        Settled::TooMuch { due_minor } => {
            let detail = format!("{due_minor} is due.");
            return Err(Error::conflict_at("amount_exceeds_due", "/amount_minor", detail));
        }
    }
    let merchant = tx.merchant();
    Ok(PaidView { payment, sale: read::summary(tx.sql(), merchant, sale.id).await? })
}

/// Records money that has arrived for a sale, by whatever way; if it covers what was due the sale is completed with it.
///
/// # Errors
/// `payment_exists` if there is a payment of this id. That a sale is not open any more, or that less is due, is no error: the
/// money is there, and it is for the caller to say what becomes of it.
pub async fn settle(tx: &mut MerchantTx, sale: &Locked, captured: Captured) -> Result<Settled> {
    if sale.state != SaleState::Open {
        return Ok(Settled::NotOpen(sale.state));
    }
    let due_minor = sale.due_minor();
    if captured.amount_minor > due_minor {
        return Ok(Settled::TooMuch { due_minor });
    }
    let tender = Tender {
        payment: captured.payment,
        method: captured.method,
        amount_minor: captured.amount_minor,
        tendered_minor: captured.tendered_minor,
        change_minor: captured.tendered_minor - captured.amount_minor,
    };
    write::payments(tx, sale.id, captured.at, std::slice::from_ref(&tender), sale.payments, "/id").await?;
    let due_minor = due_minor - captured.amount_minor;
    let told = super::captured((sale.id, sale.outlet, sale.register), &sale.currency, &tender, due_minor);
    tx.append(&Event::PaymentCaptured(told), captured.at)?;
    match due_minor {
        0 => complete(tx, sale).await.map(|sale| Settled::Completed(Box::new(sale))),
        due_minor => Ok(Settled::Part { due_minor }),
    }
}

/// Completes an open sale that is paid: what it kept back is sold.
pub async fn complete(tx: &mut MerchantTx, sale: &Locked) -> Result<SaleView> {
    write::completed(tx, sale.id).await?;
    let (merchant, now) = (tx.merchant(), tx.now());
    let view = read::get(tx.sql(), merchant, sale.id).await?;
    tx.append(&Event::SaleCompleted(super::completed(&view)), now)?;
    let names = names(&view);
    let reserved = reservations::end(tx, sale.outlet, sale.id, End::Posted, &names).await?;
    // The lines may be of yesterday, what was kept back for them is what is taken.
    let taken = reserved.levels.iter().map(|level| (level.variant, (Change::By(level.change), 0)));
    let movement = Movement {
        outlet: sale.outlet,
        reason: StockReason::Sale,
        document: Some(sale.id.0),
        on_behalf_of: Some(sale.actor),
        occurred_at: None,
        changes: taken.collect(),
    };
    stock::apply(tx, &movement, &names).await?;
    tx.append(&Event::StockReserved(reserved), now)?;
    Ok(view)
}

/// What the receipt calls each variant.
pub(super) fn names(sale: &SaleView) -> BTreeMap<VariantId, Named> {
    let named = |line: &tillwire_channels::event::SaleLine| Named { sku: line.sku.clone(), name: line.name.clone() };
    sale.lines.iter().map(|line| (line.variant, named(line))).collect()
}
