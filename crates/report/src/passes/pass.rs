//! The passes: every batch of images runs dense, with the policy, and with ToMe.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use apt_data::{ImageDataset, RgbImage};
use apt_inference::{InferenceError, Model, NotFinite, kl_divergence, probabilities};
use apt_pruning_agent::{PolicyConfig, Selection};
use burn::prelude::*;

use super::images::test_images;
use super::measured::{Measured, Tally, Way};
use super::seen::{Seen, Verdict};
use crate::ReportError;
use crate::folder::{Folder, Kind};
use crate::number::Style;

/// Images of a forward pass.
const BATCH: usize = 16;
/// Budgets that are measured, at most.
const BUDGETS: usize = 4;
/// Chooses the images.
const SEED: u64 = 0;

/// On which images a model is run, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassSettings {
    /// Images at most; 0 runs nothing.
    pub images: usize,
    /// No further batch begins after this time.
    pub time_limit: Option<Duration>,
    /// Other images than the folder's own.
    pub data: Option<PathBuf>,
}

/// A model's answers for images, dense and pruned, and what was measured on them.
#[derive(Clone, Debug)]
pub struct Passes {
    /// Where the images are.
    pub from: String,
    /// Number of test images. The model runs on images drawn from them at random.
    pub of: usize,
    /// Have they labels?
    pub labelled: bool,
    /// The classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// Tokens of an image before any is removed.
    pub tokens: usize,
    /// The answers for each image.
    pub seen: Vec<Seen>,
    /// Every way in which the model was run: dense, its policy at each budget, and ToMe at each budget.
    pub measured: Vec<Measured>,
    /// Budgets that were not measured, and why: a sentence each.
    pub left_out: Vec<String>,
    /// Images of a forward pass.
    pub batch: usize,
    pub(super) dataset: ImageDataset,
    pub(super) model: Model,
}

impl Passes {
    /// What a class is called, in short: of several names with commas between them, the first one.
    pub fn class(&self, index: usize) -> &str {
        short(self.class_names.get(index).map_or("?", String::as_str))
    }
}

/// The first of a class's several names.
pub fn short(name: &str) -> &str {
    name.split(", ").next().unwrap_or(name)
}

/// One way to run the model.
struct Run {
    way: Way,
    target: Option<f64>,
    model: Model,
    tally: Tally,
}

impl Run {
    fn new(way: Way, target: Option<f64>, model: Model) -> Self {
        Self {
            way,
            target,
            model,
            tally: Tally::default(),
        }
    }
}

/// Runs the folder's model on some of its test images, on `device`. `progress` is told how many of how many are done.
///
/// # Errors
///
/// Where there is no model or there are no images; the message is a sentence for the page.
pub fn pass(
    folder: &Folder,
    settings: &PassSettings,
    device: &Device,
    progress: &dyn Fn(usize, usize),
) -> Result<Passes, ReportError> {
    if folder.kind == Kind::Sweep {
        return Err(ReportError::folder(
            &folder.path,
            "a sweep has no model of its own; the report of one of its runs shows images",
        ));
    }
    let model = Model::open(&folder.path, device)?;
    if model.class_names().is_empty() {
        return Err(ReportError::folder(
            &folder.path,
            "the model has no classes, so that no answers can be shown",
        ));
    }
    let (images, from) = test_images(folder, &model, settings.data.as_deref())?;
    let of = images.len();
    if of == 0 {
        return Err(ReportError::folder(
            &folder.path,
            "there are no test images",
        ));
    }
    let count = settings.images.min(of);
    let dataset = if count < of {
        images.hold_out(count, SEED).1
    } else {
        images
    };
    let (mut runs, left_out) = ways(&model);
    let mut seen = Vec::with_capacity(count);
    let begun = Instant::now();
    for start in (0..count).step_by(BATCH) {
        let is_late = settings
            .time_limit
            .is_some_and(|limit| begun.elapsed() > limit);
        if start > 0 && is_late {
            break;
        }
        let end = (start + BATCH).min(count);
        let batch: Vec<RgbImage> = (start..end)
            .map(|index| dataset.image(index))
            .collect::<Result<_, _>>()?;
        seen.extend(run_batch(&mut runs, &model, &batch, start, &dataset)?);
        progress(end, count);
    }
    let labelled = dataset.is_labelled();
    let measured = runs
        .iter()
        .map(|run| run.tally.measured(run.way, run.target, labelled));
    let config = model.pruning().config();
    Ok(Passes {
        from,
        of,
        labelled,
        class_names: model.class_names().to_vec(),
        grid: config.grid(),
        tokens: config.num_tokens(),
        measured: measured.collect(),
        left_out,
        batch: BATCH,
        seen,
        dataset,
        model,
    })
}

