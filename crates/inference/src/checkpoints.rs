//! The checkpoints of a run, as they lie in its folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::InferenceError;
use crate::checksum::verify;
use crate::description::FORMAT;
use crate::files::{to_json, write_whole};
use crate::finite::check_finite;

/// The three records of a checkpoint, in the order in which burn-train restores them.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];
/// What the epochs were chosen by.
const SCORES: &str = "scores.json";
/// The file that marks checkpoints without what only a training needs.
const SLIM: &str = "slim";
/// What to do about a damaged record.
const ADVICE: &str = "choose another checkpoint with --checkpoint, or remove this file, so that an earlier one is used";

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

/// How accurate an epoch's model was on the held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochScores {
    /// Nothing removed.
    pub dense_accuracy: f64,
    /// With the policy acting.
    pub pruned_accuracy: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scores {
    format: u64,
    epochs: BTreeMap<usize, EpochScores>,
}

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

    /// The complete checkpoint of an epoch, if it is there.
    pub fn epoch(&self, epoch: usize) -> Option<CheckpointSet> {
        let set = CheckpointSet {
            step: epoch as u64 * self.steps_per_epoch,
            epoch: Some(epoch),
            folder: self.path.clone(),
        };
        self.complete(set)
    }

    /// The checkpoint, if it has all parts that it has to have.
    fn complete(&self, set: CheckpointSet) -> Option<CheckpointSet> {
        let parts = if self.is_slim() { &PARTS[..1] } else { &PARTS };
        let complete = parts.iter().all(|part| set.file(part).is_file());
        complete.then_some(set)
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

    /// Every complete checkpoint, by step.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be read.
    pub fn all(&self) -> Result<Vec<CheckpointSet>, InferenceError> {
        let mut sets = Vec::new();
        if !self.path.is_dir() {
            return Ok(sets);
        }
        let list = || InferenceError::io(&self.path, "list");
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
                sets.extend(self.complete(CheckpointSet {
                    step,
                    epoch: None,
                    folder: self.path.clone(),
                }));
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
    pub fn newest(&self) -> Result<Option<CheckpointSet>, InferenceError> {
        Ok(self.all()?.pop())
    }

    /// The checkpoint of a choice.
    ///
    /// # Errors
    ///
    /// Where there is none yet, or it is not known which is the best.
    pub fn choose(&self, choice: Choice) -> Result<CheckpointSet, InferenceError> {
        let none = || {
            InferenceError::folder(
                &self.path,
                "holds no complete checkpoint yet; continue the training with --resume",
            )
        };
        let newest = self.newest()?.ok_or_else(none)?;
        let score: fn(&EpochScores) -> f64 = match choice {
            Choice::BestPruned => |scores| scores.pruned_accuracy,
            Choice::BestDense => |scores| scores.dense_accuracy,
            Choice::Last => return Ok(newest),
        };
        let sets: Vec<CheckpointSet> = self.all()?;
        if sets.iter().all(|set| set.epoch.is_none()) {
            // Nothing was evaluated yet.
            return Ok(newest);
        }
        let scores = self.scores()?;
        let scored = sets.into_iter().filter_map(|set| {
            let scores = scores.get(&set.epoch?)?;
            Some((score(scores), set))
        });
        // The first of equals, as burn-train's strategy keeps it.
        let best = scored.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map(|(_, set)| set).ok_or_else(|| {
            let reason = "knows none of its epochs, so that the best one is not known; choose the newest with --checkpoint last";
            InferenceError::folder(&self.path.join(SCORES), reason)
        })
    }

    /// The epochs' scores, as far as they were saved.
    ///
    /// # Errors
    ///
    /// Where the file is damaged, or another version wrote it.
    pub fn scores(&self) -> Result<BTreeMap<usize, EpochScores>, InferenceError> {
        let path = self.path.join(SCORES);
        if !path.is_file() {
            return Ok(BTreeMap::new());
        }
        let text = fs::read_to_string(&path).map_err(InferenceError::io(&path, "read"))?;
        let damaged = |reason: String| {
            let reason = format!("is damaged ({reason}); choose the newest with --checkpoint last");
            InferenceError::folder(&path, reason)
        };
        let scores: Scores =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if scores.format != FORMAT {
            return Err(damaged(format!("format {}, not {FORMAT}", scores.format)));
        }
        Ok(scores.epochs)
    }

    /// Saves an epoch's scores beside those that are there; scores of later epochs go.
    ///
    /// # Errors
    ///
    /// Where the file is damaged or cannot be written.
    pub fn save_scores(&self, epoch: usize, scores: EpochScores) -> Result<(), InferenceError> {
        let mut epochs = self.scores()?;
        epochs.split_off(&epoch);
        epochs.insert(epoch, scores);
        fs::create_dir_all(&self.path).map_err(InferenceError::io(&self.path, "create"))?;
        let scores = Scores {
            format: FORMAT,
            epochs,
        };
        write_whole(&self.path.join(SCORES), to_json(&scores)?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(epochs: &[usize]) -> (tempfile::TempDir, CheckpointFolder) {
        let folder = tempfile::tempdir().unwrap();
        for epoch in epochs {
            for part in PARTS {
                fs::write(folder.path().join(format!("{part}-{epoch}.bpk")), "").unwrap();
            }
        }
        let checkpoints = CheckpointFolder::new(folder.path().to_path_buf(), 10);
        (folder, checkpoints)
    }

    #[test]
    fn the_best_epoch_is_that_of_the_saved_scores() {
        let (_folder, checkpoints) = folder(&[1, 2, 3]);
        for (epoch, dense, pruned) in [(1, 0.5, 0.9), (2, 0.8, 0.9), (3, 0.7, 0.1)] {
            let scores = EpochScores {
                dense_accuracy: dense,
                pruned_accuracy: pruned,
            };
            checkpoints.save_scores(epoch, scores).unwrap();
        }
        let chosen = |choice| checkpoints.choose(choice).unwrap().epoch;
        assert_eq!(chosen(Choice::BestPruned), Some(1));
        assert_eq!(chosen(Choice::BestDense), Some(2));
        assert_eq!(chosen(Choice::Last), Some(3));
    }

    #[test]
    fn without_scores_the_best_is_refused_and_the_newest_is_there() {
        let (folder, checkpoints) = folder(&[1, 2]);
        let refused = |choice| checkpoints.choose(choice).unwrap_err().to_string();
        assert!(refused(Choice::BestDense).contains("--checkpoint last"));
        fs::write(folder.path().join(SCORES), "{\"format\": 1").unwrap();
        assert!(refused(Choice::BestPruned).contains("damaged"));
        assert_eq!(checkpoints.choose(Choice::Last).unwrap().epoch, Some(2));
    }
}
