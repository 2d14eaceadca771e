//! Settling: a person says what becomes of what only a person can decide. A task is closed once, by whom, when, how and why.

use tillwire_channels::{RefundId, SaleId};
use uuid::Uuid;

use super::attempts::{self, Attempt};
use super::refunds::{self, NewRefund, Reason, Terms};
use super::state::State;
use super::tasks::{self, Kind, Resolution, TaskView};
use crate::audit;
use crate::commerce::sales::{self, Locked, Settled};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// What somebody says of a task.
#[derive(Clone, Debug)]
pub struct Decision {
    pub resolution: Resolution,
    pub note: String,
    /// The open sale that the money pays.
    pub sale: Option<SaleId>,
    /// What a refund would be called.
    pub refund: RefundId,
}

/// What a decision is about, locked.
#[derive(Debug)]
pub struct Matter {
    pub task: TaskView,
    pub attempt: Attempt,
    /// The sale that the money is to pay.
    pub sale: Option<Locked>,
}

/// Locks what a decision is about: sales in the order of their ids, and then the payment.
///
/// # Errors
/// [`Error::NotFound`] if the merchant has no such task, or no such sale; `task_closed`.
pub async fn lock(tx: &mut MerchantTx, task: Uuid, decision: &Decision) -> Result<Matter> {
    let merchant = tx.merchant();
    let found = tasks::get(tx.sql(), merchant, task).await?;
    let own = attempts::get(tx.sql(), merchant, found.payment).await?.sale;
    let (attempt, sale) = match decision.sale {
        None => (attempts::lock(tx, found.payment).await?.1, None),
        Some(sale) if sale < own => {
            let sale = sales::lock(tx, sale).await?;
            (attempts::lock(tx, found.payment).await?.1, Some(sale))
        }
        Some(sale) => {
            let (_, attempt) = attempts::lock(tx, found.payment).await?;
            (attempt, Some(sales::lock(tx, sale).await?))
        }
    };
    // Once more, for somebody may have been at it until now.
    let task = tasks::get(tx.sql(), merchant, task).await?;
    if task.closed_at.is_some() {
        return Err(Error::conflict("task_closed", "Somebody has settled it already."));
    }
    Ok(Matter { task, attempt, sale })
}

/// Settles it. `terms` are those of the payment's provider, for money that goes back.
///
/// # Errors
/// `resolution_not_possible`, with what is; for a sale `sale_missing`, `sale_unexpected`, `other_outlet`, `other_currency`,
/// `sale_not_open`, `amount_exceeds_due`, `too_many_payments`; `payment_forced`; `payment_not_late` if the money is not there any
/// more, or is on its way back; and whatever refuses [a refund](refunds::begin).
pub async fn settle(
    tx: &mut MerchantTx,
    matter: Matter,
    decision: &Decision,
    terms: Option<Terms>,
) -> Result<TaskView> {
    let Matter { task, mut attempt, sale } = matter;
    let (merchant, by) = (tx.merchant(), tx.actor()?);
    let standing = refunds::standing(tx.sql(), merchant, attempt.payment).await?;
    // What the provider has refused to give back, or gives back no more, is given back by another way.
    let can_refund = terms.is_some_and(|it| it.allow(&attempt, tx.now())) && standing.refunds == 0;
    check(&task, &attempt, decision, can_refund)?;
    let (accepted_for, refund) = match decision.resolution {
        Resolution::Accepted => {
            let sale = sale.ok_or_else(|| {
                Error::invalid("sale_missing", "/sale", "Which open sale of this outlet does the money pay?")
            })?;
            accept(tx, &sale, &mut attempt).await?;
            (Some(sale.id), None)
        }
        Resolution::Refunded => (None, give_back(tx, &task, &attempt, decision, terms).await?),
        Resolution::Noted => (None, None),
    };
    let closed = sqlx::query!(
        "update payment_tasks
         set closed_at = now(), closed_by = $3, resolution = $4, note = $5, accepted_for = $6, refund_id = $7
         where merchant_id = $1 and task_id = $2 and closed_at is null",
        merchant.0,
        task.id,
        by.0,
        decision.resolution.as_str(),
        decision.note,
        accepted_for.map(|it| it.0),
        refund.map(|it| it.0),
    )
    .execute(tx.sql())
    .await?;
    if closed.rows_affected() == 0 {
        return Err(Error::conflict("task_closed", "Somebody has settled it already."));
    }
    let detail = format!(
        "{}, {} of payment {}: {}",
        decision.resolution.as_str(),
        task.kind.as_str(),
        attempt.payment,
        decision.note
    );
    audit::note(tx.sql(), merchant, Some(by), "payment_task.settled", &task.id.to_string(), &detail).await?;
    tasks::get(tx.sql(), merchant, task.id).await
}

