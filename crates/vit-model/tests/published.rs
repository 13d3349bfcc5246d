//! Weights as other frameworks write them give those frameworks' numbers; bad ones are refused.
//! `fixtures/make.py` made the files.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};

use apt_vit_model::{
    Checkpoint, CheckpointHead, ImageSize, PositionResize, RunSettings, Vit, VitConfig, VitError,
    WeightsFormat,
};
use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use safetensors::SafeTensors;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn read(bytes: &[u8], name: &str) -> TensorData {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let values: Vec<f32> = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    TensorData::new(values, view.shape().to_vec())
}

/// What the original framework computed.
struct Expected {
    images: TensorData,
    /// Logits, or the CLS token after the last norm where there is no head.
    output: TensorData,
    has_head: bool,
}

fn expected(file: &Path) -> Expected {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let has_head = tensors.names().contains(&"logits");
    Expected {
        images: read(&bytes, "images"),
        output: read(&bytes, if has_head { "logits" } else { "features" }),
        has_head,
    }
}

/// The sizes that the file has, with the number of heads that only its maker knows.
fn config_of(checkpoint: &Checkpoint, folder: &Path) -> VitConfig {
    let meta = std::fs::read(folder.join("meta.json")).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
    let size = |name: &str| meta[name].as_u64().unwrap() as usize;
    let mut config = checkpoint.config().clone();
    assert_eq!(config.hidden_size, size("hidden"));
    assert_eq!(config.num_layers, size("depth"));
    assert_eq!(config.mlp_dim, size("mlp"));
    let reduction = meta["reduction"].as_u64().unwrap_or(1) as usize;
    assert_eq!(config.patch_size, reduction * size("patch_size"));
    assert_eq!(config.image_size, ImageSize::square(size("image_size")));
    assert_eq!(
        config.distillation.is_some(),
        meta["distillation_token"] == true
    );
    assert_eq!(config.layer_scale.is_some(), meta["layer_scale"] == true);
    assert_eq!(
        config.layer_norm_eps,
        meta["layer_norm_eps"].as_f64().unwrap()
    );
    if checkpoint.info().heads_are_guessed {
        config.num_heads = size("heads");
    }
    assert_eq!(config.num_heads, size("heads"));
    config
}

fn load(checkpoint: &mut Checkpoint, config: &VitConfig, has_head: bool) -> Result<Vit, VitError> {
    let head = if has_head {
        CheckpointHead::Load
    } else {
        CheckpointHead::Fresh
    };
    checkpoint.load(config.init(&Device::default())?, config, head, None)
}

/// The CLS token after the last norm.
fn features(vit: &Vit, images: &TensorData) -> Tensor<2> {
    let batch = vit.embed(Tensor::from_data(images.clone(), &Device::default()));
    let encoded = vit.run_blocks(batch, 0..vit.blocks.len(), RunSettings::DENSE);
    vit.answer(encoded).features
}

fn check(name: &str, weights: &str, outputs: &str) {
    let folder = fixture(name);
    let expected = expected(&folder.join(outputs));
    let mut checkpoint = Checkpoint::open(&folder.join(weights)).unwrap();
    let mut config = config_of(&checkpoint, &folder);
    config.image_size = ImageSize {
        height: expected.images.shape()[2],
        width: expected.images.shape()[3],
    };
    let vit = load(&mut checkpoint, &config, expected.has_head).unwrap();
    for vit in [vit.clone(), vit.prepack()] {
        let output = if expected.has_head {
            let images = Tensor::<4>::from_data(expected.images.clone(), &Device::default());
            vit.forward(images, RunSettings::DENSE).logits
        } else {
            features(&vit, &expected.images)
        };
        // Below what a wrong epsilon or activation would change.
        let tolerance = Tolerance::<f32>::rel_abs(2e-5, 2e-5);
        output
            .into_data()
            .assert_approx_eq(&expected.output, tolerance);
    }
}

macro_rules! gives_the_same {
    ($($test:ident: $folder:literal, $weights:literal, $outputs:literal;)*) => {
        $(#[test]
        fn $test() {
            check($folder, $weights, $outputs);
        })*
    };
}

