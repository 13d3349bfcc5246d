//! What was loaded leaves again under the same names, and is loaded again as the same model.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use apt_vit_model::{
    Checkpoint, CheckpointHead, ExportDetails, ExportNaming, ImageSize, Precision, RunSettings,
    Vit, VitConfig, VitPreset, export, write_safetensors,
};
use burn::tensor::{Device, Distribution, Tensor, TensorData, Tolerance};
use safetensors::SafeTensors;

const CLASSES: usize = 5;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn load(path: &Path, heads: Option<usize>) -> (Vit, VitConfig) {
    let mut checkpoint = Checkpoint::open(path).unwrap();
    let mut config = checkpoint.config().clone();
    config.num_heads = heads.unwrap_or(config.num_heads);
    config.num_classes = CLASSES;
    let head = match checkpoint.info().classes {
        Some(_) => CheckpointHead::Load,
        None => CheckpointHead::Fresh,
    };
    let mut vit = config.init(&Device::default()).unwrap();
    vit = checkpoint.load(vit, &config, head, None).unwrap();
    if head == CheckpointHead::Fresh {
        // Something to be exported.
        vit = vit.map_head(|weight| weight.random_like(Distribution::Default));
    }
    (vit, config)
}

fn logits(vit: &Vit, config: &VitConfig) -> TensorData {
    let ImageSize { height, width } = config.image_size;
    let count = 3 * height * width;
    let pixels: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    let images = TensorData::new(pixels, [1, 3, height, width]);
    let images = Tensor::<4>::from_data(images, &Device::default());
    vit.forward(images, RunSettings::DENSE).logits.into_data()
}

fn names(path: &Path) -> BTreeSet<String> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors.names().into_iter().map(str::to_string).collect()
}

/// Exports the model of a fixture, and loads what was written.
fn round_trip(name: &str, naming: ExportNaming) -> (PathBuf, tempfile::TempDir) {
    let original = fixture(name).join("model.safetensors");
    let (vit, config) = load(&original, Some(2));
    let classes: Vec<String> = (0..CLASSES).map(|class| format!("class {class}")).collect();
    let details = ExportDetails {
        class_names: &classes,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let exported = export(&vit, &config, naming, details).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &exported.tensors).unwrap();
    std::fs::write(
        folder.path().join("config.json"),
        exported.config.to_string(),
    )
    .unwrap();
    let (again, found) = load(&path, None);
    assert_eq!(found, config, "{name} {naming:?}");
    assert_eq!(
        logits(&again, &found),
        logits(&vit, &config),
        "{name} {naming:?}"
    );
    (original, folder)
}

#[test]
fn timm_names_come_back() {
    for name in ["timm-vit", "timm-deit-distilled", "timm-hybrid-r50"] {
        let (original, folder) = round_trip(name, ExportNaming::Timm);
        assert_eq!(
            names(&folder.path().join("model.safetensors")),
            names(&original)
        );
    }
}

#[test]
fn hugging_face_names_come_back() {
    for name in ["hf-vit", "hf-deit"] {
        let (original, folder) = round_trip(name, ExportNaming::HuggingFace);
        assert_eq!(
            names(&folder.path().join("model.safetensors")),
            names(&original)
        );
    }
}

#[test]
fn a_model_changes_its_names() {
    round_trip("timm-vit", ExportNaming::HuggingFace);
    round_trip("hf-deit", ExportNaming::Timm);
    for name in ["timm-dinov2", "hf-dinov2"] {
        round_trip(name, ExportNaming::Timm);
        round_trip(name, ExportNaming::HuggingFace);
    }
}

#[test]
fn a_head_that_looks_at_all_patches_is_refused() {
    let (_, folder) = round_trip("hf-dinov2", ExportNaming::HuggingFace);
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let end = json["classifier.weight"]["data_offsets"][1]
        .as_u64()
        .unwrap() as usize;
    bytes[8 + header + end - 4..8 + header + end].copy_from_slice(&1f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    let config = checkpoint.config().clone();
    let vit = config.init(&Device::default()).unwrap();
    let error = checkpoint.load(vit, &config, CheckpointHead::Load, None);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("classifier.weight"), "{message}");
}

