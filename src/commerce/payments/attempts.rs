//! Attempts: payments that a provider was asked for, or is to be.

mod rows;
mod view;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::event::{Method, PaymentForced, PaymentShown};
use tillwire_channels::{Event, MerchantId, Moment, OutletId, PaymentId, RegisterId, SaleId, StaffId};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::rows::{get, of_sale};
pub(super) use self::rows::{lock, lock_of};
pub use self::view::PaymentView;
use super::state::State;
use crate::commerce::sales::{self, Captured, Locked};
use crate::error::{Error, OnConstraint, Result};
use crate::journal::MerchantTx;

/// The most attempts at the payments of one sale.
pub const OF_SALE_MAX: i64 = 50;
/// For how long a sale is kept from expiring for an attempt that nobody has heard the end of. Some are asked about for longer:
/// their money is late, then.
const HOLD_MAX: time::Duration = time::Duration::hours(25);
/// And for one by which a card's money is held: banks do that for a week.
const CARD_HOLD_MAX: time::Duration = time::Duration::days(8);

/// How long an attempt is left to whoever has begun it: they have what is kept nowhere, as the token of a card.
const BEGUN_HOLD: time::Duration = time::Duration::seconds(3);

/// An attempt that is to be made.
#[derive(Clone, Debug)]
pub struct NewAttempt {
    pub payment: PaymentId,
    /// The merchant's account at the provider, and what it is.
    pub account: Uuid,
    pub provider: &'static str,
    pub mode: &'static str,
    pub method: &'static str,
    pub bank: Option<&'static str>,
    /// None for all that is due and not asked for elsewhere.
    pub amount_minor: Option<i64>,
    /// For how long the provider gives the customer, where that can be chosen.
    pub expires_in_seconds: Option<u32>,
    /// For how long we do.
    pub life: time::Duration,
    /// Whether the card's money is held first, and taken when somebody says so.
    pub hold: bool,
}

/// An attempt, as it is kept.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub payment: PaymentId,
    pub sale: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub account: Uuid,
    pub provider: String,
    pub mode: String,
    pub method: String,
    pub bank: Option<String>,
    pub amount_minor: i64,
    pub currency: String,
    pub state: State,
    pub there: There,
    pub shown: Option<PaymentShown>,
    pub expires_in_seconds: Option<u32>,
    pub expires_at: Moment,
    pub closing: Option<Closing>,
    pub called_at: Option<Moment>,
    pub paid_at: Option<Moment>,
    pub failure: Option<String>,
    pub issuer: Option<String>,
    pub fee_minor: Option<i64>,
    pub looks: i32,
    pub actor: StaffId,
    pub created_at: Moment,
    pub changed_at: Moment,
    pub version: i64,
    pub hold: bool,
    /// What is taken of the money that is held, or is to be, since somebody has said so.
    pub capture_minor: Option<i64>,
    /// When the provider was asked to take it. Null: it has certainly not taken it.
    pub capture_called_at: Option<Moment>,
    pub forced: Option<PaymentForced>,
    /// The other sale that its money pays, since a person has said so.
    pub accepted_for: Option<SaleId>,
}

/// As the provider names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// What was asked for.
    pub request: Option<String>,
    /// The payment itself.
    pub payment: Option<String>,
    /// The page on which it is made.
    pub session: Option<String>,
}

/// Why an attempt is called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    Canceled,
    Expired,
}

impl Closing {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }

    /// What an attempt is that came to this.
    pub const fn state(self) -> State {
        match self {
            Self::Canceled => State::Canceled,
            Self::Expired => State::Expired,
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::Canceled, Self::Expired].into_iter().find(|it| it.as_str() == text)
    }
}

impl Attempt {
    /// What it brings: of money that is held, as much as somebody wants of it.
    pub fn taken_minor(&self) -> i64 {
        self.capture_minor.unwrap_or(self.amount_minor)
    }

    /// That it pays its sale.
    pub(super) fn captured(&self, at: Moment) -> Captured {
        Captured {
            payment: self.payment,
            method: match self.method.as_str() {
                "qris" => Method::Qris,
                "card" => Method::Card,
                _ => Method::Transfer,
            },
            amount_minor: self.taken_minor(),
            tendered_minor: self.taken_minor(),
            at,
        }
    }
}

