//! The inbox: what providers tell by themselves. It is kept as it came before anybody reads it, so that nothing that was
//! answered with 2xx is lost, and what could not be dealt with at once is dealt with later.
//!
//! No provider signs all that it says, and both repeat themselves and speak out of turn. So a notification is a claim: as a
//! rule it only makes the payment's provider be asked at once.

use std::time::Duration;

use futures_util::FutureExt as _;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgPool;
use tillwire_channels::event::Severity;
use tillwire_channels::{MerchantId, PaymentId};
use tracing::{debug, error, info};
use uuid::Uuid;

use super::desk::{self, Cause, Desk};
use crate::accounts::{self, Account, Confirm};
use crate::commerce::payments::attempts::{self, Attempt};
use crate::commerce::payments::seen::misfit;
use crate::commerce::payments::tasks::{self, Kind as TaskKind};
use crate::commerce::payments::{self, Seen, State};
use crate::connectors::credentials::Provider;
use crate::connectors::report::{Kind, Notice};
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, pool};

/// The largest notification, in bytes. Real ones have a few kilobytes.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// What is kept of one that is not its provider's.
const FORGED_BYTES_MAX: usize = 4 * 1024;
/// How often somebody comes back to one that cannot be dealt with: for about four days.
const TRIES_MAX: i32 = 12;
/// How many headers of a request are kept, and how much of each.
const HEADERS_MAX: usize = 20;
const NAME_BYTES_MAX: usize = 64;
const HEADER_CHARS_MAX: usize = 256;
/// Headers that are secrets, or lead to some.
const SECRETS: [&str; 4] = ["x-callback-token", "authorization", "cookie", "proxy-authorization"];

/// What came of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its payment is looked at.
    Applied,
    /// It was told before.
    Duplicate,
    /// There is no such payment.
    Unmatched,
    /// It is about nothing of ours.
    Ignored,
    /// It does not prove to be its provider's.
    Forged,
    /// It says nothing that could be read.
    Unreadable,
    /// It does not fit its payment: a person is told.
    Parked,
}

impl Outcome {
    pub const ALL: [Self; 7] =
        [Self::Applied, Self::Duplicate, Self::Unmatched, Self::Ignored, Self::Forged, Self::Unreadable, Self::Parked];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Unmatched => "unmatched",
            Self::Ignored => "ignored",
            Self::Forged => "forged",
            Self::Unreadable => "unreadable",
            Self::Parked => "parked",
        }
    }
}

/// What is to be written down of a notification that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Dealt {
    outcome: Outcome,
    payment: Option<PaymentId>,
}

impl Desk {
    /// Keeps a notification, and deals with it. When this answers, both are committed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the merchant has no such account; [`Error::Unauthenticated`] if it is not the provider's. After any
    /// other error it may come again; if it was kept it is dealt with by itself.
    pub async fn receive(
        &self,
        merchant: MerchantId,
        account: Uuid,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Outcome> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let account = accounts::open(&mut sql, &self.vault, merchant, account).await?;
        let connector = account.credentials.connector();
        let is_forged = connector.verify(headers, body).is_err();
        let inbox = Uuid::now_v7();
        sqlx::query!(
            "insert into provider_inbox (merchant_id, inbox_id, account_id, headers, body, outcome)
             values ($1, $2, $3, $4, $5, $6)",
            merchant.0,
            inbox,
            account.id,
            kept(headers),
            if is_forged { &body[..body.len().min(FORGED_BYTES_MAX)] } else { body },
            is_forged.then_some(Outcome::Forged.as_str()),
        )
        .execute(&mut *sql)
        .await?;
        sql.commit().await?;
        if is_forged {
            info!(account = %account.id, "A notification is not {}'s", account.provider);
            count(&account, Outcome::Forged);
            return Err(Error::Unauthenticated("not_the_provider"));
        }
        self.deal_with(merchant, inbox, &account, body, account.confirm == Confirm::Fast).await
    }

