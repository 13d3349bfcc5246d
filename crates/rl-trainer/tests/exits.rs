//! Exits learn on a frozen model where an answer is settled before the last block.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_inference::PruningVit;
use apt_pruning_agent::{
    AgentError, AnyPolicy, EarlyExitSettings, PolicyConfig, PolicySettings, Selection,
    register_policy,
};
use apt_rl_trainer::{calibrate, train};
use apt_vit_model::VitConfig;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use common::frozen::{headless, learned, moved, shapes, untaught};
use common::{alone, config, evaluation, options};

/// A share of the FLOPs.
const TARGET: f64 = 0.75;

/// Images to learn from.
const TRAIN: usize = 256;

fn exits() -> PolicyConfig {
    PolicyConfig::named("early-exit").unwrap()
}

fn taught(model: &PruningVit, device: &Device) -> AnyPolicy {
    learned(model, &exits(), &shapes(TRAIN), TARGET, device)
}

/// How far the policy moves answers, and the share of the FLOPs; without a selection, at a fitted price.
fn moved_by(
    model: &PruningVit,
    policy: AnyPolicy,
    selection: Option<Selection>,
    device: &Device,
) -> (f64, f64) {
    let model = PruningVit::new(model.vit.clone(), policy, model.config().clone());
    let splits = shapes(TRAIN);
    let fitted = || {
        let images = splits.train.take(96);
        let found = calibrate(&model, &images, TARGET, &evaluation(), device, |_| ());
        found.unwrap().selection
    };
    moved(&model, selection.unwrap_or_else(fitted), &splits, device)
}

#[test]
fn learned_exits_move_answers_less_than_one_depth_for_all_images() {
    let [at_price, one_depth, unlearned] = compared(untaught);
    let found = format!("{at_price} at a price, {one_depth} at one depth, {unlearned} unlearned");
    assert!(one_depth < 0.9 * unlearned, "{found}");
    assert!(at_price < one_depth, "{found}");
}

#[test]
fn learned_exits_move_features_less_than_one_depth_for_all_images() {
    let [at_price, one_depth, unlearned] = compared(headless);
    let found = format!("{at_price} at a price, {one_depth} at one depth, {unlearned} unlearned");
    assert!(one_depth < 0.9 * unlearned, "{found}");
    assert!(at_price < one_depth, "{found}");
}

/// How far answers of three models move, summed: at a price, at one depth for all images, and there without a lens.
fn compared(model: fn(&PolicyConfig, u64, &Device) -> PruningVit) -> [f64; 3] {
    let _alone = alone();
    let device = Device::default();
    let [mut at_price, mut one_depth, mut unlearned] = [0.0; 3];
    for seed in 4..7 {
        let model = model(&exits(), seed, &device);
        let policy = taught(&model, &device);
        let (moved, share) = moved_by(&model, policy.clone(), None, &device);
        // Few images, all much alike, decide where the price lies.
        assert!((share - TARGET).abs() < 0.1, "{share}");
        at_price += moved;
        let kept = policy.kept_for(model.config(), TARGET).unwrap();
        let kept = || {
            let kept = kept.clone();
            Some(Selection::Kept { kept })
        };
        one_depth += moved_by(&model, policy, kept(), &device).0;
        // Without a lens, the same depth says something else.
        let fresh = exits().init(model.config(), &device).unwrap();
        unlearned += moved_by(&model, fresh, kept(), &device).0;
    }
    [at_price, one_depth, unlearned]
}

#[test]
fn the_same_seed_learns_the_same_exits() {
    let _alone = alone();
    let device = Device::default();
    let model = untaught(&exits(), 4, &device);
    let told = || moved_by(&model, taught(&model, &device), None, &device);
    assert_eq!(told(), told());
}

/// Somebody's own policy that answers early, and that a training can use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OwnExits {}

impl PolicySettings for OwnExits {
    const NAME: &'static str = "own-exits";
    const SUMMARY: &'static str = "answers images early";
    type Policy = <EarlyExitSettings as PolicySettings>::Policy;

    fn init(&self, model: &VitConfig, device: &Device) -> Result<Self::Policy, AgentError> {
        EarlyExitSettings::default().init(model, device)
    }
}

#[test]
fn early_answers_and_blocks_that_are_computed_anew_do_not_go_together() {
    let _alone = alone();
    register_policy::<OwnExits>().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let overrides = [
        "flops=[0.8]",
        "policy=own-exits",
        "train.gradient_checkpointing=true",
    ];
    let error = train(config(&overrides), &folder.path().join("run"), &options());
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("train.gradient_checkpointing"),
        "{message}"
    );
}
