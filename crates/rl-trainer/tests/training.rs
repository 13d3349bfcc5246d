//! Whole trainings of a tiny model: repeatable, resumable, and safe where things go wrong.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;
use std::time::Duration;

use apt_data::Progress;
use apt_inference::{Choice, Run};
use apt_rl_trainer::{
    Outcome, RunFolder, TrainOptions, TrainerError, resume, train, train_on_splits,
};
use burn::prelude::*;

use common::{alone, config, final_weights, options};

#[test]
fn a_training_ends_with_a_summary_metrics_and_events() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let outcome = train(config(&[]), &out, &options()).unwrap();
    let Outcome::Finished(summary) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        (summary.steps, summary.image_passes, summary.test_images),
        (8, 96, 20)
    );
    assert_eq!(summary.tokens_per_layer.len(), 2);
    assert!(summary.layers[0].foreground_kept.is_some());
    let text = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "dense_accuracy",
        "pruned_accuracy",
        "flops_share",
        "images_per_s",
        "seconds",
        "device",
    ] {
        assert!(!json[key].is_null(), "{key}");
    }
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    for key in [
        "\"loss\"",
        "\"reward/1\"",
        "\"positive/0\"",
        "\"keep_rate/1\"",
        "\"learning_rate\"",
        "\"images_per_s\"",
        "\"valid\"",
    ] {
        assert!(metrics.contains(key), "{key}");
    }
    assert_eq!(
        std::fs::read_dir(out.join("tensorboard")).unwrap().count(),
        1
    );
}

#[test]
fn patches_are_replaced_wherever_the_images_come_from() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let config = config(&["input.corrupt.kind=noise"]);
    let splits = config.load_data(None, Progress::Hidden).unwrap();
    let out = folder.path().join("run");
    let outcome = train_on_splits(splits, config, &out, &options()).unwrap();
    let Outcome::Finished(summary) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(summary.layers[0].corrupted_recall.is_some());
}

#[test]
fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, overrides: &[&str]| {
        let out = folder.path().join(name);
        train(config(overrides), &out, &options()).unwrap();
        final_weights(&out)
    };
    let first = run("first", &[]);
    assert!(
        first == run("second", &["train.num_workers=0"]),
        "other weights"
    );
    assert!(first != run("third", &["seed=8"]), "the same weights");
}

#[test]
fn a_paused_training_resumed_ends_where_the_unbroken_one_ends() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let unbroken = folder.path().join("unbroken");
    train(config(&[]), &unbroken, &options()).unwrap();

    let broken = folder.path().join("broken");
    let hurried = TrainOptions {
        time_limit: Some(Duration::ZERO),
        ..options()
    };
    // Each of these makes one step, within the first epoch and then within the second.
    let outcome = train(config(&[]), &broken, &hurried).unwrap();
    assert!(
        matches!(outcome, Outcome::Paused { step: 1, .. }),
        "{outcome:?}"
    );
    let mut steps = Vec::new();
    while let Outcome::Paused { step, .. } = resume(&broken, &hurried).unwrap() {
        steps.push(step);
    }
    assert_eq!(steps, [2, 3, 5, 6, 7]);
    assert!(
        final_weights(&unbroken) == final_weights(&broken),
        "other weights"
    );

    let lines = |out: &Path| {
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lines = lines.filter(|line| line["average"].is_null());
        lines
            .map(|line| (line["step"].clone(), line["loss"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&unbroken), lines(&broken));
}

#[test]
fn a_run_without_a_checkpoint_resumes_from_the_run_that_it_started_from() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("start");
    train(config(&["train.dense_steps=4"]), &start, &options()).unwrap();
    let from = format!("model.init_from_run={}", start.display());
    let config = config(&[&from, "seed=9"]);
    let [unbroken, broken] = ["unbroken", "broken"].map(|name| folder.path().join(name));
    train(config.clone(), &unbroken, &options()).unwrap();
    let hurried = TrainOptions {
        time_limit: Some(Duration::ZERO),
        ..options()
    };
    train(config, &broken, &hurried).unwrap();
    std::fs::remove_dir_all(broken.join("checkpoints")).unwrap();
    resume(&broken, &options()).unwrap();
    assert!(
        final_weights(&unbroken) == final_weights(&broken),
        "other weights"
    );
}

#[test]
fn resuming_a_finished_run_only_measures_it_again() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &options()).unwrap();
    let before = final_weights(&out);
    assert!(matches!(
        resume(&out, &options()).unwrap(),
        Outcome::Finished(_)
    ));
    assert!(before == final_weights(&out), "other weights");
}

