//! A run without what only its training needs.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf, absolute};

use apt_vit_model::printable;

use crate::budgets::Budgets;
use crate::checkpoints::{CheckpointFolder, CheckpointSet};
use crate::checksum::{publish, verify, write_checked};
use crate::files::partial;
use crate::staging::Staging;
use crate::{InferenceError, Run};

/// The resolved config, with which eval makes its images.
const CONFIG: &str = "config.toml";
/// What the training was worth, where it is over.
const SUMMARY: &str = "summary.json";

/// The folder of the checkpoints.
const CHECKPOINTS: &str = "checkpoints";
/// In the order in which they get to their places: a folder with `run.json` is a run.
const NAMES: [&str; 8] = [
    CHECKPOINTS,
    "budgets.json",
    "summary.json.crc32c",
    SUMMARY,
    "config.toml.crc32c",
    CONFIG,
    "run.json.crc32c",
    Run::FILE,
];

impl Run {
    /// Writes a run into `folder` that answers as this one does with `checkpoint`: its model, without the optimiser, its
    /// scores and its budgets. It cannot be trained on. What a killed try left in the folder is replaced.
    ///
    /// # Errors
    ///
    /// Where the folder holds something already, or is this run's; where the checkpoint is damaged, or a file cannot be
    /// read or written.
    pub fn slim(&self, checkpoint: &CheckpointSet, folder: &Path) -> Result<(), InferenceError> {
        self.check_apart(folder)?;
        let mut found = fs::read_dir(folder).into_iter().flatten();
        let is_used = folder.exists() && (!folder.is_dir() || found.next().is_some());
        if is_used && !Staging::is_unfinished(folder) {
            let reason = "is there already, and not an empty folder; name another folder";
            return Err(InferenceError::folder(folder, reason));
        }
        checkpoint.check("model")?;
        let mut files = Vec::new();
        for name in [SUMMARY, CONFIG, Self::FILE] {
            let path = self.path().join(name);
            if path.is_file() {
                verify(&path, Self::CHANGED)?;
                let bytes = fs::read(&path).map_err(InferenceError::io(&path, "read"))?;
                files.push((name, bytes));
            }
        }
        let staging = Staging::begin(folder, &NAMES)?;
        let place = staging.path();
        let of_run = self.checkpoints();
        let steps = self.description.steps_per_epoch.unwrap_or(1);
        let slim = CheckpointFolder::new(place.join(CHECKPOINTS), steps);
        let model = checkpoint.file("model");
        // Named as it is in the run.
        let name = model.strip_prefix(of_run.path()).unwrap_or(&model);
        let target = slim.path().join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(InferenceError::io(parent, "create"))?;
        }
        slim.mark_slim()?;
        let copy = partial(&target);
        fs::copy(&model, &copy).map_err(InferenceError::io(&copy, "write"))?;
        publish(&copy, &target)?;
        if let Some(epoch) = checkpoint.epoch
            && let Some(&scores) = of_run.scores()?.get(&epoch)
        {
            slim.save_scores(epoch, scores)?;
        }
        let budgets = Budgets::read(self.path())?.of(&checkpoint.name());
        if !budgets.0.is_empty() {
            budgets.write(&place)?;
        }
        for (name, bytes) in files {
            write_checked(&place.join(name), &bytes)?;
        }
        staging.finish()
    }

    /// Is `folder` apart from this run's? What is written into one would spoil the other.
    ///
    /// # Errors
    ///
    /// Where it is the run's folder, lies within it or holds it, also by links.
    pub fn check_apart(&self, folder: &Path) -> Result<(), InferenceError> {
        let resolved = |path: &Path| resolve(path).map_err(InferenceError::io(path, "resolve"));
        let other = resolved(folder)?;
        for own in [self.path(), self.checkpoints().path()] {
            let own = resolved(own)?;
            let relation = if other == own {
                "is"
            } else if other.starts_with(&own) {
                "lies within"
            } else if own.starts_with(&other) {
                "holds"
            } else {
                continue;
            };
            let run = printable(self.path());
            let reason = format!("{relation} the folder of the run {run}; name another folder");
            return Err(InferenceError::folder(folder, reason));
        }
        Ok(())
    }
}

/// The absolute path with links and dots resolved. Parts that do not exist yet stay as they are.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut resolved = PathBuf::new();
    for part in absolute(path)?.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir => {}
            part => {
                resolved.push(part);
                if let Ok(found) = resolved.canonicalize() {
                    resolved = found;
                }
            }
        }
    }
    Ok(resolved)
}
