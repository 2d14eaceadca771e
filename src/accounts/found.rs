//! Payments that were found paid, and how: because a notification came, or by a look that none had prompted. Where an account's
//! notifications do not come, its payments are seconds late and nobody knows why; so whoever is told is told once, and what to do.

use sqlx::PgPool;
use tillwire_channels::event::{AlertRaised, Severity};
use tillwire_channels::{Event, MerchantId, Moment, PaymentId};
use tracing::debug;
use uuid::Uuid;

use super::kept;
use crate::connectors::credentials::Provider;
use crate::error::Result;
use crate::journal::{MerchantTx, pool};

/// How long a notification may take, once we know it ourselves: as a rule they come within seconds.
pub const WAITED: time::Duration = time::Duration::seconds(30);
/// How many in a row must have come without one, and within which time, for somebody to be told.
const MISSED: i32 = 3;
const WITHIN: time::Duration = time::Duration::hours(1);
/// By how much a provider's clock may differ from ours.
const CLOCKS_DIFFER: time::Duration = time::Duration::seconds(5);

/// Counts a payment that was found paid.
pub fn count(provider: Provider, by: &'static str) {
    metrics::counter!("tillwire_payments_found_total", "provider" => provider.as_str(), "by" => by).increment(1);
}

/// A payment was found paid. If no notification has just said so it is written down, until it is known whether one comes. That it
/// cannot be is no reason to stop anything.
pub async fn note(
    app: &PgPool,
    (merchant, account, provider): (MerchantId, Uuid, Provider),
    payment: PaymentId,
    paid_at: Option<Moment>,
    is_told: bool,
) {
    if is_told {
        return count(provider, "notice");
    }
    if let Err(error) = insert(app, merchant, account, payment, paid_at).await {
        debug!(%payment, "Nobody will know whether a notification of a payment came: {error:?}");
    }
}

async fn insert(
    app: &PgPool,
    merchant: MerchantId,
    account: Uuid,
    payment: PaymentId,
    paid_at: Option<Moment>,
) -> Result<()> {
    let mut sql = pool::begin_of(app, merchant).await?;
    sqlx::query!(
        "insert into payments_polled (merchant_id, payment_id, account_id, paid_at)
         values ($1, $2, $3, least($4, clock_timestamp())) on conflict do nothing",
        merchant.0,
        payment.0,
        account,
        paid_at,
    )
    .execute(&mut *sql)
    .await?;
    Ok(sql.commit().await?)
}

/// Payments of which it is time to know how they were found, of all merchants. `app` is the application's pool.
pub async fn due(app: &PgPool, due_max: i32) -> Result<Vec<(MerchantId, PaymentId)>> {
    let rows = sqlx::query!(
        r#"select merchant as "merchant!", payment as "payment!"
           from payments_polled_due(make_interval(secs => $1), $2)"#,
        WAITED.as_seconds_f64(),
        due_max,
    )
    .fetch_all(app)
    .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), PaymentId(row.payment))).collect())
}

/// Says how a payment was found; and tells the merchant if its account's notifications do not come. None if somebody has said it
/// already.
pub async fn judge(tx: &mut MerchantTx, payment: PaymentId) -> Result<Option<(Provider, bool)>> {
    let merchant = tx.merchant();
    let polled = sqlx::query!(
        "delete from payments_polled where merchant_id = $1 and payment_id = $2 returning account_id, paid_at, found_at",
        merchant.0,
        payment.0,
    )
    .fetch_optional(tx.sql())
    .await?;
    let Some(polled) = polled else { return Ok(None) };
    let account = kept::get(tx.sql(), merchant, polled.account_id).await?;
    // One that came before the customer paid is about something else. Ids are in the order of time.
    let earliest = polled.paid_at.min(polled.found_at) - CLOCKS_DIFFER;
    let was_told = sqlx::query_scalar!(
        r#"select exists (select from provider_inbox
                          where merchant_id = $1 and inbox_id >= $2 and payment_id = $3 and received_at >= $4) as "told!""#,
        merchant.0,
        first_id(earliest),
        payment.0,
        earliest,
    )
    .fetch_one(tx.sql())
    .await?;
    if was_told {
        return Ok(Some((account.provider, true)));
    }
    let missed = sqlx::query!(
        r#"insert into provider_health as kept (merchant_id, account_id, missed, missed_at) values ($1, $2, 1, $3)
           on conflict (merchant_id, account_id) do update
           set missed = case when kept.noticed_at > $3 then 0
                             when kept.missed_at >= $3::timestamptz - make_interval(secs => $4) then kept.missed + 1
                             else 1 end,
               -- Somebody was told of it, and it has lasted since.
               missed_at = case when kept.noticed_at > $3 then null
                                when kept.alerted_at is not null
                                     or kept.missed_at >= $3::timestamptz - make_interval(secs => $4)
                                then coalesce(kept.missed_at, $3)
                                else $3 end
           returning missed, alerted_at"#,
        merchant.0,
        account.id,
        polled.found_at,
        WITHIN.as_seconds_f64(),
    )
    .fetch_one(tx.sql())
    .await?;
    if missed.missed >= MISSED && missed.alerted_at.is_none() {
        sqlx::query!(
            "update provider_health set alerted_at = clock_timestamp() where merchant_id = $1 and account_id = $2",
            merchant.0,
            account.id,
        )
        .execute(tx.sql())
        .await?;
        let now = tx.now();
        tx.append(&Event::AlertRaised(missing(&account)), now)?;
    }
    Ok(Some((account.provider, false)))
}

fn missing(account: &kept::AccountView) -> AlertRaised {
    let kept::AccountView { provider, mode, webhook_path, .. } = account;
    AlertRaised {
        alert: "webhooks_missing".to_owned(),
        severity: Severity::Warning,
        title: format!("{provider} does not tell of payments"),
        detail: format!(
            "The last {MISSED} payments at {provider} ({}) were found paid without a notification: tills learn of them up to ten \
             seconds later. Check at {provider} that notifications go to this hub's address and {webhook_path}.",
            mode.as_str()
        ),
        subject: Some(account.id.to_string()),
        outlet: account.outlet,
        register: None,
    }
}

/// The least id that something could have that was received then: ids begin with 48 bits of milliseconds.
fn first_id(at: Moment) -> Uuid {
    let milliseconds = u128::try_from(at.unix_timestamp()).unwrap_or(0) * 1_000;
    Uuid::from_u128(milliseconds << 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_moment_comes_before_all_that_are_made_then_and_after_all_before() {
        let now = Moment::now_utc();
        assert!(first_id(now) <= Uuid::now_v7() && first_id(now + time::Duration::seconds(2)) > Uuid::now_v7());
        assert!(first_id(Moment::UNIX_EPOCH) < first_id(now));
    }
}
