//! `--dtype`: what it takes, what it refuses, and what a short precision changes.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{TINY, aptvit, fixture, refusal, stderr, stdout, text};

/// Does this CPU compute in integers? Says by name what is skipped where it does not.
fn has_integers(test: &str) -> bool {
    let info: Value = serde_json::from_str(&stdout(&aptvit(&["info", "--json"]))).unwrap();
    let has = info["products"]["int8"] != "nothing";
    if !has {
        eprintln!("skipped: {test}: this CPU has no kernels for integers");
    }
    has
}

fn pictures(folder: &Path) -> PathBuf {
    let data = folder.join("pictures");
    fs::create_dir_all(&data).unwrap();
    for number in 0..4u32 {
        let shade = |x: u32, y: u32| {
            image::Rgb([(x * (number + 2) * 7) as u8, (y * 5) as u8, (x * y) as u8])
        };
        let picture = image::RgbImage::from_fn(40, 40, shade);
        picture.save(data.join(format!("{number}.png"))).unwrap();
    }
    data
}

fn json(arguments: &[&str]) -> Vec<Value> {
    let output = aptvit(arguments);
    let lines = stdout(&output);
    let lines = lines.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_bfloat16_changes_is_measured_against_32_bit_floats() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path());
    let model = fixture("timm-vit");
    let eval = [
        "eval",
        "--model",
        text(&model),
        "--data",
        text(&data),
        "--against-f32",
        "--json",
    ];
    let prunes = ["--policy", "tome", "--flops", "0.75"];
    let evaluations = |more: &[&str]| {
        let found = json(&[&eval[..], &prunes, more].concat());
        found[0]["evaluations"].as_array().unwrap().clone()
    };
    let kl = |evaluation: &Value| evaluation["fidelity"]["kl"].as_f64().unwrap();
    let found = evaluations(&["--dtype", "bf16"]);
    let passes: Vec<_> = found
        .iter()
        .map(|e| (e["mode"].clone(), e["dtype"].clone()))
        .collect();
    let expected = [
        ("dense", "f32"),
        ("drop", "f32"),
        ("dense", "bf16"),
        ("drop", "bf16"),
    ];
    assert_eq!(
        passes,
        expected.map(|(mode, dtype)| (mode.into(), dtype.into()))
    );
    assert!(found[0].get("fidelity").is_none());
    // Rounding changes answers, and far less than pruning does.
    assert!(
        kl(&found[2]) > 0.0 && 10.0 * kl(&found[2]) < kl(&found[1]),
        "{found:?}"
    );
    let same = evaluations(&["--dtype", "f32", "--mode", "drop"]);
    assert_eq!(same.len(), 3);
    assert_eq!(kl(&same[1]), kl(&same[2]));
}

#[test]
fn auto_says_what_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path());
    let model = fixture("timm-vit");
    let output = aptvit(&[
        "infer",
        "--model",
        text(&model),
        text(&data),
        "--dtype",
        "auto",
    ]);
    stdout(&output);
    let said = stderr(&output);
    let taken = ["f32", "bf16", "int8"].map(|name| said.contains(&format!("--dtype auto: {name}")));
    assert_eq!(taken.iter().filter(|&&taken| taken).count(), 1, "{said}");
}

#[test]
fn integers_are_timed_with_a_policy_and_refused_where_a_model_learns() {
    let message = refusal(&["bench", "train", "--model", "vit-tiny32", "--dtype", "int8"]);
    assert!(message.contains("integers have no gradients"), "{message}");
    if !has_integers("integers_are_timed_with_a_policy_and_refused_where_a_model_learns") {
        return;
    }
    let quick = [
        "bench",
        "--model",
        "vit-tiny32",
        "--batch",
        "2",
        "--repeats",
        "2",
        "--json",
        "--dtype",
        "int8",
    ];
    let rows = json(&[&quick[..], &["--policy", "tome", "--flops", "0.7"]].concat());
    assert!(
        rows.len() == 2 && rows.iter().all(|row| row["dtype"] == "int8"),
        "{rows:?}"
    );
}

#[test]
fn an_export_in_integers_is_smaller_and_answers_as_its_run_does_in_integers() {
    if !has_integers("an_export_in_integers_is_smaller_and_answers_as_its_run_does_in_integers") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path());
    let [config, run, long, short] =
        ["c.toml", "run", "long", "short"].map(|name| folder.path().join(name));
    fs::write(&config, TINY.replace("num_heads = 2", "num_heads = 1")).unwrap();
    stdout(&aptvit(&[
        "train",
        "--config",
        text(&config),
        "--out",
        text(&run),
    ]));
    let export = ["export", "--run", text(&run), "--out"];
    stdout(&aptvit(&[&export[..], &[text(&long)]].concat()));
    stdout(&aptvit(
        &[&export[..], &[text(&short), "--dtype", "int8"]].concat(),
    ));
    let [large, small] = [&long, &short].map(|folder| {
        let file = folder.join("model.safetensors");
        fs::metadata(file).unwrap().len()
    });
    assert!(small < large, "{small} of {large} bytes");
    let probability = |path: &Path, more: &[&str]| {
        let infer = [
            "infer",
            "--run",
            text(path),
            text(&data),
            "--top",
            "1",
            "--json",
        ];
        let found = json(&[&infer[..], more].concat());
        let answers = found[0].as_array().unwrap();
        let first = |answer: &Value| answer["classes"][0]["probability"].as_f64().unwrap();
        answers.iter().map(first).collect::<Vec<_>>()
    };
    let (exported, own) = (
        probability(&short, &[]),
        probability(&run, &["--dtype", "int8"]),
    );
    for (exported, own) in exported.iter().zip(&own) {
        assert!((exported - own).abs() < 1e-3, "{exported} and {own}");
    }
    let message = refusal(
        &[
            &export[..],
            &[
                text(&folder.path().join("slim")),
                "--format",
                "run",
                "--dtype",
                "int8",
            ],
        ]
        .concat(),
    );
    assert!(message.contains("--dtype"), "{message}");
}
