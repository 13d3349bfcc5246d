//! Exported folders: the model for other frameworks, and what this one needs to prune it again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use apt_data::Normalization;
use apt_vit_model::{
    Checkpoint, CheckpointHead, ExportDetails, ExportNaming, ImageSize, Precision, export,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::budgets::Budgets;
use crate::checksum::Checksum;
use crate::description::Description;
use crate::files::{to_json, write_whole};
use crate::policy_weights::{load_policy, policy_tensors};
use crate::staging::Staging;
use crate::{InferenceError, PruningVit};

/// What the model is and how it is pruned.
pub(crate) const FILE: &str = "aptvit.json";
const WEIGHTS: &str = "model.safetensors";
const POLICY_WEIGHTS: &str = "policy.safetensors";
const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
/// In the order in which they get to their places: a folder with `aptvit.json` is an exported one.
const FILES: [&str; 5] = [POLICY_WEIGHTS, PREPROCESSOR, CONFIG, WEIGHTS, FILE];

/// `aptvit.json`: all that is needed to run an exported model pruned again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// The model and its policy.
    #[serde(flatten)]
    pub description: Description,
    /// The checkpoint that was exported.
    pub checkpoint: String,
    /// For which budgets it was calibrated.
    pub budgets: Budgets,
}

/// `aptvit.json` as a whole: what the files beside it are is in it.
#[derive(Serialize)]
struct Manifest {
    #[serde(flatten)]
    export: Export,
    checksums: Checksums,
}

/// By file.
type Checksums = BTreeMap<String, Checksum>;

/// What to do about a damaged file.
const ADVICE: &str = "copy the folder again, or export the run again; where you changed the file yourself, remove its line from \
                      the checksums in aptvit.json";

/// Writes a trained model into `folder`, for other frameworks to load: `model.safetensors` and
/// `config.json` under the names of `naming`, with Hugging Face's also `preprocessor_config.json`; and beside them
/// `aptvit.json` and `policy.safetensors`, from which [`Model::open`](crate::Model::open) makes the pruned model again.
/// Weights of products lie in the file in `stored`: 32-bit floats lose nothing, and others are what a model of that
/// precision computes with. The same model gives the same bytes. What a killed export left in the folder is replaced.
///
/// # Errors
///
/// Where the framework has no such model, or a file cannot be written.
pub fn export_model(
    model: &PruningVit,
    exported: &Export,
    naming: ExportNaming,
    stored: Precision,
    folder: &Path,
) -> Result<(), InferenceError> {
    let description = &exported.description;
    let Normalization { mean, std } = description.normalization;
    let details = ExportDetails {
        class_names: &description.class_names,
        mean,
        std,
    };
    let weights = export(&model.vit, model.config(), naming, details)?;
    let found = FILES.iter().find(|name| folder.join(name).exists());
    if let Some(file) = found
        && !Staging::is_unfinished(folder)
    {
        let reason = format!("holds a {file} already; name another folder");
        return Err(InferenceError::folder(folder, reason));
    }
    let tensors = policy_tensors(&model.policy);
    let tensors = tensors.map_err(|reason| InferenceError::folder(folder, reason))?;
    let staging = Staging::begin(folder, &FILES)?;
    let place = staging.path();
    let path = place.join(WEIGHTS);
    weights.write(&path, stored)?;
    let mut checksums = Checksums::from([(WEIGHTS.to_string(), Checksum::of_file(&path)?)]);
    let write = |name: &str, bytes: &[u8]| write_whole(&place.join(name), bytes);
    if let Some(tensors) = tensors {
        write(POLICY_WEIGHTS, &tensors)?;
        checksums.insert(POLICY_WEIGHTS.to_string(), Checksum::of_bytes(&tensors));
    }
    if naming == ExportNaming::HuggingFace {
        write(
            PREPROCESSOR,
            to_json(&preprocessor(description))?.as_bytes(),
        )?;
    }
    write(CONFIG, to_json(&weights.config)?.as_bytes())?;
    let mut export = exported.clone();
    // Where the images lay on this machine is nobody else's business.
    export.description.data = None;
    let manifest = Manifest { export, checksums };
    write(FILE, to_json(&manifest)?.as_bytes())?;
    staging.finish()
}

/// Hugging Face's `preprocessor_config.json`.
fn preprocessor(description: &Description) -> Value {
    let ImageSize { height, width } = description.model.image_size;
    json!({
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": description.normalization.mean,
        "image_processor_type": "ViTImageProcessor",
        "image_std": description.normalization.std,
        "resample": 2,
        "rescale_factor": 1.0 / 255.0,
        "size": { "height": height, "width": width },
    })
}

