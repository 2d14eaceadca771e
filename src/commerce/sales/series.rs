//! A register's own series of receipt numbers.

use std::collections::HashSet;

use tillwire_channels::RegisterId;

use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// How many of the next numbers are looked at in one statement.
const LOOK_NUMBERS: i64 = 1_000;
/// How many such looks it may take. So many are seconds, and only once: the series goes on behind them.
const LOOKS_MAX: i64 = 1_000;

/// A register's own series, up to its last number.
///
/// INVARIANT: the register's row is locked, so nobody else moves it.
pub(super) struct Series {
    register: RegisterId,
    /// The outlet's code and the register's. Both may hold hyphens, so two registers may have one series between them:
    /// `C` of outlet `A-B`, and `B-C` of outlet `A`.
    prefix: String,
    last: i64,
}

impl Series {
    pub fn new(register: RegisterId, outlet_code: &str, register_code: &str, last: i64) -> Self {
        Self { register, prefix: format!("{outlet_code}-{register_code}"), last }
    }

    /// The last number, as it stands on a receipt.
    pub fn number(&self) -> String {
        self.receipt(self.last)
    }

    /// Passes over numbers that other sales have, to the next that is free.
    pub async fn pass_over(&mut self, tx: &mut MerchantTx) -> Result<()> {
        for _ in 0..LOOKS_MAX {
            let ahead: Vec<String> = (1..=LOOK_NUMBERS).map(|step| self.receipt(self.last + step)).collect();
            let taken = taken(tx, &ahead).await?;
            let free = (1_i64..).zip(&ahead).find(|(_, number)| !taken.contains(*number));
            if let Some((step, _)) = free {
                self.last += step;
                return self.keep(tx).await;
            }
            self.last += LOOK_NUMBERS;
        }
        let detail = format!("The next {} numbers of this register are taken.", LOOKS_MAX * LOOK_NUMBERS);
        Err(Error::conflict_at("receipt_number_taken", "/number", detail))
    }

    fn receipt(&self, number: i64) -> String {
        format!("{}-{number:06}", self.prefix)
    }

    async fn keep(&self, tx: &mut MerchantTx) -> Result<()> {
        let merchant = tx.merchant();
        sqlx::query!(
            "update registers set last_receipt = $3 where merchant_id = $1 and register_id = $2",
            merchant.0,
            self.register.0,
            self.last,
        )
        .execute(tx.sql())
        .await?;
        Ok(())
    }
}

/// Those of these numbers that sales have.
async fn taken(tx: &mut MerchantTx, numbers: &[String]) -> Result<HashSet<String>> {
    let merchant = tx.merchant();
    let taken = sqlx::query_scalar!(
        "select number from sales where merchant_id = $1 and number = any($2)",
        merchant.0,
        numbers
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(taken.into_iter().collect())
}
