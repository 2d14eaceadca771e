//! Where a sale is made.

use tillwire_channels::Moment;

use super::Draft;
use super::series::Series;
use crate::commerce::outlets;
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// Where a sale is made: the register's receipts, the day, the currency.
pub(super) struct Place {
    pub series: Series,
    pub business_date: time::Date,
    pub currency: String,
}

impl Place {
    /// Locks the register and takes the next number of its series, unless the till brought its own.
    pub async fn lock(tx: &mut MerchantTx, draft: &Draft, occurred_at: Moment) -> Result<Self> {
        let merchant = tx.merchant();
        let row = sqlx::query!(
            r#"update registers register
               set last_receipt = last_receipt + case when $5 then 0 else 1 end
               from outlets outlet, merchants merchant
               where register.merchant_id = $1 and register.outlet_id = $2 and register.register_id = $3
                 and outlet.merchant_id = $1 and outlet.outlet_id = $2 and merchant.merchant_id = $1
               returning outlet.code as outlet_code, register.code as register_code, last_receipt, currency,
                         ($4::timestamptz at time zone time_zone)::date as "business_date!""#,
            merchant.0,
            draft.outlet.0,
            draft.register.0,
            occurred_at,
            draft.number.is_some(),
        )
        .fetch_optional(tx.sql())
        .await?;
        let Some(row) = row else {
            outlets::get(tx.sql(), merchant, draft.outlet).await?; // If that is what is missing, it says so.
            return Err(Error::invalid("unknown_register", "/register", "This outlet has no such register."));
        };
        Ok(Self {
            series: Series::new(draft.register, &row.outlet_code, &row.register_code, row.last_receipt),
            business_date: row.business_date,
            currency: row.currency,
        })
    }
}
