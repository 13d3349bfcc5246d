use apt_vit_model::fused::highest;
use apt_vit_model::host::read;
use apt_vit_model::{
    Needs, Observation, Placement, Reduction, TokenReducer, UniformObservation, UniformReducer,
    UniformReduction,
};

use crate::{KeepRate, PruningAgents, keep_best};

/// How many patches stay in each image after each agent layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCounts {
    /// Per agent layer, per image.
    counts: Vec<Vec<usize>>,
}

impl KeptCounts {
    /// In each of `batch` images of `patches` patches, the share `rates[l]` of what was left
    /// before it stays at agent layer `l`.
    pub fn uniform(patches: usize, batch: usize, rates: &[KeepRate]) -> Self {
        let left = left(patches, rates);
        Self {
            counts: left.map(|left| vec![left; batch]).collect(),
        }
    }

    /// As many patches as [`uniform`](Self::uniform) keeps in the whole batch, but a different
    /// number in each image: in equal steps from 0.6 to 1.4 times the mean, or as far as an
    /// image has patches.
    pub fn ragged(patches: usize, batch: usize, rates: &[KeepRate]) -> Self {
        let first = left(patches, rates).next().unwrap_or(patches);
        let spread = (patches as f64 / first as f64 - 1.0).min(0.4);
        // From -1 for the first image to 1 for the last; 0 for a single one.
        let slope = |image: usize| match batch {
            1 => 0.0,
            _ => 2.0 * image as f64 / (batch - 1) as f64 - 1.0,
        };
        let counts = left(patches, rates).map(|left| {
            // What rounding takes from one image, the next one gets.
            let (mut wanted, mut given) = (1e-6, 0);
            let images = (0..batch).map(|image| {
                wanted += left as f64 * (1.0 + spread * slope(image));
                let count = (wanted as usize - given).min(patches);
                given += count;
                count
            });
            images.collect()
        });
        Self {
            counts: counts.collect(),
        }
    }

    /// Does every image keep as many as the others, at each layer?
    fn are_equal(&self) -> bool {
        let equal = |counts: &Vec<usize>| counts.windows(2).all(|pair| pair[0] == pair[1]);
        self.counts.iter().all(equal)
    }
}

/// The patches that are left after each agent layer.
fn left(patches: usize, rates: &[KeepRate]) -> impl Iterator<Item = usize> {
    rates.iter().scan(patches, |left, rate| {
        *left = rate.of(*left);
        Some(*left)
    })
}

/// [`PruningAgents`] that keep a given number of patches: in each image those whose removal they
/// find least probable. Images and layers that `kept` does not know keep all.
#[derive(Clone, Debug)]
pub struct RankedReducer<'a> {
    /// Who ranks.
    pub agents: &'a PruningAgents,
    /// How many stay.
    pub kept: KeptCounts,
}

impl TokenReducer for RankedReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.agents.index_of(layer).map(|_| Placement::AfterBlock)
    }

    fn needs(&self, layer: usize) -> Needs {
        self.agents.needs(layer)
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        Some(self)
    }

    fn uniform(&self) -> Option<&dyn UniformReducer> {
        let decides = !self.agents.agents.is_empty() && self.kept.are_equal();
        decides.then_some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let sequences = observation.sequences;
        let acting = self.agents.index_of(observation.layer);
        let counts = acting.and_then(|index| Some((index, self.kept.counts.get(index)?)));
        let Some((index, counts)) = counts else {
            return Reduction::none(sequences);
        };
        let logits = self.agents.judge(index, observation);
        // The difference of the logits ranks as the probability does, and does not saturate.
        let values = read(logits.clone());
        let scores: Vec<f32> = values
            .chunks_exact(2)
            .map(|pair| pair[0] - pair[1])
            .collect();
        let count = |slot: usize, patches: usize| {
            let count = counts.get(sequences.image(slot));
            count.copied().unwrap_or(patches)
        };
        Reduction {
            logits: Some(logits),
            ..Reduction::keep(keep_best(sequences, &scores, count))
        }
    }
}

