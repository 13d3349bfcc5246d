//! A policy gradient over whole keep masks, with a group of samples of each image as its own
//! baseline (REINFORCE, Williams 1992; group-relative advantages, Shao et al., "DeepSeekMath", 2024).

use apt_pruning_agent::{Amount, PolicyConfig, PruningAgents};
use apt_vit_model::{ExecutionMode, RunSettings, TokenBatch, Vit, VitConfig};
use burn::prelude::*;
use burn::tensor::activation::log_sigmoid;

use crate::counterfactual::log_probabilities;
use crate::record::{Decision, Recorder};

/// One try: every agent layer's decisions on a batch, and what came of them.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Observation and action at each agent layer.
    pub decisions: Vec<Decision>,
    /// Reward: the logarithm of each image's true class's probability.
    pub rewards: Vec<f32>,
}

/// Who decides, and how.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// The policy, of which the agents are a part.
    pub policy: &'a PolicyConfig,
    /// How much goes, in the whole batch: the budget is met in every try, so that it needs no price.
    pub amount: &'a Amount,
    /// Of the noise on the agents' scores.
    pub temperature: f32,
}

/// Observation, action and reward: the agents decide with noise, and the pruned model answers.
///
/// `vit` and `agents` are without autodiff; `batch` is what [`Vit::embed`] made of the images; `seeds` has one
/// entry for each image.
pub fn sample(
    vit: &Vit,
    model: &VitConfig,
    agents: &PruningAgents,
    sampling: Sampling<'_>,
    batch: TokenBatch,
    targets: &[usize],
    seeds: &[u64],
) -> Sample {
    let Sampling {
        policy,
        amount,
        temperature,
    } = sampling;
    let reducer = policy.reducer(agents, model, amount, seeds, Some(temperature));
    let recorder = Recorder::new(&*reducer);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&recorder),
    };
    let encoded = vit.run_blocks(batch, 0..vit.blocks.len(), settings);
    let rewards = log_probabilities(vit.classify(&encoded.batch), targets);
    Sample {
        decisions: recorder.into_decisions(),
        rewards,
    }
}

/// Per sample and image: how much better its reward is than its image's others', in standard deviations over
/// the whole batch.
pub fn advantages(samples: &[Sample]) -> Vec<Vec<f32>> {
    let images = samples.first().map_or(0, |sample| sample.rewards.len());
    let count = samples.len() as f32;
    let means: Vec<f32> = (0..images)
        .map(|image| {
            samples
                .iter()
                .map(|sample| sample.rewards[image])
                .sum::<f32>()
                / count
        })
        .collect();
    let differences = samples.iter().map(|sample| {
        let pairs = sample.rewards.iter().zip(&means);
        pairs
            .map(|(reward, mean)| reward - mean)
            .collect::<Vec<f32>>()
    });
    let mut differences: Vec<Vec<f32>> = differences.collect();
    let squares: f32 = differences
        .iter()
        .flatten()
        .map(|value| value * value)
        .sum();
    let deviation = (squares / (count * images as f32)).sqrt().max(1e-6);
    for value in differences.iter_mut().flatten() {
        *value /= deviation;
    }
    differences
}

/// The logarithm of the probability of each decision on a patch, `[patches]`, as `logits`, `[rows, 2]`, give
/// it: a patch stays where its log-odds and the noise are together above what the budget leaves room for.
pub fn log_likelihoods(decision: &Decision, logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    let rows = decision.patch_rows();
    let scores = rows_of(
        logits.clone().narrow(1, 0, 1) - logits.narrow(1, 1, 1),
        &rows,
    );
    // The least score that is kept without noise, where as much is kept.
    let mut sorted: Vec<f32> = scores.to_data().iter::<f32>().collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let kept = rows.iter().filter(|&&row| decision.keep[row]).count();
    let last = sorted.len().saturating_sub(1);
    let around = [kept.saturating_sub(1).min(last), kept.min(last)];
    let least = around.iter().map(|&place| sorted[place]).sum::<f32>() / 2.0;
    let signs: Vec<f32> = rows
        .iter()
        .map(|&row| if decision.keep[row] { 1.0 } else { -1.0 })
        .collect();
    let signs = Tensor::<1>::from_data(signs.as_slice(), &scores.device());
    log_sigmoid((scores - least) / temperature * signs)
}

/// Loss: each decision is made likelier by its image's advantage.
///
/// `agents` are those that learn. Per agent layer, `[1]`.
pub fn losses(
    agents: &PruningAgents,
    samples: &[Sample],
    advantages: &[Vec<f32>],
    temperature: f32,
) -> Vec<Tensor<1>> {
    let of_layer = |index: usize| {
        let parts = samples.iter().zip(advantages).map(|(sample, advantages)| {
            let decision = &sample.decisions[index];
            let logits = agents.logits(index, &decision.observation());
            let likelihoods = log_likelihoods(decision, logits, temperature);
            let images = decision.image_of_each_row();
            let rows = decision.patch_rows();
            let weights: Vec<f32> = rows.iter().map(|&row| advantages[images[row]]).collect();
            let weights = Tensor::<1>::from_data(weights.as_slice(), &likelihoods.device());
            -(likelihoods * weights).mean()
        });
        let sum = parts.reduce(|sum, part| sum + part);
        sum.map(|sum| sum / samples.len() as f32)
    };
    (0..agents.layers.len()).filter_map(of_layer).collect()
}

/// The given rows of one column.
pub(crate) fn rows_of(column: Tensor<2>, rows: &[usize]) -> Tensor<1> {
    let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
    let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &column.device());
    column.select(0, rows).flatten(0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_compare_an_image_with_itself_alone() {
        let sample = |rewards: &[f32]| Sample {
            decisions: Vec::new(),
            rewards: rewards.to_vec(),
        };
        let found = advantages(&[sample(&[-1.0, -9.0]), sample(&[-3.0, -9.0])]);
        assert_eq!(found[0][1], 0.0);
        assert!((found[0][0] - 2.0f32.sqrt()).abs() < 1e-6 && found[1][0] == -found[0][0]);
    }
}
