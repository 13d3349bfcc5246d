//! The model's own pass.

use apt_vit_model::{ExecutionMode, LayerTrace, RunSettings, TokenReducer, Vit};
use burn::prelude::*;

use crate::algorithm::losses::cross_entropy;

/// The pass in which the policy acts and the model learns: stream 1 of the original.
#[derive(Clone, Debug)]
pub struct PrunedPass {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// Mean cross-entropy against the true classes, `[1]`.
    pub loss: Tensor<1>,
    /// What was removed.
    pub trace: Vec<LayerTrace>,
}

/// The model's own loss, with the policy acting.
///
/// `vit` is the one that learns; `reducer` is the policy, without autodiff.
/// [`ExecutionMode::Mask`] is the published way, [`ExecutionMode::Drop`] gives the same numbers
/// for less work.
pub fn pruned_pass(
    vit: &Vit,
    reducer: &dyn TokenReducer,
    mode: ExecutionMode,
    images: Tensor<4>,
    targets: &[usize],
) -> PrunedPass {
    let reducer = Some(reducer);
    let output = vit.forward(images, RunSettings { mode, reducer });
    PrunedPass {
        loss: cross_entropy(output.logits.clone(), targets),
        logits: output.logits,
        trace: output.trace,
    }
}
