//! A run that was trained once, and what is true of every page.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use apt_data::Progress;
use apt_report::{PassSettings, report};
use apt_rl_trainer::{ExperimentConfig, TrainOptions, train};
use burn::tensor::Device;
use serde_json::Value;

const TINY: &str = r#"
seed = 7
flops = [0.8]
[policy]
name = "apt"
layers = [0, 1]
[data]
source = "shapes"
size = 16
train = 80
test = 40
[input]
val_images = 20
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
"#;

/// A run that was trained once for all tests.
pub fn trained() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let config = ExperimentConfig::parse(TINY, "tiny", &[]).unwrap();
        let options = TrainOptions {
            progress: Progress::Hidden,
            ..Default::default()
        };
        train(config, &folder.path().join("run"), &options).unwrap();
        folder
    });
    folder.path()
}

/// A copy of the run's folder, to be spoiled.
pub fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, &target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join(name);
    copy(&trained().join("run"), &run);
    (folder, run)
}

pub fn made(folders: &[&Path], images: usize) -> String {
    let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    let settings = PassSettings {
        images,
        time_limit: None,
        data: None,
    };
    report(&folders, &settings, &Device::default(), &|_, _| ()).unwrap()
}

/// What an attribute of an element's opening says.
fn attribute<'a>(opening: &'a str, name: &str) -> Option<&'a str> {
    let start = opening.find(&format!(" {name}=\""))? + name.len() + 3;
    opening[start..].split('"').next()
}

/// The page's numbers that say which file they are from: that, the value, and what is shown.
fn numbers(page: &str) -> Vec<(String, f64, String)> {
    let elements = page.split("<data ").skip(1);
    let numbers = elements.filter_map(|rest| {
        let (opening, rest) = rest.split_once('>')?;
        let opening = format!(" {opening}");
        let from = attribute(&opening, "data-from")?.to_string();
        let value = attribute(&opening, "value")?.parse().unwrap();
        Some((from, value, rest.split('<').next()?.to_string()))
    });
    numbers.collect()
}

/// The number at a place such as `summary.json#/seed` or `metrics.jsonl:3#/loss`.
fn in_file(folder: &Path, from: &str) -> f64 {
    let (file, pointer) = from.split_once('#').unwrap();
    let (file, line) = match file.split_once(':') {
        Some((file, line)) => (file, Some(line.parse::<usize>().unwrap())),
        None => (file, None),
    };
    let text = fs::read_to_string(folder.join(file)).unwrap();
    let value: Value = match line {
        Some(line) => serde_json::from_str(text.lines().nth(line - 1).unwrap()).unwrap(),
        None if file.ends_with(".toml") => toml::from_str(&text).unwrap(),
        None => serde_json::from_str(&text).unwrap(),
    };
    let found = value.pointer(pointer).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{from}"))
}

/// Every number on the page equals the one in its file, and is shown as that.
pub fn check_numbers(page: &str, folder: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (from, value, shown) in numbers(page) {
        let expected = in_file(folder, &from);
        assert_eq!(value, expected, "{from}");
        let digits: String = shown
            .chars()
            .take_while(|c| c.is_ascii_digit() || ".-".contains(*c))
            .collect();
        let shown_value: f64 = digits.parse().unwrap();
        let plain = shown == digits && !from.contains("images_per_s");
        let near = |expected: f64, step: f64| (shown_value - expected).abs() <= step;
        if shown.ends_with('%') {
            assert!(near(100.0 * expected, 0.051), "{from}: {shown}");
        } else if plain {
            assert!(
                near(expected, 0.51_f64.min(0.51 + expected.abs() * 1e-3)),
                "{from}: {shown}"
            );
        }
        files.insert(from.split(['#', ':']).next().unwrap().to_string());
    }
    files
}

/// Every element that is opened is closed, in order.
pub fn check_elements(page: &str) {
    const EMPTY: [&str; 3] = ["meta", "!DOCTYPE", "br"];
    let mut open: Vec<&str> = Vec::new();
    for rest in page.split('<').skip(1) {
        let Some((element, _)) = rest.split_once('>') else {
            panic!("<{rest}");
        };
        let name = element
            .split([' ', '/', '\n'])
            .find(|part| !part.is_empty())
            .unwrap_or("");
        if element.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !element.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let ids: Vec<&str> = page
        .split(" id=\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let different: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), different.len(), "an id stands twice");
    for target in page
        .split(" href=\"#")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(different.contains(target), "#{target} leads nowhere");
    }
}
