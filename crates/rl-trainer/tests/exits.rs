//! Exits learn on a frozen model where an answer is settled before the last block.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_data::{DataSource, Progress};
use apt_inference::PruningVit;
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_rl_trainer::{EvaluationSettings, calibrate, evaluate_each};
use apt_vit_model::{ExecutionMode, ImageSize, VitConfig, VitPreset};
use burn::prelude::*;
use burn::tensor::Distribution;

use common::alone;

#[test]
fn learned_exits_move_answers_less_than_one_depth_for_all_images() {
    let _alone = alone();
    let device = Device::default();
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
    let exits = PolicyConfig::named("early-exit").unwrap();
    let mut model = PruningVit::init(&config, &exits, &device).unwrap();
    let loud = Distribution::Normal(0.0, 1.0);
    model.vit = model.vit.map_head(|weight| weight.random_like(loud));
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train: 256,
        test: 96,
        seed: 0,
    };
    let shapes = shapes.load(None, Progress::Hidden).unwrap();
    let evaluation = EvaluationSettings {
        selection: Selection::All,
        batch_size: 32,
        normalization: Default::default(),
        transform: Default::default(),
        workers: 0,
        compare: true,
        reference: None,
    };
    let frozen = FrozenModel {
        model: &model,
        packed: &model.clone().prepack(),
        images: &shapes.train,
        evaluation: &evaluation,
        targets: &[0.75],
        device: &device,
    };
    let learn = || learn_on_frozen(&frozen, &exits, &AgentSettings::default(), |_| true).unwrap();
    let moved = |policy: AnyPolicy, selection: Option<Selection>| {
        let model = PruningVit::new(model.vit.clone(), policy, config.clone());
        let fitted = || {
            let found = calibrate(
                &model,
                &shapes.train.take(96),
                0.75,
                &evaluation,
                &device,
                |_| (),
            );
            found.unwrap().selection
        };
        let runs = [
            (ExecutionMode::Dense, Selection::All),
            (ExecutionMode::Drop, selection.unwrap_or_else(fitted)),
        ];
        let found = evaluate_each(&model, &shapes.test, &runs, &evaluation, &device, |_| ());
        let found = &found.unwrap()[1];
        (
            found.fidelity.as_ref().unwrap().kl().unwrap(),
            found.flops_share,
        )
    };
    let learned = learn();
    let (at_price, share) = moved(learned.clone(), None);
    assert!((share - 0.75).abs() < 0.03, "{share}");
    let kept = learned.kept_for(&config, 0.75).unwrap();
    let (fixed, _) = moved(learned, Some(Selection::Kept { kept: kept.clone() }));
    // Without a lens, the same depth says something else.
    let fresh = exits.init(&config, &device).unwrap();
    let (unlearned, _) = moved(fresh, Some(Selection::Kept { kept }));
    assert!(fixed < 0.7 * unlearned, "{fixed} {unlearned}");
    assert!(at_price < fixed, "{at_price} {fixed}");
    assert_eq!(moved(learn(), None).0, at_price);
}
