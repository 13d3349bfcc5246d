//! Agents learn on a frozen model how far its answer moves: without labels, from the model's own answers.
//!
//! Observation: the pair of tokens, as the agent sees it. Action: which pairs merge. Reward: minus KL(dense || pruned), to
//! second order, for all pairs of all blocks from one backward pass: if `g` is the gradient of `sum(r * logits)` and `r` is
//! random with the covariance that KL has as its curvature (the Fisher information of the answer), then the expected square
//! of `g . d` is twice the KL that moving the tokens by `d` leads to. A model without a head answers with features: there the
//! reward is minus 1 plus their cosine, by a random direction across them.

use apt_inference::{Answers, probabilities};
use apt_pruning_agent::{Agents, AnyPolicy};
use apt_vit_model::RunSettings;
use apt_vit_model::host::{read, upload};
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

use super::agents::{AgentSettings, FrozenModel, Practice, Task, learn_task};
use crate::TrainerError;
use crate::algorithm::first_order::{Rewards, losses};
use crate::evaluate::check_finite;

/// The policy, its agents having learned how far the frozen model's answer moves. `go_on` is told the share that is over, and says
/// whether to go on.
///
/// # Errors
///
/// Where the policy has no agents, a budget cannot be met, an image cannot be read, or the model's answer to it is no number.
pub(super) fn learn_sensitivity(
    frozen: &FrozenModel<'_>,
    policy: AnyPolicy,
    settings: &AgentSettings,
    go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    learn_task(&Sensitivity, frozen, policy, settings, go_on)
}

/// How far the answer moves.
struct Sensitivity;

impl Task for Sensitivity {
    fn rewards(
        &self,
        practice: Practice<'_>,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Rewards>, TrainerError> {
        let Practice { frozen, batch, .. } = &practice;
        let images = batch.images.clone();
        let dense = frozen.packed.vit.forward(images, RunSettings::DENSE).logits;
        check_finite(dense.clone(), &batch.indices, practice.images)?;
        let [count, _] = dense.dims();
        let answers = Answers::of(frozen.model.config());
        let directions = directions(dense, answers, rng).autodiff();
        practice.rewards(None, |found| {
            (found.logits * directions).sum() / count as f32
        })
    }

    fn losses(&self, agents: &dyn Agents, rewards: &[Rewards]) -> Vec<Tensor<1>> {
        losses(agents, rewards)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

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
