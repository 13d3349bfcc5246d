//! The checkpoints of a run, as they lie in its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use apt_vit_model::printable;

use crate::InferenceError;
use crate::checksum::verify;
use crate::files::write_whole;
use crate::finite::check_finite;
use crate::scores::{self, EpochScores, Epochs, best};

/// The three records of a checkpoint, in the order in which burn-train restores them.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];
/// What the epochs were chosen by.
const SCORES: &str = "scores.json";
/// The file that marks checkpoints without what only a training needs.
const SLIM: &str = "slim";
/// What to do about a damaged record.
const ADVICE: &str = "copy it again, or choose another checkpoint with --checkpoint; to train on from an earlier one, remove this one's files";

/// Which of a run's checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The one that was most accurate with the policy acting, on the held-out images.
    #[default]
    BestPruned,
    /// The one that was most accurate dense, on the held-out images.
    BestDense,
    /// The newest.
    Last,
}

/// A checkpoint: its model is there, and can answer. To go on with its training it needs its other parts, too.
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

    /// The first of its files that is not there.
    pub fn missing(&self) -> Option<PathBuf> {
        let mut files = PARTS.iter().map(|part| self.file(part));
        files.find(|file| !file.is_file())
    }

    /// Is a part what was written? A model's weights have to be numbers, too.
    ///
    /// # Errors
    ///
    /// Where the file is missing or damaged, or a weight is NaN or infinite.
    pub fn check(&self, part: &str) -> Result<(), InferenceError> {
        let path = self.file(part);
        if !path.is_file() {
            let reason = if self.folder.join(SLIM).is_file() {
                "is missing: the run was slimmed, so that it answers but cannot be trained on; resume the run that it came \
                 from"
            } else {
                "is missing: the checkpoint is not complete; choose another one"
            };
            return Err(InferenceError::folder(&path, reason));
        }
        verify(&path, ADVICE)?;
        if part == "model" {
            check_finite(&path).map_err(|reason| InferenceError::Checkpoint {
                reason: format!("{reason}; {ADVICE}"),
                path,
            })?;
        }
        Ok(())
    }

    /// What people call it: `epoch 3 (step 1500)`.
    pub fn name(&self) -> String {
        match self.epoch {
            Some(epoch) => format!("epoch {epoch} (step {})", self.step),
            None => format!("step {}", self.step),
        }
    }
}

/// A run's checkpoints: one at the end of each epoch, of which a training keeps some, and one where the training was
/// paused within an epoch.
#[derive(Clone, Debug)]
pub struct CheckpointFolder {
    path: PathBuf,
    steps_per_epoch: u64,
}

impl CheckpointFolder {
    /// The records of a checkpoint.
    pub const PARTS: [&'static str; 3] = PARTS;

    /// The checkpoints in `path`.
    pub fn new(path: PathBuf, steps_per_epoch: usize) -> Self {
        Self {
            path,
            steps_per_epoch: steps_per_epoch as u64,
        }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Are there only models, without what a training goes on from?
    pub fn is_slim(&self) -> bool {
        self.path.join(SLIM).is_file()
    }

    /// Says that there are only models from now on.
    pub(crate) fn mark_slim(&self) -> Result<(), InferenceError> {
        let text = "Only models are here: enough for eval, infer and export, not for going on with the training.\n";
        write_whole(&self.path.join(SLIM), text.as_bytes())
    }

    fn names(&self) -> Result<Vec<String>, InferenceError> {
        if !self.path.is_dir() {
            return Ok(Vec::new());
        }
        let list = || InferenceError::io(&self.path, "list");
        let entries = fs::read_dir(&self.path).map_err(list())?;
        let names = entries.map(|entry| {
            let name = entry.map_err(list())?.file_name();
            Ok(name.to_string_lossy().into_owned())
        });
        names.collect()
    }

    fn set(&self, step: u64, epoch: Option<usize>) -> CheckpointSet {
        CheckpointSet {
            step,
            epoch,
            folder: self.path.clone(),
        }
    }

    fn of_epoch(&self, epoch: usize) -> CheckpointSet {
        self.set(epoch as u64 * self.steps_per_epoch, Some(epoch))
    }

    /// Every checkpoint whose model is there, by step.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn all(&self) -> Result<Vec<CheckpointSet>, InferenceError> {
        let of_name = |name: &String| {
            if let Some(epoch) = epoch_of(name, "model") {
                return Some(self.of_epoch(epoch));
            }
            let step = name.strip_prefix("pause-")?.parse().ok()?;
            Some(self.set(step, None))
        };
        let names = self.names()?;
        let sets = names.iter().filter_map(of_name);
        let mut sets: Vec<_> = sets.filter(|set| set.file("model").is_file()).collect();
        sets.sort_by_key(|set| (set.step, set.epoch.is_some()));
        Ok(sets)
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn newest(&self) -> Result<Option<CheckpointSet>, InferenceError> {
        Ok(self.all()?.pop())
    }

    /// The newest checkpoint that has all that its training needs to go on.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn newest_complete(&self) -> Result<Option<CheckpointSet>, InferenceError> {
        let mut sets = self.all()?.into_iter().rev();
        Ok(sets.find(|set| set.missing().is_none()))
    }

    /// Epochs of which some files are there and some are not, by step.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn incomplete(&self) -> Result<Vec<CheckpointSet>, InferenceError> {
        let names = self.names()?;
        let epochs: BTreeSet<usize> = epochs_of(&names).collect();
        let sets = epochs.into_iter().map(|epoch| self.of_epoch(epoch));
        Ok(sets.filter(|set| set.missing().is_some()).collect())
    }

