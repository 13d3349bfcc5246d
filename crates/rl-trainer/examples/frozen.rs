//! Policies on a frozen model: how far each moves its answers at the same mean FLOPs.
//!
//! Learns on images without labels, fits budgets on a fifth of them that is held out, and measures all policies on the same
//! other images, as differences to ToMe at the share that the policy really computed, with intervals.
//!
//! `cargo run --release -p apt-rl-trainer --example frozen -- WEIGHTS LEARN TEST SHARES IMAGES TESTED SEEDS POLICY ...`, a policy
//! being a name or a table such as `{ name = "pairs", width = 8 }`. Where TEST is `-`, the test images are further ones of LEARN.

mod comparison;

use std::path::Path;
use std::time::Instant;

use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::{Choice, Model, PruningVit};
use apt_pruning_agent::{PolicyConfig, Selection};
use apt_rl_trainer::prune::{FrozenModel, SensitivitySettings, learn_sensitivity};
use apt_rl_trainer::{EvaluationSettings, calibrate, evaluate_each};
use apt_vit_model::ExecutionMode;
use burn::prelude::*;

use comparison::{Outcome, interval, means, outcome_of, shuffled};

type Failure = Box<dyn std::error::Error>;

/// What is measured, and with what.
struct Experiment {
    model: PruningVit,
    learned: ImageDataset,
    held_out: ImageDataset,
    test: ImageDataset,
    targets: Vec<f64>,
    settings: EvaluationSettings,
    device: Device,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [
        weights,
        learn,
        test,
        targets,
        images,
        tested,
        seeds,
        policies @ ..,
    ] = &args[..]
    else {
        return Err("expected WEIGHTS LEARN TEST SHARES IMAGES TESTED SEEDS POLICY ...".into());
    };
    let targets = targets.split(',').map(str::parse);
    let (images, tested, seeds): (usize, usize, u64) =
        (images.parse()?, tested.parse()?, seeds.parse()?);
    let device = Device::default();
    let (model, description) =
        Model::open_unpacked(Path::new(weights), Choice::default(), &device)?;
    let all = shuffled(&DataSource::load_to_learn(
        Path::new(learn),
        Progress::Hidden,
    )?);
    let rest: Vec<usize> = (images..all.len()).collect();
    let test = if test == "-" {
        all.subset(&rest)
    } else {
        let (test, _) =
            DataSource::load_to_measure(Path::new(test), Default::default(), Progress::Hidden)?;
        shuffled(&test)
    };
    let (held_out, learned): (Vec<usize>, Vec<usize>) =
        (0..images.min(all.len())).partition(|image| image % 5 == 4);
    let experiment = Experiment {
        model,
        learned: all.subset(&learned),
        held_out: all.subset(&held_out),
        test: test.take(tested),
        targets: targets.collect::<Result<_, _>>()?,
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
    let baseline = experiment.tome(&experiment.targets)?;
    experiment.show("tome", &baseline, &baseline);
    for said in policies {
        let config = parsed(said)?;
        let learns = config.name() == "pairs";
        let mut of_seeds = Vec::new();
        for seed in 0..if learns { seeds } else { 1 } {
            let begun = Instant::now();
            let found = experiment.outcomes(&config, learns.then_some(seed))?;
            let name = format!("{said} {seed}, {:.0?}", begun.elapsed());
            let shares: Vec<f64> = found.iter().map(|(share, _)| *share).collect();
            experiment.show(&name, &found, &experiment.tome(&shares)?);
            of_seeds.push(found);
        }
        if of_seeds.len() > 1 {
            let found = mean(&of_seeds);
            let shares: Vec<f64> = found.iter().map(|(share, _)| *share).collect();
            experiment.show(&format!("{said} all"), &found, &experiment.tome(&shares)?);
        }
    }
    Ok(())
}

fn parsed(said: &str) -> Result<PolicyConfig, Failure> {
    if !said.starts_with('{') {
        return Ok(PolicyConfig::named(said)?);
    }
    let table: std::collections::BTreeMap<String, PolicyConfig> =
        toml::from_str(&format!("policy = {said}"))?;
    table.into_values().next().ok_or_else(|| "no policy".into())
}

impl Experiment {
    /// Per budget, the share that was computed and what became of each test image; learned with the seed, if there is one.
    fn outcomes(
        &self,
        config: &PolicyConfig,
        seed: Option<u64>,
    ) -> Result<Vec<(f64, Outcome)>, Failure> {
        let policy = match seed {
            Some(seed) => {
                let settings = SensitivitySettings {
                    seed,
                    ..SensitivitySettings::default()
                };
                let frozen = FrozenModel {
                    model: &self.model,
                    packed: &self.model.clone().prepack(),
                    images: &self.learned,
                    evaluation: &self.settings,
                    targets: &self.targets,
                    device: &self.device,
                };
                learn_sensitivity(&frozen, config, &settings, |_| true)?
            }
            None => config.init(self.model.config(), &self.device)?,
        };
        let model = &self.model;
        let model = PruningVit::new(model.vit.clone(), policy, model.config().clone()).prepack();
        let mut runs = vec![(ExecutionMode::Dense, Selection::All)];
        for &target in &self.targets {
            let budget = calibrate(
                &model,
                &self.held_out,
                target,
                &self.settings,
                &self.device,
                |_| (),
            )?;
            runs.push((ExecutionMode::Drop, budget.selection));
        }
        self.measured(&model, &runs)
    }

