//! Sales: what a till rings up. Most are completed in one transaction; one may also be open, its stock reserved, until its
//! payments cover it, somebody voids it or its time is over.

mod locked;
mod payment;
mod place;
mod read;
mod ring_up;
mod series;
mod settle;
mod state;
mod void;
mod write;

use std::collections::BTreeMap;

use serde::Serialize;
use tillwire_channels::event::{
    Method, PaymentCaptured, SaleCompleted, SaleLine, SaleOpened, StockReason, StockReserved, Tender,
};
use tillwire_channels::{Event, Moment, OutletId, PaymentId, Quantity, RegisterId, SaleId, StaffId, VariantId};
use utoipa::ToSchema;

use self::place::Place;
use self::ring_up::ring_up;
use self::write::{insert, refusal};
use super::catalog::{self, Priced};
use super::clock::happened_at;
use super::reservations::{self, Wanted};
use super::stock::{self, Change, Movement, Named};
use crate::error::{Error, Result};
use crate::journal::{ENTRY_BYTES_MAX, MerchantTx};

pub use locked::{Locked, hold, lock, lock_free};
pub use payment::{Payment, payment};
pub use read::{PAGE_MAX, SaleSummary, get, list};
pub use settle::{Captured, PAYMENTS_MAX, PaidView, Settled, complete, pay, settle};
pub use state::SaleState;
pub use void::{Expiry, NOT_PAID, due, expire, unstall, void};

/// The most lines of a sale: unless all their names are of the longest, its entry stays below the journal's limit.
pub const LINES_MAX: usize = 200;
/// The most tenders of a sale.
pub const TENDERS_MAX: usize = 10;

/// How long a sale is open if its till does not say, and the bounds of what it may say, in seconds.
pub const OPEN_SECONDS: u32 = 30 * 60;
pub const OPEN_SECONDS_MIN: u32 = 60;
pub const OPEN_SECONDS_MAX: u32 = 24 * 60 * 60;
/// What an event takes of an entry besides what is its own, at most: its place, its time, who did it, and digits that a level
/// may gain. In bytes.
const ENVELOPE_BYTES: usize = 360;
/// What a payment takes of an entry's `sale.completed`, at most. In bytes.
const TENDER_BYTES: usize = 240;

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
    /// For how long it may wait for the rest of its payments; none if it must be paid at once.
    pub open_for: Option<time::Duration>,
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

/// A sale, as answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleView {
    pub id: SaleId,
    pub state: SaleState,
    pub number: String,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// The day it counts for at the outlet, as `YYYY-MM-DD`: that on which it was completed. Until then the day on which it was
    /// opened.
    pub business_date: String,
    pub currency: String,
    pub lines: Vec<SaleLine>,
    pub subtotal_minor: i64,
    pub discount_minor: i64,
    pub total_minor: i64,
    pub tenders: Vec<Tender>,
    /// What has been paid of it.
    pub paid_minor: i64,
    /// What of that is not there any more: it was given back by refunds, was taken back, or was taken for paid and is not.
    pub refunded_minor: i64,
    /// What is still to be paid: nothing, unless it is open.
    pub due_minor: i64,
    /// Who rang it up.
    pub actor: StaffId,
    /// When it was rung up.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub occurred_at: Moment,
    /// When it ends by itself, if nothing of it is paid by then; none of a sale that was never open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Moment>,
    /// When it was completed, voided or expired; none while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Moment>,
    /// What was said of it by whoever voided it.
    pub void_note: Option<String>,
}