#[test]
fn hugging_face_has_no_hybrid() {
    let (vit, config) = load(&fixture("timm-hybrid-r50/model.safetensors"), Some(2));
    let details = ExportDetails {
        class_names: &[],
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let error = export(&vit, &config, ExportNaming::HuggingFace, details);
    assert!(error.unwrap_err().to_string().contains("stem"));
}

#[test]
fn weights_in_short_precisions_are_loaded_again_as_the_model_that_computes_in_them() {
    // Shapes that all kernels take.
    let config = VitConfig {
        hidden_size: 64,
        num_layers: 2,
        num_heads: 2,
        mlp_dim: 128,
        num_classes: CLASSES,
        ..VitPreset::Tiny32.config()
    };
    let device = Device::default();
    device.seed(12);
    let vit = config.init(&device).unwrap();
    let vit = vit.map_head(|weight| weight.random_like(Distribution::Default));
    let classes: Vec<String> = (0..CLASSES).map(|class| format!("class {class}")).collect();
    let details = ExportDetails {
        class_names: &classes,
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    for naming in [ExportNaming::Timm, ExportNaming::HuggingFace] {
        let exported = export(&vit, &config, naming, details).unwrap();
        let json = exported.config.to_string();
        let mut sizes = Vec::new();
        for precision in Precision::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.safetensors");
            exported.write(&path, precision).unwrap();
            std::fs::write(folder.path().join("config.json"), &json).unwrap();
            sizes.push(std::fs::metadata(&path).unwrap().len());
            assert!(
                Checkpoint::open(&path)
                    .unwrap()
                    .info()
                    .unexpected
                    .is_empty()
            );
            let (again, _) = load(&path, None);
            let rounded = |vit: &Vit| vit.clone().with_precision(precision).prepack();
            let pair = [&again, &vit].map(|vit| logits(&rounded(vit), &config));
            // The scale of integers is a quotient, whose last bit may be another one; without kernels for them, a model that
            // was not exported computes with weights that nobody quantised.
            let close = match precision {
                Precision::Int8 if precision.instructions().is_none() => 0.1,
                Precision::Int8 => 1e-3,
                _ => 0.0,
            };
            let close = Tolerance::<f32>::absolute(close);
            pair[0].assert_approx_eq(&pair[1], close);
            let plain = [&again, &vit].map(|vit| logits(vit, &config));
            assert_eq!(plain[0] == plain[1], precision == Precision::F32);
        }
        // f32, bf16, f16, int8; the names of the floats in the header differ in length.
        assert!(
            sizes[1] < sizes[0] && sizes[2].abs_diff(sizes[1]) < 64 && sizes[3] < sizes[1],
            "{sizes:?}"
        );
    }
}

#[test]
fn integers_without_their_scales_are_refused() {
    let (vit, config) = load(&fixture("timm-vit").join("model.safetensors"), Some(2));
    let details = ExportDetails {
        class_names: &vec!["class".to_string(); CLASSES],
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let exported = export(&vit, &config, ExportNaming::Timm, details).unwrap();
    exported.write(&path, Precision::Int8).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    // A name of the same length, so that the offsets stay.
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    let place = find(b"blocks.0.mlp.fc1.weight_scale").unwrap();
    let mut damaged = bytes.clone();
    damaged[place + 24..place + 29].copy_from_slice(b"steps");
    std::fs::write(&path, damaged).unwrap();
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    let vit = config.init(&Device::default()).unwrap();
    let error = checkpoint.load(vit, &config, CheckpointHead::Load, None);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("blocks.0.mlp.fc1.weight_scale"), "{error}");
}
