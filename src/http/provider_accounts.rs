//! `/v1/provider-accounts`: who a merchant is to payment providers. Credentials come in here, and never go out.

use std::fmt;

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::{Deserialize, Deserializer};
use tillwire_channels::OutletId;
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, IfMatch, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::accounts::Confirm;
use crate::accounts::kept::{self, AccountView, Draft, Settings};
use crate::connectors::credentials::{Credentials, Mode};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// What credentials are, for whoever gives something else.
const CREDENTIALS: &str = "`provider` is `midtrans`, with `server_key` and `merchant_id`, and `client_key` if there is one; or \
    `xendit`, with `secret_key`, `business_id`, and a list of `callback_tokens`. All of them are texts";

/// Credentials as somebody gives them.
pub struct GivenCredentials(Credentials);

impl fmt::Debug for GivenCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for GivenCredentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let json = serde_json::Value::deserialize(deserializer)?;
        serde_json::from_value(json).map(Self).map_err(|error| {
            // The parser's words repeat what it stumbled over, which may be a secret; a field that is missing is none.
            let words = error.to_string();
            let missing = words.strip_prefix("missing field").map(|field| format!("there is no{field}: "));
            serde::de::Error::custom(format!("{}{CREDENTIALS}", missing.unwrap_or_default()))
        })
    }
}

/// What a merchant was given by a payment provider.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "provider", rename_all = "snake_case")]
#[expect(dead_code)] // It describes what `Credentials` are.
pub enum ProviderCredentials {
    Midtrans {
        /// `SB-Mid-server-…` in the sandbox, `Mid-server-…` where money moves.
        server_key: String,
        /// `SB-Mid-client-…` or `Mid-client-…`: with which a browser makes tokens of cards.
        client_key: Option<String>,
        /// As Midtrans' dashboard names the merchant: `G…`.
        merchant_id: String,
    },
    Xendit {
        /// `xnd_development_…` or `xnd_production_…`.
        secret_key: String,
        /// The webhook verification token; two while it is being changed, the new one and the old.
        callback_tokens: Vec<String>,
        /// As webhooks name the merchant.
        business_id: String,
    },
}

/// An account to be added.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddAccount {
    /// A UUID of your own; one is made if it is left out.
    #[garde(skip)]
    pub id: Option<Uuid>,
    #[garde(skip)]
    #[schema(value_type = ProviderCredentials)]
    pub credentials: GivenCredentials,
    /// Whether money moves. Keys of the other mode are refused.
    #[garde(skip)]
    pub mode: Mode,
    /// What its owner calls it.
    #[garde(length(chars, max = 100), custom(printable))]
    #[serde(default)]
    pub label: String,
    /// For this outlet alone; left out, for all that have none of their own.
    #[garde(skip)]
    pub outlet: Option<OutletId>,
    /// When what the provider tells of a payment is believed: `strict` if left out.
    #[garde(skip)]
    #[serde(default)]
    pub confirm: Confirm,
}

/// An account as it is to be from now on, its credentials aside.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutAccount {
    /// What its owner calls it.
    #[garde(length(chars, max = 100), custom(printable))]
    #[serde(default)]
    pub label: String,
    /// For this outlet alone; left out, for all that have none of their own.
    #[garde(skip)]
    pub outlet: Option<OutletId>,
    /// When what the provider tells of a payment is believed: `strict` if left out.
    #[garde(skip)]
    #[serde(default)]
    pub confirm: Confirm,
    /// One that is disabled carries no new payments. What it is told of older ones still counts.
    #[garde(skip)]
    pub enabled: bool,
}

/// Other credentials of the same account.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCredentials {
    #[garde(skip)]
    #[schema(value_type = ProviderCredentials)]
    pub credentials: GivenCredentials,
}

