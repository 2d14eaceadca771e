//! What follows from what was heard of a payment. Whoever hears something says it here: who asked, who was told, who looks up
//! what was missed.

use tillwire_channels::event::Severity;
use tillwire_channels::{Moment, PaymentId};

use super::attempts::{self, Attempt, Closing, There, lock, lock_of, tell};
use super::gone::{self, Gone};
use super::held::Held;
use super::looks::{self, Standing};
use super::refunds;
use super::state::{State, Verdict, judge, steps};
use super::tasks::{self, Kind};
use super::word::{Applied, Outcome, Seen};
use super::{captures, forces};
use crate::commerce::sales::{self, Locked, Settled};
use crate::error::Result;
use crate::journal::MerchantTx;

/// Writes down what was heard of a payment, with all that follows: for its sale, its stock, its screens and, if need be, a
/// person. It can be said twice, and out of turn.
///
/// # Errors
/// [`Error::NotFound`](crate::error::Error::NotFound) if the merchant has no such payment.
pub async fn apply(tx: &mut MerchantTx, payment: PaymentId, seen: &Seen, held: Option<&Held>) -> Result<Applied> {
    let (sale, mut attempt) = match held {
        Some(held) => lock_of(tx, held.attempt.sale, payment).await?,
        None => lock(tx, payment).await?,
    };
    let was = attempt.clone();
    let misfit = misfit(&attempt, seen);
    if seen.asked {
        know(&mut attempt, &seen.there);
    }
    let is_older = is_older(&attempt, seen, held);
    let outcome = match misfit {
        Some((kind, detail)) => {
            tasks::open(tx, &attempt, kind, Severity::Critical, detail).await?;
            Outcome::Parked
        }
        None => {
            learn(&mut attempt, seen);
            let outcome = if is_older {
                Outcome::Stale
            } else {
                captures::learn(&mut attempt, seen);
                follow(tx, &sale, &mut attempt, seen).await?
            };
            if seen.asked && !is_older {
                refunds::heard::beside(tx, &mut attempt, seen).await?;
            }
            if let Some(detail) = &seen.unfit {
                // Nobody is shown it, so nobody could pay.
                attempt.closing = attempt.closing.or(Some(Closing::Canceled));
                tasks::open(tx, &attempt, Kind::CodeDiffers, Severity::Critical, detail.clone()).await?;
            }
            // Of an answer that was lost Midtrans tells no code again: nobody could pay, and another payment can be begun.
            let has_no_code = attempt.method == "qris" && attempt.state == State::Pending && attempt.shown.is_none();
            if seen.asked && has_no_code {
                attempt.closing = attempt.closing.or(Some(Closing::Canceled));
            }
            outcome
        }
    };
    attempt.looks = match held {
        // What was told of, and is not there yet, is looked for soon.
        Some(held) if attempt.state != was.state || held.prompted => 0,
        Some(_) => attempt.looks.saturating_add(1),
        None if attempt.state != was.state => 0,
        None => attempt.looks,
    };
    let now = tx.now();
    let standing = Standing {
        state: attempt.state,
        looks: attempt.looks.unsigned_abs(),
        now,
        created_at: attempt.created_at,
        since: if attempt.state == was.state { attempt.changed_at } else { now },
        expires_at: attempt.expires_at,
        reversible: seen.reversible,
        told: seen.asked
            && held.is_some_and(|held| held.prompted)
            && attempt.state == was.state
            && outcome != Outcome::Parked,
    };
    let is_closing = attempt.closing.is_some() && was.closing.is_none();
    let is_urgent = is_older || is_closing && attempt.state.is_open();
    let next_at = if is_urgent { Some(now) } else { looks::next(standing) };
    let is_given_up = attempt.state.is_open() && next_at.is_none();
    let is_unfound = is_given_up && attempt.forced.is_some();
    let is_left = is_given_up || held.is_some_and(Held::gives_up_news);
    if is_unfound {
        // What somebody took for paid and nobody finds pays nothing any more.
        attempt.closing = Some(Closing::Expired);
    }
    save(tx, &attempt, next_at, held).await?;
    if is_left {
        give_up(tx, &attempt).await?;
    }
    if attempt.state != was.state && !attempt.state.is_open() {
        attempts::let_go(tx, sale.id).await?;
    }
    let was_counted = attempt.forced.is_some() || !was.state.is_unpaid();
    let is_taken = matches!(attempt.state, State::Reversed | State::ChargedBack);
    let is_gone = is_taken || attempt.state.ended_unpaid() && was_counted;
    if is_unfound || is_gone && attempt.state != was.state {
        // What was paid of it, or was taken for paid, is not there any more.
        attempts::unstall(tx, &attempt).await?;
    }
    // That it is paid was told together with what it pays: of one that was forced, long before.
    let was_told = attempt.state == State::Paid && attempt.forced.is_none();
    let is_refused = was.capture_minor.is_some() && attempt.capture_minor.is_none();
    if (attempt.state != was.state && !was_told) || is_refused || attempt.shown != was.shown {
        tell(tx, &attempt)?;
    }
    Ok(Applied { outcome, attempt: attempt.into() })
}

