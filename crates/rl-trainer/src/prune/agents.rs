//! Agents learn on a frozen model, batch by batch, from what their task rewards. They act as they learn, so that they learn where
//! they lead.

use std::collections::VecDeque;

use apt_data::{Batch, ImageDataset, PatchCorruption, mix_seed};
use apt_inference::{PruningVit, initialize};
use apt_pruning_agent::{Agents, AnyPolicy, PolicyConfig, Selection};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitConfig, VitOutput};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::candidate::restores;
use crate::TrainerError;
use crate::algorithm::first_order::{Probe, Rewards};
use crate::evaluate::{EvaluationSettings, loader};

/// How far beyond the budgets is practised, as shares of the FLOPs: above the highest and below the lowest.
const BEYOND: [f64; 2] = [0.15, 0.05];

/// How agents learn on a frozen model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgentSettings {
    /// Passes over the images.
    pub epochs: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Batches that are learned from at a time: the newest, and others again.
    pub replayed: usize,
    /// Its peak; it falls as a cosine.
    pub learning_rate: f64,
    /// Of initial weights, the order of the images, budgets and random directions.
    pub seed: u64,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            epochs: 2,
            batch_size: 16,
            replayed: 4,
            learning_rate: 3e-3,
            seed: 0,
        }
    }
}

impl AgentSettings {
    /// The best found for a policy. What misleads is learned in random coalitions, whose rewards vary more: that takes more passes.
    pub fn of(policy: &PolicyConfig, seed: u64) -> Self {
        let usual = Self::default();
        let epochs = if restores(policy) { 4 } else { usual.epochs };
        Self {
            epochs,
            seed,
            ..usual
        }
    }
}

/// A fresh policy for the frozen model, by the seed alone.
///
/// # Errors
///
/// Where its settings do not fit the model.
pub(super) fn fresh(
    frozen: &FrozenModel<'_>,
    policy: &PolicyConfig,
    seed: u64,
) -> Result<AnyPolicy, TrainerError> {
    frozen.device.seed(seed);
    let policy = policy.init(frozen.model.config(), frozen.device)?;
    initialize(&policy);
    Ok(policy)
}

/// What agents learn from.
#[derive(Clone, Copy)]
pub struct FrozenModel<'a> {
    /// The model, not laid out for inference.
    pub model: &'a PruningVit,
    /// The same, laid out for inference.
    pub packed: &'a PruningVit,
    /// Pictures such as it will see.
    pub images: &'a ImageDataset,
    /// How they are read.
    pub evaluation: &'a EvaluationSettings,
    /// The budgets to learn for, as shares of the dense FLOPs.
    pub targets: &'a [f64],
    /// Where it is computed.
    pub device: &'a Device,
}

/// A batch on which the policy acts as it is.
pub(super) struct Practice<'a> {
    pub frozen: &'a FrozenModel<'a>,
    /// The frozen model, with autodiff.
    vit: &'a Vit,
    acting: &'a AnyPolicy,
    selection: Selection,
    /// Where the batch is from.
    pub images: &'a ImageDataset,
    pub batch: Batch,
}

impl Practice<'_> {
    /// What each token's removal earns, by the loss of what the model says, to first order; where there is a generator for them, in
    /// coalitions. See [`Probe`].
    pub fn rewards(
        self,
        coalitions: Option<ChaCha8Rng>,
        loss: impl FnOnce(VitOutput) -> Tensor<1>,
    ) -> Result<Vec<Rewards>, TrainerError> {
        let removal = self.acting.agents().ok_or_else(no_agents)?.removal();
        let images = self.batch.images;
        let reducer = self.acting.reducer(&self.selection, &[]);
        let mut probe = Probe::new(reducer, removal, images.device().autodiff());
        if let Some(rng) = coalitions {
            probe = probe.in_coalitions(rng);
        }
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&probe),
        };
        let output = self.vit.forward(images.autodiff(), settings);
        Ok(probe.rewards(&loss(output).backward(), 1.0))
    }
}

