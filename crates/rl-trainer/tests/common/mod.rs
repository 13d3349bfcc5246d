//! A tiny training.
#![allow(dead_code)]

use std::path::Path;

use apt_data::Progress;
use apt_rl_trainer::{
    Choice, Devices, ExperimentConfig, PruningVit, RunFolder, StopRequest, TrainOptions,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;

const TINY: &str = r#"
seed = 7
[data]
source = "shapes"
size = 16
train = 80
test = 20
[input.transform]
pad_crop = 1
[model]
preset = "vit-tiny32"
image_size = 16
hidden_size = 16
num_layers = 3
num_heads = 2
mlp_dim = 32
dropout = 0.1
[agents]
layers = [0, 1]
[train]
steps = 8
batch_size = 6
accumulation = 2
steps_per_epoch = 4
held_out = 20
eval_batch_size = 16
[optimizer]
kind = "adamw"
learning_rate = 0.003
[schedule]
warmup_steps = 2
"#;

/// Burn's random numbers belong to the process; trainings in one process take turns.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub fn config(overrides: &[&str]) -> ExperimentConfig {
    let overrides: Vec<String> = overrides.iter().map(|entry| entry.to_string()).collect();
    ExperimentConfig::parse(TINY, "tiny", &overrides).unwrap()
}

pub fn options() -> TrainOptions {
    TrainOptions {
        data: None,
        devices: Devices::single(Device::default()),
        memory: None,
        time_limit: None,
        stop: StopRequest::default(),
        dashboard: false,
        progress: Progress::Hidden,
    }
}

pub fn weights(model: &PruningVit) -> Vec<f32> {
    struct Collector(Vec<f32>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut collector = Collector(Vec::new());
    model.visit(&mut collector);
    collector.0
}

pub fn final_weights(folder: &Path) -> Vec<f32> {
    let run = RunFolder::open(folder).unwrap();
    let checkpoint = run.checkpoint(Choice::Last).unwrap();
    weights(&run.load_model(&checkpoint, &Device::default()).unwrap())
}
