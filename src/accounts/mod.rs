//! Accounts: who a merchant is to payment providers, and with which keys.
//!
//! Credentials are never in clear: where there is no vault there are no accounts. What is [kept](kept) of one is changed by its
//! owner and shown without its secrets; whoever moves money is given it [open](open), and by no other way. How well it is heard is
//! noticed by the way: its [pulse], and [what was found](found) that it should have told.

pub mod found;
pub mod kept;
pub mod known;
pub mod pulse;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tillwire_channels::{MerchantId, OutletId};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::connectors::credentials::{Credentials, Mode, Provider};
use crate::error::{Error, Result};
use crate::vault::{Found, Place, Sealed, Vault};

/// When what a provider tells of a payment is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    /// When the provider has said it once more, because it was asked.
    #[default]
    Strict,
    /// At once, where what it has signed covers it.
    Fast,
}

impl Confirm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Fast => "fast",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        [Self::Strict, Self::Fast].into_iter().find(|it| it.as_str() == text)
    }
}

/// An account, opened.
#[derive(Clone, Debug)]
pub struct Account {
    pub id: Uuid,
    pub provider: Provider,
    pub mode: Mode,
    pub credentials: Credentials,
    pub confirm: Confirm,
    /// One that is not may tell of payments that there are, and carries no new ones.
    pub enabled: bool,
    /// The one outlet that it is for; none for all that have none of their own.
    pub outlet: Option<OutletId>,
    /// Which row it was opened from: another has a higher one.
    pub version: i64,
}

/// A row, as it is opened.
struct Row {
    account_id: Uuid,
    provider: String,
    mode: String,
    confirm: String,
    enabled: bool,
    outlet_id: Option<Uuid>,
    sealed: Vec<u8>,
    data_key: Uuid,
    version: i64,
}

fn place(row: &[Uuid]) -> Place<'_> {
    Place { table: "provider_accounts", column: "credentials", row }
}

/// One of a merchant's accounts, enabled or not.
///
/// # Errors
/// [`Error::NotFound`] if there is none; `vault_unavailable` if this node has no key to it; [`Error::Internal`] if it was
/// changed or moved by somebody else.
pub async fn open(sql: &mut PgConnection, vault: &Vault, merchant: MerchantId, account: Uuid) -> Result<Account> {
    let row = sqlx::query_as!(
        Row,
        "select account_id, provider, mode, confirm, enabled, outlet_id, sealed, data_key, version from provider_accounts
         where merchant_id = $1 and account_id = $2",
        merchant.0,
        account,
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("provider account"))?;
    opened(sql, vault, merchant, row).await
}

/// The enabled account of a provider that an outlet is paid by: its own if it has one, otherwise the merchant's; none if there
/// is neither.
///
/// # Errors
/// As [`open`].
pub async fn for_outlet(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    outlet: OutletId,
    provider: Provider,
    mode: Mode,
) -> Result<Option<Account>> {
    let row = sqlx::query_as!(
        Row,
        "select account_id, provider, mode, confirm, enabled, outlet_id, sealed, data_key, version from provider_accounts
         where merchant_id = $1 and provider = $2 and mode = $3 and enabled and (outlet_id = $4 or outlet_id is null)
         order by outlet_id nulls last limit 1",
        merchant.0,
        provider.as_str(),
        mode.as_str(),
        outlet.0,
    )
    .fetch_optional(&mut *sql)
    .await?;
    match row {
        Some(row) => opened(sql, vault, merchant, row).await.map(Some),
        None => Ok(None),
    }
}

/// Whether real money moves at an outlet: it has an enabled live account, at whichever provider.
pub async fn is_live(sql: &mut PgConnection, merchant: MerchantId, outlet: OutletId) -> Result<bool> {
    let is_live = sqlx::query_scalar!(
        r#"select exists (select from provider_accounts
                          where merchant_id = $1 and mode = 'live' and enabled
                            and (outlet_id = $2 or outlet_id is null)) as "is_live!""#,
        merchant.0,
        outlet.0,
    )
    .fetch_one(sql)
    .await?;
    Ok(is_live)
}

/// All of a merchant's that is sealed.
pub async fn sealed(sql: &mut PgConnection, merchant: MerchantId) -> Result<Vec<Found>> {
    let rows =
        sqlx::query!("select account_id, sealed, data_key from provider_accounts where merchant_id = $1", merchant.0)
            .fetch_all(sql)
            .await?;
    let found = |row: &[Uuid], key, bytes| place(row).found(Sealed { key, bytes });
    Ok(rows.into_iter().map(|row| found(&[row.account_id], row.data_key, row.sealed)).collect())
}

async fn opened(sql: &mut PgConnection, vault: &Vault, merchant: MerchantId, row: Row) -> Result<Account> {
    let sealed = Sealed { key: row.data_key, bytes: row.sealed };
    let json = vault.unseal(sql, merchant, place(&[row.account_id]), &sealed).await?;
    let credentials = Credentials::of_json(json.expose_secret())?;
    let provider = Provider::of(&row.provider).context("an unknown provider in the database")?;
    // A row says of itself what nobody has sealed: test keys are never taken for live ones because of it.
    let mode = Mode::of(&row.mode).context("an unknown mode in the database")?;
    if credentials.provider() != provider || credentials.check(mode).is_err() {
        return Err(
            anyhow::anyhow!("the credentials of {} are not {provider}'s, or not of its mode", row.account_id).into()
        );
    }
    Ok(Account {
        id: row.account_id,
        provider,
        mode,
        credentials,
        confirm: Confirm::of(&row.confirm).context("an unknown way to confirm in the database")?,
        enabled: row.enabled,
        outlet: row.outlet_id.map(OutletId),
        version: row.version,
    })
}
