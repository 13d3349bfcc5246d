//! The published algorithm: three streams through one model, which is the agents' environment.
//!
//! An agent learns from what happens when one token is cut: it observes the tokens of the dense
//! pass (stream 0), one token of each image is cut, and the reward is the change in the
//! probability of the true class (stream 2). The model learns to classify with every agent
//! acting (stream 1).

use apt_pruning_agent::{PruningAgent, PruningAgents};
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, TokenBatch, TokenReducer, Vit};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::activation::softmax;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// What an agent saw in the dense pass.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The block (0-based) after which it stands.
    pub layer: usize,
    /// The tokens after that block; none is removed.
    pub batch: TokenBatch,
    /// The agent's logits, `[batch, tokens, 2]`, without gradient.
    pub logits: Tensor<3>,
}

/// Stream 0: the dense pass.
#[derive(Clone, Debug)]
pub struct DensePass {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// The probability of each image's true class.
    pub true_class: Vec<f32>,
    /// What each agent saw, in the order of the blocks.
    pub observed: Vec<Observed>,
}

/// Observation: runs the dense model and lets each agent look, without dropout or gradient.
///
/// `vit` and `agents` are without autodiff; `images` is `[batch, 3, height, width]`.
pub fn stream_0(
    vit: &Vit,
    agents: &PruningAgents,
    images: Tensor<4>,
    targets: &[usize],
) -> DensePass {
    let mut batch = vit.embed(images);
    let mut next = 0;
    let mut observed = Vec::new();
    for (agent, &layer) in agents.agents.iter().zip(&agents.layers) {
        batch = vit
            .run_blocks(batch, next..layer + 1, RunSettings::DENSE)
            .batch;
        next = layer + 1;
        let logits = agent.logits(batch.tokens.clone(), &batch.sequences);
        observed.push(Observed {
            layer,
            logits: logits.reshape([batch.sequences.batch() as i32, -1, 2]),
            batch: batch.clone(),
        });
    }
    let batch = vit
        .run_blocks(batch, next..vit.blocks.len(), RunSettings::DENSE)
        .batch;
    let logits = vit.classify(&batch);
    DensePass {
        true_class: true_class_probabilities(logits.clone(), targets),
        logits,
        observed,
    }
}

/// Action: the token to cut in each image. With probability 1/2 the one that the agent most
/// wants removed, else one of all patches uniformly at random. What stands before the patches is
/// never cut.
///
/// `seeds` has one entry for each image; the choice depends on nothing else.
pub fn choose_cuts(observed: &Observed, seeds: &[u64]) -> Vec<usize> {
    let [_, tokens, _] = observed.logits.dims();
    let first = observed.batch.sequences.prefix();
    let values: Vec<f32> = observed.logits.to_data().iter::<f32>().collect();
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

/// Stream 2 at one agent layer.
#[derive(Clone, Debug)]
pub struct CutPass {
    /// The block (0-based) of the agent.
    pub layer: usize,
    /// `p2(y) - p0(y)` of each image.
    pub rewards: Vec<f32>,
    /// 1 where the cut helped: the token should be removed.
    pub labels: Vec<usize>,
    /// Mean cross-entropy of the cut tokens' logits, `[1]`; its gradient reaches the agent alone.
    pub loss: Tensor<1>,
}

/// Reward and loss: cuts the given token of each image after the observed block, runs the rest
/// of the model on what is left, and scores the agent's opinion of the cut token by what came
/// of it.
///
/// `vit` is without autodiff, `agent` is the one that learns.
pub fn stream_2(
    vit: &Vit,
    agent: &PruningAgent,
    dense: &DensePass,
    observed: &Observed,
    cuts: &[usize],
    targets: &[usize],
) -> CutPass {
    let sequences = &observed.batch.sequences;
    let tokens = sequences.tokens_per_image();
    let mut keep = vec![true; sequences.num_rows()];
    for (image, &cut) in cuts.iter().enumerate() {
        keep[image * tokens + cut] = false;
    }
    let batch = observed.batch.clone().drop_rows(&keep);
    let rest = observed.layer + 1..vit.blocks.len();
    let batch = vit.run_blocks(batch, rest, RunSettings::DENSE).batch;
    let after = true_class_probabilities(vit.classify(&batch), targets);

    let rewards: Vec<f32> = after
        .iter()
        .zip(&dense.true_class)
        .map(|(p2, p0)| p2 - p0)
        .collect();
    let labels: Vec<usize> = rewards
        .iter()
        .map(|&reward| usize::from(reward > 0.0))
        .collect();

    let device = observed.batch.tokens.device();
    let rows = |token: &dyn Fn(usize) -> usize| {
        let rows: Vec<i64> = (0..cuts.len())
            .map(|image| (image * tokens + token(image)) as i64)
            .collect();
        let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &device);
        observed.batch.tokens.clone().select(0, rows)
    };
    let logits = agent.logits_of(rows(&|_| 0), rows(&|image| cuts[image]));
    CutPass {
        layer: observed.layer,
        rewards,
        loss: cross_entropy(logits, &labels),
        labels,
    }
}

/// Stream 1: the pass in which the agents act.
#[derive(Clone, Debug)]
pub struct PrunedPass {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// Mean cross-entropy against the true classes, `[1]`; its gradient reaches the model alone.
    pub loss: Tensor<1>,
    /// What each agent removed.
    pub trace: Vec<LayerTrace>,
}

/// The model's own loss, with every agent acting.
///
/// `vit` is the one that learns; `reducer` is the agents, without autodiff.
/// [`ExecutionMode::Mask`] is the published way, [`ExecutionMode::Drop`] gives the same numbers
/// for less work.
pub fn stream_1(
    vit: &Vit,
    reducer: &dyn TokenReducer,
    mode: ExecutionMode,
    images: Tensor<4>,
    targets: &[usize],
) -> PrunedPass {
    let reducer = Some(reducer);
    let output = vit.forward(images, RunSettings { mode, reducer });
    PrunedPass {
        loss: cross_entropy(output.logits.clone(), targets),
        logits: output.logits,
        trace: output.trace,
    }
}

/// Mean cross-entropy of `[rows, classes]` logits, `[1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[usize]) -> Tensor<1> {
    let device = logits.device();
    let targets: Vec<i64> = targets.iter().map(|&target| target as i64).collect();
    let targets = Tensor::<1, Int>::from_data(targets.as_slice(), &device);
    CrossEntropyLossConfig::new()
        .init(&device)
        .forward(logits, targets)
}

/// `softmax(logits)[target]` of each row.
pub fn true_class_probabilities(logits: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    let [_, classes] = logits.dims();
    let values: Vec<f32> = softmax(logits, 1).into_data().iter::<f32>().collect();
    let rows = values.chunks_exact(classes).zip(targets);
    rows.map(|(row, &target)| row[target]).collect()
}
