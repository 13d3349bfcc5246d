#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod calibration;
mod checkpoint;
mod config;
pub mod counterfactual;
mod devices;
pub mod dynamic_vit;
mod error;
mod evaluation;
mod event_file;
mod export;
pub mod first_order;
mod loss_scale;
mod memory;
mod metric_log;
mod model;
mod optimizer;
mod plain_renderer;
mod plan;
pub mod policy_gradient;
pub mod ppo;
mod pretrained;
mod recompute;
mod record;
mod report;
mod run_folder;
mod schedule;
mod session;
pub mod sweep;
mod training;

pub use calibration::{Budget, calibrate, held_out_images};
pub use checkpoint::{CheckpointFolder, CheckpointSet};
pub use config::{
    AlgorithmConfig, AlgorithmKind, BudgetConfig, Decay, Execution, ExperimentConfig, Freeze,
    FrozenPart, InputConfig, LessonKind, ModelConfig, OptimizerConfig, OptimizerKind,
    ScheduleConfig, TrainConfig,
};
pub use devices::Devices;
pub use error::TrainerError;
pub use evaluation::{
    ClassAccuracy, Evaluation, EvaluationSettings, LayerTokens, evaluate, evaluate_each,
};
pub use export::export_model;
pub use memory::{available_memory, peak_memory};
pub use model::PruningVit;
pub use optimizer::{build_optimizer, clip_global_norm};
pub use plain_renderer::duration;
pub use plan::{Plan, known_classes, plan};
pub use pretrained::{fetch_checkpoint, locate_weights};
pub use recompute::stream_1_recomputed;
pub use record::Decision;
pub use report::{Report, ReportMetric};
pub use run_folder::{Choice, RunDescription, RunFolder};
pub use schedule::WarmupSchedule;
pub use session::{Pause, StopRequest};
pub use training::{
    Outcome, Summary, Throughput, TrainOptions, calibrate_budgets, resume, stepper, train,
};
