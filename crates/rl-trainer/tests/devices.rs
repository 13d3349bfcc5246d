//! Several devices give the update of one, and so do the ways to need less memory.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_rl_trainer::{Devices, Outcome, TrainOptions, TrainerError, train};
use apt_vit_model::Precision;
use burn::prelude::*;

use common::{alone, config, final_weights, options};

/// The largest difference of two trainings' weights.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

fn several(count: usize) -> TrainOptions {
    TrainOptions {
        devices: Devices {
            devices: vec![Device::default(); count],
            distributed: false,
        },
        ..options()
    }
}

/// Dropout draws other masks for other devices, and AdamW divides gradients by their own size, so
/// that of those near zero it moves the weights by their rounding. While the head is next to zero,
/// rounding decides which cuts are rewarded; so it learns alone at first.
const EXACT: [&str; 5] = [
    "train.dense_steps=2",
    "model.dropout=0.0",
    "train.eval_interval=2",
    "optimizer.name=\"sgd\"",
    "optimizer.learning_rate=0.03",
];

fn trained(overrides: &[&str], options: &TrainOptions) -> (Vec<f32>, Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let overrides: Vec<&str> = EXACT.iter().chain(overrides).copied().collect();
    let outcome = train(config(&overrides), &out, options).unwrap();
    (final_weights(&out), outcome)
}

#[test]
fn two_and_three_workers_give_the_update_of_one() {
    let _alone = alone();
    for overrides in [
        // Every stream, two forward passes a step; batches of 6 for 2 and for 4 devices.
        vec![],
        vec!["train.grad_accumulation_steps=1"],
        vec!["train.batch_size=7", "train.agent_interval=2"],
    ] {
        let (one, _) = trained(&overrides, &several(1));
        for count in [2, 3, 4] {
            let (many, outcome) = trained(&overrides, &several(count));
            let Outcome::Finished(summary) = outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(summary.steps, 8);
            let difference = difference(&one, &many);
            assert!(
                difference < 1e-5,
                "{count} devices, {overrides:?}: {difference}"
            );
        }
    }
}

#[test]
fn several_devices_can_pause_and_go_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (unbroken, broken) = (folder.path().join("unbroken"), folder.path().join("broken"));
    train(config(&EXACT), &unbroken, &several(2)).unwrap();
    let hurried = TrainOptions {
        time_limit: Some(std::time::Duration::ZERO),
        ..several(2)
    };
    let mut outcome = train(config(&EXACT), &broken, &hurried).unwrap();
    let mut pauses = 0;
    while let Outcome::Paused { .. } = outcome {
        pauses += 1;
        outcome = apt_rl_trainer::resume(&broken, &hurried).unwrap();
    }
    assert!(pauses > 1);
    let difference = difference(&final_weights(&unbroken), &final_weights(&broken));
    assert!(difference < 1e-5, "{difference}");
    // A line for each device and pass, none lost or counted twice.
    let lines = |folder: &std::path::Path| {
        let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        text.lines()
            .filter(|line| line.contains("\"train\"") && !line.contains("average"))
            .count()
    };
    assert_eq!(lines(&unbroken), lines(&broken));
}

#[test]
fn a_batch_has_to_have_an_image_for_each_device() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let error = train(
        config(&["train.batch_size=1"]),
        &folder.path().join("run"),
        &several(2),
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains("train.batch_size = 1"), "{message}");
    assert!(!folder.path().join("run/config.toml").exists());
}

#[test]
fn gradient_checkpointing_gives_the_same_update() {
    let _alone = alone();
    for overrides in [
        vec![],
        vec!["train.freeze=1"],
        vec!["train.freeze=\"backbone\""],
    ] {
        let (plain, _) = trained(&overrides, &options());
        let mut overrides = overrides;
        overrides.push("train.gradient_checkpointing=true");
        let (recomputed, _) = trained(&overrides, &options());
        let difference = difference(&plain, &recomputed);
        assert!(difference < 1e-5, "{overrides:?}: {difference}");
    }
}

#[test]
fn gradient_checkpointing_draws_the_same_dropout_twice() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let out = folder.path().join(name);
        let overrides = ["model.dropout=0.3", "train.gradient_checkpointing=true"];
        train(config(&overrides), &out, &options()).unwrap();
        final_weights(&out)
    };
    assert!(run("first") == run("second"));
}

/// By how much the weights of a short training in `precision` may differ from those in 32 bits,
/// relative to how far the training moved them. Without agents: where a removal probability is near
/// the threshold, rounding decides.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 0.0,
        Precision::Bf16 => 0.5,
        Precision::F16 => 0.25,
        Precision::Int8 => unreachable!("nothing trains in integers"),
    }
}

#[test]
fn short_floats_train_nearly_as_32_bits_do() {
    let _alone = alone();
    let dense = "policy=dense";
    let (start, _) = trained(&[dense, "optimizer.learning_rate=1e-12"], &options());
    let (full, _) = trained(&[dense], &options());
    let norm = |a: &[f32], b: &[f32]| {
        let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt() as f32
    };
    let moved = norm(&start, &full);
    for precision in Precision::FLOATS {
        if !precision.is_supported(&Device::default()) {
            continue;
        }
        let dtype = format!("train.dtype={}", precision.name());
        for recompute in [false, true] {
            let recompute = format!("train.gradient_checkpointing={recompute}");
            let (short, _) = trained(&[dense, &dtype, &recompute], &options());
            let off = norm(&short, &full) / moved;
            eprintln!("{precision:?} {recompute}: {off}");
            assert!(off <= tolerance(precision) + 1e-4, "{precision:?}: {off}");
        }
    }
}

#[test]
fn what_does_not_fit_into_memory_is_refused_with_the_numbers_to_lower() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let little = TrainOptions {
        memory: Some(100_000),
        ..options()
    };
    let out = folder.path().join("run");
    let error = train(config(&[]), &out, &little).unwrap_err();
    assert!(matches!(error, TrainerError::OutOfMemory(_)), "{error}");
    let message = error.to_string();
    for part in ["train.batch_size", "train.gradient_checkpointing", "GiB"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!out.join("config.toml").exists());
}
