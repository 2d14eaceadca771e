//! `/v1/payment-tasks`: what only a person can settle about payments, and what they say of it.

use axum::Json;
use axum::extract::State;
use futures_util::FutureExt as _;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{OutletId, RefundId, SaleId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::refunds::may_refund;
use super::reply::{Page, bounded, cursor};
use super::sales::may_sell;
use crate::accounts;
use crate::commerce::payments::settling::{self, Decision};
use crate::commerce::payments::tasks::{self, Resolution, TaskView};
use crate::connectors::credentials::Mode;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::Written;
use crate::journal::read::ReadTx;
use crate::payments::refunding::terms;

/// Whether a task waits for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    #[default]
    Open,
    Closed,
}

/// Which tasks.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskParams {
    pub outlet: Option<OutletId>,
    /// Those that are open, if nothing is said.
    #[serde(default)]
    pub state: TaskState,
    /// How many, at most.
    pub limit: Option<u32>,
    /// The `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// What only a person can settle about payments, the oldest first.
#[utoipa::path(get, path = "/v1/payment-tasks", tag = "payments", params(TaskParams),
    responses((status = 200, body = Page<TaskView>), (status = "default", body = Problem)))]
pub async fn list_tasks(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<TaskParams>,
) -> Result<Json<Page<TaskView>>> {
    match params.outlet {
        Some(outlet) => staff.may_at(Permission::ReadSales, outlet)?,
        None => staff.may_everywhere(Permission::ReadSales)?,
    }
    let limit = bounded(params.limit, 50, tasks::PAGE_MAX)?;
    let after = cursor(params.cursor.as_deref())?;
    let closed = params.state == TaskState::Closed;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let tasks = tasks::list(tx.sql(), staff.merchant, params.outlet, closed, after, limit).await?;
    Ok(Json(Page::cut(tasks, limit, |task| task.id)))
}

/// Settles a task.
#[derive(Clone, Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettleTask {
    /// Money that came too late, or twice, is `accepted` for a sale or `refunded`; everything else is `noted`, and so is money
    /// that its provider does not give back.
    #[garde(skip)]
    pub resolution: Resolution,
    /// Why, in a few words.
    #[garde(length(chars, min = 1, max = 200), custom(printable))]
    pub note: String,
    /// For `accepted`: the open sale of the same outlet that the money pays. At least as much has to be due of it.
    #[garde(skip)]
    pub sale: Option<SaleId>,
}

/// Settles a task, once. Money that is accepted pays the sale at once; money that is refunded is asked back at its provider, by a
/// refund that is in the answer. The audit has a line of it.
#[utoipa::path(post, path = "/v1/payment-tasks/{task}", tag = "payments", request_body = SettleTask,
    params(("task" = Uuid, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = TaskView), (status = "default", body = Problem)))]
pub async fn settle_task(
    State(hub): State<Hub>,
    staff: Staff,
    At(task): At<Uuid>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<SettleTask>,
) -> Result<Written> {
    staff.may(Permission::Refund)?;
    let once = key.once("POST /v1/payment-tasks/{task}", &bytes);
    let SettleTask { resolution, note, sale } = body;
    let decision = Decision { resolution, note, sale, refund: RefundId::new() };
    let by = staff.clone();
    let written = hub
        .journal
        .write(staff.caller(), Some(once), 200, move |tx| {
            let (staff, decision) = (by.clone(), decision.clone());
            async move {
                let merchant = tx.merchant();
                let matter = settling::lock(tx, task, &decision).await?;
                may_refund(&staff, &matter.attempt)?;
                if let Some(sale) = &matter.sale {
                    may_sell(&staff, sale)?;
                }
                if matter.sale.is_some()
                    && matter.attempt.mode == Mode::Test.as_str()
                    && accounts::is_live(tx.sql(), merchant, matter.attempt.outlet).await?
                {
                    let detail = "It is play money, and this outlet is paid for real: it pays for nothing.";
                    return Err(Error::conflict_at("live_account", "/resolution", detail));
                }
                let terms = terms(&matter.attempt)?;
                settling::settle(tx, matter, &decision, terms).await
            }
            .boxed()
        })
        .await?;
    // Whoever repeats it asks for nothing more.
    if let Some(refund) = serde_json::from_str::<TaskView>(&written.reply)?.refund.filter(|_| !written.replayed) {
        let (desk, merchant) = (hub.desk.clone(), staff.merchant);
        // What comes of it is told on `payments`; whoever looks for what is due does it if nobody does here.
        hub.journal.tasks().spawn(async move {
            if let Err(error) = desk.attend_refund(merchant, refund, true).await {
                tracing::debug!(%refund, "A refund is attended to later: {error:?}");
            }
        });
    }
    Ok(written)
}
