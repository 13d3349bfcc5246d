//! Damaged folders are refused by the program with the file and what to do; slimmed ones answer as before.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use apt_inference::{Choice, Run};
use common::{TINY, aptvit, refusal, stdout, text};

fn trained(folder: &Path) -> PathBuf {
    let config = folder.join("tiny.toml");
    fs::write(&config, TINY).unwrap();
    let run = folder.join("run");
    let train = ["train", "--config", text(&config), "--out", text(&run)];
    stdout(&aptvit(&train));
    run
}

fn picture(folder: &Path) -> PathBuf {
    let path = folder.join("cat.png");
    let image = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 5, 99]));
    image.save(&path).unwrap();
    path
}

fn flip_a_bit(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let place = bytes.len() * 3 / 4;
    bytes[place] ^= 64;
    fs::write(file, bytes).unwrap();
}

fn says_what_is_damaged(message: &str, file: &str) {
    for word in [file, "is damaged", "found crc32c:", "expected crc32c:"] {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn a_damaged_checkpoint_gives_no_answer_and_no_export() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = picture(folder.path());
    let checkpoints = Run::open(&run).unwrap().checkpoints();
    for set in checkpoints.all().unwrap() {
        flip_a_bit(&set.file("model"));
    }
    let out = folder.path().join("out");
    for arguments in [
        vec!["infer", "--run", text(&run), text(&picture)],
        vec!["eval", "--run", text(&run)],
        vec!["export", "--run", text(&run), "--out", text(&out)],
        vec![
            "export",
            "--run",
            text(&run),
            "--out",
            text(&out),
            "--format",
            "run",
        ],
    ] {
        let message = refusal(&arguments);
        says_what_is_damaged(&message, "model-");
        assert!(message.contains("--checkpoint"), "{message}");
    }
    assert!(!out.exists());
}

#[test]
fn a_damaged_export_is_refused_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = picture(folder.path());
    let out = folder.path().join("out");
    stdout(&aptvit(&[
        "export",
        "--run",
        text(&run),
        "--out",
        text(&out),
    ]));
    let infer = ["infer", "--run", text(&out), text(&picture)];
    stdout(&aptvit(&infer));
    for name in ["model.safetensors", "policy.safetensors"] {
        let file = out.join(name);
        let sound = fs::read(&file).unwrap();
        flip_a_bit(&file);
        let message = refusal(&infer);
        says_what_is_damaged(&message, name);
        assert!(message.contains("export the run again"), "{message}");
        fs::write(&file, sound).unwrap();
    }
    stdout(&aptvit(&infer));
}

#[test]
fn a_slim_run_gives_the_same_answers_and_says_why_it_cannot_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = picture(folder.path());
    let slim = folder.path().join("slim");
    let export = |from: &Path, to: &Path| {
        let (from, to) = (text(from).to_string(), text(to).to_string());
        stdout(&aptvit(&[
            "export", "--run", &from, "--out", &to, "--format", "run",
        ]))
    };
    export(&run, &slim);
    let infer = |path: &Path| {
        stdout(&aptvit(&[
            "infer",
            "--run",
            text(path),
            text(&picture),
            "--json",
        ]))
    };
    assert_eq!(infer(&run), infer(&slim));
    let accuracy = |path: &Path| {
        let eval = stdout(&aptvit(&["eval", "--run", text(path), "--json"]));
        let eval: serde_json::Value = serde_json::from_str(&eval).unwrap();
        eval["evaluations"][1]["accuracy"].clone()
    };
    assert_eq!(accuracy(&run), accuracy(&slim));
    let exported = folder.path().join("exported");
    stdout(&aptvit(&[
        "export",
        "--run",
        text(&slim),
        "--out",
        text(&exported),
    ]));
    assert_eq!(infer(&run), infer(&exported));
    export(&slim, &folder.path().join("again"));
    let message = refusal(&["train", "--resume", text(&slim)]);
    assert!(message.contains("slimmed"), "{message}");
    let size = |folder: &Path| -> u64 {
        let files = fs::read_dir(folder.join("checkpoints")).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    };
    assert!(
        size(&slim) < size(&run) / 2,
        "{} of {}",
        size(&slim),
        size(&run)
    );
    let best = Run::open(&slim).unwrap().checkpoints();
    assert_eq!(
        best.choose(Choice::Last).unwrap(),
        best.choose(Choice::BestPruned).unwrap()
    );
}

#[test]
fn a_run_whose_config_was_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let config = run.join("config.toml");
    let whole = fs::read_to_string(&config).unwrap();
    fs::write(&config, &whole[..whole.rfind("\n[").unwrap()]).unwrap();
    for arguments in [["eval", "--run"], ["train", "--resume"]] {
        let [command, flag] = arguments;
        let message = refusal(&[command, flag, text(&run)]);
        says_what_is_damaged(&message, "config.toml");
    }
}
