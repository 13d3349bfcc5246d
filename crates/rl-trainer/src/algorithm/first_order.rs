//! What cutting each token would do, to first order, for all tokens from one backward pass.
//!
//! Attention weighs each token as a key by a mask that is 1 (see
//! [`TokenBatch::key_mask`](apt_vit_model::TokenBatch::key_mask)). The derivative of the loss by it says what
//! taking the token away from all later attention would change: the reward of that cut, to first order. The
//! backward pass is that of the model's own pass, so that the agents learn from what happens where they have acted, at
//! no further cost. (The idea is that of Taylor pruning: Molchanov et al., "Pruning Convolutional Neural Networks
//! for Resource Efficient Inference", 2017.)
//!
//! Agents learn how large an effect is, not its sign. Without the label nobody can say whether the loss rises or falls:
//! where the model is calibrated, the expected derivative is zero. How far the answer moves can be said.

use std::cell::RefCell;

use apt_pruning_agent::{
    Agents, EFFECT_SCALE, Meaning, Pair, Policy, Removal, Selection, matched_pairs,
    most_similar_kept,
};
use apt_vit_model::{
    ExecutionMode, FlopsCount, Needs, Observation, Placement, Reduction, Sequences, TokenReducer,
    VitConfig,
};
use burn::prelude::*;
use burn::tensor::Gradients;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::decision::{Decision, Recorder};
use super::entry::AlgorithmSettings;
use super::lesson::{Algorithm, Lesson, Pass, PolicyLosses, Purpose};
use super::likelihood::rows_of;
use super::settings::{AGENT_LOSS_WEIGHT, positive};

/// What a token weighs as a key that is left out of a coalition: by the weight of one that weighs nothing there is no derivative.
const LEFT_OUT: f32 = 0.05;
/// Logarithms further from 0 teach no more than this.
const MOST: f32 = 5.0;

/// Settings of `FirstOrder`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FirstOrderSettings {
    /// What the agents' losses are multiplied by.
    pub agent_loss_weight: f32,
}

impl Default for FirstOrderSettings {
    fn default() -> Self {
        Self {
            agent_loss_weight: 0.01,
        }
    }
}

impl AlgorithmSettings for FirstOrderSettings {
    const NAME: &'static str = "first-order";
    const SUMMARY: &'static str = "learn how far the answer would move without each token, to first order, from the model's own backward pass";
    const MEANINGS: &'static [Meaning] = &[AGENT_LOSS_WEIGHT];
    const LEARNS_FROM_BACKWARD: bool = true;

    fn init(&self) -> Result<Box<dyn Algorithm>, String> {
        Ok(Box::new(FirstOrder {
            weight: positive("agent_loss_weight", self.agent_loss_weight)?,
        }))
    }
}

/// Learns the size of first-order effects.
#[derive(Debug)]
struct FirstOrder {
    weight: f32,
}

impl Algorithm for FirstOrder {
    fn loss_weight(&self) -> f32 {
        self.weight
    }

    fn begin<'a>(&'a self, pass: &'a Pass<'a>) -> Box<dyn Lesson + 'a> {
        Box::new(Effects::new(pass))
    }

    /// Each agent's logits once more, forward and backward.
    fn flops(&self, model: &VitConfig, policy: &dyn Policy, share: f64) -> FlopsCount {
        let kept = policy.kept_for(model, share);
        let patches = vec![model.num_patches(); policy.blocks().len()];
        let mut seen = model.num_tokens();
        let of_block = kept.unwrap_or(patches).into_iter().map(|kept| {
            let own = policy.flops(model, seen, seen);
            seen = policy.left(model, seen, kept);
            3 * own
        });
        of_block.sum()
    }
}

/// What the agents learn from one forward pass.
struct Effects<'a> {
    pass: &'a Pass<'a>,
    probe: Probe<'a>,
}