/// What agents learn.
pub(super) trait Task {
    /// What each token's removal earns.
    fn rewards(
        &self,
        practice: Practice<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Rewards>, TrainerError>;

    /// Per block, `[1]`.
    fn losses(&self, agents: &dyn Agents, rewards: &[Rewards]) -> Vec<Tensor<1>>;
}

/// A policy whose agents learned the task on the frozen model. `go_on` is told the share that is over, and says whether to go on.
///
/// # Errors
///
/// Where the policy has no agents, a budget cannot be met, an image cannot be read, or the model's answer to it is no number.
pub(super) fn learn_task(
    task: &dyn Task,
    frozen: &FrozenModel<'_>,
    policy: AnyPolicy,
    settings: &AgentSettings,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    let &FrozenModel {
        model,
        images,
        evaluation,
        targets,
        device,
        ..
    } = frozen;
    let config = model.config();
    let vit = model.vit.clone().freeze().train();
    let mut learning = policy.train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(1e-3).init();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut seen: VecDeque<Vec<Rewards>> = VecDeque::new();
    let batches = images.len().div_ceil(settings.batch_size.max(1));
    let steps = (batches * settings.epochs).max(1);
    let mut step = 0;
    for epoch in 0..settings.epochs {
        let mut order: Vec<usize> = (0..images.len()).collect();
        order.shuffle(&mut rng);
        let images = corrupted_anew(images.subset(&order), config, settings.seed, epoch);
        let (batch_size, workers) = (settings.batch_size, evaluation.workers);
        let loader = loader(&images, model, evaluation, batch_size, workers, device);
        for batch in loader.iter() {
            let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
            let acting = learning.valid();
            let practice = Practice {
                frozen,
                vit: &vit,
                acting: &acting,
                selection: practised(&acting, config, targets, &mut rng)?,
                images: &images,
                batch,
            };
            let rewards = task.rewards(practice, &mut rng)?;
            // Where every pair merges, as in a small model at its least budget, nothing is left to judge.
            let known = |(_, rewards): &Rewards| rewards.iter().any(Option::is_some);
            if rewards.iter().any(known) {
                seen.push_back(rewards);
            }
            if seen.len() > settings.replayed {
                seen.pop_front();
            }
            let progress = step as f64 / steps as f64;
            let rate =
                settings.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
            for rewards in seen.iter().rev() {
                let Some(agents) = learning.agents() else {
                    return Err(no_agents());
                };
                let loss = task
                    .losses(agents, rewards)
                    .into_iter()
                    .reduce(|sum, loss| sum + loss);
                let Some(loss) = loss else { continue };
                let grads = GradientsParams::from_grads(loss.backward(), &learning);
                learning = optimizer.step(rate, learning, grads);
            }
            step += 1;
            if !go_on(step as f64 / steps as f64) {
                return Ok(learning.valid());
            }
        }
    }
    Ok(learning.valid())
}

/// The images, other patches of each corrupted in each epoch, where any are.
fn corrupted_anew(
    images: ImageDataset,
    config: &VitConfig,
    seed: u64,
    epoch: usize,
) -> ImageDataset {
    match images.corruption() {
        Some(corruption) => {
            let seed = mix_seed(&[corruption.seed, seed, epoch as u64]);
            images.corrupted(PatchCorruption { seed, ..corruption }, config.grid())
        }
        None => images,
    }
}

/// How much is removed in a batch: a budget near those that are asked for, kept by the batch's mean.
pub(super) fn practised(
    policy: &AnyPolicy,
    config: &VitConfig,
    targets: &[f64],
    rng: &mut ChaCha8Rng,
) -> Result<Selection, TrainerError> {
    let highest = targets.iter().copied().fold(0.0, f64::max) + BEYOND[0];
    let lowest = targets.iter().copied().fold(1.0, f64::min);
    let share = rng
        .random_range(lowest - BEYOND[1]..=highest.max(lowest))
        .min(0.98);
    let kept = match policy.kept_for(config, share) {
        Ok(kept) => kept,
        // Below what the policy can do there is nothing to practise.
        Err(_) => policy.kept_for(config, lowest)?,
    };
    Ok(Selection::KeptOfBatch { kept })
}

fn no_agents() -> TrainerError {
    TrainerError::Pruning("the policy has no agents that could learn".into())
}