/// Whether it is the answer to a question from before we knew of the money, which the provider had not known of either when it
/// answered. It contradicts nobody, and takes nothing back: it is asked once more.
fn is_older(attempt: &Attempt, seen: &Seen, held: Option<&Held>) -> bool {
    let had_money = |state| matches!(state, State::Paid | State::Settled | State::PaidLate);
    let knew = held.is_some_and(|held| had_money(held.attempt.state));
    seen.asked && seen.state.is_some_and(State::is_unpaid) && had_money(attempt.state) && !knew
}

/// Why what was heard is not of this payment, if it is not.
pub(crate) fn misfit(attempt: &Attempt, seen: &Seen) -> Option<(Kind, String)> {
    // Only of money: where the merchant's name was mistyped, what customers are shown is good all the same.
    if let Some(other) = seen.stranger.as_ref().filter(|_| tells_of_money(seen)) {
        let detail = format!("{} tells of it for the merchant {other}, which this account is not.", attempt.provider);
        return Some((Kind::MerchantDiffers, detail));
    }
    if let Some(currency) = &seen.currency
        && !currency.eq_ignore_ascii_case(&attempt.currency)
    {
        return Some((Kind::CurrencyDiffers, format!("It is of {}, and {currency} was paid.", attempt.currency)));
    }
    if let Some(second) = paid_again(attempt, seen) {
        let detail = format!(
            "Its customer has paid it once more, as {second}: that is to be given back at {}, and noted here.",
            attempt.provider
        );
        return Some((Kind::PaidTooMuch, detail));
    }
    // What was asked for, and what was taken, if that is said. Of money that was held it may be a part, and Midtrans then tells of
    // that alone.
    let taken_minor = attempt.taken_minor();
    let asked = seen.amount_minor.filter(|amount| *amount != attempt.amount_minor && *amount != taken_minor);
    let other = asked.or_else(|| seen.captured_minor.filter(|amount| *amount != taken_minor));
    if let Some(other) = other {
        let detail = format!("It is of {taken_minor} {}, and the provider tells of {other}.", attempt.currency);
        return Some((Kind::AmountDiffers, detail));
    }
    None
}

/// Whether it says that money is there, is held, or went back.
fn tells_of_money(seen: &Seen) -> bool {
    let moved = seen.state.is_some_and(|state| state == State::Authorized || !state.is_unpaid());
    moved || seen.may_reverse || seen.captured_minor.is_some() || !seen.refunds.is_empty()
}

/// As what its provider names money beside that which is known: a customer may pay what was asked for twice.
fn paid_again<'a>(attempt: &Attempt, seen: &'a Seen) -> Option<&'a str> {
    let second =
        seen.there.payment.as_deref().filter(|_| seen.asked && seen.state.is_some_and(|it| !it.is_unpaid()))?;
    let is_paid = !attempt.state.is_unpaid();
    attempt.there.payment.as_deref().filter(|first| is_paid && *first != second).map(|_| second)
}

/// Keeps how its provider names it: by that it can be asked about, whatever else is the matter. Money that came stays what it was.
fn know(attempt: &mut Attempt, newer: &There) {
    let is_paid = !attempt.state.is_unpaid();
    let there = &mut attempt.there;
    let keep = |old: &mut Option<String>, new: &Option<String>| *old = new.clone().or(old.take());
    keep(&mut there.request, &newer.request);
    if !is_paid || there.payment.is_none() {
        keep(&mut there.payment, &newer.payment);
    }
    keep(&mut there.session, &newer.session);
}

/// Keeps what else is new about it, whatever its state.
fn learn(attempt: &mut Attempt, seen: &Seen) {
    attempt.issuer = seen.issuer.clone().or(attempt.issuer.take());
    attempt.shown = seen.shown.clone().filter(|_| seen.unfit.is_none()).or(attempt.shown.take());
    attempt.fee_minor = seen.fee_minor.or(attempt.fee_minor);
}

