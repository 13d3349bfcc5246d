//! A frozen model learns to read parked tokens: tokens that no block computes any more (see [`Park`](apt_vit_model::Park)).
//!
//! How tokens drift from block to block is a regression over the dense model's own tokens, channel by channel. How well they are
//! heard, and what the drift lacks, is learned by descent: the loss is how far the answers of the pruned model are from its own
//! dense ones.

use apt_inference::Answers;
use apt_pruning_agent::{AnyPolicy, BlockReading, Parking};
use apt_vit_model::{ExecutionMode, RunSettings, Vit};
use burn::module::{Module, ParamId};
use burn::optim::{AdamConfig, GradientsParams};
use burn::prelude::*;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use super::agents::{FrozenModel, practised};
use super::distance::distance;
use crate::TrainerError;
use crate::evaluate::{check_finite, loader};

/// Images that tell how tokens drift; more say the same.
const DRIFTED: usize = 128;
/// Images of a step.
const BATCH: usize = 16;
/// Parked tokens are heard a little less than others at first: they are not quite what they would be.
const HEARD: f32 = -1.0;
/// Peaks of the learning rates; they fall as a cosine.
const BIAS_RATE: f64 = 5e-2;
const DRIFT_RATE: f64 = 1e-3;
/// A channel that hardly varies drifts by a constant.
const LEAST_VARIANCE: f32 = 1e-6;

/// The policy, taught to read what it parks. `go_on` is told the share that is over, and says whether to go on.
///
/// # Errors
///
/// Where an image cannot be read, or the model's answer to it is no number.
pub(super) fn learn_parking(
    frozen: &FrozenModel<'_>,
    mut policy: AnyPolicy,
    seed: u64,
    mut go_on: impl FnMut(f64) -> bool,
) -> Result<AnyPolicy, TrainerError> {
    policy.set_parking(drifts(frozen)?);
    let vit = frozen.model.vit.clone().freeze().train();
    let config = frozen.model.config();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..frozen.images.len()).collect();
    order.shuffle(&mut rng);
    let images = frozen.images.subset(&order);
    let evaluation = frozen.evaluation;
    let (model, workers) = (frozen.model, evaluation.workers);
    let loader = loader(&images, model, evaluation, BATCH, workers, frozen.device);
    let steps = images.len().div_ceil(BATCH).max(1);
    let adam = || AdamConfig::new().init();
    let (mut of_biases, mut of_drifts) = (adam(), adam());
    let mut learning = policy.train();
    for (step, batch) in loader.iter().enumerate() {
        let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
        let dense = frozen
            .packed
            .vit
            .forward(batch.images.clone(), RunSettings::DENSE);
        check_finite(dense.logits.clone(), &batch.indices, &images)?;
        let selection = practised(&learning, config, frozen.targets, &mut rng)?;
        let reducer = learning.reducer(&selection, &[]);
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&*reducer),
        };
        let found = vit.forward(batch.images.autodiff(), settings).logits;
        drop(reducer);
        let loss = distance(dense.logits.autodiff(), found, Answers::of(config));
        let mut gradients = loss.backward();
        let [biases, drifts] = ids(&learning);
        let falls = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let grads = GradientsParams::from_params(&mut gradients, &learning, &biases);
        learning = of_biases.step(BIAS_RATE * falls, learning, grads);
        let grads = GradientsParams::from_params(&mut gradients, &learning, &drifts);
        learning = of_drifts.step(DRIFT_RATE * falls, learning, grads);
        if !go_on((step + 1) as f64 / steps as f64) {
            break;
        }
    }
    Ok(learning.valid())
}

/// The parameters of how tokens are heard, and of how they drift.
fn ids(policy: &AnyPolicy) -> [Vec<ParamId>; 2] {
    let blocks = policy.parking().map_or(&[][..], |parking| &parking.blocks);
    let biases = blocks.iter().map(|block| block.bias.id);
    let drifts = blocks.iter().flat_map(|block| {
        let half = [&block.attention_scale, &block.attention_shift];
        half.into_iter()
            .chain([&block.mlp_scale, &block.mlp_shift])
            .map(|param| param.id)
    });
    [biases.collect(), drifts.collect()]
}

/// How the dense model's tokens drift.
fn drifts(frozen: &FrozenModel<'_>) -> Result<Parking, TrainerError> {
    let vit = &frozen.model.vit;
    let images = frozen.images.take(DRIFTED);
    let evaluation = frozen.evaluation;
    let (model, workers) = (frozen.model, evaluation.workers);
    let loader = loader(&images, model, evaluation, BATCH, workers, frozen.device);
    let mut of_halves: Vec<[Regression; 2]> = Vec::new();
    for batch in loader.iter() {
        let batch = batch.map_err(|error| TrainerError::Pruning(error.to_string()))?;
        watch(vit, batch.images, &mut of_halves);
    }
    let heads = frozen.model.config().num_heads;
    let blocks = of_halves.into_iter().map(|halves| {
        let bias = Tensor::full([heads], HEARD, frozen.device);
        BlockReading::new(bias, halves.map(Regression::solve))
    });
    Ok(Parking {
        blocks: blocks.collect(),
    })
}

