//! Proximal policy optimisation (Schulman et al., 2017) with a critic. Every token is an actor of its own,
//! and all share their layer's weights, in the manner of RL4EViT (arXiv 2503.23459).
//!
//! An episode is one image through the model: at each agent layer every patch that is left decides, and the reward
//! comes at the end. A rollout is learned from several times before the next one.

use apt_pruning_agent::PruningAgents;
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

use crate::policy_gradient::{Sample, log_likelihoods};
use crate::record::Decision;

/// How far the probability of a decision may move from what it was: a ratio of 1 plus and minus this.
const CLIP: f64 = 0.2;
/// The weight of the critic's loss.
const VALUE_WEIGHT: f32 = 0.5;
/// The weight of the decisions' entropy.
const ENTROPY_WEIGHT: f32 = 0.01;

/// Observations, actions and rewards, with what was thought of them when they were made.
#[derive(Clone, Debug)]
pub struct Rollout {
    samples: Vec<Sample>,
    /// Per sample and agent layer, per patch: the logarithm of the decision's probability.
    likelihoods: Vec<Vec<Tensor<1>>>,
    /// Per sample and agent layer, per slot: how much better it went than the critic thought.
    advantages: Vec<Vec<Vec<f32>>>,
}

impl Rollout {
    /// `agents` are without autodiff.
    pub fn new(agents: &PruningAgents, samples: Vec<Sample>, temperature: f32) -> Self {
        let of_sample = |sample: &Sample| {
            let decisions = sample.decisions.iter().enumerate();
            let of_layer = |(index, decision): (usize, &Decision)| {
                let logits = agents.logits(index, &decision.observation());
                let likelihoods = log_likelihoods(decision, logits, temperature);
                let values = values(agents, index, decision).into_data();
                let rewards = rewards_by_slot(decision, &sample.rewards);
                let pairs = rewards.iter().zip(values.iter::<f32>());
                let advantages = pairs.map(|(reward, value)| reward - value).collect();
                (likelihoods, advantages)
            };
            decisions.map(of_layer).unzip()
        };
        let (likelihoods, mut advantages): (Vec<_>, Vec<Vec<Vec<f32>>>) =
            samples.iter().map(of_sample).unzip();
        normalize(&mut advantages);
        Self {
            samples,
            likelihoods,
            advantages,
        }
    }

    /// The mean reward.
    pub fn mean_reward(&self) -> f64 {
        let rewards = self.samples.iter().flat_map(|sample| &sample.rewards);
        let (sum, count) = rewards.fold((0.0, 0), |(sum, count), &reward| {
            (sum + f64::from(reward), count + 1)
        });
        sum / f64::from(count.max(1))
    }

    /// Loss: the clipped objective, the critic's error and the entropy. Per agent layer, `[1]`.
    ///
    /// `agents` are those that learn.
    pub fn losses(&self, agents: &PruningAgents, temperature: f32) -> Vec<Tensor<1>> {
        let of_layer = |index: usize| {
            let parts = self.samples.iter().enumerate().map(|(number, sample)| {
                let decision = &sample.decisions[index];
                let logits = agents.logits(index, &decision.observation());
                let likelihoods = log_likelihoods(decision, logits, temperature);
                let advantages = by_patch(decision, &self.advantages[number][index]);
                let device = likelihoods.device();
                let advantages = Tensor::<1>::from_data(advantages.as_slice(), &device);
                let before = self.likelihoods[number][index].clone();
                let ratio = (likelihoods.clone() - before).exp();
                let free = ratio.clone() * advantages.clone();
                let clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * advantages;
                let objective = free.min_pair(clipped).mean();
                // Of a decision made with probability p, -ln p is the entropy in the mean.
                let entropy = -likelihoods.clone().mean();

                let wanted = rewards_by_slot(decision, &sample.rewards);
                let wanted = Tensor::<1>::from_data(wanted.as_slice(), &device);
                let error = (values(agents, index, decision) - wanted).square().mean();
                error * VALUE_WEIGHT - objective - entropy * ENTROPY_WEIGHT
            });
            let sum = parts.reduce(|sum, part| sum + part);
            sum.map(|sum| sum / self.samples.len() as f32)
        };
        (0..agents.layers.len()).filter_map(of_layer).collect()
    }
}

/// What the critic of an agent layer expects of each slot's image, `[slots]`: the mean over its patches.
fn values(agents: &PruningAgents, index: usize, decision: &Decision) -> Tensor<1> {
    let Some(critic) = agents.critics.get(index) else {
        return Tensor::zeros([decision.sequences.batch()], &decision.hidden.device());
    };
    let outputs = critic.logits(&decision.observation());
    let outputs: Tensor<1> = outputs.narrow(1, 0, 1).flatten(0, 1);
    let device = outputs.device();
    let starts = decision.sequences.starts();
    let mut slots = Vec::with_capacity(decision.sequences.num_rows());
    let mut shares = Vec::with_capacity(slots.capacity());
    for (slot, span) in starts.windows(2).enumerate() {
        let rows = span[1] - span[0];
        slots.extend(std::iter::repeat_n(slot as i64, rows));
        shares.extend(std::iter::repeat_n(1.0 / rows as f32, rows));
    }
    let slots = Tensor::<1, Int>::from_data(slots.as_slice(), &device);
    let shares = Tensor::<1>::from_data(shares.as_slice(), &device);
    let zeros = Tensor::<1>::zeros([starts.len() - 1], &device);
    zeros.select_assign(0, slots, outputs * shares, IndexingUpdateOp::Add)
}

fn rewards_by_slot(decision: &Decision, rewards: &[f32]) -> Vec<f32> {
    let slots = 0..decision.sequences.batch();
    slots
        .map(|slot| rewards[decision.sequences.image(slot)])
        .collect()
}

/// What is said of each slot, for each patch that is there.
fn by_patch(decision: &Decision, of_slots: &[f32]) -> Vec<f32> {
    let images = decision.image_of_each_row();
    let mut of_images = vec![0.0; of_slots.len()];
    for (slot, &value) in of_slots.iter().enumerate() {
        of_images[decision.sequences.image(slot)] = value;
    }
    let rows = decision.patch_rows().into_iter();
    rows.map(|row| of_images[images[row]]).collect()
}

/// In standard deviations from their mean.
fn normalize(advantages: &mut [Vec<Vec<f32>>]) {
    let all = || advantages.iter().flatten().flatten();
    let count = all().count().max(1) as f32;
    let mean = all().sum::<f32>() / count;
    let variance = all().map(|value| (value - mean).powi(2)).sum::<f32>() / count;
    let deviation = variance.sqrt().max(1e-6);
    for value in advantages.iter_mut().flatten().flatten() {
        *value = (*value - mean) / deviation;
    }
}
