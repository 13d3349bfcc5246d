//! The plain endpoints: pictures in, classes or features out.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Priority;
use crate::answers::{Classification, ClassifiedPicture, EmbeddedPicture, Embeddings};
use crate::engine::Engine;
use crate::job::{Input, Reply, Task};
use crate::json::json;
use crate::memory;
use crate::options::Options;
use crate::refusal::{ErrorBody, Refusal};
use crate::service::Service;
use crate::upload::{self, Pictures};

/// Classes of pictures.
///
/// The body is a JPEG, PNG or WebP as it is, several as `multipart/form-data`, or base64 in JSON.
#[utoipa::path(
    post, path = "/v1/models/{model}/classify", tag = "plain",
    params(("model" = String, Path, description = "A name that `/v1/models` lists"), Options),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"), (Pictures = "application/json"), (String = "multipart/form-data"))),
    responses(
        (status = 200, body = Classification), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn classify(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let engine = service.engine(&model)?;
    let memory = service.memory(&model);
    let task = if memory.is_some() {
        Task::LookUp
    } else {
        Task::Classify
    };
    let (options, mut replies) = ask(&service, engine, task, request).await?;
    let of_model = engine.model();
    let (top, explain) = (options.top(), options.explain);
    let results = match memory {
        None => replies
            .into_iter()
            .map(|reply| ClassifiedPicture::new(reply, of_model, top, explain))
            .collect(),
        Some(memory) => {
            let found = memory::look_up(memory, &mut replies, top).await?;
            let replies = replies.into_iter().zip(found);
            let classified = replies.map(|(reply, found)| {
                ClassifiedPicture::looked_up(reply, of_model, found, explain)
            });
            classified.collect()
        }
    };
    Ok(json(StatusCode::OK, &Classification { model, results }))
}

/// Features of pictures: the CLS token after the last norm.
///
/// The body is as that of `classify`.
#[utoipa::path(
    post, path = "/v1/models/{model}/embed", tag = "plain",
    params(("model" = String, Path, description = "A name that `/v1/models` lists"), Options),
    request_body(content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"), (Pictures = "application/json"), (String = "multipart/form-data"))),
    responses(
        (status = 200, body = Embeddings), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
        (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 503, body = ErrorBody),
    )
)]
pub(crate) async fn embed(
    State(service): State<Arc<Service>>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let engine = service.engine(&model)?;
    let (options, replies) = ask(&service, engine, Task::Embed, request).await?;
    let of_model = engine.model();
    let results = replies
        .into_iter()
        .map(|reply| EmbeddedPicture::new(reply, of_model, options.explain))
        .collect();
    Ok(json(StatusCode::OK, &Embeddings { model, results }))
}

pub(crate) async fn ask(
    service: &Service,
    engine: &Engine,
    task: Task,
    request: Request,
) -> Result<(Options, Vec<Reply>), Refusal> {
    let _place = service.admit()?;
    let limits = &service.settings().limits;
    let options = Options::of(request.uri())?;
    let wish = options.wish(engine, task, limits)?;
    let (head, body): (_, Body) = request.into_parts();
    let body = upload::read(&head.headers, body, limits).await?;
    let pictures = upload::pictures(&head.headers, body, limits).await?;
    let inputs = pictures.into_iter().map(Input::Picture).collect();
    let replies = service.ask(engine, inputs, &wish).await?;
    Ok((options, replies))
}

/// A model that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServedModel {
    /// Its name.
    name: String,
    /// Who decides which tokens stay.
    policy: String,
    /// Height and width of the images that it sees.
    image_size: [usize; 2],
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// Blocks.
    blocks: usize,
    /// How many classes it knows.
    classes: usize,
    /// FLOPs of an image of which nothing is removed.
    dense_flops: f64,
    /// The shares of the dense FLOPs that the load chooses from; one or none where it chooses nothing.
    shares: Vec<f64>,
}

/// The models that are served.
#[utoipa::path(get, path = "/v1/models", tag = "plain", responses((status = 200, body = Vec<ServedModel>)))]
pub(crate) async fn models(State(service): State<Arc<Service>>) -> Response {
    let models = service.engines().iter().map(|(name, engine)| {
        let description = engine.model().description();
        let config = engine.model().pruning().config();
        ServedModel {
            name: name.clone(),
            policy: description.policy.name().to_string(),
            image_size: [config.image_size.height, config.image_size.width],
            grid: config.grid(),
            blocks: config.num_layers,
            classes: description.class_names.len(),
            dense_flops: crate::budget::dense_flops(engine.model()),
            shares: engine
                .levels()
                .iter()
                .filter_map(|level| level.share)
                .collect(),
        }
    });
    json(StatusCode::OK, &models.collect::<Vec<_>>())
}

/// How a model stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelLoad {
    /// Its name.
    model: String,
    /// The share of the dense FLOPs that a picture is given now, by priority.
    shares: Shares,
    /// Images that wait.
    waiting: usize,
    /// Images that are being computed.
    computing: usize,
    /// Seconds that a new image of normal priority would wait.
    wait_seconds: f64,
    /// Images answered a second, over the last few seconds.
    images_per_second: f64,
    /// KL(dense || pruned) in nats over the last samples.
    fidelity_kl: Option<f64>,
    /// The share of equal top-1 answers over the last samples.
    fidelity_agreement: Option<f64>,
    /// Samples so far.
    fidelity_samples: u64,
}

/// A share for each priority.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Shares {
    high: f64,
    normal: f64,
    low: f64,
}

/// How the models stand: shares, queues, images a second, fidelity.
#[utoipa::path(get, path = "/v1/load", tag = "plain", responses((status = 200, body = Vec<ModelLoad>)))]
pub(crate) async fn load(State(service): State<Arc<Service>>) -> Response {
    let loads = service.engines().iter().map(|(name, engine)| {
        let load = engine.load();
        let share = |priority: Priority| load.shares[priority.index()];
        ModelLoad {
            model: name.clone(),
            shares: Shares {
                high: share(Priority::High),
                normal: share(Priority::Normal),
                low: share(Priority::Low),
            },
            waiting: load.waiting,
            computing: load.computing,
            wait_seconds: load.wait,
            images_per_second: load.images_per_second,
            fidelity_kl: load.divergence,
            fidelity_agreement: load.agreement,
            fidelity_samples: load.samples,
        }
    });
    json(StatusCode::OK, &loads.collect::<Vec<_>>())
}
