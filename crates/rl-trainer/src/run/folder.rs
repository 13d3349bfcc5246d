//! The folder of a run, as a training writes it.

use std::fs;
use std::path::Path;

use apt_inference::{
    Budget, Budgets, CheckpointFolder, CheckpointSet, Description, PruningVit, Run, to_json,
    write_whole,
};
use burn::prelude::*;

use super::checkpoints::CheckpointWriter;
use crate::TrainerError;
use crate::config::ExperimentConfig;

/// A folder that holds a run: `config.toml`, `run.json`, `checkpoints/`, `metrics.jsonl`,
/// `tensorboard/`, `budgets.json` once it was calibrated, and at the end `summary.json`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    run: Run,
    /// The resolved config.
    pub config: ExperimentConfig,
}

impl RunFolder {
    /// Creates the folder of a new run.
    ///
    /// # Errors
    ///
    /// Where there is a run already, or the folder cannot be written.
    pub fn create(
        path: &Path,
        config: ExperimentConfig,
        description: Description,
    ) -> Result<Self, TrainerError> {
        if path.join("config.toml").exists() {
            return Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "holds a run already; continue it with --resume, or name another folder with --out".into(),
            });
        }
        fs::create_dir_all(path).map_err(TrainerError::io(path, "create"))?;
        let run = Self {
            run: Run::new(path.to_path_buf(), description),
            config,
        };
        run.write(Run::FILE, &to_json(run.description())?)?;
        // Last: a folder with a config is a run.
        run.write("config.toml", &run.config.to_toml()?)?;
        Ok(run)
    }

    /// Opens the folder of a run.
    ///
    /// # Errors
    ///
    /// Where it is none, is damaged, or another version wrote it.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let config = path.join("config.toml");
        if !config.is_file() {
            return Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "is no run folder: it has no config.toml".into(),
            });
        }
        // First: it says whether this version can read the config.
        let run = Run::open(path)?;
        Ok(Self {
            run,
            config: ExperimentConfig::load(&config, &[])?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.run.path()
    }

    /// What inference needs.
    pub fn description(&self) -> &Description {
        &self.run.description
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> CheckpointFolder {
        self.run.checkpoints()
    }

    /// The same for a training that writes them.
    pub(crate) fn checkpoint_writer(&self) -> CheckpointWriter {
        CheckpointWriter::of(self.checkpoints())
    }

    /// The model of a checkpoint, on `device`, without autodiff.
    ///
    /// # Errors
    ///
    /// Where the checkpoint does not load.
    pub fn load_model(
        &self,
        checkpoint: &CheckpointSet,
        device: &Device,
    ) -> Result<PruningVit, TrainerError> {
        Ok(self.run.load_model(checkpoint, device)?)
    }

    /// Writes a file of the run, whole or not at all.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), TrainerError> {
        Ok(write_whole(&self.path().join(name), text.as_bytes())?)
    }

    /// Adds a budget to those of the run, in place of one with the same target and checkpoint.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or written.
    pub fn save_budget(&self, budget: Budget) -> Result<(), TrainerError> {
        let mut budgets = Budgets::read(self.path())?;
        budgets.add(budget);
        Ok(budgets.write(self.path())?)
    }
}
