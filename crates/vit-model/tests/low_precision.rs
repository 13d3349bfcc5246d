//! Prepacked models in short floats and in integers answer as they do in 32-bit floats, pruned or not.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use apt_vit_model::{
    ExecutionMode, ImageSize, Merge, Needs, Observation, Placement, Precision, Reduction,
    RunSettings, TokenReducer, Vit, VitConfig, VitPreset,
};
use burn::tensor::{Device, Distribution, Tensor};

use common::alone;

/// The short precisions of this device; says by name which are computed in 32-bit floats or not at all.
fn precisions(device: &Device) -> Vec<Precision> {
    let all = [Precision::Bf16, Precision::Int8].into_iter();
    let (short, others): (Vec<_>, Vec<_>) = all.partition(|precision| {
        precision.is_supported(device) && precision.instructions().is_some()
    });
    for precision in others {
        eprintln!("skipped: {} has no kernels here", precision.name());
    }
    short
}

/// How far logits of size 1 may be off.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Bf16 => 0.04,
        _ => 0.1,
    }
}

/// A model of two heads, 64 wide, whose logits are of size 1; an odd number of patches.
fn model(device: &Device) -> Vit {
    let config = VitConfig {
        image_size: ImageSize::square(40),
        patch_size: 8,
        hidden_size: 128,
        num_layers: 4,
        num_heads: 2,
        mlp_dim: 512,
        num_classes: 10,
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    let vit = config.init(device).unwrap();
    let normal = Distribution::Normal(0.0, 0.09);
    vit.map_head(|weight| Tensor::random(weight.shape(), normal, device))
}

fn images(count: usize, device: &Device) -> Tensor<4> {
    Tensor::random([count, 3, 40, 40], Distribution::Normal(0.0, 1.0), device)
}

fn logits(vit: &Vit, images: &Tensor<4>, settings: RunSettings<'_>) -> Vec<f32> {
    let output = vit.forward(images.clone(), settings);
    output.logits.into_data().iter::<f32>().collect()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let pairs = found.iter().zip(expected);
    let worst = pairs.fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst <= tolerance, "{what}: off by {worst}");
    assert!(found.iter().all(|value| value.is_finite()));
}

/// Removes patches by their number and image; the last image keeps CLS alone after the third block.
struct Removes {
    merges: bool,
}

impl TokenReducer for Removes {
    fn placement(&self, layer: usize) -> Option<Placement> {
        match layer {
            0 => Some(Placement::AfterAttention),
            2 => Some(Placement::AfterBlock),
            _ => None,
        }
    }

    fn needs(&self, _: usize) -> Needs {
        Needs {
            cls_attention: true,
            keys: true,
        }
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let weights = observation.cls_attention.as_ref().unwrap();
        assert!(observation.keys.is_some() && weights.iter().all(|weight| weight.is_finite()));
        let last = sequences.batch() - 1;
        let mut keep = Vec::new();
        let mut into = Vec::new();
        for slot in 0..sequences.batch() {
            let image = sequences.image(slot);
            let first = keep.len();
            for &position in sequences.positions(slot) {
                let stays = match (observation.layer, image == last) {
                    (2, true) => false,
                    (layer, _) => (position + layer) % (image + 2) != 1,
                };
                let seen = sequences.visible()[keep.len()];
                let goes = self.merges && seen && position != 0 && !stays;
                keep.push(position == 0 || stays);
                into.push(if goes { first } else { keep.len() - 1 });
            }
        }
        let weights = vec![1.0; keep.len()];
        Reduction {
            merge: self.merges.then_some(Merge {
                into,
                weights,
                proportion: Some(1.0),
            }),
            ..Reduction::keep(keep)
        }
    }
}

#[test]
fn short_models_answer_as_long_ones_do() {
    let _alone = alone();
    let device = Device::default();
    device.seed(7);
    let vit = model(&device);
    for batch in [1, 5, 40] {
        let images = images(batch, &device);
        let expected = logits(&vit.clone().prepack(), &images, RunSettings::DENSE);
        let size = expected.iter().map(|value| value.abs()).sum::<f32>() / expected.len() as f32;
        assert!(size > 0.3, "logits of size {size}");
        for precision in precisions(&device) {
            let short = vit.clone().with_precision(precision).prepack();
            let found = logits(&short, &images, RunSettings::DENSE);
            assert_near(&found, &expected, tolerance(precision), precision.name());
            assert_ne!(found, expected, "{} is not used", precision.name());
        }
    }
}

#[test]
fn mask_and_drop_give_the_same_logits() {
    let _alone = alone();
    let device = Device::default();
    device.seed(8);
    let vit = model(&device);
    let images = images(5, &device);
    for precision in precisions(&device) {
        let short = vit.clone().with_precision(precision).prepack();
        for merges in [false, true] {
            let reducer = Removes { merges };
            let [masked, dropped] = [ExecutionMode::Mask, ExecutionMode::Drop].map(|mode| {
                let reducer = Some(&reducer as &dyn TokenReducer);
                logits(&short, &images, RunSettings { mode, reducer })
            });
            // Removed keys leave the sums in which attention's values are added up in another order; a difference in the
            // last bit may then be rounded or quantised to the next step.
            let tolerance = match precision {
                Precision::Bf16 => 0.02,
                precision => tolerance(precision),
            };
            assert_near(&dropped, &masked, tolerance, precision.name());
        }
    }
}

#[test]
fn uniform_passes_answer_as_packed_ones_do() {
    let _alone = alone();
    let device = Device::default();
    device.seed(9);
    let vit = model(&device);
    let images = images(3, &device);
    for precision in precisions(&device) {
        let short = vit.clone().with_precision(precision).prepack();
        let packed = logits(&short, &images, RunSettings::DENSE);
        let uniform = short.forward_uniformly(images.clone(), RunSettings::DENSE);
        let uniform: Vec<f32> = uniform.unwrap().logits.into_data().iter::<f32>().collect();
        assert_near(&uniform, &packed, 1e-5, precision.name());
    }
}

#[test]
fn an_image_gets_the_same_answer_in_any_batch() {
    let _alone = alone();
    let device = Device::default();
    device.seed(10);
    let vit = model(&device);
    let images = images(40, &device);
    for precision in precisions(&device) {
        let short = vit.clone().with_precision(precision).prepack();
        let together = logits(&short, &images, RunSettings::DENSE);
        for image in [0, 17, 39] {
            let alone = images.clone().narrow(0, image, 1);
            let alone = logits(&short, &alone, RunSettings::DENSE);
            // Norm, products, attention: each row's values do not depend on the rows beside it. The head's may.
            assert_near(
                &alone,
                &together[image * 10..][..10],
                1e-5,
                precision.name(),
            );
        }
    }
}

#[test]
fn shapes_without_kernels_run_in_long_floats() {
    let _alone = alone();
    let device = Device::default();
    device.seed(11);
    // Heads that are 5 wide.
    let config = VitConfig {
        hidden_size: 20,
        num_heads: 4,
        mlp_dim: 40,
        ..VitPreset::Tiny32.config()
    };
    let vit = config.init(&device).unwrap();
    let images = Tensor::<4>::random([2, 3, 32, 32], Distribution::Default, &device);
    for precision in precisions(&device) {
        let features = |vit: &Vit| {
            let output = vit.forward(images.clone(), RunSettings::DENSE);
            let features = output.features.into_data();
            features.iter::<f32>().collect::<Vec<_>>()
        };
        let short = features(&vit.clone().with_precision(precision).prepack());
        assert_near(&short, &features(&vit), 0.1, precision.name());
    }
}
