//! `/v1/refunds`: money that goes back by the provider that brought it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{PaymentId, RefundId};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Valid, printable};
use super::problem::Problem;
use crate::commerce::money::AMOUNT_MAX_MINOR;
use crate::commerce::payments::refunds::{self, NOTE_CHARS_MAX, NewRefund, Reason, RefundView};
use crate::commerce::payments::{self, Attempt};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;
use crate::payments::refunding::terms;

/// How long whoever asks for a refund waits for what the provider says of it.
const SAID_MAX: Duration = Duration::from_secs(10);

/// Gives money back, or a part of it.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskRefund {
    /// A UUID of your own; one is made if it is left out. It is also the refund's key at the provider.
    #[garde(skip)]
    pub id: Option<RefundId>,
    /// How much; all that is left, if it is left out.
    #[garde(inner(range(min = 1, max = AMOUNT_MAX_MINOR)))]
    pub amount_minor: Option<i64>,
    #[garde(skip)]
    pub reason: Reason,
    /// Why, in a few words.
    #[garde(length(chars, min = 1, max = NOTE_CHARS_MAX), custom(printable))]
    pub note: String,
}

/// Whether somebody may give back what was paid here: at its outlet, and whoever is bound to a register at that.
pub(super) fn may_refund(staff: &Staff, attempt: &Attempt) -> Result<()> {
    staff.may_at(Permission::Refund, attempt.outlet)?;
    if staff.register.is_some_and(|own| own != attempt.register) {
        return Err(Error::Denied(Permission::Refund));
    }
    Ok(())
}

/// Gives back what was paid by a provider, or a part of it: it is written down first, then asked for, and answered as it stands
/// ten seconds later at most. One refund of a payment is under way at a time; what becomes of it is told on `payments`.
#[utoipa::path(post, path = "/v1/payments/{payment}/refunds", tag = "payments", request_body = AskRefund,
    params(("payment" = PaymentId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = RefundView), (status = "default", body = Problem)))]
pub async fn refund(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<AskRefund>,
) -> Result<Written> {
    staff.may(Permission::Refund)?;
    let once = key.once("POST /v1/payments/{payment}/refunds", &bytes);
    let AskRefund { id, amount_minor, reason, note } = body;
    let new = NewRefund { refund: id.unwrap_or_else(RefundId::new), amount_minor, reason, note };
    let by = staff.clone();
    let written = hub
        .journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let (staff, new) = (by.clone(), new.clone());
            async move {
                let merchant = tx.merchant();
                let attempt = payments::get(tx.sql(), merchant, payment).await?;
                may_refund(&staff, &attempt)?;
                Ok(RefundView::from(refunds::begin(tx, payment, &new, terms(&attempt)?).await?))
            }
            .boxed()
        })
        .await?;
    // The stored answer is of when it was asked for; what is answered is how it stands.
    let refund = serde_json::from_str::<RefundView>(&written.reply)?.id;
    let (desk, merchant, is_new) = (hub.desk.clone(), staff.merchant, !written.replayed);
    let attending = hub.journal.tasks().spawn(async move { desk.attend_refund_to_end(merchant, refund, is_new).await });
    _ = tokio::time::timeout(SAID_MAX, attending).await;
    let view = found(&hub, &staff, refund).await?;
    Ok(Written { reply: serde_json::to_string(&view)?, ..written })
}

async fn found(hub: &Hub, staff: &Staff, refund: RefundId) -> Result<RefundView> {
    staff.may(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let view = RefundView::from(refunds::get(tx.sql(), staff.merchant, refund).await?);
    staff.may_at(Permission::ReadSales, view.outlet)?;
    Ok(view)
}

/// One refund, as it stands.
#[utoipa::path(get, path = "/v1/refunds/{refund}", tag = "payments", params(("refund" = RefundId, Path)),
    responses((status = 200, body = RefundView), (status = "default", body = Problem)))]
pub async fn get_refund(State(hub): State<Hub>, staff: Staff, At(refund): At<RefundId>) -> Result<Json<RefundView>> {
    found(&hub, &staff, refund).await.map(Json)
}

/// The refunds of a payment, the first first: also those that somebody made at its provider.
#[utoipa::path(get, path = "/v1/payments/{payment}/refunds", tag = "payments", params(("payment" = PaymentId, Path)),
    responses((status = 200, body = Vec<RefundView>), (status = "default", body = Problem)))]
pub async fn refunds_of(
    State(hub): State<Hub>,
    staff: Staff,
    At(payment): At<PaymentId>,
) -> Result<Json<Vec<RefundView>>> {
    staff.may(Permission::ReadSales)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let outlet = payments::get(tx.sql(), staff.merchant, payment).await?.outlet;
    staff.may_at(Permission::ReadSales, outlet)?;
    let refunds = refunds::of_payment(tx.sql(), staff.merchant, payment).await?;
    Ok(Json(refunds.into_iter().map(RefundView::from).collect()))
}
