//! The folder of a run, as a training writes it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apt_data::read_text;
use apt_inference::{
    Budget, Budgets, CheckpointFolder, CheckpointSet, Description, PruningVit, Run, to_json,
    verify, write_checked,
};
use burn::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::checkpoints::CheckpointWriter;
use super::lock::RunLock;
use crate::TrainerError;
use crate::config::ExperimentConfig;
use crate::log::RunLog;

/// The resolved config: a folder that has it is a run.
const CONFIG: &str = "config.toml";
/// What a finished training was worth.
const SUMMARY: &str = "summary.json";
/// What to do about a damaged summary.
const MEASURE_AGAIN: &str = "copy the file again, or remove it with its checksum (.crc32c) beside it, and let `aptvit train \
                             --resume` measure the run again";

/// A folder that holds a run: `config.toml`, `run.json`, `checkpoints/`, `metrics.jsonl`,
/// `tensorboard/`, `budgets.json` once it was calibrated, and at the end `summary.json`.
#[derive(Clone, Debug)]
pub struct RunFolder {
    run: Run,
    /// The resolved config.
    pub config: ExperimentConfig,
    /// Seconds that earlier sessions of its training took.
    seconds_before: f64,
    /// Keeps other trainings out as long as one is at work.
    _lock: Option<Arc<RunLock>>,
}

impl RunFolder {
    /// Makes an empty folder for a run that nobody named: `NAME` in `parent`, or the first of `NAME-2`, `NAME-3`, ...
    /// that is not there yet. No two processes get the same one.
    ///
    /// # Errors
    ///
    /// Where no folder can be made.
    pub fn claim(parent: &Path, name: &str) -> Result<PathBuf, TrainerError> {
        fs::create_dir_all(parent).map_err(TrainerError::io(parent, "create"))?;
        let mut number = 1;
        loop {
            let folder = if number == 1 {
                parent.join(name)
            } else {
                parent.join(format!("{name}-{number}"))
            };
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(folder),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(TrainerError::io(&folder, "create")(error)),
            }
        }
    }

    /// Creates the folder of a new run, and keeps other trainings out of it as long as this value and its clones live.
    ///
    /// # Errors
    ///
    /// Where there is a run already, another training is at work there, or the folder cannot be written.
    pub fn create(
        path: &Path,
        config: ExperimentConfig,
        description: Description,
    ) -> Result<Self, TrainerError> {
        let refuse_run = || {
            if !path.join(CONFIG).exists() {
                return Ok(());
            }
            Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "holds a run already; continue it with --resume, or name another folder with --out".into(),
            })
        };
        refuse_run()?;
        fs::create_dir_all(path).map_err(TrainerError::io(path, "create"))?;
        let lock = RunLock::take(path)?;
        // Another training may have begun and ended meanwhile.
        refuse_run()?;
        let run = Self {
            run: Run::new(path.to_path_buf(), description),
            config,
            seconds_before: 0.0,
            _lock: Some(Arc::new(lock)),
        };
        let write = |name: &str, text: String| write_checked(&path.join(name), text.as_bytes());
        write(Run::FILE, to_json(run.description())?)?;
        // Last: a folder with a config is a run.
        write(CONFIG, run.config.to_toml()?)?;
        Ok(run)
    }

    /// Opens the folder of a run, to read it.
    ///
    /// # Errors
    ///
    /// Where it is none, is damaged, or another version wrote it.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let config = path.join(CONFIG);
        if !config.is_file() {
            return Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "is no run folder: it has no config.toml".into(),
            });
        }
        // First: it says whether this version can read the config.
        let run = Run::open(path)?;
        // A config that was cut short would be read with defaults.
        verify(&config, Run::CHANGED)?;
        Ok(Self {
            run,
            config: ExperimentConfig::load(&config, &[])?,
            seconds_before: 0.0,
            _lock: None,
        })
    }

    /// Opens the folder of a run to go on with its training: keeps other trainings out of it as long as this value and its
    /// clones live, and removes what a killed one left half-written.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and where another training is at work there, or the run was slimmed.
    pub fn open_to_train(path: &Path) -> Result<Self, TrainerError> {
        let mut run = Self::open(path)?;
        if run.checkpoints().is_slim() {
            return Err(TrainerError::RunFolder {
                path: path.to_path_buf(),
                reason: "the optimiser is missing: the run was slimmed, so that it answers but cannot be trained on; \
                         resume the run that it came from"
                    .into(),
            });
        }
        run._lock = Some(Arc::new(RunLock::take(path)?));
        run.checkpoint_writer().remove_unfinished()?;
        run.seconds_before = RunLog::seconds(path)?;
        Ok(run)
    }

    /// Seconds that earlier sessions of the training took, where it was opened to train.
    pub fn seconds_before(&self) -> f64 {
        self.seconds_before
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

    /// Saves what the finished training was worth, with its checksum.
    pub(crate) fn save_summary(&self, summary: &impl Serialize) -> Result<(), TrainerError> {
        let text = to_json(summary)?;
        Ok(write_checked(&self.path().join(SUMMARY), text.as_bytes())?)
    }

    /// What `summary.json` says of a finished training; none where it is not finished.
    ///
    /// # Errors
    ///
    /// Where the file is damaged.
    pub fn summary(&self) -> Result<Option<Value>, TrainerError> {
        let path = self.path().join(SUMMARY);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        verify(&path, MEASURE_AGAIN)?;
        let damaged = |reason: String| TrainerError::RunFolder {
            path: path.clone(),
            reason: format!("is damaged: {reason}; {MEASURE_AGAIN}"),
        };
        // Earlier versions wrote no checksum.
        let summary: Value =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        for key in ["dense_accuracy", "pruned_accuracy", "flops_share"] {
            if !summary[key].is_number() {
                let reason = format!("{key} = {}, expected a number", summary[key]);
                return Err(damaged(reason));
            }
        }
        Ok(Some(summary))
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
