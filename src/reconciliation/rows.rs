//! Payments of ours with all that was told of them, a part at a time; and what was told of none of ours.

use sqlx::PgConnection;
use tillwire_channels::{Moment, PaymentId};
use uuid::Uuid;

use super::compare::{Ours, Source, Theirs};
use super::runs::Held;
use super::told::kind_of;
use crate::commerce::payments::State;
use crate::error::Result;

/// How many payments are compared at once.
pub const CHUNK: i64 = 200;
/// How much of what was told of no payment of ours is looked at in one run.
pub const STRANGERS_MAX: i64 = 10_000;
/// How long before a run began somebody must have paid for the provider to know it for sure.
const TOLD_LATE: time::Duration = time::Duration::minutes(5);
/// For how long payouts are waited for.
const UNSETTLED_DAYS: i32 = 45;

/// Payments that are compared together, with all that was told of them.
#[derive(Debug, Default)]
pub struct Chunk {
    pub ids: Vec<Uuid>,
    pub ours: Vec<Ours>,
    pub theirs: Vec<Theirs>,
}

/// The next ones behind a payment: those of the span, those of which something was told, and those of which something is wrong or
/// still to come. Whether its provider `lists` what it has, or is asked for each, says what it must have told of.
pub async fn chunk(sql: &mut PgConnection, held: &Held, behind: Uuid, lists: bool) -> Result<Chunk> {
    let ids = sqlx::query_scalar!(
        r#"select distinct payment_id as "payment!"
           from ((select payment_id from payment_attempts
                  where merchant_id = $1 and account_id = $2 and created_at >= $4 and created_at < $5 and payment_id > $6
                  order by payment_id limit $7)
                 union all
                 (select payment_id from payment_attempts
                  where merchant_id = $1 and account_id = $2 and paid_at >= $4 and paid_at < $5 and payment_id > $6
                  order by payment_id limit $7)
                 union all
                 (select payment_id from payment_attempts
                  where merchant_id = $1 and account_id = $2 and paid_at >= $5::timestamptz - make_interval(days => $8)
                    and paid_at < $4 and state = 'paid' and payment_id > $6
                  order by payment_id limit $7)
                 union all
                 (select payment_id from reconciliation_rows
                  where merchant_id = $1 and run_id = $3 and payment_id > $6 order by payment_id limit $7)
                 union all
                 (select payment_id from settlement_lines
                  where merchant_id = $1 and account_id = $2 and compared_by is null and payment_id > $6
                  order by payment_id limit $7)
                 union all
                 (select payment_id from payment_differences
                  where merchant_id = $1 and account_id = $2 and closed_at is null and payment_id > $6
                  order by payment_id limit $7)) known
           order by 1 limit $7"#,
        held.merchant.0,
        held.account,
        held.run,
        held.from,
        held.until,
        behind,
        CHUNK,
        UNSETTLED_DAYS,
    )
    .fetch_all(&mut *sql)
    .await?;
    if ids.is_empty() {
        return Ok(Chunk::default());
    }
    let ours = ours(sql, held, &ids, lists).await?;
    let theirs = of_payments(sql, held, &ids).await?;
    Ok(Chunk { ids, ours, theirs })
}

async fn ours(sql: &mut PgConnection, held: &Held, ids: &[Uuid], lists: bool) -> Result<Vec<Ours>> {
    let rows = sqlx::query!(
        r#"select payment_id, payment_there, method, coalesce(capture_minor, amount_minor) as "amount_minor!", currency, state,
                  changed_at, fee_minor, created_at, paid_at, called_at
         from payment_attempts where merchant_id = $1 and account_id = $2 and payment_id = any($3)"#,
        held.merchant.0,
        held.account,
        ids,
    )
    .fetch_all(sql)
    .await?;
    let certain_until = held.until.min(held.begun_at - TOLD_LATE);
    // Of which payment a row of a list was that could not be read, nobody knows.
    let may_lack = lists && held.unreadable > 0;
    rows.into_iter()
        .map(|row| {
            let state = State::of(&row.state).ok_or_else(|| anyhow::anyhow!("an unknown state: {}", row.state))?;
            // Cards' money takes the longest, and nobody is late by a day.
            let takes = time::Duration::days(if row.method == "card" { 8 } else { 4 });
            Ok(Ours {
                payment: PaymentId(row.payment_id),
                there: row.payment_there,
                amount_minor: row.amount_minor,
                currency: row.currency,
                state,
                changed_at: row.changed_at,
                fee_minor: row.fee_minor,
                // One that was begun earlier may be paid earlier than we found it, and a list has it there.
                expected: !may_lack
                    && row.called_at.is_some()
                    && (!lists || row.created_at >= held.from)
                    && row.paid_at.is_some_and(|at| (held.from..certain_until).contains(&at)),
                settle_by: row.paid_at.map(|at| at + takes),
            })
        })
        .collect()
}

