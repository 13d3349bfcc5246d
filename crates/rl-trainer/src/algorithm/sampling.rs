//! Tries: decisions with noise, and what came of them. Policy gradients learn from these.

use apt_pruning_agent::{Agents, Policy, SelectionNoise, counted_flops};
use apt_vit_model::{ExecutionMode, FlopsCount, RunSettings, TokenBatch, VitConfig};

use super::decision::{Decision, Recorder};
use super::lesson::{Pass, Purpose};
use super::losses::log_probabilities;

/// One try: every block's decisions on a batch, and what came of them.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Observation and action in each of the policy's blocks.
    pub decisions: Vec<Decision>,
    /// Reward: the logarithm of each image's true class's probability.
    pub rewards: Vec<f32>,
    /// FLOPs of an image to try this; mean over the batch.
    pub flops: f64,
    /// FLOPs of an image to learn from it: the agents' logits once more, forward and backward.
    pub learning_flops: f64,
}

/// Observation, action and reward: the agents decide with noise, and the pruned model answers. The budget is met in every
/// try, so that it needs no price.
pub fn sample_group(pass: &Pass<'_>, group_size: usize, temperature: f32) -> Vec<Sample> {
    let Some(agents) = pass.frozen.policy.agents() else {
        return Vec::new();
    };
    let tokens = pass.frozen.vit.embed(pass.plain_images());
    let samples = (1..=group_size as u64).map(|number| {
        let noise = SelectionNoise {
            temperature,
            seeds: pass.seeds.of(Purpose::Policy, number),
        };
        sample(pass, agents, tokens.clone(), noise)
    });
    samples.collect()
}

/// One try on what the embedding made of the images.
fn sample(
    pass: &Pass<'_>,
    agents: &dyn Agents,
    batch: TokenBatch,
    noise: SelectionNoise,
) -> Sample {
    let model = pass.frozen;
    let recorder = Recorder::new(agents.noisy_reducer(pass.selection, noise));
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&recorder),
    };
    let encoded = model
        .vit
        .run_blocks(batch, 0..model.vit.blocks.len(), settings);
    let logits = model.vit.classify(&encoded.batch);
    let images = pass.targets.len();
    let mean = |of: &dyn Fn(usize) -> FlopsCount| {
        (0..images).map(of).sum::<FlopsCount>() as f64 / images as f64
    };
    let of_policy = |image| {
        model
            .policy
            .trace_flops(model.config(), &encoded.trace, image)
    };
    Sample {
        flops: mean(&|image| model.flops(&encoded.trace, image).0),
        learning_flops: 3.0 * mean(&of_policy),
        decisions: recorder.into_decisions(),
        rewards: log_probabilities(logits, pass.targets),
    }
}

/// The mean reward of all tries and images.
pub fn mean_reward(samples: &[Sample]) -> f64 {
    let rewards = samples.iter().flat_map(|sample| &sample.rewards);
    let (sum, count) = rewards.fold((0.0, 0), |(sum, count), &reward| {
        (sum + f64::from(reward), count + 1)
    });
    sum / f64::from(count.max(1))
}

/// FLOPs of an image to try so many decisions at `share` of the dense FLOPs, and to learn from them once.
pub fn flops_of_group(
    model: &VitConfig,
    policy: &dyn Policy,
    share: f64,
    group_size: usize,
) -> [FlopsCount; 2] {
    let all = vec![model.num_patches(); policy.blocks().len()];
    let kept = policy.kept_for(model, share).unwrap_or(all);
    let [of_model, own] = counted_flops(policy, model, &kept);
    [of_model + own, 3 * own].map(|flops| group_size as u64 * flops)
}
