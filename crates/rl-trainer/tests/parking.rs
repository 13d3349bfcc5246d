//! A frozen model learns to read parked tokens.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_inference::PruningVit;
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_vit_model::VitPreset;
use burn::prelude::*;
use serde_json::{Map, json};

use common::alone;
use common::frozen::{learned, moved, shapes, untaught};

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

/// How far a taught policy moves answers where every image keeps as many tokens, and the share of the FLOPs.
fn moved_by(policy: &PolicyConfig, device: &Device) -> (f64, f64) {
    let (splits, model) = (shapes(128), untaught(policy, 4, device));
    let policy = learned(&model, policy, &splits, TARGET, device);
    let kept = policy.kept_for(model.config(), TARGET).unwrap();
    let model = PruningVit::new(model.vit.clone(), policy, model.config().clone()).prepack();
    moved(&model, Selection::Kept { kept }, &splits, device)
}

#[test]
fn what_is_read_moves_answers_less_than_what_is_removed() {
    let _alone = alone();
    let device = Device::default();
    let [(parked, share), (removed, _), (recalled, _)] =
        [park(true, 0), park(false, 0), park(true, 1)].map(|policy| moved_by(&policy, &device));
    assert!((share - TARGET).abs() < 0.05, "{share}");
    assert!(parked < 0.9 * removed, "{parked} parked, {removed} removed");
    assert!(recalled < removed, "{recalled} recalled, {removed} removed");
}

#[test]
fn the_same_seed_learns_the_same() {
    let _alone = alone();
    let device = Device::default();
    let told = || moved_by(&park(true, 0), &device);
    assert_eq!(told(), told());
}

#[test]
fn what_is_removed_cannot_come_back() {
    let config = VitPreset::Tiny32.config();
    let refused = park(false, 2).init(&config, &Device::default());
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("policy.recall = 2"), "{said}");
}