    /// The checkpoint of a choice. It needs no file but its model; which one is the best is said by the saved scores alone.
    ///
    /// # Errors
    ///
    /// Where there is none yet, where the best one's model is missing, or it is not known which is the best.
    pub fn choose(&self, choice: Choice) -> Result<CheckpointSet, InferenceError> {
        let newest = || {
            let reason = if self.is_slim() {
                "holds no model any more; copy the folder again, or export the run again"
            } else {
                "holds no complete checkpoint yet; continue the training with --resume"
            };
            let none = || InferenceError::folder(&self.path, reason);
            self.newest()?.ok_or_else(none)
        };
        let score: fn(&EpochScores) -> f64 = match choice {
            Choice::BestPruned => |scores| scores.pruned_accuracy,
            Choice::BestDense => |scores| scores.dense_accuracy,
            Choice::Last => return newest(),
        };
        let mut scores = self.scores()?;
        if !self.is_slim() {
            // A training that was killed between an epoch's scores and its checkpoint has none of that epoch's files.
            let mut names = self.names()?;
            // A checksum alone says that its file was there.
            let files = names
                .iter()
                .filter_map(|name| Some(name.strip_suffix(".crc32c")?.to_string()));
            names.extend(files.collect::<Vec<_>>());
            let saved = epochs_of(&names).max();
            scores.retain(|&epoch, _| Some(epoch) <= saved);
        }
        // Those of later epochs are being made again.
        let scored = scores.keys().last().copied();
        self.check_scored(&scores, scored.unwrap_or(usize::MAX))?;
        match best(&scores, score) {
            Some(epoch) => self.present(epoch),
            // Nothing was evaluated yet.
            None => newest(),
        }
    }

    /// The epochs up to `last` that were the most accurate, with the policy acting and dense.
    ///
    /// # Errors
    ///
    /// Where the scores are damaged.
    pub fn best_epochs(&self, last: usize) -> Result<Vec<usize>, InferenceError> {
        let mut scores = self.scores()?;
        scores.retain(|&epoch, _| epoch <= last);
        let pruned = best(&scores, |scores| scores.pruned_accuracy);
        let dense = best(&scores, |scores| scores.dense_accuracy);
        Ok(pruned.into_iter().chain(dense).collect())
    }

    /// Is it known which epoch up to `last` is the best, and is that one's model there?
    ///
    /// # Errors
    ///
    /// Where it is not.
    pub fn check_best(&self, last: usize) -> Result<(), InferenceError> {
        self.check_scored(&self.scores()?, last)?;
        for epoch in self.best_epochs(last)? {
            self.present(epoch)?;
        }
        Ok(())
    }

    /// Has each epoch up to `last` whose model is there its scores?
    fn check_scored(&self, scores: &Epochs, last: usize) -> Result<(), InferenceError> {
        let sets = self.all()?;
        let mut epochs = sets.iter().filter_map(|set| set.epoch);
        match epochs.find(|epoch| *epoch <= last && !scores.contains_key(epoch)) {
            None => Ok(()),
            Some(epoch) => {
                let reason = format!(
                    "has no scores of epoch {epoch}, whose checkpoint is there, so that the best one is not known; copy the \
                     file again, or choose the newest with --checkpoint last; to do without epoch {epoch}, remove its \
                     files ({})",
                    printable(&self.of_epoch(epoch).file("model"))
                );
                Err(InferenceError::folder(&self.path.join(SCORES), reason))
            }
        }
    }

    /// The best epoch's checkpoint.
    fn present(&self, epoch: usize) -> Result<CheckpointSet, InferenceError> {
        let set = self.of_epoch(epoch);
        let file = set.file("model");
        if file.is_file() {
            return Ok(set);
        }
        let reason = format!(
            "is missing: by {SCORES}, epoch {epoch} is the best one; copy the file again, or choose the newest with \
             --checkpoint last; to use the next best, remove epoch {epoch} from {SCORES}, with the line `checksum`"
        );
        Err(InferenceError::folder(&file, reason))
    }

    /// The epochs' scores, as far as they were saved.
    ///
    /// # Errors
    ///
    /// Where the file is damaged, or another version wrote it.
    pub fn scores(&self) -> Result<BTreeMap<usize, EpochScores>, InferenceError> {
        scores::read(&self.path.join(SCORES))
    }

    /// Saves an epoch's scores beside those that are there; scores of later epochs go.
    ///
    /// # Errors
    ///
    /// Where the file is damaged or cannot be written.
    pub fn save_scores(&self, epoch: usize, scores: EpochScores) -> Result<(), InferenceError> {
        let mut epochs = self.scores()?;
        epochs.split_off(&epoch);
        epochs.insert(epoch, scores.rounded());
        fs::create_dir_all(&self.path).map_err(InferenceError::io(&self.path, "create"))?;
        scores::write(&self.path.join(SCORES), epochs)
    }
}

/// The epochs of which some part has a file.
fn epochs_of(names: &[String]) -> impl Iterator<Item = usize> {
    let of_name = |name: &String| PARTS.iter().find_map(|part| epoch_of(name, part));
    names.iter().filter_map(of_name)
}

/// The epoch of a part's file, by its name.
fn epoch_of(name: &str, part: &str) -> Option<usize> {
    let rest = name.strip_prefix(part)?.strip_prefix('-')?;
    rest.strip_suffix(".bpk")?.parse().ok()
}

#[cfg(test)]
mod tests;
