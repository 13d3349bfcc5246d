//! Dropout in training. Alone in its file: the backend's random numbers are the process's.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use apt_vit_model::{RunSettings, VitConfig, VitPreset};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};

#[test]
fn the_same_seed_drops_the_same_in_training() {
    let device = Device::default().autodiff();
    let config = VitConfig {
        dropout: 0.3,
        ..VitPreset::Tiny32.config()
    };
    let vit = config.init(&device).unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    let vit = vit.map_head(|weight| weight.random_like(normal).require_grad());
    let images = Tensor::<4>::random([2, 3, 32, 32], normal, &device);
    let logits = |seed| {
        device.seed(seed);
        vit.forward(images.clone(), RunSettings::DENSE)
            .logits
            .into_data()
    };
    logits(0); // weights are drawn when they are first used
    assert_eq!(logits(1), logits(1));
    assert_ne!(logits(1), logits(2));
    let valid = vit
        .valid()
        .forward(images.clone().inner(), RunSettings::DENSE)
        .logits
        .into_data();
    assert_ne!(logits(1), valid, "dropout acts in training alone");
}
