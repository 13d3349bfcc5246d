use apt_vit_model::fused::highest;
use apt_vit_model::{
    FlopsCount, Merge, MergeWeights, Needs, Observation, Placement, Reduction, TokenReducer,
    UniformMerge, UniformObservation, UniformReducer, UniformReduction, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{acting_blocks, fewer_in, of_layer};
use crate::budget::kept_at_equal_rates;
use crate::{AgentError, LAYERS, Meaning, Policy, PolicySettings, Selection, keep_top};

/// Settings of [`Evit`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvitSettings {
    /// The blocks (0-based) in which it acts.
    pub layers: Option<Vec<usize>>,
}

impl PolicySettings for EvitSettings {
    const NAME: &'static str = "evit";
    const SUMMARY: &'static str = "keeps the patches that CLS attends to most and fuses the others into one (Liang et al., 2022)";
    const MEANINGS: &'static [Meaning] = &[LAYERS];
    type Policy = Evit;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<Evit, AgentError> {
        Ok(Evit {
            blocks: acting_blocks(self.layers.as_ref(), model)?,
            patches: model.num_patches(),
        })
    }
}

/// EViT (Liang et al., "Not All Patches Are What You Need: Expediting Vision Transformers via Token
/// Reorganizations", 2022, section 3.2): the patches that the CLS token attends to most stay, and all others become one
/// token, the sum of each times CLS's attention to it (equation 4).
///
/// The fused token stands where the first of them stood, and counts as a patch in later blocks, as it
/// does in the authors' code.
#[derive(Module, Debug)]
pub struct Evit {
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    patches: usize,
}

impl Policy for Evit {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// Between attention and MLP, as published.
    fn placement(&self) -> Placement {
        Placement::AfterAttention
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(EvitReducer {
            layers: fewer_in(&self.blocks, selection.kept(), self.patches, 1),
        })
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_rates(self, model, share)
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if left == seen {
            return 0;
        }
        2 * ((seen + seen - left) * model.hidden_size) as u64
    }

    fn left(&self, model: &VitConfig, seen: usize, kept: usize) -> usize {
        let kept = kept + model.num_prefix_tokens();
        // The fused token is one more.
        if kept < seen { kept + 1 } else { seen }
    }
}

struct EvitReducer {
    /// Blocks, and how many patches stay in each.
    layers: Vec<(usize, usize)>,
}

impl TokenReducer for EvitReducer {
    fn placement(&self, layer: usize) -> Option<Placement> {
        of_layer(&self.layers, layer).map(|_| Placement::AfterAttention)
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
        let (Some(count), Some(scores)) = (
            of_layer(&self.layers, observation.layer),
            &observation.cls_attention,
        ) else {
            return Reduction::none(sequences);
        };
        let mut keep = keep_top(sequences, scores, count);
        let mut into: Vec<usize> = (0..keep.len()).collect();
        let mut weights = vec![1.0; keep.len()];
        for rows in sequences.starts().windows(2) {
            let removed = |&row: &usize| !keep[row] && sequences.visible()[row];
            let removed: Vec<usize> = (rows[0]..rows[1]).filter(removed).collect();
            let Some(&fused) = removed.first() else {
                continue;
            };
            for &row in &removed {
                into[row] = fused;
                weights[row] = scores[row];
            }
            keep[fused] = true;
        }
        Reduction {
            merge: Some(Merge {
                into,
                weights,
                proportion: None,
            }),
            ..Reduction::keep(keep)
        }
    }
}

impl UniformReducer for EvitReducer {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let count = of_layer(&self.layers, observation.layer)?;
        let scores = observation.cls_attention.clone()?;
        let prefix = observation.prefix;
        let [batch, tokens] = scores.dims();
        if prefix + count >= tokens {
            return None;
        }
        let best = highest(scores.clone(), prefix, count);
        // The first that goes takes in the others. None went so far before it.
        let goes = best.clone().bool_not();
        let gone_so_far = goes.clone().int().cumsum(1);
        let first = gone_so_far.clone().equal_elem(1).bool_and(goes.clone());
        let fused = gone_so_far.equal_elem(0).int().sum_dim(1);
        let fused = fused.expand([batch, tokens]);
        let own = Tensor::<1, Int>::arange(0..tokens as i64, &scores.device());
        let own = own.reshape([1, tokens]).expand([batch, tokens]);
        let ones = scores.ones_like();
        Some(UniformReduction {
            keep: best.bool_or(first),
            left: prefix + count + 1,
            merge: Some(UniformMerge {
                into: own.mask_where(goes.clone(), fused),
                proportion: 1.0,
                weights: MergeWeights::Given(ones.mask_where(goes, scores)),
            }),
            logits: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::{Sequences, TokenBatch};

    #[test]
    fn what_goes_becomes_one_token_weighed_by_attention() {
        let device = Device::default();
        let values: Vec<f32> = (0..10).map(|row| row as f32).collect();
        let tokens = Tensor::<1>::from_data(values.as_slice(), &device).reshape([2, 5, 1]);
        let sequences = Sequences::full(2, 5);
        let scores = [0.2, 0.4, 0.1, 0.3, 0.0, 0.6, 0.1, 0.05, 0.05, 0.2];
        let reducer = EvitReducer {
            layers: vec![(3, 2)],
        };
        assert_eq!(reducer.placement(3), Some(Placement::AfterAttention));
        assert_eq!(reducer.placement(2), None);
        let reduction = reducer.reduce(&Observation {
            layer: 3,
            hidden: tokens.clone().reshape([10, 1]),
            sequences: &sequences,
            cls_attention: Some(scores.to_vec()),
            keys: None,
            parked: None,
            heads: None,
        });
        let batch = TokenBatch::full(tokens);
        let batch = batch
            .merge(&reduction.merge.unwrap())
            .drop_rows(&reduction.keep);
        assert_eq!(batch.sequences.counts(), [4, 4]);
        let values: Vec<f32> = batch.tokens.into_data().iter::<f32>().collect();
        // CLS, the two best, and 2 * 0.1 + 4 * 0; then CLS, rows 6 and 9, and (7 + 8) * 0.05.
        let expected = [0.0, 1.0, 0.2, 3.0, 5.0, 6.0, 0.75, 9.0];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{values:?}");
        }
        assert!(batch.sequences.sizes().is_none());
    }
}
