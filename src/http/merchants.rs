//! `/v1/merchant`: the token's own merchant.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{IdempotencyKey, Valid, printable};
use super::problem::Problem;
use crate::commerce::merchants::{self, MerchantView};
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;

/// Opens a merchant.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenMerchant {
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub name: String,
    /// ISO 4217, e.g. `IDR`. It cannot be changed later.
    #[garde(pattern(r"^[A-Z]{3}$"))]
    pub currency: String,
}

/// The token's merchant.
#[utoipa::path(get, path = "/v1/merchant", tag = "merchant",
    responses((status = 200, body = MerchantView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff) -> Result<Json<MerchantView>> {
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(merchants::get(tx.sql(), staff.merchant).await?))
}

/// Opens the merchant that the token names: an owner's token for a new merchant id makes it.
#[utoipa::path(post, path = "/v1/merchant", tag = "merchant", request_body = OpenMerchant,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = MerchantView), (status = "default", body = Problem)))]
pub async fn open(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<OpenMerchant>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageOutlets)?;
    let once = key.once("POST /v1/merchant", &bytes);
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            merchants::open(tx, body.name.clone(), body.currency.clone()).boxed()
        })
        .await
}
