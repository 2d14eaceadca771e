//! Differences, as they are kept: each once, however many runs see it, until a run sees it no more or a person closes it.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, PaymentId, StaffId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Class;
use super::compare::Compared;
use super::runs::Held;
use crate::audit;
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

/// The most differences that are listed at once.
pub const PAGE_MAX: u32 = 200;
/// How much of a sentence is kept, in characters.
const DETAIL_CHARS_MAX: usize = 250;

/// A difference, as answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DifferenceView {
    pub id: Uuid,
    pub account: Uuid,
    pub class: Class,
    /// The payment's id; of money that is of no payment of ours, as its provider names it.
    pub subject: String,
    pub payment: Option<PaymentId>,
    /// What differs, where it is an amount.
    pub ours_minor: Option<i64>,
    pub theirs_minor: Option<i64>,
    /// In a sentence.
    pub detail: String,
    /// The run that found it, and the last that saw it.
    pub found_by: Uuid,
    pub seen_by: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub found_at: Moment,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub seen_at: Moment,
    /// When it was closed, or was gone; none while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Moment>,
    /// By whom, and why; or by which run, which saw it no more.
    pub closed_by: Option<StaffId>,
    pub reason: Option<String>,
    pub gone_by: Option<Uuid>,
}

/// Keeps what differs, and closes what is known to differ no more.
pub async fn keep(sql: &mut PgConnection, held: &Held, compared: &Compared) -> Result<()> {
    let found = &compared.differences;
    let ids: Vec<Uuid> = found.iter().map(|_| Uuid::now_v7()).collect();
    let classes: Vec<String> = found.iter().map(|it| it.class.as_str().to_owned()).collect();
    let subjects: Vec<String> = found.iter().map(|it| it.subject.clone()).collect();
    let payments: Vec<Option<Uuid>> = found.iter().map(|it| it.payment.map(|it| it.0)).collect();
    let ours: Vec<Option<i64>> = found.iter().map(|it| it.ours_minor).collect();
    let theirs: Vec<Option<i64>> = found.iter().map(|it| it.theirs_minor).collect();
    let details: Vec<String> = found.iter().map(|it| it.detail.chars().take(DETAIL_CHARS_MAX).collect()).collect();
    sqlx::query!(
        "insert into payment_differences as kept
             (merchant_id, difference_id, account_id, class, subject, payment_id, ours_minor, theirs_minor, detail, found_by,
              seen_by)
         select $1, id, $2, class, subject, payment, ours, theirs, detail, $3, $3
         from unnest($4::uuid[], $5::text[], $6::text[], $7::uuid[], $8::bigint[], $9::bigint[], $10::text[])
              found (id, class, subject, payment, ours, theirs, detail)
         on conflict on constraint payment_differences_subject_key do update
         set seen_by = excluded.seen_by, seen_at = clock_timestamp(), detail = excluded.detail,
             ours_minor = excluded.ours_minor, theirs_minor = excluded.theirs_minor,
             -- It comes back if it was gone by itself, or is another than a person has closed.
             (found_by, found_at, closed_at, closed_by, reason, gone_by) = (
                 select case when again then excluded.found_by else kept.found_by end,
                        case when again then clock_timestamp() else kept.found_at end,
                        case when again then null else kept.closed_at end,
                        case when again then null else kept.closed_by end,
                        case when again then null else kept.reason end,
                        case when again then null else kept.gone_by end
                 from (select kept.closed_at is not null
                              and (kept.closed_by is null
                                   or (kept.ours_minor, kept.theirs_minor)
                                       is distinct from (excluded.ours_minor, excluded.theirs_minor)) as again) it)",
        held.merchant.0,
        held.account,
        held.run,
        &ids,
        &classes,
        &subjects,
        &payments as &[Option<Uuid>],
        &ours as &[Option<i64>],
        &theirs as &[Option<i64>],
        &details,
    )
    .execute(&mut *sql)
    .await?;
    let judged: Vec<Uuid> = compared.judged.iter().map(|(payment, _)| payment.0).collect();
    let ways: Vec<String> = compared.judged.iter().map(|(_, class)| class.as_str().to_owned()).collect();
    sqlx::query!(
        "update payment_differences kept set closed_at = clock_timestamp(), gone_by = $3
         from unnest($4::uuid[], $5::text[]) judged (payment, class)
         where kept.merchant_id = $1 and kept.account_id = $2 and kept.closed_at is null and kept.seen_by <> $3
           and kept.payment_id = judged.payment and kept.class = judged.class",
        held.merchant.0,
        held.account,
        held.run,
        &judged,
        &ways,
    )
    .execute(sql)
    .await?;
    Ok(())
}

