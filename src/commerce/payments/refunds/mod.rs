//! Refunds: money that goes back to the customer by the provider that brought it.
//!
//! A refund is written down before its provider is asked, under the id that is also its key there: with the same key it is the
//! same refund, however often it is asked for. One of a payment is under way at a time. What is heard of it goes through
//! [one function](heard::hear), under the locks of the payment and its sale; and what a payment was refunded is what of its
//! refunds has succeeded, whatever else is said of it.

pub mod heard;
pub mod held;
mod rows;
pub mod state;
mod told;

use serde::{Deserialize, Serialize};
use tillwire_channels::event::RefundChanged;
use tillwire_channels::{Event, Moment, OutletId, PaymentId, RefundId, RegisterId, SaleId, StaffId};
use utoipa::ToSchema;

use super::attempts::{self, Attempt};
use super::state::State as Payment;
use crate::audit;
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

pub use rows::{Standing, get, of_payment, standing};
pub use state::State;
pub use told::Told;

/// The most refunds of one payment.
pub const OF_PAYMENT_MAX: i64 = 50;
/// The longest note, in characters.
pub const NOTE_CHARS_MAX: usize = 200;
/// After how long a refund that has not ended is a matter for a person.
const STUCK_AFTER: time::Duration = time::Duration::hours(24);
/// How long a refund is left to whoever has begun it.
const BEGUN_HOLD: time::Duration = time::Duration::seconds(3);

/// Why money is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RefundReason)]
pub enum Reason {
    Customer,
    /// It was paid twice.
    Duplicate,
    /// The sale was called off.
    Canceled,
    Fraud,
    Other,
}

impl Reason {
    const ALL: [Self; 5] = [Self::Customer, Self::Duplicate, Self::Canceled, Self::Fraud, Self::Other];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Duplicate => "duplicate",
            Self::Canceled => "canceled",
            Self::Fraud => "fraud",
            Self::Other => "other",
        }
    }

    fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }
}

/// Where a refund was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RefundOrigin)]
pub enum Origin {
    /// Here.
    Hub,
    /// By somebody at the provider's own dashboard.
    Provider,
}

impl Origin {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Provider => "provider",
        }
    }
}

/// A refund that is to be made.
#[derive(Clone, Debug)]
pub struct NewRefund {
    pub refund: RefundId,
    /// None for all that is left.
    pub amount_minor: Option<i64>,
    pub reason: Reason,
    pub note: String,
}

/// What the provider of a payment lets go back.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether a part of it can.
    pub in_parts: bool,
    /// For how long after the payment.
    pub within: Option<time::Duration>,
}

impl Terms {
    /// Whether there is still time to give a payment back.
    pub fn allow(&self, attempt: &Attempt, now: Moment) -> bool {
        self.within.zip(attempt.paid_at).is_none_or(|(within, paid_at)| now <= paid_at + within)
    }
}

/// A refund, as it is kept.
#[derive(Clone, Debug)]
pub struct Refund {
    pub id: RefundId,
    pub payment: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub origin: Origin,
    pub amount_minor: i64,
    pub currency: String,
    pub reason: Reason,
    pub note: String,
    pub state: State,
    /// As the provider names it; and its key there, if that is not ours.
    pub there: Option<String>,
    pub key_there: Option<String>,
    pub failure: Option<String>,
    pub called_at: Option<Moment>,
    pub calls: i32,
    pub looks: i32,
    pub stuck_at: Option<Moment>,
    pub actor: Option<StaffId>,
    pub created_at: Moment,
    pub changed_at: Moment,
    pub version: i64,
}

impl Refund {
    /// Whether a person is to be told of it, and was not.
    pub(super) fn is_stuck(&self, now: Moment) -> bool {
        self.state.is_open() && self.stuck_at.is_none() && now > self.created_at + STUCK_AFTER
    }
}

/// A refund, as answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RefundView {
    /// It is also the refund's key at the provider.
    pub id: RefundId,
    pub payment: PaymentId,
    /// The sale that the payment pays or, where it was late, once was for.
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub origin: Origin,
    pub amount_minor: i64,
    pub currency: String,
    pub reason: Reason,
    pub note: String,
    pub state: State,
    /// Why it failed: a word of ours where its provider refused what it was asked for, else as it names it.
    pub failure: Option<String>,
    /// Who asked for it; none for one that was made at the provider.
    pub actor: Option<StaffId>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    /// Since when it stands so.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub changed_at: Moment,
    /// Grows with every change, and at times without one.
    pub version: i64,
}

impl From<Refund> for RefundView {
    fn from(it: Refund) -> Self {
        Self {
            id: it.id,
            payment: it.payment,
            sale: it.sale,
            outlet: it.outlet,
            register: it.register,
            origin: it.origin,
            amount_minor: it.amount_minor,
            currency: it.currency,
            reason: it.reason,
            note: it.note,
            state: it.state,
            failure: it.failure,
            actor: it.actor,
            created_at: it.created_at,
            changed_at: it.changed_at,
            version: it.version,
        }
    }
}

