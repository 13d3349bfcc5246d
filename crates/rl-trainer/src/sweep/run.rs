use std::path::PathBuf;
use std::time::Instant;

use apt_data::{ImageDataset, Splits};
use apt_pruning_agent::Amount;
use apt_vit_model::ExecutionMode;
use serde::{Deserialize, Serialize};

use super::origin::{check, claim};
use super::{Cell, CellFolder, DENSE};
use crate::evaluation::{EvaluationSettings, evaluate_each};
use crate::training::{Images, Trained, resume_on, split_images, train_on};
use crate::{Choice, ExperimentConfig, RunFolder, TrainOptions, TrainerError, calibrate_budgets};

/// What each policy is called in a sweep, and what its training's config says.
const KNOWN: [(&str, &[&str]); 11] = [
    (
        DENSE,
        &["train.dense_every=1", "train.agents_every=1000000000"],
    ),
    ("random", &["policy.kind=random"]),
    ("cls-attention", &["policy.kind=cls-attention"]),
    ("evit", &["policy.kind=evit"]),
    ("tome", &["policy.kind=tome"]),
    (
        "dynamic-vit",
        &[
            "agents.network=predictor",
            "algorithm.kind=dynamic-vit",
            "policy.uniform=true",
        ],
    ),
    // In every fourth pass: its streams cost several passes.
    (
        "counterfactual",
        &["algorithm.kind=counterfactual", "train.agents_every=4"],
    ),
    (
        "first-order",
        &[
            "agents.network=attentive",
            "algorithm.first_order=true",
            "algorithm.lesson=size",
            "algorithm.weight=0.01",
            "policy.merge=nearest",
        ],
    ),
    (
        "pairs",
        &[
            "agents.network=pair",
            "algorithm.first_order=true",
            "algorithm.lesson=size",
            "algorithm.weight=0.01",
            "policy.merge=matched",
            "policy.priced=true",
        ],
    ),
    (
        "policy-gradient",
        &[
            "agents.network=hinted",
            "algorithm.kind=policy-gradient",
            "algorithm.weight=0.01",
            "policy.merge=nearest",
        ],
    ),
    (
        "ppo",
        &[
            "agents.network=hinted",
            "algorithm.kind=ppo",
            "algorithm.weight=0.01",
            "policy.merge=nearest",
        ],
    ),
];

/// A policy of a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweptPolicy {
    /// What it is called.
    pub name: String,
    /// What its training's config says, as `key=value`.
    pub overrides: Vec<String>,
}

impl SweptPolicy {
    /// The names of those that need no more than a name.
    pub fn known() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// Parses `NAME`, or `NAME:KEY=VALUE;KEY=VALUE`, which adds to what the longest known name that it begins with
    /// says.
    ///
    /// # Errors
    ///
    /// Where nothing is known of that name and nothing is said.
    pub fn parse(text: &str) -> Result<Self, TrainerError> {
        let (name, said) = text.split_once(':').unwrap_or((text, ""));
        let known = KNOWN.iter().filter(|(known, _)| name.starts_with(known));
        let known = known.max_by_key(|(known, _)| known.len());
        let fits = match said {
            "" => known.is_some_and(|(known, _)| *known == name),
            _ => true,
        };
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !fits || !plain || name.is_empty() {
            let names: Vec<&str> = Self::known().collect();
            return Err(TrainerError::Field {
                field: "policies".into(),
                found: text.into(),
                expected: format!(
                    "must be one of {}, or a name of letters, digits, - and _ with overrides, as in \
                     mine:agents.network=hinted;policy.merge=nearest",
                    names.join(", ")
                ),
            });
        }
        let base = known.map_or(&[][..], |(_, overrides)| overrides);
        let base = base.iter().map(|text| text.to_string());
        let said = said.split(';').filter(|part| !part.is_empty());
        Ok(Self {
            name: name.to_string(),
            overrides: base.chain(said.map(String::from)).collect(),
        })
    }
}