impl UniformReducer for RankedReducer<'_> {
    fn reduce_uniformly(&self, observation: &UniformObservation) -> Option<UniformReduction> {
        let index = self.agents.index_of(observation.layer)?;
        let count = *self.kept.counts.get(index)?.first()?;
        self.agents.keep_uniformly(index, observation, count)
    }
}

impl PruningAgents {
    /// Agent `index` keeps `count` patches of each image: those whose removal it finds least probable.
    pub(crate) fn keep_uniformly(
        &self,
        index: usize,
        observation: &UniformObservation,
        count: usize,
    ) -> Option<UniformReduction> {
        let logits = self.judge_images(index, observation.hidden())?;
        let [batch, tokens, _] = logits.dims();
        let prefix = observation.prefix;
        let count = count.min(tokens - prefix);
        let class = |class| logits.clone().narrow(2, class, 1).squeeze_dim::<2>(2);
        Some(UniformReduction {
            keep: highest(class(0) - class(1), prefix, count),
            left: prefix + count,
            merge: None,
            logits: Some(logits.reshape([batch * tokens, 2])),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PruningAgentsConfig;
    use crate::agents::removal_probabilities;
    use apt_vit_model::Sequences;
    use burn::tensor::{Device, Distribution, Tensor};
    use proptest::prelude::*;

    fn rates(rates: &[f64]) -> Vec<KeepRate> {
        rates
            .iter()
            .map(|&rate| KeepRate::new(rate).unwrap())
            .collect()
    }

    #[test]
    fn layer_keep_rates_multiply() {
        let kept = KeptCounts::uniform(196, 2, &rates(&[0.7, 0.7, 0.7]));
        assert_eq!(kept.counts, [[138, 138], [97, 97], [68, 68]]);
    }

    proptest! {
        #[test]
        fn ragged_keeps_as_many_as_uniform(
            patches in 4usize..300,
            batch in 1usize..40,
            shares in prop::collection::vec(0.2f64..1.0, 1..4),
        ) {
            let uniform = KeptCounts::uniform(patches, batch, &rates(&shares));
            let ragged = KeptCounts::ragged(patches, batch, &rates(&shares));
            for (uniform, ragged) in uniform.counts.iter().zip(&ragged.counts) {
                let [uniform, all] = [uniform, ragged].map(|counts| counts.iter().sum::<usize>());
                prop_assert!(uniform.abs_diff(all) <= 1, "{uniform} and {all}");
                prop_assert!(ragged.iter().all(|&count| count <= patches));
            }
        }
    }

    #[test]
    fn agents_keep_what_they_want_removed_least_and_no_more_than_there_is() {
        let device = Device::default();
        device.seed(5);
        let config = PruningAgentsConfig {
            layers: vec![1],
            ..Default::default()
        };
        let agents = config.init(4, 2, &device).unwrap();
        let hidden = Tensor::random([3 * 5, 4], Distribution::Normal(0.0, 1.0), &device);
        let sequences = Sequences::full(3, 5);
        let wishes: Vec<f64> =
            removal_probabilities(&agents.agents[0].logits(hidden.clone(), &sequences));
        // Nothing is said of the third image, and the second has no nine patches.
        let kept = KeptCounts {
            counts: vec![vec![2, 9]],
        };
        let reduction = RankedReducer {
            agents: &agents,
            kept,
        }
        .reduce(&Observation {
            layer: 1,
            hidden,
            sequences: &sequences,
            cls_attention: None,
            keys: None,
        });
        assert!(reduction.keep[5..].iter().all(|&keep| keep));
        assert_eq!(reduction.keep[1..5].iter().filter(|&&keep| keep).count(), 2);
        for (kept, removed) in (1..5).flat_map(|a| (1..5).map(move |b| (a, b))) {
            if reduction.keep[kept] && !reduction.keep[removed] {
                assert!(wishes[kept] <= wishes[removed]);
            }
        }
    }
}
