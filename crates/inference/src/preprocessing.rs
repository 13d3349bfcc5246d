//! How a pretrained model wants its images, and what its classes are called.

use std::path::Path;

use apt_data::{EvalTransform, Normalization, read_text};
use serde_json::Value;

use crate::InferenceError;

/// How a pretrained model wants its images, and what its classes are called.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// How they are normalised.
    pub normalization: Normalization,
    /// How they are sized.
    pub transform: EvalTransform,
    /// The classes, where something says them.
    pub class_names: Option<Vec<String>>,
}

impl Preprocessing {
    /// As the JSON files of timm or Hugging Face beside the weights say it (`config.json`, `preprocessor_config.json`);
    /// without them, as models of that naming usually were trained. Under timm's names a DeiT looks as a ViT does; it is
    /// known by a file name that says so.
    ///
    /// # Errors
    ///
    /// Where such a file is there and cannot be read.
    pub fn beside(weights: &Path, naming: &str) -> Result<Self, InferenceError> {
        // Files of JAX have none; what lies beside them is of something else.
        if weights
            .extension()
            .is_some_and(|extension| extension == "npz")
        {
            return Ok(Self::of(&Value::Null, &Value::Null, naming));
        }
        let folder = if weights.is_dir() {
            weights
        } else {
            weights.parent().unwrap_or(weights)
        };
        let json = |name: &str| -> Result<Value, InferenceError> {
            let path = folder.join(name);
            if matches!(path.try_exists(), Ok(false)) {
                return Ok(Value::Null);
            }
            serde_json::from_str(&read_text(&path)?)
                .map_err(|error| InferenceError::folder(&path, format!("is damaged: {error}")))
        };
        let (config, preprocessor) = (json("config.json")?, json("preprocessor_config.json")?);
        let name = weights.file_stem().unwrap_or_default().to_string_lossy();
        let named = ["deit", "dino"]
            .into_iter()
            .find(|family| name.to_ascii_lowercase().contains(family));
        let naming = match named {
            Some("deit") => "DeiT",
            Some(_) => "DINOv2",
            None => naming,
        };
        Ok(Self::of(&config, &preprocessor, naming))
    }

    /// The same of the files' contents; what is absent is null.
    pub fn of(config: &Value, preprocessor: &Value, naming: &str) -> Self {
        let timm = &config["pretrained_cfg"];
        let mean = channels(&preprocessor["image_mean"]).or(channels(&timm["mean"]));
        let std = channels(&preprocessor["image_std"]).or(channels(&timm["std"]));
        // Google's models and those named as theirs see values from -1 to 1.
        let is_deit = naming.contains("DeiT");
        let usual = if is_deit || naming.contains("DINOv2") {
            Normalization::IMAGENET
        } else {
            Normalization::HALF
        };
        // DeiT's evaluation: bicubic to 256, and 224 of it (Touvron et al., 2021).
        let bare = is_deit && preprocessor.is_null() && timm.is_null();
        // 3 is bicubic in Pillow's numbering.
        let resample = preprocessor["resample"].as_u64() == Some(3);
        let share = timm["crop_pct"]
            .as_f64()
            .filter(|&share| share > 0.0 && share <= 1.0)
            .or_else(|| crop_share(preprocessor));
        Self {
            normalization: match (mean, std) {
                (Some(mean), Some(std)) => Normalization { mean, std },
                _ => usual,
            },
            transform: EvalTransform {
                crop: share.or(bare.then_some(0.875)).map(|share| share as f32),
                bicubic: bare || resample || timm["interpolation"] == "bicubic",
            },
            class_names: class_names(config),
        }
    }
}

fn channels(value: &Value) -> Option<[f32; 3]> {
    let values = value.as_array()?.iter();
    let values: Option<Vec<f32>> = values.map(|v| v.as_f64().map(|v| v as f32)).collect();
    values?.try_into().ok()
}

/// Hugging Face's: the shorter side is resized to one size, and another one is cut out.
fn crop_share(preprocessor: &Value) -> Option<f64> {
    if preprocessor["do_center_crop"] != true {
        return None;
    }
    let resized = side(&preprocessor["size"])?;
    let cut = side(&preprocessor["crop_size"])?;
    (cut > 0.0 && cut <= resized).then_some(cut / resized)
}

/// `224`, `{ "height": 224, "width": 224 }` or `{ "shortest_edge": 224 }`.
fn side(size: &Value) -> Option<f64> {
    let sides = [size, &size["shortest_edge"], &size["height"]];
    sides.into_iter().find_map(Value::as_f64)
}

/// Hugging Face's `id2label`, or timm's `label_names`.
fn class_names(config: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(String::from);
    if let Some(labels) = config["id2label"].as_object() {
        return (0..labels.len())
            .map(|class| text(labels.get(&class.to_string())?))
            .collect();
    }
    config["label_names"].as_array()?.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_hugging_face_and_timm_write_is_understood() {
        let config = json!({ "id2label": { "0": "ant", "1": "bee" } });
        let preprocessor = json!({
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 3,
            "do_center_crop": true, "size": { "shortest_edge": 256 }, "crop_size": { "height": 224, "width": 224 },
        });
        let found = Preprocessing::of(&config, &preprocessor, "Hugging Face ViT");
        assert_eq!(found.normalization, Normalization::IMAGENET);
        assert_eq!(found.transform.crop, Some(0.875));
        assert!(found.transform.bicubic);
        assert_eq!(found.class_names.unwrap(), ["ant", "bee"]);
        for (size, crop) in [
            (json!(256), json!(224)),
            (
                json!({ "height": 256, "width": 256 }),
                json!({ "height": 224, "width": 224 }),
            ),
        ] {
            let older = json!({ "do_center_crop": true, "size": size, "crop_size": crop });
            let found = Preprocessing::of(&Value::Null, &older, "Hugging Face DeiT");
            assert_eq!(found.transform.crop, Some(0.875));
        }
        let timm = json!({ "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9, "interpolation": "bicubic"
        } });
        let found = Preprocessing::of(&timm, &Value::Null, "timm");
        assert_eq!(found.normalization, Normalization::HALF);
        assert_eq!(found.transform.crop, Some(0.9));
        let bare = Preprocessing::of(&Value::Null, &Value::Null, "Hugging Face DINOv2");
        assert_eq!(
            (bare.normalization, bare.transform),
            (Normalization::IMAGENET, Default::default())
        );
    }

    #[test]
    fn a_damaged_file_is_named_and_none_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        Preprocessing::beside(&weights, "timm").unwrap();
        let deit = folder.path().join("deit_tiny_patch16_224.safetensors");
        let found = Preprocessing::beside(&deit, "timm").unwrap();
        assert_eq!(found.normalization, Normalization::IMAGENET);
        assert_eq!(found.transform.crop, Some(0.875));
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        let error = Preprocessing::beside(&weights, "timm").unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        Preprocessing::beside(&folder.path().join("model.npz"), "Google").unwrap();
    }
}
