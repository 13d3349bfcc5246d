//! Images as a model wants them, and its dense answers to them.

use std::sync::Arc;

use apt_data::{Batch, EvalLoader, ImageDataset};
use apt_inference::{InferenceError, NotFinite, PruningVit};
use apt_vit_model::{ImageSize, RunSettings, VitOutput};
use burn::data::dataloader::DataLoader;
use burn::prelude::*;

use super::settings::EvaluationSettings;
use crate::TrainerError;

/// Height and width, as loaders take them.
pub(crate) fn sides(size: ImageSize) -> [u32; 2] {
    [size.height as u32, size.width as u32]
}

/// Images for the model, in order, in batches of so many, by so many background threads.
pub(crate) fn loader(
    images: &ImageDataset,
    model: &PruningVit,
    settings: &EvaluationSettings,
    batch_size: usize,
    workers: usize,
    device: &Device,
) -> Arc<dyn DataLoader<Batch>> {
    let size = sides(model.config().image_size);
    EvalLoader::new(
        images.clone(),
        batch_size,
        size,
        settings.normalization,
        workers,
    )
    .with_transform(settings.transform)
    .to_device(device)
}

/// The accuracy of logits that are no numbers would be one of chance.
///
/// # Errors
///
/// Names the first image whose logits, `[batch, classes]`, or features are not finite.
pub(crate) fn check_finite(
    logits: Tensor<2>,
    indices: &[usize],
    dataset: &ImageDataset,
) -> Result<(), TrainerError> {
    let [_, classes] = logits.dims();
    let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
    for (logits, &index) in logits.chunks_exact(classes.max(1)).zip(indices) {
        NotFinite::check("logits", logits).map_err(|reason| InferenceError::NotFinite {
            image: dataset.name(index),
            reason,
        })?;
    }
    Ok(())
}

/// What the model says of images of one batch, with nothing removed.
///
/// # Errors
///
/// Where an image cannot be read, or the answer to it is not finite.
pub(crate) fn dense_outputs(
    model: &PruningVit,
    images: &ImageDataset,
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<VitOutput, TrainerError> {
    let loader = loader(images, model, settings, images.len().max(1), 0, device);
    // One batch it is.
    let Some(batch) = loader.iter().next() else {
        return Err(TrainerError::Training(
            "there are no images to answer".into(),
        ));
    };
    let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
    let output = model.vit.forward(batch.images, RunSettings::DENSE);
    check_finite(output.logits.clone(), &batch.indices, images)?;
    Ok(output)
}
