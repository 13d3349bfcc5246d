//! What it is worth to look at an image before deciding how much of it to merge.
//!
//! Explores a frozen model on images to learn from and on images to measure on, teaches gates with several seeds, and
//! compares on the same images: `allocate` (the exact expected reward), `regression`, the same schedules dealt at random, and
//! the oracle, beside ToMe. Prices are fitted on held-out images to learn from.
//!
//! `cargo run --release -p apt-rl-trainer --example allocation -- WEIGHTS TRAIN TEST 0.7,0.5,0.42 SEEDS MINUTES`

mod comparison;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apt_data::{DataSource, ImageDataset, Progress};
use apt_inference::{Choice, Export, PruningVit};
use apt_pruning_agent::{Gates, PolicyConfig, Selection};
use apt_rl_trainer::prune::{
    Allocated, Classroom, Explored, LearningSettings, allocate_at, explore, fit_price, frequencies,
    learn, oracle,
};
use apt_rl_trainer::{EvaluationSettings, evaluate_each};
use apt_vit_model::ExecutionMode;
use burn::prelude::*;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use comparison::{Outcome, interval, means, outcome_of, shuffled};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    let [_, weights, train, test, targets, seeds, minutes] = &args[..] else {
        return Err("expected WEIGHTS TRAIN TEST SHARES SEEDS MINUTES".into());
    };
    let targets: Vec<f64> = targets
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let (seeds, minutes): (u64, f64) = (seeds.parse()?, minutes.parse()?);
    let device = Device::default();
    let (model, opened) = Export::open(Path::new(weights), Choice::default(), &device)?;
    let description = opened.description;
    let model = model.prepack();
    let settings = EvaluationSettings {
        selection: Selection::All,
        batch_size: 32,
        normalization: description.normalization,
        transform: description.transform,
        workers: 1,
        compare: true,
        reference: None,
    };
    let gates = Gates::init(model.config(), &device)?;
    let limit = Duration::from_secs_f64(60.0 * minutes / 2.0);
    let explored = |images: &ImageDataset, name: &str| -> Result<Explored, Failure> {
        let begun = Instant::now();
        let shown = AtomicUsize::new(0);
        let go_on = |done: usize| {
            if done >= shown.load(Ordering::Relaxed) + 64 {
                shown.store(done, Ordering::Relaxed);
                eprintln!(
                    "{name}: {done} of {}, {:.0?}",
                    images.len(),
                    begun.elapsed()
                );
            }
            begun.elapsed() < limit
        };
        Ok(explore(
            &model,
            gates.tree(),
            images,
            &settings,
            &device,
            &go_on,
        )?)
    };
    let train = DataSource::load_to_learn(Path::new(train), Progress::Hidden)?;
    let (test, _) =
        DataSource::load_to_measure(Path::new(test), Default::default(), Progress::Hidden)?;
    let all = explored(&shuffled(&train).take(2000), "to learn from")?;
    let test = shuffled(&test);
    let tested = explored(&test, "to measure on")?;
    let test = test.take(tested.images);
    let (held, rest): (Vec<usize>, Vec<usize>) = (0..all.images).partition(|image| image % 5 == 4);
    let (train, held) = (all.subset(&rest), all.subset(&held));
    println!(
        "learned from {} images, prices fitted on {}, measured on {}",
        train.images, held.images, tested.images
    );

    let mut taught = Vec::new();
    for seed in 0..seeds {
        let settings = LearningSettings {
            seed,
            ..Default::default()
        };
        let config = model.config();
        taught.push(learn(
            config,
            &train,
            &held,
            &targets,
            &settings,
            &device,
            |_| true,
        )?);
        eprintln!("taught with seed {seed}");
    }
    let tome = tome(&model, &test, &targets, &settings, &device)?;
    for (target, tome) in targets.iter().zip(&tome) {
        println!(
            "\nFLOPs share {target}: policy, share, KL, equal answers; minus ToMe's [95 % of resampled images]"
        );
        let row = |name: &str, share: f64, outcome: &Outcome| {
            let [kl, equal] = means(outcome);
            let [low, high] = interval(outcome, &tome.1);
            println!(
                "{name}\t{share:.4}\t{kl:.4}\t{equal:.4}\tKL [{:.4}, {:.4}]\tequal [{:.4}, {:.4}]",
                low[0], high[0], low[1], high[1]
            );
        };
        row("tome", tome.0, &tome.1);
        let found = oracle(gates.shares(), &tested, *target);
        row("oracle", found.flops_share, &outcome(&tested, &found));
        for (seed, taught) in taught.iter().enumerate() {
            let measured = |gates: &Gates| {
                let fitted = fit_price(gates, &Classroom::new(gates, &held), &held, *target);
                let found = allocate_at(
                    gates,
                    &Classroom::new(gates, &tested),
                    &tested,
                    fitted.price,
                );
                (fitted, found)
            };
            let (fitted, found) = measured(&taught.reward);
            row(
                &format!("allocate {seed}"),
                found.flops_share,
                &outcome(&tested, &found),
            );
            let shares = frequencies(&fitted.schedules, gates.shares().len());
            let dealt = shares
                .iter()
                .zip(gates.shares())
                .map(|(often, share)| often * share)
                .sum();
            row(&format!("random {seed}"), dealt, &mixed(&tested, &shares));
            let (_, found) = measured(&taught.regression);
            row(
                &format!("regression {seed}"),
                found.flops_share,
                &outcome(&tested, &found),
            );
        }
    }
    Ok(())
}

/// ToMe's share and outcome for each target.
fn tome(
    model: &PruningVit,
    images: &ImageDataset,
    targets: &[f64],
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Vec<(f64, Outcome)>, Failure> {
    let model = model.clone().with_policy(&PolicyConfig::named("tome")?)?;
    let mut runs = vec![(ExecutionMode::Dense, Selection::All)];
    for &target in targets {
        let kept = model.kept_for(target)?;
        runs.push((ExecutionMode::Drop, Selection::Kept { kept }));
    }
    let found = evaluate_each(&model, images, &runs, settings, device, |_| ())?;
    let outcomes = found.into_iter().skip(1).filter_map(|found| {
        let outcome = outcome_of(&found.fidelity?);
        Some((found.flops_share, outcome))
    });
    Ok(outcomes.collect())
}

fn outcome(explored: &Explored, allocated: &Allocated) -> Outcome {
    of_schedules(explored, allocated.schedules.iter().copied())
}

/// What one schedule for each image does.
fn of_schedules(explored: &Explored, schedules: impl Iterator<Item = usize>) -> Outcome {
    let count = explored.distances.len() / explored.images;
    let places = schedules.enumerate();
    let places = places.map(|(image, schedule)| image * count + schedule);
    let outcome = places.map(|place| {
        let equal = f64::from(u8::from(explored.equal[place]));
        (f64::from(explored.distances[place]), equal)
    });
    outcome.collect()
}

/// One schedule drawn for each image.
fn mixed(explored: &Explored, shares: &[f64]) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let schedules = (0..explored.images).map(|_| {
        let mut rest = rng.random_range(0.0..1.0);
        let drawn = shares.iter().position(|share| {
            rest -= share;
            rest < 0.0
        });
        drawn.unwrap_or(0)
    });
    of_schedules(explored, schedules)
}
