//! The API's own description: OpenAPI 3.1, made from the code, and a page to read it that loads nothing from outside.

use axum::Router;
use axum::http::{HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};
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

/// The whole document.
pub fn openapi() -> OpenApi {
    super::api().split_for_parts().1
}

pub fn router(openapi: OpenApi) -> Router<Hub> {
    // Left to itself, the page shows every document's address to a validator on the Internet.
    let config = Config::default().validator_url("none");
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    Router::from(SwaggerUi::new("/docs").config(config).url("/v1/openapi.json", openapi))
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, policy))
}
