//! A run's folder: whole or refused by name, one training at a time, and one log over all sessions.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use apt_inference::{Choice, Model, Run, checksum_file};
use apt_rl_trainer::{Outcome, RunFolder, TrainOptions, resume, train};
use burn::module::Module;
use burn::prelude::*;
use serde_json::Value;

use common::{alone, config, options, weights};

fn trained(folder: &Path) -> PathBuf {
    let out = folder.join("run");
    train(config(&[]), &out, &options()).unwrap();
    out
}

/// Each of these makes one step.
fn hurried() -> TrainOptions {
    TrainOptions {
        time_limit: Some(Duration::ZERO),
        ..options()
    }
}

fn flip_a_bit(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(file, bytes).unwrap();
}

fn metrics(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_flipped_bit_in_any_record_is_refused_by_its_file() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = trained(folder.path());
    let last = Run::open(&out).unwrap().checkpoints();
    let last = last.choose(Choice::Last).unwrap();
    for part in ["model", "optim", "scheduler"] {
        let file = last.file(part);
        let sound = fs::read(&file).unwrap();
        flip_a_bit(&file);
        let error = resume(&out, &options()).unwrap_err().to_string();
        let name = file.file_name().unwrap().to_str().unwrap();
        for word in [name, "found crc32c:", "expected crc32c:", "--checkpoint"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        fs::write(&file, sound).unwrap();
    }
    let file = last.file("model");
    flip_a_bit(&file);
    let run = Run::open(&out).unwrap();
    let device = Device::default();
    let error = run.load_model(&last, &device).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    // As the error says: without the file, an earlier checkpoint is the newest.
    fs::remove_file(&file).unwrap();
    let earlier = run.checkpoints().choose(Choice::Last).unwrap();
    assert!(earlier.step < last.step);
    run.load_model(&earlier, &device).unwrap();
}

#[test]
fn weights_that_are_no_numbers_are_refused_by_their_tensor() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = trained(folder.path());
    let run = Run::open(&out).unwrap();
    let last = run.checkpoints().choose(Choice::Last).unwrap();
    let file = last.file("model");
    // As an earlier version wrote it: without a checksum.
    fs::remove_file(checksum_file(&file)).unwrap();
    let device = Device::default();
    let mut model = run.load_model(&last, &device).unwrap();
    model.vit = model.vit.map_head(|weight| weight * f32::NAN);
    model.into_record().save(&file).unwrap();
    let error = run.load_model(&last, &device).unwrap_err().to_string();
    for word in ["model-2.bpk", "tensor 'vit.head.weight'", "NaN"] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn a_config_that_was_cut_short_is_refused_and_not_read_with_defaults() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = trained(folder.path());
    for name in ["config.toml", "run.json"] {
        let file = out.join(name);
        let whole = fs::read_to_string(&file).unwrap();
        // What is left of the config parses.
        let cut = match name {
            "config.toml" => whole[..whole.rfind("\n[").unwrap()].to_string(),
            _ => whole.replace("0.5", "0.4"),
        };
        assert!(cut != whole, "{name}");
        fs::write(&file, cut).unwrap();
        let error = RunFolder::open(&out).unwrap_err().to_string();
        for word in [name, "found crc32c:", "expected crc32c:", ".crc32c"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(resume(&out, &options()).is_err());
        fs::write(&file, whole).unwrap();
        RunFolder::open(&out).unwrap();
    }
}

#[test]
fn a_folder_in_which_a_training_is_at_work_is_refused_by_its_name() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &hurried()).unwrap();
    let first = RunFolder::open_to_train(&out).unwrap();
    for error in [
        RunFolder::open_to_train(&out).unwrap_err(),
        resume(&out, &options()).unwrap_err(),
    ] {
        let error = error.to_string();
        let name = out.display().to_string();
        assert!(
            error.contains(&name) && error.contains("another training"),
            "{error}"
        );
    }
    // It may be read meanwhile.
    RunFolder::open(&out).unwrap();
    // The lock is held until the value and all its clones are dropped.
    let clone = first.clone();
    drop(first);
    assert!(RunFolder::open_to_train(&out).is_err());
    drop(clone);
    resume(&out, &options()).unwrap();
}

