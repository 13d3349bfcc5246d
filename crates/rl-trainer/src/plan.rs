use std::sync::Arc;
use std::time::Instant;

use apt_data::{Batch, CifarLabels, DataSource, Place};
use apt_pruning_agent::agent_flops;
use apt_vit_model::{VitConfig, block_flops, vit_flops};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Distribution;
use burn::train::TrainStep;
use serde::Serialize;

use crate::config::{ExperimentConfig, Freeze, FrozenPart, OptimizerKind};
use crate::loss_scale::LossScale;
use crate::session::{Session, StepSettings, StopRequest};
use crate::{CheckpointFolder, PruningVit, TrainerError};

/// Images of the step that is timed; the time is scaled to the config's batch.
const TIMED_IMAGES: usize = 8;

/// So many of the timed passes are dense.
const DENSE_PASSES: u64 = 1;

/// What a training will cost, before it starts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of model and agents.
    pub parameters: usize,
    /// Those of them that learn.
    pub trained_parameters: usize,
    /// FLOPs of one image through the dense model.
    pub dense_flops: u64,
    /// FLOPs of one image through the three streams, forward and backward, before any token is
    /// removed and after the dense steps.
    pub step_flops: u64,
    /// An estimate of the memory at its peak, in bytes: weights, gradients, optimiser, and what
    /// the backward pass keeps.
    pub memory: u64,
    /// Optimiser steps.
    pub steps: usize,
    /// Images that are learned from, repetitions counted.
    pub image_passes: u64,
    /// Evaluations and checkpoints.
    pub epochs: usize,
    /// Timed on this machine: seconds of a step.
    pub seconds_per_step: f64,
    /// Seconds of all steps; evaluations come on top.
    pub seconds: f64,
}

/// The number of classes, where the source alone says it.
pub fn known_classes(source: &DataSource) -> Option<usize> {
    match source {
        DataSource::Shapes { .. } | DataSource::Cifar10 {} => Some(10),
        DataSource::Cifar100 { labels } => Some(match labels {
            CifarLabels::Fine => 100,
            CifarLabels::Coarse => 20,
        }),
        DataSource::Folder { .. } => None,
    }
}

/// Plans a training on `num_classes` classes: counts, estimates, and times one small step.
///
/// # Errors
///
/// Where sizes do not fit together or pretrained weights do not load.
pub fn plan(
    config: &ExperimentConfig,
    num_classes: usize,
    device: &Device,
) -> Result<Plan, TrainerError> {
    let device = device.clone().autodiff();
    let settings = &config.train;
    let model = PruningVit::new(config, num_classes, &device)?;
    let sizes = model.config().clone();
    let parameters = model.num_params();
    let trained_parameters = trained_params(&model);

    let tokens = sizes.num_tokens();
    let dense_flops = vit_flops(&sizes, &[], 0);
    let after_cut: u64 = model
        .agents
        .layers
        .iter()
        .map(|&layer| {
            let blocks = (sizes.num_layers - layer - 1) as u64;
            blocks * block_flops(&sizes, tokens - 1, tokens - 1)
                + 2 * agent_flops(sizes.hidden_size, tokens)
        })
        .sum();
    let learning_layers = learning_layers(config, &sizes);
    let learning_flops = match settings.freeze {
        None => dense_flops,
        Some(_) => learning_layers as u64 * block_flops(&sizes, tokens, tokens),
    };
    let backward_flops = match settings.gradient_checkpointing {
        false => 2 * learning_flops,
        true => 3 * learning_flops,
    };
    // Stream 1 forward and backward, stream 0, stream 2.
    let step_flops =
        dense_flops + backward_flops + (dense_flops + after_cut) / settings.agents_every as u64;

    let memory = estimated_memory(config, &model);
    let images = TIMED_IMAGES.min(settings.batch_size);
    let seconds = time_step(config, model, images, &device)?;
    let per_step = settings.batch_size * settings.accumulation;
    let seconds_per_step = seconds * per_step as f64 / images as f64;
    Ok(Plan {
        parameters,
        trained_parameters,
        dense_flops,
        step_flops,
        memory,
        steps: settings.steps,
        image_passes: settings.steps as u64 * per_step as u64,
        epochs: config.num_epochs(),
        seconds_per_step,
        seconds: seconds_per_step * settings.steps as f64,
    })
}

