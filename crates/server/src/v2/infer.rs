//! `POST /v2/models/{model}/infer`

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Map, Value};

use super::metadata::check_version;
use super::outputs::{HEADER_LENGTH, response, wanted};
use super::request::InferRequest;
use crate::Priority;
use crate::options::Options;
use crate::refusal::{ErrorBody, Refusal};
use crate::service::Service;
use crate::upload;

/// Inference by the Open Inference Protocol, in JSON or with binary tensors.
///
/// Inputs: `image` (BYTES, pictures' files; base64 in JSON) or `pixels` (FP32, preprocessed). Outputs: `logits`,
/// `probabilities`, or `embedding`. The parameters `flops`, `priority` (1 high, 2 normal, 3 low) and `timeout`
/// (microseconds) are understood.
#[utoipa::path(
    post, path = "/v2/models/{model}/infer", tag = "Open Inference Protocol",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    request_body(content((Object = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 200, description = "The outputs", body = Object), (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn infer(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let engine = service.engine(&model)?;
    let _place = service.admit()?;
    let limits = &service.settings().limits;
    let (head, body) = request.into_parts();
    let body = upload::read(&head.headers, body, limits).await?;
    let size = engine.model().description().model.image_size;
    let size = [3, size.height, size.width];
    let header = header_length(&head.headers)?;
    let mut said = InferRequest::read(&body, header, size, limits.images)?;
    let (task, outputs) = wanted(&said)?;
    let wish = options(&said.parameters)?.wish(engine, task, limits)?;
    let images = std::mem::take(&mut said.images);
    let replies = service.ask(engine, images, &wish).await?;
    response(&model, &said, &outputs, &replies, engine.model())
}

/// The same of a version.
pub(crate) async fn infer_version(
    state: State<Arc<Service>>,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    check_version(&version)?;
    infer(state, Path(model), request).await
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let fault =
        || Refusal::malformed("Inference-Header-Content-Length: expected a number of bytes");
    length.ok_or_else(fault).map(Some)
}

/// The options that the parameters of a request stand for.
fn options(parameters: &Map<String, Value>) -> Result<Options, Refusal> {
    let number = |key: &str| {
        let value = parameters.get(key).filter(|value| !value.is_null());
        let number = |value: &Value| {
            let fault =
                || Refusal::malformed(format!("parameters: {key} = {value}: expected a number"));
            value.as_f64().ok_or_else(fault)
        };
        value.map(number).transpose()
    };
    // 0 is "not said" in Triton's clients.
    let priority = match number("priority")?.unwrap_or(0.0) {
        1.0 => Priority::High,
        value if value >= 3.0 => Priority::Low,
        _ => Priority::Normal,
    };
    let microseconds = number("timeout")?.filter(|&time| time > 0.0);
    Ok(Options {
        flops: number("flops")?,
        priority,
        timeout_ms: microseconds.map(|time| (time / 1e3).ceil() as u64),
        ..Options::default()
    })
}