/// How many new ones of each class a run has found.
pub async fn found_by(sql: &mut PgConnection, held: &Held) -> Result<Vec<(Class, i64)>> {
    let rows = sqlx::query!(
        r#"select class, count(*) as "count!" from payment_differences
           where merchant_id = $1 and found_by = $2 group by class order by class"#,
        held.merchant.0,
        held.run,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().filter_map(|row| Some((Class::of(&row.class)?, row.count))).collect())
}

/// Which differences are listed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which {
    pub account: Option<Uuid>,
    pub run: Option<Uuid>,
    /// Open, closed, or either.
    pub open: Option<bool>,
}

/// Differences after one, in the order in which they were first found.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    which: Which,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<DifferenceView>> {
    select(sql, merchant, None, which, after, limit.min(PAGE_MAX) + 1).await
}

/// How many are open, of an account.
pub async fn open(sql: &mut PgConnection, merchant: MerchantId, account: Uuid) -> Result<i64> {
    let open = sqlx::query_scalar!(
        r#"select count(*) as "open!" from payment_differences
           where merchant_id = $1 and account_id = $2 and closed_at is null"#,
        merchant.0,
        account,
    )
    .fetch_one(sql)
    .await?;
    Ok(open)
}

/// Closes one: a person has looked, and says what it is.
///
/// # Errors
/// `difference_closed`.
pub async fn close(tx: &mut MerchantTx, id: Uuid, reason: &str) -> Result<DifferenceView> {
    let (merchant, by) = (tx.merchant(), tx.actor()?);
    let closed = sqlx::query_scalar!(
        "update payment_differences set closed_at = clock_timestamp(), closed_by = $3, reason = $4
         where merchant_id = $1 and difference_id = $2 and closed_at is null
         returning class || ' ' || subject",
        merchant.0,
        id,
        by.0,
        reason,
    )
    .fetch_optional(tx.sql())
    .await?;
    let found = select(tx.sql(), merchant, Some(id), Which::default(), None, 1).await?;
    let view = found.into_iter().next().ok_or(Error::NotFound("payment difference"))?;
    let Some(what) = closed else {
        return Err(Error::conflict("difference_closed", "It is closed already."));
    };
    let detail = format!("{}: {reason}", what.unwrap_or_default());
    audit::note(tx.sql(), merchant, Some(by), "payment_difference.closed", &id.to_string(), &detail).await?;
    Ok(view)
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<Uuid>,
    which: Which,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<DifferenceView>> {
    let rows = sqlx::query!(
        "select difference_id, account_id, class, subject, payment_id, ours_minor, theirs_minor, detail, found_by, seen_by, found_at,
                seen_at, closed_at, closed_by, reason, gone_by
         from payment_differences
         where merchant_id = $1 and ($2::uuid is null or difference_id = $2) and ($3::uuid is null or account_id = $3)
           and ($4::uuid is null or found_by = $4) and ($5::bool is null or (closed_at is null) = $5)
           and ($6::uuid is null or difference_id > $6)
         order by difference_id limit $7",
        merchant.0,
        only,
        which.account,
        which.run,
        which.open,
        after,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DifferenceView {
                id: row.difference_id,
                account: row.account_id,
                class: Class::of(&row.class).ok_or_else(|| anyhow::anyhow!("an unknown class: {}", row.class))?,
                subject: row.subject,
                payment: row.payment_id.map(PaymentId),
                ours_minor: row.ours_minor,
                theirs_minor: row.theirs_minor,
                detail: row.detail,
                found_by: row.found_by,
                seen_by: row.seen_by,
                found_at: row.found_at,
                seen_at: row.seen_at,
                closed_at: row.closed_at,
                closed_by: row.closed_by.map(StaffId),
                reason: row.reason,
                gone_by: row.gone_by,
            })
        })
        .collect()
}
