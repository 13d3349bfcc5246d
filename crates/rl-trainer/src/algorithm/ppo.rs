//! Proximal policy optimisation (Schulman et al., 2017) with a critic. Every token is an actor of its own,
//! and all share their block's weights, in the manner of RL4EViT (arXiv 2503.23459).
//!
//! An episode is one image through the model: in each of its blocks every patch that is left decides, and the reward
//! comes at the end. A rollout is learned from several times before the next one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use apt_pruning_agent::{Agents, Meaning, Policy, TokenPredictor, TokenPredictorConfig};
use apt_vit_model::{FlopsCount, VitConfig};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{Gradients, IndexingUpdateOp};
use serde::{Deserialize, Serialize};

use super::decision::Decision;
use super::entry::AlgorithmSettings;
use super::lesson::{Algorithm, Lesson, Pass, PolicyLosses};
use super::likelihood::{entropy, log_likelihoods, log_likelihoods_of, log_odds};
use super::sampling::{Sample, flops_of_group, mean_reward, sample_group};
use super::settings::{
    AGENT_LOSS_WEIGHT, GROUP_SIZE, TEMPERATURE, at_least, positive, temperature,
};

/// Settings of `Ppo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoSettings {
    /// Decisions that are tried on each image in each rollout.
    pub group_size: usize,
    /// How often a rollout is learned from.
    pub update_epochs: usize,
    /// Of the noise on decisions.
    pub temperature: f32,
    /// What the agents' losses are multiplied by.
    pub agent_loss_weight: f32,
}

impl Default for PpoSettings {
    fn default() -> Self {
        Self {
            group_size: 4,
            update_epochs: 3,
            temperature: 1.0,
            agent_loss_weight: 0.01,
        }
    }
}

impl AlgorithmSettings for PpoSettings {
    const NAME: &'static str = "ppo";
    const SUMMARY: &'static str = "the same with a critic, in steps that stay near the policy that tried (Schulman et al., 2017)";
    const MEANINGS: &'static [Meaning] = &[
        GROUP_SIZE,
        Meaning {
            key: "update_epochs",
            meaning: "how often a rollout is learned from; rollouts are not kept in checkpoints: a resumed training collects a \
                      new one",
        },
        TEMPERATURE,
        AGENT_LOSS_WEIGHT,
    ];

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        temperature(self.temperature)?;
        positive("agent_loss_weight", self.agent_loss_weight)?;
        at_least("group_size", self.group_size, 2)?;
        at_least("update_epochs", self.update_epochs, 1)?;
        Ok(Box::new(Ppo {
            settings: self.clone(),
            rollouts: Mutex::default(),
        }))
    }
}

/// A pass's place in its optimiser step, and the first image of the device's part.
type Place = (u64, usize);

/// PPO with what it still learns from.
#[derive(Debug)]
struct Ppo {
    settings: PpoSettings,
    /// By the pass's place in its optimiser step and the first image of the device's part: the rollout, and how often it
    /// is to be learned from yet. Each of its updates is a step's.
    rollouts: Mutex<BTreeMap<Place, (Rollout, usize)>>,
}

impl Ppo {
    /// The rollout to learn from now: the one of before, or a new one.
    fn rollout(&self, pass: &Pass<'_>) -> (Rollout, usize) {
        let mut rollouts = self.rollouts.lock().unwrap_or_else(PoisonError::into_inner);
        rollouts.remove(&(pass.slot, pass.part)).unwrap_or_else(|| {
            let settings = &self.settings;
            let samples = sample_group(pass, settings.group_size, settings.temperature);
            let rollout = Rollout::new(pass, samples, settings.temperature);
            (rollout, settings.update_epochs)
        })
    }

    fn keep(&self, place: Place, rollout: Rollout, times: usize) {
        if times > 0 {
            let mut rollouts = self.rollouts.lock().unwrap_or_else(PoisonError::into_inner);
            rollouts.insert(place, (rollout, times));
        }
    }
}

impl Algorithm for Ppo {
    fn loss_weight(&self) -> f32 {
        self.settings.agent_loss_weight
    }

    fn critic(&self, hidden_size: usize) -> Option<TokenPredictorConfig> {
        let width = (hidden_size / 3 / 4).max(1) * 4;
        Some(TokenPredictorConfig::new(hidden_size, width))
    }

    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        Box::new(Update { ppo: self, pass })
    }

    /// A rollout's, shared by the passes that learn from it, and the agents' in each of them.
    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount {
        let settings = &self.settings;
        let [trying, learning] = flops_of_group(model, policy, share, settings.group_size);
        trying / settings.update_epochs as u64 + learning
    }

    fn period(&self) -> usize {
        self.settings.update_epochs
    }
}

struct Update<'a> {
    ppo: &'a Ppo,
    pass: &'a Pass<'a>,
}

impl Lesson for Update<'_> {
    fn losses(self: Box<Self>, _: Option<&Gradients>, _: f32) -> PolicyLosses {
        let Self { ppo, pass } = *self;
        let (rollout, times) = ppo.rollout(pass);
        let losses = rollout.losses(pass.agents, pass.critics, ppo.settings.temperature);
        let reward = mean_reward(&rollout.samples);
        let passes = ppo.settings.update_epochs as f64;
        let flops = rollout.samples.iter();
        let flops = flops.map(|sample| sample.flops / passes + sample.learning_flops);
        let flops = flops.sum();
        ppo.keep((pass.slot, pass.part), rollout, times - 1);
        let blocks = pass.frozen.policy.blocks().iter();
        let values = blocks.map(|layer| (format!("reward/{layer}"), reward));
        PolicyLosses {
            of_blocks: losses,
            values: values.collect(),
            flops,
        }
    }
}