#[test]
fn two_starts_at_once_get_two_folders() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let claimed: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| RunFolder::claim(&runs, "mine").unwrap()))
            .collect();
        let claimed = threads.into_iter().map(|thread| thread.join().unwrap());
        claimed.collect()
    });
    let mut names: Vec<_> = claimed
        .iter()
        .map(|path| path.file_name().unwrap())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 8, "{names:?}");
    assert!(names.contains(&"mine".as_ref()) && names.contains(&"mine-8".as_ref()));
}

#[test]
fn a_slim_run_answers_like_the_run_and_cannot_be_trained_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = trained(folder.path());
    let run = Run::open(&out).unwrap();
    let checkpoint = run.checkpoints().choose(Choice::default()).unwrap();
    let slim = folder.path().join("slim");
    run.slim(&checkpoint, &slim).unwrap();
    let device = Device::default();
    let [before, after] = [&out, &slim].map(|path| Model::open(path, &device).unwrap());
    assert_eq!(before.checkpoint(), after.checkpoint());
    let [before, after] = [&out, &slim].map(|path| {
        let run = Run::open(path).unwrap();
        let checkpoint = run.checkpoints().choose(Choice::default()).unwrap();
        weights(&run.load_model(&checkpoint, &device).unwrap())
    });
    assert!(before == after, "other weights");
    assert_eq!(
        RunFolder::open(&slim).unwrap().config,
        RunFolder::open(&out).unwrap().config
    );
    let names = fs::read_dir(slim.join("checkpoints")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().all(|name| !name.contains("optim")));
    let error = resume(&slim, &options()).unwrap_err().to_string();
    assert!(error.contains("slimmed"), "{error}");
    let error = run.slim(&checkpoint, &slim).unwrap_err().to_string();
    assert!(error.contains("name another folder"), "{error}");
    // Slimmed once more, it is the same.
    let again = Run::open(&slim).unwrap();
    let checkpoint = again.checkpoints().choose(Choice::Last).unwrap();
    again
        .slim(&checkpoint, &folder.path().join("again"))
        .unwrap();
    flip_a_bit(&checkpoint.file("model"));
    assert!(Model::open(&slim, &device).is_err());
}

#[test]
fn what_a_killed_training_left_half_written_goes_at_the_next_start() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &hurried()).unwrap();
    let left = out.join("checkpoints/pause-3.partial");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("model.bpk"), "half").unwrap();
    fs::write(out.join("checkpoints/model-1.bpk.partial"), "half").unwrap();
    resume(&out, &hurried()).unwrap();
    let names = fs::read_dir(out.join("checkpoints")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().ends_with(".partial")),
        "{names:?}"
    );
}

#[test]
fn a_run_of_several_sessions_has_each_step_once_and_adds_up_its_time() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(config(&[]), &out, &hurried()).unwrap();
    // A killed session: it logged steps that no checkpoint has.
    let lost = r#"{"split":"train","epoch":1,"step":2,"loss":9.0,"seconds":1000.0}"#;
    let file = out.join("metrics.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}{lost}\n")).unwrap();
    let mut last = resume(&out, &hurried()).unwrap();
    while matches!(last, Outcome::Paused { .. }) {
        last = resume(&out, &hurried()).unwrap();
    }
    let Outcome::Finished(summary) = last else {
        panic!("{last:?}");
    };
    assert!(summary.seconds > 1000.0, "{}", summary.seconds);
    let mut before = 0.0;
    for line in metrics(&out) {
        let seconds = line["seconds"].as_f64().unwrap();
        assert!(seconds >= before, "{line}");
        before = seconds;
    }
    let mut tags = BTreeMap::new();
    for (step, tag) in scalars(&out) {
        let times: &mut usize = tags.entry((tag, step)).or_default();
        // Two batches a step.
        *times += 1;
    }
    let of_loss: Vec<u64> = tags
        .keys()
        .filter(|(tag, _)| tag == "train/loss")
        .map(|&(_, step)| step)
        .collect();
    assert_eq!(of_loss, (1..=8).collect::<Vec<u64>>());
    assert!(tags.values().all(|&times| times == 1), "{tags:?}");
}

