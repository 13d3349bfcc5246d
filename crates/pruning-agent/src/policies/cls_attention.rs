use apt_vit_model::fused::highest;
use apt_vit_model::{
    FlopsCount, Needs, Observation, Placement, Reduction, TokenReducer, UniformObservation,
    UniformReducer, UniformReduction, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{acting_blocks, fewer_in, of_layer};
use crate::budget::kept_at_equal_rates;
use crate::{AgentError, LAYERS, Meaning, Policy, PolicySettings, Selection, keep_top};

/// Settings of [`ClsAttention`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClsAttentionSettings {
    /// The blocks (0-based) after which it acts.
    pub layers: Option<Vec<usize>>,
}

impl PolicySettings for ClsAttentionSettings {
    const NAME: &'static str = "cls-attention";
    const SUMMARY: &'static str =
        "keeps the patches that CLS attends to most: EViT's choice without its fused token";
    const MEANINGS: &'static [Meaning] = &[LAYERS];
    type Policy = ClsAttention;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<ClsAttention, AgentError> {
        Ok(ClsAttention {
            blocks: acting_blocks(self.layers.as_ref(), model)?,
            patches: model.num_patches(),
        })
    }
}

/// Keeps the patches that the CLS token attends to most, averaged over heads: the heuristic of EViT (Liang et al., "Not
/// All Patches Are What You Need", 2022) without its fused token.
#[derive(Module, Debug)]
pub struct ClsAttention {
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    patches: usize,
}

impl Policy for ClsAttention {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(ClsAttentionReducer {
            layers: fewer_in(&self.blocks, selection.kept(), self.patches, 0),
        })
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if left == seen {
            return 0;
        }
        2 * (seen * model.hidden_size) as u64
    }
}

struct ClsAttentionReducer {
    /// Blocks, and how many patches stay in each.
    layers: Vec<(usize, usize)>,
}

impl TokenReducer for ClsAttentionReducer {
    fn placement(&self, layer: usize) -> Option<Placement> {
        of_layer(&self.layers, layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, _layer: usize) -> Needs {
        Needs {
            cls_attention: true,
            keys: false,
        }
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        Some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let count = of_layer(&self.layers, observation.layer);
        match count.zip(observation.cls_attention.as_ref()) {
            Some((count, scores)) => Reduction::keep(keep_top(sequences, scores, count)),
            None => Reduction::none(sequences),
        }
    }
}

impl UniformReducer for ClsAttentionReducer {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let count = of_layer(&self.layers, observation.layer)?;
        let scores = observation.cls_attention.clone()?;
        let prefix = observation.prefix;
        Some(UniformReduction {
            keep: highest(scores, prefix, count),
            left: prefix + count,
            merge: None,
            logits: None,
        })
    }
}