/// How far the probability of a decision may move from what it was: a ratio of 1 plus and minus this.
const CLIP: f64 = 0.2;
/// The weight of the critic's loss.
const VALUE_WEIGHT: f32 = 0.5;
/// The weight of the decisions' entropy.
const ENTROPY_WEIGHT: f32 = 0.01;

/// Observations, actions and rewards, with what was thought of them when they were made.
#[derive(Clone, Debug)]
struct Rollout {
    samples: Vec<Sample>,
    /// Per sample and agent layer, per patch: the logarithm of the decision's probability.
    likelihoods: Vec<Vec<Tensor<1>>>,
    /// Per sample and agent layer, per slot: how much better it went than the critic thought.
    advantages: Vec<Vec<Vec<f32>>>,
}

impl Rollout {
    /// What the frozen agents and critics think of the tries.
    fn new(pass: &Pass<'_>, samples: Vec<Sample>, temperature: f32) -> Self {
        let critics: Vec<TokenPredictor> = pass.critics.iter().map(Module::valid).collect();
        let agents = pass.frozen.policy.agents().unwrap_or(pass.agents);
        let of_sample = |sample: &Sample| {
            let decisions = sample.decisions.iter().enumerate();
            let of_layer = |(index, decision): (usize, &Decision)| {
                let logits = agents.logits(index, &decision.observation());
                let likelihoods = log_likelihoods(decision, logits, temperature);
                let values = values(&critics, index, decision).into_data();
                let rewards = rewards_by_slot(decision, &sample.rewards);
                let pairs = rewards.iter().zip(values.iter::<f32>());
                let advantages = pairs.map(|(reward, value)| reward - value).collect();
                (likelihoods, advantages)
            };
            decisions.map(of_layer).unzip()
        };
        let (likelihoods, mut advantages): (Vec<_>, Vec<Vec<Vec<f32>>>) =
            samples.iter().map(of_sample).unzip();
        center(&samples, &mut advantages);
        normalize(&mut advantages);
        Self {
            samples,
            likelihoods,
            advantages,
        }
    }

    /// Loss: the clipped objective, the critic's error and the entropy. Per agent layer, `[1]`.
    ///
    /// `agents` and `critics` are those that learn.
    fn losses(
        &self,
        agents: &dyn Agents,
        critics: &[TokenPredictor],
        temperature: f32,
    ) -> Vec<Tensor<1>> {
        let of_layer = |index: usize| {
            let parts = self.samples.iter().enumerate().map(|(number, sample)| {
                let decision = &sample.decisions[index];
                let logits = agents.logits(index, &decision.observation());
                let log_odds = log_odds(decision, logits, temperature);
                let likelihoods = log_likelihoods_of(decision, log_odds.clone());
                let advantages = by_patch(decision, &self.advantages[number][index]);
                let device = likelihoods.device();
                let advantages = Tensor::<1>::from_data(advantages.as_slice(), &device);
                let before = self.likelihoods[number][index].clone();
                let ratio = (likelihoods - before).exp();
                let free = ratio.clone() * advantages.clone();
                let clipped = ratio.clamp(1.0 - CLIP, 1.0 + CLIP) * advantages;
                let objective = free.min_pair(clipped).mean();
                let entropy = entropy(log_odds).mean();

                let wanted = rewards_by_slot(decision, &sample.rewards);
                let wanted = Tensor::<1>::from_data(wanted.as_slice(), &device);
                let error = (values(critics, index, decision) - wanted).square().mean();
                error * VALUE_WEIGHT - objective - entropy * ENTROPY_WEIGHT
            });
            let sum = parts.reduce(|sum, part| sum + part);
            sum.map(|sum| sum / self.samples.len() as f32)
        };
        let blocks = self.samples.first();
        let blocks = blocks.map_or(0, |sample| sample.decisions.len());
        (0..blocks).filter_map(of_layer).collect()
    }
}

/// What the critic of a block expects of each slot's image, `[slots]`: the mean over its patches.
fn values(critics: &[TokenPredictor], index: usize, decision: &Decision) -> Tensor<1> {
    let Some(critic) = critics.get(index) else {
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

/// Takes the mean of the tries on the same image off each: what a decision shares with the other tries teaches nothing,
/// as long as the critic does not know it. A decision that no try makes otherwise is left alone.
fn center(samples: &[Sample], advantages: &mut [Vec<Vec<f32>>]) {
    let images = samples.first().map_or(0, |sample| sample.rewards.len());
    let blocks = samples.first().map_or(0, |sample| sample.decisions.len());
    for block in 0..blocks {
        let image = |try_number: usize, slot: usize| {
            let decision = &samples[try_number].decisions[block];
            decision.sequences.image(slot)
        };
        let mut means = vec![0.0; images];
        for (number, advantages) in advantages.iter().enumerate() {
            for (slot, advantage) in advantages[block].iter().enumerate() {
                means[image(number, slot)] += advantage / samples.len() as f32;
            }
        }
        for (number, advantages) in advantages.iter_mut().enumerate() {
            for (slot, advantage) in advantages[block].iter_mut().enumerate() {
                *advantage -= means[image(number, slot)];
            }
        }
    }
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
