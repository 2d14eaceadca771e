//! One payment of a sale, and where in the journal it stands.

use serde::Deserialize;
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, OutletId, PaymentId, Position, RegisterId, Stored};

use crate::error::{Error, Result};
use crate::journal::find;
use crate::journal::read::ReadTx;

/// Where a payment arrived.
#[derive(Clone, Copy, Debug)]
pub struct Payment {
    pub id: PaymentId,
    pub outlet: OutletId,
    pub register: RegisterId,
    /// When the transaction began that recorded it: its sale's own, or a later one.
    recorded_at: Moment,
}

/// One payment.
pub async fn payment(sql: &mut PgConnection, merchant: MerchantId, id: PaymentId) -> Result<Payment> {
    let row = sqlx::query!(
        r#"select outlet_id, register_id, coalesce(payments.recorded_at, sales.recorded_at) as "recorded_at!"
           from payments join sales using (merchant_id, sale_id)
           where payments.merchant_id = $1 and payments.payment_id = $2"#,
        merchant.0,
        id.0,
    )
    .fetch_optional(sql)
    .await?
    .ok_or(Error::NotFound("payment"))?;
    let (outlet, register) = (OutletId(row.outlet_id), RegisterId(row.register_id));
    Ok(Payment { id, outlet, register, recorded_at: row.recorded_at })
}

impl Payment {
    /// Where the event stands that told of it; `None` if the journal does not hold it any more.
    pub async fn position(&self, tx: &mut ReadTx) -> Result<Option<Position>> {
        #[derive(Deserialize)]
        struct Of {
            payment: PaymentId,
        }
        let is = |event: &Stored| {
            &*event.kind == "payment.captured"
                && serde_json::from_str::<Of>(event.data.get()).is_ok_and(|of| of.payment == self.id)
        };
        let merchant = tx.merchant();
        find::event(tx.sql(), merchant, self.recorded_at, self.id.0, is).await
    }
}
