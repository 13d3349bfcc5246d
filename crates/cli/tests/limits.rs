//! Numbers that cannot work are refused before anything is built, with the key, the number and the range.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::PathBuf;

use common::{TINY, aptvit, fixture, refusal, stderr, stdout, text};
use serde_json::Value;

fn tiny(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("tiny.toml");
    std::fs::write(&path, TINY).unwrap();
    path
}

/// What a training with these overrides says.
fn refused(overrides: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny(&folder);
    let mut arguments = vec!["train", "--dry-run", "--config", text(&config)];
    for entry in overrides {
        arguments.extend(["--set", entry]);
    }
    refusal(&arguments)
}

#[test]
fn absurd_sizes_are_refused_instead_of_built() {
    for (entry, range) in [
        ("model.num_layers=1000000", "from 1 to 1024"),
        ("model.mlp_dim=9223372036854775807", "from 1 to 262144"),
        ("model.image_size=9223372036854775807", "from 1 to 4096"),
        ("train.batch_size=9223372036854775807", "from 1 to 65536"),
        (
            "train.grad_accumulation_steps=9223372036854775807",
            "from 1 to 65536",
        ),
        ("train.batch_size=0", "from 1 to 65536"),
        ("train.patience=0", "from 1 to 1000000000"),
        ("optimizer.learning_rate=1000", "above 0 and at most 100"),
        ("optimizer.learning_rate=nan", "above 0 and at most 100"),
        ("policy.threshold=2", "from 0 to 1"),
        ("policy.layers=[]", "ascending block numbers"),
        ("policy.layers=[1,0]", "ascending block numbers"),
        ("policy.layers=[0,7]", "from 0 to 2"),
    ] {
        let key = entry.split('=').next().unwrap();
        let message = refused(&[entry]);
        assert!(
            message.contains(&format!("config field {key} = ")),
            "{message}"
        );
        assert!(message.contains(range), "{entry}: {message}");
    }
}

#[test]
fn an_absurd_stem_is_refused_instead_of_built() {
    for stem in [
        "{ channels = 64, stages = [[1000000000000, 256]] }",
        "{ channels = 64, stages = [[1, 1099511627776]] }",
        "{ channels = 1099511627776, stages = [[1, 256]] }",
    ] {
        let message = refused(&[&format!("model.stem={stem}")]);
        assert!(message.contains("config field model.stem."), "{message}");
    }
}

#[test]
fn settings_of_algorithms_have_ranges() {
    let group = "policy.algorithm.group_size=9223372036854775807";
    let ppo = [
        "policy=attentive",
        "flops=[0.5]",
        "policy.algorithm=ppo",
        group,
    ];
    let message = refused(&ppo);
    assert!(
        message.contains("group_size = ") && message.contains("from 2 to 1024"),
        "{message}"
    );
    let message = refused(&["policy.algorithm.agent_loss_weight=-1"]);
    assert!(
        message.contains("agent_loss_weight = -1: must be above 0"),
        "{message}"
    );
}

#[test]
fn all_wrong_values_are_named_at_once() {
    let message = refused(&[
        "train.batch_size=0",
        "model.num_heads=0",
        "input.val_images=0",
    ]);
    for key in ["train.batch_size", "model.num_heads", "input.val_images"] {
        assert!(
            message.contains(&format!("config field {key} = 0")),
            "{message}"
        );
    }
}

#[test]
fn another_source_forgets_the_keys_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny(&folder);
    let arguments = ["train", "--dry-run", "--config", text(&config)];
    let message = refusal(&[&arguments[..], &["--set", "data.source=folder"]].concat());
    assert!(
        message.contains("--data") && !message.contains("did you mean"),
        "the images are what is missing: {message}"
    );
    let size = ["--set", "data.source=folder", "--set", "data.size=32"];
    let message = refusal(&[&arguments[..], &size].concat());
    assert!(
        message.contains("`data.size` belongs to the source \"shapes\"")
            && message.contains("test_fraction"),
        "{message}"
    );
}

#[test]
fn info_of_a_file_says_what_keep_rates_leave() {
    let file = fixture("timm-vit/model.safetensors");
    let info = |more: &[&str]| {
        let arguments = [&["info", text(&file), "--json"], more].concat();
        serde_json::from_str::<Value>(&stdout(&aptvit(&arguments))).unwrap()
    };
    let [half, all] = ["0.5", "1"].map(|rate| info(&["--keep", rate, "--layers", "0"]));
    let share = |of: &Value| of["flops_share"].as_f64().unwrap();
    assert!(share(&half) < share(&all), "{half} {all}");
    assert_eq!(half["tokens_per_layer"].as_array().unwrap().len(), 1);
    assert_eq!(info(&[])["flops_share"], Value::Null);
}

#[test]
fn info_refuses_keep_rates_where_there_is_nothing_to_keep() {
    for arguments in [
        &["info", "--keep", "0.5"][..],
        &["info", "--policies", "--keep", "0.5"],
        &["info", "--run", "runs/none", "--keep", "0.5"],
    ] {
        let output = aptvit(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("--keep"), "{}", stderr(&output));
    }
}

#[test]
fn bench_refuses_batches_that_no_memory_holds() {
    let output = aptvit(&["bench", "--batch", "9223372036854775807"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("from 1 to 65536"),
        "{}",
        stderr(&output)
    );
}
