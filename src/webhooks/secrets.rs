//! The secrets that endpoints and we know. Where there is a vault they are kept sealed.

use anyhow::{Context as _, anyhow};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{EndpointId, MerchantId, Moment};
use utoipa::ToSchema;
use uuid::Uuid;

use super::signature::Secret;
use crate::error::{Error, OnConstraint as _, Result};
use crate::journal::MerchantTx;
use crate::vault::{Found, KNOWN_FOR, Keyring, Place, Sealed, Vault};

/// How long an older secret signs along.
const OVERLAP_HOURS: i32 = 24;
/// The most secrets that are good at a time.
const SECRETS_MAX: i64 = 5;

/// The secret that signs first, as its owner is shown it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SecretView {
    /// `whsec_` and base64, as the libraries of Standard Webhooks take it.
    pub secret: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Moment,
}

/// A secret as its row has it: in clear or sealed.
struct Kept {
    secret_id: Uuid,
    secret: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    data_key: Option<Uuid>,
}

impl Kept {
    fn open(self, ring: &Keyring, endpoint: EndpointId) -> anyhow::Result<Secret> {
        let bytes = match (self.secret, Sealed::of(self.data_key, self.sealed)) {
            (Some(clear), _) => clear,
            (None, Some(sealed)) => ring.open(place(&[endpoint.0, self.secret_id]), &sealed)?.expose_secret().to_vec(),
            (None, None) => return Err(anyhow!("a secret that is none")),
        };
        Secret::of(bytes).context("a secret of another length")
    }
}

fn place(row: &[Uuid]) -> Place<'_> {
    Place { table: "webhook_secrets", column: "secret", row }
}

/// Keeps a secret: sealed, if there is something to seal with.
pub(super) async fn add(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    secret: &Secret,
    ring: Option<&Keyring>,
) -> Result<()> {
    let id = Uuid::now_v7();
    let sealed = ring.map(|ring| ring.seal(place(&[endpoint.0, id]), secret.bytes())).transpose()?;
    let clear = sealed.is_none().then(|| secret.bytes());
    sqlx::query!(
        "insert into webhook_secrets (merchant_id, endpoint_id, secret_id, secret, sealed, data_key)
         values ($1, $2, $3, $4, $5, $6)",
        merchant.0,
        endpoint.0,
        id,
        clear,
        sealed.as_ref().map(|it| it.bytes.as_slice()),
        sealed.as_ref().map(|it| it.key),
    )
    .execute(sql)
    .await
    .on_constraint("webhook_secrets_data_key_fkey", || Error::Busy { retry_after: KNOWN_FOR })?;
    Ok(())
}

/// Seals so many of a merchant's secrets that are in clear. Answers how many.
pub async fn seal_some(sql: &mut PgConnection, merchant: MerchantId, ring: &Keyring, max: i64) -> Result<usize> {
    let rows = sqlx::query!(
        r#"select endpoint_id, secret_id, secret as "secret!" from webhook_secrets
           where merchant_id = $1 and secret is not null limit $2 for update skip locked"#,
        merchant.0,
        max,
    )
    .fetch_all(&mut *sql)
    .await?;
    for row in &rows {
        let sealed = ring.seal(place(&[row.endpoint_id, row.secret_id]), &row.secret)?;
        sqlx::query!(
            "update webhook_secrets set secret = null, sealed = $4, data_key = $5
             where merchant_id = $1 and endpoint_id = $2 and secret_id = $3",
            merchant.0,
            row.endpoint_id,
            row.secret_id,
            sealed.bytes,
            sealed.key,
        )
        .execute(&mut *sql)
        .await?;
    }
    Ok(rows.len())
}

/// What is answered when a secret has been changed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Rotated {
    pub id: EndpointId,
    /// Until when the secret before signs as well.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub old_until: Moment,
}

