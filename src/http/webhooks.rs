//! `/v1/webhooks`: where the merchant's own servers are told what happens.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use futures_util::FutureExt;
use garde::Validate;
use serde::Deserialize;
use tillwire_channels::{EndpointId, Moment, Position};
use utoipa::ToSchema;

use super::extract::{At, IdempotencyKey, Params, Valid, printable};
use super::problem::Problem;
use super::reply::{Page, PageParams};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::identity::{Permission, Staff};
use crate::journal::read::ReadTx;
use crate::journal::{Written, pool};
use crate::webhooks::attempts::{self, AttemptView};
use crate::webhooks::endpoints::{self, Draft, EndpointView, Removed};
use crate::webhooks::health::{self, HealthView};
use crate::webhooks::message::Message;
use crate::webhooks::secrets::{self, Rotated, SecretView};
use crate::webhooks::sender::ATTEMPT_MAX;
use crate::webhooks::signature::Secret;
use crate::webhooks::skip;

/// A body that says what a webhook is to be: what all of them have, and what one of them has besides. serde cannot flatten a
/// body that refuses fields it does not know.
macro_rules! webhook_body {
    ($(#[$doc:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize, Validate, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// `https://`, on port 443 unless the operator allows others, at a public address.
            #[garde(length(bytes, min = 1, max = 2048), custom(printable))]
            pub url: String,
            #[garde(length(chars, max = 200), custom(printable))]
            #[serde(default)]
            pub description: String,
            /// The types of events that it is told of, such as `sale.completed`; none for all.
            #[garde(length(max = 100))]
            #[serde(default)]
            pub events: Vec<String>,
            $($own)*
        }

        impl $name {
            fn draft(self, enabled: bool) -> Draft {
                Draft { url: self.url, description: self.description, events: self.events, enabled }
            }
        }
    };
}

webhook_body! {
    /// A webhook as it is to be.
    AddWebhook {
        /// A UUID of your own; one is made if it is left out.
        #[garde(skip)]
        pub id: Option<EndpointId>,
        /// A secret of your own, `whsec_` and base64 of 24 to 64 bytes; one is made if it is left out.
        #[garde(skip)]
        pub secret: Option<String>,
    }
}

webhook_body! {
    /// A webhook as it is to be from now on.
    PutWebhook {
        /// One that was disabled, and is enabled again, is told what it has missed.
        #[garde(skip)]
        pub enabled: bool,
    }
}

/// What is to be passed over.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Skip {
    /// The position of the event that the webhook is stuck at, as its health and each of its messages name it.
    #[garde(skip)]
    #[schema(value_type = String)]
    pub position: Position,
}

fn secret_of(text: Option<&str>) -> Result<Secret> {
    let detail = "A secret is `whsec_` and base64 of 24 to 64 bytes.";
    match text {
        Some(text) => Secret::parse(text).ok_or_else(|| Error::invalid("invalid_secret", "/secret", detail)),
        None => Ok(Secret::random()?),
    }
}

/// Webhooks.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", params(PageParams),
    responses((status = 200, body = Page<EndpointView>), (status = "default", body = Problem)))]
pub async fn list(
    State(hub): State<Hub>,
    staff: Staff,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<EndpointView>>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (limit, cursor) = params.read(50, endpoints::PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let list = endpoints::list(tx.sql(), staff.merchant, cursor.map(EndpointId), limit).await?;
    Ok(Json(Page::cut(list, limit, |endpoint| endpoint.id.0)))
}

/// Adds a webhook. It is told what happens from now on, in order, each event until it answers with 2xx.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", request_body = AddWebhook,
    params(("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = EndpointView), (status = "default", body = Problem)))]
pub async fn add(
    State(hub): State<Hub>,
    staff: Staff,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<AddWebhook>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (once, secret) = (key.once("POST /v1/webhooks", &bytes), secret_of(body.secret.as_deref())?);
    let id = body.id.unwrap_or_else(EndpointId::new);
    let draft = body.draft(true);
    draft.check(&hub.egress)?;
    let ring = hub.vault.sealer(&hub.journal.pools.app, staff.merchant).await?;
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let (draft, secret, ring) = (draft.clone(), secret.clone(), ring.clone());
            async move { endpoints::add(tx, id, draft, &secret, ring.as_deref()).await }.boxed()
        })
        .await
}

/// One webhook, and how it is doing.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = EndpointId, Path)),
    responses((status = 200, body = EndpointView), (status = "default", body = Problem)))]
pub async fn get(State(hub): State<Hub>, staff: Staff, At(id): At<EndpointId>) -> Result<Json<EndpointView>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(endpoints::get(tx.sql(), staff.merchant, id).await?))
}

/// Changes a webhook, disables it, or enables it again.
#[utoipa::path(put, path = "/v1/webhooks/{webhook}", tag = "webhooks", request_body = PutWebhook,
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = EndpointView), (status = "default", body = Problem)))]
pub async fn replace(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<PutWebhook>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let once = key.once("PUT /v1/webhooks/{webhook}", &bytes);
    let enabled = body.enabled;
    let draft = body.draft(enabled);
    // Whoever turns it off may do so whatever is allowed by now.
    if draft.enabled {
        draft.check(&hub.egress)?;
    }
    hub.journal
        .write(staff.caller(), Some(once), 200, move |tx| endpoints::replace(tx, id, draft.clone()).boxed())
        .await
}

