//! Checkpoints as a training writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use apt_inference::{CheckpointFolder, CheckpointSet, partial, publish, remove_checked};
use apt_vit_model::printable;
use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};

use crate::TrainerError;

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
        (model, optimizer, scheduler): (ModuleRecord, OptimizerRecord, LrSchedulerRecord),
    ) -> Result<PathBuf, TrainerError> {
        let target = self.folder.path().join(format!("pause-{step}"));
        let partial = partial(&target);
        let failed = |path: &Path, error: &dyn std::fmt::Display| TrainerError::Checkpoint {
            path: path.to_path_buf(),
            reason: error.to_string(),
        };
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(|error| failed(&partial, &error))?;
        let file = |part: &str| partial.join(format!("{part}.bpk"));
        let [of_model, of_optimizer, of_scheduler] = PARTS.map(file);
        save(model, &of_model).map_err(|error| failed(&of_model, &error))?;
        save(optimizer, &of_optimizer).map_err(|error| failed(&of_optimizer, &error))?;
        save(scheduler, &of_scheduler).map_err(|error| failed(&of_scheduler, &error))?;
        let _ = fs::remove_dir_all(&target);
        fs::rename(&partial, &target).map_err(|error| failed(&target, &error))?;
        self.remove_pauses_before(step)?;
        Ok(target)
    }

    /// Removes what a killed training left half-written.
    pub fn remove_unfinished(&self) -> Result<(), TrainerError> {
        let folder = self.folder.path();
        if !folder.is_dir() {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(TrainerError::io(folder, "list"))? {
            let path = entry.map_err(TrainerError::io(folder, "list"))?.path();
            // `tmp` is what Burn calls a record until it is whole.
            let unfinished = path
                .extension()
                .is_some_and(|end| end == "partial" || end == "tmp");
            if !unfinished {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(TrainerError::io(&path, "remove"))?;
        }
        Ok(())
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
                    remove_checked(&set.file(part))?;
                }
            }
        }
        Ok(())
    }

    /// burn-train's checkpointers for the three parts, which resume from `resume`.
    pub fn checkpointers(&self, resume: Option<&CheckpointSet>) -> [RunCheckpointer; 3] {
        let unneeded = Arc::default();
        PARTS.map(|part| RunCheckpointer {
            folder: self.folder.path().to_path_buf(),
            part,
            resume: resume.map(|set| set.file(part)),
            saved: AtomicUsize::new(0),
            unneeded: Arc::clone(&unneeded),
        })
    }
}

/// Writes a record whole or not at all, its checksum beside it.
fn save<R: Checkpoint>(record: R, path: &Path) -> Result<(), String> {
    let partial = partial(path);
    let saved = record.save(partial.clone());
    saved.map_err(|error| error.to_string())?;
    publish(&partial, path).map_err(|error| error.to_string())
}

/// A checkpointer that resumes from wherever it is told to. A record's file is there as a whole or not at all.
///
/// burn-train saves the three parts in a thread each. A file that a new epoch makes unneeded goes when all parts of that epoch
/// are there: a kill in between leaves the best epoch before.
pub(crate) struct RunCheckpointer {
    folder: PathBuf,
    part: &'static str,
    resume: Option<PathBuf>,
    /// The last epoch whose part was saved; 0 is none.
    saved: AtomicUsize,
    /// Files that go, and the epoch that has to be whole before; of all three parts.
    unneeded: Arc<Mutex<Vec<(usize, PathBuf)>>>,
}

impl RunCheckpointer {
    fn path(&self, epoch: usize) -> PathBuf {
        self.path_of(self.part, epoch)
    }

    fn path_of(&self, part: &str, epoch: usize) -> PathBuf {
        self.folder.join(format!("{part}-{epoch}.bpk"))
    }

    fn is_whole(&self, epoch: usize) -> bool {
        epoch == 0 || PARTS.iter().all(|part| self.path_of(part, epoch).is_file())
    }

    /// Removes what is unneeded now.
    fn remove_unneeded(&self) -> Result<(), CheckpointerError> {
        let mut unneeded = self.unneeded.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = unneeded.extract_if(.., |(after, _)| self.is_whole(*after));
        for (_, path) in gone {
            remove_checked(&path).map_err(|error| named(&path, error))?;
        }
        Ok(())
    }
}

