//! Reports of real, of broken, and of hostile folders.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use apt_data::Progress;
use apt_report::{PassSettings, report};
use apt_rl_trainer::sweep::{Cell, CellFolder};
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
fn trained() -> &'static Path {
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
fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
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

fn made(folders: &[&Path], images: usize) -> String {
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
fn check_numbers(page: &str, folder: &Path) -> BTreeSet<String> {
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
fn check_elements(page: &str) {
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

#[test]
fn every_number_of_a_runs_report_equals_the_one_in_the_runs_files() {
    let run = trained().join("run");
    let page = made(&[&run], 0);
    check_elements(&page);
    let files = check_numbers(&page, &run);
    for file in [
        "summary.json",
        "metrics.jsonl",
        "budgets.json",
        "run.json",
        "config.toml",
    ] {
        assert!(files.contains(file), "{file}: {files:?}");
    }
    for text in [
        "Accuracy on held-out images",
        "Learning rate",
        "Keep rate",
        "Reward",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // With a number changed, the same check fails: it reads both.
    let (_folder, other) = copied("run");
    let summary = fs::read_to_string(other.join("summary.json")).unwrap();
    fs::write(
        other.join("summary.json"),
        summary.replace("\"seed\": 7", "\"seed\": 8"),
    )
    .unwrap();
    let differs = std::panic::catch_unwind(|| check_numbers(&page, &other));
    assert!(differs.is_err());
}

#[test]
fn a_model_that_can_run_is_shown_at_work() {
    let run = trained().join("run");
    let page = made(&[&run], 24);
    check_elements(&page);
    check_numbers(&page, &run);
    for section in [
        "gallery",
        "disagreements",
        "mistakes",
        "effort",
        "classes",
        "confusion",
    ] {
        assert!(
            page.contains(&format!("<section id=\"{section}\">")),
            "{section}"
        );
    }
    assert!(
        page.contains("24 images of 40, drawn at random"),
        "how many of how many"
    );
    assert!(page.contains("data:image/png;base64,") && page.contains("ToMe (peer)"));
    // The same folder gives the same page, but for what is timed.
    let untimed = |page: &str| {
        let (_, measured) = page.split_once("Measured for this report").unwrap();
        measured.split_once("</section>").unwrap().1.to_string()
    };
    assert_eq!(untimed(&page), untimed(&made(&[&run], 24)));
}

#[test]
fn a_folder_that_is_broken_in_any_file_gives_a_report_that_names_it() {
    for file in [
        "summary.json",
        "run.json",
        "config.toml",
        "metrics.jsonl",
        "budgets.json",
        "checkpoints",
    ] {
        for damage in ["gone", "cut", "garbage"] {
            let (_folder, run) = copied("run");
            let path = run.join(file);
            match (damage, path.is_dir()) {
                ("gone", true) | ("cut" | "garbage", true) => fs::remove_dir_all(&path).unwrap(),
                ("gone", false) => fs::remove_file(&path).unwrap(),
                ("cut", false) => {
                    let bytes = fs::read(&path).unwrap();
                    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
                }
                _ => fs::write(&path, b"\xff\xfe<script>\0{{").unwrap(),
            }
            let page = made(&[&run], 8);
            check_elements(&page);
            // A run that was never calibrated has no budgets.
            if (file, damage) != ("budgets.json", "gone") {
                let warned = page.split("class=\"missing\"").nth(1).unwrap_or_default();
                let warned = warned.split("</div>").next().unwrap();
                assert!(warned.contains(file), "{file} {damage}: {warned}");
            }
            assert!(!page.contains("<script>"), "{file} {damage}");
        }
    }
}

#[test]
fn a_run_that_has_only_begun_has_curves_and_says_that_it_is_not_at_its_end() {
    let (_folder, run) = copied("run");
    for file in ["summary.json", "summary.json.crc32c", "budgets.json"] {
        let _ = fs::remove_file(run.join(file));
    }
    let page = made(&[&run], 0);
    assert!(page.contains(
        "summary.json is missing: the training has not come to its end; its log ends with step 8"
    ));
    assert!(page.contains("<polyline") && page.contains("held-out images, at step 8"));
}

#[test]
fn what_is_no_folder_of_ours_is_refused_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let settings = PassSettings {
        images: 0,
        time_limit: None,
        data: None,
    };
    for path in [folder.path().to_path_buf(), folder.path().join("none")] {
        let error = report(
            std::slice::from_ref(&path),
            &settings,
            &Device::default(),
            &|_, _| (),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}

#[test]
fn names_of_runs_classes_and_policies_are_text_and_nothing_else() {
    const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let (_folder, run) = copied("<img src=x onerror=alert(3)>&amp;");
    let text = fs::read_to_string(run.join("run.json")).unwrap();
    let mut description: Value = serde_json::from_str(&text).unwrap();
    for name in description["class_names"].as_array_mut().unwrap() {
        *name = Value::from(format!("{} {EVIL}", name.as_str().unwrap()));
    }
    description["data"] = Value::Null;
    fs::write(run.join("run.json"), description.to_string()).unwrap();
    fs::remove_file(run.join("run.json.crc32c")).unwrap();
    let summary = fs::read_to_string(run.join("summary.json")).unwrap();
    let mut summary: Value = serde_json::from_str(&summary).unwrap();
    for key in ["checkpoint", "device", "version"] {
        summary[key] = Value::from(EVIL);
    }
    fs::write(run.join("summary.json"), summary.to_string()).unwrap();
    fs::write(
        run.join("metrics.jsonl"),
        format!(
            "{{\"split\":\"valid\",\"average\":true,\"step\":1,\"loss\":1,\"{}\":2}}\n",
            EVIL.replace('"', "\\\"")
        ),
    )
    .unwrap();
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    fs::write(run.join("config.toml"), format!("# {EVIL}\n{config}")).unwrap();
    let _ = fs::remove_file(run.join("config.toml.crc32c"));
    let page = made(&[&run], 24);
    check_elements(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("<section id=\"gallery\">"));
    for tag in ["<script", "<img", "<iframe", "javascript:"] {
        assert!(!page.contains(tag), "{tag}");
    }
    let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    assert!(page.contains(&format!("content=\"{policy}\"")));
    assert!(
        !page.contains("http://")
            || page.matches("http://").count()
                == page.matches("http://www.w3.org/2000/svg").count()
    );
}

fn cell(policy: &str, target_flops: f64, seed: u64, right: usize) -> Cell {
    let correct: Vec<bool> = (0..40).map(|image| image < right).collect();
    Cell {
        policy: policy.into(),
        target_flops,
        seed,
        accuracy: right as f64 / 40.0,
        flops_share: target_flops + 0.001,
        images_per_s: 150.0,
        dense_images_per_s: 100.0,
        dense_accuracy: 0.5,
        image_passes: 100,
        train_seconds: 10.0,
        test_images: 40,
        tokens_per_layer: vec![9.0],
        foreground_precision: None,
        foreground_recall: None,
        dense_correct: (0..40).map(|image| image < 20).collect(),
        correct,
    }
}

#[test]
fn a_sweep_shows_every_policy_its_front_and_paired_comparisons() {
    let folder = tempfile::tempdir().unwrap();
    let cells = CellFolder::new(folder.path());
    for cell in [
        cell("tome", 0.5, 1, 30),
        cell("pairs", 0.5, 1, 38),
        cell("dense", 1.0, 1, 39),
    ] {
        cells.save(&cell).unwrap();
    }
    let page = made(&[folder.path()], 10);
    check_elements(&page);
    check_numbers(&page, folder.path());
    for text in [
        "tome",
        "pairs",
        "Pareto front",
        "Each against the best other one",
        "sweep.json is missing",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for figure in page.split("<figure class=\"chart").skip(1) {
        let figure = figure.split("</figure>").next().unwrap();
        for property in ["fill", "stroke"] {
            for rest in figure.split(&format!("{property}=\"#")).skip(1) {
                let rule = format!(".chart [{property}=\"#{}\"]", &rest[..6]);
                assert!(page.contains(&rule), "{rule} is no rule of the style");
            }
        }
    }
    fs::write(folder.path().join("cells/tome-0.5-1.json"), "{").unwrap();
    let page = made(&[folder.path()], 0);
    assert!(page.contains("cells cannot be read") && page.contains("tome-0.5-1.json"));
}

#[test]
fn several_runs_stand_side_by_side_with_the_settings_in_which_they_differ() {
    let (_folder, other) = copied("second");
    let config = fs::read_to_string(other.join("config.toml")).unwrap();
    fs::write(
        other.join("config.toml"),
        config.replace("seed = 7", "seed = 8"),
    )
    .unwrap();
    let run = trained().join("run");
    let page = made(&[&run, &other], 0);
    check_elements(&page);
    let differ = page.split("Where the settings differ").nth(1).unwrap();
    let differ = differ.split("</table>").next().unwrap();
    assert!(
        differ.contains("<code>seed</code>") && differ.contains("<code>8</code>"),
        "{differ}"
    );
    assert_eq!(
        differ.matches("<tr>").count(),
        2,
        "the header, and one setting: {differ}"
    );
}
