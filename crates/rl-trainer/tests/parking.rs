//! A frozen model learns to read parked tokens.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_data::{DataSource, Progress, Splits};
use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::evaluate_each;
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::prelude::*;
use burn::tensor::Distribution;
use serde_json::{Map, json};

use common::{alone, evaluation};

/// A share of the FLOPs.
const TARGET: f64 = 0.5;

/// `park`, whose tokens do not merge.
fn park(read: bool, recall: usize) -> PolicyConfig {
    let settings = [
        ("read", json!(read)),
        ("recall", json!(recall)),
        ("merge", json!(false)),
    ];
    let settings = settings.map(|(key, value)| (key.to_string(), value));
    PolicyConfig::with_settings("park", Map::from_iter(settings)).unwrap()
}

/// A model of six blocks that nobody taught what to say.
fn model(policy: &PolicyConfig, device: &Device) -> PruningVit {
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
    device.seed(4);
    let mut model = PruningVit::init(&config, policy, device).unwrap();
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    model
}

fn shapes() -> Splits {
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train: 128,
        test: 96,
        seed: 0,
    };
    shapes.load(None, Progress::Hidden).unwrap()
}

fn learned(model: &PruningVit, policy: &PolicyConfig, device: &Device) -> AnyPolicy {
    let frozen = FrozenModel {
        model,
        packed: &model.clone().prepack(),
        images: &shapes().train,
        evaluation: &evaluation(),
        targets: &[TARGET],
        device,
    };
    learn_on_frozen(&frozen, policy, &AgentSettings::default(), |_| true).unwrap()
}

/// How far the policy moves answers where every image keeps as many tokens, and the share of the FLOPs.
fn moved(model: &PruningVit, policy: AnyPolicy, device: &Device) -> (f64, f64) {
    let kept = policy.kept_for(model.config(), TARGET).unwrap();
    let model = PruningVit::new(model.vit.clone(), policy, model.config().clone()).prepack();
    let runs = [
        (ExecutionMode::Dense, Selection::All),
        (ExecutionMode::Drop, Selection::Kept { kept }),
    ];
    let (splits, settings) = (shapes(), evaluation());
    let found = evaluate_each(&model, &splits.test, &runs, &settings, device, |_| ());
    let found = &found.unwrap()[1];
    let kl = found.fidelity.as_ref().unwrap().kl().unwrap();
    (kl, found.flops_share)
}

#[test]
fn what_is_read_moves_answers_less_than_what_is_removed() {
    let _alone = alone();
    let device = Device::default();
    let [(parked, share), (removed, _), (recalled, _)] =
        [park(true, 0), park(false, 0), park(true, 1)].map(|policy| {
            let model = model(&policy, &device);
            moved(&model, learned(&model, &policy, &device), &device)
        });
    assert!((share - TARGET).abs() < 0.05, "{share}");
    assert!(parked < 0.9 * removed, "{parked} parked, {removed} removed");
    assert!(recalled < removed, "{recalled} recalled, {removed} removed");
}

#[test]
fn the_same_seed_learns_the_same() {
    let _alone = alone();
    let device = Device::default();
    let policy = park(true, 0);
    let model = model(&policy, &device);
    let told = || moved(&model, learned(&model, &policy, &device), &device);
    assert_eq!(told(), told());
}

#[test]
fn what_is_removed_cannot_come_back() {
    let config = VitPreset::Tiny32.config();
    let refused = park(false, 2).init(&config, &Device::default());
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("policy.recall = 2"), "{said}");
}
