//! Which request is answered by what.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::page::{self, POLICY};
use crate::refusal::Refusal;
use crate::service::Service;
use crate::v2::{infer, metadata};
use crate::{memory, plain, state};

/// Everything that the server answers.
pub fn router(service: Arc<Service>) -> Router {
    let guarded = Router::new()
        .route("/v1/models", get(plain::models))
        .route("/v1/models/{model}/classify", post(plain::classify))
        .route("/v1/models/{model}/embed", post(plain::embed))
        .route(
            "/v1/models/{model}/memory",
            get(memory::held).post(memory::add).delete(memory::remove),
        )
        .route("/v1/load", get(plain::load))
        .route("/v2", get(metadata::server))
        .route("/v2/models/{model}", get(metadata::model))
        .route("/v2/models/{model}/ready", get(metadata::model_ready))
        .route("/v2/models/{model}/infer", post(infer::infer))
        .route(
            "/v2/models/{model}/versions/{version}",
            get(metadata::model_version),
        )
        .route(
            "/v2/models/{model}/versions/{version}/ready",
            get(metadata::model_ready_version),
        )
        .route(
            "/v2/models/{model}/versions/{version}/infer",
            post(infer::infer_version),
        )
        .route("/v2/repository/index", post(metadata::index))
        .route("/v2/repository/models/{model}/load", post(metadata::load))
        .route(
            "/v2/repository/models/{model}/unload",
            post(metadata::unload),
        )
        .route("/metrics", get(state::metrics))
        .route_layer(from_fn_with_state(Arc::clone(&service), guard));
    let open = Router::new()
        .route("/health", get(state::health))
        .route("/v2/health/live", get(metadata::live))
        .route("/v2/health/ready", get(metadata::ready))
        .route("/openapi.json", get(state::openapi));
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    let origins = service.settings().origins.clone();
    let router = guarded
        .merge(open)
        .merge(page::routes())
        .fallback(async || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "there is nothing at this address; see /docs",
            )
        })
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this address has another method; see /docs",
            )
        })
        .layer(fixed(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(REFERRER_POLICY, "no-referrer"))
        .layer(fixed(CONTENT_SECURITY_POLICY, POLICY))
        .layer(CatchPanicLayer::custom(|_| {
            let message = "answering failed; the server's log says why";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }))
        .layer(from_fn_with_state(Arc::clone(&service), counted))
        .with_state(service);
    let origins: Vec<HeaderValue> = origins
        .iter()
        .filter_map(|origin| origin.parse().ok())
        .collect();
    if origins.is_empty() {
        return router;
    }
    let cors = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        // A wildcard would not cover Authorization.
        .allow_headers(AllowHeaders::mirror_request());
    router.layer(cors)
}

/// Lets those in who show the secret.
async fn guard(
    State(service): State<Arc<Service>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let key = service.settings().key.as_ref();
    if key.is_some_and(|key| !key.is_shown(request.headers())) {
        let message = "expected the header Authorization: Bearer with the server's secret";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
    }
    Ok(next.run(request).await)
}

/// Counts requests, by the route and not by the address: nobody fills the memory with made-up addresses.
async fn counted(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_string();
    let metrics = service.metrics();
    metrics.in_flight.increment(1.0);
    let leaves = OnLeave(|| metrics.in_flight.decrement(1.0));
    let response = next.run(request).await;
    drop(leaves);
    let status = response.status().as_u16();
    metrics.answered(&route, status, started.elapsed().as_secs_f64());
    response
}

/// Runs when it is dropped: also where the client went away, and the rest never runs.
struct OnLeave<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnLeave<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
