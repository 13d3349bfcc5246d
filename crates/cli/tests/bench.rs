//! `aptvit bench`: what is timed, and as what.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use apt_pruning_agent::policies;
use serde_json::Value;

use common::{TINY, aptvit, refusal, stdout, text};

/// The rows that a bench prints as JSON lines.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let quick = ["--json", "--repeats", "2", "--warmup", "0"];
    let output = aptvit(&[&["bench"], arguments, &quick].concat());
    let lines = stdout(&output);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The same of a tiny preset.
fn tiny(arguments: &[&str]) -> Vec<Value> {
    rows(&[arguments, &["--model", "vit-tiny32"]].concat())
}

fn text_of<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

/// A tiny run whose config says this, too.
fn run_of(folder: &std::path::Path, said: &[&str]) -> String {
    let config = folder.join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let out = folder.join("run");
    let mut train = vec!["train", "--config", text(&config), "--out", text(&out)];
    train.extend(said.iter().flat_map(|said| ["--set", said]));
    stdout(&aptvit(&train));
    text(&out).to_string()
}

#[test]
fn bench_times_dense_and_pruned_passes() {
    let rows = tiny(&[
        "--layers",
        "0,2",
        "--batch",
        "1,3",
        "--keep",
        "0.5,0.25",
        "--ragged",
        "--threads",
        "1",
    ]);
    let modes: Vec<&str> = rows.iter().map(|row| text_of(row, "mode")).collect();
    assert_eq!(modes, ["dense", "drop", "drop-ragged"].repeat(2));
    for (row, batch) in rows.iter().zip([1, 1, 1, 3, 3, 3]) {
        assert_eq!((&row["batch"], &row["threads"]), (&batch.into(), &1.into()));
        assert!(number(row, "images_per_s") > 0.0);
        let [counted, speedup, realized] =
            ["theoretical_speedup", "speedup", "realized"].map(|key| number(row, key));
        assert!((realized - speedup / counted).abs() < 1e-9);
        if text_of(row, "mode") == "dense" {
            assert_eq!((counted, speedup), (1.0, 1.0));
            continue;
        }
        // 64 patches: 32, then 8 stay, and CLS.
        let tokens = row["tokens_per_layer"].as_array().unwrap();
        let near = |token: &Value, n: f64| (token.as_f64().unwrap() - n).abs() < 0.5;
        assert!(
            near(&tokens[0], 33.0) && near(&tokens[1], 9.0),
            "{tokens:?}"
        );
        assert!(counted > 1.5, "{counted}");
        assert!((number(row, "flops_share") - 1.0 / counted).abs() < 1e-9);
    }
}

#[test]
fn bench_takes_another_image_size() {
    let rows = tiny(&[
        "--layers",
        "0,2",
        "--batch",
        "1",
        "--keep",
        "0.5",
        "--image-size",
        "16x32",
    ]);
    let tokens = rows[1]["tokens_per_layer"].as_array().unwrap();
    // 4 x 8 patches: 16, then 8 stay, and CLS.
    assert_eq!(tokens, &[17.0, 9.0]);
}

#[test]
fn bench_times_every_policy_by_its_sweep_name_at_its_budgets() {
    for name in policies().into_iter().map(|entry| entry.name) {
        // Six blocks: the usual layers of twelve do not fit.
        let rows = tiny(&["--policy", name, "--flops", "0.8,0.6", "--batch", "2"]);
        let shares: &[f64] = if name == "dense" {
            &[1.0]
        } else {
            &[1.0, 0.8, 0.6]
        };
        assert_eq!(rows.len(), shares.len(), "{name}");
        for (row, share) in rows.iter().zip(shares) {
            let policy = if *share == 1.0 { "dense" } else { name };
            assert_eq!(text_of(row, "policy"), policy);
            let counted = number(row, "flops_share");
            assert!(counted <= share + 1e-6, "{name}: {counted} for {share}");
            let step = step_of(name).max(0.03);
            assert!(share - counted < step, "{name}: {counted} for {share}");
        }
    }
}

/// What goes at least at a time, of a model of six blocks: of exits alone, a block.
fn step_of(policy: &str) -> f64 {
    if policy == "early-exit" {
        1.0 / 6.0
    } else {
        0.0
    }
}

#[test]
fn bench_times_ragged_batches_of_policies_that_make_them() {
    let modes = |name: &str| -> Vec<String> {
        let rows = tiny(&["--policy", name, "--ragged", "--batch", "3"]);
        let mode = |row: &Value| text_of(row, "mode").to_string();
        rows.iter().map(mode).collect()
    };
    assert_eq!(modes("pairs"), ["dense", "drop", "drop-ragged"]);
    assert_eq!(modes("tome-threshold"), ["dense", "drop", "drop-ragged"]);
    for name in ["tome", "pitome", "tome-schedule"] {
        assert_eq!(modes(name), ["dense", "drop"], "{name}");
    }
}

