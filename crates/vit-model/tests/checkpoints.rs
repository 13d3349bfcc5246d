//! Weights that do not fit are refused by the tensor's name.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use apt_vit_model::{Checkpoint, CheckpointHead, ImageSize, Vit, VitConfig, VitError, VitPreset};
use burn::tensor::Device;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rl-trainer/tests/golden/apt-small/vit.npz")
}

/// The sizes of the golden model.
fn fitting() -> VitConfig {
    VitConfig {
        image_size: ImageSize::square(48),
        patch_size: 8,
        hidden_size: 48,
        num_layers: 10,
        num_heads: 3,
        mlp_dim: 96,
        num_classes: 6,
        ..VitPreset::Tiny32.config()
    }
}

fn load(config: &VitConfig, path: &Path, head: CheckpointHead) -> Result<Vit, VitError> {
    let vit = config.init(&Device::default())?;
    Checkpoint::open(path)?.load(vit, config, head, None)
}

fn refusal(config: &VitConfig, path: &Path, head: CheckpointHead) -> String {
    load(config, path, head).unwrap_err().to_string()
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_both_shapes() {
    let config = VitConfig {
        mlp_dim: 192,
        ..fitting()
    };
    let message = refusal(&config, &golden(), CheckpointHead::Load);
    assert!(
        message.contains("encoderblock_0/MlpBlock_3/Dense_0/kernel"),
        "{message}"
    );
    assert!(
        message.contains("[48, 96]") && message.contains("[48, 192]"),
        "{message}"
    );
}

#[test]
fn a_missing_tensor_is_refused_by_name() {
    let config = VitConfig {
        num_layers: 11,
        ..fitting()
    };
    let message = refusal(&config, &golden(), CheckpointHead::Load);
    assert!(
        message.contains("encoderblock_10") && message.contains("missing"),
        "{message}"
    );
}

#[test]
fn a_head_for_other_classes_stays_fresh_where_asked() {
    let config = VitConfig {
        num_classes: 4,
        ..fitting()
    };
    assert!(refusal(&config, &golden(), CheckpointHead::Load).contains("head/kernel"));
    let vit = load(&config, &golden(), CheckpointHead::Fresh).unwrap();
    let head = vit.head.unwrap().weight.val().into_data();
    assert!(head.iter::<f32>().all(|value| value == 0.0));
}

#[test]
fn another_image_size_resizes_the_positions() {
    let config = VitConfig {
        image_size: ImageSize::square(64),
        ..fitting()
    };
    let vit = load(&config, &golden(), CheckpointHead::Load).unwrap();
    assert_eq!(vit.embedding.positions.dims(), [1, 65, 48]);
}

#[test]
fn a_file_cut_short_or_of_another_kind_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(golden()).unwrap();
    let cut = folder.path().join("cut.npz");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refusal(&fitting(), &cut, CheckpointHead::Load).contains("cut.npz"));
    let text = folder.path().join("text.npz");
    std::fs::write(&text, "no weights").unwrap();
    assert!(refusal(&fitting(), &text, CheckpointHead::Load).contains("text.npz"));
    let absent = folder.path().join("absent.npz");
    assert!(refusal(&fitting(), &absent, CheckpointHead::Load).contains("absent.npz"));
}
