//! What notifications claim, and what follows from it in the transaction that keeps them: their payment is prompted, a person is
//! told, and of some accounts what is signed is believed.

use serde::{Deserialize, Serialize};
use tillwire_channels::PaymentId;
use tillwire_channels::event::Severity;
use tracing::warn;
use uuid::Uuid;

use super::desk;
use super::inbox::{ACCOUNT_CHANGED, Outcome, Parcel};
use crate::accounts::{Account, found};
use crate::commerce::payments::attempts::{self, Attempt};
use crate::commerce::payments::held::{self, Held};
use crate::commerce::payments::seen::misfit;
use crate::commerce::payments::tasks::{self, Kind as TaskKind};
use crate::commerce::payments::{self, Seen, State, refunds};
use crate::connectors::Unreadable;
use crate::connectors::habits::habits;
use crate::connectors::payment::Id;
use crate::connectors::report::{Kind, Notice};
use crate::error::{Error, Result};
use crate::journal::MerchantTx;
use crate::turns::{OwnTurn, Turns};

/// What a notification says.
#[derive(Clone)]
pub(super) struct Heard {
    pub notice: Notice,
    /// A field that should be an amount and is none: then only what it is about is known, and the rest is the provider's to say.
    unread: Option<&'static str>,
}

impl Heard {
    /// # Errors
    /// With what comes of one that nothing follows from.
    pub fn of(account: &Account, parcel: &Parcel) -> std::result::Result<Self, Outcome> {
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

/// What was written down of a notification that was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dealt {
    pub outcome: Outcome,
}

/// A notification and all that follows from it, in one transaction. Gives its payment as well, if that is to be looked at and
/// nobody else does, with the turn that there was for that.
pub(super) async fn deal(
    tx: &mut MerchantTx,
    parcel: &Parcel,
    account: &Account,
    heard: &Heard,
    is_believed: bool,
    turns: &Turns,
) -> Result<(Dealt, Option<(Held, OwnTurn)>)> {
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
    // Perhaps it was no truth before, and is now: somebody may have said it who could not wait. So may money that is late. But of
    // what has found its money nothing is left to be known; `prompt` asks that again, with the row locked.
    if !is_new && !attempt.state.is_unpaid() {
        return Ok((dealt, None));
    }
    // Of what is signed, only a code that is good for nothing but money is believed; of a card that is held first there was the
    // same before. And only of the payment that is named by our reference: that alone is signed of its names.
    if let Claim::Fits(seen) = &claim
        && is_new
        && is_believed
        && !attempt.hold
        && heard.notice.claims.reference == Some(attempt.payment.to_string())
        && habits(account.provider).signs_payments
        && seen.state == Some(State::Paid)
    {
        // It locks the sale, which comes before its attempts.
        if payments::apply(tx, attempt.payment, seen, None).await?.is_money_found() {
            found::count(account.provider, "notice");
        }
    }
    // After whoever told the same had to be waited for: until then others have the turn. What finds none is left to whoever looks
    // what is due.
    let merchant = tx.merchant();
    let turn = turns.begin_now(merchant);
    let held = held::prompt(tx, &attempt, is_new, turn.is_some()).await?;
    if is_new && !attempt.state.is_open() {
        refunds::held::prompt(tx.sql(), merchant, attempt.payment).await?;
    }
    if let Claim::Misfit(kind, detail) = claim
        && is_new
    {
        tasks::open(tx, &attempt, kind, Severity::Critical, detail).await?;
    }
    Ok((dealt, held.zip(turn)))
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
    let id = |id: &Option<Id>| id.as_ref().map(ToString::to_string);
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
