//! Thresholds that meet a compute budget, fitted on images held out from training.

use std::fs;
use std::path::Path;

use apt_data::{ImageDataset, Progress};
use apt_vit_model::ExecutionMode;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::evaluation::{EvaluationSettings, evaluate};
use crate::run_folder::to_json;
use crate::{PruningVit, RunFolder, TrainerError};

/// Where a run's budgets are.
const FILE: &str = "budgets.json";
/// As near to the target as is sought.
const CLOSE: f64 = 0.002;
/// Halvings of the range of thresholds.
const STEPS: usize = 24;
/// Log-odds beyond which no agent's opinion lies.
const MOST: f64 = 40.0;

/// A threshold at which a run's agents compute a given share of the dense model's FLOPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The share that was asked for.
    pub target_flops: f64,
    /// A token goes where its removal is more probable than this.
    pub threshold: f64,
    /// The share on the images that the threshold was fitted on, agents included.
    pub flops_share: f64,
    /// Share of them that is classified right.
    pub accuracy: f64,
    /// How many they were.
    pub images: usize,
    /// The checkpoint whose agents they are.
    pub checkpoint: String,
}

/// The training images that the run held out to choose its checkpoints by.
///
/// # Errors
///
/// Where the run's data cannot be read.
pub fn held_out_images(
    run: &RunFolder,
    data: Option<&Path>,
    progress: Progress,
) -> Result<ImageDataset, TrainerError> {
    let data = data.or(run.description.data.as_deref());
    let train = run.config.data.load(data, progress)?.train;
    let (_, held_out) = train.hold_out(run.config.train.held_out, run.config.seed);
    Ok(held_out)
}

/// Finds the threshold at which the agents compute the share `target` of the dense FLOPs of
/// `images`. The higher it is, the less is removed. `progress` is told each share that was found.
///
/// # Errors
///
/// Where no threshold computes so little or so much, or an image cannot be read.
pub fn calibrate(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    let mut at = |log_odds: f64| -> Result<Budget, TrainerError> {
        let threshold = 1.0 / (1.0 + (-log_odds).exp());
        let settings = EvaluationSettings {
            threshold,
            ..*settings
        };
        let modes = [ExecutionMode::Drop];
        let found = evaluate(model, images, &modes, &settings, device, |_| ())?;
        let (flops_share, accuracy) = (found[0].flops_share, found[0].accuracy);
        progress(flops_share);
        Ok(Budget {
            target_flops: target,
            threshold,
            flops_share,
            accuracy,
            images: images.len(),
            checkpoint: String::new(),
        })
    };
    let [least, most] = [at(-MOST)?, at(MOST)?];
    if !(least.flops_share - CLOSE..=most.flops_share + CLOSE).contains(&target) {
        return Err(TrainerError::Budget {
            target,
            least: least.flops_share,
            most: most.flops_share,
        });
    }
    let (mut low, mut high) = (-MOST, MOST);
    let distance = |budget: &Budget| (budget.flops_share - target).abs();
    let mut best = if distance(&least) < distance(&most) {
        least
    } else {
        most
    };
    for _ in 0..STEPS {
        if distance(&best) <= CLOSE {
            break;
        }
        let middle = (low + high) / 2.0;
        let found = at(middle)?;
        match found.flops_share < target {
            true => low = middle,
            false => high = middle,
        }
        if distance(&found) < distance(&best) {
            best = found;
        }
    }
    Ok(best)
}

impl RunFolder {
    /// Adds a budget to those of the run, in place of one with the same target and checkpoint.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or written.
    pub fn save_budget(&self, budget: Budget) -> Result<(), TrainerError> {
        let mut budgets = self.budgets()?;
        budgets.retain(|old| {
            (old.target_flops, &old.checkpoint) != (budget.target_flops, &budget.checkpoint)
        });
        budgets.push(budget);
        budgets.sort_by(|a, b| b.target_flops.total_cmp(&a.target_flops));
        self.write(FILE, &to_json(&budgets))
    }

    /// Every budget of the run.
    ///
    /// # Errors
    ///
    /// Where the file is damaged.
    pub fn budgets(&self) -> Result<Vec<Budget>, TrainerError> {
        let path = self.path().join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainerError::io(&path, "read")(error)),
        };
        serde_json::from_str(&text).map_err(|error| TrainerError::RunFolder {
            path: self.path().to_path_buf(),
            reason: format!("{FILE} is damaged: {error}"),
        })
    }

    /// The threshold of a budget that was calibrated for a checkpoint.
    ///
    /// # Errors
    ///
    /// Where it was not; the error says how.
    pub fn threshold_of(&self, target: f64, checkpoint: &str) -> Result<f64, TrainerError> {
        let budgets = self.budgets()?;
        let mut of_checkpoint = budgets
            .iter()
            .filter(|budget| budget.checkpoint == checkpoint);
        match of_checkpoint.find(|budget| (budget.target_flops - target).abs() < 1e-9) {
            Some(budget) => Ok(budget.threshold),
            None => Err(TrainerError::RunFolder {
                path: self.path().to_path_buf(),
                reason: format!(
                    "has no threshold for {target} of the FLOPs with its checkpoint {checkpoint}; \
                     find it with `aptvit calibrate --run {} --target-flops {target}`",
                    self.path().display()
                ),
            }),
        }
    }
}