/// An estimate of the memory of a training at its peak, in bytes: weights, gradients, optimiser,
/// what the backward pass keeps and what the agents see.
pub(crate) fn estimated_memory(config: &ExperimentConfig, model: &PruningVit) -> u64 {
    let (settings, sizes) = (&config.train, model.config());
    let state = match config.optimizer.kind {
        OptimizerKind::Sgd => 1,
        OptimizerKind::Adamw => 2,
    };
    let (hidden, tokens) = (sizes.hidden_size, sizes.num_tokens());
    let of_block = 9 * hidden + 2 * sizes.mlp_dim + sizes.num_heads;
    let per_token = match settings.gradient_checkpointing {
        false => learning_layers(config, sizes) * of_block,
        true => sizes.num_layers * hidden + of_block,
    };
    let observed = model.agents.layers.len() * hidden;
    let kept = settings.batch_size * tokens * (per_token + observed);
    4 * (model.num_params() + (1 + state) * trained_params(model) + kept) as u64
}

/// Blocks that learn.
fn learning_layers(config: &ExperimentConfig, sizes: &VitConfig) -> usize {
    match config.train.freeze {
        None => sizes.num_layers,
        Some(Freeze::Blocks(blocks)) => sizes.num_layers.saturating_sub(blocks),
        Some(Freeze::Part(FrozenPart::Backbone)) => 0,
    }
}

/// Parameters that learn.
fn trained_params(model: &PruningVit) -> usize {
    struct Counter(usize);
    impl ModuleVisitor for Counter {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.val().is_require_grad() {
                self.0 += param.shape().num_elements();
            }
        }
    }
    let mut counter = Counter(0);
    model.visit(&mut counter);
    counter.0
}

fn time_step(
    config: &ExperimentConfig,
    model: PruningVit,
    images: usize,
    device: &Device,
) -> Result<f64, TrainerError> {
    let settings = &config.train;
    let size = model.config().image_size;
    let folder = std::env::temp_dir();
    let session = Session::new(
        StepSettings {
            dense_passes: DENSE_PASSES,
            passive_passes: DENSE_PASSES,
            agents_every: 2,
            dense_every: None,
            ..StepSettings::new(config, &model)?
        },
        CheckpointFolder::new(folder, settings.steps_per_epoch),
        StopRequest::default(),
        None,
        0,
        LossScale::none(),
        device.clone(),
    );
    let model = model.with_session(Arc::new(session));
    let targets = vec![0; images];
    let batch = Batch {
        images: Tensor::random(
            [images, 3, size.height, size.width],
            Distribution::Normal(0.0, 1.0),
            device,
        ),
        labels: Tensor::zeros([images], device),
        targets,
        indices: (0..images).collect(),
        place: Place {
            number: 0,
            part: 0..images,
            whole: images,
        },
    };
    let time = |number: u64| {
        let mut batch = batch.clone();
        batch.place.number = number;
        let start = Instant::now();
        TrainStep::step(&model, batch);
        start.elapsed().as_secs_f64()
    };
    // Pass 0 is dense, in pass 1 agents act, in pass 2 they learn, too.
    time(2); // warms up
    let [dense, dropped, learning] = [0, 1, 2].map(time);
    let agents = (learning - dropped).max(0.0) / settings.agents_every as f64;
    let acting = match settings.dense_every {
        None => dropped,
        Some(every) => dropped + (dense - dropped) / every as f64,
    };
    let share = |steps: usize| steps as f64 / settings.steps as f64;
    let (passive, warmup) = (
        share(settings.dense_steps),
        share(settings.agents_warmup_steps),
    );
    Ok(passive * dense + warmup * (dense + agents) + (1.0 - passive - warmup) * (acting + agents))
}
