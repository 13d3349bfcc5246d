use apt_vit_model::{
    FlopsCount, Keys, Needs, Observation, Placement, Reduction, TokenReducer, VitConfig,
};
use burn::module::Module;
use burn::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::acting_blocks::{all_but_the_last, of_layer};
use crate::budget::kept_at_equal_counts;
use crate::energy::energies;
use crate::matching::{Pair, keep_closest};
use crate::merging::{merge_pairs, merges_in_blocks};
use crate::proportion::PUBLISHED;
use crate::similarity::nearest;
use crate::{AgentError, Meaning, Policy, PolicySettings, Selection};

/// Settings of [`Pitome`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PitomeSettings {
    /// The margin of block 0.
    pub margin: f64,
    /// The share of the depth from which on patches are protected.
    pub protect_from: f64,
}

impl Default for PitomeSettings {
    fn default() -> Self {
        Self {
            margin: 0.9,
            protect_from: 0.5,
        }
    }
}

impl PolicySettings for PitomeSettings {
    const NAME: &'static str = "pitome";
    const SUMMARY: &'static str = "merges patches that are like many others, and protects those that stand alone (PiToMe; \
                                   Tran et al., 2024)";
    const MEANINGS: &'static [Meaning] = &[
        Meaning {
            key: "margin",
            meaning: "the cosine from which two patches of block 0 count as alike; it falls to 0 with the depth",
        },
        Meaning {
            key: "protect_from",
            meaning: "the share of the depth from which on patches that stand alone are protected: 0 as in the paper, 0.5 as \
                      in its authors' code; before it, all may merge",
        },
    ];
    type Policy = Pitome;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<Pitome, AgentError> {
        if !(-1.0..=1.0).contains(&self.margin) {
            return Err(AgentError::Setting {
                key: "margin",
                found: self.margin.to_string(),
                expected: "must be a cosine, from -1 to 1".into(),
            });
        }
        if !(0.0..=1.0).contains(&self.protect_from) {
            return Err(AgentError::Setting {
                key: "protect_from",
                found: self.protect_from.to_string(),
                expected: "must be a share of the depth, from 0 to 1".into(),
            });
        }
        Ok(Pitome {
            blocks: all_but_the_last(model),
            patches: model.num_patches(),
            layers: model.num_layers,
            margin: self.margin,
            protect_from: self.protect_from,
        })
    }
}

/// PiToMe (Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", 2024, section 3.2): of the
/// patches of each image, those with the most energy may merge, twice as many as are to go, and all others are protected.
/// In the first half of the blocks none is: all may merge, and the most similar pairs do, as in the authors' code. (The
/// paper does not say so; `protect_from = 0` is what it describes.)
///
/// A patch has the more energy the more others have a cosine of the keys with it that is above the margin, which falls with
/// the depth: m = 0.9 - 0.9 * l / L in block l of L. In the order of their energy, those that may merge go in turns into
/// two sets, and each of the first set merges into the most similar one of the second. As in ToMe, that happens between
/// attention and MLP, merged patches are means weighed by their sizes, and the sizes are added to the attention as
/// logarithms.
///
/// It merges as many patches in each block as ToMe does, so that the two differ only in which patches merge. (The paper's
/// experiments remove the same share of the remaining patches in every block.)
#[derive(Module, Debug)]
pub struct Pitome {
    #[module(skip)]
    blocks: Vec<usize>,
    #[module(skip)]
    patches: usize,
    #[module(skip)]
    layers: usize,
    #[module(skip)]
    margin: f64,
    #[module(skip)]
    protect_from: f64,
}

impl Policy for Pitome {
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
        let layers = merges_in_blocks(&self.blocks, self.patches, selection.kept());
        let layers = layers.map(|(layer, count)| {
            let depth = layer as f64 / self.layers as f64;
            let merging = Merging {
                count,
                margin: (self.margin * (1.0 - depth)) as f32,
                protects: depth >= self.protect_from,
            };
            (layer, merging)
        });
        Box::new(PitomeReducer {
            layers: layers.collect(),
        })
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if left == seen {
            return 0;
        }
        let patches = seen - model.num_prefix_tokens();
        let (gone, width) = (seen - left, model.hidden_size / model.num_heads);
        // Each pair of patches once, and then those of one set with those of the other. (Where patches are protected, the sets
        // are smaller.)
        let first = patches / 2;
        let compared = patches * patches.saturating_sub(1) / 2 + first * (patches - first);
        2 * (compared * width + gone * model.hidden_size) as FlopsCount
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_counts(self, model, share)
    }
}

/// What happens in one block.
#[derive(Clone, Copy)]
struct Merging {
    /// Patches of each image that go.
    count: usize,
    margin: f32,
    /// Are those with the least energy protected?
    protects: bool,
}

struct PitomeReducer {
    /// Blocks (0-based), ascending.
    layers: Vec<(usize, Merging)>,
}

impl TokenReducer for PitomeReducer {
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

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let (Some(merging), Some(keys)) =
            (of_layer(&self.layers, observation.layer), &observation.keys)
        else {
            return Reduction::none(sequences);
        };
        let spans: Vec<&[usize]> = sequences.starts().windows(2).collect();
        let pairs = spans.into_par_iter().flat_map_iter(|span| {
            let first = span[0] + sequences.prefix();
            let patches = (first..span[1]).filter(|&row| sequences.visible()[row]);
            pairs_by_energy(keys, &patches.collect::<Vec<_>>(), merging)
        });
        let pairs: Vec<(usize, usize)> = pairs.collect();
        let mut keep = vec![true; sequences.num_rows()];
        for &(from, _) in &pairs {
            keep[from] = false;
        }
        let merge = merge_pairs(sequences, pairs.into_iter(), PUBLISHED as f32);
        Reduction {
            merge: Some(merge),
            ..Reduction::keep(keep)
        }
    }
}

