//! Parts of the model that do not learn.

use apt_vit_model::{Vit, VitConfig, block_flops, vit_flops};
use burn::module::Module;

use crate::TrainerError;
use crate::config::{Freeze, FrozenPart};

/// Part of the model does not learn.
///
/// # Errors
///
/// Where the model has not so many blocks.
pub(crate) fn freeze(mut vit: Vit, freeze: Option<Freeze>) -> Result<Vit, TrainerError> {
    let layers = vit.blocks.len();
    let (blocks, norm) = match freeze {
        None => return Ok(vit),
        Some(Freeze::Blocks(blocks)) => (blocks, false),
        Some(Freeze::Part(FrozenPart::Backbone)) => (layers, true),
    };
    if blocks > layers {
        return Err(TrainerError::Field {
            field: "train.freeze".into(),
            found: blocks.to_string(),
            expected: format!("must be at most the {layers} blocks of the model"),
        });
    }
    vit.embedding = vit.embedding.freeze();
    let numbered = vit.blocks.into_iter().enumerate();
    let frozen = numbered.map(|(layer, block)| {
        if layer < blocks {
            block.freeze()
        } else {
            block
        }
    });
    vit.blocks = frozen.collect();
    if norm {
        vit.norm = vit.norm.freeze();
    }
    Ok(vit)
}

/// Blocks that learn.
pub(crate) fn learning_blocks(freeze: Option<Freeze>, model: &VitConfig) -> usize {
    match freeze {
        None => model.num_layers,
        Some(Freeze::Blocks(blocks)) => model.num_layers.saturating_sub(blocks),
        Some(Freeze::Part(FrozenPart::Backbone)) => 0,
    }
}

/// Blocks that a backward pass goes through: those that learn, and those behind the first block in which a policy acts
/// that learns from the gradients there.
pub(crate) fn passed_blocks(
    freeze: Option<Freeze>,
    model: &VitConfig,
    observed: Option<usize>,
) -> usize {
    let learning = learning_blocks(freeze, model);
    observed.map_or(learning, |first| learning.max(model.num_layers - first))
}

/// FLOPs of a backward pass, relative to those of its forward pass: two for what learns, and a forward pass more where
/// blocks are computed anew; one for frozen blocks that a gradient goes through to what a policy observes in `observed`.
pub(crate) fn backward_share(
    freeze: Option<Freeze>,
    model: &VitConfig,
    recompute: bool,
    observed: Option<usize>,
) -> f64 {
    let dense = vit_flops(model, &[], 0) as f64;
    let tokens = model.num_tokens();
    let of_blocks =
        |blocks: usize| (blocks as u64 * block_flops(model, tokens, tokens)) as f64 / dense;
    let learning = learning_blocks(freeze, model);
    let frozen = passed_blocks(freeze, model, observed) - learning;
    let learning = match freeze {
        None => 1.0,
        Some(_) => of_blocks(learning),
    };
    learning * if recompute { 3.0 } else { 2.0 } + of_blocks(frozen)
}