/// A row of either table, as the comparison has it.
struct Kept {
    source: String,
    id: String,
    payment_id: Option<Uuid>,
    kind: String,
    state: Option<String>,
    reference: Option<String>,
    payment_there: Option<String>,
    currency: String,
    amount_minor: i64,
    fee_minor: Option<i64>,
    net_minor: Option<i64>,
    settled: Option<bool>,
    settles_at: Option<Moment>,
    told_at: Moment,
}

impl From<Kept> for Theirs {
    fn from(row: Kept) -> Self {
        Self {
            source: match row.source.as_str() {
                "provider" => Source::Provider,
                "notice" => Source::Notice,
                _ => Source::File,
            },
            id: row.id,
            payment: row.payment_id.map(PaymentId),
            kind: kind_of(&row.kind),
            state: row.state.as_deref().and_then(State::of),
            reference: row.reference,
            there: row.payment_there,
            currency: row.currency,
            amount_minor: row.amount_minor,
            fee_minor: row.fee_minor,
            net_minor: row.net_minor,
            settled: row.settled,
            settles_at: row.settles_at,
            told_at: row.told_at,
        }
    }
}

async fn of_payments(sql: &mut PgConnection, held: &Held, ids: &[Uuid]) -> Result<Vec<Theirs>> {
    let rows = sqlx::query_as!(
        Kept,
        r#"select source as "source!", row_id as "id!", payment_id, kind as "kind!", state, reference, payment_there,
                  currency as "currency!", amount_minor as "amount_minor!", fee_minor, net_minor, settled,
                  settles_at, told_at as "told_at!"
           from reconciliation_rows where merchant_id = $1 and run_id = $2 and payment_id = any($4)
           union all
           select 'file', encode(line_id, 'hex'), payment_id, kind,
                  case kind when 'payment' then case when settled then 'settled' else 'paid' end
                            when 'refund' then 'partially_refunded' when 'chargeback' then 'charged_back' end,
                  reference, payment_there, currency, amount_minor, fee_minor, net_minor, settled, null, imported_at
           from settlement_lines where merchant_id = $1 and account_id = $3 and payment_id = any($4)"#,
        held.merchant.0,
        held.run,
        held.account,
        ids,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(Theirs::from).collect())
}

/// What was told of no payment of ours, the first so many. Files come last: they may be long, and come again in the next run.
pub async fn strangers(sql: &mut PgConnection, held: &Held) -> Result<Vec<Theirs>> {
    let rows = sqlx::query_as!(
        Kept,
        r#"select source as "source!", id as "id!", payment_id, kind as "kind!", state, reference, payment_there,
                  currency as "currency!", amount_minor as "amount_minor!", fee_minor, net_minor, settled, settles_at,
                  told_at as "told_at!"
           from (select source, row_id as id, payment_id, kind, state, reference, payment_there, currency, amount_minor,
                        fee_minor, net_minor, settled, settles_at, told_at
                 from reconciliation_rows
                 where merchant_id = $1 and run_id = $2 and payment_id is null and kind = 'payment' and state is not null
                 union all
                 select 'file', encode(line_id, 'hex'), payment_id, kind, case when settled then 'settled' else 'paid' end,
                        reference, payment_there, currency, amount_minor, fee_minor, net_minor, settled, null, imported_at
                 from settlement_lines
                 where merchant_id = $1 and account_id = $3 and payment_id is null and kind = 'payment'
                   and compared_by is null) told
           order by source = 'file', source, id limit $4"#,
        held.merchant.0,
        held.run,
        held.account,
        STRANGERS_MAX,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().map(Theirs::from).collect())
}

/// Notes that the lines of these payments were compared.
pub async fn compared(sql: &mut PgConnection, held: &Held, ids: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "update settlement_lines set compared_by = $3
         where merchant_id = $1 and account_id = $2 and compared_by is null and payment_id = any($4)",
        held.merchant.0,
        held.account,
        held.run,
        ids,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// Notes that these lines, which are of no payment, were compared.
pub async fn lines_compared(sql: &mut PgConnection, held: &Held, lines: &[String]) -> Result<()> {
    sqlx::query!(
        "update settlement_lines set compared_by = $3
         where merchant_id = $1 and account_id = $2 and compared_by is null
           and line_id in (select decode(id, 'hex') from unnest($4::text[]) told (id))",
        held.merchant.0,
        held.account,
        held.run,
        lines,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// How far files reach that tell of payouts. A payout that is later than its file is a slip, and reaches nowhere.
pub async fn files_until(sql: &mut PgConnection, held: &Held) -> Result<Option<Moment>> {
    let until = sqlx::query_scalar!(
        "select max(settled_at) from settlement_lines
         where merchant_id = $1 and account_id = $2 and settled and settled_at <= imported_at",
        held.merchant.0,
        held.account,
    )
    .fetch_one(sql)
    .await?;
    Ok(until)
}
