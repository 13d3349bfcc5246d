//! How far answers are from others, as a loss.

use apt_inference::Answers;
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};

/// How far the answers found, `[batch, width]`, are from those that are wanted; mean over the images, `[1]`.
pub(super) fn distance(wanted: Tensor<2>, found: Tensor<2>, answers: Answers) -> Tensor<1> {
    let [images, _] = found.dims();
    match answers {
        // KL, less the entropy of what is wanted, which does not change.
        Answers::Logits => {
            (softmax(wanted, 1) * log_softmax(found, 1)).sum() * (-1.0 / images as f32)
        }
        Answers::Features => {
            let unit = |features: Tensor<2>| {
                let length = features.clone().square().sum_dim(1).sqrt();
                features / length.clamp_min(f32::MIN_POSITIVE)
            };
            (unit(wanted) * unit(found)).sum() * (-1.0 / images as f32)
        }
    }
}
