//! How certain an answer has to be, so that as many images start over as a budget has room for.

use apt_data::ImageDataset;
use apt_inference::{PruningVit, probabilities};
use apt_pruning_agent::Selection;
use apt_vit_model::ExecutionMode;
use burn::prelude::*;

use super::answers::{check_finite, loader};
use super::settings::EvaluationSettings;
use crate::TrainerError;

/// What a policy does that keeps so many patches at first, and computes the share `target` of the dense FLOPs of `images` once
/// those that are least certain have started over.
pub(super) fn cascade_for(
    model: &PruningVit,
    images: &ImageDataset,
    kept: Vec<usize>,
    target: f64,
    settings: &EvaluationSettings,
    device: &Device,
) -> Result<Selection, TrainerError> {
    let of = |certainty| Selection::Cascade {
        kept: kept.clone(),
        certainty,
    };
    let never = of(0.0);
    let (mut certainties, mut share) = (Vec::with_capacity(images.len()), 0.0);
    let loader = loader(
        images,
        model,
        settings,
        settings.batch_size,
        settings.workers,
        device,
    );
    for batch in loader.iter() {
        let batch = batch.map_err(|error| TrainerError::Training(error.to_string()))?;
        let seeds = vec![0; batch.indices.len()];
        let output = model.run(batch.images, ExecutionMode::Drop, &never, &seeds);
        let [count, classes] = output.logits.dims();
        check_finite(output.logits.clone(), &batch.indices, images)?;
        let shares = (0..count).map(|image| model.flops(&output.trace, image).1);
        share += shares.sum::<f64>();
        let logits: Vec<f32> = output.logits.into_data().iter::<f32>().collect();
        let most = logits.chunks_exact(classes).map(most_probable);
        certainties.extend(most);
    }
    certainties.sort_by(f32::total_cmp);
    let room = target * images.len() as f64 - share;
    let again = (room.max(0.0).round() as usize).min(certainties.len());
    Ok(of(between(&certainties, again)))
}

fn most_probable(logits: &[f32]) -> f32 {
    let probable = probabilities(logits).into_iter();
    probable.fold(0.0, f32::max)
}

/// A number above the first `count` of these, which are sorted, and no others.
fn between(sorted: &[f32], count: usize) -> f64 {
    let before = count.checked_sub(1).map(|last| f64::from(sorted[last]));
    let after = sorted.get(count).copied().map(f64::from);
    match (before, after) {
        (None, _) => 0.0,
        (Some(before), Some(after)) => (before + after) / 2.0,
        // More than any probability.
        (Some(_), None) => 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_below_as_are_to_start_over() {
        let sorted = [0.1, 0.3, 0.5];
        for count in 0..=3 {
            let least = between(&sorted, count);
            let below = sorted.iter().filter(|&&value| f64::from(value) < least);
            assert_eq!(below.count(), count);
        }
        assert_eq!(between(&[], 0), 0.0);
    }
}
