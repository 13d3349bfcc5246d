//! The folder of a training run, as inference reads it.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use burn::store::ModuleRecord;

use crate::checkpoints::{CheckpointFolder, CheckpointSet};
use crate::checksum::verify;
use crate::description::Description;
use crate::{InferenceError, PruningVit};

/// The file that says what a run is.
const FILE: &str = "run.json";

/// A folder that holds a training run: `run.json`, `config.toml`, `checkpoints/`, `budgets.json` and what a training
/// logs.
#[derive(Clone, Debug)]
pub struct Run {
    path: PathBuf,
    /// What it says of itself.
    pub description: Description,
}

impl Run {
    /// The name of [`Description`]'s file in a run's folder.
    pub const FILE: &'static str = FILE;
    /// What to do about one of the folder's files that is not as it was written.
    pub const CHANGED: &'static str = "copy the folder again, or train again; where you changed the file yourself, remove the file \
         with its checksum (.crc32c) beside it";

    /// A run in this folder that says this of itself.
    pub fn new(path: PathBuf, description: Description) -> Self {
        Self { path, description }
    }

    /// Is this folder a run?
    pub fn is_in(path: &Path) -> bool {
        path.join(FILE).is_file()
    }

    /// Opens the folder of a run.
    ///
    /// # Errors
    ///
    /// Where it is none, or is damaged, or another version wrote it.
    pub fn open(path: &Path) -> Result<Self, InferenceError> {
        let file = path.join(FILE);
        if !file.is_file() {
            let reason = format!("is no run folder: it has no {FILE}");
            return Err(InferenceError::folder(path, reason));
        }
        let text = apt_data::read_text(&file)?;
        let description = Description::parse(&text, &file)?;
        if description.steps_per_epoch.is_none() {
            let reason = "has no steps_per_epoch: expected the steps between two checkpoints";
            return Err(InferenceError::folder(&file, reason));
        }
        // Last: another version's file is refused as such.
        verify(&file, Self::CHANGED)?;
        Ok(Self::new(path.to_path_buf(), description))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> CheckpointFolder {
        let steps = self.description.steps_per_epoch.unwrap_or(1);
        CheckpointFolder::new(self.path.join("checkpoints"), steps)
    }

    /// The model of a checkpoint, on `device`, without autodiff.
    ///
    /// # Errors
    ///
    /// Where the checkpoint is damaged, does not load, or holds weights that are no numbers.
    pub fn load_model(
        &self,
        checkpoint: &CheckpointSet,
        device: &Device,
    ) -> Result<PruningVit, InferenceError> {
        checkpoint.check("model")?;
        let path = checkpoint.file("model");
        let failed = |reason: String| InferenceError::Checkpoint {
            path: path.clone(),
            reason,
        };
        let description = &self.description;
        let model = PruningVit::init(&description.model, &description.policy, device)?
            .with_precision(description.dtype)?;
        let record = ModuleRecord::load(&path).map_err(|error| failed(error.to_string()))?;
        // An algorithm may have weights of its own beside those of model and policy.
        let model = model
            .try_load_record(record.allow_unused(true))
            .map_err(|error| failed(format!("{error}; it does not fit {FILE}")))?;
        Ok(model.valid())
    }
}
