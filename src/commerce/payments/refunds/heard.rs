//! What was heard of refunds, and what follows from it: for them, for their payment, for its screens and, if need be, a person.

use tillwire_channels::event::Severity;
use tillwire_channels::{PaymentId, RefundId};

use super::super::attempts::{self, Attempt};
use super::super::state::State as Payment;
use super::super::tasks::{self, Kind};
use super::super::word::Seen;
use super::held::Held;
use super::state::{self, State, Verdict, after, judge};
use super::{Origin, Reason, Refund, Told, get, of_payment, standing, tell};
use crate::error::Result;
use crate::journal::MerchantTx;

/// The longest key of a provider's own that is kept, in bytes, and the longest id.
const KEY_BYTES_MAX: usize = 255;
const ID_BYTES_MAX: usize = 64;
/// What is said of a refund that nobody here has asked for.
const MADE_THERE: &str = "Made at the provider.";

/// Writes down what came of attending to a refund. It can be said twice, and out of turn.
pub async fn apply(tx: &mut MerchantTx, payment: PaymentId, told: &[Told], held: &Held) -> Result<()> {
    let (_, mut attempt) = attempts::lock(tx, payment).await?;
    held.release(tx.sql()).await?;
    let was = attempt.state;
    hear(tx, &mut attempt, told, Some(held.refund.id)).await?;
    if attempt.state != was {
        stand(tx, &attempt).await?;
        attempts::tell(tx, &attempt)?;
    }
    Ok(())
}

/// What the answer to a question after a payment says of its refunds.
pub(in crate::commerce::payments) async fn beside(
    tx: &mut MerchantTx,
    attempt: &mut Attempt,
    seen: &Seen,
) -> Result<()> {
    if !seen.refunds.is_empty() {
        return hear(tx, attempt, &seen.refunds, None).await;
    }
    let says_so = matches!(seen.state, Some(Payment::PartiallyRefunded | Payment::Refunded));
    let merchant = tx.merchant();
    if says_so && standing(tx.sql(), merchant, attempt.payment).await?.refunds == 0 {
        let detail = "The provider says that money went back, and tells of no refund.".to_owned();
        tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await?;
    }
    Ok(())
}

/// Takes in what was said of refunds of a payment that is locked, and brings it to where they leave it. `looked_at` is the one
/// that somebody attends to.
async fn hear(tx: &mut MerchantTx, attempt: &mut Attempt, told: &[Told], looked_at: Option<RefundId>) -> Result<()> {
    let merchant = tx.merchant();
    let known = of_payment(tx.sql(), merchant, attempt.payment).await?;
    for told in told {
        match known.iter().find(|refund| told.is_of(refund)) {
            Some(refund) => follow(tx, attempt, refund, told, looked_at == Some(refund.id)).await?,
            // What its customer has paid once more is none of this payment's, nor is what goes back of it.
            None if told.payment.is_some()
                && attempt.there.payment.is_some()
                && told.payment != attempt.there.payment => {}
            None => take_over(tx, attempt, told).await?,
        }
    }
    let given_minor = standing(tx.sql(), merchant, attempt.payment).await?.given_minor;
    let brought_minor = attempt.taken_minor();
    if given_minor > brought_minor {
        let detail = format!("{given_minor} of {brought_minor} {} went back.", attempt.currency);
        tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await?;
    }
    attempt.state = after(attempt.state, brought_minor, given_minor);
    Ok(())
}

/// Goes where one of ours is said to stand.
async fn follow(tx: &mut MerchantTx, attempt: &Attempt, was: &Refund, told: &Told, is_look: bool) -> Result<()> {
    let verdict = match judge(was.state, told.state) {
        // Somebody has heard more of it meanwhile, and this is no word of the provider's on it.
        Verdict::Moves | Verdict::Conflict
            if told.is_concluded && !matches!(was.state, State::Created | State::Unknown) =>
        {
            Verdict::Stale
        }
        verdict => verdict,
    };
    let mut refund = was.clone();
    match verdict {
        Verdict::Moves => (refund.state, refund.looks) = (told.state, 0),
        Verdict::Conflict => {
            let detail = format!("A refund is {} here, and the provider says {}.", was.state, told.state);
            tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await?;
        }
        Verdict::Same | Verdict::Stale if is_look => refund.looks = was.looks.saturating_add(1),
        Verdict::Same | Verdict::Stale => {}
    }
    let is_news = verdict == Verdict::Moves;
    let names_it = refund.there.is_none() && told.id.is_some();
    if !is_news && !is_look && !names_it {
        return Ok(());
    }
    refund.there = refund.there.or_else(|| told.id.clone().filter(|id| id.len() <= ID_BYTES_MAX));
    if is_news {
        refund.failure = told.failure.clone();
        // What moved is what the provider says, for the sum has to be right.
        if let Some(other) = told.amount_minor.filter(|it| *it > 0 && *it != was.amount_minor)
            && told.state == State::Succeeded
        {
            let detail = format!("A refund is of {} {}, and {other} went back.", was.amount_minor, was.currency);
            tasks::open(tx, attempt, Kind::AmountDiffers, Severity::Critical, detail).await?;
            refund.amount_minor = other;
        }
    }
    save(tx, &refund, is_news || is_look).await?;
    if is_news && refund.state == State::Succeeded {
        // An open sale that waited for the rest of its money may expire now.
        attempts::unstall(tx, attempt).await?;
    }
    if is_news {
        tell(tx, &refund).await?;
        person(tx, attempt, was.state, &refund).await?;
    }
    Ok(())
}

