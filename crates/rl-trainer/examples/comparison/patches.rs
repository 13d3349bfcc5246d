//! What is known of every patch at the end, as segmentation would use it.

use std::error::Error;

use apt_data::{EvalLoader, ImageDataset};
use apt_inference::PruningVit;
use apt_pruning_agent::Selection;
use apt_rl_trainer::EvaluationSettings;
use apt_vit_model::{ExecutionMode, RunSettings};
use burn::data::dataloader::DataLoader;
use burn::prelude::*;

/// Images that are looked at.
const IMAGES: usize = 200;

/// For each selection the mean cosine of patches' tokens to those that the dense model has, both after the last norm. Of a patch
/// that is gone nothing is known: it counts as 0.
pub fn cosines_of_patches(
    model: &PruningVit,
    images: &ImageDataset,
    selections: &[Selection],
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let vit = &model.vit;
    let size = model.config().image_size;
    let images = images.take(IMAGES);
    let loader = EvalLoader::new(
        images.clone(),
        settings.batch_size,
        [size.height as u32, size.width as u32],
        settings.normalization,
        settings.workers,
    );
    let loader = loader.with_transform(settings.transform).to_device(device);
    let mut sums = vec![0.0; selections.len()];
    for batch in loader.iter() {
        let images = batch?.images;
        let layers = 0..vit.blocks.len();
        let dense = vit.run_blocks(
            vit.embed(images.clone()),
            layers.clone(),
            RunSettings::DENSE,
        );
        let dense = vit.norm.forward(dense.every_patch().tokens);
        for (sum, selection) in sums.iter_mut().zip(selections) {
            let reducer = model.policy.reducer(selection, &[]);
            let settings = RunSettings {
                mode: ExecutionMode::Drop,
                reducer: Some(&*reducer),
            };
            let found = vit.run_blocks(vit.embed(images.clone()), layers.clone(), settings);
            let every = found.every_patch();
            let known = every.known.iter().flatten();
            let known: Vec<f32> = known.map(|&known| f32::from(u8::from(known))).collect();
            let [count, patches, _] = every.tokens.dims();
            let known = Tensor::<1>::from_data(known.as_slice(), device).reshape([count, patches]);
            let found = vit.norm.forward(every.tokens);
            let product = |a: &Tensor<3>, b: &Tensor<3>| -> Tensor<2> {
                (a.clone() * b.clone()).sum_dim(2).squeeze_dim(2)
            };
            let lengths = product(&found, &found) * product(&dense, &dense);
            let cosine = product(&found, &dense) / lengths.sqrt() * known;
            *sum += f64::from(cosine.mean_dim(1).sum().into_scalar::<f32>());
        }
    }
    let count = images.len().max(1) as f64;
    Ok(sums.into_iter().map(|sum| sum / count).collect())
}
