//! Reports of real, of broken, and of hostile folders.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;

use apt_report::{PassSettings, report};
use burn::tensor::Device;
use common::{check_elements, check_numbers, copied, made, trained};
use serde_json::Value;

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
    for text in [
        "pruned to the budget of ",
        "from 6 of 10 classes",
        "tokens, CLS included",
        "foreground patches kept",
        "KL says how far",
        "The headline's times are those of the training's end",
    ] {
        assert!(page.contains(text), "{text}");
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

#[test]
fn budgets_that_are_not_measured_are_named() {
    let (_folder, run) = copied("run");
    let file = run.join("budgets.json");
    let mut budgets: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let budgets = budgets.as_array_mut().unwrap();
    for target in [0.79, 0.78, 0.77, 0.76] {
        let mut other = budgets[0].clone();
        other["target_flops"] = Value::from(target);
        budgets.push(other);
    }
    fs::write(&file, Value::from(budgets.clone()).to_string()).unwrap();
    let _ = fs::remove_file(run.join("budgets.json.crc32c"));
    let page = made(&[&run], 8);
    assert!(page.contains("Not measured, because 4 budgets are enough: 76.0%."));
    assert!(!made(&[&trained().join("run")], 8).contains("Not measured"));
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
