//! `/v1/providers`: what payment providers tell by themselves. The one door that no token opens: what comes through it proves
//! itself, and is a claim all the same.

use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use tillwire_channels::MerchantId;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::At;
use super::problem::Problem;
use crate::connectors::NOTICE_BYTES_MAX;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::payments::inbox::ANSWER_MAX;

/// How many notifications a node reads at once: one that comes slowly keeps no other from being worked on.
pub const READ_MAX: usize = 256;
/// How long one waits while enough are worked on.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long one is worked on at most, also when nobody waits for the answer any more: longer than the database may take.
const WORKED_MAX: Duration = Duration::from_secs(60);
/// How long the body of one may take to come. Providers send it at once.
const BODY_MAX: Duration = Duration::from_secs(2);
/// How long one may take in all: longer than its body and its answer, which have bounds of their own.
pub const TIMEOUT: Duration = Duration::from_secs(8);

/// What a provider is told, whatever its notification was good for.
#[derive(Debug, Serialize, ToSchema)]
pub struct Kept {
    pub kept: bool,
}

/// A payment provider's notification. Its provider signs it or brings its token; nobody else has a use for this, and whoever
/// is another is told nothing but 401. Whatever is answered with 2xx is kept.
#[utoipa::path(post, path = "/v1/providers/{merchant}/{account}/webhook", tag = "payments",
    params(("merchant" = MerchantId, Path), ("account" = Uuid, Path)),
    request_body(content = String, content_type = "application/json", description = "As the provider words it."),
    responses((status = 200, body = Kept, description = "Kept, and dealt with as far as it is of any use."),
              (status = "default", body = Problem)),
    security(()))]
pub async fn notified(
    State(hub): State<Hub>,
    At((merchant, account)): At<(MerchantId, Uuid)>,
    request: Request,
) -> Result<Response> {
    let headers = request.headers().clone();
    let body = match tokio::time::timeout(BODY_MAX, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return Err(Error::TooLarge { limit_bytes: NOTICE_BYTES_MAX });
        }
        Ok(Err(_)) => return Err(Error::invalid("malformed_json", "", "The body could not be read.")),
        Err(_) => return Err(Error::Busy { retry_after: ANSWER_MAX }),
    };
    let began = Instant::now();
    let Ok(Ok(place)) = tokio::time::timeout(WAIT_MAX, hub.notified.clone().acquire_owned()).await else {
        metrics::counter!("tillwire_http_shed_total").increment(1);
        return Err(Error::Busy { retry_after: ANSWER_MAX });
    };
    let desk = hub.desk.clone();
    // A provider that hangs up cancels nothing half-way.
    let receiving = hub.journal.tasks().spawn(async move {
        let _place = place;
        let received = tokio::time::timeout(WORKED_MAX, desk.receive(merchant, account, &headers, &body)).await;
        received.unwrap_or(Err(Error::Busy { retry_after: ANSWER_MAX }))
    });
    match tokio::time::timeout(ANSWER_MAX.saturating_sub(began.elapsed()), receiving).await {
        Ok(Ok(received)) => match received {
            Ok(_) => Ok(Json(Kept { kept: true }).into_response()),
            // Not even how else one might prove oneself: there is no other way.
            Err(Error::Unauthenticated(_)) => Ok(StatusCode::UNAUTHORIZED.into_response()),
            Err(error @ Error::NotFound(_)) => Err(error),
            // After 503 providers come again more often than after 500.
            Err(error) => {
                error!(%merchant, %account, "A notification was not dealt with: {:#}", error.into_anyhow());
                Err(Error::Busy { retry_after: ANSWER_MAX })
            }
        },
        Ok(Err(panic)) => {
            error!(%merchant, %account, "A notification was not dealt with: {panic}");
            Err(Error::Busy { retry_after: ANSWER_MAX })
        }
        Err(_) => Err(Error::Busy { retry_after: ANSWER_MAX }),
    }
}
