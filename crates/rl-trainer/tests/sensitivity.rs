//! Agents learn on a frozen model, without labels, which merges leave its answers as they are.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::evaluate_each;
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;

use common::{alone, evaluation};

/// A model whose answers depend on its patches, though nobody taught it what to say.
fn model(seed: u64, device: &Device) -> PruningVit {
    let config = VitConfig {
        image_size: ImageSize::square(32),
        patch_size: 4,
        hidden_size: 24,
        num_layers: 4,
        num_heads: 2,
        mlp_dim: 48,
        num_classes: 5,
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    device.seed(seed);
    let mut model =
        PruningVit::init(&config, &PolicyConfig::named("pairs").unwrap(), device).unwrap();
    let louder = |weight: Param<Tensor<2>>| weight.map(|weight| weight * 1.5);
    for block in &mut model.vit.blocks {
        block.attention.output.weight = louder(block.attention.output.weight.clone());
        block.mlp.contract.weight = louder(block.mlp.contract.weight.clone());
    }
    // A fresh head says the same of every image.
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    model
}

fn images() -> ImageDataset {
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train: 128,
        test: 64,
        seed: 0,
    };
    shapes.load(None, Progress::Hidden).unwrap().train
}

fn learned(model: &PruningVit, images: &ImageDataset, device: &Device) -> AnyPolicy {
    let learning = AgentSettings {
        epochs: 20,
        ..Default::default()
    };
    let pairs = PolicyConfig::named("pairs").unwrap();
    let frozen = FrozenModel {
        model,
        packed: &model.clone().prepack(),
        images,
        evaluation: &evaluation(),
        targets: &[0.7],
        device,
    };
    learn_on_frozen(&frozen, &pairs, &learning, |_| true).unwrap()
}

/// How far from the dense answers a policy's are at 0.7 of the FLOPs, each image losing as many patches.
fn moved(model: &PruningVit, policy: AnyPolicy, images: &ImageDataset, device: &Device) -> f64 {
    let model = PruningVit::new(model.vit.clone(), policy, model.config().clone());
    let kept = model.kept_for(0.7).unwrap();
    let runs = [
        (ExecutionMode::Dense, Selection::All),
        (ExecutionMode::Drop, Selection::Kept { kept }),
    ];
    let found = evaluate_each(&model, images, &runs, &evaluation(), device, |_| ()).unwrap();
    found[1].fidelity.as_ref().unwrap().kl().unwrap()
}

#[test]
fn answers_move_less_by_what_was_learned_than_by_similarity_alone() {
    let _alone = alone();
    let device = Device::default();
    let all = images();
    let (learning, other): (Vec<usize>, Vec<usize>) = (0..all.len()).partition(|i| i % 4 != 0);
    let (learning, other) = (all.subset(&learning), all.subset(&other));
    let moves = (0..4).map(|seed| {
        let model = model(seed, &device);
        let before = moved(&model, model.policy.clone(), &other, &device);
        let policy = learned(&model, &learning, &device);
        (before, moved(&model, policy, &other, &device))
    });
    let moves: Vec<(f64, f64)> = moves.collect();
    let before: f64 = moves.iter().map(|(before, _)| before).sum();
    let after: f64 = moves.iter().map(|(_, after)| after).sum();
    assert!(after < 0.8 * before, "{moves:?}");
}

#[test]
fn the_same_seed_learns_the_same() {
    let _alone = alone();
    let device = Device::default();
    let (model, images) = (model(1, &device), images().take(48));
    let told = || moved(&model, learned(&model, &images, &device), &images, &device);
    assert_eq!(told(), told());
}