#[test]
fn a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_checkpoint() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let overrides = [
        "optimizer.name=sgd",
        "train.max_grad_norm=1e9",
        "train.eval_interval=1",
    ];
    let mut config = config(&overrides);
    // More than a config file may say.
    config.optimizer.learning_rate = 1e38;
    let error = train(config, &out, &options()).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TrainerError::Diverged { .. }), "{message}");
    assert!(
        message.contains("learning_rate") && message.contains("epoch 1"),
        "{message}"
    );
    let run = Run::open(&out).unwrap();
    let checkpoint = run.checkpoints().choose(Choice::Last).unwrap();
    run.load_model(&checkpoint, &Device::default()).unwrap();
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error_that_keeps_the_last_one() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Something else stands where the second epoch's checkpoint is to go.
    std::fs::create_dir_all(out.join("checkpoints/model-2.bpk/in-the-way")).unwrap();
    let message = train(config(&[]), &out, &options())
        .unwrap_err()
        .to_string();
    assert!(message.contains("model-2.bpk"), "{message}");
    let run = RunFolder::open(&out).unwrap();
    let checkpoint = run.checkpoints().choose(Choice::Last).unwrap();
    assert_eq!(checkpoint.epoch, Some(1));
    run.load_model(&checkpoint, &Device::default()).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &options()).unwrap();
    let file = RunFolder::open(&out)
        .unwrap()
        .checkpoints()
        .choose(Choice::Last)
        .unwrap()
        .file("model");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let message = resume(&out, &options()).unwrap_err().to_string();
    assert!(message.contains("model-2.bpk"), "{message}");
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &options()).unwrap();
    let message = train(config(&[]), &out, &options())
        .unwrap_err()
        .to_string();
    assert!(message.contains("--resume"), "{message}");
}

#[test]
fn a_run_folder_that_cannot_be_written_is_an_error() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let message = train(config(&[]), &file.join("run"), &options())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("file/run") && message.contains("create"),
        "{message}"
    );
}

#[test]
fn early_stopping_ends_a_training_that_does_not_improve() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let overrides = [
        "train.steps=80",
        "train.eval_interval=2",
        "train.patience=2",
        "optimizer.learning_rate=1e-9",
    ];
    let Outcome::Finished(summary) = train(config(&overrides), &out, &options()).unwrap() else {
        panic!("paused");
    };
    assert!(summary.steps < 80, "{}", summary.steps);
}

#[test]
fn a_run_of_another_format_is_refused_with_what_to_do() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &options()).unwrap();
    let file = out.join("run.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (found, word) in [("1", "train or export it again"), ("99", "newer program")] {
        let other = text.replace("\"format\": 2", &format!("\"format\": {found}"));
        std::fs::write(&file, other).unwrap();
        let message = resume(&out, &options()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("has format {found}")) && message.contains(word),
            "{message}"
        );
    }
}

#[test]
fn a_plan_counts_what_a_step_computes() {
    let _alone = alone();
    let device = Device::default();
    for policy in ["apt", "pairs", "attentive", "dynamic-vit", "tome", "dense"] {
        let algorithms = match policy {
            "attentive" => vec!["first-order", "policy-gradient", "ppo"],
            _ => vec![""],
        };
        for algorithm in algorithms {
            let mut overrides = vec![format!("policy={policy}")];
            if policy != "dense" {
                overrides.push("flops=[0.8]".to_string());
            }
            if !algorithm.is_empty() {
                overrides.push(format!("policy.algorithm={algorithm}"));
            }
            let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
            let mut config = config(&overrides);
            if policy == "apt" {
                config.flops.clear();
                // Nothing is removed by this threshold.
                let text = config
                    .to_toml()
                    .unwrap()
                    .replace("threshold = 0.5", "threshold = 1.0");
                config = apt_rl_trainer::ExperimentConfig::parse(&text, "x", &[]).unwrap();
            }
            let planned = apt_rl_trainer::plan(&config, 10, &device)
                .unwrap()
                .step_flops as f64;
            let folder = tempfile::tempdir().unwrap();
            let counted = common::counted_flops(&config, folder.path());
            let off = (planned - counted).abs() / counted;
            assert!(
                off < 0.02,
                "{policy} {algorithm}: {planned} planned, {counted} counted"
            );
        }
    }
}
