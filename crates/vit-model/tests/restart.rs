//! Images that start over: they are answered as if nothing had been removed, in every mode, in batches and in parts.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use apt_vit_model::{
    ExecutionMode, Observation, Placement, Reduction, RunSettings, TokenReducer, Vit, VitConfig,
    VitOutput, VitPreset, block_flops, vit_flops,
};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{Distribution, Tolerance};

/// Every image loses half of its patches after block 1, and each third one starts over after block `over`.
struct Doubts {
    over: usize,
}

impl Doubts {
    fn restarts(image: usize) -> bool {
        image.is_multiple_of(3)
    }
}

impl TokenReducer for Doubts {
    fn placement(&self, layer: usize) -> Option<Placement> {
        (layer == 1 || layer == self.over).then_some(Placement::AfterBlock)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let slots = 0..sequences.batch();
        let positions = slots.clone().flat_map(|slot| sequences.positions(slot));
        let keep = positions.map(|position| observation.layer != 1 || position.is_multiple_of(2));
        let doubted =
            |slot: &usize| observation.layer == self.over && Self::restarts(sequences.image(*slot));
        Reduction {
            restart: slots.filter(doubted).collect(),
            ..Reduction::keep(keep.collect())
        }
    }
}

fn model(batch: usize) -> (Vit, VitConfig, Tensor<4>) {
    let device = Device::default();
    device.seed(5);
    let mut config = VitPreset::Tiny32.config();
    config.dropout = 0.0;
    let vit = config.init(&device).unwrap();
    let vit = vit.map_head(|weight| weight.random_like(Distribution::Normal(0.0, 1.0)));
    let images = Tensor::random([batch, 3, 32, 32], Distribution::Default, &device);
    (vit, config, images)
}

fn run(vit: &Vit, images: &Tensor<4>, mode: ExecutionMode, over: usize) -> VitOutput {
    let settings = RunSettings {
        mode,
        reducer: Some(&Doubts { over }),
    };
    vit.forward(images.clone(), settings)
}

fn near(a: Tensor<2>, b: Tensor<2>) {
    let tolerance = Tolerance::<f32>::absolute(1e-4);
    a.into_data().assert_approx_eq(&b.into_data(), tolerance);
}

/// 40 images run in parts on the CPU.
#[test]
fn who_starts_over_is_answered_as_the_dense_model_answers_and_others_are_not() {
    for batch in [1, 7, 40] {
        let (vit, _, images) = model(batch);
        let dense = vit.forward(images.clone(), RunSettings::DENSE).logits;
        for over in [1, 3, 5] {
            let found = run(&vit, &images, ExecutionMode::Drop, over).logits;
            let masked = run(&vit, &images, ExecutionMode::Mask, over).logits;
            near(found.clone(), masked);
            for image in 0..batch {
                let [found, dense] = [&found, &dense].map(|all| all.clone().narrow(0, image, 1));
                if Doubts::restarts(image) {
                    near(found, dense);
                } else {
                    let apart: f32 = (found - dense).abs().max().into_scalar();
                    assert!(apart > 1e-3, "image {image} is answered as if nothing went");
                }
            }
        }
    }
}

#[test]
fn both_passes_count_and_the_first_ends_where_an_image_starts_over() {
    let (vit, config, images) = model(4);
    let trace = run(&vit, &images, ExecutionMode::Drop, 3).trace;
    let (all, half) = (config.num_tokens(), config.num_tokens().div_ceil(2));
    let first: u64 = [all, all, half, half]
        .map(|tokens| block_flops(&config, tokens, tokens))
        .iter()
        .sum();
    assert_eq!(trace[1].restarted, [true, false, false, true]);
    assert_eq!(trace[1].left, [0, half, half, 0]);
    assert_eq!(
        vit_flops(&config, &trace, 0),
        vit_flops(&config, &[], 0) + first
    );
    assert!(vit_flops(&config, &trace, 1) < vit_flops(&config, &[], 0));
}

#[test]
fn gradients_reach_the_model_through_the_second_pass() {
    let (vit, _, images) = model(2);
    let vit = vit.train();
    let logits = run(&vit, &images.autodiff(), ExecutionMode::Drop, 5).logits;
    let grads = logits.narrow(0, 0, 1).square().sum().backward();
    let weight = &vit.blocks[0].attention.qkv.weight;
    let reached: f32 = weight.grad(&grads).unwrap().abs().max().into_scalar();
    assert!(reached > 0.0);
}
