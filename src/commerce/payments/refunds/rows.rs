//! Reading refunds: one, those of a payment, and what they add up to.

use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, RefundId, RegisterId, SaleId, StaffId};
use uuid::Uuid;

use super::{Origin, Reason, Refund, State};
use crate::error::{Error, Result};

/// The most refunds of a payment that are read: ours, and those that somebody made at its provider.
const READ_MAX: i64 = 500;

/// What refunds of a payment add up to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// What has gone back.
    pub given_minor: i64,
    /// What has gone back, or may be on its way.
    pub taken_minor: i64,
    /// Whether one has not ended, and nobody was told yet that it takes long.
    pub under_way: bool,
    pub refunds: i64,
}

/// What the refunds of a payment add up to. Under the payment's lock it stays so.
pub async fn standing(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<Standing> {
    let row = sqlx::query!(
        r#"select coalesce(sum(amount_minor) filter (where state = 'succeeded'), 0)::bigint as "given!",
                  coalesce(sum(amount_minor) filter (where state not in ('failed', 'canceled')), 0)::bigint as "taken!",
                  -- Of one that nobody confirms a person was told.
                  count(*) filter (where state in ('created', 'unknown', 'pending') and stuck_at is null) as "under_way!",
                  count(*) as "refunds!"
           from refunds where merchant_id = $1 and payment_id = $2"#,
        merchant.0,
        payment.0,
    )
    .fetch_one(sql)
    .await?;
    Ok(Standing { given_minor: row.given, taken_minor: row.taken, under_way: row.under_way > 0, refunds: row.refunds })
}

struct Row {
    refund_id: Uuid,
    payment_id: Uuid,
    sale_id: Uuid,
    outlet_id: Uuid,
    register_id: Uuid,
    origin: String,
    amount_minor: i64,
    currency: String,
    reason: String,
    note: String,
    state: String,
    refund_there: Option<String>,
    key_there: Option<String>,
    failure: Option<String>,
    called_at: Option<Moment>,
    calls: i32,
    looks: i32,
    stuck_at: Option<Moment>,
    actor_id: Option<Uuid>,
    created_at: Moment,
    changed_at: Moment,
    version: i64,
}

impl TryFrom<Row> for Refund {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let unknown = |what: &str, word: &str| anyhow::anyhow!("an unknown {what} of a refund: {word}");
        Ok(Self {
            id: RefundId(row.refund_id),
            payment: PaymentId(row.payment_id),
            sale: SaleId(row.sale_id),
            outlet: OutletId(row.outlet_id),
            register: RegisterId(row.register_id),
            origin: if row.origin == Origin::Hub.as_str() { Origin::Hub } else { Origin::Provider },
            amount_minor: row.amount_minor,
            currency: row.currency,
            reason: Reason::of(&row.reason).ok_or_else(|| unknown("reason", &row.reason))?,
            note: row.note,
            state: State::of(&row.state).ok_or_else(|| unknown("state", &row.state))?,
            there: row.refund_there,
            key_there: row.key_there,
            failure: row.failure,
            called_at: row.called_at,
            calls: row.calls,
            looks: row.looks,
            stuck_at: row.stuck_at,
            actor: row.actor_id.map(StaffId),
            created_at: row.created_at,
            changed_at: row.changed_at,
            version: row.version,
        })
    }
}

/// One refund.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, refund: RefundId) -> Result<Refund> {
    sqlx::query_as!(
        Row,
        "select refund_id, payment_id, sale_id, outlet_id, register_id, origin, amount_minor, currency, reason, note, state,
                refund_there, key_there, failure, called_at, calls, looks, stuck_at, actor_id, created_at, changed_at, version
         from refunds where merchant_id = $1 and refund_id = $2",
        merchant.0,
        refund.0,
    )
    .fetch_optional(sql)
    .await?
    .ok_or(Error::NotFound("refund"))?
    .try_into()
}

/// Those of a payment, the first first.
pub async fn of_payment(sql: &mut PgConnection, merchant: MerchantId, payment: PaymentId) -> Result<Vec<Refund>> {
    sqlx::query_as!(
        Row,
        "select refund_id, payment_id, sale_id, outlet_id, register_id, origin, amount_minor, currency, reason, note, state,
                refund_there, key_there, failure, called_at, calls, looks, stuck_at, actor_id, created_at, changed_at, version
         from refunds where merchant_id = $1 and payment_id = $2 order by created_at, refund_id limit $3",
        merchant.0,
        payment.0,
        READ_MAX,
    )
    .fetch_all(sql)
    .await?
    .into_iter()
    .map(Refund::try_from)
    .collect()
}
