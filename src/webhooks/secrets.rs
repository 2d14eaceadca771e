//! The secrets that endpoints and we know.

use serde::Serialize;
use sqlx::PgConnection;
use tillwire_channels::{EndpointId, MerchantId, Moment};
use utoipa::ToSchema;

use super::signature::Secret;
use crate::error::{Error, Result};
use crate::journal::MerchantTx;

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

pub(super) async fn add(
    sql: &mut PgConnection,
    merchant: MerchantId,
    endpoint: EndpointId,
    secret: &Secret,
) -> Result<()> {
    sqlx::query!(
        "insert into webhook_secrets (merchant_id, endpoint_id, secret_id, secret) values ($1, $2, $3, $4)",
        merchant.0,
        endpoint.0,
        uuid::Uuid::now_v7(),
        secret.bytes(),
    )
    .execute(sql)
    .await?;
    Ok(())
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
pub async fn rotate(tx: &mut MerchantTx, endpoint: EndpointId, secret: Secret) -> Result<Rotated> {
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
    add(tx.sql(), merchant, endpoint, &secret).await?;
    Ok(Rotated { id: endpoint, old_until })
}

/// The secret that signs first.
pub async fn newest(sql: &mut PgConnection, merchant: MerchantId, endpoint: EndpointId) -> Result<SecretView> {
    let row = sqlx::query!(
        "select secret, made_at from webhook_secrets
         where merchant_id = $1 and endpoint_id = $2 and expires_at is null order by secret_id desc limit 1",
        merchant.0,
        endpoint.0
    )
    .fetch_optional(sql)
    .await?
    .ok_or(Error::NotFound("webhook"))?;
    let secret = Secret::of(row.secret).ok_or_else(|| anyhow::anyhow!("a secret of another length"))?;
    Ok(SecretView { secret: secret.to_text(), made_at: row.made_at })
}

/// Those that sign now, the newest first.
pub async fn good(sql: &mut PgConnection, merchant: MerchantId, endpoint: EndpointId) -> Result<Vec<Secret>> {
    let rows = sqlx::query_scalar!(
        "select secret from webhook_secrets
         where merchant_id = $1 and endpoint_id = $2 and (expires_at is null or expires_at > now())
         order by expires_at is null desc, secret_id desc",
        merchant.0,
        endpoint.0
    )
    .fetch_all(sql)
    .await?;
    Ok(rows.into_iter().filter_map(Secret::of).collect())
}
