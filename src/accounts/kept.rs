//! What is kept of an account: changed by the merchant's owner, each time with a line in the audit, and shown without secrets.

use secrecy::ExposeSecret as _;
use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, Moment, OutletId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Confirm, place};
use crate::audit;
use crate::connectors::credentials::{Credentials, Mode, Provider};
use crate::error::{Error, OnConstraint as _, Result};
use crate::journal::MerchantTx;
use crate::vault::{KNOWN_FOR, Keyring, Sealed};

/// The most accounts of one merchant.
pub const ACCOUNTS_MAX: i64 = 200;
/// The most accounts that are listed at once.
pub const PAGE_MAX: u32 = 50;
/// How much of a key's end is shown, in bytes, and how long a key is at least whose end is.
const ENDS_BYTES: usize = 4;
const SHOWN_FROM_BYTES: usize = 24;

/// An account, as answered. Of its credentials nothing is shown but how the key ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountView {
    pub id: Uuid,
    pub provider: Provider,
    pub mode: Mode,
    pub label: String,
    /// The one outlet that it is for; none for all that have none of their own.
    pub outlet: Option<OutletId>,
    /// As the provider names the merchant.
    pub merchant_there: String,
    pub confirm: Confirm,
    pub enabled: bool,
    /// How the key ends, to tell it by: four characters, or none of a short one.
    pub key_ends: String,
    /// Since when the credentials are these.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub keys_since: Moment,
    /// What the provider is to be told to post to, behind this hub's own address.
    pub webhook_path: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Moment,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Moment,
    /// Rises with each change: for `If-Match`.
    pub version: i64,
}

/// A new account.
#[derive(Clone, Debug)]
pub struct Draft {
    pub credentials: Credentials,
    pub mode: Mode,
    pub settings: Settings,
}

/// What can be changed of an account.
#[derive(Clone, Debug)]
pub struct Settings {
    pub label: String,
    pub outlet: Option<OutletId>,
    pub confirm: Confirm,
    pub enabled: bool,
}

/// Adds an account.
///
/// # Errors
/// If its keys are none, or of the other mode; `account_known` if the merchant has it already; `another_enabled` if there is
/// one that would be meant as well.
pub async fn add(tx: &mut MerchantTx, id: Uuid, draft: &Draft, ring: &Keyring) -> Result<AccountView> {
    let Draft { credentials, mode, settings } = draft;
    credentials.check(*mode)?;
    let merchant = tx.merchant();
    tx.take_turn("provider accounts").await?;
    let count =
        sqlx::query_scalar!(r#"select count(*) as "count!" from provider_accounts where merchant_id = $1"#, merchant.0)
            .fetch_one(tx.sql())
            .await?;
    if count >= ACCOUNTS_MAX {
        let detail = format!("A merchant has {ACCOUNTS_MAX} accounts at payment providers at most.");
        return Err(Error::conflict("too_many_accounts", detail));
    }
    let sealed = ring.seal(place(&[id]), credentials.to_json().expose_secret().as_bytes())?;
    let inserted = sqlx::query!(
        "insert into provider_accounts (merchant_id, account_id, provider, mode, label, outlet_id, merchant_there, confirm,
                                        enabled, sealed, data_key, key_ends)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        merchant.0,
        id,
        credentials.provider().as_str(),
        mode.as_str(),
        settings.label,
        settings.outlet.map(|outlet| outlet.0),
        credentials.merchant_there(),
        settings.confirm.as_str(),
        settings.enabled,
        sealed.bytes,
        sealed.key,
        ends(credentials),
    )
    .execute(tx.sql())
    .await
    .on_constraint("provider_accounts_pkey", || Error::conflict_at("id_taken", "/id", "This id is in use."))
    .on_constraint("provider_accounts_data_key_fkey", || Error::Busy { retry_after: KNOWN_FOR })
    .on_constraint("provider_accounts_merchant_there_key", || {
        let detail = "This merchant has that account already: change its credentials there.";
        Error::conflict_at("account_known", "/credentials", detail)
    });
    refused(inserted)?;
    let view = get(tx.sql(), merchant, id).await?;
    note(tx, &view, "provider_account.added", &described(&view)).await?;
    Ok(view)
}

