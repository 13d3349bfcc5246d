//! What is asked of a pruning, and what is refused before it begins.

use std::fs;
use std::path::Path;
use std::time::Duration;

use apt_data::{ImageDataset, PatchCorruption};
use apt_pruning_agent::PolicyConfig;
use serde_json::{Map, Value};

use super::candidate::{learns_on_frozen, restores};
use crate::{StopRequest, TrainerError};

/// The name that lets the held-out images choose the policy.
pub const AUTO: &str = "auto";
/// What `auto` chooses from.
pub(crate) const CANDIDATES: [&str; 4] = ["pairs", "tome-threshold", "pitome", "tome"];
/// With fewer images nothing can be learned.
pub(crate) const FEWEST: usize = 40;
/// What to make of a model.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// The policy's name, or [`AUTO`].
    pub policy: String,
    /// Settings of that policy; others have the defaults for a frozen model. None of [`AUTO`].
    pub settings: Map<String, Value>,
    /// Shares of the dense model's FLOPs, the policy's own included.
    pub targets: Vec<f64>,
    /// Images that are looked at, at most.
    pub images: usize,
    /// What is replaced in the images before anything looks at them; [`filter`](apt_pruning_agent::Filter) learns from that.
    pub corruption: Option<PatchCorruption>,
    /// Which images are held out, and how gates begin.
    pub seed: u64,
    /// With less time, fewer images are explored.
    pub time_limit: Option<Duration>,
    /// Ends it without a folder.
    pub stop: StopRequest,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PruneProgress<'a> {
    /// The schedules are tried: images so far, and in all.
    Exploring(usize, usize),
    /// Gates learn: the share that is over.
    Learning(f64),
    /// This policy is fitted to this share of the dense FLOPs.
    Fitting(&'a str, f64),
    /// This policy is measured: images so far, and in all.
    Measuring(&'a str, usize, usize),
}

/// Refuses what would fail at the end of a long job.
pub(crate) fn check(
    folder: &Path,
    images: &ImageDataset,
    options: &PruneOptions,
) -> Result<(), TrainerError> {
    if options.policy == "dense" {
        return Err(TrainerError::Pruning(
            "the policy dense removes nothing; choose another".into(),
        ));
    }
    if options.policy == AUTO && !options.settings.is_empty() {
        let reason = format!(
            "{AUTO} chooses among policies with their defaults; name one to give it settings"
        );
        return Err(TrainerError::Pruning(reason));
    }
    if options.policy != AUTO {
        let policy = PolicyConfig::with_settings(&options.policy, options.settings.clone())?;
        if restores(&policy) && options.corruption.is_none() {
            let reason = format!(
                "the policy {} learns from images with patches that do not belong there; corrupt them, as in --corrupt \
                 noise:0.25",
                options.policy
            );
            return Err(TrainerError::Pruning(reason));
        }
        let known = learns_on_frozen(&policy);
        if !policy.entry().algorithms.is_empty() && !known {
            let reason = format!(
                "the policy {} learns together with its model (aptvit train); for a frozen model choose {AUTO} or one of {}",
                options.policy,
                CANDIDATES.join(", ")
            );
            return Err(TrainerError::Pruning(reason));
        }
    }
    let found = images.len().min(options.images);
    if found < FEWEST {
        let reason = format!(
            "{found} images are too few to learn from: expected {FEWEST} or more, better some hundreds"
        );
        return Err(TrainerError::Pruning(reason));
    }
    let mut files = fs::read_dir(folder).into_iter().flatten();
    if folder.exists() && (!folder.is_dir() || files.next().is_some()) {
        let reason = "is there already, and not an empty folder; name another folder";
        return Err(TrainerError::RunFolder {
            path: folder.to_path_buf(),
            reason: reason.into(),
        });
    }
    Ok(())
}
