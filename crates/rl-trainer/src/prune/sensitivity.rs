//! Agents learn on a frozen model how far its answer moves: without labels, from the model's own answers.
//!
//! Observation: the pair of tokens, as the agent sees it. Action: which pairs merge. Reward: minus KL(dense || pruned), to
//! second order, for all pairs of all blocks from one backward pass: if `g` is the gradient of `sum(r * logits)` and `r` is
//! random with the covariance that KL has as its curvature (the Fisher information of the answer), then the expected square
//! of `g . d` is twice the KL that moving the tokens by `d` leads to. A model without a head answers with features: there the
//! reward is minus 1 plus their cosine, by a random direction across them. The agents act as they learn, so that they learn
//! where they lead.

use std::collections::VecDeque;

use apt_data::{EvalLoader, ImageDataset};
use apt_inference::{Answers, PruningVit, initialize, probabilities};
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_vit_model::host::{read, upload};
use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitConfig};
use burn::data::dataloader::DataLoader;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, StandardNormal};

use crate::TrainerError;
use crate::algorithm::first_order::{Probe, Rewards, losses};
use crate::evaluate::{EvaluationSettings, check_finite, sides};

/// How far beyond the budgets is practised, as shares of the FLOPs: above the highest and below the lowest.
const BEYOND: [f64; 2] = [0.15, 0.05];

/// How agents learn on a frozen model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SensitivitySettings {
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

impl Default for SensitivitySettings {
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

/// A policy whose agents learned how far the frozen model's answer moves. `go_on` is told the share that is over, and says
/// whether to go on.
///
/// # Errors
///
/// Where the policy has no agents, a budget cannot be met, an image cannot be read, or the model's answer to it is no number.
pub fn learn_sensitivity(
    frozen: &FrozenModel<'_>,
    policy: &PolicyConfig,
    settings: &SensitivitySettings,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    let &FrozenModel {
        model,
        packed,
        images,
        evaluation,
        targets,
        device,
    } = frozen;
    let config = model.config();
    device.seed(settings.seed);
    let policy = policy.init(config, device)?;
    initialize(&policy);
    let vit = model.vit.clone().freeze().train();
    let mut learning = policy.train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(1e-3).init();
    let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut seen: VecDeque<Vec<Rewards>> = VecDeque::new();
    let batches = images.len().div_ceil(settings.batch_size.max(1));
    let steps = (batches * settings.epochs).max(1);
    let mut step = 0;
    for _ in 0..settings.epochs {
        let mut order: Vec<usize> = (0..images.len()).collect();
        order.shuffle(&mut rng);
        let images = images.subset(&order);
        let loader = EvalLoader::new(
            images.clone(),
            settings.batch_size,
            sides(config.image_size),
            evaluation.normalization,
            evaluation.workers,
        );
        let loader = loader
            .with_transform(evaluation.transform)
            .to_device(device);
        for batch in loader.iter() {
            let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
            let acting = learning.valid();
            let selection = practised(&acting, config, targets, &mut rng)?;
            let answers = packed.vit.forward(batch.images.clone(), RunSettings::DENSE);
            check_finite(answers.logits.clone(), &batch.indices, &images)?;
            let directions = directions(answers.logits, Answers::of(config), &mut rng);
            let rewards = rewards(&vit, &acting, &selection, batch.images, directions)?;
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
                let loss = losses(agents, rewards)
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

/// How much merges in a batch: a budget near those that are asked for, kept by the batch's mean.
fn practised(
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

/// What each pair's merging does to the answer along `directions`, `[batch, classes]`, in a pass in which the policy acts.
fn rewards(
    vit: &Vit,
    acting: &AnyPolicy,
    selection: &Selection,
    images: Tensor<4>,
    directions: Tensor<2>,
) -> Result<Vec<Rewards>, TrainerError> {
    let removal = acting.agents().ok_or_else(no_agents)?.removal();
    let count = images.dims()[0] as f32;
    let device = images.device().autodiff();
    let probe = Probe::new(acting.reducer(selection, &[]), removal, device);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&probe),
    };
    let logits = vit.forward(images.autodiff(), settings).logits;
    let loss = (logits * directions.autodiff()).sum() / count;
    Ok(probe.rewards(&loss.backward(), 1.0))
}

/// A random direction for each image's answer, `[batch, width]`.
fn directions(dense: Tensor<2>, answers: Answers, rng: &mut ChaCha8Rng) -> Tensor<2> {
    let ([images, width], device) = (dense.dims(), dense.device());
    let dense = read(dense);
    let directions = dense.chunks_exact(width).flat_map(|dense| match answers {
        Answers::Logits => direction(dense, rng),
        Answers::Features => direction_of_features(dense, rng),
    });
    upload(directions.collect(), [images, width], &device)
}

/// Random, with such a covariance that the expected square of what moves along it is twice the growth of 1 - cosine:
/// `(z - u (u . z)) / |e|`, `u` being the features' own direction.
fn direction_of_features(features: &[f32], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let length = features.iter().map(|value| value * value).sum::<f32>();
    let length = length.sqrt().max(f32::MIN_POSITIVE);
    let random: Vec<f32> = features.iter().map(|_| normal(rng)).collect();
    let both = features.iter().zip(&random);
    let along = both.map(|(value, random)| value / length * random);
    let along: f32 = along.sum();
    let both = features.iter().zip(&random);
    both.map(|(value, random)| (random - value / length * along) / length)
        .collect()
}

/// Random, with the Fisher information of the classes' probabilities as its covariance: `sqrt(p) z - p (sqrt(p) . z)`.
fn direction(logits: &[f32], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let probabilities = probabilities(logits);
    let spread: Vec<f32> = probabilities
        .iter()
        .map(|p| p.sqrt() * normal(rng))
        .collect();
    let mean: f32 = spread.iter().sum();
    let both = probabilities.iter().zip(&spread);
    both.map(|(p, spread)| spread - p * mean).collect()
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    StandardNormal.sample(rng)
}

fn no_agents() -> TrainerError {
    TrainerError::Pruning("the policy has no agents that could learn".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_square_is_twice_the_divergence_of_a_small_move_of_the_answer() {
        the_expected_square_is_twice_the_divergence(Answers::Logits, direction);
        the_expected_square_is_twice_the_divergence(Answers::Features, direction_of_features);
    }

    fn the_expected_square_is_twice_the_divergence(
        answers: Answers,
        direction: fn(&[f32], &mut ChaCha8Rng) -> Vec<f32>,
    ) {
        let dense = [1.0, 0.0, -1.0, 2.0];
        let small = [0.05, -0.08, 0.03, 0.06];
        let moved: Vec<f32> = dense.iter().zip(small).map(|(a, b)| a + b).collect();
        let mut fidelity = apt_inference::Fidelity::new(answers);
        fidelity.add(&dense, &moved, 4).unwrap();
        let twice = 2.0 * fidelity.divergence().unwrap() as f32;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let draws = 40_000;
        let squares = (0..draws).map(|_| {
            let drawn = direction(&dense, &mut rng);
            let along: f32 = drawn.iter().zip(small).map(|(r, d)| r * d).sum();
            along * along
        });
        let found = squares.sum::<f32>() / draws as f32;
        assert!(
            (found / twice - 1.0).abs() < 0.1,
            "{answers:?}: {found} for {twice}"
        );
    }
}
