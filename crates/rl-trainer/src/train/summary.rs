//! What a finished training was worth.

use std::time::Instant;

use apt_inference::Model;
use apt_vit_model::ExecutionMode;
use burn::module::Module;
use serde::Serialize;

use super::devices::Devices;
use super::images::Images;
use super::memory::peak_memory;
use crate::TrainerError;
use crate::evaluate::{Evaluation, EvaluationSettings, LayerTokens, calibrate_budgets, evaluate};
use crate::run::RunFolder;

/// A timed throughput of the same model both ways, in images per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Throughput {
    /// Nothing is removed.
    pub dense: f64,
    /// Removed tokens are dropped.
    pub pruned: f64,
}

/// `summary.json`: one checkpoint on the test images, dense and pruned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Share of test images classified right by the dense model.
    pub dense_accuracy: f64,
    /// The same with the policy acting.
    pub pruned_accuracy: f64,
    /// Counted: FLOPs of the pruned model, the policy included, by those of the dense one.
    pub flops_share: f64,
    /// Mean tokens after each of the policy's blocks, CLS counted.
    pub tokens_per_layer: Vec<f64>,
    /// What each block left, in more detail.
    pub layers: Vec<LayerTokens>,
    /// Timed on the test images, in turn; batches of `eval_batch_size`.
    pub images_per_s: Throughput,
    /// Images of a timed forward pass.
    pub eval_batch_size: usize,
    /// Seconds of this training, all its sessions together.
    pub seconds: f64,
    /// Steps done.
    pub steps: u64,
    /// Images that the model has learned from.
    pub image_passes: u64,
    /// Test images.
    pub test_images: usize,
    /// The checkpoint that was measured.
    pub checkpoint: String,
    /// The seed.
    pub seed: u64,
    /// The devices, as `--device` takes them.
    pub device: String,
    /// Threads that compute.
    pub threads: usize,
    /// The most memory that this process had, in bytes, where the system says it; what a GPU has
    /// of its own is not in it.
    pub peak_memory: Option<u64>,
    /// Parameters of model and policy.
    pub parameters: usize,
    /// Version of this program.
    pub version: &'static str,
    /// Version of Burn.
    pub burn_version: &'static str,
}

/// Measures the best pruned checkpoint on the test images, dense and pruned.
pub(super) fn summarize(
    run: &RunFolder,
    images: &Images,
    devices: &Devices,
    started: Instant,
) -> Result<Summary, TrainerError> {
    let config = &run.config;
    let device = devices.main();
    let mut model = Model::open(run.path(), device)?;
    let parameters = model.pruning().num_params();
    calibrate_budgets(run, &mut model, &run.config.flops, &images.held_out, device)?;
    let settings = EvaluationSettings::of(run, model.selection_for(None)?);
    let modes = [ExecutionMode::Dense, ExecutionMode::Drop];
    let evaluations = evaluate(
        model.pruning(),
        &images.test,
        &modes,
        &settings,
        device,
        |_| (),
    )?;
    let [dense, pruned]: [Evaluation; 2] = evaluations
        .try_into()
        .map_err(|_| TrainerError::Training("the evaluation has another number of modes".into()))?;
    let steps = run.checkpoints().newest()?.map_or(0, |set| set.step);
    let per_step = config.train.batch_size * config.train.grad_accumulation_steps;
    Ok(Summary {
        dense_accuracy: dense.accuracy.unwrap_or(f64::NAN),
        pruned_accuracy: pruned.accuracy.unwrap_or(f64::NAN),
        flops_share: pruned.flops_share,
        tokens_per_layer: pruned.layers.iter().map(|layer| layer.tokens).collect(),
        layers: pruned.layers,
        images_per_s: Throughput {
            dense: dense.images_per_s,
            pruned: pruned.images_per_s,
        },
        eval_batch_size: config.train.eval_batch_size,
        seconds: run.seconds_before() + started.elapsed().as_secs_f64(),
        steps,
        image_passes: steps * per_step as u64,
        test_images: images.test.len(),
        checkpoint: model.checkpoint().to_string(),
        seed: config.seed,
        device: devices.names(),
        threads: rayon::current_num_threads(),
        peak_memory: peak_memory(),
        parameters,
        version: env!("CARGO_PKG_VERSION"),
        burn_version: "0.22.1",
    })
}
