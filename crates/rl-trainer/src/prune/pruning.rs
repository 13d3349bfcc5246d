//! A frozen model and images in, the same model with a policy that prunes it out.

use std::path::Path;
use std::time::Instant;

use apt_data::ImageDataset;
use apt_inference::{Answers, Budget, Budgets, Description, Export, PruningVit, export_model};
use apt_pruning_agent::{AnyPolicy, PolicyConfig, Selection};
use apt_vit_model::{ExecutionMode, ExportNaming, Precision};
use burn::prelude::*;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use super::agents::{AgentSettings, FrozenModel};
use super::candidate::{Candidate, best, config_for, is_taught, learns_on_frozen};
use super::frozen::learn_on_frozen;
use super::job::{CHECKPOINT, Job, is_held_out};
use super::report::{PruneReport, PruneRow, row};
use super::request::{AUTO, CANDIDATES, PruneOptions, PruneProgress, check};
use crate::TrainerError;
use crate::evaluate::{Evaluation, calibrate, evaluate_each};

/// What is compared with in the end.
const BASELINE: &str = "tome";
/// Held-out images that other policies are fitted and measured on, at most.
const MEASURED: usize = 256;
/// The share of a time limit in which agents learn.
const FOR_AGENTS: f64 = 0.7;

/// Teaches a policy on a frozen model, fits it to budgets on images held out from that, and writes both into `folder` as an
/// exported model. `progress` is told what is done. None where it was asked to stop.
///
/// # Errors
///
/// Where there is no such policy, the folder holds something, there are too few images or one cannot be read, or a budget
/// cannot be met.
pub fn prune(
    model: &PruningVit,
    description: &Description,
    images: &ImageDataset,
    folder: &Path,
    options: &PruneOptions,
    device: &Device,
    progress: &(dyn Fn(PruneProgress<'_>) + Sync),
) -> Result<Option<PruneReport>, TrainerError> {
    let begun = Instant::now();
    check(folder, images, options)?;
    let _heeded = options.stop.heed();
    let job = Job {
        model,
        packed: model.clone().prepack(),
        description,
        options,
        device,
        progress,
        deadline: options.time_limit.map(|limit| begun + limit),
    };
    let images = shuffled(images, options.seed).take(options.images);
    let images = match options.corruption {
        Some(corruption) => images.corrupted(corruption, model.config().grid()),
        None => images,
    };
    let names = match options.policy.as_str() {
        AUTO => CANDIDATES.to_vec(),
        name => vec![PolicyConfig::named(name)?.name()],
    };
    let (learned, others): (Vec<&str>, Vec<&str>) =
        names.into_iter().partition(|name| is_taught(name));
    let mut candidates = Vec::new();
    let mut rest: Vec<usize> = (0..images.len())
        .filter(|image| is_held_out(*image))
        .collect();
    let mut learned_from = 0;
    if !learned.is_empty() {
        let Some((explored, held_out)) = job.explore(&images)? else {
            return Ok(None);
        };
        rest.truncate(held_out.images);
        learned_from = explored.images;
        let Some(taught) = job.learn(&explored, &held_out)? else {
            return Ok(None);
        };
        let taught = learned
            .iter()
            .map(|name| job.taught(name, &taught, &held_out));
        candidates.extend(taught.collect::<Result<Vec<_>, _>>()?);
    }
    let held_out = images.subset(&rest);
    let choosing = options.policy == AUTO;
    for name in others {
        let config = config_for(name, options.settings.clone(), model.config().hidden_size)?;
        let policy = if learns_on_frozen(&config) {
            let from: Vec<usize> = (0..images.len())
                .filter(|image| !is_held_out(*image))
                .collect();
            let Some((policy, images)) = job.learned(&config, &images.subset(&from))? else {
                return Ok(None);
            };
            learned_from = images;
            policy
        } else {
            config.init(model.config(), device)?
        };
        candidates.push(job.fitted(&config, policy, &held_out.take(MEASURED), choosing)?);
        if options.stop.is_requested() {
            return Ok(None);
        }
    }
    let Some((chosen, why)) = best(candidates, Answers::of(model.config()), learned_from) else {
        return Err(TrainerError::Pruning("no policy was tried".into()));
    };
    let pruned = PruningVit::new(model.vit.clone(), chosen.policy, model.config().clone());
    let rows = job.rows(
        &pruned,
        chosen.config.name(),
        &chosen.budgets,
        &held_out.take(MEASURED),
    )?;
    if options.stop.is_requested() {
        return Ok(None);
    }
    let fitted_on = chosen.budgets.first().map_or(0, |budget| budget.images);
    let export = Export {
        description: Description {
            policy: chosen.config.clone(),
            flops: options.targets.clone(),
            steps_per_epoch: None,
            data: None,
            ..description.clone()
        },
        checkpoint: CHECKPOINT.into(),
        budgets: Budgets(chosen.budgets),
    };
    export_model(&pruned, &export, ExportNaming::Timm, Precision::F32, folder)?;
    Ok(Some(PruneReport {
        folder: folder.to_path_buf(),
        policy: chosen.config.name().into(),
        why,
        learned_from,
        corrupted: options.corruption.map(|corruption| corruption.to_string()),
        held_out: fitted_on,
        seconds: begun.elapsed().as_secs_f64(),
        rows,
    }))
}

/// In a random order, the same for the same seed: folders take turns in the given one, so that every fifth image would show
/// some of the classes alone.
fn shuffled(images: &ImageDataset, seed: u64) -> ImageDataset {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    images.subset(&order)
}

impl Job<'_> {
    /// A policy whose agents learn on the frozen model, and from how many images.
    fn learned(
        &self,
        config: &PolicyConfig,
        images: &ImageDataset,
    ) -> Result<Option<(AnyPolicy, usize)>, TrainerError> {
        let settings = AgentSettings::of(config, self.options.seed);
        let mut passes = 0.0;
        let go_on = |share| {
            passes = share * settings.epochs as f64;
            (self.progress)(PruneProgress::Learning(share));
            self.goes_on(FOR_AGENTS)
        };
        let frozen = FrozenModel {
            model: self.model,
            packed: &self.packed,
            images,
            evaluation: &self.settings(settings.batch_size),
            targets: &self.options.targets,
            device: self.device,
        };
        let policy = learn_on_frozen(&frozen, config, &settings, go_on)?;
        // In the first pass every image is new.
        let seen = (passes.min(1.0) * images.len() as f64).round() as usize;
        Ok((!self.options.stop.is_requested()).then_some((policy, seen)))
    }

    /// A policy, fitted to the budgets.
    fn fitted(
        &self,
        config: &PolicyConfig,
        policy: AnyPolicy,
        held_out: &ImageDataset,
        choosing: bool,
    ) -> Result<Candidate, TrainerError> {
        let vit = self.packed.vit.clone();
        let model = PruningVit::new(vit, policy.clone(), self.packed.config().clone()).prepack();
        let settings = self.settings(64);
        let targets = self.options.targets.iter();
        let budgets = targets.map(|&target| {
            (self.progress)(PruneProgress::Fitting(config.name(), target));
            let found = calibrate(&model, held_out, target, &settings, self.device, |_| ())?;
            Ok(Budget {
                checkpoint: CHECKPOINT.into(),
                ..found
            })
        });
        let budgets: Vec<Budget> = budgets.collect::<Result<_, TrainerError>>()?;
        let divergence = if choosing {
            let found = self.evaluate(&model, config.name(), &budgets, held_out)?;
            let moved = found
                .iter()
                .skip(1)
                .map(|found| found.fidelity.as_ref()?.divergence());
            moved.map(|moved| moved.unwrap_or(f64::INFINITY)).collect()
        } else {
            Vec::new()
        };
        Ok(Candidate {
            config: config.clone(),
            policy,
            budgets,
            divergence,
        })
    }

    /// Dense first, then with each budget.
    fn evaluate(
        &self,
        model: &PruningVit,
        name: &str,
        budgets: &[Budget],
        images: &ImageDataset,
    ) -> Result<Vec<Evaluation>, TrainerError> {
        let told = |done| (self.progress)(PruneProgress::Measuring(name, done, images.len()));
        let budgets = budgets.iter();
        let budgets = budgets.map(|budget| (ExecutionMode::Drop, budget.selection.clone()));
        let runs: Vec<_> = std::iter::once((ExecutionMode::Dense, Selection::All))
            .chain(budgets)
            .collect();
        evaluate_each(model, images, &runs, &self.settings(32), self.device, told)
    }

    /// The table: dense, the baseline and the policy, on the same images.
    fn rows(
        &self,
        pruned: &PruningVit,
        name: &'static str,
        budgets: &[Budget],
        images: &ImageDataset,
    ) -> Result<Vec<PruneRow>, TrainerError> {
        let mut rows = Vec::new();
        if name != BASELINE {
            let config = PolicyConfig::named(BASELINE)?;
            let policy = config.init(self.packed.config(), self.device)?;
            let baseline = self.fitted(&config, policy, &images.take(1), false)?;
            let model = self.packed.clone();
            let model = PruningVit::new(model.vit, baseline.policy, self.packed.config().clone());
            let found = self.evaluate(&model, BASELINE, &baseline.budgets, images)?;
            let targets = baseline.budgets.iter().map(|budget| budget.target_flops);
            let found = found.iter().skip(1).zip(targets);
            rows.extend(found.map(|(found, target)| row(BASELINE, Some(target), found)));
        }
        let found = self.evaluate(&pruned.clone().prepack(), name, budgets, images)?;
        let targets = budgets.iter().map(|budget| Some(budget.target_flops));
        let names = std::iter::once(("dense", None)).chain(targets.map(|target| (name, target)));
        let own = names.zip(&found);
        let mut own: Vec<PruneRow> = own
            .map(|((name, target), found)| row(name, target, found))
            .collect();
        let rest = own.split_off(1);
        Ok(own.into_iter().chain(rows).chain(rest).collect())
    }
}
