//! What was told in a run, while it is under way; and payments of ours with all that was told of them, a part at a time.

use sqlx::PgConnection;
use tillwire_channels::{Moment, PaymentId};
use uuid::Uuid;

use super::compare::{Ours, Source, Theirs};
use super::runs::Held;
use crate::commerce::payments::{Attempt, State, refunds};
use crate::connectors::payment::Id;
use crate::connectors::report::{RefundState, Report, Row, RowKind};
use crate::error::Result;

/// How many payments are compared at once.
pub const CHUNK: i64 = 200;
/// How much of what was told of no payment of ours is looked at in one run.
pub const STRANGERS_MAX: i64 = 10_000;
/// How many rows are forgotten in one statement.
const CLEARED: i64 = 5_000;
/// The longest names that are kept, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// How long before a run began somebody must have paid for the provider to know it for sure.
const TOLD_LATE: time::Duration = time::Duration::minutes(5);
/// For how long payouts are waited for.
const UNSETTLED_DAYS: i32 = 45;

/// Something that was told.
#[derive(Clone, Debug)]
pub struct Told {
    pub source: Source,
    pub id: String,
    pub kind: RowKind,
    pub state: Option<State>,
    pub reference: Option<String>,
    /// As the provider names what was asked for, and the payment.
    pub request: Option<String>,
    pub there: Option<String>,
    pub currency: String,
    pub amount_minor: i64,
    pub fee_minor: Option<i64>,
    pub net_minor: Option<i64>,
    pub settled: Option<bool>,
    pub settles_at: Option<Moment>,
}

fn text(id: Option<&Id>) -> Option<String> {
    id.map(ToString::to_string)
}

impl Told {
    /// A row of a provider's list.
    pub fn of_row(row: Row) -> Self {
        Self {
            source: Source::Provider,
            id: row.id,
            kind: row.kind,
            state: row.state,
            reference: row.reference,
            request: text(row.ids.request.as_ref()),
            there: text(row.ids.payment.as_ref()),
            currency: row.currency,
            amount_minor: row.amount_minor,
            fee_minor: row.fee_minor,
            net_minor: row.net_minor,
            settled: (row.kind == RowKind::Payment).then_some(row.settled),
            settles_at: row.settles_at,
        }
    }

    /// How a payment stands, by an answer or a notification; none if that says no amount.
    pub fn of_report(source: Source, id: String, report: Report) -> Option<Self> {
        // A refund that no bank has confirmed gives nothing back yet, here as there.
        let are_done = report.refunds.iter().all(|it| it.state == RefundState::Succeeded);
        let state = if are_done { report.state } else { report.state.map(refunds::state::behind) };
        Some(Self {
            source,
            id,
            kind: RowKind::Payment,
            state,
            request: text(report.ids.request.as_ref()),
            there: text(report.ids.payment.as_ref()),
            reference: report.reference,
            currency: report.currency.unwrap_or_else(|| crate::connectors::ability::CURRENCY.to_owned()),
            amount_minor: report.captured_minor.or(report.amount_minor)?,
            fee_minor: report.fee_minor,
            net_minor: None,
            // That it is not is not said.
            settled: (state == Some(State::Settled)).then_some(true),
            settles_at: None,
        })
    }

    /// That the provider knows a payment, and nothing that could be read of it.
    pub fn unread(attempt: &Attempt) -> Self {
        Self {
            source: Source::Provider,
            id: attempt.payment.to_string(),
            kind: RowKind::Payment,
            state: None,
            reference: Some(attempt.payment.to_string()),
            request: None,
            there: None,
            currency: attempt.currency.clone(),
            amount_minor: attempt.taken_minor(),
            fee_minor: None,
            net_minor: None,
            settled: None,
            settles_at: None,
        }
    }
}

pub const fn kind(kind: RowKind) -> &'static str {
    match kind {
        RowKind::Payment => "payment",
        RowKind::Refund => "refund",
        RowKind::Chargeback => "chargeback",
        RowKind::Other => "other",
    }
}

fn kind_of(text: &str) -> RowKind {
    match text {
        "payment" => RowKind::Payment,
        "refund" => RowKind::Refund,
        "chargeback" => RowKind::Chargeback,
        _ => RowKind::Other,
    }
}

/// A name that is too long is cut: it is no name of ours.
fn cut(text: &str) -> String {
    let mut kept: String = text.chars().filter(|it| !it.is_control()).collect();
    kept.truncate(kept.floor_char_boundary(NAME_BYTES_MAX));
    kept
}

/// Notifications say what they like: a currency has three letters.
fn currency(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).take(3).collect()
}

