//! The inbox: what providers tell by themselves. It is kept as it came, in the commit of what follows from it or, where that
//! fails, by itself: nothing that was answered with 2xx is lost, and what could not be dealt with at once is dealt with later.
//!
//! No provider signs all that it says, and both repeat themselves and speak out of turn. So a notification is a claim: as a
//! rule it only makes the payment's provider be asked at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgPool;
use tillwire_channels::MerchantId;
use tokio::time::timeout;
use tracing::{debug, error, info};
use uuid::Uuid;

use super::claims::{Dealt, Heard, deal};
use super::desk::{Cause, Desk};
use crate::accounts::{Account, Confirm};
use crate::commerce::payments::held::LEASE;
use crate::connectors::report::Kind;
use crate::error::{Error, Result};
use crate::journal::pool;

/// How long whoever notifies is let wait, at most: providers want an answer within five seconds.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How many a node works on at once, apart from all else: whoever is at that door has proved nothing yet.
pub const AT_ONCE_MAX: usize = 128;
/// What is kept of one that is not its provider's, if it is kept at all.
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
    /// Nobody here knows what it tells of.
    Unknown,
    /// It does not prove to be its provider's.
    Forged,
    /// It says nothing that could be read.
    Unreadable,
    /// It does not fit its payment: a person is told.
    Parked,
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Applied,
        Self::Duplicate,
        Self::Unmatched,
        Self::Ignored,
        Self::Unknown,
        Self::Forged,
        Self::Unreadable,
        Self::Parked,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Unmatched => "unmatched",
            Self::Ignored => "ignored",
            Self::Unknown => "unknown",
            Self::Forged => "forged",
            Self::Unreadable => "unreadable",
            Self::Parked => "parked",
        }
    }
}

/// A notification, to be written down together with what came of it.
#[derive(Clone)]
pub(super) struct Parcel {
    pub inbox: Uuid,
    pub headers: Value,
    pub body: Bytes,
}

/// That an account was changed after it was opened: nothing of what it was good for is written down.
pub(super) const ACCOUNT_CHANGED: &str = "account_changed";
/// How long a look because of a notification may take: its lease is over by then, and it waits for what never answers.
const SERVED_WITHIN: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// How often an account is opened that is changed meanwhile.
const OPENED_MAX: u32 = 3;