/// Sells: records what a till has rung up. It is completed, its lines taken from stock, if its tenders cover it; otherwise, where
/// the till allows that, it is open, and its lines are reserved. The merchant is told.
pub async fn sell(tx: &mut MerchantTx, draft: Draft) -> Result<SaleView> {
    let occurred_at = happened_at(draft.occurred_at, tx.now())?;
    let mut place = Place::lock(tx, &draft, occurred_at).await?;
    let prices = catalog::prices(tx, draft.lines.iter().map(|line| line.variant)).await?;
    let rung = ring_up(&draft, &prices)?;
    // A deadline is by the hub's clock, and from now on: no till hands in a sale that has expired already.
    let expires_at = draft.open_for.filter(|_| rung.due_minor > 0).map(|open_for| tx.now() + open_for);
    let mut sale = SaleView {
        id: draft.id,
        state: if expires_at.is_some() { SaleState::Open } else { SaleState::Completed },
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
        paid_minor: rung.total_minor - rung.due_minor,
        refunded_minor: 0,
        due_minor: rung.due_minor,
        actor: tx.actor()?,
        occurred_at,
        expires_at,
        closed_at: expires_at.is_none().then_some(occurred_at),
        void_note: None,
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
    match expires_at {
        None => tx.append(&Event::SaleCompleted(completed(&sale)), occurred_at)?,
        Some(expires_at) => {
            write::opened(tx, sale.id, expires_at).await?;
            tx.append(&Event::SaleOpened(opened(&sale, expires_at)), occurred_at)?;
        }
    }
    for tender in &sale.tenders {
        let told = captured((sale.id, sale.outlet, sale.register), &sale.currency, tender, sale.due_minor);
        tx.append(&Event::PaymentCaptured(told), occurred_at)?;
    }
    let wanted = wanted(&draft)?;
    let names = prices.into_iter().map(|(id, Priced { sku, name, .. })| (id, Named { sku, name })).collect();
    if expires_at.is_some() {
        let reserved = reservations::make(tx, sale.outlet, sale.id, &wanted, &names).await?;
        fits_when_completed(&sale, &reserved)?;
        tx.append(&Event::StockReserved(reserved), occurred_at)?;
    } else {
        stock::apply(tx, &taken(&draft, wanted), &names).await?;
    }
    Ok(sale)
}

/// What a sale wants of stock: lines of the same variant together.
fn wanted(draft: &Draft) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    for (at, line) in draft.lines.iter().enumerate() {
        let before = wanted.get(&line.variant).map_or(Quantity::ZERO, |(before, _)| *before);
        let both = before.checked_add(line.quantity).ok_or_else(|| {
            Error::invalid(
                "quantity_out_of_range",
                format!("/lines/{at}/quantity"),
                "The lines of this variant add up to more than is allowed.",
            )
        })?;
        wanted.insert(line.variant, (both, at));
    }
    Ok(wanted)
}

fn taken(draft: &Draft, wanted: Wanted) -> Movement {
    let change = |(variant, (wanted, line)): (VariantId, (Quantity, usize))| {
        (variant, (Change::By(wanted.negated()), line)) // As much less.
    };
    Movement {
        outlet: draft.outlet,
        reason: StockReason::Sale,
        document: Some(draft.id.0),
        on_behalf_of: None,
        occurred_at: draft.occurred_at,
        changes: wanted.into_iter().map(change).collect::<BTreeMap<_, _>>(),
    }
}

/// Refuses to open a sale that could not be completed later, since the entry would be too large: money may have been taken by
/// then.
fn fits_when_completed(sale: &SaleView, reserved: &StockReserved) -> Result<()> {
    let sold = serde_json::to_string(&completed(sale))?.len() + PAYMENTS_MAX * TENDER_BYTES;
    // A level that changes says as much as one that is reserved, and each of them in an event of its own.
    let reserved_bytes = serde_json::to_string(reserved)?.len();
    let levels = reserved_bytes + reserved.levels.len() * ENVELOPE_BYTES;
    let bytes = sold + levels + reserved_bytes + 3 * ENVELOPE_BYTES;
    if bytes > ENTRY_BYTES_MAX {
        let detail = format!(
            "Completing it would take up to {bytes} bytes of the journal, and {ENTRY_BYTES_MAX} is the most: do it in parts."
        );
        return Err(Error::invalid("entry_too_large", "/lines", detail));
    }
    Ok(())
}

fn opened(sale: &SaleView, expires_at: Moment) -> SaleOpened {
    SaleOpened {
        sale: sale.id,
        number: sale.number.clone(),
        outlet: sale.outlet,
        register: sale.register,
        currency: sale.currency.clone(),
        lines: sale.lines.clone(),
        subtotal_minor: sale.subtotal_minor,
        discount_minor: sale.discount_minor,
        total_minor: sale.total_minor,
        tenders: sale.tenders.clone(),
        due_minor: sale.due_minor,
        expires_at,
    }
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

fn captured(
    (sale, outlet, register): (SaleId, OutletId, RegisterId),
    currency: &str,
    tender: &Tender,
    due_minor: i64,
) -> PaymentCaptured {
    PaymentCaptured {
        payment: tender.payment,
        sale,
        outlet,
        register,
        method: tender.method,
        currency: currency.to_owned(),
        amount_minor: tender.amount_minor,
        tendered_minor: tender.tendered_minor,
        change_minor: tender.change_minor,
        due_minor: Some(due_minor),
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
            open_for: None,
            lines: vec![line.clone(), line],
            discount_minor: 0,
            tenders: vec![],
        };
        let wanted = wanted(&draft).unwrap();
        assert_eq!(wanted[&bread], ("3".parse().unwrap(), 1));
        let movement = taken(&draft, wanted);
        assert_eq!(movement.changes[&bread].0, Change::By("-3".parse().unwrap()));
    }
}
