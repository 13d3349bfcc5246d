//! A model's memory over HTTP: what it knows of pictures, and pictures that are added or removed.

use std::sync::{Arc, PoisonError, RwLock};

use apt_data::RgbImage;
use apt_inference::ClassProbability;
use apt_memory::{ClassCounts, Label, Lookup, MemoryError, Recall, Remembered, Which, picture_id};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::changes::{Addition, Removal};
use crate::job::{Input, Reply, Task};
use crate::json::json;
use crate::options::Options;
use crate::refusal::{ErrorBody, Refusal};
use crate::service::Service;
use crate::upload::{self, Pictures};

/// What clients are told of a memory that is away: its address is nobody's business.
const AWAY: &str = "the memory could not be asked; the server's log says why";

/// Where pictures come from that name no source.
const SOURCE: &str = "http";

/// What a memory holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Held {
    /// The model whose memory it is.
    model: String,
    /// Pictures.
    entries: usize,
    /// How many of each class.
    classes: ClassCounts,
}

/// What was added.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Added {
    /// The model whose memory it is.
    model: String,
    /// The ids of the pictures, in their order.
    ids: Vec<String>,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Removed {
    /// The model whose memory it is.
    model: String,
    /// How many pictures.
    removed: usize,
}

/// What the memory of a model holds.
#[utoipa::path(
    get, path = "/v1/models/{model}/memory", tag = "memory",
    params(("model" = String, Path, description = "A name that `/v1/models` lists")),
    responses((status = 200, body = Held), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody))
)]
pub(crate) async fn held(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
) -> Result<Response, Refusal> {
    let memory = of(&service, &model)?;
    let classes = on(memory, |recall| recall.store()?.counts()).await?;
    let entries = classes.values().sum();
    let held = Held {
        model,
        entries,
        classes,
    };
    Ok(json(StatusCode::OK, &held))
}