/// Makes an account what it is to be, its credentials aside; if it is still at a version, where one is named.
///
/// # Errors
/// `stale_version`; `another_enabled` if there is one that would be meant as well.
pub async fn replace(tx: &mut MerchantTx, id: Uuid, settings: &Settings, version: Option<i64>) -> Result<AccountView> {
    let merchant = tx.merchant();
    let before = held(tx, id, version).await?;
    let updated = sqlx::query!(
        "update provider_accounts
         set label = $3, outlet_id = $4, confirm = $5, enabled = $6, updated_at = clock_timestamp(), version = version + 1
         where merchant_id = $1 and account_id = $2",
        merchant.0,
        id,
        settings.label,
        settings.outlet.map(|outlet| outlet.0),
        settings.confirm.as_str(),
        settings.enabled,
    )
    .execute(tx.sql())
    .await
    .map_err(Error::from);
    refused(updated)?;
    let view = get(tx.sql(), merchant, id).await?;
    let action = match (before.enabled, view.enabled) {
        (false, true) => "provider_account.enabled",
        (true, false) => "provider_account.disabled",
        _ => "provider_account.changed",
    };
    note(tx, &view, action, &described(&view)).await?;
    Ok(view)
}

/// Gives an account other credentials of the same account: for a change of keys, perhaps with two callback tokens for a while; or,
/// with the same key, for another name of the merchant, which somebody had mistyped.
///
/// # Errors
/// If they are none, of the other mode, or `another_account`'s; `account_proven` if money has come by its name; `account_known` if
/// the merchant has one of the new name already; `stale_version`.
pub async fn change_keys(
    tx: &mut MerchantTx,
    id: Uuid,
    credentials: &Credentials,
    version: Option<i64>,
    ring: &Keyring,
) -> Result<AccountView> {
    let merchant = tx.merchant();
    let before = held(tx, id, version).await?;
    let is_renamed = credentials.merchant_there() != before.merchant_there;
    // Whose the key is its provider knows. With another key and another name it is anybody's.
    let is_its_own = credentials.provider() == before.provider
        && (!is_renamed || credentials.has_key_of(&current(tx, id, ring).await?));
    if !is_its_own {
        let detail = format!(
            "This is `{}` at {}: add another account by itself; or, where only that name is wrong, send the right one with the \
             key as it is.",
            before.merchant_there, before.provider
        );
        return Err(Error::invalid("another_account", "/credentials", detail));
    }
    if is_renamed && is_proven(tx, id).await? {
        let detail = format!(
            "{} has told of money for `{}` by this account: that name is right.",
            before.provider, before.merchant_there
        );
        return Err(Error::conflict_at("account_proven", "/credentials", detail));
    }
    credentials.check(before.mode)?;
    let sealed = ring.seal(place(&[id]), credentials.to_json().expose_secret().as_bytes())?;
    sqlx::query!(
        "update provider_accounts
         set sealed = $3, data_key = $4, key_ends = $5, merchant_there = $6, updated_at = clock_timestamp(),
             keys_since = case when merchant_there = $6 then clock_timestamp() else keys_since end,
             version = version + 1
         where merchant_id = $1 and account_id = $2",
        merchant.0,
        id,
        sealed.bytes,
        sealed.key,
        ends(credentials),
        credentials.merchant_there(),
    )
    .execute(tx.sql())
    .await
    .on_constraint("provider_accounts_data_key_fkey", || Error::Busy { retry_after: KNOWN_FOR })
    .on_constraint("provider_accounts_merchant_there_key", || {
        Error::conflict_at("account_known", "/credentials", "Another account of this merchant has that name.")
    })?;
    let view = get(tx.sql(), merchant, id).await?;
    if is_renamed {
        look_again(tx, id).await?;
        let detail = format!("{}; before, it was `{}`", described(&view), before.merchant_there);
        note(tx, &view, "provider_account.renamed", &detail).await?;
    } else {
        let detail = format!("{}; before, it ended in `{}`", described(&view), before.key_ends);
        note(tx, &view, "provider_account.keys_changed", &detail).await?;
    }
    Ok(view)
}

