//! Exits learn on a frozen model where an answer is settled before the last block.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::calibrate;
use burn::prelude::*;

use common::frozen::{learned, moved, shapes, untaught};
use common::{alone, evaluation};

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
    let _alone = alone();
    let device = Device::default();
    let [mut at_price, mut one_depth, mut unlearned] = [0.0; 3];
    for seed in 4..7 {
        let model = untaught(&exits(), seed, &device);
        let policy = taught(&model, &device);
        let (kl, share) = moved_by(&model, policy.clone(), None, &device);
        // Few images, all much alike, decide where the price lies.
        assert!((share - TARGET).abs() < 0.1, "{share}");
        at_price += kl;
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
    let found = format!("{at_price} at a price, {one_depth} at one depth, {unlearned} unlearned");
    assert!(one_depth < 0.9 * unlearned, "{found}");
    assert!(at_price < one_depth, "{found}");
}

#[test]
fn the_same_seed_learns_the_same_exits() {
    let _alone = alone();
    let device = Device::default();
    let model = untaught(&exits(), 4, &device);
    let told = || moved_by(&model, taught(&model, &device), None, &device);
    assert_eq!(told(), told());
}
