//! DynamicViT (Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
//! 2021): the model's own loss teaches the agents, through decisions that are hard forwards and soft backwards
//! (Gumbel-softmax, section 3.2), and a second loss holds the share of tokens that stay (section 3.4).
//!
//! Two things differ from the paper. The agents' input carries no gradient into the model, as everywhere
//! here. And one training serves several budgets: before a decision, the scores of a batch are shifted by what
//! makes the budget's share stay in the mean.

use std::cell::RefCell;

use apt_pruning_agent::PruningAgents;
use apt_vit_model::{
    ExecutionMode, LayerTrace, Needs, Observation, Placement, Reduction, RunSettings, TokenReducer,
    Vit,
};
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;
use burn::tensor::activation::sigmoid;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::counterfactual::cross_entropy;

/// The weight of the second loss (section 3.4).
const RATIO_WEIGHT: f32 = 2.0;

/// A pass with soft decisions.
pub struct SoftPass {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// Mean cross-entropy against the true classes, `[1]`; its gradient reaches model and agents.
    pub loss: Tensor<1>,
    /// How far the shares that stay are from those wanted, weighed, `[1]`.
    pub ratio_loss: Tensor<1>,
    /// What was decided; nothing was removed.
    pub trace: Vec<LayerTrace>,
}

/// Runs model and agents, both of which learn.
///
/// `kept` is how many patches are to stay after each agent layer; `seeds` has one entry for each image.
pub fn soft_pass(
    vit: &Vit,
    agents: &PruningAgents,
    kept: &[usize],
    images: Tensor<4>,
    targets: &[usize],
    seeds: &[u64],
    temperature: f32,
) -> SoftPass {
    let reducer = SoftReducer {
        agents,
        kept,
        seeds,
        temperature,
        staying: RefCell::default(),
        ratio_losses: RefCell::default(),
    };
    // Nobody is hidden or dropped: the mask alone says who is attended to.
    let output = vit.forward(
        images,
        RunSettings {
            mode: ExecutionMode::Mask,
            reducer: Some(&reducer),
        },
    );
    let losses = reducer.ratio_losses.into_inner();
    let count = losses.len().max(1) as f32;
    let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
    let none = || Tensor::zeros([1], &output.logits.device());
    SoftPass {
        loss: cross_entropy(output.logits.clone(), targets),
        ratio_loss: sum.map_or_else(none, |sum| sum * (RATIO_WEIGHT / count)),
        logits: output.logits,
        trace: output.trace,
    }
}

struct SoftReducer<'a> {
    agents: &'a PruningAgents,
    kept: &'a [usize],
    seeds: &'a [u64],
    temperature: f32,
    /// Per row: is it still there?
    staying: RefCell<Option<Vec<bool>>>,
    ratio_losses: RefCell<Vec<Tensor<1>>>,
}

impl TokenReducer for SoftReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.agents.index_of(layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.agents.needs(layer)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let wanted = self.agents.index_of(observation.layer);
        let Some((index, &kept)) = wanted.and_then(|index| Some((index, self.kept.get(index)?)))
        else {
            return Reduction::none(sequences);
        };
        let (rows, tokens, prefix) = (
            sequences.num_rows(),
            sequences.tokens_per_image(),
            sequences.prefix(),
        );
        let device = observation.hidden.device();
        let logits = self.agents.logits(index, observation);
        let scores = logits.clone().narrow(1, 0, 1) - logits.clone().narrow(1, 1, 1);
        let scores: Tensor<1> = scores.flatten(0, 1);
        let values: Vec<f32> = scores.to_data().iter::<f32>().collect();

        let mut staying = self.staying.borrow_mut();
        let before = staying.take().unwrap_or_else(|| vec![true; rows]);
        let is_patch = |row: usize| row % tokens >= prefix;
        let asked: Vec<usize> = (0..rows)
            .filter(|&row| is_patch(row) && before[row])
            .collect();
        let of_asked: Vec<f32> = asked.iter().map(|&row| values[row]).collect();
        let shift = shift_for(&of_asked, kept * sequences.batch());

        // Hard forwards, soft backwards; the noise is the difference of two of Gumbel's.
        let mut noise = vec![0.0f32; rows];
        for slot in 0..sequences.batch() {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seeds[sequences.image(slot)]);
            rng.set_stream(observation.layer as u64);
            for value in &mut noise[slot * tokens..(slot + 1) * tokens] {
                let uniform = rng.random_range(1e-6..1.0f32 - 1e-6);
                *value = (uniform / (1.0 - uniform)).ln() + shift;
            }
        }
        let noise = Tensor::<1>::from_data(noise.as_slice(), &device);
        let soft = sigmoid((scores + noise) / self.temperature);
        let hard = soft.clone().without_autodiff().greater_elem(0.5).float();
        let decided = soft.clone() + (hard.clone() - soft.without_autodiff());
        let asked_mask: Vec<f32> = (0..rows)
            .map(|row| f32::from(u8::from(is_patch(row) && before[row])))
            .collect();
        let asked_mask = Tensor::<1>::from_data(asked_mask.as_slice(), &device);
        // CLS stays, and what is gone is gone by the mask of before.
        let mask = decided.clone() * asked_mask.clone() + (asked_mask.clone() * -1.0 + 1.0);

        let images = sequences.batch();
        let slots: Vec<i64> = (0..rows).map(|row| (row / tokens) as i64).collect();
        let slots = Tensor::<1, Int>::from_data(slots.as_slice(), &device);
        let zeros = Tensor::<1>::zeros([images], &device);
        let counts = zeros.select_assign(0, slots, decided * asked_mask, IndexingUpdateOp::Add);
        let patches = tokens - prefix;
        let shares = counts / patches as f32;
        let ratio = kept as f32 / patches as f32;
        self.ratio_losses
            .borrow_mut()
            .push((shares - ratio).square().mean());

        let hard: Vec<f32> = hard.into_data().iter::<f32>().collect();
        let after = before.iter().enumerate();
        let after = after.map(|(row, &before)| before && (!is_patch(row) || hard[row] > 0.5));
        *staying = Some(after.collect());
        Reduction {
            mask: Some(mask),
            logits: Some(logits),
            ..Reduction::none(sequences)
        }
    }
}

/// What has to be added to all scores so that their probabilities of staying sum to `count`.
fn shift_for(scores: &[f32], count: usize) -> f32 {
    let expected = |shift: f32| -> f32 {
        let stays = |&score: &f32| 1.0 / (1.0 + (-(score + shift)).exp());
        scores.iter().map(stays).sum()
    };
    let (mut low, mut high) = (-30.0f32, 30.0f32);
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        match expected(middle) < count as f32 {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_makes_as_many_stay_in_the_mean_as_are_wanted() {
        let scores = [-2.0, 0.3, 1.0, 4.0];
        let shift = shift_for(&scores, 2);
        let expected: f32 = scores
            .iter()
            .map(|score| 1.0 / (1.0 + (-(score + shift)).exp()))
            .sum();
        assert!((expected - 2.0).abs() < 1e-3, "{expected}");
    }
}
