//! `[train]`: the training loop.

use apt_vit_model::Precision;
use serde::{Deserialize, Serialize};

/// What of the model does not learn. A frozen part has no dropout, and costs no backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"backbone\" or a number of blocks")]
pub enum Freeze {
    /// The patch embedding, the positions and the first so many blocks.
    Blocks(usize),
    /// More than that.
    Part(FrozenPart),
}

/// A part of the model that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrozenPart {
    /// Everything but the head.
    Backbone,
}

/// `[train]`: the loop. The defaults are the published settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Images of one forward pass.
    pub batch_size: usize,
    /// Forward passes of one optimiser step.
    pub grad_accumulation_steps: usize,
    /// An evaluation and a checkpoint every so many steps.
    pub eval_interval: usize,
    /// The policy learns in every so-many-th forward pass; 1 is published.
    pub agent_interval: usize,
    /// Optimiser steps at the start in which nothing is removed and the policy does not learn; 0 is
    /// published, where the model starts from pretrained weights. From random weights, a policy
    /// learns nothing true of the model before the model has learned something of the images.
    pub dense_steps: usize,
    /// Optimiser steps after those in which the policy learns, but does not act yet; 0 is published. Agents
    /// that know nothing may remove nearly every token.
    pub agent_warmup_steps: usize,
    /// The model's own pass is dense in every so-many-th forward pass, so that the dense model is trained, too;
    /// none is published.
    pub dense_interval: Option<usize>,
    /// What of the model does not learn: the backbone, or its first so many blocks; all of it
    /// learns where absent.
    pub freeze: Option<Freeze>,
    /// How much the pruned model also learns to answer as the dense one does (soft targets; Hinton et al.,
    /// "Distilling the Knowledge in a Neural Network", 2015): the weight of that loss; 0 is published.
    pub distillation_weight: f64,
    /// The global norm that gradients are clipped to.
    pub max_grad_norm: f32,
    /// In which floats matrix products are computed: `f32`, `bf16` or `f16`.
    pub dtype: Precision,
    /// Blocks are computed once more in the backward pass instead of being remembered: less memory
    /// for a third more work.
    pub gradient_checkpointing: bool,
    /// Images of one forward pass in evaluations.
    pub eval_batch_size: usize,
    /// Stop where the pruned accuracy has not improved for so many epochs.
    pub patience: Option<usize>,
    /// Threads that load images.
    pub num_workers: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 50_000,
            batch_size: 24,
            grad_accumulation_steps: 3,
            eval_interval: 500,
            agent_interval: 1,
            dense_steps: 0,
            agent_warmup_steps: 0,
            dense_interval: None,
            freeze: None,
            distillation_weight: 0.0,
            max_grad_norm: 1.0,
            dtype: Precision::F32,
            gradient_checkpointing: false,
            eval_batch_size: 64,
            patience: None,
            num_workers: 1,
        }
    }
}
