#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

pub mod algorithm;
mod config;
mod error;
mod evaluate;
mod log;
pub mod prune;
mod run;
pub mod sweep;
mod train;

pub use config::{
    Decay, ExperimentConfig, Freeze, FrozenPart, InputConfig, ModelConfig, OptimizerConfig,
    OptimizerKind, PolicySection, ScheduleConfig, TrainConfig, policy_settings,
};
pub use error::TrainerError;
pub use evaluate::{
    ClassAccuracy, Evaluation, EvaluationSettings, LayerTokens, calibrate, calibrate_budgets,
    evaluate, evaluate_each,
};
pub use log::{Curve, LoggedPicture, Report, ReportMetric, duration, log_pictures};
pub use prune::{ScheduleSearch, TriedSchedule};
pub use run::{RunFolder, fetch_checkpoint, locate_weights};
pub use train::{
    Devices, Outcome, Pause, Plan, PrunedPass, Sized, StopRequest, Summary, Throughput,
    TrainOptions, Trainee, WarmupSchedule, available_memory, build_optimizer, check,
    clip_global_norm, held_out_images, known_classes, peak_memory, plan, pruned_pass,
    pruned_pass_recomputed, resume, size_for, stepper, train, train_on_splits,
};
