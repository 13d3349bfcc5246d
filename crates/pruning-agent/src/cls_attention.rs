use apt_vit_model::fused::highest;
use apt_vit_model::{
    Needs, Observation, Placement, Reduction, TokenReducer, UniformObservation, UniformReducer,
    UniformReduction,
};

use crate::keep_rate::of_layer;
use crate::{KeepRate, keep_top};

/// Keeps the share of the patches that the CLS token attends to most, averaged over heads: the
/// heuristic of EViT (Liang et al., "Not All Patches Are What You Need", 2022) without its
/// fused token.
#[derive(Clone, Debug)]
pub struct ClsAttentionReducer {
    /// The blocks after which it acts, and the share of what is left that stays there.
    pub layers: Vec<(usize, KeepRate)>,
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
        let keep = match (
            of_layer(&self.layers, observation.layer),
            &observation.cls_attention,
        ) {
            (Some(rate), Some(scores)) => keep_top(sequences, scores, rate),
            _ => vec![true; sequences.num_rows()],
        };
        Reduction::keep(keep)
    }
}

impl UniformReducer for ClsAttentionReducer {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let rate = of_layer(&self.layers, observation.layer)?;
        let scores = observation.cls_attention.clone()?;
        let prefix = observation.prefix;
        let [_, tokens] = scores.dims();
        let count = rate.of(tokens - prefix);
        Some(UniformReduction {
            keep: highest(scores, prefix, count),
            left: prefix + count,
            merge: None,
            logits: None,
        })
    }
}
