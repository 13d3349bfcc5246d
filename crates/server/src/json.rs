//! Answers in JSON.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A response of this status with `value` in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let kind = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [kind], bytes).into_response(),
        Err(error) => {
            tracing::error!("an answer has no form in JSON: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
