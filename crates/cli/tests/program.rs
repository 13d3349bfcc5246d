//! The program as people use it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use apt_rl_trainer::RunFolder;
use common::{TINY, aptvit, refusal, stderr, stdout, text, weights};

fn write_config(folder: &Path, overrides: &str) -> PathBuf {
    let path = folder.join("tiny.toml");
    std::fs::write(&path, format!("{TINY}{overrides}")).unwrap();
    path
}

#[test]
fn train_eval_and_infer_work_together() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let run = folder.path().join("run");
    let table = stdout(&aptvit(&[
        "train",
        "--config",
        text(&config),
        "--out",
        text(&run),
    ]));
    for word in [
        "dense",
        "pruned",
        "accuracy",
        "FLOPs",
        "time per image",
        "foreground",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }

    let eval = stdout(&aptvit(&["eval", "--run", text(&run)]));
    for word in ["dense", "drop", "keep rate", "images/s", "circle"] {
        assert!(eval.contains(word), "{word}: {eval}");
    }
    let eval = stdout(&aptvit(&[
        "eval",
        "--run",
        text(&run),
        "--mode",
        "mask",
        "--threshold",
        "0",
        "--json",
    ]));
    let json: serde_json::Value = serde_json::from_str(&eval).unwrap();
    let layers = json["evaluations"][0]["layers"].as_array().unwrap();
    assert_eq!(
        layers[0]["tokens"], 1.0,
        "a threshold of 0 leaves CLS alone"
    );

    let picture = folder.path().join("cat.png");
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8 * 5, y as u8 * 5, 99]))
        .save(&picture)
        .unwrap();
    let pictures = folder.path().join("pictures");
    let infer = stdout(&aptvit(&[
        "infer",
        "--run",
        text(&run),
        text(&picture),
        "--visualize",
        text(&pictures),
    ]));
    assert!(infer.contains("tokens: 17, then"), "{infer}");
    let drawn = image::open(pictures.join("cat.png")).unwrap();
    assert!(drawn.width() > 2 * 200 && drawn.height() > 200);
    let infer = stdout(&aptvit(&[
        "infer",
        "--run",
        text(&run),
        text(folder.path()),
        "--json",
        "--top",
        "2",
    ]));
    let json: serde_json::Value = serde_json::from_str(&infer).unwrap();
    assert_eq!(json[0]["classes"].as_array().unwrap().len(), 2);
    assert_eq!(json[0]["tokens_per_layer"].as_array().unwrap().len(), 2);

    let no_picture = folder.path().join("note.png");
    std::fs::write(&no_picture, "no picture").unwrap();
    assert!(refusal(&["infer", "--run", text(&run), text(&no_picture)]).contains("note.png"));
    assert!(refusal(&["infer", "--run", text(&run), "absent.png"]).contains("absent.png"));
}

#[test]
fn a_killed_training_resumed_gives_the_weights_of_the_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let steps = "train.steps=240";
    let unbroken = folder.path().join("unbroken");
    stdout(&aptvit(&[
        "train",
        "--config",
        text(&config),
        "--set",
        steps,
        "--out",
        text(&unbroken),
    ]));

    let killed = folder.path().join("killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_aptvit"))
        .args([
            "train",
            "--config",
            text(&config),
            "--set",
            steps,
            "--out",
            text(&killed),
        ])
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !killed.join("checkpoints/scheduler-7.bpk").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no seventh checkpoint"
        );
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("summary.json").exists());
    stdout(&aptvit(&["train", "--resume", text(&killed)]));
    assert!(weights(&unbroken) == weights(&killed), "other weights");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_a_checkpoint_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let run = folder.path().join("run");
    let child = Command::new(env!("CARGO_BIN_EXE_aptvit"))
        .args([
            "train",
            "--config",
            text(&config),
            "--set",
            "train.steps=4000",
            "--out",
            text(&run),
        ])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !run.join("checkpoints/scheduler-2.bpk").exists() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "no second checkpoint"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("aptvit train --resume"), "{message}");
    assert!(message.contains("pause-"), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_ends_the_training_with_an_error_and_the_last_checkpoint_intact() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let run = folder.path().join("run");
    // With momentum the optimiser's record is larger than the model's; files may have up to
    // 64 KiB, which is enough for one and not for the other once the model is wider.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let output = Command::new("bash")
        .args([
            "-c",
            script,
            env!("CARGO_BIN_EXE_aptvit"),
            "train",
            "--config",
            text(&config),
        ])
        .args(["--set", "model.hidden_size=48", "--out", text(&run)])
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains(".bpk") && !message.contains("panicked"),
        "{message}"
    );
    // Nothing half-written passes for a checkpoint.
    let run = RunFolder::open(&run).unwrap();
    assert!(run.checkpoints().newest().unwrap().is_none());
}

