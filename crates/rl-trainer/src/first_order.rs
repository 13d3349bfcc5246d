//! What cutting each token would do, to first order, for all tokens from one backward pass.
//!
//! Attention weighs each token as a key by a mask that is 1 (see
//! [`TokenBatch::key_mask`](apt_vit_model::TokenBatch::key_mask)). The derivative of the loss by it says what
//! taking the token away from all later attention would change: the reward of that cut, to first order. The
//! pass is stream 1's own, so that the agents learn from what happens where they have acted, at no further
//! cost. (The idea is that of Taylor pruning: Molchanov et al., "Pruning Convolutional Neural Networks
//! for Resource Efficient Inference", 2017.)

use std::cell::RefCell;

use apt_pruning_agent::{Merging, Pair, PruningAgents, likest_kept, matched_pairs};
use apt_vit_model::{Needs, Observation, Placement, Reduction, TokenReducer};
use burn::prelude::*;
use burn::tensor::Gradients;

use crate::counterfactual::cross_entropy;
use crate::policy_gradient::rows_of;
use crate::record::{Decision, Recorder};

/// A reducer whose decisions are remembered, with something on each token it saw by which the loss can be
/// differentiated.
pub struct Probe<'a> {
    recorder: Recorder<'a>,
    merging: Merging,
    device: Device,
    masks: RefCell<Vec<Tensor<1>>>,
    shifts: RefCell<Vec<Tensor<2>>>,
}

impl<'a> Probe<'a> {
    /// `device` has autodiff; `merging` says what becomes of removed tokens.
    pub fn new(reducer: &'a dyn TokenReducer, merging: Merging, device: Device) -> Self {
        Self {
            recorder: Recorder::new(reducer),
            merging,
            device,
            masks: RefCell::default(),
            shifts: RefCell::default(),
        }
    }

    /// What was decided, and what each decision's rewards are: per agent layer, per row, how much the image's
    /// loss falls if the token goes there. A token that was removed has 0.
    ///
    /// - Lost: the derivative by its weight as a key.
    /// - Into the nearest that stays: the weight goes to that one; the reward is the one's less the other's.
    /// - In pairs: both tokens become their mean, `m = w a + (1 - w) b`, and count for as many patches as
    ///   before, so that attention is exactly that of two tokens `m`. To first order the loss changes by
    ///   `(m - a) da + (m - b) db`, `da` and `db` being its derivatives by the tokens.
    ///
    /// `gradients` are those of the images' mean loss times `scale`.
    pub fn rewards(self, gradients: &Gradients, scale: f32) -> Vec<(Decision, Vec<f32>)> {
        let decisions = self.recorder.into_decisions().into_iter();
        if self.merging == Merging::Matched {
            let pairs = decisions.zip(self.shifts.into_inner());
            let of_layer = |(decision, shift): (Decision, Tensor<2>)| {
                let factor = decision.sequences.batch() as f32 / scale;
                let rewards = match shift.grad(gradients) {
                    Some(gradient) => of_pairs(&decision, gradient * factor),
                    None => vec![0.0; decision.sequences.num_rows()],
                };
                (decision, rewards)
            };
            return pairs.map(of_layer).collect();
        }
        let pairs = decisions.zip(self.masks.into_inner());
        let of_layer = |(decision, mask): (Decision, Tensor<1>)| {
            let images = decision.sequences.batch() as f32;
            let rewards: Vec<f32> = match mask.grad(gradients) {
                Some(gradient) => (gradient * (images / scale))
                    .into_data()
                    .iter::<f32>()
                    .collect(),
                None => vec![0.0; decision.sequences.num_rows()],
            };
            if self.merging == Merging::Lost {
                return (decision, rewards);
            }
            let likest = likest_kept(&decision.observation(), &decision.keep);
            let moved = likest.iter().enumerate().map(|(row, other)| {
                let other = other.map_or(0.0, |other| rewards[other]);
                rewards[row] - other
            });
            let rewards = moved.collect();
            (decision, rewards)
        };
        pairs.map(of_layer).collect()
    }
}

/// Per row, how much the loss falls if the pair merges whose token that may go it is; `gradient`, `[rows,
/// hidden]`, is that of the images' own losses.
fn of_pairs(decision: &Decision, gradient: Tensor<2>) -> Vec<f32> {
    let pairs: Vec<Pair> = matched_pairs(&decision.observation()).concat();
    let mut rewards = vec![0.0; decision.sequences.num_rows()];
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
            rewards[pair.from] = -change;
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
        if self.merging == Merging::Matched {
            let shift = Tensor::<2>::zeros([rows, hidden], &self.device).require_grad();
            self.shifts.borrow_mut().push(shift.clone());
            return Reduction {
                shift: Some(shift),
                ..reduction
            };
        }
        let mask = Tensor::<1>::ones([rows], &self.device).require_grad();
        self.masks.borrow_mut().push(mask.clone());
        Reduction {
            mask: Some(mask),
            ..reduction
        }
    }
}

/// What an agent learns of a reward.
#[derive(Clone, Copy, Debug)]
pub enum Lesson {
    /// Whether it is above a margin, as published.
    Label {
        /// The margin.
        margin: f32,
    },
    /// Its value: its log-odds of staying become the expected loss of a cut, divided by the scale.
    Value {
        /// The scale.
        scale: f32,
    },
    /// How large it is, whichever way it goes: its log-odds of staying become the logarithm of its size,
    /// divided by the scale. Without the label nobody can say whether the loss rises or falls where
    /// the model is calibrated (its expected derivative is zero), but how far the answer moves can be said.
    Size {
        /// The scale.
        scale: f32,
        /// Only by how much it differs from the mean of its image's tokens counts: all that matters where
        /// every image keeps as many.
        within_images: bool,
    },
}

