//! What a policy has to remove to meet a compute budget, fitted on images held out from training.

use apt_data::ImageDataset;
use apt_inference::{Budget, InferenceError, Model, PruningVit};
use apt_pruning_agent::{Budgeting, MOST_LOG_ODDS, Selection, least_scores_at};
use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, TokenBatch};
use burn::prelude::*;

use super::certainty::cascade_for;
use super::embedded::{embed, share_of};
use super::evaluation::evaluate;
use super::settings::EvaluationSettings;
use crate::TrainerError;
use crate::algorithm::Recorder;
use crate::prune::{ScheduleSearch, TriedSchedule};
use crate::run::RunFolder;

/// As near to the target as is sought.
const CLOSE: f64 = 0.001;
/// Halvings of the range of thresholds.
const STEPS: usize = 24;
/// Tries to meet a share with scores.
const ROUNDS: usize = 8;

/// Finds what the policy has to remove to compute the share `target` of the dense FLOPs of
/// `images`. `progress` is told each share that was found.
///
/// Agents that were trained without a budget, whose selection in `settings` is a threshold, get another threshold. Others
/// get a least score for each of their blocks: so that of all images' patches as many stay there as a count for one image
/// would keep, or where scores are comparable between blocks, by one price of computing, or the same one in every block. A
/// schedule is searched. A policy that counts tokens needs none of this.
///
/// # Errors
///
/// Where the policy cannot compute so little or so much, an image cannot be read, or its logits are not finite.
pub fn calibrate(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    if let Selection::Threshold { .. } = settings.selection {
        return by_threshold(model, images, target, settings, device, progress);
    }
    // What is fitted to scores that are no numbers says nothing; the first images tell.
    let first = images.take(settings.batch_size);
    evaluate(
        model,
        &first,
        &[ExecutionMode::Dense],
        settings,
        device,
        |_| (),
    )?;
    match model.policy.budgeting() {
        Budgeting::Counts => {
            let kept = model.kept_for(target)?;
            let selection = Selection::Kept { kept };
            tried(model, images, target, settings, device, selection)
        }
        Budgeting::Level { most } => {
            let of = |number: f64| Selection::LeastScores {
                scores: vec![number / MOST_LOG_ODDS * most; model.policy.blocks().len()],
            };
            by_halving(model, images, target, settings, device, progress, of)
        }
        Budgeting::Allocation => {
            let of = |price: f64| model.policy.at_price(price.exp());
            by_halving(model, images, target, settings, device, progress, of)
        }
        Budgeting::Certainty { first } => {
            let kept = model.kept_for(first * target)?;
            let selection = cascade_for(model, images, kept, target, settings, device)?;
            tried(model, images, target, settings, device, selection)
        }
        Budgeting::Price => by_price(model, images, target, settings, device, progress),
        Budgeting::Schedule => {
            let search = ScheduleSearch::default();
            let each = |tried: &TriedSchedule| progress(tried.flops_share);
            let found = search.run(model, images, target, settings, device, each)?;
            let selection = Selection::Kept { kept: found.kept };
            tried(model, images, target, settings, device, selection)
        }
        Budgeting::Scores => by_scores(model, images, target, settings, device, progress),
    }
}

/// The share and the accuracy that a selection gives.
fn tried(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    selection: Selection,
) -> Result<Budget, TrainerError> {
    let settings = EvaluationSettings {
        selection: selection.clone(),
        ..settings.clone()
    };
    let modes = [ExecutionMode::Drop];
    let found = evaluate(model, images, &modes, &settings, device, |_| ())?;
    Ok(Budget {
        target_flops: target,
        selection,
        flops_share: found[0].flops_share,
        accuracy: found[0].accuracy,
        images: images.len(),
        checkpoint: String::new(),
    })
}

/// Least scores, block by block. What is kept in the mean is scaled until the share fits: images that keep
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
    let embedded = embed(model, images, settings, device)?;
    let mut aimed = 1.0;
    let mut best: Option<(f64, Vec<f64>)> = None;
    for _ in 0..ROUNDS {
        let rates: Vec<f64> = kept
            .iter()
            .map(|&kept| (kept as f64 / patches * aimed).min(1.0))
            .collect();
        let (scores, share) = least_scores(model, &embedded, &rates);
        progress(share);
        let miss = share - target;
        // What is computed before the first block of the policy does not shrink with what it keeps.
        aimed *= (1.0 - miss / target * 1.5).clamp(0.8, 1.25);
        if best
            .as_ref()
            .is_none_or(|(before, _)| miss.abs() < (before - target).abs())
        {
            best = Some((share, scores));
        }
        if miss.abs() <= CLOSE {
            break;
        }
    }
    let (_, scores) = best.ok_or_else(|| TrainerError::Training("no budget was tried".into()))?;
    let selection = Selection::LeastScores { scores };
    tried(model, images, target, settings, device, selection)
}

/// One price of a token's computing: see [`least_scores_at`].
fn by_price(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    progress: impl FnMut(f64),
) -> Result<Budget, TrainerError> {
    let (blocks, layers) = (model.policy.blocks(), model.config().num_layers);
    let of = |price: f64| Selection::LeastScores {
        scores: least_scores_at(price, blocks, layers),
    };
    by_halving(model, images, target, settings, device, progress, of)
}

