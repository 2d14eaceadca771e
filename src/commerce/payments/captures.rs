//! Taking money that a card holds: somebody says how much, and that is written down before its provider is asked.

use tillwire_channels::PaymentId;

use super::attempts::{self, Attempt};
use super::state::State;
use super::word::Seen;
use crate::commerce::sales::Locked;
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// Says that so much of the money that is held is to be taken, or all of it. Whoever says it again says nothing new.
///
/// # Errors
/// `sale_not_open`; `payment_not_held`; `capture_under_way` if another amount is just being taken; `amount_exceeds_held` and
/// `amount_exceeds_due`, each with its field.
pub async fn capture(
    tx: &mut MerchantTx,
    sale: &Locked,
    payment: PaymentId,
    amount_minor: Option<i64>,
) -> Result<Attempt> {
    let merchant = tx.merchant();
    let attempt = attempts::get(tx.sql(), merchant, payment).await?;
    let amount_minor = wanted(&attempt, sale, amount_minor)?;
    sqlx::query!(
        "update payment_attempts
         set capture_minor = $3, failure = null, next_at = now(), prompted = true, unanswered_since = null, looks = 0, version = version + 1
         where merchant_id = $1 and payment_id = $2 and state = 'authorized' and capture_minor is null and closing is null",
        merchant.0,
        payment.0,
        amount_minor,
    )
    .execute(tx.sql())
    .await?;
    attempts::get(tx.sql(), merchant, payment).await
}

/// How much, if it may be.
fn wanted(attempt: &Attempt, sale: &Locked, amount_minor: Option<i64>) -> Result<i64> {
    let wanted_minor = amount_minor.unwrap_or(attempt.amount_minor);
    let is_under_way = matches!(attempt.state, State::Authorized | State::Paid | State::Settled);
    if is_under_way && attempt.closing.is_none() && attempt.capture_minor == Some(wanted_minor) {
        return Ok(wanted_minor); // It is being taken, or was.
    }
    if attempt.state != State::Authorized {
        let detail = format!("It is {}: only money that is held is taken.", attempt.state);
        return Err(Error::conflict("payment_not_held", detail));
    }
    if attempt.closing.is_some() {
        return Err(Error::conflict("payment_not_held", "It is being called off."));
    }
    sale.require_open()?;
    if wanted_minor > attempt.amount_minor {
        let detail = format!("{} is held.", attempt.amount_minor);
        return Err(Error::conflict_at("amount_exceeds_held", "/amount_minor", detail));
    }
    if attempt.capture_minor.is_some() {
        return Err(Error::conflict("capture_under_way", "Another amount is just being taken."));
    }
    if wanted_minor > sale.due_minor() {
        let detail = format!("{} is due.", sale.due_minor());
        return Err(Error::conflict_at("amount_exceeds_due", "/amount_minor", detail));
    }
    Ok(wanted_minor)
}

/// What was heard of money that is to be taken: that it is held still, or that the provider will not take it.
pub(super) fn learn(attempt: &mut Attempt, seen: &Seen) {
    if seen.still_held {
        // Nobody has taken it. Should the first request arrive all the same, the second finds nothing to take.
        attempt.capture_called_at = None;
    }
    if let Some(why) = seen.capture_refused.as_ref().filter(|_| attempt.state == State::Authorized) {
        (attempt.capture_minor, attempt.capture_called_at) = (None, None);
        attempt.failure = Some(why.clone());
    }
}