impl Desk {
    /// Keeps a notification, together with what follows from it. When this answers, both are committed.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the merchant has no such account; [`Error::Unauthenticated`] if it is not the provider's. After any
    /// other error it may come again; if it was kept it is dealt with by itself.
    pub async fn receive(
        &self,
        merchant: MerchantId,
        account: Uuid,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Outcome> {
        let (inbox, mut opened) = (Uuid::now_v7(), 1);
        loop {
            let mut known = match self.known.get(merchant, account) {
                Some(known) => known,
                None => self.open(merchant, account).await?,
            };
            if known.credentials.connector().verify(headers, body).is_err() {
                if self.known.doubts(merchant, account) {
                    known = self.open(merchant, account).await?;
                }
                if known.credentials.connector().verify(headers, body).is_err() {
                    return self.refuse(merchant, &known, headers, body).await;
                }
            }
            self.caller().heard(known.provider, known.mode);
            let parcel = Parcel { inbox, headers: kept(headers), body: body.clone() };
            let is_believed = known.confirm == Confirm::Fast;
            match self.deal_with(merchant, &known, parcel.clone(), is_believed).await {
                Err(Error::Conflict { code: ACCOUNT_CHANGED, .. }) if opened < OPENED_MAX => {
                    self.known.forget(merchant, account);
                    opened += 1;
                }
                Ok(outcome) => {
                    self.pulse.noticed(merchant, account);
                    return Ok(outcome);
                }
                Err(error) => {
                    // It is the provider's, and somebody comes back to it.
                    self.keep(merchant, known.id, Some(known.version), parcel, None).await?;
                    self.pulse.noticed(merchant, account);
                    return Err(error);
                }
            }
        }
    }

    /// Opens an account, and keeps it in mind for those that follow.
    async fn open(&self, merchant: MerchantId, account: Uuid) -> Result<Arc<Account>> {
        Ok(self.known.learn(merchant, self.account(merchant, account).await?))
    }

    /// Refuses what is not its provider's. Some of it is kept to be looked at, and the rest is counted: a flood costs neither
    /// room nor connections. What Midtrans does not sign, and nothing follows from, is not refused: it would come five times more.
    async fn refuse(
        &self,
        merchant: MerchantId,
        account: &Account,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Outcome> {
        let is_of_a_plan =
            matches!(account.credentials.connector().notice(body), Ok(it) if it.kind == Kind::Subscription);
        let outcome = if is_of_a_plan { Outcome::Ignored } else { Outcome::Forged };
        count(account, outcome);
        if self.known.keeps_forgery(merchant, account.id) {
            info!(account = %account.id, outcome = outcome.as_str(), "A notification does not prove to be {}'s", account.provider);
            let body = body.slice(..body.len().min(FORGED_BYTES_MAX));
            let parcel = Parcel { inbox: Uuid::now_v7(), headers: kept(headers), body };
            self.keep(merchant, account.id, None, parcel, Some(outcome)).await?;
        }
        if is_of_a_plan { Ok(outcome) } else { Err(Error::Unauthenticated("not_the_provider")) }
    }

    /// Deals with a notification that was kept and left. It was its provider's; what it says is asked for all the same.
    pub async fn resume(&self, merchant: MerchantId, inbox: Uuid) -> Result<Option<Outcome>> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let row = sqlx::query!(
            "update provider_inbox
             set tries = tries + 1, due_at = clock_timestamp() + make_interval(secs => 5 * power(3, least(tries, 8)))
             where merchant_id = $1 and inbox_id = $2 and outcome is null and due_at <= clock_timestamp()
             returning account_id, headers, body, tries",
            merchant.0,
            inbox
        )
        .fetch_optional(&mut *sql)
        .await?;
        sql.commit().await?;
        let Some(row) = row else { return Ok(None) };
        let parcel = Parcel { inbox, headers: row.headers, body: row.body.into() };
        if row.tries > TRIES_MAX {
            error!(%inbox, "A notification could not be dealt with, and is left: its payment is asked for anyway");
            self.keep(merchant, row.account_id, None, parcel, Some(Outcome::Unreadable)).await?;
            return Ok(Some(Outcome::Unreadable));
        }
        let dealt = match self.open(merchant, row.account_id).await {
            Ok(account) => self.deal_with(merchant, &account, parcel, false).await,
            Err(error) => Err(error),
        };
        match dealt {
            Err(error) if error.is_passing() => {
                // That was not the notification's: the next try comes as soon as the first. After a day nobody knows whose it is.
                let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
                sqlx::query!(
                    "update provider_inbox set tries = tries - 1, due_at = clock_timestamp() + interval '5 seconds'
                     where merchant_id = $1 and inbox_id = $2 and outcome is null and tries > 0
                       and received_at > clock_timestamp() - interval '1 day'",
                    merchant.0,
                    inbox
                )
                .execute(&mut *sql)
                .await?;
                sql.commit().await?;
                Err(error)
            }
            dealt => dealt.map(Some),
        }
    }

    /// Keeps it with all that follows from it, in one transaction; its payment is looked at afterwards.
    async fn deal_with(
        &self,
        merchant: MerchantId,
        account: &Arc<Account>,
        parcel: Parcel,
        is_believed: bool,
    ) -> Result<Outcome> {
        let heard = match Heard::of(account, &parcel) {
            Ok(heard) => heard,
            Err(outcome) => return self.set_aside(merchant, account, parcel, outcome).await,
        };
        let (taken, hint) = (Arc::new(Mutex::default()), heard.notice.claims.ids.clone());
        let (about, takes, turns) = (account.clone(), taken.clone(), self.turns.clone());
        let dealt: Result<Dealt> = self
            .journal
            .act(merchant, move |tx| {
                let (parcel, about, heard) = (parcel.clone(), about.clone(), heard.clone());
                let (takes, turns) = (takes.clone(), turns.clone());
                async move {
                    let (dealt, held) = deal(tx, &parcel, &about, &heard, is_believed, &turns).await?;
                    *lock(&takes) = held;
                    Ok(dealt)
                }
                .boxed()
            })
            .await;
        let held = lock(&taken).take();
        let dealt = match dealt {
            Ok(dealt) => dealt,
            Err(error) => {
                if let Some((held, _)) = held {
                    // It may have been committed all the same. Whoever told it is not let wait for that.
                    let desk = self.clone();
                    self.journal.tasks().spawn(async move { desk.let_go(&held, Duration::ZERO).await });
                }
                return Err(error);
            }
        };
        count(account, dealt.outcome);
        if let Some((held, turn)) = held {
            let (desk, account) = (self.clone(), account.clone());
            self.journal.tasks().spawn(async move {
                let (_turn, payment) = (turn, held.attempt.payment);
                let cause = Cause { prompted: true, hint, ..Cause::default() };
                match timeout(SERVED_WITHIN, desk.serve(&held, &account, cause)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => debug!(%payment, "A payment is attended to later: {error:?}"),
                    Err(_) => debug!(%payment, "A payment is attended to once more: this comes to no end"),
                }
            });
        }
        Ok(dealt.outcome)
    }

    /// Keeps a notification that nothing follows from.
    async fn set_aside(
        &self,
        merchant: MerchantId,
        account: &Account,
        parcel: Parcel,
        outcome: Outcome,
    ) -> Result<Outcome> {
        self.keep(merchant, account.id, Some(account.version), parcel, Some(outcome)).await?;
        count(account, outcome);
        Ok(outcome)
    }

    /// Keeps a notification, unless it is kept; and what came of it, if that is known and was not. One that was believed by an
    /// account names its version.
    ///
    /// # Errors
    /// [`ACCOUNT_CHANGED`] if the account is of another version, and nothing was kept.
    async fn keep(
        &self,
        merchant: MerchantId,
        account: Uuid,
        version: Option<i64>,
        parcel: Parcel,
        outcome: Option<Outcome>,
    ) -> Result<()> {
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let kept = sqlx::query!(
            "insert into provider_inbox (merchant_id, inbox_id, account_id, headers, body, outcome)
             select $1, $2, $3, $4, $5, $6
             where $7::bigint is null or exists (select from provider_accounts
                                                 where merchant_id = $1 and account_id = $3 and version = $7)
             on conflict (merchant_id, inbox_id) do update
             set outcome = coalesce(provider_inbox.outcome, excluded.outcome)",
            merchant.0,
            parcel.inbox,
            account,
            parcel.headers,
            &*parcel.body,
            outcome.map(Outcome::as_str),
            version,
        )
        .execute(&mut *sql)
        .await?;
        if kept.rows_affected() == 0 {
            return Err(Error::conflict(ACCOUNT_CHANGED, "The account was changed."));
        }
        Ok(sql.commit().await?)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
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
