//! A run without what only its training needs.

use std::fs;
use std::path::Path;

use crate::budgets::Budgets;
use crate::checkpoints::{CheckpointFolder, CheckpointSet};
use crate::checksum::{publish, verify, write_checked};
use crate::files::partial;
use crate::{InferenceError, Run};

/// The resolved config, with which eval makes its images.
const CONFIG: &str = "config.toml";
/// What the training was worth, where it is over.
const SUMMARY: &str = "summary.json";

impl Run {
    /// Writes a run into `folder` that answers as this one does with `checkpoint`: its model, without the optimiser, its
    /// scores and its budgets. It cannot be trained on.
    ///
    /// # Errors
    ///
    /// Where the folder holds something already, the checkpoint is damaged, or a file cannot be read or written.
    pub fn slim(&self, checkpoint: &CheckpointSet, folder: &Path) -> Result<(), InferenceError> {
        let mut found = fs::read_dir(folder).into_iter().flatten();
        if folder.exists() && (!folder.is_dir() || found.next().is_some()) {
            let reason = "is there already, and not an empty folder; name another folder";
            return Err(InferenceError::folder(folder, reason));
        }
        checkpoint.check("model")?;
        let of_run = self.checkpoints();
        let steps = self.description.steps_per_epoch.unwrap_or(1);
        let slim = CheckpointFolder::new(folder.join("checkpoints"), steps);
        let model = checkpoint.file("model");
        // Named as it is in the run.
        let place = model.strip_prefix(of_run.path()).unwrap_or(&model);
        let target = slim.path().join(place);
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
            budgets.write(folder)?;
        }
        // Last: a folder with run.json is a run.
        for name in [SUMMARY, CONFIG, Self::FILE] {
            let path = self.path().join(name);
            if path.is_file() {
                verify(&path, Self::CHANGED)?;
                let bytes = fs::read(&path).map_err(InferenceError::io(&path, "read"))?;
                write_checked(&folder.join(name), &bytes)?;
            }
        }
        Ok(())
    }
}
