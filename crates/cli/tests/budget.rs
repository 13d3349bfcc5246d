//! A compute budget, from a trained run to an evaluation that keeps it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use serde_json::Value;

use common::{aptvit, refusal, stdout, text};

const TINY: &str = r#"
seed = 3
[policy]
name = "apt"
layers = [0, 1]
[data]
source = "shapes"
size = 32
train = 120
test = 40
[input]
val_images = 60
[model]
preset = "vit-tiny32"
num_layers = 3
[train]
steps = 4
batch_size = 6
eval_interval = 4
[optimizer]
name = "adamw"
learning_rate = 0.003
"#;

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&aptvit(arguments))).unwrap()
}

#[test]
fn a_budget_is_calibrated_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tiny.toml");
    std::fs::write(&config, TINY).unwrap();
    let run = folder.path().join("run");
    let train = [
        "train",
        "--config",
        text(&config),
        "--out",
        text(&run),
        "--json",
    ];
    json(&train);
    let run = text(&run);
    let targets = [0.9, 0.7];
    let calibrate = ["calibrate", "--run", run, "--flops", "0.9,0.7", "--json"];
    let found = json(&calibrate);
    for (budget, target) in found.as_array().unwrap().iter().zip(targets) {
        assert_eq!(budget["images"], 60);
        let share = budget["flops_share"].as_f64().unwrap();
        assert!((share - target).abs() < 0.01, "{budget}");
    }
    let eval = [
        "eval", "--run", run, "--flops", "0.7", "--mode", "drop", "--json",
    ];
    let eval = json(&eval);
    assert_eq!(eval["threshold"], found[1]["threshold"]);
    let share = eval["evaluations"][0]["flops_share"].as_f64().unwrap();
    assert!((share - 0.7).abs() < 0.1, "{share}");

    let bench = [
        "bench",
        "train",
        "--run",
        run,
        "--batch",
        "2",
        "--repeats",
        "1",
        "--warmup",
        "0",
    ];
    assert!(aptvit(&bench).status.success(), "a run's training step");

    let unknown = refusal(&["eval", "--run", run, "--flops", "0.4"]);
    assert!(
        unknown.contains("aptvit calibrate --run") && unknown.contains("--flops 0.4"),
        "{unknown}"
    );
    let too_little = refusal(&["calibrate", "--run", run, "--flops", "0.01"]);
    assert!(too_little.contains("0.01 of the FLOPs"), "{too_little}");
}
