//! Images that are embedded once, to count what several selections compute.

use apt_data::ImageDataset;
use apt_inference::PruningVit;
use apt_pruning_agent::Selection;
use apt_vit_model::{ExecutionMode, RunSettings, TokenBatch};
use burn::prelude::*;

use super::answers::loader;
use super::settings::EvaluationSettings;
use crate::TrainerError;

/// The share of the dense FLOPs that is computed with this selection.
pub(super) fn share_of(model: &PruningVit, embedded: &[TokenBatch], selection: &Selection) -> f64 {
    let last = model.policy.blocks().last().map_or(0, |last| last + 1);
    let (mut sum, mut images) = (0.0, 0);
    for batch in embedded {
        let count = batch.sequences.batch();
        // As in an evaluation, so that policies that draw random numbers draw the same ones.
        let seeds: Vec<u64> = (images..images + count).map(|index| index as u64).collect();
        let reducer = model.policy.reducer(selection, &seeds);
        let settings = RunSettings {
            mode: ExecutionMode::Drop,
            reducer: Some(&*reducer),
        };
        let trace = model.vit.run_blocks(batch.clone(), 0..last, settings).trace;
        sum += (0..count)
            .map(|image| model.flops(&trace, image).1)
            .sum::<f64>();
        images += count;
    }
    sum / images.max(1) as f64
}

/// The images as tokens, batch by batch.
pub(super) fn embed(
    model: &PruningVit,
    images: &ImageDataset,
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Vec<TokenBatch>, TrainerError> {
    let (batch_size, workers) = (settings.batch_size, settings.workers);
    let loader = loader(images, model, settings, batch_size, workers, device);
    let batches = loader.iter().map(|batch| {
        let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
        Ok(model.vit.embed(batch.images))
    });
    batches.collect()
}
