//! A frozen model is pruned by one command, from pictures without labels, and the folder is a model like others.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{TINY, aptvit, fixture, refusal, stderr, stdout, text, trained};

/// A trained run of the tiny experiment, and pictures of which no two are alike.
fn run_and_pictures(root: &Path) -> (PathBuf, PathBuf) {
    let deep = TINY.replace("num_layers = 3", "num_layers = 6");
    let (run, _) = trained(root, "run", &deep, &[]);
    let data = root.join("pictures");
    std::fs::create_dir_all(&data).unwrap();
    for number in 0..60u32 {
        let shade = |x: u32, y: u32| {
            let value = (x * (number + 2) + y * (number % 7 + 3)) * 7;
            image::Rgb([value as u8, (value / 3) as u8, (x * y + number) as u8])
        };
        let picture = image::RgbImage::from_fn(16, 16, shade);
        picture.save(data.join(format!("{number:02}.png"))).unwrap();
    }
    (run, data)
}

fn prune(run: &Path, data: &Path, out: &Path, more: &[&str]) -> Value {
    let prune = [
        "prune",
        "--model",
        text(run),
        "--data",
        text(data),
        "--flops",
        "0.7,0.6",
        "--out",
        text(out),
        "--json",
    ];
    let output = aptvit(&[&prune[..], more].concat());
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[test]
fn a_run_is_pruned_without_labels_and_the_folder_answers_like_others() {
    let root = tempfile::tempdir().unwrap();
    let (run, data) = run_and_pictures(root.path());
    for policy in ["allocate", "pairs", "park", "apt-plus"] {
        let out = root.path().join(policy);
        pruned_folder_answers(&run, &data, &out, policy);
    }
}

fn pruned_folder_answers(run: &Path, data: &Path, out: &Path, policy: &str) {
    let report = prune(run, data, out, &["--policy", policy]);
    assert_eq!(report["policy"], policy);
    assert_eq!(report["learned_from"], 48);
    assert_eq!(report["held_out"], 12);
    let rows = report["rows"].as_array().unwrap();
    let share = |row: &Value| row["flops_share"].as_f64().unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(
        (rows[0]["policy"].as_str(), share(&rows[0])),
        (Some("dense"), 1.0)
    );
    // Twelve images cannot share out compute to the last point.
    for (row, target) in rows[3..].iter().zip([0.7, 0.6]) {
        assert!((share(row) - target).abs() < 0.05, "{row}");
    }
    let eval = [
        "eval",
        "--run",
        text(out),
        "--data",
        text(data),
        "--flops",
        "0.6",
        "--json",
    ];
    let found: Value = serde_json::from_str(&stdout(&aptvit(&eval))).unwrap();
    let pruned = &found["evaluations"][1];
    assert!((share(pruned) - 0.6).abs() < 0.1, "{pruned}");
    let picture = data.join("03.png");
    stdout(&aptvit(&["infer", "--run", text(out), text(&picture)]));
    let other = refusal(&[
        "infer",
        "--run",
        text(out),
        "--flops",
        "0.8",
        text(&picture),
    ]);
    assert!(other.contains("0.7, 0.6"), "{other}");
    let info = stdout(&aptvit(&["info", "--run", text(out)]));
    for said in [policy, "budget 0.7", "fitted on 12 images"] {
        assert!(info.contains(said), "{said}: {info}");
    }
}

/// Of those that a training teaches, `weights.rs` says so.
#[test]
fn what_is_taught_on_a_frozen_model_alone_is_exported_and_answers_the_same() {
    let root = tempfile::tempdir().unwrap();
    let (run, data) = run_and_pictures(root.path());
    let picture = data.join("03.png");
    for entry in apt_pruning_agent::policies() {
        if !entry.for_frozen {
            continue;
        }
        let name = entry.name;
        let out = root.path().join(name);
        prune(&run, &data, &out, &["--policy", name]);
        let exported = root.path().join(format!("{name}-exported"));
        let export = ["export", "--run", text(&out), "--out", text(&exported)];
        stdout(&aptvit(&export));
        let infer = |path: &Path| -> Value {
            let infer = ["infer", "--run", text(path), text(&picture), "--json"];
            serde_json::from_str(&stdout(&aptvit(&infer))).unwrap()
        };
        let answer = infer(&out);
        assert_eq!(answer, infer(&exported), "{name}");
        let layers = answer[0]["tokens_per_layer"].as_array().unwrap();
        assert!(!layers.is_empty(), "{name}");
    }
}

#[test]
fn a_model_without_a_head_is_pruned_by_its_features() {
    let root = tempfile::tempdir().unwrap();
    let (_, data) = run_and_pictures(root.path());
    let (model, out) = (fixture("hf-dinov2"), root.path().join("pruned"));
    let prune = |policy: &str, out: &Path| {
        let arguments = [
            "prune",
            "--model",
            text(&model),
            "--data",
            text(&data),
            "--flops",
            "0.8",
        ];
        let more = ["--policy", policy, "--out", text(out), "--json"];
        let output = aptvit(&[&arguments[..], &more].concat());
        serde_json::from_str::<Value>(&stdout(&output)).unwrap()
    };
    let report = prune("pairs", &out);
    let pruned = report["rows"].as_array().unwrap().last().unwrap();
    let cosine = pruned["cosine"].as_f64().unwrap();
    assert!((0.5..1.0).contains(&cosine), "{report}");
    assert!(pruned["kl"].is_null() && pruned["equal_answers"].is_null());
    let auto = prune("auto", &root.path().join("auto"));
    assert!(auto["why"].as_str().unwrap().contains("cosine"), "{auto}");

    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("have a cosine of") && !page.contains("equal answers"));

    let (out, data) = (text(&out), text(&data));
    let eval = [
        "eval", "--run", out, "--data", data, "--flops", "0.8", "--json",
    ];
    let found: Value = serde_json::from_str(&stdout(&aptvit(&eval))).unwrap();
    let fidelity = &found["evaluations"][1]["fidelity"];
    assert!(
        fidelity["cosine"].is_f64() && fidelity.get("kl").is_none(),
        "{found}"
    );
    assert!(stdout(&aptvit(&eval[..7])).contains("cosine"));
    let picture = format!("{data}/03.png");
    let infer = ["infer", "--run", out, &picture, "--json"];
    let found: Value = serde_json::from_str(&stdout(&aptvit(&infer))).unwrap();
    assert_eq!(found[0]["features"].as_array().unwrap().len(), 16);
    assert!(stdout(&aptvit(&infer[..4])).contains("16 features"));
    let quick = ["--batch", "2", "--repeats", "2", "--warmup", "0"];
    let bench = aptvit(&[&["bench", "--model", out][..], &quick].concat());
    assert!(stdout(&bench).contains("pairs"));
    assert!(stderr(&bench).contains("--data"));
    let exported = root.path().join("exported");
    stdout(&aptvit(&["export", "--run", out, "--out", text(&exported)]));
    stdout(&aptvit(&["infer", "--run", text(&exported), &picture]));
}

