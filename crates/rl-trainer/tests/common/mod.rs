//! A tiny training.
#![allow(dead_code)]

pub mod frozen;

use std::path::Path;

use apt_data::{Batch, Place, Progress};
use apt_inference::Choice;
use apt_pruning_agent::Selection;
use apt_rl_trainer::{
    EvaluationSettings, ExperimentConfig, RunFolder, TrainOptions, Trainee, stepper,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Distribution;

const TINY: &str = r#"
seed = 7
[policy]
name = "apt"
layers = [0, 1]
[data]
source = "shapes"
size = 16
train = 80
test = 20
[input]
val_images = 20
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
[train]
steps = 8
batch_size = 6
grad_accumulation_steps = 2
eval_interval = 4
eval_batch_size = 16
[optimizer]
name = "adamw"
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
        progress: Progress::Hidden,
        ..Default::default()
    }
}

pub fn weights<M: Module>(model: &M) -> Vec<f32> {
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
    let checkpoint = run.checkpoints().choose(Choice::Last).unwrap();
    weights(&run.load_model(&checkpoint, &Device::default()).unwrap())
}

/// FLOPs of an image in one training step, as the step counts them.
pub fn counted_flops(config: &ExperimentConfig, folder: &Path) -> f64 {
    let device = Device::default().autodiff();
    let model = Trainee::new(config, 10, &device).unwrap();
    let batch = config.train.batch_size;
    let size = model.config().image_size;
    let mut step = stepper(config, model, folder).unwrap();
    let normal = Distribution::Normal(0.0, 1.0);
    let report = step(Batch {
        images: Tensor::random([batch, 3, size.height, size.width], normal, &device),
        labels: Tensor::zeros([batch], &device),
        targets: (0..batch).map(|image| image % 10).collect(),
        indices: (0..batch).collect(),
        place: Place {
            number: 0,
            part: 0..batch,
            whole: batch,
        },
    });
    report.unwrap().values["step_flops"]
}

/// How the tests of frozen models evaluate.
pub fn evaluation() -> EvaluationSettings {
    EvaluationSettings {
        selection: Selection::All,
        batch_size: 32,
        normalization: Default::default(),
        transform: Default::default(),
        workers: 0,
        compare: true,
        reference: None,
    }
}
