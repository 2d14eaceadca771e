//! A sale whose row is locked: whoever decides about an open sale has one.

use tillwire_channels::{Moment, OutletId, RegisterId, SaleId, StaffId};

use super::{PAYMENTS_MAX, SaleState};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// A sale that stays as it is until the transaction ends, but for what this transaction does to it.
///
/// INVARIANT: the sale's row is locked, before any lock on stock. Its payments change under that lock alone.
#[derive(Debug)]
pub struct Locked {
    pub id: SaleId,
    pub outlet: OutletId,
    pub register: RegisterId,
    pub number: String,
    pub state: SaleState,
    pub currency: String,
    pub total_minor: i64,
    /// What has been captured for it, and has not been given back.
    pub paid_minor: i64,
    /// In how many payments.
    pub payments: usize,
    /// Until when it does not expire, whatever its deadline: see [`hold`].
    pub held_until: Option<Moment>,
    /// Who rang it up.
    pub actor: StaffId,
}

impl Locked {
    /// What is still to be paid; nothing of a sale that is not open.
    pub fn due_minor(&self) -> i64 {
        self.state.due(self.total_minor, self.paid_minor)
    }

    /// # Errors
    /// `sale_not_open`.
    pub fn require_open(&self) -> Result<()> {
        if self.state == SaleState::Open { Ok(()) } else { Err(self.is_over()) }
    }

    /// Refuses one payment too many, of which there are so many already and so many are asked for: with the last of them all that
    /// is left has to be paid, for the entry that completes it tells of each.
    ///
    /// # Errors
    /// `too_many_payments`.
    pub fn require_room(&self, asked: usize, amount_minor: i64, left_minor: i64, pointer: &str) -> Result<()> {
        let payments = self.payments + asked;
        if payments + 1 < PAYMENTS_MAX || amount_minor >= left_minor {
            return Ok(());
        }
        let detail = format!("After {payments} payments the next has to pay all that is due: {left_minor}.");
        Err(Error::conflict_at("too_many_payments", pointer, detail))
    }

    /// That it is not open any more.
    pub(super) fn is_over(&self) -> Error {
        Error::conflict("sale_not_open", format!("{} is {}.", self.number, self.state.as_str()))
    }
}

/// Locks a sale.
///
/// # Errors
/// [`Error::NotFound`] if the merchant has no such sale.
pub async fn lock(tx: &mut MerchantTx, sale: SaleId) -> Result<Locked> {
    let merchant = tx.merchant();
    let row = sqlx::query!(
        "select outlet_id, register_id, number, state, currency, total_minor, held_until, actor_id from sales
         where merchant_id = $1 and sale_id = $2 for no key update",
        merchant.0,
        sale.0,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(Error::NotFound("sale"))?;
    // A statement of its own, after the lock was taken: it sees what was paid just before.
    let paid = sqlx::query!(
        r#"select coalesce(sum(amount_minor), 0)::bigint - sale_given_back($1, $2) as "minor!", count(*) as "payments!"
           from payments where merchant_id = $1 and sale_id = $2"#,
        merchant.0,
        sale.0,
    )
    .fetch_one(tx.sql())
    .await?;
    Ok(Locked {
        id: sale,
        outlet: OutletId(row.outlet_id),
        register: RegisterId(row.register_id),
        number: row.number,
        state: SaleState::read(&row.state)?,
        currency: row.currency,
        total_minor: row.total_minor,
        paid_minor: paid.minor,
        payments: usize::try_from(paid.payments)?,
        held_until: row.held_until,
        actor: StaffId(row.actor_id),
    })
}

/// Locks a sale if nobody is just at it: for whoever holds locks that come after a sale's. Says whether it is locked.
pub async fn lock_free(tx: &mut MerchantTx, sale: SaleId) -> Result<bool> {
    let merchant = tx.merchant();
    let locked = sqlx::query_scalar!(
        "select sale_id from sales where merchant_id = $1 and sale_id = $2 for no key update skip locked",
        merchant.0,
        sale.0,
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(locked.is_some())
}

/// Keeps an open sale from expiring before a moment, whatever its own deadline; none lets go of it. For whoever has asked
/// somebody outside for money, and has still to hear what became of that: the hold is renewed while it is so, and is over by
/// itself when nobody does.
pub async fn hold(tx: &mut MerchantTx, sale: &Locked, until: Option<Moment>) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update sales set held_until = $3 where merchant_id = $1 and sale_id = $2 and state = 'open'",
        merchant.0,
        sale.id.0,
        until,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}
