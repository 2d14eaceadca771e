//! What was told in a run, kept while it is under way: each thing once, with the payment of ours that it is of.

use sqlx::PgConnection;
use tillwire_channels::Moment;
use uuid::Uuid;

use super::compare::Source;
use super::runs::Held;
use crate::commerce::payments::{Attempt, State, refunds};
use crate::connectors::payment::Id;
use crate::connectors::report::{RefundState, Report, Row, RowKind};
use crate::error::Result;

/// The longest names that are kept, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// How many rows are forgotten in one statement.
const CLEARED: i64 = 5_000;

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

pub fn kind_of(text: &str) -> RowKind {
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
            let refund = |state| RefundReport {
                key: None,
                id: None,
                payment: None,
                amount_minor: Some(1),
                state,
                failure: None,
            };
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
