//! A distillation token is never removed, and mask and drop agree beside it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use apt_vit_model::{
    Distillation, ExecutionMode, ImageSize, Observation, Placement, Reduction, RunSettings,
    TokenReducer, VitConfig,
};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};

/// Wants every so-many-th token removed, counted over images and positions.
struct Greedy(usize);

impl TokenReducer for Greedy {
    fn placement(&self, layer: usize) -> Option<Placement> {
        match layer {
            0 => Some(Placement::AfterAttention),
            1 => Some(Placement::AfterBlock),
            _ => None,
        }
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let keep = (0..sequences.batch()).flat_map(|slot| {
            let numbers = sequences.positions(slot).iter();
            let image = sequences.image(slot);
            numbers
                .map(move |position| !(image + position + observation.layer).is_multiple_of(self.0))
        });
        Reduction::keep(keep.collect())
    }
}

#[test]
fn both_tokens_stay_and_both_heads_speak() {
    let device = Device::default();
    let config = VitConfig {
        image_size: ImageSize {
            height: 8,
            width: 12,
        },
        patch_size: 4,
        hidden_size: 16,
        num_layers: 3,
        num_heads: 2,
        mlp_dim: 32,
        num_classes: 3,
        distillation: Some(Distillation::TokenAndHead),
        ..VitConfig::default()
    };
    let mut vit = config.init(&device).unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    let random = |weight: Tensor<2>| weight.random_like(normal);
    vit = vit.map_head(random);
    let images = Tensor::random([4, 3, 8, 12], normal, &device);
    let dense = vit.forward(images.clone(), RunSettings::DENSE).logits;
    for step in [1, 3] {
        let run = |mode| {
            let reducer: &dyn TokenReducer = &Greedy(step);
            let settings = RunSettings {
                mode,
                reducer: Some(reducer),
            };
            vit.forward(images.clone(), settings)
        };
        let (masked, dropped) = (run(ExecutionMode::Mask), run(ExecutionMode::Drop));
        for entry in &dropped.trace {
            assert!(entry.kept.read().iter().all(|kept| kept[0] && kept[1]));
            assert!(step > 1 || entry.left == [2; 4]);
        }
        let masked = masked.logits.into_data();
        dropped
            .logits
            .into_data()
            .assert_approx_eq(&masked, Tolerance::<f32>::rel_abs(1e-4, 1e-4));
    }
    // The second head's part, which was zero, changes the logits by half of what it says.
    let head = vit.distillation_head.as_mut().unwrap();
    head.bias = head.bias.take().map(|bias| bias.map(|bias| bias + 2.0));
    let shifted = vit.forward(images, RunSettings::DENSE).logits;
    let difference = (shifted - dense - 1.0).abs().max().into_data();
    assert!(difference.iter::<f32>().all(|value| value < 1e-5));
}
