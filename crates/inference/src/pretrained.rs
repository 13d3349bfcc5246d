//! Published weights as a model that answers.

use std::path::Path;

use apt_pruning_agent::PolicyConfig;
use apt_vit_model::{Checkpoint, CheckpointHead, Precision, VitConfig};
use burn::prelude::*;

use crate::class_names::distinct;
use crate::description::{Description, FORMAT};
use crate::{InferenceError, Preprocessing, PruningVit, imagenet};

/// The model of opened weights, which nothing prunes yet. Without a classification head it answers with features.
///
/// # Errors
///
/// Where the weights do not load.
pub(crate) fn load(
    mut checkpoint: Checkpoint,
    preprocessing: Preprocessing,
    device: &Device,
) -> Result<(PruningVit, Description), InferenceError> {
    let info = checkpoint.info();
    let classes = info.classes.unwrap_or(0);
    let config = VitConfig {
        num_classes: classes,
        ..info.config
    };
    let vit = config.init(device)?;
    let vit = checkpoint.load(vit, &config, CheckpointHead::Load, None)?;
    let policy = PolicyConfig::named("dense")?;
    let model = PruningVit::new(vit, policy.init(&config, device)?, config.clone());
    let names = preprocessing
        .class_names
        .filter(|names| names.len() == classes)
        .map(distinct)
        .or_else(|| (classes == imagenet::CLASSES).then(imagenet::class_names));
    let description = Description {
        format: FORMAT,
        model: config,
        policy,
        flops: Vec::new(),
        dtype: Precision::F32,
        class_names: names
            .unwrap_or_else(|| (0..classes).map(|class| format!("class {class}")).collect()),
        normalization: preprocessing.normalization,
        transform: preprocessing.transform,
        steps_per_epoch: None,
        data: None,
    };
    Ok((model, description))
}

/// The same of a file or folder.
///
/// # Errors
///
/// Where they cannot be read, or do not load.
pub(crate) fn open(
    path: &Path,
    device: &Device,
) -> Result<(PruningVit, Description), InferenceError> {
    let checkpoint = Checkpoint::open(path)?;
    let preprocessing = Preprocessing::beside(path, checkpoint.info().naming)?;
    load(checkpoint, preprocessing, device)
}
