//! How the server stands.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use utoipa::OpenApi;

use crate::json::json as json_response;
use crate::openapi::Api;
use crate::service::Service;

/// Does the server take requests?
#[utoipa::path(get, path = "/health", tag = "state", responses((status = 200), (status = 503)))]
pub(crate) async fn health(State(service): State<Arc<Service>>) -> Response {
    if service.is_ready() {
        json_response(StatusCode::OK, &json!({ "status": "ready" }))
    } else {
        json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "shutting down" }),
        )
    }
}

/// What the server counts, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "state", responses((status = 200, body = String)))]
pub(crate) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, service.metrics().render()).into_response()
}

/// The API's description.
pub(crate) async fn openapi() -> Response {
    json_response(StatusCode::OK, &Api::openapi())
}