/// Accounts at payment providers, without their secrets.
#[utoipa::path(get, path = "/v1/provider-accounts", tag = "provider_accounts", params(PageParams),
    responses((status = 200, body = Page<AccountView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<AccountView>>> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let (limit, cursor) = params.read(50, kept::PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = kept::list(tx.sql(), staff.merchant, cursor, limit).await?;
    Ok(Json(Page::cut(list, limit, |account| account.id)))
}

/// Adds an account at a payment provider, enabled. Its credentials are sealed, and shown to nobody.
#[utoipa::path(post, path = "/v1/provider-accounts", tag = "provider_accounts", request_body = AddAccount,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = AccountView), (status = "default", body = Problem)))]
pub async fn add(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<AddAccount>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once("POST /v1/provider-accounts", &bytes);
    let AddAccount { id, credentials: GivenCredentials(credentials), mode, label, outlet, confirm } = body;
    let id = id.unwrap_or_else(Uuid::now_v7);
    let draft = Draft { credentials, mode, settings: Settings { label, outlet, confirm, enabled: true } };
    let ring = hub.vault.sealer_for_sure(&hub.journal.pools.app, staff.merchant).await?;
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let (draft, ring) = (draft.clone(), ring.clone());
            async move { kept::add(tx, id, &draft, &ring).await }.boxed()
        })
        .await
}

/// One account.
#[utoipa::path(get, path = "/v1/provider-accounts/{account}", tag = "provider_accounts", params(("account" = Uuid, Path)),
    responses((status = 200, body = AccountView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(id): At<Uuid>) -> Result<Json<AccountView>> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(kept::get(tx.sql(), staff.merchant, id).await?))
}

/// Changes an account, disables it, or enables it again. With `If-Match: "3"` only if it is still at version 3, else 412.
#[utoipa::path(put, path = "/v1/provider-accounts/{account}", tag = "provider_accounts", request_body = PutAccount,
    params(("account" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version, quoted."),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = AccountView), (status = "default", body = Problem)))]
pub async fn replace(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<Uuid>,
    key: IdempotencyKey,
    condition: IfMatch,
    Valid { body, bytes }: Valid<PutAccount>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once_if("PUT /v1/provider-accounts/{account}", &bytes, &condition);
    let PutAccount { label, outlet, confirm, enabled } = body;
    let settings = Settings { label, outlet, confirm, enabled };
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let settings = settings.clone();
            async move { kept::replace(tx, id, &settings, condition.version).await }.boxed()
        })
        .await
}

/// Gives an account other credentials of the same account at the provider: when its keys are changed there. `If-Match` as above.
#[utoipa::path(put, path = "/v1/provider-accounts/{account}/credentials", tag = "provider_accounts",
    request_body = PutCredentials,
    params(("account" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The version, quoted."),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = AccountView), (status = "default", body = Problem)))]
pub async fn change_keys(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<Uuid>,
    key: IdempotencyKey,
    condition: IfMatch,
    Valid { body, bytes }: Valid<PutCredentials>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let once = key.once_if("PUT /v1/provider-accounts/{account}/credentials", &bytes, &condition);
    let GivenCredentials(credentials) = body.credentials;
    let ring = hub.vault.sealer_for_sure(&hub.journal.pools.app, staff.merchant).await?;
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let (credentials, ring) = (credentials.clone(), ring.clone());
            async move { kept::change_keys(tx, id, &credentials, condition.version, &ring).await }.boxed()
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_are_no_credentials_is_not_repeated() {
        let said = |json: &str| match serde_json::from_str::<GivenCredentials>(json) {
            Ok(given) => panic!("{given:?}"),
            Err(error) => error.to_string(),
        };
        let missing = said(r#"{"provider":"midtrans","server_key":"hush"}"#);
        assert!(missing.contains("there is no `merchant_id`: ") && missing.contains("`callback_tokens`"), "{missing}");
        for json in [
            r#"{"provider":"hush","server_key":"hush"}"#,
            r#"{"provider":"xendit","secret_key":"hush","business_id":"b","callback_tokens":"hush"}"#,
            r#"{"provider":"midtrans","server_key":{"hush":"hush"},"merchant_id":"hush"}"#,
            r#"{"provider":"midtrans","server_key":"hush","merchant_id":"hush","hush":"hush"}"#,
            r#""hush""#,
            r#"["hush"]"#,
            r#"{"hush":"hush"}"#,
        ] {
            let words = said(json);
            assert!(words.contains("`server_key`") && !words.contains("hush"), "{words}");
        }
        let given: GivenCredentials =
            serde_json::from_str(r#"{"provider":"midtrans","server_key":"hush","merchant_id":"G1"}"#).unwrap();
        assert!(!format!("{given:?}").contains("hush"));
    }
}