/// What `of` gives for a number which meets the target: the higher the number, the less is computed.
fn by_halving(
    model: &PruningVit,
    images: &ImageDataset,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(f64),
    of: impl Fn(f64) -> Selection,
) -> Result<Budget, TrainerError> {
    // What cannot be computed at all is refused.
    model.kept_for(target)?;
    let embedded = embed(model, images, settings, device)?;
    let (mut low, mut high) = (-MOST_LOG_ODDS, MOST_LOG_ODDS);
    let mut best: Option<(f64, Selection)> = None;
    for _ in 0..STEPS {
        let price = (low + high) / 2.0;
        let share = share_of(model, &embedded, &of(price));
        progress(share);
        if share > target {
            low = price;
        } else {
            high = price;
        }
        let miss = (share - target).abs();
        if best
            .as_ref()
            .is_none_or(|(before, _)| miss < (before - target).abs())
        {
            best = Some((share, of(price)));
        }
        if miss <= CLOSE {
            break;
        }
    }
    let (_, selection) = best.ok_or_else(|| TrainerError::Training("no price was tried".into()))?;
    tried(model, images, target, settings, device, selection)
}

/// Per block of the policy, the score above which the share `rates` of all images' patches stay; and the share of the
/// dense FLOPs that is computed then.
///
/// All batches go through the blocks together: where the policy acts, once to see its scores, and once more
/// with what they say.
fn least_scores(model: &PruningVit, embedded: &[TokenBatch], rates: &[f64]) -> (Vec<f64>, f64) {
    let config = model.config();
    let patches: usize = embedded.iter().map(|batch| batch.sequences.batch()).sum();
    let patches = patches * config.num_patches();
    let mut batches = embedded.to_vec();
    let mut traces: Vec<Vec<LayerTrace>> = vec![Vec::new(); batches.len()];
    let mut least: Vec<f64> = Vec::new();
    let mut done = 0;
    for (&layer, &rate) in model.policy.blocks().iter().zip(rates) {
        for batch in &mut batches {
            let before = model
                .vit
                .run_blocks(batch.clone(), done..layer, RunSettings::DENSE);
            *batch = before.batch;
        }
        done = layer + 1;
        let run = |batch: &TokenBatch, least: &[f64]| {
            let selection = Selection::LeastScores {
                scores: least.to_vec(),
            };
            let recorder = Recorder::new(model.policy.reducer(&selection, &[]));
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&recorder),
            };
            let after = model.vit.run_blocks(batch.clone(), layer..done, settings);
            (after, recorder.into_decisions())
        };
        let mut scores: Vec<f64> = Vec::new();
        for batch in &batches {
            // It has no least score yet: all stay.
            for decision in run(batch, &least).1 {
                let rows = decision.patch_rows();
                let Some(logits) = decision.logits else {
                    continue;
                };
                let values: Vec<f64> = logits.into_data().iter::<f64>().collect();
                let score = |&row: &usize| values[2 * row] - values[2 * row + 1];
                scores.extend(rows.iter().map(score));
            }
        }
        scores.sort_by(|a, b| b.total_cmp(a));
        let kept = (rate * patches as f64).round() as usize;
        least.push(match kept {
            kept if kept >= scores.len() => f64::MIN,
            0 => f64::MAX,
            // Between the last that stays and the first that goes.
            kept => (scores[kept - 1] + scores[kept]) / 2.0,
        });
        for (batch, trace) in batches.iter_mut().zip(&mut traces) {
            let after = run(batch, &least).0;
            *batch = after.batch;
            trace.extend(after.trace);
        }
    }
    let of_batch = |(batch, trace): (&TokenBatch, &Vec<LayerTrace>)| -> f64 {
        let images = 0..batch.sequences.batch();
        images.map(|image| model.flops(trace, image).1).sum()
    };
    let sum: f64 = batches.iter().zip(&traces).map(of_batch).sum();
    let images = patches / config.num_patches();
    (least, sum / images.max(1) as f64)
}

/// The threshold of all blocks; the higher it is, the less is removed.
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
        let selection = Selection::Threshold { threshold };
        let found = tried(model, images, target, settings, device, selection)?;
        progress(found.flops_share);
        Ok(found)
    };
    let [least, most] = [at(-MOST_LOG_ODDS)?, at(MOST_LOG_ODDS)?];
    if !(least.flops_share - CLOSE..=most.flops_share + CLOSE).contains(&target) {
        return Err(TrainerError::Budget {
            target,
            least: least.flops_share,
            most: most.flops_share,
        });
    }
    let (mut low, mut high) = (-MOST_LOG_ODDS, MOST_LOG_ODDS);
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
        if found.flops_share < target {
            low = middle;
        } else {
            high = middle;
        }
        if distance(&found) < distance(&best) {
            best = found;
        }
    }
    Ok(best)
}

/// Fits what the budgets `targets` need, on images held out from training, where the run's model has none yet.
///
/// # Errors
///
/// Where a budget cannot be met, or an image cannot be read.
pub fn calibrate_budgets(
    run: &RunFolder,
    model: &mut Model,
    targets: &[f64],
    held_out: &ImageDataset,
    device: &Device,
) -> Result<(), TrainerError> {
    for &target in targets {
        if !matches!(
            model.selection_for(Some(target)),
            Err(InferenceError::NotCalibrated { .. })
        ) {
            continue;
        }
        let settings = EvaluationSettings::of(run, Selection::All);
        let found = calibrate(model.pruning(), held_out, target, &settings, device, |_| ())?;
        let budget = Budget {
            checkpoint: model.checkpoint().to_string(),
            ..found
        };
        run.save_budget(budget.clone())?;
        model.add_budget(budget);
    }
    Ok(())
}