/// Writes down a refund of a payment, before its provider is asked for it. `terms` are none where the provider gives nothing
/// back.
///
/// # Errors
/// `nothing_to_refund`, `not_refundable`, `refund_window_over`, `refund_under_way`, `amount_exceeds_refundable`,
/// `full_refund_only`, `refund_exists`, `too_many_refunds`.
pub async fn begin(tx: &mut MerchantTx, payment: PaymentId, new: &NewRefund, terms: Option<Terms>) -> Result<Refund> {
    let (_, attempt) = attempts::lock(tx, payment).await?;
    begin_of(tx, &attempt, new, terms).await
}

/// The same, of a payment that is locked.
pub(super) async fn begin_of(
    tx: &mut MerchantTx,
    attempt: &Attempt,
    new: &NewRefund,
    terms: Option<Terms>,
) -> Result<Refund> {
    let (merchant, actor, now) = (tx.merchant(), tx.actor()?, tx.now());
    let standing = standing(tx.sql(), merchant, attempt.payment).await?;
    let amount_minor = allowed(attempt, standing, new.amount_minor, terms, now)?;
    sqlx::query!(
        "insert into refunds (merchant_id, refund_id, payment_id, sale_id, outlet_id, register_id, origin, amount_minor,
                              currency, reason, note, state, next_at, actor_id)
         values ($1, $2, $3,
                 coalesce((select sale_id from payments where merchant_id = $1 and payment_id = $3), $4),
                 $5, $6, 'hub', $7, $8, $9, $10, 'created', now() + make_interval(secs => $12), $11)",
        merchant.0,
        new.refund.0,
        attempt.payment.0,
        attempt.sale.0,
        attempt.outlet.0,
        attempt.register.0,
        amount_minor,
        attempt.currency,
        new.reason.as_str(),
        new.note,
        actor.0,
        BEGUN_HOLD.as_seconds_f64(),
    )
    .execute(tx.sql())
    .await
    .on_constraint("refunds_pkey", || Error::conflict_at("refund_exists", "/id", "There is a refund with this id."))
    .on_constraint("refunds_under_way_key", under_way)?;
    let detail = format!(
        "{amount_minor} {} of payment {}, {}: {}",
        attempt.currency,
        attempt.payment,
        new.reason.as_str(),
        new.note
    );
    audit::note(tx.sql(), merchant, Some(actor), "refund.asked", &new.refund.to_string(), &detail).await?;
    let refund = get(tx.sql(), merchant, new.refund).await?;
    tell(tx, &refund).await?;
    Ok(refund)
}

fn under_way() -> Error {
    Error::conflict("refund_under_way", "Another refund of this payment is under way: wait for its end.")
}

/// How much of a payment goes back, if it may.
fn allowed(
    attempt: &Attempt,
    standing: Standing,
    wanted: Option<i64>,
    terms: Option<Terms>,
    now: Moment,
) -> Result<i64> {
    use Payment::{Paid, PaidLate, PartiallyRefunded, Refunded, Settled};
    if !matches!(attempt.state, Paid | Settled | PartiallyRefunded | Refunded | PaidLate) {
        let detail = format!("It is {}: there is no money to give back.", attempt.state);
        return Err(Error::conflict("nothing_to_refund", detail));
    }
    let Some(terms) = terms else {
        let detail = format!("{} gives back nothing that was paid so: give it back by another way.", attempt.provider);
        return Err(Error::conflict("not_refundable", detail));
    };
    if standing.under_way {
        return Err(under_way());
    }
    let left_minor = attempt.taken_minor() - standing.taken_minor;
    let amount_minor = wanted.unwrap_or(left_minor);
    if amount_minor > left_minor || amount_minor <= 0 {
        let detail = format!("{} {} of it can still be given back.", left_minor.max(0), attempt.currency);
        return Err(Error::conflict_at("amount_exceeds_refundable", "/amount_minor", detail));
    }
    if !terms.allow(attempt, now) {
        let days = terms.within.unwrap_or_default().whole_days();
        let detail = format!("{} gives it back for {days} days, and they are over.", attempt.provider);
        return Err(Error::conflict("refund_window_over", detail));
    }
    // What was late waits for a person as a whole, or goes back as a whole.
    let all_or_nothing = !terms.in_parts || attempt.state == PaidLate;
    if all_or_nothing && amount_minor < left_minor {
        let detail = format!("It can only be given back as a whole: {left_minor} {}.", attempt.currency);
        return Err(Error::conflict_at("full_refund_only", "/amount_minor", detail));
    }
    if standing.refunds >= OF_PAYMENT_MAX {
        let detail = format!("There are {OF_PAYMENT_MAX} refunds of it already.");
        return Err(Error::conflict("too_many_refunds", detail));
    }
    Ok(amount_minor)
}