/// Writes down an attempt at what is due of an open sale, before anybody is asked for it. `may_be_of` refuses an amount that its
/// provider does not carry.
///
/// # Errors
/// `sale_not_open`; `amount_exceeds_due`; `nothing_due` if all of it is asked for already; `payment_exists`;
/// `too_many_attempts`; `too_many_payments`.
pub async fn begin(
    tx: &mut MerchantTx,
    sale: &Locked,
    new: &NewAttempt,
    may_be_of: &(dyn Fn(i64) -> Result<()> + Sync),
) -> Result<Attempt> {
    let merchant = tx.merchant();
    sale.require_open()?;
    let others = sqlx::query!(
        r#"select count(*) as "all!",
                  -- Not what nobody can find out, nor what is called off already: a customer waits.
                  coalesce(sum(amount_minor) filter (where closing is null and forced_at is null and state in
                      ('created', 'pending', 'review', 'authorized')), 0)::bigint as "asked_minor!"
           from payment_attempts where merchant_id = $1 and sale_id = $2"#,
        merchant.0,
        sale.id.0,
    )
    .fetch_one(tx.sql())
    .await?;
    if others.all >= OF_SALE_MAX {
        let detail = format!("{OF_SALE_MAX} payments were tried for this sale.");
        return Err(Error::conflict("too_many_attempts", detail));
    }
    let left_minor = sale.due_minor() - others.asked_minor;
    if left_minor <= 0 {
        let detail = "All that is due is being paid already: call that off first.";
        return Err(Error::conflict("nothing_due", detail));
    }
    let amount_minor = new.amount_minor.unwrap_or(left_minor);
    may_be_of(amount_minor)?;
    let asked = open_of_sale(tx.sql(), merchant, sale.id).await?;
    sale.require_room(asked, amount_minor, left_minor, "/amount_minor")?;
    if amount_minor > left_minor {
        let detail = format!("{left_minor} is due, and not being paid already.");
        return Err(Error::conflict_at("amount_exceeds_due", "/amount_minor", detail));
    }
    let (actor, expires_at) = (tx.actor()?, tx.now() + new.life);
    let inserted = sqlx::query!(
        "insert into payment_attempts (merchant_id, payment_id, sale_id, outlet_id, register_id, account_id, provider, mode,
                                       method, bank, amount_minor, currency, expires_in_s, expires_at, next_at, actor_id, hold)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, now() + make_interval(secs => $16), $15, $17
         where not exists (select from payments where merchant_id = $1 and payment_id = $2)",
        merchant.0,
        new.payment.0,
        sale.id.0,
        sale.outlet.0,
        sale.register.0,
        new.account,
        new.provider,
        new.mode,
        new.method,
        new.bank,
        amount_minor,
        sale.currency,
        new.expires_in_seconds.map(i32::try_from).transpose()?,
        expires_at,
        actor.0,
        BEGUN_HOLD.as_seconds_f64(),
        new.hold,
    )
    .execute(tx.sql())
    .await
    .on_constraint("payment_attempts_pkey", exists)?;
    if inserted.rows_affected() == 0 {
        return Err(exists());
    }
    let until = expires_at + if new.hold { CARD_HOLD_MAX } else { HOLD_MAX };
    sales::hold(tx, sale, Some(sale.held_until.map_or(until, |it| it.max(until)))).await?;
    get(tx.sql(), merchant, new.payment).await
}

fn exists() -> Error {
    Error::conflict_at("payment_exists", "/id", "There is a payment with this id.")
}

/// Asks for an attempt to be called off. It is due to be attended to at once; one that has ended is left as it is. Its sale is
/// locked.
///
/// # Errors
/// `payment_forced`; `capture_under_way`.
pub async fn close(tx: &mut MerchantTx, payment: PaymentId, why: Closing) -> Result<Attempt> {
    let merchant = tx.merchant();
    let attempt = get(tx.sql(), merchant, payment).await?;
    if attempt.forced.is_some() && attempt.state.is_open() {
        return Err(Error::conflict("payment_forced", "Its sale is paid by it: its provider has the last word."));
    }
    if attempt.state == State::Authorized && attempt.capture_minor.is_some() {
        return Err(Error::conflict("capture_under_way", "The money that was held is just being taken."));
    }
    sqlx::query!(
        "update payment_attempts
         set closing = $3, next_at = now(), prompted = true, unanswered_since = null, looks = 0, version = version + 1
         where merchant_id = $1 and payment_id = $2 and closing is null
           and state in ('created', 'unknown', 'pending', 'review', 'authorized')",
        merchant.0,
        payment.0,
        why.as_str(),
    )
    .execute(tx.sql())
    .await?;
    get(tx.sql(), merchant, payment).await
}