/// Tells a person of what they would not expect.
async fn person(tx: &mut MerchantTx, attempt: &Attempt, was: State, refund: &Refund) -> Result<()> {
    let Refund { amount_minor, currency, .. } = refund;
    match refund.state {
        State::Failed | State::Canceled if refund.origin == Origin::Hub => {
            let why = refund.failure.as_deref().unwrap_or(refund.state.as_str());
            let detail = format!("{amount_minor} {currency} were not given back: {why}. The money is at the provider.");
            // Money that fits no sale is somebody's matter for as long as it is there.
            let kind = if attempt.state == Payment::PaidLate { Kind::PaidLate } else { Kind::RefundFailed };
            tasks::open(tx, attempt, kind, Severity::Warning, detail).await
        }
        State::Succeeded if matches!(was, State::Failed | State::Canceled) => {
            let detail =
                format!("A refund of {amount_minor} {currency} had failed, and the provider has made it after all.");
            tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await
        }
        _ => Ok(()),
    }
}

/// Writes down a refund that somebody made at the provider.
async fn take_over(tx: &mut MerchantTx, attempt: &Attempt, told: &Told) -> Result<()> {
    let amount_minor = told.amount_minor.filter(|it| *it > 0);
    let key = told.key.as_deref().filter(|key| key.len() <= KEY_BYTES_MAX);
    let id = told.id.as_deref().filter(|id| id.len() <= ID_BYTES_MAX);
    // One that came to nothing is nothing of ours, and one without a name would be taken over each time it is told of.
    let (Some(amount_minor), State::Pending | State::Succeeded, true) =
        (amount_minor, told.state, key.or(id).is_some())
    else {
        return Ok(());
    };
    let (merchant, now, refund) = (tx.merchant(), tx.now(), RefundId::new());
    sqlx::query!(
        "insert into refunds (merchant_id, refund_id, payment_id, sale_id, outlet_id, register_id, origin, amount_minor,
                              currency, reason, note, state, refund_there, key_there, called_at, calls, next_at)
         values ($1, $2, $3,
                 coalesce((select sale_id from payments where merchant_id = $1 and payment_id = $3), $4),
                 $5, $6, 'provider', $7, $8, $9, $10, $11, $12, $13, now(), 1, $14)",
        merchant.0,
        refund.0,
        attempt.payment.0,
        attempt.sale.0,
        attempt.outlet.0,
        attempt.register.0,
        amount_minor,
        attempt.currency,
        Reason::Other.as_str(),
        MADE_THERE,
        told.state.as_str(),
        id,
        key,
        state::next(told.state, 0, now, now),
    )
    .execute(tx.sql())
    .await?;
    if told.state == State::Succeeded {
        attempts::unstall(tx, attempt).await?;
    }
    let refund = get(tx.sql(), merchant, refund).await?;
    tell(tx, &refund).await?;
    let detail = format!(
        "{amount_minor} {} were refunded at the provider, not here. What it means for the goods and the till is not known.",
        attempt.currency
    );
    tasks::open(tx, attempt, Kind::RefundElsewhere, Severity::Warning, detail).await
}

/// Tells a person, once, of a refund that takes longer than it should.
pub async fn stuck(tx: &mut MerchantTx, payment: PaymentId, refund: RefundId) -> Result<()> {
    let (_, attempt) = attempts::lock(tx, payment).await?;
    let merchant = tx.merchant();
    let refund = get(tx.sql(), merchant, refund).await?;
    if !refund.is_stuck(tx.now()) {
        return Ok(());
    }
    sqlx::query!(
        "update refunds set stuck_at = now() where merchant_id = $1 and refund_id = $2",
        merchant.0,
        refund.id.0
    )
    .execute(tx.sql())
    .await?;
    let detail = format!(
        "A refund of {} {} is {} for a day. Ask the provider: the customer may still wait for the money.",
        refund.amount_minor, refund.currency, refund.state
    );
    tasks::open(tx, &attempt, Kind::RefundStuck, Severity::Warning, detail).await
}

/// Brings a payment to where its refunds, or a person, leave it.
pub(in crate::commerce::payments) async fn stand(tx: &mut MerchantTx, attempt: &Attempt) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update payment_attempts
         set state = $3, accepted_for = $4, changed_at = clock_timestamp(), looks = 0, version = version + 1
         where merchant_id = $1 and payment_id = $2",
        merchant.0,
        attempt.payment.0,
        attempt.state.as_str(),
        attempt.accepted_for.map(|it| it.0),
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn save(tx: &mut MerchantTx, it: &Refund, is_attended: bool) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    let next_at = state::next(it.state, it.looks.unsigned_abs(), now, it.created_at);
    sqlx::query!(
        "update refunds
         set state = $3, refund_there = $4, failure = $5, amount_minor = $6, looks = $7,
             next_at = case when $8 then $9 else next_at end, version = version + 1,
             changed_at = case when state = $3 then changed_at else clock_timestamp() end
         where merchant_id = $1 and refund_id = $2",
        merchant.0,
        it.id.0,
        it.state.as_str(),
        it.there,
        it.failure.as_deref().map(bounded),
        it.amount_minor,
        it.looks,
        is_attended,
        next_at,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// As much of a provider's words as is kept.
fn bounded(text: &str) -> &str {
    const BYTES_MAX: usize = 600;
    let end = (0..=text.len().min(BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
