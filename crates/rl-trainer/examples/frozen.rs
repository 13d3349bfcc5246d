//! Policies on a frozen model: how far each moves its answers at the same mean FLOPs.
//!
//! Learns on images without labels, fits budgets on a fifth of them that is held out, and measures all policies on the same
//! other images: as differences, with intervals, to ToMe at the share that the policy really computed, and to each earlier
//! policy.
//!
//! `cargo run --release -p apt-rl-trainer --example frozen -- WEIGHTS LEARN TEST[,TEST...] SHARES IMAGES TESTED SEEDS POLICY ...`,
//! a policy being a name, a table such as `{ name = "pairs", width = 8 }`, or a folder that `aptvit prune` wrote for the same
//! shares. `NAME@SHARES` asks a policy for other shares, such as those that another one really computed. `dense` removes nothing,
//! and a run without a policy is that model, dense. WEIGHTS may be a run.
//! LEARN and TEST are folders, archives, or an experiment's TOML file, whose images are meant. `PATH+noise:0.25` replaces a
//! quarter of each image's patches. Where TEST is `-`, it is further images of LEARN.

mod comparison;
#[path = "comparison/found.rs"]
mod found;
#[path = "comparison/images.rs"]
mod images;
#[path = "comparison/patches.rs"]
mod patches;

use std::path::Path;
use std::time::Instant;

use apt_data::ImageDataset;
use apt_inference::{Choice, Export, PruningVit};
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_rl_trainer::prune::{AgentSettings, FrozenModel, learn_on_frozen};
use apt_rl_trainer::{EvaluationSettings, calibrate, evaluate_each};
use apt_vit_model::ExecutionMode;
use burn::prelude::*;

use comparison::{outcome_of, shuffled};
use found::{Found, difference, mean};
use images::{to_learn, to_measure};
use patches::cosines_of_patches;

type Failure = Box<dyn std::error::Error>;

/// Policies that learn here, once for each seed.
const LEARNERS: [&str; 5] = ["pairs", "park", "apt-plus", "early-exit", "filter"];

/// What is measured, and with what.
struct Experiment {
    model: PruningVit,
    learned: ImageDataset,
    held_out: ImageDataset,
    tests: Vec<(String, ImageDataset)>,
    targets: Vec<f64>,
    settings: EvaluationSettings,
    device: Device,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [
        weights,
        learn,
        tests,
        targets_said,
        images,
        tested,
        seeds,
        policies @ ..,
    ] = &args[..]
    else {
        return Err(
            "expected WEIGHTS LEARN TEST[,TEST...] SHARES IMAGES TESTED SEEDS POLICY ...".into(),
        );
    };
    let (images, tested, seeds): (usize, usize, u64) =
        (images.parse()?, tested.parse()?, seeds.parse()?);
    let device = Device::default();
    let (model, opened) = Export::open(Path::new(weights), Choice::default(), &device)?;
    let description = opened.description;
    let grid = model.config().grid();
    let all = shuffled(&to_learn(learn, grid)?);
    let rest: Vec<usize> = (images..all.len()).collect();
    let test = |name: &str| -> Result<(String, ImageDataset), Failure> {
        let images = if name == "-" {
            all.subset(&rest)
        } else {
            shuffled(&to_measure(name, grid)?)
        };
        // Labels that are not the model's say nothing of it.
        let images = if images.class_names() == description.class_names {
            images
        } else {
            images.without_labels()
        };
        Ok((name.to_string(), images.take(tested)))
    };
    let (held_out, learned): (Vec<usize>, Vec<usize>) =
        (0..images.min(all.len())).partition(|image| image % 5 == 4);
    let experiment = Experiment {
        model,
        learned: all.subset(&learned),
        held_out: all.subset(&held_out),
        tests: tests.split(',').map(test).collect::<Result<_, _>>()?,
        targets: shares(targets_said)?,
        settings: EvaluationSettings {
            selection: Selection::All,
            batch_size: 32,
            normalization: description.normalization,
            transform: description.transform,
            workers: 1,
            compare: true,
            reference: None,
        },
        device,
    };
    let mut baselines: Vec<Baseline> = Vec::new();
    for said in policies {
        let begun = Instant::now();
        if Path::new(said).is_dir() {
            let found = experiment.of_folder(Path::new(said))?;
            experiment.compare(&found, said, &baselines)?;
            baselines.push((said.clone(), found));
            continue;
        }
        let (name, targets) = said.split_once('@').unwrap_or((said, targets_said));
        let (config, targets) = (parsed(name)?, shares(targets)?);
        if !LEARNERS.contains(&config.name()) {
            let found = experiment.measured(&config, &targets, None)?;
            let shown = format!("{said}, {:.0?}", begun.elapsed());
            experiment.compare(&found, &shown, &baselines)?;
            baselines.push((name.to_string(), found));
            continue;
        }
        let mut of_seeds = Vec::new();
        for seed in 0..seeds {
            let begun = Instant::now();
            of_seeds.push(experiment.measured(&config, &targets, Some(seed))?);
            experiment.show(
                &of_seeds[of_seeds.len() - 1],
                &format!("{said} {seed}, {:.0?}", begun.elapsed()),
            );
        }
        let found = mean(&of_seeds);
        experiment.compare(&found, &format!("{said} all"), &baselines)?;
        baselines.push((said.clone(), found));
    }
    Ok(())
}

