//! The published algorithm: three streams through one model, which is the agents' environment.
//!
//! An agent learns from what happens when one token is cut: it observes the tokens of the dense
//! pass (stream 0), one token of each image is cut, and the reward is the change in the
//! probability of the true class (stream 2). The model learns to classify with every agent
//! acting (stream 1).

use apt_pruning_agent::{Amount, PolicyConfig, PruningAgents};
use apt_vit_model::{
    ExecutionMode, LayerTrace, RunSettings, TokenBatch, TokenReducer, Vit, VitConfig,
};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::record::{Decision, Recorder};

/// Stream 0: the dense pass.
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
/// `vit` and `agents` are without autodiff; `images` is `[batch, 3, height, width]`.
pub fn stream_0(
    vit: &Vit,
    model: &VitConfig,
    agents: &PruningAgents,
    images: Tensor<4>,
    targets: &[usize],
) -> DensePass {
    // All are asked, and none removes anything.
    let amount = Amount::Threshold { threshold: 1.0 };
    let reducer = PolicyConfig::default().reducer(agents, model, &amount, &[], None);
    let recorder = Recorder::new(&*reducer);
    let settings = RunSettings {
        mode: ExecutionMode::Drop,
        reducer: Some(&recorder),
    };
    let logits = vit.forward(images, settings).logits;
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

/// Stream 2 at one agent layer.
#[derive(Clone, Debug)]
pub struct CutPass {
    /// The block (0-based) of the agent.
    pub layer: usize,
    /// `p2(y) - p0(y)` of each image.
    pub rewards: Vec<f32>,
    /// 1 where the reward is above the margin: the token should be removed.
    pub labels: Vec<usize>,
    /// Mean cross-entropy of the cut tokens' logits, `[1]`; its gradient reaches the agent alone.
    pub loss: Tensor<1>,
}

/// Reward and loss: cuts the given token of each image after the observed block, runs the rest
/// of the model on what is left, and scores the agent's opinion of the cut token by what came
/// of it.
///
/// `vit` is without autodiff, `agents` are those that learn; `index` says which of them. A cut counts as good
/// where its reward is above `margin`.
pub fn stream_2(
    vit: &Vit,
    agents: &PruningAgents,
    index: usize,
    dense: &DensePass,
    cuts: &[usize],
    targets: &[usize],
    margin: f32,
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

    let rewards: Vec<f32> = after
        .iter()
        .zip(&dense.true_class)
        .map(|(p2, p0)| p2 - p0)
        .collect();
    let labels: Vec<usize> = rewards
        .iter()
        .map(|&reward| usize::from(reward > margin))
        .collect();

    let device = observed.hidden.device();
    let rows = |token: &dyn Fn(usize) -> usize| {
        let rows: Vec<i64> = (0..cuts.len())
            .map(|image| (image * tokens + token(image)) as i64)
            .collect();
        Tensor::<1, Int>::from_data(rows.as_slice(), &device)
    };
    let cut_rows = rows(&|image| cuts[image]);
    let logits = match agents.agents.get(index) {
        Some(agent) => {
            let select = |rows| observed.hidden.clone().select(0, rows);
            agent.logits_of(select(rows(&|_| 0)), select(cut_rows))
        }
        None => agents
            .logits(index, &observed.observation())
            .select(0, cut_rows),
    };
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

/// How far the answers are from those of a teacher: the mean cross-entropy of its probabilities, `[1]`.
///
/// Both are `[rows, classes]`; no gradient reaches the teacher.
pub fn soft_cross_entropy(logits: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    let targets = softmax(teacher.without_autodiff(), 1);
    -(log_softmax(logits, 1) * targets).sum_dim(1).mean()
}

/// `log_softmax(logits)[target]` of each row.
pub fn log_probabilities(logits: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    of_targets(log_softmax(logits, 1), targets)
}

/// `softmax(logits)[target]` of each row.
pub fn true_class_probabilities(logits: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    of_targets(softmax(logits, 1), targets)
}

fn of_targets(values: Tensor<2>, targets: &[usize]) -> Vec<f32> {
    let [_, classes] = values.dims();
    let values: Vec<f32> = values.into_data().iter::<f32>().collect();
    let rows = values.chunks_exact(classes).zip(targets);
    rows.map(|(row, &target)| row[target]).collect()
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