/// Signs with a new secret first, and with those before for another day.
pub async fn rotate(
    tx: &mut MerchantTx,
    endpoint: EndpointId,
    secret: &Secret,
    ring: Option<&Keyring>,
) -> Result<Rotated> {
    let (merchant, old_until) = (tx.merchant(), tx.now() + time::Duration::hours(OVERLAP_HOURS.into()));
    tx.take_turn(&format!("secrets of {endpoint}")).await?;
    super::endpoints::get(tx.sql(), merchant, endpoint).await?;
    sqlx::query!(
        "delete from webhook_secrets where merchant_id = $1 and endpoint_id = $2 and expires_at <= now()",
        merchant.0,
        endpoint.0
    )
    .execute(tx.sql())
    .await?;
    let good = sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_secrets where merchant_id = $1 and endpoint_id = $2"#,
        merchant.0,
        endpoint.0
    )
    .fetch_one(tx.sql())
    .await?;
    if good >= SECRETS_MAX {
        let detail = format!("{SECRETS_MAX} secrets are good already: wait until the older ones have expired.");
        return Err(Error::conflict("too_many_secrets", detail));
    }
    sqlx::query!(
        "update webhook_secrets set expires_at = $3 where merchant_id = $1 and endpoint_id = $2 and expires_at is null",
        merchant.0,
        endpoint.0,
        old_until,
    )
    .execute(tx.sql())
    .await?;
    add(tx.sql(), merchant, endpoint, secret, ring).await?;
    Ok(Rotated { id: endpoint, old_until })
}

/// All of a merchant's that is sealed.
pub async fn sealed(sql: &mut PgConnection, merchant: MerchantId) -> Result<Vec<Found>> {
    let rows = sqlx::query!(
        r#"select endpoint_id, secret_id, sealed as "sealed!", data_key as "data_key!" from webhook_secrets
           where merchant_id = $1 and sealed is not null"#,
        merchant.0,
    )
    .fetch_all(sql)
    .await?;
    let found = |row: &[Uuid], key, bytes| place(row).found(Sealed { key, bytes });
    Ok(rows.into_iter().map(|row| found(&[row.endpoint_id, row.secret_id], row.data_key, row.sealed)).collect())
}

/// The secret that signs first.
///
/// # Errors
/// `vault_unavailable` if it is sealed, and this node has no key to it.
pub async fn newest(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    endpoint: EndpointId,
) -> Result<SecretView> {
    let row = sqlx::query!(
        "select secret_id, secret, sealed, data_key, made_at from webhook_secrets
         where merchant_id = $1 and endpoint_id = $2 and expires_at is null order by secret_id desc limit 1",
        merchant.0,
        endpoint.0
    )
    .fetch_optional(&mut *sql)
    .await?
    .ok_or(Error::NotFound("webhook"))?;
    let ring = vault.keyring(sql, merchant, row.data_key.as_slice()).await?;
    let kept = Kept { secret_id: row.secret_id, secret: row.secret, sealed: row.sealed, data_key: row.data_key };
    Ok(SecretView { secret: kept.open(&ring, endpoint)?.to_text(), made_at: row.made_at })
}

/// Those that sign now, the newest first. What is sealed and does not open is an error: nothing is sent without its signature.
///
/// # Errors
/// `vault_unavailable` if one is sealed, and this node has no key to it.
pub async fn good(
    sql: &mut PgConnection,
    vault: &Vault,
    merchant: MerchantId,
    endpoint: EndpointId,
) -> Result<Vec<Secret>> {
    let rows = sqlx::query_as!(
        Kept,
        "select secret_id, secret, sealed, data_key from webhook_secrets
         where merchant_id = $1 and endpoint_id = $2 and (expires_at is null or expires_at > now())
         order by expires_at is null desc, secret_id desc",
        merchant.0,
        endpoint.0
    )
    .fetch_all(&mut *sql)
    .await?;
    let keys: Vec<Uuid> = rows.iter().filter_map(|row| row.data_key).collect();
    let ring = vault.keyring(sql, merchant, &keys).await?;
    Ok(rows.into_iter().map(|row| row.open(&ring, endpoint)).collect::<anyhow::Result<_>>()?)
}
