//! Somebody's own pictures, without knowledge of configs.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::{aptvit, refused, stderr, stdout, text, tiny_of_a_folder};

/// Two classes of pictures of one colour.
fn pets(folder: &Path, splits: &[&str]) -> PathBuf {
    let data = folder.join("pets");
    for split in splits {
        for (class, red) in [("ant", 20), ("bee", 220)] {
            let class = data.join(split).join(class);
            std::fs::create_dir_all(&class).unwrap();
            for number in 0..20 {
                let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([red, number, 0]));
                picture.save(class.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    data
}

#[test]
fn a_folder_of_pictures_sizes_its_training_and_says_how() {
    let folder = tempfile::tempdir().unwrap();
    for splits in [&["train", "val"][..], &["."]] {
        let data = pets(folder.path(), splits);
        let plan = ["train", "--data", text(&data), "--dry-run", "--json"];
        let output = aptvit(&plan);
        let plan: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(plan["epochs"], 8);
        let said = stderr(&output);
        for key in [
            "input.val_images = ",
            "train.steps = ",
            "model.image_size = 32",
        ] {
            assert!(said.contains(key), "{key}: {said}");
        }
        let mine = [
            "train",
            "--data",
            text(&data),
            "--dry-run",
            "--set",
            "model.image_size=48",
        ];
        assert!(!stderr(&aptvit(&mine)).contains("model.image_size"));
        std::fs::remove_dir_all(&data).unwrap();
    }
}

#[test]
fn a_dry_run_refuses_what_a_training_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let data = pets(folder.path(), &["train", "test"]);
    let config = folder.path().join("tiny.toml");
    std::fs::write(&config, tiny_of_a_folder(2000)).unwrap();
    for dry in [&["--dry-run"][..], &[]] {
        let out = folder.path().join("run");
        let train = [
            "train",
            "--config",
            text(&config),
            "--data",
            text(&data),
            "--out",
            text(&out),
        ];
        let message = refused(&aptvit(&[&train[..], dry].concat()));
        assert!(message.contains("input.val_images"), "{message}");
    }
}
