//! Agents learn on a frozen model, without labels, which patches do not belong to an image.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use apt_data::{CorruptionKind, DataSource, PatchCorruption, Progress};
use apt_inference::{Choice, Export, PruningVit};
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_rl_trainer::{EvaluationSettings, evaluate_each, train};
use apt_vit_model::ExecutionMode;
use burn::prelude::*;

use common::{alone, config, options};

/// What a model that never saw anything corrupted learned of shapes.
fn trained(folder: &Path, device: &Device) -> PruningVit {
    let out = folder.join("run");
    let config = config(&[
        "policy=dense",
        "data.size=32",
        "data.train=1200",
        "model.image_size=32",
        "model.hidden_size=48",
        "model.num_layers=4",
        "model.mlp_dim=96",
        "train.steps=150",
        "train.batch_size=32",
        "train.grad_accumulation_steps=1",
        "train.eval_interval=150",
        "schedule.warmup_steps=10",
    ]);
    train(config, &out, &options()).unwrap();
    Export::open(&out, Choice::default(), device).unwrap().0
}

#[test]
fn corrupted_patches_go_first_and_answers_come_nearer_to_those_before() {
    let _alone = alone();
    let device = Device::default();
    let filter = PolicyConfig::named("filter").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = trained(folder.path(), &device);
    let model = model.with_policy(&filter).unwrap();
    let config = model.config().clone();
    let shapes = DataSource::Shapes {
        size: 32,
        figure: 0.55,
        train: 256,
        test: 64,
        seed: 5,
    };
    let shapes = shapes.load(None, Progress::Hidden).unwrap();
    let noise = PatchCorruption {
        kind: CorruptionKind::Noise,
        share: 0.25,
        seed: 1,
    };
    let evaluation = EvaluationSettings {
        selection: Selection::All,
        batch_size: 32,
        normalization: Default::default(),
        transform: Default::default(),
        workers: 0,
        compare: true,
        reference: None,
    };
    let learning = AgentSettings {
        epochs: 6,
        ..Default::default()
    };
    let clean = FrozenModel {
        model: &model,
        packed: &model.clone().prepack(),
        images: &shapes.train,
        evaluation: &evaluation,
        targets: &[0.8],
        device: &device,
    };
    let error = learn_on_frozen(&clean, &filter, &learning, |_| true).unwrap_err();
    assert!(error.to_string().contains("as they were"), "{error}");
    let corrupted = shapes.train.corrupted(noise, config.grid());
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
    let test = shapes.test.corrupted(noise, config.grid());
    let found = evaluate_each(&model, &test, &runs, &evaluation, &device, |_| ()).unwrap();
    let last = found[1].layers.last().unwrap();
    let (recall, precision) = (
        last.corrupted_recall.unwrap(),
        last.corrupted_precision.unwrap(),
    );
    assert!(recall > 0.8 && precision > 0.8, "{recall} {precision}");
    // Both are compared with the answers to the images as they were.
    let moved = |index: usize| found[index].fidelity.as_ref().unwrap().kl().unwrap();
    assert!(moved(1) < 0.7 * moved(0), "{} {}", moved(1), moved(0));
}