/// Keeps what was told, each thing once, with the payment that it is of.
pub async fn keep(sql: &mut PgConnection, held: &Held, told: &[Told]) -> Result<()> {
    let sources: Vec<String> = told.iter().map(|it| source(it.source).to_owned()).collect();
    let ids: Vec<String> = told.iter().map(|it| cut(&it.id)).collect();
    let kinds: Vec<String> = told.iter().map(|it| kind(it.kind).to_owned()).collect();
    let states: Vec<Option<String>> = told.iter().map(|it| it.state.map(|it| it.as_str().to_owned())).collect();
    let references: Vec<Option<String>> = told.iter().map(|it| it.reference.as_deref().map(cut)).collect();
    let ours: Vec<Option<Uuid>> = references.iter().map(|it| Uuid::try_parse(it.as_deref()?).ok()).collect();
    let requests: Vec<Option<String>> = told.iter().map(|it| it.request.clone()).collect();
    let theres: Vec<Option<String>> = told.iter().map(|it| it.there.clone()).collect();
    let currencies: Vec<String> = told.iter().map(|it| currency(&it.currency)).collect();
    let amounts: Vec<i64> = told.iter().map(|it| it.amount_minor).collect();
    let fees: Vec<Option<i64>> = told.iter().map(|it| it.fee_minor).collect();
    let nets: Vec<Option<i64>> = told.iter().map(|it| it.net_minor).collect();
    let settled: Vec<Option<bool>> = told.iter().map(|it| it.settled).collect();
    let settles: Vec<Option<Moment>> = told.iter().map(|it| it.settles_at).collect();
    sqlx::query!(
        "insert into reconciliation_rows (merchant_id, run_id, source, row_id, kind, state, reference, payment_there, currency,
                                          amount_minor, fee_minor, net_minor, settled, settles_at, payment_id)
         select $1, $2, source, row, kind, state, reference, there, currency, amount, fee, net, is_settled, settles,
                coalesce((select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $3 and payment_id = ours),
                         (select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $3 and request_there = request),
                         (select payment_id from payment_attempts
                          where merchant_id = $1 and account_id = $3 and payment_there = there))
         from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::uuid[], $10::text[], $11::text[],
                     $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bool[], $17::timestamptz[])
              told (source, row, kind, state, reference, ours, request, there, currency, amount, fee, net, is_settled, settles)
         where row <> ''
         on conflict do nothing",
        held.merchant.0,
        held.run,
        held.account,
        &sources,
        &ids,
        &kinds,
        &states as &[Option<String>],
        &references as &[Option<String>],
        &ours as &[Option<Uuid>],
        &requests as &[Option<String>],
        &theres as &[Option<String>],
        &currencies,
        &amounts,
        &fees as &[Option<i64>],
        &nets as &[Option<i64>],
        &settled as &[Option<bool>],
        &settles as &[Option<Moment>],
    )
    .execute(sql)
    .await?;
    Ok(())
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Provider => "provider",
        Source::Notice => "notice",
        Source::File => "file",
    }
}

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
        r#"select payment_id, method, coalesce(capture_minor, amount_minor) as "amount_minor!", currency, state, changed_at,
                  fee_minor, created_at, paid_at, called_at
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

/// Forgets some of what was told. False when nothing is left.
pub async fn clear(sql: &mut PgConnection, held: &Held) -> Result<bool> {
    let gone = sqlx::query!(
        "delete from reconciliation_rows where merchant_id = $1 and run_id = $2 and (source, row_id) in (
             select source, row_id from reconciliation_rows where merchant_id = $1 and run_id = $2 limit $3)",
        held.merchant.0,
        held.run,
        CLEARED,
    )
    .execute(sql)
    .await?;
    Ok(gone.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::report::RefundReport;

    #[test]
    fn whatever_a_notification_says_fits_the_table() {
        assert_eq!((currency("IDR").as_str(), currency("\u{20ac}\u{20ac}\u{20ac}").as_str()), ("IDR", ""));
        assert_eq!(currency("i\u{20ac}d r!upiah"), "idr");
        assert_eq!(cut("INV-\u{7}1"), "INV-1");
        assert_eq!(cut(&"\u{20ac}".repeat(60)), "\u{20ac}".repeat(NAME_BYTES_MAX / 3));
        assert_eq!(cut(&"x".repeat(300)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn a_refund_that_no_bank_has_confirmed_has_given_nothing_back() {
        let stands = |said, refunds: &[RefundState]| {
            let refund = |state| RefundReport { key: None, id: None, amount_minor: Some(1), state, failure: None };
            let refunds = refunds.iter().copied().map(refund).collect();
            let report = Report { state: Some(said), amount_minor: Some(1), refunds, ..Report::default() };
            Told::of_report(Source::Provider, "x".to_owned(), report).unwrap().state
        };
        assert_eq!(stands(State::Refunded, &[RefundState::Pending]), Some(State::Paid));
        let both = [RefundState::Succeeded, RefundState::Pending];
        assert_eq!(stands(State::Refunded, &both), Some(State::Paid));
        assert_eq!(stands(State::Refunded, &[RefundState::Succeeded]), Some(State::Refunded));
        assert_eq!(stands(State::Refunded, &[]), Some(State::Refunded));
        assert_eq!(stands(State::ChargedBack, &[RefundState::Pending]), Some(State::ChargedBack));
    }
}
