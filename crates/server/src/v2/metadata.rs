//! What the server and its models say of themselves.

use std::sync::Arc;

use apt_vit_model::ImageSize;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::outputs::{EMBEDDING, LOGITS, PROBABILITIES};
use super::request::{PICTURES, PIXELS};
use crate::json::json as json_response;
use crate::refusal::Refusal;
use crate::service::Service;

/// The one version of every model.
pub(crate) const VERSION: &str = "1";

/// Does the server run?
#[utoipa::path(get, path = "/v2/health/live", tag = "Open Inference Protocol", responses((status = 200)))]
pub(crate) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Does the server take requests? Not while it shuts down.
#[utoipa::path(get, path = "/v2/health/ready", tag = "Open Inference Protocol", responses((status = 200), (status = 503)))]
pub(crate) async fn ready(State(service): State<Arc<Service>>) -> StatusCode {
    if service.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// The server's name, version and extensions.
#[utoipa::path(get, path = "/v2", tag = "Open Inference Protocol", responses((status = 200, body = Object)))]
pub(crate) async fn server() -> Response {
    let extensions = ["binary_tensor_data", "classification", "model_repository"];
    let body =
        json!({ "name": "aptvit", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions });
    json_response(StatusCode::OK, &body)
}

/// The inputs and outputs of a model.
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    responses((status = 200, body = Object), (status = 404))
)]
pub(crate) async fn model(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    let engine = service.engine(&model)?;
    let config = engine.model().pruning().config();
    let ImageSize { height, width } = config.image_size;
    let classes = config.num_classes;
    let tensor = |name: &str, kind: &str, shape: &[i64]| json!({ "name": name, "datatype": kind, "shape": shape });
    let outputs = [
        tensor(LOGITS, "FP32", &[-1, classes as i64]),
        tensor(PROBABILITIES, "FP32", &[-1, classes as i64]),
        tensor(EMBEDDING, "FP32", &[-1, config.hidden_size as i64]),
    ];
    // A model without classes has features alone.
    let outputs = if classes == 0 {
        &outputs[2..]
    } else {
        &outputs
    };
    let body = json!({
        "name": model,
        "versions": [VERSION],
        "platform": "aptvit",
        "inputs": [
            tensor(PICTURES, "BYTES", &[-1]),
            tensor(PIXELS, "FP32", &[-1, 3, height as i64, width as i64]),
        ],
        "outputs": outputs,
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// The same of a version.
pub(crate) async fn model_version(
    state: State<Arc<Service>>,
    Path((name, version)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    check_version(&version)?;
    model(state, Path(name)).await
}

/// Does a model take requests?
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    responses((status = 200), (status = 404), (status = 503))
)]
pub(crate) async fn model_ready(
    state: State<Arc<Service>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    state.0.engine(&model)?;
    Ok(ready(state).await.into_response())
}

/// The same of a version.
pub(crate) async fn model_ready_version(
    state: State<Arc<Service>>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    check_version(&version)?;
    model_ready(state, Path(model)).await
}

/// The models that there are, as Triton's model repository lists them.
#[utoipa::path(post, path = "/v2/repository/index", tag = "Open Inference Protocol", responses((status = 200, body = Object)))]
pub(crate) async fn index(State(service): State<Arc<Service>>) -> Response {
    let models = service.engines().keys();
    let models = models
        .map(|name| json!({ "name": name, "version": VERSION, "state": "READY", "reason": "" }));
    json_response(StatusCode::OK, &models.collect::<Vec<_>>())
}

/// Loading a model: all are loaded at the start, so that this only says whether there is one.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/load", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    responses((status = 200), (status = 404))
)]
pub(crate) async fn load(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    service.engine(&model)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// Unloading a model, which this server does not.
#[utoipa::path(
    post, path = "/v2/repository/models/{model}/unload", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    responses((status = 404), (status = 422))
)]
pub(crate) async fn unload(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    service.engine(&model)?;
    let message = "models stay loaded: start the server without it";
    Err(Refusal::unprocessable(message))
}

/// # Errors
///
/// 404 where there is no such version.
pub(crate) fn check_version(version: &str) -> Result<(), Refusal> {
    if version == VERSION {
        return Ok(());
    }
    let message = format!("version {version}: every model has version {VERSION} alone");
    Err(Refusal::new(StatusCode::NOT_FOUND, message))
}