/// Dense first, then the policy at its first budget, then at its other budgets, then ToMe. And the budgets that are left out:
/// those that cannot be met, and those that are too many.
fn ways(model: &Model) -> (Vec<Run>, Vec<String>) {
    let mut dense = model.clone();
    dense.select(Selection::All);
    let mut runs = vec![Run::new(Way::Dense, None, dense)];
    let mut left_out = Vec::new();
    let description = model.description();
    let name = description.policy.name();
    if name == "dense" {
        return (runs, left_out);
    }
    let (targets, more) = targets(model);
    if !more.is_empty() {
        let more: Vec<String> = more.iter().map(|&share| percent(share)).collect();
        left_out.push(format!(
            "Not measured, because {BUDGETS} budgets are enough: {}.",
            more.join(", ")
        ));
    }
    for target in targets.iter().copied() {
        let mut own = model.clone();
        // Without a budget it removes what it did when it was opened.
        match target.map_or(Ok(()), |share| own.prune_to(share).map(|_| ())) {
            Ok(()) => runs.push(Run::new(Way::Own, target, own)),
            Err(error) => left_out.extend(target.map(|share| not_met(name, share, &error))),
        }
    }
    if name != "tome" {
        for share in targets.into_iter().flatten() {
            match tome(model, share) {
                Ok(tome) => runs.push(Run::new(Way::Tome, Some(share), tome)),
                Err(error) => left_out.push(not_met("ToMe", share, &error)),
            }
        }
    }
    (runs, left_out)
}

/// The model's budgets that are measured, and the others. `None` is what it removes without a budget.
fn targets(model: &Model) -> (Vec<Option<f64>>, Vec<f64>) {
    let own = &model.description().flops;
    let calibrated = model.budgets().of(model.checkpoint()).0;
    let others = calibrated.iter().map(|budget| budget.target_flops);
    let mut targets = vec![own.first().copied()];
    for target in own.iter().copied().chain(others).map(Some) {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let more = targets.split_off(targets.len().min(BUDGETS));
    (targets, more.into_iter().flatten().collect())
}

/// ToMe on the model's weights.
fn tome(model: &Model, share: f64) -> Result<Model, InferenceError> {
    let mut tome = model.clone().with_policy(PolicyConfig::named("tome")?)?;
    tome.prune_to(share)?;
    Ok(tome)
}

fn percent(share: f64) -> String {
    Style::Percent.text(share)
}

fn not_met(policy: &str, share: f64, error: &InferenceError) -> String {
    format!("Not measured: {policy} at {}: {error}.", percent(share))
}

fn run_batch(
    runs: &mut [Run],
    model: &Model,
    batch: &[RgbImage],
    first: usize,
    dataset: &ImageDataset,
) -> Result<Vec<Seen>, ReportError> {
    let images = model.preprocess(batch);
    let labelled = dataset.is_labelled();
    let label = |place: usize| labelled.then(|| dataset.label(first + place));
    let mut dense: Vec<Vec<f32>> = Vec::new();
    let mut seen: Vec<Seen> = Vec::new();
    for (turn, run) in runs.iter_mut().enumerate() {
        if first == 0 {
            // The first pass of each pays for allocations; it is not timed.
            run.model
                .forward_with(images.clone(), run.model.selection())
                .logits
                .into_data();
        }
        let begun = Instant::now();
        let output = run
            .model
            .forward_with(images.clone(), run.model.selection());
        let [_, classes] = output.logits.dims();
        let logits: Vec<f32> = output.logits.into_data().iter::<f32>().collect();
        let seconds = begun.elapsed().as_secs_f64() / batch.len() as f64;
        run.tally.seconds.push(seconds);
        let reduced = run.model.reductions(&output.trace, batch.len());
        for (place, (logits, reduced)) in logits.chunks_exact(classes).zip(reduced).enumerate() {
            NotFinite::check("logits", logits).map_err(|reason| {
                let image = dataset.name(first + place);
                InferenceError::NotFinite { image, reason }
            })?;
            if run.way == Way::Dense {
                dense.push(logits.to_vec());
            }
            let kl = kl_divergence(&dense[place], logits)?;
            let [before, now] =
                [&dense[place], logits].map(|logits| Verdict::of(&probabilities(logits)));
            run.tally.images += 1;
            run.tally.right += usize::from(label(place) == Some(now.class));
            run.tally.equal += usize::from(before.class == now.class);
            run.tally.kl += kl;
            run.tally.flops += reduced.flops_share;
            let found = Seen {
                index: first + place,
                name: dataset.name(first + place),
                label: label(place),
                dense: before,
                pruned: now,
                kl,
                flops_share: reduced.flops_share,
                layers: reduced.layers,
            };
            // The dense pass comes first; the policy at its first budget takes its place.
            match (turn, run.way) {
                (0, _) => seen.push(found),
                (1, Way::Own) => seen[place] = found,
                _ => (),
            }
        }
    }
    Ok(seen)
}
