//! A model looks up labelled images: new classes without training.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{TINY, aptvit, refusal, stdout, text, trained};

fn train(root: &Path, seed: u64) -> PathBuf {
    let seed = format!("seed={seed}");
    trained(root, &seed, TINY, &["--set", &seed]).0
}

/// Pictures of shades of one colour.
fn pictures(folder: &Path, color: [u8; 3], count: u8) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 0..count {
        let shade = image::Rgb(color.map(|value| value.saturating_add(3 * number)));
        let picture = image::RgbImage::from_pixel(16, 16, shade);
        picture
            .save(folder.join(format!("{number:02}.png")))
            .unwrap();
    }
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&aptvit(&[args, &["--json"]].concat()))).unwrap()
}

#[test]
fn classes_that_the_model_never_saw_are_built_added_explained_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let run = train(root, 1);
    let (data, memory) = (root.join("data"), root.join("m.safetensors"));
    pictures(&data.join("fire"), [190, 20, 20], 12);
    pictures(&data.join("water"), [20, 20, 190], 12);
    let (run, memory) = (text(&run), text(&memory));
    let build = [
        "memory",
        "build",
        "--run",
        run,
        "--data",
        text(&data),
        "--memory",
        memory,
    ];
    let built = json(&build);
    assert_eq!(
        (&built["entries"], &built["classes"]),
        (&24.into(), &2.into())
    );
    assert!(built["search_flops"].as_u64().unwrap() > 0);
    // What is there is not lost by mistake.
    let again = refusal(&build);
    assert!(again.contains("--replace"), "{again}");

    let grass = root.join("grass");
    pictures(&grass, [20, 180, 20], 6);
    let grass: Vec<PathBuf> = (0..6).map(|n| grass.join(format!("{n:02}.png"))).collect();
    let add = [
        "memory", "add", "--run", run, "--memory", memory, "--class", "grass",
    ];
    let paths: Vec<&str> = grass[..5].iter().map(|path| text(path)).collect();
    let added = json(&[&add[..], &paths].concat());
    assert_eq!(
        (&added["added"], &added["entries"]),
        (&5.into(), &29.into())
    );
    // A folder of pictures, of which the memory holds all but one.
    let folder = root.join("grass");
    let again = json(&[&add[..], &[text(&folder)]].concat());
    assert_eq!(
        (&again["added"], &again["replaced"]),
        (&1.into(), &5.into())
    );
    let removed = [
        "memory",
        "remove",
        "--memory",
        memory,
        "--source",
        text(&grass[5]),
    ];
    assert_eq!(json(&removed)["removed"], 1);

    let infer = [
        "infer",
        "--run",
        run,
        "--memory",
        memory,
        "--explain",
        text(&grass[5]),
    ];
    let answer = &json(&infer)[0];
    assert_eq!(answer["classes"][0]["class"], "grass");
    assert_eq!(answer["memory"]["neighbors"][0]["class"], "grass");
    assert_ne!(answer["memory"]["alone"][0]["class"], "grass");
    let said = stdout(&aptvit(&infer));
    for word in ["grass", "neighbours", "the model alone says", "04.png"] {
        assert!(said.contains(word), "{word}: {said}");
    }

    let listed = json(&["memory", "list", "--memory", memory, "--entries"]);
    assert_eq!(listed["classes"]["grass"], 5);
    assert_eq!(listed["images"].as_array().unwrap().len(), 29);
    let measured = json(&[
        "memory",
        "eval",
        "--run",
        run,
        "--memory",
        memory,
        "--data",
        text(&data),
    ]);
    assert_eq!(
        (&measured["images"], &measured["in_memory"]),
        (&24.into(), &24.into())
    );
    assert_eq!(measured["accuracy_alone"], 0.0);
    assert!(measured["accuracy"].as_f64().unwrap() > 0.9, "{measured}");

    let removed = json(&["memory", "remove", "--memory", memory, "--class", "grass"]);
    assert_eq!(
        (&removed["removed"], &removed["entries"]),
        (&5.into(), &24.into())
    );
    let nothing = refusal(&["memory", "remove", "--memory", memory, "--id", "0"]);
    assert!(nothing.contains("holds no such image"), "{nothing}");

    // Another model has other features.
    let other = train(root, 2);
    let refused = [
        "infer",
        "--run",
        text(&other),
        "--memory",
        memory,
        text(&grass[5]),
    ];
    let refused = refusal(&refused);
    assert!(refused.contains("another model"), "{refused}");
    let away = [
        "infer",
        "--run",
        run,
        "--memory",
        "postgres://me:secret@127.0.0.1:1/x#pets",
        text(&grass[5]),
    ];
    let away = refusal(&away);
    assert!(
        away.contains("127.0.0.1") && !away.contains("secret"),
        "{away}"
    );
}
