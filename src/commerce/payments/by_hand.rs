//! Payments that are taken by hand, beside those that a provider carries for the same sale.

use super::attempts;
use crate::commerce::sales::{self, DraftTender, Locked, PaidView, SaleState};
use crate::error::Result;
use crate::journal::MerchantTx;

/// Records what a person has taken in for an open sale. If that completes it, what a provider was asked for besides is called
/// off: nobody is to pay twice.
///
/// # Errors
/// As [`sales::pay`]; `payment_exists` also for an id that a payment by a provider has.
pub async fn take(tx: &mut MerchantTx, sale: &Locked, draft: &DraftTender) -> Result<PaidView> {
    let merchant = tx.merchant();
    attempts::require_free(tx.sql(), merchant, draft.id).await?;
    let asked = attempts::open_of_sale(tx.sql(), merchant, sale.id).await?;
    let paid = sales::pay(tx, sale, draft, asked).await?;
    if paid.sale.state == SaleState::Completed {
        attempts::close_all(tx, sale.id, None).await?;
    }
    Ok(paid)
}
