//! Checkpoints as a training writes them.

use std::fs;
use std::path::{Path, PathBuf};

use apt_inference::{CheckpointFolder, CheckpointSet};
use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};

use crate::TrainerError;
use crate::train::WarmupSchedule;

const PARTS: [&str; 3] = CheckpointFolder::PARTS;

/// Writes a run's checkpoints: one at the end of each epoch, of which burn-train's strategies keep some,
/// and one where the training was paused within an epoch.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointWriter {
    folder: CheckpointFolder,
}

impl CheckpointWriter {
    /// Into `path`.
    pub fn new(path: PathBuf, steps_per_epoch: usize) -> Self {
        Self::of(CheckpointFolder::new(path, steps_per_epoch))
    }

    pub fn of(folder: CheckpointFolder) -> Self {
        Self { folder }
    }

    /// Saves a checkpoint within an epoch, all or nothing, and removes older ones of this kind.
    pub fn save_pause(
        &self,
        step: u64,
        model: ModuleRecord,
        optimizer: OptimizerRecord,
    ) -> Result<PathBuf, TrainerError> {
        let target = self.folder.path().join(format!("pause-{step}"));
        let partial = self.folder.path().join(format!("pause-{step}.partial"));
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
    pub fn remove_pauses_before(&self, step: u64) -> Result<(), TrainerError> {
        for set in self.folder.all()? {
            if set.epoch.is_none() && set.step < step {
                let folder = self.folder.path().join(format!("pause-{}", set.step));
                fs::remove_dir_all(&folder).map_err(TrainerError::io(&folder, "remove"))?;
            }
        }
        Ok(())
    }

    /// Removes the checkpoints of all epochs but these.
    pub fn keep_epochs(&self, keep: &[usize]) -> Result<(), TrainerError> {
        for set in self.folder.all()? {
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
    pub fn checkpointers(&self, resume: Option<&CheckpointSet>) -> [RunCheckpointer; 3] {
        PARTS.map(|part| RunCheckpointer {
            folder: self.folder.path().to_path_buf(),
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
        if path.exists() {
            fs::remove_file(&path).map_err(|error| named(&path, error))
        } else {
            Ok(())
        }
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let path = self.resume.clone().unwrap_or_else(|| self.path(epoch));
        R::load(path.clone()).map_err(|error| named(&path, error))
    }
}

/// Reads the records, only to know that the files are whole.
pub(crate) fn check_readable(set: &CheckpointSet) -> Result<(), TrainerError> {
    let failed = |part: &str, error: &dyn std::fmt::Display| TrainerError::Checkpoint {
        path: set.file(part),
        reason: format!("{error}; remove it to resume from an earlier one"),
    };
    ModuleRecord::load(set.file("model")).map_err(|error| failed("model", &error))?;
    OptimizerRecord::load(set.file("optim")).map_err(|error| failed("optim", &error))?;
    LrSchedulerRecord::load(set.file("scheduler")).map_err(|error| failed("scheduler", &error))?;
    Ok(())
}
