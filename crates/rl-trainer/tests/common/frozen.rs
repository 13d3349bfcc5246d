//! Frozen models that nobody taught what to say, and what policies learn on them.

use apt_data::{DataSource, Progress, Splits};
use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::evaluate_each;
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::prelude::*;
use burn::tensor::Distribution;

use super::evaluation;

/// A model of six blocks, with a policy.
pub fn untaught(policy: &PolicyConfig, seed: u64, device: &Device) -> PruningVit {
    let mut model = without_head_if(false, policy, seed, device);
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    model
}

/// The same without a head: it answers with its features.
pub fn headless(policy: &PolicyConfig, seed: u64, device: &Device) -> PruningVit {
    without_head_if(true, policy, seed, device)
}

fn without_head_if(
    headless: bool,
    policy: &PolicyConfig,
    seed: u64,
    device: &Device,
) -> PruningVit {
    let config = VitConfig {
        image_size: ImageSize::square(32),
        patch_size: 4,
        hidden_size: 24,
        num_layers: 6,
        num_heads: 2,
        mlp_dim: 48,
        num_classes: if headless { 0 } else { 5 },
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    device.seed(seed);
    PruningVit::init(&config, policy, device).unwrap()
}

/// So many images to learn from, and 96 others.
pub fn shapes(train: usize) -> Splits {
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train,
        test: 96,
        seed: 0,
    };
    shapes.load(None, Progress::Hidden).unwrap()
}

/// What the policy learns for a share of the FLOPs.
pub fn learned(
    model: &PruningVit,
    policy: &PolicyConfig,
    splits: &Splits,
    target: f64,
    device: &Device,
) -> AnyPolicy {
    let frozen = FrozenModel {
        model,
        packed: &model.clone().prepack(),
        images: &splits.train,
        evaluation: &evaluation(),
        targets: &[target],
        device,
    };
    learn_on_frozen(&frozen, policy, &AgentSettings::default(), |_| true).unwrap()
}

/// How far a pruned model's answers to the test images are from the dense ones, and the share of the FLOPs.
pub fn moved(
    model: &PruningVit,
    selection: Selection,
    splits: &Splits,
    device: &Device,
) -> (f64, f64) {
    let runs = [
        (ExecutionMode::Dense, Selection::All),
        (ExecutionMode::Drop, selection),
    ];
    let found = evaluate_each(model, &splits.test, &runs, &evaluation(), device, |_| ());
    let found = &found.unwrap()[1];
    let divergence = found.fidelity.as_ref().unwrap().divergence().unwrap();
    (divergence, found.flops_share)
}
