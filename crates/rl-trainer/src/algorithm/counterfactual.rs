//! The published algorithm: the model is the agents' environment.
//!
//! An agent learns from what happens when one token is cut: it observes the tokens of a dense pass (the published stream
//! 0), one token of each image is cut after its block, and the reward is the change in the probability of the true class
//! (stream 2). The model learns to classify with every agent acting (stream 1), which is the training step's own pass.

use std::collections::BTreeMap;

use apt_inference::PruningVit;
use apt_pruning_agent::{Agents, Meaning, Policy, Selection};
use apt_vit_model::{
    ExecutionMode, FlopsCount, RunSettings, TokenBatch, Vit, VitConfig, block_flops, vit_flops,
};
use burn::prelude::*;
use burn::tensor::Gradients;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::decision::{Decision, Recorder};
use super::entry::AlgorithmSettings;
use super::lesson::{Algorithm, Lesson, Pass, PolicyLosses, Purpose};
use super::losses::{accuracy, cross_entropy, true_class_probabilities};
use super::settings::{AGENT_LOSS_WEIGHT, positive};

/// Settings of `Counterfactual`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CounterfactualSettings {
    /// What the agents' losses are multiplied by; 1 is published.
    pub agent_loss_weight: f32,
}

impl Default for CounterfactualSettings {
    fn default() -> Self {
        Self {
            agent_loss_weight: 1.0,
        }
    }
}

impl AlgorithmSettings for CounterfactualSettings {
    const NAME: &'static str = "counterfactual";
    const SUMMARY: &'static str = "the published one: cut one token of each image, and learn from what that does to the true class's probability";
    const MEANINGS: &'static [Meaning] = &[AGENT_LOSS_WEIGHT];

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        Ok(Box::new(Counterfactual {
            weight: positive("agent_loss_weight", self.agent_loss_weight)?,
        }))
    }
}

/// The published algorithm.
#[derive(Debug)]
struct Counterfactual {
    weight: f32,
}

impl Algorithm for Counterfactual {
    fn loss_weight(&self) -> f32 {
        self.weight
    }

    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        Box::new(Cuts(pass))
    }

    /// A dense pass, the blocks after each cut, and each agent's logits of the cut tokens, forward and backward.
    fn flops(&self, model: &VitConfig, policy: &dyn Policy, _: f64) -> FlopsCount {
        let tokens = model.num_tokens();
        let own = policy.flops(model, tokens, tokens);
        let after_cut = policy.blocks().iter().map(|&layer| {
            let blocks = (model.num_layers - layer - 1) as u64;
            own + blocks * block_flops(model, tokens - 1, tokens - 1) + of_cut_token(model)
        });
        vit_flops(model, &[], 0) + after_cut.sum::<u64>()
    }
}

/// An agent's logits of one token of an image, forward and backward: three linear layers and the last one.
fn of_cut_token(model: &VitConfig) -> FlopsCount {
    let d = model.hidden_size as u64;
    3 * (6 * d * d + 8 * d)
}

/// What the published algorithm learns from one forward pass.
struct Cuts<'a>(&'a Pass<'a>);

impl Lesson for Cuts<'_> {
    fn losses(self: Box<Self>, _: Option<&Gradients>, _: f32) -> PolicyLosses {
        let pass = self.0;
        let (model, targets) = (pass.frozen.config(), pass.targets);
        let dense = dense_pass(pass.frozen, pass.plain_images(), targets);
        let mut values = BTreeMap::new();
        values.insert("dense_accuracy".into(), accuracy(&dense.logits, targets));
        let images = targets.len() as f64;
        let mut flops = vit_flops(model, &[], 0) as f64;
        let blocks = pass.frozen.policy.blocks();
        let of_block = |(index, layer): (usize, &usize)| {
            let chosen = choose_cuts(&dense.observed[index], &pass.seeds.of(Purpose::Cut, 0));
            let cut = cut_pass(
                &pass.frozen.vit,
                pass.agents,
                index,
                &dense,
                &chosen,
                targets,
            );
            let reward: f32 = cut.rewards.iter().sum();
            let positive: usize = cut.labels.iter().sum();
            values.insert(format!("reward/{layer}"), f64::from(reward) / images);
            values.insert(format!("positive/{layer}"), positive as f64 / images);
            let seen = dense.observed[index].sequences.tokens_per_image();
            let blocks = (model.num_layers - layer - 1) as u64;
            let own = pass.frozen.policy.flops(model, seen, seen);
            flops += (own
                + blocks * block_flops(model, cut.tokens, cut.tokens)
                + of_cut_token(model)) as f64;
            cut.loss
        };
        let of_blocks = blocks.iter().enumerate().map(of_block).collect();
        PolicyLosses {
            of_blocks,
            values,
            flops,
        }
    }
}

/// The dense pass: stream 0 of the original.
#[derive(Clone, Debug)]
pub struct DensePass {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// The probability of each image's true class.
    pub true_class: Vec<f32>,
    /// What each agent saw and what it thinks of it, in the order of the blocks; none is removed.
    pub observed: Vec<Decision>,
}

/// Observation: runs the dense model and lets each agent look, without dropout or gradient.
///
/// `model` is without autodiff; `images` is `[batch, 3, height, width]`.
pub fn dense_pass(model: &PruningVit, images: Tensor<4>, targets: &[usize]) -> DensePass {
    let recorder = Recorder::new(model.policy.reducer(&Selection::All, &[]));
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&recorder),
    };
    let logits = model.vit.forward(images, settings).logits;
    DensePass {
        true_class: true_class_probabilities(logits.clone(), targets),
        logits,
        observed: recorder.into_decisions(),
    }
}