/// Goes where the payment is said to stand, by the states in between.
async fn follow(tx: &mut MerchantTx, sale: &Locked, attempt: &mut Attempt, seen: &Seen) -> Result<Outcome> {
    let had_money = matches!(attempt.state, State::Paid | State::Settled | State::PaidLate);
    let said = seen.state.map(refunds::state::behind);
    let Some(state) = (if seen.may_reverse && had_money { Some(State::Reversed) } else { said }) else {
        return Ok(Outcome::Same);
    };
    let verdict = judge(attempt.state, state);
    let path = match verdict {
        Verdict::Moves(_) => steps(attempt.state, state),
        Verdict::Conflict if seen.asked => steps(attempt.state, state),
        _ => Vec::new(),
    };
    if path.is_empty() {
        return match verdict {
            Verdict::Same => Ok(Outcome::Same),
            // What was believed is not so: a notification lied.
            Verdict::Stale
                if seen.asked && matches!(attempt.state, State::Paid | State::PaidLate) && state.is_unpaid() =>
            {
                let detail = format!("It was told to be paid, and the provider says that it is {state}.");
                tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await?;
                Ok(Outcome::Conflict)
            }
            Verdict::Conflict if seen.asked => {
                let detail = format!("It is {} here, and the provider says {state}.", attempt.state);
                tasks::open(tx, attempt, Kind::Conflict, Severity::Critical, detail).await?;
                Ok(Outcome::Conflict)
            }
            Verdict::Conflict => Ok(Outcome::Conflict),
            _ => Ok(Outcome::Stale),
        };
    }
    let gone = Gone::of(attempt, seen, &path);
    for next in path {
        // What was forced stands in the books of its sale, unless it has counted as gone.
        let is_first = attempt.forced.is_none() || has_counted_as_gone(attempt, attempt.state);
        if matches!(next, State::Paid | State::PaidLate) && gone != Gone::No && is_first {
            gone::go_by(tx, attempt, seen, gone).await?;
            continue;
        }
        // Money that came too late for its sale goes no further without a person, unless its bank takes it.
        let is_taken = matches!(next, State::Reversed | State::ChargedBack);
        if attempt.state == State::PaidLate && !is_taken {
            break;
        }
        go(tx, sale, attempt, next, seen).await?;
    }
    Ok(Outcome::Moved)
}

/// One move.
async fn go(tx: &mut MerchantTx, sale: &Locked, attempt: &mut Attempt, next: State, seen: &Seen) -> Result<()> {
    let (now, before) = (tx.now(), attempt.state);
    attempt.state = next;
    match next {
        // And is late for nothing, if its sale still has a use for it.
        State::PaidLate | State::Paid if has_counted_as_gone(attempt, before) => {
            attempt.paid_at = seen.paid_at.or(Some(now));
            attempt.state = State::PaidLate;
            match forces::is_paid_after_all(tx, sale, attempt).await? {
                None => attempt.state = State::Paid,
                Some((kind, detail)) => late(tx, attempt, kind, &detail).await?,
            }
        }
        State::Paid => {
            attempt.paid_at = seen.paid_at.or(Some(now));
            attempt.failure = None;
            // What was forced pays its sale already.
            if attempt.forced.is_none() {
                pay(tx, sale, attempt, now).await?;
            }
        }
        State::PaidLate => {
            attempt.paid_at = seen.paid_at.or(Some(now));
            late(tx, attempt, Kind::PaidLate, "It was paid after it had ended.").await?;
        }
        State::Failed => attempt.failure = seen.failure.clone(),
        State::Canceled if before == State::Paid => {
            let detail = "The payment was voided at its provider: the goods are not paid for.".to_owned();
            tasks::open(tx, attempt, Kind::Reversed, Severity::Critical, detail).await?;
        }
        State::Reversed => {
            let detail = match before {
                State::PaidLate => "The bank has taken back what had come too late: there is no money to decide on.",
                _ => "The bank has taken back what it had confirmed: the goods are not paid for.",
            };
            let detail = detail.to_owned();
            tasks::open(tx, attempt, Kind::Reversed, Severity::Critical, detail).await?;
        }
        State::ChargedBack => {
            let detail = match before {
                State::PaidLate => "The customer's bank has taken the money back: there is none to decide on.",
                _ => "The customer's bank has taken the money back.",
            };
            let detail = detail.to_owned();
            tasks::open(tx, attempt, Kind::ChargedBack, Severity::Critical, detail).await?;
        }
        _ => {}
    }
    if attempt.forced.is_some() && before.is_open() && next.ended_unpaid() {
        forces::is_unpaid(tx, attempt).await?;
    }
    Ok(())
}