impl<'a> Effects<'a> {
    fn new(pass: &'a Pass<'a>) -> Self {
        let removal = pass.agents.removal();
        // Where nothing is removed they learn of every token.
        let selection = if pass.is_dense {
            &Selection::All
        } else {
            pass.selection
        };
        let seeds = pass.seeds.of(Purpose::Policy, 0);
        let reducer = pass.frozen.policy.reducer(selection, &seeds);
        Self {
            pass,
            probe: Probe::new(reducer, removal, pass.device()),
        }
    }
}

impl Lesson for Effects<'_> {
    fn own_pass(&self) -> Option<(ExecutionMode, &dyn TokenReducer)> {
        Some((ExecutionMode::Drop, &self.probe))
    }

    fn wants_gradients(&self) -> bool {
        true
    }

    fn losses(self: Box<Self>, gradients: Option<&Gradients>, scale: f32) -> PolicyLosses {
        let Self { pass, probe } = *self;
        let Some(gradients) = gradients else {
            return PolicyLosses::default();
        };
        let rewards = probe.rewards(gradients, scale);
        let mut losses = PolicyLosses {
            of_blocks: losses(pass.agents, &rewards),
            ..Default::default()
        };
        let (policy, model) = (&pass.frozen.policy, pass.frozen.config());
        for (decision, rewards) in &rewards {
            let known: Vec<f32> = rewards.iter().flatten().copied().collect();
            let (count, layer) = (known.len().max(1) as f64, decision.layer);
            let positive = known.iter().filter(|&&reward| reward > 0.0).count();
            let sum: f32 = known.iter().sum();
            let values = &mut losses.values;
            values.insert(format!("reward/{layer}"), f64::from(sum) / count);
            values.insert(format!("positive/{layer}"), positive as f64 / count);
            let sequences = &decision.sequences;
            let counts = sequences.counts();
            let own = counts
                .iter()
                .map(|&seen| 3 * policy.flops(model, seen, seen));
            losses.flops += own.sum::<u64>() as f64 / sequences.batch() as f64;
        }
        losses
    }
}

/// A reducer whose decisions are remembered, with something on each token it saw by which the loss can be
/// differentiated.
pub struct Probe<'a> {
    recorder: Recorder<'a>,
    removal: Removal,
    device: Device,
    masks: RefCell<Vec<Tensor<1>>>,
    shifts: RefCell<Vec<Tensor<2>>>,
    /// Who is in a coalition; none where all are.
    coalitions: Option<RefCell<ChaCha8Rng>>,
}

/// A decision, and per row how much the image's loss falls if the token goes there; none where there is nothing to say: of
/// CLS, of tokens that were removed, and of those that cannot be removed.
pub type Rewards = (Decision, Vec<Option<f32>>);

impl<'a> Probe<'a> {
    /// `device` has autodiff; `removal` says what becomes of removed tokens.
    pub fn new(reducer: Box<dyn TokenReducer + 'a>, removal: Removal, device: Device) -> Self {
        Self {
            recorder: Recorder::new(reducer),
            removal,
            device,
            masks: RefCell::default(),
            shifts: RefCell::default(),
            coalitions: None,
        }
    }

    /// Rewards of dropped tokens are those in a random coalition of the image's patches, in which each of them is with a probability
    /// of a half: in the mean, Banzhaf's value, to first order (the derivative of the multilinear extension at its centre:
    /// Owen, "Multilinear Extensions of Games", 1972). Where many patches do the same harm, none of them changes much while
    /// the others are there.
    pub fn in_coalitions(self, rng: ChaCha8Rng) -> Self {
        Self {
            coalitions: Some(RefCell::new(rng)),
            ..self
        }
    }