/// Adds pictures to the memory of a model, without training. A picture that is there already gets the new class.
///
/// The body is as that of `classify`.
#[utoipa::path(
    post, path = "/v1/models/{model}/memory", tag = "memory",
    params(("model" = String, Path, description = "A name that `/v1/models` lists"), Addition),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"), (Pictures = "application/json"), (String = "multipart/form-data"))),
    responses(
        (status = 200, body = Added), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn add(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let engine = service.engine(&model)?;
    let memory = of(&service, &model)?;
    let addition: Addition = said(&request)?;
    let class = addition.class.trim().to_string();
    if class.is_empty() {
        return Err(Refusal::unprocessable("class: expected a name"));
    }
    let _place = service.admit()?;
    let limits = &service.settings().limits;
    let wish = Options::default().wish(engine, Task::LookUp, limits)?;
    let (head, body) = request.into_parts();
    let body = upload::read(&head.headers, body, limits).await?;
    let pictures = upload::pictures(&head.headers, body, limits).await?;
    let inputs = pictures.iter().cloned().map(Input::Picture).collect();
    let replies = service.ask(engine, inputs, &wish).await?;
    let source = addition.source.unwrap_or_else(|| SOURCE.into());
    let ids = change(memory, move |recall| {
        let mut remembered = Vec::with_capacity(pictures.len());
        for (picture, reply) in pictures.iter().zip(replies) {
            remembered.push(Remembered {
                label: Label {
                    id: picture_id(&RgbImage::from_bytes(picture, &source)?),
                    class: class.clone(),
                    source: source.clone(),
                },
                features: reply.features,
                logits: Vec::new(),
            });
        }
        let ids = remembered.iter().map(|one| one.label.id.clone()).collect();
        recall.add(remembered)?;
        Ok(ids)
    });
    let ids = ids.await?;
    Ok(json(StatusCode::OK, &Added { model, ids }))
}

/// Removes pictures from the memory of a model.
#[utoipa::path(
    delete, path = "/v1/models/{model}/memory", tag = "memory",
    params(("model" = String, Path, description = "A name that `/v1/models` lists"), Removal),
    responses(
        (status = 200, body = Removed), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn remove(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let memory = of(&service, &model)?;
    let removal: Removal = said(&request)?;
    let which = match (removal.id, removal.class, removal.source) {
        (Some(id), None, None) => Which::Ids(vec![id]),
        (None, Some(class), None) => Which::Class(class),
        (None, None, Some(source)) => Which::Source(source),
        _ => {
            return Err(Refusal::unprocessable(
                "expected one of id, class and source",
            ));
        }
    };
    let removed = change(memory, move |recall| recall.remove(&which)).await?;
    Ok(json(StatusCode::OK, &Removed { model, removed }))
}

/// The classes of each reply by the model and its memory. What that computed counts among the reply's FLOPs.
pub(crate) async fn look_up(
    memory: Arc<RwLock<Recall>>,
    replies: &mut [Reply],
    top: usize,
) -> Result<Vec<(Vec<ClassProbability>, Lookup)>, Refusal> {
    let logits: Vec<Vec<f32>> = replies.iter().map(|reply| reply.values.clone()).collect();
    let features = replies.iter_mut();
    let features: Vec<Vec<f32>> = features
        .map(|reply| std::mem::take(&mut reply.features))
        .collect();
    let costs = replies.iter();
    let costs = costs.map(|reply| (reply.reduced.flops, reply.reduced.flops_share));
    let mut costs: Vec<(u64, f64)> = costs.collect();
    let (mut found, costs) = on(memory, move |recall| {
        let found = recall.look_up(&logits, &features, top);
        for ((_, lookup), (flops, share)) in found.iter().zip(&mut costs) {
            recall.count_search(lookup, flops, share);
        }
        Ok((found, costs))
    })
    .await?;
    for ((reply, (_, lookup)), (flops, share)) in replies.iter_mut().zip(&mut found).zip(costs) {
        (reply.reduced.flops, reply.reduced.flops_share) = (flops, share);
        if let Some(failure) = lookup.failure.take() {
            tracing::warn!("the memory could not be asked: {failure}");
            lookup.failure = Some(AWAY.into());
        }
    }
    Ok(found)
}

/// What stands behind the question mark.
fn said<T: for<'de> Deserialize<'de>>(request: &Request) -> Result<T, Refusal> {
    let found = Query::<T>::try_from_uri(request.uri());
    let Query(said) = found.map_err(|error| Refusal::unprocessable(error.body_text()))?;
    Ok(said)
}

/// The memory of a model.
fn of(service: &Service, model: &str) -> Result<Arc<RwLock<Recall>>, Refusal> {
    service.engine(model)?;
    service.memory(model).ok_or_else(|| {
        let message = format!("the model `{model}` is served without a memory");
        Refusal::new(StatusCode::NOT_FOUND, message)
    })
}

/// Asks a memory, on a thread that may wait.
async fn on<T: Send + 'static>(
    memory: Arc<RwLock<Recall>>,
    ask: impl FnOnce(&Recall) -> Result<T, MemoryError> + Send + 'static,
) -> Result<T, Refusal> {
    waited(move || ask(&memory.read().unwrap_or_else(PoisonError::into_inner))).await
}

/// Changes a memory, on a thread that may wait.
async fn change<T: Send + 'static>(
    memory: Arc<RwLock<Recall>>,
    change: impl FnOnce(&mut Recall) -> Result<T, MemoryError> + Send + 'static,
) -> Result<T, Refusal> {
    waited(move || change(&mut memory.write().unwrap_or_else(PoisonError::into_inner))).await
}

async fn waited<T: Send + 'static>(
    task: impl FnOnce() -> Result<T, MemoryError> + Send + 'static,
) -> Result<T, Refusal> {
    let ended = tokio::task::spawn_blocking(task).await;
    let lost = |_| {
        let message = "asking the memory failed; the server's log says why";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    ended.map_err(lost)?.map_err(|error| match error {
        MemoryError::Data(error) => Refusal::unprocessable(error.to_string()),
        error => {
            tracing::warn!("{error}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, AWAY).retry_after(2.0)
        }
    })
}