/// Adds what becomes of these images' patches in each half of each block.
fn watch(vit: &Vit, images: Tensor<4>, of_halves: &mut Vec<[Regression; 2]>) {
    let batch = vit.embed(images);
    let sequences = batch.sequences;
    let [count, each] = [sequences.batch(), sequences.tokens_per_image()];
    let prefix = sequences.prefix();
    let patches = |tokens: &Tensor<2>| {
        let [_, hidden] = tokens.dims();
        let tokens = tokens.clone().reshape([count, each, hidden]);
        let patches = tokens.narrow(1, prefix, each - prefix);
        patches.reshape([count * (each - prefix), hidden])
    };
    let mut tokens = batch.tokens;
    for (layer, block) in vit.blocks.iter().enumerate() {
        let (attended, _) = block.attend(tokens.clone(), &sequences, None);
        let left = block.feed_forward(attended.clone());
        let [before, between, after] = [&tokens, &attended, &left].map(patches);
        match of_halves.get_mut(layer) {
            Some([attention, mlp]) => {
                attention.add(before, between.clone());
                mlp.add(between, after);
            }
            None => of_halves.push([
                Regression::new(before, between.clone()),
                Regression::new(between, after),
            ]),
        }
        tokens = left;
    }
}

/// Each channel of what comes after, by the same channel of what was before. Sums are over what differs from the first batch's
/// means, so that they stay small.
struct Regression {
    centers: [Tensor<1>; 2],
    sums: [Tensor<1>; 2],
    squares: Tensor<1>,
    products: Tensor<1>,
    rows: usize,
}

impl Regression {
    fn new(before: Tensor<2>, after: Tensor<2>) -> Self {
        let mean = |rows: &Tensor<2>| rows.clone().mean_dim(0).squeeze_dim::<1>(0);
        let centers = [mean(&before), mean(&after)];
        let zeros = centers[0].zeros_like();
        let mut regression = Self {
            centers,
            sums: [zeros.clone(), zeros.clone()],
            squares: zeros.clone(),
            products: zeros,
            rows: 0,
        };
        regression.add(before, after);
        regression
    }

    fn add(&mut self, before: Tensor<2>, after: Tensor<2>) {
        let sum = |rows: Tensor<2>| rows.sum_dim(0).squeeze_dim::<1>(0);
        self.rows += before.dims()[0];
        let before = before - self.centers[0].clone().unsqueeze();
        let after = after - self.centers[1].clone().unsqueeze();
        self.squares = self.squares.clone() + sum(before.clone().square());
        self.products = self.products.clone() + sum(before.clone() * after.clone());
        let [befores, afters] = &self.sums;
        self.sums = [befores.clone() + sum(before), afters.clone() + sum(after)];
    }

    /// What the channels are multiplied by, and what is added to them.
    fn solve(self) -> [Tensor<1>; 2] {
        let rows = self.rows.max(1) as f32;
        let [before, after] = self.sums.map(|sums| sums / rows);
        let variance = self.squares / rows - before.clone().square();
        let covariance = self.products / rows - before.clone() * after.clone();
        let scale = covariance / variance.clamp_min(LEAST_VARIANCE);
        let [before_center, after_center] = self.centers;
        let shift = after + after_center - (before + before_center) * scale.clone();
        [scale, shift]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::host::read;
    use burn::tensor::Distribution;

    #[test]
    fn a_regression_finds_the_line_that_channels_lie_on() {
        let device = Device::default();
        device.seed(1);
        let before = |offset: f64| {
            let rows = Tensor::<2>::random([50, 3], Distribution::Normal(offset, 2.0), &device);
            rows.clone()
        };
        let scale = Tensor::<1>::from_data([0.5f32, 2.0, -1.0], &device);
        let shift = Tensor::<1>::from_data([1.0f32, 0.0, 30.0], &device);
        let after =
            |rows: &Tensor<2>| rows.clone() * scale.clone().unsqueeze() + shift.clone().unsqueeze();
        let [first, second] = [before(5.0), before(-3.0)];
        let mut regression = Regression::new(first.clone(), after(&first));
        regression.add(second.clone(), after(&second));
        let [found, added] = regression.solve().map(read);
        for (found, expected) in found.iter().zip([0.5, 2.0, -1.0]) {
            assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
        }
        for (found, expected) in added.iter().zip([1.0, 0.0, 30.0]) {
            assert!((found - expected).abs() < 1e-2, "{found} for {expected}");
        }
    }
}
