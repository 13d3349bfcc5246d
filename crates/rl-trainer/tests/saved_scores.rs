//! Which checkpoint is the best is said by the saved scores, whatever else of a run's folder is damaged or gone.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apt_inference::{Choice, EpochScores, Model, Run};
use apt_rl_trainer::{Outcome, Summary, TrainOptions, resume, train};
use burn::prelude::*;

use common::{alone, config, final_weights, options};

fn hurried() -> TrainOptions {
    TrainOptions {
        time_limit: Some(Duration::ZERO),
        ..options()
    }
}

fn finished(outcome: Outcome) -> Summary {
    match outcome {
        Outcome::Finished(summary) => *summary,
        paused => panic!("{paused:?}"),
    }
}

/// A training that was paused in its second epoch.
fn begun(out: &Path, steps: &str) {
    let mut outcome = train(config(&[steps]), out, &hurried()).unwrap();
    while let Outcome::Paused { step, .. } = outcome
        && step < 5
    {
        outcome = resume(out, &hurried()).unwrap();
    }
}

fn copied(from: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copied(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
    to.to_path_buf()
}

/// The epochs whose models are there.
fn kept(out: &Path) -> Vec<usize> {
    let checkpoints = Run::open(out).unwrap().checkpoints();
    let sets = checkpoints.all().unwrap();
    sets.iter().filter_map(|set| set.epoch).collect()
}

#[test]
fn a_damaged_log_changes_neither_the_best_checkpoint_nor_which_ones_stay() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    begun(&sound, "train.steps=40");
    // What the run had before the damage was worth nothing, so that the best comes after it.
    let least = EpochScores {
        dense_accuracy: -1.0,
        pruned_accuracy: -1.0,
    };
    let checkpoints = Run::open(&sound).unwrap().checkpoints();
    checkpoints.save_scores(1, least).unwrap();
    let log = fs::read(sound.join("metrics.jsonl")).unwrap();
    let damaged = [None, Some(&log[..0]), Some(&log[..log.len() / 3])];
    let damaged: Vec<PathBuf> = damaged
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let out = copied(&sound, &folder.path().join(number.to_string()));
            let file = out.join("metrics.jsonl");
            match text {
                Some(text) => fs::write(file, text).unwrap(),
                None => fs::remove_file(file).unwrap(),
            }
            out
        })
        .collect();
    let expected = finished(resume(&sound, &options()).unwrap());
    let best = checkpoints.best_epochs(10).unwrap();
    let name = format!("epoch {} (step {})", best[0], best[0] * 4);
    assert_eq!(expected.checkpoint, name);
    for epoch in [best[0], best[1], 10] {
        assert!(kept(&sound).contains(&epoch), "{epoch}");
    }
    for out in damaged {
        let summary = finished(resume(&out, &options()).unwrap());
        assert_eq!(summary.checkpoint, expected.checkpoint);
        assert_eq!(summary.pruned_accuracy, expected.pruned_accuracy);
        assert_eq!(kept(&out), kept(&sound));
    }
}

#[test]
fn what_only_a_training_needs_is_not_needed_for_the_best_checkpoint() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    begun(&sound, "train.steps=8");
    let broken = copied(&sound, &folder.path().join("broken"));
    for part in ["optim", "scheduler"] {
        fs::remove_file(broken.join(format!("checkpoints/{part}-1.bpk"))).unwrap();
    }
    let device = Device::default();
    let [expected, found] = [&sound, &broken].map(|out| Model::open(out, &device).unwrap());
    assert_eq!(expected.checkpoint(), "epoch 1 (step 4)");
    assert_eq!(found.checkpoint(), expected.checkpoint());
    let [expected, found] = [&sound, &broken].map(|out| finished(resume(out, &options()).unwrap()));
    assert_eq!(found.checkpoint, expected.checkpoint);
    assert!(
        final_weights(&sound) == final_weights(&broken),
        "other weights"
    );
}

#[test]
fn a_training_does_not_go_on_where_the_best_checkpoint_is_unknown_or_gone() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound");
    begun(&sound, "train.steps=8");
    for (number, file) in ["scores.json", "model-1.bpk"].into_iter().enumerate() {
        let out = copied(&sound, &folder.path().join(number.to_string()));
        fs::remove_file(out.join("checkpoints").join(file)).unwrap();
        let before = kept(&out);
        let device = Device::default();
        for message in [
            resume(&out, &options()).unwrap_err().to_string(),
            Model::open(&out, &device).err().unwrap().to_string(),
        ] {
            for word in [file, "epoch 1", "--checkpoint last"] {
                assert!(message.contains(word), "{word}: {message}");
            }
        }
        assert_eq!(kept(&out), before);
        // The newest is known.
        let last = Run::open(&out).unwrap().checkpoints();
        assert_eq!(last.choose(Choice::Last).unwrap().step, 5);
    }
}

#[test]
fn an_epoch_that_a_kill_left_half_saved_is_made_again_and_later_ones_are_not_silently() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&["train.steps=40"]), &out, &options()).unwrap();
    let weights = final_weights(&out);
    let optimizer = out.join("checkpoints/optim-10.bpk");
    let kept = fs::read(&optimizer).unwrap();
    fs::remove_file(&optimizer).unwrap();
    let checkpoints = Run::open(&out).unwrap().checkpoints();
    // Epoch 10 stays whole. A kill never leaves earlier epochs without their optimiser.
    let mut others = checkpoints.all().unwrap();
    others.retain(|set| set.epoch != Some(10));
    for set in &others {
        fs::remove_file(set.file("optim")).unwrap();
    }
    let message = resume(&out, &options()).unwrap_err().to_string();
    for word in ["optim-", "is missing", "from its start"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    fs::write(&optimizer, kept).unwrap();
    finished(resume(&out, &options()).unwrap());
    assert!(weights == final_weights(&out), "other weights");

    let out = folder.path().join("short");
    train(config(&[]), &out, &options()).unwrap();
    let weights = final_weights(&out);
    fs::remove_file(out.join("checkpoints/optim-2.bpk")).unwrap();
    finished(resume(&out, &options()).unwrap());
    assert!(weights == final_weights(&out), "other weights");
}