/// The credentials of an account that is held.
async fn current(tx: &mut MerchantTx, id: Uuid, ring: &Keyring) -> Result<Credentials> {
    let merchant = tx.merchant();
    let row = sqlx::query!(
        "select sealed, data_key from provider_accounts where merchant_id = $1 and account_id = $2",
        merchant.0,
        id
    )
    .fetch_one(tx.sql())
    .await?;
    let json = ring.open(place(&[id]), &Sealed { key: row.data_key, bytes: row.sealed })?;
    Ok(Credentials::of_json(json.expose_secret())?)
}

/// Whether its provider has confirmed money by it, which it would not have under a name that is wrong.
async fn is_proven(tx: &mut MerchantTx, id: Uuid) -> Result<bool> {
    let merchant = tx.merchant();
    Ok(sqlx::query_scalar!(
        r#"select exists (select from payment_attempts
                          where merchant_id = $1 and account_id = $2 and paid_at is not null and forced_at is null)
           as "is_proven!""#,
        merchant.0,
        id
    )
    .fetch_one(tx.sql())
    .await?)
}

/// Has all payments looked at whose money was, by an account's old name, another merchant's, and those that are looked at just now by
/// that name. Nobody else may do so any more: who was paid late, or was given up, rests for good.
async fn look_again(tx: &mut MerchantTx, id: Uuid) -> Result<()> {
    let merchant = tx.merchant();
    sqlx::query!(
        "update payment_attempts
         set next_at = now(), unanswered_since = null,
             -- Whoever is at it still goes by the old name, and looks once more.
             prompted = prompted or coalesce(leased_until > clock_timestamp(), false)
         where merchant_id = $1 and account_id = $2 and called_at is not null
           and (leased_until > clock_timestamp()
                or payment_id in (select payment_id from payment_tasks where merchant_id = $1 and kind = 'merchant_differs'))",
        merchant.0,
        id,
    )
    .execute(tx.sql())
    .await?;
    Ok(())
}

/// At whom an outlet is paid, and in which modes.
pub async fn of_outlet(
    sql: &mut PgConnection,
    merchant: MerchantId,
    outlet: OutletId,
) -> Result<Vec<(Provider, Mode)>> {
    let rows = sqlx::query!(
        "select distinct provider, mode from provider_accounts
         where merchant_id = $1 and enabled and (outlet_id = $2 or outlet_id is null) order by provider, mode",
        merchant.0,
        outlet.0,
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().filter_map(|row| Provider::of(&row.provider).zip(Mode::of(&row.mode))).collect())
}

/// One account.
pub async fn get(sql: &mut PgConnection, merchant: MerchantId, id: Uuid) -> Result<AccountView> {
    let found = select(sql, merchant, Some(id), None, 1).await?;
    found.into_iter().next().ok_or(Error::NotFound("provider account"))
}

