//! What cutting each token would do, to first order, for all tokens from one backward pass.
//!
//! Attention weighs each token as a key by a mask that is 1 (see
//! [`TokenBatch::key_mask`](apt_vit_model::TokenBatch::key_mask)). The derivative of the loss by it says what
//! taking the token away from all later attention would change: the reward of that cut, to first order. The
//! pass is stream 1's own, so that the agents learn from what happens where they have acted, at no further
//! cost. (The idea is that of Taylor pruning: Molchanov et al., "Pruning Convolutional Neural Networks
//! for Resource Efficient Inference", 2017.)

use std::cell::RefCell;

use apt_pruning_agent::{PruningAgents, likest_kept};
use apt_vit_model::{Needs, Observation, Placement, Reduction, TokenReducer};
use burn::prelude::*;
use burn::tensor::Gradients;

use crate::counterfactual::cross_entropy;
use crate::policy_gradient::rows_of;
use crate::record::{Decision, Recorder};

/// A reducer whose decisions are remembered, with a mask on each token it saw.
pub struct Probe<'a> {
    recorder: Recorder<'a>,
    device: Device,
    masks: RefCell<Vec<Tensor<1>>>,
}

impl<'a> Probe<'a> {
    /// `device` has autodiff.
    pub fn new(reducer: &'a dyn TokenReducer, device: Device) -> Self {
        Self {
            recorder: Recorder::new(reducer),
            device,
            masks: RefCell::default(),
        }
    }

    /// What was decided, and what each decision's rewards are: per agent layer, per row, how much the image's
    /// loss falls if the token is cut there. A token that was removed has 0. Where removed tokens `merge`, the
    /// token's weight goes to the likest one that stays: the reward of that is the one's less the other's.
    ///
    /// `gradients` are those of the images' mean loss times `scale`.
    pub fn rewards(
        self,
        gradients: &Gradients,
        scale: f32,
        merge: bool,
    ) -> Vec<(Decision, Vec<f32>)> {
        let masks = self.masks.into_inner();
        let decisions = self.recorder.into_decisions();
        let pairs = decisions.into_iter().zip(masks);
        let of_layer = |(decision, mask): (Decision, Tensor<1>)| {
            let images = decision.sequences.batch() as f32;
            let rewards: Vec<f32> = match mask.grad(gradients) {
                Some(gradient) => (gradient * (images / scale))
                    .into_data()
                    .iter::<f32>()
                    .collect(),
                None => vec![0.0; decision.sequences.num_rows()],
            };
            if !merge {
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

impl TokenReducer for Probe<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.recorder.placement(layer)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.recorder.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let rows = observation.sequences.num_rows();
        let mask = Tensor::<1>::ones([rows], &self.device).require_grad();
        self.masks.borrow_mut().push(mask.clone());
        Reduction {
            mask: Some(mask),
            ..self.recorder.reduce(observation)
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
    /// How large it is: its log-odds of staying become the expected loss of a cut, divided by the scale.
    Value {
        /// The scale.
        scale: f32,
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
        let kept = decision.patch_rows().into_iter();
        let rows: Vec<usize> = kept.filter(|&row| decision.keep[row]).collect();
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
                let scores = logits.clone().narrow(1, 0, 1) - logits.narrow(1, 1, 1);
                let scores = rows_of(scores, &rows);
                let worth = |&row: &usize| (-rewards[row] / scale).clamp(-MOST, MOST);
                let worth: Vec<f32> = rows.iter().map(worth).collect();
                let worth = Tensor::<1>::from_data(worth.as_slice(), &scores.device());
                (scores - worth).square().mean()
            }
        }
    };
    rewards.iter().enumerate().map(of_layer).collect()
}