    /// What each row weighs as a key, `[rows]`.
    fn weights(&self, sequences: &Sequences) -> Tensor<1> {
        let rows = sequences.num_rows();
        let Some(rng) = &self.coalitions else {
            return Tensor::ones([rows], &self.device);
        };
        let mut rng = rng.borrow_mut();
        let mut weights = vec![1.0; rows];
        for slot in 0..sequences.batch() {
            let first = sequences.starts()[slot];
            let end = first + sequences.positions(slot).len();
            for weight in &mut weights[first + sequences.prefix()..end] {
                if rng.random_bool(0.5) {
                    *weight = LEFT_OUT;
                }
            }
        }
        Tensor::from_data(weights.as_slice(), &self.device)
    }

    /// The rewards of each block's decision.
    ///
    /// - Dropped: the derivative by the token's weight as a key.
    /// - Merged into the nearest that stays: the weight goes to that one; the reward is the one's less the other's.
    /// - Merged in pairs: both tokens become their mean, `m = w a + (1 - w) b`, and count for as many patches as
    ///   before, so that attention is exactly that of two tokens `m`. To first order the loss changes by
    ///   `(m - a) da + (m - b) db`, `da` and `db` being its derivatives by the tokens.
    ///
    /// `gradients` are those of the images' mean loss times `scale`.
    pub fn rewards(self, gradients: &Gradients, scale: f32) -> Vec<Rewards> {
        let decisions = self.recorder.into_decisions().into_iter();
        if self.removal == Removal::MergedInPairs {
            let shifts = self.shifts.into_inner();
            let of_block = |(decision, shift): (Decision, Tensor<2>)| {
                let factor = decision.sequences.batch() as f32 / scale;
                let gradient = shift.grad(gradients);
                let gradient = gradient.unwrap_or_else(|| shift.zeros_like());
                let rewards = of_pairs(&decision, gradient * factor);
                (decision, rewards)
            };
            return decisions.zip(shifts).map(of_block).collect();
        }
        let masks = self.masks.into_inner();
        let of_block = |(decision, mask): (Decision, Tensor<1>)| {
            let factor = decision.sequences.batch() as f32 / scale;
            let gradient = mask.grad(gradients);
            let gradient = gradient.unwrap_or_else(|| mask.zeros_like());
            let weights: Vec<f32> = (gradient * factor).into_data().iter::<f32>().collect();
            let rewards = of_tokens(&decision, &weights, self.removal);
            (decision, rewards)
        };
        decisions.zip(masks).map(of_block).collect()
    }
}

/// The rewards of single tokens; `weights` are the derivatives by each row's weight as a key.
fn of_tokens(decision: &Decision, weights: &[f32], removal: Removal) -> Vec<Option<f32>> {
    let mut rewards = vec![None; weights.len()];
    let other = match removal {
        Removal::MergedIntoNearest => most_similar_kept(&decision.observation(), &decision.keep),
        _ => vec![None; weights.len()],
    };
    for row in decision.patch_rows() {
        if decision.keep[row] {
            let to_the_other = other[row].map_or(0.0, |other: usize| weights[other]);
            rewards[row] = Some(weights[row] - to_the_other);
        }
    }
    rewards
}

/// The rewards of pairs, each that of the token that may go; `gradient`, `[rows, hidden]`, is that of the images' own
/// losses.
fn of_pairs(decision: &Decision, gradient: Tensor<2>) -> Vec<Option<f32>> {
    let pairs: Vec<Pair> = matched_pairs(&decision.observation()).concat();
    let mut rewards = vec![None; decision.sequences.num_rows()];
    if pairs.is_empty() {
        return rewards;
    }
    let device = gradient.device();
    let rows = |of: fn(&Pair) -> usize| {
        let rows: Vec<i64> = pairs.iter().map(|pair| of(pair) as i64).collect();
        Tensor::<1, Int>::from_data(rows.as_slice(), &device)
    };
    let (from, into) = (rows(|pair| pair.from), rows(|pair| pair.into));
    let sizes = decision.sequences.sizes();
    let size = |row: usize| sizes.map_or(1.0, |sizes| sizes[row]);
    let share = |pair: &Pair| size(pair.from) / (size(pair.from) + size(pair.into));
    let shares: Vec<f32> = pairs.iter().map(share).collect();
    let share = Tensor::<1>::from_data(shares.as_slice(), &device).unsqueeze_dim::<2>(1);
    let select = |of: &Tensor<2>, rows: &Tensor<1, Int>| of.clone().select(0, rows.clone());
    let apart = select(&decision.hidden, &into) - select(&decision.hidden, &from);
    // m - a is the other's share of what lies between them, m - b the own share of its opposite.
    let slope =
        select(&gradient, &from) * (-share.clone() + 1.0) - select(&gradient, &into) * share;
    let changes = (apart * slope).sum_dim(1);
    for (pair, change) in pairs.iter().zip(changes.into_data().iter::<f32>()) {
        if decision.keep[pair.from] {
            rewards[pair.from] = Some(-change);
        }
    }
    rewards
}

