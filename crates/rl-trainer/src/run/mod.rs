//! A run's folder, its checkpoints, and the weights that a run may start from.

mod checkpoints;
mod folder;
mod lock;
mod pretrained;

pub(crate) use checkpoints::{CheckpointWriter, checkpoint_to_resume};
pub use folder::RunFolder;
pub(crate) use pretrained::is_cached;
pub use pretrained::{fetch_checkpoint, locate_weights};
