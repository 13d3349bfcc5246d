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
use crate::merging::merge_pairs;
use crate::similarity::nearest;
use crate::{AgentError, Meaning, Policy, PolicySettings, Selection};

/// Settings of [`Pitome`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PitomeSettings {
    /// The margin of block 0.
    pub margin: f64,
}

impl Default for PitomeSettings {
    fn default() -> Self {
        Self { margin: 0.9 }
    }
}

impl PolicySettings for PitomeSettings {
    const NAME: &'static str = "pitome";
    const SUMMARY: &'static str = "merges patches that are like many others, and protects those that stand alone (PiToMe; \
                                   Tran et al., 2024)";
    const MEANINGS: &'static [Meaning] = &[Meaning {
        key: "margin",
        meaning: "the cosine from which two patches of block 0 count as alike; it falls to 0 with the depth",
    }];
    type Policy = Pitome;

    fn init(&self, model: &VitConfig, _: &Device) -> Result<Pitome, AgentError> {
        if !(-1.0..=1.0).contains(&self.margin) {
            return Err(AgentError::Setting {
                key: "margin",
                found: self.margin.to_string(),
                expected: "must be a cosine, from -1 to 1".into(),
            });
        }
        Ok(Pitome {
            blocks: all_but_the_last(model),
            patches: model.num_patches(),
            layers: model.num_layers,
            margin: self.margin,
        })
    }
}

/// PiToMe (Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", 2024, section 3.2): of the
/// patches of each image, those with the most energy may merge, twice as many as are to go, and all others are protected.
///
/// A patch has the more energy the more others have a cosine of the keys with it that is above the margin, which falls with
/// the depth: m = 0.9 - 0.9 * l / L in block l of L. In the order of their energy, those that may merge go in turns into
/// two sets, and each of the first set merges into the most similar one of the second. As in ToMe, that happens between
/// attention and MLP, merged patches are means weighed by their sizes, and the sizes are added to the attention as
/// logarithms.
///
/// How many go in each block is ToMe's: the same number in every block, so that the two differ in who merges alone. (The
/// paper's experiments remove the same share of what is left in every block.) The authors' code lets all patches of the
/// first half of the blocks merge, in two sets by energy, and protects none there; this policy is what the paper
/// describes.
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
}

impl Policy for Pitome {
    fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    fn placement(&self) -> Placement {
        Placement::AfterAttention
    }

    fn reducer<'a>(&'a self, selection: &Selection, _: &[u64]) -> Box<dyn TokenReducer + 'a> {
        let mut before = self.patches;
        let layers = self.blocks.iter().zip(selection.kept());
        let layers = layers.map(|(&layer, &kept)| {
            // No more than half of them can merge in one block.
            let left = kept.clamp(before - before / 2, before);
            let count = before - left;
            before = left;
            let margin = self.margin * (1.0 - layer as f64 / self.layers as f64);
            (layer, (count, margin as f32))
        });
        Box::new(PitomeReducer {
            layers: layers.filter(|&(_, (count, _))| count > 0).collect(),
        })
    }

    fn flops(&self, model: &VitConfig, seen: usize, left: usize) -> FlopsCount {
        if left == seen {
            return 0;
        }
        let patches = seen - model.num_prefix_tokens();
        let (gone, width) = (seen - left, model.hidden_size / model.num_heads);
        // Each pair of patches once, and then each that goes with each that may take it in.
        let compared = patches * patches.saturating_sub(1) / 2 + gone * gone;
        2 * (compared * width + gone * model.hidden_size) as FlopsCount
    }

    fn kept_for(&self, model: &VitConfig, share: f64) -> Result<Vec<usize>, AgentError> {
        kept_at_equal_counts(self, model, share)
    }
}

