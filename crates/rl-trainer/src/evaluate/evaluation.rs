//! A model on a set of images: how accurate, how cheap, how fast.

use std::time::Instant;

use apt_data::ImageDataset;
use apt_inference::{Answers, Fidelity, PruningVit};
use apt_pruning_agent::Selection;
use apt_vit_model::ExecutionMode;
use burn::prelude::*;
use serde::Serialize;

use super::answers::{check_finite, dense_outputs, loader};
use super::settings::EvaluationSettings;
use super::truth::{Counted, is_known};
use crate::TrainerError;
use crate::algorithm::losses::predictions;

/// The accuracy on one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Its name.
    pub class: String,
    /// Images of it.
    pub images: usize,
    /// Share that is classified right.
    pub accuracy: f64,
}

/// What one of the policy's blocks left of the tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerTokens {
    /// The block (0-based).
    pub layer: usize,
    /// Tokens that it left, CLS counted; mean over images.
    pub tokens: f64,
    /// Kept patches / all patches of the image; mean over images.
    pub keep_rate: f64,
    /// Share of foreground patches that are still there, where the truth is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreground_kept: Option<f64>,
    /// Share of the patches that are still there which are foreground, where the truth is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreground_precision: Option<f64>,
    /// Share of background patches that are still there, where the truth is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_kept: Option<f64>,
    /// Share of the corrupted patches that are gone, where any are: how many were found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted_recall: Option<f64>,
    /// Share of the patches that are gone which were corrupted: how many were rightly taken for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupted_precision: Option<f64>,
}

/// A model on a set of images, in one execution mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// `dense`, `mask` or `drop`.
    pub mode: &'static str,
    /// What its products were computed in.
    pub dtype: &'static str,
    /// Images.
    pub images: usize,
    /// Images that were left out when the data set was loaded, because they cannot be read.
    #[serde(skip_serializing_if = "is_zero")]
    pub bad_images: usize,
    /// Share that is classified right; none of images without labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The same by class; empty of images without labels.
    pub per_class: Vec<ClassAccuracy>,
    /// How near its answers are to the dense ones, in the order of the dataset; where they were compared. Where patches are
    /// corrupted, to the dense ones to the images as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// What each of the policy's blocks left.
    pub layers: Vec<LayerTokens>,
    /// Counted FLOPs of an image, the policy's included; mean.
    pub flops_per_image: f64,
    /// Their share of the dense model's without agents.
    pub flops_share: f64,
    /// Timed: images per second of the model alone, without loading.
    pub images_per_s: f64,
    /// Per image of the dataset: was it classified right? Empty of images without labels.
    #[serde(skip)]
    pub correct: Vec<bool>,
}

impl Evaluation {
    /// How much more accurate it is than another one of the same images, in points, image by image; and how far that may be
    /// off (95 %). None without labels.
    pub fn accuracy_after(&self, other: &Self) -> Option<(f64, f64)> {
        let images = self.correct.len();
        if images == 0 || images != other.correct.len() {
            return None;
        }
        let count = images as f64;
        let pairs = self.correct.iter().zip(&other.correct);
        let changes =
            pairs.map(|(&own, &other)| f64::from(u8::from(own)) - f64::from(u8::from(other)));
        let (sum, squares) = changes.fold((0.0, 0.0), |(sum, squares), change| {
            (sum + change, squares + change * change)
        });
        let mean = sum / count;
        let variance = squares / count - mean * mean;
        Some((100.0 * mean, 196.0 * (variance / count).sqrt()))
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn mode_name(mode: ExecutionMode) -> &'static str {
    match mode {
        ExecutionMode::Dense => "dense",
        ExecutionMode::Mask => "mask",
        ExecutionMode::Drop => "drop",
    }
}

/// Sums over the images that one mode has seen.
struct Tally<'a> {
    model: &'a PruningVit,
    mode: ExecutionMode,
    selection: &'a Selection,
    correct: Vec<usize>,
    right: Vec<bool>,
    fidelity: Option<Fidelity>,
    /// Tokens, patches and images.
    left: Vec<[usize; 3]>,
    foreground: Vec<Counted>,
    corrupted: Vec<Counted>,
    flops: u64,
    share: f64,
    seconds: f64,
}

