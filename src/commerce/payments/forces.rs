//! Payments that somebody takes for paid before their provider has said so: the customer shows that the money has left, and
//! nothing comes. The sale is paid by it there and then; the provider goes on being asked, and what it says confirms it, or is a
//! task for a person. Whichever comes first, the money is recorded once.

use tillwire_channels::event::{AlertRaised, PaymentForced, Severity};
use tillwire_channels::{Event, PaymentId};

use super::attempts::{self, Attempt};
use super::state::State;
use super::tasks::{self, Kind};
use crate::audit;
use crate::commerce::sales::{self, Locked, SaleState, Settled};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// As the audit calls it.
const ACTION: &str = "payment.forced";

/// Takes a payment for paid on somebody's word.
///
/// # Errors
/// `not_forcible` if there could be no money, or if it is known already; `sale_not_open`; `amount_exceeds_due`.
pub async fn force(tx: &mut MerchantTx, sale: &Locked, payment: PaymentId, reason: &str) -> Result<Attempt> {
    let merchant = tx.merchant();
    let mut attempt = attempts::get(tx.sql(), merchant, payment).await?;
    if let Some(why) = not_forcible(&attempt) {
        return Err(Error::conflict("not_forcible", why));
    }
    sale.require_open()?;
    let forced = PaymentForced { by: tx.actor()?, at: tx.now(), reason: reason.to_owned() };
    let marked = sqlx::query!(
        "update payment_attempts
         set forced_at = $3, forced_by = $4, forced_reason = $5, next_at = now(), prompted = true, unanswered_since = null, looks = 0,
             version = version + 1
         where merchant_id = $1 and payment_id = $2 and forced_at is null and closing is null and not hold
           and state in ('unknown', 'pending', 'review')",
        merchant.0,
        payment.0,
        forced.at,
        forced.by.0,
        forced.reason,
    )
    .execute(tx.sql())
    .await?;
    if marked.rows_affected() == 0 {
        return Err(Error::conflict("not_forcible", "It has gone on meanwhile: look at it again."));
    }
    let (by, at) = (forced.by, forced.at);
    attempt.forced = Some(forced);
    match sales::settle(tx, sale, attempt.captured(at)).await? {
        Settled::Part { .. } => {}
        Settled::Completed(_) => attempts::close_all(tx, sale.id, Some(payment)).await?,
        Settled::NotOpen(state) => {
            return Err(Error::conflict("sale_not_open", format!("{} is {}.", sale.number, state.as_str())));
        }
        Settled::TooMuch { due_minor } => {
            return Err(Error::conflict("amount_exceeds_due", format!("It is of more than is due: {due_minor}.")));
        }
    }
    attempts::tell(tx, &attempt)?;
    let detail = format!(
        "Its sale is paid by it, {} {}, and {} has not said so yet: “{reason}”. What becomes of it is looked after.",
        attempt.amount_minor, attempt.currency, attempt.provider
    );
    alert(tx, &attempt, "payment_forced", Severity::Warning, "A payment was taken for paid", detail)?;
    audit::note(tx.sql(), merchant, Some(by), ACTION, &payment.to_string(), reason).await?;
    attempts::get(tx.sql(), merchant, payment).await
}

/// Why nobody may take it for paid, if so.
fn not_forcible(attempt: &Attempt) -> Option<String> {
    match attempt.state {
        _ if attempt.forced.is_some() => Some("It was taken for paid already.".to_owned()),
        _ if attempt.closing.is_some() => Some("It is being called off: its provider has the last word.".to_owned()),
        _ if attempt.hold => Some("At the most its money is held: nobody has paid.".to_owned()),
        State::Unknown | State::Pending | State::Review => None,
        State::Created => Some("Its provider was not asked yet, so nobody can have paid it.".to_owned()),
        State::Authorized => Some("Its money is held: capture it.".to_owned()),
        state => Some(format!("It is {state}.")),
    }
}

/// The provider has said in the end that it is paid: after it had said that it is not, and what it was to pay was due again. Gives
/// what is the matter if its sale has no use for it any more.
pub(super) async fn is_paid_after_all(
    tx: &mut MerchantTx,
    sale: &Locked,
    attempt: &Attempt,
) -> Result<Option<(Kind, String)>> {
    let (missing_minor, brought_minor) = (sale.total_minor - sale.paid_minor, attempt.taken_minor());
    let known = "It was taken for paid, had ended at its provider, and is paid now";
    match sale.state {
        SaleState::Voided | SaleState::Expired => {
            let detail = format!("{known}, when its sale is {} already.", sale.state.as_str());
            return Ok(Some((Kind::PaidLate, detail)));
        }
        _ if brought_minor > missing_minor => {
            let missing_minor = missing_minor.max(0);
            let detail = format!("{known}, when only {missing_minor} {} are not paid otherwise.", attempt.currency);
            return Ok(Some((Kind::PaidTooMuch, detail)));
        }
        SaleState::Open if brought_minor == missing_minor => {
            sales::complete(tx, sale).await?;
            attempts::close_all(tx, sale.id, Some(attempt.payment)).await?;
        }
        _ => {}
    }
    let detail = format!("{known}: there is nothing left to do.");
    alert(tx, attempt, "payment_forced_paid", Severity::Info, "A payment that was forced is paid", detail)?;
    Ok(None)
}

/// There is no money, or nobody could find it.
pub(super) async fn is_unpaid(tx: &mut MerchantTx, attempt: &Attempt) -> Result<()> {
    let Some(forced) = &attempt.forced else { return Ok(()) };
    let known = if attempt.state.is_open() {
        format!("{} still does not say that it is paid, and is not asked any more", attempt.provider)
    } else {
        format!("{} says that it is {}", attempt.provider, attempt.state)
    };
    let detail = format!(
        "Its sale is paid by it because somebody said so, and {known}: the goods are not paid for. They said: “{}”.",
        forced.reason
    );
    tasks::open(tx, attempt, Kind::ForcedUnpaid, Severity::Critical, detail).await
}

fn alert(
    tx: &mut MerchantTx,
    attempt: &Attempt,
    alert: &str,
    severity: Severity,
    title: &str,
    detail: String,
) -> Result<()> {
    let raised = AlertRaised {
        alert: alert.to_owned(),
        severity,
        title: title.to_owned(),
        detail,
        subject: Some(attempt.payment.to_string()),
        outlet: Some(attempt.outlet),
        register: Some(attempt.register),
    };
    let now = tx.now();
    tx.append(&Event::AlertRaised(raised), now)
}
