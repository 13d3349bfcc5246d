use std::fs;
use std::path::{Path, PathBuf};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};

use crate::TrainerError;
use crate::schedule::WarmupSchedule;

/// The three records of a checkpoint, in the order in which burn-train restores them.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSet {
    /// Optimiser steps that it has seen.
    pub step: u64,
    /// The epoch whose end it is; none for a pause within an epoch.
    pub epoch: Option<usize>,
    folder: PathBuf,
}

impl CheckpointSet {
    /// The file of a part: `model`, `optim` or `scheduler`.
    pub fn file(&self, part: &str) -> PathBuf {
        match self.epoch {
            Some(epoch) => self.folder.join(format!("{part}-{epoch}.bpk")),
            None => self
                .folder
                .join(format!("pause-{}", self.step))
                .join(format!("{part}.bpk")),
        }
    }

    /// How people call it: `epoch 3 (step 1500)`.
    pub fn folder_name(&self) -> String {
        match self.epoch {
            Some(epoch) => format!("epoch {epoch} (step {})", self.step),
            None => format!("step {}", self.step),
        }
    }
}

/// A run's checkpoints: one at the end of each epoch, of which burn-train's strategies keep some,
/// and one where the training was paused within an epoch.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    path: PathBuf,
    steps_per_epoch: u64,
}

impl CheckpointFolder {
    /// The checkpoints in `path`.
    pub fn new(path: PathBuf, steps_per_epoch: usize) -> Self {
        Self {
            path,
            steps_per_epoch: steps_per_epoch as u64,
        }
    }

    /// The complete checkpoint of an epoch, if it is there.
    pub fn epoch(&self, epoch: usize) -> Option<CheckpointSet> {
        let set = CheckpointSet {
            step: epoch as u64 * self.steps_per_epoch,
            epoch: Some(epoch),
            folder: self.path.clone(),
        };
        PARTS
            .iter()
            .all(|part| set.file(part).is_file())
            .then_some(set)
    }

    /// Every complete checkpoint, by step.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn all(&self) -> Result<Vec<CheckpointSet>, TrainerError> {
        let mut sets = Vec::new();
        if !self.path.is_dir() {
            return Ok(sets);
        }
        let list = || TrainerError::io(&self.path, "list");
        for entry in fs::read_dir(&self.path).map_err(list())? {
            let name = entry.map_err(list())?.file_name();
            let name = name.to_string_lossy();
            let epoch = name
                .strip_prefix("model-")
                .and_then(|rest| rest.strip_suffix(".bpk"));
            if let Some(epoch) = epoch.and_then(|epoch| epoch.parse().ok()) {
                sets.extend(self.epoch(epoch));
            }
            if let Some(step) = name
                .strip_prefix("pause-")
                .and_then(|step| step.parse().ok())
            {
                sets.push(CheckpointSet {
                    step,
                    epoch: None,
                    folder: self.path.clone(),
                });
            }
        }
        sets.sort_by_key(|set| (set.step, set.epoch.is_some()));
        Ok(sets)
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn newest(&self) -> Result<Option<CheckpointSet>, TrainerError> {
        Ok(self.all()?.pop())
    }

    /// Saves a checkpoint within an epoch, all or nothing, and removes older ones of this kind.
    pub(crate) fn save_pause(
        &self,
        step: u64,
        model: ModuleRecord,
        optimizer: OptimizerRecord,
    ) -> Result<PathBuf, TrainerError> {
        let target = self.path.join(format!("pause-{step}"));
        let partial = self.path.join(format!("pause-{step}.partial"));
        let failed = |path: &Path, error: &dyn std::fmt::Display| TrainerError::Checkpoint {
            path: path.to_path_buf(),
            reason: error.to_string(),
        };
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(|error| failed(&partial, &error))?;
        let scheduler = WarmupSchedule::record_after(step as usize);
        let file = |part: &str| partial.join(format!("{part}.bpk"));
        model
            .save(file("model"))
            .map_err(|error| failed(&file("model"), &error))?;
        optimizer
            .save(file("optim"))
            .map_err(|error| failed(&file("optim"), &error))?;
        scheduler
            .save(file("scheduler"))
            .map_err(|error| failed(&file("scheduler"), &error))?;
        let _ = fs::remove_dir_all(&target);
        fs::rename(&partial, &target).map_err(|error| failed(&target, &error))?;
        self.remove_pauses_before(step)?;
        Ok(target)
    }

    /// Removes pauses that a later checkpoint has overtaken.
    pub(crate) fn remove_pauses_before(&self, step: u64) -> Result<(), TrainerError> {
        for set in self.all()? {
            if set.epoch.is_none() && set.step < step {
                let folder = self.path.join(format!("pause-{}", set.step));
                fs::remove_dir_all(&folder).map_err(TrainerError::io(&folder, "remove"))?;
            }
        }
        Ok(())
    }

    /// Removes the checkpoints of all epochs but these.
    pub(crate) fn keep_epochs(&self, keep: &[usize]) -> Result<(), TrainerError> {
        for set in self.all()? {
            if set.epoch.is_some_and(|epoch| !keep.contains(&epoch)) {
                for part in PARTS {
                    let file = set.file(part);
                    fs::remove_file(&file).map_err(TrainerError::io(&file, "remove"))?;
                }
            }
        }
        Ok(())
    }

    /// burn-train's checkpointers for the three parts, which resume from `resume`.
    pub(crate) fn checkpointers(&self, resume: Option<&CheckpointSet>) -> [RunCheckpointer; 3] {
        PARTS.map(|part| RunCheckpointer {
            folder: self.path.clone(),
            part,
            resume: resume.map(|set| set.file(part)),
        })
    }
}

/// A checkpointer that resumes from wherever it is told to. Burn writes each record to a scratch
/// file and renames it, so that a file is there as a whole or not at all.
pub(crate) struct RunCheckpointer {
    folder: PathBuf,
    part: &'static str,
    resume: Option<PathBuf>,
}

impl RunCheckpointer {
    fn path(&self, epoch: usize) -> PathBuf {
        self.folder.join(format!("{}-{epoch}.bpk", self.part))
    }
}

fn named(path: &Path, error: impl std::fmt::Display) -> CheckpointerError {
    CheckpointerError::Unknown(format!("{}: {error}", path.display()))
}

impl<R: Checkpoint> Checkpointer<R> for RunCheckpointer {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let path = self.path(epoch);
        fs::create_dir_all(&self.folder).map_err(|error| named(&self.folder, error))?;
        record
            .save(path.clone())
            .map_err(|error| named(&path, error))
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        let path = self.path(epoch);
        match path.exists() {
            true => fs::remove_file(&path).map_err(|error| named(&path, error)),
            false => Ok(()),
        }
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let path = self.resume.clone().unwrap_or_else(|| self.path(epoch));
        R::load(path.clone()).map_err(|error| named(&path, error))
    }
}

/// Reads a scheduler record, only to know that the file is whole.
pub(crate) fn is_readable(set: &CheckpointSet) -> Result<(), TrainerError> {
    let failed = |part: &str, error: &dyn std::fmt::Display| TrainerError::Checkpoint {
        path: set.file(part),
        reason: format!("{error}; remove it to resume from an earlier one"),
    };
    ModuleRecord::load(set.file("model")).map_err(|error| failed("model", &error))?;
    OptimizerRecord::load(set.file("optim")).map_err(|error| failed("optim", &error))?;
    LrSchedulerRecord::load(set.file("scheduler")).map_err(|error| failed("scheduler", &error))?;
    Ok(())
}
