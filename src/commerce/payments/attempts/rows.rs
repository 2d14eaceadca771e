//! Attempts as their rows have them.

use sqlx::PgConnection;
use tillwire_channels::event::PaymentForced;
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RegisterId, SaleId, StaffId};
use uuid::Uuid;

use super::{Attempt, Closing, OF_SALE_MAX, There};
use crate::commerce::payments::State;
use crate::commerce::sales::{self, Locked};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

struct Row {
    payment_id: Uuid,
    sale_id: Uuid,
    outlet_id: Uuid,
    register_id: Uuid,
    account_id: Uuid,
    provider: String,
    mode: String,
    method: String,
    bank: Option<String>,
    amount_minor: i64,
    currency: String,
    state: String,
    request_there: Option<String>,
    payment_there: Option<String>,
    session_there: Option<String>,
    shown: Option<serde_json::Value>,
    expires_in_s: Option<i32>,
    expires_at: Moment,
    closing: Option<String>,
    called_at: Option<Moment>,
    paid_at: Option<Moment>,
    failure: Option<String>,
    issuer: Option<String>,
    fee_minor: Option<i64>,
    looks: i32,
    actor_id: Uuid,
    created_at: Moment,
    changed_at: Moment,
    version: i64,
    hold: bool,
    capture_minor: Option<i64>,
    capture_called_at: Option<Moment>,
    forced_at: Option<Moment>,
    forced_by: Option<Uuid>,
    forced_reason: Option<String>,
    accepted_for: Option<Uuid>,
}

impl TryFrom<Row> for Attempt {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let state = State::of(&row.state).ok_or_else(|| anyhow::anyhow!("an unknown state: {}", row.state))?;
        Ok(Self {
            payment: PaymentId(row.payment_id),
            sale: SaleId(row.sale_id),
            outlet: OutletId(row.outlet_id),
            register: RegisterId(row.register_id),
            account: row.account_id,
            provider: row.provider,
            mode: row.mode,
            method: row.method,
            bank: row.bank,
            amount_minor: row.amount_minor,
            currency: row.currency,
            state,
            there: There { request: row.request_there, payment: row.payment_there, session: row.session_there },
            shown: row.shown.map(serde_json::from_value).transpose()?,
            expires_in_seconds: row.expires_in_s.map(i32::unsigned_abs),
            expires_at: row.expires_at,
            closing: row.closing.as_deref().and_then(Closing::of),
            called_at: row.called_at,
            paid_at: row.paid_at,
            failure: row.failure,
            issuer: row.issuer,
            fee_minor: row.fee_minor,
            looks: row.looks,
            actor: StaffId(row.actor_id),
            created_at: row.created_at,
            changed_at: row.changed_at,
            version: row.version,
            hold: row.hold,
            capture_minor: row.capture_minor,
            capture_called_at: row.capture_called_at,
            forced: match (row.forced_by, row.forced_at, row.forced_reason) {
                (Some(by), Some(at), Some(reason)) => Some(PaymentForced { by: StaffId(by), at, reason }),
                _ => None,
            },
            accepted_for: row.accepted_for.map(SaleId),
        })
    }
}

/// Whole rows, by what follows `from payment_attempts`.
macro_rules! attempts {
    ($which:literal, $($of:expr),+ $(,)?) => {
        sqlx::query_as!(
            Row,
            "select payment_id, sale_id, outlet_id, register_id, account_id, provider, mode, method, bank, amount_minor,
                    currency, state, request_there, payment_there, session_there, shown, expires_in_s, expires_at, closing,
                    called_at, paid_at, failure, issuer, fee_minor, looks, actor_id, created_at, changed_at, version, hold,
                    capture_minor, capture_called_at, forced_at, forced_by, forced_reason, accepted_for
             from payment_attempts " + $which,
            $($of),+
        )
    };
}

/// One attempt.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<Attempt> {
    attempts!("where merchant_id = $1 and payment_id = $2", merchant.0, payment.0)
        .fetch_optional(sql)
        .await?
        .ok_or(Error::NotFound("payment"))?
        .try_into()
}

/// Those of a sale, the first first.
pub async fn of_sale(sql: &mut PgConnection, merchant: MerchantId, sale: SaleId) -> Result<Vec<Attempt>> {
    attempts!(
        "where merchant_id = $1 and sale_id = $2 order by created_at, payment_id limit $3",
        merchant.0,
        sale.0,
        OF_SALE_MAX,
    )
    .fetch_all(sql)
    .await?
    .into_iter()
    .map(Attempt::try_from)
    .collect()
}

/// Locks an attempt's sale and the attempt, in this order.
pub async fn lock(tx: &mut MerchantTx, payment: PaymentId) -> Result<(Locked, Attempt)> {
    let merchant = tx.merchant();
    let sale = get(tx.sql(), merchant, payment).await?.sale;
    lock_of(tx, sale, payment).await
}

/// The same for whoever knows the sale: which it is never changes.
pub async fn lock_of(tx: &mut MerchantTx, sale: SaleId, payment: PaymentId) -> Result<(Locked, Attempt)> {
    let merchant = tx.merchant();
    let sale = sales::lock(tx, sale).await?;
    let attempt = attempts!("where merchant_id = $1 and payment_id = $2 for no key update", merchant.0, payment.0)
        .fetch_optional(tx.sql())
        .await?
        .ok_or(Error::NotFound("payment"))?
        .try_into()?;
    Ok((sale, attempt))
}