/// Action: the token to cut in each image. With probability 1/2 the one that the agent most
/// wants removed, else one of all patches uniformly at random. What stands before the patches is
/// never cut.
///
/// `seeds` has one entry for each image; the choice depends on nothing else.
pub fn choose_cuts(observed: &Decision, seeds: &[u64]) -> Vec<usize> {
    let tokens = observed.sequences.tokens_per_image();
    let first = observed.sequences.prefix();
    let values: Vec<f32> = match &observed.logits {
        Some(logits) => logits.to_data().iter::<f32>().collect(),
        None => vec![0.0; 2 * observed.sequences.num_rows()],
    };
    let images = values.chunks_exact(2 * tokens).zip(seeds);
    images
        .map(|(logits, &seed)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(observed.layer as u64);
            if rng.random_bool(0.5) {
                let wish = |token: usize| logits[2 * token + 1] - logits[2 * token];
                let patches = first..tokens;
                let most_wanted = patches.reduce(|best, token| {
                    if wish(token) > wish(best) {
                        token
                    } else {
                        best
                    }
                });
                most_wanted.unwrap_or(0)
            } else {
                rng.random_range(first..tokens)
            }
        })
        .collect()
}

/// The cut pass: stream 2 of the original, at one block.
#[derive(Clone, Debug)]
pub struct CutPass {
    /// `p2(y) - p0(y)` of each image.
    pub rewards: Vec<f32>,
    /// 1 where the reward is above 0: the token should be removed.
    pub labels: Vec<usize>,
    /// Mean cross-entropy of the cut tokens' logits, `[1]`; its gradient reaches the agent alone.
    pub loss: Tensor<1>,
    /// Tokens of an image after the cut.
    pub tokens: usize,
}

/// Reward and loss: cuts the given token of each image after the observed block, runs the rest
/// of the model on what is left, and scores the agent's opinion of the cut token by what came
/// of it.
///
/// `vit` is without autodiff, `agents` are those that learn; `index` says which of them.
pub fn cut_pass(
    vit: &Vit,
    agents: &dyn Agents,
    index: usize,
    dense: &DensePass,
    cuts: &[usize],
    targets: &[usize],
) -> CutPass {
    let observed = &dense.observed[index];
    let sequences = &observed.sequences;
    let tokens = sequences.tokens_per_image();
    let mut keep = vec![true; sequences.num_rows()];
    for (image, &cut) in cuts.iter().enumerate() {
        keep[image * tokens + cut] = false;
    }
    let batch = TokenBatch::packed(observed.hidden.clone(), sequences.clone()).drop_rows(&keep);
    let rest = observed.layer + 1..vit.blocks.len();
    let batch = vit.run_blocks(batch, rest, RunSettings::DENSE).batch;
    let after = true_class_probabilities(vit.classify(&batch), targets);

    let pairs = after.iter().zip(&dense.true_class);
    let rewards: Vec<f32> = pairs.map(|(p2, p0)| p2 - p0).collect();
    let labels: Vec<usize> = rewards
        .iter()
        .map(|&reward| usize::from(reward > 0.0))
        .collect();

    let rows = cuts.iter().enumerate();
    let rows: Vec<i64> = rows
        .map(|(image, cut)| (image * tokens + cut) as i64)
        .collect();
    let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &observed.hidden.device());
    let logits = agents.logits_of_rows(index, &observed.observation(), rows);
    CutPass {
        rewards,
        loss: cross_entropy(logits, &labels),
        labels,
        tokens: tokens - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::Sequences;

    #[test]
    fn half_of_the_cuts_are_the_most_wanted_and_the_others_any_patch() {
        let device = Device::default();
        let (images, tokens, wanted) = (4000, 9, 6);
        // CLS is wanted removed even more, and is never cut.
        let wish = |token: usize| match token {
            0 => 9.0,
            token if token == wanted => 2.0,
            _ => 0.0,
        };
        let of_image: Vec<f32> = (0..tokens).flat_map(|token| [0.0, wish(token)]).collect();
        let logits = of_image.repeat(images);
        let decision = Decision {
            layer: 2,
            hidden: Tensor::zeros([images * tokens, 1], &device),
            sequences: Sequences::full(images, tokens),
            cls_attention: None,
            keys: None,
            keep: vec![true; images * tokens],
            by_image: true,
            logits: Some(
                Tensor::<1>::from_data(logits.as_slice(), &device).reshape([images * tokens, 2]),
            ),
        };
        let seeds: Vec<u64> = (0..images as u64).collect();
        let cuts = choose_cuts(&decision, &seeds);
        let count = |token: usize| cuts.iter().filter(|&&cut| cut == token).count() as f64;
        assert_eq!((cuts.len(), count(0)), (images, 0.0));
        // Within four standard deviations.
        let near = |share: f64, found: f64| {
            let spread = (share * (1.0 - share) * images as f64).sqrt();
            (found - share * images as f64).abs() < 4.0 * spread
        };
        for patch in 1..tokens {
            let share = match patch {
                patch if patch == wanted => 0.5 + 0.5 / 8.0,
                _ => 0.5 / 8.0,
            };
            assert!(near(share, count(patch)), "{patch}: {}", count(patch));
        }
        // What stands beside an image does not matter.
        assert_eq!(choose_cuts(&decision, &seeds[100..])[0], cuts[100]);
    }
}