/// Evaluates the model in each of `modes`, as [`evaluate_each`] does, with what the settings' selection says removed.
///
/// # Errors
///
/// Where an image cannot be read, or its logits are not finite.
pub fn evaluate(
    model: &PruningVit,
    dataset: &ImageDataset,
    modes: &[ExecutionMode],
    settings: &EvaluationSettings,
    device: &Device,
    progress: impl FnMut(usize),
) -> Result<Vec<Evaluation>, TrainerError> {
    let runs: Vec<(ExecutionMode, Selection)> = modes
        .iter()
        .map(|&mode| (mode, settings.selection.clone()))
        .collect();
    evaluate_each(model, dataset, &runs, settings, device, progress)
}

/// Evaluates the model in each mode and with each selection, batch by batch in turn, so that their times
/// can be compared; before them the settings' reference, where there is one, dense and in each other mode. `progress` is told how many images
/// are done.
///
/// # Errors
///
/// Where an image cannot be read, or its logits are not finite.
pub fn evaluate_each(
    model: &PruningVit,
    dataset: &ImageDataset,
    runs: &[(ExecutionMode, Selection)],
    settings: &EvaluationSettings,
    device: &Device,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Evaluation>, TrainerError> {
    let config = model.config();
    let prefix = config.num_prefix_tokens();
    let answers_are = Answers::of(config);
    let (batch_size, workers) = (settings.batch_size, settings.workers);
    let loader = loader(dataset, model, settings, batch_size, workers, device);
    let mut per_class = vec![0; dataset.num_classes()];
    let blocks = model.policy.blocks().to_vec();
    let layers = blocks.len();
    let reference = settings.reference.as_ref();
    let own = runs.iter().map(|(mode, selection)| (*mode, selection));
    let of_reference = own
        .clone()
        .filter(|&(mode, _)| mode != ExecutionMode::Dense);
    let dense = std::iter::once((ExecutionMode::Dense, &Selection::All));
    let of_reference = dense.chain(of_reference);
    let passes: Vec<(&PruningVit, ExecutionMode, &Selection)> = reference
        .into_iter()
        .flat_map(|reference| {
            of_reference
                .clone()
                .map(move |(mode, selection)| (reference, mode, selection))
        })
        .chain(own.map(|(mode, selection)| (model, mode, selection)))
        .collect();
    let is_dense = |&(_, mode, _): &(_, ExecutionMode, _)| mode == ExecutionMode::Dense;
    let compared_with = passes
        .iter()
        .position(is_dense)
        .filter(|_| settings.compare);
    let corrupted = dataset.corruption().filter(|_| settings.compare);
    let was = corrupted.map(|_| dataset.as_they_were());
    let mut tallies: Vec<Tally<'_>> = passes
        .iter()
        .enumerate()
        .map(|(index, pass)| {
            // Of dense passes, those of another precision or of other images are worth comparing.
            let compared = index > 0 && reference.is_some() || !is_dense(pass) || was.is_some();
            let &(model, mode, selection) = pass;
            Tally {
                model,
                mode,
                selection,
                correct: vec![0; dataset.num_classes()],
                right: vec![false; dataset.len()],
                fidelity: (compared && (compared_with.is_some() || was.is_some()))
                    .then(|| Fidelity::new(answers_are)),
                left: vec![[0; 3]; layers],
                foreground: vec![Counted::default(); layers],
                corrupted: vec![Counted::default(); layers],
                flops: 0,
                share: 0.0,
                seconds: 0.0,
            }
        })
        .collect();
    let mut done = 0;
    for batch in loader.iter() {
        let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
        let truth = |of: &dyn Fn(usize) -> Option<Vec<bool>>| -> Vec<Option<Vec<bool>>> {
            batch.indices.iter().map(|&index| of(index)).collect()
        };
        let foreground = truth(&|index| dataset.foreground(index, config.grid()));
        let corrupted = truth(&|index| dataset.corrupted_patches(index));
        for &target in &batch.targets {
            per_class[target] += 1;
        }
        // The same images meet the same chance, whatever stands beside them.
        let seeds: Vec<u64> = batch.indices.iter().map(|&index| index as u64).collect();
        let run = |tally: &Tally<'_>| {
            let images = batch.images.clone();
            tally.model.run(images, tally.mode, tally.selection, &seeds)
        };
        if done == 0 {
            // The first pass of each pays for allocations; it is not timed.
            for tally in &tallies {
                run(tally).logits.into_data();
            }
        }
        let mut answers: Vec<Tensor<2>> = Vec::with_capacity(tallies.len());
        for tally in &mut tallies {
            let start = Instant::now();
            let output = run(tally);
            let predicted = predictions(&output.logits);
            tally.seconds += start.elapsed().as_secs_f64();
            check_finite(output.logits.clone(), &batch.indices, dataset)?;
            for (image, (&class, &target)) in predicted.iter().zip(&batch.targets).enumerate() {
                tally.correct[target] += usize::from(class == target);
                tally.right[batch.indices[image]] = class == target;
                let (flops, share) = model.flops(&output.trace, image);
                tally.flops += flops;
                tally.share += share;
            }
            for entry in &output.trace {
                let Some(index) = blocks.iter().position(|&block| block == entry.layer) else {
                    continue;
                };
                for left in &entry.left {
                    let seen = [*left, left.saturating_sub(prefix), 1];
                    let sums = tally.left[index].iter_mut().zip(seen);
                    sums.for_each(|(sum, more)| *sum += more);
                }
                if !is_known(&foreground) && !is_known(&corrupted) {
                    continue;
                }
                for (image, kept) in entry.kept.read().iter().enumerate() {
                    let kept = &kept[prefix..];
                    tally.foreground[index].add(kept, foreground[image].as_deref());
                    tally.corrupted[index].add(kept, corrupted[image].as_deref());
                }
            }
            answers.push(output.logits);
        }
        let wanted = match (&was, compared_with) {
            (Some(images), _) => {
                let images = images.subset(&batch.indices);
                let model = reference.unwrap_or(model);
                Some(dense_outputs(model, &images, settings, device)?.logits)
            }
            (None, Some(dense)) => Some(answers[dense].clone()),
            (None, None) => None,
        };
        if let Some(wanted) = wanted {
            compare(&mut tallies, answers, wanted)?;
        }
        done += batch.targets.len();
        progress(done);
    }
    let finish = |tally: Tally<'_>| finish(tally, dataset, &per_class, done);
    Ok(tallies.into_iter().map(finish).collect())
}