#[test]
fn the_first_step_after_a_resume_logs_what_the_unbroken_run_logs() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let [unbroken, broken] = ["unbroken", "broken"].map(|name| folder.path().join(name));
    train(config(&[]), &unbroken, &options()).unwrap();
    let mut outcome = train(config(&[]), &broken, &hurried()).unwrap();
    let mut from_an_epoch = false;
    while let Outcome::Paused {
        step, checkpoint, ..
    } = outcome
    {
        if step == 5 && !from_an_epoch {
            // Goes on from the end of the first epoch.
            fs::remove_dir_all(checkpoint).unwrap();
            from_an_epoch = true;
        }
        outcome = resume(&broken, &hurried()).unwrap();
    }
    assert!(from_an_epoch);
    let logged = |out: &Path| {
        let lines = metrics(out).into_iter();
        let of_passes = lines.filter(|line| line["average"].is_null());
        let logged = of_passes.map(|line| {
            ["step", "loss", "learning_rate", "gradient_norm"].map(|key| line[key].clone())
        });
        logged.collect::<Vec<_>>()
    };
    let expected = logged(&unbroken);
    assert_eq!(expected, logged(&broken));
    for [step, _, rate, norm] in &expected {
        let step = step.as_u64().unwrap();
        // The rate falls to zero with the last step, and before the first update there is no norm.
        assert_eq!(
            rate.as_f64().unwrap() > 1e-9,
            step < 8,
            "step {step}: {rate}"
        );
        assert_eq!(
            norm.as_f64().unwrap() > 0.0,
            step > 1,
            "step {step}: {norm}"
        );
    }
}

#[test]
fn a_damaged_summary_is_refused_by_its_file_and_names_its_device_plainly() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let out = trained(folder.path());
    let file = out.join("summary.json");
    let run = RunFolder::open(&out).unwrap();
    let summary = run.summary().unwrap().unwrap();
    let device = summary["device"].as_str().unwrap();
    assert!(
        device.starts_with(|c: char| c.is_ascii_lowercase()) && !device.contains(['<', '(', '[']),
        "{device}"
    );
    let whole = fs::read_to_string(&file).unwrap();
    let doubled = format!("{whole}{whole}");
    let mut damaged = vec!["", &whole[..whole.len() / 2], &doubled, "{}", "null"];
    let other = whole.replace("\"steps\": 8", "\"steps\": 9");
    assert!(other != whole);
    damaged.push(&other);
    for text in &damaged {
        fs::write(&file, text).unwrap();
        let error = run.summary().unwrap_err().to_string();
        for word in ["summary.json", "found crc32c:", "--resume"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    // As an earlier version wrote it: without a checksum.
    fs::remove_file(checksum_file(&file)).unwrap();
    damaged.pop();
    for text in damaged {
        fs::write(&file, text).unwrap();
        let error = run.summary().unwrap_err().to_string();
        assert!(
            error.contains("summary.json") && error.contains("is damaged"),
            "{error}"
        );
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(run.summary().unwrap(), None);
}

/// Step and tag of every scalar of all TensorBoard files, by the bytes that TensorFlow writes.
fn scalars(out: &Path) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out.join("tensorboard")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = &rest[12..12 + length];
            rest = &rest[16 + length..];
            // Nine bytes of time, then the step (all are below 128), then summary, value and tag.
            if event[9] == 0x10 && event[11] == 0x2a {
                let tag = &event[17..17 + usize::from(event[16])];
                found.push((event[10].into(), String::from_utf8(tag.to_vec()).unwrap()));
            }
        }
    }
    found
}