#[test]
fn the_plan_of_a_training_is_shown_without_training() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let run = folder.path().join("run");
    let plan = aptvit(&[
        "train",
        "--config",
        text(&config),
        "--dry-run",
        "--json",
        "--out",
        text(&run),
    ]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&plan)).unwrap();
    for key in ["parameters", "dense_flops", "memory", "steps", "seconds"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(!run.exists());
}

#[test]
fn wrong_configs_are_refused_with_the_key_and_the_nearest_valid_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "warmup_stepz = 3\n");
    let message = refusal(&["train", "--config", text(&config)]);
    assert!(
        message.contains("warmup_stepz") && message.contains("`warmup_steps`"),
        "{message}"
    );
    let config = write_config(folder.path(), "");
    let message = refusal(&[
        "train",
        "--config",
        text(&config),
        "--set",
        "train.steps=many",
    ]);
    assert!(message.contains("train.steps=many"), "{message}");
    let message = refusal(&[
        "train",
        "--config",
        text(&config),
        "--set",
        "policy.layers=[7]",
    ]);
    assert!(message.contains("[7]"), "{message}");
    assert!(refusal(&["train", "--config", "absent.toml"]).contains("absent.toml"));
}

#[test]
fn missing_data_and_runs_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let message = refusal(&["eval", "--run", text(folder.path())]);
    assert!(message.contains("no run folder"), "{message}");
    let text_of = std::fs::read_to_string(&config).unwrap();
    let folder_config = text_of.replace(
        "source = \"shapes\"\nsize = 16\ntrain = 80\ntest = 20",
        "source = \"folder\"",
    );
    std::fs::write(&config, folder_config).unwrap();
    let message = refusal(&[
        "train",
        "--config",
        text(&config),
        "--out",
        text(&folder.path().join("r")),
    ]);
    assert!(message.contains("--data"), "{message}");
    let message = refusal(&["train", "--config", text(&config), "--data", "absent.tgz"]);
    assert!(message.contains("absent.tgz"), "{message}");
}

#[test]
fn wrong_usage_ends_with_2_and_help_has_examples() {
    assert_eq!(
        aptvit(&["train", "--time-limit", "soon"]).status.code(),
        Some(2)
    );
    assert_eq!(aptvit(&["eval"]).status.code(), Some(2));
    for command in ["train", "eval", "infer", "info", "lend"] {
        assert!(
            stdout(&aptvit(&[command, "--help"])).contains("Examples:"),
            "{command}"
        );
    }
    assert!(stdout(&aptvit(&["completions", "bash"])).contains("aptvit"));
    let info = stdout(&aptvit(&["info", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert!(json["backends"].as_array().is_some());
}

#[test]
fn info_says_what_a_weights_file_is() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../vit-model/tests/fixtures");
    let file = format!("{fixtures}/hf-dinov2");
    let json = stdout(&aptvit(&["info", &file, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["naming"], "Hugging Face DINOv2");
    assert_eq!(json["config"]["num_layers"], 2);
    assert!(stdout(&aptvit(&["info", &file])).contains("LayerScale"));
    assert_eq!(json["fits"], true);
    let misses = format!("{fixtures}/bad/missing-tensor.safetensors");
    let json = stdout(&aptvit(&["info", &misses, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["fits"], false);
    assert!(stdout(&aptvit(&["info", &misses])).contains("blocks.1.mlp.fc2.weight"));
    let refused = aptvit(&["info", &format!("{fixtures}/bad/runs-a-command.pth")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("nothing was executed"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aptvit"))
        .arg("info")
        // Where it is missing, a graphics driver says so.
        .env("XDG_RUNTIME_DIR", std::env::temp_dir())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(stderr(&output), "");
}