/// Tells screens of it.
async fn tell(tx: &mut MerchantTx, refund: &Refund) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    let standing = standing(tx.sql(), merchant, refund.payment).await?;
    let changed = RefundChanged {
        refund: refund.id,
        payment: refund.payment,
        sale: refund.sale,
        outlet: refund.outlet,
        register: refund.register,
        currency: refund.currency.clone(),
        amount_minor: refund.amount_minor,
        state: refund.state.into(),
        failure: refund.failure.clone(),
        refunded_minor: standing.given_minor,
    };
    tx.append(&Event::RefundChanged(changed), now)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::attempts::There;
    use super::*;

    fn paid(state: Payment) -> (Attempt, Moment) {
        let now = Moment::from_unix_timestamp(1_800_000_000).unwrap();
        let attempt = Attempt {
            payment: PaymentId::new(),
            sale: SaleId::new(),
            outlet: OutletId::new(),
            register: RegisterId::new(),
            account: Uuid::now_v7(),
            provider: "xendit".to_owned(),
            mode: "test".to_owned(),
            method: "qris".to_owned(),
            bank: None,
            amount_minor: 100,
            currency: "IDR".to_owned(),
            state,
            there: There::default(),
            shown: None,
            expires_in_seconds: None,
            expires_at: now,
            closing: None,
            called_at: Some(now),
            paid_at: Some(now - time::Duration::days(6)),
            failure: None,
            issuer: None,
            fee_minor: None,
            looks: 0,
            actor: StaffId::new(),
            created_at: now,
            changed_at: now,
            version: 1,
            hold: false,
            capture_minor: None,
            capture_called_at: None,
            forced: None,
            accepted_for: None,
        };
        (attempt, now)
    }

    const WEEK: Terms = Terms { in_parts: true, within: Some(time::Duration::days(7)) };

    fn code(allowed: Result<i64>) -> Result<i64, (&'static str, Option<String>)> {
        allowed.map_err(|error| match error {
            Error::Conflict { code, pointer, detail } => {
                assert!(!detail.is_empty());
                (code, pointer)
            }
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn no_more_goes_back_than_there_is() {
        let taken = |taken_minor| Standing { taken_minor, refunds: 1, ..Standing::default() };
        let too_much = Err(("amount_exceeds_refundable", Some("/amount_minor".to_owned())));
        for (state, standing, wanted, expected) in [
            (Payment::Paid, Standing::default(), None, Ok(100)),
            (Payment::Settled, Standing::default(), Some(1), Ok(1)),
            (Payment::PartiallyRefunded, taken(60), None, Ok(40)),
            (Payment::PartiallyRefunded, taken(60), Some(41), too_much.clone()),
            (Payment::Paid, Standing::default(), Some(101), too_much.clone()),
            (Payment::Refunded, taken(100), None, too_much.clone()),
            (Payment::Refunded, taken(130), Some(1), too_much),
            (Payment::PaidLate, Standing::default(), None, Ok(100)),
            (
                Payment::PaidLate,
                Standing::default(),
                Some(99),
                Err(("full_refund_only", Some("/amount_minor".to_owned()))),
            ),
            (Payment::Paid, Standing { under_way: true, ..taken(10) }, Some(1), Err(("refund_under_way", None))),
            (
                Payment::Paid,
                Standing { refunds: OF_PAYMENT_MAX, ..Standing::default() },
                Some(1),
                Err(("too_many_refunds", None)),
            ),
        ] {
            let (attempt, now) = paid(state);
            assert_eq!(code(allowed(&attempt, standing, wanted, Some(WEEK), now)), expected, "{state} {wanted:?}");
        }
    }

    #[test]
    fn nothing_goes_back_where_there_is_no_money_or_no_way() {
        use Payment::{Paid, PaidLate, PartiallyRefunded, Refunded, Settled};
        for state in Payment::ALL {
            let (attempt, now) = paid(state);
            let found = code(allowed(&attempt, Standing::default(), None, Some(WEEK), now));
            let has_money = matches!(state, Paid | Settled | PartiallyRefunded | Refunded | PaidLate);
            assert_eq!(found, if has_money { Ok(100) } else { Err(("nothing_to_refund", None)) }, "{state}");
            let found = code(allowed(&attempt, Standing::default(), None, None, now));
            assert_eq!(found, Err((if has_money { "not_refundable" } else { "nothing_to_refund" }, None)), "{state}");
        }
        let (attempt, now) = paid(Paid);
        let after =
            |days| code(allowed(&attempt, Standing::default(), None, Some(WEEK), now + time::Duration::days(days)));
        assert_eq!((after(0), after(1), after(2)), (Ok(100), Ok(100), Err(("refund_window_over", None))));
        let whole = Terms { in_parts: false, ..WEEK };
        let found = code(allowed(&attempt, Standing::default(), Some(99), Some(whole), now));
        assert_eq!(found, Err(("full_refund_only", Some("/amount_minor".to_owned()))));
    }
}