    /// What ToMe does at these shares.
    fn tome(&self, shares: &[f64]) -> Result<Vec<(f64, Outcome)>, Failure> {
        let model = self.model.clone().prepack();
        let model = model.with_policy(&PolicyConfig::named("tome")?)?;
        let mut runs = vec![(ExecutionMode::Dense, Selection::All)];
        for &share in shares {
            let kept = model.kept_for(share)?;
            runs.push((ExecutionMode::Drop, Selection::Kept { kept }));
        }
        self.measured(&model, &runs)
    }

    /// Per run but the first, which is dense, the share and what became of each test image.
    fn measured(
        &self,
        model: &PruningVit,
        runs: &[(ExecutionMode, Selection)],
    ) -> Result<Vec<(f64, Outcome)>, Failure> {
        let (settings, device) = (&self.settings, &self.device);
        let found = evaluate_each(model, &self.test, runs, settings, device, |_| ())?;
        let outcomes = found.into_iter().skip(1).filter_map(|found| {
            let outcome = outcome_of(&found.fidelity?);
            Some((found.flops_share, outcome))
        });
        Ok(outcomes.collect())
    }

    fn show(&self, name: &str, found: &[(f64, Outcome)], baseline: &[(f64, Outcome)]) {
        for ((target, (share, ours)), (_, theirs)) in self.targets.iter().zip(found).zip(baseline) {
            let ([kl, equal], [of_tome, _]) = (means(ours), means(theirs));
            let [low, high] = interval(ours, theirs);
            println!(
                "{target}\t{name}\tshare {share:.4}\tKL {kl:.4} (of ToMe's {:.2}) [{:+.4}, {:+.4}]\tequal {equal:.4} [{:+.4}, {:+.4}]",
                kl / of_tome,
                low[0],
                high[0],
                low[1],
                high[1]
            );
        }
    }
}

/// Per budget, the means over seeds, image by image.
fn mean(of_seeds: &[Vec<(f64, Outcome)>]) -> Vec<(f64, Outcome)> {
    let count = of_seeds.len() as f64;
    let budgets = 0..of_seeds[0].len();
    let of_budget = |budget: usize| {
        let seeds = of_seeds.iter().map(|found| &found[budget]);
        let share = seeds.clone().map(|(share, _)| share).sum::<f64>() / count;
        let images = 0..of_seeds[0][budget].1.len();
        let outcome = images.map(|image| {
            let values = seeds.clone().map(|(_, outcome)| outcome[image]);
            let sum = values.fold((0.0, 0.0), |sum, value| (sum.0 + value.0, sum.1 + value.1));
            (sum.0 / count, sum.1 / count)
        });
        (share, outcome.collect())
    };
    budgets.map(of_budget).collect()
}