/// Whether a matter of this kind can be settled so.
fn check(task: &TaskView, attempt: &Attempt, decision: &Decision, can_refund: bool) -> Result<()> {
    if decision.sale.is_some() && decision.resolution != Resolution::Accepted {
        return Err(Error::invalid("sale_unexpected", "/sale", "Only money that is accepted pays a sale."));
    }
    let is_money = matches!(task.kind, Kind::PaidLate | Kind::PaidTooMuch);
    let is_here = is_money && attempt.state == State::PaidLate;
    // What pays a sale is not what came beside it.
    if decision.resolution == Resolution::Refunded && is_money && matches!(attempt.state, State::Paid | State::Settled)
    {
        let detail = format!(
            "The payment is {} by now: refund it as such, or note what was done at its provider.",
            attempt.state
        );
        return Err(Error::conflict("payment_not_late", detail));
    }
    let detail = match (decision.resolution, is_money) {
        (Resolution::Accepted | Resolution::Refunded, true) => return Ok(()),
        (Resolution::Accepted | Resolution::Refunded, false) => "There is no money to decide on: it can be noted.",
        // Who holds money of a customer's takes it for something, or gives it back.
        (Resolution::Noted, true) if is_here && can_refund => {
            "The money is there: it is accepted for a sale, or refunded."
        }
        (Resolution::Noted, _) => return Ok(()),
    };
    Err(Error::conflict_at("resolution_not_possible", "/resolution", detail))
}

/// Money that was late pays an open sale.
async fn accept(tx: &mut MerchantTx, sale: &Locked, attempt: &mut Attempt) -> Result<()> {
    let merchant = tx.merchant();
    if sale.outlet != attempt.outlet {
        return Err(Error::conflict_at("other_outlet", "/sale", "That sale is another outlet's."));
    }
    if sale.currency != attempt.currency {
        let detail = format!("That sale is of {}, and the money of {}.", sale.currency, attempt.currency);
        return Err(Error::conflict_at("other_currency", "/sale", detail));
    }
    if attempt.state != State::PaidLate {
        return Err(Error::conflict("payment_not_late", format!("The payment is {} by now.", attempt.state)));
    }
    if attempt.forced.is_some() {
        let detail = "It is on its own sale's books, since it was taken for paid: it goes back.";
        return Err(Error::conflict("payment_forced", detail));
    }
    if refunds::standing(tx.sql(), merchant, attempt.payment).await?.taken_minor > 0 {
        return Err(Error::conflict("payment_not_late", "The money, or a part of it, goes back already."));
    }
    let asked = attempts::open_of_sale(tx.sql(), merchant, sale.id).await?;
    sale.require_room(asked, attempt.taken_minor(), sale.due_minor(), "/sale")?;
    let now = tx.now();
    let captured = attempt.captured(attempt.paid_at.filter(|at| *at < now).unwrap_or(now));
    match sales::settle(tx, sale, captured).await? {
        Settled::Part { .. } => {}
        Settled::Completed(_) => attempts::close_all(tx, sale.id, None).await?,
        Settled::NotOpen(state) => {
            let detail = format!("{} is {}.", sale.number, state.as_str());
            return Err(Error::conflict_at("sale_not_open", "/sale", detail));
        }
        Settled::TooMuch { due_minor } => {
            let detail = format!(
                "{due_minor} {} is due of {}, and {} was paid.",
                sale.currency,
                sale.number,
                attempt.taken_minor()
            );
            return Err(Error::conflict_at("amount_exceeds_due", "/sale", detail));
        }
    }
    attempt.state = State::Paid;
    attempt.accepted_for = Some(sale.id).filter(|it| *it != attempt.sale);
    refunds::heard::stand(tx, attempt).await?;
    // The register that has shown it as late is not always the one that the sale is of.
    attempts::tell(tx, attempt)
}

/// Money that was late goes back, if it does not already.
async fn give_back(
    tx: &mut MerchantTx,
    task: &TaskView,
    attempt: &Attempt,
    decision: &Decision,
    terms: Option<Terms>,
) -> Result<Option<RefundId>> {
    let merchant = tx.merchant();
    let standing = refunds::standing(tx.sql(), merchant, attempt.payment).await?;
    if standing.taken_minor >= attempt.taken_minor() {
        return Ok(None);
    }
    let reason = if task.kind == Kind::PaidTooMuch { Reason::Duplicate } else { Reason::Canceled };
    let new = NewRefund { refund: decision.refund, amount_minor: None, reason, note: decision.note.clone() };
    refunds::begin_of(tx, attempt, &new, terms).await.map(|refund| Some(refund.id))
}