#[test]
fn the_same_seed_prunes_the_same_and_the_best_policy_is_chosen_by_what_it_did() {
    let root = tempfile::tempdir().unwrap();
    let (run, data) = run_and_pictures(root.path());
    let policy = |name: &str, more: &[&str]| {
        let out = root.path().join(name);
        prune(&run, &data, &out, more);
        std::fs::read(out.join("policy.safetensors")).unwrap()
    };
    for name in ["regression", "pairs"] {
        let taught = ["--policy", name, "--seed", "4"];
        let [first, second] = ["first", "second"].map(|turn| format!("{name}-{turn}"));
        assert!(
            policy(&first, &taught) == policy(&second, &taught),
            "{name}"
        );
    }
    let out = root.path().join("auto");
    let report = prune(&run, &data, &out, &[]);
    let why = report["why"].as_str().unwrap();
    for name in ["pairs", "tome-threshold", "pitome", "tome"] {
        assert!(why.contains(&format!("{name} ")), "{why}");
    }
    let chosen = report["policy"].as_str().unwrap();
    assert!(why.contains(&format!("images: {chosen} ")), "{why}");
}

#[test]
fn what_cannot_be_pruned_is_refused_before_anything_is_learned() {
    let root = tempfile::tempdir().unwrap();
    let (run, data) = run_and_pictures(root.path());
    let out = root.path().join("pruned");
    let refused = |model: &Path, data: &Path, flops: &str, policy: &str| {
        refusal(&[
            "prune",
            "--model",
            text(model),
            "--data",
            text(data),
            "--flops",
            flops,
            "--policy",
            policy,
            "--out",
            text(&out),
        ])
    };
    let unknown = refused(&run, &data, "0.6", "tomato");
    assert!(unknown.contains("`allocate`"), "{unknown}");
    let joint = refused(&run, &data, "0.6", "dynamic-vit");
    assert!(joint.contains("aptvit train"), "{joint}");
    let least = refused(&run, &data, "0.05", "allocate");
    assert!(least.contains("0.05"), "{least}");
    let nothing = refused(&run, root.path().join("none").as_path(), "0.6", "allocate");
    assert!(nothing.contains("--data"), "{nothing}");
    let model = refused(&root.path().join("none"), &data, "0.6", "allocate");
    assert!(model.contains("none"), "{model}");
    let few = root.path().join("few");
    std::fs::create_dir_all(&few).unwrap();
    std::fs::copy(data.join("01.png"), few.join("01.png")).unwrap();
    let few = refused(&run, &few, "0.6", "allocate");
    assert!(few.contains("expected 40"), "{few}");
    assert!(!out.exists());
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("mine.txt"), "mine").unwrap();
    let full = refused(&run, &data, "0.6", "allocate");
    assert!(full.contains("name another folder"), "{full}");
}

#[test]
fn a_setting_of_the_policy_can_be_said_and_a_wrong_one_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (run, data) = run_and_pictures(root.path());
    let out = root.path().join("parked");
    let said = ["--policy", "park", "--set", "policy.recall=2"];
    prune(&run, &data, &out, &said);
    let described = std::fs::read_to_string(out.join("aptvit.json")).unwrap();
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!(described["policy"]["recall"], 2, "{described}");
    let refused = |policy: &str, setting: &str| {
        let (run, data, out) = (text(&run), text(&data), root.path().join("none"));
        let asked = [
            "prune", "--model", run, "--data", data, "--flops", "0.6", "--out",
        ];
        refusal(
            &[
                &asked[..],
                &[text(&out), "--policy", policy, "--set", setting],
            ]
            .concat(),
        )
    };
    for (policy, setting, expected) in [
        ("park", "policy.nosuch=1", "recall"),
        ("park", "policy.recal=2", "did you mean `recall`"),
        ("park", "policy.recall=x", "expected a whole number"),
        ("park", "policy.width=0", "from 1 to"),
        ("park", "train.steps=1", "policy.width=8"),
        ("park", "policy.name=tome", "policy.width=8"),
        ("auto", "policy.recall=2", "name one"),
    ] {
        let error = refused(policy, setting);
        assert!(error.contains(expected), "{setting}: {error}");
    }
}
