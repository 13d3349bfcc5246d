//! What a training will cost, before it starts.

use std::sync::Arc;
use std::time::Instant;

use apt_data::{Batch, CifarLabels, DataSource, Place};
use apt_pruning_agent::counted_flops;
use apt_vit_model::vit_flops;
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Distribution;
use burn::train::TrainStep;
use serde::Serialize;

use super::freeze::{backward_share, passed_blocks};
use super::loss_scale::LossScale;
use super::session::Session;
use super::settings::{StepSettings, observed_block};
use super::stop::{Stop, StopRequest};
use super::trainee::{Trainee, init_algorithm};
use crate::TrainerError;
use crate::config::{ExperimentConfig, OptimizerKind};
use crate::run::CheckpointWriter;

/// Images of the step that is timed; the time is scaled to the config's batch.
const TIMED_IMAGES: usize = 8;

/// So many of the timed passes are dense.
const DENSE_PASSES: u64 = 1;

/// What a training will cost, before it starts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of model and policy.
    pub parameters: usize,
    /// Those of them that learn.
    pub trained_parameters: usize,
    /// FLOPs of one image through the dense model.
    pub dense_flops: u64,
    /// FLOPs of one image in a pass in which the policy acts and learns, forward and backward, at the mean of the
    /// budgets; without a budget, before any token is removed.
    pub step_flops: u64,
    /// The same of what the policy learns from, which happens in every so-many-th pass.
    pub learning_flops: u64,
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
    let model = Trainee::new(config, num_classes, &device)?;
    let sizes = model.config().clone();
    let parameters = model.num_params();
    let trained_parameters = trained_params(&model);

    let dense_flops = vit_flops(&sizes, &[], 0);
    let share = config.mean_share();
    let [of_model, of_policy] = pruned_flops(config, &model)?;
    let backward = backward_share(
        settings.freeze,
        &sizes,
        settings.gradient_checkpointing,
        observed_block(config, &model.policy),
    );
    let algorithm = init_algorithm(config)?;
    let learning_flops = algorithm.map_or(0, |algorithm| {
        algorithm.flops(&sizes, &*model.policy, share)
    });
    let own = of_model * (1.0 + backward) + of_policy;
    let step_flops = own as u64 + learning_flops;

    let memory = estimated_memory(config, &model);
    let images = TIMED_IMAGES.min(settings.batch_size);
    let seconds = time_step(config, model, images, &device)?;
    let per_step = settings.batch_size * settings.grad_accumulation_steps;
    let seconds_per_step = seconds * per_step as f64 / images as f64;
    Ok(Plan {
        parameters,
        trained_parameters,
        dense_flops,
        step_flops,
        learning_flops,
        memory,
        steps: settings.steps,
        image_passes: settings.steps as u64 * per_step as u64,
        epochs: config.num_epochs(),
        seconds_per_step,
        seconds: seconds_per_step * settings.steps as f64,
    })
}

/// FLOPs of one image in a pruned pass, the model's and the policy's own: the mean of the budgets, or without a budget
/// before any token is removed.
fn pruned_flops(config: &ExperimentConfig, model: &Trainee) -> Result<[f64; 2], TrainerError> {
    let (policy, sizes) = (&*model.policy, model.config());
    let all = || vec![sizes.num_patches(); policy.blocks().len()];
    let kept = config
        .flops
        .iter()
        .map(|&share| policy.kept_for(sizes, share));
    let mut kept = kept.collect::<Result<Vec<_>, _>>()?;
    if kept.is_empty() {
        kept.push(all());
    }
    let mut sums = [0.0; 2];
    for kept in &kept {
        for (sum, flops) in sums.iter_mut().zip(counted_flops(policy, sizes, kept)) {
            *sum += flops as f64;
        }
    }
    Ok(sums.map(|sum| sum / kept.len() as f64))
}

/// An estimate of the memory of a training at its peak, in bytes: weights, gradients, optimiser,
/// what the backward pass keeps and what the policy sees.
pub(crate) fn estimated_memory(config: &ExperimentConfig, model: &Trainee) -> u64 {
    let (settings, sizes) = (&config.train, model.config());
    let state = match config.optimizer.name {
        OptimizerKind::Sgd => 1,
        OptimizerKind::Adamw => 2,
    };
    let (hidden, tokens) = (sizes.hidden_size, sizes.num_tokens());
    let of_block = 9 * hidden + 2 * sizes.mlp_dim + sizes.num_heads;
    let per_token = if settings.gradient_checkpointing {
        sizes.num_layers * hidden + of_block
    } else {
        let observed = observed_block(config, &model.policy);
        passed_blocks(settings.freeze, sizes, observed) * of_block
    };
    let observed = model
        .policy
        .agents()
        .map_or(0, |_| model.policy.blocks().len())
        * hidden;
    let kept = settings.batch_size * tokens * (per_token + observed);
    4 * (model.num_params() + (1 + state) * trained_params(model) + kept) as u64
}

/// Parameters that learn.
fn trained_params(model: &Trainee) -> usize {
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
    model: Trainee,
    images: usize,
    device: &Device,
) -> Result<f64, TrainerError> {
    let settings = &config.train;
    let size = model.config().image_size;
    let folder = std::env::temp_dir();
    let algorithm = init_algorithm(config)?;
    let period = algorithm.as_ref().map_or(1, |algorithm| algorithm.period()) as u64;
    let usual = StepSettings::new(config, &model.pruning())?;
    let middle = usual.selections.len() / 2;
    let session = Session::new(
        StepSettings {
            dense_passes: DENSE_PASSES,
            passive_passes: DENSE_PASSES,
            agent_interval: 2,
            dense_interval: None,
            accumulation: 1,
            selections: vec![usual.selections[middle].clone()],
            ..usual
        },
        algorithm,
        0,
        Stop::new(StopRequest::default(), None),
        CheckpointWriter::new(folder, settings.eval_interval),
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
    // Pass 0 is dense, in pass 1 agents act, in even ones they learn, too: these cost the same again after a period.
    time(2); // warms up
    let [dense, dropped] = [0, 1].map(time);
    let learning = (1..=period).map(|pass| time(2 + 2 * pass)).sum::<f64>() / period as f64;
    let agents = (learning - dropped).max(0.0) / settings.agent_interval as f64;
    let acting = match settings.dense_interval {
        None => dropped,
        Some(every) => dropped + (dense - dropped) / every as f64,
    };
    let share = |steps: usize| steps as f64 / settings.steps as f64;
    let (passive, warmup) = (
        share(settings.dense_steps),
        share(settings.agent_warmup_steps),
    );
    Ok(passive * dense + warmup * (dense + agents) + (1.0 - passive - warmup) * (acting + agents))
}
