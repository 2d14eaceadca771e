//! Lines of settlement files, as they are kept: each once, with the payment that it is of.

use serde::{Deserialize, Serialize};
use tillwire_channels::Moment;
use utoipa::ToSchema;
use uuid::Uuid;

use super::file::Line;
use super::told::kind;
use crate::accounts::kept;
use crate::audit;
use crate::error::Result;
use crate::journal::MerchantTx;

/// How many lines are written in one statement.
const BATCH: usize = 5_000;

/// What became of a file.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = ImportedSettlements)]
pub struct Imported {
    /// How many different lines it has.
    pub lines: u64,
    /// How many of them were not known yet.
    pub new: u64,
    /// How many of the new ones are of payments of this account.
    pub matched: u64,
}

/// Keeps the lines of a file that are new. The next run compares them.
///
/// # Errors
/// If the merchant has no such account.
pub async fn import(tx: &mut MerchantTx, account: Uuid, lines: &[Line]) -> Result<Imported> {
    let merchant = tx.merchant();
    kept::get(tx.sql(), merchant, account).await?;
    let mut imported = Imported { lines: lines.len() as u64, ..Imported::default() };
    for batch in lines.chunks(BATCH) {
        let new = insert(tx, account, batch).await?;
        imported.new += new.len() as u64;
        imported.matched += new.iter().filter(|payment| payment.is_some()).count() as u64;
    }
    let (by, detail) = (tx.actor()?, format!("{} lines, {} of them new", imported.lines, imported.new));
    audit::note(tx.sql(), merchant, Some(by), "settlements.imported", &account.to_string(), &detail).await?;
    Ok(imported)
}

/// Those that are new, by their payments.
async fn insert(tx: &mut MerchantTx, account: Uuid, lines: &[Line]) -> Result<Vec<Option<Uuid>>> {
    let merchant = tx.merchant();
    let ids: Vec<Vec<u8>> = lines.iter().map(|it| it.id.to_vec()).collect();
    let kinds: Vec<String> = lines.iter().map(|it| kind(it.kind).to_owned()).collect();
    let references: Vec<Option<String>> = lines.iter().map(|it| it.reference.clone()).collect();
    let ours: Vec<Option<Uuid>> = references.iter().map(|it| Uuid::try_parse(it.as_deref()?).ok()).collect();
    let theres: Vec<Option<String>> = lines.iter().map(|it| it.there.clone()).collect();
    let currencies: Vec<String> = lines.iter().map(|it| it.currency.clone()).collect();
    let amounts: Vec<i64> = lines.iter().map(|it| it.amount_minor).collect();
    let fees: Vec<Option<i64>> = lines.iter().map(|it| it.fee_minor).collect();
    let nets: Vec<Option<i64>> = lines.iter().map(|it| it.net_minor).collect();
    let settled: Vec<bool> = lines.iter().map(|it| it.settled).collect();
    let settled_at: Vec<Option<Moment>> = lines.iter().map(|it| it.settled_at).collect();
    let new = sqlx::query_scalar!(
        "insert into settlement_lines (merchant_id, account_id, line_id, kind, reference, payment_there, currency, amount_minor,
                                       fee_minor, net_minor, settled, settled_at, payment_id)
         select $1, $2, line, kind, reference, there, currency, amount, fee, net, is_settled, at,
                coalesce((select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $2 and payment_id = ours),
                         (select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $2 and payment_there = there),
                         (select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $2 and request_there = there))
         from unnest($3::bytea[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::bigint[], $10::bigint[],
                     $11::bigint[], $12::bool[], $13::timestamptz[])
              told (line, kind, reference, ours, there, currency, amount, fee, net, is_settled, at)
         on conflict do nothing
         returning payment_id",
        merchant.0,
        account,
        &ids,
        &kinds,
        &references as &[Option<String>],
        &ours as &[Option<Uuid>],
        &theres as &[Option<String>],
        &currencies,
        &amounts,
        &fees as &[Option<i64>],
        &nets as &[Option<i64>],
        &settled,
        &settled_at as &[Option<Moment>],
    )
    .fetch_all(tx.sql())
    .await?;
    Ok(new)
}
