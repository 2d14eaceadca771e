//! The API's own description: OpenAPI 3.1, made from the code, and a page to read it that loads nothing from outside.

use axum::Router;
use axum::http::{HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, HeaderBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, SecurityRequirement,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::hub::Hub;

/// The page's own files and this hub's API. It styles its parts as it goes, and its pictures are in its style sheet.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What stands above the routes.
pub fn description() -> OpenApi {
    let mut components = Components::new();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Tillwire")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Tills and systems write here; screens hear of it over Socket.IO. Money is an integer in the \
                     currency's minor unit (whole rupiah), a quantity a string with three decimals. Writes carry an \
                     `Idempotency-Key` and answer with `Tillwire-Position`. Errors are problem+json (RFC 9457).",
                ))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .components(Some(components))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]))
        .build()
}

/// Adds what is alike at every route and is said at none: names that are unique, what an answer means, where a write
/// stands, and that problems are problem+json.
pub fn complete(openapi: &mut OpenApi) {
    for (name, path) in &mut openapi.paths.paths {
        if let Some(read) = &mut path.get {
            complete_one(read, false);
        }
        // What a provider tells is no write of somebody's, who would want to know where it stands.
        let is_write = !name.starts_with("/v1/providers/");
        for write in [&mut path.post, &mut path.put, &mut path.patch, &mut path.delete].into_iter().flatten() {
            complete_one(write, is_write);
        }
    }
}

fn complete_one(operation: &mut Operation, is_write: bool) {
    let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
    operation.operation_id = operation.operation_id.take().map(|name| format!("{tag}_{name}"));
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let is_good = status.starts_with('2');
        let meaning = match (is_good, is_write) {
            (true, false) => "What was asked for.",
            (true, true) => "It is done, now or by an earlier request with the same key.",
            (false, _) => "What went wrong: `code` says it to programs, `detail` to people.",
        };
        if response.description.is_empty() {
            response.description = meaning.to_owned();
        }
        if !is_good && let Some(problem) = response.content.shift_remove("application/json") {
            response.content.insert("application/problem+json".to_owned(), problem);
        }
        if is_good && is_write {
            let place = "Where in the journal it stands. Missing where there is nothing to tell of: a merchant that \
                opens, a count that found what was expected.";
            let position = HeaderBuilder::new().description(Some(place)).build();
            response.headers.insert("Tillwire-Position".to_owned(), position.into());
        }
    }
}

/// The whole document.
pub fn openapi() -> OpenApi {
    super::api().1
}

pub fn router(openapi: OpenApi) -> Router<Hub> {
    // Left to itself, the page shows every document's address to a validator on the Internet.
    let config = Config::default().validator_url("none");
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    Router::from(SwaggerUi::new("/docs").config(config).url("/v1/openapi.json", openapi))
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, policy))
}
