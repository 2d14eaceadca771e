//! An open sale that comes to nothing: somebody voids it, or nobody pays it in time.

use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;
use tillwire_channels::event::{AlertRaised, SaleVoided, Severity, VoidReason};
use tillwire_channels::{Event, MerchantId, SaleId};

use super::locked::{Locked, lock};
use super::settle::names;
use super::{SaleState, SaleView, read, write};
use crate::commerce::reservations::{self, End};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// What an alert is called that tells of an open sale which was not paid in full in time.
pub const NOT_PAID: &str = "sale_not_paid";

/// Voids an open sale, and frees what it kept back.
///
/// # Errors
/// `sale_not_open`; `sale_has_payments` if money was taken for it that has not gone back; `payment_under_way` if somebody outside
/// has still to say whether it was.
pub async fn void(tx: &mut MerchantTx, sale: &Locked, note: Option<String>) -> Result<SaleView> {
    if sale.state != SaleState::Open {
        return Err(sale.is_over());
    }
    if sale.paid_minor > 0 {
        let Locked { number, paid_minor, currency, .. } = sale;
        let detail = format!(
            "{paid_minor} {currency} were taken for {number}. What a provider carried can be refunded first; of what was taken by \
             hand there are no refunds: take the rest, which completes it."
        );
        return Err(Error::conflict("sale_has_payments", detail));
    }
    if sale.held_until.is_some_and(|until| until > tx.now()) {
        let detail = format!("A payment for {} is under way: call it off first.", sale.number);
        return Err(Error::conflict("payment_under_way", detail));
    }
    come_to_nothing(tx, sale, VoidReason::Voided, note).await
}

/// What came of a look at an open sale that is past its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// It has expired, and what it kept back is free.
    Expired,
    /// Money was taken for it, so it stays open. Its outlet was told.
    Stalled,
    /// It is not due, or somebody else is at it: nothing was done.
    NotDue,
}

/// Open sales past their deadlines, of all merchants: so many at most, and so many of one, whose turn is no later for another's
/// many. `sql` is the application's.
pub async fn due(sql: impl PgExecutor<'_>, of_one_max: i32, due_max: i32) -> Result<Vec<(MerchantId, SaleId)>> {
    let rows =
        sqlx::query!(r#"select merchant as "merchant!", sale as "sale!" from sales_due($1, $2)"#, of_one_max, due_max,)
            .fetch_all(sql)
            .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), SaleId(row.sale))).collect())
}

/// Ends an open sale that is past its deadline, if nothing was paid of it. It can be asked for twice, and out of turn.
pub async fn expire(tx: &mut MerchantTx, sale: SaleId) -> Result<Expiry> {
    if !lock_due(tx, sale).await? {
        return Ok(Expiry::NotDue);
    }
    let sale = lock(tx, sale).await?;
    if sale.paid_minor > 0 {
        stall(tx, &sale).await?;
        return Ok(Expiry::Stalled);
    }
    come_to_nothing(tx, &sale, VoidReason::Expired, None).await?;
    Ok(Expiry::Expired)
}

/// Locks a sale if it is to end by now and nobody is just at it: whoever takes a payment is let finish.
async fn lock_due(tx: &mut MerchantTx, sale: SaleId) -> Result<bool> {
    let merchant = tx.merchant();
    let locked = sqlx::query_scalar!(
        "select sale_id from sales
         where merchant_id = $1 and sale_id = $2 and state = 'open' and stalled_at is null
           and greatest(expires_at, held_until) <= clock_timestamp()
         for no key update skip locked",
        merchant.0,
        sale.0,
    )
    .fetch_optional(tx.sql())
    .await?;
    Ok(locked.is_some())
}

/// Leaves it open, and says so, once: money does not vanish because a deadline passed.
async fn stall(tx: &mut MerchantTx, sale: &Locked) -> Result<()> {
    let (merchant, now) = (tx.merchant(), tx.now());
    sqlx::query!(
        "update sales set stalled_at = now() where merchant_id = $1 and sale_id = $2 and state = 'open'",
        merchant.0,
        sale.id.0,
    )
    .execute(tx.sql())
    .await?;
    let Locked { number, paid_minor, total_minor, currency, .. } = sale;
    let alert = AlertRaised {
        alert: NOT_PAID.to_owned(),
        severity: Severity::Warning,
        title: "A sale was not paid in full in time".to_owned(),
        detail: format!(
            "{paid_minor} of {total_minor} {currency} were taken for {number}. It stays open, and its stock reserved, until \
             somebody takes the rest."
        ),
        subject: Some(sale.id.to_string()),
        outlet: Some(sale.outlet),
        register: Some(sale.register),
    };
    tx.append(&Event::AlertRaised(alert), now)
}

/// Lets an open sale expire that was left open for the money that was taken for it: it, or some of it, has gone back. Its row is
/// locked.
pub async fn unstall(tx: &mut MerchantTx, sale: SaleId) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update sales set stalled_at = null
         where merchant_id = $1 and sale_id = $2 and state = 'open' and stalled_at is not null",
        merchant.0,
        sale.0,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

async fn come_to_nothing(
    tx: &mut MerchantTx,
    sale: &Locked,
    reason: VoidReason,
    note: Option<String>,
) -> Result<SaleView> {
    let (state, end) = match reason {
        VoidReason::Voided => (SaleState::Voided, End::Voided),
        VoidReason::Expired => (SaleState::Expired, End::Expired),
    };
    write::voided(tx, sale.id, state, note.as_deref()).await?;
    let (merchant, now) = (tx.merchant(), tx.now());
    let view = read::get(tx.sql(), merchant, sale.id).await?;
    let told = SaleVoided {
        sale: sale.id,
        number: sale.number.clone(),
        outlet: sale.outlet,
        register: sale.register,
        currency: sale.currency.clone(),
        total_minor: sale.total_minor,
        reason,
        note,
    };
    tx.append(&Event::SaleVoided(told), now)?;
    let reserved = reservations::end(tx, sale.outlet, sale.id, end, &names(&view)).await?;
    tx.append(&Event::StockReserved(reserved), now)?;
    Ok(view)
}