fn named(path: &Path, error: impl std::fmt::Display) -> CheckpointerError {
    CheckpointerError::Unknown(format!("{}: {error}", path.display()))
}

impl<R: Checkpoint> Checkpointer<R> for RunCheckpointer {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let path = self.path(epoch);
        fs::create_dir_all(&self.folder).map_err(|error| named(&self.folder, error))?;
        save(record, &path).map_err(|error| named(&path, error))?;
        self.saved.store(epoch, Ordering::Relaxed);
        self.remove_unneeded()
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        let after = self.saved.load(Ordering::Relaxed);
        let mut unneeded = self.unneeded.lock().unwrap_or_else(PoisonError::into_inner);
        unneeded.push((after, self.path(epoch)));
        drop(unneeded);
        self.remove_unneeded()
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let path = self.resume.clone().unwrap_or_else(|| self.path(epoch));
        R::load(path.clone()).map_err(|error| named(&path, error))
    }
}

/// The newest checkpoint that a training can go on from, whole and readable; none where it starts anew.
///
/// # Errors
///
/// Where a file is damaged; where files of later epochs are missing, other than a kill leaves them; and where it is not
/// known which of the epochs up to there is the best, or the best one's model is missing.
pub(crate) fn checkpoint_to_resume(
    folder: &CheckpointFolder,
    steps_per_epoch: usize,
) -> Result<Option<CheckpointSet>, TrainerError> {
    let newest = folder.newest_complete()?;
    let steps = newest.as_ref().map_or(0, |set| set.step);
    let epochs = steps as usize / steps_per_epoch.max(1);
    let goes_on = match &newest {
        Some(set) => format!("from {}", set.name()),
        None => "from its start".to_string(),
    };
    for set in folder.incomplete()? {
        let missing = set.missing().zip(set.epoch);
        let Some((missing, epoch)) = missing.filter(|_| set.step > steps) else {
            continue;
        };
        // A kill while an epoch is saved, and maybe the next one, leaves these alone without some files.
        if epoch > epochs + 2 {
            let reason = format!(
                "is missing, so that the training can go on {goes_on} only; copy the file again, or remove the other files of \
                 epoch {epoch} (model, optim and scheduler) to make the later epochs again"
            );
            return Err(TrainerError::Checkpoint {
                path: missing,
                reason,
            });
        }
        tracing::warn!(
            "{} is missing: the training goes on {goes_on}",
            printable(&missing)
        );
    }
    if let Some(set) = &newest {
        check_readable(set)?;
    }
    folder.check_best(epochs)?;
    Ok(newest)
}

/// Are all three parts there, are they what was written, and can they be read?
fn check_readable(set: &CheckpointSet) -> Result<(), TrainerError> {
    for part in PARTS {
        set.check(part)?;
    }
    let failed = |part: &str, error: &dyn std::fmt::Display| TrainerError::Checkpoint {
        path: set.file(part),
        reason: format!("{error}; remove it to resume from an earlier one"),
    };
    ModuleRecord::load(set.file("model")).map_err(|error| failed("model", &error))?;
    OptimizerRecord::load(set.file("optim")).map_err(|error| failed("optim", &error))?;
    LrSchedulerRecord::load(set.file("scheduler")).map_err(|error| failed("scheduler", &error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn a_kill_while_a_new_best_epoch_is_saved_leaves_the_best_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let writer = CheckpointWriter::new(folder.path().to_path_buf(), 1);
        let parts = writer.checkpointers(None);
        let save = |part: &RunCheckpointer, epoch| {
            let record = LinearConfig::new(1, 1)
                .init(&Device::default())
                .into_record();
            part.save(epoch, record).unwrap();
        };
        let delete = |part: &RunCheckpointer| {
            Checkpointer::<ModuleRecord>::delete(part, 1).unwrap();
        };
        parts.iter().for_each(|part| save(part, 1));
        let [model, optimizer, scheduler] = &parts;
        for part in [model, optimizer] {
            save(part, 2);
            delete(part);
            assert!(part.path(1).is_file());
        }
        save(scheduler, 2);
        assert!(!model.path(1).exists() && !optimizer.path(1).exists());
        delete(scheduler);
        assert!(!scheduler.path(1).exists());
    }
}