/// Accounts after an id, in the order of their ids.
pub async fn list(
    sql: &mut PgConnection,
    merchant: MerchantId,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AccountView>> {
    select(sql, merchant, None, after, limit.min(PAGE_MAX) + 1).await
}

/// Where a provider posts what happens to an account.
pub fn webhook_path(merchant: MerchantId, account: Uuid) -> String {
    format!("/v1/providers/{merchant}/{account}/webhook")
}

/// How the key ends, of one that is long enough for that to say nothing.
fn ends(credentials: &Credentials) -> &str {
    let key = credentials.key().expose_secret();
    // Keys are ASCII, or were refused.
    let end = key.len().checked_sub(ENDS_BYTES).filter(|_| key.len() >= SHOWN_FROM_BYTES);
    end.and_then(|at| key.get(at..)).unwrap_or_default()
}

fn described(view: &AccountView) -> String {
    let AccountView { provider, mode, merchant_there, label, key_ends, confirm, enabled, .. } = view;
    let at = view.outlet.map(|outlet| format!(" for the outlet {outlet}")).unwrap_or_default();
    let (mode, confirm, is) = (mode.as_str(), confirm.as_str(), if *enabled { "enabled" } else { "disabled" });
    format!("{merchant_there} at {provider}, {mode}{at}, {is}, {confirm}; `{label}`; the key ends in `{key_ends}`")
}

/// What its outlet and its place among the others say.
fn refused<T>(outcome: Result<T>) -> Result<T> {
    outcome
        .on_constraint("provider_accounts_outlet_fkey", || {
            Error::invalid("unknown_outlet", "/outlet", "There is no such outlet.")
        })
        .on_constraint("provider_accounts_enabled_key", || {
            let detail = "Another account of this provider and mode is enabled for the same outlet, or for all: disable it first.";
            Error::conflict_at("another_enabled", "/enabled", detail)
        })
}

/// An account as it is before a change: held until that is committed, and refused if somebody else was quicker.
async fn held(tx: &mut MerchantTx, id: Uuid, version: Option<i64>) -> Result<AccountView> {
    let merchant = tx.merchant();
    let current = sqlx::query_scalar!(
        "select version from provider_accounts where merchant_id = $1 and account_id = $2 for no key update",
        merchant.0,
        id,
    )
    .fetch_optional(tx.sql())
    .await?
    .ok_or(Error::NotFound("provider account"))?;
    if version.is_some_and(|version| version != current) {
        return Err(Error::conflict("stale_version", format!("It is at version {current} by now.")));
    }
    get(tx.sql(), merchant, id).await
}

async fn note(tx: &mut MerchantTx, view: &AccountView, action: &str, detail: &str) -> Result<()> {
    let (merchant, by) = (tx.merchant(), tx.actor()?);
    audit::note(tx.sql(), merchant, Some(by), action, &view.id.to_string(), detail).await
}

async fn select(
    sql: &mut PgConnection,
    merchant: MerchantId,
    only: Option<Uuid>,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<AccountView>> {
    let rows = sqlx::query!(
        "select account_id, provider, mode, label, outlet_id, merchant_there, confirm, enabled, key_ends, keys_since, created_at,
                updated_at, version
         from provider_accounts
         where merchant_id = $1 and ($2::uuid is null or account_id = $2) and ($3::uuid is null or account_id > $3)
         order by account_id limit $4",
        merchant.0,
        only,
        after,
        i64::from(limit),
    )
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            let unknown = || anyhow::anyhow!("an unknown word in the row of the account {}", row.account_id);
            Ok(AccountView {
                id: row.account_id,
                provider: Provider::of(&row.provider).ok_or_else(unknown)?,
                mode: Mode::of(&row.mode).ok_or_else(unknown)?,
                confirm: Confirm::of(&row.confirm).ok_or_else(unknown)?,
                label: row.label,
                outlet: row.outlet_id.map(OutletId),
                merchant_there: row.merchant_there,
                enabled: row.enabled,
                key_ends: row.key_ends,
                keys_since: row.keys_since,
                webhook_path: webhook_path(merchant, row.account_id),
                created_at: row.created_at,
                updated_at: row.updated_at,
                version: row.version,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_long_keys_end_is_shown() {
        for (key, shown) in
            [("Mid-server-a", ""), ("SB-Mid-server-abcdefghij", "ghij"), ("", ""), ("ééééééééééééééé", "éé")]
        {
            let json = json!({ "provider": "midtrans", "server_key": key, "merchant_id": "G1" });
            let credentials = Credentials::of_json(json.to_string().as_bytes()).unwrap();
            assert_eq!(ends(&credentials), shown, "{key}");
        }
    }
}