/// Values further off than this many scales teach no more than that.
const MOST: f32 = 5.0;

/// Loss: the agents' opinions of the tokens that stayed are scored by what cutting them would do.
///
/// `agents` are those that learn. Per agent layer, `[1]`.
pub fn losses(
    agents: &PruningAgents,
    rewards: &[(Decision, Vec<f32>)],
    lesson: Lesson,
) -> Vec<Tensor<1>> {
    let of_layer = |(index, (decision, rewards)): (usize, &(Decision, Vec<f32>))| {
        let rows = decision.judged_rows();
        if rows.is_empty() {
            return Tensor::zeros([1], &decision.hidden.device());
        }
        let logits = agents.logits(index, &decision.observation());
        match lesson {
            Lesson::Label { margin } => {
                let labels = rows.iter().map(|&row| usize::from(rewards[row] > margin));
                let labels: Vec<usize> = labels.collect();
                let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
                let rows = Tensor::<1, Int>::from_data(rows.as_slice(), &logits.device());
                cross_entropy(logits.select(0, rows), &labels)
            }
            Lesson::Value { scale } => {
                let worth = rows.iter().map(|&row| -rewards[row] / scale);
                teach(logits, &rows, worth.collect())
            }
            Lesson::Size {
                scale,
                within_images,
            } => {
                let size = |&row: &usize| {
                    let size = (rewards[row].abs() / scale).max(f32::MIN_POSITIVE);
                    size.ln().clamp(-MOST, MOST)
                };
                let mut sizes: Vec<f32> = rows.iter().map(size).collect();
                if within_images {
                    center(&mut sizes, &rows, decision);
                }
                teach(logits, &rows, sizes)
            }
        }
    };
    rewards.iter().enumerate().map(of_layer).collect()
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
mod tests {
    use super::*;
    use apt_pruning_agent::{AgentNetwork, Amount, PolicyConfig, PruningAgentsConfig};
    use apt_vit_model::{ExecutionMode, RunSettings, Vit, VitPreset};
    use burn::nn::LinearConfig;
    use burn::tensor::Distribution;

    use crate::counterfactual::stream_1;

    /// Moves the two tokens of a pair towards their mean by a share of the way.
    struct Moved {
        from: usize,
        into: usize,
        share: f32,
    }

    impl TokenReducer for Moved {
        fn placement(&self, layer: usize) -> Option<Placement> {
            (layer == 1).then_some(Placement::AfterAttention)
        }

        fn reduce(&self, observation: &Observation<'_>) -> Reduction {
            let hidden = &observation.hidden;
            let row = |row: usize| hidden.clone().narrow(0, row, 1);
            let half = (row(self.into) - row(self.from)) * (self.share / 2.0);
            let [rows, width] = hidden.dims();
            let shift = Tensor::<2>::zeros([rows, width], &hidden.device());
            let shift = shift.slice_assign([self.from..self.from + 1, 0..width], half.clone());
            Reduction {
                shift: Some(shift.slice_assign([self.into..self.into + 1, 0..width], -half)),
                ..Reduction::none(observation.sequences)
            }
        }
    }

    #[test]
    fn the_reward_of_a_pair_is_what_the_loss_falls_by_on_the_way_to_its_mean() {
        let plain = Device::default();
        plain.seed(11);
        let device = plain.clone().autodiff();
        let mut config = VitPreset::Tiny32.config();
        config.dropout = 0.0;
        let mut vit: Vit = config.init(&device).unwrap();
        // A fresh head says nothing, whatever the tokens are.
        let head = LinearConfig::new(config.hidden_size, config.num_classes);
        vit.head = head.init(&device);
        let agents = PruningAgentsConfig {
            layers: vec![1],
            network: AgentNetwork::Pair,
            ..Default::default()
        };
        let agents = agents.init(config.hidden_size, config.num_layers, &plain);
        let agents = agents.unwrap();
        let policy = PolicyConfig {
            merge: Merging::Matched,
            ..Default::default()
        };
        // All stay.
        let amount = Amount::Scores { scores: Vec::new() };
        let acting = policy.reducer(&agents, &config, &amount, &[], None);
        let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &plain);
        let targets = [3, 7];
        let probe = Probe::new(&*acting, Merging::Matched, device.clone());
        let pass = stream_1(
            &vit,
            &probe,
            ExecutionMode::Drop,
            images.clone().autodiff(),
            &targets,
        );
        let rewards = probe.rewards(&pass.loss.backward(), 1.0);
        let (decision, rewards) = &rewards[0];
        let pairs = matched_pairs(&decision.observation()).concat();
        assert_eq!(pairs.len(), 64);

        let frozen = vit.valid();
        let loss = |pair: &Pair, share: f32| -> f64 {
            let moved = Moved {
                from: pair.from,
                into: pair.into,
                share,
            };
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&moved),
            };
            let logits = frozen.forward(images.clone(), settings).logits;
            cross_entropy(logits, &targets)
                .into_data()
                .iter::<f64>()
                .sum()
        };
        let largest = rewards
            .iter()
            .fold(0.0f32, |most, reward| most.max(reward.abs()));
        assert!(largest > 1e-4);
        for pair in pairs.iter().step_by(7) {
            // The loss is the mean of two images.
            let found = 2.0 * (loss(pair, -0.05) - loss(pair, 0.05)) / 0.1;
            let expected = f64::from(rewards[pair.from]);
            assert!(
                (found - expected).abs() < 0.02 * f64::from(largest) + 2e-5,
                "{found} against {expected}"
            );
        }
    }
}
