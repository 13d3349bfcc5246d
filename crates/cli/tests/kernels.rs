//! Kernels that a GPU backend compiles: how many, and that batches of other token counts need no new ones.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{program, stdout, text};

/// The shapes of a ViT on CIFAR: 65 tokens, of which every image keeps another number.
const CONFIG: &str = r#"
policy = { name = "apt", layers = [0, 1] }
seed = 3
[data]
source = "shapes"
size = 32
train = 480
test = 128
[input.transform]
pad_crop = 1
[input]
val_images = 16
[model]
preset = "vit-tiny32"
num_layers = 3
[train]
steps = 4
batch_size = 16
eval_interval = 4
eval_batch_size = 16
[optimizer]
name = "adamw"
learning_rate = 0.003
[schedule]
warmup_steps = 2
"#;

/// The kernels that the program compiled, by the compiler's own log: name and identity.
fn kernels(log: &Path, arguments: &[&str]) -> Vec<String> {
    let _ = std::fs::remove_file(log);
    let output = program()
        .args(arguments)
        .env("CUBECL_DEBUG_LOG", log)
        .output()
        .unwrap();
    stdout(&output);
    let log = std::fs::read_to_string(log).unwrap();
    let compiled = log.split("[START_KERNEL_COMPILATION]").skip(1);
    compiled
        .map(|kernel| kernel.split("source:").next().unwrap().to_string())
        .collect()
}

/// Twice the batches, each with its own token counts, compile what half of them compiled.
#[test]
fn batches_of_other_token_counts_need_no_new_kernels() {
    let folder = tempfile::tempdir().unwrap();
    let (log, config) = (folder.path().join("log"), folder.path().join("config.toml"));
    std::fs::write(&config, CONFIG).unwrap();
    let (config, run) = (text(&config), folder.path().join("run"));
    let train = |name: &str, steps: &str| {
        let run = folder.path().join(name);
        let arguments = [
            "train",
            "--device",
            "wgpu",
            "--plain",
            "--config",
            config,
            "--out",
            text(&run),
            "--set",
            steps,
        ];
        kernels(&log, &arguments)
    };
    let few = train("run", "train.steps=12");
    let many = train("longer", "train.steps=24");
    let new = new_ones("training, 12 and 24 steps of 16 images", &few, &many);
    // As agents learn, fewer tokens are left, and smaller products are tiled otherwise.
    assert!(new <= few.len() / 20, "{new} of {}", few.len());

    let evaluate = |images: &str| {
        let arguments = [
            "eval",
            "--device",
            "wgpu",
            "--run",
            text(&run),
            "--mode",
            "drop",
            "--limit",
            images,
        ];
        kernels(&log, &arguments)
    };
    let few = evaluate("64");
    let many = evaluate("128");
    let new = new_ones("evaluation, 4 and 8 batches of 16 images", &few, &many);
    assert!(new <= few.len() / 10, "{new} of {}", few.len());
}

/// How many of the kernels of the longer run are none of the shorter one's.
fn new_ones(what: &str, few: &[String], many: &[String]) -> usize {
    let known: BTreeSet<&String> = few.iter().collect();
    let new = many.iter().filter(|kernel| !known.contains(kernel)).count();
    println!(
        "{what}: {} and {} kernels, {new} of them new",
        few.len(),
        many.len()
    );
    new
}
