//! Dropping a token gives the numbers that masking it gives, and the gradients.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

#[path = "common/mod.rs"]
mod common;

use apt_vit_model::{
    ExecutionMode, ImageSize, Observation, Placement, Reduction, RunSettings, TokenReducer, Vit,
    VitConfig,
};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Distribution, Gradients, Tensor, TensorData, Tolerance};
use proptest::prelude::*;

/// Removes what a fixed pattern says: for each layer, placement and token position of each image.
#[derive(Clone, Debug)]
struct Pattern {
    placements: Vec<Option<Placement>>,
    /// Per layer, per image: a bit for each position.
    removed: Vec<Vec<u64>>,
}

impl TokenReducer for Pattern {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.placements[layer]
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let slots = (0..sequences.batch()).flat_map(|slot| {
            let removed = self.removed[observation.layer][sequences.image(slot)];
            let positions = sequences.positions(slot).iter();
            positions.map(move |position| removed >> position & 1 == 0)
        });
        Reduction::keep(slots.collect())
    }
}

/// The gradients of all parameters, in their order.
struct Collect<'a> {
    gradients: &'a Gradients,
    found: Vec<TensorData>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .push(param.val().grad(self.gradients).unwrap().into_data());
    }
}

/// To double precision.
struct Double;

impl ModuleMapper for Double {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| Tensor::from_inner(tensor.inner().cast(DType::F64)).require_grad())
    }
}

/// Logits, and the gradients of a loss that weighs each of them otherwise.
fn run(vit: &Vit, images: &Tensor<4>, mode: ExecutionMode, reducer: &Pattern) -> Vec<TensorData> {
    let settings = RunSettings {
        mode,
        reducer: Some(reducer),
    };
    let logits = vit.forward(images.clone(), settings).logits;
    let [images, classes] = logits.dims();
    let weights: Vec<f32> = (0..images * classes)
        .map(|i| (i as f32 * 1.7).sin())
        .collect();
    let weights = TensorData::new(weights, [images, classes]);
    let weights = Tensor::<2>::from_data(weights, &logits.device()).cast(logits.dtype());
    let loss = (logits.clone() * weights).sum();
    let gradients = loss.backward();
    let mut collect = Collect {
        gradients: &gradients,
        found: vec![logits.into_data()],
    };
    vit.visit(&mut collect);
    collect.found
}

fn cases() -> impl Strategy<Value = (VitConfig, usize, Pattern)> {
    (1usize..4, 1usize..4, 1usize..5, 1usize..9, 1usize..4).prop_flat_map(
        |(layers, heads, grid, width, batch)| {
            let config = VitConfig {
                image_size: ImageSize::square(2 * grid),
                patch_size: 2,
                hidden_size: heads * width,
                num_layers: layers,
                num_heads: heads,
                mlp_dim: 2 * width + 3,
                num_classes: 3,
                dropout: 0.0,
                ..VitConfig::default()
            };
            let placement = prop_oneof![
                Just(None),
                Just(Some(Placement::AfterAttention)),
                Just(Some(Placement::AfterBlock)),
            ];
            // Nothing, a random half, or everything but CLS.
            let removed = prop_oneof![Just(0), any::<u64>(), Just(u64::MAX)];
            let removed = prop::collection::vec(prop::collection::vec(removed, batch), layers);
            let pattern = (prop::collection::vec(placement, layers), removed).prop_map(
                |(placements, removed)| Pattern {
                    placements,
                    removed,
                },
            );
            (Just(config), Just(batch), pattern)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mask_and_drop_give_the_same_logits_and_gradients(
        (config, batch, pattern) in cases(),
        seed: u64,
    ) {
        let device = common::device().autodiff();
        device.seed(seed);
        let vit = config.init(&device).unwrap();
        // The head starts at zero, and would let no gradient through.
        let normal = Distribution::Normal(0.0, 1.0);
        let vit = vit.map_head(|weight| weight.random_like(normal).require_grad());
        let size = config.image_size.height;
        let images = Tensor::random([batch, 3, size, size], normal, &device);
        let masked = run(&vit, &images, ExecutionMode::Mask, &pattern);
        let dropped = run(&vit, &images, ExecutionMode::Drop, &pattern);
        for (masked, dropped) in masked.iter().zip(&dropped) {
            dropped.assert_approx_eq(masked, Tolerance::<f32>::rel_abs(1e-4, 1e-4));
        }
        let (vit, images) = (vit.map(&mut Double), images.cast(DType::F64));
        let exact = run(&vit, &images, ExecutionMode::Mask, &pattern);
        let exactly_dropped = run(&vit, &images, ExecutionMode::Drop, &pattern);
        for (dropped, masked) in exactly_dropped.iter().zip(&exact) {
            dropped.assert_approx_eq(masked, Tolerance::<f64>::rel_abs(1e-8, 1e-8));
        }
    }
}