struct PitomeReducer {
    /// Blocks (0-based), how many patches of each image go in each, and its margin.
    layers: Vec<(usize, (usize, f32))>,
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
        let (Some((count, margin)), Some(keys)) =
            (of_layer(&self.layers, observation.layer), &observation.keys)
        else {
            return Reduction::none(sequences);
        };
        let spans: Vec<&[usize]> = sequences.starts().windows(2).collect();
        let pairs = spans.into_par_iter().flat_map_iter(|span| {
            let first = span[0] + sequences.prefix();
            let patches = (first..span[1]).filter(|&row| sequences.visible()[row]);
            pairs_by_energy(keys, &patches.collect::<Vec<_>>(), count, margin)
        });
        let pairs: Vec<(usize, usize)> = pairs.collect();
        let mut keep = vec![true; sequences.num_rows()];
        for &(from, _) in &pairs {
            keep[from] = false;
        }
        let merge = merge_pairs(sequences, pairs.into_iter());
        Reduction {
            merge: Some(merge),
            ..Reduction::keep(keep)
        }
    }
}

/// Of an image's patches, the `count` that go and those into which they go.
fn pairs_by_energy(
    keys: &Keys,
    patches: &[usize],
    count: usize,
    margin: f32,
) -> Vec<(usize, usize)> {
    let count = count.min(patches.len() / 2);
    let energies = energies(keys, patches, margin);
    let mut order: Vec<usize> = (0..patches.len()).collect();
    order.sort_unstable_by(|&a, &b| energies[b].total_cmp(&energies[a]).then(a.cmp(&b)));
    let every_other = |first: usize| {
        let ranks = order[..2 * count].iter().skip(first).step_by(2);
        let mut rows: Vec<usize> = ranks.map(|&place| patches[place]).collect();
        rows.sort_unstable();
        rows
    };
    let (from, into) = (every_other(0), every_other(1));
    let nearest = nearest(keys, &from, &into);
    let pairs = from.into_iter().zip(nearest);
    let pairs = pairs.filter_map(|(from, nearest)| nearest.map(|(_, into)| (from, into)));
    pairs.collect()
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

    #[test]
    fn the_largest_cluster_merges_first_and_what_stands_alone_is_protected() {
        let patches: Vec<usize> = (1..8).collect();
        let gone = |count| {
            let pairs = pairs_by_energy(&keys(), &patches, count, 0.5);
            let mut rows: Vec<usize> = pairs.iter().flat_map(|&(a, b)| [a, b]).collect();
            rows.sort_unstable();
            rows.dedup();
            (pairs, rows)
        };
        let (pairs, rows) = gone(2);
        assert_eq!(pairs.len(), 2);
        assert!(
            rows.iter().all(|row| [1, 2, 4, 5].contains(row)),
            "{pairs:?}"
        );
        let (pairs, rows) = gone(3);
        assert_eq!(pairs.len(), 3);
        assert!(!rows.contains(&3), "{pairs:?}");
        // The odd one out stays even where as many go as can.
        let (pairs, rows) = gone(99);
        assert_eq!(pairs.len(), 3);
        assert!(!rows.contains(&3), "{pairs:?}");
    }

    #[test]
    fn each_goes_into_the_most_similar_of_those_that_may_take_it_in() {
        let patches: Vec<usize> = (1..8).collect();
        for (from, into) in pairs_by_energy(&keys(), &patches, 3, 0.5) {
            let of_second = [6, 7];
            assert_eq!(
                of_second.contains(&from),
                of_second.contains(&into),
                "{from} {into}"
            );
        }
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
        });
        assert!(reduction.keep[0]);
        let into = reduction.merge.unwrap().into;
        assert_eq!(into.iter().filter(|&&row| row == 0).count(), 1);
        assert_eq!(reduction.keep.iter().filter(|keep| **keep).count(), 5);
    }

    #[test]
    fn a_margin_that_is_no_cosine_is_refused() {
        let settings = PitomeSettings { margin: 1.5 };
        let error = settings.init(&VitPreset::Tiny32.config(), &Device::default());
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("policy.margin = 1.5")
        );
    }
}