/// Removes a webhook. The log of its attempts is forgotten with time.
#[utoipa::path(delete, path = "/v1/webhooks/{webhook}", tag = "webhooks",
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = Removed), (status = "default", body = Problem)))]
pub async fn remove(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let once = key.once("DELETE /v1/webhooks/{webhook}", &[]);
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| endpoints::remove(tx, id).boxed()).await
}

/// How a webhook is doing, by its cursor and by the attempts of the last 24 hours.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/health", tag = "webhooks", params(("webhook" = EndpointId, Path)),
    responses((status = 200, body = HealthView), (status = "default", body = Problem)))]
pub async fn health(State(hub): State<Hub>, staff: Staff, At(id): At<EndpointId>) -> Result<Json<HealthView>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    Ok(Json(health::of(tx.sql(), staff.merchant, id).await?))
}

/// Passes over the one event that a webhook is stuck at, because its receiver will never take it, and tries the next at once.
/// Refused if it is stuck at another one by now, or at none.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/skip", tag = "webhooks", request_body = Skip,
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = EndpointView), (status = "default", body = Problem)))]
pub async fn skip(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
    Valid { body, bytes }: Valid<Skip>,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let once = key.once("POST /v1/webhooks/{webhook}/skip", &bytes);
    hub.journal.write(staff.caller(), Some(once), 200, move |tx| skip::over(tx, id, body.position).boxed()).await
}

/// The secret that signs first.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/secret", tag = "webhooks", params(("webhook" = EndpointId, Path)),
    responses((status = 200, body = SecretView), (status = "default", body = Problem)))]
pub async fn secret(State(hub): State<Hub>, staff: Staff, At(id): At<EndpointId>) -> Result<impl IntoResponse> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    let secret = secrets::newest(tx.sql(), &hub.vault, staff.merchant, id).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(secret)))
}

/// Signs with a new secret. The one before signs along for a day, so that the receiver has the time to learn the new one.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/secret", tag = "webhooks",
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 201, body = Rotated), (status = "default", body = Problem)))]
pub async fn rotate(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
) -> Result<Written> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (once, secret) = (key.once("POST /v1/webhooks/{webhook}/secret", &[]), Secret::random()?);
    let ring = hub.vault.sealer(&hub.journal.pools.app, staff.merchant).await?;
    hub.journal
        .write(staff.caller(), Some(once), 201, move |tx| {
            let (secret, ring) = (secret.clone(), ring.clone());
            async move { secrets::rotate(tx, id, &secret, ring.as_deref()).await }.boxed()
        })
        .await
}

/// The attempts of the last 31 days, the newest first.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/attempts", tag = "webhooks",
    params(("webhook" = EndpointId, Path), PageParams),
    responses((status = 200, body = Page<AttemptView>), (status = "default", body = Problem)))]
pub async fn attempts(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<AttemptView>>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (limit, cursor) = params.read(50, attempts::PAGE_MAX)?;
    let mut tx = ReadTx::begin(&hub.journal.pools.app, staff.caller()).await?;
    endpoints::get(tx.sql(), staff.merchant, id).await?;
    let list = attempts::list(tx.sql(), staff.merchant, id, cursor, limit).await?;
    Ok(Json(Page::cut(list, limit, |attempt| attempt.id)))
}

/// Posts a message of the type `webhook.test` once, now, also to one that is disabled. It is not tried again; the same key
/// gives the attempt that there was.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/test", tag = "webhooks",
    params(("webhook" = EndpointId, Path),
           ("Idempotency-Key" = String, Header, description = "New for each attempt that is not a repetition.")),
    responses((status = 200, body = AttemptView), (status = "default", body = Problem)))]
pub async fn test(
    State(hub): State<Hub>,
    staff: Staff,
    At(id): At<EndpointId>,
    key: IdempotencyKey,
) -> Result<Json<AttemptView>> {
    staff.may_everywhere(Permission::ManageWebhooks)?;
    let (merchant, app) = (staff.merchant, &hub.journal.pools.app);
    let message = Message::ping(merchant, &key.into_text(), Moment::now_utc())?;
    let mut tx = ReadTx::begin(app, staff.caller()).await?;
    let endpoint = endpoints::get(tx.sql(), merchant, id).await?;
    if let Some(made) = attempts::of_test(tx.sql(), merchant, id, &message.id).await? {
        return Ok(Json(made));
    }
    let secrets = secrets::good(tx.sql(), &hub.vault, merchant, id).await?;
    // Not held while a stranger takes his time.
    drop(tx);
    let turn = hub.trials.begin(merchant).ok_or(Error::Busy { retry_after: ATTEMPT_MAX })?;
    let (app, sender) = (app.clone(), hub.sender.clone());
    // Whoever hangs up does not make it undone.
    let testing = tokio::spawn(async move {
        let _turn = turn;
        let attempted = sender.send(&endpoint.url, &secrets, &message).await;
        let mut sql = pool::begin_of(&app, merchant).await?;
        let view = attempts::keep(&mut sql, merchant, id, &message, 1, &attempted, None).await?;
        sql.commit().await?;
        view.ok_or(Error::InFlight)
    });
    testing.await?.map(Json)
}