impl TokenReducer for Probe<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.recorder.placement(layer)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.recorder.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let [rows, hidden] = observation.hidden.dims();
        let reduction = self.recorder.reduce(observation);
        if self.removal == Removal::MergedInPairs {
            let shift = Tensor::<2>::zeros([rows, hidden], &self.device).require_grad();
            self.shifts.borrow_mut().push(shift.clone());
            return Reduction {
                shift: Some(shift),
                ..reduction
            };
        }
        let mask = self.weights(observation.sequences).require_grad();
        self.masks.borrow_mut().push(mask.clone());
        Reduction {
            mask: Some(mask),
            ..reduction
        }
    }
}

/// Loss: the log-odds of staying of the tokens that stayed become the logarithm of how far the answer would move without
/// each. Where every image keeps as many tokens, only differences within an image count.
///
/// `agents` are those that learn. Per block, `[1]`.
pub fn losses(agents: &dyn Agents, rewards: &[Rewards]) -> Vec<Tensor<1>> {
    let of_block = |(index, (decision, rewards)): (usize, &Rewards)| {
        let known = rewards.iter().enumerate();
        let known = known.filter_map(|(row, reward)| Some((row, (*reward)?)));
        let (rows, known): (Vec<usize>, Vec<f32>) = known.unzip();
        if rows.is_empty() {
            return Tensor::zeros([1], &decision.hidden.device());
        }
        let logits = agents.logits(index, &decision.observation());
        let size = |reward: &f32| {
            let size = (reward.abs() / EFFECT_SCALE).max(f32::MIN_POSITIVE);
            size.ln().clamp(-MOST, MOST)
        };
        let mut sizes: Vec<f32> = known.iter().map(size).collect();
        if !agents.is_adaptive() {
            center(&mut sizes, &rows, decision);
        }
        teach(logits, &rows, sizes)
    };
    rewards.iter().enumerate().map(of_block).collect()
}

/// Takes the mean of its image's values off each.
fn center(values: &mut [f32], rows: &[usize], decision: &Decision) {
    let images = decision.image_of_each_row();
    let mut sums = vec![(0.0, 0.0); decision.sequences.batch()];
    for (&row, &value) in rows.iter().zip(&*values) {
        let (sum, count) = &mut sums[images[row]];
        *sum += value;
        *count += 1.0;
    }
    for (&row, value) in rows.iter().zip(values) {
        let (sum, count) = sums[images[row]];
        *value -= sum / count;
    }
}

/// The mean squared error of the log-odds of staying of `rows`, `[1]`.
fn teach(logits: Tensor<2>, rows: &[usize], worth: Vec<f32>) -> Tensor<1> {
    let scores = logits.clone().narrow(1, 0, 1) - logits.narrow(1, 1, 1);
    let scores = rows_of(scores, rows);
    let worth: Vec<f32> = worth.iter().map(|worth| worth.clamp(-MOST, MOST)).collect();
    let worth = Tensor::<1>::from_data(worth.as_slice(), &scores.device());
    (scores - worth).square().mean()
}

#[cfg(test)]
mod tests;