impl SweptPolicy {
    fn merges_pairs(&self) -> bool {
        let merging = self.overrides.iter().rev();
        let mut merging = merging.filter_map(|said| said.strip_prefix("policy.merge="));
        merging.next() == Some("matched")
    }
}

/// Policies x budgets x seeds, all trained from one start for as many image passes.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The run whose best dense checkpoint all start from.
    pub start: PathBuf,
    /// Who is compared.
    pub policies: Vec<SweptPolicy>,
    /// Shares of the dense FLOPs. One training serves all.
    pub budgets: Vec<f64>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Images that each training learns from.
    pub passes: usize,
    /// What all configs say beside the start's own, as `key=value`.
    pub overrides: Vec<String>,
    /// Which images the cells are measured on.
    pub measured_on: MeasuredOn,
}

/// Which images a sweep's cells are measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeasuredOn {
    /// The test images.
    #[default]
    Test,
    /// Images that the start held out from training, those excepted by which budgets are met: to
    /// choose among policies and settings without a look at the test images.
    HeldOut,
}

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
        let all = self.policies.len() * self.seeds.len();
        let mut number = 0;
        let mut loaded: Option<Splits> = None;
        // Seed by seed, so that an unfinished sweep can compare what it has.
        for &seed in &self.seeds {
            for policy in &self.policies {
                number += 1;
                let targets: Vec<f64> = self.targets(policy);
                let done = |&&target: &&f64| folder.is_done(&policy.name, target, seed);
                if targets.iter().filter(done).count() == targets.len() {
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
                    None => config
                        .data
                        .load(options.data.as_deref(), options.progress)?,
                };
                let (images, measured) = self.split(&config, splits.clone())?;
                loaded = Some(splits);
                claim(folder.path(), self, policy)?;
                let started = Instant::now();
                let trained = match path.join("config.toml").exists() {
                    true => resume_on(&images, RunFolder::open(&path)?, options)?,
                    false => train_on(&images, config, &path, options)?,
                };
                let Trained::Finished(run) = trained else {
                    return Ok(false);
                };
                let seconds = started.elapsed().as_secs_f64();
                report(Stage::Trained(seconds));
                for cell in self.measure(policy, &run, &images, &measured, seconds, options)? {
                    folder.save(&cell)?;
                    report(Stage::Measured(&cell));
                }
            }
        }
        Ok(true)
    }

    /// The budgets of a policy; the dense baseline has one, all.
    fn targets(&self, policy: &SweptPolicy) -> Vec<f64> {
        match policy.name == DENSE {
            true => vec![1.0],
            false => self.budgets.clone(),
        }
    }

    fn config(&self, policy: &SweptPolicy, seed: u64) -> Result<ExperimentConfig, TrainerError> {
        let start = RunFolder::open(&self.start)?;
        let mut config = start.config;
        config.model.pretrained = None;
        config.model.start = Some(self.start.clone());
        config.train.held_out_seed = Some(config.held_out_seed());
        config.seed = seed;
        config.budget.flops = self.budgets.clone();
        // Who decides and how they learn is the policy's business, not the start's.
        config.agents.network = Default::default();
        config.policy = Default::default();
        config.algorithm = Default::default();
        config.train.dense_steps = 0;
        config.train.dense_every = None;
        config.train.agents_warmup_steps = 0;
        config.train.agents_every = 1;
        if policy.merges_pairs() {
            // As ToMe does, and no block's tokens are seen after the last.
            config.agents.layers = (0..start.description.model.num_layers.max(2) - 1).collect();
        }
        // Set by the sweep, and afterwards by whoever says otherwise.
        let text = config.to_toml()?;
        let mut overrides = self.overrides.clone();
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
        let (rest, calibration) = images
            .held_out
            .hold_out(CALIBRATION, config.held_out_seed());
        images.held_out = calibration;
        let measured = match self.measured_on {
            MeasuredOn::Test => images.test.clone(),
            MeasuredOn::HeldOut => rest,
        };
        if measured.is_empty() {
            return Err(TrainerError::Field {
                field: "train.held_out".into(),
                found: config.train.held_out.to_string(),
                expected: format!(
                    "of the start must be above the {CALIBRATION} images that budgets are met by, to \
                     measure on the others"
                ),
            });
        }
        Ok((images, measured))
    }

    fn measure(
        &self,
        policy: &SweptPolicy,
        run: &RunFolder,
        images: &Images,
        measured: &ImageDataset,
        train_seconds: f64,
        options: &TrainOptions,
    ) -> Result<Vec<Cell>, TrainerError> {
        let device = options.devices.main();
        let checkpoint = run.checkpoint(Choice::Last)?;
        let model = run.load_model(&checkpoint, device)?.prepack();
        calibrate_budgets(run, &model, &checkpoint, &images.held_out, device)?;
        let targets = self.targets(policy);
        let patches = model.config().num_patches();
        let all = Amount::Kept {
            kept: vec![patches; model.acting_blocks().len()],
        };
        let mut runs = vec![(ExecutionMode::Dense, all.clone())];
        for &target in targets.iter().filter(|_| policy.name != DENSE) {
            let amount = run.amount(&model, Some(target), &checkpoint.folder_name())?;
            runs.push((ExecutionMode::Drop, amount));
        }
        let settings = EvaluationSettings::of(run, all);
        let found = evaluate_each(&model, measured, &runs, &settings, device, |_| ())?;
        let Some((dense, others)) = found.split_first() else {
            return Ok(Vec::new());
        };
        let pruned = match policy.name == DENSE {
            true => &found[..1],
            false => others,
        };
        let steps = run.checkpoints().newest()?.map_or(0, |set| set.step);
        let per_step = run.config.train.batch_size * run.config.train.accumulation;
        let cells = targets.iter().zip(pruned).map(|(&target, pruned)| {
            let last = pruned.layers.last();
            Cell {
                policy: policy.name.clone(),
                target_flops: target,
                seed: run.config.seed,
                accuracy: pruned.accuracy,
                flops_share: pruned.flops_share,
                images_per_s: pruned.images_per_s,
                dense_images_per_s: dense.images_per_s,
                dense_accuracy: dense.accuracy,
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
}

/// The config for so many image passes: one evaluation, at the end.
fn parse(
    text: &str,
    overrides: &[String],
    passes: usize,
) -> Result<ExperimentConfig, TrainerError> {
    let first = ExperimentConfig::parse(text, "sweep", overrides)?;
    let steps = passes.div_ceil(first.train.batch_size * first.train.accumulation);
    let mut config = first;
    config.train.steps = steps;
    config.train.steps_per_epoch = steps;
    config.schedule.warmup_steps = config.schedule.warmup_steps.min(steps / 10);
    let text = config.to_toml()?;
    ExperimentConfig::parse(&text, "sweep", &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names_and_may_say_more() {
        let tome = SweptPolicy::parse("tome").unwrap();
        assert_eq!(tome.overrides, ["policy.kind=tome"]);
        let mine = SweptPolicy::parse("tome-slow:optimizer.learning_rate=1e-5").unwrap();
        assert_eq!(mine.overrides.len(), 2);
        assert_eq!(mine.name, "tome-slow");
        let fresh = SweptPolicy::parse("mine:policy.merge=nearest;agents.network=hinted").unwrap();
        assert_eq!(
            fresh.overrides,
            ["policy.merge=nearest", "agents.network=hinted"]
        );
        for wrong in ["tomato", "", "a/b:policy.merge=nearest"] {
            let error = SweptPolicy::parse(wrong).unwrap_err().to_string();
            assert!(error.contains("cls-attention"), "{error}");
        }
    }
}
