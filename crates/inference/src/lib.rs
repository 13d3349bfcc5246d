#![cfg_attr(test, allow(clippy::unwrap_used))]
#![doc = include_str!("../README.md")]

mod answer;
mod budgets;
mod checkpoints;
mod checksum;
mod class_names;
mod description;
mod error;
mod exported;
mod fidelity;
mod files;
mod finite;
mod imagenet;
mod model;
mod opening;
mod passes;
mod policy_weights;
mod preprocessing;
mod pretrained;
mod pruning_vit;
mod rows;
mod run;
mod scores;
mod slim;
mod staging;

pub use answer::{Answer, ClassProbability, LayerAnswer, Reduced, probabilities};
pub use budgets::{Budget, Budgets};
pub use checkpoints::{CheckpointFolder, CheckpointSet, Choice};
pub use checksum::{Checksum, checksum_file, publish, remove_checked, verify, write_checked};
pub use description::{Description, FORMAT};
pub use error::InferenceError;
pub use exported::{Export, export_model};
pub use fidelity::{Answers, Fidelity, kl_divergence};
pub use files::{partial, to_json, write_whole};
pub use finite::NotFinite;
pub use imagenet::imagenet_ids;
pub use model::Model;
pub use opening::{ModelSource, OpenOptions};
pub use policy_weights::{load_policy, policy_tensors};
pub use preprocessing::Preprocessing;
pub use pruning_vit::{PruningVit, check_precision, initialize};
pub use rows::rows;
pub use run::Run;
pub use scores::EpochScores;
