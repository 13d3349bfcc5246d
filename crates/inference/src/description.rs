use std::path::{Path, PathBuf};

use apt_data::{EvalTransform, Normalization};
use apt_pruning_agent::PolicyConfig;
use apt_vit_model::{Precision, VitConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::InferenceError;
use crate::class_names::distinct;

/// The version of run folders, checkpoints and exported folders that this program writes and reads.
pub const FORMAT: u64 = 2;

/// What a run or an exported model says of itself: all that inference needs beside the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`FORMAT`]
    pub format: u64,
    /// The model's sizes.
    pub model: VitConfig,
    /// Who decides which tokens stay.
    pub policy: PolicyConfig,
    /// The shares of the dense model's FLOPs that the policy was trained for; where nothing else is said, the first one.
    pub flops: Vec<f64>,
    /// In which floats matrix products are computed.
    #[serde(default)]
    pub dtype: Precision,
    /// The classes, in the order of the logits.
    pub class_names: Vec<String>,
    /// How images are normalised.
    pub normalization: Normalization,
    /// How images are sized.
    #[serde(default)]
    pub transform: EvalTransform,
    /// Optimiser steps of an epoch: of what checkpoints are named after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_epoch: Option<usize>,
    /// Where the user's data was; none where it is downloaded or generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

fn is_share(value: f64) -> bool {
    value > 0.0 && value <= 1.0
}

impl Description {
    /// Reads the text of `path`.
    ///
    /// # Errors
    ///
    /// Where another version wrote it, or it is damaged.
    pub fn parse(text: &str, path: &Path) -> Result<Self, InferenceError> {
        let damaged =
            |error: serde_json::Error| InferenceError::folder(path, format!("is damaged: {error}"));
        let value: Value = serde_json::from_str(text).map_err(damaged)?;
        let format = value["format"].as_u64().unwrap_or(1);
        if format != FORMAT {
            let reason = format!(
                "has format {format}, and this program reads format {FORMAT}: {}",
                if format < FORMAT {
                    "train or export it again"
                } else {
                    "use the newer program that wrote it"
                }
            );
            return Err(InferenceError::folder(path, reason));
        }
        let mut description: Self = serde_json::from_value(value).map_err(damaged)?;
        description.class_names = distinct(description.class_names);
        match description.fault() {
            Some(fault) => Err(InferenceError::folder(path, fault)),
            None => Ok(description),
        }
    }

    /// What cannot be, if anything: field, found and expected.
    fn fault(&self) -> Option<String> {
        let fault = |field: &str, found: String, expected: String| {
            Some(format!("{field} = {found}: expected {expected}"))
        };
        if let Err(error) = self.model.validate() {
            return Some(error.to_string());
        }
        let (names, classes) = (self.class_names.len(), self.model.num_classes);
        if names != classes {
            let expected = format!("{classes}, as many as the model has classes");
            return fault("class_names", format!("{names} names"), expected);
        }
        if let Some(share) = self.flops.iter().find(|&&share| !is_share(share)) {
            return fault(
                "flops",
                share.to_string(),
                "shares above 0 and up to 1".into(),
            );
        }
        let Normalization { mean, std } = self.normalization;
        if !mean.iter().all(|mean| mean.is_finite()) {
            return fault("normalization.mean", format!("{mean:?}"), "numbers".into());
        }
        if !std.iter().all(|&std| std.is_finite() && std > 0.0) {
            return fault(
                "normalization.std",
                format!("{std:?}"),
                "numbers above 0".into(),
            );
        }
        let crop = self.transform.crop.filter(|&crop| !is_share(crop.into()));
        if let Some(crop) = crop {
            return fault(
                "transform.crop",
                crop.to_string(),
                "a share above 0 and up to 1".into(),
            );
        }
        if self.steps_per_epoch == Some(0) {
            return fault("steps_per_epoch", "0".into(), "1 or more".into());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::VitPreset;
    use serde_json::json;

    #[test]
    fn what_cannot_be_is_named_by_its_field() {
        let model = VitPreset::Tiny32.config();
        let names: Vec<String> = (0..model.num_classes)
            .map(|class| class.to_string())
            .collect();
        let sound = json!({
            "format": FORMAT, "model": model, "policy": "tome", "flops": [0.5], "class_names": names,
            "normalization": Normalization::HALF,
        });
        let read = |value: &Value| Description::parse(&value.to_string(), Path::new("run.json"));
        read(&sound).unwrap();
        let mut alike = sound.clone();
        alike["class_names"][1] = alike["class_names"][0].clone();
        assert_eq!(
            read(&alike).unwrap().class_names[..3],
            ["0 (0)", "0 (1)", "2"]
        );
        let mut no_patches = json!(model);
        no_patches["patch_size"] = json!(0);
        for (field, value) in [
            ("model", no_patches),
            ("class_names", json!(["one"])),
            ("flops", json!([50.0])),
            (
                "normalization",
                json!({ "mean": [0.0, 0.0, 0.0], "std": [1.0, 0.0, 1.0] }),
            ),
            ("transform", json!({ "crop": 87.5 })),
            ("steps_per_epoch", json!(0)),
        ] {
            let mut broken = sound.clone();
            broken[field] = value;
            let error = read(&broken).unwrap_err().to_string();
            assert!(
                error.contains("run.json") && error.contains(field),
                "{error}"
            );
        }
    }
}
