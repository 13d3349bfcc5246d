//! Reports as people get them: at the end of a training and of a pruning, on demand, and never in the way of the work.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{TINY, aptvit, refusal, stdout, text, trained};

#[test]
fn a_training_leaves_a_page_with_curves_and_images_unless_it_is_told_not_to() {
    let root = tempfile::tempdir().unwrap();
    let (run, said) = trained(root.path(), "first", TINY, &[]);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(
        said.contains("report: ") && said.contains("report.html"),
        "{said}"
    );
    for words in [
        "<h1>first</h1>",
        "How the training went",
        "What the policy keeps",
        "data:image/png",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let (other, said) = trained(root.path(), "second", TINY, &["--no-report"]);
    assert!(
        !other.join("report.html").exists() && !said.contains("report: "),
        "{said}"
    );

    let both = root.path().join("both.html");
    stdout(&aptvit(&[
        "report",
        text(&run),
        text(&other),
        "--images",
        "0",
        "--out",
        text(&both),
    ]));
    let page = fs::read_to_string(&both).unwrap();
    assert!(page.contains("All their settings are the same"));
}

#[test]
fn a_report_that_cannot_be_written_is_a_warning_and_the_training_is_done() {
    let root = tempfile::tempdir().unwrap();
    // A folder stands where the page would.
    fs::create_dir_all(root.path().join("run/report.html/in-the-way")).unwrap();
    let (run, said) = trained(root.path(), "run", TINY, &[]);
    assert!(said.contains("no report was written"), "{said}");
    assert!(run.join("summary.json").is_file());
}

#[test]
fn a_pruned_model_keeps_what_was_found_and_has_a_page() {
    let root = tempfile::tempdir().unwrap();
    let (run, _) = trained(
        root.path(),
        "run",
        TINY,
        &["--no-report", "--set", "model.num_layers=6"],
    );
    let data = root.path().join("pictures");
    fs::create_dir_all(&data).unwrap();
    for number in 0..60u32 {
        let shade = |x: u32, y: u32| {
            let value = (x * (number + 2) + y * (number % 7 + 3)) * 7;
            image::Rgb([value as u8, (value / 3) as u8, (x * y + number) as u8])
        };
        let picture = image::RgbImage::from_fn(16, 16, shade);
        picture.save(data.join(format!("{number:02}.png"))).unwrap();
    }
    let half = root.path().join("half");
    let prune = [
        "prune",
        "--model",
        text(&run),
        "--data",
        text(&data),
        "--flops",
        "0.7",
        "--out",
        text(&half),
    ];
    stdout(&aptvit(&[&prune[..], &["--policy", "tome"]].concat()));
    let found = fs::read_to_string(half.join("pruning.json")).unwrap();
    assert!(
        found.contains("\"equal_answers\"") && found.contains("\"asked_policy\": \"tome\""),
        "{found}"
    );
    let page = fs::read_to_string(half.join("report.html")).unwrap();
    // The pictures have no labels.
    for (words, there) in [
        ("What pruning found", true),
        ("What the policy keeps", true),
        ("Where pruning changes the answer", true),
        ("The surest mistakes", false),
        ("Accuracy by class", false),
    ] {
        assert_eq!(page.contains(words), there, "{words}");
    }
}

#[test]
fn what_is_no_folder_of_ours_is_refused_in_one_line() {
    let root = tempfile::tempdir().unwrap();
    let message = refusal(&["report", text(root.path())]);
    assert!(message.contains("holds nothing to report on"), "{message}");
    let message = refusal(&["report", text(root.path()), "--data", "no/such/place"]);
    assert!(message.contains("--data no/such/place"), "{message}");
}

#[test]
fn a_picture_and_an_animation_are_written_for_an_image() {
    let root = tempfile::tempdir().unwrap();
    let (run, _) = trained(root.path(), "run", TINY, &["--no-report"]);
    let cat = root.path().join("cat.jpg");
    image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 90]))
        .save(&cat)
        .unwrap();
    let drawn = root.path().join("drawn");
    let infer = [
        "infer",
        "--run",
        text(&run),
        text(&cat),
        "--visualize",
        text(&drawn),
        "--animate",
        "--json",
    ];
    let answers: serde_json::Value = serde_json::from_str(&stdout(&aptvit(&infer))).unwrap();
    let path = |key: &str| PathBuf::from(answers[0][key].as_str().unwrap());
    assert!(fs::read(path("picture")).unwrap().starts_with(b"\x89PNG"));
    let animation = fs::read(path("animation")).unwrap();
    assert!(animation.starts_with(b"GIF89a"));
    assert!(animation.len() < 1 << 20, "{} bytes", animation.len());
}
