//! Gates are taught to foresee: regression of the logarithm of each schedule's divergence.

use apt_pruning_agent::Gates;
use burn::module::ParamId;
use burn::prelude::*;

use super::classroom::{LEAST, Practice, Teaching};

/// The mean squared error of the logarithms, summed over the decision points.
pub(crate) struct Foresight;

impl Teaching for Foresight {
    fn learners(&self, gates: &Gates) -> Vec<ParamId> {
        let gates = gates.gates.iter();
        let learners = gates.map(|gate| {
            let linears = [&gate.input, &gate.output];
            let weights = linears.map(|linear| linear.weight.id).into_iter();
            let biases = linears.map(|linear| linear.bias.as_ref().map(|bias| bias.id));
            weights.chain(biases.into_iter().flatten()).collect()
        });
        learners.collect::<Vec<Vec<ParamId>>>().concat()
    }

    fn loss(&self, gates: &Gates, practice: &Practice) -> Tensor<1> {
        let truth = (practice.distances.clone() + LEAST).log();
        let points = gates.gates.iter().zip(&practice.standard);
        let losses = points.map(|(gate, standard)| {
            let [nodes, below] = gate.sizes();
            let [images, _] = truth.dims();
            let truth = truth.clone().reshape([images * nodes, below]);
            // A forecast does not depend on the price.
            let error = gate.foresee(standard.clone(), 0.0) - truth;
            (error.clone() * error).mean()
        });
        let losses: Vec<Tensor<1>> = losses.collect();
        Tensor::cat(losses, 0).sum()
    }
}