#[test]
fn bench_times_the_runs_own_policy() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_of(folder.path(), &["policy=tome", "flops=[0.7]"]);
    let rows_of = |more: &[&str]| rows(&[&["--run", &run, "--batch", "2"], more].concat());
    let own = rows_of(&[]);
    assert_eq!(own.len(), 2);
    assert_eq!(text_of(&own[1], "policy"), "tome");
    // ToMe acts in all blocks but the last of three; agents would in those that the config names.
    assert_eq!(own[1]["tokens_per_layer"].as_array().unwrap().len(), 2);
    assert!((number(&own[1], "flops_share") - 0.7).abs() < 0.06);
    let asked = rows_of(&["--flops", "0.8,0.6"]);
    let targets: Vec<f64> = asked[1..]
        .iter()
        .map(|row| number(row, "target_flops"))
        .collect();
    assert_eq!(targets, [0.8, 0.6]);
    let other = rows_of(&["--policy", "evit", "--flops", "0.7"]);
    assert_eq!(text_of(&other[1], "policy"), "evit");
    // Rates are for agents.
    let message = refusal(&["bench", "--run", &run, "--keep", "0.5"]);
    assert!(
        message.contains("--keep") && message.contains("--flops"),
        "{message}"
    );
    let steps = rows(&["train", "--run", &run, "--batch", "2", "--whole"]);
    assert_eq!(text_of(steps.last().unwrap(), "policy"), "tome");
}

#[test]
fn bench_counts_the_passes_in_flight_and_goes_on_for_the_seconds_asked() {
    let rows = tiny(&[
        "--batch",
        "1",
        "--policy",
        "tome",
        "--in-flight",
        "3",
        "--seconds",
        "0.2",
    ]);
    for row in &rows {
        assert_eq!(row["in_flight"], 3);
        let (rounds, ms) = (number(row, "rounds"), number(&row["ms_per_image"], "max"));
        assert!(rounds >= 2.0 && rounds * 3.0 * ms >= 200.0, "{row}");
    }
}

#[test]
fn bench_times_the_parts_of_a_training_step() {
    let rows = tiny(&["train", "--layers", "0,2", "--batch", "2"]);
    let parts: Vec<&str> = rows.iter().map(|row| text_of(row, "part")).collect();
    assert_eq!(parts[0], "dense inference");
    assert!(parts.contains(&"the pruned pass, masked") && parts.contains(&"the whole step"));
    assert!(
        rows.iter()
            .all(|row| number(&row["ms_per_image"], "median") > 0.0)
    );
}

#[test]
fn bench_times_the_trainers_own_step_of_any_policy() {
    for name in policies().into_iter().map(|entry| entry.name) {
        let rows = tiny(&[
            "train", "--policy", name, "--flops", "0.6", "--batch", "2", "--whole",
        ]);
        assert_eq!(rows.len(), 3, "{name}");
        let own = &rows[2];
        assert_eq!(text_of(own, "part"), "the whole step");
        assert_eq!(text_of(own, "policy"), name);
        assert!(number(own, "images_per_s") > 0.0);
        let share = if name == "dense" { 1.0 } else { 0.6 };
        // DynamicViT's relaxed pass computes all of it.
        if name != "dynamic-vit" {
            let counted = number(own, "flops_share");
            let step = step_of(name).max(0.05);
            assert!((counted - share).abs() < step, "{name}: {counted}");
        }
    }
    let beside = tiny(&["train", "--policy", "pairs", "--batch", "2"]);
    assert_eq!(beside.len(), 9);
}

#[test]
fn bench_times_the_loading_of_images() {
    let shapes = rows(&[
        "data",
        "--seconds",
        "0.1",
        "--batch",
        "4,8",
        "--threads",
        "2",
    ]);
    let batches: Vec<&Value> = shapes.iter().map(|row| &row["batch"]).collect();
    assert_eq!(batches, [4, 8]);
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in [("ant", "a"), ("ant", "b"), ("bee", "a"), ("bee", "b")] {
        let path = folder.path().join("train").join(class);
        std::fs::create_dir_all(&path).unwrap();
        let picture = image::RgbImage::from_pixel(80, 60, image::Rgb([9, 8, 7]));
        picture.save(path.join(format!("{name}.jpg"))).unwrap();
    }
    let data = ["data", "--data", text(folder.path()), "--seconds", "0.1"];
    let own = rows(&[&data[..], &["--image-size", "32x48"]].concat());
    assert_eq!(own[0]["image_size"], serde_json::json!([32, 48]));
    assert_eq!(rows(&data)[0]["image_size"], serde_json::json!([224, 224]));
    for row in shapes.iter().chain(&own) {
        let (made, seconds) = (number(row, "made"), number(row, "seconds"));
        assert!(seconds >= 0.1 && made >= 2.0 * number(row, "batch"));
        assert!((number(row, "images_per_s") - made / seconds).abs() < 1e-6 * made);
    }
}

#[test]
fn bench_refuses_what_fits_no_model() {
    let message = refusal(&["bench", "--model", "vit-b61"]);
    assert!(message.contains("vit-b16"), "{message}");
    let message = refusal(&["bench", "--model", "vit-tiny32", "--layers", "1,99"]);
    assert!(
        message.contains("--layers") && message.contains("99"),
        "{message}"
    );
    let message = refusal(&["bench", "--keep", "0.7,0.7"]);
    assert!(
        message.contains("--keep") && message.contains('3'),
        "{message}"
    );
    let message = refusal(&["bench", "--keep", "1.5"]);
    assert!(
        message.contains("--keep") && message.contains("1.5"),
        "{message}"
    );
    let message = refusal(&["bench", "--policy", "tomato"]);
    assert!(
        message.contains("--policy") && message.contains("cls-attention"),
        "{message}"
    );
}

#[test]
fn bench_refuses_options_of_what_it_does_not_time() {
    for (arguments, option) in [
        (&["bench", "--flops", "0.5"][..], "--flops"),
        (&["bench", "--data", "pets"], "--data"),
        (&["bench", "data", "--policy", "tome"], "--policy"),
        (&["bench", "train", "--in-flight", "2"], "--in-flight"),
        (&["bench", "--whole"], "--whole"),
    ] {
        let message = refusal(arguments);
        assert!(message.contains(option), "{message}");
    }
}