/// The same for all attempts at the payments of a sale that is paid, but one, and but those that pay a part of it because
/// somebody said so: nobody is to pay for it any more.
pub(super) async fn close_all(tx: &mut MerchantTx, sale: SaleId, but: Option<PaymentId>) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update payment_attempts
         set closing = 'canceled', next_at = now(), prompted = true, unanswered_since = null, looks = 0, version = version + 1
         where merchant_id = $1 and sale_id = $2 and closing is null and forced_at is null and payment_id is distinct from $3
           and state in ('created', 'unknown', 'pending', 'review', 'authorized')",
        merchant.0,
        sale.0,
        but.map(|it| it.0),
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Lets a sale expire again that waits for none of its attempts any more.
pub(super) async fn let_go(tx: &mut MerchantTx, sale: SaleId) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update sales set held_until = null
         where merchant_id = $1 and sale_id = $2 and state = 'open'
           and not exists (select from payment_attempts
                           where merchant_id = $1 and sale_id = $2
                             and state in ('created', 'unknown', 'pending', 'review', 'authorized'))",
        merchant.0,
        sale.0,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// Lets the sale that a payment pays expire, if it was left open for money that is not there any more. The payment is locked, and its
/// own sale before it.
///
/// # Errors
/// [`Error::Busy`] if it pays another sale, and somebody is just at that: whoever waited for it would wait out of turn.
pub(super) async fn unstall(tx: &mut MerchantTx, attempt: &Attempt) -> Result<()> {
    if let Some(sale) = attempt.accepted_for
        && !sales::lock_free(tx, sale).await?
    {
        return Err(Error::Busy { retry_after: std::time::Duration::from_secs(1) });
    }
    sales::unstall(tx, attempt.accepted_for.unwrap_or(attempt.sale)).await
}

/// Asks for an attempt to be looked at now, because a person said that there is something new. Whoever is at it just then looks
/// once more.
pub async fn prompt(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<()> {
    sqlx::query!(
        "update payment_attempts set next_at = now(), prompted = true, unanswered_since = null
         where merchant_id = $1 and payment_id = $2 and called_at is not null",
        merchant.0,
        payment.0,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// Refuses an id that a payment by a provider has.
pub(super) async fn require_free(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<()> {
    let is_taken = sqlx::query_scalar!(
        r#"select exists (select from payment_attempts
                          where merchant_id = $1 and payment_id = $2) as "is_taken!""#,
        merchant.0,
        payment.0,
    )
    .fetch_one(sql)
    .await?;
    if is_taken { Err(exists()) } else { Ok(()) }
}

/// How many payments of a sale may still bring money that is not recorded.
pub(super) async fn open_of_sale(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<usize> {
    let open = sqlx::query_scalar!(
        r#"select count(*) as "open!" from payment_attempts
           where merchant_id = $1 and sale_id = $2 and forced_at is null
             and state in ('created', 'unknown', 'pending', 'review', 'authorized')"#,
        merchant.0,
        sale.0,
    )
    .fetch_one(sql)
    .await?;
    Ok(usize::try_from(open)?)
}

/// How many of an account's somebody can still pay, or may have paid; and of how many of those nobody knows. Those alone are
/// looked through that are still attended to.
pub async fn open_of(sql: &mut PgConnection, merchant: MerchantId, account: Uuid) -> Result<(i64, i64)> {
    let counts = sqlx::query!(
        r#"select count(*) as "open!", count(*) filter (where state = 'unknown') as "unknown!" from payment_attempts
           where merchant_id = $1 and account_id = $2 and next_at is not null
             and state in ('created', 'unknown', 'pending', 'review', 'authorized')"#,
        merchant.0,
        account,
    )
    .fetch_one(sql)
    .await?;
    Ok((counts.open, counts.unknown))
}

/// Tells screens of it.
pub(super) fn tell(tx: &mut MerchantTx, attempt: &Attempt) -> Result<()> {
    let now = tx.now();
    tx.append(&Event::PaymentChanged(attempt.changed()), now)
}
