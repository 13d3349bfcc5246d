#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod answer;
mod budgets;
mod checkpoints;
mod description;
mod error;
mod exported;
mod files;
mod model;
mod policy_weights;
mod preprocessing;
mod pretrained;
mod pruning_vit;
mod run;

pub use answer::{Answer, ClassProbability, LayerAnswer};
pub use budgets::{Budget, Budgets};
pub use checkpoints::{CheckpointFolder, CheckpointSet, Choice, EpochScores};
pub use description::{Description, FORMAT};
pub use error::InferenceError;
pub use exported::{Export, export_model};
pub use files::{to_json, write_whole};
pub use model::{Model, ModelSource, OpenOptions};
pub use policy_weights::{load_policy, policy_tensors};
pub use preprocessing::Preprocessing;
pub use pruning_vit::{PruningVit, check_precision, initialize};
pub use run::Run;