/// Of an image's patches, those that go and those into which they go.
fn pairs_by_energy(keys: &Keys, patches: &[usize], merging: Merging) -> Vec<(usize, usize)> {
    let count = merging.count.min(patches.len() / 2);
    let may_merge = if merging.protects {
        2 * count
    } else {
        patches.len()
    };
    let energies = energies(keys, patches, merging.margin);
    let mut order: Vec<usize> = (0..patches.len()).collect();
    order.sort_unstable_by(|&a, &b| energies[b].total_cmp(&energies[a]).then(a.cmp(&b)));
    let every_other = |first: usize| {
        let ranks = order[..may_merge].iter().skip(first).step_by(2);
        let mut rows: Vec<usize> = ranks.map(|&place| patches[place]).collect();
        rows.sort_unstable();
        rows
    };
    let (from, into) = (every_other(0), every_other(1));
    let nearest = nearest(keys, &from, &into);
    let pairs = from.into_iter().zip(nearest);
    let pairs = pairs.filter_map(|(from, nearest)| {
        nearest.map(|(similarity, into)| Pair {
            from,
            into,
            similarity,
        })
    });
    let mut pairs = pairs.collect();
    keep_closest(&mut pairs, count);
    pairs.iter().map(|pair| (pair.from, pair.into)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use apt_vit_model::{Sequences, VitPreset};

    /// CLS, four patches that are alike, one that is alone, and two more that are alike.
    fn keys() -> Keys {
        let keys = [
            [1.0f32, 1.0, 1.0],
            [1.0, 0.0, 0.0],
            [1.0, 0.1, 0.0],
            [0.0, 0.0, -1.0],
            [1.0, 0.0, 0.1],
            [1.0, 0.1, 0.1],
            [0.0, 1.0, 0.0],
            [0.1, 1.0, 0.0],
        ];
        let keys = Tensor::<1>::from_data(keys.as_flattened(), &Device::default());
        Keys::new(keys.reshape([8, 3]))
    }

    fn pairs_of(count: usize, protects: bool) -> Vec<(usize, usize)> {
        let merging = Merging {
            count,
            margin: 0.5,
            protects,
        };
        pairs_by_energy(&keys(), &[1, 2, 3, 4, 5, 6, 7], merging)
    }

    fn is_in_cluster(row: usize) -> bool {
        [1, 2, 4, 5].contains(&row)
    }

    #[test]
    fn the_largest_cluster_merges_first_and_what_stands_alone_is_protected() {
        let two = pairs_of(2, true);
        assert_eq!(two.len(), 2);
        let all = two.iter().flat_map(|&(from, into)| [from, into]);
        assert!(all.into_iter().all(is_in_cluster), "{two:?}");
        // The odd one out stays even where as many go as can.
        for count in [3, 99] {
            let three = pairs_of(count, true);
            assert_eq!(three.len(), 3);
            assert!(
                !three.iter().any(|&(from, into)| from == 3 || into == 3),
                "{three:?}"
            );
        }
    }

    #[test]
    fn each_goes_into_the_most_similar_of_those_that_may_take_it_in() {
        for (protects, count) in [(true, 3), (false, 2)] {
            for (from, into) in pairs_of(count, protects) {
                assert_eq!(is_in_cluster(from), is_in_cluster(into), "{from} {into}");
            }
        }
    }

    #[test]
    fn where_nobody_is_protected_the_most_similar_pairs_merge() {
        let two = pairs_of(2, false);
        assert!(two.iter().all(|&(from, _)| from != 3), "{two:?}");
        // Of seven, four seek; the one alone has the last rank, and seeks too.
        let all = pairs_of(99, false);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|&(from, _)| from != 3), "{all:?}");
    }

    #[test]
    fn cls_never_merges() {
        let settings = PitomeSettings::default();
        let model = VitPreset::Tiny32.config();
        let policy = settings.init(&model, &Device::default()).unwrap();
        let kept = vec![1; policy.blocks().len()];
        let reducer = policy.reducer(&Selection::Kept { kept }, &[]);
        let sequences = Sequences::full(1, 8);
        let reduction = reducer.reduce(&Observation {
            layer: 0,
            hidden: Tensor::ones([8, 4], &Device::default()),
            sequences: &sequences,
            cls_attention: None,
            keys: Some(keys()),
            parked: None,
            heads: None,
        });
        assert!(reduction.keep[0]);
        let into = reduction.merge.unwrap().into;
        assert_eq!(into.iter().filter(|&&row| row == 0).count(), 1);
        assert_eq!(reduction.keep.iter().filter(|keep| **keep).count(), 5);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let refused = |margin, protect_from| {
            let settings = PitomeSettings {
                margin,
                protect_from,
            };
            let refused = settings.init(&VitPreset::Tiny32.config(), &Device::default());
            refused.unwrap_err().to_string()
        };
        let margin = refused(1.5, 0.5);
        assert!(margin.contains("policy.margin = 1.5"), "{margin}");
        let protect_from = refused(0.9, -0.1);
        assert!(
            protect_from.contains("policy.protect_from = -0.1"),
            "{protect_from}"
        );
    }
}
