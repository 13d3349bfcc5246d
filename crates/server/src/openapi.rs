//! The API's description.

use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, openapi};

/// The API's description.
#[derive(OpenApi)]
#[openapi(
    info(title = "aptvit", description = "Vision Transformers whose compute follows the load"),
    paths(
        crate::plain::classify, crate::plain::embed, crate::plain::models, crate::plain::load,
        crate::memory::held, crate::memory::add, crate::memory::remove, crate::state::health,
        crate::state::metrics, crate::v2::metadata::live, crate::v2::metadata::ready, crate::v2::metadata::server,
        crate::v2::metadata::model, crate::v2::metadata::model_ready, crate::v2::infer::infer,
        crate::v2::metadata::index, crate::v2::metadata::load, crate::v2::metadata::unload,
    ),
    modifiers(&Bearer)
)]
pub(crate) struct Api;

/// The secret, where the server has one.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = api.components.get_or_insert_with(Default::default);
        components.add_security_scheme("key", scheme);
    }
}
