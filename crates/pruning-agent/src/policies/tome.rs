use apt_vit_model::fused::{best_match, highest};
use apt_vit_model::{
    FlopsCount, MergeWeights, Needs, Observation, Placement, Reduction, TokenReducer, UniformMerge,
    UniformObservation, UniformReducer, UniformReduction, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{all_but_the_last, of_layer};
use crate::budget::kept_at_equal_counts;
use crate::matching::matched_with;
use crate::merging::merges_in_blocks;
use crate::proportion::{PROPORTION, PUBLISHED, check_proportion};
use crate::{AgentError, Meaning, Policy, PolicySettings, Selection};

/// Settings of [`Tome`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TomeSettings {
    /// How much more merged tokens are attended to.
    pub proportion: f64,
}

impl Default for TomeSettings {
    fn default() -> Self {
        Self {
            proportion: PUBLISHED,
        }
    }
}

impl PolicySettings for TomeSettings {
    const NAME: &'static str = "tome";
    const SUMMARY: &'static str =
        "merges the most similar patches, as many in every block (ToMe; Bolya et al., 2023)";
    const MEANINGS: &'static [Meaning] = &[PROPORTION];
    type Policy = Tome;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<Tome, AgentError> {
        Ok(Tome {
            blocks: all_but_the_last(model),
            patches: model.num_patches(),
            proportion: check_proportion(self.proportion)?,
        })
    }
}

/// ToMe (Bolya et al., "Token Merging: Your ViT But Faster", 2023): in each block but the last, after the
/// attention, the given number of most similar tokens merge into the tokens that they are similar to.
///
/// Bipartite soft matching (section 3): every other token looks, by the cosine of the keys averaged over the
/// heads, for the most similar one among the rest, and the closest pairs become the mean of the two, weighed by how many
/// patches each stands for; those sizes are added to the attention as logarithms from then on.
/// What stands before the patches is never merged.
#[derive(Module, Debug)]
pub struct Tome {
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    patches: usize,
    #[module(skip)]
    proportion: f32,
}

impl Policy for Tome {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn placement(&self) -> Placement {
        Placement::AfterAttention
    }

    fn reducer<'a>(
        &'a self,
        selection: &Selection,
        _: &[u64],
    ) -> Box<dyn TokenReducer + Sync + 'a> {
        Box::new(TomeReducer {
            layers: merges_in_blocks(&self.blocks, self.patches, selection.kept()).collect(),
            proportion: self.proportion,
        })
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if left == seen {
            return 0;
        }
        self.matching_flops(model, seen) + self.merging_flops(model, seen, left)
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_counts(self, model, share)
    }
}

impl Tome {
    /// The FLOPs of comparing every other patch with the rest, where `seen` tokens are.
    pub(crate) fn matching_flops(&self, model: &VitConfig, seen: usize) -> FlopsCount {
        let patches = seen - model.num_prefix_tokens();
        let (seekers, width) = (patches / 2, model.hidden_size / model.num_heads);
        2 * (seekers * (patches - seekers) * width) as FlopsCount
    }

    /// The FLOPs of adding up those that merge.
    pub(super) fn merging_flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        2 * ((seen - left) * model.hidden_size) as FlopsCount
    }
}

struct TomeReducer {
    /// Blocks (0-based) and how many tokens of each image go in each; at most half of those
    /// that are left do.
    layers: Vec<(usize, usize)>,
    proportion: f32,
}

impl TokenReducer for TomeReducer {
    fn placement(&self, layer: usize) -> Option<Placement> {
        of_layer(&self.layers, layer).map(|_| Placement::AfterAttention)
    }

