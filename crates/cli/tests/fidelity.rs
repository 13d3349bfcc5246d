//! A pretrained model is pruned at once, and compared with itself.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{aptvit, fixture, refusal, stderr, stdout, text};

/// Pictures of which no two are alike, in folders of the classes `names` or in none.
fn pictures(root: &Path, names: &[&str]) -> PathBuf {
    let folders: Vec<PathBuf> = match names {
        [] => vec![root.to_path_buf()],
        names => names.iter().map(|name| root.join(name)).collect(),
    };
    for (class, folder) in folders.iter().enumerate() {
        std::fs::create_dir_all(folder).unwrap();
        for number in 0..4u32 {
            let shade = |x: u32, y: u32| {
                let value = (x * (number + 2) + y * (class as u32 + 3)) * 7;
                image::Rgb([value as u8, (value / 3) as u8, (x * y) as u8])
            };
            let picture = image::RgbImage::from_fn(40, 40, shade);
            picture.save(folder.join(format!("{number}.png"))).unwrap();
        }
    }
    root.to_path_buf()
}

fn eval(model: &Path, data: &Path, more: &[&str]) -> Value {
    let eval = [
        "eval",
        "--model",
        text(model),
        "--data",
        text(data),
        "--json",
    ];
    let output = aptvit(&[&eval[..], more].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn unlabelled_pictures_are_enough_to_compare_a_pruned_model_with_the_dense_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path(), &[]);
    for (model, policy) in [
        ("timm-vit", "tome"),
        ("hf-vit", "pitome"),
        ("google-npz/weights.npz", "evit"),
    ] {
        let model = weights(model);
        let found = eval(&model, &data, &["--policy", policy, "--flops", "0.75"]);
        assert_eq!(
            (&found["images"], &found["labelled"]),
            (&4.into(), &false.into())
        );
        let [dense, pruned] = [&found["evaluations"][0], &found["evaluations"][1]];
        assert!(dense.get("fidelity").is_none() && dense.get("accuracy").is_none());
        assert!(pruned.get("accuracy").is_none());
        let fidelity = &pruned["fidelity"];
        assert_eq!(fidelity["images"], 4);
        let kl = fidelity["kl"].as_f64().unwrap();
        assert!(kl > 0.0 && kl.is_finite(), "{kl}");
        let equal = fidelity["equal_answers"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&equal));
        assert!(pruned["flops_share"].as_f64().unwrap() <= 0.75 + 1e-6);
    }
}

#[test]
fn what_removes_nothing_answers_as_the_dense_model_and_more_compute_comes_nearer() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path(), &[]);
    let kl = |share: &str| {
        let found = eval(
            &weights("timm-vit"),
            &data,
            &["--policy", "tome", "--flops", share],
        );
        let fidelity = found["evaluations"][1]["fidelity"].clone();
        (
            fidelity["kl"].as_f64().unwrap(),
            fidelity["equal_answers"].clone(),
        )
    };
    let (all, equal) = kl("1.0");
    assert!(all < 1e-9, "{all}");
    assert_eq!(equal, 1.0);
    assert!(kl("0.75").0 > all);
}

#[test]
fn thresholds_and_schedules_are_fitted_on_pictures_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(&folder.path().join("data"), &[]);
    let learn = pictures(&folder.path().join("learn"), &["one", "two"]);
    let model = weights("timm-vit");
    // One image more or less that starts over is as much as a dense one, and these are few.
    for (policy, key, miss) in [
        ("tome-threshold", "scores", 0.15),
        ("tome-schedule", "kept", 0.15),
        ("cascade", "kept", 1.0),
    ] {
        let said = ["--policy", policy, "--flops", "0.8"];
        let unfitted = [
            &["eval", "--model", text(&model), "--data", text(&data)],
            &said[..],
        ];
        let warned = aptvit(&unfitted.concat());
        assert!(
            stderr(&warned).contains("--fit-on"),
            "{policy}: {}",
            stderr(&warned)
        );
        let fitted = [&said[..], &["--fit-on", text(&learn)]].concat();
        let found = eval(&model, &data, &fitted);
        let share = found["evaluations"][1]["flops_share"].as_f64().unwrap();
        assert!((share - 0.8).abs() < miss, "{policy}: {share}");
        assert!(found[key].is_array(), "{policy}: {found}");
    }
    let untaught = [
        "--policy",
        "early-exit",
        "--flops",
        "0.5",
        "--fit-on",
        text(&learn),
    ];
    let of_model = ["eval", "--model", text(&model), "--data", text(&data)];
    let warned = stderr(&aptvit(&[&of_model[..], &untaught].concat()));
    assert!(warned.contains("has learned nothing"), "{warned}");
    let output = aptvit(&[
        "eval",
        "--model",
        text(&model),
        "--policy",
        "tome-threshold",
        "--fit-on",
        text(&learn),
    ]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("--flops"), "{message}");
}

#[test]
fn folders_that_are_no_classes_of_the_model_are_named_or_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path(), &["holiday", "garden"]);
    let model = weights("timm-vit");
    let message = refusal(&["eval", "--model", text(&model), "--data", text(&data)]);
    assert!(
        message.contains("garden") && message.contains("--unlabelled"),
        "{message}"
    );
    let found = eval(
        &model,
        &data,
        &["--unlabelled", "--policy", "tome", "--flops", "0.8"],
    );
    assert_eq!(
        (&found["images"], &found["labelled"]),
        (&8.into(), &false.into())
    );
}

#[test]
fn published_weights_are_timed_with_any_policy_on_random_or_given_images() {
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path(), &[]);
    let model = weights("timm-vit");
    let bench = |more: &[&str]| -> Vec<Value> {
        let quick = [
            "bench",
            "--model",
            text(&model),
            "--batch",
            "2",
            "--repeats",
            "2",
            "--json",
        ];
        let output = aptvit(&[&quick[..], more].concat());
        let text = stdout(&output);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let rows = bench(&["--flops", "0.8"]);
    assert_eq!(rows[1]["policy"], "tome");
    assert!(rows[1]["flops_share"].as_f64().unwrap() <= 0.8 + 1e-6);
    let given = ["--data", text(&data), "--fit-on", text(&data)];
    let rows = bench(
        &[
            &["--policy", "tome-threshold", "--flops", "0.8,0.7"],
            &given[..],
        ]
        .concat(),
    );
    assert_eq!(rows.len(), 3);
    assert!(
        rows.iter()
            .all(|row| row["images_per_s"].as_f64().unwrap() > 0.0)
    );
    let message = refusal(&["bench", "train", "--model", text(&model)]);
    assert!(message.contains("preset"), "{message}");
}

fn weights(name: &str) -> PathBuf {
    fixture(name)
}
