//! Exits learn on a frozen model where an answer is settled before the last block.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_data::{DataSource, Progress, Splits};
use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_rl_trainer::{calibrate, evaluate_each};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::prelude::*;
use burn::tensor::Distribution;

use common::{alone, evaluation};

/// A share of the FLOPs.
const TARGET: f64 = 0.75;

/// A model of six blocks that nobody taught what to say, and its policy.
fn model(seed: u64, device: &Device) -> (PruningVit, PolicyConfig) {
    let config = VitConfig {
        image_size: ImageSize::square(32),
        patch_size: 4,
        hidden_size: 24,
        num_layers: 6,
        num_heads: 2,
        mlp_dim: 48,
        num_classes: 5,
        dropout: 0.0,
        ..VitPreset::Tiny32.config()
    };
    device.seed(seed);
    let exits = PolicyConfig::named("early-exit").unwrap();
    let mut model = PruningVit::init(&config, &exits, device).unwrap();
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    (model, exits)
}

fn shapes() -> Splits {
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train: 256,
        test: 96,
        seed: 0,
    };
    shapes.load(None, Progress::Hidden).unwrap()
}

fn learned(model: &PruningVit, exits: &PolicyConfig, device: &Device) -> AnyPolicy {
    let frozen = FrozenModel {
        model,
        packed: &model.clone().prepack(),
        images: &shapes().train,
        evaluation: &evaluation(),
        targets: &[TARGET],
        device,
    };
    learn_on_frozen(&frozen, exits, &AgentSettings::default(), |_| true).unwrap()
}

/// How far the policy moves answers, and the share of the FLOPs; without a selection, at a fitted price.
fn moved(
    model: &PruningVit,
    policy: AnyPolicy,
    selection: Option<Selection>,
    device: &Device,
) -> (f64, f64) {
    let model = PruningVit::new(model.vit.clone(), policy, model.config().clone());
    let (splits, settings) = (shapes(), evaluation());
    let fitted = || {
        let images = splits.train.take(96);
        let found = calibrate(&model, &images, TARGET, &settings, device, |_| ());
        found.unwrap().selection
    };
    let runs = [
        (ExecutionMode::Dense, Selection::All),
        (ExecutionMode::Drop, selection.unwrap_or_else(fitted)),
    ];
    let found = evaluate_each(&model, &splits.test, &runs, &settings, device, |_| ());
    let found = &found.unwrap()[1];
    let kl = found.fidelity.as_ref().unwrap().kl().unwrap();
    (kl, found.flops_share)
}

#[test]
fn learned_exits_move_answers_less_than_one_depth_for_all_images() {
    let _alone = alone();
    let device = Device::default();
    let [mut at_price, mut one_depth, mut unlearned] = [0.0; 3];
    for seed in 4..7 {
        let (model, exits) = model(seed, &device);
        let policy = learned(&model, &exits, &device);
        let (kl, share) = moved(&model, policy.clone(), None, &device);
        // Few images, all much alike, decide where the price lies.
        assert!((share - TARGET).abs() < 0.1, "{share}");
        at_price += kl;
        let kept = policy.kept_for(model.config(), TARGET).unwrap();
        let kept = || {
            let kept = kept.clone();
            Some(Selection::Kept { kept })
        };
        one_depth += moved(&model, policy, kept(), &device).0;
        // Without a lens, the same depth says something else.
        let fresh = exits.init(model.config(), &device).unwrap();
        unlearned += moved(&model, fresh, kept(), &device).0;
    }
    let found = format!("{at_price} at a price, {one_depth} at one depth, {unlearned} unlearned");
    assert!(one_depth < 0.9 * unlearned, "{found}");
    assert!(at_price < one_depth, "{found}");
}

#[test]
fn the_same_seed_learns_the_same_exits() {
    let _alone = alone();
    let device = Device::default();
    let (model, exits) = model(4, &device);
    let told = || moved(&model, learned(&model, &exits, &device), None, &device);
    assert_eq!(told(), told());
}
