//! Thresholds that meet a compute budget, fitted on images held out from training.

use std::fs;
use std::path::Path;

use apt_data::{EvalLoader, ImageDataset, Progress};
use apt_pruning_agent::Amount;
use apt_vit_model::{ExecutionMode, RunSettings};
use burn::data::dataloader::DataLoader;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::evaluation::{EvaluationSettings, evaluate, sides};
use crate::record::Recorder;
use crate::run_folder::to_json;
use crate::{PruningVit, RunFolder, TrainerError};

/// Where a run's budgets are.
const FILE: &str = "budgets.json";
/// As near to the target as is sought.
const CLOSE: f64 = 0.002;
/// Halvings of the range of thresholds.
const STEPS: usize = 24;
/// Tries to meet a share with scores.
const ROUNDS: usize = 8;
/// Log-odds beyond which no agent's opinion lies.
const MOST: f64 = 40.0;

/// How much a run's agents have to remove to compute a given share of the dense model's FLOPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The share that was asked for.
    pub target_flops: f64,
    /// How much that is.
    #[serde(flatten)]
    pub amount: Amount,
    /// The share on the images that it was fitted on, agents included.
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

/// Finds how much the agents have to remove to compute the share `target` of the dense FLOPs of
/// `images`. `progress` is told each share that was found.
///
/// Agents that were trained with budgets get a least score for each of their layers, so that of all
/// images' patches as many stay there as a count for one image would leave; others, whose amount in
/// `settings` is a threshold, get one threshold for all layers.
///
/// # Errors
///
/// Where agents cannot compute so little or so much, or an image cannot be read.
pub fn calibrate(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    match settings.amount {
        Amount::Threshold { .. } => by_threshold(model, images, target, settings, device, progress),
        _ => by_scores(model, images, target, settings, device, progress),
    }
}

/// The share and the accuracy that an amount gives.
fn tried(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    amount: Amount,
) -> Result<Budget, TrainerError> {
    let settings = EvaluationSettings {
        amount: amount.clone(),
        ..settings.clone()
    };
    let modes = [ExecutionMode::Drop];
    let found = evaluate(model, images, &modes, &settings, device, |_| ())?;
    Ok(Budget {
        target_flops: target,
        amount,
        flops_share: found[0].flops_share,
        accuracy: found[0].accuracy,
        images: images.len(),
        checkpoint: String::new(),
    })
}

/// Least scores, layer by layer. What is kept in the mean is scaled until the share fits: images that keep
/// different numbers compute a little more than the same mean would.
fn by_scores(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    let patches = model.config().num_patches() as f64;
    let kept = model.kept_for(target)?;
    let mut aimed = 1.0;
    let mut best: Option<Budget> = None;
    for _ in 0..ROUNDS {
        let rates: Vec<f64> = kept
            .iter()
            .map(|&kept| (kept as f64 / patches * aimed).min(1.0))
            .collect();
        let scores = least_scores(model, images, &rates, settings, device)?;
        let found = tried(
            model,
            images,
            target,
            settings,
            device,
            Amount::Scores { scores },
        )?;
        progress(found.flops_share);
        let miss = found.flops_share - target;
        // What is computed before the first agent does not shrink with what they keep.
        aimed *= (1.0 - miss / target * 1.5).clamp(0.8, 1.25);
        let closer = |best: &Budget| miss.abs() < (best.flops_share - target).abs();
        if best.as_ref().is_none_or(closer) {
            best = Some(found);
        }
        if miss.abs() <= CLOSE {
            break;
        }
    }
    best.ok_or_else(|| TrainerError::Training("no budget was tried".into()))
}

/// Per agent layer, the score above which the share `rates` of all images' patches stay.
fn least_scores(
    model: &PruningVit,
    images: &ImageDataset,
    rates: &[f64],
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Vec<f64>, TrainerError> {
    let config = model.config();
    let loader = EvalLoader::new(
        images.clone(),
        settings.batch_size,
        sides(config.image_size),
        settings.normalization,
        settings.workers,
    );
    let loader = loader.to_device(device);
    let mut least = Vec::new();
    for (&layer, &rate) in model.agents.layers.iter().zip(rates) {
        let amount = Amount::Scores {
            scores: least.clone(),
        };
        let mut scores: Vec<f64> = Vec::new();
        for batch in loader.iter() {
            let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
            let reducer = model
                .policy()
                .reducer(&model.agents, config, &amount, &[], None);
            let recorder = Recorder::new(&*reducer);
            let run = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&recorder),
            };
            model
                .vit
                .run_blocks(model.vit.embed(batch.images), 0..layer + 1, run);
            for decision in recorder.into_decisions() {
                let rows = decision.patch_rows();
                if let Some(logits) = decision.logits.filter(|_| decision.layer == layer) {
                    let values: Vec<f64> = logits.into_data().iter::<f64>().collect();
                    scores.extend(
                        rows.iter()
                            .map(|&row| values[2 * row] - values[2 * row + 1]),
                    );
                }
            }
        }
        scores.sort_by(|a, b| b.total_cmp(a));
        let kept = (rate * (config.num_patches() * images.len()) as f64).round() as usize;
        least.push(match kept {
            kept if kept >= scores.len() => f64::MIN,
            0 => f64::MAX,
            // Between the last that stays and the first that goes.
            kept => (scores[kept - 1] + scores[kept]) / 2.0,
        });
    }
    Ok(least)
}

/// The threshold of all layers; the higher it is, the less is removed.
fn by_threshold(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    let mut at = |log_odds: f64| -> Result<Budget, TrainerError> {
        let threshold = 1.0 / (1.0 + (-log_odds).exp());
        let amount = Amount::Threshold { threshold };
        let found = tried(model, images, target, settings, device, amount)?;
        progress(found.flops_share);
        Ok(found)
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

    /// How much the policy removes: what computes `target` of the dense FLOPs, or where absent the first
    /// of the run's budgets, or where it has none, its threshold.
    ///
    /// # Errors
    ///
    /// Where agents have to be calibrated for that first; the error says how.
    pub fn amount(
        &self,
        model: &PruningVit,
        target: Option<f64>,
        checkpoint: &str,
    ) -> Result<Amount, TrainerError> {
        let usual = self.config.budget.flops.first().copied();
        let Some(target) = target.or(usual) else {
            return Ok(Amount::Threshold {
                threshold: self.description.threshold,
            });
        };
        if model.counts_tokens() {
            let kept = model.kept_for(target)?;
            return Ok(Amount::Kept { kept });
        }
        let budgets = self.budgets()?;
        let mut of_checkpoint = budgets
            .iter()
            .filter(|budget| budget.checkpoint == checkpoint);
        match of_checkpoint.find(|budget| (budget.target_flops - target).abs() < 1e-9) {
            Some(budget) => Ok(budget.amount.clone()),
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