/// Whether somebody took it for paid, and it had ended without money since, or had been given up.
fn has_counted_as_gone(attempt: &Attempt, before: State) -> bool {
    let was_given_up = before.is_open() && attempt.closing == Some(Closing::Expired);
    attempt.forced.is_some() && (before.ended_unpaid() || was_given_up)
}

/// Nobody will ask for it any more, and nobody knows.
async fn give_up(tx: &mut MerchantTx, attempt: &Attempt) -> Result<()> {
    if attempt.forced.is_some() && attempt.state.is_open() {
        return forces::is_unpaid(tx, attempt).await;
    }
    let detail = format!(
        "It is {} here, and {} does not answer and is not asked any more: look there whether the customer has paid.",
        attempt.state, attempt.provider
    );
    tasks::open(tx, attempt, Kind::GivenUp, Severity::Warning, detail).await
}

/// The money is there: the sale is paid, or else a person has to say what becomes of it.
async fn pay(tx: &mut MerchantTx, sale: &Locked, attempt: &mut Attempt, now: Moment) -> Result<()> {
    let captured = attempt.captured(attempt.paid_at.filter(|at| *at < now).unwrap_or(now));
    if is_recorded(tx, attempt).await? {
        attempt.state = State::PaidLate;
        let detail = "Another payment was recorded under its id.";
        return late(tx, attempt, Kind::Conflict, detail).await;
    }
    match sales::settle(tx, sale, captured).await? {
        Settled::Part { .. } => Ok(()),
        Settled::Completed(_) => attempts::close_all(tx, sale.id, Some(attempt.payment)).await,
        Settled::NotOpen(state) => {
            let detail = format!("It was paid when its sale was {} already.", state.as_str());
            attempt.state = State::PaidLate;
            late(tx, attempt, Kind::PaidLate, &detail).await
        }
        Settled::TooMuch { due_minor } => {
            let detail = format!("It was paid when only {due_minor} {} were due.", attempt.currency);
            attempt.state = State::PaidLate;
            late(tx, attempt, Kind::PaidTooMuch, &detail).await
        }
    }
}

/// Whether money was recorded under its id by another way.
async fn is_recorded(tx: &mut MerchantTx, attempt: &Attempt) -> Result<bool> {
    let merchant = tx.merchant();
    let found = sqlx::query_scalar!(
        r#"select exists (select from payments where merchant_id = $1 and payment_id = $2) as "found!""#,
        merchant.0,
        attempt.payment.0,
    )
    .fetch_one(tx.sql())
    .await?;
    Ok(found)
}

async fn late(tx: &mut MerchantTx, attempt: &Attempt, kind: Kind, detail: &str) -> Result<()> {
    let detail = format!("{detail} The money is at the provider.");
    tasks::open(tx, attempt, kind, Severity::Warning, detail).await
}

/// Writes it down, and lets go of it if it is held.
async fn save(tx: &mut MerchantTx, it: &Attempt, next_at: Option<Moment>, held: Option<&Held>) -> Result<()> {
    let (merchant, lease) = (tx.merchant(), held.map(Held::lease));
    let shown = it.shown.as_ref().map(serde_json::to_value).transpose()?;
    sqlx::query!(
        "update payment_attempts
         set state = $3, request_there = $4, payment_there = $5, session_there = $6, shown = $7, paid_at = $8, failure = $9,
             issuer = $10, fee_minor = $11, looks = $12, closing = $14, capture_minor = $15, capture_called_at = $16,
             version = version + 1,
             next_at = case when prompted then now() else $13 end,
             -- It was asked, and has answered; or nobody is asked any more.
             unanswered_since = case when $17::uuid is null then unanswered_since end,
             changed_at = case when state = $3 then changed_at else clock_timestamp() end,
             lease = case when lease = $17 then null else lease end,
             leased_until = case when lease = $17 then null else leased_until end
         where merchant_id = $1 and payment_id = $2",
        merchant.0,
        it.payment.0,
        it.state.as_str(),
        it.there.request,
        it.there.payment,
        it.there.session,
        shown,
        it.paid_at,
        it.failure,
        it.issuer,
        it.fee_minor,
        it.looks,
        next_at,
        it.closing.map(Closing::as_str),
        it.capture_minor,
        it.capture_called_at,
        lease,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