fn shares(said: &str) -> Result<Vec<f64>, Failure> {
    Ok(said.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn parsed(said: &str) -> Result<PolicyConfig, Failure> {
    if !said.starts_with('{') {
        return Ok(PolicyConfig::named(said)?);
    }
    let table: std::collections::BTreeMap<String, PolicyConfig> =
        toml::from_str(&format!("policy = {said}"))?;
    table.into_values().next().ok_or_else(|| "no policy".into())
}

/// A policy's name, and per test and budget what it did.
type Baseline = (String, Vec<Vec<Found>>);

impl Experiment {
    /// Per test and budget what the policy did; learned with the seed, if there is one.
    fn measured(
        &self,
        config: &PolicyConfig,
        targets: &[f64],
        seed: Option<u64>,
    ) -> Result<Vec<Vec<Found>>, Failure> {
        let policy = match seed {
            Some(seed) => {
                let settings = AgentSettings::of(config, seed);
                let frozen = FrozenModel {
                    model: &self.model,
                    packed: &self.model.clone().prepack(),
                    images: &self.learned,
                    evaluation: &self.settings,
                    targets,
                    device: &self.device,
                };
                learn_on_frozen(&frozen, config, &settings, |_| true)?
            }
            None => config.init(self.model.config(), &self.device)?,
        };
        let model = &self.model;
        let model = PruningVit::new(model.vit.clone(), policy, model.config().clone()).prepack();
        if config.name() == "dense" {
            return self.on_tests(&model, &vec![Selection::All; targets.len()]);
        }
        let budgets = targets.iter().map(|&target| {
            let (settings, device) = (&self.settings, &self.device);
            calibrate(&model, &self.held_out, target, settings, device, |_| ())
        });
        let budgets = budgets.map(|budget| Ok(budget?.selection));
        let budgets: Vec<Selection> = budgets.collect::<Result<_, Failure>>()?;
        self.on_tests(&model, &budgets)
    }

    /// What a pruned model does, with the prices that it was written with; or another dense one.
    fn of_folder(&self, folder: &Path) -> Result<Vec<Vec<Found>>, Failure> {
        let (model, opened) = Export::open(folder, Choice::default(), &self.device)?;
        if opened.budgets.0.is_empty() {
            let everything = vec![Selection::All; self.targets.len()];
            return self.on_tests(&model.prepack(), &everything);
        }
        let budgets = self.targets.iter().map(|&target| {
            let found = opened.budgets.find(target, &opened.checkpoint);
            let found =
                found.ok_or_else(|| format!("{} has no budget {target}", folder.display()))?;
            Ok(found.selection.clone())
        });
        let budgets: Vec<Selection> = budgets.collect::<Result<_, Failure>>()?;
        self.on_tests(&model.prepack(), &budgets)
    }

    fn on_tests(
        &self,
        model: &PruningVit,
        budgets: &[Selection],
    ) -> Result<Vec<Vec<Found>>, Failure> {
        let tests = self.tests.iter();
        tests
            .map(|(_, images)| self.evaluated(model, images, budgets))
            .collect()
    }

    fn tome_at(&self, images: &ImageDataset, shares: &[f64]) -> Result<Vec<Found>, Failure> {
        let model = self.model.clone().prepack();
        let model = model.with_policy(&PolicyConfig::named("tome")?)?;
        let budgets = shares.iter().map(|&share| {
            let kept = model.kept_for(share)?;
            Ok(Selection::Kept { kept })
        });
        let budgets: Vec<Selection> = budgets.collect::<Result<_, Failure>>()?;
        self.evaluated(&model, images, &budgets)
    }

    fn evaluated(
        &self,
        model: &PruningVit,
        images: &ImageDataset,
        budgets: &[Selection],
    ) -> Result<Vec<Found>, Failure> {
        let mut runs = vec![(ExecutionMode::Dense, Selection::All)];
        let pruned = budgets.iter().cloned();
        runs.extend(pruned.map(|selection| (ExecutionMode::Drop, selection)));
        let (settings, device) = (&self.settings, &self.device);
        let found = evaluate_each(model, images, &runs, settings, device, |_| ())?;
        let patches = cosines_of_patches(model, images, budgets, settings, device)?;
        let found = found.into_iter().skip(1).zip(patches);
        let found = found.filter_map(|(found, patches)| {
            Some(Found {
                patches,
                share: found.flops_share,
                outcome: outcome_of(&found.fidelity?),
                correct: found.correct.into_iter().map(f64::from).collect(),
                foreground: found.layers.last().and_then(|last| last.foreground_kept),
                corrupted: found.layers.last().map_or([None; 2], |last| {
                    [last.corrupted_recall, last.corrupted_precision]
                }),
            })
        });
        Ok(found.collect())
    }

    /// Shows a line for each test and budget.
    fn show(&self, found: &[Vec<Found>], name: &str) {
        for ((test, _), found) in self.tests.iter().zip(found) {
            for (target, found) in self.targets.iter().zip(found) {
                println!("{test}\t{target}\t{name}\t{found}");
            }
        }
    }

    /// Shows the same beside ToMe at the shares that were computed, and beside `baselines`.
    fn compare(
        &self,
        found: &[Vec<Found>],
        name: &str,
        baselines: &[Baseline],
    ) -> Result<(), Failure> {
        self.show(found, name);
        for (place, ((test, images), found)) in self.tests.iter().zip(found).enumerate() {
            let computed: Vec<f64> = found.iter().map(|found| found.share).collect();
            let tome = ("tome", self.tome_at(images, &computed)?);
            let others = baselines.iter();
            let others = others.map(|(name, found)| (name.as_str(), found[place].clone()));
            for (other, theirs) in std::iter::once(tome).chain(others) {
                for ((target, ours), theirs) in self.targets.iter().zip(found).zip(theirs) {
                    let difference = difference(ours, &theirs);
                    println!("{test}\t{target}\t{name}\tminus {other}\t{theirs}\t{difference}");
                }
            }
        }
        Ok(())
    }
}
