//! Runs a sweep, or goes on with one.

use std::time::Instant;

use apt_data::{ImageDataset, Splits};
use apt_inference::{Choice, Model, OpenOptions};
use apt_pruning_agent::{BudgetUse, LAYERS, Selection};
use apt_vit_model::ExecutionMode;

use super::cell::{Cell, DENSE};
use super::folder::CellFolder;
use super::origin::{check, claim};
use super::plan::{MeasuredOn, Sweep};
use super::policy::SweptPolicy;
use crate::TrainerError;
use crate::config::{ExperimentConfig, PolicySection};
use crate::evaluate::{EvaluationSettings, calibrate_budgets, evaluate_each};
use crate::run::RunFolder;
use crate::train::{
    Images, TrainOptions, Trained, check_policy, resume_on, split_images, train_on,
};

/// By so many of the images that the start held out, agents' budgets are met.
const CALIBRATION: usize = 2000;

/// What a sweep is at.
#[derive(Clone, Copy, Debug)]
pub enum Stage<'a> {
    /// A training begins, or goes on: of which policy and seed, which of how many it is.
    Training(&'a str, u64, usize, usize),
    /// A training is over, after so many seconds.
    Trained(f64),
    /// A cell was measured.
    Measured(&'a Cell),
}

impl Sweep {
    /// Runs what of the sweep is not done yet in `folder`. Returns whether all is done: an interrupted sweep
    /// goes on where it was when it is run again.
    ///
    /// # Errors
    ///
    /// Where the folder holds another sweep; else names what went wrong. The cells that are done stay.
    pub fn run(
        &self,
        folder: &CellFolder,
        options: &TrainOptions,
        mut report: impl FnMut(Stage<'_>),
    ) -> Result<bool, TrainerError> {
        check(folder.path(), self)?;
        // What is wrong with the last policy is said before the first one is trained.
        for policy in &self.policies {
            let seed = self.seeds.first().copied().unwrap_or_default();
            check_policy(&self.config(policy, seed)?)?;
        }
        let all = self.policies.len() * self.seeds.len();
        let mut number = 0;
        let mut loaded: Option<Splits> = None;
        // Seed by seed, so that an unfinished sweep can compare what it has.
        for &seed in &self.seeds {
            for policy in &self.policies {
                number += 1;
                let mut targets: Vec<f64> = self.targets(policy);
                targets.retain(|&target| !folder.is_done(&policy.name, target, seed));
                if targets.is_empty() {
                    continue;
                }
                report(Stage::Training(&policy.name, seed, number, all));
                let path = folder
                    .path()
                    .join("runs")
                    .join(format!("{}-{seed}", policy.name));
                let config = self.config(policy, seed)?;
                let splits = match loaded.take() {
                    Some(splits) => splits,
                    None => config.load_data(options.data.as_deref(), options.progress)?,
                };
                let (images, measured) = self.split(&config, splits.clone())?;
                loaded = Some(splits);
                claim(folder.path(), self, policy)?;
                let started = Instant::now();
                let trained = if path.join("config.toml").exists() {
                    resume_on(&images, RunFolder::open_to_train(&path)?, options)?
                } else {
                    train_on(&images, config, &path, options)?
                };
                let Trained::Finished(run) = trained else {
                    return Ok(false);
                };
                let seconds = started.elapsed().as_secs_f64();
                report(Stage::Trained(seconds));
                let measured_on = (&images, &measured);
                for cell in measure(policy, &targets, &run, measured_on, seconds, options)? {
                    folder.save(&cell)?;
                    report(Stage::Measured(&cell));
                }
            }
        }
        Ok(true)
    }

    /// The budgets of a policy; the dense baseline has one, all.
    fn targets(&self, policy: &SweptPolicy) -> Vec<f64> {
        if policy.base == DENSE {
            vec![1.0]
        } else {
            self.flops.clone()
        }
    }

    fn config(&self, policy: &SweptPolicy, seed: u64) -> Result<ExperimentConfig, TrainerError> {
        let start = RunFolder::open(&self.start)?;
        let mut config = start.config;
        config.model.pretrained = None;
        config.model.init_from_run = Some(self.start.clone());
        config.input.val_seed = Some(config.val_seed());
        config.seed = seed;
        // Who decides and how that is learned is the policy's business, not the start's; where it acts is the start's,
        // if it says so and the policy can.
        let layers = config.policy.policy.settings().get(LAYERS.key).cloned();
        config.policy = PolicySection::named(policy.base)?;
        config.flops = match config.policy.policy.entry().budget {
            BudgetUse::Impossible => Vec::new(),
            BudgetUse::Possible | BudgetUse::Needed => self.flops.clone(),
        };
        config.train.dense_steps = 0;
        config.train.dense_interval = None;
        config.train.agent_warmup_steps = 0;
        config.train.agent_interval = 1;
        let takes_layers = config.policy.policy.entry().meanings.contains(&LAYERS);
        let layers = layers.filter(|_| takes_layers);
        // Set by the sweep, and afterwards by whoever says otherwise.
        let text = config.to_toml()?;
        let layers = layers.map(|layers| format!("policy.{}={layers}", LAYERS.key));
        let mut overrides: Vec<String> = layers.into_iter().collect();
        overrides.extend(self.overrides.clone());
        overrides.extend(policy.overrides.clone());
        parse(&text, &overrides, self.passes)
    }

    /// What is trained on (and calibrated by), and what is measured on.
    fn split(
        &self,
        config: &ExperimentConfig,
        splits: Splits,
    ) -> Result<(Images, ImageDataset), TrainerError> {
        let mut images = split_images(config, splits)?;
        let (rest, calibration) = images.held_out.hold_out(CALIBRATION, config.val_seed());
        images.held_out = calibration;
        let measured = match self.measured_on {
            MeasuredOn::Test => images.test.clone(),
            MeasuredOn::HeldOut => rest,
        };
        if measured.is_empty() {
            return Err(TrainerError::Field {
                field: "input.val_images".into(),
                found: config.input.val_images.to_string(),
                expected: format!(
                    "of the start must be above the {CALIBRATION} images that budgets are met by, to \
                     measure on the others"
                ),
            });
        }
        Ok((images, measured))
    }
}

/// Measures a trained policy at each of the budgets, which are calibrated first where that has to be.
fn measure(
    policy: &SweptPolicy,
    targets: &[f64],
    run: &RunFolder,
    (images, measured): (&Images, &ImageDataset),
    train_seconds: f64,
    options: &TrainOptions,
) -> Result<Vec<Cell>, TrainerError> {
    let device = options.devices.main();
    let last = OpenOptions {
        checkpoint: Choice::Last,
        ..Default::default()
    };
    let mut model = Model::open_with(run.path(), last, device)?;
    if policy.base != DENSE {
        calibrate_budgets(run, &mut model, targets, &images.held_out, device)?;
    }
    let mut runs = vec![(ExecutionMode::Dense, Selection::All)];
    for &target in targets.iter().filter(|_| policy.base != DENSE) {
        runs.push((ExecutionMode::Drop, model.selection_for(Some(target))?));
    }
    let settings = EvaluationSettings::of(run, Selection::All);
    let found = evaluate_each(model.pruning(), measured, &runs, &settings, device, |_| ())?;
    let Some((dense, others)) = found.split_first() else {
        return Ok(Vec::new());
    };
    let pruned = if policy.base == DENSE {
        &found[..1]
    } else {
        others
    };
    let steps = run.checkpoints().newest()?.map_or(0, |set| set.step);
    let per_step = run.config.train.batch_size * run.config.train.grad_accumulation_steps;
    let cells = targets.iter().zip(pruned).map(|(&target, pruned)| {
        let last = pruned.layers.last();
        Cell {
            policy: policy.name.clone(),
            target_flops: target,
            seed: run.config.seed,
            accuracy: pruned.accuracy.unwrap_or(f64::NAN),
            flops_share: pruned.flops_share,
            images_per_s: pruned.images_per_s,
            dense_images_per_s: dense.images_per_s,
            dense_accuracy: dense.accuracy.unwrap_or(f64::NAN),
            image_passes: steps * per_step as u64,
            train_seconds,
            test_images: measured.len(),
            tokens_per_layer: pruned.layers.iter().map(|layer| layer.tokens).collect(),
            foreground_precision: last.and_then(|last| last.foreground_precision),
            foreground_recall: last.and_then(|last| last.foreground_kept),
            correct: pruned.correct.clone(),
            dense_correct: dense.correct.clone(),
        }
    });
    Ok(cells.collect())
}

/// The config for so many image passes: one evaluation, at the end.
fn parse(
    text: &str,
    overrides: &[String],
    passes: usize,
) -> Result<ExperimentConfig, TrainerError> {
    let first = ExperimentConfig::parse(text, "sweep", overrides)?;
    let steps = passes.div_ceil(first.train.batch_size * first.train.grad_accumulation_steps);
    let mut config = first;
    config.train.steps = steps;
    config.train.eval_interval = steps;
    config.schedule.warmup_steps = config.schedule.warmup_steps.min(steps / 10);
    let text = config.to_toml()?;
    ExperimentConfig::parse(&text, "sweep", &[])
}