/// Compares the answers of each tally, `[batch, width]`, with those that are wanted.
fn compare(
    tallies: &mut [Tally<'_>],
    answers: Vec<Tensor<2>>,
    wanted: Tensor<2>,
) -> Result<(), TrainerError> {
    let [_, width] = wanted.dims();
    let wanted: Vec<f32> = wanted.into_data().iter::<f32>().collect();
    for (tally, answers) in tallies.iter_mut().zip(answers) {
        if let Some(fidelity) = &mut tally.fidelity {
            let answers: Vec<f32> = answers.into_data().iter::<f32>().collect();
            fidelity.add(&wanted, &answers, width)?;
        }
    }
    Ok(())
}

fn finish(
    tally: Tally<'_>,
    dataset: &ImageDataset,
    per_class: &[usize],
    images: usize,
) -> Evaluation {
    let model = tally.model;
    let patches = model.config().num_patches() as f64;
    let blocks = model.policy.blocks().to_vec();
    let layers = blocks.iter().enumerate().filter_map(|(index, &layer)| {
        let [tokens, kept, images] = tally.left[index].map(|count| count as f64);
        (images > 0.0).then(|| LayerTokens {
            layer,
            tokens: tokens / images,
            keep_rate: kept / images / patches,
            foreground_kept: tally.foreground[index].kept_of(true),
            foreground_precision: tally.foreground[index].share_of_kept(),
            background_kept: tally.foreground[index].kept_of(false),
            corrupted_recall: tally.corrupted[index].kept_of(true).map(|kept| 1.0 - kept),
            corrupted_precision: tally.corrupted[index].share_of_gone(),
        })
    });
    let classes = dataset
        .class_names()
        .iter()
        .zip(&tally.correct)
        .zip(per_class);
    let count = images.max(1) as f64;
    // A model without classes is neither right nor wrong.
    let is_labelled = dataset.is_labelled() && model.config().num_classes > 0;
    Evaluation {
        mode: mode_name(tally.mode),
        dtype: model.precision().name(),
        images,
        bad_images: dataset.bad().len(),
        accuracy: is_labelled.then(|| tally.correct.iter().sum::<usize>() as f64 / count),
        fidelity: tally.fidelity,
        per_class: classes
            .filter(|_| is_labelled)
            .map(|((class, &correct), &images)| ClassAccuracy {
                class: class.clone(),
                images,
                accuracy: correct as f64 / images.max(1) as f64,
            })
            .collect(),
        layers: layers.collect(),
        flops_per_image: tally.flops as f64 / count,
        flops_share: tally.share / count,
        images_per_s: count / tally.seconds.max(1e-9),
        correct: if is_labelled { tally.right } else { Vec::new() },
    }
}
