//! Damaged folders are refused by the program with the file and what to do; slimmed ones answer as before.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
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

/// The files of a folder and those below, by their path within it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn add(folder: &Path, of: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(of).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(folder, &path, files);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    add(folder, folder, &mut found);
    found
}

fn export_to<'a>(run: &'a Path, out: &'a Path, format: &'a str) -> [&'a str; 7] {
    let (run, out) = (text(run), text(out));
    ["export", "--run", run, "--out", out, "--format", format]
}

#[test]
fn the_best_checkpoint_answers_without_its_optimiser_and_not_without_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let picture = picture(folder.path());
    let infer = ["infer", "--run", text(&run), text(&picture), "--json"];
    let expected = stdout(&aptvit(&infer));
    let checkpoints = Run::open(&run).unwrap().checkpoints();
    let best = checkpoints.choose(Choice::BestPruned).unwrap();
    for part in ["optim", "scheduler"] {
        fs::remove_file(best.file(part)).unwrap();
        assert_eq!(stdout(&aptvit(&infer)), expected, "{part}");
    }
    let model = best.file("model");
    fs::remove_file(&model).unwrap();
    let name = model.file_name().unwrap().to_str().unwrap();
    let out = folder.path().join("out");
    for arguments in [
        &infer[..],
        &["eval", "--run", text(&run)],
        &["calibrate", "--run", text(&run), "--flops", "0.9"],
        &export_to(&run, &out, "weights"),
        &export_to(&run, &out, "run"),
    ] {
        let message = refusal(arguments);
        for word in [name, "is missing", "--checkpoint last"] {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
    assert!(!out.exists());
}

#[test]
fn an_export_into_the_runs_own_folder_is_refused_and_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let before = files(&run);
    let mut own = vec![
        run.clone(),
        run.join("checkpoints"),
        run.join("new/folder"),
        folder.path().join("new/../run/checkpoints/../new"),
        folder.path().to_path_buf(),
    ];
    if cfg!(unix) {
        let link = folder.path().join("link");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&run, &link).unwrap();
        own.push(link.join("new"));
        own.push(link);
    }
    for out in &own {
        for format in ["weights", "run"] {
            let message = refusal(&export_to(&run, out, format));
            assert!(message.contains("name another folder"), "{message}");
            assert!(message.contains("the folder of the run"), "{message}");
        }
    }
    assert!(before == files(&run), "the run changed");
    // Beside it there is room, also where the name begins as the run's does.
    for format in ["weights", "run"] {
        let out = folder.path().join(format!("run-{format}"));
        stdout(&aptvit(&export_to(&run, &out, format)));
    }
}

#[test]
fn exports_are_the_same_byte_for_byte_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    for (format, last) in [("weights", "aptvit.json"), ("run", "run.json")] {
        let [first, second] =
            ["first", "second"].map(|name| folder.path().join(format!("{name}-{format}")));
        stdout(&aptvit(&export_to(&run, &first, format)));
        let expected = files(&first);
        // As a kill leaves it: some files are in their places, others are not, and the mark is there.
        let names: Vec<_> = expected.keys().collect();
        let (moved, others) = names.split_at(names.len() / 2);
        for (place, names) in [
            (second.clone(), moved),
            (second.join(".aptvit-unfinished"), others),
        ] {
            for name in names.iter().filter(|name| **name != Path::new(last)) {
                let path = place.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "half").unwrap();
            }
        }
        stdout(&aptvit(&export_to(&run, &second, format)));
        let found = files(&second);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        for (name, bytes) in &expected {
            assert!(found[name] == *bytes, "{} differs", name.display());
        }
        // A whole one is not replaced.
        let message = refusal(&export_to(&run, &second, format));
        assert!(message.contains("name another folder"), "{message}");
    }
}

#[test]
fn info_refuses_a_damaged_summary() {
    let folder = tempfile::tempdir().unwrap();
    let run = trained(folder.path());
    let info = ["info", "--run", text(&run)];
    assert!(stdout(&aptvit(&info)).contains("test images: "));
    let summary = run.join("summary.json");
    let whole = fs::read_to_string(&summary).unwrap();
    for damaged in [
        String::new(),
        whole[..whole.len() / 2].into(),
        whole.repeat(2),
    ] {
        fs::write(&summary, damaged).unwrap();
        for json in [&[][..], &["--json"]] {
            let message = refusal(&[&info, json].concat());
            says_what_is_damaged(&message, "summary.json");
        }
    }
    fs::remove_file(&summary).unwrap();
    assert!(stdout(&aptvit(&info)).contains("not finished"));
}