/// Opens an exported folder.
///
/// # Errors
///
/// Where a file is missing, damaged, or does not fit the others.
pub(crate) fn open(folder: &Path, device: &Device) -> Result<(PruningVit, Export), InferenceError> {
    let file = folder.join(FILE);
    let text = apt_data::read_text(&file)?;
    let (exported, checksums) = parse(&text, &file)?;
    let path = folder.join(WEIGHTS);
    if let Some(&expected) = checksums.get(WEIGHTS) {
        Checksum::of_file(&path)?.expect(expected, &path, ADVICE)?;
    }
    let weights = Checkpoint::open(&path)?;
    let path = folder.join(POLICY_WEIGHTS);
    let policy = if path.is_file() {
        Some(fs::read(&path).map_err(InferenceError::io(&path, "read"))?)
    } else {
        None
    };
    check(&checksums, POLICY_WEIGHTS, policy.as_deref(), &path)?;
    let model = assemble(&exported.description, weights, policy, &path, device)?;
    Ok((model, exported))
}

/// The parts of an exported folder from memory; see [`Model::from_bytes`](crate::Model::from_bytes).
pub(crate) fn from_bytes(
    aptvit_json: &str,
    weights: Vec<u8>,
    config_json: Option<&[u8]>,
    policy: Option<Vec<u8>>,
    device: &Device,
) -> Result<(PruningVit, Export), InferenceError> {
    let (exported, checksums) = parse(aptvit_json, Path::new(FILE))?;
    check(&checksums, WEIGHTS, Some(&weights), Path::new(WEIGHTS))?;
    let weights = Checkpoint::from_safetensors(weights, config_json)?;
    let path = Path::new(POLICY_WEIGHTS);
    check(&checksums, POLICY_WEIGHTS, policy.as_deref(), path)?;
    let model = assemble(&exported.description, weights, policy, path, device)?;
    Ok((model, exported))
}

/// Are these bytes what was exported as `name`? Earlier versions wrote no checksums.
fn check(
    checksums: &Checksums,
    name: &str,
    bytes: Option<&[u8]>,
    path: &Path,
) -> Result<(), InferenceError> {
    match checksums.get(name).zip(bytes) {
        Some((&expected, bytes)) => Checksum::of_bytes(bytes).expect(expected, path, ADVICE),
        None => Ok(()),
    }
}

fn parse(text: &str, path: &Path) -> Result<(Export, Checksums), InferenceError> {
    let damaged =
        |error: serde_json::Error| InferenceError::folder(path, format!("is damaged: {error}"));
    let mut value: Value = serde_json::from_str(text).map_err(damaged)?;
    let mut take = |key: &str| {
        let fields = value.as_object_mut();
        fields
            .and_then(|fields| fields.remove(key))
            .unwrap_or_default()
    };
    let (checkpoint, budgets) = (take("checkpoint"), take("budgets"));
    let checksums = take("checksums");
    let damaged_at = |field: &'static str| {
        move |error: serde_json::Error| {
            InferenceError::folder(path, format!("is damaged: {field}: {error}"))
        }
    };
    let checksums = if checksums.is_null() {
        Checksums::new()
    } else {
        serde_json::from_value(checksums).map_err(damaged_at("checksums"))?
    };
    let export = Export {
        description: Description::parse(&value.to_string(), path)?,
        checkpoint: serde_json::from_value(checkpoint).map_err(damaged_at("checkpoint"))?,
        budgets: serde_json::from_value(budgets).map_err(damaged_at("budgets"))?,
    };
    Ok((export, checksums))
}

fn assemble(
    description: &Description,
    mut weights: Checkpoint,
    policy: Option<Vec<u8>>,
    path: &Path,
    device: &Device,
) -> Result<PruningVit, InferenceError> {
    let config = &description.model;
    let vit = weights.load(config.init(device)?, config, CheckpointHead::Load, None)?;
    let fresh = description.policy.init(config, device)?;
    let policy = match policy {
        Some(bytes) => {
            load_policy(fresh, bytes).map_err(|reason| InferenceError::folder(path, reason))?
        }
        None if fresh.num_params() > 0 => {
            let reason = format!(
                "is missing: the policy `{}` has weights",
                description.policy.name()
            );
            return Err(InferenceError::folder(path, reason));
        }
        None => fresh,
    };
    PruningVit::new(vit, policy, config.clone()).with_precision(description.dtype)
}
