//! What the plain endpoints answer.

use std::time::Duration;

use apt_inference::{ClassProbability, LayerAnswer, Model};
use apt_memory::{Lookup, Neighbor};
use serde::Serialize;
use utoipa::ToSchema;

use crate::job::Reply;
use crate::picture::Seen;

/// The classes of a request's pictures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Classification {
    /// The model that answered.
    pub model: String,
    /// One entry for each picture, in their order.
    pub results: Vec<ClassifiedPicture>,
}

/// The features of a request's pictures.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embeddings {
    /// The model that answered.
    pub model: String,
    /// One entry for each picture, in their order.
    pub results: Vec<EmbeddedPicture>,
}

/// The classes of one picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassifiedPicture {
    /// The most probable classes, the first one first.
    pub classes: Vec<Class>,
    /// What the model's memory had to do with it; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Looked>,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// The features of one picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddedPicture {
    /// The CLS token after the last norm.
    pub embedding: Vec<f32>,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// What a memory had to do with an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Looked {
    /// The memory's share of the answer, from 0 to 1; null where it was not asked.
    pub share: Option<f32>,
    /// The most probable classes by the model alone.
    pub alone: Vec<Class>,
    /// With `explain=true`: the entries that spoke, the most similar first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbors: Option<Vec<Spoke>>,
    /// Why the memory was asked in vain: then the model answered alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// An entry of a memory that spoke.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Spoke {
    /// The picture, by its pixels.
    pub id: String,
    /// Its class.
    pub class: String,
    /// Where it came from.
    pub source: String,
    /// How similar it is: the cosine of both pictures' whitened features.
    pub similarity: f32,
}

/// A class and how probable it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Class {
    /// Its name.
    pub class: String,
    /// Its place among the logits; behind them of a class that only the memory knows.
    pub index: usize,
    /// From 0 to 1.
    pub probability: f32,
}

/// What an answer cost.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Cost {
    /// The share of the dense model's FLOPs that the picture was given; null where the policy removes what it wants.
    pub budget: Option<f64>,
    /// FLOPs, counted, the policy's own included.
    pub flops: u64,
    /// Their share of the dense model's.
    pub flops_share: f64,
    /// Tokens before anything is removed, CLS counted.
    pub tokens: usize,
    /// What each block in which the policy acted left.
    pub layers: Vec<Layer>,
    /// Where the time went.
    pub time: Time,
    /// With `explain=true`: the grid of patches, rows and columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<[usize; 2]>,
    /// With `explain=true`: what the model saw of the picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// What one block left of a picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Layer {
    /// The block, 0-based.
    pub layer: usize,
    /// Tokens after it, CLS counted.
    pub tokens: usize,
    /// With `explain=true`, by patch, row by row: the patch at whose place the token stands that it is part of. Its own
    /// where it is kept, another's where it merged into that one, null where it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<Vec<Option<usize>>>,
}

/// Where the time of a picture went, in milliseconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Time {
    /// Waiting.
    pub queue_ms: f64,
    /// Decoding and resizing.
    pub prepare_ms: f64,
    /// Computing the batch.
    pub compute_ms: f64,
    /// Images of that batch.
    pub batch: usize,
}

impl From<ClassProbability> for Class {
    fn from(found: ClassProbability) -> Self {
        Self {
            class: found.class,
            index: found.index,
            probability: found.probability,
        }
    }
}

impl ClassifiedPicture {
    /// Of a reply with logits: the `top` most probable classes.
    pub fn new(reply: Reply, model: &Model, top: usize, explain: bool) -> Self {
        let classes = model.top_classes(&reply.values, top);
        Self {
            classes: classes.into_iter().map(Class::from).collect(),
            memory: None,
            cost: Cost::new(reply, model, explain),
        }
    }

    /// Of a reply, and what was looked up for it.
    pub fn looked_up(
        reply: Reply,
        model: &Model,
        (classes, lookup): (Vec<ClassProbability>, Lookup),
        explain: bool,
    ) -> Self {
        let spoke = |neighbor: Neighbor| Spoke {
            id: neighbor.label.id,
            class: neighbor.label.class,
            source: neighbor.label.source,
            similarity: neighbor.similarity,
        };
        Self {
            classes: classes.into_iter().map(Class::from).collect(),
            memory: Some(Looked {
                share: lookup.share,
                alone: lookup.alone.into_iter().map(Class::from).collect(),
                neighbors: explain.then(|| lookup.neighbors.into_iter().map(spoke).collect()),
                failure: lookup.failure,
            }),
            cost: Cost::new(reply, model, explain),
        }
    }
}

impl EmbeddedPicture {
    /// Of a reply with features.
    pub fn new(mut reply: Reply, model: &Model, explain: bool) -> Self {
        Self {
            embedding: std::mem::take(&mut reply.values),
            cost: Cost::new(reply, model, explain),
        }
    }
}

impl Cost {
    fn new(reply: Reply, model: &Model, explain: bool) -> Self {
        let config = model.pruning().config();
        let layer = |layer: LayerAnswer| Layer {
            layer: layer.layer,
            tokens: layer.tokens,
            patches: explain.then_some(layer.token),
        };
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Self {
            budget: reply.share,
            flops: reply.reduced.flops,
            flops_share: reply.reduced.flops_share,
            tokens: config.num_tokens(),
            layers: reply.reduced.layers.into_iter().map(layer).collect(),
            time: Time {
                queue_ms: milliseconds(reply.queued),
                prepare_ms: milliseconds(reply.prepared),
                compute_ms: milliseconds(reply.computed),
                batch: reply.batch,
            },
            grid: explain.then(|| config.grid()),
            seen: reply.seen.filter(|_| explain),
        }
    }
}
