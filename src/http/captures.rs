//! `/v1/payments/{payment}/capture`: money that a card holds.

use axum::extract::State;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::PaymentId;
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Valid};
use super::payments::attended;
use super::problem::Problem;
use super::sales::may_sell;
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::commerce::payments::{self, PaymentView};
use crate::commerce::sales;
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;

/// Takes money that is held.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CapturePayment {
    /// How much of it: no more than is held, nor than is due. All of it, if it is left out. What is not taken goes back to the
    /// customer.
    #[garde(inner(range(min = 1, max = AMOUNT_MAX_MINOR)))]
    pub amount_minor: Option<i64>,
}

/// Takes money that a card's payment holds, or a part of it, once. It is written down first, then its provider is asked; the answer
/// is how it stands then, or ten seconds later: `paid`, or still `authorized` with its `capture_minor`, while nobody knows.
#[utoipa::path(post, path = "/v1/payments/{payment}/capture", tag = "payments", request_body = CapturePayment,
    params(("payment" = PaymentId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = PaymentView), (status = "default", body = Problem)))]
pub async fn capture(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<CapturePayment>,
) -> Result<Written> {
    staff.may(Permission::Sell)?;
    let once = key.once("POST /v1/payments/{payment}/capture", &bytes);
    let seller = staff.clone();
    let written = hub
        .journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let (staff, amount_minor) = (seller.clone(), body.amount_minor);
            async move {
                let merchant = tx.merchant();
                let sale = payments::get(tx.sql(), merchant, payment).await?.sale;
                let sale = sales::lock(tx, sale).await?;
                may_sell(&staff, &sale)?;
                Ok(PaymentView::from(payments::capture(tx, &sale, payment, amount_minor).await?))
            }
            .boxed()
        })
        .await?;
    let view = attended(&hub, &staff, payment).await?;
    Ok(Written { reply: serde_json::to_string(&view)?, ..written })
}
