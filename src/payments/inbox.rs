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
use tillwire_channels::event::Severity;
use tillwire_channels::{MerchantId, PaymentId};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::desk::{self, Cause, Desk};
use crate::accounts::{self, Account, Confirm, found};
use crate::commerce::payments::attempts::{self, Attempt};
use crate::commerce::payments::held::{self, Held};
use crate::commerce::payments::seen::misfit;
use crate::commerce::payments::tasks::{self, Kind as TaskKind};
use crate::commerce::payments::{self, Seen, State};
use crate::connectors::Unreadable;
use crate::connectors::credentials::Provider;
use crate::connectors::report::{Kind, Notice};
use crate::error::{Error, Result};
use crate::journal::{MerchantTx, pool};

/// How long whoever notifies is let wait, at most: providers want an answer within five seconds.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
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
struct Parcel {
    inbox: Uuid,
    headers: Value,
    body: Bytes,
}

/// What was written down of a notification that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Dealt {
    outcome: Outcome,
}

/// That an account was changed after it was opened: nothing of what it was good for is written down.
const ACCOUNT_CHANGED: &str = "account_changed";
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
        let mut sql = pool::begin_of(&self.journal.pools.app, merchant).await?;
        let account = accounts::open(&mut sql, &self.vault, merchant, account).await?;
        Ok(self.known.learn(merchant, account))
    }

    /// Refuses what is not its provider's. Some of it is kept to be looked at, and the rest is counted: a flood costs neither
    /// room nor connections. What nobody signs, and nothing follows from, is only passed over: its provider would tell it again.
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
        let account = self.open(merchant, row.account_id).await?;
        self.deal_with(merchant, &account, parcel, false).await.map(Some)
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
        // What finds no turn is left to whoever looks what is due.
        let turn = self.turns.begin_now(merchant);
        let (taken, hint, is_free) = (Arc::new(Mutex::default()), heard.notice.claims.ids.clone(), turn.is_some());
        let (about, takes) = (account.clone(), taken.clone());
        let dealt: Dealt = self
            .journal
            .act(merchant, move |tx| {
                let (parcel, about, heard, takes) = (parcel.clone(), about.clone(), heard.clone(), takes.clone());
                async move {
                    let (dealt, held) = deal(tx, &parcel, &about, &heard, is_believed, is_free).await?;
                    *lock(&takes) = held;
                    Ok(dealt)
                }
                .boxed()
            })
            .await?;
        count(account, dealt.outcome);
        let held = lock(&taken).take();
        if let Some(held) = held {
            let (desk, account) = (self.clone(), account.clone());
            self.journal.tasks().spawn(async move {
                let (_turn, payment) = (turn, held.attempt.payment);
                let cause = Cause { prompted: true, hint, ..Cause::default() };
                if let Err(error) = desk.serve(&held, &account, cause).await {
                    debug!(%payment, "A payment is attended to later: {error:?}");
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

/// What a notification says.
#[derive(Clone)]
struct Heard {
    notice: Notice,
    /// A field that should be an amount and is none: then only what it is about is known, and the rest is the provider's to say.
    unread: Option<&'static str>,
}

impl Heard {
    /// # Errors
    /// With what comes of one that nothing follows from.
    fn of(account: &Account, parcel: &Parcel) -> std::result::Result<Self, Outcome> {
        let (id, provider, inbox) = (account.id, account.provider, parcel.inbox);
        let why = match account.credentials.connector().notice(&parcel.body) {
            Ok(notice) => match notice.kind {
                Kind::Payment | Kind::Refund | Kind::Session => return Ok(Self { notice, unread: None }),
                Kind::Subscription => return Err(Outcome::Ignored),
                Kind::Unknown => {
                    let event = notice.event.as_deref().unwrap_or("something without a name");
                    warn!(account = %id, %inbox, "{provider} tells of what nobody here knows: {event}");
                    return Err(Outcome::Unknown);
                }
            },
            Err(why) => why,
        };
        warn!(account = %id, %inbox, "A notification of {provider} cannot be read: {why}");
        match why {
            Unreadable::NotMoney(field, notice) => Ok(Self { notice: *notice, unread: Some(field) }),
            Unreadable::TooLong | Unreadable::NotJson => Err(Outcome::Unreadable),
        }
    }
}

/// A notification and all that follows from it, in one transaction. Gives its payment as well, if that is to be looked at and
/// nobody else does.
async fn deal(
    tx: &mut MerchantTx,
    parcel: &Parcel,
    account: &Account,
    heard: &Heard,
    is_believed: bool,
    is_free: bool,
) -> Result<(Dealt, Option<Held>)> {
    let attempt = match_up(tx, account, &heard.notice).await?;
    let claim = attempt.as_ref().map(|attempt| claim(account, attempt, heard)).transpose()?;
    let [if_new, if_told] = match &claim {
        None if heard.unread.is_some() => [Outcome::Unreadable; 2],
        None => [Outcome::Unmatched; 2],
        Some(Claim::Misfit(..)) => [Outcome::Parked, Outcome::Duplicate],
        Some(Claim::Fits(_)) => [Outcome::Applied, Outcome::Duplicate],
    };
    let payment = attempt.as_ref().map(|it| it.payment);
    let is_new = write_down(tx, parcel, account, &heard.notice, payment, [if_new, if_told]).await?;
    let dealt = Dealt { outcome: if is_new { if_new } else { if_told } };
    let (Some(attempt), Some(claim)) = (attempt, claim) else { return Ok((dealt, None)) };
    // Perhaps it was no truth before, and is now: somebody may have said it who could not wait. So may money that is late.
    if !is_new && !attempt.state.is_open() && !attempt.state.ended_unpaid() {
        return Ok((dealt, None));
    }
    // Of what Midtrans signs, only a code that is good for nothing but money is believed, and of a card that is held first there
    // was the same before; Xendit signs nothing.
    if let Claim::Fits(seen) = &claim
        && is_new
        && is_believed
        && !attempt.hold
        && account.provider == Provider::Midtrans
        && seen.state == Some(State::Paid)
    {
        // It locks the sale, which comes before its attempts.
        if payments::apply(tx, attempt.payment, seen, None).await?.is_money_found() {
            found::count(account.provider, "notice");
        }
    }
    let held = held::prompt(tx, &attempt, is_free).await?;
    if let Claim::Misfit(kind, detail) = claim
        && is_new
    {
        tasks::open(tx, &attempt, kind, Severity::Critical, detail).await?;
    }
    Ok((dealt, held))
}

/// Writes down a notification, that it was told, and what comes of it the first time and later. Answers whether it is the first.
///
/// # Errors
/// [`ACCOUNT_CHANGED`] if its account is not what it was.
async fn write_down(
    tx: &mut MerchantTx,
    parcel: &Parcel,
    account: &Account,
    notice: &Notice,
    payment: Option<PaymentId>,
    [if_new, if_told]: [Outcome; 2],
) -> Result<bool> {
    let merchant = tx.merchant();
    let told = sqlx::query!(
        r#"with noticed as (
             insert into provider_notices (merchant_id, account_id, dedupe, inbox_id) values ($1, $2, $3, $4)
             on conflict do nothing returning true
         ), kept as (
             insert into provider_inbox (merchant_id, inbox_id, account_id, headers, body, payment_id, outcome)
             values ($1, $4, $2, $5, $6, $7, case when exists (select from noticed) then $8 else $9 end)
             on conflict (merchant_id, inbox_id) do update
             set payment_id = excluded.payment_id, outcome = excluded.outcome
         )
         select version, exists (select from noticed) as "is_new!" from provider_accounts
         where merchant_id = $1 and account_id = $2"#,
        merchant.0,
        account.id,
        notice.dedupe,
        parcel.inbox,
        parcel.headers,
        &*parcel.body,
        payment.map(|it| it.0),
        if_new.as_str(),
        if_told.as_str(),
    )
    .fetch_optional(tx.sql())
    .await?;
    match told {
        Some(told) if told.version == account.version => Ok(told.is_new),
        _ => Err(Error::conflict(ACCOUNT_CHANGED, "The account was changed.")),
    }
}

/// What a notification says of a payment of ours.
enum Claim {
    Fits(Box<Seen>),
    /// It is not of this payment: a person is told.
    Misfit(TaskKind, String),
}

fn claim(account: &Account, attempt: &Attempt, heard: &Heard) -> Result<Claim> {
    if let Some(field) = heard.unread {
        let detail =
            format!("{} tells of it, and `{field}` is no amount in whole rupiah: look there.", account.provider);
        return Ok(Claim::Misfit(TaskKind::AmountDiffers, detail));
    }
    let seen = desk::seen(attempt, account, heard.notice.claims.clone(), false)?;
    Ok(match misfit(attempt, &seen) {
        Some((kind, detail)) => Claim::Misfit(kind, detail),
        None => Claim::Fits(Box::new(seen)),
    })
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
