//! Gates learn by reinforcement. The answers of all schedules are known, so that the expected reward of a policy is a sum
//! over the tree, and its gradient is exact: no schedule has to be sampled.

use apt_pruning_agent::Gates;
use apt_vit_model::host::upload;
use burn::module::ParamId;
use burn::prelude::*;
use burn::tensor::activation::log_softmax;

use super::classroom::{Practice, Teaching};

/// How decided the policy is, in 1 / share of the dense FLOPs: at first, and in the end.
const DECIDED: [f64; 2] = [15.0, 55.0];
/// What a nat of entropy is worth at first, as a share of the dense FLOPs; in the end nothing.
const ENTROPY: f64 = 0.003;

/// Minus the expected reward. Observation: the features of each node, as a forecast of divergences. Action: at each decision
/// point, how much merges until the next. Reward: minus divergence minus price times FLOPs, divided by the price, so that all
/// prices count alike.
///
/// What learns is the tables of what is usual, by which forecasts become decisions: they are few numbers, so that some
/// hundreds of images do not suffice to learn these by heart.
pub(crate) struct ExpectedReward;

impl Teaching for ExpectedReward {
    fn learners(&self, gates: &Gates) -> Vec<ParamId> {
        gates.gates.iter().map(|gate| gate.usual.id).collect()
    }

    fn loss(&self, gates: &Gates, practice: &Practice) -> Tensor<1> {
        let [images, schedules] = practice.distances.dims();
        let device = practice.distances.device();
        let shares = gates.shares().iter().map(|&share| share as f32);
        let shares: Tensor<2> = upload(shares.collect(), [1, schedules], &device);
        let decided = DECIDED[0] + (DECIDED[1] - DECIDED[0]) * practice.progress;
        // As Gates::told_price.
        let told = practice.price.clone().log();
        let told = told.mul_scalar(Gates::told_price(std::f64::consts::E));

        // Probabilities of the nodes that were passed, and in the end of the schedules.
        let mut passed: Tensor<2> = Tensor::ones([images, 1], &device);
        let points = gates.gates.iter().zip(gates.tree().points());
        for ((gate, point), unusual) in points.zip(&practice.unusual) {
            let [nodes, below] = gate.sizes();
            let foreseen = unusual.clone() + gate.usual_at(told.clone());
            let costs = foreseen.exp() / practice.price.clone() + shares.clone();
            // A choice is as probable as all schedules together that begin with it.
            let (rows, choices) = (images * nodes, point.merges.len());
            let logits = costs.mul_scalar(-decided);
            let logits = log_sum_exp(logits.reshape([rows * choices, below / choices]));
            let chosen = log_softmax(logits.reshape([rows, choices]), 1).exp();
            let before = passed.reshape([rows, 1]).repeat_dim(1, choices);
            passed = (before * chosen).reshape([images, nodes * choices]);
        }
        let cost = practice.distances.clone() / practice.price.clone() + shares;
        let expected = (passed.clone() * cost).sum_dim(1).mean();
        let entropy = passed.clone() * (passed + 1e-9).log();
        let entropy = entropy.sum_dim(1).mean().neg();
        expected - entropy.mul_scalar(ENTROPY * (1.0 - practice.progress))
    }
}

/// Row by row, `[rows, values]` to `[rows, 1]`.
fn log_sum_exp(values: Tensor<2>) -> Tensor<2> {
    let most = values.clone().without_autodiff().max_dim(1).autodiff();
    (values - most.clone()).exp().sum_dim(1).log() + most
}
