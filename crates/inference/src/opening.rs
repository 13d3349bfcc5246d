//! From a path to what a model is made of.

use std::path::Path;

use apt_vit_model::Precision;
use burn::prelude::*;

use crate::budgets::Budgets;
use crate::checkpoints::Choice;
use crate::description::Description;
use crate::{Export, InferenceError, PruningVit, Run, exported, pretrained};

/// What a model was opened from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A run of the trainer.
    Run,
    /// An exported folder.
    Export,
    /// Published weights.
    Weights,
}

/// How a model is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which of a run's checkpoints.
    pub checkpoint: Choice,
    /// What matrix products are computed in; none is what the run was trained in, or 32-bit floats.
    pub precision: Option<Precision>,
}

impl Export {
    /// Is this folder an exported or a pruned model?
    pub fn is_in(path: &Path) -> bool {
        path.join(exported::FILE).is_file()
    }

    /// A run, an exported folder or published weights, not laid out for inference: to be changed and exported again. With the
    /// budgets of the chosen checkpoint.
    ///
    /// # Errors
    ///
    /// As [`Model::open`](crate::Model::open).
    pub fn open(
        path: &Path,
        choice: Choice,
        device: &Device,
    ) -> Result<(PruningVit, Self), InferenceError> {
        let parts = Parts::open(path, choice, device)?;
        let exported = Self {
            description: parts.description,
            budgets: parts.budgets.of(&parts.checkpoint),
            checkpoint: parts.checkpoint,
        };
        Ok((parts.pruning, exported))
    }
}

/// What a model is made of.
pub(crate) struct Parts {
    pub pruning: PruningVit,
    pub description: Description,
    pub checkpoint: String,
    pub budgets: Budgets,
    pub source: ModelSource,
}

impl Parts {
    /// See [`Model::open_with`](crate::Model::open_with).
    pub fn open(path: &Path, choice: Choice, device: &Device) -> Result<Self, InferenceError> {
        if !path.exists() {
            return Err(InferenceError::folder(
                path,
                "there is no such file or folder",
            ));
        }
        if Export::is_in(path) {
            let (pruning, export) = exported::open(path, device)?;
            return Ok(Self::of_export(pruning, export));
        }
        if Run::is_in(path) {
            let run = Run::open(path)?;
            let checkpoint = run.checkpoints().choose(choice)?;
            let pruning = run.load_model(&checkpoint, device)?;
            let budgets = Budgets::read(path)?;
            let name = checkpoint.name();
            return Ok(Self {
                pruning,
                description: run.description,
                checkpoint: name,
                budgets,
                source: ModelSource::Run,
            });
        }
        let (pruning, description) = pretrained::open(path, device).map_err(|error| {
            if !path.is_dir() {
                return error;
            }
            let reason = format!(
                "is no run folder ({}), no exported folder ({}) and no weights: {error}",
                Run::FILE,
                exported::FILE
            );
            InferenceError::folder(path, reason)
        })?;
        Ok(Self {
            pruning,
            description,
            checkpoint: String::new(),
            budgets: Budgets::default(),
            source: ModelSource::Weights,
        })
    }

    pub fn of_export(pruning: PruningVit, export: Export) -> Self {
        Self {
            pruning,
            description: export.description,
            checkpoint: export.checkpoint,
            budgets: export.budgets,
            source: ModelSource::Export,
        }
    }
}