    /// Deals with a notification that was kept and left. It was its provider's; what it says is asked for all the same.
    pub async fn resume(&self, merchant: MerchantId, inbox: Uuid) -> Result<Option<Outcome>> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let row = sqlx::query!(
            "update provider_inbox
             set tries = tries + 1, due_at = clock_timestamp() + make_interval(secs => 5 * power(3, least(tries, 8)))
             where merchant_id = $1 and inbox_id = $2 and outcome is null and due_at <= clock_timestamp()
             returning account_id, body, tries",
            merchant.0,
            inbox
        )
        .fetch_optional(&mut *sql)
        .await?;
        sql.commit().await?;
        let Some(row) = row else { return Ok(None) };
        if row.tries > TRIES_MAX {
            error!(%inbox, "A notification could not be dealt with, and is left: its payment is asked for anyway");
            return self.mark_as(merchant, inbox, row.account_id, Outcome::Unreadable).await.map(Some);
        }
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let account = accounts::open(&mut sql, &self.vault, merchant, row.account_id).await?;
        drop(sql);
        self.deal_with(merchant, inbox, &account, &row.body, false).await.map(Some)
    }

    async fn deal_with(
        &self,
        merchant: MerchantId,
        inbox: Uuid,
        account: &Account,
        body: &[u8],
        is_believed: bool,
    ) -> Result<Outcome> {
        let notice = match account.credentials.connector().notice(body) {
            Ok(notice) => notice,
            Err(why) => {
                info!(account = %account.id, "A notification of {} cannot be read: {why}", account.provider);
                return self.mark(merchant, inbox, account, Outcome::Unreadable).await;
            }
        };
        if !matches!(notice.kind, Kind::Payment | Kind::Refund | Kind::Session) {
            return self.mark(merchant, inbox, account, Outcome::Ignored).await;
        }
        let (about, hint) = (account.clone(), notice.claims.ids.clone());
        let dealt = self
            .journal
            .act(merchant, move |tx| {
                let (notice, account) = (notice.clone(), about.clone());
                async move { deal(tx, inbox, &account, &notice, is_believed).await }.boxed()
            })
            .await?;
        count(account, dealt.outcome);
        if let (Outcome::Applied | Outcome::Parked | Outcome::Duplicate, Some(payment)) = (dealt.outcome, dealt.payment)
        {
            let desk = self.clone();
            self.journal.tasks().spawn(async move {
                let cause = Cause { prompted: true, hint, ..Cause::default() };
                if let Err(error) = desk.attend(merchant, payment, cause).await {
                    debug!(%payment, "A payment is attended to later: {error:?}");
                }
            });
        }
        Ok(dealt.outcome)
    }

    /// Writes down what came of a notification that nothing follows from.
    async fn mark(&self, merchant: MerchantId, inbox: Uuid, account: &Account, outcome: Outcome) -> Result<Outcome> {
        count(account, outcome);
        self.mark_as(merchant, inbox, account.id, outcome).await
    }

    async fn mark_as(&self, merchant: MerchantId, inbox: Uuid, account: Uuid, outcome: Outcome) -> Result<Outcome> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        sqlx::query!(
            "update provider_inbox set outcome = $4
             where merchant_id = $1 and inbox_id = $2 and account_id = $3 and outcome is null",
            merchant.0,
            inbox,
            account,
            outcome.as_str(),
        )
        .execute(&mut *sql)
        .await?;
        sql.commit().await?;
        Ok(outcome)
    }
}

fn count(account: &Account, outcome: Outcome) {
    let provider = account.provider.as_str();
    metrics::counter!("tillwire_provider_notices_total", "provider" => provider, "outcome" => outcome.as_str())
        .increment(1);
}

/// Notifications that were kept, and that nobody has come to since, of all merchants.
pub async fn due(app: &PgPool, of_one_max: i32, due_max: i32) -> Result<Vec<(MerchantId, Uuid)>> {
    let rows = sqlx::query!(
        r#"select merchant as "merchant!", inbox as "inbox!" from provider_inbox_due($1, $2)"#,
        of_one_max,
        due_max,
    )
    .fetch_all(app)
    .await?;
    Ok(rows.into_iter().map(|row| (MerchantId(row.merchant), row.inbox)).collect())
}

/// All that follows from a notification, in one transaction with the word that it was dealt with.
async fn deal(
    tx: &mut MerchantTx,
    inbox: Uuid,
    account: &Account,
    notice: &Notice,
    is_believed: bool,
) -> Result<Dealt> {
    let merchant = tx.merchant();
    let is_new = sqlx::query!(
        "insert into provider_notices (merchant_id, account_id, dedupe, inbox_id) values ($1, $2, $3, $4)
         on conflict do nothing",
        merchant.0,
        account.id,
        notice.dedupe,
        inbox,
    )
    .execute(tx.sql())
    .await?
    .rows_affected()
        > 0;
    let attempt = match_up(tx, account, notice).await?;
    let outcome = match &attempt {
        None => Outcome::Unmatched,
        Some(attempt) if !is_new => {
            // Perhaps it was no truth before, and is now: somebody may have said it who could not wait. So may money that is late.
            if attempt.state.is_open() || attempt.state.ended_unpaid() {
                attempts::prompt(tx.sql(), merchant, attempt.payment).await?;
            }
            Outcome::Duplicate
        }
        Some(attempt) => follow(tx, account, attempt, notice, is_believed).await?,
    };
    let payment = attempt.map(|it| it.payment);
    sqlx::query!(
        "update provider_inbox set outcome = $3, payment_id = $4 where merchant_id = $1 and inbox_id = $2",
        merchant.0,
        inbox,
        outcome.as_str(),
        payment.map(|it| it.0),
    )
    .execute(tx.sql())
    .await?;
    Ok(Dealt { outcome, payment })
}

