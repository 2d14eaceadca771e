//! `/v1/provider-accounts/{account}/health`: how well an account is heard.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tillwire_channels::Moment;
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::At;
use super::problem::Problem;
use crate::accounts::{kept, pulse};
use crate::commerce::payments::attempts;
use crate::error::Result;
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
use crate::reconciliation::differences;
use crate::reconciliation::runs::{self, RunView};

/// How well an account is heard. Nodes write what they notice every few seconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccountHealthView)]
pub struct HealthView {
    pub account: Uuid,
    /// When the provider answered a call last, and when one failed last.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered_at: Option<Moment>,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_at: Option<Moment>,
    /// When it told something by itself last.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub notified_at: Option<Moment>,
    /// How many calls there were, and how many of them failed, `since` then: about an hour.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Moment>,
    pub calls: i64,
    pub failed_calls: i64,
    pub breaker: BreakerView,
    /// Since when payments are found without notifications, which should have come; none if they come.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub webhooks_missing_since: Option<Moment>,
    /// How many payments somebody can still make, or may have made; and of how many of these nobody knows whether the provider
    /// has heard of them.
    pub open_payments: i64,
    pub unknown_payments: i64,
    /// How many differences from what the provider tells are open, and the newest run.
    pub open_differences: i64,
    pub last_reconciliation: Option<RunView>,
}

/// Whether the node that answers calls the provider, in this account's mode.
#[derive(Debug, Serialize, ToSchema)]
pub struct BreakerView {
    /// `closed`: it does. `open`: it has failed five times in a row, and is left alone. `trying`: the next call finds out.
    pub state: &'static str,
    /// For how long it is left alone.
    pub seconds: Option<f64>,
}

/// How well an account is heard: answers, notifications, calls that failed, payments that are open, and what differs.
#[utoipa::path(get, path = "/v1/provider-accounts/{account}/health", tag = "provider_accounts",
    params(("account" = Uuid, Path)),
    responses((status = 200, body = HealthView), (status = "default", body = Problem)))]
pub async fn health(State(hub): State<Hub>, staff: Staff, At(account): At<Uuid>) -> Result<Json<HealthView>> {
    staff.may_everywhere(Permission::ManagePayments)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let kept = kept::get(tx.sql(), staff.merchant, account).await?;
    let known = pulse::known(tx.sql(), staff.merchant, account).await?;
    let (open_payments, unknown_payments) = attempts::open_of(tx.sql(), staff.merchant, account).await?;
    let open_differences = differences::open(tx.sql(), staff.merchant, account).await?;
    let last = runs::list(tx.sql(), staff.merchant, Some(account), None, 1).await?;
    let (state, pause) = hub.desk.caller().breaker(kept.provider, kept.mode);
    Ok(Json(HealthView {
        account,
        answered_at: known.answered_at,
        failed_at: known.failed_at,
        notified_at: known.noticed_at,
        since: known.since,
        calls: known.calls,
        failed_calls: known.failed,
        breaker: BreakerView { state, seconds: pause.map(|it| it.as_secs_f64()) },
        webhooks_missing_since: known.missing_since,
        open_payments,
        unknown_payments,
        open_differences,
        last_reconciliation: last.into_iter().next(),
    }))
}