gives_the_same! {
    timm: "timm-vit", "model.safetensors", "expected.safetensors";
    timm_in_half_precision: "timm-vit-f16", "model.safetensors", "expected.safetensors";
    timm_pth: "timm-vit-pth", "model.pth", "expected.safetensors";
    timm_pth_with_strides: "timm-vit-pth-strided", "model.pth", "expected.safetensors";
    timm_nested: "timm-vit-bin-nested", "pytorch_model.bin", "expected.safetensors";
    timm_dinov2: "timm-dinov2", "model.safetensors", "expected.safetensors";
    timm_dinov2_resized: "timm-dinov2", "model.safetensors", "expected_resized.safetensors";
    timm_dinov2_wider: "timm-dinov2", "model.safetensors", "expected_resized_wide.safetensors";
    timm_dinov2_smaller: "timm-dinov2", "model.safetensors", "expected_resized_small.safetensors";
    hugging_face: "hf-vit", "model.safetensors", "expected.safetensors";
    hugging_face_folder: "hf-vit", "", "expected.safetensors";
    hugging_face_sharded: "hf-vit-sharded", "", "expected.safetensors";
    hugging_face_dinov2: "hf-dinov2", "", "expected.safetensors";
    hugging_face_dinov2_resized: "hf-dinov2", "", "expected_resized.safetensors";
    hugging_face_dinov2_smaller: "hf-dinov2", "", "expected_resized_small.safetensors";
    hugging_face_dinov2_wider: "hf-dinov2", "", "expected_resized_wide.safetensors";
    timm_deit: "timm-deit-distilled", "model.safetensors", "expected.safetensors";
    hugging_face_deit: "hf-deit", "", "expected.safetensors";
    timm_hybrid: "timm-hybrid-r50", "model.safetensors", "expected.safetensors";
    google: "google-npz", "weights.npz", "expected.safetensors";
    google_big_vision: "google-npz-big-vision", "weights.npz", "expected.safetensors";
    google_resized: "google-npz", "weights.npz", "expected_resized.safetensors";
    google_wider: "google-npz", "weights.npz", "expected_resized_wide.safetensors";
    google_hybrid: "google-npz-hybrid", "weights.npz", "expected.safetensors";
    google_with_pre_logits: "google-npz-prelogits", "weights.npz", "expected.safetensors";
}

/// The published DINOv2 ViT-S/14 gives the features that timm and Hugging Face give, at two sizes.
/// `fixtures/README.md` says how to make the folder that `APT_REAL_WEIGHTS` names.
#[test]
#[ignore = "needs the published weights in the folder APT_REAL_WEIGHTS"]
fn real_dinov2() {
    let folder = PathBuf::from(std::env::var("APT_REAL_WEIGHTS").unwrap());
    let bytes = std::fs::read(folder.join("features.safetensors")).unwrap();
    for (size, suffix) in [(98, ""), (224, "_224")] {
        for (how, project) in [
            (PositionResize::BicubicAntialias, ""),
            (PositionResize::Bicubic, "_hf"),
        ] {
            let mut checkpoint =
                Checkpoint::open(&folder.join("dinov2-small.safetensors")).unwrap();
            let config = VitConfig {
                image_size: ImageSize::square(size),
                ..checkpoint.config().clone()
            };
            let vit = config.init(&Device::default()).unwrap();
            let head = CheckpointHead::Fresh;
            let vit = checkpoint.load(vit, &config, head, Some(how)).unwrap();
            let found = features(&vit, &read(&bytes, &format!("images{suffix}"))).into_data();
            let expected = read(&bytes, &format!("features{project}{suffix}"));
            found.assert_approx_eq(&expected, Tolerance::<f32>::rel_abs(1e-3, 1e-3));
        }
    }
}

#[test]
fn a_file_says_what_it_is() {
    let info = Checkpoint::open(&fixture("hf-vit-sharded")).unwrap().info();
    assert_eq!(info.naming, "Hugging Face ViT");
    assert_eq!(info.format, WeightsFormat::Safetensors);
    assert_eq!(info.classes, Some(5));
    assert!(info.unexpected.is_empty(), "{:?}", info.unexpected);
    let info = Checkpoint::open(&fixture("google-npz-prelogits/weights.npz"))
        .unwrap()
        .info();
    assert_eq!(info.left_out, ["pre_logits/bias", "pre_logits/kernel"]);
}

/// What is said of a file made from `timm-vit` or `google-npz` by damage.
fn refusal(name: &str) -> String {
    let path = fixture("bad").join(name);
    let result = Checkpoint::open(&path).and_then(|mut checkpoint| {
        let config = VitConfig {
            num_heads: 2,
            ..checkpoint.config().clone()
        };
        load(&mut checkpoint, &config, true)
    });
    let message = result.unwrap_err().to_string();
    assert!(message.contains(name), "{message}");
    message
}

#[test]
fn damaged_files_are_refused_by_the_tensor() {
    for (name, says) in [
        ("missing-tensor.safetensors", "is missing"),
        ("extra-tensor.safetensors", "has no place"),
        ("wrong-shape.safetensors", "but this model expects"),
        ("wrong-shape.npz", "but this model expects"),
    ] {
        let message = refusal(name);
        assert!(
            message.contains(says) && message.contains("tensor '"),
            "{message}"
        );
    }
    refusal("truncated.safetensors");
    refusal("claims-terabytes.pth");
    refusal("claims-a-long-header.npz");
}

#[test]
fn a_bomb_is_refused_before_it_unpacks() {
    for name in ["bomb-deflate.npz", "bomb-bzip2.npz"] {
        refusal(name);
    }
}

#[test]
fn a_pickle_is_not_executed() {
    let message = refusal("runs-a-command.pth");
    assert!(message.contains("system"), "{message}");
}
