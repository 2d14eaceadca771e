//! REST: parse, authorise, make one call, shape the reply. This room holds no rule and no SQL.
//!
//! Everything under `/v1` speaks JSON in snake_case and answers errors as problem+json (RFC 9457), see [`problem`].

mod audit;
mod captures;
mod catalog;
mod dead_letters;
mod devices;
mod docs;
mod extract;
mod forces;
mod guard;
mod health;
mod journal;
mod merchants;
mod outlets;
mod page;
mod payment_tasks;
mod payments;
mod presence;
mod problem;
mod provider_accounts;
mod provider_health;
mod providers;
mod reconciliations;
mod redeliveries;
mod refunds;
mod reply;
mod sales;
mod staff;
mod stock;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::connectors::NOTICE_BYTES_MAX;
use crate::hub::Hub;
use crate::reconciliation::file::FILE_BYTES_MAX;

pub use docs::openapi;
pub use health::metrics_router;

/// The largest body of a request, in bytes, where a route does not say otherwise.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// The largest body of an import, in bytes.
pub const IMPORT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many requests a node works on at once, but for providers' notifications; more are refused with 503.
pub const REQUESTS_MAX: usize = 512;
/// How long a request may take before it is answered with 500, its outcome unknown.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an import may take.
pub const IMPORT_TIMEOUT: Duration = Duration::from_secs(300);

/// Every route of the REST API within its bounds, and the description of all.
fn api() -> (Router<Hub>, OpenApi) {
    let limits = Arc::new(Semaphore::new(REQUESTS_MAX));
    let usual = guard::Bounds { body_bytes_max: BODY_BYTES_MAX, timeout: REQUEST_TIMEOUT };
    let import = guard::Bounds { body_bytes_max: IMPORT_BYTES_MAX, timeout: IMPORT_TIMEOUT };
    let settlements = guard::Bounds { body_bytes_max: FILE_BYTES_MAX, timeout: REQUEST_TIMEOUT };
    // Whoever notifies shows no token. So tills do not share their room with it.
    let notices = Arc::new(Semaphore::new(providers::READ_MAX));
    let notice = guard::Bounds { body_bytes_max: NOTICE_BYTES_MAX, timeout: providers::TIMEOUT };
    let (routes, mut openapi) = OpenApiRouter::with_openapi(docs::description())
        .merge(bounded(routes_of_one(), &limits, usual))
        .merge(bounded(OpenApiRouter::new().routes(routes!(catalog::import)), &limits, import))
        .merge(bounded(OpenApiRouter::new().routes(routes!(reconciliations::import)), &limits, settlements))
        .merge(bounded(OpenApiRouter::new().routes(routes!(providers::notified)), &notices, notice))
        .split_for_parts();
    docs::complete(&mut openapi);
    (routes, openapi)
}

/// The last layer is the outermost: the bounds are there before anyone asks for them.
fn bounded(routes: OpenApiRouter<Hub>, limits: &Arc<Semaphore>, bounds: guard::Bounds) -> OpenApiRouter<Hub> {
    routes
        .layer(axum::middleware::from_fn_with_state(limits.clone(), guard::admit))
        .layer(DefaultBodyLimit::max(bounds.body_bytes_max))
        .layer(axum::Extension(bounds))
}

/// The routes that take or answer one thing, or a page.
fn routes_of_one() -> OpenApiRouter<Hub> {
    OpenApiRouter::new()
        .routes(routes!(merchants::get, merchants::open))
        .routes(routes!(outlets::list, outlets::open))
        .routes(routes!(outlets::get))
        .routes(routes!(outlets::enrol))
        .routes(routes!(presence::at))
        .routes(routes!(staff::list, staff::add))
        .routes(routes!(staff::revoke))
        .routes(routes!(catalog::list, catalog::create))
        .routes(routes!(catalog::get, catalog::replace))
        .routes(routes!(stock::levels))
        .routes(routes!(stock::level))
        .routes(routes!(stock::moves))
        .routes(routes!(stock::apply))
        .routes(routes!(sales::list, sales::complete))
        .routes(routes!(sales::get))
        .routes(routes!(sales::pay, payments::of_sale))
        .routes(routes!(sales::void))
        .routes(routes!(payments::seen))
        .routes(routes!(payments::get))
        .routes(routes!(payments::svg))
        .routes(routes!(payments::png))
        .routes(routes!(payments::cancel))
        .routes(routes!(captures::capture))
        .routes(routes!(forces::force))
        .routes(routes!(refunds::refund, refunds::refunds_of))
        .routes(routes!(refunds::get_refund))
        .routes(routes!(payment_tasks::list_tasks))
        .routes(routes!(payment_tasks::settle_task))
        .routes(routes!(payments::ways))
        .routes(routes!(webhooks::list, webhooks::add))
        .routes(routes!(webhooks::get, webhooks::replace, webhooks::remove))
        .routes(routes!(webhooks::secret, webhooks::rotate))
        .routes(routes!(webhooks::health))
        .routes(routes!(webhooks::skip))
        .routes(routes!(redeliveries::redeliveries, redeliveries::redeliver))
        .routes(routes!(redeliveries::redelivery, redeliveries::cancel_redelivery))
        .routes(routes!(webhooks::attempts))
        .routes(routes!(webhooks::test))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::replay))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(audit::list))
        .routes(routes!(devices::list, devices::add))
        .routes(routes!(devices::get, devices::replace, devices::remove))
        .routes(routes!(devices::test))
        .routes(routes!(devices::keys))
        .routes(routes!(provider_accounts::list, provider_accounts::add))
        .routes(routes!(provider_accounts::get, provider_accounts::replace))
        .routes(routes!(provider_accounts::change_keys))
        .routes(routes!(provider_health::health))
        .routes(routes!(reconciliations::begin))
        .routes(routes!(reconciliations::list))
        .routes(routes!(reconciliations::get))
        .routes(routes!(reconciliations::list_differences))
        .routes(routes!(reconciliations::close_difference))
        .routes(routes!(journal::after))
        .routes(routes!(journal::snapshot))
}

/// The public listener's routes: the health checks, and with `api` the API, its documentation and the live page, which
/// reads from it.
pub fn router(hub: Hub, with_api: bool) -> Router {
    let mut routes = health::router();
    if with_api {
        let (api, openapi) = api();
        routes = routes.merge(api).merge(docs::router(openapi)).merge(page::router());
    }
    routes
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(axum::middleware::from_fn(guard::trace))
        .with_state(hub)
}