    fn needs(&self, _layer: usize) -> Needs {
        Needs {
            cls_attention: false,
            keys: true,
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
        let (Some(count), Some(keys)) =
            (of_layer(&self.layers, observation.layer), &observation.keys)
        else {
            return Reduction::none(sequences);
        };
        let merge = matched_with(sequences, keys, self.proportion, |_| count);
        let keep = merge.into.iter().enumerate();
        let keep = keep.map(|(row, &into)| row == into).collect();
        Reduction {
            merge: Some(merge),
            ..Reduction::keep(keep)
        }
    }
}

impl UniformReducer for TomeReducer {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let count = of_layer(&self.layers, observation.layer)?;
        let matches = best_match(observation.keys.clone()?, observation.prefix)?;
        let count = count.min(matches.seekers);
        let [_, tokens] = matches.similarity.dims();
        Some(UniformReduction {
            keep: highest(matches.similarity, 0, count).bool_not(),
            left: tokens - count,
            merge: Some(UniformMerge {
                into: matches.into,
                proportion: self.proportion,
                weights: MergeWeights::Sizes,
            }),
            logits: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::{Keys, Sequences, TokenBatch};

    #[test]
    fn the_most_similar_tokens_become_means_that_count_for_their_sum() {
        let device = Device::default();
        // CLS, then patches 1 to 6: seekers stand at 2, 4, 6; 1, 3, 5 are looked at.
        let metric = [
            [0.0, 0.0],
            [1.0, 0.0],
            [0.9, 0.1],
            [0.0, 1.0],
            [0.5, 0.5],
            [-1.0, 0.0],
            [0.05, 1.0],
        ];
        let values: Vec<f32> = (0..7).map(|row| row as f32).collect();
        let tokens = Tensor::<1>::from_data(values.as_slice(), &device).reshape([1, 7, 1]);
        let flat: Vec<f32> = metric.concat();
        let keys = Tensor::<1>::from_data(flat.as_slice(), &device).reshape([7, 2]);
        let reducer = TomeReducer {
            layers: vec![(0, 2), (1, 1)],
            proportion: 1.0,
        };
        let reduce = |batch: &TokenBatch, layer, keys| {
            reducer.reduce(&Observation {
                layer,
                hidden: batch.tokens.clone(),
                sequences: &batch.sequences,
                cls_attention: None,
                keys: Some(Keys::new(keys)),
                parked: None,
                heads: None,
            })
        };
        let batch = TokenBatch::full(tokens);
        let reduction = reduce(&batch, 0, keys);
        let batch = batch
            .merge(&reduction.merge.unwrap())
            .drop_rows(&reduction.keep);
        // 6 goes into 3, then 2 into 1.
        let values: Vec<f32> = batch.tokens.to_data().iter::<f32>().collect();
        assert_eq!(values, [0.0, 1.5, 4.5, 4.0, 5.0]);
        assert_eq!(batch.sequences.sizes().unwrap(), [1.0, 2.0, 2.0, 1.0, 1.0]);

        // Now CLS, 1+2, 3+6, 4, 5: the seekers are 3+6 and 5, and 5 is like 4.
        let keys = [0.0f32, 0.0, 1.0, 0.0, 0.7, 0.7, 0.0, 1.0, 0.0, 1.0];
        let keys = Tensor::<1>::from_data(keys.as_slice(), &device).reshape([5, 2]);
        let reduction = reduce(&batch, 1, keys);
        let batch = batch
            .merge(&reduction.merge.unwrap())
            .drop_rows(&reduction.keep);
        let values: Vec<f32> = batch.tokens.to_data().iter::<f32>().collect();
        assert_eq!(values, [0.0, 1.5, 4.5, 4.5]);
        assert_eq!(batch.sequences.sizes().unwrap(), [1.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn cls_is_never_merged_and_no_more_go_than_seek() {
        let sequences = Sequences::full(2, 4);
        let keys = Keys::new(Tensor::ones([8, 2], &Device::default()));
        let merge = matched_with(&sequences, &keys, 1.0, |_| 10);
        // Patches 1, 2 and 3: only 2 seeks.
        assert_eq!(merge.into, [0, 1, 1, 3, 4, 5, 5, 7]);
    }
}
