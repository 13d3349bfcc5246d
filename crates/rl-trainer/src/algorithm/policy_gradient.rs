//! A policy gradient over whole keep masks, with a group of tries on each image as its own
//! baseline (REINFORCE, Williams 1992; group-relative advantages, Shao et al., "DeepSeekMath", 2024).

use apt_pruning_agent::{Agents, Meaning, Policy};
use apt_vit_model::{FlopsCount, VitConfig};
use burn::prelude::*;
use burn::tensor::Gradients;
use serde::{Deserialize, Serialize};

use super::entry::AlgorithmSettings;
use super::lesson::{Algorithm, Lesson, Pass, PolicyLosses};
use super::likelihood::log_likelihoods;
use super::sampling::{Sample, flops_of_group, mean_reward, sample_group};
use super::settings::{
    AGENT_LOSS_WEIGHT, GROUP_SIZE, TEMPERATURE, at_least, positive, temperature,
};

/// Settings of `PolicyGradient`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyGradientSettings {
    /// Decisions that are tried on each image in each pass.
    pub group_size: usize,
    /// Of the noise on decisions.
    pub temperature: f32,
    /// What the agents' losses are multiplied by.
    pub agent_loss_weight: f32,
}

impl Default for PolicyGradientSettings {
    fn default() -> Self {
        Self {
            group_size: 4,
            temperature: 1.0,
            agent_loss_weight: 0.01,
        }
    }
}

impl AlgorithmSettings for PolicyGradientSettings {
    const NAME: &'static str = "policy-gradient";
    const SUMMARY: &'static str = "try several decisions on each image, and make those likelier that did better than the others";
    const MEANINGS: &'static [Meaning] = &[GROUP_SIZE, TEMPERATURE, AGENT_LOSS_WEIGHT];

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        temperature(self.temperature)?;
        positive("agent_loss_weight", self.agent_loss_weight)?;
        at_least("group_size", self.group_size, 2)?;
        Ok(Box::new(PolicyGradient(self.clone())))
    }
}

/// REINFORCE with a group's mean as baseline.
#[derive(Debug)]
struct PolicyGradient(PolicyGradientSettings);

impl Algorithm for PolicyGradient {
    fn loss_weight(&self) -> f32 {
        self.0.agent_loss_weight
    }

    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        Box::new(Tries {
            settings: &self.0,
            pass,
        })
    }

    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount {
        let flops = flops_of_group(model, policy, share, self.0.group_size);
        flops.into_iter().sum()
    }
}

struct Tries<'a> {
    settings: &'a PolicyGradientSettings,
    pass: &'a Pass<'a>,
}

impl Lesson for Tries<'_> {
    fn losses(self: Box<Self>, _: Option<&Gradients>, _: f32) -> PolicyLosses {
        let Self { settings, pass } = *self;
        let samples = sample_group(pass, settings.group_size, settings.temperature);
        let advantages = advantages(&samples);
        let reward = mean_reward(&samples);
        let blocks = pass.frozen.policy.blocks().iter();
        let values = blocks.map(|layer| (format!("reward/{layer}"), reward));
        PolicyLosses {
            values: values.collect(),
            flops: samples
                .iter()
                .map(|sample| sample.flops + sample.learning_flops)
                .sum(),
            of_blocks: losses(pass.agents, &samples, &advantages, settings.temperature),
        }
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

/// Loss: each decision is made likelier by its image's advantage.
///
/// `agents` are those that learn. Per agent layer, `[1]`.
pub fn losses(
    agents: &dyn Agents,
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
    let blocks = samples.first().map_or(0, |sample| sample.decisions.len());
    (0..blocks).filter_map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_compare_an_image_with_itself_alone() {
        let sample = |rewards: &[f32]| Sample {
            decisions: Vec::new(),
            rewards: rewards.to_vec(),
            flops: 0.0,
            learning_flops: 0.0,
        };
        let found = advantages(&[sample(&[-1.0, -9.0]), sample(&[-3.0, -9.0])]);
        assert_eq!(found[0][1], 0.0);
        assert!((found[0][0] - 2.0f32.sqrt()).abs() < 1e-6 && found[1][0] == -found[0][0]);
    }
}
