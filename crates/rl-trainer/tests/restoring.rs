//! Agents learn on a frozen model, without labels, which patches do not belong to an image.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_data::{CorruptionKind, ImageDataset, PatchCorruption, RgbImage};
use apt_inference::PruningVit;
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_rl_trainer::evaluate_each;
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::prelude::*;
use burn::tensor::Distribution;

use common::{alone, evaluation};

/// Dark images, each with a texture of its own: noise is brighter, so that a model which nobody taught is misled by it, too.
fn dark_images(count: usize, first: usize) -> ImageDataset {
    let image = |number: usize| {
        let pixels = 0..32 * 32 * 3;
        let pixels = pixels.map(|place| ((place * (7 + number % 5) + number * 29) % 40) as u8);
        let image = RgbImage {
            width: 32,
            height: 32,
            pixels: pixels.collect(),
        };
        (image, 0)
    };
    let images = (first..first + count).map(image).collect();
    ImageDataset::from_images(vec!["dark".into()], images).unwrap()
}

#[test]
fn corrupted_patches_go_first_and_answers_come_nearer_to_those_before() {
    let _alone = alone();
    let device = Device::default();
    let config = VitConfig {
        image_size: ImageSize::square(32),
        patch_size: 4,
        hidden_size: 48,
        num_layers: 4,
        num_heads: 2,
        mlp_dim: 96,
        num_classes: 5,
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    device.seed(3);
    let filter = PolicyConfig::named("filter").unwrap();
    let mut model = PruningVit::init(&config, &filter, &device).unwrap();
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    let (train, test) = (dark_images(128, 0), dark_images(64, 1000));
    let noise = PatchCorruption {
        kind: CorruptionKind::Noise,
        share: 0.25,
        seed: 1,
    };
    let evaluation = evaluation();
    let learning = AgentSettings {
        epochs: 24,
        ..Default::default()
    };
    let clean = FrozenModel {
        model: &model,
        packed: &model.clone().prepack(),
        images: &train,
        evaluation: &evaluation,
        targets: &[0.8],
        device: &device,
    };
    let error = learn_on_frozen(&clean, &filter, &learning, |_| true).unwrap_err();
    assert!(error.to_string().contains("as they were"), "{error}");
    let corrupted = train.corrupted(noise, config.grid());
    let frozen = FrozenModel {
        images: &corrupted,
        ..clean
    };
    let policy = learn_on_frozen(&frozen, &filter, &learning, |_| true).unwrap();

    let model = PruningVit::new(model.vit.clone(), policy, config.clone());
    let patches = config.num_patches();
    let kept = vec![patches * 3 / 4; model.policy.blocks().len()];
    let runs = [
        (ExecutionMode::Dense, Selection::All),
        (ExecutionMode::Drop, Selection::Kept { kept }),
    ];
    let test = test.corrupted(noise, config.grid());
    let found = evaluate_each(&model, &test, &runs, &evaluation, &device, |_| ()).unwrap();
    let last = found[1].layers.last().unwrap();
    let (recall, precision) = (
        last.corrupted_recall.unwrap(),
        last.corrupted_precision.unwrap(),
    );
    // A quarter would be found by chance.
    assert!(recall > 0.5 && precision > 0.5, "{recall} {precision}");
    // Both are compared with the answers to the images as they were.
    let moved = |index: usize| found[index].fidelity.as_ref().unwrap().kl().unwrap();
    eprintln!(
        "found {recall} {precision}, moved {} and {}",
        moved(0),
        moved(1)
    );
    assert!(moved(1) < 0.8 * moved(0), "{} {}", moved(1), moved(0));
}
