//! `/v1/payments/{payment}/force`: what somebody takes for paid before its provider has said so.

use axum::extract::State;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::PaymentId;
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Valid, printable};
use super::problem::Problem;
use super::sales::may_there;
use crate::commerce::payments::{self, PaymentView};
use crate::commerce::sales;
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;

/// Takes a payment for paid.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForcePayment {
    /// Why, in a few words.
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub reason: String,
}

/// Takes a payment for paid on somebody's word: the customer shows that the money has left, and nothing comes. Its sale is paid by
/// it at once, the back office is alerted, and its provider goes on being asked: what that says confirms it, or is a task,
/// `forced_unpaid`.
#[utoipa::path(post, path = "/v1/payments/{payment}/force", tag = "payments", request_body = ForcePayment,
    params(("payment" = PaymentId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = PaymentView), (status = "default", body = Problem)))]
pub async fn force(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<ForcePayment>,
) -> Result<Written> {
    staff.may(Permission::ForcePayments)?;
    let once = key.once("POST /v1/payments/{payment}/force", &bytes);
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let (staff, reason) = (staff.clone(), body.reason.clone());
            async move {
                let merchant = tx.merchant();
                let sale = payments::get(tx.sql(), merchant, payment).await?.sale;
                let sale = sales::lock(tx, sale).await?;
                may_there(&staff, Permission::ForcePayments, &sale)?;
                Ok(PaymentView::from(payments::force(tx, &sale, payment, &reason).await?))
            }
            .boxed()
        })
        .await
}
