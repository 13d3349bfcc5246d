//! Budgets that are fitted on images, without a run to keep them in.

use std::path::Path;

use anyhow::{Context, Result};
use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::{Budget, Model};
use apt_pruning_agent::Budgeting;
use apt_rl_trainer::{EvaluationSettings, calibrate};
use burn::module::Module;

use crate::device;
use crate::progress_bar::SearchBar;

/// Images of a forward pass.
const BATCH: usize = 64;
/// Images that budgets are fitted on, at most.
const MOST: usize = 512;

/// The images to fit on: they need no labels.
pub fn images(path: &Path) -> Result<ImageDataset> {
    let images = DataSource::load_to_learn(path, Progress::Bar).context("--fit-on")?;
    Ok(images.take(MOST))
}

/// Fits what the model's policy has to remove to compute `share` of the dense FLOPs, where there is something to fit. Its
/// budgets have it then.
pub fn fit(model: &mut Model, images: &ImageDataset, share: f64) -> Result<()> {
    let selection = model.selection().clone();
    let settings = EvaluationSettings::for_model(model, selection, BATCH);
    let bar = SearchBar::new(share);
    let told = |found| bar.found(found);
    let device = device::open();
    let found = calibrate(model.pruning(), images, share, &settings, &device, told);
    drop(bar);
    let budget = Budget {
        checkpoint: model.checkpoint().to_string(),
        ..found?
    };
    model.add_budget(budget);
    Ok(())
}

/// Says so where the policy has weights, which have learned nothing yet.
pub fn warn_untaught(model: &Model) {
    if model.pruning().policy.num_params() > 0 {
        tracing::warn!(
            "the policy {} has learned nothing of this model yet; teach it, with `aptvit prune` (without labels) or \
             `aptvit train`",
            model.description().policy.name()
        );
    }
}

/// Says so where the policy was to be fitted, and was not.
pub fn warn_unfitted(model: &Model, share: f64) {
    let is_fitted = model.budgets().find(share, model.checkpoint()).is_some();
    let policy = &model.pruning().policy;
    let has_to_be = policy.budgeting() != Budgeting::Counts && policy.num_params() == 0;
    if has_to_be && !is_fitted {
        tracing::warn!(
            "the policy {} is not fitted to this model: as many patches stay in every image as the budget allows; \
             --fit-on IMAGES fits it, without labels",
            model.description().policy.name()
        );
    }
}
