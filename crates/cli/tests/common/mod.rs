//! The program, run as people run it.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apt_inference::{Choice, PruningVit};
use apt_rl_trainer::RunFolder;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

/// A tiny experiment.
pub const TINY: &str = r#"
seed = 3
[policy]
name = "apt"
layers = [0, 1]
[data]
source = "shapes"
size = 16
train = 80
test = 20
[input]
val_images = 20
[input.transform]
pad_crop = 1
[model]
preset = "vit-tiny32"
image_size = 16
hidden_size = 16
num_layers = 3
num_heads = 2
mlp_dim = 32
[train]
steps = 8
batch_size = 6
eval_interval = 4
[optimizer]
name = "adamw"
learning_rate = 0.003
[schedule]
warmup_steps = 2
"#;

/// [`TINY`] for a folder of pictures, so many of which are held out.
pub fn tiny_of_a_folder(held_out: usize) -> String {
    let source = "[data]\nsource = \"shapes\"\nsize = 16\ntrain = 80\ntest = 20\n";
    assert!(TINY.contains(source));
    TINY.replace(source, "[data]\nsource = \"folder\"\n")
        .replace("val_images = 20", &format!("val_images = {held_out}"))
}

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aptvit"))
}

pub fn aptvit(arguments: &[&str]) -> Output {
    program().args(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One clear error, exit code 1, no panic.
pub fn refused(output: &Output) -> String {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("error: ") && !message.contains("panicked"),
        "{message}"
    );
    message
}

pub fn refusal(arguments: &[&str]) -> String {
    refused(&aptvit(arguments))
}

/// A run `name` of an experiment, trained in a folder, and what the program said.
pub fn trained(root: &Path, name: &str, experiment: &str, more: &[&str]) -> (PathBuf, String) {
    let (config, run) = (root.join(format!("{name}.toml")), root.join(name));
    std::fs::write(&config, experiment).unwrap();
    let (config, out) = (text(&config), text(&run));
    let train = ["train", "--config", config, "--out", out, "--plain"];
    let output = aptvit(&[&train[..], more].concat());
    stdout(&output);
    let said = stderr(&output);
    (run, said)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file that `apt-vit-model`'s tests load, too.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../vit-model/tests/fixtures")
        .join(name)
}

/// All weights of a run's last checkpoint.
pub fn weights(folder: &Path) -> Vec<f32> {
    struct Collector(Vec<f32>);
    impl ModuleVisitor for Collector {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let run = RunFolder::open(folder).unwrap();
    let checkpoint = run.checkpoints().choose(Choice::Last).unwrap();
    let model: PruningVit = run.load_model(&checkpoint, &Device::default()).unwrap();
    let mut collector = Collector(Vec::new());
    model.visit(&mut collector);
    collector.0
}
