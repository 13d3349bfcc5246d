//! What learns, and how fast.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;

use apt_inference::Choice;
use apt_rl_trainer::{ExperimentConfig, RunFolder, Trainee, train};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;

use common::{alone, options};

const TINY: &str = r#"
seed = 7
[policy]
name = "apt"
layers = [0]
[data]
source = "shapes"
size = 16
train = 60
test = 20
[input]
val_images = 20
[model]
preset = "vit-tiny32"
dropout = 0.1
pretrained = "../vit-model/tests/fixtures/timm-vit/model.safetensors"
num_heads = 2
[train]
steps = 4
batch_size = 6
eval_interval = 4
[schedule]
warmup_steps = 0
"#;

/// Every parameter by its path.
fn weights<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    #[derive(Default)]
    struct Collector {
        path: Vec<String>,
        found: BTreeMap<String, Vec<f32>>,
    }
    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_string());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val().into_data().iter::<f32>().collect();
            self.found.insert(self.path.join("."), values);
        }
    }
    let mut collector = Collector::default();
    model.visit(&mut collector);
    collector.found
}

/// How far each parameter moved in a training.
fn moves(overrides: &[&str]) -> BTreeMap<String, f32> {
    let _alone = alone();
    let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
    let config = ExperimentConfig::parse(TINY, "tiny", &overrides).unwrap();
    let device = Device::default();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config, &out, &options()).unwrap();
    let run = RunFolder::open(&out).unwrap();
    let checkpoint = run.checkpoints().choose(Choice::Last).unwrap();
    let after = weights(&run.load_model(&checkpoint, &device).unwrap());
    let before = weights(&Trainee::new(&run.config, 10, &device).unwrap());
    let moved = after.into_iter().map(|(path, after)| {
        let pairs = after.iter().zip(&before[&path]);
        let squares: f32 = pairs.map(|(a, b)| (a - b) * (a - b)).sum();
        (path, squares.sqrt())
    });
    moved.collect()
}

fn assert_still(moves: &BTreeMap<String, f32>, is_frozen: impl Fn(&str) -> bool) {
    let mut counts = [0, 0];
    for (path, &moved) in moves {
        let frozen = is_frozen(path);
        counts[usize::from(frozen)] += 1;
        assert_eq!(moved == 0.0, frozen, "{path} moved by {moved}");
    }
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
}

const ADAMW: [&str; 3] = [
    "optimizer.name=\"adamw\"",
    "optimizer.learning_rate=0.01",
    "optimizer.weight_decay=0.1",
];

#[test]
fn frozen_blocks_keep_their_weights_and_all_others_learn() {
    let moves = moves(&[&ADAMW[..], &["train.freeze=1"]].concat());
    assert_still(&moves, |path| {
        path.starts_with("vit.embedding") || path.starts_with("vit.blocks.0")
    });
}

#[test]
fn of_a_frozen_backbone_only_the_head_learns_and_the_agents() {
    let moves = moves(&[&ADAMW[..], &["train.freeze=backbone"]].concat());
    assert_still(&moves, |path| {
        path.starts_with("vit.") && !path.starts_with("vit.head")
    });
}

#[test]
fn head_and_agents_have_learning_rates_of_their_own() {
    let one_step = [
        "train.steps=1",
        "train.eval_interval=1",
        "train.dense_interval=1",
        // Else the only step would be the last of the decay, and its learning rate 0.
        "schedule.warmup_steps=1",
    ];
    let same = moves(&one_step);
    let rates = [
        "optimizer.head_learning_rate=0.003",
        "optimizer.agent_learning_rate=0.06",
    ];
    let other = moves(&[&one_step[..], &rates].concat());
    for (path, factor) in [
        ("vit.head.weight", 0.1),
        ("policy.agents.0.fc.weight", 2.0),
        ("vit.blocks.1.mlp.expand.weight", 1.0),
    ] {
        // The head starts at zero, and lets no gradient through in the first step.
        if path.starts_with("vit.blocks") {
            assert_eq!((same[path], other[path]), (0.0, 0.0));
            continue;
        }
        let ratio = other[path] / same[path];
        assert!((ratio - factor).abs() < 1e-3, "{path}: {ratio}");
    }
}

#[test]
fn more_blocks_than_there_are_cannot_be_frozen() {
    let _alone = alone();
    let config = ExperimentConfig::parse(TINY, "tiny", &["train.freeze=3".into()]).unwrap();
    let mut config = config;
    config.model.complete().unwrap();
    let error = Trainee::new(&config, 10, &Device::default()).unwrap_err();
    assert!(error.to_string().contains("train.freeze = 3"), "{error}");
    let wrong = ExperimentConfig::parse(TINY, "tiny", &["train.freeze=heads".into()]);
    let message = wrong.unwrap_err().to_string();
    assert!(message.contains("backbone"), "{message}");
}

#[test]
fn weights_that_are_nowhere_are_refused_with_what_to_do() {
    let entry = "model.pretrained=no-such-weights".to_string();
    let mut config = ExperimentConfig::parse(TINY, "tiny", &[entry]).unwrap();
    let message = config.model.complete().unwrap_err().to_string();
    assert!(
        message.contains("no-such-weights") && message.contains("aptvit fetch"),
        "{message}"
    );
}