async fn follow(
    tx: &mut MerchantTx,
    account: &Account,
    attempt: &Attempt,
    notice: &Notice,
    is_believed: bool,
) -> Result<Outcome> {
    let merchant = tx.merchant();
    let seen: Seen = desk::seen(attempt, account, notice.claims.clone(), false)?;
    let misfit = misfit(attempt, &seen);
    let other = notice.claims.merchant.as_ref().filter(|it| *it != account.credentials.merchant_there());
    // Of what Midtrans signs, only a code that is good for nothing but money is believed; Xendit signs nothing.
    let is_signed = account.provider == Provider::Midtrans && seen.state == Some(State::Paid);
    if is_believed && is_signed && other.is_none() && misfit.is_none() {
        // Before it is asked for: whoever writes down what is known of a payment locks its sale first.
        payments::apply(tx, attempt.payment, &seen, None).await?;
        attempts::prompt(tx.sql(), merchant, attempt.payment).await?;
        return Ok(Outcome::Applied);
    }
    attempts::prompt(tx.sql(), merchant, attempt.payment).await?;
    let (kind, detail) = match (other, misfit) {
        (Some(other), _) => {
            let detail = format!("The notification is about the merchant {other}, which this account is not.");
            (TaskKind::MerchantDiffers, detail)
        }
        (None, Some(misfit)) => misfit,
        (None, None) => return Ok(Outcome::Applied),
    };
    tasks::open(tx, attempt, kind, Severity::Critical, detail).await?;
    Ok(Outcome::Parked)
}

/// The payment that a notification is about: by our own name for it, or by its provider's.
async fn match_up(tx: &mut MerchantTx, account: &Account, notice: &Notice) -> Result<Option<Attempt>> {
    let merchant = tx.merchant();
    let claims = &notice.claims;
    let ours = claims.reference.as_deref().and_then(|text| Uuid::try_parse(text).ok());
    let id = |id: &Option<crate::connectors::payment::Id>| id.as_ref().map(ToString::to_string);
    if let Some(ours) = ours {
        match attempts::get(tx.sql(), merchant, PaymentId(ours)).await {
            Ok(attempt) if attempt.account == account.id => return Ok(Some(attempt)),
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let found = sqlx::query_scalar!(
        "select payment_id from payment_attempts where merchant_id = $1 and account_id = $2 and request_there = $3
         union all
         select payment_id from payment_attempts where merchant_id = $1 and account_id = $2 and payment_there = $4
         union all
         select payment_id from payment_attempts where merchant_id = $1 and account_id = $2 and session_there = $5
         limit 1",
        merchant.0,
        account.id,
        id(&claims.ids.request),
        id(&claims.ids.payment),
        id(&claims.ids.session),
    )
    .fetch_optional(tx.sql())
    .await?
    .flatten();
    match found {
        Some(payment) => attempts::get(tx.sql(), merchant, PaymentId(payment)).await.map(Some),
        None => Ok(None),
    }
}

/// What is kept of headers: no secrets, and not without bounds.
fn kept(headers: &HeaderMap) -> Value {
    let kept: Map<String, Value> = headers
        .iter()
        .filter(|(name, _)| !SECRETS.contains(&name.as_str()) && name.as_str().len() <= NAME_BYTES_MAX)
        .filter_map(|(name, value)| value.to_str().ok().map(|value| (name, value)))
        .take(HEADERS_MAX)
        .map(|(name, value)| (name.to_string(), Value::String(value.chars().take(HEADER_CHARS_MAX).collect())))
        .collect();
    Value::Object(kept)
}

/// How long whoever notifies is let wait, at most: providers want an answer within five seconds.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_request_has_no_secrets_and_has_bounds() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-callback-token", "hush"), ("authorization", "Basic hush"), ("user-agent", "Veritrans")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        headers.insert("x-long", "a".repeat(10_000).parse().unwrap());
        let kept = kept(&headers);
        assert!(!kept.to_string().contains("hush"));
        assert_eq!(kept["user-agent"], "Veritrans");
        assert_eq!(kept["x-long"].as_str().unwrap().len(), HEADER_CHARS_MAX);
    }
}
