//! Reports of sweeps.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;

use apt_rl_trainer::sweep::{Cell, CellFolder};
use common::{check_elements, check_numbers, made, trained};

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
fn a_sweep_says_which_model_it_is_about_and_whether_the_best_policy_is_clearly_so() {
    let folder = tempfile::tempdir().unwrap();
    let cells = CellFolder::new(folder.path());
    for cell in [
        cell("tome", 0.5, 1, 10),
        cell("evit", 0.5, 1, 37),
        cell("pairs", 0.5, 1, 38),
    ] {
        cells.save(&cell).unwrap();
    }
    let page = made(&[folder.path()], 0);
    assert!(page.contains(&format!("{}/runs/NAME", folder.path().display())));
    let training = folder.path().join("runs/pairs-1");
    fs::create_dir_all(&training).unwrap();
    for file in ["run.json", "config.toml"] {
        fs::copy(trained().join("run").join(file), training.join(file)).unwrap();
    }
    let page = made(&[folder.path()], 0);
    check_elements(&page);
    let files = check_numbers(&page, folder.path());
    assert!(files.contains("runs/pairs-1/run.json"), "{files:?}");
    assert!(page.contains("Vision Transformer of ") && page.contains("runs/pairs-1"));
    assert!(page.contains("(evit may be as accurate)"), "tome is not");
}

#[test]
fn an_accuracys_interval_ends_at_a_hundred_percent_and_an_unclear_winner_is_not_bold() {
    let folder = tempfile::tempdir().unwrap();
    let cells = CellFolder::new(folder.path());
    for (policy, first, second) in [("tome", 38, 40), ("evit", 37, 40), ("random", 2, 3)] {
        cells.save(&cell(policy, 0.5, 1, first)).unwrap();
        cells.save(&cell(policy, 0.5, 2, second)).unwrap();
    }
    let page = made(&[folder.path()], 0);
    check_elements(&page);
    assert!(page.contains("Two seeds say little"));
    assert!(page.contains(">100.0%</data>)"), "no interval ends at 100%");
    let table = page.split("the same weights dense").nth(1).unwrap();
    let table = table.split("</table>").next().unwrap();
    assert!(!table.contains("class=\"best\""), "{table}");
    assert!(page.contains("tome, ") && page.contains("(evit may be as accurate)"));
    assert!(!page.contains("<b>tome</b>"));
    // Against random alone it is clear.
    for seed in [1, 2] {
        fs::remove_file(cells.cell_path("evit", 0.5, seed)).unwrap();
    }
    let page = made(&[folder.path()], 0);
    assert!(page.contains("class=\"best\"") && page.contains("<b>tome</b>"));
}
